"""The table of PyTorch operators: a row is a function whose parameters are the operator's own.

A row is written with a :class:`~lepton_ir.frontends.torch.lowering.Lowering` and called with the
arguments that the archive names; those left out there have PyTorch's defaults, so the function's
signature states them. A row for ``add`` serves all overloads that have none of their own, and
``add_``, which writes its result in place.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Row = Callable[..., Any]

_MODULES = (
    "elementwise",
    "compare",
    "reduce",
    "shape",
    "index",
    "create",
    "nn",
    "resample",
    "norm",
    "rnn",
    "quant",
    "scalars",
)

ROWS: dict[str, Any] = {}
"""Operator (``aten.add`` or ``aten.add.Scalar``) to row."""

WRITERS: dict[str, Any] = {}
"""View operator to the function that writes a new value of the view into the base."""

_loaded = False


def torch_op(*names: str, namespace: str = "aten") -> Callable[[Row], Row]:
    """Register a row.

    Args:
        names: operators without their namespace, with or without an overload.
        namespace: theirs.

    Raises:
        ValueError: an operator has a row already.
    """

    def register(row: Row) -> Row:
        for name in names:
            key = f"{namespace}.{name}"
            if key in ROWS:
                raise ValueError(f"{key} has two rows")
            ROWS[key] = row
        return row

    return register


def writes(*names: str) -> Callable[[Row], Row]:
    """Register how a view is written through: ``f(b, base, new, **arguments)``."""

    def register(row: Row) -> Row:
        for name in names:
            WRITERS[f"aten.{name}"] = row
        return row

    return register


def load() -> dict[str, Any]:
    """Return the whole table."""
    global _loaded
    if not _loaded:
        for name in _MODULES:
            importlib.import_module(f"lepton_ir.frontends.torch.ops.{name}")
        _loaded = True
    return ROWS


def find(target: str) -> tuple[Row | None, bool]:
    """Return the row of ``aten.add_.Tensor`` or the like, and whether it writes in place."""
    rows = load()
    space, name, overload = split(target)
    for key in (f"{space}.{name}.{overload}", f"{space}.{name}"):
        if key in rows:
            return rows[key], False
    if name.endswith("_") and not name.startswith("_"):
        plain = name.rstrip("_")
        for key in (f"{space}.{plain}.{overload}", f"{space}.{plain}"):
            if key in rows:
                return rows[key], True
    return None, False


def split(target: str) -> tuple[str, str, str]:
    """Return namespace, name and overload of ``torch.ops.aten.add.Tensor``."""
    parts = target.removeprefix("torch.ops.").split(".")
    if len(parts) < 2:
        return "", target, ""
    return parts[0], parts[1], parts[2] if len(parts) > 2 else ""
