"""TFLite in: `load` makes a module of a TFLite file."""

from __future__ import annotations

import mmap
import os
import re
from typing import TYPE_CHECKING, Any

from lepton_ir import dims, dtypes
from lepton_ir.builder import Builder, create
from lepton_ir.diagnostics import (
    InvalidModelError,
    LeptonError,
    Remark,
    UnsupportedError,
    shorten,
)
from lepton_ir.foreign import Foreign
from lepton_ir.formats.tflite.archive import find_archive
from lepton_ir.formats.tflite.reader import read_bytes, read_file
from lepton_ir.formats.tflite.validate import builtin_name, validate
from lepton_ir.frontends.tflite.graph import Budget, GraphReader, Shared
from lepton_ir.frontends.tflite.state import StateKey, States
from lepton_ir.infer import const_tensor, mark_types_current
from lepton_ir.ir import Module
from lepton_ir.pauses import collector_paused
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.formats.tflite.node import Node
    from lepton_ir.frontends.tflite.tensors import TensorInfo
    from lepton_ir.ir import Function
    from lepton_ir.tensors import Tensor

OPSET, WIDE_OPSET = 20, 21
"""The ONNX opset of what is read; the second where there are integers of 4 or 16 bits, which come
with it. Of models with activations of i8, onnxruntime 1.32 makes files in it that it refuses: it
adds QuantizeLinear with output_dtype around a Transpose, and then changes i8 to u8."""

_NARROW = frozenset((dtypes.I4, dtypes.U4, dtypes.I2))

META = "tflite"
"""Metadata of a module: ``description``, ``metadata`` (names, bytes), ``archive``, ``hybrid``,
``sparse``."""
SIGNATURES = "signatures"
"""Metadata of a function: a list of ``{key, inputs, outputs}``, the names by position."""

TENSORS = "tensors"
"""Metadata of a function: ``{inputs, outputs}``, names of tensors that are not those of values."""


def load(
    source: str | os.PathLike[str] | bytes, *, signature: str = "", keep_overridable: bool = False
) -> Module:
    """Read a TFLite model; its weights stay in the file, which is mapped.

    The first subgraph becomes ``main``, other subgraphs with a signature functions beside it.

    Args:
        source: a path, or the bytes of the file.
        signature: key of the signature whose subgraph becomes ``main`` instead of the first one.
        keep_overridable: give inputs that stand for state its first contents as a default.

    Raises:
        InvalidModelError: the file is malformed or contradicts itself.
        UnsupportedError: the file is valid, but cannot be read.
    """
    if isinstance(source, bytes):
        where, model = "model", read_bytes(source, "model")
    else:
        path = os.fspath(source)
        where, model = shorten(path, 200), read_file(path)
    validate(model, where)
    try:
        with collector_paused():
            module = _ModelReader(model, signature, keep_overridable).module()
    except LeptonError as error:
        error.where = f"{where}: {error.where}" if error.where else where
        raise
    archive = _archive(source)
    if archive is not None:
        module.meta.setdefault(META, {})["archive"] = Foreign("tflite.archive", archive)
    if not isinstance(source, bytes):
        module.meta["source_path"] = os.path.abspath(os.fspath(source))
    return module


def _archive(source: str | os.PathLike[str] | bytes) -> bytes | None:
    if isinstance(source, bytes):
        return find_archive(source)
    with (
        open(source, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        view = memoryview(data)
        try:
            return find_archive(view)
        finally:
            view.release()


class _ModelReader:
    def __init__(self, model: Node, signature: str, keep_overridable: bool) -> None:
        self._model = model
        self._shared = Shared(model, Budget(model))
        self._signatures = list(model.signature_defs or ())
        self._main = self._chosen(signature)
        self._keep_overridable = keep_overridable
        self._initial: dict[StateKey, Tensor] = {}

    def _chosen(self, signature: str) -> int:
        if not signature:
            return 0
        for entry in self._signatures:
            if entry.signature_key == signature:
                return int(entry.subgraph_index)
        known = ", ".join(shorten(s.signature_key or "", 40) for s in self._signatures) or "none"
        raise LeptonError(
            f"the model has no signature {shorten(signature)!r}",
            code="signature",
            hint=f"it has: {known}",
        )

    def module(self) -> Module:
        """Build the module."""
        graphs = self._model.subgraphs
        others = {int(s.subgraph_index) for s in self._signatures} - {self._main}
        wanted = [self._main, *sorted(others)]
        for index in wanted:
            self._initialize(index)
        name = graphs[self._main].name
        module = Module(_identifier(name) if name else "main")
        module.meta = self._meta()
        module.opsets = {"": self._opset(wanted)}
        for index in wanted:
            function = module.add_function(self._function_name(module, index))
            self._function(function, index)
            mark_types_current(function)
        self._remark(module, others)
        if any(i.node.sparsity is not None for g in wanted for i in self._shared.infos(g)):
            module.meta[META]["sparse"] = True
        if self._shared.hybrid:
            module.meta[META]["hybrid"] = self._shared.hybrid
        return module

    def _remark(self, module: Module, others: set[int]) -> None:
        keys = [shorten(s.signature_key or "", 40) for s in self._signatures]
        left = [
            k for k, s in zip(keys, self._signatures, strict=True) if s.subgraph_index in others
        ]
        if left:
            text = f"read as a function beside main, which ONNX files leave out: {', '.join(left)}"
            module.remarks.append(Remark("note", "tflite", "signatures", text))

    def _opset(self, subgraphs: Sequence[int]) -> int:
        found = [i for g in subgraphs for i in self._shared.infos(g) if i.quantization]
        if any(info.dtype in _NARROW for info in found):
            return WIDE_OPSET
        moving = {info.dtype for info in found if not info.is_constant}
        return WIDE_OPSET if dtypes.I16 in moving and dtypes.I8 not in moving else OPSET

    def _meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = {}
        if self._model.description:
            meta["description"] = self._model.description
        buffers = self._model.buffers or ()
        entries = [
            (e.name or "", Foreign("tflite.metadata", bytes(buffers[e.buffer].data or b"")))
            for e in self._model.metadata or ()
        ]
        if entries:
            meta["metadata"] = [list(entry) for entry in entries]
        return {META: meta}

    def _function_name(self, module: Module, subgraph: int) -> str:
        if subgraph == self._main:
            return "main"
        keys = [s.signature_key for s in self._signatures if s.subgraph_index == subgraph]
        base = f"signature:{keys[0] or subgraph}"
        return base if base not in module.functions else f"{base}:{subgraph}"

    def _function(self, function: Function, subgraph: int) -> None:
        states = States(function, self._initial)
        reader = GraphReader(self._shared, subgraph, function.block, function, states)
        name = reader.node.name
        if name:
            function.meta["name"] = name
        outputs = reader.outputs
        if not outputs:
            raise InvalidModelError("the subgraph has no outputs", code="tflite-graph")
        if len({info.index for info in reader.inputs}) < len(reader.inputs):
            raise InvalidModelError("a tensor is an input twice", code="tflite-graph")
        inputs, names = self._names(subgraph, reader.inputs, outputs)
        for info, label in zip(reader.inputs, inputs, strict=True):
            if info.dtype is None:
                raise UnsupportedError(
                    "an input is a resource or a variant",
                    code="tflite-input",
                    where=shorten(info.name),
                )
            value = function.block.add_arg(_input_type(info, label, function), label)
            reader.bind(info.index, value)
        reader.operators()
        b = Builder(function.block)
        values = [reader.raw(info.index, b) for info in outputs]
        for label, value in states.finish({*inputs, *names}):
            names.append(label)
            values.append(value)
        if self._keep_overridable:
            function.overridable.update(states.defaults())
        function.output_names = names
        function.block.append(create("return", values))
        self._describe(function, subgraph, reader.inputs, outputs)

    def _names(
        self, subgraph: int, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
    ) -> tuple[list[str], list[str]]:
        """Return names of inputs and outputs: those of the signature, else of the tensors."""
        for entry in self._signatures:
            if entry.subgraph_index == subgraph:
                named = [
                    [_entry_name(maps or (), info.index) for info in infos]
                    for infos, maps in ((inputs, entry.inputs), (outputs, entry.outputs))
                ]
                if all(all(n) and len(set(n)) == len(n) for n in named):
                    return named[0], named[1]
        plain = [info.name for info in inputs]
        names: list[str] = []
        for info in outputs:
            label, k = info.name, 0
            while label in names:
                k += 1
                label = f"{info.name}_{k}"
            names.append(label)
        return plain, names

    def _describe(
        self,
        function: Function,
        subgraph: int,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
    ) -> None:
        """Note signatures of a function, and the names of tensors where inputs have others."""
        tensors = {
            "inputs": [info.name for info in inputs],
            "outputs": [info.name for info in outputs],
        }
        given = [value.name for value in function.inputs[: len(inputs)]]
        if (given, function.output_names[: len(outputs)]) != tuple(tensors.values()):
            function.meta[TENSORS] = tensors
        found = []
        for entry in self._signatures:
            if entry.subgraph_index == subgraph:
                sides = ((inputs, entry.inputs), (outputs, entry.outputs))
                named = [
                    [_entry_name(maps or (), info.index) for info in infos] for infos, maps in sides
                ]
                found.append(
                    {"key": entry.signature_key or "", "inputs": named[0], "outputs": named[1]}
                )
        if found:
            function.meta[SIGNATURES] = found

    # -- state -------------------------------------------------------------------------------------

    def _initialize(self, subgraph: int) -> None:
        """Find the first contents of variables: what subgraphs that run once assign."""
        for op in self._model.subgraphs[subgraph].operators or ():
            if builtin_name(self._model.operator_codes[op.opcode_index]) == "CALL_ONCE":
                options = op.builtin_options
                once = 0 if options is None else int(options.init_subgraph_index)
                self._run_once(once)

    def _run_once(self, subgraph: int) -> None:
        scratch = Module("once").add_function("main")
        states = States(scratch, {})
        reader = GraphReader(self._shared, subgraph, scratch.block, scratch, states)
        if reader.inputs:
            raise UnsupportedError("what runs once has inputs", code="tflite-once")
        reader.operators()
        for key, value in states.assigned():
            tensor = const_tensor(value)
            if tensor is None:
                tensor = _evaluated(value)
            if tensor is None:
                raise UnsupportedError(
                    "the first contents of a variable are not constant",
                    code="tflite-once",
                    where=shorten(key[2]),
                )
            self._initial[key] = tensor


def _evaluated(value: Any) -> Tensor | None:
    from lepton_ir.interp import evaluate
    from lepton_ir.tensors import DenseTensor

    try:
        return DenseTensor(evaluate(value, {}))
    except LeptonError:
        return None


def _entry_name(maps: Sequence[Node], tensor: int) -> str:
    return next((m.name or "" for m in maps if m.tensor_index == tensor), "")


def _input_type(info: TensorInfo, label: str, function: Function) -> TensorType:
    """Return an input's type, with a symbol for each dim that the file leaves open."""
    shape: list[Any] = []
    for axis, size in enumerate(info.shape):
        if size is not None:
            shape.append(size)
            continue
        base = name = f"{_identifier(label)}_{axis}"
        k = 0
        while name in function.used_symbols:
            k += 1
            name = f"{base}_{k}"
        function.used_symbols.add(name)
        shape.append(dims.sym(name))
    return TensorType(info.dtype, shape)


def _identifier(text: str) -> str:
    """Return a name that text can show without quotes."""
    found = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")[:40]
    return found if found and not found[0].isdigit() else f"x{found}"
