"""Operations of detectors: regions of interest, and boxes that overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.opdef import Bool, Float, Int, Str, op
from lepton_ir.ops._support import (
    Array,
    first_dtype,
    widen,
)
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.infer import InferContext


def _infer_roi_align(ctx: InferContext) -> TensorType:
    x, rois, batch = ctx.shape("x"), ctx.shape("rois"), ctx.shape("batch_indices")
    for name, shape, rank in (("x", x, 4), ("rois", rois, 2), ("batch_indices", batch, 1)):
        if shape is not None and len(shape) != rank:
            ctx.fail("C1", f"{name} has rank {len(shape)}, not {rank}")
    count = rois[0] if rois else None
    if count is None and batch:
        count = batch[0]
    size = (ctx.attrs["output_height"], ctx.attrs["output_width"])
    return TensorType(first_dtype(ctx, "x", "rois"), (count, x[1] if x else None, *size))


def _roi_taps(start: float, bin_size: float, bins: int, samples: int, size: int) -> Any:
    """Return low index, high index, high weight and validity, (bins, samples) each."""
    step = (np.arange(samples) + 0.5) * (bin_size / samples)
    at = start + np.arange(bins)[:, None] * bin_size + step
    valid = (at >= -1) & (at <= size)
    at = np.maximum(at, 0)
    low = np.minimum(np.floor(at), size - 1).astype(np.int64)
    at = np.where(low >= size - 1, size - 1, at)
    return low, np.minimum(low + 1, size - 1), at - low, valid


@op("roi_align(x, rois, batch_indices)", infer=_infer_roi_align)
def roi_align(
    x: Array,
    rois: Array,
    batch_indices: Array,
    *,
    coordinate_transformation_mode: Str = "half_pixel",
    mode: Str = "avg",
    output_height: Int = 1,
    output_width: Int = 1,
    sampling_ratio: Int = 0,
    spatial_scale: Float = 1.0,
) -> Array:
    """Pool bilinear samples of regions (x1, y1, x2, y2) (ONNX RoiAlign-22).

    C1  rank(x) == 4, rank(rois) == 2, rank(batch_indices) == 1
    """
    if mode not in ("avg", "max"):
        raise ValueError(f"roi_align: unknown mode {mode!r}")
    if coordinate_transformation_mode not in ("half_pixel", "output_half_pixel"):
        raise ValueError(f"roi_align: unknown mode {coordinate_transformation_mode!r}")
    half = coordinate_transformation_mode == "half_pixel"
    source = widen(x)
    bins = (output_height, output_width)
    result = np.zeros((len(rois), x.shape[1], *bins), source.dtype)
    for n, (roi, batch) in enumerate(zip(widen(rois), batch_indices, strict=True)):
        corner = roi.astype(np.float64) * spatial_scale - (0.5 if half else 0.0)
        taps = []
        for axis in (1, 0):  # y, then x
            start, extent = corner[axis], corner[axis + 2] - corner[axis]
            extent = extent if half else max(extent, 1.0)
            count = bins[1 - axis]
            samples = sampling_ratio if sampling_ratio > 0 else int(np.ceil(extent / count))
            taps.append(_roi_taps(start, extent / count, count, max(samples, 0), x.shape[3 - axis]))
        result[n] = _pool_roi(source[int(batch)], taps, mode)
    return result.astype(x.dtype, copy=False)


def _pool_roi(image: Array, taps: list[Any], mode: str) -> Array:
    (y0, y1, fy, vy), (x0, x1, fx, vx) = taps
    if y0.shape[1] == 0 or x0.shape[1] == 0:
        return np.zeros((len(image), len(y0), len(x0)), image.dtype)
    parts = []
    for yi, wy in ((y0, 1 - fy), (y1, fy)):
        for xi, wx in ((x0, 1 - fx), (x1, fx)):
            weight = wy[:, None, :, None] * wx[None, :, None, :]
            valid = vy[:, None, :, None] & vx[None, :, None, :]
            values = image[:, yi[:, None, :, None], xi[None, :, None, :]]
            parts.append(np.where(valid, values * weight, 0))
    if mode == "max":  # the specification's maximum is over the weighted corners
        return np.asarray(np.max(parts, axis=0).max(axis=(-2, -1)))
    return np.asarray(np.sum(parts, axis=0).mean(axis=(-2, -1)))


def _infer_nms(ctx: InferContext) -> TensorType:
    for name in ("boxes", "scores"):
        rank = ctx.rank(name)
        if rank not in (None, 3):
            ctx.fail("C1", f"{name} has rank {rank}")
    return TensorType(dtypes.I64, (ctx.fresh(), 3))


def box_corners(boxes: Array, center: bool) -> tuple[Array, Array]:
    """Return the lower and upper corners (n, 2) of boxes in either notation."""
    if center:
        middle, extent = boxes[:, :2], boxes[:, 2:] / boxes.dtype.type(2)
        return middle - extent, middle + extent
    return np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])


def _overlaps(low: Array, high: Array, i: int, others: Array, threshold: float) -> bool:
    """Whether box ``i`` covers one of ``others`` with more than ``threshold`` of their union."""
    edges = np.minimum(high[i], high[others]) - np.maximum(low[i], low[others])
    shared = np.where((edges > 0).all(axis=1), edges.prod(axis=1), 0)
    own = np.prod(high[i] - low[i])
    areas = np.prod(high[others] - low[others], axis=1)
    union = own + areas - shared
    valid = (own > 0) & (areas > 0) & (union > 0)
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=valid)
    return bool((ratio > threshold).any())


@op(
    "non_max_suppression(boxes, scores, max_output_boxes_per_class?, iou_threshold?, "
    "score_threshold?) -> selected_indices",
    infer=_infer_nms,
)
def non_max_suppression(
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: Array | None = None,
    iou_threshold: Array | None = None,
    score_threshold: Array | None = None,
    *,
    center_point_box: Bool = False,
) -> Array:
    """Indices (batch, class, box) of boxes kept greedily by score (ONNX NonMaxSuppression-11).

    C1  rank(boxes) == rank(scores) == 3
    """
    limit = 0 if max_output_boxes_per_class is None else int(max_output_boxes_per_class.flat[0])
    iou = np.float32(0 if iou_threshold is None else iou_threshold.flat[0])
    if not 0 <= iou <= 1:
        raise ValueError(f"iou_threshold should be in [0, 1], got {iou}")
    selected: list[tuple[int, int, int]] = []
    for n, c in np.ndindex(*scores.shape[:2]) if limit > 0 else ():
        low, high = box_corners(boxes[n], center_point_box)
        order = np.argsort(-scores[n, c], kind="stable")
        kept: list[int] = []
        for i in order.tolist():
            if score_threshold is not None and not scores[n, c, i] > score_threshold.flat[0]:
                break
            if kept and _overlaps(low, high, i, np.array(kept), float(iou)):
                continue
            kept.append(i)
            if len(kept) == limit:
                break
        selected.extend((n, c, i) for i in kept)
    return np.array(selected, dtype=np.int64).reshape(-1, 3)
