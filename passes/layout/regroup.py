"""How a change of axis order passes through views: reshape, flatten, squeeze and unsqueeze.

A view joins neighbouring axes, splits them, and adds or drops axes of size 1. In another order it
is the same view of the same groups of axes, as long as the axes of each group stay neighbours and
in their order; axes of size 1 may stand anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.dims import Dim, product, same_dim
from lepton_ir.infer import const_array
from lepton_ir.passes.canonicalize.views import literal_shape
from lepton_ir.passes.layout.order import Order, Plan, is_identity, known_axes, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.ir import Op
    from lepton_ir.types import Shape

Groups = list[tuple[tuple[int, ...], tuple[int, ...]]]

VIEWS = frozenset({"reshape", "flatten", "squeeze", "unsqueeze"})


def groups_of(given: Shape | None, wanted: Shape | None) -> Groups | None:
    """Return which axes of ``given`` become which of ``wanted``, those of size 1 left out.

    >>> groups_of((2, 6, 1, 5), (2, 3, 2, 5))
    [((0,), (0,)), ((1,), (1, 2)), ((3,), (3,))]
    """
    if given is None or wanted is None:
        return None
    left = [i for i, d in enumerate(given) if d != 1]
    right = [j for j, d in enumerate(wanted) if d != 1]
    found: Groups = []
    while left and right:
        size = _group(
            [given[i] for i in left if given[i] is not None],
            [wanted[j] for j in right if wanted[j] is not None],
        )
        if size is None or any(given[i] is None for i in left[: size[0]]):
            return None
        if any(wanted[j] is None for j in right[: size[1]]):
            return None
        found.append((tuple(left[: size[0]]), tuple(right[: size[1]])))
        left, right = left[size[0] :], right[size[1] :]
    return None if left or right else found


def _group(given: Sequence[Dim | None], wanted: Sequence[Dim | None]) -> tuple[int, int] | None:
    """Return how many leading dims of either side have the same product, as few as possible."""
    m = n = 1
    while m <= len(given) and n <= len(wanted):
        a, b = (product([d for d in side if d is not None]) for side in (given[:m], wanted[:n]))
        if same_dim(a, b):
            return m, n
        if isinstance(a, int) and isinstance(b, int):
            m, n = (m + 1, n) if a < b else (m, n + 1)
        elif m == 1 and n == 1:
            return _lookahead(given, wanted)
        else:
            return None
    return None


def _lookahead(given: Sequence[Dim | None], wanted: Sequence[Dim | None]) -> tuple[int, int] | None:
    """Return a group of one axis on either side, where sizes cannot be compared."""
    for m in range(2, len(given) + 1):
        if same_dim(product([d for d in given[:m] if d is not None]), wanted[0]):
            return m, 1
    for n in range(2, len(wanted) + 1):
        if same_dim(product([d for d in wanted[:n] if d is not None]), given[0]):
            return 1, n
    return None


def _carried(order: Order, groups: Groups, source: int, rank: int) -> Order | None:
    """Return the order of the other side when side ``source`` comes in ``order``.

    Axes of size 1 of the other side stay behind the axis that they follow.
    """
    member = {axis: k for k, group in enumerate(groups) for axis in group[source]}
    sequence = [a for a in order if a in member]
    out: list[int] = []
    while sequence:
        group = groups[member[sequence[0]]]
        count = len(group[source])
        if tuple(sequence[:count]) != group[source]:
            return None
        out += group[1 - source]
        sequence = sequence[count:]
    for axis in range(rank):
        if axis not in out:
            out.insert(out.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(out)


def view(op: Op, order: Order, known: Order | None) -> Plan | None:
    """Return what a view becomes when its operand comes in ``order``.

    Args:
        op: the view.
        order: of its operand.
        known: the order that the result already has in the region, taken where it says the same.
    """
    if op.name in ("squeeze", "unsqueeze"):
        return _ones(op, order, known)
    x, shape = op.operands[0], op.result.shape
    groups = None if x is None or shape is None else groups_of(x.shape, shape)
    if groups is None or shape is None:
        return None
    result = _agreed(_carried(order, groups, 0, len(shape)), known, [g for _, g in groups])
    if result is None or (is_identity(order) and is_identity(result)):
        return None
    return (_reshape if op.name == "reshape" else _flatten)(op, order, result)


def view_source(op: Op, order: Order, known: Order | None) -> Order | None:
    """Return the order of the operand of a view whose result comes in ``order``."""
    x = op.operands[0]
    shape = None if x is None else x.shape
    if op.name == "unsqueeze":
        axes = known_axes(op.operand("axes"), len(order))
        return None if axes is None else without(order, axes)
    if shape is None:
        return None
    if op.name == "squeeze":
        axes = known_axes(op.operand("axes"), len(shape))
        kept = [a for a in range(len(shape)) if axes is not None and a not in axes]
        groups: Groups | None = [((a,), (j,)) for j, a in enumerate(kept)] if axes else None
    else:
        groups = groups_of(shape, op.result.shape)
    if groups is None:
        return None
    return _agreed(_carried(order, groups, 1, len(shape)), known, [g for g, _ in groups])


def _agreed(
    found: Order | None, known: Order | None, groups: Sequence[tuple[int, ...]]
) -> Order | None:
    """Return ``known`` when it differs from ``found`` by the places of axes of size 1 only."""
    if found is None or known is None:
        return found
    kept = {axis for group in groups for axis in group}
    same = [i for i in found if i in kept] == [i for i in known if i in kept]
    return known if same else None


def _ones(op: Op, order: Order, known: Order | None) -> Plan | None:
    """Squeeze and unsqueeze: other axes keep their order, new ones stay where they are."""
    array = const_array(op.operand("axes"))
    if array is None or not array.size:
        return None
    adds = op.name == "unsqueeze"
    axes = known_axes(op.operand("axes"), len(order) + (array.size if adds else 0))
    if axes is None:
        return None
    if not adds:
        moved = sorted(order.index(a) for a in axes)
        return Plan([order, None], [without(order, axes)], {1: np.asarray(moved, np.int64)})
    rank = len(order) + len(axes)
    free = [a for a in range(rank) if a not in axes]
    rest = iter(free[a] for a in order)
    result = tuple(a if a in axes else next(rest) for a in range(rank))
    if known is not None and without(known, axes) == order:
        result = known
    moved = sorted(result.index(a) for a in axes)
    return Plan([order, None], [result], {1: np.asarray(moved, np.int64)})


def _reshape(op: Op, order: Order, result: Order) -> Plan | None:
    literal = _same_literal(op, order, result)
    if literal is None:
        x, shape = op.operands[0], op.result.shape
        assert x is not None
        if x.shape is None or shape is None:
            return None
        literal = literal_shape([x.shape[a] for a in order], [shape[a] for a in result])
    if literal is None:
        return None
    constants = {1: np.asarray(literal, np.int64)}
    return Plan([order, None], [result], constants, {"allowzero": False})


def _same_literal(op: Op, order: Order, result: Order) -> list[int] | None:
    """Return the shape operand in the result's order; a 0 stays one, or becomes the known dim."""
    array, shape = const_array(op.operand("shape")), op.result.shape
    if array is None or shape is None or (op.attr("allowzero") and not array.all()):
        return None
    out: list[int] = []
    for place, axis in enumerate(result):
        size, known = int(array[axis]), shape[axis]
        if size == 0 and not (place < len(order) and order[place] == axis):
            if not isinstance(known, int) or known == 0:
                return None
            size = known
        out.append(size)
    return out


def _flatten(op: Op, order: Order, result: Order) -> Plan | None:
    x = op.operands[0]
    assert x is not None
    if x.shape is None or not is_identity(result):
        return None
    axis = int(op.attr("axis"))
    axis = axis + len(order) if axis < 0 else axis
    leading = [k for k, a in enumerate(order) if a < axis and x.shape[a] != 1]
    return Plan([order], [result], attrs={"axis": max(leading, default=-1) + 1})
