"""Gather: whole slices copied by index; indices out of range are reported, never followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.emitter import (
    F32,
    I1,
    I8,
    I16,
    I32,
    I64,
    VOID,
    Emitter,
    Val,
    i64,
    suffix,
)
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.views import shifted
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Tensor

if TYPE_CHECKING:
    from lepton_ir.backends.numba.plan import Array

SCALARS = {1: I8, 2: I16, 4: I32, 8: I64}


@lowers("gather")
def lower_gather(lo: Lowering) -> None:
    """Lower Gather: a known single index is a view."""
    t, indices = lo.operand(0), lo.operand(1)
    axis = lo.anchor.attr("axis") % max(len(t.shape), 1)
    known = lo.known(1)
    if known is not None and known.size == 1 and t.blocked is None:
        _single(lo, t, axis, int(known.reshape(-1)[0]), known.ndim)
        return
    if indices.dtype.name not in ("i64", "i32"):
        lo.decline(f"indices of {indices.dtype}")
    _call(lo, lo.plain(t), axis, lo.plain(indices), lo.result())


def call_gather(lo: Lowering, t: Tensor, axis: int, indexes: Array, y: Tensor) -> None:
    """Copy slices of a plain tensor along ``axis`` to ``y``, by indexes known now."""
    indexes = indexes.astype(np.int64)
    ref = lo.constant(("indexes", indexes.tobytes()), lambda: indexes)
    _call(lo, t, axis, Tensor(dtypes.I64, indexes.shape, ref, (1,)), y)


def _call(lo: Lowering, t: Tensor, axis: int, indices: Tensor, y: Tensor) -> None:
    outer, inner = 1, 1
    for size in t.shape[:axis]:
        outer *= size
    for size in t.shape[axis + 1 :]:
        inner *= size
    nbytes = inner * t.itemsize
    scalar = nbytes if nbytes in SCALARS else 0
    kernel = Kernel("gather", (indices.dtype.name, scalar))
    sizes = (outer, t.shape[axis], nbytes, indices.size)
    lo.call(kernel, t.ref, indices.ref, y.ref, *sizes, checks=True)


def _single(lo: Lowering, t: Tensor, axis: int, index: int, rank: int) -> None:
    size = t.shape[axis]
    if not -size <= index < size:
        lo.decline("an index out of range")
    ref = shifted(t, index % size * t.strides[axis])
    shape = t.shape[:axis] + (1,) * rank + t.shape[axis + 1 :]
    strides = t.strides[:axis] + (0,) * rank + t.strides[axis + 1 :]
    lo.set(Tensor(t.dtype, shape, ref, strides))


def gather_lanes(e: Emitter, base: Val, indexes: Val, mask: Val) -> Val:
    """Load the f32 at ``base`` with the index of each lane that ``mask`` sets; others are zero."""
    lanes = e.lanes
    wide = e.b.sext(indexes, ir.VectorType(I64, lanes))
    offsets = e.b.shl(wide, ir.Constant(ir.VectorType(I64, lanes), [2] * lanes))
    places = e.b.inttoptr(e.b.add(offsets, e.splat(base)), ir.VectorType(ir.PointerType(), lanes))
    type_ = e.vec(F32)
    name = f"llvm.masked.gather.{suffix(type_)}.v{lanes}p0"
    return e.intrinsic(name, type_, [places, ir.Constant(I32, 4), mask, e.zero(type_)])


def report(e: Emitter, status: Val, number: Val, index: Val, size: Val) -> None:
    """Note an index out of range: which call, which index, which bound."""
    for offset, value in ((0, number), (8, index), (16, size)):
        e.store(value, e.ptr(status), offset)


def checked_index(
    e: Emitter, indices: Val, place: Val, index_type: str, size: Val, where: tuple[Val, Val]
) -> Val:
    """Load an index, wrapped when negative; one out of range is reported and becomes 0.

    Args:
        e: the emitter.
        indices: address of the first index.
        place: which one.
        index_type: ``i64`` or ``i32``.
        size: what it must be below.
        where: number of the call, and where to report.
    """
    b, width = e.b, 8 if index_type == "i64" else 4
    pointer = e.off(e.ptr(indices), b.mul(place, i64(width)))
    raw = e.load(pointer, I64 if width == 8 else I32)
    index = raw if width == 8 else b.sext(raw, I64)
    wrapped = b.select(b.icmp_signed("<", index, i64(0)), b.add(index, size), index)
    bad = b.icmp_unsigned(">=", wrapped, size)
    with b.if_then(bad, likely=False):
        report(e, where[1], where[0], index, size)
    return b.select(bad, i64(0), wrapped)


@emits("gather")
def emit_gather(e: Emitter, index_type: str, scalar: int) -> None:
    """Emit a copy of one slice for each index.

    Args:
        e: the emitter.
        index_type: element type of the indices.
        scalar: bytes of a slice that is one scalar, 0 for others.
    """
    data, indices, out, outer, size, nbytes, count, number, status = e.args(9)
    b = e.b
    first, last = e.share(count)

    def one(i: Val) -> None:
        safe = checked_index(e, indices, i, index_type, size, (number, status))

        def slice_of(a: Val) -> None:
            source = b.add(data, b.mul(b.add(b.mul(a, size), safe), nbytes))
            target = b.add(out, b.mul(b.add(b.mul(a, count), i), nbytes))
            if scalar:
                e.store(e.load(e.ptr(source), SCALARS[scalar]), e.ptr(target))
            else:
                flag = e.const(0, I1)
                args = [e.ptr(target), e.ptr(source), nbytes, flag]
                e.intrinsic("llvm.memcpy.p0.p0.i64", VOID, args)

        e.each(outer, slice_of)

    e.each(last, one, start=first)
