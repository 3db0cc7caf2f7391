"""What the rows of the table are written with: a builder that knows PyTorch's habits.

Rows get tensors as values, sizes and other scalars as Python numbers, or as ``Sym`` when they are
computed in the graph.
"""

from __future__ import annotations

from typing import Any

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.dtypes import DType
from lepton_ir.frontends.sized import SizedBuilder, Sym
from lepton_ir.ir import Value

__all__ = ["INT_MAX", "Lowering", "Sym", "promote"]

INT_MAX = (1 << 63) - 1

_CATEGORY = {"bool": 0, "uint": 1, "int": 1, "float": 2}
_SIGNED = {8: dtypes.I16, 16: dtypes.I32, 32: dtypes.I64}


def promote(a: DType, b: DType) -> DType:
    """Return the type that holds both (``torch.promote_types``).

    Raises:
        UnsupportedError: PyTorch has none either.
    """
    if a is b:
        return a
    if _CATEGORY[a.kind] != _CATEGORY[b.kind]:
        return a if _CATEGORY[a.kind] > _CATEGORY[b.kind] else b
    if a.is_float:
        if a.bits == b.bits:
            return dtypes.F32
        return a if a.bits > b.bits else b
    if a.kind == b.kind:
        return a if a.bits > b.bits else b
    unsigned, signed = (a, b) if a.kind == "uint" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    if unsigned.bits not in _SIGNED or unsigned.bits > 8:
        raise UnsupportedError(f"no common type of {a} and {b}", code="torch-dtype")
    return _SIGNED[unsigned.bits]


class Lowering(SizedBuilder):
    """A builder with PyTorch's promotion of element types.

    Attributes:
        declared: element types of the results of the node being read, as the archive says.
    """

    declared: list[DType | None]

    # -- element types -----------------------------------------------------------------------------

    def common(self, *args: Any) -> DType:
        """Return the type that an operation of these operands computes in (``result_type``)."""
        best: list[DType | None] = [None, None, None]  # with dims, without, Python scalars
        for arg in args:
            level, dtype = _level(arg)
            old = best[level]
            best[level] = dtype if old is None else promote(old, dtype)
        found = best[0]
        for other in best[1:]:
            higher = other is not None and (
                found is None or _CATEGORY[other.kind] > _CATEGORY[found.kind]
            )
            found = other if higher else found
        assert found is not None
        return found

    def operand(self, arg: Any, dtype: DType) -> Value:
        """Return a tensor, a scalar or a ``Sym`` as a value of ``dtype``."""
        return self.cast_to(arg, dtype) if isinstance(arg, Value) else self.scalar(arg, dtype)

    def operands(self, *args: Any) -> list[Value]:
        """Return all operands in their common type."""
        dtype = self.common(*args)
        return [self.operand(a, dtype) for a in args]

    def floats(self, *args: Any) -> list[Value]:
        """Return all operands in their common type, integers as floats."""
        dtype = self.common(*args)
        dtype = dtype if dtype.is_float else dtypes.F32
        return [self.operand(a, dtype) for a in args]


def _level(arg: Any) -> tuple[int, DType]:
    if isinstance(arg, Value):
        assert arg.dtype is not None
        return (0 if arg.rank else 1), arg.dtype
    kind = arg.kind if isinstance(arg, Sym) else type(arg).__name__
    return 2, {"bool": dtypes.BOOL, "float": dtypes.F32}.get(kind, dtypes.I64)
