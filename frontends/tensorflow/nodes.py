"""Nodes of a graph, their attributes decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_ir.dtypes import DType

RESOURCE, VARIANT = 20, 21
"""Codes of the element types that are handles, not numbers."""

DTYPES: dict[int, DType | None] = {
    1: dtypes.F32,
    2: dtypes.F64,
    3: dtypes.I32,
    4: dtypes.U8,
    5: dtypes.I16,
    6: dtypes.I8,
    7: None,  # string
    8: dtypes.C64,
    9: dtypes.I64,
    10: dtypes.BOOL,
    11: dtypes.I8,  # qint8, with its range beside it
    12: dtypes.U8,  # quint8
    13: dtypes.I32,  # qint32
    14: dtypes.BF16,
    15: dtypes.I16,  # qint16
    16: dtypes.U16,  # quint16
    17: dtypes.U16,
    18: dtypes.C128,
    19: dtypes.F16,
    RESOURCE: None,
    VARIANT: None,
    22: dtypes.U32,
    23: dtypes.U64,
    24: dtypes.F8E5M2,
    25: dtypes.F8E4M3FN,
    26: dtypes.F8E4M3FNUZ,
    28: dtypes.F8E5M2FNUZ,
    29: dtypes.I4,
    30: dtypes.U4,
    31: dtypes.I2,
    32: dtypes.U2,
}
"""Code of an element type (``DataType``) to ours; ``None`` for strings and handles."""

STRING = 7
COMPLEX = (8, 18)
"""Codes of complex types."""


def dtype_of(code: int) -> DType | None:
    """Return an element type, ``None`` for strings and handles.

    Raises:
        UnsupportedError: this version does not know the type.
    """
    code = code - 100 if code > 100 else code  # types of references, in TensorFlow 1
    if code not in DTYPES:
        raise UnsupportedError(f"element type {code}", code="tf-dtype")
    return DTYPES[code]


@dataclass(frozen=True)
class FunctionRef:
    """A function as an attribute names it.

    Attributes:
        name: its name in the library.
        attrs: attributes it is instantiated with, decoded.
    """

    name: str
    attrs: Mapping[str, Any]


class Node:
    """A node of a graph.

    Args:
        message: its NodeDef.
        name: what to call it; the name it has in the graph of the caller when it was inlined.

    Attributes:
        name: unique in the model.
        op: the operator.
        inputs: operands as the graph writes them, those that only order nodes left out.
    """

    __slots__ = ("_attrs", "inputs", "message", "name", "op")

    def __init__(self, message: Any, name: str = "") -> None:
        self.message = message
        self.name: str = name or message.name
        self.op: str = message.op
        self.inputs: list[str] = [i for i in message.input if not i.startswith("^")]
        self._attrs: dict[str, Any] = {}

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute decoded, ``default`` when the file leaves it out.

        Numbers, texts, flags and lists are Python's; a type is a ``DType`` (``None`` for strings
        and handles), a shape a tuple with ``None`` for unknown sizes (``None`` for an unknown
        rank), a tensor a ``Tensor``, a function a ``FunctionRef``.
        """
        if name not in self.message.attr:
            return default
        if name not in self._attrs:
            self._attrs[name] = decode(self.message.attr[name], f"attribute {name}")
        return self._attrs[name]

    def keep(self, name: str, value: Any) -> None:
        """Say what an attribute is that the message does not hold itself."""
        self._attrs[name] = value

    def code(self, name: str, default: int = 0) -> int:
        """Return the number of an element type as the file has it."""
        return int(self.message.attr[name].type) if name in self.message.attr else default

    @property
    def is_complex(self) -> bool:
        """Whether it computes with complex numbers."""
        return any(self.message.attr[n].type in COMPLEX for n in self.message.attr)

    def describe(self) -> str:
        """Return the node as a message names it."""
        return f"node {shorten(self.name)} ({shorten(self.op)})"


def decode(value: Any, what: str) -> Any:
    """Return the value of an AttrValue.

    Raises:
        InvalidModelError: it holds nothing.
    """
    kind = value.WhichOneof("value")
    if kind is None:
        raise InvalidModelError(f"{shorten(what)} holds nothing", code="tf-attr")
    content = getattr(value, kind)
    if kind == "list":
        for name in ("s", "i", "f", "b", "type", "shape", "tensor", "func"):
            items = getattr(content, name)
            if len(items):
                return [_item(name, i) for i in items]
        return []
    return _item(kind, content)


def _item(kind: str, content: Any) -> Any:
    if kind == "s":
        return bytes(content).decode("utf-8", "replace")
    if kind == "type":
        return dtype_of(content)
    if kind == "shape":
        return shape_of(content)
    if kind == "tensor":
        from lepton_ir.frontends.tensorflow.tensors import tensor_of

        return tensor_of(content)
    if kind == "func":
        return FunctionRef(content.name, {k: decode(v, k) for k, v in content.attr.items()})
    return {"i": int, "f": float, "b": bool}.get(kind, str)(content)


def shape_of(message: Any) -> tuple[int | None, ...] | None:
    """Return a TensorShapeProto: ``None`` for an unknown size, or for an unknown rank.

    Raises:
        InvalidModelError: a size is negative, or too many sizes.
    """
    if message.unknown_rank:
        return None
    sizes = [d.size for d in message.dim]
    if any(s < -1 for s in sizes) or len(sizes) > 254:
        raise InvalidModelError(f"a shape of {sizes!r:.60}", code="tf-shape")
    return tuple(None if s == -1 else int(s) for s in sizes)
