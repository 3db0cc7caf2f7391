"""Reductions that have a name: mean from sum, softmax from its parts, log softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import Scan, available, close, made_by, pays, settle
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter


def reduced_axes(op: Op) -> tuple[int, ...] | None:
    """Return the constant axes of a reduction, not negative where the rank is known."""
    x, axes = op.operands[0], op.operand("axes")
    if x is None or axes is None:
        return None
    found = const_array(axes)
    if found is None or found.size == 0:
        return None
    ints = [int(a) for a in found.reshape(-1)]
    if x.rank is not None:
        ints = [a % x.rank for a in ints]
    return tuple(sorted(ints))


def trailing(op: Op) -> int | None:
    """Return k where ``op`` reduces exactly the last k axes and keeps them as 1."""
    axes, x = reduced_axes(op), op.operands[0]
    if axes is None or x is None or not op.attr("keepdims"):
        return None
    end = 0 if x.rank is None else x.rank
    k = len(axes)
    return k if axes == tuple(range(end - k, end)) else None


@rewrite("div", "mul")
def mean_from_sum(m: Match, rw: Rewriter) -> bool:
    """reduce_sum(x, axes) / n => reduce_mean(x, axes), n the number of elements summed."""
    scan = Scan(m.root)
    found = scan.with_number(m.root.result, m.root.name)
    total = None if found is None else scan.op(found[0], "reduce_sum")
    if found is None or total is None:
        return False
    axes, x = reduced_axes(total), total.operands[0]
    if axes is None or x is None or x.shape is None or x.dtype is None or not x.dtype.is_float:
        return rw.fail("the axes, the shape or the element type are not known")
    sizes = [x.shape[a] for a in axes]
    if not all(isinstance(s, int) and s > 0 for s in sizes):
        return rw.fail("the number of elements summed is not known")
    count = math.prod(s for s in sizes if isinstance(s, int))
    if not close(found[1], count if m.root.name == "div" else 1 / count, x.dtype):
        return rw.fail("{} is not the number of elements, {}", found[1], count)
    if not scan.settles_on(total.result, rw):
        return False
    attrs = {"keepdims": total.attr("keepdims")}
    return settle(rw, m.root, rw.reduce_mean(x, total.operand("axes"), **attrs))


@rewrite("log")
def fuse_log_softmax(m: Match, rw: Rewriter) -> bool:
    """log(softmax(x)) => log_softmax(x), which loses fewer digits.

    Not for 16-bit elements, whose softmax underflows to 0 soon: log_softmax has no infinities.
    """
    scan = Scan(m.root)
    inner = scan.op(m.root.operands[0], "softmax")
    if inner is None:
        return False
    x = inner.operands[0]
    if x is None or x.dtype is None or x.dtype.bits < 32:
        return rw.fail("small elements of the softmax may be 0")
    if not scan.settles_on(x, rw) or not available(rw, "log_softmax"):
        return False
    return settle(rw, m.root, rw.log_softmax(x, **inner.all_attrs()))


def _single_axis(op: Op | None) -> int | None:
    """Return the axis where ``op`` reduces one axis of a known rank and keeps it as 1."""
    axes = None if op is None or not op.attr("keepdims") else reduced_axes(op)
    x = None if op is None else op.operands[0]
    if axes is None or x is None or x.rank is None or len(axes) != 1:
        return None
    return axes[0]


def _less_largest(scan: Scan, value: Value | None) -> tuple[Value, int] | None:
    """Return x and the axis where ``value`` is ``x - max(x)`` along it."""
    shifted = scan.op(value, "sub")
    most = None if shifted is None else scan.op(shifted.operands[1], "reduce_max")
    axis = _single_axis(most)
    if shifted is None or most is None or axis is None:
        return None
    x = shifted.operands[0]
    return (x, axis) if x is not None and most.operands[0] is x else None


def _sum_of_powers(scan: Scan, value: Value | None) -> tuple[Op, int] | None:
    """Return the exp and the axis where ``value`` is ``sum(exp(d))`` along it."""
    total = scan.op(value, "reduce_sum")
    axis = _single_axis(total)
    power = None if total is None else scan.op(total.operands[0], "exp")
    return None if power is None or axis is None else (power, axis)


def _made_softmax(m: Match, rw: Rewriter, scan: Scan, name: str, x: Value, axis: int) -> bool:
    if x.rank is None or not available(rw, name):
        return False
    last = axis == x.rank - 1
    if not (last or pays(rw, name)) or not scan.settles_on(x, rw):
        return False
    return settle(rw, m.root, rw.build(name, x, axis=-1 if last else axis).result)


@rewrite("div")
def fuse_softmax(m: Match, rw: Rewriter) -> bool:
    """exp(x - max(x)) / sum(exp(x - max(x))) over one axis => softmax(x)."""
    scan = Scan(m.root)
    total = _sum_of_powers(scan, m.root.operands[1])
    if total is None or m.root.operands[0] is not total[0].result:
        return False
    found = _less_largest(scan, total[0].operands[0])
    if found is None:
        return rw.fail("the largest element is not subtracted")
    if found[1] != total[1]:
        return rw.fail("the axes differ")
    return _made_softmax(m, rw, scan, "softmax", *found)


@rewrite("sub")
def log_softmax_from_sum(m: Match, rw: Rewriter) -> bool:
    """(d - log(sum(exp(d)))) for d = x - max(x) => log_softmax(x).

    Also x - reduce_log_sum_exp(x), which does not overflow either.
    """
    scan = Scan(m.root)
    d, log = m.root.operands[0], scan.op(m.root.operands[1], "log", "reduce_log_sum_exp")
    if log is None or d is None:
        return False
    if log.name == "reduce_log_sum_exp":
        axis = _single_axis(log)
        if axis is None or log.operands[0] is not d:
            return False
        return _made_softmax(m, rw, scan, "log_softmax", d, axis)
    total = _sum_of_powers(scan, log.operands[0])
    if total is None or total[0].operands[0] is not d:
        return False
    found = _less_largest(scan, d)
    if found is None or found[1] != total[1]:
        return rw.fail("the largest element is not subtracted: the sum may overflow")
    return _made_softmax(m, rw, scan, "log_softmax", *found)


@rewrite("softmax", "log_softmax")
def drop_shift_before_softmax(m: Match, rw: Rewriter) -> bool:
    """softmax(x - max(x)) => softmax(x), which subtracts the largest element itself."""
    scan = Scan(m.root)
    found = _less_largest(scan, m.root.operands[0])
    if found is None or m.root.attr("coerce_2d"):
        return False
    x, axis = found
    assert x.rank is not None
    if int(m.root.attr("axis")) % x.rank != axis:
        return rw.fail("the largest along another axis is subtracted")
    if not scan.settles_on(x, rw):
        return False
    return settle(rw, m.root, rw.build(m.root.name, x, **m.root.all_attrs()).result)


def mean_of_squares_over(scan: Scan, value: Value | None) -> tuple[Value, tuple[int, ...]] | None:
    """Return d and the axes where ``value`` is the mean of d * d over them, kept as 1."""
    mean = scan.op(value, "reduce_mean")
    axes = None if mean is None or not mean.attr("keepdims") else reduced_axes(mean)
    if mean is None or axes is None or mean.operands[0] is None:
        return None
    square = made_by(mean.operands[0], "mul", "pow")
    if square is None:
        return None
    found = scan.product(mean.operands[0])
    if found is None or found[0] != 1.0 or len(found[1]) != 2 or found[1][0] is not found[1][1]:
        return None
    return found[1][0], axes


def mean_of_squares(scan: Scan, value: Value | None) -> tuple[Value, int] | None:
    """Return d and k where ``value`` is the mean of d * d over the last k axes, kept as 1."""
    mean = made_by(value, "reduce_mean")
    k = None if mean is None else trailing(mean)
    found = None if k is None else mean_of_squares_over(scan, value)
    return None if found is None or k is None else (found[0], k)
