"""The schema of TFLite files as objects, compiled from the rows of ``tables`` and ``enums``."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lepton_ir.formats.tflite.enums import ENUMS, OPTIONS
from lepton_ir.formats.tflite.tables import EMPTY, TABLES

SCALARS = {
    "bool": "?",
    "i8": "b",
    "u8": "B",
    "i16": "h",
    "u16": "H",
    "i32": "i",
    "u32": "I",
    "i64": "q",
    "u64": "Q",
    "f32": "f",
    "f64": "d",
}
"""Scalar types and their letters for ``struct``."""


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum, or the types of a union: its scalar and its members by name."""

    name: str
    scalar: str
    members: dict[str, int]

    def name_of(self, value: int) -> str | None:
        """Return the member with this value, ``None`` for an unknown one."""
        return _names(self.name).get(value)


@dataclass(frozen=True, slots=True)
class Field:
    """One field: ``kind`` is scalar, string, table, union, or the same in a ``vector``."""

    name: str
    id: int
    kind: str
    of: str
    vector: bool
    default: int | float | bool
    enum: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its fields by name, and how many ids it has (retired ones included)."""

    name: str
    fields: dict[str, Field]
    slots: int


def _entries(text: str) -> list[list[str]]:
    entries: list[list[str]] = []
    for line in text.strip().splitlines():
        if line.startswith(" "):
            entries[-1] += line.split()
        else:
            entries.append(line.split())
    return entries


@functools.cache
def enums() -> dict[str, Enum]:
    """Return every enum and union by name."""
    found = {}
    for head, *cells in _entries(ENUMS):
        name, scalar = head.split(":")
        members, value = {}, 0
        for cell in cells:
            member, _, given = cell.partition("=")
            value = int(given) if given else value
            members[member] = value
            value += 1
        found[name] = Enum(name, scalar, members)
    return found


@functools.cache
def _names(enum: str) -> dict[int, str]:
    return {value: name for name, value in enums()[enum].members.items()}


def _field(cell: str, slot: int) -> Field:
    name, _, rest = cell.partition(":")
    text, _, default = rest.partition("=")
    of = text.strip("[]<>")
    vector, enum, kind = text.startswith("["), None, "table"
    if text.startswith("<"):
        kind, slot = "union", slot + 1
    elif of == "string":
        kind = "string"
    elif of in SCALARS:
        kind = "scalar"
    elif of in enums():
        kind, enum, of = "scalar", of, enums()[of].scalar
    value: int | float | bool = int(default or 0)
    if of == "bool":
        value = bool(value)
    elif of in ("f32", "f64"):
        value = float(value)
    return Field(name, slot, kind, of, vector, value, enum)


@functools.cache
def tables() -> dict[str, Table]:
    """Return every table by name."""
    found = {name: Table(name, {}, 0) for name in EMPTY.split()}
    for head, *cells in _entries(TABLES):
        fields, slot = {}, 0
        for cell in cells:
            if cell != "-":
                field = _field(cell, slot)
                fields[field.name], slot = field, field.id
            slot += 1
        found[head.rstrip(":")] = Table(head.rstrip(":"), fields, slot)
    return found


@functools.cache
def options() -> dict[str, str]:
    """Return the option table of each builtin operator that has one."""
    known = {op: head.rstrip(":") for head, *ops in _entries(OPTIONS) for op in ops}
    unions = (*enums()["BuiltinOptions"].members, *enums()["BuiltinOptions2"].members)
    by_key = {name.removesuffix("Options").lower(): name for name in unions}
    for op in enums()["BuiltinOperator"].members:
        table = by_key.get(op.replace("_", "").lower())
        if table is not None:
            known.setdefault(op, table)
    return known
