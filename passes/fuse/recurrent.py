"""Loops over time that are recurrent layers: Scan and Loop become LSTM, GRU or RNN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.builder import Builder, create
from lepton_ir.dims import same_dim
from lepton_ir.infer import content_of, is_true
from lepton_ir.passes.fuse._match import available
from lepton_ir.passes.fuse._recurrent_cell import Layer, layer_of
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite

if TYPE_CHECKING:
    from lepton_ir.dims import Dim
    from lepton_ir.ir import Block, Op, Value

_LAST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class State:
    """A value that a loop carries: before it, in a step, after a step, behind it."""

    initial: Value
    arg: Value
    yielded: Value
    result: Value


@dataclass(frozen=True)
class Stacked:
    """A result that has one row a step, along ``axis``; ``backwards`` puts the last step first."""

    yielded: Value
    result: Value
    axis: int = 0
    backwards: bool = False


@dataclass(frozen=True)
class Recurrence:
    """A loop over the rows of a sequence.

    Attributes:
        x: the sequence.
        axis: its axis of time.
        backwards: the last row comes first.
        row: what a step is given of it.
    """

    x: Value
    axis: int
    backwards: bool
    row: Value
    states: tuple[State, ...]
    stacked: tuple[Stacked, ...]

    @property
    def length(self) -> Dim | None:
        """Number of steps."""
        return None if self.x.shape is None else self.x.shape[self.axis]


@rewrite("scan", "loop")
def loop_to_recurrent(m: Match, rw: Rewriter) -> bool:
    """A Scan or Loop of sigmoid(x A + h B + b), tanh(...) and so on => lstm, gru or rnn.

    So does a loop over layers of one step. The loop takes one row of a sequence a step, in either
    direction, with f32 or f16 states of known width, constant weights, and no other way out; gates
    of an LSTM may have peepholes. Runtimes end at an empty sequence or batch, or forget its states:
    where one may be empty, an ``if`` is put around the layer.
    """
    found = _of_scan(m.root, rw) if m.root.name == "scan" else _of_loop(m.root, rw)
    if found is None:
        return False
    layer = layer_of(found.row, [(s.arg, s.yielded) for s in found.states])
    if isinstance(layer, str):
        return rw.fail("{}", layer)
    if not available(rw, layer.kind):
        return rw.fail("the target has no {}", layer.kind)
    h = found.states[layer.h]
    kept = {layer.h, layer.c}
    if any(s.result.first_use for i, s in enumerate(found.states) if i not in kept):
        return rw.fail("another carried value is used behind the loop")
    for out in found.stacked:
        if out.result.first_use is not None and out.yielded is not h.yielded:
            return rw.fail("{} is not the state of every step", out.result)
    rw.also(*(op for op in m.root.walk() if op is not m.root and op.name != "yield"))
    rw.permit()
    dtype = h.arg.dtype
    weights = [rw.const(w, dtype) if w is not None else None for w in layer.weights]
    if _never_empty(found.x):
        return rw.replace(m.root, _built(rw, found, layer, weights, m.root))
    return rw.replace(m.root, _guarded(rw, found, layer, weights, m.root))


def _never_empty(x: Value) -> bool:
    sizes = [None if d is None else dims.bounds(d)[0] for d in x.shape or (None,)]
    return all(low is not None and low >= 1 for low in sizes)


# -- what loops say -------------------------------------------------------------------------------


def _pure(op: Op) -> bool:
    return all(
        inner.definition is not None
        and ("terminator" in inner.definition.traits or inner.definition.pure)
        for inner in op.walk()
        if inner is not op
    )


def _states(op: Op, initial: list[Any], args: list[Value], yielded: list[Any]) -> Any:
    values = [*initial, *yielded]
    if any(v is None for v in values):
        return None
    rows = zip(initial, args, yielded, op.results, strict=False)
    return tuple(State(*row) for row in rows)


def _of_scan(op: Op, rw: Rewriter) -> Recurrence | None:
    block, count = op.regions[0].block, int(op.attr("num_scan_inputs"))
    end = block.terminator
    if end is None or count < 1 or not _pure(op):
        rw.fail("the body has effects, or there is no sequence")
        return None
    carried = len(op.operands) - count
    read = [i for i in range(count) if block.args[carried + i].first_use is not None]
    if len(read) != 1:
        rw.fail("the steps read {} sequences", len(read))
        return None
    x, row = op.operands[carried + read[0]], block.args[carried + read[0]]
    states = _states(op, op.operands[:carried], block.args, end.operands[:carried])
    if x is None or x.rank is None or states is None:
        rw.fail("the rank of the sequence is not known")
        return None
    axes, directions = op.attr("scan_input_axes"), op.attr("scan_input_directions")
    out_axes, out_directions = op.attr("scan_output_axes"), op.attr("scan_output_directions")
    stacked = []
    for i, (value, result) in enumerate(
        zip(end.operands[carried:], op.results[carried:], strict=True)
    ):
        if value is None or value.rank is None:
            rw.fail("the rank of {} is not known", result)
            return None
        axis = (out_axes[i] if out_axes else 0) % (value.rank + 1)
        stacked.append(Stacked(value, result, axis, bool(out_directions and out_directions[i])))
    axis = (axes[read[0]] if axes else 0) % x.rank
    backwards = bool(directions and directions[read[0]])
    return Recurrence(x, axis, backwards, row, states, tuple(stacked))


def _of_loop(op: Op, rw: Rewriter) -> Recurrence | None:
    block = op.regions[0].block
    end = block.terminator
    if end is None or not _pure(op) or len(block.args) != len(op.operands):
        rw.fail("the body has effects")
        return None
    if not _runs_on(op, block):
        rw.fail("when it ends is decided at run time")
        return None
    taken = _taken_rows(block)
    if len(taken) != 1:
        rw.fail("the steps read rows of {} sequences", len(taken))
        return None
    gather, backwards = taken[0]
    x = gather.operands[0]
    axis = _axis_of(gather)
    steps = content_of(op.operands[0])
    if x is None or axis is None or steps is None or len(steps) != 1:
        rw.fail("the number of steps or the rank of the sequence is not known")
        return None
    length = x.shape[axis] if x.shape else None
    last = None if length is None else dims.sub(length, 1)
    if not same_dim(steps[0], length) or (backwards is not None and not same_dim(backwards, last)):
        rw.fail("the steps are not proven to be those of {}", x)
        return None
    count = len(op.operands) - 2
    states = _states(op, op.operands[2:], block.args[2:], end.operands[1 : 1 + count])
    if states is None or any(v is None for v in end.operands):
        return None
    rest = zip(end.operands[1 + count :], op.results[count:], strict=True)
    # Rows are stacked in the order of the steps: that of time only for a loop that goes forward.
    stacked = tuple(Stacked(v, r) for v, r in rest if v is not None)
    return Recurrence(x, axis, backwards is not None, gather.result, states, stacked)


def _axis_of(gather: Op) -> int | None:
    x = gather.operands[0]
    if x is None or x.rank is None:
        return None
    return int(gather.attr("axis")) % x.rank


def _runs_on(op: Op, block: Block) -> bool:
    """Whether a loop only ends when its steps are done."""
    start, end = op.operands[1], block.terminator
    assert end is not None
    if start is not None and not is_true(start):
        return False
    return end.operands[0] is block.args[1] or is_true(end.operands[0])


def _taken_rows(block: Block) -> list[tuple[Op, Dim | None]]:
    """Return the gathers of one row a step; for those from the back, with the last row's index."""
    found: list[tuple[Op, Dim | None]] = []
    for user in block.args[0].users:
        last: Dim | None = None
        index = block.args[0]
        gathers = [user]
        if user.name == "sub" and user.operands[1] is index:
            known = content_of(user.operands[0])
            last = known[0] if known and user.result.rank == 0 else None
            if last is None:
                continue
            index, gathers = user.result, list(user.result.users)
        for gather in gathers:
            if gather.name == "gather" and gather.operands[1] is index:
                outer = gather.operands[0]
                if outer is not None and not _inside(outer, block):
                    found.append((gather, last))
    return found


def _inside(value: Value, block: Block) -> bool:
    return value.producer is block or (value.op is not None and value.op.block is block)


# -- the layer ------------------------------------------------------------------------------------


def _built(
    b: Builder, found: Recurrence, layer: Layer, weights: list[Value | None], root: Op
) -> list[Value | None]:
    """Build the layer; return a value for each result of the loop that is read."""
    single = layer.unbatched
    x = found.x
    if found.axis:
        rest = [a for a in range(x.rank or 0) if a != found.axis]
        x = b.transpose(x, perm=[found.axis, *rest])
    if single:
        x = b.unsqueeze(x, b.const([1]))
    ones = [0, 1] if single else [0]
    chosen = [layer.h] if layer.c is None else [layer.h, layer.c]
    first = [b.unsqueeze(found.states[i].initial, b.const(ones)) for i in chosen]
    attrs = dict(layer.attrs)
    if found.backwards:
        attrs["direction"] = "reverse"
    *usual, holes = weights
    last = [] if holes is None else [holes]
    made = b.build(layer.kind, x, *usual, None, *first, *last, results=1 + len(chosen), **attrs)
    values: dict[Value, Value | None] = {}
    for i, result in zip(chosen, made.results[1:], strict=True):
        values[found.states[i].result] = b.squeeze(result, b.const(ones))
    rows = b.squeeze(made.results[0], b.const([1, 2] if single else [1]))
    for out in found.stacked:
        values[out.result] = _stacked(b, rows, out, found)
    return [values.get(r) if r.first_use is not None else None for r in root.results]


def _stacked(b: Builder, rows: Value, out: Stacked, found: Recurrence) -> Value:
    """Return the states of all steps, which the layer gives by time, as the loop stacks them."""
    if out.backwards != found.backwards:
        rows = b.slice(rows, *(b.const([n]) for n in (-1, _LAST, 0, -1)))
    if out.axis:
        rest = list(range(1, rows.rank or 0))
        rows = b.transpose(rows, perm=[*rest[: out.axis], 0, *rest[out.axis :]])
    return rows


def _guarded(
    rw: Rewriter, found: Recurrence, layer: Layer, weights: list[Value | None], root: Op
) -> list[Value | None]:
    """Build ``if(x has elements) {the layer} {the initial states}``."""
    some = rw.greater(rw.size(found.x), rw.const(0))
    used = [r for r in root.results if r.first_use is not None]
    choice = create("if", (some,), {}, len(used), rw.loc)
    then, other = (Builder(region.block, loc=rw.loc) for region in choice.regions)
    values = _built(then, found, layer, weights, root)
    then.build("yield", *(v for v in values if v is not None))
    initial = {s.result: s.initial for s in found.states}
    axes = {out.result: out.axis for out in found.stacked}
    nothing = []
    for result in used:
        value = initial.get(result)
        if value is None:
            value = _no_elements(other, found, found.states[layer.h].initial, axes[result])
        nothing.append(value)
    other.build("yield", *nothing)
    rw.insert(choice)
    for inner in choice.walk():
        rw.worklist.push(inner)
    made = dict(zip(used, choice.results, strict=True))
    return [made.get(r) for r in root.results]


def _no_elements(b: Builder, found: Recurrence, state: Value, axis: int) -> Value:
    """Return ``state`` as often as there are steps; either of them is empty."""
    steps = b.gather(b.shape(found.x), b.const([found.axis]))
    one = b.unsqueeze(state, b.const([axis]))
    around = [b.const([1] * n) if n else None for n in (axis, (one.rank or 0) - axis - 1)]
    sizes = [v for v in (around[0], steps, around[1]) if v is not None]
    made: Value = b.expand(one, b.concat(*sizes, axis=0))
    return made
