"""Lowerings of operations that move elements: to those that TFLite has."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.backends.tflite.lowering import (
    full,
    i64,
    operand,
    optional,
    rank_of,
    shape_of,
    sizes,
    static_shape,
)
from lepton_ir.backends.tflite.row import constant_ints

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


def _extension(b: Builder, x: Value, axis: int, begin: int, end: int, mode: str) -> Value:
    """Build where the elements of an extended axis come from, whose size is not known."""
    zero, one = (b.const(np.asarray(n, np.int64)) for n in (0, 1))
    size = b.squeeze(b.slice(b.shape(x), i64(b, axis), i64(b, axis + 1)), i64(b, 0))
    first = b.const(np.asarray(-begin, np.int64))
    line = b.range(first, b.add(size, b.const(np.asarray(end, np.int64))), one)
    last = b.sub(size, one)
    found: Value
    if mode == "edge":
        found = b.max(b.min(line, last), zero)
    elif mode == "wrap":
        found = b.mod(line, size)
    else:
        period = b.max(b.mul(last, b.const(np.asarray(2, np.int64))), one)
        found = b.abs(b.sub(b.mod(b.add(line, last), period), last))
    return found


def _extended(b: Builder, x: Value, axis: int, begin: int, end: int, mode: str) -> Value:
    """Pad one axis by gathering."""
    size = shape_of(x)[axis]
    if not isinstance(size, int):
        places = _extension(b, x, axis, begin, end, mode)
        return b.gather(x, places, axis=axis)  # type: ignore[no-any-return]
    if not size:
        raise ValueError("there is nothing to extend")
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


def _spelled(b: Builder, x: Value, wanted: list[int]) -> Value:
    """Build a new shape in which each 0 is the size of x there."""
    if wanted.count(0) == 1 and -1 not in wanted:
        return i64(b, *(d or -1 for d in wanted))
    vector = sizes(b, x)
    parts: list[Value] = []
    for same, group in itertools.groupby(range(len(wanted)), lambda i: wanted[i] == 0):
        places = list(group)
        if same:
            parts.append(b.slice(vector, i64(b, places[0]), i64(b, places[-1] + 1)))
        else:
            parts.append(i64(b, *(wanted[i] for i in places)))
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=0)


def _reshape(b: Builder, op: Op) -> list[Value]:
    """A scalar that stays one is the same value; a 0 in the new shape is a size of x."""
    x, shape = operand(op, 0), operand(op, 1)
    if x.rank == 0 and op.results[0].rank == 0:
        return [b.identity(x)]
    wanted = op.results[0].shape
    if op.attr("allowzero") or wanted is None:
        raise ValueError("no operator does this reshape")
    known = constant_ints(shape)
    if known is not None and 0 in known:
        return [b.reshape(x, _spelled(b, x, known), allowzero=True)]
    kept = min(len(wanted), rank_of(x))
    old = b.slice(b.shape(x), i64(b, 0), i64(b, kept))
    if kept < len(wanted):
        old = b.concat(old, i64(b, *[1] * (len(wanted) - kept)), axis=0)
    shape = b.where(b.equal(shape, full(b, 0, shape)), old, shape)
    return [b.reshape(x, shape, allowzero=True)]


def _reduce(b: Builder, op: Op) -> list[Value]:
    """Over no axis at all nothing is done."""
    x, axes = operand(op, 0), optional(op, 1)
    if op.attr("noop_with_empty_axes") and (axes is None or axes.shape == (0,)):
        return [b.identity(x)]
    if x.rank == 0:
        return [b.identity(x)]
    raise ValueError("no operator reduces so")


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    **{f"reduce_{kind}": _reduce for kind in ("sum", "mean", "max", "min", "prod")},
    "flatten": _flatten,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "size": _size,
    "shape": _shape,
    "pad": _pad,
    "expand": _expand,
    "constant_of_shape": _constant_of_shape,
}
