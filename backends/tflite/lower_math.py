"""Lowerings of arithmetic element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.backends.tflite.lowering import dtype_of, full, operand

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value


def _reciprocal(b: Builder, op: Op) -> list[Value]:
    x = operand(op, 0)
    return [b.div(full(b, 1, x), x)]


def _chain(b: Builder, op: Op) -> list[Value]:
    """Two operands at a time."""
    values = [v for v in op.operands if v is not None]
    if len(values) == 2:
        raise ValueError("no operator does this")
    found = values[0] if len(values) > 1 else b.identity(values[0])
    for value in values[1:]:
        found = b.build(op.name, found, value).result
    return [found]


def _pow(b: Builder, op: Op) -> list[Value]:
    """The exponent is cast to the type of x."""
    x, y = operand(op, 0), operand(op, 1)
    if x.dtype is y.dtype:
        raise ValueError("no operator does this power")
    return [b.pow(x, b.cast(y, to=dtype_of(x)))]


def _is_nan(b: Builder, op: Op) -> list[Value]:
    """Only a NaN is not equal to itself."""
    x = operand(op, 0)
    return [b.not_(b.equal(x, x))]


def _is_inf(b: Builder, op: Op) -> list[Value]:
    x = operand(op, 0)
    both = [
        b.equal(x, full(b, sign * np.inf, x))
        for sign, wanted in ((-1, "detect_negative"), (1, "detect_positive"))
        if op.attr(wanted)
    ]
    if not both:
        never = b.equal(x, x)
        return [b.and_(never, b.not_(never))]
    return [both[0] if len(both) == 1 else b.or_(*both)]


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "reciprocal": _reciprocal,
    "max": _chain,
    "min": _chain,
    "pow": _pow,
    "is_nan": _is_nan,
    "is_inf": _is_inf,
}
