"""A row of the table: how one operation of the IR becomes one operator of TFLite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_ir.backends.tflite.kernels import kernels
from lepton_ir.backends.tflite.weights import TYPES
from lepton_ir.infer import const_array
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.ir import Op, Value


@dataclass(frozen=True)
class Row:
    """One operation of the IR.

    Attributes:
        builtin: the operator, or what says which one it is.
        write: adds it to a graph.
        fits: what else forbids it: a reason, ``""`` for none.
        judged: the operand whose element type the kernel's list is about; -1 for the result.
        ranked: whether the kernel's highest rank binds all operands and results.
        empty: whether it takes tensors without elements.
    """

    builtin: str | Callable[[Op], str]
    write: Callable[[Graph, Op], None]
    fits: Callable[[Op], str] | None = None
    judged: int = 0
    ranked: bool = True
    empty: bool = False

    def kind(self, op: Op) -> str:
        """Return the operator's name."""
        return self.builtin if isinstance(self.builtin, str) else self.builtin(op)

    def against(self, op: Op) -> str:
        """Return why ``op`` cannot be written as this operator; ``""`` when it can."""
        reason = unknown(op)
        if reason:
            return reason
        if self.fits is not None:
            reason = self.fits(op)
            if reason:
                return reason
        builtin = self.kind(op)
        kernel = kernels()[builtin]
        values = [*op.operands, *op.results]
        data = [v for v in (*op.operands[: self.judged + 1], *op.results) if v is not None]
        if not self.empty and any(0 in (v.shape or ()) for v in data):
            return f"LiteRT's {builtin} does not take tensors without elements"
        judged = op.operands[self.judged] if op.operands and self.judged >= 0 else None
        dtype = judged.dtype if judged is not None else op.results[0].dtype if op.results else None
        if dtype is not None and dtype.name not in kernel.dtypes:
            return f"LiteRT's {builtin} does not take {dtype}"
        rank = max((v.rank or 0 for v in values if v is not None), default=0)
        if self.ranked and rank > kernel.rank:
            return f"LiteRT's {builtin} takes rank {kernel.rank} at most, not {rank}"
        return ""


def unknown(op: Op) -> str:
    """Return what of the operands and results no TFLite tensor can be; ``""`` for nothing."""
    for value in (*op.operands, *op.results):
        if value is None:
            continue
        type_ = value.type
        if not isinstance(type_, TensorType):
            return f"a value of type {type_} cannot be in a TFLite file"
        if type_.dtype is None or type_.shape is None:
            return "the element type or the rank of a value is not known"
        if type_.dtype not in TYPES:
            return f"TFLite has no tensors of {type_.dtype}"
    return ""


def plain(
    builtin: str, *, judged: int = 0, fits: Callable[[Op], str] | None = None, **options: Any
) -> Row:
    """Return the row of an operation whose operands and results are the operator's own."""

    def write(g: Graph, op: Op) -> None:
        inputs = [g.value(v) for v in op.operands]
        g.add(builtin, inputs, [g.result(op, i) for i in range(len(op.results))], **options)

    return Row(builtin, write, fits, judged, empty=True)


def fusing(builtin: str) -> Row:
    """Return the row of an operation with two operands and an activation that may be fused."""

    def write(g: Graph, op: Op) -> None:
        inputs = [g.value(v) for v in op.operands]
        g.add(builtin, inputs, [g.result(op)], fused_activation_function=g.activation(op))

    return Row(builtin, write, empty=True)


def constant_ints(value: Value | None) -> list[int] | None:
    """Return the elements of a small constant of integers."""
    array = const_array(value)
    return None if array is None else [int(i) for i in array.reshape(-1)]


def is_constant(value: Value | None) -> bool:
    """Return whether a value is a constant, whatever its size."""
    return value is not None and value.op is not None and value.op.name == "const"


def is_weight(value: Value | None) -> bool:
    """Return whether a value is a constant, or made of one that is stored in fewer bits."""
    op = None if value is None else value.op
    if op is not None and op.name in ("dequantize_linear", "cast"):
        return is_constant(op.operands[0])
    return is_constant(value)
