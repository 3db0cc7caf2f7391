"""Operations that do nothing to values that are never negative."""

from __future__ import annotations

import numpy as np

from lepton_ir.infer import const_array
from lepton_ir.ir import Value
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite

_DEPTH = 4
_CONST_LIMIT = 1 << 12

_NEVER = frozenset(
    {
        *("abs", "relu", "sigmoid", "exp", "sqrt", "softmax", "softplus", "hard_sigmoid"),
        *("reduce_l1", "reduce_l2", "reduce_sum_square", "shape", "size"),
    }
)
_KEEPS = frozenset(
    {
        *("reshape", "squeeze", "unsqueeze", "flatten", "transpose", "expand", "identity", "slice"),
        *("gather", "tile", "average_pool", "global_average_pool", "reduce_mean", "reduce_min"),
        *("ceil", "floor", "round"),
    }
)
_ALL = frozenset({"add", "mul", "min", "concat"})


def never_negative(value: Value | None, depth: int = _DEPTH) -> bool:
    """Return whether no element of a float tensor is below zero (NaN may occur)."""
    op = None if value is None else value.op
    if value is None or op is None or value.dtype is None or not value.dtype.is_float:
        return False
    if op.name == "const":
        array = const_array(value, _CONST_LIMIT)
        return array is not None and bool(((array >= 0) & ~np.signbit(array)).all())
    if op.name in _NEVER:
        return True
    if depth == 0 or op.definition is None or op.has_attr_refs:
        return False
    if op.name in _KEEPS:
        return never_negative(op.operands[0], depth - 1)
    if op.name == "mul" and op.operands[0] is op.operands[1]:
        return True
    if op.name == "pow":
        exponent = const_array(op.operands[1], _CONST_LIMIT)
        return exponent is not None and bool((exponent % 2 == 0).all())
    if op.name in _ALL:
        return len(op.operands) <= _DEPTH and all(never_negative(v, depth - 1) for v in op.operands)
    if op.name == "max":
        return any(never_negative(v, depth - 1) for v in op.operands[:_DEPTH])
    if op.name == "clip":
        high = op.operand("max")
        bounded = high is None or never_negative(high, depth - 1)
        return bounded and never_negative(op.operand("min"), depth - 1)
    return False


@rewrite("abs", "relu")
def drop_sign_check(m: Match, rw: Rewriter) -> bool:
    """abs(x) => x and relu(x) => x where no element of x is negative, up to the sign of zero."""
    x = m.root.operands[0]
    if x is None or not never_negative(x):
        return False
    return rw.replace(m.root, x, same=True)
