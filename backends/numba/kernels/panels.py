"""Panels of a matrix: ``[panel, k, width]``, as products read the right-hand operand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import emits
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.transposing import transpose_block

if TYPE_CHECKING:
    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.plan import Array


def vectors_of(machine: Machine) -> int:
    """Return how many vectors a tile is wide: accumulators fill the registers."""
    return 4 if machine.registers >= 32 else 2


def width_of(machine: Machine) -> int:
    """Return the columns of a panel."""
    return vectors_of(machine) * machine.lanes


def pack_panels(b: Array, width: int) -> Array:
    """Return ``[..., panel, k, width]`` of ``[..., k, n]``, filled up with zeros."""
    *batch, depth, columns = b.shape
    panels = -(-columns // width)
    packed = aligned_array((*batch, panels, depth, width), b.dtype)
    for p in range(panels):
        part = b[..., p * width : (p + 1) * width]
        packed[..., p, :, : part.shape[-1]] = part
        packed[..., p, :, part.shape[-1] :] = 0
    return packed


@emits("pack")
def emit_pack(e: Emitter, vectors: int, by_rows: bool) -> None:
    """Emit the packing of B into panels.

    Args:
        e: the emitter.
        vectors: vectors of a panel's row.
        by_rows: whether the rows of B lie side by side; else its columns should.
    """
    b, out, z0, z1, depth, columns, s0, s1, sk, sn, o0, o1 = e.args(12)
    width = vectors * e.lanes
    panels = e.ceil_div(columns, width)
    first, last = e.share(e.b.mul(e.b.mul(z0, z1), panels))

    def one(number: Val) -> None:
        z, p = e.divmod(number, panels)
        i, j = e.divmod(z, z1)
        n = e.b.mul(p, i64(width))
        source = e.b.add(b, e.b.add(e.b.mul(i, s0), e.b.mul(j, s1)))
        source = e.b.add(source, e.b.mul(n, sn))
        target = e.b.add(out, e.b.add(e.b.mul(i, o0), e.b.mul(j, o1)))
        target = e.b.add(target, e.b.mul(p, e.b.mul(depth, i64(4 * width))))
        left = e.b.sub(columns, n)
        if by_rows:
            _pack_rows(e, vectors, e.ptr(source), e.ptr(target), depth, left, sk)
        else:
            _pack_columns(e, width, e.ptr(source), e.ptr(target), depth, left, sk, sn)

    e.each(last, one, start=first)


def _pack_rows(
    e: Emitter, vectors: int, source: Val, target: Val, depth: Val, left: Val, step: Val
) -> None:
    width = vectors * e.lanes
    type_ = e.vec(F32)

    def copy(masks: list[Val] | None) -> None:
        def row(k: Val) -> None:
            place = e.off(source, e.b.mul(k, step))
            goal = e.off(target, e.b.mul(k, i64(4 * width)))
            for j in range(vectors):
                where = e.off(place, 4 * e.lanes * j)
                value = (
                    e.load(where, type_) if masks is None else e.load_masked(where, type_, masks[j])
                )
                e.store(value, goal, 4 * e.lanes * j)

        e.each(depth, row)

    with e.b.if_else(e.b.icmp_signed(">=", left, i64(width))) as (then, otherwise):
        with then:
            copy(None)
        with otherwise:
            copy([e.lane_mask(e.b.sub(left, i64(j * e.lanes))) for j in range(vectors)])


def _pack_columns(
    e: Emitter,
    width: int,
    source: Val,
    target: Val,
    depth: Val,
    left: Val,
    row_step: Val,
    column_step: Val,
) -> None:
    """Pack columns that lie side by side along k, by square blocks; the rest one by one."""
    lanes = e.lanes
    left = e.minimum(left, i64(width))
    dense = e.b.icmp_signed("==", row_step, i64(4))
    blocks_n = e.b.select(dense, e.b.and_(left, i64(-lanes)), i64(0))
    blocks_k = e.b.and_(depth, i64(-lanes))

    def group(n: Val) -> None:
        def block(k: Val) -> None:
            place = e.off(source, e.b.add(e.b.mul(n, column_step), e.b.shl(k, i64(2))))
            rows = []
            for i in range(lanes):
                rows.append(e.load(place, e.vec(F32)))
                if i + 1 < lanes:
                    place = e.off(place, column_step)
            goal = e.off(target, e.b.shl(e.b.add(e.b.mul(k, i64(width)), n), i64(2)))
            for i, column in enumerate(transpose_block(e, rows)):
                e.store(column, goal, 4 * width * i)

        e.each(blocks_k, block, step=lanes)
        single_columns(n, e.b.add(n, i64(lanes)), blocks_k)

    def single_columns(first: Val, last: Val, start: Val) -> None:
        def column(n: Val) -> None:
            def element(k: Val) -> None:
                place = e.off(source, e.b.add(e.b.mul(n, column_step), e.b.mul(k, row_step)))
                goal = e.off(target, e.b.shl(e.b.add(e.b.mul(k, i64(width)), n), i64(2)))
                e.store(e.load(place, F32), goal)

            e.each(depth, element, start=start)

        e.each(last, column, start=first)

    e.each(blocks_n, group, step=lanes)
    single_columns(blocks_n, left, i64(0))
