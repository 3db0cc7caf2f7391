"""Reading one subgraph: tensors become values, operators what their rows build."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import (
    InvalidModelError,
    LeptonError,
    Location,
    UnsupportedError,
    shorten,
)
from lepton_ir.foreign import Foreign
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.schema import tables
from lepton_ir.formats.tflite.validate import builtin_name
from lepton_ir.frontends.tflite.call import Call, KeepOpaque, dequantized, quantized
from lepton_ir.frontends.tflite.table import Row, rows
from lepton_ir.frontends.tflite.tensors import TensorInfo, unique_names
from lepton_ir.ir import Op, Value
from lepton_ir.types import TensorType, TypeMismatchError, meet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lepton_ir.frontends.tflite.state import StateKey, States
    from lepton_ir.ir import Block, Function
    from lepton_ir.tensors import Tensor

CODE = "tflite-operator"
RULE = "tflite"

LEAST_OPERATORS, MOST_READS = 10_000, 16
"""A file's operators are read at most so often on average: subgraphs once for each operator that
runs them, conditions of loops twice, bodies again where shapes change. Small files are free."""

MAX_NESTING = 16
"""Subgraphs inside subgraphs."""


class Budget:
    """What one file may still cost: subgraphs that run each other can grow exponentially."""

    def __init__(self, model: Node) -> None:
        count = sum(len(graph.operators or ()) + 1 for graph in model.subgraphs)
        self._limit = self._left = max(LEAST_OPERATORS, MOST_READS * count)

    def spend(self, count: int) -> None:
        """Count operators that are about to be read.

        Raises:
            UnsupportedError: too many.
        """
        self._left -= count
        if self._left < 0:
            raise UnsupportedError(
                f"its subgraphs run each other: more than {self._limit} operators in all",
                code="tflite-size",
            )


@dataclass
class Shared:
    """What the subgraphs of one file share.

    Attributes:
        model: the file.
        budget: what reading it may still cost.
        tensors: information on the tensors of each subgraph that was looked at.
        hybrid: operators that quantize their operand while they run, which the IR does not say.
        payloads: contents of buffers by type: tensors of several subgraphs share them.
    """

    model: Node
    budget: Budget
    tensors: dict[int, list[TensorInfo]] = field(default_factory=dict)
    hybrid: int = 0
    payloads: dict[Any, Tensor] = field(default_factory=dict)

    def infos(self, subgraph: int) -> list[TensorInfo]:
        """Return information on every tensor of a subgraph."""
        found = self.tensors.get(subgraph)
        if found is None:
            nodes = self.model.subgraphs[subgraph].tensors or ()
            names, buffers = unique_names(nodes), self.model.buffers or ()
            found = [
                TensorInfo(
                    i, name, node, buffers[node.buffer].data if buffers else None, self.payloads
                )
                for i, (name, node) in enumerate(zip(names, nodes, strict=True))
            ]
            self.tensors[subgraph] = found
        return found


class GraphReader:
    """Reads one subgraph into a block.

    Attributes:
        shared: what all readers of the file share.
        subgraph: its number.
        block: where operations go.
        function: the function of that block.
        states: contents that the runtime keeps, which only whole functions have.
        depth: how many subgraphs run this one.
        handles: which variable each resource tensor stands for.
    """

    def __init__(
        self,
        shared: Shared,
        subgraph: int,
        block: Block,
        function: Function,
        states: States | None = None,
        depth: int = 0,
    ) -> None:
        self.shared = shared
        self.subgraph = subgraph
        self.node: Node = shared.model.subgraphs[subgraph]
        self.block = block
        self.function = function
        self.states = states
        self.depth = depth
        self.handles: dict[int, StateKey] = {}
        self._tensors = shared.infos(subgraph)
        self._raw: dict[int, Value] = {}
        self._real: dict[int, Value] = {}

    # -- values ------------------------------------------------------------------------------------

    def infos(self, indices: Any) -> list[TensorInfo | None]:
        """Return information on tensors by number, ``None`` for those left out."""
        given = () if indices is None else indices
        return [None if i < 0 else self._tensors[i] for i in given]

    def info(self, index: int) -> TensorInfo:
        """Return information on one tensor."""
        return self._tensors[index]

    @property
    def inputs(self) -> list[TensorInfo]:
        """Information on the inputs."""
        return [] if self.node.inputs is None else [self._tensors[i] for i in self.node.inputs]

    @property
    def outputs(self) -> list[TensorInfo]:
        """Information on the outputs."""
        return [] if self.node.outputs is None else [self._tensors[i] for i in self.node.outputs]

    def bind(self, index: int, value: Value) -> None:
        """Say what a tensor is from here on."""
        self._raw[index] = value
        self._real.pop(index, None)

    def raw(self, index: int, b: Builder) -> Value:
        """Return a tensor as the file stores it."""
        value = self._raw.get(index)
        if value is None:
            info = self._tensors[index]
            if info.is_constant:
                value = b.const(info.payload(), name=info.name)
            elif info.is_variable and self.states is not None:
                return self.states.variable(info)
            elif info.dtype is not None and 0 in info.shape:
                value = b.const(np.zeros(info.type.static_shape or (0,), info.dtype.numpy))
            else:
                raise InvalidModelError(
                    f'tensor {index} "{shorten(info.name)}" is read, but nothing makes it',
                    code="tflite-undefined",
                )
            self._raw[index] = value
        return value

    def handle(self, info: TensorInfo) -> StateKey:
        """Return the variable that a resource stands for.

        Raises:
            UnsupportedError: it is not known here, as inside control flow.
        """
        if info.index not in self.handles or self.states is None:
            raise UnsupportedError(
                f'the resource "{shorten(info.name)}" is no variable of this subgraph',
                code="tflite-variable",
            )
        return self.handles[info.index]

    def real(self, index: int, b: Builder) -> Value:
        """Return the numbers that a tensor stands for."""
        info = self._tensors[index]
        if info.quantization is None:
            return self.raw(index, b)
        value = self._real.get(index)
        if value is None:
            value = dequantized(b, self.raw(index, b), info.quantization)
            self._real[index] = value
        return value

    # -- operators ---------------------------------------------------------------------------------

    def operators(self) -> None:
        """Build every operator.

        Raises:
            InvalidModelError: an operator contradicts itself; the message names it.
        """
        nodes: Sequence[Node] = self.node.operators or ()
        self.shared.budget.spend(len(nodes) + 1)
        for index, node in enumerate(nodes):
            code = self.shared.model.operator_codes[node.opcode_index]
            name = builtin_name(code) or ""
            if name == "CUSTOM":
                name = str(code.custom_code)
            try:
                self._operator(node, code, builtin_name(code) or "")
            except LeptonError as error:
                raise self._located(error, index, name, node) from error
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                # Rows take what operators state as it is; what does not fit shows in them.
                broken = InvalidModelError(f"its parts do not fit: {error}", code=CODE)
                raise self._located(broken, index, name, node) from error

    def _located(self, error: LeptonError, index: int, name: str, node: Node) -> LeptonError:
        if error.where.startswith("operator "):
            return error
        kind = UnsupportedError if isinstance(error, UnsupportedError) else InvalidModelError
        first = next((i.name for i in self.infos(node.outputs) if i is not None), "")
        return kind(
            error.message,
            code=error.code or CODE,
            where=f'operator {index} ({shorten(name)}) -> "{shorten(first)}"',
            hint=error.hint,
            notes=error.notes,
        )

    def _operator(self, node: Node, code: Node, name: str) -> None:
        outputs = self.infos(node.outputs)
        label = next((i.name for i in outputs if i is not None), name)
        b = Builder(self.block, loc=Location("", (Location(label),), RULE))
        last = self.block.last
        row = rows().get(f"custom:{code.custom_code}" if name == "CUSTOM" else name)
        call = Call(self, name, node, b)
        results: Sequence[Value | None] | None = None
        if row is not None:
            try:
                found = row.read(call)
                results = [found] if isinstance(found, Value) else found
                results = self._stored(call, row, results)
            except KeepOpaque:
                self._undo(last)
        if results is None:
            results = self._opaque(call, code).results
        self.shared.hybrid += _is_hybrid(call)
        for info, value in zip(outputs, results, strict=False):
            if info is not None and value is not None:
                self._name(info, value)
                self.bind(info.index, value)

    def _stored(self, call: Call, row: Row, results: Iterable[Value | None]) -> list[Value | None]:
        """Return results as the file stores them."""
        stored: list[Value | None] = []
        for info, value in zip(call.outputs, results, strict=False):
            if info is None or value is None:
                stored.append(None)
                continue
            if row.stored:
                stored.append(value)
                continue
            if info.quantization is not None:
                value = quantized(call.b, value, info.quantization)
            stored.append(value)
        return stored

    def _undo(self, last: Op | None) -> None:
        """Erase what was built behind ``last``."""
        gone = set()
        while self.block.last is not last:
            op = self.block.last
            assert op is not None
            gone.update(op.results)
            op.erase()
        for known in (self._raw, self._real):
            for index in [i for i, v in known.items() if v in gone]:
                del known[index]

    def _name(self, info: TensorInfo, value: Value) -> None:
        """Give a result its tensor's name and the type that the file states, as a hint."""
        op = value.op
        if op is None or op.block is not self.block or value.name or op.name == "const":
            return
        value.name = info.name
        if not op.node_name:
            op.node_name = info.name
        if info.dtype is None or (not info.shape and not info.node.has_rank):
            return
        declared = info.type
        if isinstance(value.type, TensorType) and value.type is not declared:
            try:
                meet(value.type, declared)
            except TypeMismatchError:
                return
            value.declared = declared

    def _opaque(self, call: Call, code: Node) -> Op:
        """Build an operation that says what the file says, to be written back unchanged."""
        name = call.name
        label = f"tflite.custom.{code.custom_code}" if name == "CUSTOM" else f"tflite.{name}"
        operands = [None if i is None else self.raw(i.index, call.b) for i in call.inputs]
        op = Op(label, None, operands, _opaque_attrs(call), len(call.outputs), loc=call.b.loc)
        op.version = int(code.version)
        self.block.append(op)
        for info, value in zip(call.outputs, op.results, strict=True):
            if info is not None and info.dtype is not None:
                # The file is the contract of what its runtime's own kernels give.
                stated = bool(info.shape or info.node.has_rank)
                value.type = TensorType(info.dtype, info.shape if stated else None)
        return op


def _is_hybrid(call: Call) -> bool:
    """Whether floats meet quantized weights: the runtime then rounds the floats, too."""
    floats = [i for i in call.inputs if i is not None and i.dtype is dtypes.F32]
    weights = [i for i in call.inputs if i is not None and i.is_constant and i.quantization]
    return bool(floats and weights) and call.name != "DEQUANTIZE"


def _opaque_attrs(call: Call) -> dict[str, Any]:
    """Return options as attributes, custom ones as bytes, and what quantized results stand for."""
    attrs: dict[str, Any] = {}
    given = call.op.builtin_options or call.op.builtin_options_2
    if given is not None:
        for name in tables()[given.table].fields:
            value = getattr(given, name)
            if value is not None:
                attrs[name] = _plain(name, value)
    if call.op.custom_options is not None:
        attrs["custom_options"] = Foreign("tflite.custom_options", bytes(call.op.custom_options))
    for index, info in enumerate(call.outputs):
        if info is not None and info.quantization is not None:
            params = info.quantization
            attrs[f"scale_{index}"] = tuple(float(s) for s in params.scale)
            attrs[f"zero_point_{index}"] = tuple(int(z) for z in params.zero_point)
            if params.per_axis:
                attrs[f"axis_{index}"] = params.axis
    return attrs


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, memoryview):
        return Foreign(f"tflite.{name}", bytes(value))
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value
