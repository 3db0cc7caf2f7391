"""A module as the tables of a TFLite file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lepton_ir.backends.tflite import kept
from lepton_ir.backends.tflite.buffers import Buffers
from lepton_ir.backends.tflite.fusions import flattened, fused_activations, fused_squeezes
from lepton_ir.backends.tflite.graph import Graph, enum, widens
from lepton_ir.backends.tflite.notes import notes_on
from lepton_ir.backends.tflite.opaque import CUSTOM_KEY, is_foreign, write_opaque
from lepton_ir.backends.tflite.quantized import Integers, keeps_u8
from lepton_ir.backends.tflite.recurrent import layers
from lepton_ir.backends.tflite.sharing import endangered
from lepton_ir.backends.tflite.sparse import had_sparse
from lepton_ir.backends.tflite.table import STRUCTURE, reason_against, rows
from lepton_ir.backends.tflite.variables import Variables
from lepton_ir.backends.tflite.versions import newest, runtime_of
from lepton_ir.backends.tflite.weights import TYPES
from lepton_ir.diagnostics import UnsupportedError, shorten
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.validate import VERSION
from lepton_ir.infer import describe
from lepton_ir.provenance import RULES_KEY, SOURCES_KEY, TABLE_KEY, Provenance, names_in
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.ir import Block, Function, Module, Op, Value

OPERATORS_KEY = "lepton.operators"
"""Metadata: for each subgraph a line of the numbers that its operators have in the provenance."""

RUNTIME_KEY = "min_runtime_version"

_RUNTIME_BYTES = 16


class Emitter:
    """Builds the tables of one module.

    Args:
        module: what to write; every operation in it is legal.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.buffers = Buffers()
        self.buffers.shares = len(module.functions) > 1
        self._graphs: list[Node | None] = []
        self._provenance = Provenance()
        self._references: list[list[str]] = []
        self._skipped: set[Op | None] = set()
        self._runtimes: list[str] = []
        self._integers: dict[Block, Integers] = {}
        self._keep_u8 = keeps_u8(module)
        self.sparse = had_sparse(module)

    def model(self) -> Node:
        """Return the ``Model`` table.

        Raises:
            UnsupportedError: an operation cannot be written; names it and says why.
        """
        signatures: list[Node] = []
        for function in self.module.functions.values():
            if function is self.module.main or kept.signatures_of(function):
                place, inputs, outputs = self._function(function)
                signatures += kept.signatures(function, place, inputs, outputs)
        metadata = self._metadata()
        codes = [_code(builtin, version) for builtin, version in self.buffers.codes]
        return Node(
            "Model",
            version=VERSION,
            operator_codes=codes,
            subgraphs=self._graphs,
            description=kept.description(self.module),
            buffers=self.buffers.nodes,
            metadata=metadata,
            signature_defs=signatures,
        )

    def notes(self) -> list[tuple[str, str]]:
        """Return what the user should know of a model that was built, and of which operation."""
        return notes_on(self._integers.values())

    def initial_subgraph(self, variables: Variables) -> int:
        """Return the subgraph that assigns the first contents of a function's variables."""
        graph = Graph(self, "initialize")
        graph.place = self.reserve()
        variables.initialize(graph)
        self.finish(graph, [], [])
        return graph.place

    # -- functions ---------------------------------------------------------------------------------

    def _function(self, function: Function) -> tuple[int, list[int], list[int]]:
        """Write a function; return its subgraph, and the tensors of inputs and outputs."""
        kernels = layers(function)
        variables = Variables(self, function, [s for k in kernels for s in k.states.values()])
        graph = Graph(self, str(function.meta.get("name") or self.module.name or "main"))
        graph.place = self.reserve()
        graph.fused = fused_activations(function) | fused_squeezes(function)
        graph.views = flattened(function)
        self._skipped = {value.op for _, value in graph.fused.values()}
        self._skipped |= {value.op for value in graph.views}
        self._skipped |= {op for kernel in kernels for op in kernel.silent}
        given, wanted = kept.tensor_names(function)
        results = [
            (v, n, t)
            for v, n, t in zip(function.outputs, function.output_names, wanted, strict=True)
            if v is not None and n not in variables.outputs
        ]
        inputs = [v for v in function.inputs if v not in variables.inputs]
        known = set(function.inputs)
        graph.want(dict(zip(inputs, given, strict=False)))
        graph.want({v: t for v, _, t in results if _is_made(v, known)})
        self._plan(graph, function.block)
        for value in function.inputs:
            self._check_type(value)
        taken = [graph.value(v) for v in inputs]
        variables.begin(graph)
        self.operators(function.block, graph)
        outputs: list[int] = []
        for value, name, tensor in results:
            index = self._output(graph, value, name)
            if index in outputs or not _is_made(value, known):
                graph.reference = ""
                index = graph.copy(value, index, tensor)
            outputs.append(index)
        variables.finish(graph)
        self.finish(graph, taken, outputs)
        return graph.place, taken, outputs

    def _plan(self, graph: Graph, block: Block) -> None:
        """Find what computes on integers, before the first tensor is made."""
        found = Integers(block, graph.fused, graph.views, keep_u8=self._keep_u8)
        found.prepare(graph)
        self._integers[block] = found
        for op in block.ops:
            for region in op.regions:
                self._plan(graph, region.block)

    def _output(self, graph: Graph, value: Value, name: str) -> int:
        """Return the tensor of an output.

        Raises:
            UnsupportedError: it is a constant without elements.
        """
        if 0 in (value.shape or ()) and not _is_made(value, set()):
            raise UnsupportedError(
                "LiteRT does not copy tensors without elements",
                code="tflite-export",
                where=f'output "{shorten(name)}"',
            )
        return graph.value(value)

    def operators(self, block: Block, graph: Graph) -> None:
        """Write the operations of a block.

        Raises:
            UnsupportedError: one of them cannot be written; names it and says why.
        """
        integers = self._integers[block]
        for op in block.ops:
            if op.name == "identity":
                assert op.operands[0] is not None
                graph.index[op.results[0]] = graph.value(op.operands[0])
            if op.name in STRUCTURE or op in self._skipped or widens(op):
                continue
            reason = reason_against(op)
            if reason:
                raise UnsupportedError(
                    f"tflite cannot write it: {reason}", code="tflite-export", where=describe(op)
                )
            graph.reference = self._reference(op)
            if is_foreign(op):
                write_opaque(graph, op)
                continue
            write = rows()[op.name].write
            try:
                if not integers.write(graph, op, write):
                    for value in endangered(op):
                        graph.separate(value)
                    write(graph, op)
            except UnsupportedError as error:
                error.where = error.where or describe(op)
                error.code = error.code or "tflite-export"
                raise

    def _check_type(self, value: Value) -> None:
        type_ = value.type
        if isinstance(type_, TensorType) and type_.shape is not None and type_.dtype in TYPES:
            return
        raise UnsupportedError(
            f"an input of type {type_} cannot be in a TFLite file",
            code="tflite-export",
            where=f'input "{value.name}"',
        )

    # -- what goes beside --------------------------------------------------------------------------

    def reserve(self) -> int:
        """Return the index that the next subgraph will have."""
        self._graphs.append(None)
        self._references.append([])
        return len(self._graphs) - 1

    def finish(self, graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Put a subgraph into its place."""
        self._graphs[graph.place] = graph.node(inputs, outputs)
        self._references[graph.place] = graph.references
        self._runtimes += [runtime_of(*code) for code in graph.runtimes]

    def _reference(self, op: Op) -> str:
        sources, rules = op.loc.flatten()
        if op.loc.is_source:
            metadata = dict((op.meta or {}).get("metadata", {}))
            earlier = names_in(metadata, SOURCES_KEY)
            if earlier:
                sources, rules = earlier, names_in(metadata, RULES_KEY)
            elif op.node_name:
                sources = (op.node_name,)
        return self._provenance.refer(sources, rules) if sources or rules else ""

    def _metadata(self) -> list[Node]:
        entries = {RUNTIME_KEY: newest(self._runtimes).encode().ljust(_RUNTIME_BYTES, b"\0")}
        if len(self._provenance):
            lines = [" ".join(r or "-" for r in graph) for graph in self._references]
            entries[TABLE_KEY] = self._provenance.text().encode()
            entries[OPERATORS_KEY] = "\n".join(lines).encode()
        given: dict[str, Any] = self.module.meta.get("metadata", {})
        rest = {k: v for k, v in given.items() if k not in entries}
        if rest:
            entries["lepton.metadata"] = json.dumps(rest, ensure_ascii=False).encode()
        for name, data in kept.metadata(self.module):
            entries.setdefault(name, data)
        return [
            Node("Metadata", name=name, buffer=self.buffers.add(data))
            for name, data in entries.items()
        ]


def _is_made(value: Value, inputs: set[Value]) -> bool:
    """Return whether an operator gives the value, so that its tensor can have any name."""
    while value.op is not None and value.op.name == "identity":
        operand = value.op.operands[0]
        assert operand is not None
        value = operand
    return value not in inputs and value.op is not None and value.op.name != "const"


def _code(builtin: str, version: int) -> Node:
    if builtin.startswith(CUSTOM_KEY):
        name = builtin.removeprefix(CUSTOM_KEY)
        return _code("CUSTOM", version).replace(custom_code=name)
    number = enum("BuiltinOperator", builtin)
    return Node(
        "OperatorCode",
        deprecated_builtin_code=min(number, 127),
        version=version,
        builtin_code=number,
    )
