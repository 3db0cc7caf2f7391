"""Convolutions in f32 over blocked images: direct, depthwise, and the first one of a network.

Tiles of output pixels and output channels stay in registers while input channels and the window are
walked. Padding is the input's halo. The epilogue (bias, activation, residual sum) is applied before
the tile is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import Step
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.blocked import (
    Halo,
    blocks_of,
    new_blocked,
    plane_sizes,
    plane_strides,
    to_blocked,
)
from lepton_ir.backends.numba.kernels.elementwise import Translation
from lepton_ir.backends.numba.kernels.epilogue import Epilogue, emit_tile_row
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.plan import Array
    from lepton_ir.ir import Op, Value

MAX_UNROLLED = 49
"""Window elements of a depthwise kernel, which are all unrolled."""

FEW_CHANNELS = 4
"""Up to so many input channels, a plain image is read instead of a blocked one."""

CHANNEL_UNROLL = 4


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution or pooling, always with two axes.

    Attributes:
        kernel: rows and columns of the window.
        strides: steps.
        dilations: distances of its elements.
        pads: zeros before and after, by axis.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]


def window_of(op: Op, sizes: Sequence[int], kernel: Sequence[int]) -> Window | None:
    """Return the geometry of an operation on an image of ``sizes``; ``None`` for 3-D ones."""
    rank = len(sizes)
    if rank not in (1, 2) or len(kernel) != rank:
        return None
    strides = tuple(op.attr("strides") or (1,) * rank)
    dilations = tuple(op.attr("dilations") or (1,) * rank)
    pads = _pads(op, sizes, kernel, strides, dilations)
    if rank == 1:
        pairs = ((0, 0), pads[0])
        return Window((1, kernel[0]), (1, strides[0]), (1, dilations[0]), pairs)
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1]),
    )


def _pads(
    op: Op,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    rank = len(sizes)
    auto = op.attr("auto_pad")
    if auto in ("NOTSET", ""):
        given = op.attr("pads") or (0,) * (2 * rank)
        return [(given[i], given[i + rank]) for i in range(rank)]
    if auto == "VALID":
        return [(0, 0)] * rank
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return found


def halo_for(value: Value, shape: Sequence[int]) -> Halo:
    """Return the halo that the convolutions which read ``value`` want around it."""
    rank = len(shape) - 2
    found = [(0, 0)] * rank
    for use in value.uses:
        op = use.op
        if op.name != "conv" or use.index != 0 or op.operands[1] is None:
            continue
        kernel = op.operands[1].shape
        if kernel is None or len(kernel) != rank + 2:
            continue
        if any(not isinstance(k, int) for k in kernel[2:]):
            continue
        window = window_of(op, shape[2:], [k for k in kernel[2:] if isinstance(k, int)])
        if window is not None:
            pads = window.pads[2 - rank :]
            found = [(max(a, c), max(b, d)) for (a, b), (c, d) in zip(found, pads, strict=True)]
    return tuple(found)


# -- lowering --------------------------------------------------------------------------------------


@lowers("conv", tail=True)
def lower_conv(lo: Lowering) -> None:
    """Lower Conv with constant weights over one or two axes."""
    x, weights = lo.operand(0), lo.known(1)
    if x.dtype is not dtypes.F32 or weights is None:
        lo.decline("weights that are not constant, or not f32")
    window = window_of(lo.anchor, x.shape[2:], weights.shape[2:])
    if window is None:
        lo.decline("more than two axes")
    if min(p for pair in window.pads for p in pair) < 0:
        lo.decline("negative padding")
    group = lo.anchor.attr("group")
    channels, outputs = x.shape[1], weights.shape[0]
    block = lo.machine.lanes
    expression, operands = _translate(lo)
    if group == channels == outputs and group > 1:
        if window.kernel[0] * window.kernel[1] > MAX_UNROLLED:
            lo.decline("a large depthwise window")
        _Conv(lo, window, expression, operands).depthwise(x)
    elif group == 1 and channels <= FEW_CHANNELS:
        _Conv(lo, window, expression, operands).plain(x)
    elif group == 1 or not (channels // group % block or outputs // group % block):
        _Conv(lo, window, expression, operands).direct(x, group)
    else:
        lo.decline("groups that are no whole blocks of channels")


@dataclass(frozen=True)
class _Operand:
    """An operand of the epilogue: a tensor, or the bias, which runs along the channels."""

    value: Value
    is_bias: bool


def _translate(lo: Lowering) -> tuple[Any, list[_Operand]]:
    """Translate the tail, the bias in front of it."""
    translation = Translation(lo)
    anchor = lo.anchor.results[0]
    number = translation.input(anchor, "f32")
    bias = lo.anchor.operands[2] if lo.has(2) else None
    if bias is not None:
        added = translation.input(bias)
        number = translation.step(Step("add", "f32", (number, added)))
        translation.define(anchor, number)
    for op in lo.tail:
        number = translation.add(op)
    if any(t != "f32" for t in translation.inputs):
        lo.decline("operands of an epilogue that are not f32")
    leaves = [_Operand(v, v is bias) for v in translation.leaves[1:]]
    expression = translation.finish([number])
    if expression.output_types[0] != "f32":
        lo.decline("a result that is not f32")
    return expression, leaves


class _Conv:
    """One convolution being lowered."""

    def __init__(
        self, lo: Lowering, window: Window, expression: Any, operands: list[_Operand]
    ) -> None:
        self.lo = lo
        self.window = window
        _, shape = lo.type()
        self.shape = shape
        self.rank = len(shape) - 2
        self.halo: Halo = window.pads[2 - self.rank :]
        found = [self._operand(o) for o in operands]
        self.epilogue = Epilogue(expression, "".join(mode for mode, _, _ in found))
        self.operands = found
        self.y = new_blocked(lo, shape, halo_for(lo.op.results[0], shape))

    def _operand(self, operand: _Operand) -> tuple[str, Ref, tuple[int, int, int, int]]:
        """Return an operand's mode, address and strides (N, C/block, rows, columns).

        Modes: ``c`` one value a channel, ``f`` one a pixel and channel, ``s`` one for all.
        """
        lo, block = self.lo, self.lo.machine.lanes
        channels = self.shape[1]
        if operand.is_bias:
            return "c", self._channels(operand.value, channels), (0, 4 * block, 0, 0)
        t = lo.tensor(operand.value)
        if t.size == 1:
            return "s", t.ref, (0, 0, 0, 0)
        if t.shape == self.shape:
            t = to_blocked(lo, t, ((0, 0),) * self.rank)
            return "f", t.ref, plane_strides(t)
        shape = (1,) * (len(self.shape) - len(t.shape)) + t.shape
        if shape[1] != channels or any(n != 1 for n in shape[2:]) or t.blocked is not None:
            lo.decline("an operand of the epilogue that is broadcast in another way")
        if shape[0] == 1:
            return "c", self._channels(operand.value, channels), (0, 4 * block, 0, 0)
        if channels % block:
            lo.decline("an operand of the epilogue whose channels fill no blocks")
        t = lo.plain(t)
        return "c", t.ref, (4 * channels, 4 * block, 0, 0)

    def _channels(self, value: Value, channels: int) -> Ref:
        """Return where one value a channel lies, filled up to whole blocks."""
        block = self.lo.machine.lanes

        def pad(data: Array) -> Array:
            found = aligned_array((blocks_of(channels, block) * block,), np.float32)
            found[:] = 0
            found[:channels] = data.reshape(-1)
            return found

        packed = self.lo.packed_value(value, ("channels", block), pad)
        if packed is not None:
            return packed
        t = self.lo.plain(self.lo.tensor(value))
        if channels % block and t.ref.buffer.slot >= 0:
            # Nothing may be read behind an array that is not ours.
            from lepton_ir.backends.numba.kernels.copy import copy_tensor

            t = copy_tensor(self.lo, t)
        return t.ref

    def direct(self, x: Tensor, group: int) -> None:
        """Add the kernel for whole blocks of input channels."""
        lo, block, vectors = self.lo, self.lo.machine.lanes, 2
        x = to_blocked(lo, x, self.halo)
        channels, outputs = x.shape[1] // group, self.shape[1] // group

        def pack(w: Array) -> Array:
            return pack_direct(w, block, vectors, group)

        weights = lo.packed(1, ("conv", block, vectors, group), pack)
        assert weights is not None
        blocks = blocks_of(outputs, block)
        tiles = tile_widths(self.shape[-1], max_pixels(lo.machine, vectors))
        widths = tuple(sorted({2 if blocks > 1 else 1, 1 if blocks % 2 else 2}, reverse=True))
        config = Direct(self.window, tuple(w for w, _ in tiles), widths, blocked=True)
        self._call(config, x, weights, channels, outputs, group, tiles)

    def plain(self, x: Tensor) -> None:
        """Add the kernel for few input channels, which lie as whole planes."""
        lo, block, vectors = self.lo, self.lo.machine.lanes, 2
        x = self._padded(x)

        def pack(w: Array) -> Array:
            return pack_plain(w, block, vectors)

        weights = lo.packed(1, ("plain", block, vectors), pack)
        assert weights is not None
        outputs = self.shape[1]
        blocks = blocks_of(outputs, block)
        tiles = tile_widths(self.shape[-1], max_pixels(lo.machine, vectors))
        widths = tuple(sorted({2 if blocks > 1 else 1, 1 if blocks % 2 else 2}, reverse=True))
        config = Direct(self.window, tuple(w for w, _ in tiles), widths, blocked=False)
        self._call(config, x, weights, x.shape[1], outputs, 1, tiles)

    def _padded(self, x: Tensor) -> Tensor:
        """Return a plain image with zeros around it, its address that of the first pixel."""
        from lepton_ir.backends.numba.kernels.copy import copy_into, fill

        lo = self.lo
        if not any(a or b for a, b in self.halo):
            return lo.plain(x)
        sizes = [n + a + b for n, (a, b) in zip(x.shape[2:], self.halo, strict=True)]
        whole = lo.new(x.dtype, (*x.shape[:2], *sizes))
        fill(lo, whole, np.zeros((), np.float32))
        start = sum(a * s for (a, _), s in zip(self.halo, whole.strides[2:], strict=True))
        inner = Ref(whole.ref.buffer, 4 * start)
        inside = Tensor(x.dtype, x.shape, inner, whole.strides)
        copy_into(lo, lo.plain(x) if x.blocked else x, inside)
        return inside

    def _call(
        self,
        config: Direct,
        x: Tensor,
        weights: Ref,
        channels: int,
        outputs: int,
        group: int,
        tiles: list[tuple[int, int]],
    ) -> None:
        lo, block = self.lo, self.lo.machine.lanes
        rows = plane_sizes(self.y)[0]
        if config.blocked:
            strides = plane_strides(x)
        else:
            n, c, *spatial = (4 * s for s in x.strides)
            row, column = (0, spatial[0]) if len(spatial) == 1 else spatial
            strides = (n, c, row, column)
        top, left = (p[0] for p in self.window.pads)
        start = -top * strides[2] - left * strides[3]
        blocks = blocks_of(outputs, block)
        args: list[int | Ref] = [Ref(x.ref.buffer, x.ref.offset + start), weights, self.y.ref]
        args += [channels, blocks, rows, self.shape[0], group]
        args += [*strides[:3], *plane_strides(self.y)[:3]]
        args += [count for _, count in tiles]
        for _mode, ref, s in self.operands:
            args += [ref, *s[:3]]
        lo.call(Kernel("conv", (config, self.epilogue)), *args)
        lo.set(self.y)

    def depthwise(self, x: Tensor) -> None:
        """Add the kernel for one input channel an output channel."""
        lo, block = self.lo, self.lo.machine.lanes
        x = to_blocked(lo, x, self.halo)
        weights = lo.packed(1, ("depthwise", block), lambda w: pack_depthwise(w, block))
        assert weights is not None
        limit = 8 if lo.machine.registers >= 32 else 4
        tiles = tile_widths(self.shape[-1], limit)
        strides = plane_strides(x)
        top, left = (p[0] for p in self.window.pads)
        start = -top * strides[2] - left * strides[3]
        rows = plane_sizes(self.y)[0]
        args: list[int | Ref] = [Ref(x.ref.buffer, x.ref.offset + start), weights, self.y.ref]
        args += [blocks_of(x.shape[1], block), rows, self.shape[0]]
        args += [*strides[:3], *plane_strides(self.y)[:3]]
        args += [count for _, count in tiles]
        for _mode, ref, s in self.operands:
            args += [ref, *s[:3]]
        widths = tuple(w for w, _ in tiles)
        lo.call(Kernel("depthwise", (self.window, widths, self.epilogue)), *args)
        lo.set(self.y)


def max_pixels(machine: Machine, vectors: int) -> int:
    """Return how many pixels a tile may have: accumulators, weights and one input fit."""
    return (machine.registers - vectors - 1) // vectors


def tile_widths(columns: int, limit: int) -> list[tuple[int, int]]:
    """Return (pixels, number of tiles) that cover a row evenly: one or two widths."""
    count = -(-columns // limit)
    base, larger = divmod(columns, count)
    found = [(base + 1, larger)] if larger else []
    return [*found, (base, count - larger)]


def pack_direct(w: Array, block: int, vectors: int, group: int) -> Array:
    """Return ``[group, output blocks, input block, window, channel, outputs]``, zeros filled in.

    Output blocks stand in pairs of ``vectors``; a last single one is narrower, so the result is
    flat.
    """
    outputs, channels, rows, columns = _window_axes(w).shape
    w = _window_axes(w).reshape(group, outputs // group, channels, rows, columns)
    inputs = blocks_of(channels, block)
    parts = []
    for g in range(group):
        start, left = 0, blocks_of(outputs // group, block)
        while left:
            width = block * min(vectors, left)
            part = np.zeros((inputs * block, rows, columns, width), np.float32)
            chosen = w[g, start : start + width]
            part[:channels, :, :, : len(chosen)] = chosen.transpose(1, 2, 3, 0)
            part = part.reshape(inputs, block, rows, columns, width).transpose(0, 2, 3, 1, 4)
            parts.append(part.reshape(-1))
            start, left = start + width, left - min(vectors, left)
    return _joined(parts)


def pack_plain(w: Array, block: int, vectors: int) -> Array:
    """Return ``[output blocks, channel, window, outputs]``, flat."""
    w = _window_axes(w)
    outputs, channels, rows, columns = w.shape
    parts, start, left = [], 0, blocks_of(outputs, block)
    while left:
        width = block * min(vectors, left)
        part = np.zeros((channels, rows, columns, width), np.float32)
        chosen = w[start : start + width]
        part[..., : len(chosen)] = chosen.transpose(1, 2, 3, 0)
        parts.append(part.reshape(-1))
        start, left = start + width, left - min(vectors, left)
    return _joined(parts)


def pack_depthwise(w: Array, block: int) -> Array:
    """Return ``[block, window, channel]``, zeros filled in."""
    w = _window_axes(w)
    channels, _, rows, columns = w.shape
    found = aligned_array((blocks_of(channels, block), rows, columns, block), np.float32)
    found[:] = 0
    for start in range(0, channels, block):
        part = w[start : start + block, 0].transpose(1, 2, 0)
        found[start // block, :, :, : part.shape[-1]] = part
    return found


def _window_axes(w: Array) -> Array:
    return w[:, :, None, :] if w.ndim == 3 else w


def _joined(parts: list[Array]) -> Array:
    found = aligned_array((sum(p.size for p in parts),), np.float32)
    start = 0
    for part in parts:
        found[start : start + part.size] = part
        start += part.size
    return found


# -- kernels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direct:
    """What a direct kernel is specialised for.

    Attributes:
        window: the geometry; its padding does not matter here.
        tiles: pixels of its tiles.
        vectors: output blocks of its tiles, the usual number first.
        blocked: whether the input is blocked; else its channels are planes.
    """

    window: Window
    tiles: tuple[int, ...]
    vectors: tuple[int, ...]
    blocked: bool


@emits("conv")
def emit_conv(e: Emitter, config: Direct, epilogue: Epilogue) -> None:
    """Emit the loops over groups of output channels, rows and tiles."""
    fixed = 14 + len(config.tiles)
    args = e.args(fixed + 4 * len(epilogue.modes))
    x, w, y, channels, blocks, rows, count, groups, xn, xc, xr, yn, yc, yr = args[:14]
    numbers = args[14:fixed]
    operands = [args[fixed + 4 * i : fixed + 4 * i + 4] for i in range(len(epilogue.modes))]
    b, size = e.b, 4 * e.lanes
    tiles = {
        (p, v): _direct_tile(e, config, epilogue, p, v)
        for p in config.tiles
        for v in config.vectors
    }
    usual = config.vectors[0]
    panels = e.ceil_div(blocks, usual)
    inputs = e.ceil_div(channels, e.lanes) if config.blocked else channels
    taps = config.window.kernel[0] * config.window.kernel[1]
    one_input = size * taps * (e.lanes if config.blocked else 1)
    group_weights = b.mul(b.mul(inputs, blocks), i64(one_input))
    total = b.mul(b.mul(b.mul(count, groups), panels), rows)
    first, last = e.share(total)

    def item(number: Val) -> None:
        rest, row = e.divmod(number, rows)
        rest, panel = e.divmod(rest, panels)
        n, group = e.divmod(rest, groups)
        block = b.mul(panel, i64(usual))
        inner = b.mul(b.mul(inputs, block), i64(one_input))
        weights = b.add(b.add(w, b.mul(group, group_weights)), inner)
        source = b.add(x, b.add(b.mul(n, xn), b.mul(row, b.mul(xr, i64(config.window.strides[0])))))
        if config.blocked:
            source = b.add(source, b.mul(group, b.mul(inputs, xc)))
        whole = b.add(b.mul(group, blocks), block)

        def place(base: Val, strides: Sequence[Val]) -> Val:
            found = b.add(base, b.mul(n, strides[0]))
            return b.add(found, b.add(b.mul(whole, strides[1]), b.mul(row, strides[2])))

        target = place(y, (yn, yc, yr))
        extra = [place(o[0], o[1:]) for o in operands]
        pixel = size if config.blocked else 4

        def tiles_of(vectors: int) -> None:
            start = i64(0)
            for pixels, number_of in zip(config.tiles, numbers, strict=True):
                function = tiles[pixels, vectors]

                def tile(
                    t: Val, pixels: int = pixels, start: Val = start, function: Val = function
                ) -> None:
                    at = b.add(start, b.mul(t, i64(pixels)))
                    step = b.mul(at, i64(pixel * config.window.strides[1]))
                    along = b.mul(at, i64(size))
                    moved = [
                        v
                        for o, place_of, mode in zip(operands, extra, epilogue.modes, strict=True)
                        for v in (b.add(place_of, along) if mode == "f" else place_of, o[2])
                    ]
                    fixed = [b.add(source, step), weights, b.add(target, along)]
                    b.call(function, [*fixed, channels, xc, xr, yc, *moved])

                e.each(number_of, tile)
                start = b.add(start, b.mul(number_of, i64(pixels)))

        if len(config.vectors) == 1:
            tiles_of(usual)
            return
        left = b.sub(blocks, block)
        with b.if_else(b.icmp_signed(">=", left, i64(usual))) as (then, otherwise):
            with then:
                tiles_of(usual)
            with otherwise:
                tiles_of(config.vectors[1])

    e.each(last, item, start=first)


def _direct_tile(e: Emitter, config: Direct, epilogue: Epilogue, pixels: int, vectors: int) -> Val:
    """Emit the function of one tile.

    Its arguments: input, weights, output, channels, strides of the input (channel block, row) and
    of the output (channel block), and address and channel stride of each operand.
    """
    count = 7 + 2 * len(epilogue.modes)

    def body(inner: Emitter, args: list[Val]) -> None:
        sums = _direct_sums(inner, config, pixels, vectors, args)
        _store_tile(inner, epilogue, pixels, vectors, sums, args[2], args[6], args[7:])

    return e.subroutine(f"tile{pixels}x{vectors}", count, body)


def _direct_sums(
    e: Emitter, config: Direct, pixels: int, vectors: int, args: list[Val]
) -> list[Val]:
    x, w, _, channels, xc, xr, _ = args[:7]
    b, type_, lanes = e.b, e.vec(F32), e.lanes
    window = config.window
    size = 4 * lanes
    px, pw = e.ptr(x), e.ptr(w)
    pixel = size if config.blocked else 4
    wide = size * vectors  # bytes of weights for one input channel and window element
    step = pixel * window.strides[1]
    per_input = lanes if config.blocked else 1
    tap = wide * per_input

    def multiply(place: Val, weights: Val, number: int, sums: list[Val]) -> list[Val]:
        sums = list(sums)
        for u in range(number):
            right = [e.load(weights, type_, wide * u + size * j) for j in range(vectors)]
            for i in range(pixels):
                left = e.splat(e.load(place, F32, step * i + 4 * u))
                for j, r in enumerate(right):
                    sums[i * vectors + j] = e.fma(left, r, sums[i * vectors + j])
        return sums

    def block(c: Val, sums: list[Val]) -> Sequence[Val]:
        source = e.off(px, b.mul(c, xc))
        weights = e.off(pw, b.mul(c, i64(tap * window.kernel[0] * window.kernel[1])))
        here = e.minimum(b.sub(channels, b.mul(c, i64(lanes))), i64(lanes))

        def row(r: Val, sums: list[Val]) -> Sequence[Val]:
            line = e.off(source, b.mul(r, b.mul(xr, i64(window.dilations[0]))))
            part = e.off(weights, b.mul(r, i64(tap * window.kernel[1])))
            if not config.blocked:
                for k in range(window.kernel[1]):
                    place = e.off(line, pixel * window.dilations[1] * k)
                    sums = multiply(place, e.off(part, tap * k), 1, sums)
                return sums
            return columns(line, part, here, sums)

        if window.kernel[0] == 1:
            return row(i64(0), sums)
        return e.loop(i64(window.kernel[0]), sums, row)

    def columns(line: Val, part: Val, here: Val, sums: list[Val]) -> Sequence[Val]:
        def column(k: Val, sums: list[Val]) -> Sequence[Val]:
            place = e.off(line, b.mul(k, i64(pixel * window.dilations[1])))
            chosen = e.off(part, b.mul(k, i64(tap)))

            def several(number: int) -> Any:
                def visit(c: Val, sums: list[Val]) -> list[Val]:
                    at = e.off(place, b.shl(c, i64(2)))
                    return multiply(at, e.off(chosen, b.mul(c, i64(wide))), number, sums)

                return visit

            whole = b.and_(here, i64(-CHANNEL_UNROLL))
            sums = e.loop(whole, sums, several(CHANNEL_UNROLL), step=CHANNEL_UNROLL)
            return e.loop(here, sums, several(1), start=whole)

        if window.kernel[1] == 1:
            return column(i64(0), sums)
        return e.loop(i64(window.kernel[1]), sums, column)

    inputs = e.ceil_div(channels, lanes) if config.blocked else channels
    zero = [e.zero(type_)] * (pixels * vectors)
    return e.loop(inputs, zero, block)


def _store_tile(
    e: Emitter,
    epilogue: Epilogue,
    pixels: int,
    vectors: int,
    sums: list[Val],
    target: Val,
    stride: Val,
    extra: Sequence[Val],
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
    """
    b, size = e.b, 4 * e.lanes
    simple = Epilogue(epilogue.expression, epilogue.modes.replace("c", "v").replace("f", "v"))
    for j in range(vectors):
        out = e.ptr(b.add(target, b.mul(stride, i64(j))))
        pointers = []
        for n, mode in enumerate(epilogue.modes):
            base = extra[2 * n]
            if mode != "s":
                base = b.add(base, b.mul(extra[2 * n + 1], i64(j)))
            pointers.append(e.ptr(base))
        for i in range(pixels):
            moved = [
                e.off(p, size * i) if mode == "f" else p
                for p, mode in zip(pointers, epilogue.modes, strict=True)
            ]
            found = emit_tile_row(e, simple, sums[i * vectors + j], moved, 0)
            e.store(found, out, size * i)


@emits("depthwise")
def emit_depthwise(e: Emitter, window: Window, tiles: tuple[int, ...], epilogue: Epilogue) -> None:
    """Emit a convolution of each channel with its own window."""
    fixed = 12 + len(tiles)
    args = e.args(fixed + 4 * len(epilogue.modes))
    x, w, y, blocks, rows, count, xn, xc, xr, yn, yc, yr = args[:12]
    numbers = args[12:fixed]
    operands = [args[fixed + 4 * i : fixed + 4 * i + 4] for i in range(len(epilogue.modes))]
    b, size = e.b, 4 * e.lanes
    taps = window.kernel[0] * window.kernel[1]
    functions = [_depthwise_tile(e, window, epilogue, p) for p in tiles]
    first, last = e.share(b.mul(b.mul(count, blocks), rows))

    def item(number: Val) -> None:
        rest, row = e.divmod(number, rows)
        n, block = e.divmod(rest, blocks)

        def place(base: Val, strides: Sequence[Val], step: int = 1) -> Val:
            found = b.add(base, b.add(b.mul(n, strides[0]), b.mul(block, strides[1])))
            return b.add(found, b.mul(row, b.mul(strides[2], i64(step))))

        source = place(x, (xn, xc, xr), window.strides[0])
        target = place(y, (yn, yc, yr))
        weights = b.add(w, b.mul(block, i64(size * taps)))
        extra = [place(o[0], o[1:]) for o in operands]
        start = i64(0)
        for pixels, number_of, function in zip(tiles, numbers, functions, strict=True):

            def tile(
                t: Val, pixels: int = pixels, start: Val = start, function: Val = function
            ) -> None:
                at = b.add(start, b.mul(t, i64(pixels)))
                along = b.mul(at, i64(size))
                moved = [
                    v
                    for o, base, mode in zip(operands, extra, epilogue.modes, strict=True)
                    for v in (b.add(base, along) if mode == "f" else base, o[2])
                ]
                step = b.mul(at, i64(size * window.strides[1]))
                b.call(function, [b.add(source, step), weights, b.add(target, along), xr, *moved])

            e.each(number_of, tile)
            start = b.add(start, b.mul(number_of, i64(pixels)))

    e.each(last, item, start=first)


def _depthwise_tile(e: Emitter, window: Window, epilogue: Epilogue, pixels: int) -> Val:
    """Emit the function of one tile: input, weights, output, row stride, operands."""

    def body(inner: Emitter, args: list[Val]) -> None:
        b, type_, size = inner.b, inner.vec(F32), 4 * inner.lanes
        x, w, y, xr = args[:4]
        px, pw = inner.ptr(x), inner.ptr(w)
        sums = [inner.zero(type_)] * pixels
        for r in range(window.kernel[0]):
            line = inner.off(px, b.mul(xr, i64(r * window.dilations[0])))
            loaded: dict[int, Val] = {}
            for k in range(window.kernel[1]):
                tap = inner.load(pw, type_, size * (r * window.kernel[1] + k))
                for i in range(pixels):
                    column = i * window.strides[1] + k * window.dilations[1]
                    if column not in loaded:
                        loaded[column] = inner.load(line, type_, size * column)
                    sums[i] = inner.fma(loaded[column], tap, sums[i])
        _store_tile(inner, epilogue, pixels, 1, sums, y, i64(0), args[4:])

    return e.subroutine(f"tile{pixels}", 4 + 2 * len(epilogue.modes), body)
