"""Operators that take in the sign, negation or scale of an operand."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ir.infer import const_tensor
from lepton_ir.ir import Op, Value
from lepton_ir.pattern import Const, Match, P, const, var
from lepton_ir.rewrite import Rewriter, rewrite

_MERGE_LIMIT = 1 << 20
_OPPOSITE = {
    "less": "greater_or_equal",
    "greater": "less_or_equal",
    "less_or_equal": "greater",
    "greater_or_equal": "less",
}
_EVEN = ("abs", "cosh", "cos")


def _made_by(value: Value | None, *names: str) -> Op | None:
    op = None if value is None else value.op
    return op if op is not None and op.name in names and not op.has_attr_refs else None


@rewrite("where", exact=True)
def where_not(m: Match, rw: Rewriter) -> bool:
    """where(not c, x, y) => where(c, y, x)."""
    condition, x, y = m.root.operands
    inner = _made_by(condition, "not")
    if inner is None:
        return False
    rw.also(inner)
    return rw.replace(m.root, rw.where(inner.operands[0], y, x))


@rewrite("not", exact=True)
def negated_comparison(m: Match, rw: Rewriter) -> bool:
    """Not (a < b) => a >= b, and the like, for integers; a NaN compares false both ways."""
    inner = _made_by(m.root.operands[0], *_OPPOSITE)
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
        inner = _made_by(other, "neg")
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
    left, right = _made_by(a, "neg"), _made_by(b, "neg")
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
    inner = _made_by(m.root.operands[0], "neg")
    if inner is None:
        return False
    rw.also(inner)
    return rw.replace(m.root, rw.build(m.root.name, inner.operands[0]).result)


def _finite(array: np.ndarray[Any, Any], dtype: Any) -> bool:
    """Whether every element is a normal number of ``dtype``, far from both ends."""
    wide = np.abs(array)
    low, high = (1e-4, 1e4) if dtype.bits == 16 else (1e-30, 1e30)
    return bool(((wide > low) & (wide < high)).all())


def _ratio(m: Match, rw: Rewriter, numerator: Const, denominator: Const) -> Any:
    """Return the quotient of two constants, ``None`` where it should not be taken."""
    a, b = numerator.tensor, denominator.tensor
    if a.dtype is not b.dtype or not a.dtype.is_float or a.nbytes + b.nbytes > _MERGE_LIMIT:
        return None
    one, other = (c.array.astype(np.float64) for c in (numerator, denominator))
    if not (_finite(one, a.dtype) and _finite(other, a.dtype)):
        return None
    merged = np.asarray(one / other)
    if not _finite(merged, a.dtype) or merged.size > max(one.size, other.size):
        return None
    return rw.const(merged, a.dtype)


@rewrite(P.div(P.mul(var("x"), const("a")), const("b")))
def div_of_mul(m: Match, rw: Rewriter) -> bool:
    """(x * a) / b => x * (a / b) within rounding, for constants that are far from overflow."""
    c = _ratio(m, rw, m.a, m.b)
    if c is None:
        return rw.fail("the constants are too large, too small or integers")
    return rw.replace(m.root, rw.mul(m.x, c))


@rewrite(P.mul(P.div(var("x"), const("a")), const("b")))
def mul_of_div(m: Match, rw: Rewriter) -> bool:
    """(x / a) * b => x * (b / a) within rounding, for constants that are far from overflow."""
    c = _ratio(m, rw, m.b, m.a)
    if c is None:
        return rw.fail("the constants are too large, too small or integers")
    return rw.replace(m.root, rw.mul(m.x, c))


@rewrite(P.div(P.div(var("x"), const("a")), const("b")))
def div_of_div(m: Match, rw: Rewriter) -> bool:
    """(x / a) / b => x / (a * b) within rounding, for constants that are far from overflow."""
    a, b = m.a.tensor, m.b.tensor
    if a.dtype is not b.dtype or not a.dtype.is_float or a.nbytes + b.nbytes > _MERGE_LIMIT:
        return rw.fail("the constants are large, or not of floats")
    one, other = (c.array.astype(np.float64) for c in (m.a, m.b))
    merged = np.asarray(one * other)
    if not all(_finite(v, a.dtype) for v in (one, other, merged)):
        return rw.fail("the constants are too large or too small")
    if merged.size > max(one.size, other.size):
        return rw.fail("the merged constant would be larger than both")
    return rw.replace(m.root, rw.div(m.x, rw.const(merged, a.dtype)))


@rewrite(
    P.sub(P.add(var("x"), const("a")), const("b")),
    P.add(P.sub(var("x"), const("a")), const("b")),
    P.sub(P.sub(var("x"), const("a")), const("b")),
)
def merge_shifts(m: Match, rw: Rewriter) -> bool:
    """(x + a) - b => x + (a - b), (x - a) + b => x - (a - b), (x - a) - b => x - (a + b).

    Not where the constants cancel: x + a would round, x alone would not.
    """
    a, b = m.a.tensor, m.b.tensor
    if a.dtype is not b.dtype or not a.dtype.is_float or a.nbytes + b.nbytes > _MERGE_LIMIT:
        return rw.fail("the constants are large, or not of floats")
    one, other = (c.array.astype(np.float64) for c in (m.a, m.b))
    inner = m.ops[0].name if m.ops[0] is not m.root else m.ops[-1].name
    adds = inner == m.root.name == "sub"
    merged = np.asarray(one + other if adds else one - other)
    least = np.abs(merged) * 16
    if merged.size > max(one.size, other.size) or not np.isfinite(merged).all():
        return rw.fail("the merged constant would be larger than both")
    if not ((least >= np.abs(one)) & (least >= np.abs(other))).all():
        return rw.fail("the constants nearly cancel")
    return rw.replace(m.root, rw.build(inner, m.x, rw.const(merged, a.dtype)).result)
