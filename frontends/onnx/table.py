"""The table of ONNX operators and IR operations, read forwards (import) and backwards (export).

A row names the operator and the operation, and lists only what differs between opsets. The rest
comes from the ONNX schema in force and from the operation's definition: attributes with the same
names, operands in the same order, and, where a default changed, the value that was meant.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto

from lepton_ir import opdef
from lepton_ir.dtypes import DType
from lepton_ir.frontends.onnx.table_schema import (
    NO_DEFAULT,
    AttrFacts,
    Facts,
    facts,
    known_domain,
)
from lepton_ir.frontends.onnx.table_values import DTYPE_OF, DTYPE_OF_TYPE
from lepton_ir.infer import const_array
from lepton_ir.ir import AttrRef, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from lepton_ir.ir import Op
    from lepton_ir.opdef import OpDef
    from lepton_ir.tensors import Tensor


class KeepOpaque(Exception):
    """The node means something that the operation cannot say: it is carried through as it is."""


class Unwritable(Exception):
    """The operation cannot be written as one node of this opset; the message says why."""


class Incoming:
    """A node on its way in: what changes of a row rewrite.

    Attributes:
        attrs: attributes under their ONNX names, decoded; rewritten into the IR's.
        inputs: operands, ``None`` when absent.
        outputs: number of results.
        version: opset of the node.
        const: ``const(data, kind, like)`` puts a constant before the node; kinds as in `Moved`,
            ``like`` is the operand whose element type it takes.
        insert: ``insert(name, *operands)`` puts an operation before the node.
    """

    __slots__ = ("attrs", "const", "inputs", "insert", "outputs", "version")

    def __init__(
        self,
        attrs: dict[str, Any],
        inputs: list[Value | None],
        outputs: int,
        version: int,
        const: Callable[[Any, str, Value | None], Value],
        insert: Callable[..., Value],
    ) -> None:
        self.attrs = attrs
        self.inputs = inputs
        self.outputs = outputs
        self.version = version
        self.const = const
        self.insert = insert

    def set_input(self, index: int, value: Value) -> None:
        """Put an operand at a position, filling up with absent ones."""
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = value


class Outgoing:
    """An operation on its way out: what changes of a row rewrite backwards.

    Attributes:
        attrs: every attribute, defaults filled in; rewritten into the opset's.
        inputs: operands, ``None`` when absent; a tensor is a constant that only the old form has.
        version: the opset written.
        op: the operation, not to be changed.
    """

    __slots__ = ("attrs", "inputs", "op", "version")

    def __init__(
        self, attrs: dict[str, Any], inputs: list[Value | Tensor | None], version: int, op: Op
    ) -> None:
        self.attrs = attrs
        self.inputs = inputs
        self.version = version
        self.op = op

    def operand(self, index: int) -> Value | None:
        """Return the operand at a position, ``None`` when absent."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return value if isinstance(value, Value) else None

    def take_input(self, index: int) -> Value | None:
        """Remove and return the operand at a position."""
        if index >= len(self.inputs):
            return None
        value, self.inputs[index] = self.inputs[index], None
        return value if isinstance(value, Value) else None

    def take_constant(self, index: int, what: str) -> np.ndarray[Any, Any] | AttrRef | None:
        """Remove the operand at a position and return its data, ``None`` when absent.

        Raises:
            Unwritable: it is not a constant.
        """
        value = self.take_input(index)
        if value is None:
            return None
        producer = value.op
        if producer is not None and producer.name == "const":
            payload = producer.attrs.get("value")
            if isinstance(payload, AttrRef):
                return payload
        array = const_array(value)
        if array is None:
            raise Unwritable(f"{what} is an attribute in opset {self.version} but not a constant")
        return array


class Change:
    """One difference between opsets; ``before`` is the opset that brought today's form."""

    before: int

    def forward(self, node: Incoming) -> None:
        """Turn a node of an opset older than ``before`` into today's form."""

    def backward(self, node: Outgoing) -> None:
        """Turn today's form into that of an opset older than ``before``.

        Raises:
            Unwritable: it cannot be said in that opset.
        """

    def consumes(self) -> tuple[str, ...]:
        """Return the ONNX attributes of old opsets that this change explains."""
        return ()

    def produces(self) -> tuple[str, ...]:
        """Return the IR attributes and operands (``#1``) that this change explains."""
        return ()


@dataclass(frozen=True)
class Moved(Change):
    """An attribute that became an operand.

    Attributes:
        kind: ``ints`` and ``floats`` are vectors, ``int1`` a vector of one, ``int`` a scalar, and
            ``like`` a scalar of the element type of the first operand.
        absent: what a missing attribute meant, ``None`` when the operand is then missing too.
        meant: what a missing operand means, where a missing attribute means something else.
    """

    attr: str
    index: int
    before: int
    kind: str = "ints"
    absent: Any = None
    meant: Any = None

    def forward(self, node: Incoming) -> None:
        value = node.attrs.pop(self.attr, self.absent)
        if value is None:
            return
        like = node.inputs[0] if node.inputs else None
        node.set_input(self.index, node.const(value, self.kind, like))

    def backward(self, node: Outgoing) -> None:
        value = node.take_constant(self.index, self.attr)
        if value is None:
            if self.meant is not None:
                node.attrs[self.attr] = self.meant
            return
        if isinstance(value, AttrRef):
            node.attrs[self.attr] = value
            return
        items = value.reshape(-1).tolist()
        if self.kind in ("ints", "floats"):
            node.attrs[self.attr] = tuple(items)
        elif len(items) != 1:
            raise Unwritable(f"{self.attr} has {len(items)} elements, expected one")
        else:
            node.attrs[self.attr] = items[0]

    def consumes(self) -> tuple[str, ...]:
        return (self.attr,)

    def produces(self) -> tuple[str, ...]:
        return (f"#{self.index}",)


@dataclass(frozen=True)
class Implied(Change):
    """An attribute that older opsets did not have, and meant another value than today's default."""

    attr: str
    value: Any
    before: int

    def forward(self, node: Incoming) -> None:
        node.attrs.setdefault(self.attr, self.value)

    def backward(self, node: Outgoing) -> None:
        value = node.attrs.pop(self.attr)
        if value != self.value:
            raise Unwritable(
                f"{self.attr}={_text(value)} needs opset {self.before}, "
                f"older ones mean {_text(self.value)}"
            )

    def produces(self) -> tuple[str, ...]:
        return (self.attr,)


@dataclass(frozen=True)
class Dropped(Change):
    """An attribute that newer opsets do not have; ``keep`` is the one value that is still meant."""

    attr: str
    keep: Any
    before: int

    def forward(self, node: Incoming) -> None:
        value = node.attrs.pop(self.attr, self.keep)
        if self.keep is not None and value != self.keep:
            raise KeepOpaque(f"{self.attr}={_text(value)}")

    def consumes(self) -> tuple[str, ...]:
        return (self.attr,)


@dataclass(frozen=True)
class Respelled(Change):
    """Values of an attribute that older opsets spelt otherwise: ``((old, new), ...)``."""

    attr: str
    pairs: tuple[tuple[str, str], ...]
    before: int

    def forward(self, node: Incoming) -> None:
        value = node.attrs.get(self.attr)
        known: dict[Any, str] = dict(self.pairs)
        node.attrs[self.attr] = known.get(value, value)

    def backward(self, node: Outgoing) -> None:
        value = node.attrs.get(self.attr)
        back: dict[Any, str] = {new: old for old, new in self.pairs}
        node.attrs[self.attr] = back.get(value, value)


@dataclass(frozen=True)
class Custom(Change):
    """A difference that takes code."""

    before: int
    on_import: Callable[[Incoming], None] | None = None
    on_export: Callable[[Outgoing], None] | None = None
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def forward(self, node: Incoming) -> None:
        if self.on_import is not None:
            self.on_import(node)

    def backward(self, node: Outgoing) -> None:
        if self.on_export is not None:
            self.on_export(node)

    def consumes(self) -> tuple[str, ...]:
        return self.old

    def produces(self) -> tuple[str, ...]:
        return self.new


@dataclass(frozen=True)
class Row:
    """An operator and the operation it is.

    Attributes:
        domain: ONNX domain, ``""`` the default one.
        name: name of the IR operation.
        changes: differences between opsets, oldest form first.
        until: the row is written only in opsets below this one (an operator that another
            replaced); it is read in all that have it.
        since: the row is read and written only from this opset on; older nodes stay opaque.
        without: attributes of the operation that an operator without a schema does not have.
        contrib: onnxruntime registers the operator in a domain whose specification has it not.
        early: onnxruntime has the operator in opsets before the one that brought it, too.
    """

    domain: str
    op_type: str
    name: str
    changes: tuple[Change, ...] = ()
    until: int = 1 << 30
    since: int = 0
    without: tuple[str, ...] = ()
    contrib: bool = False
    early: bool = False


class Plan:
    """A row resolved for one opset: everything the two roads ask per node, computed once.

    Attributes:
        accepts: per formal input, the element types it may have.
        changes: the changes in force.
        contrib: whether only onnxruntime has the operator in this opset.
        fill: IR attributes whose meaning when absent is not the IR's default.
        writable: attributes of the opset, name to (kind, required, default as the IR says it).
    """

    __slots__ = (
        "accepts",
        "changes",
        "contrib",
        "decoders",
        "definition",
        "facts",
        "fill",
        "plain",
        "row",
        "version",
        "writable",
    )

    def __init__(
        self, row: Row, definition: OpDef, found: Facts, version: int, *, contrib: bool = False
    ) -> None:
        self.row = row
        self.contrib = contrib
        self.definition = definition
        self.facts = found
        self.version = version
        self.accepts = tuple(
            frozenset(DTYPE_OF_TYPE[t] for t in types if t in DTYPE_OF_TYPE)
            for types in found.input_types
        )
        self.changes = tuple(c for c in row.changes if version < c.before)
        specs = definition.attrs
        self.decoders: dict[str, Callable[[Any], Any] | None] = {
            name: _DECODE.get(specs[name].kind) if name in specs else None for name in found.attrs
        }
        self.fill: dict[str, Any] = {}
        self.writable: dict[str, tuple[int, bool, Any]] = {}
        for name, attr in found.attrs.items():
            default = attr.default
            decode = self.decoders[name]
            if default is not NO_DEFAULT and decode is not None:
                default = decode(default)
            self.writable[name] = (attr.kind, attr.required, default)
            if name not in specs or default is NO_DEFAULT:
                continue
            if not same_value(default, specs[name].default):
                self.fill[name] = default
        self.plain = not self.changes and not self.fill


def same_value(a: Any, b: Any) -> bool:
    """Return whether two attribute values are the same once written (floats have 32 bits)."""
    if a is b or a == b:
        return type(a) is type(b) or not (isinstance(a, bool) ^ isinstance(b, bool))
    if isinstance(a, float) and isinstance(b, float):
        return _f32(a) == _f32(b)
    return False


def _f32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<d", value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _dtype(number: Any) -> Any:
    if isinstance(number, (AttrRef, DType)) or number == 0:
        return None if number == 0 else number
    if number not in DTYPE_OF:
        raise ValueError(f"{number} is not an element type")
    return DTYPE_OF[number]


def _bool(value: Any) -> Any:
    return value if isinstance(value, AttrRef) else value != 0


_DECODE: dict[str, Callable[[Any], Any]] = {"dtype": _dtype, "bool": _bool}

SPEC_KINDS: dict[str, int] = {
    "int": AttributeProto.INT,
    "bool": AttributeProto.INT,
    "dtype": AttributeProto.INT,
    "float": AttributeProto.FLOAT,
    "str": AttributeProto.STRING,
    "ints": AttributeProto.INTS,
    "floats": AttributeProto.FLOATS,
    "strs": AttributeProto.STRINGS,
    "tensor": AttributeProto.TENSOR,
    "type": AttributeProto.TYPE_PROTO,
}
"""Attribute kind of the IR to AttributeProto type."""


def _facts_of_definition(definition: OpDef, without: tuple[str, ...]) -> Facts:
    """Return the facts of an operator without a schema: the operation's definition is its own."""
    many = 1 << 31
    attrs: Mapping[str, AttrFacts] = {
        spec.name: AttrFacts(
            SPEC_KINDS.get(spec.kind, 0),
            spec.required,
            NO_DEFAULT if spec.default is None else spec.default,
        )
        for spec in definition.attrs.values()
        if spec.name not in without
    }
    return Facts(
        1,
        False,
        definition.min_operands,
        many if definition.max_operands < 0 else definition.max_operands,
        definition.min_results,
        many if definition.max_results < 0 else definition.max_results,
        tuple(o.name for o in definition.operands),
        tuple(o.name for o in definition.results),
        {
            **attrs,
            **{r: AttrFacts(AttributeProto.GRAPH, True, NO_DEFAULT) for r in definition.regions},
        },
        (),
    )


@functools.cache
def rows() -> tuple[dict[tuple[str, str], Row], dict[str, tuple[Row, ...]]]:
    """Return the table twice: by (domain, operator), and by operation, preferred rows first."""
    from lepton_ir.frontends.onnx.table_rows import all_rows

    forward: dict[tuple[str, str], Row] = {}
    backward: dict[str, tuple[Row, ...]] = {}
    for row in all_rows():
        if (row.domain, row.op_type) in forward:
            raise ValueError(f"two rows for {row.domain}.{row.op_type}")
        forward[row.domain, row.op_type] = row
        backward[row.name] = (*backward.get(row.name, ()), row)
    return forward, backward


@functools.cache
def plan(domain: str, op_type: str, version: int) -> Plan | None:
    """Return how nodes of an operator are read in an opset, ``None`` when they stay opaque."""
    row = rows()[0].get((domain, op_type))
    if row is None or version < row.since:
        return None
    return _resolve(row, version)


def _resolve(row: Row, version: int) -> Plan | None:
    definition = opdef.lookup(row.name)
    if definition is None:
        return None
    contrib = row.contrib
    found = None
    if known_domain(row.domain) and not contrib:
        found = facts(row.domain, row.op_type, version)
        contrib = found is None and row.early
    if contrib or not known_domain(row.domain):
        found = _facts_of_definition(definition, row.without)
    return None if found is None else Plan(row, definition, found, version, contrib=contrib)


@functools.cache
def export_plans(name: str, opsets: tuple[tuple[str, int], ...]) -> tuple[Plan, ...]:
    """Return the ways to write an operation, preferred first, given (domain, version) pairs."""
    versions = dict(opsets)
    found = []
    for row in rows()[1].get(name, ()):
        version = versions.get(row.domain, 1 if row.domain else 0)
        if not row.since <= version < row.until:
            continue
        resolved = _resolve(row, version)
        if resolved is not None:
            found.append(resolved)
    return tuple(found)


def as_node(p: Plan, op: Op) -> tuple[dict[str, tuple[Any, int]], list[Value | Tensor | None]]:
    """Return the attributes (value and kind) and inputs of the node that says ``op``.

    Raises:
        Unwritable: this opset's operator cannot say it.
    """
    attrs = op.all_attrs()
    inputs: Sequence[Value | Tensor | None] = op.operands
    if p.changes:
        node = Outgoing(dict(attrs), list(inputs), p.version, op)
        for change in reversed(p.changes):
            change.backward(node)
        attrs, inputs = node.attrs, node.inputs
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    _check_counts(p, op, kept)
    return _node_attrs(p, attrs), kept


def _node_attrs(p: Plan, attrs: Mapping[str, Any]) -> dict[str, tuple[Any, int]]:
    out: dict[str, tuple[Any, int]] = {}
    writable, specs = p.writable, p.definition.attrs
    for name, value in attrs.items():
        entry = writable.get(name)
        if entry is None:
            spec = specs.get(name)
            if spec is None or not same_value(value, spec.default):
                raise Unwritable(
                    f"attribute {name}={_text(value)} does not exist in {_operator(p)}"
                )
            continue
        kind, required, default = entry
        if value is None:
            if required or (default is not NO_DEFAULT and default is not None):
                raise Unwritable(f"attribute {name} is required in {_operator(p)}")
            continue
        meant = specs[name].default if default is NO_DEFAULT and name in specs else default
        if not required and same_value(value, meant):
            continue
        out[name] = (value, kind)
    return out


def _check_counts(p: Plan, op: Op, inputs: Sequence[Value | Tensor | None]) -> None:
    found = p.facts
    if len(inputs) > found.max_inputs:
        extra = p.definition.operands[min(found.max_inputs, len(p.definition.operands) - 1)].name
        raise Unwritable(f"operand {extra} does not exist in {_operator(p)}")
    if len(inputs) < found.min_inputs:
        raise Unwritable(f"{_operator(p)} needs {found.min_inputs} inputs, this has {len(inputs)}")
    if len(op.results) > found.max_outputs:
        raise Unwritable(f"{_operator(p)} has no result number {found.max_outputs + 1}")


def _operator(p: Plan) -> str:
    domain = f"{p.row.domain}." if p.row.domain else ""
    return f"{domain}{p.row.op_type}-{p.facts.since}"
