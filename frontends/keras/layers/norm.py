"""Rows of normalizations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.keras.layers.core import as_array
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder
from lepton_ir.frontends.keras.table import layer
from lepton_ir.ir import Value
from lepton_ir.tensors import LazyTensor

if TYPE_CHECKING:
    from collections.abc import Sequence


@layer(
    *("BatchNormalization", "SyncBatchNormalization", "BatchNormalizationV1"),
    weights="gamma? beta? moving_mean moving_variance",
    frozen="moving_mean moving_variance",
)
def batch_norm(b: KerasBuilder, me: Context, x: Value) -> Any:
    """``x * scale + shift``: both are known before the model runs."""
    axis = me.get("axis", -1)
    axis = b.axis(x, axis[0] if isinstance(axis, list) else axis)
    mean, variance = me.tensor("moving_mean"), me.tensor("moving_variance")
    gamma = me.tensor("gamma") if me.has("gamma") else None
    beta = me.tensor("beta") if me.has("beta") else None
    epsilon = float(me.get("epsilon", 1e-3))
    shape = [1] * (b.rank(x) - axis)
    shape[0] = mean.shape[0]

    def scale() -> np.ndarray[Any, Any]:
        factor = 1 / np.sqrt(variance.numpy().astype(np.float64) + epsilon)
        if gamma is not None:
            factor = factor * gamma.numpy()
        return np.asarray(factor)

    def shift() -> np.ndarray[Any, Any]:
        offset = -mean.numpy() * scale()
        return np.asarray(offset if beta is None else offset + beta.numpy())

    return me.keep_mask(x, _scaled(b, me, x, scale, shift, shape))


def _scaled(
    b: KerasBuilder, me: Context, x: Value, scale: Any, shift: Any, shape: Sequence[int]
) -> Any:
    def constant(name: str, make: Any) -> Value:
        lazy = LazyTensor(
            lambda: make().reshape(shape).astype(np.float32), dtypes.F32, tuple(shape)
        )
        return me.constant(name, lazy)

    return b.add(b.mul(x, constant("scale", scale)), constant("shift", shift))


def moments(b: KerasBuilder, x: Value, axes: Sequence[int]) -> tuple[Value, Value]:
    """Return ``x`` less its mean, and its variance, over axes."""
    wanted = b.ints(list(axes))
    away = b.sub(x, b.reduce_mean(x, wanted, keepdims=True))
    return away, b.reduce_mean(b.mul(away, away), wanted, keepdims=True)


@layer("LayerNormalization", weights="gamma? beta?")
def layer_norm(b: KerasBuilder, me: Context, x: Value) -> Any:
    axis = me.get("axis", -1)
    axes = sorted(b.axes(x, axis if isinstance(axis, list) else [axis]))
    epsilon = float(me.get("epsilon", 1e-3))
    rank = b.rank(x)
    if me.get("rms_scaling"):
        y = _rms(b, x, axes, epsilon)
        return me.keep_mask(x, _affine(b, me, y, axes, ("gamma",)))
    if axes == list(range(axes[0], rank)):
        shape = tuple(b.static_size(x, a, "layer norm") for a in axes)
        gamma = me.optional("gamma") or b.full(shape, 1, me.dtype)
        y = b.layer_normalization(
            x, gamma, me.optional("beta"), axis=axes[0] - rank, epsilon=epsilon
        )
        return me.keep_mask(x, y)
    away, spread = moments(b, x, axes)
    y = b.div(away, b.sqrt(b.add(spread, b.like(x, epsilon))))
    return me.keep_mask(x, _affine(b, me, y, axes, ("gamma", "beta")))


def _rms(b: KerasBuilder, x: Value, axes: Sequence[int], epsilon: float) -> Value:
    mean = b.reduce_mean(b.mul(x, x), b.ints(list(axes)), keepdims=True)
    return b.div(x, b.sqrt(b.add(mean, b.like(x, epsilon))))  # type: ignore[no-any-return]


def _affine(
    b: KerasBuilder, me: Context, x: Value, axes: Sequence[int], names: Sequence[str]
) -> Value:
    for name in names:
        if not me.has(name):
            continue
        shape = [b.size_of(x, a) if a in axes else 1 for a in range(b.rank(x))]
        factor = b.resized(me.weight(name), shape)
        x = b.build("add" if name == "beta" else "mul", x, factor).result
    return x


@layer("RMSNormalization", weights="scale")
def rms_norm(b: KerasBuilder, me: Context, x: Value) -> Any:
    axis = me.get("axis", -1)
    axes = b.axes(x, axis if isinstance(axis, list) else [axis])
    return _affine(b, me, _rms(b, x, axes, float(me.get("epsilon", 1e-6))), axes, ("scale",))


@layer("GroupNormalization", weights="gamma? beta?")
def group_norm(b: KerasBuilder, me: Context, x: Value) -> Any:
    axis = b.axis(x, me.get("axis", -1))
    rank = b.rank(x)
    channels = b.static_size(x, axis, "group norm")
    groups = me.get("groups", 32)
    groups = channels if groups == -1 else groups
    sizes = b.sizes_of(x)
    parts = b.resized(x, [*sizes[:axis], groups, channels // groups, *sizes[axis + 1 :]])
    axes = [a for a in range(1, rank + 1) if a != axis]
    away, spread = moments(b, parts, axes)
    y = b.div(away, b.sqrt(b.add(spread, b.like(x, float(me.get("epsilon", 1e-3))))))
    return _affine(b, me, b.resized(y, sizes), [axis], ("gamma", "beta"))


@layer("UnitNormalization")
def unit_norm(b: KerasBuilder, me: Context, x: Value) -> Any:
    axis = me.get("axis", -1)
    axes = b.ints(b.axes(x, axis if isinstance(axis, list) else [axis]))
    total = b.reduce_sum(b.mul(x, x), axes, keepdims=True)
    return b.div(x, b.sqrt(b.max(total, b.like(x, 1e-12))))


@layer("Normalization", weights="mean variance count", frozen="mean variance count")
def normalization(b: KerasBuilder, me: Context, x: Value) -> Any:
    axis = me.get("axis", -1)
    axes = [] if axis is None else b.axes(x, axis if isinstance(axis, list) else [axis])
    if me.get("mean") is not None:
        mean, variance = np.asarray(me.get("mean")), np.asarray(me.get("variance"))
    else:
        mean, variance = me.tensor("mean").numpy(), me.tensor("variance").numpy()
    if len(axes) > 1 and mean.ndim > 1:
        raise UnsupportedError("statistics of several axes", code="keras-layer")
    shape = [-1 if a in axes else 1 for a in range(b.rank(x))]
    root = np.maximum(np.sqrt(variance), 1e-7)
    centre, spread = (as_array(b, v.reshape(shape), me.dtype) for v in (mean, root))
    x = b.cast_to(x, me.dtype)
    if me.get("invert"):
        return b.add(centre, b.mul(x, spread))
    return b.div(b.sub(x, centre), spread)
