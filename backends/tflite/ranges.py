"""What is proven of the numbers in integer tensors: no negative ones, none beyond 32 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.infer import const_array, content_of
from lepton_ir.ir import Block

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value

_DEPTH = 12
_READ = 1 << 28

_MOVES = frozenset(
    (
        "reshape",
        "squeeze",
        "unsqueeze",
        "transpose",
        "slice",
        "gather",
        "expand",
        "tile",
        "identity",
        "flatten",
        "split",
        "cast",
    )
)
"""Operations whose results hold elements of their first operand."""

_INDICES = frozenset(("arg_max", "arg_min", "shape", "size", "non_zero", "abs"))
"""Operations without a negative result."""


def never_negative(value: Value | None, depth: int = _DEPTH) -> bool:
    """Return whether no element can be negative."""
    if value is None or depth == 0:
        return False
    known = const_array(value, _READ)
    if known is not None:
        return not known.size or bool(known.min() >= 0)
    if value.dtype is not None and value.dtype.kind in ("uint", "bool"):
        return True
    op = value.op
    if op is None:
        return _counts(value)
    if op.name in _INDICES or (op.name == "top_k" and value.index == 1):
        return True
    return _derived(op, depth - 1)


def _counts(value: Value) -> bool:
    """Return whether a block's argument is the number of an iteration."""
    block = value.producer
    outer = block.parent_op if isinstance(block, Block) else None
    return outer is not None and outer.name == "loop" and value.index == 0


def _derived(op: Op, depth: int) -> bool:
    first = op.operands[0] if op.operands else None
    if op.name in _MOVES:
        if op.name == "cast" and (first is None or first.dtype is None or first.dtype.is_float):
            return False
        return never_negative(first, depth)
    if op.name in ("mod", "floor_mod"):
        return not op.attrs.get("fmod") and never_negative(op.operands[1], depth)
    if op.name == "max":
        first, second = op.operands[0], op.operands[-1]
        negated = any(
            v is not None and v.op is not None and v.op.name == "neg" and v.op.operands[0] is u
            for v, u in ((first, second), (second, first))
        )
        return negated or any(never_negative(v, depth) for v in op.operands)
    if op.name in ("add", "mul", "min", "concat", "div"):
        return all(never_negative(v, depth) for v in op.operands)
    if op.name == "where":
        return all(never_negative(v, depth) for v in op.operands[1:])
    if op.name == "range":
        start, _, step = op.operands
        return never_negative(start, depth) and never_negative(step, depth)
    return False


def fits_32(value: Value) -> bool:
    """Return whether all elements fit into 32 bits; sizes do, since a runtime's have no more."""
    known = const_array(value, _READ)
    info = np.iinfo(np.int32)
    if known is not None:
        return not known.size or bool(known.min() >= info.min and known.max() <= info.max)
    content = content_of(value)
    if content is not None and all(d is not None for d in content):
        return all(info.min <= d <= info.max for d in content if isinstance(d, int))
    op = value.op
    return op is not None and op.name in ("shape", "size", "arg_max", "arg_min", "non_zero")
