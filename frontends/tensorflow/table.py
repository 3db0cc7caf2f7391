"""The table of TensorFlow operators: a row is a function of the node and its operands.

A row is called with a :class:`~lepton_ir.frontends.tensorflow.lowering.TfBuilder`, the node and one
value per operand, and returns one value per result. Attributes that have their default are left out
of files, so rows state defaults themselves.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    "complex",
)

_STRUCTURE_MODULES = ("state", "control", "flow", "lists")

ROWS: dict[str, Row] = {}
"""Operator to row."""

COMPLEX: dict[str, Row] = {}
"""Operator to row, where it computes with complex numbers: the other rows would be wrong."""

_SPECTRA = ("RFFT", "IRFFT", "ComplexAbs", "Angle", "Real", "Imag", "Complex")
"""Operators whose rows know of complex numbers."""

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


def tf_complex(*names: str) -> Callable[[Row], Row]:
    """Register a row for operators on complex numbers, each a pair in a last axis of two."""

    def register(row: Row) -> Row:
        COMPLEX.update(dict.fromkeys(names, row))
        return row

    return register


def load() -> dict[str, Row]:
    """Return the whole table."""
    global _loaded
    if not _loaded:
        for name in _MODULES:
            if importlib.util.find_spec(f"{_PACKAGE}.{name}") is not None:
                importlib.import_module(f"{_PACKAGE}.{name}")
        COMPLEX.update({name: ROWS[name] for name in _SPECTRA if name in ROWS})
        _loaded = True
    return ROWS


@dataclass(frozen=True)
class Structure:
    """How a node is read that is no plain operation: control flow, variables, lists of tensors.

    Attributes:
        build: ``f(reader, scope, node, operands)`` returns the node's results.
        needs: ``f(reader, scope, node)`` returns what is read before; by default the operands.
    """

    build: Callable[..., Sequence[Any]]
    needs: Callable[..., Sequence[Any]] | None = None


_STRUCTURES: dict[str, Structure] = {}


def tf_structure(
    *names: str, needs: Callable[..., Sequence[Any]] | None = None
) -> Callable[..., Any]:
    """Register how nodes of some operators are read that rows cannot express.

    Raises:
        ValueError: an operator has a way already.
    """

    def register(build: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
        for name in names:
            if name in _STRUCTURES:
                raise ValueError(f"{name} is read in two ways")
            _STRUCTURES[name] = Structure(build, needs)
        return build

    return register


def structures() -> dict[str, Structure]:
    """Return how nodes are read that have no row."""
    for name in _STRUCTURE_MODULES:
        importlib.import_module(f"lepton_ir.frontends.tensorflow.{name}")
    return _STRUCTURES
