"""Orders of axes, and what an operation becomes in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_ir.infer import const_array

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from lepton_ir.ir import Op, Value

Order = tuple[int, ...]


@dataclass
class Plan:
    """What an operation becomes in another axis order.

    Attributes:
        operands: the order wanted of each operand; ``None`` where it is read as it is.
        results: the order each result comes in.
        constants: operands given a new constant.
        attrs: changed attributes.
    """

    operands: list[Order | None]
    results: list[Order]
    constants: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)


def inverse(order: Order) -> Order:
    """Return the order that undoes ``order``."""
    out = [0] * len(order)
    for i, a in enumerate(order):
        out[a] = i
    return tuple(out)


def compose(first: Order, second: Order) -> Order:
    """Return the order of ``transpose(transpose(x, first), second)``."""
    return tuple(first[i] for i in second)


def is_identity(order: Order) -> bool:
    """Return whether ``order`` changes nothing."""
    return all(i == a for i, a in enumerate(order))


def perm_of(op: Op) -> Order | None:
    """Return the permutation of a transpose, the default one of a known rank included."""
    perm = op.attr("perm")
    if perm is not None:
        return tuple(int(i) for i in perm)
    x = op.operands[0]
    return None if x is None or x.rank is None else tuple(reversed(range(x.rank)))


def without(order: Order, axes: Sequence[int]) -> Order:
    """Return ``order`` after ``axes`` of the value were removed."""
    gone = set(axes)
    kept = [a for a in range(len(order)) if a not in gone]
    number = {a: i for i, a in enumerate(kept)}
    return tuple(number[a] for a in order if a not in gone)


def known_axes(value: Value | None, rank: int) -> list[int] | None:
    """Return constant axes, counted from the front; ``None`` if not known, or out of range."""
    array = const_array(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    axes = [int(a) + rank if int(a) < 0 else int(a) for a in array.reshape(-1)]
    if len(set(axes)) != len(axes) or not all(0 <= a < rank for a in axes):
        return None
    return axes
