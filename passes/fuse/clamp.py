"""Chains of clip, relu, min and max with scalar constants; leaky relu from its primitives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.fuse._match import f32, f32_exact, made_by, settle, sole_user
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_CLAMPS = ("clip", "relu", "min", "max")


class Clamp(NamedTuple):
    """``min(max(x, low), high)``; a bound that is absent is infinite."""

    x: Value
    low: float | int
    high: float | int


def _bound(value: Value | None, x: Value) -> float | int | None:
    """Return a one-element constant that does not raise the rank of ``x``."""
    tensor = const_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype is not x.dtype:
        return None
    if tensor.shape and (x.rank is None or x.rank < len(tensor.shape)):
        return None
    array = const_array(value)
    if array is None:
        return None
    if tensor.dtype.is_integer:
        return int(array.reshape(-1)[0])
    number = float(array.reshape(-1)[0])
    return None if math.isnan(number) else number


def clamp_of(op: Op) -> Clamp | None:
    """Return the interval that ``op`` limits its operand to, ``None`` if it does no such thing."""
    x = op.operands[0]
    low: float | int | None = -math.inf
    high: float | int | None = math.inf
    if x is None:
        return None
    if op.name == "relu":
        low = 0
    elif op.name == "clip":
        if op.operand("min") is not None:
            low = _bound(op.operand("min"), x)
        if op.operand("max") is not None:
            high = _bound(op.operand("max"), x)
    else:
        if len(op.operands) != 2:
            return None
        other = op.operands[1]
        if const_tensor(x) is not None:
            x, other = other, x
        if x is None:
            return None
        if op.name == "min":
            high = _bound(other, x)
        else:
            low = _bound(other, x)
    if low is None or high is None or low > high:
        return None
    return Clamp(x, low, high)


def _limited(number: float | int, to: Clamp) -> float | int:
    return min(max(number, to.low), to.high)


@rewrite(*_CLAMPS)
def merge_clamps(m: Match, rw: Rewriter) -> bool:
    """clip(clip(x, a, b), c, d) => clip(x, a', b'), a' and b' being a and b limited to [c, d].

    The same for relu, min and max with scalar constants. Where [a, b] lies in [c, d] already, the
    outer one goes.
    """
    outer = clamp_of(m.root)
    if outer is None:
        return False
    op = made_by(outer.x, *_CLAMPS)
    inner = None if op is None else clamp_of(op)
    if op is None or inner is None:
        return False
    rw.also(op)
    if outer.low <= inner.low and inner.high <= outer.high:
        return rw.replace(m.root, op.result, same=True)
    if not sole_user(op.result):
        return rw.fail("the inner one has other users")
    low, high = _limited(inner.low, outer), _limited(inner.high, outer)
    return _rebuilt(m, rw, op, Clamp(inner.x, low, high))


def _rebuilt(m: Match, rw: Rewriter, inner: Op, wanted: Clamp) -> bool:
    x, low, high = wanted
    dtype = x.dtype
    if dtype is None:
        return rw.fail("the element type is not known")
    names = {m.root.name, inner.name}
    if low == 0 and high == math.inf and "relu" in names:
        return settle(rw, m.root, rw.relu(x))
    for name, bound, open_end in (("max", low, high), ("min", high, low)):
        if math.isinf(open_end) and names == {name}:
            return settle(rw, m.root, rw.build(name, x, rw.const(bound, dtype)).result)
    bounds = [
        None if math.isinf(b) and (b < 0) == is_low else rw.const(b, dtype)
        for b, is_low in ((low, True), (high, False))
    ]
    return settle(rw, m.root, rw.clip(x, *bounds))


@rewrite("max")
def leaky_relu_from_max(m: Match, rw: Rewriter) -> bool:
    """max(x, x * a) => leaky_relu(x, alpha=a) for a scalar constant 0 < a < 1."""
    if len(m.root.operands) != 2:
        return False
    for i in (0, 1):
        x, product = m.root.operands[i], made_by(m.root.operands[1 - i], "mul")
        if x is None or product is None or x not in product.operands:
            continue
        other = product.operands[1 if product.operands[0] is x else 0]
        alpha = _bound(other, x)
        if alpha is None or not 0 < alpha < 1:
            return rw.fail("the factor is not a scalar constant between 0 and 1")
        if not sole_user(product.result):
            return rw.fail("the product has other users")
        if not f32_exact(x.dtype, float(np.float64(alpha))):
            return rw.fail("an attribute does not hold the factor exactly")
        rw.also(product)
        return settle(rw, m.root, rw.leaky_relu(x, alpha=f32(alpha)))
    return False
