"""DynamicQuantizeLinear: the range of a tensor, scale and zero point of it, and the codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.emitter import F32, I8, I32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import Expression, Step
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.elementwise import call_strided
from lepton_ir.backends.numba.lowering import Lowering, lowers

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = 16
"""Parts of a tensor that threads share; their ranges are merged by one."""

_UNROLL = 4

_QUANTIZE = Expression(
    ("f32", "f32", "u8"),
    (Step("cast", "f32", (2,)), Step("quantize_linear", "u8", (0, 1, 3), (True, True))),
    (4,),
)


@lowers("dynamic_quantize_linear")
def lower_dynamic_quantize(lo: Lowering) -> None:
    """Lower DynamicQuantizeLinear."""
    x = lo.plain(lo.operand(0))
    if x.dtype is not dtypes.F32:
        lo.decline(f"dynamic ranges of {x.dtype}")
    count = len(lo.op.results)
    scale = lo.result(1) if count > 1 else lo.new(dtypes.F32, ())
    zero = lo.result(2) if count > 2 else lo.new(dtypes.U8, ())
    parts = lo.scratch(8 * PARTS * lo.machine.lanes)
    lo.call(Kernel("ranges"), x.ref, parts, x.size)
    lo.call(Kernel("range_parameters"), parts, scale.ref, zero.ref)
    y = lo.new(*lo.type())
    call_strided(lo, _QUANTIZE, [x, scale, zero], [y], x.shape)
    lo.set(y)


@emits("ranges")
def emit_ranges(e: Emitter) -> None:
    """Emit the least and largest of 0 and the elements of each part, lane by lane."""
    x, out, size = e.args(3)
    b, type_, width = e.b, e.vec(F32), 4 * e.lanes
    first, last = e.share(i64(PARTS))
    block = e.lanes * _UNROLL
    blocks = e.ceil_div(size, block)
    source = e.ptr(x)

    def part(number: Val) -> None:
        start = b.mul(b.udiv(b.mul(blocks, number), i64(PARTS)), i64(block))
        stop = b.mul(b.udiv(b.mul(blocks, b.add(number, i64(1))), i64(PARTS)), i64(block))
        stop = e.minimum(stop, size)
        whole = b.add(start, b.and_(b.sub(stop, start), i64(-block)))

        def merge(state: list[Val], u: int, value: Val) -> None:
            state[u] = _smaller(e, value, state[u])
            state[_UNROLL + u] = _larger(e, value, state[_UNROLL + u])

        def several(i: Val, state: list[Val]) -> list[Val]:
            place = e.off(source, b.shl(i, i64(2)))
            for u in range(_UNROLL):
                merge(state, u, e.load(place, type_, width * u))
            return state

        def single(i: Val, state: list[Val]) -> list[Val]:
            mask = e.lane_mask(b.sub(stop, i))
            merge(state, 0, e.load_masked(e.off(source, b.shl(i, i64(2))), type_, mask))
            return state

        state = e.loop(whole, [e.zero(type_)] * (2 * _UNROLL), several, start=start, step=block)
        state = e.loop(stop, state, single, start=whole, step=e.lanes)
        target = e.ptr(b.add(out, b.mul(number, i64(2 * width))))
        for k, combine in enumerate((_smaller, _larger)):
            total = state[_UNROLL * k]
            for value in state[_UNROLL * k + 1 : _UNROLL * (k + 1)]:
                total = combine(e, value, total)
            e.store(total, target, width * k)

    e.each(last, part, start=first)


def _smaller(e: Emitter, x: Val, y: Val) -> Val:
    return e.b.select(e.b.fcmp_ordered("<", x, y), x, y)


def _larger(e: Emitter, x: Val, y: Val) -> Val:
    return e.b.select(e.b.fcmp_ordered(">", x, y), x, y)


@emits("range_parameters")
def emit_range_parameters(e: Emitter) -> None:
    """Emit scale and zero point of the merged range; one thread does it."""
    parts, scale, zero = e.args(3)
    b, type_, width = e.b, e.vec(F32), 4 * e.lanes
    source = e.ptr(parts)
    first, last = e.share(i64(1))

    def extreme(combine: Callable[[Emitter, Val, Val], Val], offset: int) -> Val:
        def step(p: Val, state: list[Val]) -> list[Val]:
            place = e.off(source, b.mul(p, i64(2 * width)))
            return [combine(e, e.load(place, type_, offset), state[0])]

        (total,) = e.loop(i64(PARTS), [e.zero(type_)], step)
        return e.reduce_lanes(total, lambda x, y: combine(e, x, y))

    def compute(_: Val) -> None:
        low, high = extreme(_smaller, 0), extreme(_larger, width)
        span = b.fsub(high, low)
        one, levels = e.const(1.0, F32), e.const(255.0, F32)
        step = b.select(b.fcmp_ordered("==", high, low), one, b.fdiv(span, levels))
        point = e.unary("rint", b.fdiv(b.fneg(low), step))
        point = _smaller(e, _larger(e, point, e.zero(F32)), levels)
        e.store(step, e.ptr(scale))
        e.store(b.trunc(b.fptosi(point, I32), I8), e.ptr(zero))

    e.each(last, compute, start=first)
