"""Float operations of the ``com.microsoft`` domain; each is a fusion of standard ones.

The other fused attention and embedding operations are not here: their cases are too little
specified to state a meaning, so they stay opaque.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.opdef import Bool, Float, Floats, Int, Ints, Str, op
from lepton_ir.ops import contrib_attention as contrib_attention
from lepton_ir.ops import contrib_groups as contrib_groups
from lepton_ir.ops import contrib_qgemm as contrib_qgemm
from lepton_ir.ops import contrib_quant as contrib_quant
from lepton_ir.ops import contrib_rnn as contrib_rnn
from lepton_ir.ops._support import (
    Array,
    Shape,
    broadcast_shapes,
    evaluate,
    first_dtype,
    widen,
)
from lepton_ir.ops.linalg import gemm, matmul_shape
from lepton_ir.ops.quant import conv_shape
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value

_ACTIVATIONS = {
    "Relu": ("relu", ()),
    "Tanh": ("tanh", ()),
    "Sigmoid": ("sigmoid", ()),
    "LeakyRelu": ("leaky_relu", ("alpha",)),
    "HardSigmoid": ("hard_sigmoid", ("alpha", "beta")),
}
"""Activation names of fused operations: our operation, and its attributes in order."""


def _activation(name: str, params: tuple[float, ...]) -> tuple[str, dict[str, float]]:
    """Return the operation and attributes of a fused activation other than Clip.

    Raises:
        ValueError: an unknown name or too many parameters.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}")
    target, names = _ACTIVATIONS[name]
    if len(params) > len(names):
        raise ValueError(f"activation {name} takes {len(names)} parameters, got {len(params)}")
    return target, dict(zip(names, params, strict=False))


def _activated(x: Array, name: str | None, params: tuple[float, ...]) -> Array:
    if not name:
        return x
    if name == "Clip":
        low, high = _clip_limits(params)
        return np.clip(x, x.dtype.type(low), x.dtype.type(high))
    target, attrs = _activation(name, params)
    return np.asarray(evaluate(target, x, **attrs))


def _build_activation(b: Builder, x: Value, name: str | None, params: tuple[float, ...]) -> Value:
    if not name:
        return x
    if x.dtype is None:
        raise ValueError("the element type is unknown")
    if name == "Clip":
        low, high = (b.const(np.array(v), x.dtype) for v in _clip_limits(params))
        clipped: Value = b.clip(x, low, high)
        return clipped
    target, attrs = _activation(name, params)
    method: Any = getattr(b, target)
    result: Value = method(x, **attrs)
    return result


def _clip_limits(params: tuple[float, ...]) -> tuple[float, float]:
    if len(params) != 2:
        raise ValueError(f"activation Clip takes 2 parameters, got {len(params)}")
    return params[0], params[1]


def _infer_fused_conv(ctx: InferContext) -> TensorType:
    return TensorType(first_dtype(ctx, "x", "w", "b", "z"), conv_shape(ctx))


def _decompose_fused_conv(b: Builder, op: Op) -> list[Value]:
    attrs = {k: v for k, v in op.attrs.items() if not k.startswith("activation")}
    y = b.conv(op.operand("x"), op.operand("w"), op.operand("b"), **attrs)
    z = op.operand("z")
    if z is not None:
        y = b.add(y, z)
    return [_build_activation(b, y, op.attr("activation"), op.attr("activation_params") or ())]


@op(
    "ms_fused_conv(x, w, b?, z?)",
    infer=_infer_fused_conv,
    traits="composite",
    decompose=_decompose_fused_conv,
)
def ms_fused_conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    z: Array | None = None,
    *,
    activation: Str | None = None,
    activation_params: Floats | None = None,
    auto_pad: Str = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """``activation(conv(x, w, b) + z)`` (com.microsoft FusedConv-1).

    C1  rank(x) == rank(w) >= 3
    C2  x.shape[1] == w.shape[1] * group
    C3  the window attributes fit the spatial axes
    """
    y = evaluate(
        "conv",
        x,
        w,
        b,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return _activated(y if z is None else y + z, activation, activation_params or ())


def _infer_like_x(ctx: InferContext) -> TensorType:
    return TensorType(ctx.dtype("x"), ctx.shape("x"))


def _infer_broadcast(ctx: InferContext) -> TensorType:
    return TensorType(first_dtype(ctx, "x", "b"), broadcast_shapes(ctx.shape("x"), ctx.shape("b")))


def _decompose_bias_gelu(b: Builder, op: Op) -> list[Value]:
    return [b.gelu(b.add(op.operands[0], op.operands[1]))]


@op(
    "ms_bias_gelu(x, b)",
    infer=_infer_broadcast,
    traits="composite",
    decompose=_decompose_bias_gelu,
)
def ms_bias_gelu(x: Array, b: Array) -> Array:
    """``gelu(x + b)`` with the error function (com.microsoft BiasGelu-1)."""
    return np.asarray(evaluate("gelu", widen(x) + widen(b))).astype(x.dtype, copy=False)


def _decompose_fast_gelu(b: Builder, op: Op) -> list[Value]:
    x, bias = op.operand("x"), op.operand("bias")
    return [b.gelu(x if bias is None else b.add(x, bias), approximate="tanh")]


@op(
    "ms_fast_gelu(x, bias?)",
    infer=_infer_like_x,
    traits="composite",
    decompose=_decompose_fast_gelu,
)
def ms_fast_gelu(x: Array, bias: Array | None = None) -> Array:
    """``gelu(x + bias)`` in its tanh approximation (com.microsoft FastGelu-1)."""
    y = widen(x) if bias is None else widen(x) + widen(bias)
    return np.asarray(evaluate("gelu", y, approximate="tanh")).astype(x.dtype, copy=False)


def _decompose_quick_gelu(b: Builder, op: Op) -> list[Value]:
    x = op.operands[0]
    assert x is not None
    if x.dtype is None:
        raise ValueError("the element type is unknown")
    return [b.mul(x, b.sigmoid(b.mul(x, op.attr("alpha"))))]


@op(
    "ms_quick_gelu(x)",
    infer=_infer_like_x,
    traits="composite elementwise",
    decompose=_decompose_quick_gelu,
)
def ms_quick_gelu(x: Array, *, alpha: Float = 1.702) -> Array:
    """``x * sigmoid(alpha * x)`` (com.microsoft QuickGelu-1)."""
    y = widen(x)
    gate = np.asarray(evaluate("sigmoid", y * y.dtype.type(alpha)))
    return np.asarray(y * gate).astype(x.dtype, copy=False)


def _infer_skip_norm(ctx: InferContext) -> list[TensorType]:
    x, gamma = ctx.shape("x"), ctx.shape("gamma")
    if x is not None and gamma is not None:
        if len(gamma) != 1:
            ctx.fail("C1", f"gamma has rank {len(gamma)}")
        if x[-1] is not None and gamma[0] is not None and dims.prove_eq(x[-1], gamma[0]) is False:
            ctx.fail("C1", f"gamma has {gamma[0]} elements, x has {x[-1]} channels")
    dtype = first_dtype(ctx, "x", "skip", "gamma")
    moment = TensorType(dtypes.F32, None if x is None else (*x[:-1], 1))
    whole = TensorType(dtype, x)
    return [whole, moment, moment, whole]


def _skip_sum(x: Array, skip: Array, bias: Array | None) -> Array:
    total = widen(x) + widen(skip)
    return total if bias is None else total + widen(bias)


def _build_skip_sum(b: Builder, op: Op) -> Any:
    if len(op.results) > 1 and any(r.first_use is not None for r in op.results[1:3]):
        raise ValueError("mean and inv_std_var are used")
    x, skip, bias = op.operand("x"), op.operand("skip"), op.operand("bias")
    if x is None or skip is None or x.rank is None or skip.rank is None or skip.rank > x.rank:
        raise ValueError("the ranks of x and skip are not known")
    total = b.add(x, skip)
    return total if bias is None else b.add(total, bias)


def _results_of_skip(op: Op, y: Value, total: Value) -> list[Value | None]:
    """Return one value per result, none for the moments, which nothing reads."""
    return [y, None, None, total][: len(op.results)]


def _decompose_skip_norm(b: Builder, op: Op) -> list[Value | None]:
    total = _build_skip_sum(b, op)
    gamma, beta = op.operand("gamma"), op.operand("beta")
    y = b.layer_normalization(total, gamma, beta, axis=-1, epsilon=op.attr("epsilon"))
    return _results_of_skip(op, y, total)


@op(
    "ms_skip_layer_normalization(x, skip, gamma, beta?, bias?) "
    "-> y, mean?, inv_std_var?, input_skip_bias_sum?",
    infer=_infer_skip_norm,
    traits="composite",
    decompose=_decompose_skip_norm,
)
def ms_skip_layer_normalization(
    x: Array,
    skip: Array,
    gamma: Array,
    beta: Array | None = None,
    bias: Array | None = None,
    *,
    epsilon: Float = 9.999999960041972e-13,
) -> tuple[Array, ...]:
    """Layer normalization of ``x + skip + bias`` over the last axis.

    com.microsoft SkipLayerNormalization-1; the last result is the sum.

    C1  gamma is a vector of x.shape[-1] elements
    """
    total = _skip_sum(x, skip, bias)
    mean = total.mean(axis=-1, keepdims=True)
    centered = total - mean
    variance = np.square(centered).mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt(variance + total.dtype.type(epsilon))
    y = centered * scale * widen(gamma)
    if beta is not None:
        y = y + widen(beta)
    moments = mean.astype(np.float32), scale.astype(np.float32)
    return y.astype(x.dtype), *moments, total.astype(x.dtype)


def _decompose_skip_rms(b: Builder, op: Op) -> list[Value | None]:
    total = _build_skip_sum(b, op)
    gamma = op.operand("gamma")
    y = b.rms_normalization(total, gamma, axis=-1, epsilon=op.attr("epsilon"))
    return _results_of_skip(op, y, total)


def _root_mean_square(x: Array, epsilon: float, axes: tuple[int, ...]) -> tuple[Array, Array]:
    square = np.square(x).mean(axis=axes, keepdims=True)
    scale = 1 / np.sqrt(square + x.dtype.type(epsilon))
    return x * scale, scale


@op(
    "ms_skip_simplified_layer_normalization(x, skip, gamma, bias?) "
    "-> y, mean?, inv_std_var?, input_skip_bias_sum?",
    infer=_infer_skip_norm,
    traits="composite",
    decompose=_decompose_skip_rms,
)
def ms_skip_simplified_layer_normalization(
    x: Array,
    skip: Array,
    gamma: Array,
    bias: Array | None = None,
    *,
    epsilon: Float = 9.999999960041972e-13,
) -> tuple[Array, ...]:
    """Root mean square normalization of ``x + skip + bias`` over the last axis.

    com.microsoft SkipSimplifiedLayerNormalization-1; the last result is the sum.

    C1  gamma is a vector of x.shape[-1] elements
    """
    total = _skip_sum(x, skip, bias)
    y, scale = _root_mean_square(total, epsilon, (-1,))
    mean = np.zeros(scale.shape, np.float32)
    y = y * widen(gamma)
    return y.astype(x.dtype), mean, scale.astype(np.float32), total.astype(x.dtype)


def _infer_simplified(ctx: InferContext) -> list[TensorType]:
    x, axis = ctx.shape("x"), ctx.attrs["axis"]
    whole = TensorType(ctx.dtype("scale") or ctx.dtype("x"), x)
    if x is None:
        return [whole, TensorType(dtypes.F32, None)]
    if not -len(x) <= axis < len(x):
        ctx.fail("C1", f"axis is {axis}, rank is {len(x)}")
    axis %= len(x)
    return [whole, TensorType(dtypes.F32, (*x[:axis], *(1,) * (len(x) - axis)))]


def _decompose_simplified(b: Builder, op: Op) -> list[Value]:
    if len(op.results) > 1:
        raise ValueError("inv_std_var is wanted")
    x, scale = op.operand("x"), op.operand("scale")
    return [b.rms_normalization(x, scale, axis=op.attr("axis"), epsilon=op.attr("epsilon"))]


@op(
    "ms_simplified_layer_normalization(x, scale) -> y, inv_std_var?",
    infer=_infer_simplified,
    traits="composite",
    decompose=_decompose_simplified,
)
def ms_simplified_layer_normalization(
    x: Array,
    scale: Array,
    *,
    axis: Int = -1,
    epsilon: Float = 9.999999747378752e-06,
    stash_type: Int = 1,
) -> tuple[Array, Array]:
    """Root mean square normalization (onnxruntime's SimplifiedLayerNormalization-1).

    C1  -rank(x) <= axis < rank(x)
    """
    if stash_type != 1:
        raise ValueError("ms_simplified_layer_normalization: stash_type should be 1 (f32)")
    axes = tuple(range(axis % x.ndim, x.ndim))
    y, deviation = _root_mean_square(widen(x), epsilon, axes)
    return np.asarray(y * widen(scale)).astype(scale.dtype), deviation.astype(np.float32)


def _fused_perm(rank: int, swap: bool, batch: bool) -> list[int] | None:
    """Return the permutation FusedMatMul applies to one operand, ``None`` when it applies none.

    ``batch`` says that the operand is stored with its first matrix dim in front of the batch dims.
    """
    if rank < 2:
        return None
    perm = list(range(rank))
    if batch and rank > 2:
        perm = [*perm[1:-1], 0, perm[-1]]
    if swap:
        perm[-2:] = perm[-2:][::-1]
    return None if perm == list(range(rank)) else perm


def _permuted(shape: Shape | None, swap: bool, batch: bool) -> Shape | None:
    perm = None if shape is None else _fused_perm(len(shape), swap, batch)
    return shape if shape is None or perm is None else tuple(shape[p] for p in perm)


def _infer_fused_matmul(ctx: InferContext) -> TensorType:
    get = ctx.attrs
    a = _permuted(ctx.shape("a"), get["transA"], get["transBatchA"])
    b = _permuted(ctx.shape("b"), get["transB"], get["transBatchB"])
    return TensorType(first_dtype(ctx, "a", "b"), matmul_shape(ctx, a, b))


def _decompose_fused_matmul(b: Builder, op: Op) -> list[Value]:
    sides = []
    for value, swap, batch in (
        (op.operands[0], op.attr("transA"), op.attr("transBatchA")),
        (op.operands[1], op.attr("transB"), op.attr("transBatchB")),
    ):
        assert value is not None
        if value.rank is None and (swap or batch):
            raise ValueError("the rank of a transposed operand is unknown")
        perm = _fused_perm(value.rank or 0, swap, batch)
        sides.append(value if perm is None else b.transpose(value, perm=perm))
    y = b.matmul(*sides)
    if op.attr("alpha") == 1.0:
        return [y]
    if y.dtype is None:
        raise ValueError("the element type is unknown")
    return [b.mul(y, op.attr("alpha"))]


@op(
    "ms_fused_matmul(a, b)",
    infer=_infer_fused_matmul,
    traits="composite",
    decompose=_decompose_fused_matmul,
)
def ms_fused_matmul(
    a: Array,
    b: Array,
    *,
    alpha: Float = 1.0,
    transA: Bool = False,
    transB: Bool = False,
    transBatchA: Bool = False,
    transBatchB: Bool = False,
) -> Array:
    """``alpha * A' @ B'`` (com.microsoft FusedMatMul-1); a vector is not transposed.

    C1  rank(a) >= 1 and rank(b) >= 1
    C2  columns of A' == rows of B'
    """
    sides = []
    for side, swap, batch in ((a, transA, transBatchA), (b, transB, transBatchB)):
        perm = _fused_perm(side.ndim, swap, batch)
        sides.append(widen(side if perm is None else side.transpose(perm)))
    y = np.matmul(*sides)
    return np.asarray(y * y.dtype.type(alpha)).astype(a.dtype, copy=False)


def _infer_fused_gemm(ctx: InferContext) -> TensorType:
    found: TensorType = gemm.infer(ctx)
    return found


def _gemm_params(activation: str | None, *params: float | None) -> tuple[float, ...]:
    """Return the parameters an activation takes out of alpha, beta, gamma."""
    count = 2 if activation == "Clip" else len(_ACTIVATIONS.get(activation or "", ("", ()))[1])
    given = params[:count]
    while given and given[-1] is None:
        given = given[:-1]
    if any(p is None for p in given):
        raise ValueError("a parameter of the activation is missing")
    return tuple(p for p in given if p is not None)


def _decompose_fused_gemm(b: Builder, op: Op) -> list[Value]:
    attrs = {k: v for k, v in op.attrs.items() if not k.startswith("activation")}
    y = b.gemm(*op.operands, **attrs)
    activation = op.attr("activation")
    params = _gemm_params(activation, op.attr("activation_alpha"), op.attr("activation_beta"))
    return [_build_activation(b, y, activation, params)]


@op(
    "ms_fused_gemm(a, b, c?)",
    infer=_infer_fused_gemm,
    traits="composite",
    decompose=_decompose_fused_gemm,
)
def ms_fused_gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    activation: Str | None = None,
    activation_alpha: Float | None = None,
    activation_beta: Float | None = None,
    activation_gamma: Float | None = None,
    alpha: Float = 1.0,
    beta: Float = 1.0,
    transA: Bool = False,
    transB: Bool = False,
) -> Array:
    """``activation(gemm(a, b, c))`` (com.microsoft FusedGemm-1).

    C1  rank(a) == rank(b) == 2
    C2  columns of A' == rows of B'
    C3  c broadcasts to the product's shape
    """
    y = gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    params = _gemm_params(activation, activation_alpha, activation_beta, activation_gamma)
    return _activated(y, activation, params)


def _infer_rotary(ctx: InferContext) -> TensorType:
    x, ids = ctx.shape("x"), ctx.shape("position_ids")
    if x is not None and len(x) not in (3, 4):
        ctx.fail("C1", f"x has rank {len(x)}")
    if ids is not None and len(ids) not in (1, 2):
        ctx.fail("C2", f"position_ids has rank {len(ids)}")
    return TensorType(ctx.dtype("x"), x)


def _rotary_positions(ids: Array, batch: int, length: int) -> Array:
    """Return positions (batch, length): given, or counted from the one offset given."""
    if ids.size == 1 and ids.ndim == 1:
        return np.broadcast_to(int(ids[0]) + np.arange(length), (batch, length))
    if ids.shape != (batch, length):
        raise ValueError(f"position_ids has shape {ids.shape}, expected {(batch, length)}")
    return ids


@op("ms_rotary_embedding(x, position_ids, cos_cache, sin_cache)", infer=_infer_rotary)
def ms_rotary_embedding(
    x: Array,
    position_ids: Array,
    cos_cache: Array,
    sin_cache: Array,
    *,
    interleaved: Bool = False,
    is_packed_batching: Bool = False,
    num_heads: Int = 0,
    rotary_embedding_dim: Int = 0,
    scale: Float = 1.0,
) -> Array:
    """Rotate pairs of channels by cached angles (com.microsoft RotaryEmbedding-1).

    ``x`` is (batch, length, heads * size) or (batch, heads, length, size).

    C1  rank(x) in 3, 4
    C2  rank(position_ids) in 1, 2
    """
    if is_packed_batching or scale != 1.0:
        raise ValueError("ms_rotary_embedding: no meaning for packed batches or a scale")
    if x.ndim == 3:
        half = cos_cache.shape[1]
        size = x.shape[2] // num_heads if num_heads else 2 * half
        heads = x.reshape(*x.shape[:2], x.shape[2] // size, size)
    else:
        heads = x.transpose(0, 2, 1, 3)
        size = x.shape[3]
    turned = rotary_embedding_dim or size
    if turned != 2 * cos_cache.shape[1]:
        raise ValueError(f"{turned} channels turn but the cache is for {2 * cos_cache.shape[1]}")
    at = _rotary_positions(position_ids, heads.shape[0], heads.shape[1])
    cos, sin = (widen(cache)[at][:, :, None] for cache in (cos_cache, sin_cache))
    wide = widen(heads)
    half = turned // 2
    first = np.s_[..., 0:turned:2] if interleaved else np.s_[..., :half]
    second = np.s_[..., 1:turned:2] if interleaved else np.s_[..., half:turned]
    y = wide.copy()
    y[first] = wide[first] * cos - wide[second] * sin
    y[second] = wide[first] * sin + wide[second] * cos
    if x.ndim == 4:
        y = y.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(y.reshape(x.shape)).astype(x.dtype, copy=False)
