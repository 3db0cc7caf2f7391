"""Products with a bias of any rank, or of transposed operands, and with roots for divisors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.fuse._match import available, made_by, readable, settle, sole_user
from lepton_ir.rewrite import rewrite
from lepton_ir.tensors import PermutedTensor

if TYPE_CHECKING:
    from lepton_ir.ir import Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter


@rewrite("add")
def bias_into_dense(m: Match, rw: Rewriter) -> bool:
    """matmul(x, w) + b => fully_connected(x, w transposed, b), w and b constant, x of any rank."""
    op = m.root
    for value, bias in (op.operands, op.operands[::-1]):
        product = made_by(value, "matmul")
        tensor = const_tensor(bias)
        if product is None or tensor is None or bias is None or value is None:
            continue
        x, w = product.operands
        weights = const_tensor(w)
        if weights is None or not readable(w) or len(weights.shape) != 2 or x is None:
            return rw.fail("the weights are no constant matrix")
        if tensor.shape != weights.shape[1:] or not readable(bias):
            return rw.fail("what is added is not one number a column")
        if not sole_user(value) or op.result.dtype is not dtypes.F32:
            return rw.fail("the product has other users, or is not of f32")
        if not available(rw, "fully_connected"):
            return rw.fail("the target has none")
        rw.also(product)
        rw.permit()
        name = None if w is None else w.name
        turned = rw.const(PermutedTensor(weights, (1, 0)), name=name)
        return settle(rw, op, rw.fully_connected(x, turned, bias))
    return False


def _swapped(value: Value | None) -> Value | None:
    """Return what ``value`` is with its last two axes swapped, where a transpose makes it so."""
    turn = made_by(value, "transpose")
    if turn is None or value is None or value.rank is None or value.rank < 2:
        return None
    perm, rank = turn.attr("perm"), value.rank
    swap = [*range(rank - 2), rank - 1, rank - 2]
    return turn.operands[0] if list(perm or reversed(range(rank))) == swap else None


@rewrite("matmul")
def transpose_into_matmul(m: Match, rw: Rewriter) -> bool:
    """matmul(x, transpose(y)) => batch_matmul(x, y, adj_y), where the last two axes are swapped."""
    op = m.root
    found = [_swapped(v) for v in op.operands]
    if all(v is None for v in found):
        return rw.fail("neither operand is a transpose of the last two axes")
    if op.result.dtype is not dtypes.F32 or not available(rw, "batch_matmul"):
        return rw.fail("elements are {}, or the target has none", op.result.dtype)
    if any(v is None or v.rank is None or v.rank < 2 for v in op.operands):
        return rw.fail("an operand is a vector")
    values = [v if turned is None else turned for v, turned in zip(op.operands, found, strict=True)]
    rw.also(
        *(v.op for v, t in zip(op.operands, found, strict=True) if t is not None and v and v.op)
    )
    flags = {"adj_x": found[0] is not None, "adj_y": found[1] is not None}
    return settle(rw, op, rw.batch_matmul(*values, **flags))


def _is_one(value: Value | None, rank: int) -> bool:
    """Whether ``value`` is the number 1, with no more axes than ``rank``."""
    array = const_array(value)
    return array is not None and array.ndim <= rank and array.size == 1 and bool((array == 1).all())


@rewrite("div", "reciprocal")
def root_below(m: Match, rw: Rewriter) -> bool:
    """div(x, sqrt(y)) => x * rsqrt(y), 1 / sqrt(y) => rsqrt(y): what divides is the smaller one."""
    op = m.root
    below = op.operands[-1]
    root = made_by(below, "sqrt")
    if root is None or below is None:
        return False
    if op.result.dtype is not dtypes.F32 or not available(rw, "rsqrt"):
        return rw.fail("elements are {}, or there is no rsqrt", op.result.dtype)
    if not sole_user(below):
        return rw.fail("the root has other users")
    rw.also(root)
    inverse = rw.rsqrt(root.operands[0])
    if op.name == "reciprocal" or _is_one(op.operands[0], below.rank or 0):
        return settle(rw, op, inverse)
    return settle(rw, op, rw.mul(op.operands[0], inverse))
