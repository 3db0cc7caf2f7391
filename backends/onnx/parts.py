"""Small parts of messages: opset imports, metadata, names of local functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.ir import Op

if TYPE_CHECKING:
    from lepton_ir.ir import Block, Function, Value


def callee_key(function: Function) -> tuple[str, str, str]:
    """Return (domain, name, overload) of a local function."""
    if "name" in function.meta:
        meta = function.meta
        return meta.get("domain", ""), meta["name"], meta.get("overload", "")
    domain, name, overload = (*function.name.split(":"), "", "")[:3]
    return (domain, name, overload) if name else ("local", domain, "")


def is_inside(value: Value, block: Block) -> bool:
    """Return whether a value is defined in the block itself."""
    producer = value.producer
    return (producer.block if isinstance(producer, Op) else producer) is block


def write_opsets(opsets: dict[str, int], target: Any) -> None:
    """Write opset imports."""
    for domain, version in opsets.items():
        entry = target.add()
        entry.domain, entry.version = domain, version


def write_metadata(items: dict[str, str], target: Any) -> None:
    """Write metadata properties."""
    for key, value in items.items():
        entry = target.add()
        entry.key, entry.value = key, value


def write_value_meta(meta: dict[str, Any], target: Any) -> None:
    """Write doc string and metadata."""
    if meta.get("doc"):
        target.doc_string = meta["doc"]
    write_metadata(meta.get("metadata", {}), target.metadata_props)
