"""The part of a range that its readers can tell apart.

``hard_swish(x)`` is 0 for all ``x <= -3``, so that a convolution before it needs no codes below -3,
however far its results reach: with a range cut there, fewer numbers share 255 steps and the result
is the same. ``sigmoid(x)`` and ``x * sigmoid(x)`` flatten likewise; they are cut where what is lost
is less than half a step of their own result.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.calibrate import Range
    from lepton_ir.passes.quant.static import Plan

STEPS = 255
"""Of a result in 8 bits."""

Bounds = tuple[float, float]


def narrow(plan: Plan, ranges: dict[Value, Range]) -> None:
    """Cut ranges where all that read a value see no difference."""
    for value, found in ranges.items():
        if value.op is None or not value.use_count:
            continue
        low, high = math.inf, -math.inf
        for user in dict.fromkeys(value.users):
            bounds = _bounds(user, value, plan, ranges)
            low, high = min(low, bounds[0]), max(high, bounds[1])
        low, high = max(found.low, min(low, 0.0)), min(found.high, max(high, 0.0))
        found.cut = (low, high) != (found.low, found.high)
        found.low, found.high = low, high


def _bounds(user: Op, value: Value, plan: Plan, ranges: dict[Value, Range]) -> Bounds:
    """Return outside of what ``user`` gives the same, or nearly so, as at the ends."""
    if user.name == "hard_swish":
        return -3.0, math.inf
    if user.name == "hard_sigmoid":
        return _hard_bounds(user)
    if user.name == "sigmoid":
        (reader,) = user.result.users if user.result.use_count == 1 else (None,)
        if reader is not None and _gated(reader, value) is user:
            return 0.0, 0.0  # what its product with the value needs is all
        end = -_solve(_sigmoid, _tolerance(user, plan, ranges))
        return -end, end
    gate = _gated(user, value)
    if gate is None:
        return -math.inf, math.inf
    if gate.name == "hard_sigmoid":
        return _hard_bounds(gate)[0], math.inf
    return _solve(lambda x: -x * _sigmoid(x), _tolerance(user, plan, ranges)), math.inf


def _hard_bounds(op: Op) -> Bounds:
    alpha, beta = float(op.attr("alpha")), float(op.attr("beta"))
    if alpha <= 0:
        return -math.inf, math.inf
    return -beta / alpha, (1 - beta) / alpha


def _gated(op: Op, value: Value) -> Op | None:
    """Return the sigmoid of ``value`` that ``op`` multiplies it with."""
    if op.name != "mul" or value not in op.operands:
        return None
    other = op.operands[1 - op.operands.index(value)]
    gate = None if other is None or other is value else other.op
    if gate is None or gate.name not in ("sigmoid", "hard_sigmoid"):
        return None
    return gate if gate.operands[0] is value else None


def _tolerance(op: Op, plan: Plan, ranges: dict[Value, Range]) -> float:
    """Return half a step of the result of ``op``."""
    found = ranges.get(plan.root(op.result))
    return 0.0 if found is None else (found.high - found.low) / STEPS / 2


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FLAT = -2.0
"""Below this both functions fall towards 0 as their argument does."""

FAR = -40.0
"""Here they are 0 in any precision."""


def _solve(function: Callable[[float], float], tolerance: float) -> float:
    """Return the argument, at most ``FLAT``, where a function that grows there is small enough."""
    low, high = FAR, FLAT
    if function(low) > tolerance:
        return -math.inf
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) <= tolerance else (low, middle)
    return low
