"""Activations spelled in primitives: sigmoid, softsign, softplus, prelu; transposed products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.fuse._match import Scan, available, f32, f32_exact, made_by, pays, settle
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
    if not pays(rw, "softplus") or not scan.settles_on(x, rw) or not available(rw, "softplus"):
        return False
    return settle(rw, m.root, rw.softplus(x))


def _one_plus_exp(scan: Scan, value: Value | None) -> Value | None:
    """Return x where ``value`` is ``1 + exp(-x)``."""
    found = None if value is None else scan.with_number(value, "add")
    power = None if found is None or found[1] != 1.0 else scan.op(found[0], "exp")
    turned = None if power is None else scan.op(power.operands[0], "neg")
    return None if turned is None else turned.operands[0]


@rewrite("reciprocal", "div")
def fuse_sigmoid(m: Match, rw: Rewriter) -> bool:
    """1 / (1 + exp(-x)) => sigmoid(x), x / (1 + exp(-x)) => x * sigmoid(x).

    Not for other numerators, which could be so large that a sigmoid near 0 has too few digits.
    """
    scan = Scan(m.root)
    x = _one_plus_exp(scan, m.root.operands[-1])
    if x is None:
        return False
    if x.dtype is None or x.dtype.name not in _FLOATS:
        return rw.fail("elements are {}", x.dtype)
    gates = m.root.name == "div" and m.root.operands[0] is x
    one = m.root.name == "reciprocal" or scan.number(m.root.operands[0]) == 1.0
    if not gates and not one:
        return rw.fail("the numerator is neither 1 nor {}", x)
    if not scan.settles_on(x, rw) or not available(rw, "sigmoid"):
        return False
    gate = rw.sigmoid(x)
    return settle(rw, m.root, rw.mul(x, gate) if gates else gate)


@rewrite("div")
def fuse_softsign(m: Match, rw: Rewriter) -> bool:
    """(x / (1 + |x|)) => softsign(x)."""
    scan, x = Scan(m.root), m.root.operands[0]
    total = m.root.operands[1]
    found = None if total is None else scan.with_number(total, "add")
    size = None if found is None or found[1] != 1.0 else scan.op(found[0], "abs")
    if size is None or x is None or size.operands[0] is not x:
        return False
    if x.dtype is None or x.dtype.name not in _FLOATS:
        return rw.fail("elements are {}", x.dtype)
    if not scan.settles_on(x, rw) or not available(rw, "softsign"):
        return False
    return settle(rw, m.root, rw.softsign(x))


@rewrite("add")
def fuse_stable_softplus(m: Match, rw: Rewriter) -> bool:
    """max(x, 0) + softplus(-|x|) => softplus(x)."""
    for i in (0, 1):
        scan = Scan(m.root)
        x = positive_part(scan, m.root.operands[i])
        curve = scan.op(m.root.operands[1 - i], "softplus")
        turned = None if curve is None else scan.op(curve.operands[0], "neg")
        size = None if turned is None else scan.op(turned.operands[0], "abs")
        if x is None or size is None or size.operands[0] is not x:
            continue
        if not scan.settles_on(x, rw):
            return False
        return settle(rw, m.root, rw.softplus(x))
    return False


@rewrite("max")
def relu_from_max(m: Match, rw: Rewriter) -> bool:
    """max(x, 0) => relu(x), which runtimes fuse with what is in front of it."""
    scan = Scan(m.root)
    found = scan.with_number(m.root.result, "max") if len(m.root.operands) == 2 else None
    if found is None or found[1] != 0:
        return False
    x = found[0]
    if x.dtype is None or x.dtype.name not in _FLOATS:
        return rw.fail("elements are {}", x.dtype)
    if not scan.settles_on(x, rw) or not available(rw, "relu"):
        return False
    return settle(rw, m.root, rw.relu(x))


def positive_part(scan: Scan, value: Value | None) -> Value | None:
    """Return x where ``value`` is ``max(x, 0)``."""
    op = scan.op(value, "relu", "max")
    if op is None or value is None:
        return None
    if op.name == "relu":
        return op.operands[0]
    found = scan.with_number(value, "max") if len(op.operands) == 2 else None
    return found[0] if found is not None and found[1] == 0 else None


def _minimum_of_zero(scan: Scan, value: Value | None) -> tuple[Value, float] | None:
    """Return x and f where ``value`` is ``f * min(x, 0)``: relu(-x), min(x, 0) or x - |x|."""
    op = scan.op(value, "relu", "min", "sub")
    if op is None or value is None:
        return None
    if op.name == "relu":
        turned = scan.op(op.operands[0], "neg")
        x, factor = None if turned is None else turned.operands[0], -1.0
    elif op.name == "min":
        found = scan.with_number(value, "min") if len(op.operands) == 2 else None
        x, factor = None if found is None or found[1] != 0 else found[0], 1.0
    else:
        size = scan.op(op.operands[1], "abs")
        x, factor = None if size is None else size.operands[0], 2.0
        if x is not op.operands[0]:
            return None
    return None if x is None else (x, factor)


def _negative_part(scan: Scan, value: Value | None) -> tuple[Value, np.ndarray] | None:
    """Return x and c where ``value`` is c * min(x, 0), c a constant."""
    slope: np.ndarray | None = None
    while (product := scan.op(value, "mul")) is not None:
        a, b = product.operands
        constant, other = (a, b) if const_tensor(a) is not None else (b, a)
        array = const_array(constant, _LIMIT)
        if array is None or (slope is not None and min(slope.size, array.size) != 1):
            return None
        wide = array.astype(np.float64)
        slope, value = wide if slope is None else slope * wide, other
    found = None if slope is None else _minimum_of_zero(scan, value)
    if found is None or slope is None:
        return None
    return found[0], np.asarray(slope * found[1])


@rewrite("add", "sub")
def fuse_prelu(m: Match, rw: Rewriter) -> bool:
    """relu(x) + c * min(x, 0) => prelu(x, c), relu(x) - c * min(x, 0) => prelu(x, -c).

    min(x, 0) may be spelled -relu(-x) or (x - |x|) / 2. The slopes must spread to the shape of x
    without enlarging it, as PRelu's do.
    """
    pairs = [(0, 1), (1, 0)] if m.root.name == "add" else [(0, 1)]
    for i, j in pairs:
        scan = Scan(m.root)
        above = positive_part(scan, m.root.operands[i])
        found = _negative_part(scan, m.root.operands[j])
        if above is None or found is None or above is not found[0]:
            continue
        x, slope = found
        if not _spreads(slope, x) or x.dtype is None or x.dtype.name not in _FLOATS:
            return rw.fail("the slopes are not proven to fit {}", x)
        if (slope != slope.reshape(-1)[:1]).any() and not pays(rw, "prelu"):
            return False
        if not scan.settles_on(x, rw) or not available(rw, "prelu"):
            return False
        signed = slope if m.root.name == "add" else np.negative(slope)
        return settle(rw, m.root, rw.prelu(x, rw.const(signed, x.dtype)))
    return False


@rewrite("prelu")
def prelu_to_leaky_relu(m: Match, rw: Rewriter) -> bool:
    """prelu(x, slopes) => leaky_relu(x) where all slopes are the same finite number."""
    x, slope = m.root.operands
    array = const_array(slope, _LIMIT)
    if x is None or x.dtype is None or array is None or array.size == 0:
        return False
    alpha = float(array.reshape(-1)[0])
    if not math.isfinite(alpha) or (array != array.reshape(-1)[0]).any():
        return rw.fail("the slopes differ")
    if x.dtype.name not in _FLOATS or not f32_exact(x.dtype, alpha):
        return rw.fail("elements are {}", x.dtype)
    if not available(rw, "leaky_relu"):
        return False
    return settle(rw, m.root, rw.leaky_relu(x, alpha=f32(alpha)))


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
