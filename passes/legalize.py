"""The legalize pass: what the target cannot write as one operation is taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.infer import describe
from lepton_ir.passes.decompose import decompose_body
from lepton_ir.pipeline import Pass
from lepton_ir.rewrite import Rule, RuleSet, apply_rules

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Op
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_SHOWN = 5


@dataclass(frozen=True)
class Legalize(Pass, name="legalize"):
    """Take operations apart that the target cannot write, until all are legal.

    Raises an error that names the first operations which stay illegal.
    """

    needs = "shapes"

    def run(self, module: Module, ctx: PassContext) -> None:
        """Legalize every function.

        Raises:
            UnsupportedError: an operation is neither legal nor can be decomposed.
        """
        if ctx.target is None:
            return
        reasons: dict[int, str] = {}

        def body(m: Match, rw: Rewriter) -> bool:
            answer = ctx.legal(m.root)
            if answer is True:
                return False
            done = decompose_body(m, rw)
            if not done and rw.failure is not None:
                template, args = rw.failure
                reasons[id(m.root)] = template.format(*args)
            return done

        for function in list(module.functions.values()):
            names = {op.name for op in function.walk() if op.definition and op.definition.decompose}
            while names:
                rule = Rule("decompose", tuple(sorted(names)), None, body)
                apply_rules(function, RuleSet((rule,)), ctx)
                found = {
                    op.name
                    for op in function.walk()
                    if op.definition and op.definition.decompose and ctx.legal(op) is not True
                }
                if found <= names:
                    break
                names |= found
        _report(module, ctx, reasons)


def _report(module: Module, ctx: PassContext, reasons: dict[int, str]) -> None:
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
    notes = [f"{describe(o)}: {w}" for o, w in illegal[1:_SHOWN]]
    if len(illegal) > _SHOWN:
        notes.append(f"and {len(illegal) - _SHOWN} more")
    detail = reasons.get(id(op))
    if detail:
        notes.insert(0, f"it cannot be taken apart: {detail}")
    raise UnsupportedError(
        f"{ctx.target.name} cannot write it: {why}",
        code="legalize",
        where=describe(op),
        hint="choose another --opset or --target",
        notes=tuple(notes),
    )
