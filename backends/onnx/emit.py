"""Modules as ONNX messages: the op table read backwards, names, types and provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TypeProto,
    ValueInfoProto,
)

from lepton_ir import dtypes
from lepton_ir.backends.onnx.names import MADE, SHORT, NameScope, name_block
from lepton_ir.backends.onnx.parts import (
    callee_key,
    is_inside,
    write_metadata,
    write_opsets,
    write_value_meta,
)
from lepton_ir.backends.onnx.value_types import TypeWriter
from lepton_ir.diagnostics import LeptonError, UnsupportedError, shorten
from lepton_ir.foreign import Foreign
from lepton_ir.frontends.onnx.table import Plan, Unwritable, as_node, export_plans
from lepton_ir.frontends.onnx.table_schema import MAX_OPSET, MIN_OPSET, facts
from lepton_ir.frontends.onnx.table_values import (
    encode_attribute,
    encode_typed,
    fill_tensor,
    fill_tensor_header,
)
from lepton_ir.infer import describe
from lepton_ir.ir import AttrRef, Block, Function, Module, Op, Value
from lepton_ir.pauses import collector_paused
from lepton_ir.provenance import (
    NODE_KEY,
    RULES_KEY,
    SOURCES_KEY,
    TABLE_KEY,
    Provenance,
    names_in,
)
from lepton_ir.tasks import Task, run_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.tensors import Tensor


DEFAULT_OPSET = 21
"""Opset of modules that came from no ONNX file."""

MIN_IR_VERSION = 4
"""Since this version of the format initializers need not be inputs."""

_IR_VERSION_OF = {
    **dict.fromkeys((dtypes.F8E4M3FN, dtypes.F8E4M3FNUZ, dtypes.F8E5M2, dtypes.F8E5M2FNUZ), 9),
    **dict.fromkeys((dtypes.I4, dtypes.U4), 10),
    **dict.fromkeys((dtypes.F4E2M1,), 11),
    **dict.fromkeys((dtypes.F8E8M0,), 12),
    **dict.fromkeys((dtypes.I2, dtypes.U2), 13),
}


def opsets_of(module: Module, function: Function | None, opset: int | None) -> dict[str, int]:
    """Return the opsets in force for the operations of a function, as they will be written."""
    opsets = {"": DEFAULT_OPSET, **module.opsets}
    if function is not None:
        opsets.update(function.opsets)
    if opset is not None:
        opsets[""] = opset
    return opsets


OpsetKey = tuple[tuple[str, int], ...]


def opset_key(opsets: dict[str, int]) -> OpsetKey:
    """Return opsets as `node_plan` takes them."""
    return tuple(sorted(opsets.items()))


def node_plan(
    op: Op, opsets: OpsetKey
) -> tuple[Plan, dict[str, tuple[Any, int]], list[Value | Tensor | None]]:
    """Return how an operation of the table is written: the plan, its attributes and inputs.

    Raises:
        Unwritable: as one node of these opsets it cannot.
    """
    plans = export_plans(op.name, opsets)
    if not plans:
        raise Unwritable(f"{op.name} does not exist in opset {dict(opsets)['']}")
    reason: Unwritable | None = None
    for plan in plans:
        try:
            return (plan, *as_node(plan, op))
        except Unwritable as error:
            reason = reason or error
    assert reason is not None
    raise reason


def foreign_reason(op: Op) -> str | None:
    """Return why an opaque operation is no ONNX node: it comes from a file of another format."""
    kind, _, name = op.name.partition(".")
    if kind != "tflite":
        return None
    custom = name.removeprefix("custom.")
    return f"{custom} is a{' custom' if custom != name else 'n'} operator of TFLite, opaque here"


class Emitter:
    """Builds the message of one module.

    Args:
        module: what to write.
        opset: opset of the default domain; that of the module when ``None``.
        sink: receives ``(header, payload, nested)`` for every constant, in order; without it
            constants are put into the message. The header of a ``nested`` one stands in its
            subgraph already, that of the others belongs at the end of the main graph.
    """

    def __init__(
        self,
        module: Module,
        opset: int | None,
        sink: Callable[[onnx.TensorProto, Tensor, bool], None] | None = None,
    ) -> None:
        if opset is not None and not MIN_OPSET <= opset <= MAX_OPSET:
            raise UnsupportedError(
                f"opset {opset} cannot be written; {MIN_OPSET} to {MAX_OPSET} can",
                code="onnx-opset",
            )
        self.module = module
        self.opset = opset
        self.sink = sink
        self.ir_version = max(int(module.meta.get("ir_version", MIN_IR_VERSION)), MIN_IR_VERSION)
        self._converting = opset is not None and opset != module.opsets.get("")
        self._domains: set[str] = set()
        self._opsets: dict[str, int] = {}
        self._key: OpsetKey = ()
        self._names: dict[Value, str] = {}
        self._node_names: set[str] = set()
        self._given_names: set[str] = set()
        self._types = TypeWriter({})
        self._in_function = False
        self._used: set[Value] = set()
        self._provenance = Provenance()

    # -- the model ---------------------------------------------------------------------------------

    def model(self) -> ModelProto:
        """Return the message.

        Raises:
            UnsupportedError: an operation cannot be written in the opset; names it and says why.
        """
        with collector_paused():
            return self._model()

    def _model(self) -> ModelProto:
        module, meta = self.module, self.module.meta
        proto = ModelProto()
        for field in ("producer_name", "producer_version", "domain", "doc_string"):
            if meta.get(field):
                setattr(proto, field, meta[field])
        if meta.get("model_version"):
            proto.model_version = meta["model_version"]
        main = module.main
        self._begin(main)
        self._main(main, proto.graph)
        imports = {d: v for d, v in opsets_of(module, None, self.opset).items()}
        for function in module.functions.values():
            # ONNX has no second graph: other signatures of a TFLite file stay out.
            if function is not main and not function.meta.get("signatures"):
                self._begin(function)
                self._function(function, proto.functions.add())
        for domain in sorted(self._domains - imports.keys()):
            imports[domain] = 1
        if not module.opsets and not proto.graph.node and not self.opset:
            imports[""] = DEFAULT_OPSET
        write_opsets(imports, proto.opset_import)
        write_metadata(meta.get("metadata", {}), proto.metadata_props)
        if len(self._provenance):
            write_metadata({TABLE_KEY: self._provenance.text()}, proto.metadata_props)
        for field in ("training_info", "configuration"):
            for item in meta.get(field, ()):
                getattr(proto, field).add().ParseFromString(item.data)
        if self._converting:
            known = [o for o in proto.opset_import if o.domain in ("", "ai.onnx", "ai.onnx.ml")]
            least = onnx.helper.find_min_ir_version_for(known, ignore_unknown=True)
            self.ir_version = max(self.ir_version, least)
        if proto.functions:
            self.ir_version = max(self.ir_version, 8)
        proto.ir_version = self.ir_version
        return proto

    def _begin(self, function: Function) -> None:
        self._opsets = opsets_of(self.module, function, self.opset)
        self._key = opset_key(self._opsets)
        self._names = {}
        self._node_names = {op.node_name for op in function.walk() if op.node_name}
        self._given_names = {
            op.node_name for op in function.walk() if op.node_name and op.loc.is_source
        }
        self._types = TypeWriter(function.meta.get("unnamed", {}))
        self._in_function = function is not self.module.main
        self._used = set()

    # -- the main graph ----------------------------------------------------------------------------

    def _main(self, main: Function, graph: GraphProto) -> None:
        graph.name = main.meta.get("name") or self.module.name or "main"
        write_value_meta(main.meta, graph)
        scope = NameScope()
        outputs = _results(main)
        names = main.output_names or [v.name or f"output_{i}" for i, v in enumerate(outputs)]
        copies = self._name_outputs(main, outputs, names, scope)
        name_block(main.block, scope, self._names)
        for value in main.inputs:
            info = graph.input.add()
            self._value_info(value, info)
            if value.meta and "type" in value.meta:
                info.type.ParseFromString(value.meta["type"].data)
        run_task(self._nodes(main.block, graph, scope))
        for source, name in copies:
            self._identity(source, name, graph.node.add())
        declared = main.meta.get("outputs", ())
        for i, (value, name) in enumerate(zip(outputs, names, strict=True)):
            info = graph.output.add()
            self._output(value, name, declared[i] if i < len(declared) else None, info)
        self._initializers(main.block, graph, nested=False)
        for name, payload in main.overridable.items():
            self._payload(payload, name, graph, None, nested=False)
        self._annotations(main, graph)

    def _name_outputs(
        self, main: Function, outputs: list[Value], wanted: list[str], scope: NameScope
    ) -> list[tuple[Value, str]]:
        """Give outputs their names; return those that need a copy to have them."""
        for name in dict.fromkeys(wanted):
            scope.take(name)
        for value in main.inputs:
            # An input may itself be the output of the same name.
            if value.name and (value.name in wanted or scope.is_free(value.name)):
                self._names[value] = value.name
                if value.name not in wanted:
                    scope.take(value.name)
        taken = set(self._names.values())
        for value, name in zip(outputs, wanted, strict=True):
            if value.name == name and value not in self._names:
                self._names[value] = name
                taken.add(name)
        copies: list[tuple[Value, str]] = []
        copied: set[str] = set()
        for value, name in zip(outputs, wanted, strict=True):
            named = self._names.get(value)
            if named == name or name in copied:
                continue
            fixed = value.op is None or (value.op.name == "const" and bool(value.name))
            if named is None and not fixed and name not in taken:
                self._names[value] = name
                taken.add(name)
            else:
                copies.append((value, name))
                copied.add(name)
        return copies

    def _output(self, value: Value, name: str, declared: Foreign | None, info: Any) -> None:
        if declared is not None:
            source = ValueInfoProto()
            source.ParseFromString(declared.data)
            if source.doc_string:
                info.doc_string = source.doc_string
            info.metadata_props.extend(source.metadata_props)
            self._types.write_output(value.type, source.type, info.type)
        else:
            self._types.write(value.type, value.declared, info.type)
        info.name = name

    def _value_info(self, value: Value, info: ValueInfoProto) -> None:
        info.name = self._names[value]
        proto = TypeProto()
        if self._types.write(value.type, value.declared, proto):
            info.type.CopyFrom(proto)
        if value.meta:
            write_value_meta(value.meta, info)

    def _annotations(self, main: Function, graph: GraphProto) -> None:
        """Write back quantization annotations whose tensors are all still there."""
        annotations = main.meta.get("quantization_annotation", ())
        if not annotations:
            return
        known = set(self._names.values())
        for item in annotations:
            proto = onnx.TensorAnnotation()
            proto.ParseFromString(item.data)
            params = {p.value for p in proto.quant_parameter_tensor_names}
            if proto.tensor_name in known and params <= known:
                graph.quantization_annotation.append(proto)

    # -- graphs ------------------------------------------------------------------------------------

    def _nodes(self, block: Block, graph: Any, scope: NameScope) -> Task:
        """Write the operations of a block, those of regions as tasks."""
        value_info = graph.value_info
        terminator = block.terminator
        outputs = set(terminator.operands) if terminator is not None else set()
        for op in block.ops:
            if op.name == "const" and not self._in_function:
                self._count_dtype(op)
                continue
            if op.name in ("return", "yield"):
                continue
            regions = self._node(op, graph, scope)
            for result in op.results:
                if result.declared is None or result in outputs:
                    continue
                if self._names.get(result) == result.name:
                    self._value_info(result, value_info.add())
            for attr, block_of in regions:
                yield self._region(block_of, attr, scope)

    def _region(self, block: Block, graph: GraphProto, outer: NameScope) -> Task:
        scope = NameScope(outer)
        graph.name = graph.name or block.region.name or "body"
        name_block(block, scope, self._names)
        for value in block.args:
            self._value_info(value, graph.input.add())
        yield self._nodes(block, graph, scope)
        terminator = block.terminator
        written: set[str] = set()
        for result in terminator.operands if terminator is not None else ():
            assert result is not None
            value, name = result, self._names[result]
            info = graph.output.add()
            self._value_info(value, info)
            outside = not is_inside(value, block)
            if outside or name in written:
                info.name = scope.take(name)
                self._identity(value, info.name, graph.node.add())
            else:
                self._used.add(value)
            written.add(info.name)
        if not self._in_function:
            self._initializers(block, graph, nested=True)

    def _initializers(self, block: Block, graph: GraphProto, *, nested: bool) -> None:
        """Write the constants of a block that something reads."""
        terminator = block.terminator
        results = set(terminator.operands) if terminator is not None else set()
        for op in block.ops:
            if op.name == "const":
                value = op.results[0]
                if value in self._used or value in results:
                    doc = value.meta.get("doc") if value.meta else None
                    self._payload(op.attrs["value"], self._names[value], graph, doc, nested=nested)

    def _payload(
        self, payload: Tensor, name: str, graph: GraphProto, doc: str | None, *, nested: bool
    ) -> None:
        if self.sink is None:
            proto = graph.initializer.add()
            fill_tensor(payload, proto, name)
        else:
            proto = graph.initializer.add() if nested else onnx.TensorProto()
            fill_tensor_header(payload, proto, name)
            self.sink(proto, payload, nested)
        if doc:
            proto.doc_string = doc

    # -- nodes -------------------------------------------------------------------------------------

    def _node(self, op: Op, graph: Any, scope: NameScope) -> list[tuple[GraphProto, Block]]:
        """Write one operation; return the graphs to fill from its regions."""
        inputs: list[Value | Tensor | None] = list(op.operands)
        planned = None
        try:
            if op.definition is not None and op.name not in ("const", "call"):
                planned = node_plan(op, self._key)
                inputs = planned[2]
            names = [self._input(v, graph, scope) for v in inputs]
            node = graph.node.add()
            if op.name == "const":
                self._constant(op, node)
            elif op.name == "call":
                self._call(op, node)
            elif op.definition is None:
                reason = foreign_reason(op)
                if reason is not None:
                    raise Unwritable(reason)
                self._opaque(op, node)
            elif planned is not None:
                plan, attrs, _ = planned
                node.op_type = plan.row.op_type
                if plan.row.domain:
                    node.domain = plan.row.domain
                    self._domains.add(plan.row.domain)
                for name, (value, kind) in attrs.items():
                    encode_typed(name, value, kind, node.attribute.add())
        except (Unwritable, TypeError, KeyError) as error:
            raise UnsupportedError(
                f"cannot be written in opset {self._opsets['']}: {error}",
                code="onnx-export",
                where=describe(op),
                hint="run legalize, or write another opset",
            ) from error
        node.input.extend(names)
        self._outputs(op, node)
        self._label(op, node)
        return self._graphs(op, node)

    def _input(self, value: Value | Tensor | None, graph: Any, scope: NameScope) -> str:
        """Return the name of an input; a constant that only the old form needs is written."""
        if value is None:
            return ""
        if isinstance(value, Value):
            self._used.add(value)
            return self._names[value]
        name = scope.take("const")
        if self._in_function:
            node = graph.node.add()
            node.op_type = "Constant"
            node.output.append(name)
            encode_attribute("value", value, node.attribute.add())
        else:
            fill_tensor(value, graph.initializer.add(), name)
        return name

    def _outputs(self, op: Op, node: NodeProto) -> None:
        needed = op.definition.min_results if op.definition is not None else 0
        if op.definition is not None and op.definition.max_results < 0:
            needed = len(op.results)  # their number has a meaning, and runtimes write all of them
        outputs = [
            self._names[r] if i < needed or r.name or r.first_use is not None else ""
            for i, r in enumerate(op.results)
        ]
        while outputs and not outputs[-1]:
            outputs.pop()
        node.output.extend(outputs)

    def _graphs(self, op: Op, node: NodeProto) -> list[tuple[GraphProto, Block]]:
        found: list[tuple[GraphProto, Block]] = []
        lists: dict[str, AttributeProto] = {}
        for region in op.regions:
            label, bracket, _ = region.name.partition("[")
            if not bracket:
                attr = node.attribute.add()
                attr.name, attr.type = label, AttributeProto.GRAPH
                found.append((attr.g, region.block))
                continue
            attr = lists.get(label) or node.attribute.add()
            lists[label] = attr
            attr.name, attr.type = label, AttributeProto.GRAPHS
            found.append((attr.graphs.add(), region.block))
        return found

    def _constant(self, op: Op, node: NodeProto) -> None:
        """Write a constant as a node, where there are no initializers (function bodies)."""
        node.op_type = "Constant"
        payload = op.attrs["value"]
        if isinstance(payload, AttrRef):
            form = "value" if payload.kind == "tensor" else f"value_{payload.kind}"
            encode_attribute(form, payload, node.attribute.add())
        else:
            self._count_dtype(op)
            encode_attribute("value", payload, node.attribute.add())

    def _call(self, op: Op, node: NodeProto) -> None:
        callee = self.module.functions.get(op.attrs["callee"])
        if callee is None:
            raise Unwritable(f"function {op.attrs['callee']} does not exist")
        domain, name, overload = callee_key(callee)
        node.op_type, node.domain = name, domain
        if overload:
            node.overload = overload
        self._domains.add(domain)
        for key, value in op.attrs.items():
            if key != "callee":
                encode_attribute(key, value, node.attribute.add())

    def _opaque(self, op: Op, node: NodeProto) -> None:
        domain, _, op_type = op.name.rpartition(".")
        domain = "" if domain == "onnx" else domain
        if self._converting and not domain and op.version is not None:
            old, new = (facts("", op_type, v) for v in (op.version, self._opsets[""]))
            if old is None or new is None or old.since != new.since:
                raise Unwritable(f"{op_type} is carried through as it is in opset {op.version}")
        node.op_type, node.domain = op_type, domain
        if domain:
            self._domains.add(domain)
        for key, value in op.attrs.items():
            encode_attribute(key, value, node.attribute.add())

    def _label(self, op: Op, node: NodeProto) -> None:
        """Write the name, doc string, metadata and, for what passes made, where it came from."""
        name = op.node_name
        made = not op.loc.is_source
        if not name and made:
            first = next((o for o in node.output if o), "")
            # What has a made name is known by it, and each name takes its bytes.
            if not first.startswith(MADE):
                kind = SHORT.get(op.name, node.op_type)
                name = self._new_node_name(f"{kind}_{first}")
        elif name in self._given_names and made:
            name = self._new_node_name(name)  # the node it was made from is still there
        if name:
            node.name = name
            self._given_names.add(name)
        meta = op.meta or {}
        metadata = dict(meta.get("metadata", {}))
        # What an earlier run made has its names in the metadata.
        earlier = (names_in(metadata, SOURCES_KEY), names_in(metadata, RULES_KEY))
        sources, rules = op.loc.flatten() if made else earlier
        if sources or rules:
            metadata.pop(SOURCES_KEY, None)
            metadata.pop(RULES_KEY, None)
            metadata[NODE_KEY] = self._provenance.refer(sources, rules)
        if meta.get("doc"):
            node.doc_string = meta["doc"]
        write_metadata(metadata, node.metadata_props)
        for device in meta.get("devices", ()):
            node.device_configurations.add().ParseFromString(device.data)

    def _new_node_name(self, name: str) -> str:
        result, number = name, 0
        while result in self._node_names:
            number += 1
            result = f"{name}_{number}"
        self._node_names.add(result)
        return result

    def _identity(self, value: Value, name: str, node: NodeProto) -> None:
        """Write a copy of a value under another name."""
        self._used.add(value)
        node.op_type = "Identity"
        node.input.append(self._names[value])
        node.output.append(name)
        node.name = self._new_node_name(f"Identity_{name}")
        sources = value.op.loc.flatten()[0] if value.op is not None else ()
        if sources:
            reference = self._provenance.refer(sources, ("export",))
            write_metadata({NODE_KEY: reference}, node.metadata_props)

    def _count_dtype(self, op: Op) -> None:
        needed = _IR_VERSION_OF.get(op.results[0].dtype)  # type: ignore[arg-type]
        if needed is not None and needed > self.ir_version:
            self.ir_version = needed

    # -- local functions ---------------------------------------------------------------------------

    def _function(self, function: Function, proto: FunctionProto) -> None:
        domain, name, overload = callee_key(function)
        proto.domain, proto.name = domain, name
        if overload:
            proto.overload = overload
        write_value_meta(function.meta, proto)
        for key, default in function.attr_params.items():
            if default is None:
                proto.attribute.append(key)
            else:
                encode_attribute(key, default, proto.attribute_proto.add())
        scope = NameScope()
        outputs = _results(function)
        copies = self._name_outputs(function, outputs, function.output_names, scope)
        name_block(function.block, scope, self._names)
        proto.input.extend(self._names[v] for v in function.inputs)
        proto.output.extend(function.output_names)
        before, self._domains = self._domains, set()
        try:
            run_task(self._nodes(function.block, proto, scope))
        except LeptonError as error:
            where = f"function {shorten(function.name)}"
            error.where = f"{where}: {error.where}" if error.where else where
            raise
        for source, output in copies:
            self._identity(source, output, proto.node.add())
        opsets = dict(function.opsets)
        if self.opset is not None and "" in opsets:
            opsets[""] = self.opset
        for used in sorted(self._domains - opsets.keys()):
            opsets[used] = self._opsets.get(used, 1)
        write_opsets(opsets, proto.opset_import)
        self._domains |= before


def _results(function: Function) -> list[Value]:
    outputs = function.outputs
    if any(v is None for v in outputs):
        raise UnsupportedError(f"a result of {function} is absent", code="onnx-export")
    return [v for v in outputs if v is not None]
