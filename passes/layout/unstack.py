"""Parts of a transposed stack: where the stacked axis stands decides how fast the transpose is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.infer import const_array
from lepton_ir.passes.layout.order import Order, perm_of
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_LEAST_RANK = 4


def moves_one_axis(perm: Order) -> bool:
    """Return whether an order differs from the identity by the place of one axis.

    >>> moves_one_axis((0, 2, 3, 1)), moves_one_axis((2, 0, 3, 1))
    (True, False)
    """
    rest = range(len(perm) - 1)
    for axis in range(len(perm)):
        left = [a - (a > axis) for a in perm if a != axis]
        if left == list(rest):
            return True
    return False


def _axis(op: Op, rank: int) -> int:
    axis = int(op.attr("axis"))
    return axis + rank if axis < 0 else axis


def _parts(split: Op, axis: int, rank: int) -> list[Op] | None:
    """Return the operations that drop the split axis of each part; ``None`` if not all do."""
    found: list[Op] = []
    for part in split.results:
        users = part.users
        if len(users) != 1 or part.use_count != 1 or users[0].name != "squeeze":
            return None
        axes = const_array(users[0].operand("axes"))
        if axes is None or axes.size != 1 or int(axes.reshape(-1)[0]) % rank != axis:
            return None
        found.append(users[0])
    return found


@rewrite("transpose", exact=True)
def unstack_transposed(m: Match, rw: Rewriter) -> bool:
    """squeeze(split(transpose(x, p), a), a) => the same by another axis, where p moves one axis.

    Runtimes copy blocks where an order moves a single axis and elements elsewhere, if the innermost
    axis moves; the parts do not show where the axis stood that they were stacked by.
    """
    perm, x = perm_of(m.root), m.root.operands[0]
    split = m.root.result.users[0] if m.root.result.use_count == 1 else None
    if perm is None or x is None or split is None or split.name != "split" or split.has_attr_refs:
        return False
    rank = len(perm)
    if rank < _LEAST_RANK or perm[-1] == rank - 1 or moves_one_axis(perm):
        return rw.fail("its order is one that runtimes have a fast copy for")
    axis = _axis(split, rank)
    parts = _parts(split, axis, rank)
    if parts is None:
        return rw.fail("not every part loses the axis it was split by")
    rest = [a for a in perm if a != perm[axis]]
    orders = ((i, (*rest[:i], perm[axis], *rest[i:])) for i in range(rank))
    place, order = next(((i, o) for i, o in orders if moves_one_axis(o)), (0, ()))
    if not order:
        return rw.fail("no place of the axis leaves a single one to move")
    rw.also(split, *parts)
    moved = rw.transpose(x, perm=order)
    attrs = {**split.attrs, "axis": place}
    made = rw.build("split", moved, *split.operands[1:], results=len(parts), **attrs)
    axes = rw.const(np.asarray([place], np.int64))
    for part, result in zip(parts, made.results, strict=True):
        rw.replace(part, rw.squeeze(result, axes))
    return True
