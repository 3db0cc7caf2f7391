"""Rows of halves of pairs that stand alone: between floats and integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.tflite.parameters import Params, params_of
from lepton_ir.backends.tflite.row import Row
from lepton_ir.infer import const_tensor

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value

KINDS = frozenset((dtypes.I8, dtypes.U8, dtypes.I16))
"""Element types of quantized activations."""


_STEPS = 8
"""Operations that move integers, one behind the other, behind which a reader is looked for."""


def owner(value: Value) -> Params | None:
    """Return which numbers an integer value stands for: what makes it says so, or a reader."""
    at: Value | None = value
    for _ in range(_STEPS):
        if at is None:
            return None
        op = at.op
        if op is not None and op.name == "quantize_linear":
            return params_of(op)
        users = at.users
        reader = next((u for u in users if u.name == "dequantize_linear"), None)
        if reader is not None:
            return params_of(reader)
        moved = (u.results[0] for u in users if u.name in ("transpose", "reshape"))
        at = next((v for v in moved if v.dtype is value.dtype), None)
    return None


def _quantize_fits(op: Op) -> str:
    """Return why a QUANTIZE cannot do what ``quantize_linear`` does; ``""`` if it can."""
    params = params_of(op)
    if params is None or params.axis is not None:
        return "QUANTIZE has one constant scale"
    if op.results[0].dtype not in KINDS:
        return f"QUANTIZE does not give {op.results[0].dtype}"
    if op.results[0].dtype is dtypes.I16 and not params.symmetric:
        return "the zero point of i16 is not 0"
    return ""


def _quantize(g: Graph, op: Op) -> None:
    g.add("QUANTIZE", [g.value(op.operands[0])], [g.result(op)])


def _dequantize_fits(op: Op) -> str:
    """Return why a DEQUANTIZE cannot do what ``dequantize_linear`` does; ``""`` if it can."""
    params, x = params_of(op), op.operands[0]
    assert x is not None
    if params is None:
        return "DEQUANTIZE has constant scales"
    if const_tensor(x) is not None:
        return _held_fits(params, x.dtype)
    if x.dtype not in KINDS:
        return f"DEQUANTIZE does not take {x.dtype}"
    if params.axis is not None:
        return "DEQUANTIZE has one scale for activations"
    if x.dtype is dtypes.I16 and not params.symmetric:
        return "the zero point of i16 is not 0"
    return "" if owner(x) == params else "the same integers stand for other numbers elsewhere"


def _held_fits(params: Params, dtype: DType | None) -> str:
    if dtype in (dtypes.I8, dtypes.I4):
        return ""
    if dtype is dtypes.I32:
        return "" if params.symmetric else "integers of 32 bits have no zero point"
    known = dtype in KINDS and params.axis is None
    return "" if known else f"DEQUANTIZE does not take such constants of {dtype}"


def _dequantize(g: Graph, op: Op) -> None:
    g.add("DEQUANTIZE", [g.value(op.operands[0])], [g.result(op)])


ROWS = {
    "quantize_linear": Row("QUANTIZE", _quantize, _quantize_fits),
    "dequantize_linear": Row("DEQUANTIZE", _dequantize, _dequantize_fits),
}
