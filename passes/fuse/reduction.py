"""Reductions that have a name: mean from sum, softmax from its parts, log softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import Scan, available, close, made_by, settle
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


@rewrite("div")
def fuse_softmax(m: Match, rw: Rewriter) -> bool:
    """exp(x - max(x)) / sum(exp(x - max(x))) over the last axis => softmax(x)."""
    scan = Scan(m.root)
    power = scan.op(m.root.operands[0], "exp")
    total = scan.op(m.root.operands[1], "reduce_sum")
    if power is None or total is None or total.operands[0] is not power.result:
        return False
    shifted = scan.op(power.operands[0], "sub")
    most = None if shifted is None else scan.op(shifted.operands[1], "reduce_max")
    if shifted is None or most is None or most.operands[0] is not shifted.operands[0]:
        return rw.fail("the largest element is not subtracted")
    if trailing(total) != 1 or trailing(most) != 1:
        return rw.fail("the axis is not the last one")
    x = shifted.operands[0]
    if x is None or x.rank is None or not scan.settles_on(x, rw):
        return False
    if not available(rw, "softmax"):
        return False
    return settle(rw, m.root, rw.softmax(x, axis=-1))


def mean_of_squares(scan: Scan, value: Value | None) -> tuple[Value, int] | None:
    """Return d and k where ``value`` is the mean of d * d over the last k axes, kept as 1."""
    mean = scan.op(value, "reduce_mean")
    k = None if mean is None else trailing(mean)
    if mean is None or k is None or mean.operands[0] is None:
        return None
    square = made_by(mean.operands[0], "mul", "pow")
    if square is None:
        return None
    found = scan.product(mean.operands[0])
    if found is None or found[0] != 1.0 or len(found[1]) != 2 or found[1][0] is not found[1][1]:
        return None
    return found[1][0], k
