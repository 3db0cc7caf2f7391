"""Rows of quantized graphs (pt2e) and of fake quantization: pairs of quantize and dequantize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.torch.lowering import Lowering
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType

_SPACE = "quantized_decomposed"


def _parameters(b: Lowering, scale: Any, zero: Any, dtype: DType) -> tuple[Value, Value]:
    scales = (
        b.cast_to(scale, dtypes.F32) if isinstance(scale, Value) else b.operand(scale, dtypes.F32)
    )
    zeros = b.cast_to(zero, dtype) if isinstance(zero, Value) else b.operand(zero, dtype)
    return scales, zeros


def _flat(b: Lowering, x: Value) -> Value:
    """Return a scale or zero point of one element as a scalar."""
    result: Value = b.reshape(x, b.ints([])) if x.rank and x.shape == (1,) else x
    return result


def _narrowed(
    b: Lowering,
    x: Value,
    scale: Value,
    zero: Value,
    low: Any,
    high: Any,
    dtype: DType,
) -> Value:
    """Clip to the part of the type's range that is used, in units of the scale."""
    if _is_whole(low, high, dtype):
        return x
    zeros = b.cast_to(zero, dtypes.F32)
    ends = [b.mul(b.sub(b.operand(e, dtypes.F32), zeros), scale) for e in (low, high)]
    result: Value = b.clip(x, *ends)
    return result


@torch_op("quantize_per_tensor", namespace=_SPACE)
def quantize(
    b: Lowering,
    input: Value,
    scale: Any,
    zero_point: Any,
    quant_min: Any,
    quant_max: Any,
    dtype: DType,
) -> Any:
    scales, zeros = (_flat(b, v) for v in _parameters(b, scale, zero_point, dtype))
    x = _narrowed(b, b.cast_to(input, dtypes.F32), scales, zeros, quant_min, quant_max, dtype)
    return b.quantize_linear(x, scales, zeros)


@torch_op("dequantize_per_tensor", namespace=_SPACE)
def dequantize(
    b: Lowering,
    input: Value,
    scale: Any,
    zero_point: Any,
    quant_min: Any,
    quant_max: Any,
    dtype: DType,
    out_dtype: DType | None = None,
) -> Any:
    scales, zeros = (_flat(b, v) for v in _parameters(b, scale, zero_point, dtype))
    return b.cast_to(b.dequantize_linear(input, scales, zeros), out_dtype or dtypes.F32)


@torch_op("quantize_per_channel", namespace=_SPACE)
def quantize_channels(
    b: Lowering,
    input: Value,
    scales: Value,
    zero_points: Any,
    axis: int,
    quant_min: Any,
    quant_max: Any,
    dtype: DType,
) -> Any:
    steps, zeros = _parameters(b, scales, zero_points, dtype)
    if not (_is_whole(quant_min, quant_max, dtype) or _symmetric(quant_min, quant_max, dtype)):
        text = f"values in {quant_min} to {quant_max} of {dtype} per channel"
        raise UnsupportedError(text, code="torch-quant")
    return b.quantize_linear(input, steps, zeros, axis=axis)


def _is_whole(low: Any, high: Any, dtype: DType) -> bool:
    """Return whether all values of the type are used, so that saturation is all the clipping."""
    if not dtype.is_integer or low is None:
        return True
    info = np.iinfo(dtype.numpy)
    return bool(low <= info.min and high >= info.max)


def _symmetric(low: Any, high: Any, dtype: DType) -> bool:
    """Weights in -127 to 127: their scale keeps them there, so that nothing is clipped."""
    info = np.iinfo(dtype.numpy)
    return bool(low == -high and high == info.max)


@torch_op("dequantize_per_channel", namespace=_SPACE)
def dequantize_channels(
    b: Lowering,
    input: Value,
    scales: Value,
    zero_points: Any,
    axis: int,
    quant_min: Any,
    quant_max: Any,
    dtype: DType,
    out_dtype: DType | None = None,
) -> Any:
    steps = b.cast_to(scales, dtypes.F32)
    zeros = None if zero_points is None else b.cast_to(zero_points, dtype)
    return b.cast_to(b.dequantize_linear(input, steps, zeros, axis=axis), out_dtype or dtypes.F32)


def _fake_type(low: int, high: int) -> DType:
    for dtype in (dtypes.I8, dtypes.U8, dtypes.I16, dtypes.U16):
        info = np.iinfo(dtype.numpy)
        if info.min <= low and high <= info.max:
            return dtype
    raise UnsupportedError(f"fake quantization to {low}..{high}", code="torch-quant")


@torch_op("fake_quantize_per_tensor_affine")
def fake_quantize(
    b: Lowering, self: Value, scale: Any, zero_point: Any, quant_min: int, quant_max: int
) -> Any:
    dtype = _fake_type(quant_min, quant_max)
    codes = quantize(b, self, scale, zero_point, quant_min, quant_max, dtype)
    return dequantize(b, codes, scale, zero_point, quant_min, quant_max, dtype)


@torch_op("fake_quantize_per_channel_affine")
def fake_quantize_channels(
    b: Lowering,
    self: Value,
    scale: Value,
    zero_point: Value,
    axis: int,
    quant_min: int,
    quant_max: int,
) -> Any:
    dtype = _fake_type(quant_min, quant_max)
    codes = quantize_channels(b, self, scale, zero_point, axis, quant_min, quant_max, dtype)
    return dequantize_channels(b, codes, scale, zero_point, axis, quant_min, quant_max, dtype)
