"""GRU and RNN: as an LSTM, one product for the inputs of all steps, then a walk over the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen import math as vmath
from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.blocked import blocks_of
from lepton_ir.backends.numba.kernels.recurrent import (
    copy_row,
    gate_sums,
    initial_state,
    input_product,
    ordered,
    recurrent_panels,
    zeros,
)
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Array, Tensor

GATES = 3
"""Update, reset and hidden: in this order in weights and bias."""


def _relu(e: Emitter, x: Val) -> Val:
    return e.above(x, e.zero(x.type))


_ACTIVATIONS: dict[str, Callable[[Emitter, Val], Val]] = {
    "Tanh": vmath.tanh,
    "Sigmoid": vmath.sigmoid,
    "Relu": _relu,
}


@lowers("gru")
def lower_gru(lo: Lowering) -> None:
    """Lower GRU with constant weights, the usual activations and whole sequences."""
    usual = ("Sigmoid", "Tanh")
    if lo.anchor.attr("activations") not in (None, (), usual, usual * 2):
        lo.decline("other activations")
    _lower(lo, GATES, lambda d, backward, x, y, last: _gru(lo, d, backward, x, y, last))


@lowers("rnn")
def lower_rnn(lo: Lowering) -> None:
    """Lower RNN with constant weights and whole sequences."""
    names = lo.anchor.attr("activations") or ("Tanh",)
    if any(n not in _ACTIVATIONS for n in names):
        lo.decline("other activations")
    _lower(lo, 1, lambda d, backward, x, y, last: _rnn(lo, d, backward, x, y, last))


def _lower(
    lo: Lowering, gates: int, direction: Callable[[int, bool, Tensor, Ref, Ref], None]
) -> None:
    """Check what both have in common, and add the walk of each direction."""
    op, x = lo.anchor, lo.operand(0)
    if x.dtype is not dtypes.F32 or op.attr("clip") or op.attr("layout"):
        lo.decline("other types, clipping or another layout")
    recurrent = lo.known(2)
    if lo.known(1) is None or recurrent is None or (lo.has(3) and lo.known(3) is None):
        lo.decline("weights that are not constant")
    x = lo.plain(x)
    steps, batch, _ = x.shape
    lengths = lo.ints(4) if lo.has(4) else (steps,) * batch
    if lengths != (steps,) * batch:
        lo.decline("lengths of sequences")
    directions, rows, hidden = recurrent.shape
    if rows != gates * hidden:
        lo.decline("weights of another shape")
    y = lo.new(dtypes.F32, (steps, directions, batch, hidden))
    last = lo.new(dtypes.F32, (directions, batch, hidden))
    for d in range(directions):
        backward = op.attr("direction") == "reverse" or d == 1
        offset = 4 * d * batch * hidden
        places = [Ref(t.ref.buffer, t.ref.offset + offset) for t in (y, last)]
        direction(d, backward, x, *places)
    for index, t in enumerate((y, last)[: len(lo.op.results)]):
        lo.set(t, index)


def _sizes(lo: Lowering, x: Tensor, hidden: int) -> tuple[int, ...]:
    """Return steps, batch, hidden units and the strides of ``y`` along steps and batch."""
    recurrent = lo.known(2)
    assert recurrent is not None
    steps, batch, _ = x.shape
    return steps, batch, hidden, 4 * len(recurrent) * batch * hidden, 4 * hidden


def _gru(lo: Lowering, d: int, backward: bool, x: Tensor, y: Ref, last: Ref) -> None:
    recurrent = lo.known(2)
    assert recurrent is not None
    hidden, lanes = recurrent.shape[2], lo.machine.lanes
    whole = bool(lo.anchor.attr("linear_before_reset"))

    def bias_of(b: Array) -> Array:
        found = b[d, : GATES * hidden].copy()
        kept = GATES - 1 if whole else GATES
        found[: kept * hidden] += b[d, GATES * hidden : (GATES + kept) * hidden]
        return found

    def hidden_bias(b: Array) -> Array:
        part = b[d, (2 * GATES - 1) * hidden :]
        return ordered(np.ascontiguousarray(part)[:, None], lanes, 1)[:, 0].copy()

    gates = input_product(lo, x, d, (GATES, hidden), bias_of)
    columns = blocks_of(hidden, lanes) * lanes
    batch = x.shape[1]
    state = initial_state(lo, 5, batch * hidden, d)
    if whole:
        panels = recurrent_panels(lo, d, (0, 1, 2), hidden)
        more = lo.packed(3, ("gru", d, lanes), hidden_bias) if lo.has(3) else zeros(lo, columns)
        assert more is not None
    else:
        panels = recurrent_panels(lo, d, (0, 1), hidden)
        more = recurrent_panels(lo, d, (2,), hidden)
    scratch = lo.scratch(2 * 4 * batch * columns)
    refs = (gates.ref, panels, more, y, last, state, scratch)
    lo.call(Kernel("gru", (backward, whole)), *refs, *_sizes(lo, x, hidden))


def _rnn(lo: Lowering, d: int, backward: bool, x: Tensor, y: Ref, last: Ref) -> None:
    recurrent = lo.known(2)
    assert recurrent is not None
    hidden = recurrent.shape[2]

    def bias_of(b: Array) -> Array:
        found: Array = b[d, :hidden] + b[d, hidden:]
        return found

    gates = input_product(lo, x, d, (1, hidden), bias_of)
    panels = recurrent_panels(lo, d, (0,), hidden)
    state = initial_state(lo, 5, x.shape[1] * hidden, d)
    names = lo.anchor.attr("activations") or ("Tanh",)
    kernel = Kernel("rnn", (backward, names[d] if d < len(names) else "Tanh"))
    lo.call(kernel, gates.ref, panels, y, last, state, *_sizes(lo, x, hidden))


class _Walk:
    """The steps of one direction; threads share the batch.

    Args:
        e: the emitter.
        backward: whether the last step comes first.
        gates: number of gates.
        args: the product of the inputs, ``y``, the last state, the first one, and the sizes.
    """

    def __init__(self, e: Emitter, backward: bool, gates: int, args: Sequence[Val]) -> None:
        self.e = e
        self.backward = backward
        self.gates = gates
        self.inputs, self.y, self.last, self.first, steps, batch, hidden, yt, yb = args
        self.steps, self.batch, self.hidden, self.yt, self.yb = steps, batch, hidden, yt, yb
        b, lanes = e.b, e.lanes
        self.size = 4 * lanes
        self.blocks = e.ceil_div(hidden, lanes)
        self.whole = b.sdiv(hidden, i64(lanes))
        self.mask = e.lane_mask(b.sub(hidden, b.mul(self.whole, i64(lanes))))

    def emit(self, step: Callable[[Val, Val, Val, Val], None]) -> None:
        """Emit ``step(sequence, inputs, state before, state after)`` for each step.

        The last three are pointers.
        """
        e, b = self.e, self.e.b
        row_bytes = b.mul(self.blocks, i64(self.gates * self.size))
        start, end = e.share(self.batch)

        def one(n: Val) -> None:
            state = b.mul(b.mul(n, self.hidden), i64(4))

            def visit(s: Val, carried: list[Val]) -> list[Val]:
                t = b.sub(b.sub(self.steps, i64(1)), s) if self.backward else s
                row = b.add(b.mul(t, self.batch), n)
                inputs = b.add(self.inputs, b.mul(row, row_bytes))
                out = b.add(self.y, b.add(b.mul(t, self.yt), b.mul(n, self.yb)))
                step(n, e.ptr(inputs), e.ptr(carried[0]), e.ptr(out))
                return [out]

            (final,) = e.loop(self.steps, [b.add(self.first, state)], visit)
            place = e.ptr(b.add(self.last, state))
            copy_row(e, e.ptr(final), place, self.whole, self.mask, self.hidden)

        e.each(end, one, start=start)

    def load(self, row: Val, p: Val) -> Val:
        """Load block ``p`` of a state, which nothing may be read behind."""
        e, b, type_ = self.e, self.e.b, self.e.vec(F32)
        place = e.off(row, b.mul(p, i64(self.size)))
        (found,) = e.choose(
            b.icmp_signed("<", p, self.whole),
            lambda: [e.load(place, type_)],
            lambda: [e.load_masked(place, type_, self.mask)],
        )
        return found

    def store(self, value: Val, row: Val, p: Val) -> None:
        """Store block ``p`` of a state."""
        e, b = self.e, self.e.b
        place = e.off(row, b.mul(p, i64(self.size)))
        with b.if_else(b.icmp_signed("<", p, self.whole)) as (then, otherwise):
            with then:
                e.store(value, place)
            with otherwise:
                e.store_masked(value, place, self.mask)

    def panel(self, panels: Val, p: Val, gates: int) -> Val:
        """Return a pointer to the weights of block ``p``."""
        step = self.e.b.mul(self.hidden, i64(gates * self.size))
        return self.e.off(self.e.ptr(panels), self.e.b.mul(p, step))

    def gate(self, inputs: Val, p: Val, number: int) -> Val:
        """Load what the inputs give to a gate of block ``p``."""
        e = self.e
        place = e.off(inputs, e.b.mul(p, i64(self.gates * self.size)))
        return e.load(place, e.vec(F32), self.size * number)


@emits("rnn")
def emit_rnn(e: Emitter, backward: bool, activation: str) -> None:
    """Emit ``h = f(inputs + h r)`` for all steps."""
    inputs, panels, y, last, first, *sizes = e.args(10)
    walk = _Walk(e, backward, 1, (inputs, y, last, first, *sizes))

    def step(n: Val, row: Val, before: Val, after: Val) -> None:
        def block(p: Val) -> None:
            start = [walk.gate(row, p, 0)]
            (total,) = gate_sums(e, start, walk.panel(panels, p, 1), before, walk.hidden)
            walk.store(_ACTIVATIONS[activation](e, total), after, p)

        e.each(walk.blocks, block)

    walk.emit(step)


@emits("gru")
def emit_gru(e: Emitter, backward: bool, linear_before_reset: bool) -> None:
    """Emit the walk; the reset gate is applied behind or before the hidden gate's product."""
    inputs, panels, more, y, last, first, scratch, *sizes = e.args(12)
    walk = _Walk(e, backward, GATES, (inputs, y, last, first, *sizes))
    b, type_, size = e.b, e.vec(F32), 4 * e.lanes
    row_bytes = b.mul(walk.blocks, i64(size))

    def mixed(update: Val, candidate: Val, before: Val) -> Val:
        return e.fma(update, b.fsub(before, candidate), candidate)

    def together(n: Val, row: Val, before: Val, after: Val) -> None:
        def block(p: Val) -> None:
            bias = e.load(e.off(e.ptr(more), b.mul(p, i64(size))), type_)
            start = [walk.gate(row, p, 0), walk.gate(row, p, 1), bias]
            panel = walk.panel(panels, p, 3)
            update, reset, product = gate_sums(e, start, panel, before, walk.hidden)
            scaled = e.fma(vmath.sigmoid(e, reset), product, walk.gate(row, p, 2))
            candidate = vmath.tanh(e, scaled)
            found = mixed(vmath.sigmoid(e, update), candidate, walk.load(before, p))
            walk.store(found, after, p)

        e.each(walk.blocks, block)

    def apart(n: Val, row: Val, before: Val, after: Val) -> None:
        updates = e.ptr(b.add(scratch, b.mul(b.mul(n, row_bytes), i64(2))))
        resets = e.off(updates, row_bytes)

        def reset(p: Val) -> None:
            start = [walk.gate(row, p, 0), walk.gate(row, p, 1)]
            sums = gate_sums(e, start, walk.panel(panels, p, 2), before, walk.hidden)
            z, r = (vmath.sigmoid(e, s) for s in sums)
            offset = b.mul(p, i64(size))
            e.store(z, e.off(updates, offset))
            e.store(b.fmul(r, walk.load(before, p)), e.off(resets, offset))

        def block(p: Val) -> None:
            start = [walk.gate(row, p, 2)]
            (total,) = gate_sums(e, start, walk.panel(more, p, 1), resets, walk.hidden)
            z = e.load(e.off(updates, b.mul(p, i64(size))), type_)
            walk.store(mixed(z, vmath.tanh(e, total), walk.load(before, p)), after, p)

        e.each(walk.blocks, reset)
        e.each(walk.blocks, block)

    walk.emit(together if linear_before_reset else apart)
