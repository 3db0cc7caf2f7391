"""Types as they are written: what is proven, refined by what the source file declared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.frontends.onnx.table_values import symbol_name, type_of, write_type
from lepton_ir.types import UNKNOWN, TensorType, Type, _Wrapped

if TYPE_CHECKING:
    from onnx import TypeProto

    from lepton_ir.dims import Dim, DimExpr


class TypeWriter:
    """Writes the types of one function.

    Args:
        unnamed: symbols that stand for unnamed dims of the source, to their ``dim_param`` there.
    """

    def __init__(self, unnamed: dict[str, str]) -> None:
        self._unnamed = unnamed

    def write(self, proven: Type, declared: Type | None, proto: TypeProto) -> bool:
        """Fill a TypeProto; return whether there is something to say."""
        return write_type(merge(proven, declared), proto, self._dim_name)

    def write_output(self, proven: Type, declared: TypeProto, proto: TypeProto) -> None:
        """Fill the type of a graph output, which the source declared."""
        if not self.write(proven, type_of(declared, "an output"), proto):
            proto.CopyFrom(declared)

    def _dim_name(self, dim: DimExpr) -> str | None:
        name = symbol_name(dim)
        if name is None:
            return None
        if name in self._unnamed:
            return self._unnamed[name] or None
        return None if name.startswith("_") else name


def merge(proven: Type, declared: Type | None) -> Type:
    """Return the type to write: sizes that are proven, names that were declared."""
    if declared is None or proven is declared:
        return proven
    if proven is UNKNOWN:
        return declared
    if isinstance(proven, TensorType) and isinstance(declared, TensorType):
        if proven.shape is None:
            return TensorType(proven.dtype or declared.dtype, declared.shape)
        if declared.shape is None or len(declared.shape) != len(proven.shape):
            return TensorType(proven.dtype or declared.dtype, proven.shape)
        shape = map(_merge_dim, proven.shape, declared.shape)
        return TensorType(proven.dtype or declared.dtype, shape)
    if isinstance(proven, _Wrapped) and proven.__class__ is declared.__class__:
        inner = merge(proven.elem, declared.elem)
        return proven.__class__(inner)
    return proven


def _merge_dim(proven: Dim | None, declared: Dim | None) -> Dim | None:
    if isinstance(proven, int) or declared is None:
        return proven
    return declared
