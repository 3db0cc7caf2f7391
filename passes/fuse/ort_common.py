"""What rules that make operations of onnxruntime share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.dims import same_dim
from lepton_ir.passes.fuse._match import available

if TYPE_CHECKING:
    from collections.abc import Collection

    from lepton_ir.ir import Block, Op, Value
    from lepton_ir.rewrite import Rewriter


def wants_contrib(ctx: Any) -> bool:
    """Return whether the target takes operations of onnxruntime into any model."""
    return bool(getattr(ctx.target, "contrib", False))


def contrib(rw: Rewriter, name: str, **attrs: Any) -> bool:
    """Return whether the operation ``name`` of onnxruntime may be made; says why not."""
    if not wants_contrib(rw.ctx):
        return rw.fail("the target is not onnxruntime")
    return available(rw, name, **attrs) or rw.fail("{} cannot be written here", name)


def is_f32(*values: Value | None) -> bool:
    """Return whether all values given have f32 elements, the type of every kernel on CPU."""
    return all(v is None or v.dtype is dtypes.F32 for v in values)


def same_shape(a: Value, b: Value) -> bool:
    """Return whether two values provably have the same shape."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(same_dim(p, q) for p, q in zip(a.shape, b.shape, strict=True))


def row_vector(value: Value | None, x: Value) -> bool:
    """Return whether ``value`` is a vector with one element per column of ``x``, proven."""
    if value is None or value.shape is None or not x.shape or len(value.shape) != 1:
        return False
    return same_dim(value.shape[0], x.shape[-1])


def _in_block(op: Op | None, block: Block | None) -> Op | None:
    """Return the operation of ``block`` that is or holds ``op``."""
    while op is not None and op.block is not block:
        op = op.parent
    return op


def only_used_after(value: Value, root: Op, besides: Collection[Op] = ()) -> bool:
    """Return whether all users of ``value`` other than ``besides`` come after ``root``.

    Only then may ``value`` be replaced by something made where ``root`` is.
    """
    for use in value.uses:
        if use.op in besides or use.op is root:
            continue
        holder = _in_block(use.op, root.block)
        if holder is None or not root.is_before(holder):
            return False
    return True


def biased(value: Value | None, *, add: str = "add") -> tuple[Op, Value, Value] | None:
    """Return op, x and b where ``value`` is ``x + b``, b a vector of its columns."""
    from lepton_ir.passes.fuse._match import made_by

    op = made_by(value, add)
    if op is None:
        return None
    for i in (1, 0):
        x, bias = op.operands[1 - i], op.operands[i]
        if x is None or bias is None or x.rank is None or x.rank < 2:
            continue
        if row_vector(bias, x) and bias.dtype is x.dtype:
            return op, x, bias
    return None
