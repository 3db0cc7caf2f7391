"""Products of 16-bit floats: operands become f32, the result is rounded once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.expression import Expression, Step
from lepton_ir.backends.numba.kernels.elementwise import Translation, call_strided

if TYPE_CHECKING:
    from lepton_ir.backends.numba.lowering import Lowering
    from lepton_ir.backends.numba.plan import Tensor

_HALVES = (dtypes.F16, dtypes.BF16)


def wide_operands(lo: Lowering) -> list[Tensor]:
    """Return A and B in f32; a constant B is converted when it is packed."""
    found = []
    for i in range(2):
        t = lo.operand(i)
        t = lo.plain(t) if t.blocked is not None else t
        if t.dtype in _HALVES and not (i == 1 and lo.is_known(1)):
            t = lo.form(t, "f32", functools.partial(_widened, lo, t))
        elif t.dtype is not dtypes.F32 and t.dtype not in _HALVES:
            lo.decline(f"products of {t.dtype}")
        found.append(t)
    return found


def _widened(lo: Lowering, t: Tensor) -> Tensor:
    made = lo.new(dtypes.F32, t.shape)
    widen = Expression((t.dtype.name,), (Step("cast", "f32", (0,)),), (1,))
    call_strided(lo, widen, [t], [made], t.shape)
    return made


def narrowed(lo: Lowering, translation: Translation, number: int) -> int:
    """Convert the accumulator to the type of the result."""
    dtype, _ = lo.type()
    if dtype is dtypes.F32 or lo.tail:
        return number
    return translation.step(Step("cast", dtype.name, (number,)))
