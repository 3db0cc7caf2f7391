"""Kernels over rows: softmax and normalizations, each row read a few times while it is cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen import math as vmath
from lepton_ir.backends.numba.codegen.emitter import F32, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.views import permuted
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

UNROLL = 4


# -- lowering --------------------------------------------------------------------------------------


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _f32(lo: Lowering, t: Tensor) -> Tensor:
    if t.dtype is not dtypes.F32:
        lo.decline(f"rows of {t.dtype}")
    return lo.plain(t)


@lowers("softmax", "log_softmax")
def lower_softmax(lo: Lowering) -> None:
    """Lower Softmax; another axis than the last one becomes it in a view."""
    x = lo.operand(0)
    rank = len(x.shape)
    if not rank:
        lo.decline("a scalar")
    axis = lo.anchor.attr("axis") % rank
    kernel = Kernel(lo.anchor.name)
    if lo.anchor.attr("coerce_2d") or axis == rank - 1:
        x = _f32(lo, x)
        y = lo.result()
        first = axis if lo.anchor.attr("coerce_2d") else rank - 1
        lo.call(kernel, x.ref, y.ref, _product(x.shape[:first]), _product(x.shape[first:]))
        return
    order = [i for i in range(rank) if i != axis] + [axis]
    moved = _f32(lo, permuted(lo.plain(x) if x.blocked else x, order))
    made = lo.new(moved.dtype, moved.shape)
    lo.call(kernel, moved.ref, made.ref, moved.size // moved.shape[-1], moved.shape[-1])
    back = [order.index(i) for i in range(rank)]
    lo.set(permuted(made, back))


@lowers("layer_normalization", "rms_normalization")
def lower_layer_norm(lo: Lowering) -> None:
    """Lower LayerNormalization and RMSNormalization without their statistics."""
    if len(lo.op.results) > 1 and any(r.first_use for r in lo.op.results[1:]):
        lo.decline("the statistics are read")
    x = _f32(lo, lo.operand(0))
    axis = lo.anchor.attr("axis") % max(len(x.shape), 1)
    size = _product(x.shape[axis:])
    centred = lo.anchor.name == "layer_normalization"
    scale = _f32(lo, lo.operand(1))
    bias = _f32(lo, lo.operand(2)) if centred and lo.has(2) else None
    if any(t is not None and t.size != size for t in (scale, bias)):
        lo.decline("scale or bias are broadcast")
    y = lo.result()
    call_norm(lo, x, y, size, (scale, bias), "v", centred)


@lowers("instance_normalization")
def lower_instance_norm(lo: Lowering) -> None:
    """Lower InstanceNormalization: a row is one channel of one image."""
    x = _f32(lo, lo.operand(0))
    scale, bias = (_f32(lo, lo.operand(i)) for i in (1, 2))
    y = lo.result()
    call_norm(lo, x, y, _product(x.shape[2:]), (scale, bias), "s", True)


def call_norm(
    lo: Lowering,
    x: Tensor,
    y: Tensor,
    size: int,
    affine: tuple[Tensor, Tensor | None],
    mode: str,
    centred: bool,
) -> None:
    """Add a normalization of rows of ``size`` elements.

    Args:
        lo: the operation, for its epsilon.
        x: what is normalized.
        y: the result.
        size: elements of a row.
        affine: scale and bias.
        mode: ``v`` if they run along a row, ``s`` if there is one of each for a row.
        centred: whether the mean is subtracted.
    """
    scale, bias = affine
    kernel = Kernel("normalize", (mode, centred, bias is not None, lo.anchor.attr("epsilon")))
    addresses: list[int | Ref] = [x.ref, y.ref, scale.ref, scale.ref if bias is None else bias.ref]
    lo.call(kernel, *addresses, x.size // size, size, scale.size)


# -- the kernels -----------------------------------------------------------------------------------


class _Row:
    """Walks one row: full vectors, unrolled, then a masked rest."""

    def __init__(self, e: Emitter, size: Val) -> None:
        self.e = e
        self.size = size
        self.block = e.lanes * UNROLL
        self.full = e.b.and_(size, i64(-self.block))
        self.whole = e.b.and_(size, i64(-e.lanes))
        self.mask = e.lane_mask(e.b.sub(size, self.whole))
        self.has_rest = e.b.icmp_signed("<", self.whole, size)

    def at(self, pointer: Val, index: Val, u: int = 0) -> Val:
        """Return the address of a vector."""
        return self.e.off(self.e.off(pointer, self.e.b.shl(index, i64(2))), 4 * self.e.lanes * u)

    def load(self, pointer: Val, index: Val, u: int, masked: bool) -> Val:
        """Load a vector; lanes behind the row are zero."""
        place = self.at(pointer, index, u)
        type_ = self.e.vec(F32)
        if masked:
            return self.e.load_masked(place, type_, self.mask)
        return self.e.load(place, type_)

    def store(self, value: Val, pointer: Val, index: Val, u: int, masked: bool) -> None:
        """Store a vector."""
        place = self.at(pointer, index, u)
        if masked:
            self.e.store_masked(value, place, self.mask)
        else:
            self.e.store(value, place)

    def reduce(
        self,
        start: Val,
        visit: Callable[[Val, Val, int, bool], Val],
        combine: Callable[[Val, Val], Val],
    ) -> Val:
        """Return one vector: ``visit(accumulator, index, u, masked)`` over the row, combined."""
        e = self.e

        def several(index: Val, state: list[Val]) -> list[Val]:
            return [visit(s, index, u, False) for u, s in enumerate(state)]

        def single(index: Val, state: list[Val]) -> list[Val]:
            return [visit(state[0], index, 0, False)]

        found = e.loop(self.full, [start] * UNROLL, several, step=self.block)
        total = found[0]
        for other in found[1:]:
            total = combine(total, other)
        (total,) = e.loop(self.whole, [total], single, start=self.full, step=e.lanes)
        (total,) = e.choose(
            self.has_rest,
            lambda: [visit(total, self.whole, 0, True)],
            lambda: [total],
        )
        return total

    def each(self, visit: Callable[[Val, int, bool], object]) -> None:
        """Call ``visit(index, u, masked)`` for every vector of the row."""
        e = self.e

        def several(index: Val) -> None:
            for u in range(UNROLL):
                visit(index, u, False)

        e.each(self.full, several, step=self.block)
        e.each(self.whole, lambda i: visit(i, 0, False), start=self.full, step=e.lanes)
        with e.b.if_then(self.has_rest):
            visit(self.whole, 0, True)


def _each_row(e: Emitter, rows: Val, size: Val, body: Callable[[Val, Val], object]) -> None:
    """Call ``body(row, byte offset)`` for this thread's rows."""
    first, last = e.share(rows)
    e.each(last, lambda r: body(r, e.b.shl(e.b.mul(r, size), i64(2))), start=first)


@emits("softmax")
def emit_softmax(e: Emitter) -> None:
    """Emit softmax over rows."""
    _emit_softmax(e, logarithmic=False)


@emits("log_softmax")
def emit_log_softmax(e: Emitter) -> None:
    """Emit the logarithm of softmax over rows."""
    _emit_softmax(e, logarithmic=True)


def _emit_softmax(e: Emitter, logarithmic: bool) -> None:
    x, y, rows, size = e.args(4)
    b, type_ = e.b, e.vec(F32)
    row = _Row(e, size)
    lowest = e.const(float("-inf"), type_)

    def larger(a: Val, c: Val) -> Val:
        return b.select(b.fcmp_ordered(">", c, a), c, a)

    def one(_: Val, offset: Val) -> None:
        px, py = e.ptr(b.add(x, offset)), e.ptr(b.add(y, offset))

        def maximum(a: Val, i: Val, u: int, masked: bool) -> Val:
            value = row.load(px, i, u, masked)
            return larger(a, b.select(row.mask, value, lowest) if masked else value)

        peak = e.splat(e.reduce_lanes(row.reduce(lowest, maximum, larger), larger))

        def total(a: Val, i: Val, u: int, masked: bool) -> Val:
            value = vmath.exp(e, b.fsub(row.load(px, i, u, masked), peak))
            if masked:
                value = b.select(row.mask, value, e.zero(type_))
            if not logarithmic:
                row.store(value, py, i, u, masked)
            return b.fadd(a, value)

        found = e.sum_lanes(row.reduce(e.zero(type_), total, b.fadd))
        if logarithmic:
            log = vmath.log(e, e.splat(found))
            row.each(
                lambda i, u, m: row.store(
                    b.fsub(b.fsub(row.load(px, i, u, m), peak), log), py, i, u, m
                )
            )
            return
        factor = e.splat(b.fdiv(e.const(1.0, F32), found))
        row.each(lambda i, u, m: row.store(b.fmul(row.load(py, i, u, m), factor), py, i, u, m))

    _each_row(e, rows, size, one)


@emits("normalize")
def emit_normalize(e: Emitter, mode: str, centred: bool, biased: bool, epsilon: float) -> None:
    """Emit normalization of rows: mean, variance around the mean, scale and bias."""
    x, y, scale, bias, rows, size, count = e.args(7)
    b, type_ = e.b, e.vec(F32)
    row = _Row(e, size)
    inverse = b.fdiv(e.const(1.0, F32), b.sitofp(size, F32))

    def one(number: Val, offset: Val) -> None:
        px, py = e.ptr(b.add(x, offset)), e.ptr(b.add(y, offset))
        mean = e.zero(type_)
        if centred:
            total = row.reduce(mean, lambda a, i, u, m: b.fadd(a, row.load(px, i, u, m)), b.fadd)
            mean = e.splat(b.fmul(e.sum_lanes(total), inverse))

        def square(a: Val, i: Val, u: int, masked: bool) -> Val:
            value = b.fsub(row.load(px, i, u, masked), mean)
            if masked:
                value = b.select(row.mask, value, e.zero(type_))
            return e.fma(value, value, a)

        spread = b.fmul(e.sum_lanes(row.reduce(e.zero(type_), square, b.fadd)), inverse)
        deviation = e.unary("sqrt", b.fadd(spread, e.const(epsilon, F32)))
        factor = e.splat(b.fdiv(e.const(1.0, F32), deviation))
        ps, pb = e.ptr(scale), e.ptr(bias)
        if mode == "s":
            place = b.shl(b.urem(number, count), i64(2))
            fixed = [e.splat(e.load(e.off(p, place), F32)) for p in (ps, pb)]

        def finish(i: Val, u: int, masked: bool) -> None:
            value = b.fmul(b.fsub(row.load(px, i, u, masked), mean), factor)
            gain = fixed[0] if mode == "s" else row.load(ps, i, u, masked)
            if biased:
                shift = fixed[1] if mode == "s" else row.load(pb, i, u, masked)
                value = e.fma(value, gain, shift)
            else:
                value = b.fmul(value, gain)
            row.store(value, py, i, u, masked)

        row.each(finish)

    _each_row(e, rows, size, one)
