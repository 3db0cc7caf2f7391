"""Initial states of recurrent operations that say what their absence says."""

from __future__ import annotations

from lepton_ir.infer import const_tensor
from lepton_ir.ir import Value
from lepton_ir.pattern import Const, Match
from lepton_ir.rewrite import Rewriter, rewrite

_DEPTH = 8
_VIEWS = ("reshape", "squeeze", "unsqueeze", "flatten", "transpose", "slice", "expand", "tile")
_PASSING = frozenset({*_VIEWS, "identity", "split", "gather", "cast"})
_FIRST_STATE = 5


def is_zeros(value: Value | None, depth: int = _DEPTH) -> bool:
    """Return whether every element of ``value`` is certainly 0, whatever its shape."""
    if value is None or depth == 0:
        return False
    tensor = const_tensor(value)
    if tensor is not None:
        return Const(value, tensor).is_value(0)
    op = value.op
    if op is None or op.has_attr_refs or not op.operands:
        return False
    if op.name == "constant_of_shape":
        fill = op.attr("value")
        return fill is None or bool((fill.numpy() == 0).all())
    if op.name == "concat":
        return len(op.operands) <= depth and all(is_zeros(v, depth - 1) for v in op.operands)
    return op.name in _PASSING and is_zeros(op.operands[0], depth - 1)


@rewrite("lstm", "gru", "rnn", exact=True)
def drop_zero_state(m: Match, rw: Rewriter) -> bool:
    """lstm(x, w, r, ..., initial_h=0, initial_c=0) => lstm(x, w, r, ...): absent states are 0."""
    op = m.root
    operands = list(op.operands)
    for i in (_FIRST_STATE, _FIRST_STATE + 1):
        if i < len(operands) and is_zeros(operands[i]):
            operands[i] = None
    if operands == op.operands:
        return rw.fail("no initial state is known to be 0")
    made = rw.build(op.name, *operands, results=len(op.results), **op.attrs)
    return rw.replace(op, made.results)
