"""What onnxruntime's CPU provider does with 16-bit floats (found by running one node at a time).

For f16 it casts around operators that have no f16 kernel, so every operator that the specification
gives f16 loads; the exceptions are below. For bf16 it does no such thing: an operator without a
bf16 kernel makes it refuse the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op

REFUSED_F16: dict[str, str] = {
    "mean_variance_normalization": "its expansion mixes f16 with f32",
}
"""Operators that f16 models fail to load with, and why."""

RUNS_BF16 = frozenset(
    {
        *("cast", "concat", "flatten", "gather", "gather_elements", "gather_nd", "identity"),
        *("reshape", "shape", "sign", "slice", "split", "squeeze", "transpose", "unsqueeze"),
    }
)
"""Operators with bf16 kernels in every opset that gives them bf16."""


def runs(op: Op, dtype: DType) -> bool | str:
    """Return ``True``, or why onnxruntime refuses ``op`` on operands of ``dtype``."""
    if dtype is dtypes.BF16:
        return op.name in RUNS_BF16 or "onnxruntime has no bf16 kernel for it on processors"
    if dtype is not dtypes.F16:
        return True
    if op.name in ("scatter_elements", "scatter_nd") and op.attr("reduction") not in ("", "none"):
        return "onnxruntime scatters f16 without reduction only"
    return "onnxruntime refuses it: " + REFUSED_F16[op.name] if op.name in REFUSED_F16 else True
