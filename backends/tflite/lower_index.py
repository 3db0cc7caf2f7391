"""Lowerings of gathering, scattering, choosing and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lowering import (
    dtype_of,
    full,
    i64,
    inverse,
    operand,
    optional,
    rank_of,
    shape_of,
    sizes,
    static_shape,
)
from lepton_ir.backends.tflite.ranges import never_negative
from lepton_ir.backends.tflite.row import constant_ints
from lepton_ir.infer import const_array, const_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value

_READ = 1 << 28


def wrapped(b: Builder, indices: Value, x: Value, axis: int) -> Value:
    """Build indices that count from the start: negative ones count from the end of an axis."""
    if never_negative(indices):
        return indices
    size = shape_of(x)[axis]
    known = const_array(indices, _READ)
    if known is not None and isinstance(size, int):
        return b.const(np.where(known < 0, known + size, known).astype(known.dtype))
    count: Value
    if isinstance(size, int):
        count = full(b, size, indices)
    else:
        count = b.squeeze(b.slice(b.shape(x), i64(b, axis), i64(b, axis + 1)), i64(b, 0))
        count = count if indices.dtype is dtypes.I64 else b.cast(count, to=dtype_of(indices))
    found: Value = b.mod(indices, count)
    return found


def _gather(b: Builder, op: Op) -> list[Value]:
    """Runtimes know no negative indices."""
    x, indices = operand(op, 0), operand(op, 1)
    axis = op.attr("axis") % max(rank_of(x), 1)
    if never_negative(indices):
        raise ValueError("no operator gathers so")
    return [b.gather(x, wrapped(b, indices, x, axis), axis=axis)]


def _grid(shape: tuple[int, ...], axis: int, stride: int) -> Any:
    """Return where every element lies along one axis, times ``stride``."""
    line = np.arange(shape[axis], dtype=np.int64) * stride
    ones = [1] * len(shape)
    ones[axis] = shape[axis]
    return line.reshape(ones)


def _gather_elements(b: Builder, op: Op) -> list[Value]:
    """The place in the flattened x: that along the axis times its stride, the others known."""
    x, indices = operand(op, 0), operand(op, 1)
    axis = op.attr("axis") % rank_of(x)
    if not all(isinstance(d, int) for d in (*shape_of(x), *shape_of(indices))):
        return [_gathered(b, x, indices, axis)]
    shape, found = static_shape(x), static_shape(indices)
    strides = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
    rest = np.zeros([1] * len(shape), np.int64)
    for i in range(len(shape)):
        if i != axis:
            rest = rest + _grid(found, i, strides[i])
    place = b.cast(wrapped(b, indices, x, axis), to=dtypes.I64)
    place = b.mul(place, full(b, strides[axis], place)) if strides[axis] != 1 else place
    place = b.add(place, b.const(rest)) if rest.any() else place
    # Every part is proven not to be negative, so the sum is known to be a place.
    return [b.gather(b.reshape(x, i64(b, -1)), place, axis=0)]


def _gathered(b: Builder, x: Value, indices: Value, axis: int) -> Value:
    """As above where sizes are known to the runtime only."""
    rank = rank_of(x)
    vector = sizes(b, x)
    total: Value | None = None
    for i in range(rank):
        if i == axis:
            place = b.cast(wrapped(b, indices, x, axis), to=dtypes.I64)
        elif shape_of(indices)[i] == 1:
            continue
        else:
            ones = [1] * rank
            ones[i] = -1
            place = b.reshape(line(b, indices, i), i64(b, *ones))
        if i < rank - 1:
            rest = b.slice(vector, i64(b, i + 1), i64(b, rank))
            place = b.mul(place, b.reduce_prod(rest, i64(b, 0), keepdims=True))
        total = place if total is None else b.add(total, place)
    found: Value = b.gather(b.reshape(x, i64(b, -1)), total, axis=0)
    return found


def _nd_wrapped(b: Builder, x: Value, indices: Value, first: int = 0) -> Value:
    """As `wrapped` for tuples of indices."""
    if never_negative(indices):
        return indices
    depth = shape_of(indices)[-1]
    if not isinstance(depth, int):
        raise ValueError("the length of the index tuples is not known")
    limits = shape_of(x)[first : first + depth]
    if not all(isinstance(d, int) for d in limits):
        raise ValueError("a size is not known, and indices may be negative")
    known = const_array(indices, _READ)
    bounds = np.asarray(limits, np.int64)
    if known is not None:
        return b.const(np.where(known < 0, known + bounds, known).astype(known.dtype))
    found: Value = b.mod(indices, b.const(bounds.astype(dtype_of(indices).numpy)))
    return found


def _gather_nd(b: Builder, op: Op) -> list[Value]:
    """Batch axes are counted in front of the indices."""
    x, indices = operand(op, 0), operand(op, 1)
    batch = op.attr("batch_dims")
    safe = _nd_wrapped(b, x, indices, batch)
    if not batch:
        if safe is indices:
            raise ValueError("no operator gathers so")
        return [b.gather_nd(x, safe)]
    shape = static_shape(indices)
    parts = [np.broadcast_to(_grid((*shape[:-1], 1), i, 1), (*shape[:-1], 1)) for i in range(batch)]
    front = np.concatenate(parts, axis=-1).astype(dtype_of(indices).numpy)
    return [b.gather_nd(x, b.concat(b.const(np.ascontiguousarray(front)), safe, axis=-1))]


def _is_zero(value: Value) -> bool:
    payload = const_tensor(value)
    if payload is None:
        return False
    splat = payload.splat_value()
    return bool(splat == 0) if splat is not None else not payload.numpy().any()


def _zeros(b: Builder, x: Value, dtype: Any) -> Value:
    return b.const(np.zeros(static_shape(x), dtype.numpy))


def _scatter_nd(b: Builder, op: Op) -> list[Value]:
    """SCATTER_ND adds to zeros: sums are added to x, others chosen where a count is not 0."""
    x, indices, updates = operand(op, 0), operand(op, 1), operand(op, 2)
    reduction = op.attr("reduction")
    safe = _nd_wrapped(b, x, indices)
    if reduction not in ("none", "add") or not all(isinstance(d, int) for d in shape_of(x)):
        if safe is indices:
            raise ValueError(f"no operator scatters {x.dtype} with {reduction}")
        return [b.scatter_nd(x, safe, updates, reduction=reduction)]
    if reduction == "add" and _is_zero(x):
        if safe is indices:
            raise ValueError("no operator scatters so")
        return [b.scatter_nd(x, safe, updates, reduction="add")]
    placed = b.scatter_nd(_zeros(b, x, dtype_of(x)), safe, updates, reduction="add")
    if reduction == "add":
        return [b.add(x, placed)]
    ones = b.const(np.ones(static_shape(updates), np.int32))
    count = b.scatter_nd(_zeros(b, x, dtypes.I32), safe, ones, reduction="add")
    return [b.where(b.greater(count, full(b, 0, count)), placed, x)]


def _scatter_elements(b: Builder, op: Op) -> list[Value]:
    """As ``scatter_nd`` with the places of all axes."""
    x, indices, updates = operand(op, 0), operand(op, 1), operand(op, 2)
    shape = shape_of(indices)
    rank = len(shape)
    axis = op.attr("axis") % rank
    kind = dtype_of(indices).numpy
    safe = b.unsqueeze(wrapped(b, indices, x, axis), i64(b, rank))
    parts: list[Value] = []
    for i in range(rank):
        if i == axis:
            parts.append(safe)
        elif not all(isinstance(d, int) for d in shape):
            own = b.reshape(
                line(b, indices, i), i64(b, *(-1 if k == i else 1 for k in range(rank)))
            )
            own = b.unsqueeze(b.cast(own, to=dtype_of(indices)), i64(b, rank))
            # Broadcast to the indices, without a negative number on the way.
            parts.append(b.add(b.mul(safe, full(b, 0, safe)), own))
        else:
            known: Any = shape
            place = np.broadcast_to(_grid(known, i, 1), known)[..., None]
            parts.append(b.const(np.ascontiguousarray(place).astype(kind)))
    places = parts[0] if rank == 1 else b.concat(*parts, axis=-1)
    return [b.scatter_nd(x, places, updates, reduction=op.attr("reduction"))]


def _compress(b: Builder, op: Op) -> list[Value]:
    """Gather where the condition is true."""
    x, condition = operand(op, 0), operand(op, 1)
    axis = op.attr("axis")
    if axis is None:
        x, axis = b.reshape(x, i64(b, -1)), 0
    places = b.squeeze(b.non_zero(condition), i64(b, 0))
    return [b.gather(x, places, axis=axis % rank_of(x))]


def _arg(b: Builder, op: Op) -> list[Value]:
    """The axis is put back behind; the last of equals is the first of the reversed."""
    x = operand(op, 0)
    rank = rank_of(x)
    axis = op.attr("axis") % max(rank, 1)
    attrs = {"axis": axis, "keepdims": False}
    if op.attr("select_last_index"):
        size = shape_of(x)[axis]
        if not isinstance(size, int):
            raise ValueError("the size of the axis is not known")
        low = np.iinfo(np.int32).min
        backwards = b.slice(x, i64(b, -1), i64(b, low), i64(b, axis), i64(b, -1))
        found = b.build(op.name, backwards, **attrs).result
        found = b.sub(full(b, size - 1, found), found)
    elif op.attr("keepdims"):
        found = b.build(op.name, x, **attrs).result
    else:
        raise ValueError("no operator does this")
    return [b.unsqueeze(found, i64(b, axis)) if op.attr("keepdims") else found]


def _top_k(b: Builder, op: Op) -> list[Value]:
    """The axis goes last; the smallest are the largest of the negative."""
    x, k = operand(op, 0), operand(op, 1)
    rank = rank_of(x)
    axis = op.attr("axis") % max(rank, 1)
    perm = [*(i for i in range(rank) if i != axis), axis]
    moved = axis != rank - 1
    if not moved and op.attr("largest"):
        raise ValueError("no operator does this")
    if not op.attr("largest"):
        if dtype_of(x).kind == "uint":
            raise ValueError("unsigned elements have no negative")
        x = b.neg(x)
    if moved:
        x = b.transpose(x, perm=perm)
    values, indices = b.top_k(x, k, results=2)
    if not op.attr("largest"):
        values = b.neg(values)
    if moved:
        values, indices = (b.transpose(v, perm=inverse(perm)) for v in (values, indices))
    return [values, indices]


def _one_hot(b: Builder, op: Op) -> list[Value]:
    """Compare with 0 .. depth - 1; negative indices count from the end."""
    indices, values = operand(op, 0), operand(op, 2)
    rank = rank_of(op.results[0])
    axis = op.attr("axis") % rank
    size = shape_of(op.results[0])[axis]
    if dtype_of(indices) not in (dtypes.I32, dtypes.I64, dtypes.F32):
        indices = b.cast(indices, to=dtypes.F32 if dtype_of(indices).is_float else dtypes.I32)
    if isinstance(size, int):
        depth = full(b, size, indices)
        line = b.const(np.arange(size, dtype=dtype_of(indices).numpy))
    else:
        depth = b.cast(operand(op, 1), to=dtype_of(indices))
        depth = depth if depth.rank == 0 else b.squeeze(depth, i64(b, 0))
        line = b.range(full(b, 0, indices), depth, full(b, 1, indices))
    if not never_negative(indices):
        behind = b.add(indices, depth)
        indices = b.where(b.less(indices, full(b, 0, indices)), behind, indices)
    line = b.reshape(line, i64(b, *(-1 if i == axis else 1 for i in range(rank))))
    hot = b.equal(b.unsqueeze(indices, i64(b, axis)), line)
    off, on = (b.squeeze(b.slice(values, i64(b, i), i64(b, i + 1)), i64(b, 0)) for i in (0, 1))
    return [b.where(hot, on, off)]


def line(b: Builder, x: Value, axis: int) -> Value:
    """Build 0 .. size - 1 of an axis."""
    size = shape_of(x)[axis]
    if isinstance(size, int):
        return b.const(np.arange(size, dtype=np.int64))
    count = b.squeeze(b.slice(sizes(b, x), i64(b, axis), i64(b, axis + 1)), i64(b, 0))
    zero, one = (b.const(np.asarray(n, np.int64)) for n in (0, 1))
    found: Value = b.range(zero, count, one)
    return found


def _trilu(b: Builder, op: Op) -> list[Value]:
    """Choose by row and column."""
    x, k = operand(op, 0), optional(op, 1)
    rank = rank_of(x)
    shape = shape_of(x)
    shift = [0] if k is None else constant_ints(k)
    rows, columns = shape[-2:]
    upper = op.attr("upper")
    mask: Value
    if shift is not None and isinstance(rows, int) and isinstance(columns, int):
        distance = np.arange(columns)[None, :] - np.arange(rows)[:, None]
        mask = b.const(distance >= shift[0] if upper else distance <= shift[0])
    else:
        row = b.unsqueeze(line(b, x, rank - 2), i64(b, 1))
        column = b.unsqueeze(line(b, x, rank - 1), i64(b, 0))
        if k is not None:
            row = b.add(row, k)
        compare = "greater_or_equal" if upper else "less_or_equal"
        mask = b.build(compare, column, row).result
    return [b.where(mask, x, full(b, 0, x))]


def _eye_like(b: Builder, op: Op) -> list[Value]:
    x, y = operand(op, 0), op.results[0]
    if not all(isinstance(d, int) for d in shape_of(y)):
        row, column = line(b, x, 0), line(b, x, 1)
        moved = b.add(b.unsqueeze(row, i64(b, 1)), b.const(np.asarray(op.attr("k"), np.int64)))
        return [b.cast(b.equal(b.unsqueeze(column, i64(b, 0)), moved), to=dtype_of(y))]
    rows, columns = static_shape(y)
    return [b.const(np.eye(rows, columns, op.attr("k")).astype(dtype_of(y).numpy))]


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "gather": _gather,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
    "scatter_nd": _scatter_nd,
    "scatter_elements": _scatter_elements,
    "compress": _compress,
    "arg_max": _arg,
    "arg_min": _arg,
    "top_k": _top_k,
    "one_hot": _one_hot,
    "trilu": _trilu,
    "eye_like": _eye_like,
}
