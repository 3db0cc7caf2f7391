"""ONNX in: `load` makes a module of an ONNX file."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TypeProto

from lepton_ir import dims
from lepton_ir.diagnostics import InvalidModelError, LeptonError, Remark, UnsupportedError
from lepton_ir.foreign import Foreign
from lepton_ir.frontends.onnx.constants import TensorReader
from lepton_ir.frontends.onnx.files import parse_model, read_file, read_without_weights
from lepton_ir.frontends.onnx.graph import GraphReader
from lepton_ir.frontends.onnx.scopes import Scope, Undefined, value_meta
from lepton_ir.frontends.onnx.table_schema import MAX_OPSET, MIN_OPSET
from lepton_ir.frontends.onnx.table_values import (
    as_text,
    decode_attribute,
    name_of,
    shown,
    symbol_name,
    type_of,
)
from lepton_ir.infer import mark_types_current
from lepton_ir.ir import Function, Module
from lepton_ir.pauses import collector_paused
from lepton_ir.provenance import TABLE_KEY, ProvenanceTable
from lepton_ir.tasks import run_task
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import FunctionProto, GraphProto, ModelProto, ValueInfoProto

    from lepton_ir.dims import Dim
    from lepton_ir.frontends.onnx.ranges import Range

MAX_IR_VERSION = 14
"""The latest version of the file format that is known to hold nothing new for the reader."""

_UNNAMED = ("", "?")
"""Values of dim_param that name nothing: two of them are not the same dim."""


def load(
    source: str | os.PathLike[str] | bytes, *, keep_overridable: bool = False, lazy: bool = False
) -> Module:
    """Read an ONNX model.

    Args:
        source: a path, or the bytes of the file (which then cannot have external data).
        keep_overridable: keep initializers that are also inputs as inputs with a default;
            otherwise they become constants, with a remark.
        lazy: leave large weights in the file, which stays open and must not be overwritten.

    Raises:
        InvalidModelError: the file is malformed or contradicts itself.
        UnsupportedError: its opset is outside what can be read.
    """
    proto, stored = None, None
    if isinstance(source, bytes):
        proto, where, folder = parse_model(source, "model"), "model", None
    else:
        path = os.fspath(source)
        where, folder = shown(path, 200), os.path.dirname(os.path.abspath(path))
        if lazy and not keep_overridable:
            proto, stored = read_without_weights(path, where)
        # The bytes go at once: the message holds a copy of every weight.
        proto = proto or parse_model(read_file(path), where)
    remarks: list[Remark] = []
    try:
        _check_ir_version(proto)
        if stored is not None and not _is_current(proto):
            return load(source, keep_overridable=keep_overridable)
        proto = _at_least_min_opset(proto, remarks)
        reader = _ModelReader(proto, TensorReader(folder), keep_overridable, remarks, stored)
        reader.converted = bool(remarks)
        with collector_paused():
            module = reader.read_any_order()
    except Undefined as error:
        raise InvalidModelError(
            f'{error.node} reads "{shown(error.name)}", which nothing defines',
            code="onnx-undefined",
            where=where,
        ) from error
    except LeptonError as error:
        error.where = f"{where}: {error.where}" if error.where else where
        raise
    if folder is not None:
        module.meta["source_path"] = os.path.abspath(os.fspath(source))
    return module


def _is_current(proto: ModelProto) -> bool:
    """Return whether the model can be read without conversion."""
    version = _opsets(proto.opset_import).get("", MIN_OPSET)
    return version >= MIN_OPSET and bool(proto.opset_import)


def _opsets(imports: Iterable[Any]) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if entry.version < 1:
            raise InvalidModelError(
                f'opset version {entry.version} of domain "{shown(domain)}" does not exist',
                code="onnx-opset",
            )
        if opsets.get(domain, entry.version) != entry.version:
            raise InvalidModelError(
                f'domain "{shown(domain)}" is imported twice, in two versions', code="onnx-opset"
            )
        opsets[domain] = entry.version
    return opsets


_PLAIN_BATCH_NORM = 14
"""Since this opset a BatchNormalization says itself that it does not train. Opset 6 said so too,
those between leave it to the number of outputs, which runtimes read differently."""


def _check_ir_version(proto: ModelProto) -> None:
    version = proto.ir_version
    if version < 1:
        raise InvalidModelError(
            f"ir_version is {version}, expected 1 to {onnx.IR_VERSION}"
            if proto.HasField("ir_version")
            else "ir_version is missing",
            code="onnx-version",
        )
    if version > max(onnx.IR_VERSION, MAX_IR_VERSION):
        raise UnsupportedError(
            f"ir_version is {version}; versions up to {onnx.IR_VERSION} can be read",
            code="onnx-version",
            hint="the file was written by a newer release of ONNX, or it is damaged",
        )


def _at_least_min_opset(proto: ModelProto, remarks: list[Remark]) -> ModelProto:
    """Return the model at an opset that the table reads, converting old ones."""
    opsets = _opsets(proto.opset_import)
    if not proto.opset_import and proto.ir_version < 3:
        opsets[""] = 1  # files from before opset_import existed
        proto.opset_import.add(version=1)
    version = opsets.get("")
    if version is None or version >= MIN_OPSET:
        if version is not None and version > MAX_OPSET:
            raise UnsupportedError(
                f"the model uses opset {version}; Lepton knows opsets up to {MAX_OPSET}",
                code="onnx-opset",
                hint="export it for an older opset",
            )
        return proto
    from onnx import version_converter

    reason = ""
    targets: tuple[int, ...] = (MIN_OPSET, 8, 11, 13)
    if any(node.op_type == "BatchNormalization" for node in proto.graph.node):
        targets = (_PLAIN_BATCH_NORM, *targets)
    for target in targets:
        try:
            converted = version_converter.convert_version(proto, target)
        except Exception as error:  # the converter is C++ and raises what it likes
            reason = reason or shown(str(error).strip().splitlines()[0] if str(error) else "", 200)
            continue
        text = f"the model was converted from opset {version} to {target} by onnx.version_converter"
        remarks.append(Remark("note", "onnx", "", text))
        return converted
    raise UnsupportedError(
        f"the model uses opset {version}, which onnx.version_converter cannot raise: {reason}",
        code="onnx-opset",
        hint=f"export it for opset {MIN_OPSET} or later",
    )


class _ModelReader:
    def __init__(
        self,
        proto: ModelProto,
        tensors: TensorReader,
        keep_overridable: bool,
        remarks: list[Remark],
        stored: dict[int, Range] | None = None,
    ) -> None:
        self.proto = proto
        self.stored = stored
        self.tensors = tensors
        self.keep_overridable = keep_overridable
        self.remarks = remarks
        self.is_sorted = True
        self.converted = False
        self.signatures: dict[str, tuple[int, int]] = {}
        self.provenance: ProvenanceTable | None = None

    def read(self) -> Module:
        """Build the module; `Undefined` when a name is read before it is defined."""
        proto = self.proto
        module = Module(_identifier(as_text(proto.graph.name)))
        module.remarks = self.remarks
        module.opsets = _opsets(proto.opset_import)
        module.meta = self._model_meta()
        callees = self._callees()
        self.signatures = {
            n: (len(f.input), len(f.output))
            for n, f in zip(callees.values(), proto.functions, strict=True)
        }
        main = module.add_function("main")
        functions = [
            (module.add_function(n), f)
            for n, f in zip(callees.values(), proto.functions, strict=True)
        ]
        self._main(main, proto.graph, module, callees)
        for function, body in functions:
            self._function(function, body, module, callees)
        _refuse_recursion(module)
        for function in module.functions.values():
            mark_types_current(function)
        return module

    def read_any_order(self) -> Module:
        """Build the module, sorting the nodes if they are not in order."""
        before = list(self.remarks)
        try:
            return self.read()
        except Undefined:
            self.remarks[:] = before
            self.is_sorted = False
        module = self.read()
        text = "the nodes were not in order; they are now"
        self.remarks.append(Remark("note", "onnx", "", text))
        return module

    def _model_meta(self) -> dict[str, Any]:
        proto = self.proto
        meta: dict[str, Any] = {"ir_version": proto.ir_version}
        for field in ("producer_name", "producer_version", "domain", "doc_string"):
            if getattr(proto, field):
                meta[field] = as_text(getattr(proto, field))
        if proto.model_version:
            meta["model_version"] = proto.model_version
        if proto.metadata_props:
            metadata = {as_text(p.key): as_text(p.value) for p in proto.metadata_props}
            table = metadata.pop(TABLE_KEY, None)
            self.provenance = None if table is None else ProvenanceTable(table)
            if metadata:
                meta["metadata"] = metadata
        for field in ("training_info", "configuration"):
            if len(getattr(proto, field)):
                meta[field] = [_foreign(f"onnx.{field}", item) for item in getattr(proto, field)]
        return meta

    def _callees(self) -> dict[tuple[str, str, str], str]:
        callees: dict[tuple[str, str, str], str] = {}
        for f in self.proto.functions:
            key = (name_of(f.domain), name_of(f.name), name_of(f.overload))
            name = f"{f.domain}:{f.name}" + (f":{f.overload}" if f.overload else "")
            if key in callees or name in callees.values():
                raise InvalidModelError(
                    f"function {shown(name)} is defined twice", code="onnx-function"
                )
            callees[key] = name
        return callees

    # -- the graph ---------------------------------------------------------------------------------

    def _main(
        self, main: Function, graph: GraphProto, module: Module, callees: dict[Any, str]
    ) -> None:
        reader = GraphReader(
            main,
            module.opsets,
            callees,
            self.tensors,
            self.is_sorted,
            self.remarks,
            self.converted,
        )
        reader.signatures = self.signatures
        reader.provenance = self.provenance
        if not graph.output:
            raise InvalidModelError("the graph has no outputs", code="onnx-graph")
        if graph.name:
            main.meta["name"] = as_text(graph.name)
        main.meta.update(value_meta(graph))
        for info in (*graph.input, *graph.output, *graph.value_info):
            _register_symbols(info.type, main)
        scope = Scope()
        block = main.block
        constants = {t.name for t in graph.initializer} | {
            t.values.name for t in graph.sparse_initializer
        }
        became: list[str] = []
        for info in graph.input:
            if not info.name:
                raise InvalidModelError("an input of the graph has no name", code="onnx-input")
            if info.name in constants and not self._stays_input(info, graph, main):
                became.append(info.name)
                continue
            value = block.add_arg(self._input_type(info, main), None)
            value.meta = value_meta(info) or None
            if value.type is UNKNOWN:
                value.meta = {**(value.meta or {}), "type": _foreign("onnx.TypeProto", info.type)}
            reader.define(scope, info.name, value)
        if main.overridable:
            kept = [t for t in graph.initializer if t.name not in main.overridable]
            rest = onnx.GraphProto()
            rest.initializer.extend(kept)
            rest.sparse_initializer.extend(graph.sparse_initializer)
            reader.initializers(rest, block, scope)
        else:
            reader.initializers(graph, block, scope, self.stored)
        if became and self.proto.ir_version >= 4:
            self._remark_constants(became)
        infos = {v.name: v for v in (*graph.value_info, *graph.output)}
        run_task(reader.nodes(graph.node, infos, block, scope, nested=False))
        main.output_names = [o.name for o in graph.output]
        main.meta["outputs"] = [_foreign("onnx.ValueInfoProto", o) for o in graph.output]
        reader.finish("return", main.output_names, block, scope)
        reader.settle()
        if len(graph.quantization_annotation):
            main.meta["quantization_annotation"] = [
                _foreign("onnx.TensorAnnotation", a) for a in graph.quantization_annotation
            ]

    def _stays_input(self, info: ValueInfoProto, graph: GraphProto, main: Function) -> bool:
        if not self.keep_overridable:
            return False
        for proto in graph.initializer:
            if proto.name == info.name:
                what = f'initializer "{shown(info.name)}"'
                main.overridable[info.name] = self.tensors.read(proto, what)
                return True
        return False

    def _remark_constants(self, names: list[str]) -> None:
        some = ", ".join(shown(n, 40) for n in names[:5]) + (", ..." if len(names) > 5 else "")
        text = (
            f"{len(names)} inputs had default values and became constants ({some}); "
            "--keep-overridable keeps them"
        )
        self.remarks.append(Remark("note", "onnx", "", text))

    def _input_type(self, info: ValueInfoProto, main: Function) -> Type:
        """Return the contract of an input: unnamed dims are one unknown number each."""
        counter = iter(range(1 << 30))

        def named(type_: Type, proto: TypeProto) -> Type:
            if not isinstance(type_, TensorType) or type_.shape is None:
                return type_
            shape: list[Dim | None] = []
            for dim in type_.shape:
                index = next(counter)
                name = symbol_name(dim) if isinstance(dim, dims.DimExpr) else None
                if dim is None or name in _UNNAMED:
                    fresh = main.fresh_symbol(f"{_identifier(info.name)[:40]}_{index}")
                    main.meta.setdefault("unnamed", {})[fresh] = name or ""
                    dim = dims.sym(fresh)
                shape.append(dim)
            return TensorType(type_.dtype, shape)

        declared = type_of(info.type, f'input "{shown(info.name)}"')
        # The elements of a sequence may differ in size: their unnamed dims stay unknown.
        return named(declared, info.type)

    # -- local functions ---------------------------------------------------------------------------

    def _function(
        self, function: Function, body: FunctionProto, module: Module, callees: dict[Any, str]
    ) -> None:
        where = f"function {shown(function.name)}"
        function.opsets = _opsets(body.opset_import)
        opsets = dict(function.opsets)
        version = opsets.get("", MIN_OPSET)
        if not MIN_OPSET <= version <= MAX_OPSET:
            raise UnsupportedError(f"opset {version} cannot be read", where=where)
        reader = GraphReader(function, opsets, callees, self.tensors, self.is_sorted, self.remarks)
        reader.signatures = self.signatures
        reader.provenance = self.provenance
        function.meta.update(value_meta(body))
        function.meta.update(domain=body.domain, name=body.name)
        if body.overload:
            function.meta["overload"] = body.overload
        for name in body.attribute:
            function.attr_params[name] = None
        for proto in body.attribute_proto:
            kind = int(proto.type)
            function.attr_params[proto.name] = decode_attribute(
                proto, kind, lambda t: self.tensors.read(t, where), keep=True
            )
        scope = Scope()
        for name in body.input:
            reader.define(scope, name, function.block.add_arg(UNKNOWN, None))
        infos = {v.name: v for v in body.value_info}
        try:
            run_task(reader.nodes(body.node, infos, function.block, scope, nested=False))
        except LeptonError as error:
            error.where = f"{where}: {error.where}" if error.where else where
            raise
        function.output_names = list(body.output)
        reader.finish("return", function.output_names, function.block, scope)


def _foreign(kind: str, proto: Any) -> Foreign:
    return Foreign(kind, proto.SerializeToString(deterministic=True))


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text)[:80].strip("_") or "model"


def _register_symbols(proto: TypeProto, function: Function) -> None:
    if proto.HasField("tensor_type"):
        for dim in proto.tensor_type.shape.dim:
            if dim.dim_param:
                function.used_symbols.add(dim.dim_param)


def _refuse_recursion(module: Module) -> None:
    """Refuse local functions that call themselves, directly or through others."""
    calls: dict[str, list[str]] = {}
    for function in module.functions.values():
        found = {op.attrs["callee"] for op in function.walk() if op.name == "call"}
        calls[function.name] = sorted(found)
    state: dict[str, int] = {}
    for root in calls:
        stack = [(root, iter(calls[root]))]
        if root in state:
            continue
        state[root] = 1
        while stack:
            name, callees = stack[-1]
            callee = next(callees, None)
            if callee is None:
                state[name] = 2
                stack.pop()
            elif state.get(callee) == 1:
                chain = [n for n, _ in stack]
                chain = [*chain[chain.index(callee) :], callee]
                raise InvalidModelError(
                    f"functions call themselves: {' -> '.join(shown(n, 40) for n in chain[:8])}",
                    code="onnx-recursion",
                )
            elif callee not in state:
                state[callee] = 1
                stack.append((callee, iter(calls[callee])))
