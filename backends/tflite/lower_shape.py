"""Lowerings of operations that move elements: to those that TFLite has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.backends.tflite.lowering import (
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
from lepton_ir.backends.tflite.row import constant_ints
from lepton_ir.infer import const_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value


def _flatten(b: Builder, op: Op) -> list[Value]:
    """A reshape to the two products of sizes."""
    x, y = operand(op, 0), op.results[0]
    shape = shape_of(x)
    axis = op.attr("axis")
    axis += len(shape) if axis < 0 else 0
    wanted = shape_of(y)
    if sum(not isinstance(d, int) for d in wanted) <= 1 and 0 not in wanted:
        return [b.reshape(x, i64(b, *(d if isinstance(d, int) else -1 for d in wanted)))]
    vector = sizes(b, x)
    parts = [
        b.reduce_prod(b.slice(vector, i64(b, low), i64(b, high)), i64(b, 0), keepdims=True)
        for low, high in ((0, axis), (axis, len(shape)))
    ]
    return [b.reshape(x, b.concat(*parts, axis=0), allowzero=True)]


def _squeeze(b: Builder, op: Op) -> list[Value]:
    """Without axes to take away nothing is done; a scalar axis list is spelled out."""
    x = operand(op, 0)
    shape = shape_of(x)
    axes = constant_ints(optional(op, 1))
    if axes is None and optional(op, 1) is not None:
        raise ValueError("the axes are not constants")
    if not (axes if axes is not None else 1 in shape):
        return [b.identity(x)]
    raise ValueError("no operator takes these axes away")


def _unsqueeze(b: Builder, op: Op) -> list[Value]:
    """One axis after the other; when all sizes are known, a reshape."""
    x, axes = operand(op, 0), constant_ints(operand(op, 1))
    if axes is None:
        raise ValueError("the axes are not constants")
    if not axes:
        return [b.identity(x)]
    wanted = op.results[0].shape
    if wanted is not None and sum(not isinstance(d, int) for d in wanted) <= 1 and 0 not in wanted:
        return [b.reshape(x, i64(b, *(d if isinstance(d, int) else -1 for d in wanted)))]
    rank = rank_of(x) + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = b.unsqueeze(x, i64(b, axis))
    return [x]


def _gather(b: Builder, op: Op) -> list[Value]:
    """Negative indices count from the end, which runtimes do not know."""
    x, indices = operand(op, 0), operand(op, 1)
    rank = rank_of(x)
    axis = op.attr("axis") % max(rank, 1)
    size = shape_of(x)[axis]
    known = const_array(indices, 1 << 28)
    if known is not None:
        if not known.size or known.min() >= 0 or not isinstance(size, int):
            raise ValueError("no operator gathers so")
        wrapped = b.const(np.where(known < 0, known + size, known).astype(known.dtype))
        return [b.gather(x, wrapped, axis=axis)]
    raise ValueError("indices may be negative")


def _size(b: Builder, op: Op) -> list[Value]:
    """The product of the sizes."""
    x = operand(op, 0)
    return [b.reduce_prod(sizes(b, x), i64(b, 0), keepdims=False)]


def _shape(b: Builder, op: Op) -> list[Value]:
    """A part of the sizes is a slice of all."""
    x = operand(op, 0)
    start, end = op.attr("start"), op.attr("end")
    if not start and end is None:
        raise ValueError("no operator gives these sizes")
    low, high, _ = slice(start, end).indices(rank_of(x))
    return [b.slice(b.shape(x), i64(b, low), i64(b, max(low, high)))]


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
        backwards = b.slice(x, i64(b, -1), i64(b, np.iinfo(np.int32).min), i64(b, axis), i64(b, -1))
        found = b.sub(size - 1, b.build(op.name, backwards, **attrs).result)
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
        assert x.dtype is not None
        if x.dtype.kind == "uint":
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


def _pad(b: Builder, op: Op) -> list[Value]:
    """Axes are completed, negative pads become slices, edge and wrap gathers."""
    x, pads = operand(op, 0), constant_ints(operand(op, 1))
    if pads is None:
        raise ValueError("the pads are not constants")
    rank = rank_of(x)
    axes = constant_ints(optional(op, 3)) if optional(op, 3) is not None else list(range(rank))
    if axes is None:
        raise ValueError("the axes are not constants")
    begin, end = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        begin[axis % rank], end[axis % rank] = pads[i], pads[len(axes) + i]
    mode, fill = op.attr("mode"), optional(op, 2)
    if mode != "constant":
        for axis in range(rank):
            if begin[axis] or end[axis]:
                x = _extended(b, x, axis, begin[axis], end[axis], mode)
        return [x]
    cuts = [(i, -min(p, 0), -min(q, 0)) for i, (p, q) in enumerate(zip(begin, end, strict=True))]
    cuts = [c for c in cuts if c[1] or c[2]]
    if optional(op, 3) is None and not cuts:
        raise ValueError("no operator pads so")
    if cuts:
        starts = i64(b, *(c[1] for c in cuts))
        stops = i64(b, *(-c[2] if c[2] else np.iinfo(np.int32).max for c in cuts))
        x = b.slice(x, starts, stops, i64(b, *(c[0] for c in cuts)))
    kept = [*(max(p, 0) for p in begin), *(max(p, 0) for p in end)]
    return [b.pad(x, i64(b, *kept), fill) if any(kept) else b.identity(x)]


def _extended(b: Builder, x: Value, axis: int, begin: int, end: int, mode: str) -> Value:
    """Pad one axis by gathering."""
    size = shape_of(x)[axis]
    if not isinstance(size, int) or not size:
        raise ValueError("the size of the axis is not known")
    index = np.arange(-begin, size + end)
    if mode == "edge":
        index = np.clip(index, 0, size - 1)
    elif mode == "wrap":
        index %= size
    elif size == 1:
        index = np.zeros_like(index)
    else:
        period = 2 * (size - 1)
        index = np.abs((index + size - 1) % period - (size - 1))
    found: Value = b.gather(x, b.const(index.astype(np.int64)), axis=axis)
    return found


def _expand(b: Builder, op: Op) -> list[Value]:
    """Multiplying by ones broadcasts both ways, as the operation does."""
    x = operand(op, 0)
    ones = b.constant_of_shape(operand(op, 1))
    if x.dtype is None:
        raise ValueError("the element type is not known")
    from lepton_ir import dtypes

    if x.dtype is dtypes.BOOL:
        return [b.or_(x, b.cast(ones, to=dtypes.BOOL))]
    zero = b.const(np.zeros(1, x.dtype.numpy))
    zeros = b.constant_of_shape(operand(op, 1), value=_payload(zero))
    return [b.add(x, zeros)]


def _payload(value: Value) -> Any:
    from lepton_ir.infer import const_tensor

    return const_tensor(value)


def _constant_of_shape(b: Builder, op: Op) -> list[Value]:
    """What FILL does not give is cast."""
    from lepton_ir import dtypes

    y = op.results[0]
    if y.dtype is dtypes.U8:
        payload = op.attr("value")
        number = 0 if payload is None else int(payload.numpy().reshape(()))
        wide = b.const(np.asarray([number], np.int32))
        found = b.constant_of_shape(operand(op, 0), value=_payload(wide))
        return [b.cast(found, to=dtypes.U8)]
    if all(isinstance(d, int) for d in shape_of(y)):
        payload = op.attr("value")
        assert y.dtype is not None
        number = 0 if payload is None else payload.numpy().reshape(())[()]
        return [b.const(np.full(static_shape(y), number, y.dtype.numpy))]
    raise ValueError(f"FILL does not give {y.dtype}")


def _one_hot(b: Builder, op: Op) -> list[Value]:
    """Compare with 0 .. depth - 1; negative indices count from the end."""
    indices, depth, values = operand(op, 0), operand(op, 1), operand(op, 2)
    count = constant_ints(depth)
    if count is None:
        raise ValueError("the depth is not a constant")
    from lepton_ir import dtypes

    size = count[0]
    rank = rank_of(op.results[0])
    axis = op.attr("axis") % rank
    assert indices.dtype is not None
    if indices.dtype not in (dtypes.I32, dtypes.I64, dtypes.F32):
        to = dtypes.F32 if indices.dtype.is_float else dtypes.I32
        indices = b.cast(indices, to=to)
    wrapped = b.where(
        b.less(indices, full(b, 0, indices)), b.add(indices, full(b, size, indices)), indices
    )
    assert indices.dtype is not None
    steps = np.arange(size, dtype=indices.dtype.numpy)
    line = steps.reshape([size if i == axis else 1 for i in range(rank)])
    hot = b.equal(b.unsqueeze(wrapped, i64(b, axis)), b.const(line))
    off, on = (b.squeeze(b.slice(values, i64(b, i), i64(b, i + 1)), i64(b, 0)) for i in (0, 1))
    return [b.where(hot, on, off)]


def _reshape(b: Builder, op: Op) -> list[Value]:
    """A scalar that stays one is the same value."""
    x = operand(op, 0)
    if x.rank == 0 and op.results[0].rank == 0:
        return [b.identity(x)]
    raise ValueError("no operator does this reshape")


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "flatten": _flatten,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "gather": _gather,
    "size": _size,
    "shape": _shape,
    "arg_max": _arg,
    "arg_min": _arg,
    "top_k": _top_k,
    "pad": _pad,
    "expand": _expand,
    "constant_of_shape": _constant_of_shape,
    "one_hot": _one_hot,
}
