"""Resize: results are weighed sums of elements along each axis, by tables made while planning.

Blocked images are resized in one step, pixel by pixel; plain tensors axis by axis, along the last
one with gathers. The nearest element is copied whatever its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.emitter import F32, I32, I64, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.blocked import (
    blocks_of,
    is_blocked,
    new_blocked,
    plane_sizes,
    plane_strides,
)
from lepton_ir.backends.numba.kernels.gather import call_gather, gather_lanes
from lepton_ir.backends.numba.kernels.window import halo_for
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref
from lepton_ir.ops.image import Resampling, resamplings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Array, Tensor

MAX_TAPS = 4
"""Taps along an axis that are unrolled; wider kernels, of antialiasing, are loops."""


@lowers("resize", empty=True)
def lower_resize(lo: Lowering) -> None:
    """Lower Resize with sizes that are known while planning."""
    op, x = lo.anchor, lo.operand(0)
    if x.size == 0 or 0 in lo.type()[1]:
        lo.decline("an empty tensor")
    roi, scales, sizes = (lo.known(i) if lo.has(i) else None for i in (1, 2, 3))
    unknown = [i for i in (1, 2, 3) if lo.has(i) and lo.known(i) is None]
    if unknown and not (unknown == [1] and _ignores_roi(lo)):
        lo.decline("scales or sizes that depend on data")
    try:
        axes = resamplings(x.shape, roi, scales, sizes, op.all_attrs())
    except ValueError as error:
        lo.decline(str(error))
    if any(a.outside is not None and a.outside.any() for a in axes):
        lo.decline("results from outside the image")
    if any(a.weights is not None for a in axes) and x.dtype is not dtypes.F32:
        lo.decline(f"interpolation of {x.dtype}")
    if is_blocked(lo, x) and all(a.axis >= 2 for a in axes) and _has_planes(axes):
        _resize_blocked(lo, x, axes)
    else:
        _resize_plain(lo, x, axes)


def _ignores_roi(lo: Lowering) -> bool:
    return bool(lo.anchor.attr("coordinate_transformation_mode") != "tf_crop_and_resize")


def _has_planes(axes: Sequence[Resampling]) -> bool:
    """Return whether the taps of all axes can be unrolled, all weighed or none."""
    weighed = {a.weights is not None for a in axes}
    return len(weighed) == 1 and all(a.indexes.shape[1] <= MAX_TAPS for a in axes)


# -- blocked images --------------------------------------------------------------------------------


def _resize_blocked(lo: Lowering, x: Tensor, axes: Sequence[Resampling]) -> None:
    _, shape = lo.type()
    y = new_blocked(lo, shape, halo_for(lo.op.results[0], shape))
    of = {a.axis: a for a in axes}
    weighed = axes[0].weights is not None
    rows, columns = plane_sizes(y)
    row, column = plane_strides(x)[2:]
    args: list[int | Ref] = []
    taps = []
    for axis, count, stride in ((len(shape) - 2, rows, row), (len(shape) - 1, columns, column)):
        found = of.get(axis) if axis >= 2 else None
        if found is None:
            every = np.arange(count, dtype=np.int64)[:, None]
            found = Resampling(axis, count, every, np.ones((count, 1)))
        args.append(_table(lo, "offsets", found.indexes * stride))
        args.append(_weights(lo, found) if weighed else 0)
        taps.append(found.indexes.shape[1])
    sizes = (shape[0], blocks_of(shape[1], lo.machine.lanes), rows, columns)
    strides = (*plane_strides(x)[:2], *plane_strides(y)[:3])
    kernel = Kernel("resize_planes", (tuple(taps), weighed))
    lo.call(kernel, x.ref, y.ref, *args, *sizes, *strides)
    lo.set(y)


def _weights(lo: Lowering, axis: Resampling) -> Ref:
    assert axis.weights is not None
    return _table(lo, "weights", axis.weights.astype(np.float32))


def _table(lo: Lowering, name: str, table: Array) -> Ref:
    return lo.constant((name, table.tobytes()), lambda: table)


@emits("resize_planes")
def emit_resize_planes(e: Emitter, taps: tuple[int, int], weighed: bool) -> None:
    """Emit the loops over planes, rows and pixels of the result.

    Args:
        e: the emitter.
        taps: rows and columns that make a pixel.
        weighed: whether they have weights; else there is one of each.
    """
    x, y, r_offsets, r_weights, c_offsets, c_weights, count, blocks, rows, columns = e.args(15)[:10]
    xn, xc, yn, yc, yr = e.args(15)[10:]
    b, size, type_ = e.b, 4 * e.lanes, e.vec(F32)
    first, last = e.share(b.mul(b.mul(count, blocks), rows))

    def table(place: Val, index: Val, number: int, element: object, width: int) -> list[Val]:
        start = e.off(e.ptr(place), b.mul(index, i64(number * width)))
        return [e.load(start, element, width * k) for k in range(number)]

    def row(item: Val) -> None:
        rest, r = e.divmod(item, rows)
        n, c = e.divmod(rest, blocks)
        source = b.add(b.add(x, b.mul(n, xn)), b.mul(c, xc))
        target = e.ptr(b.add(b.add(y, b.mul(n, yn)), b.add(b.mul(c, yc), b.mul(r, yr))))
        lines = [e.ptr(b.add(source, o)) for o in table(r_offsets, r, taps[0], I64, 8)]
        down = [e.splat(v) for v in table(r_weights, r, taps[0], F32, 4)] if weighed else []

        def pixel(w: Val) -> None:
            offsets = table(c_offsets, w, taps[1], I64, 8)
            goal = e.off(target, b.mul(w, i64(size)))
            if not weighed:
                e.store(e.load(e.off(lines[0], offsets[0]), type_), goal)
                return
            across = [e.splat(v) for v in table(c_weights, w, taps[1], F32, 4)]
            total = None
            for offset, factor in zip(offsets, across, strict=True):
                part = _weigh(e, [e.load(e.off(line, offset), type_) for line in lines], down)
                total = b.fmul(part, factor) if total is None else e.fma(part, factor, total)
            e.store(total, goal)

        e.each(columns, pixel)

    e.each(last, row, start=first)


def _weigh(e: Emitter, values: Sequence[Val], weights: Sequence[Val]) -> Val:
    """Return the weighed sum of vectors."""
    total = e.b.fmul(values[0], weights[0])
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = e.fma(value, weight, total)
    return total


# -- plain tensors ---------------------------------------------------------------------------------


def _resize_plain(lo: Lowering, x: Tensor, axes: Sequence[Resampling]) -> None:
    x = lo.plain(x)
    dtype, shape = lo.type()
    for a in axes:
        new = (*x.shape[: a.axis], a.out, *x.shape[a.axis + 1 :])
        y = lo.new(dtype, new)
        if a.weights is None:
            index = a.indexes[:, 0].astype(np.int64)
            call_gather(lo, x, a.axis, index, y)
        else:
            _weigh_axis(lo, x, a, y)
        x = y
    if x.shape != shape:
        lo.decline("a shape that is not that of the result")
    lo.set(x)


def _weigh_axis(lo: Lowering, x: Tensor, a: Resampling, y: Tensor) -> None:
    """Add the weighed sums along one axis."""
    outer = int(np.prod(x.shape[: a.axis], dtype=np.int64))
    inner = int(np.prod(x.shape[a.axis + 1 :], dtype=np.int64))
    indexes, weights = a.indexes, a.weights
    assert weights is not None
    size = x.shape[a.axis]
    if inner >= lo.machine.lanes:
        offsets = 4 * inner * indexes
        places = _table(lo, "offsets", offsets)
        args = (places, _weights(lo, a), outer, a.out, inner, 4 * size * inner, indexes.shape[1])
        lo.call(Kernel("weigh_slices"), x.ref, y.ref, *args)
        return
    # Neighbours are single elements: each lane has an index and weights of its own.
    taps = indexes.shape[1]
    lane = (indexes[:, None, :] * inner + np.arange(inner)[None, :, None]).reshape(-1, taps)
    table = _columns(lane.astype(np.int32), lo.machine.lanes)
    factors = _columns(np.repeat(weights, inner, 0).astype(np.float32), lo.machine.lanes)
    places, found = _table(lo, "lanes", table), _table(lo, "weights", factors)
    args = (places, found, outer, a.out * inner, 4 * size * inner, table.shape[1], taps)
    lo.call(Kernel("weigh_lanes"), x.ref, y.ref, *args)


def _columns(table: Array, lanes: int) -> Array:
    """Return a table with one row a tap, rows filled up to whole vectors."""
    count, taps = table.shape
    found = np.zeros((taps, -(-count // lanes) * lanes), table.dtype)
    found[:, :count] = table.T
    return found


@emits("weigh_slices")
def emit_weigh_slices(e: Emitter) -> None:
    """Emit weighed sums of slices that are longer than a vector."""
    x, y, offsets, weights, outer, out, inner, step, taps = e.args(9)
    b, type_ = e.b, e.vec(F32)
    first, last = e.share(b.mul(outer, out))
    whole = b.and_(inner, i64(-e.lanes))
    nbytes = b.shl(inner, i64(2))
    mask = e.lane_mask(b.sub(inner, whole))

    def slice_of(item: Val) -> None:
        o, j = e.divmod(item, out)
        source = e.ptr(b.add(x, b.mul(o, step)))
        target = e.ptr(b.add(y, b.mul(item, nbytes)))
        places = e.off(e.ptr(offsets), b.mul(b.mul(j, taps), i64(8)))
        factors = e.off(e.ptr(weights), b.mul(b.mul(j, taps), i64(4)))

        def total(place: Val, load: object) -> Val:
            def tap(k: Val, state: list[Val]) -> list[Val]:
                offset = e.load(e.off(places, b.shl(k, i64(3))), I64)
                factor = e.splat(e.load(e.off(factors, b.shl(k, i64(2))), F32))
                value = load(e.off(place, offset))  # type: ignore[operator]
                return [e.fma(value, factor, state[0])]

            return e.loop(taps, [e.zero(type_)], tap)[0]

        def vector(i: Val) -> None:
            offset = b.shl(i, i64(2))
            found = total(e.off(source, offset), lambda p: e.load(p, type_))
            e.store(found, e.off(target, offset))

        e.each(whole, vector, step=e.lanes)
        with b.if_then(b.icmp_signed("<", whole, inner)):
            offset = b.shl(whole, i64(2))
            found = total(e.off(source, offset), lambda p: e.load_masked(p, type_, mask))
            e.store_masked(found, e.off(target, offset), mask)

    e.each(last, slice_of, start=first)


@emits("weigh_lanes")
def emit_weigh_lanes(e: Emitter) -> None:
    """Emit weighed sums whose elements are gathered."""
    x, y, table, weights, outer, out, step, width, taps = e.args(9)
    b, type_ = e.b, e.vec(F32)
    first, last = e.share(outer)

    def line(o: Val) -> None:
        source = b.add(x, b.mul(o, step))
        target = e.ptr(b.add(y, b.mul(o, b.shl(out, i64(2)))))

        def vector(j: Val) -> None:
            mask = e.lane_mask(b.sub(out, j))

            def tap(k: Val, state: list[Val]) -> list[Val]:
                at = b.shl(b.add(b.mul(k, width), j), i64(2))
                indexes = e.load(e.off(e.ptr(table), at), e.vec(I32))
                factors = e.load(e.off(e.ptr(weights), at), type_)
                return [e.fma(gather_lanes(e, source, indexes, mask), factors, state[0])]

            (total,) = e.loop(taps, [e.zero(type_)], tap)
            e.store_masked(total, e.off(target, b.shl(j, i64(2))), mask)

        e.each(out, vector, step=e.lanes)

    e.each(last, line, start=first)
