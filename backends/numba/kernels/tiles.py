"""Tiles of output pixels and channels, and the sums that stay in registers while they are made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.backends.numba.kernels.window import Window
    from lepton_ir.backends.numba.machine import Machine

CHANNEL_UNROLL = 4

LONG_SUM = 128
"""Products of a sum that is cut, or those of one block of channels."""


def max_pixels(machine: Machine, vectors: int) -> int:
    """Return how many pixels a tile may have: accumulators, weights and one input fit."""
    return (machine.registers - vectors - 1) // vectors


def tile_widths(columns: int, limit: int) -> list[tuple[int, int]]:
    """Return (pixels, number of tiles) that cover a row evenly: one or two widths."""
    count = -(-columns // limit)
    base, larger = divmod(columns, count)
    found = [(base + 1, larger)] if larger else []
    return [*found, (base, count - larger)]


def cut_sum(
    e: Emitter, stop: Val, length: int, chunk: Callable[[Val, Val], list[Val]]
) -> list[Val]:
    """Emit sums over ``range(stop)`` as sums of those of chunks.

    Rounding errors of one long chain grow with its length, those of chunks with theirs.

    Args:
        e: the emitter.
        stop: number of steps.
        length: steps of a chunk.
        chunk: emits the sums over the steps from its first argument to its second.
    """

    def more(start: Val, totals: list[Val]) -> list[Val]:
        sums = chunk(start, e.minimum(e.b.add(start, i64(length)), stop))
        return [e.b.fadd(t, s) for t, s in zip(totals, sums, strict=True)]

    first = chunk(i64(0), e.minimum(i64(length), stop))
    return e.loop(stop, first, more, start=i64(length), step=length)


class TileSums:
    """Accumulates one tile over input channels and the window.

    Args:
        e: the emitter.
        window: the geometry; its padding does not matter here.
        block: channels of a block of the input; 0 when its channels are planes.
        pixels: of the tile.
        vectors: output blocks of the tile.
        args: addresses of input and weights, number of channels, strides of the input along
            channels (or their blocks) and rows.
        cut: whether a long sum over blocks is made of shorter ones.
    """

    def __init__(
        self,
        e: Emitter,
        window: Window,
        block: int,
        pixels: int,
        vectors: int,
        args: Sequence[Val],
        cut: bool = False,
    ) -> None:
        self.e = e
        self.window = window
        self.block = block
        self.pixels = pixels
        self.vectors = vectors
        self.cut = cut
        self.x, self.w, self.channels, self.xc, self.xr = args
        self.size = 4 * e.lanes
        self.pixel = 4 * max(block, 1)
        self.wide = self.size * vectors  # bytes of weights for one input channel of one tap
        self.tap = self.wide * max(block, 1)

    def emit(self) -> list[Val]:
        """Emit the loops; return the sums, pixel by pixel."""
        e, per_block = self.e, max(self.block, 1)
        inputs = e.ceil_div(self.channels, per_block)
        px, pw = e.ptr(self.x), e.ptr(self.w)
        taps = self.window.kernel[0] * self.window.kernel[1]

        def block(c: Val, sums: list[Val]) -> Sequence[Val]:
            source = e.off(px, e.b.mul(c, self.xc))
            weights = e.off(pw, e.b.mul(c, i64(self.tap * taps)))
            left = e.b.sub(self.channels, e.b.mul(c, i64(per_block)))
            return self._rows(source, weights, e.minimum(left, i64(per_block)), sums)

        if not self.cut or taps * per_block >= 2 * LONG_SUM:
            return e.loop(inputs, self._start(), block)

        def chunk(c: Val, end: Val) -> list[Val]:
            return e.loop(end, self._start(), block, start=c)

        return cut_sum(e, inputs, max(1, LONG_SUM // (per_block * taps)), chunk)

    def _start(self) -> list[Val]:
        return [self.e.zero(self.e.vec(F32))] * (self.pixels * self.vectors)

    def _rows(self, source: Val, weights: Val, here: Val, sums: list[Val]) -> Sequence[Val]:
        e, rows = self.e, self.window.kernel[0]

        def row(r: Val, sums: list[Val]) -> Sequence[Val]:
            line = e.off(source, e.b.mul(r, e.b.mul(self.xr, i64(self.window.dilations[0]))))
            part = e.off(weights, e.b.mul(r, i64(self.tap * self.window.kernel[1])))
            visit = self._columns if self.block > 1 else self._taps
            return visit(line, part, here, sums)

        if rows == 1:
            return row(i64(0), sums)
        per_row = self.window.kernel[1] * max(self.block, 1)
        if not self.cut or per_row * rows < 2 * LONG_SUM:
            return e.loop(i64(rows), sums, row)

        def chunk(r: Val, end: Val) -> list[Val]:
            return e.loop(end, self._start(), row, start=r)

        part = cut_sum(e, i64(rows), max(1, LONG_SUM // per_row), chunk)
        return [e.b.fadd(s, p) for s, p in zip(sums, part, strict=True)]

    def _taps(self, line: Val, part: Val, _: Val, sums: list[Val]) -> Sequence[Val]:
        """Add the products of a row of the window in one plane of the input.

        Taps that read the same elements for different pixels stand in different turns of the loop:
        elements that are loaded once for both would take the registers of the sums.
        """
        e, columns, dilation = self.e, self.window.kernel[1], self.window.dilations[1]
        apart = self.window.strides[1] // math.gcd(self.window.strides[1], dilation)

        def taps(number: int) -> Callable[[Val, list[Val]], list[Val]]:
            def visit(k: Val, sums: list[Val]) -> list[Val]:
                place = e.off(line, e.b.mul(k, i64(self.pixel * dilation)))
                weights = e.off(part, e.b.mul(k, i64(self.tap)))
                for u in range(number):
                    at = e.off(place, self.pixel * dilation * u)
                    sums = self._multiply(at, e.off(weights, self.tap * u), 1, sums)
                return sums

            return visit

        whole = columns - columns % apart
        sums = e.loop(i64(whole), sums, taps(apart), step=apart)
        rest = columns - whole
        return taps(rest)(i64(whole), sums) if rest else sums

    def _columns(self, line: Val, part: Val, here: Val, sums: list[Val]) -> Sequence[Val]:
        e, columns = self.e, self.window.kernel[1]
        step = self.pixel * self.window.dilations[1]

        def column(k: Val, sums: list[Val]) -> Sequence[Val]:
            place = e.off(line, e.b.mul(k, i64(step)))
            chosen = e.off(part, e.b.mul(k, i64(self.tap)))

            def channels(number: int) -> Callable[[Val, list[Val]], list[Val]]:
                def visit(c: Val, sums: list[Val]) -> list[Val]:
                    at = e.off(place, e.b.shl(c, i64(2)))
                    weights = e.off(chosen, e.b.mul(c, i64(self.wide)))
                    return self._multiply(at, weights, number, sums)

                return visit

            whole = e.b.and_(here, i64(-CHANNEL_UNROLL))
            sums = e.loop(whole, sums, channels(CHANNEL_UNROLL), step=CHANNEL_UNROLL)
            return e.loop(here, sums, channels(1), start=whole)

        return column(i64(0), sums) if columns == 1 else e.loop(i64(columns), sums, column)

    def _multiply(self, place: Val, weights: Val, number: int, sums: list[Val]) -> list[Val]:
        """Add the products of ``number`` input channels of one tap."""
        e, type_ = self.e, self.e.vec(F32)
        step = self.pixel * self.window.strides[1]
        sums = list(sums)
        for u in range(number):
            right = [
                e.load(weights, type_, self.wide * u + self.size * j) for j in range(self.vectors)
            ]
            for i in range(self.pixels):
                left = e.splat(e.load(place, F32, step * i + 4 * u))
                for j, r in enumerate(right):
                    n = i * self.vectors + j
                    sums[n] = e.fma(left, r, sums[n])
        return sums
