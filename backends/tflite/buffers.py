"""The buffers and operator codes of a model while it is written."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from lepton_ir.backends.tflite.weights import Mapped
from lepton_ir.formats.tflite.node import Node

if TYPE_CHECKING:
    from lepton_ir.tensors import Tensor

_SHARED = 1024
"""Constants up to this many bytes share one buffer when they are equal."""


class Buffers:
    """The buffers and operator codes of a model; small equal buffers are one.

    Attributes:
        shares: whether large ones are, too: those of functions that were optimized apart.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = [Node("Buffer")]
        self.codes: dict[tuple[str, int], int] = {}
        self.mapped = Mapped()
        self.shares = False
        self._small: dict[bytes, int] = {}
        self._large: dict[tuple[int, str], tuple[Any, int]] = {}

    def add(self, data: memoryview | bytes) -> int:
        """Return the index of a buffer with this content."""
        view = memoryview(data).cast("B")
        if not len(view):
            return self._append(view)
        if len(view) > _SHARED and not self.shares:
            return self._append(view)
        key = bytes(view) if len(view) <= _SHARED else hashlib.sha256(view).digest()
        if key not in self._small:
            self._small[key] = self._append(memoryview(key) if len(view) <= _SHARED else view)
        return self._small[key]

    def of(self, tensor: Tensor, form: str = "") -> int | None:
        """Return the buffer that holds a constant in some form already."""
        found = self._large.get((id(tensor), form))
        return None if found is None else found[1]

    def keep(self, tensor: Tensor, form: str, index: int) -> int:
        """Note that a buffer holds this constant in this form."""
        self._large[id(tensor), form] = (tensor, index)
        return index

    def code(self, builtin: str, version: int) -> int:
        """Return the index of an operator code."""
        return self.codes.setdefault((builtin, version), len(self.codes))

    def _append(self, view: memoryview) -> int:
        self.nodes.append(Node("Buffer", data=view))
        return len(self.nodes) - 1
