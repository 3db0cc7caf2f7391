"""A fault of LiteRT's memory plan (2.3) that files have to stay clear of.

A view (RESHAPE, SQUEEZE, EXPAND_DIMS) shares the memory of what it views, and arithmetic writes its
result over an operand that nothing reads any more. Where the viewed tensor itself was written over
another one, the plan loses count of its readers: arithmetic on the view overwrites it while it is
still to be read. A copy between the view and the arithmetic keeps them apart. XNNPACK's operators,
which take what is f32 up to rank 5, do not share so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.ir import Op, Value

OVERWRITING = frozenset(("add", "sub", "mul", "div", "softmax"))
"""Operations whose kernels may write over an operand."""

VIEWS = frozenset(("reshape", "squeeze", "unsqueeze", "flatten", "identity"))

_DELEGATED_RANK = 5


def endangered(op: Op) -> Iterator[Value]:
    """Yield the operands of an operation that need a copy of their own."""
    if op.name not in OVERWRITING:
        return
    for value in dict.fromkeys(op.operands):
        if value is None or value.op is None or value.op.name not in VIEWS:
            continue
        delegated = value.dtype is dtypes.F32 and (value.rank or 0) <= _DELEGATED_RANK
        if not delegated and _is_read_elsewhere(value):
            yield value


def _is_read_elsewhere(value: Value) -> bool:
    """Return whether what a chain of views shows has readers beside the chain."""
    while value.op is not None and value.op.name in VIEWS:
        viewed = value.op.operands[0]
        assert viewed is not None
        if viewed.use_count > 1:
            return True
        value = viewed
    return False
