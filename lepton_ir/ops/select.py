"""Choosing and accumulating: top_k, non_zero, unique, compress, arg_max, cum_sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.opdef import Bool, Int, op
from lepton_ir.ops._axes import axis_of, like, total
from lepton_ir.ops._support import normalized, scalar, widen
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.dims import Dim
    from lepton_ir.infer import InferContext

Array = np.ndarray[Any, Any]


# -- top_k, arg_max, arg_min -----------------------------------------------------------------------


def _infer_top_k(ctx: InferContext) -> tuple[Type, Type]:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    if found is None:
        return TensorType(dtype, None), TensorType(dtypes.I64, None)
    axis = axis_of(ctx, ctx.attrs["axis"], len(found))
    content = ctx.content("k")
    k = content[0] if content is not None and len(content) == 1 else None
    if isinstance(k, int) and k < 0:
        ctx.fail("C2", f"k is {k}")
    d = found[axis]
    if isinstance(k, int) and isinstance(d, int) and k > d:
        ctx.fail("C2", f"k is {k} but the axis has size {d}")
    shape = (*found[:axis], k, *found[axis + 1 :])
    return TensorType(dtype, shape), TensorType(dtypes.I64, shape)


def _descending(x: Array) -> Array:
    """Return keys whose ascending order is the descending order of ``x``, NaN first."""
    if x.dtype.kind == "f":
        return np.where(np.isnan(x), -np.inf, -x).astype(x.dtype)
    if x.dtype.kind == "b":
        return ~x
    # ~x = -x-1 reverses the order of signed and unsigned integers without overflow.
    return ~x


@op("top_k(x, k) -> values, indices", infer=_infer_top_k)
def top_k(
    x: Array, k: Array, *, axis: Int = -1, largest: Bool = True, sorted: Bool = True
) -> tuple[Array, Array]:
    """The ``k`` largest (or smallest) elements along an axis and their indices (ONNX TopK-24).

    Of equal elements the one with the lower index comes first. Unsorted results come sorted too.

    C1  -rank(x) <= axis < rank(x)
    C2  0 <= k <= x.shape[axis], one element
    """
    axis = normalized(axis, x.ndim)
    count = scalar(k, "k")
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"top_k: k is {count} but the axis has size {x.shape[axis]}")
    keys = widen(x)
    order = np.argsort(_descending(keys) if largest else keys, axis=axis, kind="stable")
    indices = np.take(order, np.arange(count), axis=axis).astype(np.int64)
    return np.take_along_axis(x, indices, axis), indices


def _infer_arg(ctx: InferContext) -> Type:
    found = ctx.shape("x")
    if found is None:
        return TensorType(dtypes.I64, None)
    axis = axis_of(ctx, ctx.attrs["axis"], len(found))
    middle: tuple[Dim, ...] = (1,) if ctx.attrs["keepdims"] else ()
    return TensorType(dtypes.I64, (*found[:axis], *middle, *found[axis + 1 :]))


def _arg(
    choose: Callable[..., Any], x: Array, axis: int, keepdims: bool, last: bool, never: float
) -> Array:
    """Return the index of an extreme along an axis; NaN never wins, as in ONNX Runtime."""
    axis = normalized(axis, x.ndim)
    keys = widen(x)
    if keys.dtype.kind == "f":
        keys = np.where(np.isnan(keys), np.asarray(never, dtype=keys.dtype), keys)
    if not last:
        return np.asarray(choose(keys, axis=axis, keepdims=keepdims), dtype=np.int64)
    found = choose(np.flip(keys, axis), axis=axis, keepdims=keepdims)
    return np.asarray(x.shape[axis] - 1 - found, dtype=np.int64)


@op("arg_max(x)", infer=_infer_arg)
def arg_max(
    x: Array, *, axis: Int = 0, keepdims: Bool = True, select_last_index: Bool = False
) -> Array:
    """The index of the largest element along an axis (ONNX ArgMax-13).

    C1  -rank(x) <= axis < rank(x); the axis is not empty
    """
    return _arg(np.argmax, x, axis, keepdims, select_last_index, -np.inf)


@op("arg_min(x)", infer=_infer_arg)
def arg_min(
    x: Array, *, axis: Int = 0, keepdims: Bool = True, select_last_index: Bool = False
) -> Array:
    """The index of the smallest element along an axis (ONNX ArgMin-13).

    C1  -rank(x) <= axis < rank(x); the axis is not empty
    """
    return _arg(np.argmin, x, axis, keepdims, select_last_index, np.inf)


# -- data-dependent sizes --------------------------------------------------------------------------


def _infer_non_zero(ctx: InferContext) -> Type:
    rank = ctx.rank("x")
    return TensorType(dtypes.I64, (rank or None, ctx.fresh()))


@op("non_zero(x)", infer=_infer_non_zero)
def non_zero(x: Array) -> Array:
    """Indices of the elements that are not zero, one column each, row-major (ONNX NonZero-13).

    A scalar counts as a vector of one element, as in ONNX Runtime.
    """
    array = np.atleast_1d(x)
    flags = array.astype(bool) if array.dtype == object else array != np.zeros((), array.dtype)
    return np.stack(np.nonzero(flags)).astype(np.int64)


def _infer_unique(ctx: InferContext) -> tuple[Type, ...]:
    found, dtype, axis = ctx.shape("x"), ctx.dtype("x"), ctx.attrs["axis"]
    count = ctx.fresh()
    counts = TensorType(dtypes.I64, (count,))
    if axis is None:
        whole = None if found is None else total(found)
        inverse = TensorType(dtypes.I64, (whole,))
        return TensorType(dtype, (count,)), counts, inverse, counts
    if found is None:
        return TensorType(dtype, None), counts, TensorType(dtypes.I64, (None,)), counts
    axis = axis_of(ctx, axis, len(found))
    y = TensorType(dtype, (*found[:axis], count, *found[axis + 1 :]))
    return y, counts, TensorType(dtypes.I64, (found[axis],)), counts


@op("unique(x) -> y, indices?, inverse_indices?, counts?", infer=_infer_unique)
def unique(
    x: Array, *, axis: Int | None = None, sorted: Bool = True
) -> tuple[Array, Array, Array, Array]:
    """Distinct elements, or slices along ``axis``, first places, inverse, counts (ONNX Unique-28).

    ``sorted`` orders them ascending, else by their first occurrence.

    C1  -rank(x) <= axis < rank(x)
    """
    array = x.reshape(-1) if axis is None else x
    place = 0 if axis is None else normalized(axis, x.ndim)
    keys = widen(array)
    if keys.dtype.kind == "f" and np.isnan(keys).any():
        raise ValueError("whether one NaN equals another is not agreed")
    if axis is None or keys.dtype != object:
        _, first, inverse, counts = np.unique(
            keys, axis=None if axis is None else place, **_UNIQUE_ALL
        )
    else:
        first, inverse, counts = _unique_slices(keys, place)
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        first, inverse, counts = first[order], rank[inverse], counts[order]
    y = np.take(array, first, axis=place)
    return y, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


_UNIQUE_ALL: dict[str, Any] = {
    "return_index": True,
    "return_inverse": True,
    "return_counts": True,
}


def _unique_slices(x: Array, axis: int) -> tuple[Array, Array, Array]:
    """Return first places, inverse and counts of the distinct slices of strings."""
    rows = [tuple(row) for row in np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)]
    distinct = {row: i for i, row in enumerate(_distinct(rows))}
    inverse = np.array([distinct[row] for row in rows], dtype=np.int64)
    counts = np.bincount(inverse, minlength=len(distinct))
    first = np.full(len(distinct), len(rows))
    np.minimum.at(first, inverse, np.arange(len(rows)))
    return first, inverse, counts


def _distinct(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the distinct rows in ascending order."""
    return sorted(set(rows))


def _infer_compress(ctx: InferContext) -> Type:
    found, dtype, axis = ctx.shape("x"), ctx.dtype("x"), ctx.attrs["axis"]
    condition = ctx.rank("condition")
    if condition is not None and condition != 1:
        ctx.fail("C2", f"condition has rank {condition}")
    if axis is None:
        whole = None if found is None else total(found)
        return TensorType(dtype, (_kept(ctx, whole),))
    if found is None:
        return TensorType(dtype, None)
    axis = axis_of(ctx, axis, len(found))
    return TensorType(dtype, (*found[:axis], _kept(ctx, found[axis]), *found[axis + 1 :]))


def _kept(ctx: InferContext, d: Dim | None) -> Dim | None:
    condition = ctx.const("condition")
    if condition is not None and isinstance(d, int):
        return int(np.count_nonzero(condition[:d]))
    return ctx.fresh()


@op("compress(x, condition)", infer=_infer_compress)
def compress(x: Array, condition: Array, *, axis: Int | None = None) -> Array:
    """Keep the slices, or the flattened elements, whose condition is true (ONNX Compress-28).

    Slices beyond the length of ``condition`` are dropped.

    C1  -rank(x) <= axis < rank(x)
    C2  rank(condition) = 1
    """
    array = x.reshape(-1) if axis is None else x
    place = 0 if axis is None else normalized(axis, x.ndim)
    if condition.ndim != 1:
        raise ValueError(f"compress: condition has rank {condition.ndim}")
    return np.take(array, np.flatnonzero(condition[: array.shape[place]]), axis=place)


# -- cumulative ------------------------------------------------------------------------------------


def _infer_cumulative(ctx: InferContext) -> Type:
    rank, axis = ctx.rank("x"), ctx.ints("axis")
    if rank is not None and axis is not None and len(axis) == 1:
        axis_of(ctx, axis[0], rank)
    return like(ctx)


def _cumulate(
    accumulate: Callable[..., Any], x: Array, axis: int, exclusive: bool, reverse: bool, unit: int
) -> Array:
    axis = normalized(axis, x.ndim)
    wide = widen(x)
    y = np.flip(wide, axis) if reverse else wide
    y = np.asarray(accumulate(y, axis=axis, dtype=wide.dtype))
    if exclusive:
        before = (slice(None),) * axis
        head = np.full_like(y[(*before, slice(0, 1))], unit)
        y = np.concatenate([head, y[(*before, slice(0, -1))]], axis)
    y = np.flip(y, axis) if reverse else y
    return y.astype(x.dtype)


@op("cum_sum(x, axis)", infer=_infer_cumulative)
def cum_sum(x: Array, axis: Array, *, exclusive: Bool = False, reverse: Bool = False) -> Array:
    """Running sums along an axis (ONNX CumSum-14); ``exclusive`` leaves the element itself out.

    C1  -rank(x) <= axis < rank(x), one element
    """
    return _cumulate(np.cumsum, x, scalar(axis, "axis"), exclusive, reverse, 0)


@op("cum_prod(x, axis)", infer=_infer_cumulative)
def cum_prod(x: Array, axis: Array, *, exclusive: Bool = False, reverse: Bool = False) -> Array:
    """Running products along an axis (ONNX CumProd-26); ``exclusive`` leaves the element out.

    C1  -rank(x) <= axis < rank(x), one element
    """
    return _cumulate(np.cumprod, x, scalar(axis, "axis"), exclusive, reverse, 1)
