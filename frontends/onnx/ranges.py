"""Weights that stay in the model file: which bytes they are, and the message without them.

Only the outermost structure of the protobuf wire format is read: fields of the model, of its graph
and of large initializers. Anything unusual in there leaves the whole file to protobuf, which says
what is wrong with it.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, NamedTuple

from lepton_ir.tensors import DataFile

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = 64 << 10
"""Bytes from which on an initializer stays in the file."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Range(NamedTuple):
    """Bytes of a file."""

    file: DataFile
    start: int
    length: int


class Field(NamedTuple):
    """A field as it lies in the file: all of it from ``start`` to ``end``, its payload in it."""

    number: int
    start: int
    payload: int
    end: int


_Places = dict[int, tuple[int, int]]
"""Start and length of the weights that were left out, by the index of the initializer."""


class Unusual(Exception):
    """The file is not what exporters write; protobuf has to read it."""


def without_weights(file: DataFile) -> tuple[bytes, dict[int, Range]] | None:
    """Return the message without its large weights, and these by the initializer's index.

    Returns ``None`` when there are none, or when the file needs a full parser.
    """
    if file.size < LARGE:
        return None
    with mmap.mmap(file.fd, file.size, access=mmap.ACCESS_READ) as data:
        try:
            found = _without_weights(data)
        except (Unusual, IndexError):
            return None
    if found is None:
        return None
    rest, places = found
    return rest, {index: Range(file, start, length) for index, (start, length) in places.items()}


def _without_weights(data: mmap.mmap) -> tuple[bytes, _Places] | None:
    fields = list(_fields(data, 0, len(data)))
    graphs = [f for f in fields if f.number == _GRAPH]
    if len(graphs) != 1:
        return None
    (graph,) = graphs
    rest, places = _strip_graph(data, graph)
    if not places:
        return None
    head = data[: graph.start] + _header(_GRAPH, sum(map(len, rest)))
    return b"".join((head, *rest, data[graph.end :])), places


def _strip_graph(data: mmap.mmap, graph: Field) -> tuple[list[bytes], _Places]:
    """Return the graph's bytes without large weights, and where these are."""
    parts: list[bytes] = []
    places: _Places = {}
    index, copied = 0, graph.payload
    for field in _fields(data, graph.payload, graph.end):
        if field.number != _INITIALIZER:
            continue
        raw = _raw_data(data, field) if field.end - field.payload >= LARGE else None
        if raw is not None:
            inner = data[field.payload : raw.start] + data[raw.end : field.end]
            parts += [data[copied : field.start], _header(_INITIALIZER, len(inner)), inner]
            places[index] = raw.payload, raw.end - raw.payload
            copied = field.end
        index += 1
    parts.append(data[copied : graph.end])
    return parts, places


def _raw_data(data: mmap.mmap, tensor: Field) -> Field | None:
    found = [f for f in _fields(data, tensor.payload, tensor.end) if f.number == _RAW_DATA]
    if len(found) > 1:
        raise Unusual
    return found[0] if found and found[0].end - found[0].payload >= LARGE else None


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of a message.

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


def _header(number: int, length: int) -> bytes:
    """Return the tag and the length in front of a field of bytes."""
    found = bytearray([number << 3 | _BYTES])
    while length > 127:
        found.append(length & 127 | 128)
        length >>= 7
    return bytes([*found, length])
