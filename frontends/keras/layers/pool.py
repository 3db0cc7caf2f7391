"""Rows of pooling and resampling."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.keras.layers.conv import numbers, same_pads, spatial_sizes
from lepton_ir.frontends.keras.layers.core import spatial_axes
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder
from lepton_ir.frontends.keras.table import layer
from lepton_ir.ir import Value


def _pool(name: str) -> Any:
    def row(b: KerasBuilder, me: Context, x: Value) -> Any:
        count = b.rank(x) - 2
        kernel = numbers(me.get("pool_size", 2), count)
        strides = numbers(me.get("strides") or kernel, count)
        attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
        if str(me.get("padding", "valid")).lower() == "same":
            sizes = spatial_sizes(b, x, me.channels_last)
            attrs |= same_pads(sizes, kernel, strides, [1] * count)
        return b.build(f"{name}_nhwc" if me.channels_last else name, x, **attrs).result

    return row


layer("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "MaxPool1D", "MaxPool2D", "MaxPool3D")(
    _pool("max_pool")
)
layer("AveragePooling1D", "AveragePooling2D", "AveragePooling3D")(_pool("average_pool"))
layer("AvgPool1D", "AvgPool2D", "AvgPool3D")(_pool("average_pool"))


def _global(name: str) -> Any:
    def row(b: KerasBuilder, me: Context, x: Value) -> Any:
        axes = spatial_axes(me, b.rank(x))
        mask = b.masks.get(x)
        if mask is not None and name == "reduce_mean" and b.rank(x) == 3:
            weights = b.unsqueeze(b.cast_to(mask, me.dtype), b.ints([2 if me.channels_last else 1]))
            total = b.reduce_sum(b.mul(x, weights), b.ints(axes), keepdims=bool(me.get("keepdims")))
            count = b.reduce_sum(weights, b.ints(axes), keepdims=bool(me.get("keepdims")))
            return b.div(total, count)
        return b.build(name, x, b.ints(axes), keepdims=bool(me.get("keepdims"))).result

    return row


layer("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D")(
    _global("reduce_mean")
)
layer("GlobalAvgPool1D", "GlobalAvgPool2D", "GlobalAvgPool3D")(_global("reduce_mean"))
layer("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D")(_global("reduce_max"))
layer("GlobalMaxPool1D", "GlobalMaxPool2D", "GlobalMaxPool3D")(_global("reduce_max"))


RESIZING: dict[str, dict[str, Any]] = {
    "nearest": {
        "mode": "nearest",
        "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_ceil",
    },
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "bicubic": {
        "mode": "cubic",
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": -0.5,
        "exclude_outside": True,
    },
}
"""``tf.image.resize`` as attributes of ``resize``."""


@layer("UpSampling1D", "UpSampling2D", "UpSampling3D")
def up_sampling(b: KerasBuilder, me: Context, x: Value) -> Any:
    axes = spatial_axes(me, b.rank(x))
    factors = numbers(me.get("size", 2), len(axes))
    mode = me.get("interpolation", "nearest")
    if mode not in RESIZING:
        raise UnsupportedError(f"interpolation {mode}", code="keras-layer")
    scales = np.ones(b.rank(x), np.float32)
    scales[axes] = factors
    # Whole factors: each element is repeated, however coordinates are rounded.
    how = RESIZING[mode]
    if mode == "nearest":
        how = {
            "mode": mode,
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
    return b.resize(x, None, b.const(scales), None, **how)


@layer("Resizing")
def resizing(b: KerasBuilder, me: Context, x: Value) -> Any:
    plain = ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias")
    mode = me.get("interpolation", "bilinear")
    if any(me.get(p) for p in plain) or mode not in RESIZING:
        raise UnsupportedError(f"Resizing with {mode}, cropping or padding", code="keras-layer")
    x = b.floating(x)
    rank = b.rank(x)
    axes = [rank - 3, rank - 2] if me.channels_last else [rank - 2, rank - 1]
    sizes: list[Any] = b.sizes_of(x)
    for axis, size in zip(axes, (me.get("height"), me.get("width")), strict=True):
        sizes[axis] = size
    return b.resize(x, None, None, b.ints(sizes), **RESIZING[mode])


def _adaptive(name: str) -> Any:
    def row(b: KerasBuilder, me: Context, x: Value) -> Any:
        axes = spatial_axes(me, b.rank(x))
        for axis, wanted in zip(axes, numbers(me.get("output_size"), len(axes)), strict=True):
            x = _cells(b, x, axis, wanted, name)
        return x

    return row


def _cells(b: KerasBuilder, x: Value, axis: int, wanted: int, name: str) -> Value:
    """Return one axis pooled to ``wanted`` cells of equal size."""
    total = b.static_size(x, axis, "adaptive pooling")
    if total % wanted:
        raise UnsupportedError(f"{total} steps pooled to {wanted}", code="keras-layer")
    sizes = b.sizes_of(x)
    parts = b.resized(x, [*sizes[:axis], wanted, total // wanted, *sizes[axis + 1 :]])
    return b.build(name, parts, b.ints([axis + 1]), keepdims=False).result


layer("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D")(
    _adaptive("reduce_mean")
)
layer("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D")(
    _adaptive("reduce_max")
)
