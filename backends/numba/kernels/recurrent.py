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
from lepton_ir.backends.numba.kernels.blocked import blocks_of
from lepton_ir.backends.numba.kernels.gemm import call_matrix
from lepton_ir.backends.numba.kernels.panels import pack_panels, width_of
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from lepton_ir.backends.numba.plan import Array

GATES = 4

_ADD = Expression(("f32", "f32"), (Step("add", "f32", (0, 1)),), (2,))


@lowers("lstm")
def lower_lstm(lo: Lowering) -> None:
    """Lower LSTM with constant weights, the usual activations and whole sequences."""
    if lo.anchor.attr("layout"):
        lo.decline("another layout")
    decline_unusual(lo)
    lower_directions(lo, lo.plain(lo.operand(0)), lo.operand(2).shape[2], _lower_direction)


def decline_unusual(lo: Lowering) -> None:
    """Decline what the kernels of LSTM do not do.

    Raises:
        Declined: the layer has it.
    """
    op = lo.anchor
    usual = (None, (), ("Sigmoid", "Tanh", "Tanh"), ("Sigmoid", "Tanh", "Tanh") * 2)
    if lo.operand(0).dtype is not dtypes.F32 or op.attr("activations") not in usual:
        lo.decline("other types or activations")
    if op.attr("clip") or op.attr("input_forget") or lo.has(4) or lo.has(7):
        lo.decline("clipping, coupled gates, lengths or peepholes")
    if not (lo.is_known(1) and lo.is_known(2)) or (lo.has(3) and not lo.is_known(3)):
        lo.decline("weights that are not constant")


def lower_directions(
    lo: Lowering,
    x: Tensor,
    hidden: int,
    lower: Callable[[Lowering, Tensor, tuple[Tensor, Tensor, Tensor], int, int, bool], None],
) -> None:
    """Add the kernels of an LSTM's directions with ``lower`` and set the results."""
    op = lo.anchor
    directions = 2 if op.attr("direction") == "bidirectional" else 1
    steps, batch, _ = x.shape
    y = lo.new(dtypes.F32, (steps, directions, batch, hidden))
    last_h, last_c = (lo.new(dtypes.F32, (directions, batch, hidden)) for _ in range(2))
    for d in range(directions):
        backward = op.attr("direction") == "reverse" or d == 1
        lower(lo, x, (y, last_h, last_c), d, hidden, backward)
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
    lanes = lo.machine.lanes
    steps, batch, _ = x.shape
    blocks = -(-hidden // lanes)

    gates = input_product(lo, x, d, (GATES, hidden), both_biases(d, hidden))
    panels = recurrent_panels(lo, d, tuple(range(GATES)), hidden)
    size = 4 * batch * hidden
    initial = [initial_state(lo, index, batch * hidden, d) for index in (5, 6)]
    y, last_h, last_c = (Ref(t.ref.buffer, t.ref.offset + d * size) for t in results)
    cells = lo.scratch(4 * batch * blocks * lanes)
    strides = (results[0].strides[0] * 4, 4 * hidden)
    kernel = Kernel("lstm", (backward,))
    refs = (gates.ref, panels, y, last_h, last_c, *initial, cells)
    lo.call(kernel, *refs, steps, batch, hidden, *strides)


def both_biases(d: int, hidden: int) -> Callable[[Array], Array]:
    """Return what adds the two biases of direction ``d``."""
    return lambda b: b[d, : GATES * hidden] + b[d, GATES * hidden :]


def input_product(
    lo: Lowering,
    x: Tensor,
    d: int,
    size: tuple[int, int],
    bias_of: Callable[[Array], Array],
    weights_of: Callable[[Array], Array] | None = None,
    key: Hashable = (),
) -> Tensor:
    """Add the product of all steps' inputs with the input weights of direction ``d``.

    Args:
        lo: the operation; its operands 1 and 3 are weights and bias.
        x: (steps, batch, features).
        d: the direction.
        size: numbers of gates and of hidden units.
        bias_of: takes what is added to the product out of the bias.
        weights_of: makes (columns, features) of the weights, by default part ``d``.
        key: says what ``weights_of`` does.

    Returns:
        (steps * batch, columns), the columns ordered ``[unit block, gate, lane]``.
    """
    lanes, width = lo.machine.lanes, width_of(lo.machine)
    gates, hidden = size
    steps, batch, depth = x.shape
    columns = blocks_of(hidden, lanes) * gates * lanes

    def pack(w: Array) -> Array:
        rows = weights_of(w) if weights_of else w[d]
        return pack_panels(np.ascontiguousarray(ordered(rows, lanes, gates).T), width)

    def pack_bias(b: Array) -> Array:
        return ordered(bias_of(b)[:, None], lanes, gates)[:, 0].copy()

    weights = lo.packed(1, ("recurrent", d, lanes, width, gates, key), pack)
    assert weights is not None
    flat = Tensor(x.dtype, (steps * batch, depth), x.ref, (depth, 1))
    found = lo.new(dtypes.F32, (steps * batch, columns))
    form = ("recurrent", lo.anchor.name, d, lanes, lo.anchor.all_attrs().get("linear_before_reset"))
    bias = lo.packed(3, form, pack_bias) if lo.has(3) else None
    if bias is None:
        bias = zeros(lo, columns)
    row = Tensor(dtypes.F32, (columns,), bias, (1,))
    call_matrix(lo, flat, weights, found, _ADD, [row])
    return found


def recurrent_panels(lo: Lowering, d: int, chosen: tuple[int, ...], hidden: int) -> Ref:
    """Return the recurrent weights of some gates, ``[unit block, hidden unit, gate, lane]``."""
    lanes = lo.machine.lanes

    def pack(r: Array) -> Array:
        gates = r[d].reshape(-1, hidden, hidden)[list(chosen)]
        rows = ordered(gates.reshape(-1, hidden), lanes, len(chosen))
        return pack_panels(np.ascontiguousarray(rows.T), len(chosen) * lanes)

    panels = lo.packed(2, ("recurrent", d, lanes, chosen), pack)
    assert panels is not None
    return panels


def zeros(lo: Lowering, count: int) -> Ref:
    """Return the address of so many zeros."""
    return lo.constant(("zeros", count), lambda: np.zeros(count, np.float32))


def initial_state(lo: Lowering, index: int, size: int, d: int) -> Ref:
    """Return the state that direction ``d`` starts with: operand ``index``, or zeros."""
    if not lo.has(index):
        return zeros(lo, size)
    t = lo.plain(lo.operand(index))
    return Ref(t.ref.buffer, t.ref.offset + 4 * d * size)


def ordered(w: Array, lanes: int, count: int) -> Array:
    """Return the rows of ``[gate, unit]`` weights as ``[unit block, gate, lane]``."""
    gates = w.reshape(count, -1, w.shape[-1])
    hidden = gates.shape[1]
    blocks = blocks_of(hidden, lanes)
    padded = np.zeros((count, blocks * lanes, w.shape[-1]), np.float32)
    padded[:, :hidden] = gates
    turned = padded.reshape(count, blocks, lanes, -1).transpose(1, 0, 2, 3)
    found = aligned_array((blocks * count * lanes, w.shape[-1]), np.float32)
    found[:] = turned.reshape(found.shape)
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
        copy_row(e, e.ptr(b.add(c0, state)), cell, whole, mask, hidden)

        def step(s: Val, carried: list[Val]) -> list[Val]:
            t = b.sub(b.sub(steps, i64(1)), s) if backward else s
            place = b.add(gates, b.mul(b.add(b.mul(t, batch), n), row_bytes))
            out = b.add(y, b.add(b.mul(t, yt), b.mul(n, yb)))
            before = e.ptr(carried[0])

            def block(p: Val) -> None:
                inputs = e.off(e.ptr(place), b.mul(p, i64(GATES * size)))
                panel = e.off(e.ptr(panels), b.mul(p, b.mul(hidden, i64(GATES * size))))
                start = [e.load(inputs, type_, size * g) for g in range(GATES)]
                sums = gate_sums(e, start, panel, before, hidden)
                offset = b.mul(p, i64(size))
                found = next_state(e, sums, e.off(cell, offset))
                store_units(e, found, e.off(e.ptr(out), offset), b.icmp_signed("<", p, whole), mask)

            e.each(blocks, block)
            return [out]

        (final,) = e.loop(steps, [b.add(h0, state)], step)
        copy_row(e, e.ptr(final), e.ptr(b.add(last_h, state)), whole, mask, hidden)
        copy_row(e, cell, e.ptr(b.add(last_c, state)), whole, mask, hidden)

    e.each(last, one, start=first)


def next_state(e: Emitter, gates: list[Val], cell: Val) -> Val:
    """Step the cell states at a pointer on by the gates i, o, f and c; return the new h."""
    i, o, f = (vmath.sigmoid(e, g) for g in gates[:3])
    new = e.fma(f, e.load(cell, gates[0].type), e.b.fmul(i, vmath.tanh(e, gates[3])))
    e.store(new, cell)
    return e.b.fmul(o, vmath.tanh(e, new))


def store_units(e: Emitter, units: Val, goal: Val, is_whole: Val, mask: Val) -> None:
    """Store a block of units, those that ``mask`` sets of one that is not whole."""
    with e.b.if_else(is_whole) as (then, otherwise):
        with then:
            e.store(units, goal)
        with otherwise:
            e.store_masked(units, goal, mask)


def copy_row(e: Emitter, source: Val, target: Val, whole: Val, mask: Val, size: Val) -> None:
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


def gate_sums(e: Emitter, start: list[Val], panel: Val, before: Val, hidden: Val) -> list[Val]:
    """Return the gates of one block of units: ``start`` and their recurrent products.

    Args:
        e: the emitter.
        start: one vector a gate.
        panel: pointer to the block's weights.
        before: pointer to the state of the step before.
        hidden: number of units.
    """
    b, type_, size, gates = e.b, e.vec(F32), 4 * e.lanes, len(start)
    splits = 2 if gates > 1 else 4

    def terms(number: int) -> Callable[[Val, list[Val]], list[Val]]:
        def visit(k: Val, sums: list[Val]) -> list[Val]:
            sums = list(sums)
            row = e.off(panel, b.mul(k, i64(gates * size)))
            for u in range(number):
                left = e.splat(e.load(e.off(before, b.shl(k, i64(2))), F32, 4 * u))
                for g in range(gates):
                    right = e.load(row, type_, size * (gates * u + g))
                    n = (u % splits) * gates + g
                    sums[n] = e.fma(left, right, sums[n])
            return sums

        return visit

    sums = [*start, *[e.zero(type_)] * (gates * (splits - 1))]
    whole = b.and_(hidden, i64(-4))
    sums = e.loop(whole, sums, terms(4), step=4)
    sums = e.loop(hidden, sums, terms(1), start=whole)
    total = sums[:gates]
    for s in range(1, splits):
        total = [b.fadd(x, z) for x, z in zip(total, sums[s * gates :][:gates], strict=True)]
    return total
