"""Copies: making strided and blocked tensors plain, and writing into parts of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.backends.numba.codegen.expression import STORED, Expression
from lepton_ir.backends.numba.kernels.elementwise import call_strided

if TYPE_CHECKING:
    from lepton_ir.backends.numba.lowering import Lowering
    from lepton_ir.backends.numba.plan import Tensor


def copy_tensor(lo: Lowering, t: Tensor) -> Tensor:
    """Return a plain copy of ``t``."""
    made = lo.new(t.dtype, t.shape)
    copy_into(lo, t, made)
    return made


def copy_into(lo: Lowering, source: Tensor, target: Tensor) -> None:
    """Copy ``source`` to ``target``, a strided tensor of the same shape and type."""
    dtype = copy_type(source)
    expression = Expression((dtype,), (), (0,))
    call_strided(lo, expression, [source], [target], source.shape)


def copy_type(t: Tensor) -> str:
    """Return an element type of the same size that is copied bit by bit."""
    if t.dtype.name in STORED and t.dtype.kind in ("int", "uint"):
        return t.dtype.name
    return f"i{8 * t.itemsize}"
