"""Affine operations a channel before and after convolutions and normalizations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.dims import same_dim
from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import ends_gelu, made_by, sole_user
from lepton_ir.passes.fuse._weights import (
    Affine,
    Array,
    affine_of,
    affordable,
    batch_norm_affine,
    constant,
    new_weight,
    rounded,
    scaled,
    spread,
    wide_bias,
)
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_CONVS = ("conv", "conv_transpose")
_LEAST = 1e-6


def _weight_shape(op: Op) -> tuple[int, ...] | None:
    tensor = const_tensor(op.operands[1])
    return None if tensor is None else tensor.shape


def _static_shape(op: Op) -> tuple[int, ...] | None:
    """Return the weight's sizes; a bias needs no more of it, which may be dequantized."""
    weight = op.operands[1]
    if weight is None or weight.shape is None:
        return None
    sizes = tuple(d for d in weight.shape if isinstance(d, int))
    return sizes if len(sizes) == len(weight.shape) else None


def _channels_out(op: Op, shape: tuple[int, ...]) -> int:
    return shape[0] if op.name == "conv" else shape[1] * int(op.attr("group"))


def _scaled_outputs(op: Op, factor: Array) -> Array | None:
    """Multiply the weights of each output channel."""
    assert op.operands[1] is not None
    weight = constant(op.operands[1])
    dtype = op.operands[1].dtype
    assert dtype is not None
    rest = (1,) * (weight.ndim - 2)
    if op.name == "conv":
        return scaled(weight, spread(factor, (-1, 1, *rest)), dtype)
    group = int(op.attr("group"))
    split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    found = scaled(split, spread(factor, (group, 1, weight.shape[1], *rest)), dtype)
    return None if found is None else found.reshape(weight.shape)


def _rebuilt(op: Op, rw: Rewriter, x: Value, weight: Value, bias: Value | None) -> Value:
    return rw.build(op.name, x, weight, bias, **op.all_attrs()).result


def _absorb(m: Match, rw: Rewriter, conv: Op, affine: Affine) -> bool:
    """Make ``conv`` with ``affine`` after it one convolution."""
    x, weight, *rest = conv.operands
    bias = rest[0] if rest else None
    assert x is not None
    assert weight is not None
    if affine.scales and const_tensor(weight) is None:
        return rw.fail("the weight of {} is not a constant", conv)
    if (affine.scales and not affordable(rw, weight)) or weight.dtype is None:
        return False
    shape = _static_shape(conv)
    assert shape is not None
    wide = wide_bias(rw, bias)
    if wide is None:
        return False
    total = wide * affine.scale + affine.shift
    summed = rounded(np.broadcast_to(total, (_channels_out(conv, shape),)), weight.dtype)
    product = _scaled_outputs(conv, affine.scale) if affine.scales else None
    if summed is None or (affine.scales and product is None):
        return rw.fail("the folded weights leave the range of {}", weight.dtype)
    rw.also(conv)
    new = weight if product is None else new_weight(rw, product, weight)
    new_bias = None
    if bias is not None or affine.shifts:
        new_bias = rw.const(summed, weight.dtype, None if bias is None else bias.name)
    return rw.replace(m.root.result, _rebuilt(conv, rw, x, new, new_bias))


def _operand_from(root: Op, *names: str) -> Op | None:
    """Return the first operation of ``names`` among the producers that only ``root`` reads."""
    for value in root.operands:
        op = made_by(value, *names)
        if op is not None and value is not None and sole_user(value):
            return op
    return None


def _fold_after(m: Match, rw: Rewriter) -> bool:
    conv = _operand_from(m.root, *_CONVS)
    if conv is None:
        if any(made_by(v, *_CONVS) for v in m.root.operands):
            return rw.fail("the convolution has other users")
        return False
    shape = _static_shape(conv)
    if shape is None:
        return rw.fail("the weight of {} is not a constant, nor are its sizes", conv)
    affine = affine_of(m.root, conv.result, len(shape), _channels_out(conv, shape))
    if isinstance(affine, str):
        return rw.fail("{}", affine)
    return _absorb(m, rw, conv, affine)


@rewrite("batch_normalization")
def bn_into_conv(m: Match, rw: Rewriter) -> bool:
    """bn(conv(x, w, b)) => conv(x, w * s, (b - mean) * s + beta), s = gamma / sqrt(var + eps)."""
    return _fold_after(m, rw)


@rewrite("add", "sub", "mul", "div")
def affine_into_conv(m: Match, rw: Rewriter) -> bool:
    """conv(x, w, b) * s + t => conv(x, w * s, b * s + t) for constants s, t a channel.

    A summand alone goes into the bias of weights that are no constant, dequantized ones mostly.
    """
    return _fold_after(m, rw)


# -- before ----------------------------------------------------------------------------------------


def _unpadded(conv: Op) -> bool:
    if conv.attr("auto_pad") in ("SAME_UPPER", "SAME_LOWER"):
        return False
    return conv.attr("auto_pad") == "VALID" or not any(conv.attr("pads") or ())


def _input_column(vector: Array, group: int, per_group: int, ndim: int) -> Array:
    return spread(vector, (group, 1, per_group, *(1,) * (ndim - 2)))


@rewrite("conv")
def affine_before_conv(m: Match, rw: Rewriter) -> bool:
    """conv(x * s + t, w, b) => conv(x, w * s, b + sum(w * t)); with padding only if t is 0.

    Padding adds zeros after the affine operation; before it they would become t.
    """
    conv = m.root
    inner = made_by(conv.operands[0], "batch_normalization", "add", "sub", "mul", "div")
    weight, shape = conv.operands[1], _weight_shape(conv)
    if inner is None or weight is None or shape is None:
        return False
    if not sole_user(inner.result):
        return rw.fail("{} has other users", inner)
    group, channels = int(conv.attr("group")), shape[1] * int(conv.attr("group"))
    affine: Affine | str = "no operand of it can be taken"
    for value in inner.operands[:2]:
        if value is None or value.rank != len(shape) or const_tensor(value) is not None:
            continue
        assert value.shape is not None
        if same_dim(value.shape[1], channels):
            affine = affine_of(inner, value, len(shape), channels)
            break
    if isinstance(affine, str):
        return rw.fail("{}", affine)
    if affine.shifts and not _unpadded(conv):
        return rw.fail("the convolution pads with zeros")
    if ends_gelu(affine.x):
        return rw.fail("the factor belongs to a gelu, which runtimes recognise whole")
    if not affordable(rw, weight) or weight.dtype is None:
        return False
    data = constant(weight)
    split = data.reshape(group, shape[0] // group, *shape[1:])
    column = _input_column(affine.scale, group, shape[1], len(shape))
    product = scaled(split, column, weight.dtype)
    wide = wide_bias(rw, conv.operand("b"))
    if wide is None:
        return False
    total = wide + _shift_sum(split, affine.shift, group, shape) if affine.shifts else wide
    summed = rounded(np.broadcast_to(total, (shape[0],)), weight.dtype)
    if product is None or summed is None:
        return rw.fail("the folded weights leave the range of {}", weight.dtype)
    rw.also(inner)
    new = new_weight(rw, product.reshape(shape), weight)
    keeps_bias = conv.operand("b") is not None or affine.shifts
    bias = rw.const(summed, weight.dtype) if keeps_bias else None
    return rw.replace(conv, _rebuilt(conv, rw, affine.x, new, bias))


def _only_variable(op: Op | None) -> Value | None:
    """Return the operand of a two-operand operation that is no constant, if there is one."""
    if op is None:
        return None
    found = [v for v in op.operands[:2] if v is not None and const_tensor(v) is None]
    return found[0] if len(found) == 1 else None


@rewrite("conv")
def scale_past_shift(m: Match, rw: Rewriter) -> bool:
    """conv(x * s + t, w, b) => conv(x + t / s, w * s, b) for a convolution that pads.

    Its padding adds zeros behind the summand, which has to stay in front of it; without padding
    the whole goes into weight and bias.
    """
    conv = m.root
    shift = made_by(conv.operands[0], "add", "sub")
    middle = _only_variable(shift)
    scale = made_by(middle, "mul", "div")
    x, weight, shape = _only_variable(scale), conv.operands[1], _weight_shape(conv)
    if shift is None or middle is None or scale is None or x is None or _unpadded(conv):
        return False
    if weight is None or weight.dtype is None or shape is None or x.rank != len(shape):
        return rw.fail("the weight is not a constant, or the rank is not known")
    if not sole_user(shift.result) or not sole_user(middle) or ends_gelu(x):
        return rw.fail("{} has other users, or is part of a gelu", shift)
    group, channels = int(conv.attr("group")), shape[1] * int(conv.attr("group"))
    assert x.shape is not None
    if not same_dim(x.shape[1], channels):
        return rw.fail("the channels of {} are not known", x)
    outer = affine_of(shift, middle, len(shape), channels)
    inner = affine_of(scale, x, len(shape), channels)
    for found in (outer, inner):
        if isinstance(found, str):
            return rw.fail("{}", found)
    assert isinstance(outer, Affine)
    assert isinstance(inner, Affine)
    size = np.abs(inner.scale)
    if outer.scales or inner.shifts or not ((size > _LEAST) & (size < 1 / _LEAST)).all():
        return rw.fail("the factor is too small or too large")
    if not affordable(rw, weight):
        return False
    split = constant(weight).reshape(group, shape[0] // group, *shape[1:])
    column = _input_column(inner.scale, group, shape[1], len(shape))
    product = scaled(split, column, weight.dtype)
    moved = rounded(spread(outer.shift / inner.scale, (-1, *(1,) * (len(shape) - 2))), weight.dtype)
    if product is None or moved is None:
        return rw.fail("the folded weights leave the range of {}", weight.dtype)
    rw.also(shift, scale)
    new = new_weight(rw, product.reshape(shape), weight)
    shifted = rw.add(x, rw.const(moved, weight.dtype))
    return rw.replace(conv, _rebuilt(conv, rw, shifted, new, conv.operand("b")))


def _shift_sum(split: Array, shift: Array, group: int, shape: tuple[int, ...]) -> Array:
    """Return what a constant input gives for each output channel."""
    column = _input_column(shift, group, shape[1], len(shape))
    axes = tuple(range(2, split.ndim))
    found: Any = (split.astype(np.float64) * column).sum(axis=axes)
    return np.asarray(found).reshape(math.prod(found.shape))


# -- batch normalization alone ---------------------------------------------------------------------


def _bn_channels(op: Op) -> int | None:
    tensor = const_tensor(op.operands[1])
    return None if tensor is None or len(tensor.shape) != 1 else tensor.shape[0]


@rewrite("add", "sub", "mul", "div", "batch_normalization")
def affine_into_bn(m: Match, rw: Rewriter) -> bool:
    """bn(x) * s + t => bn(x) with gamma * s and beta * s + t; also for a second bn."""
    inner = _operand_from(m.root, "batch_normalization")
    if inner is None:
        return False
    channels, rank = _bn_channels(inner), inner.result.rank
    if channels is None or rank is None or rank < 2:
        return rw.fail("the parameters or the rank are not known")
    affine = affine_of(m.root, inner.result, rank, channels)
    first = batch_norm_affine(inner, channels)
    for found in (affine, first):
        if isinstance(found, str):
            return rw.fail("{}", found)
    assert isinstance(affine, Affine)
    _, gamma, beta, *_rest = inner.operands
    if gamma is None or beta is None or gamma.dtype is None or beta.dtype is None:
        return False
    new_gamma = rounded(constant(gamma).astype(np.float64) * affine.scale, gamma.dtype)
    new_beta = rounded(constant(beta).astype(np.float64) * affine.scale + affine.shift, beta.dtype)
    if new_gamma is None or new_beta is None:
        return rw.fail("the folded parameters leave the range of {}", gamma.dtype)
    rw.also(inner)
    values = [
        inner.operands[0],
        rw.const(new_gamma, gamma.dtype, gamma.name),
        rw.const(new_beta, beta.dtype, beta.name),
        *inner.operands[3:],
    ]
    made = rw.build("batch_normalization", *values, **inner.all_attrs())
    return rw.replace(m.root.result, made.result)
