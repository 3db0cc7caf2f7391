"""Control flow that is not needed: cheap branches, invariant operations, loops of one round."""

from __future__ import annotations

import numpy as np

from lepton_ir import dims
from lepton_ir.infer import const_array
from lepton_ir.ir import Block, Op, Value
from lepton_ir.passes.canonicalize.control import move_out
from lepton_ir.passes.canonicalize.views import broadcast_all
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, propagate_types, rewrite
from lepton_ir.types import TensorType

_CHEAP = 3
_CHEAP_ELEMENTS = 1 << 16
_WHERE_DTYPES = ("f32", "f64", "i32", "i64")
_MAY_FAIL = frozenset({"div", "mod", "pow", "cast", "string_concat"})
"""Elementwise operations that can fail or cost much for some elements."""
_SAFE = frozenset({"const", "identity", "shape", "size"})
_UNROLLED = 1


def _never_fails(op: Op) -> bool:
    definition = op.definition
    if definition is None or not definition.pure or op.regions or op.has_attr_refs:
        return False
    if op.name in _SAFE:
        return True
    if "elementwise" not in definition.traits or op.name in _MAY_FAIL:
        return False
    values = [v for v in op.operands if v is not None]
    shape = broadcast_all(values)
    return shape is not None and all(d is not None for d in shape) and op.result.rank is not None


def _body(block: Block) -> list[Op]:
    return [op for op in block.ops if op is not block.terminator]


def _proven(value: Value | None, result: Value, condition: Value) -> bool:
    """Whether ``where`` with ``condition`` keeps the type that both branches prove."""
    if value is None or not isinstance(value.type, TensorType) or value.dtype is None:
        return False
    shape, rank = value.shape, condition.rank
    if shape is None or rank is None or rank > len(shape):
        return False
    count = value.type.num_elements()
    if not isinstance(count, int) or count > _CHEAP_ELEMENTS:
        return False
    return value.dtype.name in _WHERE_DTYPES and result.dtype in (None, value.dtype)


@rewrite("if")
def if_to_where(m: Match, rw: Rewriter) -> bool:
    """if(c) {a} {b} => where(c, a, b) where both are cheap, cannot fail, and have one small type.

    Both branches are computed then, so only a few elementwise operations on outer values count as
    cheap.
    """
    condition = m.root.operands[0]
    if condition is None or condition.shape is None:
        return rw.fail("the condition's rank is not known")
    if not all(d == 1 for d in condition.shape):
        return rw.fail("the condition is not proven to be one element")
    blocks = [region.block for region in m.root.regions]
    bodies = [_body(block) for block in blocks]
    work = [op for body in bodies for op in body if op.name != "const"]
    if len(work) > _CHEAP or len(work) + len(m.root.results) > _CHEAP + 1:
        return rw.fail("the branches compute {} operations", len(work))
    if not all(_never_fails(op) for body in bodies for op in body):
        return rw.fail("a branch has an operation that may fail or cost much")
    ends = [block.terminator for block in blocks]
    if any(end is None for end in ends):
        return False
    for i, result in enumerate(m.root.results):
        values = [end.operands[i] for end in ends if end is not None]
        if not all(_proven(v, result, condition) for v in values):
            return rw.fail("{} is not proven to be small and of one type", result)
        one, other = (v.shape for v in values if v is not None)
        if one is None or other is None or len(one) != len(other):
            return rw.fail("the branches differ in rank")
        if any(
            a is None or b is None or dims.prove_eq(a, b) is not True
            for a, b in zip(one, other, strict=True)
        ):
            return rw.fail("the branches differ in shape")
    rw.permit()
    chosen, others = (move_out(block, m.root, rw) for block in blocks)
    made = [rw.where(condition, a, b) for a, b in zip(chosen, others, strict=True)]
    return rw.replace(m.root, made)


def _inside(value: Value | None, block: Block) -> bool:
    """Whether ``value`` is defined in ``block`` (the operations that ask are directly in it)."""
    if value is None:
        return False
    producer = value.producer
    return producer is block or (isinstance(producer, Op) and producer.block is block)


@rewrite("loop", "scan", exact=True)
def hoist_invariants(m: Match, rw: Rewriter) -> bool:
    """Loop(... f(outer) ...) => f(outer) before the loop, for operations that cannot fail.

    A loop of no rounds computes them in vain, so only constants and elementwise operations move.
    """
    block = m.root.regions[0].block
    moved = [
        op
        for op in block.ops
        if op is not block.terminator
        and _never_fails(op)
        and not any(_inside(v, block) for v in op.operands)
    ]
    if not moved:
        return False
    assert m.root.block is not None
    rw.also(*moved)
    rw.permit()
    for op in moved:
        op.detach()
        m.root.block.insert_before(op, m.root)
        rw.worklist.push(op)
    return True


@rewrite("loop", exact=True)
def loop_runs_once(m: Match, rw: Rewriter) -> bool:
    """loop(1 round, carried) => its body, when the start condition is constant and holds.

    Results that are stacked gain their axis of size 1.
    """
    op = m.root
    count, start = const_array(op.operand("m")), op.operand("cond")
    if count is None or count.size != 1 or int(count.reshape(-1)[0]) != _UNROLLED:
        return rw.fail("the number of rounds is not known to be 1")
    if start is not None:
        known = const_array(start)
        if known is None or known.size != 1 or not bool(known.reshape(-1)[0]):
            return rw.fail("whether it starts is decided at run time")
    block = op.regions[0].block
    carried = op.operands[2:]
    if len(block.args) != len(carried) + 2 or any(v is None for v in carried):
        return rw.fail("its arguments are not those of a loop")
    given: list[Value | None] = []
    for arg in block.args[:2]:
        if arg.first_use is not None and arg.shape not in ((), (1,)):
            return rw.fail("the shape of {} is not known", arg)
    rw.permit()
    for arg, initial in zip(block.args[:2], (0, True), strict=True):
        used = arg.first_use is not None
        given.append(rw.const(np.full(arg.shape or (), initial)) if used else None)
    for arg, value in zip(block.args, [*given, *carried], strict=True):
        if value is not None:
            arg.replace_all_uses(value)
            propagate_types(value, rw.worklist)
    yielded = move_out(block, op, rw)[1:]
    stacked = [rw.unsqueeze(v, rw.const([0])) for v in yielded[len(carried) :]]
    return rw.replace(op, [*yielded[: len(carried)], *stacked], same=True)
