"""Winograd's convolution for windows of 3 by 3: fewer products for a tile of outputs.

F(4x4, 3x3) makes sixteen outputs of 36 products in place of 144, F(2x2, 3x3) four of 16 in place
of 36, with smaller weights (:mod:`~lepton_ir.backends.numba.kernels.winograd_form`). What a patch
holds reaches all outputs of its tile: an infinity or a NaN makes more outputs NaN than those whose
window holds it.

A block of tiles is transformed for all input channels, multiplied with one panel of output channels
after the other, and each product goes back through the last transform while it is in the cache.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.blocked import blocks_of, plane_strides
from lepton_ir.backends.numba.kernels.conv_weights import output_parts, window_axes
from lepton_ir.backends.numba.kernels.depthwise import moved
from lepton_ir.backends.numba.kernels.epilogue import Epilogue, emit_tile_row
from lepton_ir.backends.numba.kernels.tiles import CHANNEL_UNROLL, cut_sum, max_pixels, tile_widths
from lepton_ir.backends.numba.kernels.winograd_form import Form
from lepton_ir.backends.numba.plan import Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.backends.numba.kernels.window import Window
    from lepton_ir.backends.numba.lowering import Lowering
    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.plan import Array, Tensor

CHUNK = 16
"""Channels of a short sum; a block on the widest machine, whole blocks on all others."""

SPAN = 64
"""Channels whose short sums are added up before the products so far are read and added."""

CHAINS = 2
"""Chains of multiply-adds that the sum of a chunk is made of."""

VECTORS = 2
"""Output blocks of a panel."""

# -- lowering --------------------------------------------------------------------------------------


def form_that_pays(
    window: Window, machine: Machine, x: Tensor, shape: tuple[int, ...], forms: Sequence[Form]
) -> Form | None:
    """Return the one of ``forms`` that makes a convolution fastest, ``None`` if none does.

    Weighs products of vectors, the two transforms of a tile and channel block, and reading weights
    that are larger.
    """
    geometry = (window.kernel, window.strides, window.dilations)
    if geometry != ((3, 3), (1, 1), (1, 1)) or len(shape) != 4:
        return None
    block = machine.lanes
    inputs, outputs = blocks_of(x.shape[1], block), blocks_of(shape[1], block)
    products = inputs * block * outputs
    best, least = None, float(9 * shape[0] * shape[2] * shape[3] * products)
    for form in forms:
        tiles = shape[0] * -(-shape[2] // form.tile) * -(-shape[3] // form.tile)
        transforms = _TRANSFORM * form.positions * tiles * (inputs + outputs)
        reading = _READING_FAR if _is_far(machine, form.positions * products) else _READING
        # While the tiles are multiplied, the next weights are on their way.
        waiting = max(0.0, reading - tiles / 2)
        cost = transforms + form.positions * products * (tiles + waiting)
        if cost < least:
            best, least = form, cost
    return best


_TRANSFORM = 8
"""Products that take as long as a position of both transforms."""

_READING, _READING_FAR = 2, 12
"""Products that take as long as reading a vector of weights, from a cache or from memory."""


def _is_far(machine: Machine, vectors: int) -> bool:
    return vectors * 4 * machine.lanes > machine.l3 // 2


def pack_winograd(w: Array, block: int, form: Form) -> Array:
    """Return ``[panel, position, channel, outputs]``, flat; a last panel may be narrower.

    Sums of three terms are no work for BLAS, whose threads take many times as long on a busy
    machine: ``einsum`` of two operands does not call it.
    """
    w = window_axes(w)
    channels = w.shape[1]
    inputs = blocks_of(channels, block) * block
    g, positions = form.weights(), form.positions
    found = aligned_array((positions * inputs * blocks_of(len(w), block) * block,), np.float32)
    # One temporary for all panels: memory that is new to a process is slow to touch.
    room = np.empty(positions * channels * block * VECTORS)
    done = 0
    for chosen, width in output_parts(w, block, VECTORS):
        taps = np.zeros((3, 3, channels, width))
        taps[..., : len(chosen)] = chosen.transpose(2, 3, 1, 0)
        wide = room[: positions * channels * width].reshape(form.patch, form.patch, channels, width)
        np.einsum("jb,ibco->ijco", g, np.einsum("ia,abco->ibco", g, taps), out=wide)
        part = found[done : done + positions * inputs * width].reshape(positions, inputs, width)
        part[:, :channels] = wide.reshape(positions, channels, width)
        part[:, channels:] = 0
        done += part.size
    return found


@dataclass(frozen=True)
class Winograd:
    """What a kernel is specialised for.

    Attributes:
        form: the transforms.
        tiles: tiles of the image that are multiplied at a time: one or two widths.
        vectors: output blocks of its panels, the usual number first.
    """

    form: Form
    tiles: tuple[int, ...]
    vectors: tuple[int, ...]


def call_winograd(
    lo: Lowering,
    form: Form,
    x: Tensor,
    start: Ref,
    y: Tensor,
    epilogue: Epilogue,
    operands: Sequence[tuple[str, Ref, tuple[int, ...]]],
) -> None:
    """Add the kernel.

    Args:
        lo: the convolution.
        form: the transforms.
        x: its input, blocked, with a halo.
        start: address of the first pixel of its padding.
        y: its result, blocked.
        epilogue: what is applied.
        operands: mode, address and strides (N, C/block, row) of each operand.
    """
    block = lo.machine.lanes
    weights = lo.packed(1, ("winograd", block, form.tile), lambda w: pack_winograd(w, block, form))
    assert weights is not None
    count, outputs, rows, columns = y.shape
    inputs, blocks = blocks_of(x.shape[1], block), blocks_of(outputs, block)
    down, across = -(-rows // form.tile), -(-columns // form.tile)
    widths = tile_widths(count * down * across, max_pixels(lo.machine, VECTORS))
    subtiles, larger = sum(n for _, n in widths), widths[0][1] if len(widths) > 1 else 0
    size = 4 * block
    one = widths[0][0] * size  # bytes of the tiles that are multiplied at a time, a channel block
    together = max(1, min(subtiles, lo.machine.l2 // (form.positions * inputs * one)))
    room = [form.positions * (n * together * one + size) for n in (inputs, VECTORS)]
    room.append(form.positions * size)
    scratch = lo.scratch(lo.threads * sum(room))
    panels = (VECTORS if blocks > 1 else 1, 1 if blocks % VECTORS else VECTORS)
    config = Winograd(form, tuple(w for w, _ in widths), tuple(sorted(set(panels), reverse=True)))
    args: list[int | Ref] = [start, weights, y.ref, scratch, sum(room), x.shape[1], blocks]
    args += [rows, columns, down, across, subtiles, larger, together]
    args += [*plane_strides(x)[:3], *plane_strides(y)[:3]]
    for _mode, ref, strides in operands:
        args += [ref, *strides[:3]]
    lo.call(Kernel("winograd", (config, epilogue)), *args)


# -- kernel ----------------------------------------------------------------------------------------

_FIXED = 20


@emits("winograd")
def emit_winograd(e: Emitter, config: Winograd, epilogue: Epilogue) -> None:
    """Emit the loops over blocks of tiles and panels of output channels; threads share both."""
    _Kernel(e, config, epilogue).emit()


class _Kernel:
    """The loops of one kernel, and the functions that they call."""

    def __init__(self, e: Emitter, config: Winograd, epilogue: Epilogue) -> None:
        self.e = e
        self.config = config
        self.form = config.form
        self.modes = epilogue.modes
        args = e.args(_FIXED + 4 * len(epilogue.modes))
        self.x, self.w, self.y, scratch, share_bytes, self.channels, self.blocks = args[:7]
        self.rows, self.columns, self.down, self.across = args[7:11]
        self.subtiles, self.larger, self.together = args[11:14]
        self.x_strides, self.y_strides = args[14:17], args[17:20]
        self.operands = [args[i : i + 4] for i in range(_FIXED, len(args), 4)]
        b, self.size = e.b, 4 * e.lanes
        self.inputs = e.ceil_div(self.channels, e.lanes)
        # One vector more than needed: lines a power of two apart would share few sets of a cache.
        self.line = b.mul(self.together, i64(config.tiles[0] * self.size))
        self.v_position = b.add(b.mul(self.inputs, self.line), i64(self.size))
        self.m_position = b.add(b.mul(self.line, i64(VECTORS)), i64(self.size))
        self.v = b.add(scratch, b.mul(e.tid, share_bytes))
        self.m = b.add(self.v, b.mul(self.v_position, i64(self.form.positions)))
        self.patch = b.add(self.m, b.mul(self.m_position, i64(self.form.positions)))
        self.copy_patch = e.subroutine("patch", 5, functools.partial(_copy_patch, self.form))
        self.transform = e.subroutine(
            "transform", 4, functools.partial(_transform_input, self.form)
        )
        self.products = {
            v: [_product(e, tiles, v) for tiles in config.tiles] for v in config.vectors
        }
        self.finish = _output_transform(e, config.form, epilogue)

    def emit(self) -> None:
        e, b = self.e, self.e.b
        usual = self.config.vectors[0]
        panels = e.ceil_div(self.blocks, usual)
        groups = b.udiv(b.add(self.subtiles, b.sub(self.together, i64(1))), self.together)
        first, last = e.share(b.mul(groups, panels))

        def item(number: Val, before: list[Val]) -> list[Val]:
            group, panel = e.divmod(number, panels)
            subtile = b.mul(group, self.together)
            end = e.minimum(b.add(subtile, self.together), self.subtiles)
            tiles = (self._start(subtile), self._start(end))
            with b.if_then(b.icmp_signed("!=", group, before[0])):
                self._inputs(*tiles)
            block = b.mul(panel, i64(usual))
            left = b.sub(self.blocks, block)
            self._multiply(block, left, subtile, end)
            e.each(e.minimum(left, i64(usual)), lambda j: self._outputs(block, j, *tiles))
            return [group]

        e.loop(last, [i64(-1)], item, start=first)

    def _start(self, subtile: Val) -> Val:
        """Return the first tile of a subtile: the wider ones come first."""
        b = self.e.b
        start = b.mul(subtile, i64(self.config.tiles[-1]))
        return b.add(start, self.e.minimum(subtile, self.larger))

    def _place(self, tile: Val) -> tuple[Val, Val, Val]:
        """Return image, first row and first column of a tile."""
        rest, column = self.e.divmod(tile, self.across)
        n, row = self.e.divmod(rest, self.down)
        return n, self.e.b.mul(row, i64(self.form.tile)), self.e.b.mul(column, i64(self.form.tile))

    def _inputs(self, first: Val, last: Val) -> None:
        """Transform the patches of a block of tiles."""
        e, b = self.e, self.e.b

        def tile(t: Val) -> None:
            n, row, column = self._place(t)
            source = moved(e, self.x, self.x_strides, (n, i64(0), row))
            source = b.add(source, b.mul(column, i64(self.size)))
            # What is behind the padding may hold anything, and would reach all outputs.
            high = b.sub(b.add(self.rows, i64(self.form.patch - self.form.tile)), row)
            wide = b.sub(b.add(self.columns, i64(self.form.patch - self.form.tile)), column)
            inside = b.icmp_signed(">=", e.minimum(high, wide), i64(self.form.patch))
            target = b.add(self.v, b.mul(b.sub(t, first), i64(self.size)))

            def block(c: Val) -> None:
                place = b.add(source, b.mul(c, self.x_strides[1]))

                def whole() -> list[Val]:
                    return [place, self.x_strides[2]]

                def partial() -> list[Val]:
                    b.call(self.copy_patch, [place, self.x_strides[2], self.patch, high, wide])
                    return [self.patch, i64(self.form.patch * self.size)]

                patch, stride = e.choose(inside, whole, partial)
                goal = b.add(target, b.mul(c, self.line))
                b.call(self.transform, [patch, stride, goal, self.v_position])

            e.each(self.inputs, block)

        e.each(last, tile, start=first)

    def _multiply(self, block: Val, left: Val, subtile: Val, end: Val) -> None:
        """Multiply a block of tiles with one panel."""
        e, b, usual = self.e, self.e.b, self.config.vectors[0]
        narrow = self.config.vectors[-1]
        depth = b.mul(self.inputs, i64(e.lanes * self.size))
        weights = b.add(self.w, b.mul(b.mul(depth, block), i64(self.form.positions)))

        def panel(vectors: int) -> None:
            start = self._start(subtile)

            def position(i: Val) -> None:
                part = b.add(weights, b.mul(i, b.mul(depth, i64(vectors))))
                v = b.add(self.v, b.mul(i, self.v_position))
                m = b.add(self.m, b.mul(i, self.m_position))

                def product(s: Val, function: Val) -> None:
                    offset = b.mul(b.sub(self._start(s), start), i64(self.size))
                    places = [b.add(v, offset), part, b.add(m, offset)]
                    b.call(function, [*places, self.channels, self.line])

                functions = self.products[vectors]
                turn = end if len(functions) == 1 else e.minimum(end, self.larger)
                e.each(turn, lambda s: product(s, functions[0]), start=subtile)
                if len(functions) > 1:
                    behind = b.icmp_signed(">", subtile, turn)
                    rest = b.select(behind, subtile, turn)
                    e.each(end, lambda s: product(s, functions[1]), start=rest)

            e.each(i64(self.form.positions), position)

        if narrow == usual:
            panel(usual)
            return
        with b.if_else(b.icmp_signed(">=", left, i64(usual))) as (then, otherwise):
            with then:
                panel(usual)
            with otherwise:
                panel(narrow)

    def _outputs(self, block: Val, j: Val, first: Val, last: Val) -> None:
        """Transform the products of block ``j`` of a panel back and store them."""
        e, b = self.e, self.e.b
        products = b.add(self.m, b.mul(j, self.line))
        channel = b.add(block, j)

        def tile(t: Val) -> None:
            n, row, column = self._place(t)
            along = b.mul(column, i64(self.size))
            at = (n, channel, row)
            target = b.add(moved(e, self.y, self.y_strides, at), along)
            source = b.add(products, b.mul(b.sub(t, first), i64(self.size)))
            extra = []
            for mode, (place, *strides) in zip(self.modes, self.operands, strict=True):
                here = moved(e, place, strides, at)
                extra += [b.add(here, along) if mode == "f" else here, strides[2]]
            room = [b.sub(self.rows, row), b.sub(self.columns, column)]
            b.call(
                self.finish,
                [source, self.m_position, target, self.y_strides[2], *room, *extra],
            )

        e.each(last, tile, start=first)


def _copy_patch(form: Form, e: Emitter, args: list[Val]) -> None:
    """Emit a copy of a patch at the border: source, row stride, target, rows, columns."""
    source, stride, target, rows, columns = args
    b, size, type_ = e.b, 4 * e.lanes, e.vec(F32)
    goal = e.ptr(target)
    for i in range(form.positions):
        e.store(e.zero(type_), goal, size * i)

    def row(r: Val) -> None:
        line = e.ptr(b.add(source, b.mul(r, stride)))
        place = e.off(goal, b.mul(r, i64(form.patch * size)))

        def pixel(c: Val) -> None:
            offset = b.mul(c, i64(size))
            e.store(e.load(e.off(line, offset), type_), e.off(place, offset))

        e.each(e.minimum(columns, i64(form.patch)), pixel)

    e.each(e.minimum(rows, i64(form.patch)), row)


def _transform_input(form: Form, e: Emitter, args: list[Val]) -> None:
    """Emit ``B' d B`` of one patch: source, row stride, target, stride of positions."""
    source, stride, target, position = args
    type_, size = e.vec(F32), 4 * e.lanes
    rows = [e.ptr(e.b.add(source, e.b.mul(stride, i64(r)))) for r in range(form.patch)]
    columns = [
        form.inputs(e, [e.load(row, type_, size * c) for row in rows]) for c in range(form.patch)
    ]
    goal = e.ptr(target)
    for i in range(form.patch):
        for value in form.inputs(e, [column[i] for column in columns]):
            e.store(value, goal)
            goal = e.off(goal, position)


def _product(e: Emitter, tiles: int, vectors: int) -> Val:
    """Emit the function of one product: patches, weights, result, channels, channel stride."""

    def body(inner: Emitter, args: list[Val]) -> None:
        v, weights, m, channels, line = args
        b, size = inner.b, 4 * inner.lanes

        def span(start: Val) -> None:
            here = b.add(v, b.mul(b.udiv(start, i64(inner.lanes)), line))
            part = b.add(weights, b.mul(start, i64(vectors * size)))
            number = inner.minimum(b.sub(channels, start), i64(SPAN))
            first = b.icmp_signed("==", start, i64(0))
            for j in range(vectors):
                sums = _Sums(inner, tiles, here, line, b.add(part, i64(size * j)), vectors)
                found = cut_sum(inner, number, CHUNK, sums.chunk)
                _add_to(inner, first, found, inner.ptr(b.add(m, b.mul(line, i64(j)))))

        inner.each(channels, span, step=SPAN)

    return e.subroutine(f"product{tiles}x{vectors}", 5, body)


def _add_to(e: Emitter, first: Val, sums: list[Val], goal: Val) -> None:
    """Store sums, or add them to what was stored before."""
    size = 4 * e.lanes

    def more() -> list[Val]:
        return [e.b.fadd(s, e.load(goal, s.type, size * i)) for i, s in enumerate(sums)]

    for i, value in enumerate(e.choose(first, lambda: sums, more)):
        e.store(value, goal, size * i)


@dataclass
class _Sums:
    """Sums over channels for some tiles and one output block.

    Attributes:
        e: the emitter.
        tiles: number of tiles.
        patches: address of the first channel's.
        line: bytes from one block of channels of the patches to the next.
        weights: address of the first channel's.
        vectors: output blocks that lie side by side in the weights.
    """

    e: Emitter
    tiles: int
    patches: Val
    line: Val
    weights: Val
    vectors: int

    def chunk(self, start: Val, end: Val) -> list[Val]:
        """Emit the sums of channels, two chains of even and of odd ones."""
        e, lanes = self.e, self.e.lanes
        sums = [e.zero(e.vec(F32))] * (self.tiles * CHAINS)

        def block(c: Val, sums: list[Val]) -> list[Val]:
            last = e.minimum(e.b.add(c, i64(lanes)), end)
            whole = e.b.and_(last, i64(-CHANNEL_UNROLL))
            sums = e.loop(whole, sums, self._channels(CHANNEL_UNROLL), start=c, step=CHANNEL_UNROLL)
            return e.loop(last, sums, self._channels(1), start=whole)

        sums = (
            block(start, sums)
            if lanes >= CHUNK
            else e.loop(end, sums, block, start=start, step=lanes)
        )
        return [e.b.fadd(x, y) for x, y in zip(sums[: self.tiles], sums[self.tiles :], strict=True)]

    def _channels(self, count: int) -> Callable[[Val, list[Val]], list[Val]]:
        e, b, size = self.e, self.e.b, 4 * self.e.lanes

        def visit(c: Val, sums: list[Val]) -> list[Val]:
            sums = list(sums)
            blocks, lane = b.udiv(c, i64(e.lanes)), b.and_(c, i64(e.lanes - 1))
            at = e.ptr(b.add(self.patches, b.add(b.mul(blocks, self.line), b.shl(lane, i64(2)))))
            part = e.ptr(b.add(self.weights, b.mul(c, i64(self.vectors * size))))
            for u in range(count):
                right = e.load(part, e.vec(F32), self.vectors * size * u)
                for i in range(self.tiles):
                    n = i + self.tiles * (u % CHAINS)
                    sums[n] = e.fma(e.splat(e.load(at, F32, size * i + 4 * u)), right, sums[n])
            return sums

        return visit


def _output_transform(e: Emitter, form: Form, epilogue: Epilogue) -> Val:
    """Emit the function that makes ``A' m A`` of one tile and stores it.

    Its arguments: products, stride of positions, output, its row stride, rows and columns that are
    left, and address and row stride of each operand.
    """
    simple = Epilogue(epilogue.expression, epilogue.modes.replace("c", "v").replace("f", "v"))

    def body(inner: Emitter, args: list[Val]) -> None:
        source, position, target, stride, rows, columns, *operands = args
        b, type_, size = inner.b, inner.vec(F32), 4 * inner.lanes
        place = inner.ptr(source)
        loaded = []
        for _ in range(form.positions):
            loaded.append(inner.load(place, type_))
            place = inner.off(place, position)
        halves = [form.outputs(inner, loaded[j :: form.patch]) for j in range(form.patch)]

        def pixel(r: int, c: int, value: Val) -> None:
            pointers = []
            for n, mode in enumerate(epilogue.modes):
                here = operands[2 * n]
                if mode == "f":
                    here = b.add(here, b.mul(operands[2 * n + 1], i64(r)))
                pointers.append(inner.off(inner.ptr(here), size * c if mode == "f" else 0))
            line = inner.ptr(b.add(target, b.mul(stride, i64(r))))
            inner.store(emit_tile_row(inner, simple, value, pointers, 0), line, size * c)

        for r in range(form.tile):
            with b.if_then(b.icmp_signed(">", rows, i64(r))):
                values = form.outputs(inner, [half[r] for half in halves])
                for c, value in enumerate(values):
                    with b.if_then(b.icmp_signed(">", columns, i64(c))):
                        pixel(r, c, value)

    return e.subroutine("outputs", 6 + 2 * len(epilogue.modes), body)
