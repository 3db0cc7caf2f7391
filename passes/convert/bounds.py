"""Proven bounds of values, from constants and from functions with a bounded range.

An interval holds what is certain to be among the possible values: ``known`` says that it is all of
them. Of a sum of something unknown and a mask of ``-3.4e38`` the mask is known, which is enough to
see that f16 cannot hold it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.infer import const_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.convert.payload import Stats


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high``; ``known`` if there are no others."""

    low: float = 0.0
    high: float = 0.0
    known: bool = False

    @property
    def magnitude(self) -> float:
        """Largest magnitude."""
        return max(-self.low, self.high)

    def hull(self, other: Interval) -> Interval:
        """Return the least interval that has both in it."""
        return Interval(
            min(self.low, other.low), max(self.high, other.high), self.known and other.known
        )


UNKNOWN = Interval()
_UNIT = Interval(0.0, 1.0, True)
_SIGNED = Interval(-1.0, 1.0, True)

_FIXED: dict[str, Interval] = {
    **dict.fromkeys(("hardmax", "hard_sigmoid", "sigmoid", "softmax"), _UNIT),
    **dict.fromkeys(("cos", "erf", "sign", "sin", "softsign", "tanh"), _SIGNED),
    **dict.fromkeys(("atan", "asin"), Interval(-1.6, 1.6, True)),
    "acos": Interval(0.0, 3.2, True),
}

_SAME = frozenset(
    {
        *("average_pool", "ceil", "center_crop_pad", "compress", "depth_to_space", "dropout"),
        *("expand", "flatten", "floor", "gather", "gather_elements", "gather_nd", "identity"),
        *("global_average_pool", "global_max_pool", "max_pool", "reduce_max", "reduce_mean"),
        *("reduce_min", "reshape", "reverse_sequence", "round", "slice", "space_to_depth"),
        *("split", "squeeze", "tile", "transpose", "unsqueeze"),
    }
)
"""Operations whose results lie within the range of their first operand."""

_UNION = frozenset({"concat", "max", "mean", "min"})


def find_bounds(ops: Iterable[Op], stats: Callable[[Value], Stats | None]) -> dict[Value, Interval]:
    """Return what is known about float values; values not in it are unknown.

    Args:
        ops: all operations, in order.
        stats: what a float constant holds.
    """
    found: dict[Value, Interval] = {}

    def of(value: Value | None) -> Interval:
        if value is None:
            return UNKNOWN
        if value not in found and const_tensor(value) is not None:
            held = stats(value)
            if held is not None and held.low <= held.high:
                found[value] = Interval(held.low, held.high, True)
        return found.get(value, UNKNOWN)

    for op in ops:
        if op.name == "const" or op.definition is None or not op.results:
            continue
        made = _bound(op, of)
        if made is not UNKNOWN and math.isfinite(made.low) and math.isfinite(made.high):
            for result in op.results:
                if result.dtype is not None and result.dtype.is_float:
                    found[result] = made
    return found


def _bound(op: Op, of: Callable[[Value | None], Interval]) -> Interval:
    name, operands = op.name, op.operands
    if name in _FIXED:
        return _FIXED[name]
    if name in _SAME:
        return of(operands[0])
    if name in _UNION or name == "where":
        items = [of(v) for v in operands[1 if name == "where" else 0 :] if v is not None]
        hull = items[0] if items else UNKNOWN
        for item in items[1:]:
            hull = hull.hull(item)
        return hull
    if name in ("add", "sub", "mul", "div") and len(operands) == 2:
        return _arithmetic(name, of(operands[0]), of(operands[1]))
    if name == "pad":
        return of(operands[0]).hull(of(operands[2]) if len(operands) > 2 else Interval(0, 0, True))
    if name == "clip":
        return _clip(op, of)
    return _unary(op, of(operands[0]) if operands else UNKNOWN)


def _unary(op: Op, x: Interval) -> Interval:
    if op.name == "neg":
        return Interval(-x.high, -x.low, x.known)
    if op.name == "abs":
        low = 0.0 if x.low <= 0.0 <= x.high else min(abs(x.low), abs(x.high))
        return Interval(low, x.magnitude, x.known)
    if op.name == "relu":
        return Interval(max(x.low, 0.0), max(x.high, 0.0), x.known)
    if op.name == "sqrt" and x.low >= 0:
        return Interval(math.sqrt(x.low), math.sqrt(x.high), x.known)
    if op.name == "cast" and op.operands[0] is not None:
        source = op.operands[0].dtype
        if source is dtypes.BOOL:
            return _UNIT
        if source is not None and source.is_integer and source.bits <= 8:
            low = -(1 << (source.bits - 1)) if source.kind == "int" else 0
            return Interval(low, low + (1 << source.bits) - 1, True)
        return x
    return UNKNOWN


def _clip(op: Op, of: Callable[[Value | None], Interval]) -> Interval:
    x = of(op.operands[0])
    low = of(op.operands[1]) if len(op.operands) > 1 else UNKNOWN
    high = of(op.operands[2]) if len(op.operands) > 2 else UNKNOWN
    if low.known and high.known and low.high <= high.low:
        inside = [min(max(b, low.low), high.high) for b in (x.low, x.high)]
        if x.known:
            return Interval(min(inside), max(inside), True)
        # An unknown operand reaches a bound only if it goes that far.
        return Interval(low.low, high.high, True) if high.high - low.low < 1e5 else UNKNOWN
    return UNKNOWN


def _arithmetic(name: str, x: Interval, y: Interval) -> Interval:
    known = x.known and y.known
    if name == "add":
        return Interval(x.low + y.low, x.high + y.high, known)
    if name == "sub":
        return Interval(x.low - y.high, x.high - y.low, known)
    if name == "div":
        if not known or y.low <= 0.0 <= y.high:
            return UNKNOWN
        corners = [a / b for a in (x.low, x.high) for b in (y.low, y.high)]
    else:
        if not known:
            return UNKNOWN
        corners = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
    return Interval(min(corners), max(corners), True)
