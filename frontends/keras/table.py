"""The table of Keras layers: class name to what builds it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Row = Callable[..., Any]

_MODULES = (
    "core",
    "conv",
    "pool",
    "norm",
    "rnn",
    "attention",
    "merge",
    "preprocess",
    "operations",
    "functions",
)

Roles = tuple[str, ...]


@dataclass(frozen=True)
class LayerRow:
    """A row.

    Attributes:
        build: ``build(b, layer, *operands)``, with the call's other arguments by name.
        weights: names of the layer's own variables in the order it creates them; a name with ``?``
            exists only where the configuration's ``use_bias`` and the like say so (`optional`).
        children: attributes that hold layers with variables of their own.
        frozen: which of ``weights`` are not trained.
    """

    build: Row
    weights: Roles = ()
    children: Roles = ()
    frozen: Roles = ()


ROWS: dict[str, LayerRow] = {}
OPERATIONS: dict[str, Any] = {}
"""``keras.ops`` nodes, and Keras 2's operators as layers, by class or function name."""

FLAGS = {
    "bias": "use_bias",
    "gamma": "scale",
    "beta": "center",
    "scale": "use_scale",
}
"""The flag of the configuration that says whether a variable exists."""

_loaded = False


def layer(
    *names: str, weights: str = "", children: str = "", frozen: str = ""
) -> Callable[[Row], Row]:
    """Register a row for layers of these classes.

    Raises:
        ValueError: a class has a row already.
    """

    def register(build: Row) -> Row:
        for name in names:
            if name in ROWS:
                raise ValueError(f"{name} has two rows")
            split = (tuple(weights.split()), tuple(children.split()), tuple(frozen.split()))
            ROWS[name] = LayerRow(build, *split)
        return build

    return register


def operation(*names: str) -> Callable[[Row], Row]:
    """Register what builds nodes of ``keras.ops``: ``build(b, *arguments, **configuration)``."""

    def register(build: Row) -> Row:
        for name in names:
            if name in OPERATIONS:
                raise ValueError(f"{name} has two rows")
            OPERATIONS[name] = build
        return build

    return register


def load() -> dict[str, LayerRow]:
    """Return the whole table of layers."""
    global _loaded
    if not _loaded:
        for name in _MODULES:
            importlib.import_module(f"lepton_ir.frontends.keras.layers.{name}")
        _loaded = True
    return ROWS
