"""What the ONNX specification says about one operator in one opset, from the schemas in `onnx`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import onnx.defs

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_OPSET = 7
"""The oldest opset that is imported by table; older models go through the version converter."""

MAX_OPSET = 28
"""The latest opset whose meaning the IR's operation table has."""

ONNX_DOMAIN = ""

_KIND_OF: dict[str, int] = dict(onnx.AttributeProto.AttributeType.items())

NO_DEFAULT = object()
"""Marks an attribute without a default value."""


@dataclass(frozen=True, slots=True)
class AttrFacts:
    """A formal attribute: AttributeProto type number, whether required, default value."""

    kind: int
    required: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Facts:
    """The schema of an operator as of one opset version.

    Attributes:
        since: the opset that introduced this schema.
        min_inputs: inputs that must be present.
        max_inputs: inputs at most, a huge number when variadic.
        input_types: per formal input, the type strings it accepts (``tensor(float)``).
    """

    since: int
    deprecated: bool
    min_inputs: int
    max_inputs: int
    min_outputs: int
    max_outputs: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, AttrFacts]
    input_types: tuple[frozenset[str], ...]


def _default(proto: Any) -> Any:
    kind = proto.type
    if kind == onnx.AttributeProto.INT:
        return proto.i
    if kind == onnx.AttributeProto.FLOAT:
        return proto.f
    if kind == onnx.AttributeProto.STRING:
        return proto.s.decode()
    if kind == onnx.AttributeProto.INTS:
        return tuple(proto.ints)
    if kind == onnx.AttributeProto.FLOATS:
        return tuple(proto.floats)
    if kind == onnx.AttributeProto.STRINGS:
        return tuple(s.decode() for s in proto.strings)
    return NO_DEFAULT


@functools.cache
def facts(domain: str, op_type: str, version: int) -> Facts | None:
    """Return the schema of an operator in an opset, ``None`` when the opset does not have it."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    return facts_of(schema)


def facts_of(schema: onnx.defs.OpSchema) -> Facts:
    """Return the facts in a schema."""
    return Facts(
        schema.since_version,
        schema.deprecated,
        schema.min_input,
        schema.max_input,
        schema.min_output,
        schema.max_output,
        tuple(i.name for i in schema.inputs),
        tuple(o.name for o in schema.outputs),
        {
            name: AttrFacts(
                _KIND_OF[str(a.type).rpartition(".")[2]], a.required, _default(a.default_value)
            )
            for name, a in schema.attributes.items()
        },
        tuple(frozenset(i.types) for i in schema.inputs),
    )


def op_type_exists(domain: str, op_type: str, version: int) -> bool:
    """Return whether a node of this type may be written in this opset."""
    found = facts(domain, op_type, version)
    return found is not None and not found.deprecated


def known_domain(domain: str) -> bool:
    """Return whether the specification governs this domain."""
    return domain == ONNX_DOMAIN
