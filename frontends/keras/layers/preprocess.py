"""Rows of preprocessing."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.keras.layers.core import as_array
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder
from lepton_ir.frontends.keras.table import layer
from lepton_ir.ir import Value


@layer("Rescaling")
def rescaling(b: KerasBuilder, me: Context, x: Value) -> Any:
    scale, offset = (_numbers(me.get(n, d)) for n, d in (("scale", 1.0), ("offset", 0.0)))
    x = b.cast_to(x, me.dtype)
    if np.any(np.asarray(scale) != 1):
        x = b.mul(x, as_array(b, scale, me.dtype))
    return b.add(x, as_array(b, offset, me.dtype)) if np.any(np.asarray(offset) != 0) else x


def _numbers(item: Any) -> Any:
    if isinstance(item, dict):
        inner = item.get("config", item)
        return inner.get("value", 0.0) if isinstance(inner, dict) else inner
    return item


@layer("CenterCrop")
def center_crop(b: KerasBuilder, me: Context, x: Value) -> Any:
    rank = b.rank(x)
    axes = [rank - 3, rank - 2] if me.channels_last else [rank - 2, rank - 1]
    starts, ends = [], []
    for axis, wanted in zip(axes, (me.get("height"), me.get("width")), strict=True):
        size = b.static_size(x, axis, "CenterCrop")
        if size < wanted:
            raise UnsupportedError("an image smaller than the crop", code="keras-layer")
        starts.append((size - wanted) // 2)
        ends.append(starts[-1] + wanted)
    return b.cast_to(b.slice(x, b.ints(starts), b.ints(ends), b.ints(axes)), me.dtype)


@layer("Discretization")
def discretization(b: KerasBuilder, me: Context, x: Value) -> Any:
    """The number of boundaries at or below each element."""
    edges = me.get("bin_boundaries")
    if not edges or me.get("output_mode", "int") != "int" or me.get("sparse"):
        raise UnsupportedError(
            "Discretization without boundaries, or not to ints", code="keras-layer"
        )
    limits = as_array(b, edges, x.dtype or dtypes.F32)
    rank = b.rank(x)
    below = b.less_or_equal(limits, b.unsqueeze(x, b.ints([rank])))
    return b.reduce_sum(b.cast_to(below, dtypes.I32), b.ints([rank]), keepdims=False)


@layer("CategoryEncoding")
def category_encoding(
    b: KerasBuilder, me: Context, x: Value, count_weights: Value | None = None
) -> Any:
    count, mode = me.get("num_tokens"), me.get("output_mode", "multi_hot")
    ids = b.cast_to(x, dtypes.I64)
    values = b.const(np.asarray([0, 1], me.dtype.numpy), me.dtype)
    hot = b.one_hot(ids, b.full((), count, dtypes.I64), values, axis=-1)
    if mode == "one_hot":
        rank = b.rank(ids)
        return (
            b.squeeze(hot, b.ints([rank - 1]))
            if rank > 1 and ids.shape and ids.shape[-1] == 1
            else hot
        )
    if count_weights is not None:
        hot = b.mul(hot, b.unsqueeze(b.cast_to(count_weights, me.dtype), b.ints([b.rank(ids)])))
    axes = b.ints([b.rank(ids) - 1])
    if mode == "multi_hot":
        return b.reduce_max(hot, axes, keepdims=False)
    if mode == "count":
        return b.reduce_sum(hot, axes, keepdims=False)
    raise UnsupportedError(f"output_mode {mode}", code="keras-layer")
