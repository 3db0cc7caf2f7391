"""LSTM: one product for the inputs of all steps, then a kernel that walks the steps.

The four gates of a hidden unit stand in the same lane of four vectors: columns are ordered
``[unit block, gate, lane]``. So a tile of the recurrent product is all that a block of units needs
to go one step on, and gates never reach memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen import math as vmath
from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import Expression, Step
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.gemm import call_matrix
from lepton_ir.backends.numba.kernels.panels import pack_panels, width_of
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.backends.numba.plan import Array

GATES = 4

_ADD = Expression(("f32", "f32"), (Step("add", "f32", (0, 1)),), (2,))


@lowers("lstm")
def lower_lstm(lo: Lowering) -> None:
    """Lower LSTM with constant weights, the usual activations and whole sequences."""
    op = lo.anchor
    x = lo.operand(0)
    usual = (None, (), ("Sigmoid", "Tanh", "Tanh"), ("Sigmoid", "Tanh", "Tanh") * 2)
    if x.dtype is not dtypes.F32 or op.attr("activations") not in usual:
        lo.decline("other types or activations")
    if op.attr("clip") or op.attr("input_forget") or op.attr("layout") or lo.has(4) or lo.has(7):
        lo.decline("clipping, coupled gates, another layout, lengths or peepholes")
    recurrent = lo.known(2)
    if lo.known(1) is None or recurrent is None or (lo.has(3) and lo.known(3) is None):
        lo.decline("weights that are not constant")
    directions, _, hidden = recurrent.shape
    x = lo.plain(x)
    steps, batch, _ = x.shape
    y = lo.new(dtypes.F32, (steps, directions, batch, hidden))
    last_h, last_c = (lo.new(dtypes.F32, (directions, batch, hidden)) for _ in range(2))
    for d in range(directions):
        backward = op.attr("direction") == "reverse" or d == 1
        _lower_direction(lo, x, (y, last_h, last_c), d, hidden, backward)
    for index, t in enumerate((y, last_h, last_c)[: len(lo.op.results)]):
        lo.set(t, index)


def _lower_direction(
    lo: Lowering,
    x: Tensor,
    results: tuple[Tensor, Tensor, Tensor],
    d: int,
    hidden: int,
    backward: bool,
) -> None:
    lanes, width = lo.machine.lanes, width_of(lo.machine)
    steps, batch, depth = x.shape
    blocks = -(-hidden // lanes)
    columns = blocks * GATES * lanes

    def pack_input(w: Array) -> Array:
        return pack_panels(np.ascontiguousarray(_ordered(w[d], lanes).T), width)

    def pack_recurrent(r: Array) -> Array:
        return pack_panels(np.ascontiguousarray(_ordered(r[d], lanes).T), GATES * lanes)

    def pack_bias(b: Array) -> Array:
        whole = b[d, : GATES * hidden] + b[d, GATES * hidden :]
        return _ordered(whole[:, None], lanes)[:, 0].copy()

    weights = lo.packed(1, ("lstm", d, lanes, width), pack_input)
    panels = lo.packed(2, ("lstm", d, lanes), pack_recurrent)
    assert weights is not None
    assert panels is not None
    flat = Tensor(x.dtype, (steps * batch, depth), x.ref, (depth, 1))
    gates = lo.new(dtypes.F32, (steps * batch, columns))
    bias = lo.packed(3, ("lstm", d, lanes), pack_bias) if lo.has(3) else None
    if bias is None:
        bias = lo.constant(("zeros", columns), lambda: np.zeros(columns, np.float32))
    row = Tensor(dtypes.F32, (columns,), bias, (1,))
    call_matrix(lo, flat, weights, gates, _ADD, [row])
    size = 4 * batch * hidden
    zeros = lo.constant(("zeros", batch * hidden), lambda: np.zeros(batch * hidden, np.float32))
    initial = [_state(lo, index, d * size) or zeros for index in (5, 6)]
    y, last_h, last_c = (Ref(t.ref.buffer, t.ref.offset + d * size) for t in results)
    cells = lo.scratch(4 * batch * blocks * lanes)
    strides = (results[0].strides[0] * 4, 4 * hidden)
    kernel = Kernel("lstm", (backward,))
    refs = (gates.ref, panels, y, last_h, last_c, *initial, cells)
    lo.call(kernel, *refs, steps, batch, hidden, *strides)


def _state(lo: Lowering, index: int, offset: int) -> Ref | None:
    if not lo.has(index):
        return None
    t = lo.plain(lo.operand(index))
    return Ref(t.ref.buffer, t.ref.offset + offset)


def _ordered(w: Array, lanes: int) -> Array:
    """Return the rows of ``[gate, unit]`` weights as ``[unit block, gate, lane]``."""
    gates = w.reshape(GATES, -1, w.shape[-1])
    hidden = gates.shape[1]
    blocks = -(-hidden // lanes)
    padded = np.zeros((GATES, blocks * lanes, w.shape[-1]), np.float32)
    padded[:, :hidden] = gates
    ordered = padded.reshape(GATES, blocks, lanes, -1).transpose(1, 0, 2, 3)
    found = aligned_array((blocks * GATES * lanes, w.shape[-1]), np.float32)
    found[:] = ordered.reshape(found.shape)
    return found


@emits("lstm")
def emit_lstm(e: Emitter, backward: bool) -> None:
    """Emit the walk over the steps; threads share the batch."""
    gates, panels, y, last_h, last_c, h0, c0, cells, steps, batch, hidden, yt, yb = e.args(13)
    b, lanes, type_ = e.b, e.lanes, e.vec(F32)
    size = 4 * lanes
    blocks = e.ceil_div(hidden, lanes)
    row_bytes = b.mul(blocks, i64(GATES * size))
    whole = b.sdiv(hidden, i64(lanes))
    mask = e.lane_mask(b.sub(hidden, b.mul(whole, i64(lanes))))
    first, last = e.share(batch)

    def one(n: Val) -> None:
        state = b.mul(b.mul(n, hidden), i64(4))
        cell = e.ptr(b.add(cells, b.mul(n, b.mul(blocks, i64(size)))))
        _copy_row(e, e.ptr(b.add(c0, state)), cell, whole, mask, hidden)

        def step(s: Val, carried: list[Val]) -> list[Val]:
            t = b.sub(b.sub(steps, i64(1)), s) if backward else s
            place = b.add(gates, b.mul(b.add(b.mul(t, batch), n), row_bytes))
            out = b.add(y, b.add(b.mul(t, yt), b.mul(n, yb)))
            before = e.ptr(carried[0])

            def block(p: Val) -> None:
                sums = _gates(e, e.ptr(place), e.ptr(panels), before, p, hidden)
                i, o, f = (vmath.sigmoid(e, g) for g in sums[:3])
                at = e.off(cell, b.mul(p, i64(size)))
                new = e.fma(f, e.load(at, type_), b.fmul(i, vmath.tanh(e, sums[3])))
                e.store(new, at)
                found = b.fmul(o, vmath.tanh(e, new))
                goal = e.off(e.ptr(out), b.mul(p, i64(size)))
                with b.if_else(b.icmp_signed("<", p, whole)) as (then, otherwise):
                    with then:
                        e.store(found, goal)
                    with otherwise:
                        e.store_masked(found, goal, mask)

            e.each(blocks, block)
            return [out]

        (final,) = e.loop(steps, [b.add(h0, state)], step)
        _copy_row(e, e.ptr(final), e.ptr(b.add(last_h, state)), whole, mask, hidden)
        _copy_row(e, cell, e.ptr(b.add(last_c, state)), whole, mask, hidden)

    e.each(last, one, start=first)


def _copy_row(e: Emitter, source: Val, target: Val, whole: Val, mask: Val, size: Val) -> None:
    """Copy ``size`` elements: ``whole`` vectors and the masked rest."""
    b, bytes_ = e.b, 4 * e.lanes
    type_ = e.vec(F32)

    def vector(p: Val) -> None:
        offset = b.mul(p, i64(bytes_))
        e.store(e.load(e.off(source, offset), type_), e.off(target, offset))

    e.each(whole, vector)
    with b.if_then(b.icmp_signed("<", b.mul(whole, i64(e.lanes)), size)):
        offset = b.mul(whole, i64(bytes_))
        loaded = e.load_masked(e.off(source, offset), type_, mask)
        e.store_masked(loaded, e.off(target, offset), mask)


def _gates(e: Emitter, start: Val, panels: Val, before: Val, p: Val, hidden: Val) -> list[Val]:
    """Return the gates of one block of units: inputs and the recurrent product."""
    b, type_, size = e.b, e.vec(F32), 4 * e.lanes
    inputs = e.off(start, b.mul(p, i64(GATES * size)))
    panel = e.off(panels, b.mul(p, b.mul(hidden, i64(GATES * size))))
    splits = 2

    def terms(number: int) -> Callable[[Val, list[Val]], list[Val]]:
        def visit(k: Val, sums: list[Val]) -> list[Val]:
            sums = list(sums)
            for u in range(number):
                left = e.splat(e.load(e.off(before, b.shl(k, i64(2))), F32, 4 * u))
                row = e.off(panel, b.mul(k, i64(GATES * size)))
                for g in range(GATES):
                    right = e.load(row, type_, size * (GATES * u + g))
                    n = (u % splits) * GATES + g
                    sums[n] = e.fma(left, right, sums[n])
            return sums

        return visit

    sums = [e.load(inputs, type_, size * g) for g in range(GATES)]
    sums += [e.zero(type_)] * GATES
    whole = b.and_(hidden, i64(-4))
    sums = e.loop(whole, sums, terms(4), step=4)
    sums = e.loop(hidden, sums, terms(1), start=whole)
    return [b.fadd(x, z) for x, z in zip(sums[:GATES], sums[GATES:], strict=True)]
