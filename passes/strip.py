"""Doc strings and metadata: what exporters leave for their own debugging, or all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_ir.pipeline import Pass

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Op, Value


_EXPORTERS = ("pkg.torch.", "pkg.onnxscript.")
"""How the keys begin under which exporters note the code that a node came from."""

_EXPORTER_KEYS = ("namespace",)
"""What else they note beside those."""

_FRAME = re.compile(r'\S.*\(\d+\): \S+|File ".*", line \d+.*', re.ASCII)
"""A line of a stack trace, as older exporters put them into doc strings."""

_TRACE_LINES = 256
"""Lines of a doc string that are looked at."""


@dataclass(frozen=True)
class Strip(Pass, name="strip"):
    """Drop doc strings and metadata of nodes and values; those of the model stay.

    Without ``doc`` and ``metadata`` what people wrote stays.

    Attributes:
        traces: drop stack traces, and metadata under the names of PyTorch's exporter: the
            scope, class and source line of each node, often more bytes than the node itself.
        doc: drop doc strings.
        metadata: drop metadata properties that the source file had.
    """

    traces: bool = True
    doc: bool = True
    metadata: bool = True

    def run(self, module: Module, ctx: PassContext) -> None:
        """Drop them in every function, nested ones included."""
        del ctx
        for function in module.functions.values():
            found = self._kept(function.meta, whole=False)
            changed = found != function.meta
            function.meta = found or {}
            values = list(function.inputs)
            for op in function.walk():
                changed |= self._shorten(op)
                values += op.results
                for region in op.regions:
                    values += region.block.args
            for value in values:
                changed |= self._shorten(value)
            function.epoch += changed

    def _shorten(self, item: Op | Value) -> bool:
        """Drop them of an operation or a value; return whether there were any."""
        if not item.meta:
            return False
        kept = self._kept(item.meta, whole=True)
        changed = kept != item.meta
        item.meta = kept
        return changed

    def _kept(self, meta: dict[str, Any], *, whole: bool) -> dict[str, Any] | None:
        """Return what stays of ``meta``; all but traces where it is not to go as a ``whole``."""
        kept = dict(meta)
        doc, metadata = kept.pop("doc", None), kept.pop("metadata", None)
        if doc and not (self.doc and whole) and not (self.traces and _is_trace(doc)):
            kept["doc"] = doc
        if metadata and self.traces:
            metadata = _without_exporters(metadata)
        if metadata and not (self.metadata and whole):
            kept["metadata"] = metadata
        return kept or None


def _without_exporters(metadata: dict[str, str]) -> dict[str, str]:
    if not any(key.startswith(_EXPORTERS) for key in metadata):
        return metadata
    gone = (*_EXPORTERS, *_EXPORTER_KEYS)
    return {key: value for key, value in metadata.items() if not key.startswith(gone)}


def _is_trace(doc: str) -> bool:
    lines = [line for line in map(str.strip, doc.split("\n", _TRACE_LINES)) if line]
    return bool(lines) and all(map(_FRAME.fullmatch, lines[:_TRACE_LINES]))
