"""Names in nested graphs, tasks that stand for recursion, and how nodes are described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.foreign import Foreign
from lepton_ir.frontends.onnx.table_values import as_text, shown
from lepton_ir.ir import Value
from lepton_ir.types import UNKNOWN, SparseType, TensorType, Type

if TYPE_CHECKING:
    from onnx import NodeProto

    from lepton_ir.provenance import ProvenanceTable


class Undefined(Exception):
    """A name is read that nothing defined before; the graph may not be sorted."""

    def __init__(self, name: str, node: str) -> None:
        self.name = name
        self.node = node


class Scope:
    """Names of values in a graph; outer ones through the parent."""

    __slots__ = ("parent", "values")

    def __init__(self, parent: Scope | None = None) -> None:
        self.values: dict[str, Value] = {}
        self.parent = parent

    def find(self, name: str) -> Value | None:
        """Return the value called ``name`` in this graph or one around it."""
        scope: Scope | None = self
        while scope is not None:
            value = scope.values.get(name)
            if value is not None:
                return value
            scope = scope.parent
        return None


def describe_node(node: NodeProto) -> str:
    """Return how messages name a node."""
    operator = shown(node.op_type)
    if node.name:
        return f'node "{shown(node.name)}" ({operator})'
    first = next((o for o in node.output if o), "")
    return f'node {operator} -> "{shown(first)}"'


def value_meta(info: Any) -> dict[str, Any]:
    """Return doc string and metadata of a value."""
    meta: dict[str, Any] = {}
    if info.doc_string:
        meta["doc"] = as_text(info.doc_string)
    if info.metadata_props:
        meta["metadata"] = {as_text(p.key): as_text(p.value) for p in info.metadata_props}
    return meta


def node_meta(node: NodeProto, provenance: ProvenanceTable | None) -> dict[str, Any]:
    """Return doc string, metadata and device configurations of a node.

    Args:
        node: the node.
        provenance: the model's table, where it has one.
    """
    meta = value_meta(node)
    if provenance is not None and "metadata" in meta:
        provenance.resolve(meta["metadata"])
    if node.device_configurations:
        meta["devices"] = [
            Foreign("onnx.NodeDeviceConfigurationProto", d.SerializeToString(deterministic=True))
            for d in node.device_configurations
        ]
    return meta


def without_shape(type_: Type) -> Type:
    """Return what is certain of a declared type: the element type."""
    if isinstance(type_, TensorType):
        return TensorType(type_.dtype, None)
    if isinstance(type_, SparseType):
        return SparseType(TensorType(type_.dense.dtype, None))
    return UNKNOWN
