"""The arithmetic of quantization: scales, rounding, signal-to-noise ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.tensors import DenseTensor, ExternalTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_ir.dtypes import DType

Array = np.ndarray[Any, Any]

BLOCK = 1 << 20
"""Elements held in f64 at a time."""

SMALLEST_WEIGHT_SCALE = 1e-25
SMALLEST_SCALE = 1e-12
"""Floors that keep ``x_scale * w_scale``, the scale of a bias, a normal f32."""

BIAS_LIMIT = float(1 << 30)
"""Largest magnitude of an i32 bias; leaves half of the accumulator to the products."""


class DerivedTensor(Tensor):
    """A constant computed from another one whenever it is read, and never kept."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[], Array], dtype: DType, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self._make = make

    def numpy(self) -> Array:
        return self._make()


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


def weight_scale(
    data: Array, axis: int | None, limit: int, floor: Array | None = None
) -> Array | None:
    """Return f32 scales with ``max |w| = limit * scale``, or ``None`` for non-finite weights.

    A channel of zeros gets ``floor``, or 1 without one; ``floor`` is the least scale per channel.
    """
    if axis is None:
        top = np.asarray(np.max(np.abs(data), initial=0.0))
    else:
        others = tuple(i for i in range(data.ndim) if i != axis)
        top = np.maximum(
            np.max(data, axis=others, initial=0.0), -np.min(data, axis=others, initial=0.0)
        )
    top = np.asarray(top, np.float64)
    if not np.isfinite(top).all():
        return None
    scale = np.maximum(top / limit, SMALLEST_WEIGHT_SCALE)
    if floor is not None:
        scale = np.where(top > 0, np.maximum(scale, floor), np.where(floor > 0, floor, 1.0))
    else:
        scale = np.where(top > 0, scale, 1.0)
    return np.asarray(scale, np.float32)


SEARCH = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
"""Shares of a channel's range that a search for the least squared error tries."""


def searched_scale(data: Array, scale: Array, axis: int | None, limit: int) -> Array:
    """Return scales that clip channels where that lowers their squared error."""
    others = None if axis is None else tuple(i for i in range(data.ndim) if i != axis)

    def errors(s: Array) -> Array:
        wide = spread(s, axis, data.ndim)
        back = np.clip(np.rint(data / wide), -limit, limit) * wide
        return np.asarray(np.sum(np.square(data - back), axis=others, dtype=np.float64))

    best, found = errors(scale), scale
    for share in SEARCH:
        other = np.asarray(scale * np.float32(share), np.float32)
        error = errors(other)
        found = np.where(error < best, other, found)
        best = np.minimum(error, best)
    return np.asarray(found, np.float32)


def quantize(data: Array, scale: Array, axis: int | None, limit: int) -> Array:
    """Return ``clip(round(data / scale), -limit, limit)`` as i8, halves to even."""
    if data.ndim == 0:
        return _rounded(data, scale, limit)
    out = np.empty(data.shape, np.int8)
    for part, channels in _blocks(data, axis):
        s = scale[channels] if axis is not None else scale
        out[part] = _rounded(data[part], spread(s, axis, data.ndim), limit)
    return out


def _rounded(data: Array, scale: Array, limit: int) -> Array:
    q = np.asarray(data, np.float32) / scale
    np.rint(q, out=q)
    np.clip(q, -limit, limit, out=q)
    return q.astype(np.int8)


def quantize_weight(
    source: Tensor,
    axis: int | None,
    limit: int,
    floor: Array | None = None,
    *,
    search: bool = False,
) -> Weight | None:
    """Quantize one weight symmetrically; ``None`` when it holds NaN or infinities.

    A weight that lives in a file is not kept in memory: its integers are computed again when the
    result is written.
    """
    data = source.numpy()
    scale = weight_scale(data, axis, limit, floor)
    if scale is None:
        return None
    if search and data.size:
        scale = searched_scale(data, scale, axis, limit)
        scale = scale if floor is None else np.asarray(np.maximum(scale, floor), np.float32)
    q = quantize(data, scale, axis, limit)
    ratio = weight_sqnr(data, q, scale, axis)
    tensor: Tensor = DenseTensor(q)
    if isinstance(source, ExternalTensor):
        tensor = DerivedTensor(
            lambda: quantize(source.numpy(), scale, axis, limit), dtypes.I8, source.shape
        )
    return Weight(tensor, scale, axis, ratio)


def _blocks(data: Array, axis: int | None) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the first axis, and of the scales that belong to them."""
    rows = data.shape[0] if data.ndim else 1
    step = max(BLOCK // max(data.size // max(rows, 1), 1), 1)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        yield part, part if axis == 0 else slice(None)


def weight_sqnr(data: Array, q: Array, scale: Array, axis: int | None) -> float:
    """Return ``10 log10(sum w^2 / sum (w - q * scale)^2)`` in f64, with ``q * scale`` in f32."""
    if data.ndim == 0:
        data, q = data.reshape(1), q.reshape(1)
    signal = noise = 0.0
    for part, channels in _blocks(data, axis):
        s = scale[channels] if axis is not None else scale
        back = q[part].astype(np.float32) * spread(s, axis, data.ndim)
        exact = np.asarray(data[part], np.float64).reshape(-1)
        error = exact - back.astype(np.float64).reshape(-1)
        signal += float(np.dot(exact, exact))
        noise += float(np.dot(error, error))
    return decibels(signal, noise)


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


def affine(low: float, high: float, dtype: DType, symmetric: bool) -> Affine:
    """Return the parameters that map ``[low, high]``, widened to hold 0, onto an 8-bit type.

    A range of nothing but 0 gets scale 1. Symmetric parameters have the zero point 128 (u8) or
    0 (i8), unless the range has no negative part (u8: zero point 0).
    """
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = (-128, 127) if dtype is dtypes.I8 else (0, 255)
    if symmetric and (low < 0 or dtype is dtypes.I8):
        middle = 0 if dtype is dtypes.I8 else 128
        scale = max(-low, high) / 127
        zero = middle
    else:
        scale = (high - low) / 255
        zero = bottom
        if scale > 0:
            zero = min(max(round(bottom - low / scale), bottom), top)
    if scale == 0:
        return Affine(np.asarray(1.0, np.float32), np.asarray(zero, dtype.numpy))
    exact = np.float32(max(scale, SMALLEST_SCALE))
    return Affine(np.asarray(exact), np.asarray(zero, dtype.numpy))
