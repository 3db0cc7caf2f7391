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

    from lepton_ir.backends.numba.plan import Tensor

PARTS = 16
"""Parts of a tensor that threads share; their ranges are merged by one."""

_UNROLL = 4

_QUANTIZE = Expression(
    ("f32", "f32", "u8"),
    (Step("cast", "f32", (2,)), Step("quantize_linear", "u8", (0, 1, 3), (True, True))),
    (4,),
)


_ROUND = Expression(
    ("f32", "f32", "u8"),
    (
        *_QUANTIZE.steps,
        Step("cast", "f32", (4,)),
        Step("sub", "f32", (5, 3)),
        Step("mul", "f32", (6, 1)),
    ),
    (7,),
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
    _call_range(lo, x, scale, zero)
    y = lo.new(*lo.type())
    call_strided(lo, _QUANTIZE, [x, scale, zero], [y], x.shape)
    lo.set(y)


def _call_range(lo: Lowering, x: Tensor, scale: Tensor, zero: Tensor) -> None:
    parts = lo.scratch(8 * PARTS * lo.machine.lanes)
    lo.call(Kernel("ranges"), x.ref, parts, x.size)
    lo.call(Kernel("range_parameters"), parts, scale.ref, zero.ref)


def rounded_by_range(lo: Lowering, x: Tensor) -> Tensor:
    """Return plain f32 ``x`` quantized to bytes by its range, and dequantized."""
    scale, zero = lo.new(dtypes.F32, ()), lo.new(dtypes.U8, ())
    _call_range(lo, x, scale, zero)
    y = lo.new(x.dtype, x.shape)
    call_strided(lo, _ROUND, [x, scale, zero], [y], x.shape)
    return y


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
            state[u] = smaller(e, value, state[u])
            state[_UNROLL + u] = larger(e, value, state[_UNROLL + u])

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
        for k, combine in enumerate((smaller, larger)):
            total = state[_UNROLL * k]
            for value in state[_UNROLL * k + 1 : _UNROLL * (k + 1)]:
                total = combine(e, value, total)
            e.store(total, target, width * k)

    e.each(last, part, start=first)


def smaller(e: Emitter, x: Val, y: Val) -> Val:
    """Return the smaller of two floats; ``y`` where one is NaN."""
    return e.b.select(e.b.fcmp_ordered("<", x, y), x, y)


def larger(e: Emitter, x: Val, y: Val) -> Val:
    """Return the larger of two floats; ``y`` where one is NaN."""
    return e.b.select(e.b.fcmp_ordered(">", x, y), x, y)


def parameters(e: Emitter, low: Val, high: Val) -> tuple[Val, Val]:
    """Return scale and zero point, a float, of the range from ``low`` <= 0 to ``high`` >= 0."""
    b, levels = e.b, e.const(255.0, F32)
    spread = b.fdiv(b.fsub(high, low), levels)
    step = b.select(b.fcmp_ordered("==", high, low), e.const(1.0, F32), spread)
    point = e.unary("rint", b.fdiv(b.fneg(low), step))
    return step, smaller(e, larger(e, point, e.zero(F32)), levels)


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
        step, point = parameters(e, extreme(smaller, 0), extreme(larger, width))
        e.store(step, e.ptr(scale))
        e.store(b.trunc(b.fptosi(point, I32), I8), e.ptr(zero))

    e.each(last, compute, start=first)
