"""Reductions over any axes: along rows with vectors, or across them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_ir.backends.numba.codegen import math as vmath
from lepton_ir.backends.numba.codegen.emitter import Emitter, Val, i64, vector
from lepton_ir.backends.numba.codegen.expression import (
    compute_type,
    from_memory,
    memory_type,
    to_memory,
)
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.elementwise import itemsize
from lepton_ir.backends.numba.kernels.views import permuted
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

UNROLL = 4


@dataclass(frozen=True)
class Kind:
    """A reduction.

    Attributes:
        start: what an accumulator begins with.
        before: applied to each element.
        combine: joins accumulator and element.
        after: applied to the result, given the number of elements as a float.
        types: element types.
    """

    start: float
    before: Callable[[Emitter, Val], Val] | None
    combine: Callable[[Emitter, Val, Val], Val]
    after: Callable[[Emitter, Val, Val], Val] | None
    types: tuple[str, ...]


_FLOATS = ("f32", "f64", "f16", "bf16")
_ALL = ("f32", "f64", "f16", "bf16", "i64", "i32")


def _is_float(x: Val) -> bool:
    return "int" not in type(getattr(x.type, "element", x.type)).__name__.lower()


def _add(e: Emitter, x: Val, y: Val) -> Val:
    return e.b.fadd(x, y) if _is_float(x) else e.b.add(x, y)


def _multiply(e: Emitter, x: Val, y: Val) -> Val:
    return e.b.fmul(x, y) if _is_float(x) else e.b.mul(x, y)


def _square(e: Emitter, x: Val) -> Val:
    return _multiply(e, x, x)


def _absolute(e: Emitter, x: Val) -> Val:
    return e.unary("fabs", x)


KINDS = {
    "reduce_sum": Kind(0.0, None, _add, None, _ALL),
    "reduce_mean": Kind(0.0, None, _add, lambda e, x, n: e.b.fdiv(x, n), _FLOATS),
    "reduce_max": Kind(float("-inf"), None, vmath.maximum, None, _FLOATS),
    "reduce_min": Kind(float("inf"), None, vmath.minimum, None, _FLOATS),
    "reduce_prod": Kind(1.0, None, _multiply, None, _FLOATS),
    "reduce_l1": Kind(0.0, _absolute, _add, None, _FLOATS),
    "reduce_l2": Kind(0.0, _square, _add, lambda e, x, n: e.unary("sqrt", x), _FLOATS),
    "reduce_sum_square": Kind(0.0, _square, _add, None, _FLOATS),
}


@lowers(*KINDS)
def lower_reduce(lo: Lowering) -> None:
    """Lower a reduction over known axes."""
    x = lo.operand(0)
    axes = lo.ints(1) if lo.has(1) else ()
    if axes is None:
        lo.decline("axes that depend on data")
    rank = len(x.shape)
    if not axes:
        if lo.anchor.attr("noop_with_empty_axes"):
            lo.decline("nothing is reduced")
        axes = tuple(range(rank))
    reduce_axes(lo, lo.anchor.name, x, sorted({a % max(rank, 1) for a in axes}))


@lowers("global_average_pool", "global_max_pool")
def lower_global_pool(lo: Lowering) -> None:
    """Lower pooling over all of an image."""
    kind = "reduce_mean" if lo.anchor.name == "global_average_pool" else "reduce_max"
    x = lo.operand(0)
    reduce_axes(lo, kind, x, list(range(2, len(x.shape))))


def reduce_axes(lo: Lowering, kind: str, x: Tensor, axes: list[int]) -> None:
    """Add the reduction of ``axes``, which are sorted.

    Raises:
        Declined: the element type is not reduced here.
    """
    dtype = x.dtype.name
    if dtype not in KINDS[kind].types:
        lo.decline(f"{kind} of {dtype}")
    rank = len(x.shape)
    if x.blocked is not None and axes == list(range(2, rank)):
        from lepton_ir.backends.numba.kernels.pool import reduce_planes

        if reduce_planes(lo, kind, x):
            return
    x = lo.plain(x) if x.blocked is not None or rank == 0 else x
    if axes and axes != list(range(axes[0], axes[-1] + 1)):
        rest = [i for i in range(rank) if i not in axes]
        x = permuted(x, [*rest, *axes])
        axes = list(range(len(rest), rank))
    x = lo.plain(x)
    y = lo.result()
    outer = count = inner = 1
    for i, size in enumerate(x.shape):
        if i in axes:
            count *= size
        elif not axes or i < axes[0]:
            outer *= size
        else:
            inner *= size
    lo.call(Kernel("reduce", (kind, dtype, inner > 1)), x.ref, y.ref, outer, count, inner)


@emits("reduce")
def emit_reduce(e: Emitter, kind: str, dtype: str, across: bool) -> None:
    """Emit a reduction of ``[outer, count, inner]`` over its middle axis.

    Args:
        e: the emitter.
        kind: key of ``KINDS``.
        dtype: element type.
        across: whether there is an inner axis, which the vectors then run along.
    """
    _Reduction(e, KINDS[kind], dtype).emit(across)


class _Reduction:
    """Emits one reduction."""

    def __init__(self, e: Emitter, kind: Kind, dtype: str) -> None:
        self.e = e
        self.kind = kind
        self.dtype = dtype
        self.size = itemsize(dtype)
        self.element = compute_type(dtype)

    def emit(self, across: bool) -> None:
        """Emit the loops."""
        e = self.e
        self.x, self.y, outer, self.count, self.inner = e.args(5)
        first, last = e.share(outer)
        e.each(last, self._across if across else self._along, start=first)

    def _start(self, lanes: int) -> Val:
        return self.e.const(self.kind.start, vector(self.element, lanes))

    def _visit(self, total: Val, value: Val) -> Val:
        if self.kind.before is not None:
            value = self.kind.before(self.e, value)
        return self.kind.combine(self.e, total, value)

    def _load(self, pointer: Val, index: Val, lanes: int, mask: Val = None) -> Val:
        e = self.e
        place = e.off(pointer, e.b.mul(index, i64(self.size)))
        type_ = vector(memory_type(self.dtype, e.machine), lanes)
        loaded = e.load(place, type_) if mask is None else e.load_masked(place, type_, mask)
        return from_memory(e, loaded, self.dtype)

    def _finish(self, total: Val, lanes: int) -> Val:
        if self.kind.after is not None:
            count = self.e.b.sitofp(self.count, self.element)
            total = self.kind.after(self.e, total, self.e.splat(count, lanes))
        return to_memory(self.e, total, self.dtype)

    def _along(self, row: Val) -> None:
        """Reduce one row."""
        e, lanes = self.e, self.e.lanes
        b, block = e.b, e.lanes * UNROLL
        pointer = e.ptr(b.add(self.x, b.mul(b.mul(row, self.count), i64(self.size))))
        full, whole = b.and_(self.count, i64(-block)), b.and_(self.count, i64(-lanes))

        def several(i: Val, state: list[Val]) -> list[Val]:
            return [
                self._visit(s, self._load(pointer, b.add(i, i64(u * lanes)), lanes))
                for u, s in enumerate(state)
            ]

        def single(i: Val, state: list[Val]) -> list[Val]:
            return [self._visit(state[0], self._load(pointer, i, lanes))]

        totals = e.loop(full, [self._start(lanes)] * UNROLL, several, step=block)
        total = totals[0]
        for other in totals[1:]:
            total = self.kind.combine(e, total, other)
        (total,) = e.loop(whole, [total], single, start=full, step=lanes)
        scalar = e.reduce_lanes(total, lambda p, q: self.kind.combine(e, p, q))

        def rest(i: Val, state: list[Val]) -> list[Val]:
            return [self._visit(state[0], self._load(pointer, i, 1))]

        (scalar,) = e.loop(self.count, [scalar], rest, start=whole)
        place = e.ptr(b.add(self.y, b.mul(row, i64(self.size))))
        e.store(self._finish(scalar, 1), place)

    def _across(self, row: Val) -> None:
        """Reduce the rows of one matrix, vector by vector of columns."""
        e, lanes, b = self.e, self.e.lanes, self.e.b
        start = b.mul(b.mul(row, self.count), self.inner)
        source = e.ptr(b.add(self.x, b.mul(start, i64(self.size))))
        target = e.ptr(b.add(self.y, b.mul(b.mul(row, self.inner), i64(self.size))))
        block = lanes * UNROLL
        full, whole = b.and_(self.inner, i64(-block)), b.and_(self.inner, i64(-lanes))
        e.each(full, lambda i: self._columns(source, target, i, UNROLL, None), step=block)
        e.each(
            whole,
            lambda i: self._columns(source, target, i, 1, None),
            start=full,
            step=lanes,
        )
        with b.if_then(b.icmp_signed("<", whole, self.inner)):
            mask = e.lane_mask(b.sub(self.inner, whole))
            self._columns(source, target, whole, 1, mask)

    def _columns(self, source: Val, target: Val, i: Val, unroll: int, mask: Any) -> None:
        e, lanes, b = self.e, self.e.lanes, self.e.b

        def row(k: Val, state: list[Val]) -> list[Val]:
            place = b.add(b.mul(k, self.inner), i)
            return [
                self._visit(s, self._load(source, b.add(place, i64(u * lanes)), lanes, mask))
                for u, s in enumerate(state)
            ]

        totals = e.loop(self.count, [self._start(lanes)] * unroll, row)
        for u, total in enumerate(totals):
            place = e.off(target, b.mul(b.add(i, i64(u * lanes)), i64(self.size)))
            found = self._finish(total, lanes)
            if mask is None:
                e.store(found, place)
            else:
                e.store_masked(found, place, mask)
