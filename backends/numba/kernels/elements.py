"""Element by element along an axis: gathers by index, running sums."""

from __future__ import annotations

import math

from lepton_ir.backends.numba.codegen.emitter import F32, F64, I32, I64, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.gather import SCALARS, checked_index
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Tensor

MAX_SUMMED = 1 << 14
"""Elements from which on NumPy sums as fast."""

_SUMMED = {"f32": F32, "f64": F64, "i32": I32, "i64": I64}


@lowers("gather_elements")
def lower_gather_elements(lo: Lowering) -> None:
    """Lower GatherElements; indices may cover a part of the other axes."""
    t, indices = lo.operand(0), lo.operand(1)
    if indices.dtype.name not in ("i64", "i32") or t.itemsize not in SCALARS:
        lo.decline(f"indices of {indices.dtype}, or elements of {t.dtype}")
    t = lo.plain(t) if t.blocked is not None else t
    axis = lo.anchor.attr("axis") % len(t.shape)
    shape = tuple(
        have if i == axis else wanted
        for i, (have, wanted) in enumerate(zip(t.shape, indices.shape, strict=True))
    )
    if any(n > have for n, have in zip(shape, t.shape, strict=True)):
        lo.decline("indices for more than there is")
    t = lo.plain(Tensor(t.dtype, shape, t.ref, t.strides))
    indices, y = lo.plain(indices), lo.result()
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    kernel = Kernel("gather_elements", (indices.dtype.name, t.itemsize))
    sizes = (outer, shape[axis], indices.shape[axis], inner)
    lo.call(kernel, t.ref, indices.ref, y.ref, *sizes, checks=True)


@emits("gather_elements")
def emit_gather_elements(e: Emitter, index_type: str, size: int) -> None:
    """Emit a copy of one element for each index."""
    data, indices, out, outer, bound, count, inner, number, status = e.args(9)
    b, type_ = e.b, SCALARS[size]
    first, last = e.share(b.mul(outer, count))
    source, goal = e.ptr(data), e.ptr(out)

    def row(item: Val) -> None:
        o = b.udiv(item, count)
        start, base = b.mul(item, inner), b.mul(o, bound)

        def one(i: Val) -> None:
            place = b.add(start, i)
            index = checked_index(e, indices, place, index_type, bound, (number, status))
            chosen = b.add(b.mul(b.add(base, index), inner), i)
            value = e.load(e.off(source, b.mul(chosen, i64(size))), type_)
            e.store(value, e.off(goal, b.mul(place, i64(size))))

        e.each(inner, one)

    e.each(last, row, start=first)


@lowers("cum_sum")
def lower_cum_sum(lo: Lowering) -> None:
    """Lower CumSum of small tensors along a known axis."""
    t, axes = lo.operand(0), lo.ints(1)
    if t.dtype.name not in _SUMMED or axes is None or t.size > MAX_SUMMED:
        lo.decline(f"sums of {t.dtype}, a large tensor, or an axis that depends on data")
    if not -len(t.shape) <= axes[0] < len(t.shape):
        lo.decline("an axis out of range")
    axis = axes[0] % len(t.shape)
    t, y = lo.plain(t), lo.result()
    outer, inner = math.prod(t.shape[:axis]), math.prod(t.shape[axis + 1 :])
    flags = (bool(lo.anchor.attr("exclusive")), bool(lo.anchor.attr("reverse")))
    kernel = Kernel("cum_sum", (t.dtype.name, *flags))
    lo.call(kernel, t.ref, y.ref, outer, t.shape[axis], inner)


@emits("cum_sum")
def emit_cum_sum(e: Emitter, dtype: str, exclusive: bool, reverse: bool) -> None:
    """Emit the running sums of each line."""
    x, y, outer, count, inner = e.args(5)
    b, type_ = e.b, _SUMMED[dtype]
    size = 8 if dtype.endswith("64") else 4
    add = b.fadd if dtype.startswith("f") else b.add
    first, last = e.share(b.mul(outer, inner))
    source, goal = e.ptr(x), e.ptr(y)

    def line(item: Val) -> None:
        o, i = e.divmod(item, inner)
        base = b.add(b.mul(b.mul(o, count), inner), i)

        def step(n: Val, total: list[Val]) -> list[Val]:
            at = b.sub(b.sub(count, i64(1)), n) if reverse else n
            offset = b.mul(b.add(base, b.mul(at, inner)), i64(size))
            found = add(total[0], e.load(e.off(source, offset), type_))
            e.store(total[0] if exclusive else found, e.off(goal, offset))
            return [found]

        e.loop(count, [e.zero(type_)], step)

    e.each(last, line, start=first)
