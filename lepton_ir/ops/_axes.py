"""What the shape and indexing families share: axes, products of dims, sizes of operands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dims
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.infer import Content, InferContext


def axis_of(ctx: InferContext, axis: int, rank: int, constraint: str = "C1") -> int:
    """Return ``axis`` counted from the front, or report the broken constraint."""
    if not -rank <= axis < rank:
        ctx.fail(constraint, f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def axes_of(
    ctx: InferContext, axes: Sequence[int], rank: int, constraint: str = "C1"
) -> tuple[int, ...]:
    """Return every axis counted from the front, or report the broken constraint."""
    return tuple(axis_of(ctx, a, rank, constraint) for a in axes)


def like(ctx: InferContext, name: str = "x") -> Type:
    """Return the operand's type when it is a tensor's."""
    found = ctx.type(name)
    return TensorType(found.dtype, found.shape) if isinstance(found, TensorType) else UNKNOWN


def infer_like(ctx: InferContext) -> Type:
    """Infer the type of ``x``."""
    return like(ctx)


def content_like(ctx: InferContext) -> Content | None:
    """Return the content of ``x``: the same elements in the same order."""
    return ctx.content("x")


def total(shape: Sequence[Dim | None]) -> Dim | None:
    """Return the product of dims, ``None`` when it is not known; a known 0 decides."""
    if any(d.__class__ is int and d == 0 for d in shape):
        return 0
    if any(d is None for d in shape):
        return None
    return dims.product(d for d in shape if d is not None)


def positive(dim: Dim | None) -> bool:
    """Whether ``dim`` is certainly at least 1."""
    return dim is not None and dims.prove_ge(dim, 1) is True


def length(ctx: InferContext, name: str) -> int | None:
    """Return the number of elements of a rank-1 operand when it is a known integer."""
    found = ctx.content(name)
    if found is not None:
        return len(found)
    shape = ctx.shape(name)
    if shape is None or len(shape) != 1:
        return None
    return shape[0] if isinstance(shape[0], int) else None
