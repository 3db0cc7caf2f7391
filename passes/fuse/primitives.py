"""Activations spelled in primitives: softplus, prelu; products of transposed matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.fuse._match import Scan, available, made_by, settle
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_LIMIT = 1 << 20
_FLOATS = ("f32", "f64")


@rewrite("log")
def fuse_softplus(m: Match, rw: Rewriter) -> bool:
    """log(1 + exp(x)) => softplus(x), which does not overflow for large x."""
    scan = Scan(m.root)
    total = scan.op(m.root.operands[0], "add")
    if total is None:
        return False
    found = scan.with_number(total.result, "add")
    power = None if found is None else scan.op(found[0], "exp")
    if found is None or power is None or found[1] != 1.0:
        return False
    x = power.operands[0]
    if x is None or x.dtype is None or x.dtype.name not in _FLOATS:
        return rw.fail("elements are {}", None if x is None else x.dtype)
    if not scan.settles_on(x, rw) or not available(rw, "softplus"):
        return False
    return settle(rw, m.root, rw.softplus(x))


def _negative_part(scan: Scan, value: Value | None) -> tuple[Value, np.ndarray] | None:
    """Return x and c where ``value`` is c * relu(-x), c a constant."""
    product = scan.op(value, "mul")
    if product is None:
        return None
    for i in (0, 1):
        slope = const_array(product.operands[i], _LIMIT)
        clamp = scan.op(product.operands[1 - i], "relu")
        turned = None if clamp is None else scan.op(clamp.operands[0], "neg")
        if slope is None or turned is None or turned.operands[0] is None:
            continue
        return turned.operands[0], slope
    return None


@rewrite("add", "sub")
def fuse_prelu(m: Match, rw: Rewriter) -> bool:
    """relu(x) + c * relu(-x) => prelu(x, -c), relu(x) - c * relu(-x) => prelu(x, c).

    The slopes must spread to the shape of x without enlarging it, as PRelu's do.
    """
    pairs = [(0, 1), (1, 0)] if m.root.name == "add" else [(0, 1)]
    for i, j in pairs:
        scan = Scan(m.root)
        positive = scan.op(m.root.operands[i], "relu")
        found = _negative_part(scan, m.root.operands[j])
        if positive is None or found is None or positive.operands[0] is not found[0]:
            continue
        x, slope = found
        if not _spreads(slope, x) or x.dtype is None or x.dtype.name not in _FLOATS:
            return rw.fail("the slopes are not proven to fit {}", x)
        if not scan.settles_on(x, rw) or not available(rw, "prelu"):
            return False
        signed = np.negative(slope) if m.root.name == "add" else slope
        return settle(rw, m.root, rw.prelu(x, rw.const(signed, x.dtype)))
    return False


def _spreads(slope: np.ndarray, x: Value) -> bool:
    if x.shape is None or slope.ndim > len(x.shape) or not np.isfinite(slope).all():
        return False
    return all(a in (1, b) for a, b in zip(slope.shape[::-1], x.shape[::-1], strict=False))


def _swapped(value: Value | None) -> Op | None:
    op = made_by(value, "transpose")
    if op is None or op.operands[0] is None or op.operands[0].rank != 2:
        return None
    return op if tuple(op.attr("perm") or (1, 0)) == (1, 0) else None


@rewrite("matmul")
def transposes_into_matmul(m: Match, rw: Rewriter) -> bool:
    """matmul(transpose(a), b) => gemm(a, b, transA=true) for matrices, and the same for b."""
    a, b = m.root.operands
    left, right = _swapped(a), _swapped(b)
    if (left is None and right is None) or a is None or b is None:
        return False
    if a.rank != 2 or b.rank != 2 or a.dtype is None or a.dtype.name not in _FLOATS:
        return rw.fail("the operands are not proven to be matrices of f32 or f64")
    if const_tensor(a) is not None or not available(rw, "gemm", transA=True):
        return rw.fail("the opset has no such Gemm")
    rw.also(*(op for op in (left, right) if op is not None))
    operands = [a if left is None else left.operands[0], b if right is None else right.operands[0]]
    made = rw.gemm(*operands, transA=left is not None, transB=right is not None)
    return settle(rw, m.root, made)
