"""Products of 8-bit matrices with sums in 32 bits, and any epilogue on the tile.

The left bytes are unsigned and the right ones signed, as the instructions want it; others are moved
by 128 together with their zero points, which costs nothing for constants. Zero points are taken
from the sums (:mod:`lepton_ir.backends.numba.kernels.quads`), which start with what is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.dot import Dot, has_vnni
from lepton_ir.backends.numba.codegen.emitter import I8, I32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.elementwise import itemsize
from lepton_ir.backends.numba.kernels.epilogue import (
    Epilogue,
    store_rows,
    translate,
)
from lepton_ir.backends.numba.kernels.panels import vectors_of, width_of
from lepton_ir.backends.numba.kernels.quads import (
    OFFSET,
    QUAD,
    column_terms,
    pack_quads,
    padded,
    quads_of,
    signed,
)
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor
from lepton_ir.backends.numba.strides import broadcast, collapse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.plan import Array

_BYTES = (dtypes.U8, dtypes.I8)


@dataclass(frozen=True)
class Config:
    """What a kernel is specialised for.

    Attributes:
        rows: heights of tiles, the usual one first, then that of the last tile.
        vectors: vectors of a tile's row.
        flip: whether the left bytes are signed.
        point: element type of a zero point of A that is read while running; else empty.
        sums: whether B has zero points, so that the sums of A's rows matter.
    """

    rows: tuple[int, ...]
    vectors: int
    flip: bool
    point: str
    sums: bool


# -- lowering --------------------------------------------------------------------------------------


@lowers("matmul_integer", tail=True)
def lower_matmul_integer(lo: Lowering) -> None:
    """Lower MatMulInteger with one zero point of A."""
    a, b = lo.operand(0), lo.operand(1)
    if a.dtype not in _BYTES or b.dtype not in _BYTES:
        lo.decline(f"integer products of {a.dtype} and {b.dtype}")
    if len(a.shape) < 2 or len(b.shape) < 2:
        lo.decline("a vector operand")
    expression, operands = translate(lo, accumulator="i32")
    c = lo.new(*lo.type())
    _Product(lo, a, b, c).call(expression, operands)
    lo.set(c)


class _Product:
    """One product being lowered."""

    def __init__(self, lo: Lowering, a: Tensor, b: Tensor, c: Tensor) -> None:
        self.lo = lo
        self.depth = a.shape[-1]
        self.flip = a.dtype is dtypes.I8
        self.width = width_of(lo.machine)
        self.a = self._readable(a)
        self.b = b
        self.c = c

    def _readable(self, a: Tensor) -> Tensor:
        """Return A with rows that can be read four bytes at a time."""
        foreign = self.depth % QUAD and a.ref.buffer.slot >= 0
        if a.blocked is None and a.strides[-1] == 1 and not foreign:
            return a
        if not foreign:
            return self.lo.plain(a)
        from lepton_ir.backends.numba.kernels.copy import copy_tensor

        # Nothing may be read behind an array that is not ours.
        return copy_tensor(self.lo, a)

    def call(self, expression: Any, operands: Sequence[Tensor]) -> None:
        """Add the calls.

        Raises:
            Declined: several batch axes that are not one, or zero points of other shapes.
        """
        lo, c = self.lo, self.c
        operands = [_rows_readable(lo, t) for t in operands]
        read = [broadcast(t, c.shape) for t in operands]
        sizes, kept = self._loops(read)
        if len(sizes) > 2:
            self.a, self.b = lo.plain(self.a), lo.plain(self.b)
            sizes, kept = self._loops(read)
        if len(sizes) > 2:
            lo.decline("batch axes of a product that are not one")
        count, rows = sizes
        columns = c.shape[-1]
        zero = self._zero_of_b()
        panels, terms, b_z = self._panels(zero, count, kept[1][0])
        start, point, point_type, start_z = self._start(terms, b_z)
        sums, zeros = self._row_sums(zero, count, rows, kept[0])
        modes = "".join("s" if s[-1] == 0 and columns > 1 else "v" for s in read)
        epilogue = Epilogue(expression, modes)
        config = Config(
            _heights(lo.machine, rows), vectors_of(lo.machine), self.flip, point_type, bool(sums)
        )
        quads = quads_of(self.depth)
        panel_bytes = QUAD * quads * self.width
        whole = -(-columns // self.width)
        args: list[int | Ref] = [self.a.ref, panels, c.ref, rows, columns, quads, count]
        args += [*kept[0], b_z * whole * panel_bytes, panel_bytes]
        args += [itemsize(epilogue.result) * s for s in kept[2]]
        args += [_share(lo.machine, rows, whole, count), start, start_z, point]
        args += [sums or 0, 4 * rows, zeros or 0]
        for t, strides in zip(operands, kept[3:], strict=True):
            args += [t.ref, *(t.itemsize * s for s in strides)]
        lo.call(Kernel("integer_gemm", (config, epilogue)), *args)

    def _loops(self, read: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
        """Return sizes of batch and rows, and the strides of A, B, C and operands along them."""
        a, b, c = self.a, self.b, self.c
        nests = [
            (*_batch(a, c), a.strides[-2] if a.shape[-2] > 1 else 0),
            (*_batch(b, c), 0),
            c.strides[:-1],
            *(s[:-1] for s in read),
        ]
        sizes, kept = collapse(c.shape[:-1], nests)
        if len(sizes) == 1:
            batched = c.shape[-2] == 1 and any(n != 1 for n in b.shape[:-2])
            sizes = [*sizes, 1] if batched else [1, *sizes]
            kept = [[*s, 0] if batched else [0, *s] for s in kept]
        return sizes, kept

    def _zero_of_b(self) -> Array:
        """Return the zero points of B as if it were signed: one, or one a column."""
        lo = self.lo
        moved = OFFSET if self.b.dtype is dtypes.U8 else 0
        if not lo.has(3):
            return np.array([-moved], np.int64)
        known = lo.known(3)
        if known is None or known.size not in (1, self.c.shape[-1]):
            lo.decline("zero points of B that depend on data, or not one a column")
        return known.reshape(-1).astype(np.int64) - moved

    def _panels(self, zero: Array, count: int, stride: int) -> tuple[Ref, Ref, int]:
        """Return the panels of B, their column terms, and whether each batch has its own."""
        lo, width = self.lo, self.width
        if len(self.b.shape) == 2 and lo.known(1) is not None:

            def pack(data: Array) -> Array:
                return pack_quads(signed(data), width)

            def terms(data: Array) -> Array:
                return padded(column_terms(signed(data), zero), width)

            panels = lo.packed(1, ("quads", width), pack)
            found = lo.packed(1, ("terms", width, zero.tobytes()), terms)
            if panels is not None and found is not None:
                return panels, found, 0
        if zero.size > 1:
            lo.decline("zero points by column of a B that is not constant")
        return self._packed(int(zero[0]), count if stride else 1, stride)

    def _packed(self, zero: int, count: int, stride: int) -> tuple[Ref, Ref, int]:
        """Add the packing of a B that is not constant."""
        lo, b = self.lo, self.b
        if b.blocked is not None or 1 not in b.strides[-2:]:
            b = lo.plain(b)
            if count > 1:
                stride = b.shape[-2] * b.shape[-1]
        depth, columns = b.shape[-2:]
        panels = -(-columns // self.width)
        out = lo.scratch(count * panels * quads_of(depth) * QUAD * self.width)
        terms = lo.scratch(4 * count * panels * self.width)
        kernel = Kernel(
            "pack_quads",
            (vectors_of(lo.machine), b.strides[-1] == 1, b.dtype is dtypes.U8),
        )
        steps = (stride, *b.strides[-2:])
        lo.call(kernel, b.ref, out, terms, count, depth, columns, *steps, zero)
        return out, terms, int(count > 1)

    def _start(self, terms: Ref, b_z: int) -> tuple[Ref, Ref | int, str, int]:
        """Return what sums start with, the zero point it is multiplied with, its type; stride."""
        lo = self.lo
        moved = OFFSET if self.flip else 0
        whole = -(-self.c.shape[-1] // self.width) * self.width
        stride = 4 * whole * b_z
        if not lo.has(2):
            known: Array | None = np.zeros(1, np.int64)
        else:
            known = lo.known(2)
        if known is not None:
            if known.size != 1:
                lo.decline("zero points by row")
            point = int(known.reshape(-1)[0]) + moved
            if terms.buffer.array is not None:
                key = ("start", id(terms.buffer.array), point)
                data = terms.buffer.array
                return lo.constant(key, lambda: data * np.int32(point)), 0, "", stride
            step = np.array([point], np.int32)
            return terms, lo.constant(("point", point), lambda: step), "i32", stride
        place = lo.operand(2)
        if place.size != 1:
            lo.decline("zero points by row")
        return terms, place.ref, place.dtype.name, stride

    def _row_sums(
        self, zero: Array, count: int, rows: int, strides: Sequence[int]
    ) -> tuple[Ref | None, Ref | None]:
        """Return the sums of A's rows and the negative zero points of B, where they matter."""
        if not zero.any():
            return None, None
        lo, columns = self.lo, self.c.shape[-1]
        sums = lo.scratch(4 * count * rows)
        args = (count, rows, self.depth, *strides)
        lo.call(Kernel("row_sums", (not self.flip,)), self.a.ref, sums, *args)
        spread = np.broadcast_to(-zero, (columns,))
        key = ("zeros", zero.tobytes(), columns, self.width)
        return sums, lo.constant(key, lambda: padded(spread, self.width))


def _batch(t: Tensor, c: Tensor) -> tuple[int, ...]:
    outer = replace(t, shape=t.shape[:-2], strides=t.strides[:-2])
    return broadcast(outer, c.shape[:-2])


def _rows_readable(lo: Lowering, t: Tensor) -> Tensor:
    if t.blocked is None and (not t.shape or t.shape[-1] == 1 or t.strides[-1] in (0, 1)):
        return t
    return lo.plain(t)


def _height(machine: Machine) -> int:
    """Return the rows of a tile: with its sums, the prepared operands fit the registers."""
    if has_vnni(machine):
        return 6
    return 4 if machine.registers >= 32 else 3


def _heights(machine: Machine, rows: int) -> tuple[int, ...]:
    usual = _height(machine)
    found = {min(rows, usual): None}
    if rows > usual and rows % usual:
        found[rows % usual] = None
    return tuple(found)


def _share(machine: Machine, rows: int, panels: int, count: int) -> int:
    """Return what threads share: 0 panels, 1 rows, 2 the batch."""
    if count >= machine.cores:
        return 2
    return 1 if rows // _height(machine) >= panels else 0


# -- the kernel ------------------------------------------------------------------------------------


@emits("integer_gemm")
def emit_integer_gemm(e: Emitter, config: Config, epilogue: Epilogue) -> None:
    """Emit the loops over batch, panels and rows around tiles."""
    extra = len(epilogue.modes)
    args = e.args(20 + 3 * extra)
    a, panels, c, rows, columns, quads, count, a_z, a_row, b_z, b_panel, c_z, c_row = args[:13]
    share, start, start_z, point, sums, sums_z, zeros = args[13:20]
    operands = [args[20 + 3 * i : 23 + 3 * i] for i in range(extra)]
    b, width = e.b, config.vectors * e.lanes
    tiles = {r: _tile_function(e, config, epilogue, r) for r in config.rows}
    usual = config.rows[0]
    whole = e.ceil_div(columns, width)
    spans = _spans(e, share, count, whole, e.ceil_div(rows, usual))
    m_last = e.minimum(b.mul(spans[2][1], i64(usual)), rows)
    m_first = b.mul(spans[2][0], i64(usual))
    sizes = [itemsize(d) for d in epilogue.expression.inputs[1:]]
    zero_point = _zero_point(e, config, point)

    def batch(z: Val) -> None:
        def panel(p: Val) -> None:
            n = b.mul(p, i64(width))
            right = b.add(panels, b.add(b.mul(z, b_z), b.mul(p, b_panel)))
            begin = b.add(start, b.add(b.mul(z, start_z), b.mul(n, i64(4))))
            minus = b.add(zeros, b.mul(n, i64(4)))
            moved = [
                (b.add(o, b.add(b.mul(z, oz), b.mul(n, i64(s if mode == "v" else 0)))), step)
                for (o, oz, step), s, mode in zip(operands, sizes, epilogue.modes, strict=True)
            ]
            out = b.add(c, b.add(b.mul(z, c_z), b.mul(n, i64(itemsize(epilogue.result)))))
            source = b.add(a, b.mul(z, a_z))
            totals = b.add(sums, b.mul(z, sums_z))

            def tile(height: int, m: Val) -> None:
                more = [v for o, r in moved for v in (b.add(o, b.mul(m, r)), r)]
                left = b.add(source, b.mul(m, a_row))
                fixed = [left, right, b.add(out, b.mul(m, c_row)), quads, a_row, c_row]
                fixed += [b.sub(columns, n), begin, zero_point]
                fixed += [b.add(totals, b.mul(m, i64(4))), minus]
                b.call(tiles[height], [*fixed, *more])

            length = b.sub(m_last, m_first)
            stop = b.add(m_first, b.mul(b.sdiv(length, i64(usual)), i64(usual)))
            e.each(stop, lambda m: tile(usual, m), start=m_first, step=usual)
            for height in config.rows[1:]:
                with b.if_then(b.icmp_signed("<", stop, m_last)):
                    tile(height, stop)

        e.each(spans[1][1], panel, start=spans[1][0])

    e.each(spans[0][1], batch, start=spans[0][0])


def _spans(e: Emitter, mode: Val, batch: Val, panels: Val, blocks: Val) -> list[tuple[Val, Val]]:
    """Return this thread's part of batch, panels and blocks of rows; ``mode`` says of which."""
    spans = []
    for code, count in ((2, batch), (0, panels), (1, blocks)):
        first, last = e.share(count)
        shared = e.b.icmp_signed("==", mode, i64(code))
        spans.append((e.b.select(shared, first, i64(0)), e.b.select(shared, last, count)))
    return spans


def _zero_point(e: Emitter, config: Config, address: Val) -> Val:
    """Return the zero point of A that sums are multiplied with, 0 when it is part of them."""
    if not config.point:
        return i64(0)
    element = I32 if config.point == "i32" else I8
    value = e.load(e.ptr(address), element)
    if config.point == "u8":
        return e.b.zext(value, i64(0).type)
    value = e.b.sext(value, i64(0).type)
    moved = OFFSET if config.point == "i8" and config.flip else 0
    return e.b.add(value, i64(moved))


def _tile_function(e: Emitter, config: Config, epilogue: Epilogue, rows: int) -> Val:
    """Emit the function of one tile.

    Its arguments: A, B, C, quads, strides of A's and C's rows, columns left, what sums start with,
    the zero point, sums of A's rows, negative zero points of B, address and row stride of operands.
    """

    def body(inner: Emitter, args: list[Val]) -> None:
        total = _accumulate(inner, config, rows, args)
        full = inner.b.icmp_signed(">=", args[6], i64(config.vectors * inner.lanes))
        with inner.b.if_else(full) as (then, otherwise):
            with then:
                _store(inner, epilogue, rows, args, total, None)
            with otherwise:
                left = args[6]
                masks = [
                    inner.lane_mask(inner.b.sub(left, i64(j * inner.lanes)))
                    for j in range(config.vectors)
                ]
                _store(inner, epilogue, rows, args, total, masks)

    return e.subroutine(f"tile{rows}", 11 + 2 * len(epilogue.modes), body)


def _accumulate(e: Emitter, config: Config, rows: int, args: list[Val]) -> list[Val]:
    """Emit the loop over k; return the sums, row by row."""
    a, panel, _, quads, a_row = args[:5]
    b, type_, size = e.b, e.vec(I32), QUAD * e.lanes
    count = rows * config.vectors
    dot = Dot(e, config.flip)
    pointers = [e.ptr(b.add(a, b.mul(a_row, i64(i)))) for i in range(rows)]
    right = e.ptr(panel)
    # Few sums would wait for each other: they are split over k.
    splits = 1 if count >= 8 else 2 if count >= 4 else 4
    unroll = max(2, splits)
    wide = size * config.vectors

    def step(k: Val, u: int, sums: list[Val]) -> None:
        place = e.off(right, b.mul(k, i64(wide)))
        loaded = []
        for j in range(config.vectors):
            at = wide * u + size * j
            loaded.append(dot.right(e.load(place, type_, at)))
        first = (u % splits) * count
        for i, pointer in enumerate(pointers):
            left = dot.left(e.load(e.off(pointer, b.mul(k, i64(QUAD))), I32, QUAD * u))
            for j, found in enumerate(loaded):
                n = first + i * config.vectors + j
                sums[n] = dot.add(sums[n], left, found)

    def steps(number: int) -> Any:
        def body(k: Val, state: list[Val]) -> list[Val]:
            for u in range(number):
                step(k, u, state)
            return state

        return body

    start = _starts(e, config, args) * rows + [e.zero(type_)] * (count * (splits - 1))
    whole = b.and_(quads, i64(-unroll))
    sums = e.loop(whole, start, steps(unroll), step=unroll)
    sums = e.loop(quads, sums, steps(1), start=whole)
    total = sums[:count]
    for s in range(1, splits):
        total = [b.add(x, y) for x, y in zip(total, sums[s * count :], strict=False)]
    return _less_zeros(e, config, rows, args, total) if config.sums else total


def _starts(e: Emitter, config: Config, args: list[Val]) -> list[Val]:
    """Return what the sums of a row start with."""
    place, type_ = e.ptr(args[7]), e.vec(I32)
    found = [e.load(place, type_, QUAD * e.lanes * j) for j in range(config.vectors)]
    if not config.point:
        return found
    point = e.splat(e.b.trunc(args[8], I32))
    return [e.b.mul(v, point) for v in found]


def _less_zeros(
    e: Emitter, config: Config, rows: int, args: list[Val], total: list[Val]
) -> list[Val]:
    """Take the zero points of B from sums: one a column, times the sum of A's row."""
    sums, minus, type_ = e.ptr(args[9]), e.ptr(args[10]), e.vec(I32)
    columns = [e.load(minus, type_, QUAD * e.lanes * j) for j in range(config.vectors)]
    found = []
    for i in range(rows):
        row = e.splat(e.load(sums, I32, 4 * i))
        for j, column in enumerate(columns):
            found.append(e.b.add(total[i * config.vectors + j], e.b.mul(row, column)))
    return found


def _store(
    e: Emitter,
    epilogue: Epilogue,
    rows: int,
    args: list[Val],
    total: list[Val],
    masks: list[Val] | None,
) -> None:
    """Store a tile, see :func:`_tile_function`."""
    out = [e.ptr(e.b.add(args[2], e.b.mul(args[5], i64(i)))) for i in range(rows)]
    store_rows(e, epilogue, out, total, args[11:], masks)
