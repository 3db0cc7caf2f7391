"""Rows of control flow: regions become subgraphs that are given all they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.row import Row
from lepton_ir.infer import is_true
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.ir import Block, Op, Value

_SCALAR_I64 = TensorType(dtypes.I64, ())
_SCALAR_BOOL = TensorType(dtypes.BOOL, ())


def captured(blocks: Iterable[Block]) -> list[Value]:
    """Return the values of outside that blocks read, constants excepted, in order."""
    inside: set[Value] = set()
    read: dict[Value, None] = {}
    for block in blocks:
        inside.update(block.args)
        for op in (inner for o in block.ops for inner in o.walk()):
            inside.update(op.results)
            for region in op.regions:
                inside.update(region.block.args)
            read.update((v, None) for v in op.operands if v is not None)
    return [v for v in read if v not in inside and (v.op is None or v.op.name != "const")]


def _untyped(values: Iterable[Value | None]) -> str:
    for value in values:
        if value is not None and (value.dtype is None or value.shape is None):
            return "the type of a value that goes into or out of a region is not known"
    return ""


# -- If --------------------------------------------------------------------------------------------


def _if(g: Graph, op: Op) -> None:
    blocks = [r.block for r in op.regions]
    values = captured(blocks)
    indices = []
    for region, block in zip(op.regions, blocks, strict=True):
        inner = g.nested(f"{op.node_name or 'if'}_{region.name}")
        inputs = [inner.given(v) for v in values]
        inner.block(block)
        terminator = block.terminator
        assert terminator is not None
        outputs: list[int] = []
        for value in terminator.operands:
            assert value is not None
            index = inner.value(value)
            if index in inputs or index in outputs or inner.is_constant(index):
                index = inner.copy(value, index)
            outputs.append(index)
        indices.append(inner.finish(inputs, outputs))
    g.add(
        "IF",
        [g.value(op.operands[0]), *(g.value(v) for v in values)],
        [g.result(op, i) for i in range(len(op.results))],
        then_subgraph_index=indices[0],
        else_subgraph_index=indices[1],
    )


def _if_fits(op: Op) -> str:
    blocks = [r.block for r in op.regions]
    terminators = [b.terminator for b in blocks]
    values = [v for t in terminators if t is not None for v in t.operands]
    if not op.results:
        return "it has no results"
    return _untyped([*captured(blocks), *values, *op.results])


# -- Loop ------------------------------------------------------------------------------------------


def _loop(g: Graph, op: Op) -> None:
    """Carry the number of the iteration, the condition, the values, and all that is read."""
    limit, first = op.operands[:2]
    block = op.regions[0].block
    values = captured([block])
    if limit is not None and limit not in values and _is_dynamic(limit):
        values.append(limit)
    condition = _condition(g, op, limit, values)
    body = _body(g, op, values)
    start = g.array(np.zeros((), np.int64), "iteration")
    alive = g.array(np.ones((), np.bool_), "true") if first is None else g.value(first)
    inputs = [start, alive, *(g.value(v) for v in op.operands[2:]), *(g.value(v) for v in values)]
    outputs = [g.temporary(dtypes.I64, (), "iterations"), g.temporary(dtypes.BOOL, (), "alive")]
    outputs += [g.result(op, i) for i in range(len(op.results))]
    for value in values:
        assert value.dtype is not None
        assert value.shape is not None
        outputs.append(g.temporary(value.dtype, value.shape, f"{value.name or 'captured'}_out"))
    g.add("WHILE", inputs, outputs, cond_subgraph_index=condition, body_subgraph_index=body)


def _is_dynamic(value: Value) -> bool:
    return value.op is None or value.op.name != "const"


def _state(inner: Graph, op: Op, values: list[Value]) -> list[int]:
    """Add the inputs of a loop's subgraph: iteration, condition, carried values, what is read."""
    block = op.regions[0].block
    number, alive = block.args[:2]
    number.type, alive.type = _SCALAR_I64, _SCALAR_BOOL
    return [inner.given(v) for v in (*block.args, *values)]


def _condition(g: Graph, op: Op, limit: Value | None, values: list[Value]) -> int:
    inner = g.nested(f"{op.node_name or 'loop'}_cond")
    inputs = _state(inner, op, values)
    result = inputs[1]
    if limit is not None:
        below = inner.temporary(dtypes.BOOL, (), "below")
        bound = inner.value(limit)
        inner.add("LESS", [inputs[0], bound], [below])
        result = inner.temporary(dtypes.BOOL, (), "go_on")
        inner.add("LOGICAL_AND", [below, inputs[1]], [result])
    return inner.finish(inputs, [result])


def _body(g: Graph, op: Op, values: list[Value]) -> int:
    block = op.regions[0].block
    inner = g.nested(f"{op.node_name or 'loop'}_body")
    inputs = _state(inner, op, values)
    following = inner.temporary(dtypes.I64, (), "following")
    inner.add("ADD", [inputs[0], inner.array(np.ones((), np.int64), "one")], [following])
    inner.block(block)
    terminator = block.terminator
    assert terminator is not None
    outputs = [following]
    for i, value in enumerate(terminator.operands):
        assert value is not None
        index = inner.value(value)
        passed = index in inputs and inputs.index(index) == i + 1
        if not passed and (index in inputs or index in outputs or inner.is_constant(index)):
            index = inner.copy(value, index)
        outputs.append(index)
    return inner.finish(inputs, [*outputs, *inputs[len(block.args) :]])


def _loop_fits(op: Op) -> str:
    block = op.regions[0].block
    terminator = block.terminator
    if terminator is None or len(terminator.operands) != len(op.operands) - 1:
        return "WHILE has no scan outputs"
    if len(op.results) != len(op.operands) - 2:
        return "WHILE has no scan outputs"
    for value in op.operands[:2]:
        if value is not None and value.shape not in ((), (1,)):
            return "the trip count or the condition is no scalar"
    alive = terminator.operands[0]
    if alive is not None and alive.shape not in ((), (1,)) and not is_true(alive):
        return "the condition is no scalar"
    rest = [*captured([block]), *block.args[2:], *terminator.operands, *op.operands[2:]]
    return _untyped([*rest, *op.results])


ROWS = {
    "if": Row("IF", _if, _if_fits, ranked=False, empty=True),
    "loop": Row("WHILE", _loop, _loop_fits, judged=-1, ranked=False, empty=True),
}
