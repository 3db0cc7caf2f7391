"""Operators of TensorFlow Lite beyond arithmetic and movement: one-hot, boxes, Fourier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.opdef import Int, op
from lepton_ir.ops._nn import Array, common_dtype, known_axis, operand, require_rank
from lepton_ir.ops._support import scalar
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value


def _infer_one_hot(ctx: InferContext) -> Type:
    indices, depth = ctx.shape("indices"), ctx.content("depth")
    dtype = common_dtype(ctx, "on", "off")
    if indices is None:
        return TensorType(dtype, None)
    axis = known_axis(ctx, "C1", ctx.attrs["axis"], len(indices) + 1)
    assert axis is not None
    size = depth[0] if depth else None
    if isinstance(size, int) and size < 0:
        size = None
    return TensorType(dtype, (*indices[:axis], size, *indices[axis:]))


def _decompose_one_hot(b: Builder, op: Op) -> list[Value]:
    indices = operand(op, "indices")
    rank = require_rank(indices, "indices") + 1
    axis = op.attr("axis") % rank
    wide = b.cast(indices, to=dtypes.I64)
    count = b.cast(b.reshape(operand(op, "depth"), b.const(np.zeros(0, np.int64))), to=dtypes.I64)
    places = b.range(b.const(np.int64(0)), count, b.const(np.int64(1)))
    places = b.reshape(places, [-1] + [1] * (rank - 1 - axis))
    return [
        b.where(b.equal(b.unsqueeze(wide, [axis]), places), operand(op, "on"), operand(op, "off"))
    ]


@op(
    "one_hot_on_off(indices, depth, on, off)",
    infer=_infer_one_hot,
    traits="composite",
    decompose=_decompose_one_hot,
)
def one_hot_on_off(indices: Array, depth: Array, on: Array, off: Array, *, axis: Int = -1) -> Array:
    """``on`` where a new axis meets the index, else ``off`` (TFLite ONE_HOT).

    Unlike with ``one_hot``, negative indices meet nothing.

    C1  -rank(result) <= axis < rank(result)
    C2  depth >= 0; on and off are one element each, of one element type
    """
    count = scalar(depth, "depth")
    rank = indices.ndim + 1
    if count < 0 or on.size != 1 or off.size != 1 or not -rank <= axis < rank:
        raise ValueError(f"depth {count}, {on.size} and {off.size} values, axis {axis}")
    places = np.arange(count).reshape([-1] + [1] * (rank - 1 - axis % rank))
    met = np.expand_dims(indices.astype(np.int64), axis % rank) == places
    return np.where(met, on.reshape(()), off.reshape(())).astype(on.dtype)


def _infer_suppression(ctx: InferContext) -> list[Type]:
    for name, rank in (("boxes", 2), ("scores", 1)):
        found = ctx.rank(name)
        if found is not None and found != rank:
            ctx.fail("C1", f"{name} has rank {found}")
    count = ctx.ints("max_output_size")
    size = count[0] if count else None
    length = size if size is None or size >= 0 else None
    return [
        TensorType(dtypes.I32, (length,)),
        TensorType(ctx.dtype("scores"), (length,)),
        TensorType(dtypes.I32, ()),
    ]


def _overlap(box: Array, boxes: Array) -> Array:
    """Return the intersection over union of one box (corners in any order) with others."""
    corners = np.sort(boxes.reshape(-1, 2, 2), axis=1)
    low, high = np.sort(box.reshape(2, 2), axis=0)
    sides = np.minimum(corners[:, 1], high) - np.maximum(corners[:, 0], low)
    common = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(corners[:, 1] - corners[:, 0], axis=1)
    area = np.prod(high - low)
    union = areas + area - common
    valid = (areas > 0) & (area > 0)
    found: Array = np.where(valid, common / np.where(valid, union, 1), 0)
    return found


def _decompose_suppression(b: Builder, op: Op) -> list[Value | None]:
    """Without decay the boxes are those of ``non_max_suppression``, in its order."""
    if op.operand("soft_nms_sigma") is not None:
        raise ValueError("scores that decay have no counterpart")
    boxes, scores = operand(op, "boxes"), operand(op, "scores")
    size = b.reshape(b.cast(operand(op, "max_output_size"), to=dtypes.I64), [1])
    found = b.non_max_suppression(
        b.unsqueeze(boxes, [0]),
        b.unsqueeze(scores, [0, 1]),
        size,
        b.reshape(operand(op, "iou_threshold"), [1]),
        b.reshape(operand(op, "score_threshold"), [1]),
    )
    chosen = b.reshape(b.slice(found, [2], [3], [1]), [-1])
    count = b.shape(chosen)
    missing = b.concat(b.const(np.zeros(1, np.int64)), b.sub(size, count), axis=0)
    indices = b.cast(b.pad(chosen, missing), to=dtypes.I32)
    kept = b.pad(b.gather(scores, chosen), missing)
    number = b.cast(b.squeeze(count, [0]), to=dtypes.I32)
    return [indices, kept, number]


@op(
    "soft_non_max_suppression(boxes, scores, max_output_size, iou_threshold, score_threshold,"
    " soft_nms_sigma?) -> indices, selected_scores, count",
    infer=_infer_suppression,
    traits="composite",
    decompose=_decompose_suppression,
)
def soft_non_max_suppression(
    boxes: Array,
    scores: Array,
    max_output_size: Array,
    iou_threshold: Array,
    score_threshold: Array,
    soft_nms_sigma: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Choose boxes by score that overlap none chosen before (TFLite NON_MAX_SUPPRESSION_V4, V5).

    With ``soft_nms_sigma`` overlaps lower scores instead of ruling boxes out. Both lists are filled
    up with 0 to ``max_output_size``; ``count`` is how many there are.

    C1  boxes is (N, 4), corners y, x, y, x; scores is (N)
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"boxes {boxes.shape} and scores {scores.shape} do not fit")
    limit = scalar(max_output_size, "max_output_size")
    least, most = float(score_threshold.reshape(())), float(iou_threshold.reshape(()))
    sigma = 0.0 if soft_nms_sigma is None else float(soft_nms_sigma.reshape(()))
    left = scores.astype(np.float32)
    alive = left > least
    chosen: list[int] = []
    kept: list[float] = []
    while len(chosen) < limit and alive.any():
        best = int(np.argmax(np.where(alive, left, -np.inf)))
        chosen.append(best)
        kept.append(float(left[best]))
        alive[best] = False
        overlap = _overlap(boxes[best].astype(np.float32), boxes.astype(np.float32))
        if sigma > 0:
            left = left * np.exp(-np.square(overlap) / np.float32(2 * sigma)).astype(np.float32)
            left = np.where(overlap > most, np.float32(0), left) if most < 1 else left
            alive &= left > least
        else:
            alive &= overlap <= most
    indices, values = np.zeros(max(limit, 0), np.int32), np.zeros(max(limit, 0), scores.dtype)
    indices[: len(chosen)] = chosen
    values[: len(kept)] = kept
    return indices, values, np.asarray(len(chosen), np.int32)


def _infer_rfft2d(ctx: InferContext) -> Type:
    shape, length = ctx.shape("x"), ctx.ints("fft_length")
    if shape is None:
        return TensorType(dtypes.C64, None)
    if len(shape) < 2:
        ctx.fail("C1", f"x has rank {len(shape)}")
    last = (None, None) if length is None or len(length) != 2 else (length[0], length[1] // 2 + 1)
    return TensorType(dtypes.C64, (*shape[:-2], *last))


@op("rfft2d(x, fft_length)", infer=_infer_rfft2d)
def rfft2d(x: Array, fft_length: Array) -> Array:
    """Fourier transform of the last two axes, real to half of the spectrum (TFLite RFFT2D).

    C1  rank(x) >= 2
    C2  fft_length has two elements, no larger than the axes
    """
    size = tuple(int(v) for v in fft_length.reshape(-1))
    if x.ndim < 2 or len(size) != 2 or any(n > s for n, s in zip(size, x.shape[-2:], strict=True)):
        raise ValueError(f"a transform of {size} of {x.shape}")
    return np.fft.rfft2(x, size).astype(np.complex64)
