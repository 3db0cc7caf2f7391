"""Operators that take in the sign, negation or scale of an operand."""

from __future__ import annotations

import numpy as np

from lepton_ir.infer import const_tensor
from lepton_ir.ir import Op, Value
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite

_MERGE_LIMIT = 1 << 20
_OPPOSITE = {
    "less": "greater_or_equal",
    "greater": "less_or_equal",
    "less_or_equal": "greater",
    "greater_or_equal": "less",
}
_EVEN = ("abs", "cosh", "cos")


def made_by(value: Value | None, *names: str) -> Op | None:
    """Return the operation that makes ``value`` if it is one of ``names``."""
    op = None if value is None else value.op
    return op if op is not None and op.name in names and not op.has_attr_refs else None


@rewrite("where", exact=True)
def where_not(m: Match, rw: Rewriter) -> bool:
    """where(not c, x, y) => where(c, y, x)."""
    condition, x, y = m.root.operands
    inner = made_by(condition, "not")
    if inner is None:
        return False
    rw.also(inner)
    return rw.replace(m.root, rw.where(inner.operands[0], y, x))


@rewrite("not", exact=True)
def negated_comparison(m: Match, rw: Rewriter) -> bool:
    """Not (a < b) => a >= b, and the like, for integers; a NaN compares false both ways."""
    inner = made_by(m.root.operands[0], *_OPPOSITE)
    if inner is None:
        return False
    a, b = inner.operands
    if a is None or a.dtype is None or not a.dtype.is_integer:
        return rw.fail("elements may be NaN")
    if inner.result.use_count > 1:
        return rw.fail("the comparison has other users")
    function = m.root.function
    name = _OPPOSITE[inner.name]
    if function is None or function.module is None:
        return False
    if not rw.ctx.legal_name(name, function.module):
        return rw.fail("the opset has no {}", name)
    rw.also(inner)
    return rw.replace(m.root, rw.build(name, a, b).result)


@rewrite("max", "min", "and", "or", exact=True)
def same_operands(m: Match, rw: Rewriter) -> bool:
    """max(x, x), min(x), x and x, x or x => x."""
    first = m.root.operands[0]
    if first is None or any(v is not first for v in m.root.operands):
        return False
    return rw.replace(m.root, first, same=True)


@rewrite("sum", exact=True)
def sum_of_two(m: Match, rw: Rewriter) -> bool:
    """sum(x, y) => x + y, which other rules know; sum(x) => x."""
    if len(m.root.operands) == 1 and m.root.operands[0] is not None:
        return rw.replace(m.root, m.root.operands[0], same=True)
    if len(m.root.operands) != 2:
        return False
    return rw.replace(m.root, rw.add(*m.root.operands))


@rewrite("add", "sub", exact=True)
def add_of_negative(m: Match, rw: Rewriter) -> bool:
    """X + (-y) => x - y, x - (-y) => x + y: IEEE subtraction is addition of the negative."""
    a, b = m.root.operands
    adds = m.root.name == "add"
    for kept, other in ((a, b), (b, a)) if adds else ((a, b),):
        inner = made_by(other, "neg")
        if inner is not None and inner.result.use_count == 1:
            rw.also(inner)
            made = rw.build("sub" if adds else "add", kept, inner.operands[0])
            return rw.replace(m.root, made.result)
    return False


@rewrite("mul", "div", exact=True)
def signs_cancel(m: Match, rw: Rewriter) -> bool:
    """(-x) * (-y) => x * y; (-x) * c => x * (-c) for a constant c; likewise x / y."""
    a, b = m.root.operands
    if a is None or a.dtype is None or not a.dtype.is_float:
        return False
    left, right = made_by(a, "neg"), made_by(b, "neg")
    if left is not None and right is not None:
        if left.result.use_count > 1 and right.result.use_count > 1:
            return rw.fail("both negatives have other users")
        rw.also(left, right)
        made = rw.build(m.root.name, left.operands[0], right.operands[0])
        return rw.replace(m.root, made.result)
    for i, inner in ((1, left), (0, right)):
        other = m.root.operands[i]
        tensor = const_tensor(other)
        if inner is None or tensor is None or other is None or inner.result.use_count > 1:
            continue
        if not tensor.dtype.is_float or tensor.nbytes > _MERGE_LIMIT:
            return rw.fail("the constant is too large, or not of floats")
        rw.also(inner)
        flipped = rw.const(np.negative(tensor.numpy()), tensor.dtype)
        operands = [inner.operands[0], flipped] if i else [flipped, inner.operands[0]]
        return rw.replace(m.root, rw.build(m.root.name, *operands).result)
    return False


@rewrite(*_EVEN, exact=True)
def even_of_negative(m: Match, rw: Rewriter) -> bool:
    """f(-x) => f(x) for even f."""
    inner = made_by(m.root.operands[0], "neg")
    if inner is None:
        return False
    rw.also(inner)
    return rw.replace(m.root, rw.build(m.root.name, inner.operands[0]).result)
