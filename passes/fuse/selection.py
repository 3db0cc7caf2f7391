"""Activations that exporters write as a choice: x above a threshold, something else below."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lepton_ir.dims import same_dim
from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import (
    Scan,
    available,
    close,
    f32,
    f32_exact,
    pays,
    settle,
    sole_user,
)
from lepton_ir.passes.fuse.primitives import positive_part
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_FLOATS = ("f32", "f64")
_LIMIT = 1 << 20
_COMPARISONS = ("greater", "greater_or_equal", "less", "less_or_equal")
_FLIPPED = {"greater": "less", "less": "greater"}
_SOFTPLUS_LEAST = {"f32": 15.0, "f64": 33.0}
"""From here on softplus(x) is x, rounded: exp(-x) is far below half a unit in the last place."""


class Choice(NamedTuple):
    """``upper`` where x is above ``threshold``, else ``lower``.

    Attributes:
        scan: what was passed.
        x: the value compared.
        threshold: what it is compared with.
        upper: result above.
        lower: result below.
        nan: what a NaN gives, ``upper`` or ``lower``.
        at: what the threshold itself gives.
    """

    scan: Scan
    x: Value
    threshold: float
    upper: Value
    lower: Value
    nan: Value
    at: Value


def choice_of(root: Op) -> Choice | None:
    """Return what the where ``root`` chooses, when it compares a value with a number."""
    condition, first, second = root.operands
    scan = Scan(root)
    test = scan.op(condition, *_COMPARISONS)
    if test is None or first is None or second is None:
        return None
    a, b = test.operands
    name = test.name
    number = scan.number(b)
    if number is None:
        a, number = b, scan.number(a)
        stem = name.removesuffix("_or_equal")
        name = name.replace(stem, _FLIPPED[stem])
    if a is None or number is None or math.isnan(number):
        return None
    above = name.startswith("greater")
    upper, lower = (first, second) if above else (second, first)
    at = first if name.endswith("equal") else second
    return Choice(scan, a, number, upper, lower, second, at)


def _spreads(slope: Value, x: Value) -> bool:
    """Whether ``slope`` broadcasts to the shape of ``x`` without enlarging it, proven."""
    if slope.shape is None or x.shape is None or len(slope.shape) > len(x.shape):
        return False
    pairs = zip(reversed(slope.shape), reversed(x.shape), strict=False)
    return all(d == 1 or same_dim(d, e) for d, e in pairs)


def _finite(value: Value) -> bool:
    array = const_array(value, _LIMIT)
    return array is not None and bool(np.isfinite(array).all())


def _factor(scan: Scan, value: Value, x: Value) -> Value | None:
    """Return s where ``value`` is ``x * s``."""
    product = scan.op(value, "mul")
    if product is None or x not in product.operands:
        return None
    return product.operands[1 if product.operands[0] is x else 0]


def is_zero(scan: Scan, value: Value) -> bool:
    """Return whether ``value`` is the constant 0."""
    return scan.number(value) == 0


@rewrite("where")
def leaky_relu_from_where(m: Match, rw: Rewriter) -> bool:
    """where(x > 0, x, x * a) => leaky_relu(x, alpha=a), or prelu(x, a) where a is a tensor.

    Any comparison with 0 will do: at 0 both sides are 0, for finite slopes.
    """
    found = choice_of(m.root)
    if found is None or found.threshold != 0 or found.upper is not found.x:
        return False
    scan, x = found.scan, found.x
    slope = _factor(scan, found.lower, x)
    if slope is None or slope is x or x.dtype is None:
        return False
    if x.dtype.name not in _FLOATS or not _spreads(slope, x):
        return rw.fail("the slopes are not proven to fit {}", x)
    if found.at is not x and not _finite(slope):
        return rw.fail("a slope may be infinite, and the result at 0 NaN")
    alpha = scan.number(slope)
    if alpha is not None and math.isfinite(alpha) and f32_exact(x.dtype, alpha):
        if not available(rw, "leaky_relu") or not scan.settles_on(x, rw):
            return False
        return settle(rw, m.root, rw.leaky_relu(x, alpha=f32(alpha)))
    if not available(rw, "prelu") or not scan.settles_on(x, rw):
        return False
    return settle(rw, m.root, rw.prelu(x, slope))


@rewrite("where")
def relu_from_where(m: Match, rw: Rewriter) -> bool:
    """where(x < 0, 0, x) => relu(x), where(x > t, x, 0) => thresholded_relu(x, alpha=t).

    They differ at NaN: relu keeps it, the other one makes it 0.
    """
    found = choice_of(m.root)
    if found is None or found.upper is not found.x or not is_zero(found.scan, found.lower):
        return False
    scan, x, threshold = found.scan, found.x, found.threshold
    if x.dtype is None or not x.dtype.is_float:
        return rw.fail("elements are {}", x.dtype)
    if found.nan is found.upper:
        if threshold != 0:
            return rw.fail("it keeps NaN, and makes numbers up to {} zero", threshold)
        if not available(rw, "relu") or not scan.settles_on(x, rw):
            return False
        return settle(rw, m.root, rw.relu(x))
    if found.at is found.upper and threshold != 0:
        return rw.fail("it keeps {} itself", threshold)
    if x.dtype.name != "f32" or not available(rw, "thresholded_relu"):
        return rw.fail("elements are {}", x.dtype)
    if not math.isfinite(threshold) or not scan.settles_on(x, rw):
        return False
    return settle(rw, m.root, rw.thresholded_relu(x, alpha=f32(threshold)))


@rewrite("where")
def softplus_from_where(m: Match, rw: Rewriter) -> bool:
    """where(x > t, x, softplus(x)) => softplus(x) for a t from which on both are the same."""
    found = choice_of(m.root)
    if found is None or found.upper is not found.x:
        return False
    scan, x = found.scan, found.x
    inner = scan.op(found.lower, "softplus")
    if inner is None or inner.operands[0] is not x or x.dtype is None:
        return False
    least = _SOFTPLUS_LEAST.get(x.dtype.name)
    if least is None or found.threshold < least:
        return rw.fail("softplus({}) is not yet the same in {}", found.threshold, x.dtype)
    if not scan.settles_on(x, rw):
        return False
    return rw.replace(m.root, inner.result)


# -- exponential linear units ----------------------------------------------------------------------


def _exp_less_one(scan: Scan, value: Value) -> tuple[float, float, Value] | None:
    """Return a, k and y where ``value`` is ``a * (exp(k * y) - 1)``."""
    found = scan.product(value)
    if found is None or len(found[1]) != 1 or found[0] == 0:
        return None
    number, total = found[0], found[1][0]
    less = scan.with_number(total, "sub") or scan.with_number(total, "add")
    if less is None or less[1] != (1.0 if _is_sub(total) else -1.0):
        return None
    power = scan.op(less[0], "exp")
    inner = None if power is None or power.operands[0] is None else power.operands[0]
    if inner is None:
        return None
    if not sole_user(inner):
        return number, 1.0, inner
    scaled = scan.product(inner)
    if scaled is None or len(scaled[1]) != 1:
        return number, 1.0, inner
    return number, scaled[0], scaled[1][0]


def _is_sub(value: Value) -> bool:
    return value.op is not None and value.op.name == "sub"


def _elu(rw: Rewriter, x: Value, gain: float, number: float, inner: float) -> Value | None:
    """Build ``gain * x`` above 0 and ``number * (exp(inner * x) - 1)`` below as one operation."""
    if gain == 1 and inner == 1 and available(rw, "elu"):
        made: Value = rw.elu(x, alpha=f32(number))
        return made
    if gain == 1 and close(inner * number, 1.0, x.dtype) and available(rw, "celu"):
        made = rw.celu(x, alpha=f32(number))
        return made
    if inner == 1 and gain > 0 and available(rw, "selu"):
        made = rw.selu(x, alpha=f32(number / gain), gamma=f32(gain))
        return made
    rw.fail("no operation has these three numbers: {}, {}, {}", gain, number, inner)
    return None


@rewrite("where")
def elu_from_where(m: Match, rw: Rewriter) -> bool:
    """where(x > 0, x, a * (exp(x) - 1)) => elu(x, alpha=a); also celu and selu.

    Celu has ``a * (exp(x / a) - 1)`` below, selu a factor above as well.
    """
    found = choice_of(m.root)
    if found is None or found.threshold != 0:
        return False
    scan, x = found.scan, found.x
    below = _exp_less_one(scan, found.lower)
    above = scan.product(found.upper)
    if below is None or above is None or above[1] != [x] or below[2] is not x:
        return False
    if x.dtype is None or x.dtype.name != "f32" or not math.isfinite(below[0] * above[0]):
        return rw.fail("elements are {}", x.dtype)
    if not scan.settles_on(x, rw):
        return False
    made = _elu(rw, x, above[0], below[0], below[1])
    return False if made is None else settle(rw, m.root, made)


@rewrite("add")
def elu_from_sum(m: Match, rw: Rewriter) -> bool:
    """max(x, 0) + a * (exp(min(x, 0)) - 1) => elu(x, alpha=a).

    max(x, 0) + min(0, a * (exp(x / a) - 1)) => celu(x, alpha=a).
    """
    for i in (0, 1):
        scan = Scan(m.root)
        x = positive_part(scan, m.root.operands[i])
        other = m.root.operands[1 - i]
        if x is None or other is None:
            continue
        limited = scan.with_number(other, "min")
        if limited is not None and limited[1] == 0:
            below = _exp_less_one(scan, limited[0])
            fits = below is not None and below[2] is x and below[0] * below[1] > 0
        else:
            below = _exp_less_one(scan, other)
            clamp = None if below is None else scan.with_number(below[2], "min")
            fits = clamp is not None and clamp[1] == 0 and clamp[0] is x
        if below is None or not fits:
            continue
        if x.dtype is None or x.dtype.name != "f32" or not math.isfinite(below[0]):
            return rw.fail("elements are {}", x.dtype)
        if not pays(rw, "elu"):
            return False
        if not scan.settles_on(x, rw):
            return False
        made = _elu(rw, x, 1.0, below[0], below[1])
        return False if made is None else settle(rw, m.root, made)
    return False


@rewrite("mul")
def selu_from_elu(m: Match, rw: Rewriter) -> bool:
    """elu(x, alpha=a) * g => selu(x, alpha=a, gamma=g)."""
    scan = Scan(m.root)
    found = scan.with_number(m.root.result, "mul")
    inner = None if found is None else scan.op(found[0], "elu")
    if found is None or inner is None or inner.operands[0] is None:
        return False
    x = inner.operands[0]
    if x.dtype is None or x.dtype.name != "f32" or not 0 < found[1] < math.inf:
        return rw.fail("elements are {}", x.dtype)
    if not available(rw, "selu") or not scan.settles_on(x, rw):
        return False
    return settle(rw, m.root, rw.selu(x, alpha=inner.attr("alpha"), gamma=f32(found[1])))
