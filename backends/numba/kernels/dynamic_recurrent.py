"""LSTM of 8-bit weights whose state is quantized by its range in every step.

The product with the inputs of all steps is one of floats: the inputs rounded to bytes by the range
of the sequence, and the weights as what their codes mean. The recurrent product is one of bytes.
Lanes and gates stand as in :mod:`~lepton_ir.backends.numba.kernels.recurrent`. Since the range is
that of all sequences of a batch, one thread walks the steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.dot import Dot
from lepton_ir.backends.numba.codegen.emitter import F32, I8, I32, Emitter, Val, i64, vector
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.blocked import blocks_of
from lepton_ir.backends.numba.kernels.quads import OFFSET, QUAD, pack_quads, signed
from lepton_ir.backends.numba.kernels.ranges import larger, parameters, rounded_by_range, smaller
from lepton_ir.backends.numba.kernels.recurrent import (
    GATES,
    both_biases,
    copy_row,
    decline_unusual,
    initial_state,
    input_product,
    lower_directions,
    next_state,
    ordered,
    store_units,
)
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor

if TYPE_CHECKING:
    from lepton_ir.backends.numba.plan import Array

PAIR = 2 * QUAD
"""Bytes of a state that a turn of the loop multiplies."""

W_SCALE, W_ZERO, R_SCALE, R_ZERO = range(8, 12)
"""Operands that say what the codes of weights mean."""


@lowers("ms_dynamic_quantize_lstm")
def lower_dynamic_lstm(lo: Lowering) -> None:
    """Lower DynamicQuantizeLSTM with constant weights, activations as usual, whole sequences."""
    decline_unusual(lo)
    if not all(lo.is_known(index) for index in (W_SCALE, W_ZERO, R_SCALE, R_ZERO)):
        lo.decline("scales or zero points that are not constant")
    x = rounded_by_range(lo, lo.plain(lo.operand(0)))
    lower_directions(lo, x, lo.operand(2).shape[1], _lower_direction)


def _meaning(lo: Lowering, index: int, d: int, columns: int) -> tuple[Array, Array]:
    """Return scales (``index``) and zero points of direction ``d``, one a column."""
    scale, zero = lo.known(index), lo.known(index + 1)
    assert scale is not None
    assert zero is not None
    return np.broadcast_to(scale[d], (columns,)), np.broadcast_to(zero[d], (columns,))


def _lower_direction(
    lo: Lowering,
    x: Tensor,
    results: tuple[Tensor, Tensor, Tensor],
    d: int,
    hidden: int,
    backward: bool,
) -> None:
    steps, batch, _ = x.shape
    row = blocks_of(hidden, lo.machine.lanes) * lo.machine.lanes
    scale, zero = _meaning(lo, W_SCALE, d, GATES * hidden)

    def weights(w: Array) -> Array:
        found: Array = (w[d].astype(np.float32) - zero.astype(np.float32)) * scale
        return found.T

    key = (scale.tobytes(), zero.tobytes())
    gates = input_product(lo, x, d, (GATES, hidden), both_biases(d, hidden), weights, key)
    size = 4 * batch * hidden
    initial = [initial_state(lo, index, batch * hidden, d) for index in (5, 6)]
    y, last_h, last_c = (Ref(t.ref.buffer, t.ref.offset + d * size) for t in results)
    code_row = -(-row // PAIR) * PAIR
    scratch = [lo.scratch(n) for n in (4 * batch * row, batch * code_row, 4 * batch)]
    refs = (gates.ref, *_recurrent(lo, d, hidden), y, last_h, last_c, *initial, *scratch)
    args = (steps, batch, hidden, results[0].strides[0] * 4, code_row)
    lo.call(Kernel("dynamic_lstm", (backward,)), *refs, *args)


def _recurrent(lo: Lowering, d: int, hidden: int) -> tuple[Ref, Ref]:
    """Return the addresses of the recurrent weights and of their terms.

    The weights are ``[unit block, pair, quad of it, gate, lane, byte]``; the terms ``[unit block,
    term, gate, lane]``: sum of the signed codes, zero point of these, scale.
    """
    lanes = lo.machine.lanes
    scale, zero = _meaning(lo, R_SCALE, d, GATES * hidden)
    moved = zero.astype(np.int32) - (OFFSET if lo.operand(2).dtype is dtypes.U8 else 0)

    def in_order(columns: Array) -> Array:
        return ordered(columns, lanes, GATES)

    def pack(r: Array) -> Array:
        rows = in_order(signed(np.ascontiguousarray(r[d])).T).astype(np.int8)
        padding = np.zeros((len(rows), -hidden % PAIR), np.int8)
        return pack_quads(np.concatenate([rows, padding], axis=1).T, GATES * lanes)

    def pack_terms(r: Array) -> Array:
        sums = signed(r[d]).sum(0, dtype=np.int32)
        parts = [
            in_order(np.ascontiguousarray(v)[:, None])[:, 0].astype(kind).view(np.int32)
            for v, kind in ((sums, np.int32), (moved, np.int32), (scale, np.float32))
        ]
        blocks = blocks_of(hidden, lanes)
        found = aligned_array((blocks, len(parts), GATES * lanes), np.int32)
        found[:] = np.stack([p.reshape(blocks, -1) for p in parts], axis=1)
        return found

    panels = lo.packed(2, ("dynamic", d, lanes), pack)
    terms = lo.packed(2, ("dynamic", d, lanes, scale.tobytes(), zero.tobytes()), pack_terms)
    assert panels is not None
    assert terms is not None
    return panels, terms


@emits("dynamic_lstm")
def emit_dynamic_lstm(e: Emitter, backward: bool) -> None:
    """Emit the walk over the steps; one thread does it."""
    _Walk(e, backward).emit()


class _Walk:
    """The loops of one kernel."""

    def __init__(self, e: Emitter, backward: bool) -> None:
        self.e = e
        self.backward = backward
        args = e.args(16)
        self.gates, self.panels, self.terms, self.y, self.last_h, self.last_c = args[:6]
        self.h0, self.c0, self.cells, self.codes, self.sums = args[6:11]
        self.steps, self.batch, self.hidden, self.step_bytes, self.code_row = args[11:]
        b = e.b
        self.size = 4 * e.lanes
        self.blocks = e.ceil_div(self.hidden, e.lanes)
        self.row = b.mul(self.hidden, i64(4))
        self.cell_row = b.mul(self.blocks, i64(self.size))
        self.whole = b.sdiv(self.hidden, i64(e.lanes))
        self.mask = e.lane_mask(b.sub(self.hidden, b.mul(self.whole, i64(e.lanes))))
        self.dot = Dot(e)

    def emit(self) -> None:
        first, last = self.e.share(i64(1))
        self.e.each(last, self._walk, start=first)

    def _copy(self, source: Val, source_row: Val, target: Val, target_row: Val) -> None:
        e, b = self.e, self.e.b

        def one(n: Val) -> None:
            here = e.ptr(b.add(source, b.mul(n, source_row)))
            there = e.ptr(b.add(target, b.mul(n, target_row)))
            copy_row(e, here, there, self.whole, self.mask, self.hidden)

        e.each(self.batch, one)

    def _walk(self, _: Val) -> None:
        e, b = self.e, self.e.b
        self._copy(self.c0, self.row, self.cells, self.cell_row)

        def step(s: Val, carried: list[Val]) -> list[Val]:
            t = b.sub(b.sub(self.steps, i64(1)), s) if self.backward else s
            out = b.add(self.y, b.mul(t, self.step_bytes))
            scale, point = self._range(carried[0])
            e.each(self.batch, lambda n: self._quantize(n, carried[0], scale, point))
            e.each(self.batch, lambda n: self._units(t, n, out, scale, point))
            return [out]

        (final,) = e.loop(self.steps, [self.h0], step)
        self._copy(final, self.row, self.last_h, self.row)
        self._copy(self.cells, self.cell_row, self.last_c, self.row)

    def _range(self, state: Val) -> tuple[Val, Val]:
        """Return scale and zero point, a float, of the states of all sequences."""
        e, b, type_ = self.e, self.e.b, self.e.vec(F32)
        count = b.mul(self.batch, self.hidden)

        def block(i: Val, found: list[Val]) -> list[Val]:
            place = e.off(e.ptr(state), b.shl(i, i64(2)))
            value = e.load_masked(place, type_, e.lane_mask(b.sub(count, i)))
            return [smaller(e, value, found[0]), larger(e, value, found[1])]

        low, high = e.loop(count, [e.zero(type_)] * 2, block, step=e.lanes)
        return parameters(
            e,
            e.reduce_lanes(low, lambda x, y: smaller(e, x, y)),
            e.reduce_lanes(high, lambda x, y: larger(e, x, y)),
        )

    def _quantize(self, n: Val, state: Val, scale: Val, point: Val) -> None:
        """Store the codes of a sequence's state and their sum."""
        e, b, type_ = self.e, self.e.b, self.e.vec(F32)
        source = e.ptr(b.add(state, b.mul(n, self.row)))
        target = e.ptr(b.add(self.codes, b.mul(n, self.code_row)))
        step, zero = e.splat(scale), e.splat(point)

        def block(i: Val, total: list[Val]) -> list[Val]:
            mask = e.lane_mask(b.sub(self.hidden, i))
            value = e.load_masked(e.off(source, b.shl(i, i64(2))), type_, mask)
            value = b.fadd(e.unary("rint", b.fdiv(value, step)), zero)
            value = larger(e, smaller(e, value, e.const(255.0, type_)), e.zero(type_))
            code = b.select(mask, b.fptosi(value, e.vec(I32)), e.zero(e.vec(I32)))
            e.store(b.trunc(code, vector(I8, e.lanes)), e.off(target, i))
            return [b.add(total[0], code)]

        (total,) = e.loop(self.hidden, [e.zero(e.vec(I32))], block, step=e.lanes)
        e.store(e.reduce_lanes(total, b.add), e.ptr(b.add(self.sums, b.mul(n, i64(4)))))

    def _units(self, t: Val, n: Val, out: Val, scale: Val, point: Val) -> None:
        """Take all units of a sequence one step on."""
        e, b = self.e, self.e.b
        row_bytes = b.mul(self.blocks, i64(GATES * self.size))
        inputs = e.ptr(b.add(self.gates, b.mul(b.add(b.mul(t, self.batch), n), row_bytes)))
        codes = e.ptr(b.add(self.codes, b.mul(n, self.code_row)))
        cell = e.ptr(b.add(self.cells, b.mul(n, self.cell_row)))
        goal = e.ptr(b.add(out, b.mul(n, self.row)))
        pairs = e.ceil_div(self.hidden, PAIR)
        panel_bytes = b.mul(pairs, i64(PAIR * GATES * e.lanes))
        zero = b.fptosi(point, I32)
        total = e.load(e.ptr(b.add(self.sums, b.mul(n, i64(4)))), I32)
        rest = e.splat(b.sub(total, b.mul(b.trunc(self.hidden, I32), zero)))

        def block(p: Val) -> None:
            panel = e.off(e.ptr(self.panels), b.mul(p, panel_bytes))
            terms = e.off(e.ptr(self.terms), b.mul(p, i64(3 * GATES * self.size)))
            offset = b.mul(p, i64(self.size))
            start = e.off(inputs, b.mul(p, i64(GATES * self.size)))
            gates = []
            for g, dot in enumerate(self._dots(panel, codes, pairs)):

                def term(index: int, type_: Any, g: int = g) -> Val:
                    return e.load(terms, type_, self.size * (GATES * index + g))

                exact = b.sub(dot, b.mul(e.splat(zero), term(0, e.vec(I32))))
                exact = b.sub(exact, b.mul(rest, term(1, e.vec(I32))))
                factor = b.fmul(e.splat(scale), term(2, e.vec(F32)))
                value = b.sitofp(exact, e.vec(F32))
                gates.append(e.fma(value, factor, e.load(start, e.vec(F32), self.size * g)))
            found = next_state(e, gates, e.off(cell, offset))
            is_whole = b.icmp_signed("<", p, self.whole)
            store_units(e, found, e.off(goal, offset), is_whole, self.mask)

        e.each(self.blocks, block)

    def _dots(self, panel: Val, codes: Val, pairs: Val) -> list[Val]:
        """Return the products of the codes with the weights of a block, one vector a gate."""
        e, b, type_ = self.e, self.e.b, self.e.vec(I32)

        def pair(k: Val, sums: list[Val]) -> list[Val]:
            sums = list(sums)
            row = e.off(panel, b.mul(k, i64(PAIR * GATES * e.lanes)))
            for u in range(PAIR // QUAD):
                quad = e.load(e.off(codes, b.mul(k, i64(PAIR))), I32, QUAD * u)
                left = self.dot.left(quad)
                for g in range(GATES):
                    n = u * GATES + g
                    right = self.dot.right(e.load(row, type_, self.size * n))
                    sums[n] = self.dot.add(sums[n], left, right)
            return sums

        sums = e.loop(pairs, [e.zero(type_)] * (GATES * PAIR // QUAD), pair)
        return [b.add(x, y) for x, y in zip(sums[:GATES], sums[GATES:], strict=True)]
