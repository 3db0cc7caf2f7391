"""The reference interpreter: evaluates a module by calling each operation's NumPy meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.diagnostics import LeptonError, UnsupportedError, shorten
from lepton_ir.infer import describe
from lepton_ir.ir import AttrRef, Block, Function, Module, Op, Region, Value
from lepton_ir.types import SequenceType, TensorType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_DEPTH = 64
"""Nesting of calls and regions that are evaluated."""


class EvaluationError(LeptonError):
    """An operation has no meaning for the values it got."""


def run_module(module: Module, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate ``main`` on ``feeds`` (input name to array); return outputs by name.

    Raises:
        EvaluationError: an input is missing, or an operation fails on its values.
        UnsupportedError: an operation has no deterministic meaning.
    """
    values = run_function(module, module.main, _bind(module.main, feeds))
    return dict(zip(module.main.output_names, values, strict=True))


def run_list(module: Module, feeds: Mapping[str, Any]) -> list[Any]:
    """Like :func:`run_module`, but returns the outputs in order (names may repeat)."""
    return run_function(module, module.main, _bind(module.main, feeds))


def _bind(function: Function, feeds: Mapping[str, Any]) -> list[Any]:
    args = []
    for value in function.inputs:
        name = value.name or ""
        if name in feeds:
            item = feeds[name]
            args.append(item if isinstance(item, list) or item is None else np.asarray(item))
        elif name in function.overridable:
            args.append(function.overridable[name].numpy())
        else:
            raise EvaluationError(f"no value for input {shorten(name)!r}", code="feeds")
    return args


def run_function(
    module: Module | None,
    function: Function,
    args: Sequence[Any],
    attrs: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Evaluate one function on positional arguments."""
    frame = _Frame(module, dict(attrs or {}), {}, 0)
    for value, arg in zip(function.inputs, args, strict=False):
        frame.values[value] = arg
    return frame.run_block(function.block)


def evaluate(value: Value, env: Mapping[Value, Any]) -> Any:
    """Evaluate one value, given others; computes what it needs, in order."""
    frame = _Frame(None, {}, dict(env), 0)
    pending = [value]
    while pending:
        current = pending[-1]
        op = current.op
        if current in frame.values:
            pending.pop()
        elif op is None:
            raise EvaluationError(f"{current} is not given", code="feeds")
        else:
            missing = [v for v in op.operands if v is not None and v not in frame.values]
            if missing:
                pending += missing
            else:
                frame.run_op(op)
    return frame.values[value]


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def call_meaning(op: Op, operands: Sequence[Any], attrs: Mapping[str, Any]) -> list[Any]:
    """Call the NumPy meaning of ``op``.

    Args:
        op: the operation, for its definition, its result types and messages.
        operands: arrays, lists for sequences, ``None`` for absent operands.
        attrs: all attributes, and a callable per region by the region's name.

    Returns:
        All results that the meaning gives, as arrays, lists or ``None``.

    Raises:
        EvaluationError: the operation fails on these values.
        UnsupportedError: it has no deterministic meaning.
    """
    definition = op.definition
    if definition is None or definition.meaning is None:
        raise UnsupportedError(
            f"{shorten(op.name)} has no deterministic meaning",
            code="no-meaning",
            where=describe(op),
        )
    padding = [None] * max(definition.max_operands - len(operands), 0)
    try:
        with np.errstate(all="ignore"):
            found = definition.meaning(*operands, *padding, **attrs)
    except LeptonError:
        raise
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise EvaluationError(str(error), code=f"{op.name}-eval", where=describe(op)) from error
    if isinstance(found, list) and isinstance(op.results[0].type, SequenceType):
        found = (found,)
    if not isinstance(found, tuple):
        found = (found,)
    return [_settled(v, x) for v, x in zip(op.results, found, strict=False)]


def _settled(value: Value, found: Any) -> Any:
    from lepton_ir.ops.control import NoRows

    if isinstance(found, NoRows):
        t = value.type if isinstance(value.type, TensorType) else None
        if t is None or t.dtype is None or t.shape is None:
            raise EvaluationError(f"zero iterations leave the shape of {value} open")
        rest = [d if isinstance(d, int) else 0 for d in t.shape[1:]]
        return np.zeros((0, *rest), t.dtype.numpy)
    if isinstance(found, np.generic):
        return np.asarray(found)
    return found


class _Frame:
    """Values of one activation; regions share the enclosing activation's values."""

    def __init__(
        self, module: Module | None, attrs: dict[str, Any], values: dict[Value, Any], depth: int
    ) -> None:
        self.module = module
        self.attrs = attrs
        self.values = values
        self.depth = depth
        if depth > MAX_DEPTH:
            raise EvaluationError("calls and regions are nested too deeply", code="depth")

    def run_block(self, block: Block) -> list[Any]:
        """Evaluate a block; return the operands of its terminator."""
        remaining = self._last_uses(block)
        for op in block.ops:
            if op.definition is not None and "terminator" in op.definition.traits:
                return [None if v is None else _copy(self.values[v]) for v in op.operands]
            self.run_op(op)
            for value in op.operands:
                if value is not None and remaining.get(value) is op:
                    self.values.pop(value, None)
        raise EvaluationError("a block has no terminator", code="verify")

    def _last_uses(self, block: Block) -> dict[Value, Op]:
        """Map values defined in ``block`` to the operation of the block after which they go."""
        last: dict[Value, Op] = {}
        if block.parent_op is not None:
            return last  # a loop body is evaluated again: keep it simple and keep its values
        for op in block.ops:
            for inner in op.walk() if op.regions else (op,):
                for value in inner.operands:
                    if value is not None and value.op is not None and value.op.block is block:
                        last[value] = op
        return last

    def run_op(self, op: Op) -> None:
        """Evaluate one operation into ``values``."""
        results = self._call(op) if op.name == "call" else self._meaning(op)
        for value, found in zip(op.results, results, strict=False):
            self.values[value] = found

    def _meaning(self, op: Op) -> Sequence[Any]:
        attrs = {n: self._attr(v) for n, v in op.all_attrs().items()}
        names = () if op.definition is None else op.definition.regions
        for region, name in zip(op.regions, names, strict=False):
            attrs[name] = _Body(self, region)
        operands = [None if v is None else self.values[v] for v in op.operands]
        return call_meaning(op, operands, attrs)

    def _attr(self, value: Any) -> Any:
        return self.attrs.get(value.name) if isinstance(value, AttrRef) else value

    def _call(self, op: Op) -> tuple[Any, ...]:
        callee = op.attrs["callee"]
        if self.module is None or callee not in self.module.functions:
            raise EvaluationError(f"call of unknown function {shorten(callee)}", where=describe(op))
        function = self.module.functions[callee]
        attrs = {
            name: self._attr(op.attrs.get(name, default))
            for name, default in function.attr_params.items()
        }
        frame = _Frame(self.module, attrs, {}, self.depth + 1)
        args = [None if v is None else self.values[v] for v in op.operands]
        args += [None] * (len(function.inputs) - len(args))
        for value, arg in zip(function.inputs, args, strict=False):
            frame.values[value] = arg
        return tuple(frame.run_block(function.block))


class _Body:
    """A region as a callable on arrays."""

    def __init__(self, frame: _Frame, region: Region) -> None:
        self.frame = frame
        self.block = region.block
        last = region.block.terminator
        self.result_count = 0 if last is None else len(last.operands)

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        inner = _Frame(self.frame.module, self.frame.attrs, self.frame.values, self.frame.depth + 1)
        if len(args) != len(self.block.args):
            raise EvaluationError(f"a region takes {len(self.block.args)} values, got {len(args)}")
        for value, arg in zip(self.block.args, args, strict=True):
            inner.values[value] = arg
        return tuple(inner.run_block(self.block))
