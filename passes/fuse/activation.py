"""Activations that exporters spell out: Gelu, HardSigmoid, HardSwish, Swish, Mish."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_ir.passes.fuse._match import (
    Scan,
    available,
    close,
    f32,
    f32_exact,
    made_by,
    pays,
    settle,
    sole_user,
)
from lepton_ir.passes.fuse.clamp import clamp_of
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.ir import Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_CUBIC = 0.044715


def two_factors(m: Match) -> Iterator[tuple[Scan, float, Value, Value]]:
    """Yield the ways to see the root as ``number * x * g``, with a scan of each."""
    for first in (0, 1):
        scan = Scan(m.root)
        found = scan.product(m.root.result)
        if found is None or len(found[1]) != 2:
            return
        yield scan, found[0], found[1][first], found[1][1 - first]


def times(scan: Scan, value: Value | None, x: Value) -> float | None:
    """Return a where ``value`` is ``a * x``."""
    if value is None:
        return None
    if value is x:
        return 1.0
    if not sole_user(value):
        return None
    found = scan.product(value)
    return found[0] if found is not None and found[1] == [x] else None


# -- gelu ------------------------------------------------------------------------------------------


def _one_plus(scan: Scan, g: Value, number: float, dtype: object) -> Value | None:
    """Return f where ``number * g`` is ``(1 + f) / 2``, f being an erf or a tanh."""
    found = scan.with_number(g, "add")
    if found is None:
        return None
    inner, one = found
    if made_by(inner, "erf", "tanh") is None:
        product = scan.product(inner)
        if product is None or len(product[1]) != 1:
            return None
        number, one, inner = number * product[0], one / product[0], product[1][0]
    fits = close(number, 0.5, dtype) and close(one, 1.0, dtype)  # type: ignore[arg-type]
    return inner if fits else None


@rewrite("mul", "div")
def fuse_gelu(m: Match, rw: Rewriter) -> bool:
    """(x / 2) * (1 + erf(x / sqrt(2))) => gelu(x); factors in any order and grouping.

    (x / 2) * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) => gelu(x, approximate=tanh).
    """
    for scan, number, x, g in two_factors(m):
        curve = _one_plus(scan, g, number, x.dtype)
        op = scan.op(curve, "erf", "tanh")
        if op is None:
            continue
        if op.name == "erf":
            inner = times(scan, op.operands[0], x)
            fits = close(inner, math.sqrt(0.5), x.dtype)
        else:
            fits = _is_tanh_curve(scan, op.operands[0], x)
        if not fits:
            continue
        if not available(rw, "gelu"):
            return rw.fail("the opset has no Gelu")
        if not scan.settles_on(x, rw):
            return False
        kind = "none" if op.name == "erf" else "tanh"
        return settle(rw, m.root, rw.gelu(x, approximate=kind))
    return False


def _is_tanh_curve(scan: Scan, value: Value | None, x: Value) -> bool:
    """Whether ``value`` is sqrt(2 / pi) * (x + 0.044715 * x ** 3)."""
    found = None if value is None else scan.product(value)
    if found is None:
        return False
    number, factors = found
    if not close(number, math.sqrt(2 / math.pi), x.dtype):
        return False
    if len(factors) == 1:
        total = scan.op(factors[0], "add")
        if total is None or x not in total.operands:
            return False
        cube = total.operands[1 if total.operands[0] is x else 0]
        return _is_cubic(scan, cube, x, 3)
    if len(factors) != 2 or x not in factors:
        return False
    line = scan.with_number(factors[1 if factors[0] is x else 0], "add")
    return line is not None and close(line[1], 1.0, x.dtype) and _is_cubic(scan, line[0], x, 2)


def tanh_gelu_operand(scan: Scan, number: float, x: Value, g: Value) -> bool:
    """Return whether ``number * x * g`` is the tanh form of gelu(x)."""
    op = scan.op(_one_plus(scan, g, number, x.dtype), "tanh")
    return op is not None and _is_tanh_curve(scan, op.operands[0], x)


def _is_cubic(scan: Scan, value: Value | None, x: Value, power: int) -> bool:
    found = None if value is None else scan.product(value)
    return found is not None and found[1] == [x] * power and close(found[0], _CUBIC, x.dtype)


# -- hard sigmoid, hard swish ----------------------------------------------------------------------


def _line(scan: Scan, value: Value) -> tuple[Value, float, float] | None:
    """Return x, a and b where ``value`` is ``a * x + b``."""
    found = scan.with_number(value, "add")
    shift = 0.0
    if found is None:
        found = scan.with_number(value, "sub")
        if found is not None:
            found = (found[0], -found[1])
    if found is not None:
        value, shift = found
    if made_by(value, "mul", "div") is None or not sole_user(value):
        return value, 1.0, shift
    product = scan.product(value)
    if product is None or len(product[1]) != 1:
        return value, 1.0, shift
    return product[1][0], product[0], shift


def _gate(scan: Scan, value: Value, number: float) -> tuple[Value, float, float] | None:
    """Return x, alpha, beta where ``number * value`` is ``clip(alpha * x + beta, 0, 1)``."""
    op = scan.op(value, "clip", "hard_sigmoid", "min", "max", "relu")
    if op is None:
        return None
    if op.name == "hard_sigmoid":
        if number != 1.0 or op.operands[0] is None:
            return None
        return op.operands[0], float(op.attr("alpha")), float(op.attr("beta"))
    clamp = clamp_of(op)
    if clamp is None or clamp.low != 0 or not 0 < clamp.high < math.inf:
        return None
    if value.dtype is None or not value.dtype.is_float:
        return None
    if not close(number * clamp.high, 1.0, value.dtype):
        return None
    line = _line(scan, clamp.x)
    if line is None:
        return None
    x, slope, shift = line
    return x, slope / clamp.high, shift / clamp.high


@rewrite("mul", "div", "clip")
def fuse_hard_sigmoid(m: Match, rw: Rewriter) -> bool:
    """clip(a * x + b, 0, h) / h => hard_sigmoid(x, alpha=a / h, beta=b / h)."""
    scan = Scan(m.root)
    number, value = 1.0, m.root.result
    if m.root.name != "clip":
        found = scan.product(value)
        if found is None or len(found[1]) != 1:
            return False
        number, value = found[0], found[1][0]
    gate = _gate(scan, value, number)
    if gate is None or len(scan.ops) < 2:
        return False
    x, alpha, beta = gate
    if not f32_exact(x.dtype, alpha, beta) or not math.isfinite(alpha * beta):
        return rw.fail("attributes do not hold {} and {} exactly", alpha, beta)
    if not scan.settles_on(x, rw) or not available(rw, "hard_sigmoid"):
        return False
    return settle(rw, m.root, rw.hard_sigmoid(x, alpha=f32(alpha), beta=f32(beta)))


@rewrite("mul", "div")
def fuse_hard_swish(m: Match, rw: Rewriter) -> bool:
    """(x * clip(x + 3, 0, 6)) / 6 => hard_swish(x), or x * hard_sigmoid(x) in older opsets."""
    for scan, number, x, g in two_factors(m):
        gate = _gate(scan, g, number)
        if gate is None or gate[0] is not x or x.dtype is None or x.dtype.name == "f64":
            continue
        _, alpha, beta = gate
        is_hard_swish = close(alpha, 1 / 6, x.dtype) and close(beta, 0.5, x.dtype)
        has_swish = is_hard_swish and available(rw, "hard_swish")
        if not has_swish and (len(scan.ops) <= 2 or not available(rw, "hard_sigmoid")):
            return rw.fail("nothing shorter is available")
        if not scan.settles_on(x, rw):
            return False
        if has_swish:
            return settle(rw, m.root, rw.hard_swish(x))
        gated = rw.hard_sigmoid(x, alpha=f32(alpha), beta=f32(beta))
        return settle(rw, m.root, rw.mul(x, gated))
    return False


# -- swish, mish -----------------------------------------------------------------------------------


@rewrite("mul", "div")
def fuse_swish(m: Match, rw: Rewriter) -> bool:
    """(x) * sigmoid(a * x) => swish(x, alpha=a) (SiLU for a = 1)."""
    for scan, number, x, g in two_factors(m):
        gate = scan.op(g, "sigmoid")
        if gate is None or number != 1.0:
            continue
        alpha = times(scan, gate.operands[0], x)
        if alpha is None or not f32_exact(x.dtype, alpha):
            continue
        if not available(rw, "swish"):
            return rw.fail("the opset has no Swish")
        if not pays(rw, "swish"):
            return False
        if not scan.settles_on(x, rw):
            return False
        return settle(rw, m.root, rw.swish(x, alpha=f32(alpha)))
    return False


def _softplus_operand(scan: Scan, value: Value | None) -> Value | None:
    """Return y where ``value`` is softplus(y) or log(1 + exp(y)), which tanh cannot tell apart."""
    whole = scan.op(value, "softplus")
    if whole is not None:
        return whole.operands[0]
    log = scan.op(value, "log")
    total = None if log is None or log.operands[0] is None else log.operands[0]
    found = None if total is None else scan.with_number(total, "add")
    if found is None or found[1] != 1.0:
        return None
    exp = scan.op(found[0], "exp")
    return None if exp is None else exp.operands[0]


@rewrite("mul")
def fuse_mish(m: Match, rw: Rewriter) -> bool:
    """(x) * tanh(softplus(x)) => mish(x); softplus may be spelled log(1 + exp(x))."""
    for scan, number, x, g in two_factors(m):
        gate = scan.op(g, "tanh")
        if gate is None or number != 1.0 or _softplus_operand(scan, gate.operands[0]) is not x:
            continue
        if not available(rw, "mish"):
            return rw.fail("the opset has no Mish")
        if made_by(gate.operands[0], "softplus") is None and not pays(rw, "softplus"):
            return False
        if not scan.settles_on(x, rw):
            return False
        return settle(rw, m.root, rw.mish(x))
    return False
