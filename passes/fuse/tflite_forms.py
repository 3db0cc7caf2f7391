"""Activations and arithmetic as TFLite's kernels like them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.dims import same_dim
from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.fuse._match import f32, made_by, sole_user
from lepton_ir.passes.fuse._weights import affordable
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_SIX = 6.0


@rewrite("hard_sigmoid")
def hard_sigmoid_by_relu6(m: Match, rw: Rewriter) -> bool:
    """hard_sigmoid(x) => relu6(6 * alpha * x + 6 * beta) / 6.

    The convolution in front of it takes the affine map and the activation in, and the one behind
    what it gates takes the division.
    """
    op = m.root
    x = op.operands[0]
    if x is None or x.dtype is not dtypes.F32:
        return rw.fail("elements are {}", None if x is None else x.dtype)
    alpha, beta = _SIX * float(op.attr("alpha")), _SIX * float(op.attr("beta"))
    rw.permit()
    y = x if f32(alpha) == 1.0 else rw.mul(x, rw.const(f32(alpha), x.dtype))
    y = rw.add(y, rw.const(f32(beta), x.dtype))
    y = rw.clip(y, rw.const(0.0, x.dtype), rw.const(_SIX, x.dtype))
    return rw.replace(op, rw.mul(y, rw.const(f32(1 / _SIX), x.dtype)))


def _const_shape(weight: Value) -> tuple[int, ...]:
    """Return the shape of a constant that is known to be one."""
    tensor = const_tensor(weight)
    assert tensor is not None
    return tensor.shape


def _number(value: Value | None) -> float | None:
    array = const_array(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


@rewrite("mul")
def scale_behind_gate(m: Match, rw: Rewriter) -> bool:
    """mul(x, g * c) => mul(mul(x, g), c), c a number, where a convolution reads the product alone.

    Its weights take c in.
    """
    op = m.root
    users = op.result.users
    conv = users[0] if len(users) == 1 and op.result.use_count == 1 else None
    for value, other in (op.operands, op.operands[::-1]):
        gate = made_by(value, "mul")
        if gate is None or other is None or value is None or not sole_user(value):
            continue
        for g, c in (gate.operands, gate.operands[::-1]):
            if _number(c) is None or g is None or c is None or c.rank:
                continue
            if conv is None or conv.name != "conv" or conv.operands[0] is not op.result:
                return rw.fail("no convolution alone reads it")
            weight, shape = conv.operands[1], op.result.shape
            if weight is None or not affordable(rw, weight) or not sole_user(weight):
                return rw.fail("the weights of the convolution are not its own constants")
            channels = _const_shape(weight)[1] * int(conv.attr("group"))
            if shape is None or len(shape) < 3 or not same_dim(shape[1], channels):
                return rw.fail("the channels of the product are not known")
            rw.also(gate)
            return rw.replace(op, rw.mul(rw.mul(other, g), c))
    return False


@rewrite("pow")
def square_by_product(m: Match, rw: Rewriter) -> bool:
    """pow(x, 2) => x * x."""
    x, exponent = m.root.operands
    if x is None or exponent is None or _number(exponent) != 2.0:
        return rw.fail("the exponent is not 2")
    if x.dtype is not dtypes.F32 or (exponent.rank or 0) > (x.rank or 0):
        return rw.fail("elements are {}", x.dtype)
    return rw.replace(m.root, rw.mul(x, x))
