"""Writing a TFLite file: the same bytes for the same model, weights streamed from their place."""

from __future__ import annotations

import os
import struct
import tempfile
from typing import Any, BinaryIO

from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.formats.tflite.archive import move_archive
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.reader import CODE, IDENTIFIER
from lepton_ir.formats.tflite.schema import SCALARS, Field, enums, tables

ALIGNMENT = 16
"""Of every buffer; kernels load whole vectors from it."""

MAX_FLATBUFFER = (1 << 31) - 1
"""Offsets inside a flatbuffer end here."""

SMALL = 4096
"""Buffers below this size stay inside even where others go outside the flatbuffer."""

_SLOTS = {
    "bool": "Bool",
    "i8": "Int8",
    "u8": "Uint8",
    "i16": "Int16",
    "u16": "Uint16",
    "i32": "Int32",
    "u32": "Uint32",
    "i64": "Int64",
    "u64": "Uint64",
    "f32": "Float32",
    "f64": "Float64",
}


def write_file(
    model: Node, path: str, *, limit: int = MAX_FLATBUFFER, archive: bytes | None = None
) -> None:
    """Write a model to a file, which appears whole or not at all.

    Args:
        model: the ``Model`` node.
        path: the file; the model may be a view of an older one of this name.
        limit: largest flatbuffer; weights of a larger model lie behind it.
        archive: a zip archive to put at the end, see `archive.find_archive`.

    Raises:
        UnsupportedError: even without its weights the model is above the limit.
        OSError: the file cannot be written.
    """
    target = os.path.realpath(path)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".lepton-")
    try:
        with open(handle, "wb") as file:
            write(model, file, limit=limit, archive=archive)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write(
    model: Node, file: BinaryIO, *, limit: int = MAX_FLATBUFFER, archive: bytes | None = None
) -> None:
    """Write a model to a binary stream, see `write_file`."""
    limit = min(limit, MAX_FLATBUFFER)
    writer = _Writer(model, outside=False)
    if writer.inside_end > limit:
        writer = _Writer(model, outside=True)
        if writer.inside_end > limit:
            raise UnsupportedError(
                f"the model has {writer.inside_end} bytes besides its large weights; "
                f"a TFLite file holds at most {limit}",
                code=CODE,
            )
    written = writer.write(file)
    if archive is not None:
        file.write(move_archive(archive, written))


class _Writer:
    """The flatbuffer without buffer contents, and the places of those behind it.

    The builder makes the tables only; a buffer's vector follows them, where the 32-bit offset
    that its table holds (patched here) reaches it. So no weight is ever copied into the builder.
    """

    def __init__(self, model: Node, *, outside: bool) -> None:
        import flatbuffers  # not needed to read, nor to print the help

        self._builder = flatbuffers.Builder(1 << 16)
        self._outside = outside
        self._patches: list[tuple[memoryview, int, int]] = []
        self._builder.Finish(self._table(model), file_identifier=IDENTIFIER)
        self._head = bytearray(self._builder.Output())
        self._parts: list[tuple[int, bytes, memoryview]] = []
        self.inside_end = self._place_all()

    def write(self, file: BinaryIO) -> int:
        file.write(self._head)
        written = len(self._head)
        for at, prefix, data in self._parts:
            file.write(bytes(at - written))
            file.write(prefix)
            file.write(data)
            written = at + len(prefix) + len(data)
        return written

    def _place_all(self) -> int:
        """Lay out the buffers, inside ones first, and patch the head; return the inside's end."""
        end = len(self._head)
        for data, slot, extra in self._patches:
            if not extra:
                at = -(-(end + 4) // ALIGNMENT) * ALIGNMENT - 4
                end = at + 4 + len(data)
                if end <= MAX_FLATBUFFER:
                    place = len(self._head) - slot
                    struct.pack_into("<I", self._head, place, at - place)
                    self._parts.append((at, struct.pack("<I", len(data)), data))
        inside = end
        for data, slot, extra in self._patches:
            if extra:
                at = -(-end // ALIGNMENT) * ALIGNMENT
                end = at + len(data)
                struct.pack_into("<Q", self._head, len(self._head) - slot, at)
                struct.pack_into("<Q", self._head, len(self._head) - extra, len(data))
                self._parts.append((at, b"", data))
        return inside

    def _table(self, node: Node) -> int:
        if node.table == "Buffer":
            return self._buffer(node)
        table = tables()[node.table]
        cells: list[tuple[int, int, str, Any]] = []
        for field in table.fields.values():
            value = node.values.get(field.name)
            if value is None:
                continue
            if field.kind == "scalar" and not field.vector:
                width = struct.calcsize(SCALARS[field.of])
                cells.append((width, field.id, _SLOTS[field.of], value))
                continue
            if field.kind == "union":
                number = enums()[field.of].members[value.table]
                cells.append((1, field.id - 1, "Uint8", number))
            cells.append((4, field.id, "", self._reference(field, value)))
        builder = self._builder
        builder.StartObject(table.slots)
        for _, slot, kind, value in sorted(cells, key=lambda c: (-c[0], c[1])):
            if kind:  # no default is given: a field that is there is written
                getattr(builder, f"Prepend{kind}Slot")(slot, value, None)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return int(builder.EndObject())

    def _buffer(self, node: Node) -> int:
        builder, data = self._builder, node.data
        builder.StartObject(tables()["Buffer"].slots)
        if data is not None and self._outside and len(data) >= SMALL:
            builder.PrependUint64Slot(1, 0, None)
            slot = builder.Offset()
            builder.PrependUint64Slot(2, 0, None)
            self._patches.append((data, slot, builder.Offset()))
        elif data is not None:
            builder.PrependUint32Slot(0, 0, None)
            self._patches.append((data, builder.Offset(), 0))
        return int(builder.EndObject())

    def _reference(self, field: Field, value: Any) -> int:
        if not field.vector:
            return self._string(value) if field.kind == "string" else self._table(value)
        builder = self._builder
        if field.of == "u8":
            return int(builder.CreateByteVector(bytes(value)))
        if field.kind == "scalar":
            return int(builder.CreateNumpyVector(value))
        make = self._string if field.kind == "string" else self._table
        offsets = [make(item) for item in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def _string(self, text: str) -> int:
        return int(self._builder.CreateString(text.encode("utf-8", "surrogateescape")))
