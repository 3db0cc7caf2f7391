"""Rewriting: the Rewriter through which all rules mutate, and the worklist driver.

The driver visits every operation once, in order, then only what a rewrite touched: operations it
made, users of replaced results, producers of operands that lost a use. Rules are indexed by root
operation. Operations without effects whose results are unused are dropped on the way.
"""

from __future__ import annotations

import functools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_ir import dims
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import NOWHERE, LeptonError, Location, VerifyError, shorten
from lepton_ir.infer import describe, infer_op
from lepton_ir.ir import Function, Module, Op, Value
from lepton_ir.pattern import Failure, Match, OpPattern, check_roots
from lepton_ir.pipeline import Pass, measure
from lepton_ir.types import UNKNOWN, TensorType, Type, TypeMismatchError, meet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

    from lepton_ir.context import PassContext

RUNAWAY_FACTOR = 64
"""Rewrites per operation after which the driver concludes that rules undo one another."""


class RewriteError(LeptonError):
    """A rule broke the rewriter's contract: a bug in the rule, never in the model."""


class Refused(Exception):
    """A rewrite is not permitted or not proven; nothing was changed."""


@dataclass(frozen=True)
class Rule:
    """One rewrite rule.

    Attributes:
        name: stable name, as given to ``--exclude-rule``.
        roots: operations it is tried on.
        pattern: matched first; ``None`` for rules that look for themselves.
        body: ``body(match, rewriter)``; returns ``rewriter.fail(...)`` when it does not apply.
        exact: gives bit-identical results for every input, NaN and signed zero included.
        doc: the algebra.
        benefit: rules with a higher benefit are tried first.
    """

    name: str
    roots: tuple[str, ...]
    pattern: OpPattern | None
    body: Callable[[Match, Rewriter], Any]
    exact: bool = False
    doc: str = ""
    benefit: int = 0


@dataclass(frozen=True)
class _RuleMark:
    patterns: tuple[OpPattern | str, ...]
    exact: bool
    benefit: int
    name: str = ""


def rewrite(
    *patterns: OpPattern | str, exact: bool = False, benefit: int = 0, name: str = ""
) -> Callable[[Any], Any]:
    """Mark a function ``(m, rw)`` or a method ``(self, m, rw)`` as a rewrite rule.

    Args:
        patterns: alternatives; a string is the name of a root operation that the body inspects
            by itself.
        exact: the result is bit-identical for every input.
        benefit: higher is tried first.
        name: the rule's name, by default the function's.
    """

    def mark(function: Any) -> Any:
        function.__lepton_rule__ = _RuleMark(patterns, exact, benefit, name)
        return function

    return mark


def _rules_of(function: Any, bound: Callable[[Match, Rewriter], Any]) -> list[Rule]:
    mark: _RuleMark = function.__lepton_rule__
    doc = (function.__doc__ or "").strip()
    rules = []
    for pattern in mark.patterns:
        if isinstance(pattern, OpPattern):
            check_roots(pattern)
        is_pattern = isinstance(pattern, OpPattern)
        roots = pattern.roots if isinstance(pattern, OpPattern) else (pattern,)
        rules.append(
            Rule(
                mark.name or function.__name__,
                roots,
                pattern if is_pattern else None,  # type: ignore[arg-type]
                bound,
                mark.exact,
                doc,
                mark.benefit,
            )
        )
    return rules


def collect_rules(module: ModuleType) -> list[Rule]:
    """Return the rules that a module defines, in source order."""
    rules: list[Rule] = []
    for function in vars(module).values():
        if hasattr(function, "__lepton_rule__") and function.__module__ == module.__name__:
            rules += _rules_of(function, function)
        elif isinstance(function, Rule):
            rules.append(function)
    return rules


class Rewriter(Builder):
    """Makes and replaces operations inside one rewrite; builder methods are available directly.

    New operations appear before the root of the match and carry the merged locations of what
    was matched. The first mutation asks ``ctx.allow``; a refusal ends the rule quietly.
    """

    def __init__(self, function: Function, ctx: PassContext, worklist: Worklist) -> None:
        super().__init__(function.block)
        self.function = function
        self.ctx = ctx
        self.worklist = worklist
        self.rule = ""
        self.root: Op | None = None
        self.match: Match | None = None
        self.new_ops: list[Op] = []
        self.mutated = False
        self.replaced = False
        self.failure: tuple[str, tuple[object, ...]] | None = None

    def begin(self, rule: str, m: Match) -> None:
        """Start a rewrite rooted at ``m.root``."""
        assert m.root.block is not None
        self.rule, self.root, self.match = rule, m.root, m
        self.block, self.before = m.root.block, m.root
        self.loc = NOWHERE
        self.new_ops = []
        self.mutated = False
        self.replaced = False
        self.failure = None
        self.worklist.cause = rule

    def fail(self, template: str, *args: object) -> bool:
        """Say why the rule does not apply; formatted only if someone asks for remarks."""
        self.failure = (template, args)
        return False

    def also(self, *ops: Op) -> None:
        """Count operations as matched that the pattern did not name (their locations merge)."""
        assert self.match is not None
        known = set(self.match.ops)
        self.match.ops += [op for op in ops if op not in known]

    def permit(self) -> None:
        """Ask for permission to mutate.

        Raises:
            Refused: the user excluded the rewrite.
        """
        if self.mutated:
            return
        assert self.root is not None
        assert self.match is not None
        ctx = self.ctx
        if ctx.keep_nodes and any(ctx.kept(op) for op in self.match.ops):
            raise Refused
        if not ctx.allow(self.rule, self.root):
            raise Refused
        self.mutated = True
        ops = self.match.ops or [self.root]
        self.loc = Location("", tuple({id(o.loc): o.loc for o in ops}.values()), self.rule)

    def insert(self, op: Op) -> Op:
        self.permit()
        if op.loc is NOWHERE:
            op.loc = self.loc
        return super().insert(op)

    def created(self, op: Op) -> None:
        self.new_ops.append(op)
        self.worklist.push(op)

    def const(self, value: Any, dtype: Any = None, name: str | None = None) -> Value:
        self.permit()
        return super().const(value, dtype, name)

    def insert_const_like(self, value: Any, like: Value, name: str | None = None) -> Value:
        """Build a constant with the element type of ``like``."""
        return self.const(value, like.dtype, name)

    # -- replacing ---------------------------------------------------------------------------

    def replace(
        self, old: Op | Value, new: Value | Sequence[Value | None], *, same: bool = False
    ) -> bool:
        """Make all users of ``old`` read ``new`` instead, and drop ``old`` when nothing uses it.

        A value that existed before must provably have the type of what it replaces, unless
        ``same`` says that both are the same by construction (an Identity).

        Raises:
            Refused: not permitted or not proven.
            RewriteError: types contradict, or the new value does not come before its users.
        """
        olds = old.results if isinstance(old, Op) else [old]
        news = [new] if isinstance(new, Value) else list(new)
        fresh = {id(r) for op in self.new_ops for r in op.results}
        for o, n in zip(olds, news, strict=False):
            if n is not None and not same and id(n) not in fresh and not refines(n.type, o.type):
                self.fail("{} is not proven to have the type of {}", n, o)
                raise Refused
        if self.ctx.legal_only and not self.replaced:
            self._require_legal()
        self.permit()
        self.replaced = True
        for o, n in zip(olds, news, strict=False):
            if n is None:
                if o.first_use is not None:
                    raise RewriteError(f"rule {self.rule} drops a result in use: {o}")
                continue
            self._replace_value(o, n, id(n) in fresh)
        producer = olds[0].op
        if producer is not None and all(r.first_use is None for r in producer.results):
            self.erase(producer)
        return True

    def _require_legal(self) -> None:
        """Refuse operations that would have to be taken apart again."""
        for op in self.new_ops:
            answer = self.ctx.legal(op)
            if answer is not True:
                self.fail("{} cannot be written: {}", op.name, answer)
                raise Refused

    def _replace_value(self, old: Value, new: Value, fresh: bool) -> None:
        try:
            merged = meet(new.type, old.type)
        except TypeMismatchError as error:
            raise RewriteError(
                f"rule {self.rule} replaces {old} by {new}: {error}", code="rewrite-type"
            ) from error
        refined = merged is not new.type or merged is not old.type
        new.type = merged
        new.content = new.content or old.content
        if fresh:
            self._inherit(old, new)
        users = [use.op for use in old.uses]
        old.replace_all_uses(new)
        for user in users:
            self.worklist.push(user)
        if refined:
            propagate_types(new, self.worklist)

    def _inherit(self, old: Value, new: Value) -> None:
        if old.name is not None:
            new.name = old.name
        new.declared = new.declared or old.declared
        new.meta = new.meta or old.meta
        made, replaced = new.op, old.op
        if made is None or replaced is None or made.node_name is not None:
            return
        matched = self.match.ops if self.match else []
        donor = next((o for o in matched if o.name == made.name and o.node_name), replaced)
        made.node_name = donor.node_name

    def erase(self, op: Op) -> None:
        """Erase an operation whose results are unused; its producers are visited again."""
        self.permit()
        self.worklist.forget(op)

    def set_operand(self, op: Op, index: int, value: Value | None) -> None:
        """Change one operand in place, and infer again."""
        self.permit()
        old = op.operands[index]
        op.set_operand(index, value)
        self._updated(op)
        if old is not None and old.op is not None:
            self.worklist.push(old.op)

    def set_attr(self, op: Op, name: str, value: Any) -> None:
        """Change one attribute in place, and infer again."""
        self.permit()
        op.set_attr(name, value)
        self._updated(op)

    def _updated(self, op: Op) -> None:
        if op.loc is not self.loc:
            parents = tuple({id(p): p for p in (op.loc, self.loc)}.values())
            op.loc = Location("", parents, self.rule)
        infer_op(op)
        self.worklist.push(op)
        for result in op.results:
            for use in result.uses:
                self.worklist.push(use.op)

    def undo_new(self) -> None:
        """Take back operations made by a rule that then failed."""
        for op in reversed(self.new_ops):
            if op.block is not None and all(r.first_use is None for r in op.results):
                op.erase()
        if self.mutated and self.ctx.rewrites:
            key = self.ctx.rewrites.pop()
            self.ctx.rule_hits[key.split("@", 1)[0]] -= 1

    def settle(self) -> None:
        """Attribute what the rule made and left to it."""
        made = [op for op in self.new_ops if op.block is not None]
        if made:
            self.ctx.tally(self.rule, *measure(o for op in made for o in op.walk()))


def refines(new: Type, old: Type) -> bool:
    """Return whether a value of type ``new`` provably has every property of ``old``.

    Unlike type equality this compares shapes by proof: two unknown dims are not the same dim.
    """
    if not (isinstance(new, TensorType) and isinstance(old, TensorType)):
        return new is old and new is not UNKNOWN
    if new.dtype is not old.dtype or new.dtype is None or new.encoding != old.encoding:
        return False
    if new.shape is None or old.shape is None or len(new.shape) != len(old.shape):
        return False
    return all(
        a is not None and b is not None and (a is b or dims.prove_eq(a, b) is True)
        for a, b in zip(new.shape, old.shape, strict=True)
    )


def propagate_types(value: Value, worklist: Worklist | None = None) -> None:
    """Infer users again after ``value`` became more specific, as far as anything changes."""
    queue = deque([value])
    while queue:
        current = queue.popleft()
        for op in current.users:
            if op.definition is None or op.block is None:
                continue
            before = [r.type for r in op.results]
            if infer_op(op):
                if worklist is not None:
                    worklist.push(op)
                queue.extend(r for r, t in zip(op.results, before, strict=True) if r.type is not t)


class Worklist:
    """Operations to visit: the latest pushed first, each at most once.

    Attributes:
        cause: the rule at work, which what dies of it is attributed to.
    """

    def __init__(self, ops: Iterable[Op] = (), ctx: PassContext | None = None) -> None:
        self.cause = ""
        self._ctx = ctx
        self._causes: dict[Op, str] = {}
        self._stack = list(ops)
        self._stack.reverse()
        self._members = set(self._stack)

    def push(self, op: Op) -> None:
        """Visit ``op`` (again)."""
        if self.cause:
            self._causes[op] = self.cause
        if op not in self._members:
            self._members.add(op)
            self._stack.append(op)

    def pop(self) -> Op | None:
        """Return the next live operation, ``None`` at the end."""
        while self._stack:
            op = self._stack.pop()
            self._members.discard(op)
            if op.block is not None:
                return op
        return None

    def bury(self, op: Op) -> None:
        """Forget a dead ``op``; its death is that of the rule that visited it last."""
        self.cause = self._causes.get(op, "")
        self.forget(op)
        self.cause = ""

    def forget(self, op: Op) -> None:
        """Erase ``op`` and visit what it read."""
        if self._ctx is not None:
            nodes, size = measure(op.walk() if op.regions else (op,))
            self._ctx.tally(self.cause, -nodes, -size)
        self._causes.pop(op, None)
        for inner in op.walk() if op.regions else (op,):
            for value in inner.operands:
                if value is not None and isinstance(value.producer, Op):
                    self.push(value.producer)
        op.erase()


def is_dead(op: Op) -> bool:
    """Return whether nothing can notice that ``op`` is gone."""
    for result in op.results:
        if result.first_use is not None:
            return False
    definition = op.definition
    if definition is None or not op.results or "terminator" in definition.traits:
        return False
    if definition.effects not in ("none", "random"):
        return False
    return not op.regions or all(
        inner.definition is not None and (inner.definition.effects in ("none", "random"))
        for inner in op.walk()
    )


@dataclass
class RuleSet:
    """Rules indexed by root operation."""

    rules: tuple[Rule, ...]
    index: dict[str, list[Rule]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rule in sorted(self.rules, key=lambda r: -r.benefit):
            for root in rule.roots:
                self.index.setdefault(root, []).append(rule)


def apply_rules(
    function: Function, rules: RuleSet, ctx: PassContext, ops: Iterable[Op] | None = None
) -> None:
    """Apply rules to a function until none matches.

    Args:
        function: the function to rewrite.
        rules: the rules.
        ctx: the run's context.
        ops: where to start; the whole function when ``None``.

    Raises:
        RewriteError: rules undo one another, or a rule broke the contract.
    """
    start = list(function.walk() if ops is None else ops)
    worklist = Worklist(start, ctx)
    rewriter = Rewriter(function, ctx, worklist)
    limit = RUNAWAY_FACTOR * (len(start) + 64)
    first = len(ctx.rewrites)
    index = rules.index
    steps = 0
    while (op := worklist.pop()) is not None:
        if is_dead(op) and not (ctx.keep_nodes and ctx.kept(op)):
            worklist.bury(op)
            continue
        candidates = index.get(op.name)
        if candidates is None or op.has_attr_refs:
            continue
        for rule in candidates:
            if ctx.exact and not rule.exact:
                continue
            if try_rule(rule, op, rewriter, ctx):
                if op.block is not None:
                    worklist.push(op)
                break
        steps += 1
        if ctx.progress is not None and steps % 2048 == 0:
            ctx.progress(steps, len(start), ctx.pass_name)
        if len(ctx.rewrites) - first > limit:
            chain = ", ".join(ctx.rewrites[-8:])
            raise RewriteError(
                f"rules do not come to an end; the last ones: {chain}",
                code="runaway",
                hint="exclude one of them with --exclude-rule and report this",
            )


def try_rule(rule: Rule, op: Op, rewriter: Rewriter, ctx: PassContext) -> bool:
    """Try one rule on one operation; return whether it changed anything."""
    if ctx.tried is not None:
        ctx.tried.add(f"{ctx.pass_name}/{rule.name}")
    if rule.pattern is not None:
        why = Failure()
        m = rule.pattern.match(op, why)
        if m is None:
            if why.depth > 1 and ctx.wants():
                ctx.remark("missed", op, "{}: {}", rule.name, why)
            return False
    else:
        m = Match(op)
        m.ops.append(op)
    rewriter.begin(rule.name, m)
    try:
        outcome = rule.body(m, rewriter)
    except Refused:
        outcome = False
    except VerifyError as error:
        raise RewriteError(
            f"rule {rule.name} built an invalid operation: {error.message}",
            code="rewrite-invalid",
            where=describe(op),
        ) from error
    if outcome is False:
        rewriter.undo_new()
        if rewriter.failure is not None and ctx.wants():
            template, args = rewriter.failure
            ctx.remark("missed", op, rule.name + ": " + template, *args)
        return False
    rewriter.settle()
    if rewriter.mutated and ctx.wants("applied"):
        place = ctx.rewrites[-1].partition("@")[2]
        ctx.remark("applied", f'node "{shorten(place)}"', "{} applied", rule.name)
    return rewriter.mutated


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass made of rules: its ``@rewrite`` methods, and ``rule_modules`` (dotted names)."""

    rule_modules: ClassVar[tuple[str, ...]] = ()

    def rules(self) -> RuleSet:
        """Return the rules of this pass."""
        found: list[Rule] = []
        for cls in reversed(type(self).__mro__):
            for function in vars(cls).values():
                if hasattr(function, "__lepton_rule__"):
                    found += _rules_of(function, functools.partial(function, self))
        return RuleSet(tuple(found) + _module_rules(self.rule_modules))

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules to every function of the module."""
        rules = self.rules()
        for function in list(module.functions.values()):
            apply_rules(function, rules, ctx)


@functools.cache
def _module_rules(names: tuple[str, ...]) -> tuple[Rule, ...]:
    import importlib

    return tuple(r for n in names for r in collect_rules(importlib.import_module(n)))
