"""Rows of normalizations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.torch.lowering import Lowering
from lepton_ir.frontends.torch.ops.elementwise import dtype_of
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Sequence


def _per_channel(b: Lowering, x: Value, given: Value | None, default: float) -> Value:
    if given is not None:
        return given
    channels = b.static_size(x, 1, "a normalization")
    return b.full((channels,), default, dtype_of(x))


@torch_op("batch_norm", "_native_batch_norm_legit_no_training")
def batch_norm(
    b: Lowering,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Any:
    if training:
        raise UnsupportedError(
            "batch norm in training mode", code="torch-train", hint="call .eval() before exporting"
        )
    assert running_mean is not None
    assert running_var is not None
    return b.batch_normalization(
        input,
        _per_channel(b, input, weight, 1),
        _per_channel(b, input, bias, 0),
        running_mean,
        running_var,
        epsilon=eps,
    )


@torch_op("_native_batch_norm_legit_no_training.default")
def native_batch_norm(b: Lowering, **args: Any) -> Any:
    return batch_norm(b, **args), None, None


@torch_op("_native_batch_norm_legit.no_stats", "_native_batch_norm_legit", "native_batch_norm")
def batch_statistics(
    b: Lowering,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    running_mean: Value | None = None,
    running_var: Value | None = None,
) -> Any:
    """Normalizes by the statistics of the batch itself: an instance norm after decomposition."""
    if not training:
        return (
            batch_norm(b, input, weight, bias, running_mean, running_var, False, momentum, eps),
            None,
            None,
        )
    if running_mean is not None:
        raise UnsupportedError("batch norm in training mode", code="torch-train")
    rank = b.rank(input)
    axes = b.ints([0, *range(2, rank)])
    mean = b.reduce_mean(input, axes, keepdims=True)
    away = b.sub(input, mean)
    spread = b.reduce_mean(b.mul(away, away), axes, keepdims=True)
    found = b.div(away, b.sqrt(b.add(spread, b.like(input, eps))))
    return _affine(b, found, weight, bias, rank), None, None


def _affine(b: Lowering, x: Value, weight: Value | None, bias: Value | None, rank: int) -> Value:
    ones = [1] * (rank - 2)
    for name, factor in (("mul", weight), ("add", bias)):
        if factor is not None:
            x = b.build(name, x, b.resized(factor, [-1, *ones])).result
    return x


@torch_op("layer_norm")
def layer_norm(
    b: Lowering,
    input: Value,
    normalized_shape: Sequence[Any],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    axis = -len(normalized_shape)
    if weight is None:
        if not all(isinstance(n, int) for n in normalized_shape):
            raise UnsupportedError("a norm over computed sizes without a scale", code="torch-size")
        weight = b.full(tuple(normalized_shape), 1, dtype_of(input))
    return b.layer_normalization(input, weight, bias, axis=axis, epsilon=eps)


@torch_op("native_layer_norm")
def native_layer_norm(
    b: Lowering,
    input: Value,
    normalized_shape: Sequence[Any],
    weight: Value | None,
    bias: Value | None,
    eps: float,
) -> Any:
    return layer_norm(b, input, normalized_shape, weight, bias, eps), None, None


@torch_op("rms_norm")
def rms_norm(
    b: Lowering,
    input: Value,
    normalized_shape: Sequence[Any],
    weight: Value | None = None,
    eps: float | None = None,
) -> Any:
    count = len(normalized_shape)
    axes = b.ints(list(range(-count, 0)))
    if eps is None:
        eps = float(b.limits(input).eps)
    # Spelled out: before opset 23 there is no operator; fusion finds it again after that.
    mean = b.reduce_mean(b.mul(input, input), axes, keepdims=True)
    found = b.div(input, b.sqrt(b.add(mean, b.like(input, eps))))
    return found if weight is None else b.mul(found, weight)


@torch_op("_fused_rms_norm")
def fused_rms_norm(
    b: Lowering,
    input: Value,
    normalized_shape: Sequence[Any],
    weight: Value | None,
    eps: float | None,
) -> Any:
    return rms_norm(b, input, normalized_shape, weight, eps), None


def grouped(
    b: Lowering, x: Value, groups: int, weight: Value | None, bias: Value | None, eps: float
) -> Value:
    """Return a group norm: an instance norm of (N, groups, rest), then scale and bias."""
    sizes = b.sizes_of(x)
    flat = b.resized(x, [sizes[0], groups, -1])
    one, zero = b.full((groups,), 1, dtype_of(x)), b.full((groups,), 0, dtype_of(x))
    found = b.instance_normalization(flat, one, zero, epsilon=eps)
    return _affine(b, b.resized(found, b.shape_of(x)), weight, bias, b.rank(x))


@torch_op("group_norm")
def group_norm(
    b: Lowering,
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    return grouped(b, input, num_groups, weight, bias, eps)


@torch_op("native_group_norm")
def native_group_norm(
    b: Lowering,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    N: Any,
    C: Any,
    HxW: Any,
    group: int,
    eps: float,
) -> Any:
    return grouped(b, input, group, weight, bias, eps), None, None


@torch_op("instance_norm")
def instance_norm(
    b: Lowering,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Any:
    if not use_input_stats:
        return batch_norm(b, input, weight, bias, running_mean, running_var, False, momentum, eps)
    return b.instance_normalization(
        input, _per_channel(b, input, weight, 1), _per_channel(b, input, bias, 0), epsilon=eps
    )


@torch_op("weight_norm", "_weight_norm")
def weight_norm(b: Lowering, v: Value, g: Value, dim: int = 0) -> Any:
    axes = [i for i in range(b.rank(v)) if i != dim]
    return b.mul(v, b.div(g, b.reduce_l2(v, b.ints(axes), keepdims=True)))


@torch_op("_weight_norm_interface")
def weight_norm_interface(b: Lowering, v: Value, g: Value, dim: int = 0) -> Any:
    axes = [i for i in range(b.rank(v)) if i != dim]
    size = b.reduce_l2(v, b.ints(axes), keepdims=True)
    return b.mul(v, b.div(g, size)), size


@torch_op("renorm")
def renorm(b: Lowering, self: Value, p: Any, dim: int, maxnorm: Any) -> Any:
    if p != 2 or not math.isfinite(maxnorm):
        raise UnsupportedError(f"renorm of order {p}", code="torch-op")
    axes = [i for i in range(b.rank(self)) if i != b.axis(self, dim)]
    size = b.reduce_l2(self, b.ints(axes), keepdims=True)
    limit = b.like(self, maxnorm)
    factor = b.div(limit, b.add(size, b.like(self, 1e-7)))
    return b.mul(self, b.where(b.greater(size, limit), factor, b.like(self, 1)))
