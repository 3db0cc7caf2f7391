"""Small things several op families share: dims of broadcasts, single integers, axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import opdef
from lepton_ir.ops import _shapes
from lepton_ir.ops._nn import Array
from lepton_ir.ops._numeric import widen
from lepton_ir.ops._shapes import broadcast_dim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.infer import InferContext

Shape = tuple["Dim | None", ...]

__all__ = [
    "Array",
    "Shape",
    "broadcast_dim",
    "broadcast_shapes",
    "evaluate",
    "first_dtype",
    "known",
    "normalized",
    "scalar",
    "widen",
]


def first_dtype(ctx: InferContext, *names: str) -> DType | None:
    """Return the first known element type among operands that must all have the same one."""
    return next((d for d in map(ctx.dtype, names) if d is not None), None)


def broadcast_shapes(*shapes: Shape | None) -> Shape | None:
    """Return the shape of several broadcast shapes, ``None`` when a rank is unknown.

    Raises:
        ValueError: known sizes do not broadcast.
    """
    return _shapes.broadcast_shapes(shapes)


def scalar(x: Array, what: str) -> int:
    """Return the single integer in ``x``.

    Raises:
        ValueError: not exactly one element; ``what`` names the operand.
    """
    array = np.asarray(x)
    if array.size != 1:
        raise ValueError(f"{what} should be one integer, got shape {array.shape}")
    return int(array.reshape(-1)[0])


def normalized(axis: int, rank: int, what: str = "axis") -> int:
    """Return ``axis`` counted from the front.

    Raises:
        ValueError: out of range.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"{what} {axis} is out of range for rank {rank}")
    return axis % rank


def evaluate(name: str, *operands: Any, **attrs: Any) -> Any:
    """Evaluate the meaning of the operation ``name`` of any family."""
    definition = opdef.lookup(name)
    assert definition is not None
    return definition(*operands, **attrs)


def known(shape: Sequence[Dim | None] | None) -> tuple[int, ...] | None:
    """Return ``shape`` when all its dims are integers."""
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return tuple(shape)  # type: ignore[arg-type]
