"""Powers, quotients and affine chains that one operation less can say, within rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.dims import same_dim
from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.canonicalize.signs import never_negative
from lepton_ir.passes.fuse._match import Scan, available, made_by, settle, sole_user
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_FLOATS = ("f32", "f64")
_LIMIT = 1 << 20
_LEAST, _MOST = 1e-30, 1e30


@rewrite("pow")
def power_by_name(m: Match, rw: Rewriter) -> bool:
    """(x ** 0.5) => sqrt(x) where x is never negative, (x ** -1) => reciprocal(x).

    The square root of minus infinity is NaN, its power infinity. Squares and cubes stay: kernels
    of Pow know them.
    """
    scan, x = Scan(m.root), m.root.operands[0]
    exponent = scan.number(m.root.operands[1])
    if x is None or exponent not in (0.5, -1.0):
        return False
    if x.dtype is None or x.dtype.name not in _FLOATS:
        return rw.fail("elements are {}", x.dtype)
    name = "sqrt" if exponent == 0.5 else "reciprocal"
    if name == "sqrt" and not never_negative(x):
        return rw.fail("{} may be negative", x)
    if not scan.settles_on(x, rw) or not available(rw, name):
        return False
    return settle(rw, m.root, rw.build(name, x).result)


def _inverted(scan: Scan, value: Value | None) -> Value | None:
    """Return x where ``value`` is ``1 / x``."""
    op = scan.op(value, "reciprocal", "div")
    if op is None:
        return None
    if op.name == "reciprocal":
        return op.operands[0]
    return op.operands[1] if scan.number(op.operands[0]) == 1 else None


@rewrite("mul")
def quotient_of_reciprocal(m: Match, rw: Rewriter) -> bool:
    """(y * (1 / x)) => y / x where x has as many elements as the result.

    Else one division for many multiplications would become many divisions.
    """
    for i in (0, 1):
        scan, y = Scan(m.root), m.root.operands[1 - i]
        x = _inverted(scan, m.root.operands[i])
        if x is None or y is None or const_tensor(x) is not None:
            continue
        if x.dtype is None or x.dtype.name not in _FLOATS:
            return rw.fail("elements are {}", x.dtype)
        out = m.root.result.shape
        same = out is not None and x.shape is not None and len(out) == len(x.shape)
        if not same or not all(map(same_dim, out or (), x.shape or ())):
            return rw.fail("{} is not proven to have the shape of the result", x)
        if not scan.settles_on(x, rw):
            return False
        return settle(rw, m.root, rw.div(y, x))
    return False


def _step(op: Op | None) -> tuple[Value, np.ndarray[Any, Any]] | None:
    """Return x and c where ``op`` is ``x * c`` or ``x / c`` (as a factor), or ``x + c``, ``x - c``.

    The constants are finite and neither tiny nor huge.
    """
    if op is None:
        return None
    pairs = [(0, 1), (1, 0)] if op.name in ("mul", "add") else [(0, 1)]
    for i, j in pairs:
        array, x = const_array(op.operands[j], _LIMIT), op.operands[i]
        if array is None or x is None or const_tensor(x) is not None:
            continue
        wide = array.astype(np.float64)
        if op.name in ("add", "sub"):
            fits = bool((np.abs(wide) < _MOST).all())
            return (x, wide if op.name == "add" else -wide) if fits else None
        if not ((np.abs(wide) > _LEAST) & (np.abs(wide) < _MOST)).all():
            return None
        return x, wide if op.name == "mul" else 1 / wide
    return None


@rewrite("mul", "div")
def shift_between_scales(m: Match, rw: Rewriter) -> bool:
    """(x * a + b) * c => x * (a * c) + b * c for constants, as images are prepared."""
    outer = _step(m.root)
    shift = None if outer is None else made_by(outer[0], "add", "sub")
    middle = _step(shift)
    scale = None if middle is None else made_by(middle[0], "mul", "div")
    inner = _step(scale)
    if outer is None or middle is None or inner is None or shift is None or scale is None:
        return False
    if not sole_user(shift.result) or not sole_user(scale.result):
        return rw.fail("a step between has other users")
    x, dtype = inner[0], m.root.result.dtype
    if dtype is None or dtype.name not in _FLOATS:
        return rw.fail("elements are {}", dtype)
    factor, summand = inner[1] * outer[1], middle[1] * outer[1]
    largest = max(c.size for c in (inner[1], middle[1], outer[1]))
    if max(factor.size, summand.size) > largest:
        return rw.fail("the merged constants would be larger")
    if not ((np.abs(factor) > _LEAST) & (np.abs(factor) < _MOST)).all():
        return rw.fail("the merged factor is too small or too large")
    rw.also(shift, scale)
    scaled = rw.mul(x, rw.const(factor, dtype))
    return settle(rw, m.root, rw.add(scaled, rw.const(summand, dtype)))
