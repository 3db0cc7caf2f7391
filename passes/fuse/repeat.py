"""Slices of a tensor that are repeated, as grouped attention does with its keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.dims import same_dims
from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import available, made_by, settle, sole_user
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_MOST = 1 << 12


def repeated(merged: Op) -> tuple[Value, int, np.ndarray[Any, Any]] | None:
    """Return x, axis and indices where a reshape is ``gather(x, indices, axis)``, each repeated.

    Spelled ``reshape(expand(unsqueeze(x, axis + 1), (..., n, ...)), (..., size * n, ...))``.
    """
    spread = made_by(merged.operands[0], "expand")
    single = None if spread is None else made_by(spread.operands[0], "unsqueeze", "reshape")
    x = None if single is None else single.operands[0]
    if single is None or spread is None or x is None:
        return None
    shape, one, many, y = x.shape, single.result.shape, spread.result.shape, merged.result.shape
    if shape is None or one is None or many is None or y is None or len(many) != len(shape) + 1:
        return None
    for axis, size in enumerate(shape):
        times, made = many[axis + 1], y[axis] if axis < len(y) else None
        if not (isinstance(size, int) and isinstance(times, int) and made == size * times):
            continue
        head, tail = shape[: axis + 1], shape[axis + 1 :]
        if not (same_dims(one, (*head, 1, *tail)) and same_dims(many, (*head, times, *tail))):
            continue
        if same_dims(y, (*shape[:axis], made, *tail)) and 0 < made <= _MOST:
            return x, axis, np.repeat(np.arange(size, dtype=np.int64), times)
    return None


def unrepeated(value: Value) -> Value:
    """Return x (batch, groups, ...) where ``value`` repeats each group; else ``value`` itself."""
    merged = made_by(value, "reshape")
    if merged is not None:
        found = repeated(merged)
        return found[0] if found is not None and found[1] == 1 else value
    chosen = made_by(value, "gather")
    x = None if chosen is None else chosen.operands[0]
    if chosen is None or x is None or x.shape is None or chosen.attr("axis") != 1:
        return value
    indices = const_array(chosen.operands[1])
    groups = x.shape[1] if len(x.shape) > 1 else None
    if indices is None or indices.ndim != 1 or not isinstance(groups, int) or not groups:
        return value
    expected = np.repeat(np.arange(groups), indices.size // groups)
    return x if np.array_equal(indices, expected) else value


@rewrite("reshape", exact=True)
def repeat_to_gather(m: Match, rw: Rewriter) -> bool:
    """reshape(expand(unsqueeze(x))) that repeats each slice n times => gather(x, [0, 0, 1, 1...]).

    For sizes that are known along the axis; other dims are proven to stay.
    """
    found = repeated(m.root)
    if found is None:
        return False
    x, axis, indices = found
    spread = m.root.operands[0]
    if spread is None or not sole_user(spread) or not available(rw, "gather"):
        return rw.fail("what is repeated has other users")
    assert spread.op is not None
    rw.also(spread.op)
    return settle(rw, m.root, rw.gather(x, rw.const(indices), axis=axis))
