"""Road b: operations as plain loops that numba compiles, generic over rank and element type.

An operation comes here when no kernel took it. Importing numba costs a third of a second, and the
first use on a machine some more, so small tensors are left to NumPy, whose calls take some tens of
microseconds. Indices from data are checked.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lepton_ir.backends.numba.plan import Tensor
from lepton_ir.diagnostics import LeptonError
from lepton_ir.infer import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.backends.numba.plan import Array, Place
    from lepton_ir.ir import Op

    Run = Callable[[list[Any]], list[Any]]

MIN_ELEMENTS = 1 << 14
"""Elements of all operands from which on an operation is worth numba."""

MAX_KEPT = 128
"""Elements of a row that ``top_k`` keeps by insertion; NumPy sorts better when it keeps more."""

MAX_ITEMSIZE = 8
"""Bytes of the largest element that is moved as an integer."""

_COMPARED = ("f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
_SUMMED = ("f32", "f64", "i32", "i64")


class Entry(NamedTuple):
    """An operation of road b.

    Attributes:
        takes: whether it takes these operands.
        run: ``run(op, arrays) -> results``.
        least: elements from which on it is worth it.
    """

    takes: Callable[[Op, list[Tensor | None]], bool]
    run: Callable[[Op, list[Any]], list[Any]]
    least: int = MIN_ELEMENTS


def runner(op: Op, places: Sequence[Place | None]) -> Run | None:
    """Return how road b evaluates ``op`` on arrays, ``None`` when it does not."""
    entry = ENTRIES.get(op.name)
    if entry is None or any(p is not None and not isinstance(p, Tensor) for p in places):
        return None
    tensors = [p if isinstance(p, Tensor) else None for p in places]
    if any(t is not None and t.itemsize > MAX_ITEMSIZE for t in tensors):
        return None
    size = sum(t.size for t in tensors if t is not None)
    if size < entry.least or any(t is not None and t.size == 0 for t in tensors):
        return None
    if not entry.takes(op, tensors):
        return None
    run = entry.run
    return lambda arrays: run(op, arrays)


# -- helpers ---------------------------------------------------------------------------------------


def _kernels() -> Any:
    from lepton_ir.backends.numba import long_tail_kernels

    return long_tail_kernels


def _plain(array: Array) -> Array:
    """Return an array row by row that may be written: numba compiles again for others."""
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        return array
    memory: Any = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    writable: Array = np.ndarray(array.shape, array.dtype, memory)
    return writable


def _bits(array: Array) -> Array:
    """Return unsigned integers in place of elements that are only moved."""
    return _plain(array).view(f"u{array.itemsize}")


def _folded(array: Array, axis: int) -> Array:
    """Return ``(outer, axis, inner)``."""
    shape = array.shape
    outer = int(np.prod(shape[:axis], dtype=np.int64))
    return array.reshape(outer, shape[axis], -1)


def _check(op: Op, bad: int, index: Array, size_of: Callable[[int], int]) -> None:
    """Raise an error for a position that a kernel reports."""
    if bad >= 0:
        raise LeptonError(
            f"index {index.reshape(-1)[bad]} is out of range for an axis of {size_of(bad)}",
            code="index",
            where=describe(op),
        )


def _dtype(tensor: Tensor | None) -> str:
    return "" if tensor is None else tensor.dtype.name


def _axis(op: Op, rank: int) -> int:
    return int(op.attr("axis")) % rank


def _is_index(tensor: Tensor | None) -> bool:
    return _dtype(tensor) in ("i32", "i64")


# -- gather and scatter ----------------------------------------------------------------------------


def _takes_reduction(op: Op, x: Tensor | None) -> bool:
    return op.attr("reduction") == "none" or _dtype(x) in _SUMMED


def _takes_scatter_elements(op: Op, given: list[Tensor | None]) -> bool:
    x, index, updates = given
    if x is None or index is None or updates is None or not _is_index(index) or not x.shape:
        return False
    axis = _axis(op, len(x.shape))
    if len(x.shape) != len(index.shape):
        return False
    same = all(
        i == axis or a == b for i, (a, b) in enumerate(zip(x.shape, index.shape, strict=False))
    )
    return same and index.shape == updates.shape and _takes_reduction(op, x)


def _scatter_elements(op: Op, arrays: list[Any]) -> list[Any]:
    x, index, updates = arrays
    axis, kernels, how = _axis(op, x.ndim), _kernels(), op.attr("reduction")
    out, index = np.array(x, order="C"), _plain(index)
    if how == "none":
        folded = [_folded(a, axis) for a in (_bits(out), index, _bits(updates))]
        bad = kernels.scatter_elements(*folded)
    else:
        folded = [_folded(a, axis) for a in (out, index, _plain(updates))]
        bad = kernels.combine_elements(*folded, getattr(kernels, how.upper()))
    _check(op, bad, index, lambda _: x.shape[axis])
    return [out]


def _takes_gather_nd(op: Op, given: list[Tensor | None]) -> bool:
    x, index = given[0], given[1]
    if x is None or index is None or not _is_index(index):
        return False
    batch = op.attr("batch_dims")
    return 0 < index.shape[-1] <= len(x.shape) - batch and x.shape[:batch] == index.shape[:batch]


def _gather_nd(op: Op, arrays: list[Any]) -> list[Any]:
    x, index = arrays
    batch, depth = op.attr("batch_dims"), index.shape[-1]
    count = int(np.prod(x.shape[:batch], dtype=np.int64))
    dims = np.array(x.shape[batch : batch + depth], np.int64)
    out = np.empty((*index.shape[:-1], *x.shape[batch + depth :]), x.dtype)
    index = _plain(index)
    points = index.reshape(count, -1, depth)
    rows = _bits(x).reshape(count, int(dims.prod()), -1)
    target = _bits(out).reshape(count, points.shape[1], -1)
    bad = _kernels().gather_rows(rows, points, dims, target)
    _check(op, bad, index, lambda i: int(dims[i % depth]))
    return [out]


def _takes_scatter_nd(op: Op, given: list[Tensor | None]) -> bool:
    x, index, updates = given
    if x is None or index is None or updates is None or not _is_index(index):
        return False
    depth = index.shape[-1]
    fits = updates.shape == index.shape[:-1] + x.shape[depth:]
    return 0 < depth <= len(x.shape) and fits and _takes_reduction(op, x)


def _scatter_nd(op: Op, arrays: list[Any]) -> list[Any]:
    x, index, updates = arrays
    kernels, depth, how = _kernels(), index.shape[-1], op.attr("reduction")
    dims = np.array(x.shape[:depth], np.int64)
    out, index = np.array(x, order="C"), _plain(index)
    points, count = index.reshape(1, -1, depth), int(dims.prod())
    if how == "none":
        rows, given = (_bits(a) for a in (out, updates))
    else:
        rows, given = out, _plain(updates)
    rows, given = rows.reshape(count, -1), given.reshape(points.shape[1], -1)
    if how == "none":
        bad = kernels.scatter_rows(rows, points, dims, given)
    else:
        bad = kernels.combine_rows(rows, points, dims, given, getattr(kernels, how.upper()))
    _check(op, bad, index, lambda i: int(dims[i % depth]))
    return [out]


def _takes_samples(op: Op, given: list[Tensor | None]) -> bool:
    x, grid = given
    if _dtype(x) not in ("f32", "f64") or x is None or grid is None or len(x.shape) < 3:
        return False
    same = len(x.shape) == len(grid.shape) and grid.shape[-1] == len(x.shape) - 2
    known = op.attr("mode") in ("nearest", "linear", "cubic")
    padded = op.attr("padding_mode") in ("zeros", "border", "reflection")
    return same and known and padded and x.shape[0] == grid.shape[0]


def _grid_sample(op: Op, arrays: list[Any]) -> list[Any]:
    from lepton_ir.ops.image import grid_taps

    x, grid = arrays
    attrs = (op.attr(name) for name in ("mode", "padding_mode", "align_corners"))
    points = (len(x), int(np.prod(grid.shape[1:-1], dtype=np.int64)))
    index, weights = np.zeros((*points, 1), np.int64), np.ones((*points, 1))
    for size, (i, w) in zip(x.shape[2:], grid_taps(grid, x.shape[2:], *attrs), strict=True):
        i, w = i.reshape(*points, 1, -1), w.reshape(*points, 1, -1)
        index = (index[..., None] * size + i).reshape(*points, -1)
        weights = (weights[..., None] * w).reshape(*points, -1)
    out = np.empty((*x.shape[:2], points[1]), x.dtype)
    _kernels().sample(_plain(x).reshape(*x.shape[:2], -1), index, weights, out)
    return [out.reshape(*x.shape[:2], *grid.shape[1:-1])]


# -- orders and choices ----------------------------------------------------------------------------


def _takes_top_k(op: Op, given: list[Tensor | None]) -> bool:
    return _dtype(given[0]) in _COMPARED and bool(given[0] and given[0].shape)


def _top_k(op: Op, arrays: list[Any]) -> list[Any]:
    from lepton_ir.interp import call_meaning

    x, k = arrays[0], int(np.asarray(arrays[1]).reshape(-1)[0])
    axis = _axis(op, x.ndim)
    if not 0 < k <= min(MAX_KEPT, x.shape[axis]):
        return call_meaning(op, arrays, op.all_attrs())
    rows = _plain(np.moveaxis(x, axis, -1))
    shape = (*rows.shape[:-1], k)
    flat = rows.reshape(-1, rows.shape[-1])
    values, indices = np.empty((len(flat), k), x.dtype), np.empty((len(flat), k), np.int64)
    _kernels().top_k(flat, bool(op.attr("largest")), values, indices)
    return [np.moveaxis(a.reshape(shape), -1, axis) for a in (values, indices)]


def _takes_arg(op: Op, given: list[Tensor | None]) -> bool:
    x = given[0]
    if x is None or not x.shape or _dtype(x) not in _COMPARED:
        return False
    # NumPy compares neighbours along the last axis as vectors.
    return bool(np.prod(x.shape[_axis(op, len(x.shape)) + 1 :], dtype=np.int64) > 1)


def _arg(op: Op, arrays: list[Any]) -> list[Any]:
    (x,) = arrays
    axis, largest = _axis(op, x.ndim), op.name == "arg_max"
    folded = _folded(_plain(x), axis)
    out = np.empty((folded.shape[0], folded.shape[2]), np.int64)
    best = np.empty(folded.shape[2], x.dtype)
    never = x.dtype.type(0 if x.dtype.kind != "f" else -np.inf if largest else np.inf)
    last = bool(op.attr("select_last_index"))
    _kernels().arg_extreme(folded, largest, last, never, best, out)
    middle = (1,) if op.attr("keepdims") else ()
    return [out.reshape(*x.shape[:axis], *middle, *x.shape[axis + 1 :])]


def _takes_one_hot(op: Op, given: list[Tensor | None]) -> bool:
    return _is_index(given[0]) and given[2] is not None


def _one_hot(op: Op, arrays: list[Any]) -> list[Any]:
    from lepton_ir.interp import call_meaning

    index, depth, values = arrays
    count, rank = int(np.asarray(depth).reshape(-1)[0]), index.ndim + 1
    axis = op.attr("axis")
    if count < 1 or values.size != 2 or not -rank <= axis < rank:
        return call_meaning(op, arrays, op.all_attrs())
    axis %= rank
    shape = (*index.shape[:axis], count, *index.shape[axis:])
    out = np.empty(shape, values.dtype)
    folded = _folded(_bits(out), axis)
    flat = _plain(index).reshape(folded.shape[0], folded.shape[2])
    _kernels().one_hot(flat, _bits(values).reshape(-1), folded)
    return [out]


def _takes_boxes(op: Op, given: list[Tensor | None]) -> bool:
    return all(_dtype(t) == "f32" and t is not None and len(t.shape) == 3 for t in given[:2])


def _non_max_suppression(op: Op, arrays: list[Any]) -> list[Any]:
    from lepton_ir.interp import call_meaning
    from lepton_ir.ops.detection import box_corners

    boxes, scores, *rest = [*arrays, None, None, None][:5]
    limit, iou, least = (None if a is None else np.asarray(a).reshape(-1)[0] for a in rest)
    bound = 0 if limit is None else int(limit)
    overlap = 0.0 if iou is None else float(np.float32(iou))
    if not 0 <= overlap <= 1 or bound <= 0:
        return call_meaning(op, arrays, op.all_attrs())
    if np.isnan(boxes).any() or not (least is not None or np.isfinite(scores).all()):
        return call_meaning(op, arrays, op.all_attrs())
    limits = (bound, overlap, -np.inf if least is None else float(least))
    found = []
    kept = np.empty(min(bound, boxes.shape[1]), np.int64)
    order = np.argsort(-scores, axis=-1, kind="stable")
    for n in range(scores.shape[0]):
        low, high = (_plain(c) for c in box_corners(boxes[n], bool(op.attr("center_point_box"))))
        for c in range(scores.shape[1]):
            ranked = _plain(scores[n, c])
            count = _kernels().suppress(low, high, ranked, order[n, c], limits, kept)
            rows = np.empty((count, 3), np.int64)
            rows[:, 0], rows[:, 1], rows[:, 2] = n, c, kept[:count]
            found.append(rows)
    return [np.concatenate(found) if found else np.empty((0, 3), np.int64)]


ENTRIES = {
    "scatter_elements": Entry(_takes_scatter_elements, _scatter_elements),
    "gather_nd": Entry(_takes_gather_nd, _gather_nd),
    "scatter_nd": Entry(_takes_scatter_nd, _scatter_nd),
    "grid_sample": Entry(_takes_samples, _grid_sample, 1 << 12),
    "top_k": Entry(_takes_top_k, _top_k),
    "arg_max": Entry(_takes_arg, _arg),
    "arg_min": Entry(_takes_arg, _arg),
    "one_hot": Entry(_takes_one_hot, _one_hot, 1 << 10),
    "non_max_suppression": Entry(_takes_boxes, _non_max_suppression, 1 << 10),
}
"""Operations of road b."""
