"""Lowerings of quantization that stays arithmetic in floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lowering import dtype_of, operand, optional
from lepton_ir.infer import const_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value


def _dequantize_linear(b: Builder, op: Op) -> list[Value]:
    """A zero point of zeros, which a bias of i32 always has, says nothing."""
    x, scale, zero = operand(op, 0), operand(op, 1), optional(op, 2)
    payload = const_tensor(zero)
    if dtype_of(x) is dtypes.I32 and payload is not None and not payload.numpy().any():
        return [b.dequantize_linear(x, scale, **op.attrs)]
    assert op.definition is not None
    assert op.definition.decompose is not None
    found: list[Value] = op.definition.decompose(b, op)
    return found


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {"dequantize_linear": _dequantize_linear}
