"""Other forms of normalizations: over channels in front, over pixels, as tf.nn writes them.

Affine operations a channel around them go into their constants.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import Scan, available, ends_gelu, f32, made_by, settle, sole_user
from lepton_ir.passes.fuse._weights import (
    Affine,
    affine_of,
    batch_norm_affine,
    channel_vector,
    constant,
    rounded,
)
from lepton_ir.passes.fuse.norm import inverse_deviation, is_one, ones, only_norm, quotients
from lepton_ir.passes.fuse.reduction import mean_of_squares_over, reduced_axes
from lepton_ir.rewrite import rewrite
from lepton_ir.tensors import SplatTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_LIMIT = 1 << 20


def _normalized(m: Match) -> Iterator[tuple[Scan, Value, tuple[int, ...], float]]:
    """Yield scan, x, axes and epsilon where the root is ``(x - mean) / sqrt(variance + eps)``."""
    for scan, d, v, epsilon in quotients(m):
        square = mean_of_squares_over(scan, v)
        centred = scan.op(d, "sub")
        if square is None or centred is None or square[0] is not d:
            continue
        x = centred.operands[0]
        mean = scan.op(centred.operands[1], "reduce_mean")
        if mean is None or x is None or mean.operands[0] is not x or not mean.attr("keepdims"):
            continue
        if x.rank is not None and reduced_axes(mean) == square[1] and 0 <= epsilon < math.inf:
            yield scan, x, square[1], epsilon


def _size(x: Value, axis: int) -> int | None:
    size = None if x.shape is None else x.shape[axis]
    return size if isinstance(size, int) and 0 < size <= _LIMIT else None


@rewrite("div", "mul")
def layer_norm_of_channels(m: Match, rw: Rewriter) -> bool:
    """(x - mean) / sqrt(var + eps) over one axis that is not the last => layer_normalization.

    Between two transposes; layer_normalization knows only the last axes. Three operations for
    seven, and in onnxruntime two to three times as fast.
    """
    for scan, x, axes, epsilon in _normalized(m):
        if len(axes) != 1 or x.rank is None or axes[0] == x.rank - 1:
            continue
        axis, size = axes[0], _size(x, axes[0])
        if x.dtype is not dtypes.F32 or size is None:
            return rw.fail("the size of axis {} is not known, or elements are {}", axis, x.dtype)
        if not available(rw, "layer_normalization") or not scan.settles_on(x, rw):
            return rw.fail("the opset has no LayerNormalization")
        perm = [a for a in range(x.rank) if a != axis] + [axis]
        moved = rw.transpose(x, perm=tuple(perm))
        norm = rw.layer_normalization(
            moved, ones(rw, [size], dtypes.F32), axis=-1, epsilon=f32(epsilon)
        )
        back = tuple(perm.index(a) for a in range(x.rank))
        return settle(rw, m.root, rw.transpose(norm, perm=back))
    return False


@rewrite("mul", "add", "sub", "div")
def affine_into_moved_norm(m: Match, rw: Rewriter) -> bool:
    """transpose(layer_normalization(x, 1)) * s + t => transpose(layer_normalization(x, s, t)).

    s and t are constants that differ along the normalized axis only.
    """
    for value in m.root.operands[:2]:
        turn = made_by(value, "transpose")
        norm = None if turn is None else only_norm(turn.operands[0], "layer_normalization")
        if turn is None or norm is None or value is None or not sole_user(value):
            continue
        perm, tensor = turn.attr("perm"), const_tensor(norm.operands[1])
        if perm is None or tensor is None or len(tensor.shape) != 1:
            continue
        if norm.attr("axis") not in (-1, len(perm) - 1) or norm.operand("b") is not None:
            return rw.fail("it has a bias, or normalizes several axes")
        axis = list(perm).index(len(perm) - 1)
        affine = affine_of(m.root, value, len(perm), tensor.shape[0], axis)
        if isinstance(affine, str):
            return rw.fail("{}", affine)
        if affine.scales and not is_one(norm.operands[1]):
            return rw.fail("it has a scale already")
        return _affine_norm(m, rw, turn, norm, affine)
    return False


def _affine_norm(m: Match, rw: Rewriter, turn: Op, norm: Op, affine: Affine) -> bool:
    gamma, beta = norm.operands[1], None
    tensor = const_tensor(gamma)
    assert tensor is not None
    scale, shift = (
        rounded(np.broadcast_to(v, tensor.shape), tensor.dtype)
        for v in (affine.scale, affine.shift)
    )
    if scale is None or shift is None:
        return rw.fail("the constants leave the range of {}", tensor.dtype)
    rw.also(turn, norm)
    if affine.scales:
        gamma = rw.const(scale, tensor.dtype)
    if affine.shifts:
        beta = rw.const(shift, tensor.dtype)
    made = rw.layer_normalization(norm.operands[0], gamma, beta, **norm.all_attrs())
    return settle(rw, m.root, rw.transpose(made, perm=turn.attr("perm")))


# -- over pixels -----------------------------------------------------------------------------------


def _scaled_by_pixels(value: Value) -> bool:
    """Whether ``value`` is only multiplied by a constant that differs along its last axis."""
    user = value.users[0] if sole_user(value) else None
    if user is None or user.name != "mul":
        return False
    other = user.operands[1 if user.operands[0] is value else 0]
    tensor = const_tensor(other)
    return tensor is not None and bool(tensor.shape) and tensor.shape[-1] != 1


@rewrite("div", "mul", benefit=2)
def fuse_instance_norm(m: Match, rw: Rewriter) -> bool:
    """(x - mean) / sqrt(var + eps) over all pixels of images => instance_normalization(x, 1, 0)."""
    for scan, x, axes, epsilon in _normalized(m):
        if x.rank is None or x.rank < 4 or axes != tuple(range(2, x.rank)):
            continue
        size = _size(x, 1)
        if size is None or x.dtype is not dtypes.F32:
            return rw.fail("the channels are not known, or elements are {}", x.dtype)
        if _scaled_by_pixels(m.root.result):
            return rw.fail("a scale a pixel follows: it is a layer normalization")
        if not available(rw, "instance_normalization") or not scan.settles_on(x, rw):
            return False
        zeros = rw.const(SplatTensor(0.0, dtypes.F32, (size,)))
        made = rw.instance_normalization(
            x, ones(rw, [size], dtypes.F32), zeros, epsilon=f32(epsilon)
        )
        return settle(rw, m.root, made)
    return False


@rewrite("mul", "add", "sub", "div")
def affine_into_instance_norm(m: Match, rw: Rewriter) -> bool:
    """instance_normalization(x, g, b) * s + t => instance_normalization(x, g * s, b * s + t).

    s and t are constants a channel.
    """
    for value in m.root.operands[:2]:
        norm = only_norm(value, "instance_normalization")
        if norm is None or value is None or value.rank is None:
            continue
        x, gamma, beta = norm.operands
        channels = gamma.shape[0] if gamma is not None and gamma.shape else None
        if gamma is None or beta is None or not isinstance(channels, int):
            return rw.fail("the channels are not known")
        affine = affine_of(m.root, value, value.rank, channels)
        old = [channel_vector(v, 2, channels) for v in (gamma, beta)]
        if isinstance(affine, str) or old[0] is None or old[1] is None or gamma.dtype is None:
            return rw.fail("{}", affine if isinstance(affine, str) else "no finite constants")
        scale = rounded(np.broadcast_to(old[0] * affine.scale, (channels,)), gamma.dtype)
        shift = old[1] * affine.scale + affine.shift
        bias = rounded(np.broadcast_to(shift, (channels,)), gamma.dtype)
        if scale is None or bias is None:
            return rw.fail("the constants leave the range of {}", gamma.dtype)
        rw.also(norm)
        pair = [rw.const(v, gamma.dtype) for v in (scale, bias)]
        made = rw.instance_normalization(x, *pair, **norm.all_attrs())
        return settle(rw, m.root, made)
    return False


@rewrite("batch_normalization")
def affine_before_bn(m: Match, rw: Rewriter) -> bool:
    """bn(x * s + t) => bn(x) with gamma * s and mean (mean - t) / s."""
    bn = m.root
    inner = made_by(bn.operands[0], "add", "sub", "mul", "div")
    gamma, mean = bn.operands[1], bn.operands[3]
    tensor = const_tensor(gamma)
    if inner is None or gamma is None or mean is None or tensor is None or gamma.dtype is None:
        return False
    if not sole_user(inner.result):
        return rw.fail("{} has other users", inner)
    channels, rank = tensor.shape[0], inner.result.rank
    x = next((v for v in inner.operands[:2] if v is not None and const_tensor(v) is None), None)
    if x is None or rank is None or rank < 2 or x.rank != rank or x.shape is None:
        return rw.fail("the rank is not known")
    affine = affine_of(inner, x, rank, channels) if x.shape[1] == channels else "channels differ"
    known = batch_norm_affine(bn, channels)
    for found in (affine, known):
        if isinstance(found, str):
            return rw.fail("{}", found)
    assert isinstance(affine, Affine)
    if not np.all(affine.scale):
        return rw.fail("a factor is 0")
    if ends_gelu(x):
        return rw.fail("the factor belongs to a gelu, which runtimes recognise whole")
    with np.errstate(all="ignore"):
        centre = (constant(mean).astype(np.float64) - affine.shift) / affine.scale
        new = rounded(constant(gamma).astype(np.float64) * affine.scale, gamma.dtype)
        moved = rounded(centre, gamma.dtype)
    if new is None or moved is None:
        return rw.fail("the parameters leave the range of {}", gamma.dtype)
    rw.also(inner)
    operands = [
        x,
        rw.const(new, gamma.dtype, gamma.name),
        bn.operands[2],
        rw.const(moved, gamma.dtype, mean.name),
        *bn.operands[4:],
    ]
    made = rw.build("batch_normalization", *operands, results=len(bn.results), **bn.all_attrs())
    return rw.replace(bn, list(made.results))


# -- as tf.nn.batch_normalization computes it ------------------------------------------------------


@rewrite("add")
def layer_norm_from_products(m: Match, rw: Rewriter) -> bool:
    """(x * k + (b - mean * k)) for k = g / sqrt(var + eps) => layer_normalization(x, g, b).

    Mean and variance are those of x over its last axis, g and b are one row.
    """
    for i in (0, 1):
        scan = Scan(m.root)
        scaled, rest = scan.op(m.root.operands[i], "mul"), scan.op(m.root.operands[1 - i], "sub")
        moved = None if rest is None else scan.op(rest.operands[1], "mul")
        if scaled is None or rest is None or moved is None:
            continue
        bias = rest.operands[0]
        for x, k in _orders(scaled):
            mean = moved.operands[1 if moved.operands[0] is k else 0]
            found = _gain(scan, x, k, mean) if k in moved.operands else None
            if found is None or bias is None:
                continue
            gain, epsilon = found
            size = x.shape[-1] if x.shape else None
            if x.dtype is not dtypes.F32 or not isinstance(size, int) or size < 1:
                return rw.fail("the size of the last axis is not known")
            rows = [v for v in (gain, bias) if v is not None]
            if any(v.shape != (size,) or v.dtype is not dtypes.F32 for v in rows):
                return rw.fail("scale and bias are not one row")
            if not available(rw, "layer_normalization") or not scan.settles_on(x, rw):
                return rw.fail("the opset has no LayerNormalization")
            scale = ones(rw, [size], dtypes.F32) if gain is None else gain
            made = rw.layer_normalization(x, scale, bias, axis=-1, epsilon=f32(epsilon))
            return settle(rw, m.root, made)
    return False


def _orders(product: Op) -> list[tuple[Value, Value]]:
    a, b = product.operands
    return [] if a is None or b is None else [(a, b), (b, a)]


def _gain(scan: Scan, x: Value, k: Value, mean: Value | None) -> tuple[Value | None, float] | None:
    """Return g (``None``: 1) and epsilon where ``k`` is ``g / sqrt(var(x) + epsilon)``."""
    found = _inverse(scan, x, k, mean)
    if found is not None:
        return None, found
    product = scan.op(k, "mul")
    for inverse, gain in [] if product is None else _orders(product):
        epsilon = _inverse(scan, x, inverse, mean)
        if epsilon is not None:
            return gain, epsilon
    return None


def _inverse(scan: Scan, x: Value, value: Value, mean: Value | None) -> float | None:
    """Return epsilon where ``value`` is one over the deviation of ``x`` from ``mean``."""
    found = inverse_deviation(scan, value)
    square = None if found is None else mean_of_squares_over(scan, found[0])
    if found is None or square is None or x.rank is None or square[1] != (x.rank - 1,):
        return None
    centred = scan.op(square[0], "sub")
    average = scan.op(mean, "reduce_mean")
    if centred is None or average is None or not average.attr("keepdims"):
        return None
    fits = list(centred.operands) == [x, mean] and average.operands[0] is x
    return found[1] if fits and reduced_axes(average) == square[1] else None
