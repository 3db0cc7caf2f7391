"""The table of TensorFlow operators: a row is a function of the node and its operands.

A row is called with a :class:`~lepton_ir.frontends.tensorflow.lowering.TfBuilder`, the node and one
value per operand, and returns one value per result. Attributes that have their default are left out
of files, so rows state defaults themselves.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.ir import Value

    Row = Callable[..., Value | Sequence[Value]]

_PACKAGE = "lepton_ir.frontends.tensorflow.ops"
_MODULES = (
    "math",
    "nn",
    "shape",
    "array",
    "control",
    "random",
    "image",
    "signal",
    "quant",
)

ROWS: dict[str, Row] = {}
"""Operator to row."""

_loaded = False


def tf_op(*names: str) -> Callable[[Row], Row]:
    """Register a row for operators.

    Raises:
        ValueError: an operator has a row already.
    """

    def register(row: Row) -> Row:
        for name in names:
            if name in ROWS:
                raise ValueError(f"{name} has two rows")
            ROWS[name] = row
        return row

    return register


def load() -> dict[str, Row]:
    """Return the whole table."""
    global _loaded
    if not _loaded:
        for name in _MODULES:
            if importlib.util.find_spec(f"{_PACKAGE}.{name}") is not None:
                importlib.import_module(f"{_PACKAGE}.{name}")
        _loaded = True
    return ROWS
