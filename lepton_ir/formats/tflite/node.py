"""One table of a TFLite file in memory: immutable, with the defaults of the schema."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from lepton_ir.formats.tflite.schema import SCALARS, Field, tables


class Node:
    """A table: ``node.field`` is its value, the schema's default when it is absent.

    Scalars are Python numbers, texts are ``str`` (bytes that are not UTF-8 as surrogates), vectors
    of tables and texts tuples, those of ``u8`` memoryviews (weights stay where they are), those of
    other scalars NumPy arrays. A union's value is the node; its table says which one it is.

    Args:
        table: name of the table.
        values: its fields by name; ``None`` means absent.

    Raises:
        ValueError: the schema has no such table or field.
    """

    __slots__ = ("table", "values")

    def __init__(self, table: str, /, **values: Any) -> None:
        if table not in tables():
            raise ValueError(f"the TFLite schema has no table {table}")
        fields = tables()[table].fields
        self.table = table
        self.values: dict[str, Any] = {}
        for name, value in values.items():
            if name not in fields:
                raise ValueError(f"table {table} of the TFLite schema has no field {name}")
            kept = _plain(fields[name], value)
            if kept is not None:
                self.values[name] = kept

    def __getattr__(self, name: str) -> Any:
        if name in Node.__slots__:
            raise AttributeError(name)
        try:
            return self.values[name]
        except KeyError:
            field = tables()[self.table].fields.get(name)
        if field is None:
            raise AttributeError(f"table {self.table} has no field {name}")
        return field.default if field.kind == "scalar" and not field.vector else None

    def replace(self, **values: Any) -> Node:
        """Return a copy with some fields changed; ``None`` takes a field away."""
        return Node(self.table, **{**self.values, **values})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Node):
            return NotImplemented
        if self.table != other.table or self.values.keys() != other.values.keys():
            return False
        fields = tables()[self.table].fields
        return all(_same(fields[k], v, other.values[k]) for k, v in self.values.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Node({self.table}: {', '.join(self.values)})"


def _plain(field: Field, value: Any) -> Any:
    """Return the value in the one form that nodes hold; ``None`` for a scalar's default."""
    if value is None:
        return None
    if field.vector and field.kind == "scalar":
        if field.of == "u8":
            return memoryview(value).cast("B")
        return np.asarray(value, f"<{SCALARS[field.of]}").reshape(-1)
    if field.vector:
        return tuple(value)
    if field.kind == "scalar":
        packed = struct.pack(f"<{SCALARS[field.of]}", value)
        return None if packed == struct.pack(f"<{SCALARS[field.of]}", field.default) else value
    return value


def _same(field: Field, one: Any, other: Any) -> bool:
    if field.kind != "scalar":
        return bool(one == other)
    if not field.vector:
        letter = f"<{SCALARS[field.of]}"
        return struct.pack(letter, one) == struct.pack(letter, other)
    if field.of == "u8":
        return bool(one == other)
    return bool(one.tobytes() == other.tobytes())
