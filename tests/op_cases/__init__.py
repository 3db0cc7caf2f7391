"""Rows of sample inputs for every operation of the table, one module a family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One sample call of an operation.

    Attributes:
        operands: arrays in order, ``None`` for absent ones; Python lists for sequences.
        attrs: attributes that differ from their default.
        results: number of results, ``None`` for the required ones.
        expected: expected results where the meaning is not its own oracle, else ``None``.
        const: indexes of operands that inference sees as constants (shapes, axes, sizes).
    """

    operands: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    results: int | None = None
    expected: tuple[Any, ...] | None = None
    const: tuple[int, ...] = ()
