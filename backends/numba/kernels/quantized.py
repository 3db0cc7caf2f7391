"""Quantizing and dequantizing per tensor, as elementwise operations of chains and epilogues.

Scales and zero points are read while running, so that layers share kernels; only the scale 1 and
the zero point 0 are part of the code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.expression import Step
from lepton_ir.backends.numba.kernels.tables import translate_table

if TYPE_CHECKING:
    from lepton_ir.backends.numba.kernels.elementwise import Translation
    from lepton_ir.ir import Op, Value

OPERATIONS = ("quantize_linear", "dequantize_linear")

_CODES = (dtypes.U8, dtypes.I8, dtypes.U16, dtypes.I16)


def is_per_tensor(op: Op) -> bool:
    """Return whether ``op`` is a (de)quantization in f32 with one scale and zero point."""
    if op.name not in OPERATIONS or op.attr("block_size") or len(op.operands) < 2:
        return False
    x, result = op.operands[0], op.results[0]
    scale, zero = op.operands[1], op.operands[2] if len(op.operands) > 2 else None
    if x is None or scale is None or scale.dtype is not dtypes.F32 or not _is_one(scale):
        return False
    if zero is not None and not _is_one(zero):
        return False
    if op.name == "quantize_linear":
        precise = op.attr("precision") in (None, dtypes.F32)
        return precise and x.dtype is dtypes.F32 and result.dtype in _CODES
    plain = x.dtype is dtypes.I32 and zero is None
    return result.dtype is dtypes.F32 and (plain or x.dtype in _CODES)


def _is_one(value: Value) -> bool:
    return value.shape in ((), (1,))


def translate_quantization(translation: Translation, op: Op) -> int:
    """Add a quantization or dequantization to an expression; return its number.

    Raises:
        Declined: it is not per tensor, or of other types.
    """
    if not is_per_tensor(op):
        translation.lo.decline("a scale per axis or block, or other element types")
    scale, zero = op.operands[1], op.operands[2] if len(op.operands) > 2 else None
    assert scale is not None
    if op.name == "quantize_linear":
        looked_up = translate_table(translation, op)
        if looked_up is not None:
            return looked_up
    x = translation.operand(op.operands[0])
    if op.name == "quantize_linear":
        return _quantize(translation, op, x, scale, zero)
    x = translation.step(Step("cast", "f32", (x,)))
    if zero is not None and translation.number_of(zero) != 0:
        x = translation.step(Step("sub", "f32", (x, _as_float(translation, zero))))
    factor = translation.number_of(scale)
    if factor == 1.0:
        return x
    right = translation.operand(scale) if factor is None else translation.number(factor)
    return translation.step(Step("mul", "f32", (x, right)))


def _quantize(translation: Translation, op: Op, x: int, scale: Value, zero: Value | None) -> int:
    step, args = translation.number_of(scale), [x]
    divides = step != 1.0
    if divides:
        args.append(translation.operand(scale) if step is None else translation.number(step))
    moves = zero is not None and translation.number_of(zero) != 0
    if moves:
        args.append(_as_float(translation, zero))
    dtype = op.results[0].dtype
    assert dtype is not None
    return translation.step(Step("quantize_linear", dtype.name, tuple(args), (divides, moves)))


def _as_float(translation: Translation, zero: Value | None) -> int:
    """Return the number of a zero point in f32."""
    known = None if zero is None else translation.number_of(zero)
    if known is not None:
        return translation.number(float(known))
    return translation.step(Step("cast", "f32", (translation.operand(zero),)))
