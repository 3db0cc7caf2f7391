"""Pooling over blocked images: windows are clipped at the borders, no value stands for padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen import math as vmath
from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import memory_type
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.blocked import (
    BYTES,
    blocks_of,
    new_blocked,
    plane_sizes,
    plane_strides,
    to_blocked,
)
from lepton_ir.backends.numba.kernels.elementwise import itemsize
from lepton_ir.backends.numba.kernels.window import fill_for, halo_for, window_of
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.backends.numba.kernels.blocked import Halo
    from lepton_ir.backends.numba.kernels.window import Window

_MAX, _AVERAGE, _AVERAGE_PADDED = "max", "average", "average_padded"


@lowers("max_pool", "average_pool")
def lower_pool(lo: Lowering) -> None:
    """Lower MaxPool and AveragePool over one or two axes."""
    x, op = lo.operand(0), lo.anchor
    mode = pool_mode(lo, x)
    window = window_of(op, x.shape[2:], op.attr("kernel_shape"))
    if window is None or min(p for pair in window.pads for p in pair) < 0:
        lo.decline("more than two axes, or negative padding")
    value, (_, shape) = lo.op.results[0], lo.type()
    lo.set(pool(lo, x, window, mode, shape, (halo_for(value, shape), fill_for(value))))


def pool_mode(lo: Lowering, x: Tensor) -> str:
    """Return what becomes of a window."""
    op = lo.anchor
    pooled = (dtypes.F32, *(BYTES if op.name == "max_pool" else ()))
    if x.dtype not in pooled or len(op.results) > 1:
        lo.decline(f"pooling of {x.dtype}, or with indices")
    if op.name == "max_pool":
        return _MAX
    if any(d != 1 for d in op.attr("dilations") or ()):
        lo.decline("average over a dilated window")
    return _AVERAGE_PADDED if op.attr("count_include_pad") else _AVERAGE


def pool(
    lo: Lowering,
    x: Tensor,
    window: Window,
    mode: str,
    shape: tuple[int, ...],
    around: tuple[Halo, int] | None = None,
) -> Tensor:
    """Add the pooling of an image over one or two axes; return its result, blocked.

    Args:
        lo: the operation.
        x: the image.
        window: the geometry.
        mode: what becomes of a window.
        shape: of the result.
        around: halo of the result, and what it is filled with; none when absent.
    """
    none = ((0, 0),) * (len(shape) - 2)
    halo, fill = around or (none, 0)
    x = to_blocked(lo, x, none)
    y = new_blocked(lo, shape, halo, x.dtype, fill)
    rows, columns = plane_sizes(x)
    out_rows, out_columns = plane_sizes(y)
    (top, bottom), (left, right) = window.pads
    args: list[int | Ref] = [x.ref, y.ref, shape[0], blocks_of(shape[1], lo.machine.lanes)]
    args += [rows, columns, out_rows, out_columns, *plane_strides(x)[:3], *plane_strides(y)[:3]]
    args += [*window.kernel, *window.strides, *window.dilations, top, left]
    args += [rows + bottom, columns + right]
    lo.call(Kernel("pool", (mode, x.dtype.name)), *args)
    return y


def reduce_planes(lo: Lowering, kind: str, x: Tensor) -> bool:
    """Add a reduction of whole planes of a blocked image; return whether there is a kernel."""
    if x.dtype is not dtypes.F32 or kind not in ("reduce_mean", "reduce_sum", "reduce_max"):
        return False
    y = lo.result()
    rows, columns = plane_sizes(x)
    sizes = (x.shape[0], x.shape[1], rows, columns)
    lo.call(Kernel("planes", (kind,)), x.ref, y.ref, *sizes, *plane_strides(x)[:3])
    return True


class _Clip:
    """One axis of a window at one output position: which elements lie inside the image."""

    def __init__(
        self, e: Emitter, out: Val, stride: Val, pad: Val, size: Val, taps: Val, dilation: Val
    ) -> None:
        b = e.b
        self.origin = b.sub(b.mul(out, stride), pad)
        below = b.sub(i64(0), self.origin)
        first = b.sdiv(b.add(below, b.sub(dilation, i64(1))), dilation)
        self.first = b.select(b.icmp_signed(">", below, i64(0)), first, i64(0))
        room = b.sub(size, self.origin)
        last = b.sdiv(b.add(room, b.sub(dilation, i64(1))), dilation)
        self.last = e.minimum(last, taps)


@emits("pool")
def emit_pool(e: Emitter, mode: str, dtype: str) -> None:
    """Emit pooling; ``mode`` says what becomes of a window."""
    names = e.args(24)
    x, y, count, blocks, rows, columns, out_rows, out_columns = names[:8]
    xn, xc, xr, yn, yc, yr, kr, kc, sr, sc, dr, dc, top, left, end_r, end_c = names[8:]
    b, type_, size = e.b, e.vec(memory_type(dtype, e.machine)), itemsize(dtype) * e.lanes
    start, combine = _largest(e, dtype) if mode == _MAX else (e.zero(type_), b.fadd)
    first, last = e.share(b.mul(b.mul(count, blocks), out_rows))

    def one(number: Val) -> None:
        rest, r = e.divmod(number, out_rows)
        n, c = e.divmod(rest, blocks)
        source = e.ptr(b.add(b.add(x, b.mul(n, xn)), b.mul(c, xc)))
        target = e.ptr(b.add(b.add(y, b.mul(n, yn)), b.add(b.mul(c, yc), b.mul(r, yr))))
        down = _Clip(e, r, sr, top, rows, kr, dr)

        def pixel(w: Val) -> None:
            across = _Clip(e, w, sc, left, columns, kc, dc)

            def line(i: Val, state: list[Val]) -> list[Val]:
                at = b.mul(b.add(down.origin, b.mul(i, dr)), xr)

                def tap(j: Val, state: list[Val]) -> list[Val]:
                    column = b.add(across.origin, b.mul(j, dc))
                    place = e.off(source, b.add(at, b.mul(column, i64(size))))
                    return [combine(state[0], e.load(place, type_))]

                return e.loop(across.last, state, tap, start=across.first)

            (total,) = e.loop(down.last, [start], line, start=down.first)
            if mode != _MAX:
                total = b.fmul(total, e.splat(_inverse(w, across)))
            e.store(total, e.off(target, b.mul(w, i64(size))))

        def _inverse(w: Val, across: _Clip) -> Val:
            if mode == _AVERAGE:
                inside = b.mul(b.sub(down.last, down.first), b.sub(across.last, across.first))
            else:
                high = e.minimum(b.add(down.origin, kr), end_r)
                wide = e.minimum(b.add(across.origin, kc), end_c)
                inside = b.mul(b.sub(high, down.origin), b.sub(wide, across.origin))
            return b.fdiv(e.const(1.0, F32), b.sitofp(inside, F32))

        e.each(out_columns, pixel)

    e.each(last, one, start=first)


def _largest(e: Emitter, dtype: str) -> tuple[Val, Callable[[Val, Val], Val]]:
    """Return what no element is below, and the larger of two vectors."""
    type_ = e.vec(memory_type(dtype, e.machine))
    if dtype == "f32":
        return e.const(float("-inf"), type_), lambda p, q: vmath.maximum(e, p, q)
    signed = dtype == "i8"
    compare = e.b.icmp_signed if signed else e.b.icmp_unsigned
    least = e.const(-128 if signed else 0, type_)
    return least, lambda p, q: e.b.select(compare(">", q, p), q, p)


@emits("planes")
def emit_planes(e: Emitter, kind: str) -> None:
    """Emit a reduction of each plane; the result is plain."""
    x, y, count, channels, rows, columns, xn, xc, xr = e.args(9)
    b, type_, size = e.b, e.vec(F32), 4 * e.lanes
    blocks = e.ceil_div(channels, e.lanes)
    first, last = e.share(b.mul(count, blocks))
    largest = kind == "reduce_max"
    start = e.const(float("-inf") if largest else 0.0, type_)

    def combine(p: Val, q: Val) -> Val:
        return vmath.maximum(e, p, q) if largest else b.fadd(p, q)

    def one(number: Val) -> None:
        n, c = e.divmod(number, blocks)
        source = e.ptr(b.add(b.add(x, b.mul(n, xn)), b.mul(c, xc)))

        def line(r: Val, state: list[Val]) -> list[Val]:
            place = e.off(source, b.mul(r, xr))

            def pair(w: Val, state: list[Val]) -> list[Val]:
                at = e.off(place, b.mul(w, i64(size)))
                return [combine(s, e.load(at, type_, size * i)) for i, s in enumerate(state)]

            def single(w: Val, state: list[Val]) -> list[Val]:
                at = e.off(place, b.mul(w, i64(size)))
                return [combine(state[0], e.load(at, type_)), *state[1:]]

            whole = b.and_(columns, i64(-4))
            state = e.loop(whole, state, pair, step=4)
            return e.loop(columns, state, single, start=whole)

        totals = e.loop(rows, [start] * 4, line)
        total = combine(combine(totals[0], totals[1]), combine(totals[2], totals[3]))
        if kind == "reduce_mean":
            pixels = b.sitofp(b.mul(rows, columns), F32)
            total = b.fdiv(total, e.splat(pixels))
        block_start = b.mul(c, i64(e.lanes))
        place = b.add(y, b.shl(b.add(b.mul(n, channels), block_start), i64(2)))
        e.store_masked(total, e.ptr(place), e.lane_mask(b.sub(channels, block_start)))

    e.each(last, one, start=first)
