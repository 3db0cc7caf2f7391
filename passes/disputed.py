"""Results on which onnxruntime and the specification part: folding must not decide them.

The specification is the meaning, but a model that the user runs today has to give the same after
folding. `docs/onnx-differences.md` lists what is known; what of it constants can show is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lepton_ir.ir import Op

    Array = np.ndarray[Any, Any]

ALWAYS = {"resize": "runtimes differ where a scaled size is not whole"}
"""Operations whose results are disputed whatever the operands are, and why."""


def disputed(op: Op, operands: list[Array | None], results: list[Array]) -> str | None:
    """Return why a runtime may give something else, ``None`` where it gives the same.

    Args:
        op: the operation.
        operands: its operands, ``None`` for absent ones.
        results: what its meaning gives.
    """
    x = operands[0] if operands else None
    if x is None:
        return None
    if op.name == "range" and x.dtype.kind == "f":
        return _accumulated(operands, results[0])
    if op.name.startswith("reduce_") and x.dtype.kind in "iu" and x.dtype.itemsize < 8:
        return _saturated(op, operands, results[0])
    return None


def _accumulated(operands: list[Array | None], result: Array) -> str | None:
    """Compare with adding up the steps, which rounds otherwise than ``start + i * step``."""
    start, _, step = operands
    assert start is not None
    assert step is not None
    if not result.size:
        return None
    steps = np.full(result.size, step.reshape(-1)[0], result.dtype)
    steps[0] = start.reshape(-1)[0]
    same = np.add.accumulate(steps, dtype=result.dtype).tobytes() == result.tobytes()
    return None if same else "onnxruntime adds the steps up"


def _saturated(op: Op, operands: list[Array | None], result: Array) -> str | None:
    """Compare with a reduction that does not overflow."""
    assert op.definition is not None
    assert op.definition.meaning is not None
    x, *rest = operands
    assert x is not None
    with np.errstate(all="ignore"):
        wide = np.asarray(op.definition.meaning(x.astype(np.float64), *rest, **op.all_attrs()))
    limits = np.iinfo(x.dtype)
    inside = ((wide > limits.min - 1.0) & (wide < limits.max + 1.0)) | np.isnan(wide)
    return None if bool(inside.all()) else "onnxruntime saturates where the sum overflows"
