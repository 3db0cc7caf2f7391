"""Structural rules of a TFLite model that well-formed bytes can still break.

The runtime trusts some of them and ends the process where they do not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from lepton_ir.diagnostics import InvalidModelError, shorten
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.schema import enums, options, tables

VERSION = 3
CODE = "tflite-model"

OPTIONAL = -1
"""The index of an operand that is left out."""

_BITS = {
    "FLOAT32": 32,
    "FLOAT16": 16,
    "INT32": 32,
    "UINT8": 8,
    "INT64": 64,
    "BOOL": 8,
    "INT16": 16,
    "COMPLEX64": 64,
    "INT8": 8,
    "FLOAT64": 64,
    "COMPLEX128": 128,
    "UINT64": 64,
    "UINT32": 32,
    "UINT16": 16,
    "INT4": 4,
    "BFLOAT16": 16,
    "INT2": 2,
    "UINT4": 4,
    "FLOAT8_E4M3FN": 8,
    "FLOAT8_E5M2": 8,
}
"""Bits of one element; the types that are missing have no fixed size."""

_CALLS = (
    "subgraph",
    "then_subgraph_index",
    "else_subgraph_index",
    "cond_subgraph_index",
    "body_subgraph_index",
    "init_subgraph_index",
    "comparator_subgraph_index",
    "update_computation_subgraph_index",
    "decomposition_subgraph_index",
)
_CALL_LISTS = ("called_computations", "branch_subgraph_indices")


_QUANTIZED = frozenset(
    {
        *("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE", "CONV_2D", "DEPTHWISE_CONV_2D"),
        *("TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX", "LOG_SOFTMAX"),
        *("LOGISTIC", "TANH", "L2_NORMALIZATION", "LEAKY_RELU", "PRELU", "HARD_SWISH"),
        *("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"),
        *("QUANTIZE", "DEQUANTIZE"),
    }
)
"""Operators that compute with the scales of tensors of 8 bits, and end the process without."""


def builtin_code(code: Node) -> int:
    """Return the builtin operator of an operator code; old files use a field of eight bits."""
    return max(int(code.builtin_code), int(code.deprecated_builtin_code))


def builtin_name(code: Node) -> str | None:
    """Return the name of the builtin operator (``CUSTOM`` for a custom one), if there is one."""
    return enums()["BuiltinOperator"].name_of(builtin_code(code))


def called_subgraphs(op: Node) -> list[int]:
    """Return the indices of the subgraphs that an operator runs."""
    found: list[int] = []
    for union in (op.builtin_options, op.builtin_options_2):
        if union is not None:
            fields = tables()[union.table].fields
            found += [int(getattr(union, name)) for name in _CALLS if name in fields]
            for name in _CALL_LISTS:
                values = getattr(union, name) if name in fields else None
                found += [] if values is None else [int(v) for v in values]
    return found


def validate(model: Node, where: str = "") -> None:
    """Check indices, option unions, sizes of weights, and the order of operators.

    Args:
        model: the ``Model`` node.
        where: the file, for the message.

    Raises:
        InvalidModelError: the first rule that does not hold, and where.
    """
    _Validator(model, where).run()


class _Validator:
    def __init__(self, model: Node, where: str) -> None:
        self._model = model
        self._file = where
        self._where = "Model"
        self._buffers: Sequence[Node] = model.buffers or ()
        self._codes: Sequence[Node] = model.operator_codes or ()
        self._graphs: Sequence[Node] = model.subgraphs or ()

    def run(self) -> None:
        if self._model.version != VERSION:
            self._fail(f"the version is {self._model.version}, not {VERSION}")
        if not self._graphs:
            self._fail("the model has no subgraph")
        for i, code in enumerate(self._codes):
            self._where = f"Model.operator_codes[{i}]"
            self._code(code)
        for i, graph in enumerate(self._graphs):
            self._graph(f"Model.subgraphs[{i}]", graph)
        self._recursion()
        self._around()

    def _fail(self, message: str) -> NoReturn:
        where = f"{self._file}: {self._where}" if self._file else self._where
        raise InvalidModelError(message, code=CODE, where=where)

    def _index(self, what: str, index: int, count: int) -> None:
        if not 0 <= index < count:
            self._fail(f"{what} is {index}, but there are {count}")

    def _indices(self, what: str, values: Any, count: int, *, optional: bool) -> list[int]:
        found = [] if values is None else [int(v) for v in values]
        for index in found:
            if not (optional and index == OPTIONAL):
                self._index(f"an index of {what}", index, count)
        return found

    def _code(self, code: Node) -> None:
        name = builtin_name(code)
        if name is None or name == "PLACEHOLDER_FOR_GREATER_OP_CODES":
            self._fail(f"there is no builtin operator {builtin_code(code)}")
        if name == "CUSTOM" and not code.custom_code:
            self._fail("a custom operator has no name")
        if code.version < 1:
            self._fail(f"the operator's version is {code.version}")

    def _graph(self, place: str, graph: Node) -> None:
        tensors: Sequence[Node] = graph.tensors or ()
        for i, tensor in enumerate(tensors):
            self._where = f"{place}.tensors[{i}]"
            self._tensor(tensor)
        self._where = place
        inputs = set(self._indices("the inputs", graph.inputs, len(tensors), optional=False))
        self._indices("the outputs", graph.outputs, len(tensors), optional=False)
        producer: dict[int, int] = {}
        operators: Sequence[Node] = graph.operators or ()
        for i, op in enumerate(operators):
            self._where = f"{place}.operators[{i}]"
            self._operator(op, len(tensors))
            for index in self._indices("outputs", op.outputs, len(tensors), optional=True):
                if index in producer:
                    self._fail(f"tensor {index} is also a result of operator {producer[index]}")
                if index in inputs:
                    self._fail(f"its result, tensor {index}, is an input of the subgraph")
                if index != OPTIONAL:
                    producer[index] = i
            name = builtin_name(self._codes[op.opcode_index])
            if name in _QUANTIZED:
                self._scales(op, name, tensors)
        self._order(place, operators, producer)

    def _order(self, place: str, operators: Iterable[Node], producer: dict[int, int]) -> None:
        for i, op in enumerate(operators):
            self._where = f"{place}.operators[{i}]"
            for index in () if op.inputs is None else op.inputs:
                made = producer.get(int(index), -1)
                if made >= i:
                    self._fail(f"reads tensor {index}, which operator {made} makes, not before it")

    def _tensor(self, tensor: Node) -> None:
        kind = enums()["TensorType"].name_of(tensor.type)
        if kind is None:
            self._fail(f"there is no tensor type {tensor.type}")
        shape = [] if tensor.shape is None else [int(d) for d in tensor.shape]
        if any(d < -1 for d in shape):
            self._fail(f"the shape is {shape}")
        if tensor.shape_signature is not None and len(tensor.shape_signature) not in (
            0,
            len(shape),
        ):
            self._fail(f"the shape has {len(shape)} dims, its signature another number")
        self._index("the buffer", tensor.buffer, max(1, len(self._buffers)))
        if tensor.quantization is not None:
            self._quantization(tensor.quantization, shape)
        data = self._buffers[tensor.buffer].data if self._buffers else None
        if tensor.sparsity is not None:
            self._sparsity(tensor.sparsity, len(shape))
        elif data and kind in _BITS:
            wanted = -(-math.prod(shape) * _BITS[kind] // 8)
            if len(data) != wanted or -1 in shape:
                name = shorten(tensor.name or "")
                self._fail(f"'{name}' is {kind} {shape} but its buffer has {len(data)} bytes")

    def _quantization(self, params: Node, shape: list[int]) -> None:
        scales = 0 if params.scale is None else len(params.scale)
        zeros = 0 if params.zero_point is None else len(params.zero_point)
        if zeros not in (0, 1, scales):
            self._fail(f"the quantization has {scales} scales and {zeros} zero points")
        if scales > 1:
            dim = params.quantized_dimension
            self._index("the quantized dimension", dim, len(shape))
            if shape[dim] not in (scales, -1):
                self._fail(f"the quantization has {scales} scales, dimension {dim} {shape[dim]}")

    def _sparsity(self, sparsity: Node, rank: int) -> None:
        order = self._indices(
            "the traversal order", sparsity.traversal_order, 2 * rank, optional=False
        )
        if len(order) != len(sparsity.dim_metadata or ()) or sorted(order) != list(
            range(len(order))
        ):
            self._fail("the traversal order is no order of the dims that have metadata")
        self._indices("the block map", sparsity.block_map, rank, optional=False)

    def _scales(self, op: Node, name: str, tensors: Sequence[Node]) -> None:
        """Refuse tensors of 8 bits without the scale that an operator computes with."""
        number = enums()["TensorType"].members
        narrow = (number["INT8"], number["UINT8"])
        given = [() if v is None else v for v in (op.inputs, op.outputs)]
        for index in (*given[0], *given[1]):
            if index < 0 or tensors[index].type not in narrow:
                continue
            known = tensors[index].quantization
            if known is None or known.scale is None or not len(known.scale):
                self._fail(f"{name} takes tensor {index} of 8 bits, which has no scale")

    def _operator(self, op: Node, tensors: int) -> None:
        self._index("the operator code", op.opcode_index, len(self._codes))
        inputs = self._indices("inputs", op.inputs, tensors, optional=True)
        self._indices("intermediates", op.intermediates, tensors, optional=True)
        mutated = op.mutating_variable_inputs
        if mutated is not None and len(mutated) not in (0, len(inputs)):
            self._fail(f"{len(mutated)} flags of mutated inputs for {len(inputs)} inputs")
        name = builtin_name(self._codes[op.opcode_index]) or ""
        wanted = options().get(name)
        for union in (op.builtin_options, op.builtin_options_2):
            if union is not None and wanted is not None and union.table != wanted:
                self._fail(f"{name} has {union.table} instead of {wanted}")
        for index in called_subgraphs(op):
            self._index("a subgraph that it runs", index, len(self._graphs))

    def _recursion(self) -> None:
        """Refuse subgraphs that run themselves, which no runtime can prepare."""
        calls = [
            {c for op in g.operators or () for c in called_subgraphs(op)} for g in self._graphs
        ]
        callers = [0] * len(calls)
        for called in calls:
            for index in called:
                callers[index] += 1
        ready = [i for i, count in enumerate(callers) if not count]
        done = 0
        while ready:
            done += 1
            for index in calls[ready.pop()]:
                callers[index] -= 1
                if not callers[index]:
                    ready.append(index)
        if done < len(calls):
            looped = next(i for i, count in enumerate(callers) if count)
            self._where = f"Model.subgraphs[{looped}]"
            self._fail("the subgraph runs itself, or one that does runs it")

    def _around(self) -> None:
        for i, signature in enumerate(self._model.signature_defs or ()):
            self._where = f"Model.signature_defs[{i}]"
            self._index("the subgraph", signature.subgraph_index, len(self._graphs))
            tensors = len(self._graphs[signature.subgraph_index].tensors or ())
            for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
                self._index(f"tensor '{shorten(entry.name or '')}'", entry.tensor_index, tensors)
        for i, entry in enumerate(self._model.metadata or ()):
            self._where = f"Model.metadata[{i}]"
            self._index("the buffer", entry.buffer, len(self._buffers))
        self._where = "Model"
        self._indices(
            "the metadata buffers",
            self._model.metadata_buffer,
            len(self._buffers),
            optional=False,
        )
