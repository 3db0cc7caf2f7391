"""Matrix products in f32: packed panels of B, tiles of C in registers, any epilogue on the tile.

``C[z, m, n] = epilogue(sum_k A[z, m, k] * B[z, k, n])``. A is read in place with any strides. B
lies in panels ``[panel, k, width]``: constants are packed once, others before the call; few rows of
A read a B where it lies. One call covers up to two batch axes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import Step
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.elementwise import Translation, itemsize
from lepton_ir.backends.numba.kernels.epilogue import PLAIN, Epilogue, store_rows, translate
from lepton_ir.backends.numba.kernels.panels import pack_panels, vectors_of, width_of
from lepton_ir.backends.numba.kernels.tiles import LONG_SUM, cut_sum
from lepton_ir.backends.numba.kernels.widening import narrowed, wide_operands
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor, row_major
from lepton_ir.backends.numba.strides import broadcast, collapse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.plan import Array

Panels = Callable[[int], Ref | None]
"""Returns the panels of a constant B, of a width; ``None`` when B is not constant."""

DEPTH = 512
"""Rows of B that are used for all of A before the next ones; a panel of them stays in the cache."""

ROWS = 6
"""Rows of a tile."""

FEW_ROWS = 4
"""Up to so many rows of A, a B that is not constant is read where it lies."""


@dataclass(frozen=True)
class Tile:
    """The tiles that a kernel has.

    Attributes:
        rows: heights, the usual one first, then that of the last tile.
        vectors: vectors of a tile's row.
        deep: whether the sum over k is split.
        packed: whether B lies in panels.
        dense: whether neighbours along k of A lie side by side.
    """

    rows: tuple[int, ...]
    vectors: int
    deep: bool
    packed: bool
    dense: bool


# -- lowering --------------------------------------------------------------------------------------


@lowers("matmul", tail=True)
def lower_matmul(lo: Lowering) -> None:
    """Lower MatMul: vectors become matrices."""
    a, b = wide_operands(lo)
    if not a.shape or not b.shape:
        lo.decline("a scalar operand")
    expression, operands = translate(lo, functools.partial(narrowed, lo))
    dtype, shape = lo.type()
    if len(a.shape) == 1:
        a = Tensor(a.dtype, (1, *a.shape), a.ref, (0, *a.strides))
    if len(b.shape) == 1:
        b = Tensor(b.dtype, (*b.shape, 1), b.ref, (*b.strides, 1))
    full = _product_shape(a, b)
    if shape != full and lo.tail:
        lo.decline("a vector operand with an epilogue")
    c = lo.new(dtype, full)
    lower_product(lo, a, b, functools.partial(_constant_panels, lo, 1), c, expression, operands)
    lo.set(Tensor(c.dtype, shape, c.ref, row_major(shape)))


def _product_shape(a: Tensor, b: Tensor) -> tuple[int, ...]:
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (*batch, a.shape[-2], b.shape[-1])


@lowers("gemm", tail=True)
def lower_gemm(lo: Lowering) -> None:
    """Lower Gemm: transposes are strides, the scaled sum with C is part of the epilogue."""
    op = lo.anchor
    a, b = wide_operands(lo)
    if a.dtype is not dtypes.F32 or b.dtype is not dtypes.F32 or lo.type()[0] is not dtypes.F32:
        lo.decline("16-bit floats")
    if op.attr("transA"):
        a = _transposed(a)
    if op.attr("transB"):
        b = _transposed(b)
    alpha, beta = op.attr("alpha"), op.attr("beta")
    c = op.operands[2] if len(op.operands) > 2 else None

    def scaled(translation: Translation, number: int) -> int:
        if alpha != 1.0:
            factor = translation.const(alpha, "f32")
            number = translation.step(Step("mul", "f32", (number, factor)))
        if c is None or beta == 0.0:
            return number
        added = translation.operand(c)
        if translation.dtype(added) != "f32":
            lo.decline("an addend that is not f32")
        if beta != 1.0:
            factor = translation.const(beta, "f32")
            added = translation.step(Step("mul", "f32", (added, factor)))
        return translation.step(Step("add", "f32", (number, added)))

    expression, operands = translate(lo, scaled)
    result = lo.new(*lo.type())
    lower_product(
        lo, a, b, functools.partial(_constant_panels, lo, 1), result, expression, operands
    )
    lo.set(result)


def _transposed(t: Tensor) -> Tensor:
    shape, strides = list(t.shape), list(t.strides)
    shape[-2:] = reversed(shape[-2:])
    strides[-2:] = reversed(strides[-2:])
    return Tensor(t.dtype, tuple(shape), t.ref, tuple(strides))


def lower_product(
    lo: Lowering,
    a: Tensor,
    b: Tensor,
    panels_of: Panels,
    c: Tensor,
    expression: Any,
    operands: Sequence[Tensor],
) -> None:
    """Add the calls for one product.

    Args:
        lo: the operation.
        a: a matrix or a batch of them.
        b: another.
        panels_of: returns the panels of B, of a width, when B is constant.
        c: the result.
        expression: what is applied to it.
        operands: of the expression.

    Raises:
        Declined: too many batch axes, or an operand of the epilogue that is not read by rows.
    """
    rows_shape, columns, depth = c.shape[:-1], c.shape[-1], a.shape[-1]
    read = [broadcast(_rows_readable(lo, t), c.shape) for t in operands]
    operands = [_rows_readable(lo, t) for t in operands]
    nests = [
        (*broadcast(_batch(a), c.shape[:-2]), a.strides[-2] if a.shape[-2] > 1 else 0),
        (*broadcast(_batch(b), c.shape[:-2]), 0),
        c.strides[:-1],
        *(s[:-1] for s in read),
    ]
    sizes, kept = collapse(rows_shape, nests)
    if kept[1][-1] != 0 and sizes[-1] != 1:
        sizes.append(1)
        for strides in kept:
            strides.append(0)
    if len(sizes) > 3:
        if a.is_plain and b.is_plain:
            lo.decline("more than two batch axes")
        lower_product(lo, lo.plain(a), lo.plain(b), panels_of, c, expression, operands)
        return
    while len(sizes) < 3:
        sizes.insert(0, 1)
        for strides in kept:
            strides.insert(0, 0)
    rows = sizes[2]
    panel, b_strides, packed = _prepare_b(lo, b, panels_of, rows, sizes[:2], kept[1])
    epilogue = _epilogue(expression, read, columns)
    # A sum that is split is kept in the result, which 16 bits are too few for.
    once = DEPTH if epilogue.result != "f32" else depth
    tile = _tile(lo.machine, rows, min(depth, once), packed, a.strides[-1] == 1)
    args: list[int | Ref] = [a.ref, panel, c.ref, rows, columns, depth, sizes[0], sizes[1]]
    args += [4 * s for s in kept[0]] + [4 * a.strides[-1]]
    args += b_strides
    args += [itemsize(epilogue.result) * s for s in kept[2]]
    args.append(_share(rows, columns, sizes, lo.machine))
    for t, strides in zip(operands, kept[3:], strict=True):
        args += [t.ref, *(t.itemsize * s for s in strides)]
    lo.call(Kernel("gemm", (tile, epilogue)), *args)


def call_matrix(
    lo: Lowering,
    a: Tensor,
    panels: Ref,
    c: Tensor,
    expression: Any,
    operands: Sequence[Tensor],
) -> None:
    """Add the product of a matrix with packed panels (:func:`pack_panels`)."""
    (rows, depth), columns, width = a.shape, c.shape[1], width_of(lo.machine)
    epilogue = _epilogue(expression, [broadcast(t, c.shape) for t in operands], columns)
    tile = _tile(lo.machine, rows, depth, True, a.strides[1] == 1)
    args: list[int | Ref] = [a.ref, panels, c.ref, rows, columns, depth, 1, 1]
    args += [0, 0, 4 * a.strides[0], 4 * a.strides[1]]
    args += [0, 0, 4 * depth * width, 4 * width]
    args += [0, 0, itemsize(epilogue.result) * c.strides[0]]
    args.append(_share(rows, columns, [1, 1], lo.machine))
    for t in operands:
        args += [t.ref, 0, 0, t.itemsize * broadcast(t, c.shape)[0]]
    lo.call(Kernel("gemm", (tile, epilogue)), *args)


def _batch(t: Tensor) -> Tensor:
    return Tensor(t.dtype, t.shape[:-2], t.ref, t.strides[:-2])


def _rows_readable(lo: Lowering, t: Tensor) -> Tensor:
    """Return an operand of an epilogue whose last axis lies side by side, or is constant."""
    if t.blocked is None and (not t.shape or t.shape[-1] == 1 or t.strides[-1] in (0, 1)):
        return t
    return lo.plain(t)


def _epilogue(expression: Any, read: Sequence[Sequence[int]], columns: int) -> Epilogue:
    if not expression.steps:
        return PLAIN
    modes = "".join("s" if s[-1] == 0 and columns > 1 else "v" for s in read)
    return Epilogue(expression, modes)


def _tile(machine: Machine, rows: int, depth: int, packed: bool, dense: bool) -> Tile:
    heights = {min(rows, ROWS): None}
    if rows > ROWS and rows % ROWS:
        heights[rows % ROWS] = None
    return Tile(tuple(heights), vectors_of(machine), depth > DEPTH, packed, dense)


def _share(rows: int, columns: int, sizes: list[int], machine: Machine) -> int:
    """Return what threads share: 0 panels, 1 rows, 2 the batch."""
    if sizes[0] * sizes[1] >= machine.cores:
        return 2
    panels = -(-columns // width_of(machine))
    return 1 if rows // ROWS >= panels else 0


def _prepare_b(
    lo: Lowering, b: Tensor, panels_of: Panels, rows: int, batch: list[int], strides: list[int]
) -> tuple[Ref, list[int], bool]:
    """Return where B lies, its strides (batch, batch, panel, k) in bytes, and if it is packed."""
    depth, columns = b.shape[-2:]
    width = width_of(lo.machine)
    panels = -(-columns // width)
    size = 4 * depth * width
    found = panels_of(width)
    if found is not None:
        whole = 4 * panels * depth * width
        factor = [whole * s // max(depth * columns, 1) for s in strides[:2]]
        return found, [*factor, size, 4 * width], True
    if rows <= FEW_ROWS and (b.strides[-1] == 1 or columns == 1):
        return b.ref, [4 * s for s in strides[:2]] + [4 * width, 4 * b.strides[-2]], False
    used = [n if s else 1 for n, s in zip(batch, strides, strict=False)]
    scratch = lo.scratch(4 * panels * depth * width * used[0] * used[1])
    whole = panels * size
    out = [whole * used[1] if strides[0] else 0, whole if strides[1] else 0]
    args: list[int | Ref] = [b.ref, scratch, *used, depth, columns]
    args += [4 * s for s in (*strides[:2], *b.strides[-2:])]
    kernel = Kernel("pack", (vectors_of(lo.machine), b.strides[-1] == 1))
    lo.call(kernel, *args, *out)
    return scratch, [*out, size, 4 * width], True


def _constant_panels(lo: Lowering, index: int, width: int) -> Ref | None:
    """Return the panels of a constant B, ``None`` if it is not constant."""
    transposed = bool(lo.anchor.name == "gemm" and lo.anchor.attr("transB"))

    def pack(data: Array) -> Array:
        matrix = np.swapaxes(data, -1, -2) if transposed else data
        matrix = matrix.astype(np.float32, copy=False)
        return pack_panels(matrix if matrix.ndim > 1 else matrix[:, None], width)

    return lo.packed(index, ("gemm", width, transposed), pack)


# -- the kernel ------------------------------------------------------------------------------------


@emits("gemm")
def emit_gemm(e: Emitter, tile: Tile, epilogue: Epilogue) -> None:
    """Emit the loops over batch, depth, panels and rows around tiles."""
    count = len(epilogue.modes)
    args = e.args(20 + 4 * count)
    a, b, c, rows, columns, depth, z0, z1 = args[:8]
    a_strides, b_strides, c_strides = args[8:12], args[12:16], args[16:19]
    operands = [args[20 + 4 * i : 24 + 4 * i] for i in range(count)]
    tiles = {r: tile_function(e, tile, epilogue, r) for r in tile.rows}
    width = tile.vectors * e.lanes
    spans = _spans(e, args[19], e.b.mul(z0, z1), e.ceil_div(columns, width), rows)
    nest = _Nest(e, tile, tiles, width, rows, columns, itemsize(epilogue.result))
    (z_first, z_last), nest.panels, nest.span = spans

    def batch(z: Val) -> None:
        i, j = e.divmod(z, z1)
        base = [
            e.b.add(p, e.b.add(e.b.mul(i, s[0]), e.b.mul(j, s[1])))
            for p, s in zip((a, b, c), (a_strides, b_strides, c_strides), strict=True)
        ]
        moved = [
            (e.b.add(o[0], e.b.add(e.b.mul(i, o[1]), e.b.mul(j, o[2]))), o[3]) for o in operands
        ]
        sizes = [itemsize(d) for d in epilogue.expression.inputs[1:]]
        nest.operands = [
            (p, r, s if m == "v" else 0)
            for (p, r), s, m in zip(moved, sizes, epilogue.modes, strict=True)
        ]
        strides = (a_strides[2], a_strides[3], b_strides[2], b_strides[3], c_strides[2])
        nest.depths(base, depth, strides)

    e.each(z_last, batch, start=z_first)


def _spans(e: Emitter, mode: Val, batch: Val, panels: Val, rows: Val) -> list[tuple[Val, Val]]:
    """Return this thread's part of batch, panels and rows; ``mode`` says which one is shared."""
    blocks = e.ceil_div(rows, ROWS)
    spans = []
    for code, count in ((2, batch), (0, panels), (1, blocks)):
        first, last = e.share(count)
        shared = e.b.icmp_signed("==", mode, i64(code))
        spans.append((e.b.select(shared, first, i64(0)), e.b.select(shared, last, count)))
    first, last = spans[2]
    last = e.minimum(e.b.mul(last, i64(ROWS)), rows)
    spans[2] = (e.b.mul(first, i64(ROWS)), last)
    return spans


class _Nest:
    """The loops inside one matrix."""

    def __init__(
        self,
        e: Emitter,
        tile: Tile,
        tiles: dict[int, Val],
        width: int,
        rows: Val,
        columns: Val,
        size: int,
    ) -> None:
        self.e = e
        self.tile = tile
        self.tiles = tiles
        self.width = width
        self.rows = rows
        self.columns = columns
        self.size = size
        self.panels: tuple[Val, Val] = (None, None)
        self.span: tuple[Val, Val] = (None, None)
        self.operands: list[tuple[Val, Val, int]] = []

    def depths(self, base: list[Val], depth: Val, strides: tuple[Val, ...]) -> None:
        """Emit the loop over blocks of k."""
        e = self.e
        if not self.tile.deep:
            self.columns_loop(base, depth, strides, i64(2))
            return

        def block(k: Val) -> None:
            length = e.minimum(e.b.sub(depth, k), i64(DEPTH))
            again = e.b.zext(e.b.icmp_signed(">", k, i64(0)), k.type)
            last = e.b.icmp_signed("==", e.b.add(k, length), depth)
            flags = e.b.or_(again, e.b.select(last, i64(2), i64(0)))
            a = e.b.add(base[0], e.b.mul(k, strides[1]))
            b = e.b.add(base[1], e.b.mul(k, strides[3]))
            self.columns_loop([a, b, base[2]], length, strides, flags)

        e.each(depth, block, step=DEPTH)

    def columns_loop(
        self, base: list[Val], depth: Val, strides: tuple[Val, ...], flags: Val
    ) -> None:
        """Emit the loop over panels."""
        e = self.e

        def panel(p: Val) -> None:
            n = e.b.mul(p, i64(self.width))
            b = e.b.add(base[1], e.b.mul(p, strides[2]))
            c = e.b.add(base[2], e.b.mul(n, i64(self.size)))
            left = e.b.sub(self.columns, n)
            operands = [(e.b.add(o, e.b.mul(n, i64(s))), r) for o, r, s in self.operands]
            self.rows_loop([base[0], b, c], depth, strides, flags, left, operands)

        e.each(self.panels[1], panel, start=self.panels[0])

    def rows_loop(
        self,
        base: list[Val],
        depth: Val,
        strides: tuple[Val, ...],
        flags: Val,
        left: Val,
        operands: list[tuple[Val, Val]],
    ) -> None:
        """Emit the loop over tiles of one panel, and the last, lower tile."""
        e, (first, last) = self.e, self.span
        usual = self.tile.rows[0]

        def call(height: int, m: Val) -> None:
            a = e.b.add(base[0], e.b.mul(m, strides[0]))
            c = e.b.add(base[2], e.b.mul(m, strides[4]))
            more = [v for o, r in operands for v in (e.b.add(o, e.b.mul(m, r)), r)]
            fixed = [a, base[1], c, depth, strides[0], strides[1], strides[3], strides[4]]
            e.b.call(self.tiles[height], [*fixed, flags, left, *more])

        length = e.b.sub(last, first)
        whole = e.b.mul(e.b.sdiv(length, i64(usual)), i64(usual))
        stop = e.b.add(first, whole)
        e.each(stop, lambda m: call(usual, m), start=first, step=usual)
        for height in self.tile.rows[1:]:
            with e.b.if_then(e.b.icmp_signed("<", stop, last)):
                call(height, stop)


def tile_function(e: Emitter, tile: Tile, epilogue: Epilogue, rows: int) -> Val:
    """Emit the function of one tile.

    Its arguments: A, B, C, depth, strides of A (row, k), of B (k), of C (row), flags (1 add to what
    C holds, 2 apply the epilogue), columns left, and address and row stride of each operand.
    """
    count = 10 + 2 * len(epilogue.modes)

    def body(inner: Emitter, args: list[Val]) -> None:
        full = inner.b.icmp_signed(">=", args[9], i64(tile.vectors * inner.lanes))
        if tile.packed:
            total = _accumulate(inner, tile, rows, args, None)
            with inner.b.if_else(full) as (then, otherwise):
                with then:
                    _finish(inner, tile, epilogue, rows, args, total, None)
                with otherwise:
                    masks = _masks(inner, tile, args[9])
                    _finish(inner, tile, epilogue, rows, args, total, masks)
            return
        with inner.b.if_else(full) as (then, otherwise):
            with then:
                total = _accumulate(inner, tile, rows, args, None)
                _finish(inner, tile, epilogue, rows, args, total, None)
            with otherwise:
                masks = _masks(inner, tile, args[9])
                total = _accumulate(inner, tile, rows, args, masks)
                _finish(inner, tile, epilogue, rows, args, total, masks)

    return e.subroutine(f"tile{rows}", count, body)


def _masks(e: Emitter, tile: Tile, left: Val) -> list[Val]:
    return [e.lane_mask(e.b.sub(left, i64(j * e.lanes))) for j in range(tile.vectors)]


def _accumulate(
    e: Emitter, tile: Tile, rows: int, args: list[Val], masks: list[Val] | None
) -> list[Val]:
    """Emit the loop over k; return the sums, row by row."""
    a, b, depth, a_row, a_k, b_step = (args[i] for i in (0, 1, 3, 4, 5, 6))
    lanes, count = e.lanes, rows * tile.vectors
    type_ = e.vec(F32)
    pointers = [e.ptr(e.b.add(a, e.b.mul(a_row, i64(i)))) for i in range(rows)]
    panel = e.ptr(b)
    # Few accumulators would wait for each other: the sum is split over k. Panels lie one behind the
    # other, which the processor's own prefetching follows faster than one asked for line by line.
    splits = 1 if count >= 8 else 2 if count >= 4 else 4
    unroll = max(2, splits)

    def step(k: Val, u: int, sums: list[Val]) -> None:
        place = e.off(panel, e.b.mul(e.b.add(k, i64(u)), b_step))
        if tile.packed:
            place = e.off(panel, e.b.mul(k, i64(4 * tile.vectors * lanes)))
            place = e.off(place, 4 * tile.vectors * lanes * u)
        right = []
        for j in range(tile.vectors):
            where = e.off(place, 4 * lanes * j)
            right.append(
                e.load(where, type_) if masks is None else e.load_masked(where, type_, masks[j])
            )
        start = (u % splits) * count
        for i, pointer in enumerate(pointers):
            if tile.dense:
                value = e.load(e.off(pointer, e.b.shl(k, i64(2))), F32, 4 * u)
            else:
                value = e.load(e.off(pointer, e.b.mul(e.b.add(k, i64(u)), a_k)), F32)
            left = e.splat(value)
            for j, r in enumerate(right):
                n = start + i * tile.vectors + j
                sums[n] = e.fma(left, r, sums[n])

    def steps(number: int) -> Any:
        def body(k: Val, state: list[Val]) -> list[Val]:
            for u in range(number):
                step(k, u, state)
            return state

        return body

    def chunk(start: Val, end: Val) -> list[Val]:
        zero = [e.zero(type_)] * (count * splits)
        whole = e.b.and_(end, i64(-unroll))
        sums = e.loop(whole, zero, steps(unroll), start=start, step=unroll)
        return e.loop(end, sums, steps(1), start=whole)

    sums = cut_sum(e, depth, LONG_SUM * splits, chunk)
    total = sums[:count]
    for s in range(1, splits):
        total = [e.b.fadd(x, y) for x, y in zip(total, sums[s * count :], strict=False)]
    return total


def _finish(
    e: Emitter,
    tile: Tile,
    epilogue: Epilogue,
    rows: int,
    args: list[Val],
    total: list[Val],
    masks: list[Val] | None,
) -> None:
    """Store a tile: add what C holds, apply the epilogue, as the flags say."""
    c, c_row, flags = args[2], args[7], args[8]
    out = [e.ptr(e.b.add(c, e.b.mul(c_row, i64(i)))) for i in range(rows)]
    if not tile.deep:
        store_rows(e, epilogue, out, total, args[10:], masks)
        return
    zero = e.b.icmp_signed("==", e.b.and_(flags, i64(1)), i64(0))
    before = e.choose(
        zero,
        lambda: [e.zero(x.type) for x in total],
        lambda: _stored(e, tile, out, masks),
    )
    total = [e.b.fadd(x, y) for x, y in zip(total, before, strict=True)]
    last = e.b.icmp_signed("!=", e.b.and_(flags, i64(2)), i64(0))
    with e.b.if_else(last) as (then, otherwise):
        with then:
            store_rows(e, epilogue, out, total, args[10:], masks)
        with otherwise:
            store_rows(e, PLAIN, out, total, [], masks)


def _stored(e: Emitter, tile: Tile, out: list[Val], masks: list[Val] | None) -> list[Val]:
    found = []
    for pointer in out:
        for j in range(tile.vectors):
            place = e.off(pointer, 4 * e.lanes * j)
            type_ = e.vec(F32)
            found.append(
                e.load(place, type_) if masks is None else e.load_masked(place, type_, masks[j])
            )
    return found
