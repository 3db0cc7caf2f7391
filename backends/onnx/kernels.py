"""Which element types onnxruntime computes, for operators that passes put in place of others.

An operator may be valid in an opset and still have no kernel. The source of a model runs, so its
own nodes are no concern; a pass must not turn what runs into what does not. The sets are those of
the CPU provider of onnxruntime 1.32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.dtypes import F16, F32, F64, I8, I32, DType

if TYPE_CHECKING:
    from collections.abc import Mapping

_HALF_AND_SINGLE = frozenset({F16, F32})
_FLOATS = frozenset({F16, F32, F64})

_KERNELS: Mapping[str, frozenset[DType]] = {
    "BatchNormalization": _FLOATS,
    "Gelu": _HALF_AND_SINGLE,
    "Gemm": _FLOATS,
    "HardSigmoid": _HALF_AND_SINGLE,
    "HardSwish": _HALF_AND_SINGLE,
    "LayerNormalization": _FLOATS | {dtypes.BF16},
    "LeakyRelu": _HALF_AND_SINGLE,
    "LogSoftmax": _FLOATS,
    "Mish": _HALF_AND_SINGLE,
    "RMSNormalization": _FLOATS,
    "Relu": _FLOATS | {I8, I32},
    "Softmax": _FLOATS,
    "Swish": frozenset(),
}

_CLIP_EVERYTHING = 12
"""Before this opset Clip has a kernel for float32 only."""

_AS_FUNCTION: Mapping[str, tuple[int, frozenset[DType]]] = {"Swish": (24, _FLOATS)}
"""Operators without a kernel that run as the function of their schema, in this opset alone."""


def has_kernel(op_type: str, opset: int, dtype: DType) -> bool:
    """Return whether onnxruntime computes an operator of the default domain.

    Args:
        op_type: the operator; those that no pass makes out of others count as computed.
        opset: opset of the model.
        dtype: element type of the first input.
    """
    if op_type == "Clip" and opset < _CLIP_EVERYTHING:
        return dtype is F32
    known = _KERNELS.get(op_type)
    if known is None or dtype in known:
        return True
    at, types = _AS_FUNCTION.get(op_type, (0, frozenset()))
    return opset == at and dtype in types
