"""Lowerings of loops to those that TFLite has: carried values only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.backends.tflite.lowering import dtype_of, i64, operand, rank_of, shape_of, sizes
from lepton_ir.builder import Builder, create
from lepton_ir.clone import clone_op
from lepton_ir.infer import const_array, infer_op, is_true
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.ir import Block, Op, Value
    from lepton_ir.types import Type

    Body = Callable[[Builder, Value, list[Value]], tuple[Value | None, list[Value]]]

_MOST_ROWS = 1 << 24
"""Rows that are set aside for a result that grows with the iterations."""


def build_loop(
    b: Builder,
    limit: Value | None,
    alive: Value | None,
    initial: Sequence[Value],
    body: Body,
    types: Sequence[Type] | None = None,
) -> list[Value]:
    """Build a loop; return what it carries behind the last iteration.

    Args:
        b: the builder.
        limit: number of iterations, a scalar of i64.
        alive: whether the first iteration runs.
        initial: the values before it.
        body: builds the next condition (``None``: true) and values from the iteration and the
            values.
        types: of the carried values; by default those of ``initial``.
    """
    anchor = b.const(np.asarray(True))  # the first thing that is built, which asks for permission
    op = create("loop", [limit, alive, *initial], {}, len(initial), b.loc)
    if b.before is None:
        b.block.append(op)
    else:
        b.block.insert_before(op, b.before)
    block = op.regions[0].block
    inner = Builder(block, loc=b.loc)
    inner.created = b.created  # type: ignore[method-assign]
    scalar = anchor.type
    number = block.add_arg(i64(b, 0).type.with_shape(()))  # type: ignore[attr-defined]
    block.add_arg(scalar)
    args = [block.add_arg(t) for t in types or [v.type for v in initial]]
    condition, values = body(inner, number, args)
    if condition is None:
        condition = inner.const(np.asarray(True))
    inner.insert(create("yield", [condition, *values], {}, None, b.loc))
    infer_op(op)
    b.created(op)
    return list(op.results)


def place(b: Builder, buffer: Value, row: Value, at: Value) -> Value:
    """Build a buffer with one row replaced; ``at`` is a scalar of i64."""
    rank = rank_of(buffer)
    start = b.reshape(at, i64(b, 1))
    if rank > 1:
        start = b.concat(start, i64(b, *[0] * (rank - 1)), axis=0)
    found: Value = b.dynamic_update_slice(buffer, b.unsqueeze(row, i64(b, 0)), start)
    return found


def rows_of(b: Builder, count: Value, row: Value) -> Value:
    """Build a buffer of ``count`` rows of zeros, each like ``row``.

    There is one row at least: runtimes prepare a body that then runs for no row, too.
    """
    shape = shape_of(row)
    if not all(isinstance(d, int) for d in shape):
        raise ValueError("the shape of a scan output is not known")
    known = const_array(count)
    if 0 in shape or (known is not None and not known.reshape(-1)[0]):
        raise ValueError("a scan output has no elements")
    if known is None:
        count = b.max(count, b.const(np.asarray(1, np.int64)))
    parts = b.reshape(count, i64(b, 1))
    if shape:
        parts = b.concat(parts, i64(b, *shape), axis=0)  # type: ignore[arg-type]
    zero = DenseTensor(np.zeros(1, dtype_of(row).numpy))
    found: Value = b.constant_of_shape(parts, value=zero)
    return found


def _copied(inner: Builder, block: Block, args: Sequence[Value]) -> list[Value]:
    """Build the operations of a block on other arguments; return what it yields."""
    values = dict(zip(block.args, args, strict=True))
    for op in block.ops:
        if op is block.terminator:
            break
        inner.insert(clone_op(op, values))
    terminator = block.terminator
    assert terminator is not None
    return [values.get(v, v) for v in terminator.operands if v is not None]


def _scalar(b: Builder, value: Value) -> Value:
    if value.rank == 0:
        return value
    found: Value = b.reshape(value, b.const(np.zeros(0, np.int64)))
    return found


def _loop(b: Builder, op: Op) -> list[Value]:
    """Scan outputs are written into buffers of as many rows as there may be iterations."""
    limit, first = op.operands[:2]
    block = op.regions[0].block
    terminator = block.terminator
    assert terminator is not None
    carried = len(op.operands) - 2
    grown = terminator.operands[1 + carried :]
    if not grown:
        raise ValueError("no operator runs this loop")
    if limit is None:
        raise ValueError("nothing bounds the rows of a scan output")
    known = const_array(limit)
    if known is not None and int(known.reshape(-1)[0]) > _MOST_ROWS:
        raise ValueError("nothing bounds the rows of a scan output")
    limit = _scalar(b, limit)
    alive = terminator.operands[0]
    always = (first is None or is_true(first)) and (is_true(alive) or alive is block.args[1])
    buffers = [rows_of(b, limit, v) for v in grown if v is not None]
    counter = [] if always else [b.const(np.asarray(0, np.int64))]
    initial = [operand(op, 2 + i) for i in range(carried)]
    types = [*(a.type for a in block.args[2:]), *(v.type for v in buffers)]
    types += [v.type for v in counter]

    def body(inner: Builder, number: Value, args: list[Value]) -> tuple[Value, list[Value]]:
        alive_arg = inner.block.args[1]
        found = _copied(inner, block, [number, alive_arg, *args[:carried]])
        placed = [
            place(inner, buffer, row, number)
            for buffer, row in zip(args[carried:], found[1 + carried :], strict=False)
        ]
        more = [inner.add(number, inner.const(np.asarray(1, np.int64)))] if counter else []
        return found[0], [*found[1 : 1 + carried], *placed, *more]

    results = build_loop(b, limit, first, [*initial, *buffers, *counter], body, types)
    if counter:
        return _cut(b, results, carried, results.pop())
    return results if known is not None else _cut(b, results, carried, limit)


def _cut(b: Builder, results: list[Value], first: int, count: Value) -> list[Value]:
    """Build buffers with as many rows as were written."""
    rows = b.max(b.reshape(count, i64(b, 1)), b.const(np.zeros(1, np.int64)))
    for i in range(first, len(results)):
        results[i] = b.slice(results[i], i64(b, 0), rows, i64(b, 0))
    return results


def _scan(b: Builder, op: Op) -> list[Value]:
    """A loop over the slices of the scan inputs."""
    inputs = op.attr("num_scan_inputs")
    states = len(op.operands) - inputs
    block = op.regions[0].block
    terminator = block.terminator
    assert terminator is not None
    outputs = len(terminator.operands) - states
    axes = _completed(op, "scan_input_axes", inputs)
    backwards = _completed(op, "scan_input_directions", inputs)
    scanned = [operand(op, states + i) for i in range(inputs)]
    axes = [a % rank_of(v) for a, v in zip(axes, scanned, strict=True)]
    vector = sizes(b, scanned[0])
    count = b.squeeze(b.slice(vector, i64(b, axes[0]), i64(b, axes[0] + 1)), i64(b, 0))
    rows = [v for v in terminator.operands[states:] if v is not None]
    buffers = [rows_of(b, count, v) for v in rows]
    turned = _completed(op, "scan_output_directions", outputs)
    last = b.sub(count, b.const(np.asarray(1, np.int64)))

    def body(inner: Builder, number: Value, args: list[Value]) -> tuple[None, list[Value]]:
        reverse = inner.sub(last, number)
        slices = [
            inner.gather(x, reverse if back else number, axis=axis)
            for x, axis, back in zip(scanned, axes, backwards, strict=True)
        ]
        found = _copied(inner, block, [*args[:states], *slices])
        placed = [
            place(inner, buffer, row, reverse if back else number)
            for buffer, row, back in zip(args[states:], found[states:], turned, strict=True)
        ]
        return None, [*found[:states], *placed]

    initial = [*(operand(op, i) for i in range(states)), *buffers]
    results = build_loop(b, count, None, initial, body)
    if const_array(count) is None:
        results = _cut(b, results, states, count)
    for i, axis in enumerate(_completed(op, "scan_output_axes", outputs)):
        rank = rank_of(results[states + i])
        axis %= rank
        if axis:
            perm = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
            results[states + i] = b.transpose(results[states + i], perm=perm)
    return results


def _completed(op: Op, name: str, count: int) -> list[int]:
    given: Any = op.attr(name)
    return [int(v) for v in given] if given else [0] * count


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {"loop": _loop, "scan": _scan}
