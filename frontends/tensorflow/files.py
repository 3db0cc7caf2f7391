"""Model files: a SavedModel folder, or a frozen graph as bytes or as text."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.tensorflow.bundle import Bundle
from lepton_ir.frontends.tensorflow.protos import parse, parse_text
from lepton_ir.frontends.tensorflow.weights import Place, parse_graph

MAX_BYTES = 2 << 30
"""A protobuf message may not be larger."""

SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_SERVE = "serve"


@dataclass(frozen=True)
class Source:
    """What a path holds.

    Attributes:
        graph: the GraphDef.
        meta: the MetaGraphDef of a SavedModel.
        folder: of a SavedModel.
        producer: who wrote it.
        places: where large constants of a frozen graph lie, by what stands for them in the graph.
    """

    graph: Any
    meta: Any = None
    folder: str = ""
    producer: str = ""
    places: dict[bytes, Place] = field(default_factory=dict)

    def bundle(self) -> Bundle | None:
        """Return the checkpoint, ``None`` when there is none."""
        prefix = os.path.join(self.folder, "variables", "variables")
        if not self.folder or not os.path.lexists(f"{prefix}.index"):
            return None
        return Bundle(prefix, self.folder)


def saved_model_in(folder: str) -> str:
    """Return the path of a folder's SavedModel file, empty when there is none."""
    for name in SAVED_MODEL:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    return ""


def read(path: str) -> Source:
    """Read a folder or a file.

    Raises:
        InvalidModelError: it holds neither a SavedModel nor a graph.
        UnsupportedError: it is too large for a protobuf message.
    """
    if os.path.isdir(path):
        inner = saved_model_in(path)
        if not inner:
            raise InvalidModelError(f"there is no {SAVED_MODEL[0]} in this folder", code="tf-file")
        return _saved_model(inner)
    if os.path.basename(path) in SAVED_MODEL:
        return _saved_model(path)
    places: dict[bytes, Place] = {}
    found = None if path.lower().endswith("txt") or not os.path.isfile(path) else parse_graph(path)
    if found is None:
        graph = _message("GraphDef", path)
    else:
        graph, places = found
    if not graph.node:
        raise InvalidModelError("this is no graph of TensorFlow: it has no nodes", code="tf-parse")
    if not all(n.name and n.op for n in graph.node):
        raise InvalidModelError("this is no graph of TensorFlow", code="tf-parse")
    return Source(graph, producer="tensorflow", places=places)


def _message(name: str, path: str) -> Any:
    data = _bytes(path)
    what = shorten(os.path.basename(path))
    if path.lower().endswith("txt"):
        try:
            return parse_text(name, data.decode(), what)
        except UnicodeDecodeError as error:
            raise InvalidModelError(f"{what} is not text", code="tf-parse") from error
    return parse(name, data, what)


def _bytes(path: str) -> bytes:
    try:
        if not os.path.isfile(path):
            raise InvalidModelError("there is no such file", code="tf-file")
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise UnsupportedError(
                f"the file has {size} bytes; a graph has at most 2 GiB", code="tf-file"
            )
        with open(path, "rb") as file:
            data = file.read(size)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise InvalidModelError(f"cannot read the file: {text}", code="tf-file") from error
    if not data:
        raise InvalidModelError("the file is empty", code="tf-file")
    return data


def _saved_model(path: str) -> Source:
    message = _message("SavedModel", path)
    if not message.meta_graphs:
        raise InvalidModelError("this SavedModel has no graph", code="tf-parse")
    graphs = list(message.meta_graphs)
    serving = [m for m in graphs if _SERVE in m.meta_info_def.tags] or graphs
    if len(serving) > 1:
        tags = ", ".join("+".join(m.meta_info_def.tags) for m in serving)
        raise UnsupportedError(f"several graphs could be meant: {shorten(tags)}", code="tf-tags")
    (meta,) = serving
    version = meta.meta_info_def.tensorflow_version
    return Source(
        meta.graph_def,
        meta,
        os.path.dirname(os.path.abspath(path)),
        f"tensorflow {shorten(version)}" if version else "tensorflow",
    )
