"""The loops of road b, compiled by numba and kept in its cache; importing this imports numba.

Each function works on plain arrays of a canonical rank, any element type, and returns the position
of the first index out of range, or -1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound="Callable[..., Any]")

ADD, MUL, MAX, MIN = range(4)


def _compiled(function: F) -> F:
    return cast("F", numba.njit(cache=True, nogil=True)(function))


@_compiled
def scatter_elements(out: Array, index: Array, updates: Array) -> int:
    """``out[o, index[o, m, i], i] = updates[o, m, i]``; the last update wins."""
    size = out.shape[1]
    outer, count, inner = index.shape
    for o in range(outer):
        for m in range(count):
            for i in range(inner):
                k = index[o, m, i]
                if k < 0:
                    k += size
                if k < 0 or k >= size:
                    return int((o * count + m) * inner + i)
                out[o, k, i] = updates[o, m, i]
    return -1


@_compiled
def _combined(a: Any, b: Any, how: int) -> Any:
    if how == ADD:
        return a + b
    if how == MUL:
        return a * b
    if a != a:
        return a
    if how == MAX:
        return a if a > b else b
    return a if a < b else b


@_compiled
def combine_elements(out: Array, index: Array, updates: Array, how: int) -> int:
    """Like :func:`scatter_elements`, but updates are added, multiplied or compared."""
    size = out.shape[1]
    outer, count, inner = index.shape
    for o in range(outer):
        for m in range(count):
            for i in range(inner):
                k = index[o, m, i]
                if k < 0:
                    k += size
                if k < 0 or k >= size:
                    return int((o * count + m) * inner + i)
                out[o, k, i] = _combined(out[o, k, i], updates[o, m, i], how)
    return -1


@_compiled
def _row(index: Array, b: int, m: int, dims: Array) -> int:
    """Return the row that coordinates name, ``-1 - k`` when coordinate ``k`` is out of range."""
    row = 0
    for k in range(dims.shape[0]):
        at = index[b, m, k]
        if at < 0:
            at += dims[k]
        if at < 0 or at >= dims[k]:
            return -1 - k
        row = row * dims[k] + at
    return row


@_compiled
def gather_rows(x: Array, index: Array, dims: Array, out: Array) -> int:
    """``out[b, m] = x[b, row]``, the row of ``index[b, m]`` among axes of sizes ``dims``."""
    batch, count, depth = index.shape
    for b in range(batch):
        for m in range(count):
            row = _row(index, b, m, dims)
            if row < 0:
                return int((b * count + m) * depth - 1 - row)
            for i in range(x.shape[2]):
                out[b, m, i] = x[b, row, i]
    return -1


@_compiled
def scatter_rows(out: Array, index: Array, dims: Array, updates: Array) -> int:
    """``out[row] = updates[m]``, the row of ``index[0, m]``; the last update wins."""
    for m in range(index.shape[1]):
        row = _row(index, 0, m, dims)
        if row < 0:
            return int(m * index.shape[2] - 1 - row)
        for i in range(out.shape[1]):
            out[row, i] = updates[m, i]
    return -1


@_compiled
def combine_rows(out: Array, index: Array, dims: Array, updates: Array, how: int) -> int:
    """Like :func:`scatter_rows`, but updates are added, multiplied or compared."""
    for m in range(index.shape[1]):
        row = _row(index, 0, m, dims)
        if row < 0:
            return int(m * index.shape[2] - 1 - row)
        for i in range(out.shape[1]):
            out[row, i] = _combined(out[row, i], updates[m, i], how)
    return -1


@_compiled
def sample(x: Array, index: Array, weights: Array, out: Array) -> None:
    """``out[n, c, p] = sum_t x[n, c, index[n, p, t]] * weights[n, p, t]``, sums in float64.

    A weight of 0 leaves its element out, whatever it is; one weight of 1 is the element itself.
    """
    batch, channels, count = out.shape
    taps = index.shape[2]
    for n in range(batch):
        for c in range(channels):
            for p in range(count):
                total = 0.0
                for t in range(taps):
                    w = weights[n, p, t]
                    if w != 0:
                        v = x[n, c, index[n, p, t]]
                        total = v if taps == 1 else total + v * w
                out[n, c, p] = total


@_compiled
def _precedes(a: Any, b: Any, largest: bool) -> bool:
    """Whether ``a`` comes before ``b``: NaN counts as infinity, and behind it when ascending."""
    if largest:
        return bool(b == b and b != np.inf) if a != a else bool(a > b)
    return bool(a == a) if b != b else bool(a < b)


@_compiled
def top_k(x: Array, largest: bool, values: Array, indices: Array) -> None:
    """Write the first elements of each row in order, by insertion; the first of equal ones wins."""
    rows, size = x.shape
    k = values.shape[1]
    for r in range(rows):
        kept = 0
        for i in range(size):
            v = x[r, i]
            if kept == k and not _precedes(v, values[r, k - 1], largest):
                continue
            place = kept if kept < k else k - 1
            while place > 0 and _precedes(v, values[r, place - 1], largest):
                values[r, place] = values[r, place - 1]
                indices[r, place] = indices[r, place - 1]
                place -= 1
            values[r, place] = v
            indices[r, place] = i
            if kept < k:
                kept += 1


@_compiled
def arg_extreme(x: Array, largest: bool, last: bool, never: Any, best: Array, out: Array) -> None:
    """Write where the largest or smallest element along the middle axis is; NaN is ``never``."""
    outer, size, inner = x.shape
    for o in range(outer):
        for i in range(inner):
            v = x[o, 0, i]
            best[i] = never if v != v else v
            out[o, i] = 0
        for n in range(1, size):
            for i in range(inner):
                v = x[o, n, i]
                v = never if v != v else v
                b = best[i]
                better = v > b if largest else v < b
                if better or (last and v == b):
                    best[i] = v
                    out[o, i] = n


@_compiled
def one_hot(index: Array, values: Array, out: Array) -> None:
    """Write ``values[1]`` where the middle axis has the index, ``values[0]`` elsewhere."""
    outer, depth, inner = out.shape
    for o in range(outer):
        for d in range(depth):
            for i in range(inner):
                out[o, d, i] = values[0]
        for i in range(inner):
            k = index[o, i]
            if k < 0:
                k += depth
            if 0 <= k < depth:
                out[o, k, i] = values[1]


@_compiled
def suppress(
    low: Array,
    high: Array,
    scores: Array,
    order: Array,
    limits: tuple[int, float, float],
    kept: Array,
) -> int:
    """Choose boxes of one class, best first, that overlap no chosen one; return how many."""
    limit, iou, least = limits
    zero = np.float32(0)
    count = 0
    for position in range(order.shape[0]):
        i = order[position]
        if not scores[i] > least:
            break
        own = (high[i, 0] - low[i, 0]) * (high[i, 1] - low[i, 1])
        covered = False
        for j in range(count):
            k = kept[j]
            height = min(high[i, 0], high[k, 0]) - max(low[i, 0], low[k, 0])
            width = min(high[i, 1], high[k, 1]) - max(low[i, 1], low[k, 1])
            shared = height * width if height > 0 and width > 0 else zero
            area = (high[k, 0] - low[k, 0]) * (high[k, 1] - low[k, 1])
            union = own + area - shared
            if own > 0 and area > 0 and union > 0 and shared / union > iou:
                covered = True
                break
        if covered:
            continue
        kept[count] = i
        count += 1
        if count == limit:
            break
    return count
