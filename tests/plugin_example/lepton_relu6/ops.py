"""The operation ``relu6``: its signature, type, meaning, and how targets without it compute it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ir import Builder, Op, TensorType, Value, op
from lepton_ir.infer import InferContext


def infer(ctx: InferContext) -> TensorType:
    """The type of the operand."""
    return TensorType(ctx.dtype("x"), ctx.shape("x"))


def decompose(b: Builder, op: Op) -> list[Value]:
    """``clip(x, 0, 6)``."""
    return [b.clip(op.operands[0], 0.0, 6.0)]


@op("relu6(x)", infer=infer, traits="elementwise idempotent composite", decompose=decompose)
def relu6(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``min(max(x, 0), 6)``."""
    return np.clip(x, x.dtype.type(0), x.dtype.type(6))
