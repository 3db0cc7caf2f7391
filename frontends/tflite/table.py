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

FAMILIES = (
    "elementwise",
    "neural",
    "shapes",
    "reduction",
    "indexing",
    "control",
    "recurrent",
    "misc",
)


@dataclass(frozen=True)
class Row:
    """How one builtin operator is read.

    Attributes:
        name: of the builtin operator.
        read: builds what it stands for and returns its results.
        ir: the operations that it becomes, for the documentation.
        stored: its results are as the file stores them. Otherwise results of quantized tensors
            are the numbers that they stand for, and get quantized.
    """

    name: str
    read: Reader
    ir: str
    stored: bool = False


_ROWS: dict[str, Row] = {}


def row(*names: str, ir: str | Sequence[str], stored: bool = False) -> Callable[[Reader], Reader]:
    """Register how the builtin operators ``names`` are read; ``ir`` is one text, or one each."""
    texts = [ir] * len(names) if isinstance(ir, str) else list(ir)

    def register(read: Reader) -> Reader:
        for name, text in zip(names, texts, strict=True):
            if name in _ROWS:
                raise ValueError(f"{name} has two rows")
            _ROWS[name] = Row(name, read, text, stored)
        return read

    return register


@functools.cache
def rows() -> dict[str, Row]:
    """Return every row by the name of its operator."""
    for family in FAMILIES:
        importlib.import_module(f"lepton_ir.frontends.tflite.{family}")
    return _ROWS
