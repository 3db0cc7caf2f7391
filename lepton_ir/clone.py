"""Copying operations: into another place, another function, another module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.ir import AttrRef, Block, Function, Module, Op, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.diagnostics import Location


def clone_op(
    op: Op,
    values: dict[Value, Value],
    *,
    attrs: Callable[[Any], Any] | None = None,
    locate: Callable[[Location], Location] | None = None,
) -> Op:
    """Return a detached copy of ``op`` and all inside it.

    Args:
        op: what to copy.
        values: maps old to new values; values not in it are read as they are. Results and block
            arguments of the copy are added.
        attrs: maps each attribute value (binding attribute parameters, say).
        locate: maps each location.
    """
    copy = _shell(op, values, attrs, locate)
    for old, new in zip(op.regions, copy.regions, strict=True):
        _fill(old.block, new.block, values, attrs, locate)
    return copy


def _fill(
    old_block: Block,
    new_block: Block,
    values: dict[Value, Value],
    attrs: Callable[[Any], Any] | None,
    locate: Callable[[Location], Location] | None,
) -> None:
    _copy_args(old_block, new_block, values)
    for inner in old_block.ops:
        made = _shell(inner, values, attrs, locate)
        for old, new in zip(inner.regions, made.regions, strict=True):
            _fill(old.block, new.block, values, attrs, locate)
        new_block.append(made)


def _copy_args(old_block: Block, new_block: Block, values: dict[Value, Value]) -> None:
    for arg in old_block.args:
        _copy_facts(arg, new_block.add_arg(arg.type, arg.name), values)


def _copy_facts(old: Value, new: Value, values: dict[Value, Value]) -> None:
    new.type, new.name, new.declared = old.type, old.name, old.declared
    new.content, new.meta = old.content, old.meta
    values[old] = new


def _shell(
    op: Op,
    values: dict[Value, Value],
    attrs: Callable[[Any], Any] | None,
    locate: Callable[[Location], Location] | None,
) -> Op:
    operands = [None if v is None else values.get(v, v) for v in op.operands]
    mapped = dict(op.attrs)
    if attrs is not None:
        mapped = {k: attrs(v) for k, v in op.attrs.items()}
        # An attribute parameter the caller left out and that has no default is absent.
        mapped = {k: v for k, v in mapped.items() if v is not None}
    loc = op.loc if locate is None else locate(op.loc)
    made = Op(op.name, op.definition, operands, mapped, len(op.results), len(op.regions), loc)
    made.node_name, made.version, made.meta = op.node_name, op.version, op.meta
    made.symbols = None if op.symbols is None else list(op.symbols)
    for old, new in zip(op.results, made.results, strict=True):
        _copy_facts(old, new, values)
    for old_region, new_region in zip(op.regions, made.regions, strict=True):
        new_region.name = old_region.name
    return made


def clone_function(function: Function, module: Module, name: str | None = None) -> Function:
    """Add a copy of ``function`` to ``module`` and return it."""
    copy = module.add_function(name or function.name)
    copy.output_names = list(function.output_names)
    copy.attr_params = dict(function.attr_params)
    copy.opsets = dict(function.opsets)
    copy.meta = dict(function.meta)
    copy.used_symbols = set(function.used_symbols)
    copy.positive = dict(function.positive)
    copy.overridable = dict(function.overridable)
    values: dict[Value, Value] = {}
    _fill(function.block, copy.block, values, None, None)
    return copy


def clone_module(module: Module) -> Module:
    """Return a copy that shares only constants' payloads and locations."""
    copy = Module(module.name)
    copy.opsets = dict(module.opsets)
    copy.meta = dict(module.meta)
    copy.remarks = list(module.remarks)
    for function in module.functions.values():
        clone_function(function, copy)
    return copy


def bind_attrs(given: dict[str, Any]) -> Callable[[Any], Any]:
    """Return a function that replaces attribute parameters by their values."""

    def bind(value: Any) -> Any:
        return given.get(value.name) if isinstance(value, AttrRef) else value

    return bind
