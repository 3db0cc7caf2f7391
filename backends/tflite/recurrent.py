"""The LSTM kernel of TFLite, which keeps its states itself.

An operation is written as the kernel where its states are those of the function and nothing else
reads them; otherwise it is taken apart, and its states are variables like others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.backends.tflite.graph import ABSENT, enum
from lepton_ir.backends.tflite.parameters import Params, params_of
from lepton_ir.backends.tflite.row import Row
from lepton_ir.infer import const_tensor
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Function, Op, Value

NAME = "unidirectional_sequence_lstm"

_BUILTIN = NAME.upper()
_INPUTS = 24
_STATES = {"h": 1, "c": 2}
"""Operands that are states, and the results that follow them."""

_TRIPLE = 3


@dataclass
class Layer:
    """One operation that the kernel computes.

    Attributes:
        states: what the metadata says of h and c, by operand.
        codes: the quantization of the result, where the kernel computes in integers.
        silent: operations that the kernel does itself.
    """

    states: dict[str, dict[str, Any]]
    codes: Op | None = None
    silent: set[Op] = field(default_factory=set)


def layer_of(op: Op) -> Layer | str:
    """Return how the kernel computes an operation, or the reason why it does not."""
    function = op.function
    if op.name != NAME or function is None or op.parent is not None:
        return "the kernel keeps states of whole functions"
    states: dict[str, dict[str, Any]] = {}
    for name, index in _STATES.items():
        found = _state(function, op.operand(name), op.results[index])
        if isinstance(found, str):
            return found
        states[name] = found
    layer = Layer(states)
    return _in_integers(op, layer) if op.attr("hidden_scale") else layer


def layers(function: Function) -> list[Layer]:
    """Return all layers of a function that the kernel computes."""
    found = [layer_of(op) for op in function.block.ops if op.name == NAME]
    return [layer for layer in found if isinstance(layer, Layer)]


def _state(function: Function, before: Value | None, after: Value) -> dict[str, Any] | str:
    outputs = dict(zip(function.output_names, function.outputs, strict=True))
    for state in function.meta.get("states", ()):
        if before is None or state.get("input") != before.name or before.op is not None:
            continue
        if state["kind"] != "tensor" or outputs.get(state["output"]) is not after:
            return "its states are others than the kernel's"
        if before.use_count != 1 or after.use_count != 1:
            return "its states are used elsewhere"
        type_ = before.type
        if not isinstance(type_, TensorType) or type_.static_shape is None:
            return "the shapes of its states are not known"
        found: dict[str, Any] = state
        return found
    return "its states are no variables of the model"


def _in_integers(op: Op, layer: Layer) -> Layer | str:
    x = op.operands[0]
    assert x is not None
    users = op.results[0].users
    if x.op is None or x.op.name != "dequantize_linear" or _codes(x.op) is not dtypes.I8:
        return "its operand is no integers"
    if len(users) != 1 or users[0].name != "quantize_linear":
        return "its result is no integers"
    layer.codes = users[0]
    layer.silent = {users[0]}
    if x.use_count == 1:
        layer.silent.add(x.op)
    for index, value in enumerate(op.operands[1:], 1):
        if value is None or index in (18, 19):
            continue
        maker = value.op
        if maker is None or maker.name != "dequantize_linear" or value.use_count != 1:
            return "its weights are no integers"
        if const_tensor(maker.operands[0]) is None or params_of(maker) is None:
            return "its weights are not constant"
        layer.silent.add(maker)
    return layer


def _codes(op: Op) -> DType | None:
    return None if op.operands[0] is None else op.operands[0].dtype


def _write(g: Graph, op: Op) -> None:
    layer = layer_of(op)
    assert isinstance(layer, Layer)
    inputs = [_operand(g, op, layer, i) for i in range(len(op.operands))]
    while len(inputs) < _INPUTS and len(op.operands) > _INPUTS - 4:
        inputs.append(ABSENT)
    result = op.results[0] if layer.codes is None else layer.codes.results[0]
    g.add(
        _BUILTIN,
        inputs,
        [g.value(result)],
        fused_activation_function=enum("ActivationFunctionType", op.attr("activation")),
        cell_clip=op.attr("cell_clip"),
        proj_clip=op.attr("proj_clip"),
        time_major=op.attr("time_major"),
    )
    between = _intermediates(g, op.attr("intermediates") or ())
    if between:
        g.operators[-1] = g.operators[-1].replace(intermediates=between)


def _operand(g: Graph, op: Op, layer: Layer, index: int) -> int:
    value = op.operands[index]
    if value is None:
        return ABSENT
    assert op.definition is not None
    name = op.definition.operands[index].name
    if name in layer.states:
        return _kept(g, op, layer, name, value)
    if layer.codes is None:
        return g.value(value)
    maker = value.op
    assert maker is not None
    codes = maker.operands[0]
    assert codes is not None
    if not index:
        return g.value(codes)
    params = params_of(maker)
    assert params is not None
    return g.stored(codes, params)


def _kept(g: Graph, op: Op, layer: Layer, name: str, value: Value) -> int:
    """Add the tensor of a state."""
    dtype, params = value.dtype or dtypes.F32, None
    if layer.codes is not None and name == "h":
        dtype = dtypes.I8
        params = Params((op.attr("hidden_scale"),), (op.attr("hidden_zero_point"),))
    elif layer.codes is not None:
        dtype, params = dtypes.I16, Params((op.attr("cell_scale"),), (0,))
    assert value.shape is not None
    node = None if params is None else params.node
    index = g.temporary(dtype, value.shape, layer.states[name]["name"], node)
    g.tensors[index] = g.tensors[index].replace(is_variable=True)
    return index


def _intermediates(g: Graph, numbers: tuple[float, ...]) -> list[int]:
    """Add the tensors that only say the scales of what is inside a kernel for integers."""
    found = []
    for i in range(0, len(numbers), _TRIPLE):
        kind, scale, zero = numbers[i : i + _TRIPLE]
        params = Params((scale,), (int(zero),)) if scale else None
        node = None if params is None else params.node
        index = g.temporary(dtypes.I8 if scale else dtypes.F32, (0,), f"intermediate_{i}", node)
        g.tensors[index] = g.tensors[index].replace(type=int(kind))
        found.append(index)
    return found


def _fits(op: Op) -> str:
    found = layer_of(op)
    return found if isinstance(found, str) else ""


ROWS = {NAME: Row(_BUILTIN, _write, _fits)}
