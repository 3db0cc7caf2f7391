"""State as a TFLite file has it: variables that the runtime keeps from one run to the next.

In the IR a state is one more input and one more output of a function, and
``function.meta["states"]`` says which (see the frontend). The runtime runs a subgraph once that
assigns the first contents; each run reads all variables first and assigns them last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.backends.tflite.graph import Graph, TensorInfo, enum
from lepton_ir.diagnostics import UnsupportedError, shorten
from lepton_ir.foreign import Foreign
from lepton_ir.formats.tflite.node import Node
from lepton_ir.tensors import DenseTensor, RawTensor, SplatTensor
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.tflite.emit import Emitter
    from lepton_ir.ir import Function, Value
    from lepton_ir.tensors import Tensor


def states_of(function: Function) -> list[dict[str, Any]]:
    """Return what the metadata says of a function's states."""
    return list(function.meta.get("states", ()))


class Variables:
    """The variables of one function while it is written.

    Args:
        emitter: of the whole model.
        function: whose metadata names them.
        kept: those that a kernel keeps itself.
    """

    def __init__(
        self, emitter: Emitter, function: Function, kept: Sequence[dict[str, Any]] = ()
    ) -> None:
        self._emitter = emitter
        states = states_of(function)
        self.states = [s for s in states if s not in kept]
        values = dict(zip(function.output_names, function.outputs, strict=True))
        inputs = {v.name: v for v in function.inputs}
        self._read = {s["input"]: inputs[s["input"]] for s in states if "input" in s}
        self._written = {s["output"]: values[s["output"]] for s in states}
        self._handles: dict[str, int] = {}

    @property
    def inputs(self) -> set[Value]:
        """The inputs that are none in the file."""
        return set(self._read.values())

    @property
    def outputs(self) -> set[str]:
        """The names of outputs that are none in the file."""
        return set(self._written)

    def begin(self, graph: Graph) -> None:
        """Read every variable.

        Raises:
            UnsupportedError: the first contents of one are not known.
        """
        if not self.states:
            return
        graph.reference = ""
        once = self._emitter.initial_subgraph(self)
        graph.add("CALL_ONCE", [], [], init_subgraph_index=once)
        for state in self.states:
            handle = self._handles[state["output"]] = handle_of(graph, state)
            value = self._read.get(state.get("input", ""))
            if value is not None:
                graph.add("READ_VARIABLE", [handle], [graph.value(value)])

    def finish(self, graph: Graph) -> None:
        """Assign every variable."""
        graph.reference = ""
        for state in self.states:
            value = self._written[state["output"]]
            graph.add("ASSIGN_VARIABLE", [self._handles[state["output"]], graph.value(value)], [])

    def initialize(self, graph: Graph) -> None:
        """Assign the first contents, in a subgraph of their own."""
        for state in self.states:
            value = self._read.get(state.get("input", "")) or self._written[state["output"]]
            assert value is not None
            made = graph.constant(_first(state, value), "first")
            graph.add("ASSIGN_VARIABLE", [handle_of(graph, state), made], [])


def handle_of(graph: Graph, state: dict[str, Any]) -> int:
    """Return a new tensor that stands for a variable."""
    node = Node("Tensor", shape=[], type=enum("TensorType", "RESOURCE"), name=state["name"])
    graph.tensors.append(node)
    graph.info.append(TensorInfo("resource", (), None))
    index = len(graph.tensors) - 1
    graph.add(
        "VAR_HANDLE",
        [],
        [index],
        container=state.get("container", ""),
        shared_name=state["name"],
    )
    return index


def _first(state: dict[str, Any], value: Value) -> Tensor:
    type_ = value.type
    shape = type_.static_shape if isinstance(type_, TensorType) else None
    if shape is None or value.dtype is None:
        raise UnsupportedError(
            "the shape of a state is not known",
            code="tflite-export",
            where=f'state "{shorten(state["name"])}"',
        )
    initial = state.get("initial", 0)
    if isinstance(initial, Foreign):
        return RawTensor(initial.data, value.dtype, shape)
    if not shape:
        return DenseTensor(np.asarray(initial).astype(value.dtype.numpy), value.dtype)
    return SplatTensor(initial, value.dtype, shape)
