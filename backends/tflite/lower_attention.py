"""Lowerings of attention over padded keys, and of caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lower_index import line
from lepton_ir.backends.tflite.lowering import (
    full,
    i64,
    inverse,
    operand,
    optional,
    rank_of,
    shape_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value


def _attention(b: Builder, op: Op) -> list[Value]:
    """The number of keys that are no padding goes into the mask."""
    assert op.definition is not None
    assert op.definition.decompose is not None
    if len(op.operands) < 7 or op.operands[6] is None:
        found: list[Value] = op.definition.decompose(b, op)
        return found
    q, k, v = (operand(op, i) for i in range(3))
    if optional(op, 4) is not None:
        raise ValueError("there are past keys beside padded ones")
    axis = rank_of(q) - 2
    mask = _visible(b, op, line(b, q, axis), line(b, k, axis))
    given = optional(op, 3)
    if given is not None:
        if shape_of(given)[-1] != shape_of(k)[axis]:
            raise ValueError("the mask is shorter than the keys")
        if given.dtype is dtypes.BOOL:
            mask = b.and_(mask, given)
        else:
            mask = b.where(mask, given, full(b, -np.inf, given))
    changed = {"is_causal": False, "left_window_size": -1, "right_window_size": -1}
    attrs = {name: value for name, value in op.attrs.items() if name not in changed}
    return list(b.build("attention", q, k, v, mask, results=len(op.results), **attrs).results)


def _visible(b: Builder, op: Op, rows: Value, columns: Value) -> Value:
    """Build which keys each query sees: (batch, 1, queries, keys)."""
    count = b.reshape(b.cast(operand(op, 6), to=dtypes.I64), i64(b, -1, 1, 1, 1))
    rows = b.reshape(rows, i64(b, 1, 1, -1, 1))
    columns = b.reshape(columns, i64(b, 1, 1, 1, -1))
    seen: Value = b.less(columns, b.add(count, b.mul(rows, full(b, 0, rows))))
    left, right = op.attr("left_window_size"), op.attr("right_window_size")
    if not op.attr("is_causal") and max(left, right) < 0:
        return seen
    queries = shape_of(operand(op, 0))[-2]
    if not isinstance(queries, int):
        raise ValueError("the number of queries is not known")
    distance = b.sub(b.sub(b.add(rows, count), full(b, queries, rows)), columns)
    if op.attr("is_causal"):
        seen = b.and_(seen, b.greater_or_equal(distance, full(b, 0, distance)))
    if left >= 0:
        seen = b.and_(seen, b.less_or_equal(distance, full(b, left, distance)))
    if right >= 0:
        seen = b.and_(seen, b.greater_or_equal(distance, full(b, -right, distance)))
    return seen


def _tensor_scatter(b: Builder, op: Op) -> list[Value]:
    """Scatter rows of the cache, with the axis behind the batch."""
    x, update, starts = operand(op, 0), operand(op, 1), optional(op, 2)
    rank = rank_of(x)
    axis = op.attr("axis") % rank
    room, steps = shape_of(x)[axis], shape_of(update)[axis]
    if not isinstance(room, int) or not isinstance(steps, int):
        raise ValueError("the room of the cache or the number of steps is not known")
    perm = [0, axis, *(i for i in range(1, rank) if i != axis)]
    place = b.const(np.arange(steps, dtype=np.int64).reshape(1, -1))
    batch = b.unsqueeze(line(b, x, 0), i64(b, 1))
    if starts is not None:
        place = b.add(b.unsqueeze(b.cast(starts, to=dtypes.I64), i64(b, 1)), place)
    else:
        place = b.add(b.mul(batch, full(b, 0, batch)), place)
    place = b.mod(place, full(b, room, place))
    batch = b.add(batch, b.mul(place, full(b, 0, place)))
    indices = b.concat(b.unsqueeze(batch, i64(b, 2)), b.unsqueeze(place, i64(b, 2)), axis=2)
    moved, rows = (b.transpose(v, perm=perm) for v in (x, update))
    return [b.transpose(b.scatter_nd(moved, indices, rows), perm=inverse(perm))]


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "attention": _attention,
    "tensor_scatter": _tensor_scatter,
}
