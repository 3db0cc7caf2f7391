"""Structure: constants, calls and the terminators of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ir.infer import InferContext
from lepton_ir.opdef import Str, TensorAttr, op
from lepton_ir.tensors import Tensor
from lepton_ir.types import UNKNOWN, Type


def _infer_const(ctx: InferContext) -> Type:
    value = ctx.attrs["value"]
    return value.type if isinstance(value, Tensor) else UNKNOWN


@op("const()", infer=_infer_const)
def const(*, value: TensorAttr) -> np.ndarray[Any, Any]:
    """A constant tensor; the payload stays behind the tensor protocol (ONNX Constant)."""
    array: np.ndarray[Any, Any] = value.numpy()
    return array


def _no_results(ctx: InferContext) -> tuple[Type, ...]:
    return ()


op(
    "return(values*) -> ys*",
    _no_results,
    traits="terminator",
    opaque=True,
    doc="Ends a function; the operands are its results.",
)
op(
    "yield(values*) -> ys*",
    _no_results,
    traits="terminator",
    opaque=True,
    doc="Ends a region; the operands go to the operation that holds the region.",
)


def _infer_call(ctx: InferContext) -> list[Type]:
    return [r.type for r in ctx.op.results]


@op("call(args*) -> results*", infer=_infer_call, traits="unknown")
def call(*args: Any, callee: Str) -> Any:
    """Call the local function ``callee`` of the module (an ONNX FunctionProto).

    Attribute arguments are kept beside ``callee`` under the names of the function's attribute
    parameters. Effects are those of the callee's body.
    """
    raise RuntimeError("a call is evaluated by the interpreter, which knows the module")
