"""Sums of products with weights of few bits: in floats, or in integers block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from lepton_ir.backends.numba.codegen import math as vmath
from lepton_ir.backends.numba.codegen.dot import Dot
from lepton_ir.backends.numba.codegen.emitter import F32, I8, I32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import emits

FEW_ROWS = 2
"""Up to so many rows each block has sums of its own, which are scaled once."""

AHEAD = 4096
"""Bytes of codes that are asked for before they are needed."""

WORD = 32
"""Bits of a lane."""


@dataclass(frozen=True)
class Config:
    """What a kernel is specialised for.

    Attributes:
        rows: heights of tiles, the usual one first, then that of the last tile.
        vectors: vectors of a tile's row.
        bits: of a code.
        zeros: whether blocks have zero points besides the middle.
        once: whether a panel is made floats once for all rows, instead of for each tile.
        whole: whether A is in 8 bits.
    """

    rows: tuple[int, ...]
    vectors: int
    bits: int
    zeros: bool
    once: bool
    whole: bool

    @property
    def codes(self) -> int:
        """Codes of a lane."""
        return WORD // self.bits


class BlockSums:
    """Accumulates one tile, block by block."""

    def __init__(self, e: Emitter, config: Config, rows: int, args: list[Val]) -> None:
        self.e = e
        self.config = config
        self.rows = rows
        self.words, self.per_block, a_row = args[5:8]
        self.pointers = [e.ptr(e.b.add(args[0], e.b.mul(a_row, i64(i)))) for i in range(rows)]
        self.codes, self.scales, self.shifts = (e.ptr(v) for v in args[1:4])
        self.apart = rows <= FEW_ROWS and not config.zeros
        self.size = 4 * e.lanes
        self.wide = self.size * config.vectors
        self.table = _table(e, config.bits)

    def emit(self) -> list[Val]:
        """Emit the loop over blocks; return the sums, row by row."""
        e, b = self.e, self.e.b
        zero = [e.zero(e.vec(F32))] * (self.rows * self.config.vectors)
        blocks = b.sdiv(b.add(self.words, b.sub(self.per_block, i64(1))), self.per_block)

        def block(k: Val, totals: list[Val]) -> list[Val]:
            first = b.mul(k, self.per_block)
            last = e.minimum(b.add(first, self.per_block), self.words)
            scale = self._row(self.scales, k)
            if not self.apart:
                shift = self._row(self.shifts, k) if self.config.zeros else None
                return e.loop(last, totals, self._word(scale, shift), start=first)
            sums = e.loop(last, zero, self._word(None, None), start=first)
            wide = scale * self.rows
            return [e.fma(s, w, t) for s, w, t in zip(sums, wide, totals, strict=True)]

        return e.loop(blocks, zero, block)

    def write(self, target: Val) -> None:
        """Emit the loop over blocks; store the weights as floats, row by row."""
        e, b, codes = self.e, self.e.b, self.config.codes
        blocks = b.sdiv(b.add(self.words, b.sub(self.per_block, i64(1))), self.per_block)

        def block(k: Val) -> None:
            first = b.mul(k, self.per_block)
            last = e.minimum(b.add(first, self.per_block), self.words)
            scale = self._row(self.scales, k)
            shift = self._row(self.shifts, k) if self.config.zeros else None

            def word(d: Val) -> None:
                place = e.off(self.codes, b.mul(d, i64(self.wide)))
                goal = e.off(target, b.mul(d, i64(self.wide * codes)))
                for j in range(self.config.vectors):
                    loaded = e.load(place, e.vec(I32), self.size * j)
                    for q in range(codes):
                        value = self._weight(loaded, q, scale[j], shift[j] if shift else None)
                        e.store(value, goal, self.wide * q + self.size * j)

            e.each(last, word, start=first)

        e.each(blocks, block)

    def _row(self, pointer: Val, k: Val) -> list[Val]:
        e = self.e
        place = e.off(pointer, e.b.mul(k, i64(self.wide)))
        return [e.load(place, e.vec(F32), self.size * j) for j in range(self.config.vectors)]

    def _word(self, scale: list[Val] | None, shift: list[Val] | None) -> Any:
        """Return the body of the loop over words of a block."""
        e, vectors, codes = self.e, self.config.vectors, self.config.codes

        def body(d: Val, sums: list[Val]) -> list[Val]:
            place = e.off(self.codes, e.b.mul(d, i64(self.wide)))
            loaded = []
            for j in range(vectors):
                if self.rows <= FEW_ROWS:
                    e.prefetch(place, self.size * j + AHEAD)
                loaded.append(e.load(place, e.vec(I32), self.size * j))
            sums = list(sums)
            start = e.b.mul(d, i64(4 * codes))
            lines = [e.off(p, start) for p in self.pointers]
            for q in range(codes):
                right = [
                    self._weight(v, q, scale[j] if scale else None, shift[j] if shift else None)
                    for j, v in enumerate(loaded)
                ]
                for i, line in enumerate(lines):
                    left = e.splat(e.load(line, F32, 4 * q))
                    for j, w in enumerate(right):
                        n = i * vectors + j
                        sums[n] = e.fma(left, w, sums[n])
            return sums

        return body

    def _weight(self, word: Val, q: int, scale: Val, shift: Val) -> Val:
        """Return a code of every lane as a float, scaled and shifted where asked for."""
        e, bits, ints = self.e, self.config.bits, self.e.vec(I32)
        if self.table is not None:
            moved = e.b.lshr(word, e.const(bits * q, ints)) if q else word
            name = "llvm.x86.avx512.permvar.sf.512"
            value = e.intrinsic(name, self.table.type, [self.table, moved])
        else:
            up = WORD - bits * (q + 1)
            high = e.b.shl(word, e.const(up, ints)) if up else word
            value = e.b.sitofp(e.b.ashr(high, e.const(WORD - bits, ints)), e.vec(F32))
        if scale is None:
            return value
        return e.b.fmul(value, scale) if shift is None else e.fma(value, scale, shift)


class WholeBlockSums(BlockSums):
    """Accumulates one tile in integers, block by block."""

    def emit(self) -> list[Val]:
        """Emit the loop over blocks; return the sums, row by row."""
        e, b, vectors = self.e, self.e.b, self.config.vectors
        zero = [e.zero(e.vec(F32))] * (self.rows * vectors)
        blocks = b.sdiv(self.words, self.per_block)
        behind = b.mul(self.words, i64(self.config.codes))
        scales = [e.off(p, behind) for p in self.pointers]
        sums = [e.off(p, b.mul(blocks, i64(4))) for p in scales]
        middle = 1 << (self.config.bits - 1)

        def block(k: Val, totals: list[Val]) -> list[Val]:
            at, first = b.shl(k, i64(2)), b.mul(k, self.per_block)
            total_of = [e.load(e.off(p, at), I32) for p in sums]
            less = [b.mul(t, ir.Constant(I32, -middle)) for t in total_of]
            start = [v for t in less for v in [e.splat(t)] * vectors]
            found = e.loop(b.add(first, self.per_block), start, self._dots(), start=first)
            columns = self._row(self.scales, k)
            shifts = self._row(self.shifts, k) if self.config.zeros else []
            made = []
            for i in range(self.rows):
                scale = e.load(e.off(scales[i], at), F32)
                wide = e.splat(scale)
                moved = e.splat(b.fmul(scale, b.sitofp(total_of[i], F32))) if shifts else None
                for j in range(vectors):
                    n = i * vectors + j
                    value = b.fmul(b.sitofp(found[n], e.vec(F32)), wide)
                    total = e.fma(value, columns[j], totals[n])
                    made.append(e.fma(moved, shifts[j], total) if shifts else total)
            return made

        return e.loop(blocks, zero, block)

    def _dots(self) -> Any:
        """Return the body of the loop over words of a block."""
        e, b, config = self.e, self.e.b, self.config
        dot, ints = Dot(e), e.vec(I32)
        mask = sum(((1 << config.bits) - 1) << (8 * i) for i in range(4))

        def body(d: Val, sums: list[Val]) -> list[Val]:
            place = e.off(self.codes, b.mul(d, i64(self.wide)))
            words = []
            for j in range(config.vectors):
                if self.rows <= FEW_ROWS:
                    e.prefetch(place, self.size * j + AHEAD)
                words.append(e.load(place, ints, self.size * j))
            sums, at = list(sums), b.mul(d, i64(config.codes))
            for t in range(config.codes // 4):
                left = []
                for word in words:
                    moved = b.lshr(word, e.const(config.bits * t, ints)) if t else word
                    if config.bits < 8:
                        moved = b.and_(moved, e.const(mask, ints))
                    left.append(dot.left_vector(moved))
                for i, pointer in enumerate(self.pointers):
                    right = dot.right(e.splat(e.load(e.off(pointer, at), I32, 4 * t)))
                    for j, codes in enumerate(left):
                        n = i * config.vectors + j
                        sums[n] = dot.add(sums[n], codes, right)
            return sums

        return body


@emits("quantize_blocks")
def emit_quantize_blocks(e: Emitter, bits: int) -> None:
    """Emit the quantization of rows to bytes, block by block, in the order of the codes' lanes."""
    a, out, rows, blocks, block, a_row, out_row = e.args(7)
    b, lanes, type_ = e.b, e.lanes, e.vec(F32)
    first, last = e.share(b.mul(rows, blocks))
    apart = 8 // bits
    group = 4 * apart
    order: list[int] = []
    for start in range(0, lanes, group):
        order += [start + byte * apart + t for t in range(apart) for byte in range(4)]
    mask = ir.Constant(ir.VectorType(I32, lanes), order)

    def one(number: Val) -> None:
        m, k = e.divmod(number, blocks)
        begin = b.mul(k, block)
        source = e.ptr(b.add(b.add(a, b.mul(m, a_row)), b.shl(begin, i64(2))))
        line = b.add(out, b.mul(m, out_row))
        target = e.ptr(b.add(line, begin))

        def reach(i: Val, state: list[Val]) -> list[Val]:
            x = e.unary("fabs", e.load(e.off(source, b.shl(i, i64(2))), type_))
            return [vmath.maximum(e, state[0], x)]

        (top,) = e.loop(block, [e.zero(type_)], reach, step=lanes)
        largest = e.reduce_lanes(top, lambda x, y: vmath.maximum(e, x, y))
        levels = e.const(127.0, F32)
        positive = b.fcmp_ordered(">", largest, e.zero(F32))
        inverse = e.splat(b.select(positive, b.fdiv(levels, largest), e.zero(F32)))

        def codes(i: Val, state: list[Val]) -> list[Val]:
            x = b.fmul(e.load(e.off(source, b.shl(i, i64(2))), type_), inverse)
            whole = b.fptosi(e.unary("rint", x), e.vec(I32))
            narrow = b.trunc(whole, e.vec(I8))
            e.store(b.shuffle_vector(narrow, narrow, mask), e.off(target, i))
            return [b.add(state[0], whole)]

        (total,) = e.loop(block, [e.zero(e.vec(I32))], codes, step=lanes)
        behind = e.ptr(b.add(line, b.mul(blocks, block)))
        place = e.off(behind, b.shl(k, i64(2)))
        e.store(b.fdiv(largest, levels), place)
        e.store(e.reduce_lanes(total, b.add), e.off(place, b.shl(blocks, i64(2))))

    e.each(last, one, start=first)


def _table(e: Emitter, bits: int) -> Val:
    """Return the values of all codes as a vector where one instruction looks them up."""
    if bits == 8 or e.lanes != 16 or not e.machine.has("avx512f"):
        return None
    half = 1 << (bits - 1)
    values = [(i + half) % (2 * half) - half for i in range(16)]
    return ir.Constant(ir.VectorType(F32, 16), [ir.Constant(F32, float(v)) for v in values])
