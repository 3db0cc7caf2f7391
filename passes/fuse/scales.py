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

_LARGER = "the merged constant would be larger than what it replaces"


def _finite(array: np.ndarray[Any, Any], dtype: Any) -> bool:
    """Whether every element is a normal number of ``dtype``, far from both ends."""
    wide = np.abs(array)
    low, high = (1e-4, 1e4) if dtype.bits == 16 else (1e-30, 1e30)
    return bool(((wide > low) & (wide < high)).all())


def _has_room(m: Match, merged: np.ndarray[Any, Any]) -> bool:
    """Whether ``merged`` is no larger than one of the two constants, which it replaces."""
    if merged.size > max(m.a.tensor.size, m.b.tensor.size):
        return False
    size = m.a.tensor.dtype.nbytes(merged.size)
    return bool(m.a.gives_way(size) or m.b.gives_way(size))


def _ratio(m: Match, rw: Rewriter, numerator: Const, denominator: Const) -> Any:
    """Return the quotient of two constants, ``None`` where it should not be taken."""
    a, b = numerator.tensor, denominator.tensor
    if a.dtype is not b.dtype or not a.dtype.is_float or a.nbytes + b.nbytes > _MERGE_LIMIT:
        return None
    one, other = (c.array.astype(np.float64) for c in (numerator, denominator))
    if not (_finite(one, a.dtype) and _finite(other, a.dtype)):
        return None
    merged = np.asarray(one / other)
    if not _finite(merged, a.dtype) or not _has_room(m, merged):
        return None
    return rw.const(merged, a.dtype)


@rewrite(P.div(P.mul(var("x"), const("a")), const("b")))
def div_of_mul(m: Match, rw: Rewriter) -> bool:
    """(x * a) / b => x * (a / b) within rounding, for constants that are far from overflow."""
    c = _ratio(m, rw, m.a, m.b)
    if c is None:
        return rw.fail("the constants are too large, too small, integers or read by others")
    return rw.replace(m.root, rw.mul(m.x, c))


@rewrite(P.mul(P.div(var("x"), const("a")), const("b")))
def mul_of_div(m: Match, rw: Rewriter) -> bool:
    """(x / a) * b => x * (b / a) within rounding, for constants that are far from overflow."""
    c = _ratio(m, rw, m.b, m.a)
    if c is None:
        return rw.fail("the constants are too large, too small, integers or read by others")
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
    if not _has_room(m, merged):
        return rw.fail(_LARGER)
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
    if not _has_room(m, merged) or not np.isfinite(merged).all():
        return rw.fail(_LARGER)
    if not ((least >= np.abs(one)) & (least >= np.abs(other))).all():
        return rw.fail("the constants nearly cancel")
    return rw.replace(m.root, rw.build(inner, m.x, rw.const(merged, a.dtype)).result)
