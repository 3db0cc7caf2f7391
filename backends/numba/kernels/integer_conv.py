"""Convolutions of bytes over blocked images, with sums in 32 bits and any epilogue on the tile.

Four channels of a pixel are one lane (:mod:`lepton_ir.backends.numba.codegen.dot`). Around a plane
stands the zero point, so padding costs nothing, and what the zero point adds to a sum is the same
for all pixels: sums start without it. Channels of depthwise convolutions are not summed: there four
pixels side by side become the lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.codegen.dot import Dot, has_vnni
from lepton_ir.backends.numba.codegen.emitter import I8, I32, Emitter, Val, i64, vector
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.blocked import (
    BYTES,
    TYPES,
    blocks_of,
    new_blocked,
    plane_sizes,
    plane_strides,
    to_blocked,
)
from lepton_ir.backends.numba.kernels.depthwise import TiledRow, moved, store_tile
from lepton_ir.backends.numba.kernels.epilogue import Epilogue, translate_values
from lepton_ir.backends.numba.kernels.integer_weights import (
    in_fewer_groups,
    pack_byte_taps,
    pack_byte_windows,
    start_of_sums,
    without_zero,
)
from lepton_ir.backends.numba.kernels.pixels import as_one_row, to_quads, without_halo
from lepton_ir.backends.numba.kernels.quads import OFFSET, QUAD, quads_of
from lepton_ir.backends.numba.kernels.tiles import TileSums, tile_widths
from lepton_ir.backends.numba.kernels.window import Window, fill_for, halo_for, window_of
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from lepton_ir.backends.numba.codegen.expression import Expression
    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.plan import Array
    from lepton_ir.ir import Value

VECTORS = 2
"""Output blocks of a tile."""

_MAX_TAPS = 49
_SHORT_ROW = 28
"""Rows up to this length are joined where nothing stands between them."""


# -- lowering --------------------------------------------------------------------------------------


@lowers("conv_integer", tail=True)
def lower_conv_integer(lo: Lowering) -> None:
    """Lower ConvInteger with constant weights that are bytes without their zero points, too.

    Groups that are no whole blocks of channels are joined to some that are, zeros between them.
    """
    x, weights = lo.operand(0), lo.known(1)
    if x.dtype not in BYTES or weights is None:
        lo.decline("weights that are not constant, or no bytes")
    window = window_of(lo.anchor, x.shape[2:], weights.shape[2:])
    if window is None or min(p for pair in window.pads for p in pair) < 0:
        lo.decline("more than two axes, or negative padding")
    if lo.has(2) and lo.operand(2).size != 1:
        lo.decline("a zero point of several numbers")
    w_zero = lo.known(3) if lo.has(3) else np.zeros((), weights.dtype)
    if w_zero is None or without_zero(weights, w_zero) is None:
        lo.decline("zero points of weights that depend on data, or leave no bytes")
    group, channels, outputs = lo.anchor.attr("group"), x.shape[1], weights.shape[0]
    conv = _Conv(lo, window, x, w_zero)
    taps = window.kernel[0] * window.kernel[1]
    if group == channels == outputs and group > 1 and taps <= _MAX_TAPS:
        conv.depthwise()
    else:
        conv.direct(_fewer_groups(group, channels, outputs, lo.machine.lanes))


def _fewer_groups(group: int, channels: int, outputs: int, block: int) -> int:
    """Return the most groups that have whole blocks of channels when others are joined to them."""
    for fewer in range(group, 1, -1):
        if group % fewer == 0 and not (channels // fewer % block or outputs // fewer % block):
            return fewer
    return 1


class _Conv:
    """One convolution being lowered."""

    def __init__(self, lo: Lowering, window: Window, x: Tensor, w_zero: Array) -> None:
        self.lo = lo
        self.window = window
        self.zero: int | Ref = 0
        if lo.has(2):
            known = lo.known(2)
            self.zero = lo.plain(lo.operand(2)).ref if known is None else int(known.reshape(()))
        self.w_zero = w_zero
        self.x = x
        self.flip = x.dtype is BYTES[1]
        dtype, self.shape = lo.type()
        self.rank = len(self.shape) - 2
        self.halo = window.pads[2 - self.rank :]
        expression, values = translate_values(lo, "i32")
        if dtype not in TYPES:
            lo.decline(f"a blocked result of {dtype}")
        self.operands = [self._operand(v) for v in values]
        self.modes = "".join(mode for mode, _, _ in self.operands)
        self.expression: Expression = expression
        result = lo.op.results[0]
        halo, fill = halo_for(result, self.shape), fill_for(result)
        self.y = new_blocked(lo, self.shape, halo, dtype, fill)

    def _operand(self, value: Value) -> tuple[str, Ref, tuple[int, int, int, int]]:
        """Return an operand's mode, address and strides (N, C/block, rows, columns).

        Modes: ``c`` one value a channel, ``f`` one a pixel and channel, ``s`` one for all.
        """
        lo, block = self.lo, self.lo.machine.lanes
        t = lo.tensor(value)
        if t.size == 1:
            return "s", t.ref, (0, 0, 0, 0)
        if t.shape == self.shape:
            t = to_blocked(lo, t, ((0, 0),) * self.rank, t.blocked.fill if t.blocked else 0)
            return "f", t.ref, plane_strides(t)
        shape = (1,) * (len(self.shape) - len(t.shape)) + t.shape
        channels = self.shape[1]
        if shape[1] != channels or shape[0] != 1 or any(n != 1 for n in shape[2:]):
            lo.decline("an operand of the epilogue that is broadcast in another way")

        def pad(data: Array) -> Array:
            found = aligned_array((blocks_of(channels, block) * block,), data.dtype)
            found[:] = 0
            found[:channels] = data.reshape(-1)
            return found

        packed = lo.packed_value(value, ("channels", block, t.dtype.name), pad)
        if packed is None:
            lo.decline("an operand of one value a channel that is not constant")
        return "c", packed, (0, t.itemsize * block, 0, 0)

    def direct(self, group: int) -> None:
        """Add the kernel that sums over channels, those of so many groups apart."""
        lo, block = self.lo, self.lo.machine.lanes
        groups = lo.anchor.attr("group")

        def pack(w: Array) -> Array:
            w = in_fewer_groups(w, groups, group)
            return pack_byte_windows(w, block, lo.machine.lanes, VECTORS, group)

        if group == 1 and self.x.shape[1] <= QUAD:
            x, block = to_quads(lo, self.x, self.halo, self.zero), QUAD
        else:
            x = to_blocked(lo, self.x, self.halo, self.zero)
        weights = self._packed(("byte windows", block, lo.machine.lanes, groups, group), pack)
        channels, outputs = x.shape[1] // group, self.shape[1] // group
        y, operands = self._joined(x)
        if y is not self.y:
            x = as_one_row(x)
        tiles = tile_widths(y.shape[-1], _max_pixels(lo.machine))
        blocks = blocks_of(outputs, lo.machine.lanes)
        widths = tuple(sorted({2 if blocks > 1 else 1, 1 if blocks % 2 else 2}, reverse=True))
        config = Config(self.window, tuple(w for w, _ in tiles), widths, block, self.flip)
        args: list[int | Ref] = [self._first_pixel(x), weights, y.ref, self._start(), group]
        args += [quads_of(channels), blocks_of(channels, block), blocks, plane_sizes(y)[0]]
        args += [self.shape[0], *plane_strides(x)[:3], *plane_strides(y)[:3]]
        args += [count for _, count in tiles]
        for ref, s in operands:
            args += [ref, *s[:3]]
        lo.call(Kernel("integer_conv", (config, Epilogue(self.expression, self.modes))), *args)
        lo.set(self.y)

    def _joined(self, x: Tensor) -> tuple[Tensor, list[tuple[Ref, tuple[int, int, int, int]]]]:
        """Return result and operands, their short rows joined where all lie without gaps."""
        operands = [(ref, strides) for _, ref, strides in self.operands]
        plain = self.window.kernel == (1, 1) == self.window.strides and self.rank == 2
        if not plain or self.shape[-1] > _SHORT_ROW or self.shape[-2] == 1:
            return self.y, operands
        width = self.shape[-1]
        dense = all(
            mode != "f" or strides[2] == strides[3] * width for mode, _, strides in self.operands
        )
        if not dense or not without_halo(x) or not without_halo(self.y):
            return self.y, operands
        return as_one_row(self.y), operands

    def _first_pixel(self, x: Tensor) -> Ref:
        """Return the address of the pixel, in the halo perhaps, where the first window begins."""
        strides = plane_strides(x)
        top, left = (p[0] for p in self.window.pads)
        return Ref(x.ref.buffer, x.ref.offset - top * strides[2] - left * strides[3])

    def _packed(self, form: Hashable, pack: Callable[[Array], Array]) -> Ref:
        """Return the address of the weights, signed and without zero points, in another form."""
        zero = self.w_zero

        def make(w: Array) -> Array:
            moved = without_zero(w, zero)
            assert moved is not None
            return pack(moved)

        found = self.lo.packed(1, (form, zero.dtype.name, zero.tobytes()), make)
        assert found is not None
        return found

    def _start(self) -> Ref:
        """Return what sums start with, one number an output channel."""
        lo, lanes = self.lo, self.lo.machine.lanes
        zero = -1
        if isinstance(self.zero, int):
            zero = self.zero + (OFFSET if self.flip else 0)
        found = self._packed(("start", lanes, zero), lambda w: start_of_sums(w, zero, lanes))
        if isinstance(self.zero, int):
            return found
        blocks = blocks_of(self.shape[1], lanes)
        start = lo.scratch(4 * lanes * blocks)
        lo.call(Kernel("start_of_sums", (self.flip,)), self.zero, found, start, blocks)
        return start

    def depthwise(self) -> None:
        """Add the kernel for one input channel an output channel."""
        lo, block = self.lo, self.lo.machine.lanes
        x = to_blocked(lo, self.x, self.halo, self.zero)
        weights = self._packed(("byte taps", block), lambda w: pack_byte_taps(w, block))
        tiles = tile_widths(self.shape[-1], 8 if lo.machine.registers >= 32 else 4)
        rows = plane_sizes(self.y)[0]
        args: list[int | Ref] = [self._first_pixel(x), weights, self.y.ref, self._start()]
        args += [blocks_of(x.shape[1], block), rows, self.shape[0]]
        args += [*plane_strides(x)[:3], *plane_strides(self.y)[:3]]
        args += [count for _, count in tiles]
        for _, ref, s in self.operands:
            args += [ref, *s[:3]]
        widths = tuple(w for w, _ in tiles)
        epilogue = Epilogue(self.expression, self.modes)
        kernel = Kernel("integer_depthwise", (self.window, widths, self.flip, epilogue))
        lo.call(kernel, *args)
        lo.set(self.y)


def _max_pixels(machine: Machine) -> int:
    """Return how many pixels a tile may have: sums and prepared operands fit the registers."""
    parts = 1 if has_vnni(machine) else 2
    return (machine.registers - parts * (VECTORS + 1)) // VECTORS


# -- kernels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """What a kernel is specialised for.

    Attributes:
        window: the geometry; its padding does not matter here.
        tiles: pixels of its tiles.
        vectors: output blocks of its tiles, the usual number first.
        block: channels of a pixel of the input that lie side by side.
        flip: whether the input's bytes are signed.
    """

    window: Window
    tiles: tuple[int, ...]
    vectors: tuple[int, ...]
    block: int
    flip: bool


class _ByteSums(TileSums):
    """Accumulates one tile, four channels at a time."""

    def __init__(
        self, e: Emitter, config: Config, pixels: int, vectors: int, args: Sequence[Val]
    ) -> None:
        super().__init__(e, config.window, config.block // QUAD, pixels, vectors, args[:5])
        self.dot = Dot(e, config.flip)
        self.begin = e.ptr(args[5])

    def _start(self) -> list[Val]:
        e = self.e
        row = [e.load(self.begin, e.vec(I32), self.size * j) for j in range(self.vectors)]
        return row * self.pixels

    def _multiply(self, place: Val, weights: Val, number: int, sums: list[Val]) -> list[Val]:
        e, type_, dot = self.e, self.e.vec(I32), self.dot
        step = self.pixel * self.window.strides[1]
        sums = list(sums)
        for u in range(number):
            right = [
                dot.right(e.load(weights, type_, self.wide * u + self.size * j))
                for j in range(self.vectors)
            ]
            for i in range(self.pixels):
                left = dot.left(e.load(place, I32, step * i + QUAD * u))
                for j, r in enumerate(right):
                    n = i * self.vectors + j
                    sums[n] = dot.add(sums[n], left, r)
        return sums


@emits("start_of_sums")
def emit_start_of_sums(e: Emitter, flip: bool) -> None:
    """Emit what a zero point that depends on data takes from each sum.

    Arguments: addresses of the zero point, of the sums of weights and of the result, and blocks.
    """
    zero, sums, target, blocks = e.args(4)
    b, type_, size = e.b, e.vec(I32), 4 * e.lanes
    value = e.load(e.ptr(zero), I8)
    value = b.add(b.sext(value, I32), e.const(OFFSET, I32)) if flip else b.zext(value, I32)
    factor = e.splat(b.neg(value))
    first, last = e.share(blocks)

    def block(i: Val) -> None:
        place = b.mul(i, i64(size))
        found = b.mul(e.load(e.off(e.ptr(sums), place), type_), factor)
        e.store(found, e.off(e.ptr(target), place))

    e.each(last, block, start=first)


@emits("integer_conv")
def emit_integer_conv(e: Emitter, config: Config, epilogue: Epilogue) -> None:
    """Emit the loops over groups of output channels, rows and tiles."""
    fixed = 16 + len(config.tiles)
    args = e.args(fixed + 4 * len(epilogue.modes))
    x, w, y, start, groups, quads, inputs, blocks, rows, count, xn, xc, xr, yn, yc, yr = args[:16]
    operands = [args[fixed + 4 * i : fixed + 4 * i + 4] for i in range(len(epilogue.modes))]
    b, size, window = e.b, QUAD * e.lanes, config.window
    tiles = {
        v: [_direct_tile(e, config, epilogue, p, v) for p in config.tiles] for v in config.vectors
    }
    usual, narrow = config.vectors[0], config.vectors[-1]
    panels = e.ceil_div(blocks, usual)
    one_input = size * window.kernel[0] * window.kernel[1] * (config.block // QUAD)
    tiled = TiledRow(e, config.tiles, args[16:fixed], config.block * window.strides[1], epilogue)
    first, last = e.share(b.mul(b.mul(b.mul(count, groups), panels), rows))

    def item(number: Val) -> None:
        rest, row = e.divmod(number, rows)
        rest, panel = e.divmod(rest, panels)
        n, group = e.divmod(rest, groups)
        block = b.mul(panel, i64(usual))
        whole = b.add(b.mul(group, blocks), block)
        weights = b.add(w, b.mul(b.mul(inputs, whole), i64(one_input)))
        source = b.add(x, b.add(b.mul(n, xn), b.mul(row, b.mul(xr, i64(window.strides[0])))))
        source = b.add(source, b.mul(group, b.mul(inputs, xc)))
        at = (n, whole, row)
        target = moved(e, y, (yn, yc, yr), at)
        extra = [(moved(e, o[0], o[1:], at), o[2]) for o in operands]
        begin = b.add(start, b.mul(whole, i64(size)))
        rest_fixed = [quads, xc, xr, yc, begin]
        if narrow == usual:
            tiled.emit(tiles[usual], source, weights, target, rest_fixed, extra)
            return
        left = b.sub(blocks, block)
        with b.if_else(b.icmp_signed(">=", left, i64(usual))) as (then, otherwise):
            with then:
                tiled.emit(tiles[usual], source, weights, target, rest_fixed, extra)
            with otherwise:
                tiled.emit(tiles[narrow], source, weights, target, rest_fixed, extra)

    e.each(last, item, start=first)


def _direct_tile(e: Emitter, config: Config, epilogue: Epilogue, pixels: int, vectors: int) -> Val:
    """Emit the function of one tile.

    Its arguments: input, weights, output, quads of channels, strides of the input (channel block,
    row) and of the output (channel block), what sums start with, and address and channel stride of
    each operand.
    """

    def body(inner: Emitter, args: list[Val]) -> None:
        x, w, y, quads, xc, xr, yc, start = args[:8]
        sums = _ByteSums(inner, config, pixels, vectors, (x, w, quads, xc, xr, start)).emit()
        store_tile(inner, epilogue, pixels, vectors, sums, y, yc, args[8:])

    return e.subroutine(f"tile{pixels}x{vectors}", 8 + 2 * len(epilogue.modes), body)


@emits("integer_depthwise")
def emit_integer_depthwise(
    e: Emitter, window: Window, tiles: tuple[int, ...], flip: bool, epilogue: Epilogue
) -> None:
    """Emit a convolution of each channel with its own window."""
    fixed = 13 + len(tiles)
    args = e.args(fixed + 4 * len(epilogue.modes))
    x, w, y, start, blocks, rows, count, xn, xc, xr, yn, yc, yr = args[:13]
    operands = [args[fixed + 4 * i : fixed + 4 * i + 4] for i in range(len(epilogue.modes))]
    b, size = e.b, QUAD * e.lanes
    lanes_a_window = window.kernel[0] * quads_of(window.kernel[1])
    functions = [_depthwise_tile(e, window, flip, epilogue, p) for p in tiles]
    tiled = TiledRow(e, tiles, args[13:fixed], e.lanes * window.strides[1], epilogue)
    first, last = e.share(b.mul(b.mul(count, blocks), rows))
    step = b.mul(xr, i64(window.strides[0]))

    def item(number: Val) -> None:
        rest, row = e.divmod(number, rows)
        n, block = e.divmod(rest, blocks)
        at = (n, block, row)
        source = moved(e, x, (xn, xc, step), at)
        weights = b.add(w, b.mul(block, i64(size * lanes_a_window)))
        begin = b.add(start, b.mul(block, i64(size)))
        extra = [(moved(e, o[0], o[1:], at), o[2]) for o in operands]
        target = moved(e, y, (yn, yc, yr), at)
        tiled.emit(functions, source, weights, target, [xr, begin], extra)

    e.each(last, item, start=first)


def _depthwise_tile(e: Emitter, window: Window, flip: bool, epilogue: Epilogue, pixels: int) -> Val:
    """Emit the function of one tile: input, weights, output, row stride, start, operands."""

    def body(inner: Emitter, args: list[Val]) -> None:
        b, type_, size = inner.b, inner.vec(I32), QUAD * inner.lanes
        x, w, y, xr, start = args[:5]
        px, pw = inner.ptr(x), inner.ptr(w)
        dot = Dot(inner, flip)
        sums = [inner.load(inner.ptr(start), type_)] * pixels
        quads = quads_of(window.kernel[1])
        for r in range(window.kernel[0]):
            line = inner.off(px, b.mul(xr, i64(r * window.dilations[0])))
            loaded: dict[int, Sequence[Val]] = {}
            for q in range(quads):
                taps = dot.right(inner.load(pw, type_, size * (r * quads + q)))
                for i in range(pixels):
                    column = i * window.strides[1] + QUAD * q * window.dilations[1]
                    if column not in loaded:
                        place = inner.off(line, inner.lanes * column)
                        found = _four_pixels(inner, place, window.dilations[1])
                        loaded[column] = dot.left_vector(found)
                    sums[i] = dot.add(sums[i], loaded[column], taps)
        store_tile(inner, epilogue, pixels, 1, sums, y, i64(0), args[5:])

    return e.subroutine(f"tile{pixels}", 5 + 2 * len(epilogue.modes), body)


def _four_pixels(e: Emitter, place: Val, dilation: int) -> Val:
    """Return four pixels of a row, the bytes of each channel side by side in its lane."""
    from llvmlite import ir

    lanes = e.lanes
    if dilation == 1:
        whole = e.load(place, vector(I8, QUAD * lanes))
    else:
        parts = [e.load(place, e.vec(I8), lanes * dilation * t) for t in range(QUAD)]
        while len(parts) > 1:
            count = 2 * parts[0].type.count
            mask = ir.Constant(ir.VectorType(I32, count), list(range(count)))
            parts = [
                e.b.shuffle_vector(x, y, mask) for x, y in zip(parts[::2], parts[1::2], strict=True)
            ]
        whole = parts[0]
    order = [lanes * t + c for c in range(lanes) for t in range(QUAD)]
    mask = ir.Constant(ir.VectorType(I32, QUAD * lanes), order)
    return e.b.bitcast(e.b.shuffle_vector(whole, whole, mask), e.vec(I32))
