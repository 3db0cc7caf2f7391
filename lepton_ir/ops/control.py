"""Structured control flow: if, loop, scan, and the map over sequences.

Regions read outer values directly; block arguments carry what changes from iteration to
iteration. The meaning of an operation gets each region as a callable on arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.infer import InferContext, infer_block, is_true, reset_block
from lepton_ir.ir import Block
from lepton_ir.opdef import Int, Ints, op
from lepton_ir.types import (
    UNKNOWN,
    SequenceType,
    TensorType,
    Type,
    TypeMismatchError,
    join,
    meet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.ir import Op, Value

    Body = Callable[..., tuple[Any, ...]]

_MAX_TRIES = 4
"""Rounds in which loop-carried types are widened before they are given up."""

_MAX_DEPTH = 2
"""Loops inside one another whose carried types are widened step by step. The rounds multiply from
level to level, so what loops further in carry stays unknown."""


def _yield_types(block: Block) -> list[Type]:
    last = block.terminator
    return [] if last is None else [UNKNOWN if v is None else v.type for v in last.operands]


def _infer_if(ctx: InferContext) -> list[Type]:
    branches = [ctx.region(n).block for n in ("then_branch", "else_branch")]
    for block in branches:
        infer_block(block)
    then, other = map(_yield_types, branches)
    if len(then) != len(other):
        ctx.fail("C1", f"the branches yield {len(then)} and {len(other)} values")
    if len(then) != ctx.num_results:
        ctx.fail("C2", f"the branches yield {len(then)} values for {ctx.num_results} results")
    cond = ctx.value("cond")
    known = None if cond is None else ctx.const("cond")
    if known is not None and known.size == 1:
        return then if bool(known.reshape(-1)[0]) else other
    return list(map(join, then, other))


@op(
    "if(cond) -> ys*",
    infer=_infer_if,
    regions=("then_branch", "else_branch"),
)
def if_(cond: Any, *, then_branch: Any, else_branch: Any) -> tuple[Any, ...]:
    """Evaluate one of two regions (ONNX If-25).

    C1  both regions yield the same number of values
    C2  as many as there are results
    """
    if np.size(cond) != 1:
        raise ValueError(f"the condition has {np.size(cond)} elements, expected 1")
    branch: Body = then_branch if bool(np.reshape(cond, ())) else else_branch
    return branch()


def _set_args(block: Block, types: Sequence[Type]) -> None:
    for arg, type_ in zip(block.args, types, strict=False):
        arg.type = type_
        arg.content = None


def _meets_declared(type_: Type, declared: Type | None) -> Type:
    """Use a body argument's declared element type where nothing better is known."""
    if declared is None or not isinstance(declared, TensorType):
        return type_ if declared is None or type_ is not UNKNOWN else declared
    try:
        return meet(type_, TensorType(declared.dtype, None))
    except TypeMismatchError:
        return type_


def _too_deep(op: Op) -> bool:
    depth, outer = 0, op.parent
    while outer is not None:
        depth += outer.name in ("loop", "scan")
        outer = outer.parent
    return depth >= _MAX_DEPTH


def _infer_widened(
    block: Block, before: Sequence[Type], count: int, after: Sequence[Type]
) -> list[Type]:
    """Infer a body once, nothing known of the ``count`` carried values between the others."""
    carried: list[Type] = [UNKNOWN] * count
    reset_block(block)
    _set_args(block, [*before, *carried, *after])
    infer_block(block)
    return carried


def _carried_fixpoint(
    block: Block,
    initial: Sequence[Type],
    ctx: InferContext,
    *,
    before: Sequence[Type] = (),
    after: Sequence[Type] = (),
    offset: int = 0,
) -> list[Type]:
    """Return types of the loop-carried values that hold before and after every iteration.

    Args:
        block: the body; its arguments are ``before``, then carried values, then ``after``.
        initial: types of the carried values' initial values.
        ctx: of the operation that holds the body.
        before: types of the leading arguments.
        after: types of the trailing arguments.
        offset: index of the first carried value among the yielded ones.
    """
    count = len(initial)
    if _too_deep(ctx.op):
        return _infer_widened(block, before, count, after)
    carried = list(initial)
    for attempt in range(_MAX_TRIES):
        reset_block(block)
        _set_args(block, [*before, *carried, *after])
        for arg in block.args:
            arg.type = _meets_declared(arg.type, arg.declared)
        infer_block(block)
        yielded = _yield_types(block)[offset : offset + count]
        widened = [join(a, b) for a, b in zip(carried, yielded, strict=True)]
        if attempt >= 1:
            widened = [
                w if w is c else _drop_dims(w) for w, c in zip(widened, carried, strict=True)
            ]
        if all(w is c for w, c in zip(widened, carried, strict=True)):
            return carried
        carried = widened
    return _infer_widened(block, before, count, after)


def _drop_dims(type_: Type) -> Type:
    if isinstance(type_, TensorType) and type_.shape is not None:
        return type_.with_shape([None] * len(type_.shape))
    return type_


def _stacked(type_: Type, length: Dim | None) -> Type:
    if not isinstance(type_, TensorType):
        return UNKNOWN
    shape = None if type_.shape is None else (length, *type_.shape)
    return TensorType(type_.dtype, shape)


def _infer_loop(ctx: InferContext) -> list[Type]:
    block = ctx.region("body").block
    initial = [UNKNOWN if v is None else v.type for v in ctx.op.operands[2:]]
    count = len(initial)
    if len(block.args) != count + 2:
        ctx.fail("C1", f"the body takes {len(block.args)} values, expected {count + 2}")
    yielded = _yield_types(block)
    if len(yielded) < count + 1:
        ctx.fail("C2", f"the body yields {len(yielded)} values, expected at least {count + 1}")
    if len(yielded) - 1 != ctx.num_results:
        ctx.fail("C2", f"the body yields {len(yielded) - 1} values for {ctx.num_results} results")
    fixed: list[Type] = [TensorType(dtypes.I64, ()), TensorType(dtypes.BOOL, ())]
    carried = _carried_fixpoint(block, initial, ctx, before=fixed, offset=1)
    scans = _yield_types(block)[1 + count :]
    length = _rounds(ctx, block)
    return [*carried, *(_stacked(t, length) for t in scans)]


def _rounds(ctx: InferContext, block: Block) -> Dim | None:
    """Return how often a loop runs, where nothing but their number ends it."""
    end, limit = block.terminator, ctx.content("m")
    start = ctx.value("cond")
    if end is None or not limit or (start is not None and not is_true(start)):
        return None
    again = end.operands[0]
    if limit[0] is None or not (again is block.args[1] or is_true(again)):
        return None
    low = dims.bounds(limit[0])[0]
    if isinstance(limit[0], int):
        return max(limit[0], 0)
    return limit[0] if low is not None and low >= 0 else None


@op("loop(m?, cond?, initial*) -> ys*", infer=_infer_loop, regions=("body",))
def loop(m: Any = None, cond: Any = None, *initial: Any, body: Any) -> tuple[Any, ...]:
    """Iterate a region (ONNX Loop-25).

    The body takes ``(iteration: i64[], condition: bool[], carried...)`` and yields
    ``(condition, carried..., scanned...)``; scanned values are stacked along a new first axis.

    C1  the body takes two values more than there are initial ones
    C2  the body yields the condition, the carried values and one value per scan output
    """
    limit = None if m is None else int(np.reshape(m, ()))
    alive = True if cond is None else bool(np.reshape(cond, ()))
    carried: list[Any] = list(initial)
    scanned: list[list[Any]] | None = None
    i = 0
    while alive and (limit is None or i < limit):
        out = body(np.asarray(i, np.int64), np.asarray(alive), *carried)
        alive = bool(np.reshape(out[0], ()))
        carried = list(out[1 : 1 + len(initial)])
        rest = out[1 + len(initial) :]
        scanned = [[] for _ in rest] if scanned is None else scanned
        for rows, row in zip(scanned, rest, strict=True):
            rows.append(row)
        i += 1
    if scanned is None:
        return (*carried, *(_NO_ROWS for _ in range(_scan_count(body, len(initial)))))
    return (*carried, *(np.stack(rows) for rows in scanned))


class NoRows:
    """Stands for a stacked result of zero iterations; the caller knows its type."""


_NO_ROWS = NoRows()


def _scan_count(body: Any, carried: int) -> int:
    return int(getattr(body, "result_count", carried + 1)) - carried - 1


def _scan_axes(given: Sequence[int], count: int) -> list[int]:
    return list(given) if given else [0] * count


def _infer_scan(ctx: InferContext) -> list[Type]:
    block = ctx.region("body").block
    scans = ctx.attrs["num_scan_inputs"]
    operands = [UNKNOWN if v is None else v.type for v in ctx.op.operands]
    states, inputs = operands[: len(operands) - scans], operands[len(operands) - scans :]
    if len(block.args) != len(operands):
        ctx.fail("C1", f"the body takes {len(block.args)} values, expected {len(operands)}")
    if len(_yield_types(block)) != ctx.num_results:
        ctx.fail("C2", f"the body yields {len(_yield_types(block))} values")
    length: Dim | None = None
    slices: list[Type] = []
    for t, raw in zip(inputs, _scan_axes(ctx.attrs["scan_input_axes"], scans), strict=True):
        if not isinstance(t, TensorType) or t.shape is None:
            slices.append(TensorType(t.dtype if isinstance(t, TensorType) else None, None))
            continue
        rank = len(t.shape)
        if not -rank <= raw < rank:
            ctx.fail("C3", f"scan axis {raw} is outside rank {rank}")
        axis = raw % rank
        length = t.shape[axis] if length is None else length
        slices.append(t.with_shape(t.shape[:axis] + t.shape[axis + 1 :]))
    carried = _carried_fixpoint(block, states, ctx, after=slices)
    outs = _yield_types(block)[len(states) :]
    results: list[Type] = [*carried]
    axes = _scan_axes(ctx.attrs["scan_output_axes"], len(outs))
    for t, raw in zip(outs, axes, strict=True):
        if not isinstance(t, TensorType) or t.shape is None:
            results.append(TensorType(t.dtype if isinstance(t, TensorType) else None, None))
            continue
        axis = raw % (len(t.shape) + 1)
        results.append(t.with_shape((*t.shape[:axis], length, *t.shape[axis:])))
    return results


@op("scan(values*) -> ys*", infer=_infer_scan, regions=("body",))
def scan(
    *values: Any,
    body: Any,
    num_scan_inputs: Int,
    scan_input_axes: Ints = (),
    scan_input_directions: Ints = (),
    scan_output_axes: Ints = (),
    scan_output_directions: Ints = (),
) -> tuple[Any, ...]:
    """Iterate a region over slices of the scan inputs (ONNX Scan-25).

    The body takes ``(states..., slices...)`` and yields ``(states..., rows...)``.

    C1  the body takes as many values as there are operands
    C2  the body yields as many values as there are results
    C3  scan axes lie inside the rank
    """
    n = num_scan_inputs
    states = list(values[: len(values) - n])
    inputs = values[len(values) - n :]
    in_axes = _scan_axes(scan_input_axes, n)
    lengths = {x.shape[a] for x, a in zip(inputs, in_axes, strict=True)}
    if len(lengths) > 1:
        raise ValueError(f"scan inputs have different lengths {sorted(lengths)}")
    length = lengths.pop() if lengths else 0
    backward = list(scan_input_directions) or [0] * n
    rows: list[list[Any]] | None = None
    for i in range(length):
        slices = [
            np.take(x, length - 1 - i if back else i, axis=a)
            for x, a, back in zip(inputs, in_axes, backward, strict=True)
        ]
        out = body(*states, *slices)
        states = list(out[: len(states)])
        rest = out[len(states) :]
        rows = [[] for _ in rest] if rows is None else rows
        for column, row in zip(rows, rest, strict=True):
            column.append(row)
    if rows is None:
        count = int(getattr(body, "result_count", len(states))) - len(states)
        return (*states, *(_NO_ROWS for _ in range(count)))
    out_axes = _scan_axes(scan_output_axes, len(rows))
    reverse = list(scan_output_directions) or [0] * len(rows)
    stacked = [
        np.stack(column[::-1] if back else column, axis=a)
        for column, a, back in zip(rows, out_axes, reverse, strict=True)
    ]
    return (*states, *stacked)


def _infer_sequence_map(ctx: InferContext) -> list[Type]:
    block = ctx.region("body").block
    types: list[Type] = []
    for v in ctx.op.operands:
        t = UNKNOWN if v is None else v.type
        types.append(t.elem if isinstance(t, SequenceType) else t)
    if len(block.args) != len(types):
        ctx.fail("C1", f"the body takes {len(block.args)} values, expected {len(types)}")
    reset_block(block)
    _set_args(block, types)
    infer_block(block)
    return [SequenceType(t) for t in _yield_types(block)]


@op(
    "sequence_map(input_sequence, additional*) -> ys*",
    infer=_infer_sequence_map,
    regions=("body",),
)
def sequence_map(input_sequence: Any, *additional: Any, body: Any) -> tuple[Any, ...]:
    """Apply a region to each element of a sequence (ONNX SequenceMap-17).

    C1  the body takes as many values as there are operands
    """
    columns: list[list[Any]] = [[] for _ in range(int(getattr(body, "result_count", 1)))]
    for i, item in enumerate(input_sequence):
        extra = [a[i] if isinstance(a, list) else a for a in additional]
        for column, row in zip(columns, body(item, *extra), strict=True):
            column.append(row)
    return tuple(columns)


def _infer_fused(ctx: InferContext) -> list[Type]:
    block = ctx.region("body").block
    infer_block(block)
    yielded = _yield_types(block)
    if len(yielded) != ctx.num_results:
        ctx.fail("C1", f"the body yields {len(yielded)} values for {ctx.num_results} results")
    return yielded


def _decompose_fused(b: Builder, op: Op) -> list[Value]:
    from lepton_ir.clone import clone_op

    values: dict[Value, Value] = {}
    for inner in op.regions[0].block.ops:
        if inner.name == "yield":
            return [values.get(v, v) for v in inner.operands if v is not None]
        b.insert(clone_op(inner, values))
    raise ValueError("the body has no end")


@op(
    "fused() -> ys*",
    infer=_infer_fused,
    regions=("body",),
    traits="composite",
    decompose=_decompose_fused,
)
def fused(*, body: Any) -> tuple[Any, ...]:
    """Evaluate a region that a backend runs as one kernel; it reads outer values directly.

    C1  the body yields one value per result
    """
    found: Body = body
    return found()
