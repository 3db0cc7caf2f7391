"""Graphs of an ONNX file as blocks of operations. No recursion: subgraphs are tasks on a stack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto

from lepton_ir import dtypes
from lepton_ir.builder import Builder, create
from lepton_ir.diagnostics import InvalidModelError, LeptonError, Location, Remark
from lepton_ir.foreign import Foreign
from lepton_ir.frontends.onnx.order import sorted_nodes
from lepton_ir.frontends.onnx.scopes import (
    Scope,
    Undefined,
    describe_node,
    node_meta,
    value_meta,
    without_shape,
)
from lepton_ir.frontends.onnx.table import Incoming, KeepOpaque, Plan, plan
from lepton_ir.frontends.onnx.table_rows import BEFORE_7
from lepton_ir.frontends.onnx.table_values import (
    FOREIGN_ATTRIBUTE,
    KIND_NAMES,
    decode_attribute,
    name_of,
    shown,
    type_of,
)
from lepton_ir.infer import infer_function, infer_op
from lepton_ir.ir import AttrRef, Block, Function, Op, Region, Value
from lepton_ir.opdef import lookup
from lepton_ir.tasks import Task
from lepton_ir.tensors import DenseTensor, Tensor
from lepton_ir.types import UNKNOWN, TensorType, TypeMismatchError, meet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import GraphProto, NodeProto, ValueInfoProto

    from lepton_ir.frontends.onnx.constants import TensorReader
    from lepton_ir.frontends.onnx.ranges import Range
    from lepton_ir.provenance import ProvenanceTable

_GRAPH = int(AttributeProto.GRAPH)
_GRAPHS = int(AttributeProto.GRAPHS)
_CONSTANT_FORMS = (
    *("value", "sparse_value", "value_float", "value_floats", "value_int", "value_ints"),
    *("value_string", "value_strings"),
)
_CONSTANT = "constant"


class GraphReader:
    """Builds the body of one function from a graph or a function's nodes.

    Args:
        function: receives the operations.
        opsets: opset imports in force, domain to version.
        callees: local functions by (domain, name, overload).
        tensors: reads constants.
        is_sorted: whether the nodes may be read in file order.
        remarks: receives what the user should know.
        converted: whether the version converter raised the model to the first opset of the table.
    """

    def __init__(
        self,
        function: Function,
        opsets: dict[str, int],
        callees: dict[tuple[str, str, str], str],
        tensors: TensorReader,
        is_sorted: bool,
        remarks: list[Remark],
        converted: bool = False,
    ) -> None:
        self.function = function
        self.converted = converted
        self.opsets = opsets
        self.callees = callees
        self.tensors = tensors
        self.is_sorted = is_sorted
        self.remarks = remarks
        self.signatures: dict[str, tuple[int, int]] = {}
        self.provenance: ProvenanceTable | None = None
        self._plans: dict[tuple[str, str, str], Plan | str | None] = {}
        self._names: set[str] = set()
        self._contradictions = 0
        self._dropouts: list[Op] = []

    # -- graphs ------------------------------------------------------------------------------------

    def region(self, graph: GraphProto, region: Region, outer: Scope) -> Task:
        """Build a subgraph into a region."""
        scope = Scope(outer)
        block = region.block
        for info in graph.input:
            value = block.add_arg(UNKNOWN, info.name)
            self.declare(value, info)
            self.define(scope, info.name, value)
        self.initializers(graph, block, scope)
        infos = {v.name: v for v in (*graph.value_info, *graph.output)}
        yield self.nodes(graph.node, infos, block, scope, nested=True)
        self.finish("yield", [o.name for o in graph.output], block, scope)

    def initializers(
        self,
        graph: GraphProto,
        block: Block,
        scope: Scope,
        stored: Mapping[int, Range] | None = None,
    ) -> None:
        """Build constants from the initializers of a graph; ``stored`` are those left in a file."""
        for index, proto in enumerate(graph.initializer):
            name = proto.name
            what = f'initializer "{shown(name)}"'
            if not name:
                raise InvalidModelError("an initializer has no name", code="onnx-initializer")
            place = stored.get(index) if stored else None
            value = self.constant(self.tensors.read(proto, what, place), block)
            if proto.doc_string:
                value.meta = {"doc": proto.doc_string}
            self.define(scope, name, value)
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            what = f'sparse initializer "{shown(name)}"'
            if not name:
                raise InvalidModelError("an initializer has no name", code="onnx-initializer")
            dense = self.tensors.read_sparse(sparse, what)
            if dense is None:
                attr = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
                attr.sparse_tensor.CopyFrom(sparse)
                value = self._sparse_constant(attr, block)
            else:
                value = self.constant(dense, block)
            self.define(scope, name, value)

    def _sparse_constant(self, attr: AttributeProto, block: Block) -> Value:
        data = attr.SerializeToString(deterministic=True)
        op = Op("onnx.Constant", None, (), {attr.name: Foreign(FOREIGN_ATTRIBUTE, data)}, 1)
        op.version = self.opsets.get("", 0)
        block.append(op)
        return op.result

    def constant(self, payload: Tensor | AttrRef, block: Block) -> Value:
        """Append a constant."""
        op = create("const", (), {"value": payload})
        block.append(op)
        infer_op(op)
        return op.result

    def finish(self, terminator: str, names: Iterable[str], block: Block, scope: Scope) -> None:
        """End a block with its results."""
        values = []
        for name in names:
            value = scope.find(name)
            if value is None:
                raise Undefined(name, "an output of the graph")
            values.append(value)
        block.append(create(terminator, values))

    def settle(self) -> None:
        """Read what only the finished graph decides: old Dropouts whose mask nobody uses.

        The mask is not bool before opset 10, so that those with one stay opaque.
        """
        changed = False
        for op in self._dropouts:
            ratio = op.attrs.get("ratio", 0.5)
            if isinstance(ratio, AttrRef) or any(r.first_use is not None for r in op.results[1:]):
                continue
            assert op.block is not None
            rate = create("const", (), {"value": DenseTensor(np.asarray(ratio, np.float32))})
            made = create("dropout", [op.operands[0], rate.result], {}, 1)
            for new in (rate, made):
                op.block.insert_before(new, op)
                infer_op(new)
            made.node_name, made.loc, made.meta = op.node_name, op.loc, op.meta
            result, old = made.result, op.results[0]
            result.name, result.declared, result.meta = old.name, old.declared, old.meta
            old.replace_all_uses(result)
            op.erase()
            changed = True
        if changed:
            infer_function(self.function)

    def define(self, scope: Scope, name: str, value: Value) -> None:
        """Bind a name; single assignment."""
        name_of(name)
        if name in scope.values:
            raise InvalidModelError(
                f'"{shown(name)}" is defined twice', code="onnx-ssa", hint="names must be unique"
            )
        scope.values[name] = value
        value.name = name

    def declare(self, value: Value, info: ValueInfoProto) -> None:
        """Record what the file says about a value."""
        declared = type_of(info.type, f'"{shown(info.name)}"')
        value.declared = None if declared is UNKNOWN else declared
        if info.doc_string or info.metadata_props:
            value.meta = value_meta(info)

    # -- nodes -------------------------------------------------------------------------------------

    def nodes(
        self,
        nodes: Iterable[NodeProto],
        infos: dict[str, ValueInfoProto],
        block: Block,
        scope: Scope,
        nested: bool,
    ) -> Task:
        """Build the nodes of one graph; ``nested`` ones are inferred with the op around them."""
        if not self.is_sorted:
            nodes = sorted_nodes(nodes)
        values = scope.values
        for node in nodes:
            try:
                op, graphs = self._node(node, block, scope)
                if op is None:
                    continue
                if graphs:
                    for graph, region in graphs:
                        yield self.region(graph, region, scope)
                if not nested:
                    infer_op(op)
            except LeptonError as error:
                raise self._located(error, node) from error
            for result, name in zip(op.results, node.output, strict=False):
                if not name:
                    continue
                if name in values or name.__class__ is not str:
                    self.define(scope, name, result)
                values[name] = result
                result.name = name
                if infos and name in infos:
                    self.declare(result, infos[name])
                    self._compare(result, op)

    def _located(self, error: LeptonError, node: NodeProto) -> LeptonError:
        if error.where.startswith("node ") and isinstance(error, InvalidModelError):
            return error
        return InvalidModelError(
            error.message,
            code=error.code or "onnx-node",
            where=describe_node(node),
            hint=error.hint,
            notes=error.notes,
        )

    def _compare(self, value: Value, op: Op) -> None:
        """Take the element type of what only the file knows; remark on contradictions."""
        declared = value.declared
        if declared is None:
            return
        if op.definition is None or op.name == "call":
            if value.type is UNKNOWN:
                value.type = without_shape(declared)
            return
        if value.type is declared or value.type is UNKNOWN:
            return
        try:
            meet(value.type, declared)
        except TypeMismatchError:
            self._contradictions += 1
            if self._contradictions <= 20:
                text = f"declared as {declared}, but it is {value.type}; the declaration is ignored"
                place = shown(value.name or "")
                self.remarks.append(Remark("note", "onnx", place, text))
            value.declared = value.type

    def _node(
        self, node: NodeProto, block: Block, scope: Scope
    ) -> tuple[Op | None, list[tuple[GraphProto, Region]] | None]:
        values = scope.values
        inputs: list[Value | None] = []
        for name in node.input:
            if not name:
                inputs.append(None)
                continue
            value = values.get(name)
            if value is None:
                value = scope.find(name)
                if value is None:
                    raise Undefined(name, describe_node(node))
            inputs.append(value)
        key = (node.domain, node.op_type, node.overload)
        try:
            how = self._plans[key]
        except KeyError:
            how = self._plans[key] = self._resolve(*key)
        outputs = len(node.output)
        while outputs and not node.output[outputs - 1]:
            outputs -= 1
        graphs: list[tuple[GraphProto, Region]] | None = None
        if how.__class__ is Plan:
            try:
                op, graphs = self._known(how, node, list(inputs), outputs, block)
            except KeepOpaque:
                op, graphs = self._opaque(node, inputs, outputs)
                if op.name == "onnx.Dropout":
                    self._dropouts.append(op)
        elif how is _CONSTANT:
            return self._constant_node(node, block, scope), None
        elif how is None:
            op, graphs = self._opaque(node, inputs, outputs)
        else:
            op, graphs = self._opaque(node, inputs, outputs, str(how))
        self._describe(op, node)
        block.append(op)
        return op, graphs

    def _resolve(self, domain: str, op_type: str, overload: str) -> Plan | str | None:
        """Return how nodes of an operator are read: a plan, a local function, or opaque."""
        callee = self.callees.get((name_of(domain), name_of(op_type), name_of(overload)))
        if callee is not None:
            return callee
        if not op_type:
            raise InvalidModelError("the node has no operator", code="onnx-node")
        domain = "" if domain == "ai.onnx" else domain
        version = self.opsets.get(domain)
        if version is None:
            name = domain or "ai.onnx"
            raise InvalidModelError(
                f'domain "{shown(name)}" is used but the model imports no opset of it',
                code="onnx-opset",
                hint=f'add opset_import {{domain: "{shown(domain)}" version: ...}}',
            )
        if not domain and op_type == "Constant":
            return _CONSTANT
        return plan(domain, op_type, version)

    def _describe(self, op: Op, node: NodeProto) -> None:
        name = node.name
        if name:
            op.node_name = name_of(name)
        if not name or name in self._names:
            outputs = node.output
            name = next((o for o in outputs if o), name)
        else:
            self._names.add(name)
        op.loc = Location(name)
        if node.doc_string or node.metadata_props or node.device_configurations:
            op.meta = node_meta(node, self.provenance)

    def _known(
        self, how: Plan, node: NodeProto, inputs: list[Value | None], outputs: int, block: Block
    ) -> tuple[Op, list[tuple[GraphProto, Region]] | None]:
        definition = how.definition
        if how.accepts:
            self._check_types(how, node, inputs)
        attrs: dict[str, Any] = {}
        found: dict[str, GraphProto] = {}
        if len(node.attribute):
            attrs = self._attributes(how, node, found)
        if not how.plain:
            for name, default in how.fill.items():
                attrs.setdefault(name, default)
            if how.changes:
                arguments = self._incoming(how, attrs, inputs, outputs, block)
                if any(isinstance(v, AttrRef) for v in attrs.values()):
                    raise KeepOpaque("attributes are parameters")
                for change in how.changes:
                    change.forward(arguments)
        if self.converted and node.op_type in BEFORE_7:
            BEFORE_7[node.op_type](self._incoming(how, attrs, inputs, outputs, block))
        try:
            op = create(definition.name, inputs, attrs, max(outputs, definition.min_results))
        except LeptonError as error:
            if how.row.domain:  # other releases of the operator have other inputs and outputs
                raise KeepOpaque(error.message) from error
            raise
        if not definition.regions:
            return op, None
        graphs = []
        for label, region in zip(definition.regions, op.regions, strict=True):
            if label not in found:
                raise InvalidModelError(f"{node.op_type} needs attribute {label}, a graph")
            if definition.name == "if" and len(found[label].input):
                raise InvalidModelError(f"{label} has inputs; branches of If read outer values")
            graphs.append((found[label], region))
        return op, graphs

    def _check_types(self, how: Plan, node: NodeProto, inputs: list[Value | None]) -> None:
        """Refuse element types and a number of outputs that the opset's operator does not have."""
        accepts, last = how.accepts, len(how.accepts) - 1
        for i, value in enumerate(inputs):
            type_ = None if value is None else value.type
            if type_.__class__ is not TensorType or type_.dtype is None:
                continue
            dtype = type_.dtype
            if dtype not in accepts[i if i < last else last] and i < how.facts.max_inputs:
                name = how.facts.inputs[min(i, last)]
                raise InvalidModelError(
                    f'input {name} "{shown(node.input[i])}" is {dtype}, which '
                    f"{node.op_type}-{how.facts.since} does not take",
                    code="onnx-type",
                )
        if len(node.output) < how.facts.min_outputs:
            raise InvalidModelError(
                f"{node.op_type} has {len(node.output)} outputs, needs {how.facts.min_outputs}",
                code="onnx-node",
            )

    def _incoming(
        self,
        how: Plan,
        attrs: dict[str, Any],
        inputs: list[Value | None],
        outputs: int,
        block: Block,
    ) -> Incoming:
        def insert(name: str, *operands: Any) -> Value:
            result: Value = Builder(block).build(name, *operands).result
            return result

        return Incoming(attrs, inputs, outputs, how.version, self._make_const(block), insert)

    def _attributes(
        self, how: Plan, node: NodeProto, graphs: dict[str, GraphProto]
    ) -> dict[str, Any]:
        attrs: dict[str, Any] = {}
        expected = how.facts.attrs
        for proto in node.attribute:
            name = proto.name
            fact = expected.get(name)
            if fact is None:
                if how.row.domain:
                    raise KeepOpaque(f"attribute {name_of(name)}")
                known = ", ".join(sorted(expected)) or "none"
                raise InvalidModelError(
                    f'{node.op_type}-{how.facts.since} has no attribute "{shown(name)}"',
                    code="onnx-attribute",
                    hint=f"it has: {known}",
                )
            if name in attrs or name in graphs:
                raise InvalidModelError(
                    f'attribute "{shown(name)}" is given twice', code="onnx-attribute"
                )
            kind = int(proto.type)
            if kind != fact.kind:
                if how.row.domain:
                    raise KeepOpaque(f"attribute {name}")
                raise InvalidModelError(
                    f'attribute "{shown(name)}" of {node.op_type} should be '
                    f"{KIND_NAMES[fact.kind]}, got {KIND_NAMES.get(kind, kind)}",
                    code="onnx-attribute",
                )
            if kind == _GRAPH and not proto.ref_attr_name:
                graphs[name] = proto.g
                continue
            if proto.ref_attr_name:
                self._check_parameter(proto)
            value = decode_attribute(proto, kind, self._tensor, keep=False)
            decode = how.decoders[name]
            try:
                attrs[name] = value if decode is None else decode(value)
            except ValueError as error:
                raise InvalidModelError(
                    f'attribute "{shown(name)}": {error}', code="onnx-attribute"
                ) from error
        return attrs

    def _tensor(self, proto: Any) -> Tensor:
        return self.tensors.read(proto, "a tensor attribute")

    def _make_const(self, block: Block) -> Any:
        """Return the function that puts an attribute's value before the node as a constant."""

        def make(data: Any, kind: str, like: Value | None) -> Value:
            array: np.ndarray[Any, Any]
            if kind in ("ints", "int1"):
                array = np.asarray(data, np.int64).reshape(-1)
            elif kind == "int":
                array = np.asarray(data, np.int64)
            elif kind == "floats":
                array = np.asarray(data, np.float32).reshape(-1)
            else:
                array = np.asarray(data, np.float32)
            if kind != "like" or like is None or like.dtype is dtypes.F32:
                return self.constant(DenseTensor(array), block)
            if like.dtype is not None:
                exact = array.astype(like.dtype.numpy)
                return self.constant(DenseTensor(exact, like.dtype), block)
            op = create("cast_like", [self.constant(DenseTensor(array), block), like])
            block.append(op)
            infer_op(op)
            return op.result

        return make

    # -- constants and opaque nodes ----------------------------------------------------------------

    def _constant_node(self, node: NodeProto, block: Block, scope: Scope) -> Op | None:
        if len(node.attribute) != 1 or node.attribute[0].name not in _CONSTANT_FORMS:
            raise InvalidModelError(
                f"Constant needs exactly one of {', '.join(_CONSTANT_FORMS)}",
                code="onnx-attribute",
            )
        if len(node.output) != 1 or not node.output[0] or len(node.input):
            raise InvalidModelError("Constant has one output and no inputs", code="onnx-node")
        proto = node.attribute[0]
        name = node.output[0]
        payload = self._constant_payload(proto)
        if payload is None:
            value = self._sparse_constant(proto, block)
        else:
            value = self.constant(payload, block)
        assert value.op is not None
        self._describe(value.op, node)
        self.define(scope, name, value)
        return None

    def _constant_payload(self, proto: AttributeProto) -> Tensor | AttrRef | None:
        kind = int(proto.type)
        name = proto.name
        if proto.ref_attr_name:
            self._check_parameter(proto)
            return AttrRef(proto.ref_attr_name, KIND_NAMES.get(kind, "tensor"))
        if name == "sparse_value":
            return self.tensors.read_sparse(proto.sparse_tensor, "a sparse constant")
        value = decode_attribute(proto, kind, self._tensor, keep=False)
        expected: dict[str, Any] = {
            "value": Tensor,
            "value_float": float,
            "value_int": int,
            "value_string": (str, bytes),
        }
        if not isinstance(value, expected.get(name, tuple)):
            raise InvalidModelError(
                f"attribute {name} of Constant is of the wrong kind", code="onnx-attribute"
            )
        if isinstance(value, Tensor):
            return value
        if name.startswith("value_float"):
            return DenseTensor(np.asarray(value, np.float32))
        if name.startswith("value_int"):
            return DenseTensor(np.asarray(value, np.int64))
        items = np.empty((len(value),) if name == "value_strings" else (), object)
        items[...] = value
        return DenseTensor(items, dtypes.STRING)

    def _opaque(
        self, node: NodeProto, inputs: list[Value | None], outputs: int, callee: str | None = None
    ) -> tuple[Op, list[tuple[GraphProto, Region]]]:
        """Return an operation that only carries the node through, or calls a local function."""
        attrs: dict[str, Any] = {} if callee is None else {"callee": callee}
        graphs: list[tuple[str, GraphProto]] = []
        for proto in node.attribute:
            kind = int(proto.type)
            if kind == _GRAPH and not proto.ref_attr_name:
                graphs.append((proto.name, proto.g))
            elif kind == _GRAPHS and len(proto.graphs):
                graphs += [(f"{proto.name}[{i}]", g) for i, g in enumerate(proto.graphs)]
            else:
                if proto.ref_attr_name:
                    self._check_parameter(proto)
                name = name_of(proto.name)
                attrs[name] = decode_attribute(proto, kind, self._opaque_tensor, keep=True)
        if callee is not None:
            self._check_call(callee, len(inputs), outputs)
        domain = "" if node.domain == "ai.onnx" else node.domain
        name = f"{domain or 'onnx'}.{node.op_type}" if callee is None else "call"
        definition = None if callee is None else lookup("call")
        op = Op(name, definition, inputs, attrs, outputs, len(graphs))
        if callee is None:
            op.version = self.opsets.get(domain)
        for region, (label, _) in zip(op.regions, graphs, strict=True):
            region.name = label
        return op, [(g, r) for (_, g), r in zip(graphs, op.regions, strict=True)]

    def _check_call(self, callee: str, inputs: int, outputs: int) -> None:
        most = self.signatures.get(callee)
        if most is not None and (inputs > most[0] or outputs > most[1]):
            raise InvalidModelError(
                f"function {shown(callee)} has {most[0]} inputs and {most[1]} outputs, "
                f"called with {inputs} and {outputs}",
                code="onnx-function",
            )

    def _check_parameter(self, proto: AttributeProto) -> None:
        """Refuse a reference to what is no attribute parameter of the function."""
        if proto.ref_attr_name not in self.function.attr_params:
            raise InvalidModelError(
                f'attribute "{shown(proto.name)}" refers to "{shown(proto.ref_attr_name)}", '
                "which is no attribute of a function around it",
                code="onnx-attribute",
            )

    def _opaque_tensor(self, proto: Any) -> Tensor:
        return self.tensors.read(proto, "a tensor attribute")
