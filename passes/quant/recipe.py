"""Recipes: choices per layer, in a TOML file.

::

    [layers."conv1"]
    exclude = true          # stays in float

    [layers."*/dense/*"]    # shell patterns; the first that fits counts
    bits = 4                # in weights mode
    block = 64

    [layers."*/head/*"]
    activations = "u16"     # of what these layers give, in static mode
    symmetric = true
    per_channel = false
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from lepton_ir.diagnostics import LeptonError

_KEYS: dict[str, type] = {
    "exclude": bool,
    "bits": int,
    "block": int,
    "activations": str,
    "symmetric": bool,
    "per_channel": bool,
}

ACTIVATIONS = ("u8", "i8", "u16", "i16")
"""Types of static activations."""


@dataclass(frozen=True)
class Choice:
    """What a recipe says about a layer.

    Attributes:
        exclude: the layer stays in float.
        bits: of its weight in weights mode; 0 for the pass's option.
        block: rows that share a scale; 0 for the pass's option.
        activations: type of what the layer gives, in static mode; empty for the pass's option.
        symmetric: whether its zero point is in the middle; ``None`` for the pass's option.
        per_channel: ``False`` for one scale of its weight.
    """

    exclude: bool = False
    bits: int = 0
    block: int = 0
    activations: str = ""
    symmetric: bool | None = None
    per_channel: bool | None = None


@dataclass(frozen=True)
class Recipe:
    """Choices by name or shell pattern, in the file's order."""

    choices: tuple[tuple[str, Choice], ...] = ()

    def find(self, name: str) -> Choice:
        """Return the first choice that fits ``name``."""
        for pattern, choice in self.choices:
            if name == pattern or fnmatchcase(name, pattern):
                return choice
        return Choice()


def read(path: str) -> Recipe:
    """Read a recipe.

    Raises:
        LeptonError: the file cannot be read, or says what no recipe says.
    """
    if not path:
        return Recipe()
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LeptonError(f"cannot read the recipe: {error}", code="recipe", where=path) from error
    layers = found.pop("layers", {})
    if found or not isinstance(layers, dict):
        keys = ", ".join(found) or "layers"
        raise LeptonError(
            f"a recipe holds tables under [layers] only, not {keys}", code="recipe", where=path
        )
    return Recipe(tuple((name, _choice(name, table, path)) for name, table in layers.items()))


def _choice(name: str, table: Any, path: str) -> Choice:
    if not isinstance(table, dict):
        raise LeptonError(f"layers.{name} is no table", code="recipe", where=path)
    for key, value in table.items():
        kind = _KEYS.get(key)
        if kind is None or type(value) is not kind:
            known = ", ".join(f"{k} ({t.__name__})" for k, t in _KEYS.items())
            raise LeptonError(
                f"layers.{name}: {key} = {value!r}; a layer has {known}", code="recipe", where=path
            )
    choice = Choice(**table)
    block = choice.block
    if choice.bits not in (0, 4, 8) or (block and (block < 16 or block & (block - 1))):
        raise LeptonError(
            f"layers.{name}: bits are 4 or 8, block a power of two from 16 on",
            code="recipe",
            where=path,
        )
    if choice.activations and choice.activations not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise LeptonError(
            f"layers.{name}: activations are one of {known}", code="recipe", where=path
        )
    return choice
