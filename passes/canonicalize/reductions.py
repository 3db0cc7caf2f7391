"""Reductions that merge, take in the view behind them, or have nothing to reduce."""

from __future__ import annotations

import numpy as np

from lepton_ir import dims
from lepton_ir.dims import Dim
from lepton_ir.infer import const_array
from lepton_ir.ir import Op, Value
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite

_MERGING = frozenset(
    f"reduce_{n}" for n in ("sum", "mean", "max", "min", "prod", "l1", "l2", "log_sum_exp")
)
"""Reductions f with f(f(x, a), b) = f(x, a and b) over a full box of elements."""
_OF_ONE = frozenset(f"reduce_{n}" for n in ("sum", "mean", "max", "min", "prod"))
"""Reductions that return a single element as it is."""
_SELECTING = ("reduce_max", "reduce_min")
_ARGS = ("arg_max", "arg_min")
_VIEWS = ("reshape", "squeeze", "unsqueeze", "flatten")


def constant_axes(op: Op) -> tuple[int, ...] | None:
    """Return the sorted axes of a reduction of known rank, ``None`` if they are not known."""
    x = op.operands[0]
    if x is None or x.rank is None:
        return None
    if op.name in _ARGS:
        axis = int(op.attr("axis"))
        return (axis + x.rank if axis < 0 else axis,)
    value = op.operand("axes")
    if value is None:
        return None if op.attr("noop_with_empty_axes") else tuple(range(x.rank))
    array = const_array(value)
    if array is None:
        return None
    if array.size == 0:
        return None
    axes = sorted({int(a) + x.rank if int(a) < 0 else int(a) for a in array.reshape(-1)})
    return tuple(axes) if axes[0] >= 0 and axes[-1] < x.rank else None


def _reduction(value: Value | None, names: frozenset[str] | tuple[str, ...]) -> Op | None:
    op = None if value is None else value.op
    return op if op is not None and op.name in names and not op.has_attr_refs else None


def _axes_operand(rw: Rewriter, axes: tuple[int, ...]) -> Value:
    return rw.const(np.asarray(axes, np.int64))


def _same_shape(a: list[Dim | None], b: tuple[Dim | None, ...] | None) -> bool:
    if b is None or len(a) != len(b):
        return False
    return all(
        x is not None and y is not None and (x is y or dims.prove_eq(x, y) is True)
        for x, y in zip(a, b, strict=True)
    )


@rewrite(*_VIEWS, exact=True)
def view_of_reduction(m: Match, rw: Rewriter) -> bool:
    """squeeze(reduce(x, keepdims=true)) => reduce(x, keepdims=false), and the other way round.

    Any view counts whose proven shape is that of the reduction with the other ``keepdims``.
    """
    value = m.root.operands[0]
    op = value.op if value is not None else None
    if op is None or value is None or op.has_attr_refs:
        return False
    if op.name not in _ARGS and not op.name.startswith("reduce_"):
        return False
    if value.use_count > 1:
        return rw.fail("the reduction has other users")
    axes, x = constant_axes(op), op.operands[0]
    if axes is None or x is None or x.shape is None:
        return rw.fail("axes or shape are not known")
    keep = not op.attr("keepdims")
    wanted = [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]
    if not _same_shape(wanted, m.root.result.shape):
        return rw.fail("the view does more than keep or drop the reduced axes")
    rw.also(op)
    attrs = {**op.attrs, "keepdims": keep}
    return rw.replace(m.root, rw.build(op.name, *op.operands, **attrs).result)


@rewrite(*sorted(_MERGING), exact=True)
def merge_reductions(m: Match, rw: Rewriter) -> bool:
    """reduce(reduce(x, a), b) => reduce(x, a and b) for the same reduction.

    Bit-exact for the largest and smallest; a mean of means is the mean of a full box.
    """
    inner = _reduction(m.root.operands[0], (m.root.name,))
    if inner is None or (rw.ctx.exact and m.root.name not in _SELECTING):
        return False
    if inner.result.use_count > 1:
        return rw.fail("the inner reduction has other users")
    first, second, x = constant_axes(inner), constant_axes(m.root), inner.operands[0]
    if first is None or second is None or x is None or x.rank is None:
        return rw.fail("axes or rank are not known")
    if inner.attr("keepdims") != m.root.attr("keepdims"):
        return rw.fail("only one of them keeps the axes")
    if not inner.attr("keepdims"):
        left = [a for a in range(x.rank) if a not in first]
        second = tuple(left[a] for a in second)
    rw.also(inner)
    axes = _axes_operand(rw, tuple(sorted({*first, *second})))
    return rw.replace(m.root, rw.build(m.root.name, x, axes, **m.root.attrs).result)


@rewrite(*sorted(_OF_ONE), exact=True)
def reduce_ones(m: Match, rw: Rewriter) -> bool:
    """reduce(x, axes of size 1) => x or squeeze(x); such axes are left out beside others.

    A sum of one element is that element, up to the sign of zero.
    """
    op, x = m.root, m.root.operands[0]
    axes = constant_axes(op)
    if axes is None or x is None or x.shape is None or not axes:
        return False
    if rw.ctx.exact and op.name not in _SELECTING:
        return False
    ones = [a for a in axes if x.shape[a] == 1]
    if len(ones) == len(axes):
        if op.attr("keepdims"):
            return rw.replace(op, x)
        return rw.replace(op, rw.squeeze(x, _axes_operand(rw, axes)))
    if not ones or not op.attr("keepdims"):
        return rw.fail("an axis to reduce is not proven to have size 1")
    rest = _axes_operand(rw, tuple(a for a in axes if a not in ones))
    return rw.replace(op, rw.build(op.name, x, rest, **op.attrs).result)
