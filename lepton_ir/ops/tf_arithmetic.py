"""Arithmetic that TensorFlow Lite has as one operator and ONNX has not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.opdef import Bool, Float, Int, op
from lepton_ir.ops._nn import operand, require_dtype
from lepton_ir.ops._numeric import (
    FLOATS,
    INTEGERS,
    NUMBERS,
    Array,
    floats,
    numbers,
    typed,
)
from lepton_ir.ops._shapes import infer_broadcast, infer_same
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value

_BROADCAST = """

C1  the shapes of the operands broadcast
C2  the operands have one element type
"""
_TRAITS = "elementwise composite"

L2_EPSILON = 1e-6
"""The least norm that ``l2_normalization`` divides by."""


def _like(b: Builder, number: float, x: Value) -> Value:
    """Return a constant of rank 0 in the element type of ``x``."""
    return b.const(np.asarray(number), require_dtype(x, "the operand"))


def _binary(
    name: str,
    function: Callable[..., Any],
    what: str,
    allowed: str,
    build: Callable[[Builder, Value, Value], Value],
) -> None:
    op(
        f"{name}(a, b)",
        infer_broadcast,
        typed(function, allowed),
        traits=_TRAITS,
        decompose=lambda b, op: [build(b, operand(op, "a"), operand(op, "b"))],
        doc=what + _BROADCAST,
    )


def _squared_difference(b: Builder, x: Value, y: Value) -> Value:
    d = b.sub(x, y)
    return b.mul(d, d)  # type: ignore[no-any-return]


_binary(
    "squared_difference",
    lambda a, b: np.square(a - b),
    "``(a - b) ** 2``; integers wrap (TFLite SQUARED_DIFFERENCE).",
    NUMBERS,
    _squared_difference,
)
_binary(
    "maximum",
    lambda a, b: np.where(a > b, a, b),
    "a where it is greater than b, else b: b where one is NaN, unlike ``max`` (TFLite MAXIMUM).",
    NUMBERS,
    lambda b, x, y: b.where(b.greater(x, y), x, y),
)
_binary(
    "minimum",
    lambda a, b: np.where(a < b, a, b),
    "a where it is less than b, else b: b where one is NaN, unlike ``min`` (TFLite MINIMUM).",
    NUMBERS,
    lambda b, x, y: b.where(b.less(x, y), x, y),
)


# -- division --------------------------------------------------------------------------------------


def _no_zero(b: Array, a: Array) -> None:
    if a.dtype.kind in "iu" and np.any(b == 0) and np.broadcast(a, b).size:
        raise ValueError("integer division by zero")


def _decompose_floor_div(b: Builder, op: Op) -> list[Value]:
    x, y = operand(op, "a"), operand(op, "b")
    if require_dtype(x, "a").is_float:
        return [b.floor(b.div(x, y))]
    # What the division leaves is taken off first, so that it is exact.
    return [b.div(b.sub(x, b.mod(x, y)), y)]


@op("floor_div(a, b)", infer=infer_broadcast, traits=_TRAITS, decompose=_decompose_floor_div)
@numbers
def floor_div(a: Array, b: Array) -> Array:
    """Quotient rounded down (TFLite FLOOR_DIV), where ``div`` of integers rounds toward zero.

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    """
    _no_zero(b, a)
    return np.asarray(a // b if a.dtype.kind in "iu" else np.floor(a / b))


def _decompose_floor_mod(b: Builder, op: Op) -> list[Value]:
    x, y = operand(op, "a"), operand(op, "b")
    if not require_dtype(x, "a").is_float:
        return [b.mod(x, y)]
    rest, zero = b.mod(x, y, fmod=True), _like(b, 0, x)
    crossed = b.xor(b.less(rest, zero), b.less(y, zero))
    wrong = b.build("and", b.not_(b.equal(rest, zero)), crossed).result
    return [b.where(wrong, b.add(rest, y), rest)]


@op("floor_mod(a, b)", infer=infer_broadcast, traits=_TRAITS, decompose=_decompose_floor_mod)
@numbers
def floor_mod(a: Array, b: Array) -> Array:
    """Remainder with the sign of b, of floats too (TFLite FLOOR_MOD).

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    """
    _no_zero(b, a)
    if a.dtype.kind in "iu":
        return np.asarray(np.mod(a, b))
    rest = np.fmod(a, b)
    return np.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)


# -- angles and roots ------------------------------------------------------------------------------


def _below_zero(b: Builder, x: Value) -> Value:
    """Whether x has a minus, which -0 has too."""
    zero = _like(b, 0, x)
    minus_zero = b.build("and", b.equal(x, zero), b.less(b.reciprocal(x), zero)).result
    return b.build("or", b.less(x, zero), minus_zero).result


def _decompose_atan2(b: Builder, op: Op) -> list[Value]:
    y, x = operand(op, "a"), operand(op, "b")
    zero = _like(b, 0, x)
    both = b.build("and", b.is_inf(y), b.is_inf(x)).result
    y, x = b.where(both, b.sign(y), y), b.where(both, b.sign(x), x)
    none = b.build("and", b.equal(y, zero), b.equal(x, zero)).result
    angle = b.atan(b.where(none, y, b.div(y, x)))
    half = b.where(_below_zero(b, y), _like(b, -math.pi, x), _like(b, math.pi, x))
    return [b.where(_below_zero(b, x), b.add(angle, half), angle)]


@op("atan2(a, b)", infer=infer_broadcast, traits=_TRAITS, decompose=_decompose_atan2)
@floats
def atan2(a: Array, b: Array) -> Array:
    """Angle of the point (b, a), from -pi to pi (TFLite ATAN2).

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    """
    return np.asarray(np.arctan2(a, b))


op(
    "rsqrt(x)",
    infer_same,
    typed(lambda x: np.reciprocal(np.sqrt(x)), FLOATS),
    traits=_TRAITS,
    decompose=lambda b, op: [b.reciprocal(b.sqrt(operand(op, "x")))],
    doc="``1 / sqrt(x)`` of each element (TFLite RSQRT).",
)


def _decompose_l2(b: Builder, op: Op) -> list[Value]:
    x = operand(op, "x")
    norm = b.sqrt(b.reduce_sum(b.mul(x, x), [-1], keepdims=True))
    return [b.div(x, b.max(norm, _like(b, L2_EPSILON, x)))]


@op("l2_normalization(x)", infer=infer_same, traits="composite", decompose=_decompose_l2)
@floats
def l2_normalization(x: Array) -> Array:
    """Divide by the norm along the last axis, which is at least 1e-6 (TFLite L2_NORMALIZATION).

    C1  rank(x) >= 1
    """
    if x.ndim < 1:
        raise ValueError("x has no axis")
    norm = np.sqrt(np.square(x).sum(axis=-1, keepdims=True))
    return np.asarray(x / np.maximum(norm, x.dtype.type(L2_EPSILON)))


# -- bits ------------------------------------------------------------------------------------------


def _power(b: Builder, count: Value, limit: int) -> Value:
    """Return ``2 ** count`` as i64, the count at most ``limit``."""
    wide = b.min(b.cast(count, to=dtypes.I64), b.const(np.int64(limit)))
    one = b.const(np.uint64(1))
    shifted = b.bit_shift(one, b.cast(wide, to=dtypes.U64), direction="LEFT")
    return b.cast(shifted, to=dtypes.I64)  # type: ignore[no-any-return]


def _decompose_right_shift(b: Builder, op: Op) -> list[Value]:
    x, count = operand(op, "a"), operand(op, "b")
    dtype = require_dtype(x, "a")
    if dtype.bits > 32:
        raise ValueError(f"there is no wider type than {dtype}")
    wide, power = b.cast(x, to=dtypes.I64), _power(b, count, dtype.bits - 1)
    return [b.cast(b.div(b.sub(wide, b.mod(wide, power)), power), to=dtype)]


@op("right_shift(a, b)", infer=infer_broadcast, traits=_TRAITS, decompose=_decompose_right_shift)
def right_shift(a: Array, b: Array) -> Array:
    """Shift the bits of a by b, the sign following (TFLite RIGHT_SHIFT).

    Shifts of the element's width and more are those of one bit less.

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    """
    return _shift(np.right_shift, a, b, clamp=True)


def _decompose_left_shift(b: Builder, op: Op) -> list[Value]:
    x, count = operand(op, "a"), operand(op, "b")
    dtype = require_dtype(x, "a")
    if dtype.bits > 32:
        raise ValueError(f"there is no wider type than {dtype}")
    wide = b.mul(b.cast(x, to=dtypes.I64), _power(b, count, dtype.bits - 1))
    return [b.cast(wide, to=dtype)]


@op("left_shift(a, b)", infer=infer_broadcast, traits=_TRAITS, decompose=_decompose_left_shift)
def left_shift(a: Array, b: Array) -> Array:
    """Shift the bits of a by b, those beyond the element's width lost (STABLEHLO_SHIFT_LEFT).

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    C3  b is less than the width of an element
    """
    return _shift(np.left_shift, a, b, clamp=False)


def _shift(function: Any, a: Array, b: Array, *, clamp: bool) -> Array:
    bits = a.dtype.itemsize * 8

    def shift(a: Array, b: Array) -> Array:
        if np.any(b < 0) or (not clamp and np.any(b >= bits)):
            raise ValueError(f"a shift is not between 0 and {bits - 1}")
        found: Array = function(a, np.minimum(b, b.dtype.type(bits - 1)))
        return found

    return typed(shift, INTEGERS)(a, b)


# -- quantization in floats ------------------------------------------------------------------------


def _nudged(low: float, high: float, bits: int, narrow: bool) -> tuple[float, float, float]:
    """Return the range whose zero is one of the steps, and the step, in f32 arithmetic."""
    first, last = np.float32(narrow), np.float32((1 << bits) - 1)
    step = (np.float32(high) - np.float32(low)) / (last - first)
    at = first - np.float32(low) / step
    zero = np.clip(np.floor(at + np.float32(0.5)), first, last)
    return float((first - zero) * step), float((last - zero) * step), float(step)


def _check_fake(low: float, high: float, bits: int) -> None:
    if not 2 <= bits <= 16 or not low <= 0 <= high or low == high:
        raise ValueError(f"{bits} bits between {low} and {high}")


def _decompose_fake(b: Builder, op: Op) -> list[Value]:
    x, a = operand(op, "x"), op.all_attrs()
    _check_fake(a["min"], a["max"], a["num_bits"])
    low, high, step = _nudged(a["min"], a["max"], a["num_bits"], a["narrow_range"])
    inside = b.clip(x, _like(b, low, x), _like(b, high, x))
    inverse = float(np.float32(1) / np.float32(step))
    scaled = b.mul(b.sub(inside, _like(b, low, x)), _like(b, inverse, x))
    index = b.floor(b.add(scaled, _like(b, 0.5, x)))
    return [b.add(b.mul(index, _like(b, step, x)), _like(b, low, x))]


@op("fake_quant(x)", infer=infer_same, traits=_TRAITS, decompose=_decompose_fake)
@floats
def fake_quant(
    x: Array, *, min: Float = 0.0, max: Float = 0.0, num_bits: Int = 8, narrow_range: Bool = False
) -> Array:
    """Round to one of ``2 ** num_bits`` steps between min and max (TFLite FAKE_QUANT).

    The range is moved a little, so that 0 is a step; with ``narrow_range`` there is one step less.

    C1  min <= 0 <= max, and 2 to 16 bits
    """
    _check_fake(min, max, num_bits)
    low, high, step = (np.float32(v) for v in _nudged(min, max, num_bits, narrow_range))
    index = np.floor((np.clip(x, low, high) - low) * (np.float32(1) / step) + np.float32(0.5))
    return np.asarray(index * step + low)


# -- complex numbers -------------------------------------------------------------------------------

_PARTS = {dtypes.C64: dtypes.F32, dtypes.C128: dtypes.F64}


def _infer_part(ctx: InferContext) -> Type:
    dtype = ctx.dtype("x")
    if dtype is not None and dtype not in _PARTS:
        ctx.fail("C1", f"x is {dtype}")
    return TensorType(_PARTS.get(dtype) if dtype else None, ctx.shape("x"))


for _name, _part, _what in (
    ("real", np.real, "Real part"),
    ("imag", np.imag, "Imaginary part"),
    ("complex_abs", np.abs, "Magnitude"),
):
    op(
        f"{_name}(x)",
        _infer_part,
        lambda x, _part=_part: np.array(_part(x)),
        traits="elementwise",
        doc=f"{_what} of each complex number (TFLite {_name.upper()}).\n\nC1  x is complex",
    )
