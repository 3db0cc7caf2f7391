"""What operations may be in a group that becomes one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.expression import STORED, TABLE, can_cast
from lepton_ir.backends.numba.kernels.quantized import OPERATIONS, is_per_tensor
from lepton_ir.backends.numba.lowering import takes_tail
from lepton_ir.infer import const_tensor

if TYPE_CHECKING:
    from lepton_ir.ir import Op


def role(op: Op) -> str:
    """Return ``elementwise``, ``anchor`` or nothing."""
    if takes_tail(op.name):
        return "anchor" if op.results[0].dtype in (dtypes.F32, dtypes.I32) else ""
    if op.name in OPERATIONS:
        return "elementwise" if is_per_tensor(op) else ""
    if op.name in ("at_least", "at_most", "identity"):
        return ""
    return "elementwise" if _is_elementwise(op) else ""


def _is_elementwise(op: Op) -> bool:
    types = [None if v is None or v.dtype is None else v.dtype.name for v in op.operands]
    result = op.results[0].dtype
    if result is None or result.name not in STORED or not types:
        return False
    if op.name == "clip":
        bounds = [const_tensor(v) for v in op.operands[1:] if v is not None]
        return types[0] in ("f32", "f64", "f16") and all(b and b.size == 1 for b in bounds)
    if op.name not in TABLE or any(t not in STORED for t in types):
        return False
    if op.name == "cast":
        return can_cast(str(types[0]), result.name) and op.attr("round_mode") == "up"
    return types[0] in TABLE[op.name].types
