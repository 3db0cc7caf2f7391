"""Functions that several frameworks have and the core has not, built from what it has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_ir.frontends.sized import SizedBuilder
    from lepton_ir.ir import Value


def expm1(b: SizedBuilder, x: Value) -> Any:
    """Return ``exp(x) - 1 = tanh(x / 2) * (exp(x) + 1)``, which keeps its digits near 0."""
    return b.mul(b.tanh(b.mul(x, b.like(x, 0.5))), b.add(b.exp(x), b.like(x, 1)))


def log1p(b: SizedBuilder, x: Value) -> Any:
    """Return ``log(u) * x / (u - 1)`` with ``u = 1 + x``: the rounding of ``u`` cancels (Kahan)."""
    one, zero = b.like(x, 1), b.like(x, 0)
    u = b.add(x, one)
    rest = b.sub(u, one)
    still = b.equal(rest, zero)
    # Where adding 1 changed nothing, or everything (infinity), there is nothing to correct.
    plain = b.or_(b.equal(u, x), still)
    factor = b.where(plain, one, b.div(x, b.where(plain, one, rest)))
    return b.where(still, x, b.mul(b.log(u), factor))


def floor_div(b: SizedBuilder, x: Value, y: Value) -> Any:
    """Return ``floor(x / y)``; integers divide towards minus infinity, as Python's do."""
    assert x.dtype is not None
    if x.dtype.is_float:
        return b.floor(b.div(x, y))
    quotient = b.div(x, y)
    if x.dtype.kind == "uint":
        return quotient
    rest = b.sub(x, b.mul(quotient, y))
    below = _other_side(b, rest, y)
    return b.sub(quotient, b.where(below, b.like(x, 1), b.like(x, 0)))


def floor_mod(b: SizedBuilder, x: Value, y: Value) -> Any:
    """Return the remainder with the sign of the divisor, as Python's."""
    assert x.dtype is not None
    if not x.dtype.is_float:
        return b.mod(x, y)
    rest = b.mod(x, y, fmod=True)
    return b.where(_other_side(b, rest, y), b.add(rest, y), rest)


def _other_side(b: SizedBuilder, rest: Value, y: Value) -> Any:
    """Return where a remainder is not 0 and has another sign than the divisor."""
    zero = b.like(rest, 0)
    return b.and_(b.not_(b.equal(rest, zero)), b.xor(b.less(rest, zero), b.less(y, zero)))


def atan2(b: SizedBuilder, y: Value, x: Value) -> Any:
    """Return the angle of (x, y); infinities of both and signed zeros follow the quotient."""
    zero, pi = b.like(x, 0), b.like(x, math.pi)
    flat = b.atan(b.div(y, x))
    turned = b.add(flat, b.where(b.less(y, zero), b.neg(pi), pi))
    found = b.where(b.less(x, zero), turned, flat)
    upright = b.mul(b.sign(y), b.like(x, math.pi / 2))
    return b.where(b.equal(x, zero), upright, found)


def shifted(b: SizedBuilder, x: Value, y: Value, direction: str) -> Any:
    """Return a bit shift; ONNX shifts unsigned integers only, others multiply or divide."""
    assert x.dtype is not None
    if x.dtype.kind == "uint":
        return b.bit_shift(x, y, direction=direction)
    power = b.pow(b.like(x, 2), y)
    return b.mul(x, power) if direction == "LEFT" else floor_div(b, x, power)
