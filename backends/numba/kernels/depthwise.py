"""Depthwise convolutions, and how tiles of pixels are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llvmlite import ir

from lepton_ir.backends.numba.codegen.emitter import F32, I32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import emits
from lepton_ir.backends.numba.kernels.elementwise import itemsize
from lepton_ir.backends.numba.kernels.epilogue import Epilogue, emit_tile_row, with_scalars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.kernels.window import Window


MAX_UNROLLED = 49
"""Products of a pixel that are all unrolled; larger windows are walked row by row."""


def store_tile(
    e: Emitter,
    epilogue: Epilogue,
    pixels: int,
    vectors: int,
    sums: list[Val],
    target: Val,
    stride: Val,
    extra: Sequence[Val],
    spread: int = 1,
) -> None:
    """Apply the epilogue to a tile and store it.

    Args:
        e: the emitter.
        epilogue: its modes are ``c``, ``f`` and ``s``.
        pixels: of the tile.
        vectors: output blocks of the tile.
        sums: the tile, pixel by pixel.
        target: address of its first pixel.
        stride: bytes from one output block to the next.
        extra: address and stride of each operand.
        spread: pixels of the result from one pixel of the tile to the next.
    """
    b, size = e.b, itemsize(epilogue.result) * e.lanes * spread
    sizes = [itemsize(d) * e.lanes * spread for d in epilogue.expression.inputs[1:]]
    simple = Epilogue(epilogue.expression, epilogue.modes.replace("c", "v").replace("f", "v"))
    fixed = with_scalars(e, epilogue, [e.ptr(p) for p in extra[::2]])
    for j in range(vectors):
        out = e.ptr(b.add(target, b.mul(stride, i64(j))))
        pointers = [
            p if mode == "s" else e.off(p, b.mul(step, i64(j)))
            for p, step, mode in zip(fixed, extra[1::2], epilogue.modes, strict=True)
        ]
        for i in range(pixels):
            moved = [
                e.off(p, step * i) if mode == "f" else p
                for p, step, mode in zip(pointers, sizes, epilogue.modes, strict=True)
            ]
            found = emit_tile_row(e, simple, sums[i * vectors + j], moved, 0)
            e.store(found, out, size * i)


def moved(e: Emitter, base: Val, strides: Sequence[Val], at: Sequence[Val]) -> Val:
    """Return an address moved to an image, a block of channels and a row."""
    for stride, index in zip(strides, at, strict=True):
        base = e.b.add(base, e.b.mul(index, stride))
    return base


class TiledRow:
    """Calls the tiles that cover one row of pixels.

    Args:
        e: the emitter.
        tiles: pixels of each kind of tile.
        numbers: how many there are of each, one kind after the other.
        step: bytes of the input from one output pixel to the next.
        epilogue: its operands of mode ``f`` run along the pixels.
        spread: pixels of the result from one pixel of a tile to the next.
    """

    def __init__(
        self,
        e: Emitter,
        tiles: Sequence[int],
        numbers: Sequence[Val],
        step: int,
        epilogue: Epilogue,
        spread: int = 1,
    ) -> None:
        self.e = e
        self.spread = spread
        self.tiles = tiles
        self.numbers = numbers
        self.step = step
        self.epilogue = epilogue

    def emit(
        self,
        functions: Sequence[Val],
        source: Val,
        weights: Val,
        target: Val,
        fixed: Sequence[Val],
        operands: Sequence[tuple[Val, Val]],
    ) -> None:
        """Emit the calls: ``function(input, weights, output, *fixed, *operands)``."""
        b, lanes, modes = self.e.b, self.e.lanes * self.spread, self.epilogue.modes
        size = itemsize(self.epilogue.result) * lanes
        sizes = [itemsize(d) * lanes for d in self.epilogue.expression.inputs[1:]]
        start = i64(0)
        for pixels, number, function in zip(self.tiles, self.numbers, functions, strict=True):

            def call(
                t: Val, pixels: int = pixels, start: Val = start, function: Val = function
            ) -> None:
                at = b.add(start, b.mul(t, i64(pixels)))
                extra = [
                    v
                    for (place, stride), n, mode in zip(operands, sizes, modes, strict=True)
                    for v in (b.add(place, b.mul(at, i64(n))) if mode == "f" else place, stride)
                ]
                here = b.add(source, b.mul(at, i64(self.step)))
                goal = b.add(target, b.mul(at, i64(size)))
                b.call(function, [here, weights, goal, *fixed, *extra])

            self.e.each(number, call)
            start = b.add(start, b.mul(number, i64(pixels)))


@dataclass(frozen=True)
class Depthwise:
    """What a depthwise kernel is specialised for.

    Attributes:
        window: the geometry; its padding does not matter here.
        inputs: input channels of a group.
        multiplier: output channels for each of them; whole groups stand in a block of outputs.
        tiles: pixels of its tiles.
    """

    window: Window
    inputs: int
    multiplier: int
    tiles: tuple[int, ...]


@emits("depthwise")
def emit_depthwise(e: Emitter, config: Depthwise, epilogue: Epilogue) -> None:
    """Emit a convolution of small groups of channels."""
    tiles, window = config.tiles, config.window
    fixed = 12 + len(tiles)
    args = e.args(fixed + 4 * len(epilogue.modes))
    x, w, y, blocks, rows, count, xn, xc, xr, yn, yc, yr = args[:12]
    operands = [args[fixed + 4 * i : fixed + 4 * i + 4] for i in range(len(epilogue.modes))]
    b, size = e.b, 4 * e.lanes
    taps = window.kernel[0] * window.kernel[1] * config.inputs
    functions = [_depthwise_tile(e, config, epilogue, p) for p in tiles]
    tiled = TiledRow(e, tiles, args[12:fixed], size * window.strides[1], epilogue)
    first, last = e.share(b.mul(b.mul(count, blocks), rows))
    step = b.mul(xr, i64(window.strides[0]))

    def item(number: Val) -> None:
        rest, row = e.divmod(number, rows)
        n, block = e.divmod(rest, blocks)
        at = (n, block, row)
        before, part = e.divmod(block, i64(config.multiplier))
        source = moved(e, x, (xn, xc, step), (n, before, row))
        source = b.add(source, b.mul(part, i64(size // config.multiplier)))
        weights = b.add(w, b.mul(block, i64(size * taps)))
        extra = [(moved(e, o[0], o[1:], at), o[2]) for o in operands]
        tiled.emit(functions, source, weights, moved(e, y, (yn, yc, yr), at), [xr], extra)

    e.each(last, item, start=first)


def _depthwise_tile(e: Emitter, config: Depthwise, epilogue: Epilogue, pixels: int) -> Val:
    """Emit the function of one tile: input, weights, output, row stride, operands."""
    window = config.window

    def body(inner: Emitter, args: list[Val]) -> None:
        b, size = inner.b, 4 * inner.lanes
        x, w, y, xr = args[:4]
        px, pw = inner.ptr(x), inner.ptr(w)
        step = b.mul(xr, i64(window.dilations[0]))
        row_bytes = size * config.inputs * window.kernel[1]

        def row(r: Val, sums: list[Val]) -> list[Val]:
            line = inner.off(px, b.mul(step, r))
            taps = inner.off(pw, b.mul(r, i64(row_bytes)))
            return _depthwise_row(inner, config, line, taps, sums)

        sums = [inner.zero(inner.vec(F32))] * pixels
        if window.kernel[0] * window.kernel[1] * config.inputs > MAX_UNROLLED:
            sums = inner.loop(i64(window.kernel[0]), sums, row)
        else:
            for r in range(window.kernel[0]):
                sums = row(i64(r), sums)
        store_tile(inner, epilogue, pixels, 1, sums, y, i64(0), args[4:])

    return e.subroutine(f"tile{pixels}", 4 + 2 * len(epilogue.modes), body)


def _depthwise_row(
    e: Emitter, config: Depthwise, line: Val, taps: Val, sums: list[Val]
) -> list[Val]:
    """Add the products of one row of the window."""
    size, window = 4 * e.lanes, config.window
    read = e.vec(F32, e.lanes // config.multiplier)
    loaded: dict[int, Val] = {}
    sums = list(sums)
    for source in range(config.inputs):
        spread: dict[int, Val] = {}
        for k in range(window.kernel[1]):
            tap = e.load(taps, e.vec(F32), size * (k * config.inputs + source))
            for i in range(len(sums)):
                column = i * window.strides[1] + k * window.dilations[1]
                if column not in loaded:
                    loaded[column] = e.load(line, read, size * column)
                if column not in spread:
                    spread[column] = _of_group(e, loaded[column], config, source)
                sums[i] = e.fma(spread[column], tap, sums[i])
    return sums


def _of_group(e: Emitter, value: Val, config: Depthwise, source: int) -> Val:
    """Return in each lane of the outputs channel ``source`` of the lane's group."""
    if config.inputs == config.multiplier == 1:
        return value
    outputs = config.inputs * config.multiplier
    if config.multiplier == e.lanes:
        return e.splat(value)
    lanes = [lane // outputs * config.inputs + source for lane in range(e.lanes)]
    return e.b.shuffle_vector(value, value, ir.Constant(ir.VectorType(I32, e.lanes), lanes))
