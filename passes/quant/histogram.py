"""Mergeable histograms of activations, and the ranges that calibrators choose from them.

A histogram has a fixed number of bins around zero whose width is a power of two. When a value lies
outside, neighbouring bins are added up and the width doubles. So adding and merging give the same
counts in whatever order the data comes, in a few kilobytes per tensor.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

HALF = 2048
"""Bins on each side of zero."""

_SMALLEST = -140

LEVELS = 256
"""Codes of an 8-bit range."""

CANDIDATES = 48
"""Clipped ranges that a search looks at, per end."""

SHORTEST = 0.2
"""Share of a range below which no search goes."""


class Histogram:
    """Counts of the finite values of one tensor.

    Attributes:
        exponent: of the width of a bin, ``2 ** exponent``.
        counts: ``[2 * HALF]``; bin ``i`` holds ``floor(x / width) == i - HALF``.
        zeros: exact zeros, which every range holds exactly; they are not in ``counts``.
        low: least value, at most 0.
        high: largest value, at least 0.
    """

    __slots__ = ("counts", "exponent", "high", "low", "zeros")

    def __init__(self) -> None:
        self.exponent = _SMALLEST
        self.counts = np.zeros(2 * HALF, np.int64)
        self.zeros = 0
        self.low = self.high = 0.0

    def add(self, data: Array) -> None:
        """Count the elements of ``data``; NaN and infinities are left out."""
        flat = np.asarray(data, np.float32).reshape(-1)
        finite = np.isfinite(flat)
        if not finite.all():
            flat = flat[finite]
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))
        values = flat[flat != 0]
        self.zeros += flat.size - values.size
        bins = np.floor(np.ldexp(values.astype(np.float64), -self.exponent)).astype(np.int64)
        np.clip(bins, -HALF, HALF - 1, out=bins)
        self.counts += np.bincount(bins + HALF, minlength=2 * HALF)

    def merge(self, other: Histogram) -> None:
        """Take in the counts of another histogram, which may become wider."""
        common = max(self.exponent, other.exponent)
        self._widen(common)
        other._widen(common)
        self.counts += other.counts
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def _reach(self, magnitude: float) -> None:
        if magnitude > 0:
            self._widen(max(math.frexp(magnitude / HALF)[1], _SMALLEST))

    def _widen(self, exponent: int) -> None:
        empty = not self.counts.any()
        while self.exponent < exponent:
            if empty:
                self.exponent = exponent
                return
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts[:] = 0
            self.counts[HALF // 2 : HALF // 2 + HALF] = pairs
            self.exponent += 1

    @property
    def centers(self) -> Array:
        """Middle of each bin, f64."""
        middles: Array = np.ldexp(np.arange(-HALF, HALF) + 0.5, self.exponent)
        return middles


def percentile(h: Histogram, percent: float) -> tuple[float, float]:
    """Return the range that leaves out ``100 - percent`` of the values at either end."""
    total = int(h.counts.sum()) + h.zeros
    if not total:
        return h.low, h.high
    counts = h.counts.copy()
    counts[HALF] += h.zeros
    below = np.cumsum(counts)
    out = total * (1 - percent / 100)
    edges = np.ldexp(np.arange(-HALF, HALF + 1).astype(np.float64), h.exponent)
    first = int(np.searchsorted(below, out, side="right"))
    last = int(np.searchsorted(below, total - out, side="left"))
    low, high = edges[min(first, 2 * HALF)], edges[min(last + 1, 2 * HALF)]
    return max(float(low), h.low), min(float(high), h.high)


def squared_error(h: Histogram, levels: int = LEVELS) -> tuple[float, float]:
    """Return the range with the least mean squared error in ``levels`` steps.

    A value inside is off by ``step^2 / 12`` on average, one outside by its distance.
    """
    counts, x = h.counts.astype(np.float64), h.centers
    moments = [np.concatenate(([0.0], np.cumsum(counts * x**k))) for k in range(3)]
    total = moments[0][-1]
    if not total:
        return h.low, h.high
    shares = np.linspace(SHORTEST, 1.0, CANDIDATES)
    lows = h.low * shares if h.low < 0 else np.zeros(1)
    highs = h.high * shares if h.high > 0 else np.zeros(1)
    i, j = np.searchsorted(x, lows), np.searchsorted(x, highs)
    below = moments[2][i] - 2 * lows * moments[1][i] + lows**2 * moments[0][i]
    above = (
        (moments[2][-1] - moments[2][j])
        - 2 * highs * (moments[1][-1] - moments[1][j])
        + highs**2 * (total - moments[0][j])
    )
    inside = moments[0][j][None, :] - moments[0][i][:, None]
    step = (highs[None, :] - lows[:, None]) / (levels - 1)
    error = below[:, None] + above[None, :] + step**2 / 12 * inside
    a, b = np.unravel_index(int(np.argmin(error)), error.shape)
    return float(lows[a]), float(highs[b])


def entropy(h: Histogram, levels: int = LEVELS) -> tuple[float, float]:
    """Return the range whose quantized histogram diverges least (Kullback-Leibler).

    With more levels than bins nothing is known to be lost, and the range stays whole.
    """
    first = int(np.floor(h.low / math.ldexp(1.0, h.exponent))) + HALF
    last = int(np.ceil(h.high / math.ldexp(1.0, h.exponent))) + HALF
    best, found = math.inf, (h.low, h.high)
    for share in np.linspace(1.0, SHORTEST, CANDIDATES):
        start = HALF - round((HALF - first) * share)
        stop = HALF + round((last - HALF) * share)
        if stop - start < levels:
            break
        divergence = _divergence(h.counts, start, stop, levels)
        if divergence < best:
            best = divergence
            width = math.ldexp(1.0, h.exponent)
            found = max((start - HALF) * width, h.low), min((stop - HALF) * width, h.high)
    return found


def _divergence(counts: Array, start: int, stop: int, levels: int) -> float:
    """Return the divergence of clipped counts from what ``levels`` steps keep of them."""
    inner = counts[start:stop].astype(np.float64)
    p = inner.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()
    if not inner.any():
        return math.inf
    edges = np.linspace(0, stop - start, levels, endpoint=False).astype(np.int64)
    lengths = np.diff(np.append(edges, stop - start))
    filled = np.add.reduceat((inner > 0).astype(np.float64), edges)
    mass = np.add.reduceat(inner, edges)
    with np.errstate(divide="ignore", invalid="ignore"):
        even = np.where(filled > 0, mass / filled, 0.0)
    q = np.where(inner > 0, np.repeat(even, lengths), 0.0)
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))
