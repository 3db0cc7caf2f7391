"""Lowerings of sampling, transforms and boxes: gathers and products of matrices."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lower_index import line
from lepton_ir.backends.tflite.lowering import (
    cut,
    dtype_of,
    full,
    i64,
    inverse,
    operand,
    optional,
    rank_of,
    shape_of,
)
from lepton_ir.backends.tflite.row import constant_ints

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value


# -- GridSample ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """How positions are read.

    Attributes:
        mode: ``nearest``, ``linear`` or ``cubic``.
        padding: ``zeros``, ``border`` or ``reflection``.
        aligned: whether -1 and 1 are the middles of the corner elements.
    """

    mode: str
    padding: str
    aligned: bool


def _bounded(b: Builder, x: Value, low: float, high: float) -> Value:
    found: Value = b.min(b.max(x, full(b, low, x)), full(b, high, x))
    return found


def _reflected(b: Builder, x: Value, low: float, high: float) -> Value:
    """Mirror numbers at both borders: ``|x - low|`` in a period of twice the span."""
    span = high - low
    if span <= 0:
        return _bounded(b, x, low, low)
    phase = b.mod(b.sub(x, full(b, low, x)), full(b, 2 * span, x))
    back = b.abs(b.sub(phase, full(b, span, x)))
    found: Value = b.sub(full(b, low + span, x), back)
    return found


def _taps(b: Builder, at: Value, size: int, way: _Way) -> list[tuple[Value, Value | None]]:
    """Build (index, weight) for each element of an axis that a position reads."""
    low, high = (0.0, size - 1.0) if way.aligned else (-0.5, size - 0.5)
    if way.mode == "nearest":
        at = b.round(at)
    if way.padding == "border" and way.mode != "cubic":
        at = _bounded(b, at, 0, size - 1)
    elif way.padding == "reflection":
        at = _reflected(b, at, low, high)
    base = b.floor(at)
    offsets = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[way.mode]
    found: list[tuple[Value, Value | None]] = []
    for offset in offsets:
        index = base if not offset else b.add(base, full(b, offset, base))
        weight = None if way.mode == "nearest" else _weight(b, b.abs(b.sub(index, at)), way.mode)
        if way.padding == "zeros":
            inside = b.and_(
                b.greater_or_equal(index, full(b, 0, index)),
                b.less_or_equal(index, full(b, size - 1, index)),
            )
            one = full(b, 1, index) if weight is None else weight
            weight = b.where(inside, one, full(b, 0, index))
        elif way.padding == "reflection":
            index = _reflected(b, index, low, high)
        whole = b.cast(_bounded(b, index, 0, size - 1), to=dtypes.I64)
        found.append((b.max(whole, full(b, 0, whole)), weight))
    return found


def _weight(b: Builder, distance: Value, mode: str) -> Value:
    """Build the kernel of a distance; cubic is Keys' with a = -0.75."""
    d = distance
    if mode == "linear":
        found: Value = b.relu(b.sub(full(b, 1, d), d))
        return found
    a = -0.75
    near = b.mul(b.sub(b.mul(full(b, a + 2, d), d), full(b, a + 3, d)), b.mul(d, d))
    near = b.add(near, full(b, 1, d))
    far = b.sub(b.mul(full(b, a, d), d), full(b, 5 * a, d))
    far = b.add(b.mul(far, d), full(b, 8 * a, d))
    far = b.sub(b.mul(far, d), full(b, 4 * a, d))
    beyond = b.where(b.less(d, full(b, 2, d)), far, full(b, 0, d))
    chosen: Value = b.where(b.less_or_equal(d, full(b, 1, d)), near, beyond)
    return chosen


def _grid_sample(b: Builder, op: Op) -> list[Value]:
    """Each of the neighbours of a position is gathered from the flattened planes."""
    x, grid = operand(op, 0), operand(op, 1)
    dtype = dtype_of(x)
    if dtype is not dtypes.F32 or dtype_of(grid) is not dtypes.F32:
        raise ValueError(f"positions and elements of {dtype} are not sampled")
    rank = rank_of(x) - 2
    sizes = shape_of(x)[2:]
    if not all(isinstance(d, int) for d in sizes):
        raise ValueError("a size is not known")
    way = _Way(op.attr("mode"), op.attr("padding_mode"), bool(op.attr("align_corners")))
    lengths = [int(d) for d in sizes]  # type: ignore[arg-type]
    axes = []
    for i, size in enumerate(lengths):
        g = b.squeeze(cut(b, grid, rank + 1, rank - 1 - i, rank - i), i64(b, rank + 1))
        scale = (size - 1) / 2 if way.aligned else size / 2
        at = b.add(b.mul(g, full(b, scale, g)), full(b, (size - 1) / 2, g))
        axes.append(_taps(b, at, size, way))
    source = b.transpose(x, perm=(0, *range(2, rank + 2), 1))
    channels = shape_of(x)[1]
    if not isinstance(channels, int):
        raise ValueError("the channels are not known")
    source = b.reshape(source, i64(b, -1, channels))
    plane = int(np.prod(lengths))
    batch = line(b, x, 0)
    batch = b.mul(batch, full(b, plane, batch))
    batch = b.reshape(batch, i64(b, -1, *[1] * rank))
    total: Value | None = None
    for chosen in itertools.product(*axes):
        value = _picked(b, source, batch, chosen, lengths)
        total = value if total is None else b.add(total, value)
    assert total is not None
    return [b.transpose(total, perm=(0, rank + 1, *range(1, rank + 1)))]


def _picked(
    b: Builder,
    source: Value,
    batch: Value,
    chosen: tuple[tuple[Value, Value | None], ...],
    sizes: list[int],
) -> Value:
    """Build the elements at one combination of taps, times their weights."""
    place, weight = batch, None
    for i, (index, own) in enumerate(chosen):
        stride = int(np.prod(sizes[i + 1 :], dtype=np.int64))
        place = b.add(place, index if stride == 1 else b.mul(index, full(b, stride, index)))
        if own is not None:
            weight = own if weight is None else b.mul(weight, own)
    value: Value = b.gather(source, place, axis=0)
    if weight is None:
        return value
    wide = b.unsqueeze(weight, i64(b, rank_of(weight)))
    # A tap outside counts 0 even where the clamped element is infinite.
    product: Value = b.mul(value, wide)
    return product


# -- transforms ------------------------------------------------------------------------------------


def _dft(b: Builder, op: Op) -> list[Value]:
    """Multiply by the cosines and sines of the transform."""
    x = operand(op, 0)
    rank = rank_of(x)
    if dtype_of(x) is not dtypes.F32:
        raise ValueError(f"there is no transform of {x.dtype}")
    axis_given, length_given = optional(op, 2), optional(op, 1)
    axes = [-2] if axis_given is None else constant_ints(axis_given)
    if axes is None:
        raise ValueError("the axis is not a constant")
    axis = axes[0] % rank
    size, parts = shape_of(x)[axis], shape_of(x)[-1]
    lengths = [size] if length_given is None else constant_ints(length_given)
    if lengths is None or not isinstance(size, int) or not isinstance(lengths[0], int):
        raise ValueError("the length is not a constant")
    length, backwards = lengths[0], bool(op.attr("inverse"))
    if backwards and op.attr("onesided"):
        raise ValueError("there is no real signal of half a spectrum")
    count = length // 2 + 1 if op.attr("onesided") else length
    used = min(size, length)
    angle = 2 * np.pi * np.outer(np.arange(used), np.arange(count)) / length
    scale = 1 / length if backwards else 1.0
    cos, sin = np.cos(angle) * scale, np.sin(angle) * (scale if backwards else -scale)
    x = cut(b, x, axis, 0, used) if used < size else x
    perm = [*(i for i in range(rank) if i not in (axis, rank - 1)), rank - 1, axis]
    moved = b.transpose(x, perm=perm)  # (..., parts, axis)
    real = _times(b, moved, cos)
    imaginary = _times(b, moved, sin)
    last = rank - 2
    if parts == 2:
        re = b.sub(cut(b, real, last, 0, 1), cut(b, imaginary, last, 1, 2))
        im = b.add(cut(b, imaginary, last, 0, 1), cut(b, real, last, 1, 2))
    else:
        re, im = real, imaginary
    return [b.transpose(b.concat(re, im, axis=last), perm=inverse(perm))]


def _times(b: Builder, x: Value, matrix: Any) -> Value:
    found: Value = b.matmul(x, b.const(matrix.astype(np.float32)))
    return found


# -- NonMaxSuppression -----------------------------------------------------------------------------


def _non_max_suppression(b: Builder, op: Op) -> list[Value]:
    """One suppression for each batch and class, of a padded number of boxes, which is cut off."""
    boxes, scores = operand(op, 0), operand(op, 1)
    batches, classes, count = shape_of(scores)
    limit = optional(op, 2)
    if limit is None:
        raise ValueError("no box is selected")
    known = constant_ints(limit)
    if not isinstance(batches, int) or not isinstance(classes, int):
        raise ValueError("the number of batches or classes is not known")
    if batches * classes > _MOST_CLASSES:
        raise ValueError(f"there are more than {_MOST_CLASSES} batches and classes")
    if known is None:
        number = _scalar(b, b.cast(limit, to=dtypes.I32), 0)
    elif known[0] <= 0:
        raise ValueError("no box is selected")
    else:
        most = min(known[0], count) if isinstance(count, int) else known[0]
        number = b.const(np.asarray(most, np.int32))
    overlap = _scalar(b, optional(op, 3), 0.0)
    # The kernel drops boxes from the threshold on, ONNX those above it: the next number does so.
    overlap = b.add(b.mul(overlap, full(b, 1 + 2.0**-23, overlap)), full(b, 1e-37, overlap))
    thresholds = [overlap, _scalar(b, optional(op, 4), None)]
    corners = _corners(b, boxes) if op.attr("center_point_box") else boxes
    parts = []
    for n, c in itertools.product(range(batches), range(classes)):
        own = b.squeeze(cut(b, corners, 0, n, n + 1), i64(b, 0))
        line_ = b.squeeze(cut(b, cut(b, scores, 0, n, n + 1), 1, c, c + 1), i64(b, 0, 1))
        chosen, _, valid = b.soft_non_max_suppression(own, line_, number, *thresholds, results=3)
        many = b.reshape(b.cast(valid, to=dtypes.I64), i64(b, 1))
        kept = b.slice(chosen, i64(b, 0), many, i64(b, 0))
        column = b.unsqueeze(b.cast(kept, to=dtypes.I64), i64(b, 1))
        zeros = b.mul(column, full(b, 0, column))
        front = [b.add(zeros, full(b, k, zeros)) for k in (n, c)]
        parts.append(b.concat(*front, column, axis=1))
    return [parts[0] if len(parts) == 1 else b.concat(*parts, axis=0)]


_MOST_CLASSES = 128


def _scalar(b: Builder, value: Value | None, default: float | None) -> Value:
    if value is None:
        number = np.finfo(np.float32).min if default is None else default
        return b.const(np.asarray(number, np.float32))
    if value.rank == 0:
        return value
    found: Value = b.reshape(value, b.const(np.zeros(0, np.int64)))
    return found


def _corners(b: Builder, boxes: Value) -> Value:
    """Build (y1, x1, y2, x2) of (x, y, width, height) around a middle."""
    x, y, w, h = (cut(b, boxes, 2, i, i + 1) for i in range(4))
    half_w, half_h = (b.mul(v, full(b, 0.5, v)) for v in (w, h))
    parts = b.sub(y, half_h), b.sub(x, half_w), b.add(y, half_h), b.add(x, half_w)
    found: Value = b.concat(*parts, axis=2)
    return found


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "grid_sample": _grid_sample,
    "dft": _dft,
    "non_max_suppression": _non_max_suppression,
}
