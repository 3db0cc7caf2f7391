"""Reading a TFLite file: one generic walk over the schema that trusts no offset, size or length."""

from __future__ import annotations

import mmap
import os
import stat
import struct
from typing import Any, NoReturn

import numpy as np

from lepton_ir.diagnostics import InvalidModelError, shorten
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.schema import SCALARS, Field, Table, enums, tables

IDENTIFIER = b"TFL3"
CODE = "tflite-file"

MAX_WORK = 2_000_000
"""Tables and texts of one model; runtimes load a million tables at most."""

_ABSENT = 1
"""An offset of 0 or 1 says that a buffer is not outside the flatbuffer."""


def read_file(path: str) -> Node:
    """Return the model in a file; its weights stay in the file, which is mapped.

    Raises:
        InvalidModelError: not a readable file, or not a well-formed TFLite file.
    """
    shown = shorten(path, 200)
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidModelError("this is not a regular file", code=CODE, where=shown)
            if not os.fstat(file.fileno()).st_size:
                raise InvalidModelError("the file is empty", code=CODE, where=shown)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot read the file: {reason}"
        raise InvalidModelError(message, code=CODE, where=shown) from error
    return read_bytes(data, shown)


def read_bytes(data: bytes | mmap.mmap | memoryview, where: str = "") -> Node:
    """Return the model in ``data``; large vectors are views of it.

    Data outside the flatbuffer (``offset`` and ``size`` of buffers and of large custom options)
    appears in its place, as if it were inside.

    Raises:
        InvalidModelError: not a well-formed TFLite file.
    """
    return _Reader(memoryview(data).toreadonly().cast("B"), where).model()


class _Reader:
    """The walk. ``_work`` bounds it: tables that share parts could otherwise grow exponentially."""

    def __init__(self, data: memoryview, where: str) -> None:
        self._data = data
        self._size = len(data)
        self._where = where
        self._path: list[str] = ["Model"]
        self._work = min(self._size + 4096, MAX_WORK)

    def model(self) -> Node:
        if self._size < 8 or bytes(self._data[4:8]) != IDENTIFIER:
            self._fail("this is not a TFLite file (no TFL3 at byte 4)")
        return self._table(tables()["Model"], self._target(0))

    def _fail(self, message: str) -> NoReturn:
        place = "".join(self._path)
        where = f"{self._where}: {place}" if self._where else place
        raise InvalidModelError(message, code=CODE, where=where)

    def _spend(self, amount: int, *, ahead: int = 0) -> None:
        """Count work that is done; ``ahead`` is more of it that is certain to come."""
        self._work -= amount
        if self._work < ahead:
            self._fail("it has more tables and texts than its size or any runtime allows")

    def _scalar(self, kind: str, pos: int) -> Any:
        letter = f"<{SCALARS[kind]}"
        if pos < 0 or pos + struct.calcsize(letter) > self._size:
            self._fail(f"reads at byte {pos} of {self._size}")
        return struct.unpack_from(letter, self._data, pos)[0]

    def _target(self, pos: int) -> int:
        """Return where the offset at ``pos`` points; offsets go forward, so there is no cycle."""
        offset: int = self._scalar("u32", pos)
        if offset < 4 or pos + offset + 4 > self._size:
            self._fail(f"the offset at byte {pos} points to {pos + offset} of {self._size} bytes")
        return pos + offset

    def _table(self, table: Table, pos: int) -> Node:
        self._spend(1)
        vtable = pos - self._scalar("i32", pos)
        size, inline = self._scalar("u16", vtable), self._scalar("u16", vtable + 2)
        if size < 4 or size % 2 or vtable + size > self._size:
            self._fail(f"the vtable at byte {vtable} has a size of {size}")
        if inline < 4 or pos + inline > self._size:
            self._fail(f"the table at byte {pos} has a size of {inline}")
        slots = struct.unpack_from(f"<{size // 2 - 2}H", self._data, vtable + 4)
        places = [self._place(slot, pos, inline) for slot in slots[: table.slots]]
        places += [0] * (table.slots - len(places))
        values = {}
        for field in table.fields.values():
            self._path.append(f".{field.name}")
            values[field.name] = self._field(field, places, pos + inline)
            self._path.pop()
        return self._inside(Node(table.name, **values))

    def _place(self, slot: int, pos: int, inline: int) -> int:
        if slot and (slot < 4 or slot >= inline):
            self._fail(f"a field is at byte {slot} of a table of {inline} bytes")
        return pos + slot if slot else 0

    def _field(self, field: Field, places: list[int], end: int) -> Any:
        place = places[field.id]
        if field.kind == "union":
            return self._union(field, places[field.id - 1], place)
        if not place:
            return None
        scalar = field.kind == "scalar" and not field.vector
        if place + (struct.calcsize(SCALARS[field.of]) if scalar else 4) > end:
            self._fail("the field is larger than its table")
        if scalar:
            return self._scalar(field.of, place)
        target = self._target(place)
        if field.vector:
            return self._vector(field, target)
        if field.kind == "string":
            return self._string(target)
        return self._table(tables()[field.of], target)

    def _union(self, field: Field, which: int, place: int) -> Node | None:
        number = self._scalar("u8", which) if which else 0
        if not number:
            return None
        name = enums()[field.of].name_of(number)
        if name is None:
            self._fail(f"{field.of} has no member {number}")
        if not place:
            self._fail(f"the union says {name} but has no value")
        return self._table(tables()[name], self._target(place))

    def _vector(self, field: Field, pos: int) -> Any:
        count = self._scalar("u32", pos)
        scalar = field.kind == "scalar"
        width = struct.calcsize(SCALARS[field.of]) if scalar else 4
        if count > (self._size - pos - 4) // width:
            self._fail(f"the vector at byte {pos} has {count} elements, past the end of the file")
        if field.of == "u8":
            return self._data[pos + 4 : pos + 4 + count]
        if scalar:
            return np.frombuffer(self._data, f"<{SCALARS[field.of]}", count, pos + 4)
        self._spend(0, ahead=count)
        found: list[Any] = []
        for i in range(count):
            self._path.append(f"[{i}]")
            target = self._target(pos + 4 + 4 * i)
            if field.kind == "string":
                found.append(self._string(target))
            else:
                found.append(self._table(tables()[field.of], target))
            self._path.pop()
        return tuple(found)

    def _string(self, pos: int) -> str:
        count = self._scalar("u32", pos)
        if count > self._size - pos - 4:
            self._fail(f"the text at byte {pos} has {count} bytes, past the end of the file")
        self._spend(1 + count // 16)
        return bytes(self._data[pos + 4 : pos + 4 + count]).decode("utf-8", "surrogateescape")

    def _inside(self, node: Node) -> Node:
        """Return the node with its data that lies outside the flatbuffer put in its place."""
        if node.table == "Buffer" and ("offset" in node.values or "size" in node.values):
            data = self._outside(node.offset, node.size, node.data)
            return node.replace(data=data, offset=None, size=None)
        if node.table == "Operator" and "large_custom_options_offset" in node.values:
            offset, size = node.large_custom_options_offset, node.large_custom_options_size
            data = self._outside(offset, size, node.custom_options)
            return node.replace(
                custom_options=data,
                large_custom_options_offset=None,
                large_custom_options_size=None,
            )
        return node

    def _outside(self, offset: int, size: int, inside: memoryview | None) -> memoryview | None:
        if offset <= _ABSENT:
            return inside
        if inside:
            self._fail("has data inside and outside the flatbuffer")
        if size > self._size or offset > self._size - size:
            self._fail(f"has {size} bytes at {offset}, past the end of the file")
        return self._data[offset : offset + size]
