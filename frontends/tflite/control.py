"""Rows of operators that run other subgraphs, and of variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.builder import Builder, create
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.tflite.graph import MAX_NESTING, GraphReader
from lepton_ir.frontends.tflite.table import row
from lepton_ir.infer import infer_op
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.frontends.tflite.state import StateKey, States
    from lepton_ir.ir import Block, Op, Value

_TRIES = 4
"""Rounds in which the types of what a loop carries are widened."""


def _nested(
    call: Call,
    subgraph: int,
    block: Block,
    values: Sequence[Value],
    states: States | None = None,
) -> list[Value]:
    """Read a subgraph into a block, on given inputs; return its outputs."""
    outer = call.reader
    if outer.depth >= MAX_NESTING:
        raise UnsupportedError(
            f"subgraphs run each other more than {MAX_NESTING} deep", code="tflite-nesting"
        )
    reader = GraphReader(
        outer.shared, subgraph, block, outer.function, states, depth=outer.depth + 1
    )
    if len(reader.inputs) != len(values):
        raise UnsupportedError(
            f"subgraph {subgraph} has {len(reader.inputs)} inputs, gets {len(values)}",
            code="tflite-control",
        )
    for info, value in zip(reader.inputs, values, strict=True):
        reader.bind(info.index, value)
    reader.operators()
    b = Builder(block, loc=call.b.loc)
    return [reader.raw(info.index, b) for info in reader.outputs]


def _operands(call: Call, first: int) -> list[Value]:
    for info in call.inputs[first:]:
        if info is None or info.dtype is None:
            raise UnsupportedError(
                "a resource goes into a subgraph, as variables inside control flow do",
                code="tflite-variable",
            )
    return [call.raw(i) for i in range(first, len(call.inputs))]


@row("IF", ir="if", stored=True)
def _if(call: Call) -> Sequence[Value]:
    values = _operands(call, 1)
    op = create("if", [call.raw(0)], {}, len(call.outputs), call.b.loc)
    call.reader.block.append(op)
    branches = (call.options.then_subgraph_index, call.options.else_subgraph_index)
    for region, subgraph in zip(op.regions, branches, strict=True):
        found = _nested(call, subgraph, region.block, values)
        region.block.append(create("yield", found))
    infer_op(op)
    return op.results


def _carried_types(call: Call, values: Sequence[Value], subgraph: int) -> list[Type]:
    """Return what is known of the values that a loop carries: dims that the file fixes."""
    tensors = call.reader.shared.infos(subgraph)
    inputs = call.reader.shared.model.subgraphs[subgraph].inputs
    found: list[Type] = []
    for value, index in zip(values, () if inputs is None else inputs, strict=False):
        type_ = value.type
        stated = tensors[index].shape
        if isinstance(type_, TensorType) and type_.shape is not None:
            dims = zip(type_.shape, stated, strict=False)
            shape = [d if s is not None else None for d, s in dims]
            type_ = type_.with_shape(shape if len(stated) == len(type_.shape) else None)
        found.append(type_)
    return found


@row("WHILE", ir="loop", stored=True)
def _while(call: Call) -> Sequence[Value]:
    cond, body = call.options.cond_subgraph_index, call.options.body_subgraph_index
    values = _operands(call, 0)
    first = _truth(_nested(call, cond, call.reader.block, values))
    types = _carried_types(call, values, body)
    for _ in range(_TRIES):
        op = _loop(call, cond, body, values, first, types)
        carried = [arg.type for arg in op.regions[0].block.args[2:]]
        if all(a is b for a, b in zip(carried, types, strict=True)):
            return op.results
        # What was built may rest on more than holds in every iteration.
        op.erase()
        types = carried
    op = _loop(call, cond, body, values, first, [UNKNOWN] * len(values))
    return op.results


def _truth(outputs: Sequence[Value]) -> Value:
    """Return what a condition says."""
    if len(outputs) != 1 or outputs[0].dtype not in (None, dtypes.BOOL):
        raise UnsupportedError("the condition is not one bool", code="tflite-control")
    return outputs[0]


def _loop(
    call: Call,
    cond: int,
    body: int,
    values: Sequence[Value],
    first: Value,
    types: Sequence[Type],
) -> Op:
    op = create("loop", [None, first, *values], {}, len(values), call.b.loc)
    block = op.regions[0].block
    call.reader.block.append(op)
    for type_ in (UNKNOWN, UNKNOWN, *types):
        block.add_arg(type_)
    carried = _nested(call, body, block, block.args[2:])
    if len(carried) != len(values):
        raise UnsupportedError(
            f"the body has {len(carried)} outputs for {len(values)} inputs", code="tflite-control"
        )
    again = _truth(_nested(call, cond, block, carried))
    block.append(create("yield", [again, *carried]))
    infer_op(op)
    return op


@row("STABLEHLO_COMPOSITE", ir="what its decomposition has", stored=True)
def _composite(call: Call) -> Sequence[Value]:
    subgraph = call.options.decomposition_subgraph_index
    return _nested(call, subgraph, call.reader.block, _operands(call, 0), call.reader.states)


# -- variables -------------------------------------------------------------------------------------


@row("CALL_ONCE", ir="none: first contents of variables", stored=True)
def _call_once(call: Call) -> Sequence[Value]:
    return []


def _key(call: Call) -> StateKey:
    o = call.options
    return "resource", o.container or "", o.shared_name or ""


@row("VAR_HANDLE", ir="none: an input and an output of the function", stored=True)
def _var_handle(call: Call) -> Sequence[Value | None]:
    call.reader.handles[call.result().index] = _key(call)
    return [None]


@row("READ_VARIABLE", ir="none: an input of the function", stored=True)
def _read_variable(call: Call) -> Value:
    key = call.reader.handle(call.info(0))
    assert call.reader.states is not None
    return call.reader.states.read(key, call.result().type)


@row("ASSIGN_VARIABLE", ir="none: an output of the function", stored=True)
def _assign_variable(call: Call) -> Sequence[Value]:
    key = call.reader.handle(call.info(0))
    assert call.reader.states is not None
    call.reader.states.assign(key, call.raw(1))
    return []
