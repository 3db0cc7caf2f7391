"""Neighbouring scales and shifts by constants: one constant instead of two, within rounding.

They wait for the activations that are written with such constants to be recognised first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.pattern import P, const, var
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.pattern import Const, Match
    from lepton_ir.rewrite import Rewriter

_MERGE_LIMIT = 1 << 20


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
