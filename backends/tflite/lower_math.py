"""Lowerings of arithmetic element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lowering import dtype_of, full, i64, operand, static_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value

    Unary = Callable[[Builder, Value], Value]


def unary(function: Unary) -> Callable[[Any, Op], list[Value]]:
    """Return the lowering of an operation of floats with one operand; f16 is computed in f32."""

    def lower(b: Builder, op: Op) -> list[Value]:
        x = operand(op, 0)
        dtype = dtype_of(x)
        if not dtype.is_float or dtype.bits > 32:
            raise ValueError(f"there is no arithmetic of {dtype}")
        if dtype is dtypes.F32:
            return [function(b, x)]
        return [b.cast(function(b, b.cast(x, to=dtypes.F32)), to=dtype)]

    return lower


def _reciprocal(b: Builder, x: Value) -> Value:
    found: Value = b.div(full(b, 1, x), x)
    return found


_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_ERF_STEP = 0.3275911


def _erf(b: Builder, x: Value) -> Value:
    """Abramowitz and Stegun 7.1.26: ``sign(x) (1 - p(t) t exp(-x^2))``, ``t = 1 / (1 + c |x|)``.

    The error is 1.5e-7 at most.
    """
    magnitude = b.abs(x)
    one = full(b, 1, x)
    t = b.div(one, b.add(one, b.mul(full(b, _ERF_STEP, x), magnitude)))
    y = full(b, _ERF[0], x)
    for factor in _ERF[1:]:
        y = b.add(b.mul(y, t), full(b, factor, x))
    tail = b.mul(b.mul(y, t), b.exp(b.neg(b.mul(x, x))))
    found: Value = b.mul(b.sign(x), b.sub(one, tail))
    return found


def _tan(b: Builder, x: Value) -> Value:
    found: Value = b.div(b.sin(x), b.cos(x))
    return found


def _halves(sign: float) -> Unary:
    """``(exp(x) + sign exp(-x)) / 2``."""

    def build(b: Builder, x: Value) -> Value:
        half = full(b, 0.5, x)
        parts = b.mul(half, b.exp(x)), b.mul(full(b, 0.5 * sign, x), b.exp(b.neg(x)))
        found: Value = b.add(*parts)
        return found

    return build


def _complement(b: Builder, x: Value) -> Value:
    """``sqrt(1 - x^2)``, exact near 1."""
    one = full(b, 1, x)
    found: Value = b.sqrt(b.mul(b.sub(one, x), b.add(one, x)))
    return found


def _like_ones(b: Builder, x: Value) -> Value:
    """Ones of the shape of ``x``: ATAN2 does not broadcast."""
    if all(isinstance(d, int) for d in x.shape or (None,)):
        return b.const(np.ones(static_shape(x), dtype_of(x).numpy))
    ones: Value = b.add(b.mul(x, full(b, 0, x)), full(b, 1, x))
    return ones


def _asin(b: Builder, x: Value) -> Value:
    found: Value = b.atan2(x, _complement(b, x))
    return found


def _acos(b: Builder, x: Value) -> Value:
    found: Value = b.atan2(_complement(b, x), x)
    return found


def _atan(b: Builder, x: Value) -> Value:
    found: Value = b.atan2(x, _like_ones(b, x))
    return found


def _asinh(b: Builder, x: Value) -> Value:
    """``sign(x) log(|x| + sqrt(x^2 + 1))``."""
    magnitude = b.abs(x)
    root = b.sqrt(b.add(b.mul(x, x), full(b, 1, x)))
    found: Value = b.mul(b.sign(x), b.log(b.add(magnitude, root)))
    return found


def _acosh(b: Builder, x: Value) -> Value:
    one = full(b, 1, x)
    root = b.sqrt(b.mul(b.sub(x, one), b.add(x, one)))
    found: Value = b.log(b.add(x, root))
    return found


def _atanh(b: Builder, x: Value) -> Value:
    one = full(b, 1, x)
    ratio = b.div(b.add(one, x), b.sub(one, x))
    found: Value = b.mul(full(b, 0.5, x), b.log(ratio))
    return found


def _softsign(b: Builder, x: Value) -> Value:
    found: Value = b.div(x, b.add(full(b, 1, x), b.abs(x)))
    return found


def _softplus(b: Builder, x: Value) -> Value:
    """``max(x, 0) + log(1 + e)`` with ``e = exp(-|x|)``, which does not overflow.

    XNNPACK's logarithm has an absolute error, so that a small e goes through its series.
    """
    e = b.exp(b.neg(b.abs(x)))
    series = full(b, 0.2, x)
    for factor in (-0.25, 1 / 3, -0.5, 1.0):
        series = b.add(b.mul(series, e), full(b, factor, x))
    small = b.less(e, full(b, 0.05, x))
    tail = b.where(small, b.mul(series, e), b.log(b.add(full(b, 1, x), e)))
    found: Value = b.add(b.relu(x), tail)
    return found


def _sign(b: Builder, op: Op) -> list[Value]:
    """Compare with 0, where SIGN does not take the type."""
    x = operand(op, 0)
    if dtype_of(x) is not dtypes.I64:
        raise ValueError("no operator gives this sign")
    zero = full(b, 0, x)
    low = b.where(b.less(x, zero), full(b, -1, x), zero)
    return [b.where(b.greater(x, zero), full(b, 1, x), low)]


def _abs(b: Builder, op: Op) -> list[Value]:
    x = operand(op, 0)
    if dtype_of(x) not in (dtypes.I64, dtypes.I8):
        raise ValueError("no operator gives this magnitude")
    return [b.max(x, b.neg(x))]


def _chain(b: Builder, op: Op) -> list[Value]:
    """Two operands at a time."""
    values = [v for v in op.operands if v is not None]
    if len(values) == 2:
        raise ValueError("no operator does this")
    if len(values) == 1:
        return [b.identity(values[0])]
    found = values[0]
    for value in values[1:]:
        found = b.build(op.name, found, value).result
    return [found]


def _pow(b: Builder, op: Op) -> list[Value]:
    """The exponent is cast to the type of x."""
    x, y = operand(op, 0), operand(op, 1)
    exact = dtype_of(x).is_float and not dtype_of(y).is_float
    if x.dtype is y.dtype or not (exact or dtype_of(y) is dtypes.F16):
        raise ValueError("no operator does this power")
    return [b.pow(x, b.cast(y, to=dtype_of(x)))]


def _is_nan(b: Builder, op: Op) -> list[Value]:
    """Only a NaN is not equal to itself."""
    x = operand(op, 0)
    return [b.not_(b.equal(x, x))]


def _is_inf(b: Builder, op: Op) -> list[Value]:
    x = operand(op, 0)
    both = [
        b.equal(x, full(b, sign * np.inf, x))
        for sign, wanted in ((-1, "detect_negative"), (1, "detect_positive"))
        if op.attr(wanted)
    ]
    if not both:
        never = b.equal(x, x)
        return [b.and_(never, b.not_(never))]
    return [both[0] if len(both) == 1 else b.or_(*both)]


def _mod(b: Builder, op: Op) -> list[Value]:
    """``x - trunc(x / y) y`` has the sign of x; FLOOR_MOD that of y."""
    x, y = operand(op, 0), operand(op, 1)
    dtype = dtype_of(x)
    if not op.attr("fmod"):
        raise ValueError("no operator gives this remainder")
    if dtype is dtypes.F32 or dtype.is_integer:
        # A remainder of magnitudes has no sign to choose.
        if dtype.kind == "uint":
            return [b.mod(x, y)]
        rest = b.mod(b.abs(x), b.abs(y))
        return [b.where(b.less(x, full(b, 0, x)), b.neg(rest), rest)]
    raise ValueError("no operator gives this remainder")


def _div(b: Builder, op: Op) -> list[Value]:
    """i64 is divided as i32 where both fit."""
    from lepton_ir.backends.tflite.ranges import fits_32

    x, y = operand(op, 0), operand(op, 1)
    if dtype_of(x) is not dtypes.I64 or not (fits_32(x) and fits_32(y)):
        raise ValueError("i64 may not fit into i32, which DIV takes")
    parts = (b.cast(v, to=dtypes.I32) for v in (x, y))
    return [b.cast(b.div(*parts), to=dtypes.I64)]


def _bitwise_not(b: Builder, op: Op) -> list[Value]:
    x = operand(op, 0)
    ones = np.full((), -1).astype(dtype_of(x).numpy) if dtype_of(x).kind == "int" else None
    mask = b.const(ones if ones is not None else np.asarray(np.iinfo(dtype_of(x).numpy).max))
    return [b.bitwise_xor(x, b.cast(mask, to=dtype_of(x)))]


def _bitwise_or(b: Builder, op: Op) -> list[Value]:
    """``(x ^ y) ^ (x & y)``."""
    x, y = operand(op, 0), operand(op, 1)
    return [b.bitwise_xor(b.bitwise_xor(x, y), b.bitwise_and(x, y))]


def _bit_shift(b: Builder, op: Op) -> list[Value]:
    """Shifts by the width and more give 0; TFLite's are bounded."""
    x, y = operand(op, 0), operand(op, 1)
    dtype = dtype_of(x)
    if dtype.bits > 32:
        raise ValueError(f"there is no shift of {dtype}")
    wide = b.cast(y, to=dtypes.I64)
    beyond = b.greater_or_equal(wide, full(b, dtype.bits, wide))
    if dtype_of(y).kind == "int":
        beyond = b.or_(beyond, b.less(wide, full(b, 0, wide)))
    small = b.cast(b.where(beyond, full(b, dtype.bits - 1, wide), wide), to=dtype)
    if op.attr("direction") == "LEFT":
        shifted = b.left_shift(*_same_shapes(b, op, [x, small]))
    else:
        shifted = b.right_shift(x, small)
        if dtype.kind == "int":
            return [shifted]  # the sign goes on
    return [b.where(beyond, full(b, 0, x), shifted)]


def _same_shapes(b: Builder, op: Op, values: list[Value]) -> list[Value]:
    """Build values of the result's shape, for operators that do not broadcast."""
    shape = static_shape(op.results[0])
    return [v if v.shape == shape else b.expand(v, i64(b, *shape)) for v in values]


def _bitwise_and(b: Builder, op: Op) -> list[Value]:
    x, y = operand(op, 0), operand(op, 1)
    if x.shape == y.shape:
        raise ValueError(f"there is no such operator of {x.dtype}")
    return [b.bitwise_and(*_same_shapes(b, op, [x, y]))]


def _prelu(b: Builder, op: Op) -> list[Value]:
    """``relu(x) + slope min(x, 0)`` where PRELU does not broadcast."""
    x, slope = operand(op, 0), operand(op, 1)
    zero = full(b, 0, x)
    return [b.where(b.less(x, zero), b.mul(x, slope), x)]


def _mish(b: Builder, x: Value) -> Value:
    """``x tanh(log(1 + w)) = x n / (n + 2)`` with ``w = exp(x)`` and ``n = w (w + 2)``."""
    w = b.exp(b.min(x, full(b, 20, x)))  # beyond, the quotient is 1
    n = b.mul(w, b.add(w, full(b, 2, x)))
    found: Value = b.mul(x, b.div(n, b.add(n, full(b, 2, x))))
    return found


_FLOATS: dict[str, Unary] = {
    "reciprocal": _reciprocal,
    "erf": _erf,
    "tan": _tan,
    "sinh": _halves(-1),
    "cosh": _halves(1),
    "asin": _asin,
    "acos": _acos,
    "atan": _atan,
    "asinh": _asinh,
    "acosh": _acosh,
    "atanh": _atanh,
    "softsign": _softsign,
    "softplus": _softplus,
    "mish": _mish,
}

LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    **{name: unary(function) for name, function in _FLOATS.items()},
    "sign": _sign,
    "abs": _abs,
    "max": _chain,
    "min": _chain,
    "pow": _pow,
    "mod": _mod,
    "div": _div,
    "is_nan": _is_nan,
    "is_inf": _is_inf,
    "bitwise_not": _bitwise_not,
    "bitwise_and": _bitwise_and,
    "bitwise_or": _bitwise_or,
    "bit_shift": _bit_shift,
    "prelu": _prelu,
}
