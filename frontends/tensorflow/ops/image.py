"""Rows of images: resampling and detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.tensorflow.ops._common import joined, scalar, wide
from lepton_ir.frontends.tensorflow.table import tf_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node


def _sizes(b: TfBuilder, x: Value, size: Value) -> Value:
    batch, channels = b.shape(x, start=0, end=1), b.shape(x, start=3)
    return joined(b, batch, wide(b, size), channels)


def _coordinates(node: Node, nearest: bool) -> dict[str, Any]:
    if node.attr("align_corners", False):
        return {"coordinate_transformation_mode": "align_corners"}
    if node.attr("half_pixel_centers", False):
        return {"coordinate_transformation_mode": "half_pixel"}
    return {"coordinate_transformation_mode": "asymmetric"}


@tf_op("ResizeBilinear")
def resize_bilinear(b: TfBuilder, node: Node, x: Value, size: Value) -> Any:
    """Linear resampling of (N, H, W, C); the result is f32 whatever the operand is."""
    x = b.cast_to(x, dtypes.F32)
    return b.resize(x, None, None, _sizes(b, x, size), mode="linear", **_coordinates(node, False))


@tf_op("ResizeNearestNeighbor")
def resize_nearest(b: TfBuilder, node: Node, x: Value, size: Value) -> Any:
    """Nearest resampling: rounded half up between corners, down otherwise."""
    how = _coordinates(node, True)
    rounding = (
        "floor" if how["coordinate_transformation_mode"] == "asymmetric" else "round_prefer_ceil"
    )
    return b.resize(x, None, None, _sizes(b, x, size), mode="nearest", nearest_mode=rounding, **how)


@tf_op("ResizeBicubic")
def resize_bicubic(b: TfBuilder, node: Node, x: Value, size: Value) -> Any:
    if not node.attr("half_pixel_centers", False):
        raise UnsupportedError("ResizeBicubic without half_pixel_centers", code="tf-op")
    x = b.cast_to(x, dtypes.F32)
    return b.resize(
        x,
        None,
        None,
        _sizes(b, x, size),
        mode="cubic",
        cubic_coeff_a=-0.5,
        exclude_outside=True,
        coordinate_transformation_mode="half_pixel",
    )


def _suppressed(
    b: TfBuilder, boxes: Value, scores: Value, count: Value, overlap: Value, score: Value | None
) -> Value:
    """Return the places of the boxes that are kept, best first."""
    one = b.ints([0])
    limit = b.reshape(wide(b, count), b.ints([1]))
    found = b.non_max_suppression(
        b.unsqueeze(boxes, one),
        b.unsqueeze(scores, b.ints([0, 1])),
        limit,
        b.reshape(overlap, b.ints([1])),
        None if score is None else b.reshape(score, b.ints([1])),
    )
    place: Value = b.gather(found, b.full((), 2, dtypes.I64), axis=1)
    return place


@tf_op("NonMaxSuppressionV2", "NonMaxSuppressionV3")
def suppress(
    b: TfBuilder,
    node: Node,
    boxes: Value,
    scores: Value,
    count: Value,
    overlap: Value,
    *score: Value,
) -> Any:
    places = _suppressed(b, boxes, scores, count, overlap, score[0] if score else None)
    return b.cast_to(places, dtypes.I32)


@tf_op("NonMaxSuppressionV4")
def suppress_v4(
    b: TfBuilder,
    node: Node,
    boxes: Value,
    scores: Value,
    count: Value,
    overlap: Value,
    score: Value,
) -> Any:
    places = b.cast_to(_suppressed(b, boxes, scores, count, overlap, score), dtypes.I32)
    valid = b.cast_to(scalar(b, b.shape(places)), dtypes.I32)
    if node.attr("pad_to_max_output_size", False):
        zeros = b.sub(b.reshape(wide(b, count), b.ints([1])), b.shape(places))
        places = b.pad(places, joined(b, b.ints([0]), zeros), b.full((), 0, dtypes.I32))
    return [places, valid]


@tf_op("AdjustContrastv2")
def adjust_contrast(b: TfBuilder, node: Node, x: Value, factor: Value) -> Any:
    rank = b.rank(x)
    mean = b.reduce_mean(x, b.ints([rank - 3, rank - 2]), keepdims=True)
    return b.add(b.mul(b.sub(x, mean), factor), mean)


@tf_op("ExtractImagePatches")
def patches(b: TfBuilder, node: Node, x: Value) -> Any:
    """Windows of (N, H, W, C) as channels: a convolution with one-hot kernels."""
    _, kh, kw, _ = (int(k) for k in node.attr("ksizes"))
    _, sh, sw, _ = (int(k) for k in node.attr("strides"))
    _, rh, rw, _ = (int(k) for k in node.attr("rates"))
    if str(node.attr("padding")) != "VALID":
        raise UnsupportedError("patches with padding", code="tf-op")
    channels = b.static_size(x, -1, "patches")
    eye = np.eye(kh * kw * channels, dtype=np.float32)
    w = eye.reshape(kh * kw * channels, kh, kw, channels)
    return b.conv_nhwc(x, b.const(w), strides=[sh, sw], dilations=[rh, rw])
