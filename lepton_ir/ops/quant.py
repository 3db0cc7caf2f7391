"""Linear quantization, and the integer forms of convolution and matrix product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.opdef import Bool, DTypeAttr, Int, Ints, Str, op
from lepton_ir.ops import _window
from lepton_ir.ops._support import Array, Shape, normalized, widen
from lepton_ir.ops.conv import conv
from lepton_ir.ops.linalg import matmul_shape
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value


def integer_range(dtype: DType) -> tuple[int, int]:
    """Return the smallest and largest value of an integer type."""
    if dtype.kind == "int":
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, (1 << dtype.bits) - 1


def spread(parameter: Array, shape: tuple[int, ...], axis: int, block_size: int = 0) -> Array:
    """Return a scale or zero point in a shape that broadcasts to ``shape``.

    Scalars and vectors of one element are per tensor, longer vectors per ``axis``; with
    ``block_size`` every element along ``axis`` is repeated (QuantizeLinear-28).

    Raises:
        ValueError: the parameter fits none of the three granularities.
    """
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    at = normalized(axis, len(shape))
    if block_size > 0:
        wanted = list(shape)
        wanted[at] = -(-shape[at] // block_size)
        if list(parameter.shape) != wanted:
            raise ValueError(f"blocks of shape {parameter.shape}, expected {tuple(wanted)}")
        return np.repeat(parameter, block_size, at).take(range(shape[at]), at)
    if parameter.ndim != 1 or len(parameter) != shape[at]:
        raise ValueError(f"parameter of shape {parameter.shape} for axis {at} of {shape}")
    return parameter.reshape((-1,) + (1,) * (len(shape) - at - 1))


def saturated(x: Array, dtype: DType, zero_point: Array | None = None) -> Array:
    """Round float ``x`` to even, add ``zero_point``, clamp to ``dtype``; NaN is the lowest."""
    low, high = integer_range(dtype)
    value = np.rint(x)
    if zero_point is not None:
        value = value + zero_point.astype(value.dtype)
    value = np.where(np.isnan(value), low, np.clip(value, low, high))
    return value.astype(np.int32).astype(dtype.numpy)


def _to_float8(x: Array, dtype: DType, saturate: bool) -> Array:
    if saturate or dtype.bits < 8:
        import ml_dtypes

        limit = float(ml_dtypes.finfo(dtype.numpy).max)  # type: ignore[no-untyped-call]
        x = np.clip(x, -limit, limit)
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(dtype.numpy)


def _check_parameters(ctx: InferContext, scale: str, zero_point: str) -> None:
    """Check C1 and C2 for one scale and zero point, as far as they are known."""
    x, s = ctx.shape("x"), ctx.shape(scale)
    axis = ctx.attrs["axis"]
    if x is None or s is None or len(s) == 0 or s == (1,):
        return
    blocked = ctx.attrs["block_size"] > 0
    if (isinstance(s[0], int) or blocked) and not -len(x) <= axis < len(x):
        ctx.fail("C1", f"axis is {axis}, rank is {len(x)}")
    if blocked and len(s) != len(x):
        ctx.fail("C2", f"{scale} has rank {len(s)}, x has rank {len(x)}")
    if not blocked:
        if len(s) > 1:
            ctx.fail("C2", f"{scale} has rank {len(s)} but there are no blocks")
        length = x[axis] if -len(x) <= axis < len(x) else None
        if isinstance(s[0], int) and isinstance(length, int) and s[0] != length:
            ctx.fail("C2", f"{scale} has {s[0]} elements but axis {axis} has {length}")


def _infer_quantize(ctx: InferContext) -> TensorType:
    _check_parameters(ctx, "y_scale", "y_zero_point")
    wanted: DType | None = ctx.attrs["output_dtype"]
    found = ctx.dtype("y_zero_point")
    if wanted is not None and found is not None and wanted is not found:
        ctx.fail("C3", f"output_dtype is {wanted} but y_zero_point is {found}")
    dtype = wanted or found
    if dtype is None and not ctx.has("y_zero_point"):
        dtype = dtypes.U8
    return TensorType(dtype, ctx.shape("x"))


def _division_dtype(scale: DType, precision: DType | None) -> DType:
    """Return the type of ``x / y_scale``: ``precision``, else the scale's own if it can divide."""
    wanted = precision or scale
    if wanted.is_integer:
        return dtypes.F64
    return wanted if wanted.is_float and wanted.bits >= 16 else dtypes.F32


def _spread_value(b: Builder, p: Value, x: Value, axis: int, block_size: int) -> Value:
    """Build :func:`spread`; raises ``ValueError`` where shapes are not known well enough."""
    if p.shape == ():
        return p
    if p.shape is None or x.rank is None:
        raise ValueError("the rank of x or of a quantization parameter is unknown")
    if p.shape == (1,):
        scalar: Value = b.reshape(p, b.const(np.zeros(0, np.int64)))
        return scalar
    at = normalized(axis, x.rank)
    if block_size == 0:
        if len(p.shape) != 1 or not isinstance(p.shape[0], int):
            raise ValueError("it is not known whether the parameters are per tensor or per axis")
        column: Value = b.reshape(p, (-1,) + (1,) * (x.rank - at - 1))
        return column
    whole = [d for d in p.shape if isinstance(d, int)]
    if len(whole) != len(p.shape) or x.shape is None:
        raise ValueError("the number of quantization blocks is not known")
    if x.shape[at] != whole[at] * block_size:
        raise ValueError("the last quantization block is not known to be complete")
    repeated = b.expand(b.unsqueeze(p, [at + 1]), (*whole[: at + 1], block_size, *whole[at + 1 :]))
    whole[at] *= block_size
    blocks: Value = b.reshape(repeated, whole)
    return blocks


def _decompose_quantize(b: Builder, op: Op) -> list[Value]:
    x, scale, zero = op.operand("x"), op.operand("y_scale"), op.operand("y_zero_point")
    assert x is not None
    assert scale is not None
    dtype = op.result.dtype
    if dtype is None or scale.dtype is None:
        raise ValueError("the element types are not known")
    axis, block = op.attr("axis"), op.attr("block_size")
    kind = _division_dtype(scale.dtype, op.attr("precision"))
    divisor = b.cast(_spread_value(b, scale, x, axis, block), to=kind)
    y = b.div(b.cast(x, to=kind), divisor)
    if dtype.is_integer:
        y = b.round(y)
    y = b.cast(y, to=dtypes.F32)
    if zero is not None:
        y = b.add(y, b.cast(_spread_value(b, zero, x, axis, block), to=dtypes.F32))
    if not dtype.is_integer:
        return [b.cast(y, to=dtype, saturate=op.attr("saturate"))]
    low, high = (b.const(np.array(v), dtypes.F32) for v in integer_range(dtype))
    return [b.cast(b.clip(y, low, high), to=dtype)]


@op(
    "quantize_linear(x, y_scale, y_zero_point?)",
    infer=_infer_quantize,
    traits="composite",
    decompose=_decompose_quantize,
)
def quantize_linear(
    x: Array,
    y_scale: Array,
    y_zero_point: Array | None = None,
    *,
    axis: Int = 1,
    block_size: Int = 0,
    output_dtype: DTypeAttr | None = None,
    precision: DTypeAttr | None = None,
    saturate: Bool = True,
) -> Array:
    """``saturate(round(x / y_scale) + y_zero_point)``, halves to even (ONNX QuantizeLinear-28).

    The division is made in ``precision``, by default the type of ``y_scale``. NaN, which the
    specification leaves open for integers, gives the lowest value.

    C1  -rank(x) <= axis < rank(x) unless y_scale is per tensor
    C2  y_scale is one number, one per element of the axis, or one per block
    C3  output_dtype is the type of y_zero_point when both are given
    """
    dtype = output_dtype or dtypes.U8
    if y_zero_point is not None:
        dtype = dtypes.from_numpy(y_zero_point.dtype)
        if output_dtype is not None and output_dtype is not dtype:
            raise ValueError(f"output_dtype is {output_dtype} but y_zero_point is {dtype}")
    kind = _division_dtype(dtypes.from_numpy(y_scale.dtype), precision).numpy
    divisor = spread(y_scale, x.shape, axis, block_size).astype(kind)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = widen(np.asarray(x.astype(kind) / divisor))
    zero = None
    if y_zero_point is not None:
        zero = spread(y_zero_point, x.shape, axis, block_size).astype(np.float32)
    if dtype.is_integer:
        return saturated(y, dtype, zero)
    return _to_float8(y if zero is None else y + zero, dtype, saturate)


def _infer_dequantize(ctx: InferContext) -> TensorType:
    _check_parameters(ctx, "x_scale", "x_zero_point")
    dtype = ctx.attrs["output_dtype"] or ctx.dtype("x_scale")
    return TensorType(dtype, ctx.shape("x"))


def _decompose_dequantize(b: Builder, op: Op) -> list[Value]:
    x, scale, zero = op.operand("x"), op.operand("x_scale"), op.operand("x_zero_point")
    assert x is not None
    assert scale is not None
    dtype = op.result.dtype
    if dtype is None:
        raise ValueError("the element type of x_scale is unknown")
    axis, block = op.attr("axis"), op.attr("block_size")
    if x.dtype is None or (x.dtype is dtypes.I32 and zero is not None):
        raise ValueError("an i32 zero point needs more than f32 to subtract")
    y = b.cast(x, to=dtypes.F32)
    if zero is not None:
        y = b.sub(y, b.cast(_spread_value(b, zero, x, axis, block), to=dtypes.F32))
    y = b.mul(y, b.cast(_spread_value(b, scale, x, axis, block), to=dtypes.F32))
    return [b.cast(y, to=dtype)]


@op(
    "dequantize_linear(x, x_scale, x_zero_point?)",
    infer=_infer_dequantize,
    traits="composite",
    decompose=_decompose_dequantize,
)
def dequantize_linear(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None = None,
    *,
    axis: Int = 1,
    block_size: Int = 0,
    output_dtype: DTypeAttr | None = None,
) -> Array:
    """``(x - x_zero_point) * x_scale``, computed in f32 (ONNX DequantizeLinear-28).

    C1  -rank(x) <= axis < rank(x) unless x_scale is per tensor
    C2  x_scale is one number, one per element of the axis, or one per block
    """
    exact = dtypes.from_numpy(x.dtype) is dtypes.I32
    y = x.astype(np.int64 if exact else np.float32)
    if x_zero_point is not None:
        y = y - spread(x_zero_point, x.shape, axis, block_size).astype(y.dtype)
    scale = spread(x_scale, x.shape, axis, block_size).astype(np.float32)
    target = x_scale.dtype if output_dtype is None else output_dtype.numpy
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(y.astype(np.float32) * scale).astype(target)


def _infer_dynamic(ctx: InferContext) -> list[TensorType]:
    return [
        TensorType(dtypes.U8, ctx.shape("x")),
        TensorType(dtypes.F32, ()),
        TensorType(dtypes.U8, ()),
    ]


def _decompose_dynamic(b: Builder, op: Op) -> list[Value]:
    x = op.operands[0]
    assert x is not None
    zero, one, top = (b.const(np.float32(v)) for v in (0, 1, 255))
    low = b.min(b.reduce_min(x, keepdims=False), zero)
    high = b.max(b.reduce_max(x, keepdims=False), zero)
    span = b.sub(high, low)
    scale = b.where(b.equal(span, zero), one, b.div(span, top))
    shift = b.clip(b.round(b.div(b.neg(low), scale)), zero, top)
    point = b.cast(shift, to=dtypes.U8)
    return [b.quantize_linear(x, scale, point), scale, point][: len(op.results)]


@op(
    "dynamic_quantize_linear(x) -> y, y_scale, y_zero_point",
    infer=_infer_dynamic,
    traits="composite",
    decompose=_decompose_dynamic,
)
def dynamic_quantize_linear(x: Array) -> tuple[Array, Array, Array]:
    """Quantize f32 to u8 by the range of ``x`` and 0 (ONNX DynamicQuantizeLinear-11).

    Where all of ``x`` is 0 the scale is 1. The scale has the type of ``x``.
    """
    low = np.minimum(x.min(initial=0), np.float32(0))
    high = np.maximum(x.max(initial=0), np.float32(0))
    scale = np.float32(1) if high == low else (high - low) / np.float32(255)
    point = saturated(np.asarray(-low / scale), dtypes.U8)
    y = saturated(x / scale, dtypes.U8, point)
    return y, np.asarray(scale, x.dtype), point


def _centered(x: Array, zero_point: Array | None, column: bool = False) -> Array:
    """Return ``x - zero_point`` in f64, exact; a vector of zero points is per row or column."""
    y = x.astype(np.float64)
    if zero_point is None:
        return y
    return np.asarray(y - matrix_parameter(zero_point, y.ndim, column).astype(np.float64))


def matrix_parameter(parameter: Array, rank: int, column: bool) -> Array:
    """Return a scale or zero point of a matrix, shaped to broadcast: per tensor, row or column."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter if column or parameter.ndim != 1 or rank < 2 else parameter[:, None]


def _as_i32(x: Array) -> Array:
    """Return exact integers held in f64 as i32, wrapping around as a 32-bit accumulator does."""
    return np.asarray(x).astype(np.int64).astype(np.int32)


def _infer_matmul_integer(ctx: InferContext) -> TensorType:
    return TensorType(dtypes.I32, matmul_shape(ctx, ctx.shape("a"), ctx.shape("b")))


@op("matmul_integer(a, b, a_zero_point?, b_zero_point?)", infer=_infer_matmul_integer)
def matmul_integer(
    a: Array, b: Array, a_zero_point: Array | None = None, b_zero_point: Array | None = None
) -> Array:
    """Product of 8-bit matrices less their zero points, in i32 (ONNX MatMulInteger-10).

    Zero points are scalars, per row of ``a`` or per column of ``b``.

    C1  rank(a) >= 1 and rank(b) >= 1
    C2  a.shape[-1] == b.shape[-2] (b.shape[0] when b is a vector)
    """
    return _as_i32(np.matmul(_centered(a, a_zero_point), _centered(b, b_zero_point, column=True)))


def _infer_qlinear_matmul(ctx: InferContext) -> TensorType:
    shape = matmul_shape(ctx, ctx.shape("a"), ctx.shape("b"))
    return TensorType(ctx.dtype("y_zero_point"), shape)


def _per_tensor(value: Value | None) -> bool:
    return value is not None and value.shape in ((), (1,))


def _decompose_qlinear_matmul(b: Builder, op: Op) -> list[Value]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = op.operands
    assert w is not None
    if not _per_tensor(x_scale) or not _per_tensor(y_scale):
        raise ValueError("the scales of a and y are not known to be scalars")
    if not _per_tensor(w_scale) and (w_scale is None or w_scale.rank != 1 or w.rank is None):
        raise ValueError("the scale of b is not known to be per tensor or per column")
    left = b.dequantize_linear(x, x_scale, x_zero)
    right = b.dequantize_linear(w, w_scale, w_zero, axis=(w.rank or 1) - 1)
    return [b.quantize_linear(b.matmul(left, right), y_scale, y_zero)]


@op(
    "qlinear_matmul(a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point)",
    infer=_infer_qlinear_matmul,
    traits="composite",
    decompose=_decompose_qlinear_matmul,
)
def qlinear_matmul(
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """Quantized matrix product; integers accumulate in i32 (ONNX QLinearMatMul-21).

    The decomposition multiplies dequantized floats, so a result may differ by one step.

    C1  rank(a) >= 1 and rank(b) >= 1
    C2  a.shape[-1] == b.shape[-2] (b.shape[0] when b is a vector)
    """
    if y_scale.size != 1:
        raise ValueError("qlinear_matmul: the result's scale should be a scalar")
    product = np.matmul(_centered(a, a_zero_point), _centered(b, b_zero_point, column=True))
    integer = dtypes.from_numpy(a.dtype).is_integer and dtypes.from_numpy(b.dtype).is_integer
    product = (_as_i32(product) if integer else product).astype(np.float32)
    rank = product.ndim
    left = matrix_parameter(a_scale, rank, column=False).astype(np.float32)
    right = matrix_parameter(b_scale, rank, column=True).astype(np.float32)
    return _requantized(product, left * right, y_scale, y_zero_point)


def _requantized(x: Array, scale: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """Return ``x * (scale / y_scale)`` as the type of ``y_zero_point``, in f32."""
    dtype = dtypes.from_numpy(y_zero_point.dtype)
    y = x * (scale / y_scale.reshape(()).astype(np.float32))
    if dtype.is_integer:
        return saturated(y, dtype, y_zero_point.reshape(()))
    return _to_float8(y + y_zero_point.reshape(()).astype(np.float32), dtype, True)


def conv_shape(ctx: InferContext) -> Shape | None:
    """Return the shape of a convolution of operands ``x`` and ``w`` (constraints C1 to C3)."""
    x, w = ctx.shape("x"), ctx.shape("w")
    for name, shape in (("x", x), ("w", w)):
        if shape is not None and len(shape) < 3:
            ctx.fail("C1", f"{name} has rank {len(shape)}")
    if x is not None and w is not None and len(x) != len(w):
        ctx.fail("C1", f"x has rank {len(x)} but w has {len(w)}")
    if x is None and w is None:
        return None
    rank = len(x or w or ())
    x, w = x or (None,) * rank, w or (None,) * rank
    group = ctx.attrs["group"]
    channels: Dim | None = None if w[1] is None else dims.mul(w[1], group)
    if x[1] is not None and channels is not None and dims.prove_eq(x[1], channels) is False:
        ctx.fail("C2", f"x has {x[1]} channels but w expects {channels}")
    kernel = ctx.attrs["kernel_shape"] or w[2:]
    return (x[0], w[0], *_window.output_dims(ctx, x[2:], kernel, "C3"))


def _infer_conv_integer(ctx: InferContext) -> TensorType:
    return TensorType(dtypes.I32, conv_shape(ctx))


def _integer_conv(
    x: Array, w: Array, x_zero: Array | None, w_zero: Array | None, attrs: dict[str, Any]
) -> Array:
    """Convolve in i32; ``w_zero`` is a scalar or one per output channel."""
    kernel = w.astype(np.float64)
    if w_zero is not None:
        column = w_zero.reshape((-1,) + (1,) * (w.ndim - 1))
        kernel = kernel - column.astype(np.float64)
    image = x.astype(np.float64)
    if x_zero is not None:
        image = image - x_zero.reshape(()).astype(np.float64)
    return _as_i32(conv(image, kernel, None, **attrs))


@op("conv_integer(x, w, x_zero_point?, w_zero_point?)", infer=_infer_conv_integer)
def conv_integer(
    x: Array,
    w: Array,
    x_zero_point: Array | None = None,
    w_zero_point: Array | None = None,
    *,
    auto_pad: Str = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolve 8-bit tensors less their zero points, in i32 (ONNX ConvInteger-10).

    C1  rank(x) == rank(w) >= 3
    C2  x.shape[1] == w.shape[1] * group
    C3  the window attributes fit the spatial axes
    """
    attrs = {
        "auto_pad": auto_pad,
        "dilations": dilations,
        "group": group,
        "kernel_shape": kernel_shape,
        "pads": pads,
        "strides": strides,
    }
    return _integer_conv(x, w, x_zero_point, w_zero_point, attrs)


def _infer_qlinear_conv(ctx: InferContext) -> TensorType:
    return TensorType(ctx.dtype("y_zero_point"), conv_shape(ctx))


def _decompose_qlinear_conv(b: Builder, op: Op) -> list[Value]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *rest = op.operands
    assert w_scale is not None
    if not _per_tensor(x_scale) or not _per_tensor(y_scale):
        raise ValueError("the scales of x and y are not known to be scalars")
    if not _per_tensor(w_scale) and w_scale.rank != 1:
        raise ValueError("the rank of w_scale is unknown")
    bias = rest[0] if rest else None
    if bias is not None:
        bias = b.dequantize_linear(bias, b.mul(x_scale, w_scale), None, axis=0)
    image = b.dequantize_linear(x, x_scale, x_zero)
    kernel = b.dequantize_linear(w, w_scale, w_zero, axis=0)
    return [b.quantize_linear(b.conv(image, kernel, bias, **op.attrs), y_scale, y_zero)]


@op(
    "qlinear_conv(x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, b?)",
    infer=_infer_qlinear_conv,
    traits="composite",
    decompose=_decompose_qlinear_conv,
)
def qlinear_conv(
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    w: Array,
    w_scale: Array,
    w_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    b: Array | None = None,
    *,
    auto_pad: Str = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Quantized convolution; integers accumulate in i32 (ONNX QLinearConv-10).

    ``w_scale`` and ``w_zero_point`` are scalars or per output channel; ``b`` is i32 in units of
    ``x_scale * w_scale``. The decomposition convolves dequantized floats, so a result may differ
    by one step.

    C1  rank(x) == rank(w) >= 3
    C2  x.shape[1] == w.shape[1] * group
    C3  the window attributes fit the spatial axes
    """
    attrs = {
        "auto_pad": auto_pad,
        "dilations": dilations,
        "group": group,
        "kernel_shape": kernel_shape,
        "pads": pads,
        "strides": strides,
    }
    total = _integer_conv(x, w, x_zero_point, w_zero_point, attrs)
    column = (-1,) + (1,) * (x.ndim - 2)
    if b is not None:
        total = total + b.reshape(column)
    scale = x_scale.reshape(()) * w_scale.reshape(column)
    return _requantized(total.astype(np.float32), scale, y_scale, y_zero_point)
