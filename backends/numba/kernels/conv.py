"""Convolutions in f32 over blocked images: direct, depthwise, and the first one of a network.

Tiles of output pixels and output channels stay in registers while input channels and the window are
walked. Padding is the input's halo. The epilogue (bias, activation, residual sum) is applied before
the tile is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.emitter import Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import Expression, Step
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
from lepton_ir.backends.numba.kernels.conv_weights import (
    pack_depthwise,
    pack_direct,
    pack_plain,
)
from lepton_ir.backends.numba.kernels.depthwise import Depthwise, TiledRow, moved, store_tile
from lepton_ir.backends.numba.kernels.elementwise import Translation
from lepton_ir.backends.numba.kernels.epilogue import Epilogue
from lepton_ir.backends.numba.kernels.tiles import TileSums, max_pixels, tile_widths
from lepton_ir.backends.numba.kernels.window import Window, halo_for, window_of
from lepton_ir.backends.numba.kernels.winograd import call_winograd, form_that_pays
from lepton_ir.backends.numba.kernels.winograd_form import Form
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor, row_major

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Array
    from lepton_ir.ir import Value

FEW_CHANNELS = 4
"""Up to so many input channels, a plain image is read instead of a blocked one."""

VECTORS = 2
"""Output blocks of a tile."""

FORMS = {"fast": (Form(4), Form(2)), "standard": (Form(2),), "high": ()}
"""Forms of Winograd's way that a precision allows: F(2x2, 3x3) rounds as little as a direct sum."""

MAX_COLUMNS = 256
"""Products of a pixel with one row of the window that a depthwise kernel unrolls."""

# -- lowering --------------------------------------------------------------------------------------


@lowers("conv", tail=True)
def lower_conv(lo: Lowering) -> None:
    """Lower Conv with constant weights over one or two axes."""
    x, weights = lo.operand(0), lo.operand(1)
    if x.dtype is not dtypes.F32 or not lo.is_known(1):
        lo.decline("weights that are not constant, or not f32")
    window = window_of(lo.anchor, x.shape[2:], weights.shape[2:])
    if window is None:
        lo.decline("more than two axes")
    if min(p for pair in window.pads for p in pair) < 0:
        lo.decline("negative padding")
    lo.set(convolve(lo, x, window, weights.shape[0], lo.type()[1]))


def convolve(
    lo: Lowering, x: Tensor, window: Window, outputs: int, shape: tuple[int, ...]
) -> Tensor:
    """Add the kernels of a convolution; return its result, blocked or plain.

    Args:
        lo: the operation; its second operand are the weights, whose window may have more axes than
            ``window`` when the first ones stand among the channels of ``x``.
        x: the image, over one or two axes.
        window: the geometry.
        outputs: number of output channels.
        shape: of the result.
    """
    group, channels, block = lo.anchor.attr("group"), x.shape[1], lo.machine.lanes
    here, there = channels // group, outputs // group
    expression, operands = translate_tail(lo)
    narrow = window.kernel[1] * here <= MAX_COLUMNS
    if group > 1 and there % here == 0 and block % there == 0 and narrow:
        conv = Convolution(lo, window, shape, expression, operands)
        conv.depthwise(x, here, there // here)
    elif group == 1 and channels <= FEW_CHANNELS:
        conv = Convolution(lo, window, shape, expression, operands)
        conv.plain(x)
    elif group == 1 and (form := _form(lo, window, x, shape)) is not None:
        conv = Convolution(lo, window, shape, expression, operands)
        conv.winograd(x, form)
    elif group == 1 or not (here % block or there % block):
        conv = Convolution(lo, window, shape, expression, operands)
        conv.direct(x, group)
    else:
        return _split_groups(lo, x, window, shape, group)
    return conv.y


def _form(lo: Lowering, window: Window, x: Tensor, shape: tuple[int, ...]) -> Form | None:
    return form_that_pays(window, lo.machine, x, shape, FORMS[lo.precision])


def _split_groups(
    lo: Lowering, x: Tensor, window: Window, shape: tuple[int, ...], group: int
) -> Tensor:
    """Convolve groups that are no whole blocks of channels as images of their own."""
    expression, operands = translate_tail(lo)
    parts = (shape[0] * group, shape[1] // group, *shape[2:])
    conv = Convolution(lo, window, parts, expression, operands, group)
    x = lo.plain(x)
    split = (x.shape[0] * group, x.shape[1] // group, *x.shape[2:])
    conv.direct(Tensor(x.dtype, split, x.ref, row_major(split)), group)
    y = lo.plain(conv.y)
    return Tensor(y.dtype, shape, y.ref, row_major(shape))


@dataclass(frozen=True)
class Operand:
    """An operand of the epilogue: a tensor, or the bias, which runs along the channels."""

    value: Value
    is_bias: bool


def translate_tail(lo: Lowering) -> tuple[Expression, list[Operand]]:
    """Translate the tail of a convolution, the bias in front of it."""
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
    expression = translation.finish([number])
    leaves = [Operand(v, v is bias) for v in translation.leaves[1:]]
    if expression.output_types[0] != "f32":
        lo.decline("a result that is not f32")
    return expression, leaves


class Convolution:
    """One convolution being lowered.

    Args:
        lo: the operation.
        window: its geometry.
        shape: of the result.
        expression: the epilogue.
        operands: of the epilogue.
        images: groups that are images of their own in ``shape``.

    Attributes:
        y: the result, blocked.
    """

    def __init__(
        self,
        lo: Lowering,
        window: Window,
        shape: tuple[int, ...],
        expression: Expression,
        operands: Sequence[Operand],
        images: int = 1,
    ) -> None:
        self.lo = lo
        self.window = window
        self.shape = shape
        self.images = images
        self.rank = len(shape) - 2
        self.halo: Halo = window.pads[2 - self.rank :]
        found = [self._operand(o) for o in operands]
        self.epilogue = Epilogue(expression, "".join(mode for mode, _, _ in found))
        self.operands = found
        result = lo.op.results[0]
        wanted = halo_for(result, shape) if shape == lo.type()[1] else ((0, 0),) * self.rank
        self.y = new_blocked(lo, shape, wanted)

    def _operand(self, operand: Operand) -> tuple[str, Ref, tuple[int, int, int, int]]:
        """Return an operand's mode, address and strides (N, C/block, rows, columns).

        Modes: ``c`` one value a channel, ``f`` one a pixel and channel, ``s`` one for all.
        """
        lo, block = self.lo, self.lo.machine.lanes
        channels = self.shape[1]
        if operand.is_bias:
            return "c", self._channels(operand.value), (0, 4 * block, 0, 0)
        t = lo.tensor(operand.value)
        if t.size == 1:
            return "s", t.ref, (0, 0, 0, 0)
        if self.shape != lo.type()[1]:
            lo.decline("operands of an epilogue over rearranged images")
        if t.shape == self.shape:
            t = to_blocked(lo, t, ((0, 0),) * self.rank)
            return "f", t.ref, plane_strides(t)
        shape = (1,) * (len(self.shape) - len(t.shape)) + t.shape
        if shape[1] != channels or any(n != 1 for n in shape[2:]) or t.blocked is not None:
            lo.decline("an operand of the epilogue that is broadcast in another way")
        if shape[0] == 1:
            return "c", self._channels(operand.value), (0, 4 * block, 0, 0)
        if channels % block:
            lo.decline("an operand of the epilogue whose channels fill no blocks")
        t = lo.plain(t)
        return "c", t.ref, (4 * channels, 4 * block, 0, 0)

    def _channels(self, value: Value) -> Ref:
        """Return where one value a channel lies, filled up to whole blocks."""
        channels, images, block = self.shape[1], self.images, self.lo.machine.lanes

        def pad(data: Array) -> Array:
            found = aligned_array((images, blocks_of(channels, block) * block), np.float32)
            found[:] = 0
            found[:, :channels] = data.reshape(images, -1)
            return found

        packed = self.lo.packed_value(value, ("channels", block, images), pad)
        if packed is not None:
            return packed
        t = self.lo.plain(self.lo.tensor(value))
        if channels % block and (images > 1 or t.ref.buffer.slot >= 0):
            # Nothing may be read behind an array that is not ours.
            if images > 1:
                self.lo.decline("a bias of groups that is not constant")
            from lepton_ir.backends.numba.kernels.copy import copy_tensor

            t = copy_tensor(self.lo, t)
        return t.ref

    def direct(self, x: Tensor, group: int) -> None:
        """Add the kernel for whole blocks of input channels."""
        block, vectors = self.lo.machine.lanes, VECTORS

        def pack(w: Array) -> Array:
            return pack_direct(w, block, vectors, group)

        weights = self.lo.packed(1, ("conv", block, vectors, group), pack)
        assert weights is not None
        self.direct_with(x, group, weights)

    def direct_with(self, x: Tensor, group: int, weights: Ref) -> None:
        """Like :meth:`direct`, with weights that are packed already."""
        x = to_blocked(self.lo, x, self.halo)
        split = group // self.images
        channels, outputs = x.shape[1] // split, self.shape[1] // split
        self._call(True, x, weights, channels, outputs, group)

    def winograd(self, x: Tensor, form: Form) -> None:
        """Add the kernel for windows of 3 by 3 that works in transformed tiles."""
        x = to_blocked(self.lo, x, self.halo)
        start = self._first_pixel(x, plane_strides(x))
        call_winograd(self.lo, form, x, start, self.y, self.epilogue, self.operands)

    def _first_pixel(self, x: Tensor, strides: tuple[int, ...]) -> Ref:
        """Return the address of the first pixel of the padding."""
        top, left = (p[0] for p in self.window.pads)
        return Ref(x.ref.buffer, x.ref.offset - top * strides[2] - left * strides[3])

    def plain(self, x: Tensor) -> None:
        """Add the kernel for few input channels, which lie as whole planes."""
        block, vectors = self.lo.machine.lanes, VECTORS
        x = self._padded(x)

        def pack(w: Array) -> Array:
            return pack_plain(w, block, vectors)

        weights = self.lo.packed(1, ("plain", block, vectors), pack)
        assert weights is not None
        self._call(False, x, weights, x.shape[1], self.shape[1], 1)

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
        self, blocked: bool, x: Tensor, weights: Ref, channels: int, outputs: int, group: int
    ) -> None:
        lo, block = self.lo, self.lo.machine.lanes
        rows = plane_sizes(self.y)[0]
        if blocked:
            strides = plane_strides(x)
        else:
            n, c, *spatial = (4 * s for s in x.strides)
            row, column = (0, spatial[0]) if len(spatial) == 1 else spatial
            strides = (n, c, row, column)
        blocks = blocks_of(outputs, block)
        tiles = tile_widths(self.shape[-1], max_pixels(lo.machine, VECTORS))
        vectors = panel_widths(blocks)
        widths = tuple(w for w, _ in tiles)
        config = Direct(self.window, widths, vectors, blocked)
        args: list[int | Ref] = [self._first_pixel(x, strides), weights, self.y.ref]
        args += [channels, blocks, rows, self.shape[0] // self.images, group]
        (xn, xc, xr), (yn, yc, yr) = strides[:3], plane_strides(self.y)[:3]
        args += [xn * self.images, xc, xr, yn * self.images, yc, yr]
        args += [count for _, count in tiles]
        for _mode, ref, s in self.operands:
            args += [ref, *s[:3]]
        lo.call(Kernel("conv", (config, self.epilogue)), *args)

    def depthwise(self, x: Tensor, inputs: int, multiplier: int) -> None:
        """Add the kernel for groups of so many inputs, with so many outputs for each of them."""
        lo, block = self.lo, self.lo.machine.lanes
        x = to_blocked(lo, x, self.halo)

        def pack(w: Array) -> Array:
            return pack_depthwise(w, block)

        weights = lo.packed(1, ("depthwise", block), pack)
        assert weights is not None
        limit = 8 if lo.machine.registers >= 32 else 4
        tiles = tile_widths(self.shape[-1], limit)
        strides = plane_strides(x)
        rows = plane_sizes(self.y)[0]
        args: list[int | Ref] = [self._first_pixel(x, strides), weights, self.y.ref]
        args += [blocks_of(self.shape[1], block), rows, self.shape[0]]
        args += [*strides[:3], *plane_strides(self.y)[:3]]
        args += [count for _, count in tiles]
        for _mode, ref, s in self.operands:
            args += [ref, *s[:3]]
        config = Depthwise(self.window, inputs, multiplier, tuple(w for w, _ in tiles))
        lo.call(Kernel("depthwise", (config, self.epilogue)), *args)


def panel_widths(blocks: int) -> tuple[int, ...]:
    """Return the output blocks of a panel, the usual number first, then that of a last one."""
    return tuple(sorted({min(VECTORS, blocks), 1 if blocks % VECTORS else VECTORS}, reverse=True))


# -- kernels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direct:
    """What a direct kernel is specialised for.

    Attributes:
        window: the geometry; its padding does not matter here.
        tiles: pixels of its tiles.
        vectors: output blocks of its tiles, the usual number first.
        blocked: whether the input is blocked; else its channels are planes.
        spread: pixels of the result from one computed pixel to the next.
    """

    window: Window
    tiles: tuple[int, ...]
    vectors: tuple[int, ...]
    blocked: bool
    spread: int = 1


@emits("conv")
def emit_conv(e: Emitter, config: Direct, epilogue: Epilogue) -> None:
    """Emit the loops over groups of output channels, rows and tiles."""
    fixed = 14 + len(config.tiles)
    args = e.args(fixed + 4 * len(epilogue.modes))
    x, w, y, channels, blocks, rows, count, groups, xn, xc, xr, yn, yc, yr = args[:14]
    operands = [args[fixed + 4 * i : fixed + 4 * i + 4] for i in range(len(epilogue.modes))]
    b, size, window = e.b, 4 * e.lanes, config.window
    tiles = {
        v: [_direct_tile(e, config, epilogue, p, v) for p in config.tiles] for v in config.vectors
    }
    usual = config.vectors[0]
    panels = e.ceil_div(blocks, usual)
    inputs = e.ceil_div(channels, e.lanes) if config.blocked else channels
    one_input = size * window.kernel[0] * window.kernel[1] * (e.lanes if config.blocked else 1)
    step = (size if config.blocked else 4) * window.strides[1]
    tiled = TiledRow(e, config.tiles, args[14:fixed], step, epilogue, config.spread)
    first, last = e.share(b.mul(b.mul(b.mul(count, groups), panels), rows))

    def item(number: Val) -> None:
        rest, row = e.divmod(number, rows)
        rest, panel = e.divmod(rest, panels)
        n, group = e.divmod(rest, groups)
        block = b.mul(panel, i64(usual))
        whole = b.add(b.mul(group, blocks), block)
        weights = b.add(w, b.mul(b.mul(inputs, whole), i64(one_input)))
        source = b.add(x, b.add(b.mul(n, xn), b.mul(row, b.mul(xr, i64(window.strides[0])))))
        if config.blocked:
            source = b.add(source, b.mul(group, b.mul(inputs, xc)))
        at = (n, whole, row)
        target = moved(e, y, (yn, yc, yr), at)
        extra = [(moved(e, o[0], o[1:], at), o[2]) for o in operands]
        narrow = config.vectors[-1]
        rest_fixed = [channels, xc, xr, yc]
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


def _direct_tile(e: Emitter, config: Direct, epilogue: Epilogue, pixels: int, vectors: int) -> Val:
    """Emit the function of one tile.

    Its arguments: input, weights, output, channels, strides of the input (channel block, row) and
    of the output (channel block), and address and channel stride of each operand.
    """
    count = 7 + 2 * len(epilogue.modes)

    def body(inner: Emitter, args: list[Val]) -> None:
        x, w, y, channels, xc, xr, yc = args[:7]
        sums = TileSums(
            inner,
            config.window,
            inner.lanes if config.blocked else 0,
            pixels,
            vectors,
            (x, w, channels, xc, xr),
            cut=config.blocked,
        ).emit()
        store_tile(inner, epilogue, pixels, vectors, sums, y, yc, args[7:], config.spread)

    return e.subroutine(f"tile{pixels}x{vectors}", count, body)
