"""Interpolation along one axis: coordinates, taps and weights of Resize (ONNX Resize-19)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lepton_ir.ops._support import Array

TRANSFORMS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Axis:
    """One resized axis.

    Attributes:
        index: which axis.
        size: input size.
        out: output size.
        scale: the scale given, or derived from the sizes.
        length: ``size * scale`` as the transforms use it, fractional when a scale was given.
        roi: normalized start and end.
    """

    index: int
    size: int
    out: int
    scale: np.float32
    length: np.float32
    roi: tuple[float, float] = (0.0, 1.0)


def scaled_size(size: int, scale: float) -> int:
    """Return ``floor(size * scale)``, multiplied in f32 as runtimes do."""
    return math.floor(np.float32(size) * np.float32(scale))


def coordinates(axis: Axis, transform: str) -> Array:
    """Return where each output element lies on the input axis, in f32 (Resize's formulas)."""
    one, half = np.float32(1), np.float32(0.5)
    x = np.arange(axis.out, dtype=np.float32)
    if transform == "asymmetric":
        return np.asarray(x / axis.scale)
    if transform == "align_corners":
        span = np.float32(axis.size - 1)
        return np.zeros_like(x) if axis.length == 1 else x * span / (axis.length - one)
    if transform == "tf_crop_and_resize":
        start, end = (np.float32(r) for r in axis.roi)
        span = np.float32(axis.size - 1)
        if axis.length == 1:
            return np.full_like(x, half * (start + end) * span)
        return np.asarray(start * span + x * (end - start) * span / (axis.length - one))
    if transform == "pytorch_half_pixel" and axis.length == 1:
        return np.full_like(x, -half)
    found = (x + half) / axis.scale - half
    if transform == "half_pixel_symmetric":
        adjustment = np.float32(axis.out) / axis.length
        found = found + np.float32(axis.size) / np.float32(2) * (one - adjustment)
    return np.asarray(found)


def nearest(x: Array, mode: str) -> Array:
    """Round coordinates to integers by one of Resize's nearest modes."""
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    if mode == "round_prefer_ceil":
        return np.asarray(np.floor(x + x.dtype.type(0.5)))
    return np.asarray(np.ceil(x - x.dtype.type(0.5)))


def cubic_kernel(x: Array, a: float) -> Array:
    """Return Keys' cubic convolution kernel with coefficient ``a``, 0 beyond distance 2."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def linear_kernel(x: Array) -> Array:
    """Return the tent kernel."""
    return np.asarray(np.clip(1 - np.abs(x), 0, 1))


def taps(
    x: Array,
    size: int,
    *,
    mode: str,
    scale: float,
    antialias: bool,
    exclude_outside: bool,
    cubic_a: float,
) -> tuple[Array, Array]:
    """Return the indexes (out, k) and weights (out, k) of linear or cubic interpolation.

    With ``antialias`` the kernel is stretched by ``1 / scale`` when that is > 1. Indexes are
    clamped to the axis; ``exclude_outside`` drops the taps outside and renormalizes instead.
    """
    x = x.astype(np.float64)
    shrink = min(float(scale), 1.0) if antialias else 1.0
    reach = 2 if mode == "cubic" else 1
    start = math.floor(-reach / shrink) + 1
    offsets = np.arange(start, 2 - start)
    base = np.ceil(x) - 1  # the last element strictly left of x
    distance = (base[:, None] + offsets - x[:, None]) * shrink
    weights = cubic_kernel(distance, cubic_a) if mode == "cubic" else linear_kernel(distance)
    indexes = (base[:, None] + offsets).astype(np.int64)
    if exclude_outside:
        weights = np.where((indexes < 0) | (indexes >= size), 0.0, weights)
    if exclude_outside or shrink < 1.0:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(indexes, 0, size - 1), weights


def apply_taps(x: Array, axis: int, indexes: Array, weights: Array) -> Array:
    """Return the weighted sums of ``x`` along ``axis``; f32 unless ``x`` is wider."""
    kind = np.float32 if x.dtype in (np.float32, np.float16) else np.float64
    shape = [1] * x.ndim
    shape[axis] = len(indexes)
    total: Array | None = None
    for k in range(indexes.shape[1]):
        term = np.take(x, indexes[:, k], axis) * weights[:, k].astype(kind).reshape(shape)
        total = term if total is None else total + term
    assert total is not None
    return total
