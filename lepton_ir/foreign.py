"""Attribute values that the IR only carries through: kept as the bytes of their source format."""

from __future__ import annotations


class Foreign:
    """An attribute of a foreign format that the IR does not interpret, written back unchanged.

    Attributes:
        kind: what the bytes are, such as ``onnx.AttributeProto``.
        data: the serialized value.
    """

    __slots__ = ("data", "kind")

    def __init__(self, kind: str, data: bytes) -> None:
        self.kind = kind
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Foreign) and (self.kind, self.data) == (other.kind, other.data)

    def __hash__(self) -> int:
        return hash((self.kind, self.data))

    def __repr__(self) -> str:
        return f"Foreign({self.kind!r}, {len(self.data)} bytes)"
