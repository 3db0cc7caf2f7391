"""The arithmetic of quantization: scales, rounding, signal-to-noise ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.passes.quant.parts import DerivedTensor, Parts
from lepton_ir.tensors import DenseTensor, ExternalTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.dtypes import DType

Array = np.ndarray[Any, Any]

SMALLEST_WEIGHT_SCALE = 1e-25
SMALLEST_SCALE = 1e-12
"""Floors that keep ``x_scale * w_scale``, the scale of a bias, a normal f32."""

BIAS_LIMIT = float(1 << 30)
"""Largest magnitude of an i32 bias; leaves half of the accumulator to the products."""


@dataclass(frozen=True)
class Weight:
    """A symmetric i8 weight.

    Attributes:
        tensor: the integers, in the layout of the source.
        scale: f32, a scalar or one per element of ``axis``.
        axis: the axis of the scales, ``None`` per tensor.
        sqnr: of the dequantized weight, in dB; ``inf`` without noise.
    """

    tensor: Tensor
    scale: Array
    axis: int | None
    sqnr: float

    @property
    def nbytes(self) -> int:
        """Bytes of integers, scales and zero points."""
        return int(self.tensor.nbytes + self.scale.nbytes + self.scale.size)


def spread(scale: Array, axis: int | None, rank: int) -> Array:
    """Return ``scale`` in a shape that broadcasts along ``axis``."""
    return scale if axis is None else scale.reshape((-1,) + (1,) * (rank - axis - 1))


def weight_scale(parts: Parts, limit: int, floor: Array | None = None) -> Array | None:
    """Return f32 scales with ``max |w| = limit * scale``, or ``None`` for non-finite weights.

    A channel of zeros gets ``floor``, or 1 without one; ``floor`` is the least scale per channel.
    """
    axis, others = parts.axis, parts.others
    top = np.zeros(() if axis is None else parts.source.shape[axis], np.float32)
    for _, channels, data in parts:
        found = np.maximum(
            np.max(data, axis=others, initial=0.0), -np.min(data, axis=others, initial=0.0)
        )
        top[channels] = np.maximum(top[channels], found)
    wide = np.asarray(top, np.float64)
    if not np.isfinite(wide).all():
        return None
    scale = np.maximum(wide / limit, SMALLEST_WEIGHT_SCALE)
    if floor is not None:
        scale = np.where(wide > 0, np.maximum(scale, floor), np.where(floor > 0, floor, 1.0))
    else:
        scale = np.where(wide > 0, scale, 1.0)
    return np.asarray(scale, np.float32)


SEARCH = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
"""Shares of a channel's range that a search for the least squared error tries."""


def searched_scale(parts: Parts, scale: Array, limit: int) -> Array:
    """Return scales that clip channels where that lowers their squared error."""
    tried = [scale, *(np.asarray(scale * np.float32(share), np.float32) for share in SEARCH)]
    errors = [np.zeros(scale.shape) for _ in tried]
    for _, channels, data in parts:
        for error, s in zip(errors, tried, strict=True):
            wide = spread(s[channels], parts.axis, data.ndim)
            back = np.clip(np.rint(data / wide), -limit, limit) * wide
            off = np.square(data - back)
            error[channels] += np.sum(off, axis=parts.others, dtype=np.float64)
    best, found = errors[0], scale
    for error, s in zip(errors[1:], tried[1:], strict=True):
        found = np.where(error < best, s, found)
        best = np.minimum(error, best)
    return np.asarray(found, np.float32)


def quantize(parts: Parts, scale: Array, limit: int) -> Iterator[tuple[Any, Array, Array, Array]]:
    """Yield index, elements, ``clip(round(w / scale), -limit, limit)`` as i8 and its scale.

    Halves are rounded to even; the scale broadcasts.
    """
    for part, channels, data in parts:
        wide = spread(scale[channels], parts.axis, data.ndim)
        q = np.asarray(np.asarray(data, np.float32) / wide)
        np.rint(q, out=q)
        np.clip(q, -limit, limit, out=q)
        yield part, data, q.astype(np.int8), wide


def quantize_weight(
    source: Tensor,
    axis: int | None,
    limit: int,
    floor: Array | None = None,
    *,
    search: bool = False,
    factor: Array | None = None,
) -> Weight | None:
    """Quantize one weight symmetrically; ``None`` when it holds NaN or infinities.

    A weight that lives in a file is not kept in memory: its integers are computed again when the
    result is written.

    Args:
        source: the weight.
        axis: of the channels with a scale each, ``None`` for one scale.
        limit: the largest integer.
        floor: least scale per channel.
        search: choose scales by squared error.
        factor: what the weight is multiplied with before, of the same rank.
    """
    parts = Parts(source, axis, factor)
    scale = weight_scale(parts, limit, floor)
    if scale is None:
        return None
    if search and source.size:
        scale = searched_scale(parts, scale, limit)
        scale = scale if floor is None else np.asarray(np.maximum(scale, floor), np.float32)
    kept = None if isinstance(source, ExternalTensor) else np.empty(source.shape, np.int8)
    signal = noise = 0.0
    for part, data, q, wide in quantize(parts, scale, limit):
        if kept is not None:
            kept[part] = q
        exact = np.asarray(data, np.float64).reshape(-1)
        error = exact - (q.astype(np.float32) * wide).astype(np.float64).reshape(-1)
        signal += float(np.dot(exact, exact))
        noise += float(np.dot(error, error))
    tensor: Tensor
    if kept is not None:
        tensor = DenseTensor(kept)
    else:
        held = scale

        def pieces() -> Iterator[Array]:
            return (q for _, _, q, _ in quantize(parts, held, limit))

        tensor = DerivedTensor(pieces, dtypes.I8, source.shape)
    return Weight(tensor, scale, axis, decibels(signal, noise))


def decibels(signal: float, noise: float) -> float:
    """Return ``10 log10(signal / noise)``; ``inf`` without noise, ``-inf`` without signal."""
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


@dataclass(frozen=True)
class Affine:
    """Scale (f32 scalar) and zero point of an activation."""

    scale: Array
    zero: Array


def levels_of(dtype: DType) -> int:
    """Return how many codes a type has."""
    return 1 << dtype.bits


def affine(low: float, high: float, dtype: DType, symmetric: bool) -> Affine:
    """Return the parameters that map ``[low, high]``, widened to hold 0, onto an 8- or 16-bit type.

    A range of nothing but 0 gets scale 1. Symmetric parameters have the zero point in the middle
    (0 of signed types), unless the range of an unsigned type has no negative part (zero point 0).
    """
    low, high = min(low, 0.0), max(high, 0.0)
    limits = np.iinfo(dtype.numpy)
    bottom, top = int(limits.min), int(limits.max)
    if symmetric and (low < 0 or bottom < 0):
        zero = (top + bottom + 1) // 2
        scale = max(-low, high) / (top - zero)
    else:
        scale = (high - low) / (top - bottom)
        zero = bottom
        if scale > 0:
            zero = min(max(round(bottom - low / scale), bottom), top)
    if scale == 0:
        return Affine(np.asarray(1.0, np.float32), np.asarray(zero, dtype.numpy))
    exact = np.float32(max(scale, SMALLEST_SCALE))
    return Affine(np.asarray(exact), np.asarray(zero, dtype.numpy))
