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


_ALWAYS = 1 << 16

TAKEN_APART_F16: dict[str, tuple[int, int]] = {
    "elu": (18, 18),
    "gelu": (20, _ALWAYS),
    "hard_sigmoid": (18, 18),
    "hard_swish": (14, _ALWAYS),
    "leaky_relu": (16, 18),
    "log_softmax": (13, _ALWAYS),
    "mish": (18, _ALWAYS),
    "prelu": (16, 18),
    "relu": (18, 18),
    "selu": (18, 18),
    "softmax": (13, _ALWAYS),
    "softplus": (18, 18),
    "softsign": (18, 18),
    "swish": (24, _ALWAYS),
    "thresholded_relu": (18, 18),
}
"""Operators that are functions of the schema and have no f16 kernel: the first and the last opset
in which onnxruntime 1.32 computes them as their parts, in f32, and fuses them with nothing."""


def computes(op: Op, dtype: DType, opset: int) -> bool | str:
    """Return ``True``, or why onnxruntime takes ``op`` apart on operands of ``dtype``."""
    first, last = TAKEN_APART_F16.get(op.name, (1, 0))
    if dtype is dtypes.F16 and first <= opset <= last:
        return "onnxruntime has no kernel for it on processors, and takes it apart"
    return True


def runs(op: Op, dtype: DType) -> bool | str:
    """Return ``True``, or why onnxruntime refuses ``op`` on operands of ``dtype``."""
    if dtype is dtypes.BF16:
        return op.name in RUNS_BF16 or "onnxruntime has no bf16 kernel for it on processors"
    if dtype is not dtypes.F16:
        return True
    if op.name in ("scatter_elements", "scatter_nd") and op.attr("reduction") not in ("", "none"):
        return "onnxruntime scatters f16 without reduction only"
    return "onnxruntime refuses it: " + REFUSED_F16[op.name] if op.name in REFUSED_F16 else True
