"""Normalizations: batch, instance, group, layer, RMS, local response, Lp, mean and variance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dims
from lepton_ir.dtypes import F32
from lepton_ir.opdef import Bool, DTypeAttr, Float, Int, Ints, op
from lepton_ir.ops._nn import (
    EPSILON,
    Array,
    cast_to,
    common_dtype,
    computed_in,
    first_known,
    known_axis,
    narrow,
    operand,
    plain_type,
    require_axis,
    require_dtype,
    require_rank,
    require_vector,
)
from lepton_ir.ops._numeric import widen
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value
    from lepton_ir.types import Type


def standardize(b: Builder, x: Value, axes: list[int], epsilon: float) -> tuple[Value, ...]:
    """Return ``(x - mean) * inv_std``, mean and inv_std over ``axes``."""
    mean = b.reduce_mean(x, axes, keepdims=True)
    centered = b.sub(x, mean)
    variance = b.reduce_mean(b.mul(centered, centered), axes, keepdims=True)
    inverse = b.reciprocal(b.sqrt(b.add(variance, epsilon)))
    return b.mul(centered, inverse), mean, inverse


def _along_channels(b: Builder, value: Value, rank: int) -> Value:
    """Reshape a vector so that it broadcasts along axis 1 of a tensor of ``rank``."""
    shaped: Value = b.reshape(value, [-1] + [1] * (rank - 2)) if rank > 2 else value
    return shaped


def _mean(x: Array, axes: Sequence[int]) -> Array:
    """Mean over ``axes``, kept as 1; over no elements NaN, without a warning."""
    count = math.prod(x.shape[a] for a in axes)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Array = x.sum(axis=tuple(axes), keepdims=True) / x.dtype.type(count)
    return mean


def _channel_column(value: Array, rank: int) -> Array:
    column: Array = value.reshape((-1,) + (1,) * (rank - 2)) if rank > 1 else value
    return column


# -- batch, instance, group ------------------------------------------------------------------------


def _infer_batch_norm(ctx: InferContext) -> list[Type]:
    shape = ctx.shape("x")
    channels = None
    if shape is not None:
        if not shape:
            ctx.fail("C1", "x is a scalar")
        channels = shape[1] if len(shape) > 1 else 1
    for name in ("scale", "b", "input_mean", "input_var"):
        channels = require_vector(ctx, "C2", name, channels)
    if shape is not None and len(shape) > 1:
        shape = (shape[0], first_known(shape[1], channels), *shape[2:])
    statistics = TensorType(common_dtype(ctx, "input_mean", "input_var"), (channels,))
    return [TensorType(ctx.dtype("x"), shape), statistics, statistics]


def _decompose_batch_norm(b: Builder, op: Op) -> list[Value]:
    attrs = op.all_attrs()
    if attrs["training_mode"]:
        raise ValueError("training mode computes statistics of its input")
    if len(op.results) > 1:
        raise ValueError("inference gives no running statistics")
    x = operand(op, "x")
    rank, dtype = require_rank(x, "x"), computed_in(x, "x")
    scale, bias, mean, variance = (
        _along_channels(b, cast_to(b, operand(op, n), dtype), rank)
        for n in ("scale", "b", "input_mean", "input_var")
    )
    deviation = b.sqrt(b.add(variance, attrs["epsilon"]))
    y = b.div(b.sub(cast_to(b, x, dtype), mean), deviation)
    return [cast_to(b, b.add(b.mul(y, scale), bias), require_dtype(x, "x"))]


@op(
    "batch_normalization(x, scale, b, input_mean, input_var) -> y, running_mean?, running_var?",
    infer=_infer_batch_norm,
    traits="composite",
    decompose=_decompose_batch_norm,
)
def batch_normalization(
    x: Array,
    scale: Array,
    b: Array,
    input_mean: Array,
    input_var: Array,
    *,
    epsilon: Float = EPSILON,
    momentum: Float = 0.8999999761581421,
    training_mode: Bool = False,
) -> Array | tuple[Array, Array, Array]:
    """``(x - mean) / sqrt(var + epsilon) * scale + b`` per channel (ONNX BatchNormalization-15).

    With ``training_mode`` mean and var are those of x over all axes but 1, and the running
    statistics ``input * momentum + current * (1 - momentum)`` are returned too.

    C1  rank(x) >= 1; a vector has one channel
    C2  scale, b, input_mean and input_var are vectors with one element a channel
    """
    channels = x.shape[1] if x.ndim > 1 else 1
    if not x.ndim or {v.shape for v in (scale, b, input_mean, input_var)} != {(channels,)}:
        raise ValueError(f"scale, b, input_mean and input_var should be vectors of {channels}")
    wide = widen(x)
    mean, variance = (widen(v).astype(wide.dtype) for v in (input_mean, input_var))
    if training_mode:
        axes = (0, *range(2, x.ndim))
        current_mean = _mean(wide, axes)
        current_var = _mean(np.square(wide - current_mean), axes).reshape(-1)
        current_mean = current_mean.reshape(-1)
        keep = wide.dtype.type(momentum)
        running = (
            (mean * keep + current_mean * (1 - keep)).reshape(-1).astype(input_mean.dtype),
            (variance * keep + current_var * (1 - keep)).reshape(-1).astype(input_var.dtype),
        )
        mean, variance = current_mean, current_var
    gain, shift, mean, variance = (
        _channel_column(v.astype(wide.dtype), x.ndim)
        for v in (widen(scale), widen(b), mean, variance)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt(variance + wide.dtype.type(epsilon))
        y = ((wide - mean) / deviation * gain + shift).astype(x.dtype)
    return (y, *running) if training_mode else y


def _infer_channel_norm(ctx: InferContext) -> Type:
    shape = ctx.shape("x")
    dtype = common_dtype(ctx, "x", "scale")
    if shape is not None and len(shape) < 2:
        ctx.fail("C1", f"x has rank {len(shape)}")
    length = None if shape is None else shape[1]
    if "num_groups" in ctx.attrs:
        groups = ctx.attrs["num_groups"]
        if groups < 1 or (isinstance(length, int) and length % groups):
            ctx.fail("C3", f"num_groups is {groups} but x has {length} channels")
        if ctx.attrs["per_group"]:
            for name in ("scale", "bias"):
                require_vector(ctx, "C2", name, groups)
            return TensorType(dtype, shape)
    for name in ("scale", "bias" if "num_groups" in ctx.attrs else "b"):
        length = require_vector(ctx, "C2", name, length)
    if shape is not None:
        shape = (shape[0], length, *shape[2:])
    return TensorType(dtype, shape)


def _decompose_instance_norm(b: Builder, op: Op) -> list[Value]:
    x = operand(op, "x")
    rank = require_rank(x, "x")
    if rank < 3:
        raise ValueError("x has no spatial axes")
    dtype = computed_in(x, "x")
    wide = cast_to(b, x, dtype)
    y = standardize(b, wide, list(range(2, rank)), op.all_attrs()["epsilon"])[0]
    scale, bias = (
        _along_channels(b, cast_to(b, operand(op, n), dtype), rank) for n in ("scale", "b")
    )
    return [cast_to(b, b.add(b.mul(y, scale), bias), require_dtype(x, "x"))]


def _normalized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    """``(x - mean) / sqrt(var + epsilon)`` over ``axes``, in the dtype of x."""
    centered = x - _mean(x, axes)
    variance = _mean(np.square(centered), axes)
    y: Array = centered / np.sqrt(variance + x.dtype.type(epsilon))
    return y


@op(
    "instance_normalization(x, scale, b)",
    infer=_infer_channel_norm,
    traits="composite",
    decompose=_decompose_instance_norm,
)
def instance_normalization(x: Array, scale: Array, b: Array, *, epsilon: Float = EPSILON) -> Array:
    """Normalize every channel of every image of x (N, C, spatial...) (InstanceNormalization-22).

    C1  rank(x) >= 2
    C2  scale and b are vectors with one element a channel
    """
    if x.ndim < 3 or not scale.shape == b.shape == x.shape[1:2]:
        raise ValueError(f"x {x.shape}, scale {scale.shape} and b {b.shape} do not fit")
    y = _normalized(widen(x), tuple(range(2, x.ndim)), epsilon)
    gain, shift = (_channel_column(widen(v), x.ndim) for v in (scale, b))
    return narrow(y * gain + shift, x.dtype)


def _decompose_group_norm(b: Builder, op: Op) -> list[Value]:
    attrs = op.all_attrs()
    x = operand(op, "x")
    rank, dtype = require_rank(x, "x"), require_dtype(x, "x")
    stash, groups = attrs["stash_type"], attrs["num_groups"]
    shape = b.shape(x)
    size = b.div(b.reduce_prod(b.slice(shape, [1], [rank], [0]), [0]), b.const([groups]))
    target = b.concat(b.slice(shape, [0], [1], [0]), b.const([groups]), size, axis=0)
    grouped = b.reshape(cast_to(b, x, stash), target, allowzero=True)
    y = cast_to(b, standardize(b, grouped, [2], attrs["epsilon"])[0], dtype)
    operands = (operand(op, "scale"), operand(op, "bias"))
    if attrs["per_group"]:
        scale, bias = (b.reshape(v, [-1, 1]) for v in operands)
        return [b.reshape(b.add(b.mul(y, scale), bias), shape, allowzero=True)]
    scale, bias = (_along_channels(b, v, rank) for v in operands)
    return [b.add(b.mul(b.reshape(y, shape, allowzero=True), scale), bias)]


@op(
    "group_normalization(x, scale, bias)",
    infer=_infer_channel_norm,
    traits="composite",
    decompose=_decompose_group_norm,
)
def group_normalization(
    x: Array,
    scale: Array,
    bias: Array,
    *,
    epsilon: Float = EPSILON,
    num_groups: Int,
    per_group: Bool = False,
    stash_type: DTypeAttr = F32,
) -> Array:
    """Normalize groups of channels of x (N, C, spatial...) (ONNX GroupNormalization-21).

    Scale and bias have one element a channel; with ``per_group`` one a group, which is what
    opset 18 means.

    C1  rank(x) >= 2
    C2  scale and bias are vectors with one element a channel (a group with per_group)
    C3  num_groups divides the channels of x
    """
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"num_groups {num_groups} does not fit x {x.shape}")
    length = num_groups if per_group else x.shape[1]
    if scale.shape != (length,) or bias.shape != (length,):
        raise ValueError(f"scale and bias should be vectors of {length}")
    size = math.prod(x.shape[1:]) // num_groups
    grouped = x.astype(stash_type.numpy).reshape(x.shape[0], num_groups, size)
    y = widen(_normalized(widen(grouped), (2,), epsilon).astype(x.dtype))
    gain, shift = (widen(v) for v in (scale, bias))
    if per_group:
        return narrow((y * gain[:, None] + shift[:, None]).reshape(x.shape), x.dtype)
    gain, shift = (_channel_column(v, x.ndim) for v in (gain, shift))
    return narrow(y.reshape(x.shape) * gain + shift, x.dtype)


# -- over the last axes ----------------------------------------------------------------------------


def _check_broadcast(ctx: InferContext, name: str) -> None:
    """Report an operand that provably does not broadcast to x in one direction."""
    shape, x = ctx.shape(name), ctx.shape("x")
    if shape is None or x is None:
        return
    if len(shape) > len(x):
        ctx.fail("C2", f"{name} has rank {len(shape)} but x has rank {len(x)}")
    for found, target in zip(reversed(shape), reversed(x), strict=False):
        if found is None or target is None or found == 1:
            continue
        if isinstance(found, int) and dims.prove_eq(found, target) is False:
            ctx.fail("C2", f"{name} has a dim {found} where x has {target}")


def _infer_layer_norm(ctx: InferContext) -> list[Type]:
    shape = ctx.shape("x")
    axis = known_axis(ctx, "C1", ctx.attrs["axis"], ctx.rank("x"))
    dtype = common_dtype(ctx, "x", "scale", "b")
    for name in ("scale", "b"):
        _check_broadcast(ctx, name)
    kept = None
    if shape is not None and axis is not None:
        kept = (*shape[:axis], *(1,) * (len(shape) - axis))
    statistics = TensorType(ctx.attrs["stash_type"], kept)
    return [TensorType(dtype, shape), statistics, statistics]


def _trailing_axes(op: Op, x: Value) -> list[int]:
    axis: int = op.all_attrs()["axis"]
    if axis < 0:
        return list(range(axis, 0))
    return list(range(axis, require_rank(x, "x")))


def _decompose_layer_norm(b: Builder, op: Op) -> list[Value]:
    attrs = op.all_attrs()
    x = operand(op, "x")
    wide = cast_to(b, x, attrs["stash_type"])
    y, mean, inverse = standardize(b, wide, _trailing_axes(op, x), attrs["epsilon"])
    y = b.mul(cast_to(b, y, require_dtype(x, "x")), operand(op, "scale"))
    bias = op.operand("b")
    return [y if bias is None else b.add(y, bias), mean, inverse][: len(op.results)]


def _trailing(x: Array, axis: int) -> tuple[int, ...]:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is out of range for rank {x.ndim}")
    return tuple(range(axis % x.ndim, x.ndim))


def _check_scale(x: Array, *scales: Array | None) -> None:
    for scale in scales:
        if scale is not None and np.broadcast_shapes(x.shape, scale.shape) != x.shape:
            raise ValueError(f"a scale or bias of {scale.shape} does not broadcast to {x.shape}")


@op(
    "layer_normalization(x, scale, b?) -> y, mean?, inv_std_dev?",
    infer=_infer_layer_norm,
    traits="composite",
    decompose=_decompose_layer_norm,
)
def layer_normalization(
    x: Array,
    scale: Array,
    b: Array | None = None,
    *,
    axis: Int = -1,
    epsilon: Float = EPSILON,
    stash_type: DTypeAttr = F32,
) -> tuple[Array, Array, Array]:
    """Normalize over axes ``axis..rank-1`` in ``stash_type``, then scale and shift in x's type.

    ONNX LayerNormalization-17; mean and inverse deviation keep the axes as 1.

    C1  -rank(x) <= axis < rank(x)
    C2  scale and b broadcast to x
    """
    axes = _trailing(x, axis)
    _check_scale(x, scale, b)
    stash = stash_type.numpy
    wide = widen(x.astype(stash))
    mean = _mean(wide, axes)
    centered = wide - mean
    variance = _mean(np.square(centered), axes)
    inverse = 1 / np.sqrt(variance + wide.dtype.type(epsilon))
    y = widen((centered * inverse).astype(x.dtype)) * widen(scale)
    if b is not None:
        y = y + widen(b)
    return y.astype(x.dtype), mean.astype(stash), inverse.astype(stash)


def _infer_rms_norm(ctx: InferContext) -> Type:
    known_axis(ctx, "C1", ctx.attrs["axis"], ctx.rank("x"))
    _check_broadcast(ctx, "scale")
    return TensorType(ctx.dtype("scale"), ctx.shape("x"))


def _decompose_rms_norm(b: Builder, op: Op) -> list[Value]:
    attrs = op.all_attrs()
    x, scale = operand(op, "x"), operand(op, "scale")
    wide = cast_to(b, x, attrs["stash_type"])
    square = b.reduce_mean(b.mul(wide, wide), _trailing_axes(op, x), keepdims=True)
    y = b.div(wide, b.sqrt(b.add(square, attrs["epsilon"])))
    return [b.mul(cast_to(b, y, require_dtype(scale, "scale")), scale)]


@op(
    "rms_normalization(x, scale)",
    infer=_infer_rms_norm,
    traits="composite",
    decompose=_decompose_rms_norm,
)
def rms_normalization(
    x: Array,
    scale: Array,
    *,
    axis: Int = -1,
    epsilon: Float = EPSILON,
    stash_type: DTypeAttr = F32,
) -> Array:
    """``x / sqrt(mean(x * x) + epsilon) * scale`` over axes ``axis..rank-1``.

    ONNX RMSNormalization-23; the result has the element type of scale.

    C1  -rank(x) <= axis < rank(x)
    C2  scale broadcasts to x
    """
    axes = _trailing(x, axis)
    _check_scale(x, scale)
    wide = widen(x.astype(stash_type.numpy))
    square = _mean(np.square(wide), axes)
    y = (wide / np.sqrt(square + wide.dtype.type(epsilon))).astype(scale.dtype)
    return narrow(widen(y) * widen(scale), scale.dtype)


# -- local, Lp, mean and variance ------------------------------------------------------------------


def _infer_lrn(ctx: InferContext) -> Type:
    if ctx.rank("x") in (0, 1):
        ctx.fail("C1", f"x has rank {ctx.rank('x')}")
    return plain_type(ctx)


@op("lrn(x)", infer=_infer_lrn)
def lrn(
    x: Array,
    *,
    alpha: Float = 9.999999747378752e-05,
    beta: Float = 0.75,
    bias: Float = 1.0,
    size: Int,
) -> Array:
    """Divide by ``(bias + alpha / size * sum of squares of size neighbour channels) ** beta``.

    ONNX LRN-13; the neighbours of c are ``c - (size - 1) // 2 .. c + size // 2``.

    C1  rank(x) >= 2
    """
    if x.ndim < 2 or size < 1:
        raise ValueError(f"x has rank {x.ndim} and size is {size}")
    wide = widen(x)
    square = np.square(wide)
    channels = x.shape[1]
    total = np.zeros_like(square)
    for shift in range(-((size - 1) // 2), size // 2 + 1):
        low, high = max(0, -shift), min(channels, channels - shift)
        if low < high:
            total[:, low:high] += square[:, low + shift : high + shift]
    return narrow(wide / (bias + alpha / size * total) ** beta, x.dtype)


def _infer_lp_norm(ctx: InferContext) -> Type:
    known_axis(ctx, "C1", ctx.attrs["axis"], ctx.rank("x"))
    if ctx.attrs["p"] not in (1, 2):
        ctx.fail("C2", f"p is {ctx.attrs['p']}")
    return plain_type(ctx)


def _decompose_lp_norm(b: Builder, op: Op) -> list[Value]:
    attrs = op.all_attrs()
    x = operand(op, "x")
    dtype = computed_in(x, "x")
    wide = cast_to(b, x, dtype)
    reduce = b.reduce_l1 if attrs["p"] == 1 else b.reduce_l2
    norm = reduce(wide, [attrs["axis"]], keepdims=True)
    zero = b.const(np.zeros((), dtype.numpy))
    y = b.where(b.equal(norm, zero), zero, b.div(wide, norm))
    return [cast_to(b, y, require_dtype(x, "x"))]


@op("lp_normalization(x)", infer=_infer_lp_norm, traits="composite", decompose=_decompose_lp_norm)
def lp_normalization(x: Array, *, axis: Int = -1, p: Int = 2) -> Array:
    """Divide by the L1 or L2 norm along ``axis``; 0 where the norm is 0 (LpNormalization-22).

    C1  -rank(x) <= axis < rank(x)
    C2  p is 1 or 2
    """
    if p not in (1, 2):
        raise ValueError(f"p should be 1 or 2, got {p}")
    require_axis(x, axis)
    wide = widen(x)
    total = (np.abs(wide) if p == 1 else np.square(wide)).sum(axis=axis, keepdims=True)
    norm = total if p == 1 else np.sqrt(total)
    return narrow(np.divide(wide, norm, out=np.zeros_like(wide), where=norm != 0), x.dtype)


def _infer_mvn(ctx: InferContext) -> Type:
    for axis in ctx.attrs["axes"]:
        known_axis(ctx, "C1", axis, ctx.rank("x"))
    return plain_type(ctx)


_MVN_EPSILON = 9.999999717180685e-10
"""Added to the deviation by the specification's function body: 1e-9 as a float32."""


def _decompose_mvn(b: Builder, op: Op) -> list[Value]:
    x = operand(op, "x")
    wide = cast_to(b, x, computed_in(x, "x"))
    axes = list(op.all_attrs()["axes"])
    mean = b.reduce_mean(wide, axes, keepdims=True)
    square = b.reduce_mean(b.mul(wide, wide), axes, keepdims=True)
    deviation = b.sqrt(b.sub(square, b.mul(mean, mean)))
    y = b.div(b.sub(wide, mean), b.add(deviation, _MVN_EPSILON))
    return [cast_to(b, y, require_dtype(x, "x"))]


@op(
    "mean_variance_normalization(x)",
    infer=_infer_mvn,
    traits="composite",
    decompose=_decompose_mvn,
)
def mean_variance_normalization(x: Array, *, axes: Ints = (0, 2, 3)) -> Array:
    """``(x - E[x]) / (sqrt(E[x * x] - E[x] ** 2) + 1e-9)`` (ONNX MeanVarianceNormalization-13).

    C1  -rank(x) <= axes < rank(x)
    """
    for axis in axes:
        require_axis(x, axis)
    wide = widen(x)
    mean = _mean(wide, tuple(axes))
    square = _mean(np.square(wide), tuple(axes))
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
    return narrow((wide - mean) / (deviation + wide.dtype.type(_MVN_EPSILON)), x.dtype)
