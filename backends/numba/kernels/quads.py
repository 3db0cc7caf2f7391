"""Bytes along k in fours, as integer products read them, and the sums that zero points need.

``sum((a - za) * (b - zb)) = sum(a * b) - za * (sum(b) - K * zb) - zb * sum(a)``: the first sum is
that of the bytes as they are, the others need one number a column and one a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.codegen.dot import Dot
from lepton_ir.backends.numba.codegen.emitter import I8, I32, Emitter, Val, i64, vector
from lepton_ir.backends.numba.codegen.library import emits
from lepton_ir.backends.numba.constants import aligned_array

if TYPE_CHECKING:
    from lepton_ir.backends.numba.plan import Array

QUAD = 4
"""Bytes of one lane."""

OFFSET = 128
"""What is between a signed byte and the unsigned one with its sign bit flipped."""


def quads_of(depth: int) -> int:
    """Return the number of lanes that hold so many bytes."""
    return -(-depth // QUAD)


def signed(b: Array) -> Array:
    """Return bytes as signed ones: unsigned ones are moved by 128."""
    return b if b.dtype == np.int8 else (b ^ 0x80).view(np.int8)


def pack_quads(b: Array, width: int) -> Array:
    """Return ``[panel, k/4, width, 4]`` of signed ``[k, n]``, filled up with zeros."""
    depth, columns = b.shape
    panels, quads = -(-columns // width), quads_of(depth)
    packed = aligned_array((panels, quads, width, QUAD), np.int8)
    whole = np.zeros((quads * QUAD, width), np.int8)
    for p in range(panels):
        part = b[:, p * width : (p + 1) * width]
        whole[:depth, : part.shape[1]] = part
        whole[:, part.shape[1] :] = 0
        packed[p] = whole.reshape(quads, QUAD, width).transpose(0, 2, 1)
    return packed


def padded(values: Array, width: int) -> Array:
    """Return one i32 a column, filled up with zeros to whole panels."""
    found = aligned_array((-(-len(values) // width) * width,), np.int32)
    found[:] = 0
    found[: len(values)] = values
    return found


def column_terms(b: Array, zero: Array) -> Array:
    """Return ``K * zb - sum(b)`` for each column of signed ``b``; it is multiplied by ``za``."""
    found: Array = b.shape[0] * zero.astype(np.int64) - b.sum(0, dtype=np.int64)
    return found


@emits("row_sums")
def emit_row_sums(e: Emitter, unsigned: bool) -> None:
    """Emit the sums of the bytes of each row; signed ones count 128 more."""
    a, out, count, rows, depth, a_z, a_row = e.args(7)
    b, size = e.b, QUAD * e.lanes
    dot, bytes_, ints = Dot(e), vector(I8, size), e.vec(I32)
    ones = b.bitcast(e.const(1, bytes_), ints)
    first, last = e.share(b.mul(count, rows))

    def add(total: Val, value: Val) -> Val:
        left, right = (value, ones) if unsigned else (ones, value)
        return dot.add(total, dot.left_vector(left), dot.right(right))

    def row(number: Val) -> None:
        z, m = e.divmod(number, rows)
        place = e.ptr(b.add(a, b.add(b.mul(z, a_z), b.mul(m, a_row))))

        def step(k: Val, state: list[Val]) -> list[Val]:
            return [add(state[0], e.load(e.off(place, k), ints))]

        whole = b.and_(depth, i64(-size))
        (total,) = e.loop(whole, [e.zero(ints)], step, step=size)
        mask = e.lane_mask(b.sub(depth, whole), size)
        rest = e.load_masked(e.off(place, whole), bytes_, mask)
        total = e.reduce_lanes(add(total, b.bitcast(rest, ints)), b.add)
        if not unsigned:
            total = b.add(total, b.trunc(b.mul(depth, i64(OFFSET)), I32))
        e.store(total, e.ptr(b.add(out, b.mul(number, i64(4)))))

    e.each(last, row, start=first)


@emits("pack_quads")
def emit_pack_quads(e: Emitter, vectors: int, by_rows: bool, flip: bool) -> None:
    """Emit the packing of B while a model runs, and its column terms.

    Args:
        e: the emitter.
        vectors: vectors of a panel's row.
        by_rows: whether the rows of B lie side by side; else its columns do.
        flip: whether the bytes are unsigned and become signed.
    """
    source, out, terms, count, depth, columns, s_z, s_k, s_n, zero = e.args(10)
    b, width = e.b, vectors * e.lanes
    panels, quads = e.ceil_div(columns, width), e.ceil_div(depth, QUAD)
    pack = _Pack(e, vectors, flip, depth, s_k, s_n)
    panel_bytes = b.mul(quads, i64(QUAD * width))
    first, last = e.share(b.mul(count, panels))

    def panel(number: Val) -> None:
        z, p = e.divmod(number, panels)
        n = b.mul(p, i64(width))
        place = e.ptr(b.add(source, b.add(b.mul(z, s_z), b.mul(n, s_n))))
        goal = e.ptr(b.add(out, b.mul(number, panel_bytes)))
        left = b.sub(columns, n)
        (pack.rows if by_rows else pack.columns)(place, goal, left)
        target = e.ptr(b.add(terms, b.mul(number, i64(4 * width))))
        pack.terms(goal, target, quads, b.mul(depth, zero))

    e.each(last, panel, start=first)


class _Pack:
    """Packs one panel."""

    def __init__(
        self, e: Emitter, vectors: int, flip: bool, depth: Val, step_k: Val, step_n: Val
    ) -> None:
        self.e = e
        self.vectors = vectors
        self.width = vectors * e.lanes
        self.flip = flip
        self.depth = depth
        self.step_k = step_k
        self.step_n = step_n

    def rows(self, place: Val, goal: Val, left: Val) -> None:
        """Interleave four rows at a time; the last ones that miss are zeros."""
        e = self.e
        masks = [e.lane_mask(e.b.sub(left, i64(j * e.lanes))) for j in range(self.vectors)]
        whole = e.b.and_(self.depth, i64(-QUAD))

        def several(count: int) -> None:
            with e.b.if_then(e.b.icmp_signed("==", e.b.sub(self.depth, whole), i64(count))):
                self._interleave(place, goal, masks, whole, count)

        e.each(whole, lambda k: self._interleave(place, goal, masks, k, QUAD), step=QUAD)
        for count in range(1, QUAD):
            several(count)

    def _interleave(self, place: Val, goal: Val, masks: list[Val], k: Val, count: int) -> None:
        e, ints = self.e, self.e.vec(I32)
        target = e.off(goal, e.b.mul(k, i64(self.width)))
        line = e.off(place, e.b.mul(k, self.step_k))
        totals = [e.zero(ints)] * self.vectors
        for r in range(count):
            for j, mask in enumerate(masks):
                loaded = e.load_masked(e.off(line, e.lanes * j), e.vec(I8), mask)
                if self.flip:
                    loaded = e.b.xor(loaded, e.const(-OFFSET, e.vec(I8)))
                wide = e.b.shl(e.b.zext(loaded, ints), e.const(8 * r, ints))
                totals[j] = e.b.or_(totals[j], wide)
            line = e.off(line, self.step_k)
        for j, (total, mask) in enumerate(zip(totals, masks, strict=True)):
            kept = e.b.select(mask, total, e.zero(ints))
            e.store(kept, target, QUAD * e.lanes * j)

    def columns(self, place: Val, goal: Val, left: Val) -> None:
        """Copy columns four bytes at a time; columns that miss are zeros."""
        e = self.e
        whole = e.b.and_(self.depth, i64(-QUAD))

        def column(n: Val) -> None:
            here = e.b.icmp_signed("<", n, left)
            with e.b.if_else(here) as (then, otherwise):
                with then:
                    line = e.off(place, e.b.mul(n, self.step_n))
                    e.each(whole, lambda k: self._quad(line, goal, n, k), step=QUAD)
                    with e.b.if_then(e.b.icmp_signed("<", whole, self.depth)):
                        self._last(line, goal, n, whole)
                with otherwise:
                    e.each(
                        self.depth,
                        lambda k: e.store(e.zero(I32), self._at(goal, n, k)),
                        step=QUAD,
                    )

        e.each(i64(self.width), column)

    def _at(self, goal: Val, n: Val, k: Val) -> Val:
        b = self.e.b
        return self.e.off(goal, b.add(b.mul(k, i64(self.width)), b.mul(n, i64(QUAD))))

    def _quad(self, line: Val, goal: Val, n: Val, k: Val) -> None:
        e = self.e
        value = e.load(e.off(line, k), I32)
        if self.flip:
            value = e.b.xor(value, e.const(-0x7F7F7F80, I32))
        e.store(value, self._at(goal, n, k))

    def _last(self, line: Val, goal: Val, n: Val, whole: Val) -> None:
        e, target = self.e, self._at(goal, n, whole)
        e.store(e.zero(I32), target)

        def byte(k: Val) -> None:
            value = e.load(e.off(line, k), I8)
            if self.flip:
                value = e.b.xor(value, e.const(-OFFSET, I8))
            e.store(value, e.off(target, e.b.sub(k, whole)))

        e.each(self.depth, byte, start=whole)

    def terms(self, panel: Val, target: Val, quads: Val, base: Val) -> None:
        """Store ``base - sum(b)`` of each column of a packed panel."""
        e, ints, size = self.e, self.e.vec(I32), QUAD * self.e.lanes
        dot = Dot(e)
        ones = dot.left_vector(e.b.bitcast(e.const(1, vector(I8, size)), ints))

        def step(k: Val, sums: list[Val]) -> list[Val]:
            place = e.off(panel, e.b.mul(k, i64(QUAD * self.width)))
            return [
                dot.add(s, ones, dot.right(e.load(place, ints, size * j)))
                for j, s in enumerate(sums)
            ]

        sums = e.loop(quads, [e.zero(ints)] * self.vectors, step)
        whole = e.splat(e.b.trunc(base, I32))
        for j, total in enumerate(sums):
            e.store(e.b.sub(whole, total), target, size * j)
