"""Copies: making strided and blocked tensors plain, and writing into parts of others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.codegen.expression import STORED, Expression, Step
from lepton_ir.backends.numba.kernels.elementwise import call_strided

if TYPE_CHECKING:
    from lepton_ir.backends.numba.lowering import Lowering
    from lepton_ir.backends.numba.plan import Array, Tensor


def copy_tensor(lo: Lowering, t: Tensor) -> Tensor:
    """Return a plain copy of ``t``."""
    if t.blocked is not None:
        from lepton_ir.backends.numba.kernels.blocked import unblock

        return unblock(lo, t)
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


def fill(lo: Lowering, target: Tensor, value: Array) -> None:
    """Write one value to every element of a plain tensor."""
    dtype = copy_type(target)
    bits = np.asarray(value, target.dtype.numpy).reshape(1).view(f"i{target.itemsize}")
    step = Step("const", f"i{8 * target.itemsize}", (), (int(bits[0]),))
    expression = Expression((), (replace(step, dtype=dtype),), (0,))
    call_strided(lo, expression, [], [target], target.shape)
