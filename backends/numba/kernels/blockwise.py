"""Products with weights of 2, 4 or 8 bits that share a scale by blocks of a column.

``y[m, n] = sum_k a[m, k] * (code[k, n] - zero[k / block, n]) * scale[k / block, n]``, in f32: codes
become floats in registers. Every 32-bit lane holds neighbouring codes of one column, less the
middle of their range, so that 0 stands for a symmetric zero.

Where ``accuracy_level`` is 4, the model allows A in 8 bits too: each block of a row has a scale of
its own, and sums of a block are integers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.dot import has_vnni
from lepton_ir.backends.numba.codegen.emitter import Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import Step
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.block_sums import (
    WORD,
    BlockSums,
    Config,
    WholeBlockSums,
)
from lepton_ir.backends.numba.kernels.copy import copy_into, fill
from lepton_ir.backends.numba.kernels.elementwise import Translation, itemsize
from lepton_ir.backends.numba.kernels.epilogue import (
    Epilogue,
    store_rows,
    translate,
)
from lepton_ir.backends.numba.kernels.gemm import Tile, tile_function
from lepton_ir.backends.numba.kernels.panels import vectors_of, width_of
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor, row_major
from lepton_ir.backends.numba.strides import broadcast, collapse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Array

ROWS = 6
"""Rows of a tile."""

WHOLE_ROWS = 4
"""Rows of a tile of integers."""

MANY_ROWS = 24
"""From so many rows on, a panel of weights is made floats once."""

_LEAST = 16
"""Blocks of A in bytes are multiples of this."""


# -- lowering --------------------------------------------------------------------------------------


@lowers("ms_matmul_nbits", tail=True)
def lower_blockwise(lo: Lowering) -> None:
    """Lower MatMulNBits with constant codes, scales and zero points."""
    op, a = lo.anchor, lo.operand(0)
    if a.dtype is not dtypes.F32 or (lo.type()[0] is not dtypes.F32 and not lo.tail):
        lo.decline(f"blocks of weights times {a.dtype}")
    if op.attr("weight_prepacked") or (lo.has(4) and lo.operand(4).size):
        lo.decline("weights that are packed already, or reordered rows")
    bits, block, depth = op.attr("bits"), op.attr("block_size"), op.attr("K")
    codes = WORD // bits
    if bits not in (2, 4, 8) or block % codes:
        lo.decline(f"blocks of {block} codes of {bits} bits")
    expression, operands = translate(lo, functools.partial(_add_bias, lo))
    c = lo.new(*lo.type())
    whole = op.attr("accuracy_level") == 4 and has_vnni(lo.machine) and bits != 2
    whole = whole and block % _LEAST == 0
    a = _whole_words(lo, a, depth, block if whole else codes)
    width, depth = width_of(lo.machine), a.shape[1]
    if whole:
        a = _in_bytes(lo, a, block, bits)
    packed = lo.packed(
        1,
        ("codes", bits, depth, width, whole),
        lambda b: pack_codes(b, bits, depth, width, not whole),
    )
    scales = lo.packed(2, ("scales", width), lambda s: _panels(s.reshape(op.attr("N"), -1), width))
    if packed is None or scales is None:
        lo.decline("weights that depend on data")
    shifts = _shifts(lo, width)
    _call(lo, a, (packed, scales, shifts), c, expression, operands)
    lo.set(c)


def _add_bias(lo: Lowering, translation: Translation, number: int) -> int:
    if not lo.has(5):
        return number
    added = translation.operand(lo.anchor.operands[5])
    if translation.dtype(added) != "f32":
        lo.decline("a bias that is not f32")
    return translation.step(Step("add", "f32", (number, added)))


def _whole_words(lo: Lowering, a: Tensor, depth: int, codes: int) -> Tensor:
    """Return A as a plain matrix whose rows end with a whole lane of codes, zeros filled in."""
    a = lo.plain(a)
    rows = a.size // max(depth, 1)
    a = Tensor(a.dtype, (rows, depth), a.ref, row_major((rows, depth)))
    if depth % codes == 0:
        return a
    shape = (rows, -(-depth // codes) * codes)
    whole = lo.new(a.dtype, shape)
    fill(lo, whole, np.zeros((), np.float32))
    copy_into(lo, a, Tensor(a.dtype, a.shape, whole.ref, whole.strides))
    return whole


def _in_bytes(lo: Lowering, a: Tensor, block: int, bits: int) -> Tensor:
    """Return A in bytes, a row after the other, scales and sums of its blocks behind each row."""
    rows, depth = a.shape
    blocks = depth // block
    length = depth + 8 * blocks
    made = lo.new(dtypes.I8, (rows, length))
    args = (rows, blocks, block, 4 * a.strides[0], length)
    lo.call(Kernel("quantize_blocks", (bits,)), a.ref, made.ref, *args)
    return made


def pack_codes(b: Array, bits: int, depth: int, width: int, centred: bool = True) -> Array:
    """Return ``[panel, k / codes, width]`` of bytes ``[n, ...]`` whose lowest bits come first."""
    rows = np.ascontiguousarray(b.reshape(len(b), -1)).view(np.uint8)
    columns, words = len(rows), -(-depth * bits // WORD)
    panels = -(-columns // width)
    middle = sum(1 << (bits * i + bits - 1) for i in range(WORD // bits))
    packed = aligned_array((panels, words, width), np.uint32)
    padded = np.zeros((width, 4 * words), np.uint8)
    for p in range(panels):
        part = rows[p * width : (p + 1) * width, : 4 * words]
        padded[: len(part), : part.shape[1]] = part
        packed[p] = padded.view(np.uint32).T ^ np.uint32(middle if centred else 0)
        packed[p][:, len(part) :] = 0
    return packed


def _panels(values: Array, width: int) -> Array:
    """Return ``[panel, block, width]`` in f32 of one number a column and block."""
    columns, blocks = values.shape
    panels = -(-columns // width)
    packed = aligned_array((panels, blocks, width), np.float32)
    packed[:] = 0
    for p in range(panels):
        part = values[p * width : (p + 1) * width]
        packed[p, :, : len(part)] = part.T
    return packed


def _shifts(lo: Lowering, width: int) -> Ref | None:
    """Return what zero points add to a weight, ``None`` where all stand in the middle."""
    if not lo.has(3):
        return None
    op = lo.anchor
    scales, zeros = lo.known(2), lo.known(3)
    if scales is None or zeros is None:
        lo.decline("zero points that depend on data")
    columns, bits = op.attr("N"), op.attr("bits")
    scale = scales.reshape(columns, -1).astype(np.float32)

    def pack(data: Array) -> Array:
        if data.dtype == np.uint8:
            data = unpacked(data.reshape(columns, -1), bits, scale.shape[1])
        zero = data.reshape(scale.shape).astype(np.float32) - np.float32(1 << (bits - 1))
        return _panels(-zero * scale, width)

    return lo.packed(3, ("zeros", bits, width, id(scales)), pack)


def unpacked(packed: Array, bits: int, count: int) -> Array:
    """Return ``count`` codes along the last axis of bytes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    found: Array = codes.reshape(*packed.shape[:-1], -1)[..., :count]
    return found


def _call(
    lo: Lowering,
    a: Tensor,
    weights: tuple[Ref, Ref, Ref | None],
    c: Tensor,
    expression: Any,
    operands: Sequence[Tensor],
) -> None:
    op, bits = lo.anchor, lo.anchor.attr("bits")
    operands = [t if t.blocked is None and _by_rows(t) else lo.plain(t) for t in operands]
    read = [broadcast(t, c.shape) for t in operands]
    sizes, kept = collapse(c.shape[:-1], [c.strides[:-1], *(s[:-1] for s in read)])
    if len(sizes) > 1:
        lo.decline("an operand of the epilogue that is broadcast between rows")
    rows, columns = sizes[0], c.shape[-1]
    modes = "".join("s" if s[-1] == 0 and columns > 1 else "v" for s in read)
    epilogue = Epilogue(expression, modes)
    packed, scales, shifts = weights
    whole = a.dtype is dtypes.I8
    vectors, once = vectors_of(lo.machine), rows >= MANY_ROWS and not whole
    usual = WHOLE_ROWS if whole else ROWS
    heights = {min(rows, usual): None}
    if rows > usual and rows % usual:
        heights[rows % usual] = None
    config = Config(tuple(heights), vectors, bits, shifts is not None, once, whole)
    block = op.attr("block_size") if whole else config.codes
    words = -(-op.attr("K") // block) * block // config.codes
    panels = -(-columns // width_of(lo.machine))
    by_rows = int(rows // usual >= panels and not once)
    room = 4 * words * config.codes * width_of(lo.machine) if once else 0
    scratch = lo.scratch(lo.threads * room) if once else 0
    args: list[int | Ref] = [a.ref, packed, scales, shifts or 0, c.ref, rows, columns, words]
    args += [op.attr("block_size") // config.codes, a.itemsize * a.strides[0]]
    args += [itemsize(epilogue.result) * kept[0][0], by_rows, scratch, room]
    for t, strides in zip(operands, kept[1:], strict=True):
        args += [t.ref, t.itemsize * strides[0]]
    lo.call(Kernel("blockwise", (config, epilogue)), *args)


def _by_rows(t: Tensor) -> bool:
    return not t.shape or t.shape[-1] == 1 or t.strides[-1] in (0, 1)


# -- the kernel ------------------------------------------------------------------------------------


@emits("blockwise")
def emit_blockwise(e: Emitter, config: Config, epilogue: Epilogue) -> None:
    """Emit the loops over panels and rows around tiles."""
    extra = len(epilogue.modes)
    args = e.args(14 + 2 * extra)
    a, codes, scales, shifts, c, rows, columns, words, per_block, a_row, c_row, by_rows = args[:12]
    floats = e.b.add(args[12], e.b.mul(e.tid, args[13]))
    operands = [args[14 + 2 * i : 16 + 2 * i] for i in range(extra)]
    b, width, usual = e.b, config.vectors * e.lanes, config.rows[0]
    plain = Tile(config.rows, config.vectors, deep=False, packed=True, dense=True)
    tiles = {
        r: tile_function(e, plain, epilogue, r)
        if config.once
        else _tile_function(e, config, epilogue, r)
        for r in config.rows
    }
    depth = b.mul(words, i64(config.codes))
    panels, heights = e.ceil_div(columns, width), e.ceil_div(rows, usual)
    shared = b.icmp_signed("!=", by_rows, i64(0))
    spans = []
    for count, mine in ((panels, b.not_(shared)), (heights, shared)):
        first, last = e.share(count)
        spans.append((b.select(mine, first, i64(0)), b.select(mine, last, count)))
    m_first = b.mul(spans[1][0], i64(usual))
    m_last = e.minimum(b.mul(spans[1][1], i64(usual)), rows)
    blocks = b.sdiv(b.add(words, b.sub(per_block, i64(1))), per_block)
    sizes = [itemsize(d) for d in epilogue.expression.inputs[1:]]

    def panel(p: Val) -> None:
        n = b.mul(p, i64(width))
        right = b.add(codes, b.mul(b.mul(n, words), i64(4)))
        scale, shift = (b.add(v, b.mul(b.mul(n, blocks), i64(4))) for v in (scales, shifts))
        out = b.add(c, b.mul(n, i64(itemsize(epilogue.result))))
        moved = [
            (b.add(o, b.mul(n, i64(s if mode == "v" else 0))), step)
            for (o, step), s, mode in zip(operands, sizes, epilogue.modes, strict=True)
        ]

        def tile(height: int, m: Val) -> None:
            more = [v for o, r in moved for v in (b.add(o, b.mul(m, r)), r)]
            left, goal = b.add(a, b.mul(m, a_row)), b.add(out, b.mul(m, c_row))
            fixed = [left, right, scale, shift, goal, words, per_block, a_row, c_row]
            if config.once:
                fixed = [left, floats, goal, depth, a_row, i64(4), i64(4 * width), c_row, i64(2)]
            b.call(tiles[height], [*fixed, b.sub(columns, n), *more])

        if config.once:
            BlockSums(e, config, 0, [a, right, scale, shift, c, words, per_block, a_row]).write(
                e.ptr(floats)
            )

        length = b.sub(m_last, m_first)
        stop = b.add(m_first, b.mul(b.sdiv(length, i64(usual)), i64(usual)))
        e.each(stop, lambda m: tile(usual, m), start=m_first, step=usual)
        for height in config.rows[1:]:
            with b.if_then(b.icmp_signed("<", stop, m_last)):
                tile(height, stop)

    e.each(spans[0][1], panel, start=spans[0][0])


def _tile_function(e: Emitter, config: Config, epilogue: Epilogue, rows: int) -> Val:
    """Emit the function of one tile.

    Its arguments: A, codes, scales, what zero points add, C, words of a column and of a block,
    strides of A's and C's rows, columns left, address and row stride of each operand.
    """

    def body(inner: Emitter, args: list[Val]) -> None:
        kind = WholeBlockSums if config.whole else BlockSums
        total = kind(inner, config, rows, args).emit()
        full = inner.b.icmp_signed(">=", args[9], i64(config.vectors * inner.lanes))
        with inner.b.if_else(full) as (then, otherwise):
            with then:
                _store(inner, epilogue, rows, args, total, None)
            with otherwise:
                masks = [
                    inner.lane_mask(inner.b.sub(args[9], i64(j * inner.lanes)))
                    for j in range(config.vectors)
                ]
                _store(inner, epilogue, rows, args, total, masks)

    return e.subroutine(f"tile{rows}", 10 + 2 * len(epilogue.modes), body)


def _store(
    e: Emitter,
    epilogue: Epilogue,
    rows: int,
    args: list[Val],
    total: list[Val],
    masks: list[Val] | None,
) -> None:
    """Store a tile, see :func:`_tile_function`."""
    out = [e.ptr(e.b.add(args[4], e.b.mul(args[8], i64(i)))) for i in range(rows)]
    store_rows(e, epilogue, out, total, args[10:], masks)
