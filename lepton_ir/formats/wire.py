"""The outermost structure of protobuf messages: where fields lie, without parsing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field as it lies in the file: all of it from ``start`` to ``end``, its payload in it."""

    number: int
    start: int
    payload: int
    end: int


class Unusual(Exception):
    """The file is not what exporters write; protobuf has to read it."""


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of a message; 0 is the number of those that hold no bytes.

    Raises:
        Unusual: a field goes beyond the message, or has a kind of the wire format that is not used.
    """
    position = start
    while position < end:
        tag, payload = _varint(data, position)
        kind = tag & 7
        if kind == _BYTES:
            length, payload = _varint(data, payload)
        elif kind == _VARINT:
            length = _varint(data, payload)[1] - payload
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise Unusual
        if payload + length > end:
            raise Unusual
        # A known field of another kind counts as unknown in protobuf.
        yield Field(tag >> 3 if kind == _BYTES else 0, position, payload, payload + length)
        position = payload + length


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise Unusual


def header(number: int, length: int) -> bytes:
    """Return the tag and the length in front of a field of bytes."""
    found = bytearray([number << 3 | _BYTES])
    while length > 127:
        found.append(length & 127 | 128)
        length >>= 7
    return bytes([*found, length])
