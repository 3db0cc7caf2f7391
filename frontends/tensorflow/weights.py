"""Large constants of a frozen graph stay in the file: the graph is parsed without them."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton_ir.diagnostics import InvalidModelError, shorten
from lepton_ir.formats.wire import Unusual, fields, header
from lepton_ir.frontends.tensorflow.nodes import dtype_of
from lepton_ir.frontends.tensorflow.protos import parse
from lepton_ir.frontends.tensorflow.tensors import static_shape
from lepton_ir.tensors import DataFile, FileTensor

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.nodes import Node

LARGE = 64 << 10
"""Bytes from which on a constant stays in the file."""

_PATH = (1, 5, 2, 8, 4)
"""Fields on the way to the data: a node, an attribute, its value, a tensor, its content."""


class Place(NamedTuple):
    """Where the data of a constant lies."""

    file: DataFile
    start: int
    length: int


def parse_graph(path: str) -> tuple[Any, dict[bytes, Place]] | None:
    """Return a graph and where the large constants lie, whose content in the graph is a mark.

    Returns ``None`` when there are none, or when the file needs a full parser.
    """
    try:
        if os.path.getsize(path) < LARGE:
            return None
        file = DataFile(path)
    except OSError:
        return None
    mark = os.urandom(16)
    places: dict[bytes, Place] = {}
    with mmap.mmap(file.fd, file.size, access=mmap.ACCESS_READ) as data:
        try:
            parts = _strip(data, 0, len(data), _PATH, mark, places, file)
        except (Unusual, IndexError):
            return None
        if parts is None:
            return None
        rest = b"".join(parts)
    graph = parse("GraphDef", rest, shorten(os.path.basename(path)))
    marked = {c for n in graph.node if n.op == "Const" if (c := _content(n)) in places}
    return (graph, places) if len(marked) == len(places) else None


def _content(node: Any) -> bytes:
    return bytes(node.attr["value"].tensor.tensor_content) if "value" in node.attr else b""


def _strip(
    data: mmap.mmap,
    start: int,
    end: int,
    path: tuple[int, ...],
    mark: bytes,
    places: dict[bytes, Place],
    file: DataFile,
) -> list[bytes] | None:
    """Return a message without large contents, ``None`` when it has none."""
    parts: list[bytes] = []
    copied = start
    for field in fields(data, start, end):
        if field.number != path[0] or field.end - field.payload < LARGE:
            continue
        inner: list[bytes] | None
        if len(path) == 1:
            key = mark + len(places).to_bytes(8, "little")
            places[key] = Place(file, field.payload, field.end - field.payload)
            inner = [key]
        else:
            inner = _strip(data, field.payload, field.end, path[1:], mark, places, file)
        if inner is not None:
            size = sum(map(len, inner))
            parts += [data[copied : field.start], header(path[0], size), *inner]
            copied = field.end
    if not parts:
        return None
    return [*parts, data[copied:end]]


def stored_tensor(node: Node, places: dict[bytes, Place]) -> FileTensor | None:
    """Return the tensor of a constant that stayed in the file, ``None`` for others.

    Raises:
        InvalidModelError: its type does not fit its data.
    """
    place = places.get(_content(node.message)) if node.op == "Const" else None
    if place is None:
        return None
    message = node.message.attr["value"].tensor
    dtype = dtype_of(message.dtype)
    what = f"constant {shorten(node.name)}"
    if dtype is None or dtype.bits < 8:
        raise InvalidModelError(f"{what} holds no plain numbers", code="tf-tensor")
    tensor_shape = static_shape(message.tensor_shape, what, dtype)
    found = FileTensor(place.file, place.start, dtype, tensor_shape)
    if found.nbytes != place.length:
        raise InvalidModelError(
            f"{what} holds {place.length} bytes, {_text(found)} needs {found.nbytes}",
            code="tf-tensor",
        )
    return found


def _text(tensor: FileTensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)!r:.60}"
