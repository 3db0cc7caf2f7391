"""How each builtin operator of TFLite is read: one row an operator, in modules by family."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.ir import Value

    Reader = Callable[[Call], "Value | Sequence[Value | None]"]

FAMILIES = ("elementwise", "neural", "shapes", "reduction", "indexing", "control", "recurrent")


@dataclass(frozen=True)
class Row:
    """How one builtin operator is read.

    Attributes:
        name: of the builtin operator.
        read: builds what it stands for and returns its results.
        ir: the operations that it becomes, for the documentation.
        stored: its results are as the file stores them. Otherwise results of quantized tensors
            are the numbers that they stand for, and get quantized.
        note: what the documentation says about limits.
    """

    name: str
    read: Reader
    ir: str
    stored: bool = False
    note: str = ""


_ROWS: dict[str, Row] = {}


def row(*names: str, ir: str, stored: bool = False, note: str = "") -> Callable[[Reader], Reader]:
    """Register how the builtin operators ``names`` are read."""

    def register(read: Reader) -> Reader:
        for name in names:
            if name in _ROWS:
                raise ValueError(f"{name} has two rows")
            _ROWS[name] = Row(name, read, ir, stored, note)
        return read

    return register


@functools.cache
def rows() -> dict[str, Row]:
    """Return every row by the name of its operator."""
    for family in FAMILIES:
        importlib.import_module(f"lepton_ir.frontends.tflite.{family}")
    return _ROWS
