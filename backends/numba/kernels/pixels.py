"""Layout conversions of byte images: channels together, a pixel at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lepton_ir.backends.numba.codegen.emitter import I8, I32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import Expression
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.blocked import (
    Halo,
    covers,
    new_blocked,
    plane_sizes,
    plane_strides,
)
from lepton_ir.backends.numba.kernels.copy import copy_type
from lepton_ir.backends.numba.kernels.elementwise import call_loops
from lepton_ir.backends.numba.plan import Ref, Tensor

if TYPE_CHECKING:
    from lepton_ir.backends.numba.lowering import Lowering

QUAD = 4


def to_quads(lo: Lowering, t: Tensor, halo: Halo, fill: int | Ref) -> Tensor:
    """Return an image of at most four channels with the four of a pixel side by side."""
    if t.blocked is not None and t.blocked.block == QUAD and covers(t, halo, fill):
        return t
    t = lo.plain(t)
    return lo.form(t, ("pixels", halo, fill), lambda: pack_bytes(lo, t, halo, fill, QUAD))


def pack_bytes(lo: Lowering, t: Tensor, halo: Halo, fill: int | Ref, block: int) -> Tensor:
    """Return a strided image of bytes blocked, its channels in blocks of ``block``."""
    if t.strides[-1] != 1 and t.shape[-1] != 1:
        t = lo.plain(t)
    made = new_blocked(lo, t.shape, halo, t.dtype, fill, block)
    rows, columns = plane_sizes(t)
    n, c, *spatial = t.strides
    row = spatial[0] if len(spatial) == 2 else 0
    sizes = (t.shape[0], t.shape[1], rows, columns)
    strides = plane_strides(made)[:3]
    lo.call(Kernel("pack_bytes", (block,)), t.ref, made.ref, *sizes, n, c, row, *strides)
    return made


def unpack_bytes(lo: Lowering, t: Tensor) -> Tensor:
    """Return a plain form of a blocked image of any block."""
    assert t.blocked is not None
    made, block, channels = lo.new(t.dtype, t.shape), t.blocked.block, t.shape[1]
    n, c, *spatial, _ = t.strides
    out_n, out_c, *out = made.strides
    kind = copy_type(t)
    for first, count, width in (
        (0, channels // block, block),
        (channels // block, 1, channels % block),
    ):
        if count and width:
            source = Ref(t.ref.buffer, t.ref.offset + first * c * t.itemsize)
            target = Ref(made.ref.buffer, made.ref.offset + first * block * out_c * t.itemsize)
            loops = (t.shape[0], count, width, *t.shape[2:])
            strides = [(n, c, 1, *spatial), (out_n, out_c * block, out_c, *out)]
            call_loops(lo, Expression((kind,), (), (0,)), [source, target], loops, strides)
    return made


def without_halo(t: Tensor) -> bool:
    """Return whether the rows of a blocked tensor follow each other without a gap."""
    assert t.blocked is not None
    if len(t.shape) == 3:
        return True
    return t.strides[2] == t.strides[3] * t.shape[3]


def as_one_row(t: Tensor) -> Tensor:
    """Return a blocked image without gaps as one of a single row."""
    *outer, row, column, lane = t.strides
    pixels = t.shape[2] * t.shape[3]
    shape = (*t.shape[:2], 1, pixels)
    return replace(t, shape=shape, strides=(*outer, row * t.shape[2], column, lane))


@emits("pack_bytes")
def emit_pack_bytes(e: Emitter, block: int) -> None:
    """Emit the conversion of plain bytes: four channels of a vector of pixels at a time."""
    x, y, count, channels, rows, columns, xn, xc, xr, yn, yc, yr = e.args(12)
    b, lanes = e.b, e.lanes
    blocks = e.ceil_div(channels, block)
    first, last = e.share(b.mul(b.mul(count, blocks), rows))

    def row(number: Val) -> None:
        rest, r = e.divmod(number, rows)
        n, p = e.divmod(rest, blocks)
        target = e.ptr(b.add(b.add(y, b.mul(n, yn)), b.add(b.mul(p, yc), b.mul(r, yr))))
        lines = []
        for c in range(block):
            # Lanes behind the last channel may hold anything: they repeat it.
            channel = b.add(b.mul(p, i64(block)), i64(c))
            channel = e.minimum(channel, b.sub(channels, i64(1)))
            place = b.add(b.add(x, b.mul(n, xn)), b.add(b.mul(channel, xc), b.mul(r, xr)))
            lines.append(e.ptr(place))

        def several(w: Val) -> None:
            for q in range(block // QUAD):
                total = e.zero(e.vec(I32))
                for c in range(QUAD):
                    loaded = e.load(e.off(lines[QUAD * q + c], w), e.vec(I8))
                    wide = b.zext(loaded, e.vec(I32))
                    total = b.or_(total, b.shl(wide, e.const(8 * c, wide.type)))
                goal = e.off(target, b.mul(w, i64(block)))
                if block == QUAD:
                    e.store(total, goal)
                    continue
                for i in range(lanes):
                    e.store(b.extract_element(total, i64(i)), goal, block * i + QUAD * q)

        def single(w: Val) -> None:
            goal = e.off(target, b.mul(w, i64(block)))
            for c, line in enumerate(lines):
                e.store(e.load(e.off(line, w), I8), goal, c)

        whole = b.and_(columns, i64(-lanes))
        e.each(whole, several, step=lanes)
        e.each(columns, single, start=whole)

    e.each(last, row, start=first)
