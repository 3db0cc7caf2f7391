"""Weights that stay in the model file: which bytes they are, and the message without them.

Only the outermost structure of the protobuf wire format is read: fields of the model, of its graph
and of large initializers. Anything unusual in there leaves the whole file to protobuf, which says
what is wrong with it.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

from lepton_ir.formats.wire import Field, Unusual, fields, header
from lepton_ir.tensors import DataFile

LARGE = 64 << 10
"""Bytes from which on an initializer stays in the file."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9


class Range(NamedTuple):
    """Bytes of a file."""

    file: DataFile
    start: int
    length: int


_Places = dict[int, tuple[int, int]]
"""Start and length of the weights that were left out, by the index of the initializer."""


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
    graphs = [f for f in fields(data, 0, len(data)) if f.number == _GRAPH]
    if len(graphs) != 1:
        return None
    (graph,) = graphs
    rest, places = _strip_graph(data, graph)
    if not places:
        return None
    head = data[: graph.start] + header(_GRAPH, sum(map(len, rest)))
    return b"".join((head, *rest, data[graph.end :])), places


def _strip_graph(data: mmap.mmap, graph: Field) -> tuple[list[bytes], _Places]:
    """Return the graph's bytes without large weights, and where these are."""
    parts: list[bytes] = []
    places: _Places = {}
    index, copied = 0, graph.payload
    for field in fields(data, graph.payload, graph.end):
        if field.number != _INITIALIZER:
            continue
        raw = _raw_data(data, field) if field.end - field.payload >= LARGE else None
        if raw is not None:
            inner = data[field.payload : raw.start] + data[raw.end : field.end]
            parts += [data[copied : field.start], header(_INITIALIZER, len(inner)), inner]
            places[index] = raw.payload, raw.end - raw.payload
            copied = field.end
        index += 1
    parts.append(data[copied : graph.end])
    return parts, places


def _raw_data(data: mmap.mmap, tensor: Field) -> Field | None:
    found = [f for f in fields(data, tensor.payload, tensor.end) if f.number == _RAW_DATA]
    if len(found) > 1:
        raise Unusual
    return found[0] if found and found[0].end - found[0].payload >= LARGE else None
