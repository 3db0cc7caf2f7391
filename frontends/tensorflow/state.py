"""Inputs, constants and variables; nodes that pass on what they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.tensorflow.functions import PASSING
from lepton_ir.frontends.tensorflow.graph import Access, Variable, described
from lepton_ir.frontends.tensorflow.table import tf_structure
from lepton_ir.ir import Value
from lepton_ir.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tensorflow.graph import GraphReader, Scope, Slot
    from lepton_ir.frontends.tensorflow.nodes import Node


@tf_structure("Const", "HostConst")
def _const(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    value = node.attr("value")
    if not isinstance(value, Tensor):
        raise InvalidModelError("a constant without a tensor", code="tf-attr")
    if value.dtype.kind == "complex":
        whole = np.asarray(value.numpy())
        return [scope.b.const(np.stack([whole.real, whole.imag], -1))]
    return [scope.b.const(value)]


@tf_structure("Placeholder", "PlaceholderV2")
def _placeholder(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    raise UnsupportedError("an input that the signature does not have", code="tf-input")


@tf_structure(*PASSING, "IdentityN", "PlaceholderWithDefault")
def _pass(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    return list(operands)


@tf_structure("VarHandleOp")
def _handle(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    return [Variable(node.name)]


@tf_structure("VariableV2", "Variable")
def _variable(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    return [_content(reader, scope, Variable(node.name))]


@tf_structure("ReadVariableOp")
def _read(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    (handle,) = operands
    if isinstance(handle, Variable):
        value = _content(reader, scope, handle)
        access = Access(scope, node.name, value)
        reader.shared.reads.setdefault(handle.name, []).append(access)
        return [value]
    if isinstance(handle, Value):  # a variable that was frozen, its reads left
        return [handle]
    raise UnsupportedError(f"reads {described(handle)}", code="tf-variable")


@tf_structure("ResourceGather", "ResourceGatherNd")
def _gather(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    handle, *rest = operands
    return reader.row(scope, node, [*_read(reader, scope, node, [handle]), *rest])


@tf_structure("VariableShape")
def _shape(
    reader: GraphReader, scope: Scope, node: Node, operands: Sequence[Slot]
) -> Sequence[Slot]:
    (value,) = _read(reader, scope, node, operands)
    return [scope.b.cast_to(scope.b.shape_of(value), node.attr("out_type", dtypes.I32))]


def _content(reader: GraphReader, scope: Scope, handle: Variable) -> Value:
    tensor = reader.shared.variables.tensor(handle.name)
    name = handle.name if handle.name not in reader.shared.taken else None
    if name is not None:
        reader.shared.taken.add(name)
    found: Value = scope.b.const(tensor, name=name)
    if found.dtype is None:
        raise UnsupportedError(f"variable {shorten(handle.name)} has no type", code="tf-variable")
    return found
