"""Reading and writing by index: where, gather, scatter and their relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.infer import const_array, content_of
from lepton_ir.ir import Op
from lepton_ir.opdef import Int, Str, op
from lepton_ir.ops._axes import axis_of, like
from lepton_ir.ops._support import broadcast_shapes, first_dtype, normalized
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.infer import Content, InferContext
    from lepton_ir.ir import Value

Array = np.ndarray[Any, Any]


# -- where -----------------------------------------------------------------------------------------


def _infer_where(ctx: InferContext) -> Type:
    shapes = [ctx.shape(n) for n in ("condition", "x", "y")]
    try:
        found = broadcast_shapes(*shapes)
    except ValueError as error:
        ctx.fail("C1", str(error))
    return TensorType(first_dtype(ctx, "x", "y"), found)


def _truths(value: Value | None) -> tuple[bool | None, ...] | None:
    """Return the elements of a small bool vector where they are certain."""
    array = const_array(value, 64)
    if array is not None:
        return tuple(bool(v) for v in array.reshape(-1)) if array.ndim < 2 else None
    producer = None if value is None else value.producer
    if not isinstance(producer, Op) or producer.name != "equal":
        return None
    left, right = map(content_of, producer.operands)
    if left is None or right is None or {len(left), len(right)} - {1, max(len(left), len(right))}:
        return None
    count = max(len(left), len(right))
    pairs = zip(_stretch(left, count), _stretch(right, count), strict=True)
    return tuple(None if a is None or b is None else dims.prove_eq(a, b) for a, b in pairs)


def _stretch(items: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    return items * count if len(items) == 1 else items


def _where_content(ctx: InferContext) -> Content | None:
    truths = _truths(ctx.value("condition"))
    x, y, shape = ctx.content("x"), ctx.content("y"), ctx.op.results[0].shape
    if truths is None or x is None or y is None or shape is None:
        return None
    count = shape[0] if shape else 1
    if not isinstance(count, int):
        return None
    rows = [_stretch(items, count) for items in (truths, x, y)]
    if any(len(r) != count for r in rows):
        return None
    return tuple(
        a if t is True or a is b else b if t is False else None
        for t, a, b in zip(*rows, strict=True)
    )


@op("where(condition, x, y) -> z", infer=_infer_where, content=_where_content, traits="elementwise")
def where(condition: Array, x: Array, y: Array) -> Array:
    """``x`` where the condition holds, else ``y``; all three broadcast (ONNX Where-16).

    C1  the shapes broadcast
    """
    return np.where(condition, x, y).astype(x.dtype, copy=False)


# -- gather ----------------------------------------------------------------------------------------


def checked(indices: Array, size: int | Array) -> Array:
    """Return indices counted from the front.

    Raises:
        ValueError: an index is out of range.
    """
    index = np.asarray(indices, dtype=np.int64)
    if ((index < -size) | (index >= size)).any():
        raise ValueError(f"an index is out of range for a dim of {size}")
    return np.where(index < 0, index + size, index)


def _infer_gather(ctx: InferContext) -> Type:
    x, indices, dtype = ctx.shape("x"), ctx.shape("indices"), ctx.dtype("x")
    if x is None:
        return TensorType(dtype, None)
    axis = axis_of(ctx, ctx.attrs["axis"], len(x))
    if indices is None:
        return TensorType(dtype, None)
    return TensorType(dtype, (*x[:axis], *indices, *x[axis + 1 :]))


def _gather_content(ctx: InferContext) -> Content | None:
    x, indices = ctx.content("x"), ctx.content("indices")
    if x is None or indices is None or ctx.rank("x") != 1:
        return None
    size = len(x)
    return tuple(x[i] if isinstance(i, int) and -size <= i < size else None for i in indices)


@op("gather(x, indices)", infer=_infer_gather, content=_gather_content)
def gather(x: Array, indices: Array, *, axis: Int = 0) -> Array:
    """Select slices along an axis; negative indices count from the end (ONNX Gather-13).

    C1  -rank(x) <= axis < rank(x)
    C2  -x.shape[axis] <= indices < x.shape[axis]
    """
    axis = normalized(axis, x.ndim)
    return np.asarray(np.take(x, checked(indices, x.shape[axis]), axis))


def _infer_gather_elements(ctx: InferContext) -> Type:
    x, indices = ctx.shape("x"), ctx.shape("indices")
    if x is not None:
        axis_of(ctx, ctx.attrs["axis"], len(x))
        if indices is not None and len(indices) != len(x):
            ctx.fail("C2", f"x has rank {len(x)}, indices {len(indices)}")
    if indices is None and x is not None:
        indices = (None,) * len(x)
    return TensorType(ctx.dtype("x"), indices)


def _along(x: Array, indices: Array, axis: int) -> tuple[Array, ...]:
    """Return the index tuple of NumPy for element ``indices`` along ``axis``."""
    if x.ndim != indices.ndim or x.ndim == 0:
        raise ValueError(f"ranks {x.ndim} and {indices.ndim} of data and indices differ or are 0")
    axis = normalized(axis, x.ndim)
    grid = list(np.ogrid[tuple(slice(0, n) for n in indices.shape)])
    if any(n > d for i, (n, d) in enumerate(zip(indices.shape, x.shape, strict=True)) if i != axis):
        raise ValueError(f"indices of shape {indices.shape} are larger than data {x.shape}")
    grid[axis] = checked(indices, x.shape[axis])
    return tuple(grid)


@op("gather_elements(x, indices)", infer=_infer_gather_elements)
def gather_elements(x: Array, indices: Array, *, axis: Int = 0) -> Array:
    """Read one element for each index, along an axis (ONNX GatherElements-13).

    C1  -rank(x) <= axis < rank(x)
    C2  rank(indices) = rank(x) >= 1; -x.shape[axis] <= indices < x.shape[axis]
    """
    return x[_along(x, indices, axis)]


def _infer_gather_nd(ctx: InferContext) -> Type:
    x, indices, dtype = ctx.shape("x"), ctx.shape("indices"), ctx.dtype("x")
    batch = ctx.attrs["batch_dims"]
    if x is None or indices is None:
        return TensorType(dtype, None)
    if not indices or not 0 <= batch < min(len(x), len(indices)):
        ctx.fail("C1", f"batch_dims {batch} for ranks {len(x)} and {len(indices)}")
    depth = indices[-1]
    if not isinstance(depth, int):
        return TensorType(dtype, None)
    if batch + depth > len(x):
        ctx.fail("C2", f"indices of {depth} elements for {len(x) - batch} axes")
    return TensorType(dtype, (*indices[:-1], *x[batch + depth :]))


def _points(x_shape: tuple[int, ...], indices: Array, batch: int = 0) -> tuple[Array, ...]:
    """Return the index tuple of NumPy for the coordinate tuples in the last axis."""
    if not indices.ndim or batch + indices.shape[-1] > len(x_shape):
        raise ValueError(f"indices of shape {indices.shape} for data of shape {x_shape}")
    grid = np.ogrid[tuple(slice(0, n) for n in indices.shape[:batch])] if batch else ()
    rank = indices.ndim - 1
    found = [g.reshape(g.shape + (1,) * (rank - batch)) for g in grid]
    found += [checked(indices[..., i], x_shape[batch + i]) for i in range(indices.shape[-1])]
    return tuple(found)


@op("gather_nd(x, indices)", infer=_infer_gather_nd)
def gather_nd(x: Array, indices: Array, *, batch_dims: Int = 0) -> Array:
    """Read the slice at each coordinate tuple (ONNX GatherND-13).

    C1  0 <= batch_dims < min(rank(x), rank(indices)); the first batch_dims dims agree
    C2  batch_dims + indices.shape[-1] <= rank(x); coordinates are in range
    """
    if not 0 <= batch_dims < min(x.ndim, indices.ndim):
        raise ValueError(f"gather_nd: batch_dims {batch_dims} for ranks {x.ndim}, {indices.ndim}")
    if x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"gather_nd: batches {x.shape} and {indices.shape} differ")
    points = _points(x.shape, indices, batch_dims)
    if not points:
        return np.broadcast_to(x, (*indices.shape[:-1], *x.shape)).copy()
    return np.asarray(x[points])


# -- scatter ---------------------------------------------------------------------------------------

_REDUCTIONS = ("none", "add", "mul", "max", "min")


def _scatter(x: Array, place: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    """Return ``x`` with ``updates`` written to, or combined with, the places in order."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it is one of {', '.join(_REDUCTIONS)}")
    result = x.copy()
    if reduction == "none":
        result[place] = updates
        return result
    combine: dict[str, Callable[..., Any]] = {
        "add": np.logical_or if x.dtype == bool else np.add,
        "mul": np.logical_and if x.dtype == bool else np.multiply,
        "max": np.maximum,
        "min": np.minimum,
    }
    # Narrow floats accumulate in their own precision, one update after the other, as specified.
    combine[reduction].at(result, place, updates)  # type: ignore[attr-defined]
    return result


def _infer_scatter(ctx: InferContext) -> Type:
    if ctx.attrs["reduction"] not in _REDUCTIONS:
        ctx.fail("C3", f"reduction is {ctx.attrs['reduction']!r}")
    return like(ctx)


def _infer_scatter_elements(ctx: InferContext) -> Type:
    rank = ctx.rank("x")
    if rank is not None:
        axis_of(ctx, ctx.attrs["axis"], rank)
        other = ctx.rank("indices")
        if other is not None and other != rank:
            ctx.fail("C2", f"x has rank {rank}, indices {other}")
    return _infer_scatter(ctx)


@op("scatter_elements(x, indices, updates)", infer=_infer_scatter_elements)
def scatter_elements(
    x: Array, indices: Array, updates: Array, *, axis: Int = 0, reduction: Str = "none"
) -> Array:
    """Write, or combine, one element for each index, along an axis (ONNX ScatterElements-18).

    The last of several updates of one element wins where ``reduction`` is ``none``.

    C1  -rank(x) <= axis < rank(x)
    C2  rank(indices) = rank(x); updates and indices have one shape; indices are in range
    C3  reduction is none, add, mul, max or min
    """
    if indices.shape != updates.shape:
        raise ValueError(f"scatter_elements: shapes {indices.shape} and {updates.shape} differ")
    return _scatter(x, _along(x, indices, axis), updates, reduction)


def _infer_scatter_nd(ctx: InferContext) -> Type:
    rank, indices = ctx.rank("x"), ctx.shape("indices")
    if rank is not None and indices and isinstance(indices[-1], int) and indices[-1] > rank:
        ctx.fail("C2", f"indices of {indices[-1]} elements for {rank} axes")
    return _infer_scatter(ctx)


@op("scatter_nd(x, indices, updates)", infer=_infer_scatter_nd)
def scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: Str = "none") -> Array:
    """Write, or combine, the slice at each coordinate tuple (ONNX ScatterND-18).

    C1  updates.shape = indices.shape[:-1] + x.shape[indices.shape[-1]:]
    C2  indices.shape[-1] <= rank(x); coordinates are in range
    C3  reduction is none, add, mul, max or min
    """
    points = _points(x.shape, indices)
    wanted = indices.shape[:-1] + x.shape[len(points) :]
    if updates.shape != wanted:
        raise ValueError(f"scatter_nd: updates have shape {updates.shape} instead of {wanted}")
    if points:
        return _scatter(x, points, updates, reduction)
    # No coordinates: every update is one of the whole tensor.
    rows = updates.reshape((-1, *x.shape))
    zeros = np.zeros(len(rows), dtype=np.int64)
    return np.asarray(_scatter(x[None], (zeros,), rows, reduction)[0])


def _infer_tensor_scatter(ctx: InferContext) -> Type:
    rank = ctx.rank("past_cache")
    if ctx.attrs["mode"] not in ("linear", "circular"):
        ctx.fail("C2", f"mode is {ctx.attrs['mode']!r}")
    if rank is not None and axis_of(ctx, ctx.attrs["axis"], rank) == 0:
        ctx.fail("C1", "axis is that of the batch")
    return like(ctx, "past_cache")


@op("tensor_scatter(past_cache, update, write_indices?)", infer=_infer_tensor_scatter)
def tensor_scatter(
    past_cache: Array,
    update: Array,
    write_indices: Array | None = None,
    *,
    axis: Int = -2,
    mode: Str = "linear",
) -> Array:
    """Write ``update`` into a cache from each batch item's write index on (ONNX TensorScatter-24).

    C1  -rank <= axis < rank, not the batch axis 0
    C2  mode is linear or circular; linear writes stay inside the cache
    C3  update has the shape of past_cache but for a smaller dim at axis
    """
    axis = normalized(axis, past_cache.ndim)
    if axis == 0 or mode not in ("linear", "circular"):
        raise ValueError(f"tensor_scatter: axis {axis}, mode {mode!r}")
    room, steps = past_cache.shape[axis], update.shape[axis]
    wanted = (*past_cache.shape[:axis], steps, *past_cache.shape[axis + 1 :])
    if update.shape != wanted or steps > room:
        raise ValueError(f"tensor_scatter: shapes {past_cache.shape} and {update.shape}")
    batch = past_cache.shape[0]
    starts = np.zeros(batch, dtype=np.int64) if write_indices is None else write_indices
    place = np.asarray(starts)[:, None] + np.arange(steps)
    if mode == "circular":
        place = place % max(room, 1)
    elif (place < 0).any() or (place >= room).any():
        raise ValueError("tensor_scatter: a linear write leaves the cache")
    result = past_cache.copy()
    rows = np.moveaxis(result, axis, 1)
    rows[np.arange(batch)[:, None], place] = np.moveaxis(update, axis, 1)
    return result
