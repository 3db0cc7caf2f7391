"""Which weights of a checkpoint the variables of a graph hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import UnsupportedError, shorten
from lepton_ir.frontends.tensorflow.functions import Body, Library, Ref
from lepton_ir.frontends.tensorflow.graph import CALLS
from lepton_ir.tensors import Tensor

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.bundle import Bundle
    from lepton_ir.frontends.tensorflow.nodes import Node

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""Key of the object graph in a checkpoint."""

_VALUE = "VARIABLE_VALUE"
_VARIABLES = frozenset(("VarHandleOp", "VariableV2", "Variable"))
_ASSIGNS = frozenset(("AssignVariableOp", "Assign"))


class Variables:
    """The contents of variables, by the node that makes the handle.

    Args:
        bundle: the checkpoint; ``None`` when there is none.
        keys: the nodes' keys in it.
    """

    def __init__(self, bundle: Bundle | None = None, keys: dict[str, str] | None = None) -> None:
        self.bundle = bundle
        self.keys = keys or {}
        self._tensors: dict[str, Tensor] = {}

    def tensor(self, name: str) -> Tensor:
        """Return what a variable holds.

        Raises:
            UnsupportedError: nothing says what.
        """
        key = self.keys.get(name)
        if self.bundle is None or key is None:
            raise UnsupportedError(
                f"variable {shorten(name)} has no content in the file",
                code="tf-variable",
                hint="freeze the graph, or give the folder of the SavedModel",
            )
        if key not in self._tensors:
            self._tensors[key] = self.bundle.tensor(key)
        return self._tensors[key]


def keys_of(meta: Any, body: Body, library: Library, bundle: Bundle) -> dict[str, str]:
    """Return the keys of the variables of a SavedModel, by node.

    The object graph says it, where functions bind variables; graphs of TensorFlow 1 say it where
    they restore them; otherwise a variable's own name is its key.
    """
    found = _by_names(body, bundle)
    found.update(_by_restore(body, bundle))
    if OBJECT_GRAPH in bundle:
        found.update(_by_objects(meta, body, library, bundle))
    return found


def _by_names(body: Body, bundle: Bundle) -> dict[str, str]:
    found = {}
    for name, node in body.nodes.items():
        if node.op in _VARIABLES:
            for key in (node.attr("shared_name"), name):
                if isinstance(key, str) and key in bundle:
                    found[name] = key
                    break
    return found


def _by_restore(body: Body, bundle: Bundle) -> dict[str, str]:
    found = {}
    for node in body.nodes.values():
        if node.op not in _ASSIGNS or len(node.inputs) != 2:
            continue
        variable, value = (body.source(r) for r in body.operands(node))
        restore = body.nodes.get(value.node)
        if restore is None or restore.op != "RestoreV2":
            continue
        key = _restored(body, restore, value)
        if key in bundle:
            found[variable.node] = key
    return found


def _restored(body: Body, restore: Node, value: Ref) -> str:
    operands = body.operands(restore)
    names = body.nodes.get(operands[1].node) if len(operands) == 3 else None
    tensor = names.attr("value") if names is not None and names.op == "Const" else None
    if not isinstance(tensor, Tensor) or value.port >= tensor.size:
        return ""
    return str(tensor.numpy().reshape(-1)[value.port])


def _by_objects(meta: Any, body: Body, library: Library, bundle: Bundle) -> dict[str, str]:
    """Follow the operands that functions bind to the objects, and these to the checkpoint."""
    functions = meta.object_graph_def.concrete_functions
    keys = _object_keys(meta.object_graph_def, bundle.message(OBJECT_GRAPH, "TrackableObjectGraph"))
    found: dict[str, str] = {}
    for node in body.nodes.values():
        name = _function_of(node, library)
        if name not in functions:
            continue
        bound = list(functions[name].bound_inputs)
        operands = body.operands(node)
        if len(bound) > len(operands):
            continue
        for ref, number in zip(operands[len(operands) - len(bound) :], bound, strict=True):
            if number in keys:
                found[body.source(ref).node] = keys[number]
    return found


def _function_of(node: Node, library: Library) -> str:
    if node.op in CALLS:
        found = node.attr("f")
        return getattr(found, "name", "")
    return node.op if node.op in library else ""


def _object_keys(saved: Any, stored: Any) -> dict[int, str]:
    """Return the keys of variables by the number of the object in the SavedModel.

    Both graphs of objects are walked together, from the root, by the names of children.
    """
    keys: dict[int, str] = {}
    seen = {0}
    queue = [(0, 0)]
    while queue:
        ours, theirs = queue.pop()
        if not (0 <= ours < len(saved.nodes) and 0 <= theirs < len(stored.nodes)):
            continue
        for attribute in stored.nodes[theirs].attributes:
            if attribute.name == _VALUE:
                keys[ours] = attribute.checkpoint_key
        children = {c.local_name: c.node_id for c in stored.nodes[theirs].children}
        for child in saved.nodes[ours].children:
            other = children.get(child.local_name)
            if other is not None and child.node_id not in seen:
                seen.add(child.node_id)
                queue.append((child.node_id, other))
    return keys
