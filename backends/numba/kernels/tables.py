"""Functions of one byte as tables: what stands between two quantizations of one tensor.

A chain such as ``quantize(sigmoid(dequantize(x)))`` has 256 results. They are computed by the
operations' own meanings while planning, so that the kernel looks them up, whatever they cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.expression import Step, has_byte_permutation
from lepton_ir.interp import call_meaning

if TYPE_CHECKING:
    from lepton_ir.backends.numba.kernels.elementwise import Translation
    from lepton_ir.backends.numba.plan import Array
    from lepton_ir.ir import Op, Value

_BYTES = (dtypes.U8, dtypes.I8)
_CHEAP = frozenset(("add", "sub", "mul", "neg", "abs", "relu", "cast", "max", "min"))
_COST = {"quantize_linear": 10, "dequantize_linear": 3, "clip": 2, "div": 6}
_DEAR = 12
"""About how many instructions operations cost; those that are not listed are functions."""

_LOOKUP, _GATHER = 10, 30
"""The same of a table, with instructions that permute bytes and without."""


def translate_table(translation: Translation, op: Op) -> int | None:
    """Add a quantization as a table of codes; return its number, ``None`` if that is no gain."""
    if op.results[0].dtype not in _BYTES:
        return None
    found = _function_of(translation, op)
    if found is None or len(found[1]) < 2:
        return None
    leaf, ops = found
    cost = sum(1 if o.name in _CHEAP else _COST.get(o.name, _DEAR) for o in ops)
    limit = _LOOKUP if has_byte_permutation(translation.lo.machine) else _GATHER
    if cost <= limit:
        return None
    table = _table(translation, leaf, ops)
    place = translation.lo.constant(("table", table.tobytes()), lambda: table)
    assert place.buffer.array is not None
    address = translation.address(place.buffer.array)
    dtype = op.results[0].dtype
    assert dtype is not None
    args = (translation.operand(leaf), address)
    return translation.step(Step("lookup", dtype.name, args))


def _function_of(translation: Translation, op: Op) -> tuple[Value, list[Op]] | None:
    """Return the one tensor of bytes that ``op`` is a function of, and the operations between."""
    inside, leaves, pending = {op}, set(), [op]
    while pending:
        for value in pending.pop().operands:
            if value is None or translation.number_of(value) is not None:
                continue
            known = translation.functions.get(value)
            if known is not None:
                leaves.add(known[0])
                inside.update(known[1])
            elif value.dtype in _BYTES:
                leaves.add(value)
            elif value.op is None or value.op not in translation.lo.tail:
                return None
            elif value.op not in inside:
                inside.add(value.op)
                pending.append(value.op)
        if len(leaves) > 1:
            return None
    if len(leaves) != 1:
        return None
    found = leaves.pop(), [o for o in translation.lo.tail if o in inside]
    translation.functions[op.results[0]] = found
    return found


def _table(translation: Translation, leaf: Value, ops: list[Op]) -> Array:
    """Return the results of all 256 bytes, in the order of their bits."""
    assert leaf.dtype is not None
    codes = np.arange(256, dtype=np.uint8).view(leaf.dtype.numpy)
    values: dict[Value, Any] = {leaf: codes}
    for op in ops:
        operands = []
        for value in op.operands:
            if value is None or value in values:
                operands.append(None if value is None else values[value])
            else:
                known = translation.lo.known_value(value)
                assert known is not None
                operands.append(known.reshape(()))
        values[op.results[0]] = np.asarray(call_meaning(op, operands, op.all_attrs())[0])
    found: Array = values[ops[-1].results[0]].view(np.uint8)
    return found
