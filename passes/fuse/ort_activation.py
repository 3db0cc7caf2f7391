"""Activations of onnxruntime, alone and at the end of a convolution or a Gemm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import f32, f32_exact, made_by, settle, sole_user
from lepton_ir.passes.fuse.activation import tanh_gelu_operand, times, two_factors
from lepton_ir.passes.fuse.ort_common import biased, contrib, is_f32, same_shape
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_LIMIT = float(np.finfo(np.float32).max)
_NAMES = {
    "relu": ("Relu", ()),
    "tanh": ("Tanh", ()),
    "sigmoid": ("Sigmoid", ()),
    "leaky_relu": ("LeakyRelu", ("alpha",)),
    "hard_sigmoid": ("HardSigmoid", ("alpha", "beta")),
}
"""Activations that kernels take in: what they call them, and the attributes they take in order."""


@rewrite("mul", "div")
def fuse_fast_gelu(m: Match, rw: Rewriter) -> bool:
    """(x / 2) * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) => ms_fast_gelu(x)."""
    for scan, number, x, g in two_factors(m):
        if not tanh_gelu_operand(scan, number, x, g):
            continue
        if not is_f32(x) or not contrib(rw, "ms_fast_gelu") or not scan.settles_on(x, rw):
            return False
        return settle(rw, m.root, rw.ms_fast_gelu(x))
    return False


@rewrite("gelu", "ms_fast_gelu")
def bias_into_gelu(m: Match, rw: Rewriter) -> bool:
    """gelu(x + b) => ms_bias_gelu(x, b), in its tanh form ms_fast_gelu(x, b); b one per column."""
    if len(m.root.operands) > 1:
        return False
    found = biased(m.root.operands[0])
    if found is None:
        return False
    add, x, bias = found
    if not sole_user(add.result):
        return rw.fail("{} has other users", add)
    tanh = m.root.name == "ms_fast_gelu" or m.root.attr("approximate") == "tanh"
    name = "ms_fast_gelu" if tanh else "ms_bias_gelu"
    if not is_f32(x) or not contrib(rw, name):
        return rw.fail("elements are {}", x.dtype)
    rw.also(add)
    return settle(rw, m.root, rw.build(name, x, bias).result)


@rewrite("mul", "div")
def fuse_quick_gelu(m: Match, rw: Rewriter) -> bool:
    """(x) * sigmoid(a * x) => ms_quick_gelu(x, alpha=a); a = 1.702 is QuickGelu, a = 1 SiLU."""
    for scan, number, x, g in two_factors(m):
        gate = scan.op(g, "sigmoid")
        if gate is None or number != 1.0:
            continue
        alpha = times(scan, gate.operands[0], x)
        if alpha is None or not f32_exact(x.dtype, alpha):
            continue
        if not is_f32(x) or not contrib(rw, "ms_quick_gelu") or not scan.settles_on(x, rw):
            return False
        return settle(rw, m.root, rw.ms_quick_gelu(x, alpha=f32(alpha)))
    return False


@rewrite("swish")
def swish_to_quick_gelu(m: Match, rw: Rewriter) -> bool:
    """swish(x, alpha=a) => ms_quick_gelu(x, alpha=a), which has a kernel where Swish has none."""
    x = m.root.operands[0]
    if not is_f32(x) or not contrib(rw, "ms_quick_gelu"):
        return rw.fail("elements are not f32")
    return settle(rw, m.root, rw.ms_quick_gelu(x, alpha=m.root.attr("alpha")))


def _limit(op: Op, name: str, default: float) -> float | None:
    value = op.operand(name)
    if value is None:
        return default
    found = const_array(value)
    if found is None or found.size != 1 or np.isnan(found).any():
        return None
    return float(np.clip(float(found.reshape(-1)[0]), -_LIMIT, _LIMIT))


def _activation(op: Op) -> tuple[str, tuple[float, ...]] | None:
    """Return the name of an activation and its parameters as a fused operation has them."""
    if op.name == "clip":
        low, high = _limit(op, "min", -_LIMIT), _limit(op, "max", _LIMIT)
        return None if low is None or high is None else ("Clip", (low, high))
    name, params = _NAMES[op.name]
    return name, tuple(float(op.attr(p)) for p in params)


@rewrite(*_NAMES, "clip")
def activation_into_conv(m: Match, rw: Rewriter) -> bool:
    """relu(conv(x, w, b)) => ms_fused_conv(x, w, b, activation=Relu).

    Also for Sigmoid, Tanh, LeakyRelu, HardSigmoid and Clip with constant limits.
    """
    conv = made_by(m.root.operands[0], "conv")
    if conv is None:
        return False
    if not sole_user(conv.result):
        return rw.fail("{} has other users", conv)
    found = _activation(m.root)
    if found is None or not is_f32(conv.result) or not contrib(rw, "ms_fused_conv"):
        return rw.fail("its limits or types do not fit")
    attrs: dict[str, Any] = {**conv.all_attrs(), "activation": found[0]}
    if found[1]:
        attrs["activation_params"] = found[1]
    rw.also(conv)
    return settle(rw, m.root, rw.ms_fused_conv(*conv.operands, **attrs))


def _conv_and_rest(add: Op) -> tuple[Op, Value] | None:
    """Return a convolution that only ``add`` reads, and the other summand, of the same shape."""
    for i in (0, 1):
        conv, rest = made_by(add.operands[i], "conv"), add.operands[1 - i]
        if conv is None or rest is None or not sole_user(conv.result) or rest is conv.result:
            continue
        if same_shape(rest, conv.result):
            return conv, rest
    return None


_BLOCKED = ("conv", "ms_fused_conv", "max_pool", "average_pool")
_KEEPS_BLOCKS = ("add", "mul", "concat", "relu", "sigmoid", "tanh", "leaky_relu", "clip")
_DEPTH, _BLOCK = 6, 16


def _in_blocks(value: Value | None, depth: int = _DEPTH) -> bool:
    """Return whether onnxruntime may have ``value`` in blocks of channels, where convolutions do.

    It takes a sum into such a convolution only then; otherwise the convolution leaves the blocks.
    """
    op = None if value is None else value.op
    if op is None or not depth:
        return False
    if op.name in _BLOCKED:
        return True
    if op.name not in _KEEPS_BLOCKS:
        return False
    if op.name == "concat" and not all(_fills_blocks(v) for v in op.operands):
        return False
    data = op.operands if op.name in ("add", "mul", "concat") else op.operands[:1]
    return all(_in_blocks(v, depth - 1) for v in data)


def _fills_blocks(value: Value | None) -> bool:
    channels = value.shape[1] if value is not None and value.shape else None
    return isinstance(channels, int) and channels % _BLOCK == 0


@rewrite("add", *_NAMES, "clip", benefit=-1)
def sum_into_conv(m: Match, rw: Rewriter) -> bool:
    """relu(conv(x, w, b) + z) => ms_fused_conv(x, w, b, z, activation=Relu).

    Also for the other activations that it takes, or none; z has the shape of the convolution, and
    for images comes from convolutions itself: of others onnxruntime makes slower ones.
    """
    bare = m.root.name == "add"
    add = m.root if bare else made_by(m.root.operands[0], "add")
    if add is None or not any(made_by(v, "conv") for v in add.operands):
        return False
    found = _conv_and_rest(add)
    if found is None or not (bare or sole_user(add.result)):
        return rw.fail("the sum has other users, or its operands not proven the same shape")
    if bare and sole_user(add.result) and add.result.users[0].name in (*_NAMES, "clip"):
        return rw.fail("the activation behind it comes along")
    conv, rest = found
    if conv.result.rank == 4 and not _in_blocks(rest):
        return rw.fail("{} does not come from convolutions", rest)
    kind = ("", ()) if bare else _activation(m.root)
    if kind is None or not is_f32(conv.result, rest) or not contrib(rw, "ms_fused_conv"):
        return rw.fail("its limits or types do not fit")
    attrs: dict[str, Any] = conv.all_attrs()
    if kind[0]:
        attrs["activation"] = kind[0]
    if kind[1]:
        attrs["activation_params"] = kind[1]
    rw.also(add, conv)
    operands = [*conv.operands[:2], conv.operand("b"), rest]
    return settle(rw, m.root, rw.ms_fused_conv(*operands, **attrs))


@rewrite(*_NAMES)
def activation_into_gemm(m: Match, rw: Rewriter) -> bool:
    """relu(gemm(a, b, c)) => ms_fused_gemm(a, b, c, activation=Relu).

    Also for Sigmoid, Tanh, LeakyRelu and HardSigmoid.
    """
    gemm = made_by(m.root.operands[0], "gemm")
    if gemm is None:
        return False
    if not sole_user(gemm.result):
        return rw.fail("{} has other users", gemm)
    found = _activation(m.root)
    if found is None or not is_f32(gemm.result) or not contrib(rw, "ms_fused_gemm"):
        return rw.fail("elements are {}", gemm.result.dtype)
    names = ("activation_alpha", "activation_beta")
    attrs = {**gemm.all_attrs(), "activation": found[0], **dict(zip(names, found[1], strict=False))}
    rw.also(gemm)
    return settle(rw, m.root, rw.ms_fused_gemm(*gemm.operands, **attrs))
