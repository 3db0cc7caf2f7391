"""Normalizations that exporters spell out: LayerNormalization and RMSNormalization.

Each is recognised in steps: the normalization proper with a scale of ones, then the casts around
it, the scale and the bias.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.dims import same_dim
from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import Scan, available, f32, made_by, settle, sole_user
from lepton_ir.passes.fuse.reduction import mean_of_squares, trailing
from lepton_ir.rewrite import rewrite
from lepton_ir.tensors import SplatTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_DTYPES = (dtypes.F32, dtypes.F16)
_NORMS = ("layer_normalization", "rms_normalization")


def _deviation(scan: Scan, value: Value | None) -> tuple[Value, float] | None:
    """Return v and epsilon where ``value`` is sqrt(v + epsilon)."""
    root = scan.op(value, "sqrt")
    if root is None or root.operands[0] is None:
        return None
    return scan.with_number(root.operands[0], "add")


def inverse_deviation(scan: Scan, value: Value) -> tuple[Value, float] | None:
    """Return v and epsilon where ``value`` is 1 / sqrt(v + epsilon)."""
    op = scan.op(value, "reciprocal", "div", "pow")
    if op is None or op.operands[0] is None:
        return None
    if op.name == "reciprocal":
        return _deviation(scan, op.operands[0])
    if op.name == "div":
        if scan.number(op.operands[0]) != 1.0:
            return None
        return _deviation(scan, op.operands[1])
    if scan.number(op.operands[1]) != -0.5:
        return None
    return scan.with_number(op.operands[0], "add")


def quotients(m: Match) -> Iterator[tuple[Scan, Value, Value, float]]:
    """Yield scan, d, v and epsilon where the root is ``d / sqrt(v + epsilon)``."""
    a, b = m.root.operands
    if a is None or b is None:
        return
    if m.root.name == "div":
        scan = Scan(m.root)
        found = _deviation(scan, b)
        if found is not None:
            yield scan, a, *found
        return
    for d, inverse in ((a, b), (b, a)):
        scan = Scan(m.root)
        found = inverse_deviation(scan, inverse)
        if found is not None:
            yield scan, d, *found


def ones(rw: Rewriter, shape: list[int], dtype: DType) -> Value:
    """Build a constant of ones."""
    return rw.const(SplatTensor(1.0, dtype, tuple(shape)))


def _sizes(x: Value, k: int) -> list[int] | None:
    """Return the last ``k`` sizes of ``x`` where they are known and not 0."""
    if x.shape is None or len(x.shape) < k:
        return None
    sizes = [d for d in x.shape[len(x.shape) - k :] if isinstance(d, int) and d > 0]
    return sizes if len(sizes) == k else None


def _normalized(
    m: Match, rw: Rewriter, scan: Scan, name: str, x: Value, k: int, epsilon: float
) -> bool:
    if x.dtype not in _DTYPES or x.dtype is None:
        return rw.fail("elements are {}", x.dtype)
    sizes = _sizes(x, k)
    if sizes is None or math.prod(sizes) > 1 << 20:
        return rw.fail("the sizes of the last {} axes are not known", k)
    if not (0 <= epsilon < math.inf):
        return rw.fail("epsilon is {}", epsilon)
    if not available(rw, name):
        return rw.fail("the opset has no {}", name)
    if not scan.settles_on(x, rw):
        return False
    scale = ones(rw, sizes, x.dtype)
    made = rw.build(name, x, scale, axis=-k, epsilon=f32(epsilon))
    return settle(rw, m.root, made.result)


def _say_axes(rw: Rewriter, variance: Value) -> None:
    """Give the reason where what looks like a variance is over other axes than the last."""
    op = made_by(variance, "reduce_mean")
    if op is not None and trailing(op) is None:
        rw.fail("the mean {} is not proven to be over the last axes", op)


@rewrite("div", "mul", benefit=1)
def fuse_layer_norm(m: Match, rw: Rewriter) -> bool:
    """(x - mean) / sqrt(mean((x - mean) ** 2) + eps) over the last axes => layer_normalization.

    Squares by pow or mul, the quotient by div, reciprocal or pow(-0.5).
    """
    for scan, d, v, epsilon in quotients(m):
        square = mean_of_squares(scan, v)
        centered = scan.op(d, "sub")
        if square is None:
            _say_axes(rw, v)
        if square is None or centered is None or square[0] is not d:
            continue
        x = centered.operands[0]
        mean = scan.op(centered.operands[1], "reduce_mean")
        if mean is None or x is None or mean.operands[0] is not x or trailing(mean) != square[1]:
            continue
        return _normalized(m, rw, scan, "layer_normalization", x, square[1], epsilon)
    return False


@rewrite("div", "mul")
def fuse_rms_norm(m: Match, rw: Rewriter) -> bool:
    """(x / sqrt(mean(x ** 2) + eps)) over the last axes => rms_normalization."""
    for scan, d, v, epsilon in quotients(m):
        square = mean_of_squares(scan, v)
        if square is None:
            _say_axes(rw, v)
        if square is None or square[0] is not d:
            continue
        return _normalized(m, rw, scan, "rms_normalization", d, square[1], epsilon)
    return False


def is_one(value: Value | None) -> bool:
    """Return whether ``value`` is a constant of ones."""
    tensor = const_tensor(value)
    if tensor is None or tensor.size == 0:
        return False
    splat = tensor.splat_value()
    return splat is not None and bool(splat == 1)


def only_norm(value: Value | None, *names: str) -> Op | None:
    """Return the normalization that makes ``value`` for one user, with no other result."""
    op = made_by(value, *names)
    if op is None or value is None or not sole_user(value) or len(op.results) != 1:
        return None
    return op


def covers(value: Value, norm: Op) -> bool:
    """Whether ``value`` has exactly the shape of the normalized axes, proven."""
    scale = norm.operands[1]
    assert scale is not None
    if value.shape is None or scale.shape is None or len(value.shape) != len(scale.shape):
        return False
    same = zip(value.shape, scale.shape, strict=True)
    return value.dtype is scale.dtype and all(same_dim(a, b) for a, b in same)


@rewrite("cast")
def cast_around_norm(m: Match, rw: Rewriter) -> bool:
    """cast(norm(cast(x, to=f32), 1), to=f16) => norm(x, 1) in f16, computed in f32."""
    norm = only_norm(m.root.operands[0], *_NORMS)
    if norm is None or not is_one(norm.operands[1]) or len(norm.operands) > 2:
        return False
    inner = made_by(norm.operands[0], "cast")
    to = m.root.attr("to")
    if inner is None or norm.attr("stash_type") is not dtypes.F32:
        return False
    x, scale = inner.operands[0], norm.operands[1]
    if x is None or x.dtype is not to or to not in (dtypes.F16, dtypes.BF16):
        return rw.fail("the types around it differ")
    assert scale is not None
    tensor = const_tensor(scale)
    assert tensor is not None
    rw.also(norm, inner)
    unit = ones(rw, list(tensor.shape), to)
    made = rw.build(norm.name, x, unit, **norm.all_attrs())
    return settle(rw, m.root, made.result)


@rewrite("mul")
def scale_into_norm(m: Match, rw: Rewriter) -> bool:
    """norm(x, 1) * s => norm(x, s) for an s of the shape of the normalized axes."""
    for i in (0, 1):
        norm = only_norm(m.root.operands[i], *_NORMS)
        scale = m.root.operands[1 - i]
        if norm is None or scale is None or len(norm.operands) > 2:
            continue
        if not is_one(norm.operands[1]):
            continue
        if not covers(scale, norm):
            return rw.fail("{} is not proven to have the shape of the normalized axes", scale)
        rw.also(norm)
        made = rw.build(norm.name, norm.operands[0], scale, **norm.all_attrs())
        return settle(rw, m.root, made.result)
    return False


@rewrite("add")
def bias_into_norm(m: Match, rw: Rewriter) -> bool:
    """layer_normalization(x, s) + b => layer_normalization(x, s, b), b shaped like s."""
    for i in (0, 1):
        norm = only_norm(m.root.operands[i], "layer_normalization")
        bias = m.root.operands[1 - i]
        if norm is None or bias is None or len(norm.operands) > 2:
            continue
        if not covers(bias, norm):
            return rw.fail("{} is not proven to have the shape of the normalized axes", bias)
        rw.also(norm)
        made = rw.layer_normalization(*norm.operands, bias, **norm.all_attrs())
        value = made[0] if isinstance(made, tuple) else made
        return settle(rw, m.root, value)
    return False
