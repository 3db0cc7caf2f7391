"""Quantized operations of the ``com.microsoft`` domain.

The ``ms_qlinear_*`` meanings are dequantize, float operation, quantize; a runtime's integer
arithmetic may differ from them by one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes, opdef
from lepton_ir.infer import InferContext
from lepton_ir.opdef import Bool, Float, Int, Ints, Str, op
from lepton_ir.ops._support import Array, broadcast_shapes, evaluate, widen
from lepton_ir.ops.linalg import matmul_shape
from lepton_ir.ops.quant import (
    dequantize_linear,
    dynamic_quantize_linear,
    matmul_integer,
    matrix_parameter,
    quantize_linear,
)
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value


def _zero_dtype(ctx: InferContext, name: str) -> DType | None:
    return ctx.dtype(name) if ctx.has(name) else dtypes.U8


@op(
    "ms_quantize_linear(x, y_scale, y_zero_point?)",
    infer=lambda ctx: TensorType(_zero_dtype(ctx, "y_zero_point"), ctx.shape("x")),
    traits="composite",
    decompose=lambda b, op: [b.quantize_linear(*op.operands, axis=op.attr("axis"))],
)
def ms_quantize_linear(
    x: Array, y_scale: Array, y_zero_point: Array | None = None, *, axis: Int = 1
) -> Array:
    """``quantize_linear``, also to 16 bits in old opsets (com.microsoft QuantizeLinear-1)."""
    return np.asarray(quantize_linear(x, y_scale, y_zero_point, axis=axis))


@op(
    "ms_dequantize_linear(x, x_scale, x_zero_point?)",
    infer=lambda ctx: TensorType(ctx.dtype("x_scale"), ctx.shape("x")),
    traits="composite",
    decompose=lambda b, op: [b.dequantize_linear(*op.operands, axis=op.attr("axis"))],
)
def ms_dequantize_linear(
    x: Array, x_scale: Array, x_zero_point: Array | None = None, *, axis: Int = 1
) -> Array:
    """``dequantize_linear``, also of 16 bits in old opsets (com.microsoft DequantizeLinear-1)."""
    return np.asarray(dequantize_linear(x, x_scale, x_zero_point, axis=axis))


def _quantize(y: Array, scale: Array, zero: Array | None, like: Array) -> Array:
    point = np.zeros((), like.dtype) if zero is None else zero
    return np.asarray(quantize_linear(y, scale, point))


def _result_dtype(ctx: InferContext, zero: str, like: str) -> DType | None:
    return ctx.dtype(zero) or ctx.dtype(like)


def _build_quantize(b: Builder, y: Value, scale: Any, zero: Any, like: Value) -> Value:
    if zero is None and like.dtype is None:
        raise ValueError("the element type of the result is unknown")
    dtype = like.dtype if zero is None else None
    result: Value = b.quantize_linear(y, scale, zero, output_dtype=dtype)
    return result


def _infer_binary(ctx: InferContext) -> TensorType:
    shape = broadcast_shapes(ctx.shape("a"), ctx.shape("b"))
    return TensorType(_result_dtype(ctx, "c_zero_point", "a"), shape)


def _binary(name: str, function: Callable[[Array, Array], Array]) -> None:
    """Define ``ms_qlinear_<name>``: an elementwise operation on two quantized operands."""

    def meaning(*operands: Array | None) -> Array:
        a, a_scale, a_zero, b, b_scale, b_zero, c_scale, *rest = operands
        assert a is not None
        assert c_scale is not None
        left, right = dequantize_linear(a, a_scale, a_zero), dequantize_linear(b, b_scale, b_zero)
        return _quantize(function(left, right), c_scale, rest[0] if rest else None, a)

    def decompose(b: Builder, op: Op) -> list[Value]:
        x, x_scale, x_zero, y, y_scale, y_zero, c_scale, *rest = op.operands
        assert x is not None
        left = b.dequantize_linear(x, x_scale, x_zero)
        right = b.dequantize_linear(y, y_scale, y_zero)
        value = b.build(name, left, right).result
        return [_build_quantize(b, value, c_scale, rest[0] if rest else None, x)]

    op(
        f"ms_qlinear_{name}(a, a_scale, a_zero_point?, b, b_scale, b_zero_point?, c_scale, "
        "c_zero_point?)",
        _infer_binary,
        meaning,
        traits="composite",
        decompose=decompose,
        doc=f"Quantized ``{name}`` (com.microsoft QLinear{name.capitalize()}-1).",
    )


_binary("add", np.add)
_binary("mul", np.multiply)


def _infer_unary(ctx: InferContext) -> TensorType:
    return TensorType(_result_dtype(ctx, "y_zero_point", "x"), ctx.shape("x"))


def _around(build: Callable[[Builder, Op, Value], Value]) -> Callable[[Builder, Op], list[Value]]:
    """Return a decomposition: dequantize operands 0 to 2, ``build``, quantize by 3 and 4."""

    def decompose(b: Builder, op: Op) -> list[Value]:
        x, x_scale, x_zero, y_scale, *rest = op.operands
        assert x is not None
        value = build(b, op, b.dequantize_linear(x, x_scale, x_zero))
        return [_build_quantize(b, value, y_scale, rest[0] if rest else None, x)]

    return decompose


def _build_sigmoid(b: Builder, op: Op, x: Value) -> Value:
    return b.build("sigmoid", x).result


@op(
    "ms_qlinear_sigmoid(x, x_scale, x_zero_point?, y_scale, y_zero_point?)",
    infer=_infer_unary,
    traits="composite",
    decompose=_around(_build_sigmoid),
)
def ms_qlinear_sigmoid(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array | None = None,
) -> Array:
    """Quantized ``sigmoid`` (com.microsoft QLinearSigmoid-1)."""
    y = evaluate("sigmoid", dequantize_linear(x, x_scale, x_zero_point))
    return _quantize(y, y_scale, y_zero_point, x)


def _build_leaky_relu(b: Builder, op: Op, x: Value) -> Value:
    return b.build("leaky_relu", x, alpha=op.attr("alpha")).result


@op(
    "ms_qlinear_leaky_relu(x, x_scale, x_zero_point?, y_scale, y_zero_point?)",
    infer=_infer_unary,
    traits="composite",
    decompose=_around(_build_leaky_relu),
)
def ms_qlinear_leaky_relu(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array | None = None,
    *,
    alpha: Float = 0.009999999776482582,
) -> Array:
    """Quantized ``leaky_relu`` (com.microsoft QLinearLeakyRelu-1)."""
    y = dequantize_linear(x, x_scale, x_zero_point)
    return _quantize(np.where(y < 0, y * np.float32(alpha), y), y_scale, y_zero_point, x)


def _build_softmax(b: Builder, op: Op, x: Value) -> Value:
    coerce = op.attr("opset") < 13
    return b.build("softmax", x, axis=op.attr("axis"), coerce_2d=coerce).result


@op(
    "ms_qlinear_softmax(x, x_scale, x_zero_point?, y_scale, y_zero_point)",
    infer=_infer_unary,
    traits="composite",
    decompose=_around(_build_softmax),
)
def ms_qlinear_softmax(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array,
    *,
    axis: Int = -1,
    opset: Int,
) -> Array:
    """Quantized ``softmax`` of that ONNX opset (com.microsoft QLinearSoftmax-1).

    Before opset 13 all axes from ``axis`` on are normalized together.
    """
    y = dequantize_linear(x, x_scale, x_zero_point)
    found = evaluate("softmax", y, axis=axis, coerce_2d=opset < 13)
    return _quantize(np.asarray(found), y_scale, y_zero_point, x)


def _infer_concat(ctx: InferContext) -> TensorType:
    dtype = ctx.dtype("y_zero_point")
    parts = ctx.op.variadic("xs")[::3]
    if len(ctx.op.variadic("xs")) % 3 or not parts:
        ctx.fail("C1", f"{len(ctx.op.variadic('xs'))} operands, not triples")
    shapes = [None if v is None else v.shape for v in parts]
    rank = next((len(s) for s in shapes if s is not None), None)
    if rank is None:
        return TensorType(dtype, None)
    if any(s is not None and len(s) != rank for s in shapes):
        ctx.fail("C2", "the operands differ in rank")
    axis = ctx.attrs["axis"]
    if not -rank <= axis < rank:
        ctx.fail("C2", f"axis is {axis}, rank is {rank}")
    axis %= rank
    result: list[Any] = []
    for i in range(rank):
        column = [None if s is None else s[i] for s in shapes]
        if i == axis:
            whole: Any = 0
            for d in column:
                whole = None if whole is None or d is None else dims.add(whole, d)
            result.append(whole)
        else:
            result.append(next((d for d in column if d is not None), None))
    return TensorType(dtype, result)


def _decompose_concat(b: Builder, op: Op) -> list[Value]:
    xs = op.operands[2:]
    parts = [b.dequantize_linear(*xs[i : i + 3]) for i in range(0, len(xs), 3)]
    y = b.concat(*parts, axis=op.attr("axis"))
    return [b.quantize_linear(y, op.operands[0], op.operands[1])]


@op(
    "ms_qlinear_concat(y_scale, y_zero_point, xs*)",
    infer=_infer_concat,
    traits="composite",
    decompose=_decompose_concat,
)
def ms_qlinear_concat(y_scale: Array, y_zero_point: Array, *xs: Array, axis: Int) -> Array:
    """Concatenate tensors given as triples of data, scale, zero point.

    com.microsoft QLinearConcat-1.

    C1  the operands after y_zero_point are triples
    C2  all tensors have one rank, and -rank <= axis < rank
    """
    parts = [dequantize_linear(*xs[i : i + 3]) for i in range(0, len(xs), 3)]
    return np.asarray(quantize_linear(np.concatenate(parts, axis), y_scale, y_zero_point))


def _infer_where(ctx: InferContext) -> TensorType:
    shape = broadcast_shapes(*map(ctx.shape, ("condition", "x", "y")))
    return TensorType(_result_dtype(ctx, "z_zero_point", "x"), shape)


def _decompose_where(b: Builder, op: Op) -> list[Value]:
    condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero = op.operands
    left = b.dequantize_linear(x, x_scale, x_zero)
    right = b.dequantize_linear(y, y_scale, y_zero)
    return [b.quantize_linear(b.where(condition, left, right), z_scale, z_zero)]


@op(
    "ms_qlinear_where(condition, x, x_scale, x_zero_point, y, y_scale, y_zero_point, z_scale, "
    "z_zero_point)",
    infer=_infer_where,
    traits="composite",
    decompose=_decompose_where,
)
def ms_qlinear_where(
    condition: Array,
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    y: Array,
    y_scale: Array,
    y_zero_point: Array,
    z_scale: Array,
    z_zero_point: Array,
) -> Array:
    """Quantized ``where`` (com.microsoft QLinearWhere-1)."""
    left = dequantize_linear(x, x_scale, x_zero_point)
    right = dequantize_linear(y, y_scale, y_zero_point)
    return np.asarray(quantize_linear(np.where(condition, left, right), z_scale, z_zero_point))


def _infer_global_pool(ctx: InferContext) -> TensorType:
    dtype, x = _result_dtype(ctx, "y_zero_point", "x"), ctx.shape("x")
    if x is None:
        return TensorType(dtype, None)
    if len(x) < 3:
        ctx.fail("C1", f"x has rank {len(x)}")
    ones = (1,) * (len(x) - 2)
    if ctx.attrs["channels_last"]:
        return TensorType(dtype, (x[0], *ones, x[-1]))
    return TensorType(dtype, (*x[:2], *ones))


def _build_global_pool(b: Builder, op: Op, x: Value) -> Value:
    if x.rank is None:
        raise ValueError("the rank of x is unknown")
    start = 1 if op.attr("channels_last") else 2
    axes = list(range(start, start + x.rank - 2))
    return b.build("reduce_mean", x, axes, keepdims=True).result


@op(
    "ms_qlinear_global_average_pool(x, x_scale, x_zero_point, y_scale, y_zero_point)",
    infer=_infer_global_pool,
    traits="composite",
    decompose=_around(_build_global_pool),
)
def ms_qlinear_global_average_pool(
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    *,
    channels_last: Bool = False,
) -> Array:
    """Quantized mean over the spatial axes (com.microsoft QLinearGlobalAveragePool-1).

    C1  rank(x) >= 3
    """
    start = 1 if channels_last else 2
    axes = tuple(range(start, start + x.ndim - 2))
    y = dequantize_linear(x, x_scale, x_zero_point).mean(axis=axes, keepdims=True)
    return _quantize(y, y_scale, y_zero_point, x)


_POOL_ATTRS = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")


def _to_first(rank: int) -> list[int]:
    return [0, rank - 1, *range(1, rank - 1)]


def _to_last(rank: int) -> list[int]:
    return [0, *range(2, rank), 1]


def _infer_pool(ctx: InferContext) -> TensorType:
    """Infer as the float ``average_pool``, which has the same names of operands and attributes."""
    dtype = _result_dtype(ctx, "y_zero_point", "x")
    if ctx.attrs["channels_last"]:
        rank = ctx.rank("x")
        return TensorType(dtype, None if rank is None else (None,) * rank)
    pool = opdef.lookup("average_pool")
    assert pool is not None
    inner = InferContext(ctx.op)
    inner.attrs = {k: spec.default for k, spec in pool.attrs.items()}
    inner.attrs.update({k: ctx.attrs[k] for k in _POOL_ATTRS})
    found = pool.infer(inner)
    found = found if isinstance(found, TensorType) else found[0]
    return TensorType(dtype, found.shape)


def _check_pool(ceil_mode: bool, count_include_pad: bool) -> None:
    if ceil_mode and count_include_pad:
        raise ValueError(
            "ms_qlinear_average_pool: runtimes divide differently where ceil_mode lets a window "
            "leave the counted padding"
        )


def _build_pool(b: Builder, op: Op, x: Value) -> Value:
    _check_pool(op.attr("ceil_mode"), op.attr("count_include_pad"))
    attrs = {k: op.attrs[k] for k in _POOL_ATTRS if k in op.attrs}
    if not op.attr("channels_last"):
        return b.build("average_pool", x, **attrs).result
    if x.rank is None:
        raise ValueError("the rank of x is unknown")
    y = b.build("average_pool", b.transpose(x, perm=_to_first(x.rank)), **attrs).result
    return b.build("transpose", y, perm=_to_last(x.rank)).result


@op(
    "ms_qlinear_average_pool(x, x_scale, x_zero_point?, y_scale, y_zero_point?)",
    infer=_infer_pool,
    traits="composite",
    decompose=_around(_build_pool),
)
def ms_qlinear_average_pool(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None,
    y_scale: Array,
    y_zero_point: Array | None = None,
    *,
    auto_pad: Str = "NOTSET",
    ceil_mode: Bool = False,
    channels_last: Bool = False,
    count_include_pad: Bool = False,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Quantized ``average_pool`` (com.microsoft QLinearAveragePool-1).

    No meaning with both ``ceil_mode`` and ``count_include_pad``.
    """
    _check_pool(ceil_mode, count_include_pad)
    y = dequantize_linear(x, x_scale, x_zero_point)
    if channels_last:
        y = y.transpose(_to_first(y.ndim))
    y = evaluate(
        "average_pool",
        y,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    if channels_last:
        y = y.transpose(_to_last(y.ndim))
    return _quantize(np.asarray(y), y_scale, y_zero_point, x)


def _infer_matmul_float(ctx: InferContext) -> TensorType:
    dtype = ctx.dtype("b_scale")
    return TensorType(dtype, matmul_shape(ctx, ctx.shape("a"), ctx.shape("b")))


def _scaled_product(y: Array, left: Array, right: Array, bias: Array | None) -> Array:
    """Return the i32 product in f32, scaled per tensor or per row and column, plus a bias."""
    rows = matrix_parameter(left, y.ndim, column=False)
    columns = matrix_parameter(right, y.ndim, column=True)
    found = y.astype(np.float32) * (widen(rows) * widen(columns))
    return np.asarray(found if bias is None else found + widen(bias))


def _build_scaled_product(b: Builder, y: Value, scales: list[Any], bias: Any) -> Value:
    if any(s.shape is None or len(s.shape) > 1 for s in scales) or scales[0].shape not in (
        (),
        (1,),
    ):
        raise ValueError("the scales are not known to be one number and one per column")
    left, right = (b.cast(s, to=dtypes.F32) for s in scales)
    value = b.mul(b.cast(y, to=dtypes.F32), b.mul(left, right))
    result: Value = value if bias is None else b.add(value, b.cast(bias, to=dtypes.F32))
    return result


def _operand_list(op: Op, count: int) -> list[Any]:
    return [*op.operands, *(None,) * (count - len(op.operands))]


def _decompose_to_float(b: Builder, op: Op) -> list[Value]:
    x, y, x_scale, y_scale, x_zero, y_zero, bias = _operand_list(op, 7)
    if op.result.dtype is None:
        raise ValueError("the element type of the result is unknown")
    product = b.matmul_integer(x, y, x_zero, y_zero)
    value = _build_scaled_product(b, product, [x_scale, y_scale], bias)
    return [b.cast(value, to=op.result.dtype)]


@op(
    "ms_matmul_integer_to_float(a, b, a_scale, b_scale, a_zero_point?, b_zero_point?, bias?)",
    infer=_infer_matmul_float,
    traits="composite",
    decompose=_decompose_to_float,
)
def ms_matmul_integer_to_float(
    a: Array,
    b: Array,
    a_scale: Array,
    b_scale: Array,
    a_zero_point: Array | None = None,
    b_zero_point: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """``matmul_integer`` scaled to float, plus a bias (com.microsoft MatMulIntegerToFloat-1).

    C1  rank(a) >= 1 and rank(b) >= 1
    C2  a.shape[-1] == b.shape[-2]
    """
    y = matmul_integer(a, b, a_zero_point, b_zero_point)
    return _scaled_product(y, a_scale, b_scale, bias).astype(b_scale.dtype, copy=False)


def _decompose_dynamic_matmul(b: Builder, op: Op) -> list[Value]:
    x, y, y_scale, y_zero, bias = _operand_list(op, 5)
    codes, scale, zero = b.dynamic_quantize_linear(x, results=3)
    product = b.matmul_integer(codes, y, zero, y_zero)
    return [_build_scaled_product(b, product, [scale, y_scale], bias)]


@op(
    "ms_dynamic_quantize_matmul(a, b, b_scale, b_zero_point?, bias?)",
    infer=_infer_matmul_float,
    traits="composite",
    decompose=_decompose_dynamic_matmul,
)
def ms_dynamic_quantize_matmul(
    a: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """Quantize f32 ``a`` by its range, multiply, scale back.

    com.microsoft DynamicQuantizeMatMul-1.

    C1  rank(a) >= 1 and rank(b) >= 1
    C2  a.shape[-1] == b.shape[-2]
    """
    codes, scale, zero = dynamic_quantize_linear(a)
    return _scaled_product(matmul_integer(codes, b, zero, b_zero_point), scale, b_scale, bias)


def _infer_nbits(ctx: InferContext) -> TensorType:
    a, rows, columns = ctx.shape("a"), ctx.attrs["K"], ctx.attrs["N"]
    if ctx.attrs["bits"] not in (2, 4, 8):
        ctx.fail("C1", f"bits is {ctx.attrs['bits']}")
    if a is None:
        return TensorType(ctx.dtype("a"), None)
    if a and isinstance(a[-1], int) and a[-1] != rows:
        ctx.fail("C2", f"a has {a[-1]} columns, K is {rows}")
    return TensorType(ctx.dtype("a"), (*a[:-1], columns))


def _unpacked(packed: Array, bits: int, count: int) -> Array:
    """Return ``count`` codes along the last axis of bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed.astype(np.uint8)[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]


@op("ms_matmul_nbits(a, b, scales, zero_points?, g_idx?, bias?)", infer=_infer_nbits)
def ms_matmul_nbits(
    a: Array,
    b: Array,
    scales: Array,
    zero_points: Array | None = None,
    g_idx: Array | None = None,
    bias: Array | None = None,
    *,
    K: Int,
    N: Int,
    accuracy_level: Int = 0,
    bits: Int = 4,
    block_size: Int,
    weight_prepacked: Int = 0,
) -> Array:
    """Product with a (N, blocks, bytes) weight of packed codes (com.microsoft MatMulNBits-1).

    ``accuracy_level`` allows a runtime less precise arithmetic; the meaning ignores it.

    C1  bits in 2, 4, 8
    C2  a.shape[-1] == K
    """
    if weight_prepacked:
        raise ValueError("ms_matmul_nbits: a prepacked weight has no portable meaning")
    if g_idx is not None and g_idx.size:
        raise ValueError("ms_matmul_nbits: no meaning with g_idx")
    blocks = -(-K // block_size)
    codes = _unpacked(b.reshape(N, blocks, -1), bits, block_size).astype(np.float32)
    if zero_points is None:
        zero: Array = np.full((N, blocks), float(1 << (bits - 1)), np.float32)
    elif zero_points.dtype == np.uint8:
        zero = _unpacked(zero_points.reshape(N, -1), bits, blocks).astype(np.float32)
    else:
        zero = widen(zero_points).reshape(N, blocks)
    scale = widen(scales).reshape(N, blocks)
    weight = ((codes - zero[..., None]) * scale[..., None]).reshape(N, -1)[:, :K]
    y = np.matmul(widen(a), weight.T)
    return np.asarray(y if bias is None else y + widen(bias)).astype(a.dtype, copy=False)
