"""The legalize pass: what the target cannot write as one operation is taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.infer import describe
from lepton_ir.opdef import lookup
from lepton_ir.passes.decompose import decompose_body
from lepton_ir.pipeline import Pass
from lepton_ir.rewrite import Rule, RuleSet, apply_rules
from lepton_ir.target import lowerings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Op
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter
    from lepton_ir.target import Lowerings

    Body = Callable[[Match, Rewriter], bool]


@dataclass(frozen=True)
class Legalize(Pass, name="legalize"):
    """Take operations apart that the target cannot write, until all are legal.

    Where the target has a lowering for an operation, the op table's decomposition is not used.
    Raises an error that names all operations which stay illegal.

    Attributes:
        keep: what follows makes no illegal operations again.
    """

    keep: bool = False
    needs = "shapes"

    def run(self, module: Module, ctx: PassContext) -> None:
        """Legalize every function.

        Raises:
            UnsupportedError: an operation is neither legal nor can be decomposed.
        """
        if ctx.target is None:
            return
        ctx.legal_only = False
        reasons: dict[int, list[str]] = {}
        lowerings = lowerings_of(ctx.target)
        for function in list(module.functions.values()):
            names: set[str] = set()
            while True:
                found = {op.name for op in function.walk() if _parts(op, lowerings)}
                if found <= names:
                    break
                names |= found
                apply_rules(function, _rules(names, lowerings, ctx, reasons), ctx)
        if ctx.stop_after is None:  # else what is left may be illegal, and the writer says so
            _report(module, ctx, reasons)
        ctx.legal_only = self.keep


def _parts(op: Op, lowerings: Lowerings) -> bool:
    """Return whether there is a way to take an operation apart."""
    return op.name in lowerings or bool(op.definition and op.definition.decompose)


def _rules(
    names: set[str], lowerings: Lowerings, ctx: PassContext, reasons: dict[int, list[str]]
) -> RuleSet:
    """Return the rules for operations of these names: the target's own way, or the table's."""

    def lower(m: Match, rw: Rewriter) -> bool:
        try:
            values = lowerings[m.root.name](rw, m.root)
        except ValueError as error:
            return rw.fail("{}", error)
        return rw.replace(m.root, list(values))

    def unless_legal(body: Body) -> Body:
        def guarded(m: Match, rw: Rewriter) -> bool:
            if ctx.legal(m.root) is True:
                return False
            done = body(m, rw)
            if not done and rw.failure is not None:
                template, args = rw.failure
                reasons.setdefault(id(m.root), []).append(template.format(*args))
            return done

        return guarded

    own = tuple(sorted(names & lowerings.keys()))
    others = sorted(names - lowerings.keys())
    composite = tuple(n for n in others if (d := lookup(n)) and d.decompose)
    rules = [Rule("lower", own, None, unless_legal(lower))] if own else []
    if composite:
        rules.append(Rule("decompose", composite, None, unless_legal(decompose_body)))
    return RuleSet(tuple(rules))


def _report(module: Module, ctx: PassContext, reasons: dict[int, list[str]]) -> None:
    illegal: list[tuple[Op, str]] = []
    for op in module.walk():
        if op.definition is not None and "terminator" in op.definition.traits:
            continue
        answer = ctx.legal(op)
        if answer is not True:
            illegal.append((op, str(answer)))
    if not illegal:
        return
    assert ctx.target is not None
    op, why = illegal[0]
    notes = [f"{describe(o)}: {w}" for o, w in illegal[1:]]
    detail = dict.fromkeys(r for r in reasons.get(id(op), ()) if r not in str(why))
    if detail:
        notes.insert(0, f"it cannot be taken apart: {'; '.join(detail)}")
    raise UnsupportedError(
        f"{ctx.target.name} cannot write it: {why}",
        code="legalize",
        where=describe(op),
        hint="choose another --opset or --target",
        notes=tuple(notes),
    )
