"""Loops of one step, and of a few steps that take no more operations one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.clone import clone_op
from lepton_ir.infer import const_array, is_true
from lepton_ir.passes.canonicalize.control import move_out
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, propagate_types, rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Block, Op, Value

_MOST_ROUNDS = 8
"""Rounds up to which a loop is looked at for unrolling."""


@rewrite("scan", exact=True)
def scan_runs_once(m: Match, rw: Rewriter) -> bool:
    """scan(states, x: one row) => its body on squeeze(x); results that are stacked gain an axis."""
    op = m.root
    count = int(op.attr("num_scan_inputs"))
    carried = len(op.operands) - count
    inputs, block = op.operands[carried:], op.regions[0].block
    axes = [int(a) for a in op.attr("scan_input_axes")] or [0] * count
    sizes = [v.shape[a] if v is not None and v.shape else None for v, a in _pairs(inputs, axes)]
    if 1 not in sizes or any(v is None for v in op.operands):
        return rw.fail("the number of steps is not known to be 1")
    if block.terminator is None or any(v is None for v in block.terminator.operands):
        return False
    out_axes = [int(a) for a in op.attr("scan_output_axes")] or [0] * (len(op.results) - carried)
    rw.permit()
    rows = [rw.squeeze(v, rw.const([a])) for v, a in _pairs(inputs, axes)]
    _give(block, [*op.operands[:carried], *rows], rw)
    yielded = move_out(block, op, rw)
    stacked = [rw.unsqueeze(v, rw.const([a])) for v, a in _pairs(yielded[carried:], out_axes)]
    return rw.replace(op, [*yielded[:carried], *stacked], same=True)


def _pairs(values: list[Value | None], axes: list[int]) -> list[tuple[Value | None, int]]:
    return list(zip(values, axes, strict=True))


def _give(block: Block, values: list[Value | None], rw: Rewriter) -> None:
    for arg, value in zip(block.args, values, strict=True):
        if value is not None:
            arg.replace_all_uses(value)
            propagate_types(value, rw.worklist)


@rewrite("loop", exact=True)
def unroll_loop(m: Match, rw: Rewriter) -> bool:
    """loop(n rounds) => its body n times, for a small n, where that is no more operations.

    What depends on the number of the round alone is folded, so loops that mostly compute indices
    qualify.
    """
    op, block = m.root, m.root.regions[0].block
    rounds, end = const_array(op.operand("m")), block.terminator
    if rounds is None or rounds.size != 1 or not 2 <= int(rounds.reshape(-1)[0]) <= _MOST_ROUNDS:
        return rw.fail("the number of rounds is not known to be from 2 to {}", _MOST_ROUNDS)
    if end is None or not _goes_on(op, end):
        return rw.fail("when it ends is decided at run time")
    carried = op.operands[2:]
    if len(block.args) != len(carried) + 2 or any(v is None for v in (*carried, *end.operands)):
        return rw.fail("its arguments are not those of a loop")
    if any(a.first_use is not None and a.shape not in ((), (1,)) for a in block.args[:2]):
        return rw.fail("the shape of the number of the round is not known")
    count, body = int(rounds.reshape(-1)[0]), [o for o in block.ops if o is not end]
    if not all(o.definition is not None and o.definition.pure for b in body for o in b.walk()):
        return rw.fail("the body has effects")
    stacks = len(end.operands) - 1 - len(carried)
    lasting = _lasting(block, body)
    before = 1 + sum(o.name != "const" for b in body for o in b.walk() if o.name != "yield")
    after = count * lasting + stacks * (count + 1)
    if after > before:
        return rw.fail("{} operations would become {}", before, after)
    rw.permit()
    return rw.replace(op, _unrolled(op, block, body, count, rw), same=True)


def _goes_on(op: Op, end: Op) -> bool:
    start = op.operand("cond")
    if start is not None and not is_true(start):
        return False
    return end.operands[0] is op.regions[0].block.args[1] or is_true(end.operands[0])


def _lasting(block: Block, body: list[Op]) -> int:
    """Return how many operations of a round are left once the number of the round is known."""
    known: set[Value] = set(block.args[:2])
    count = 0
    for op in body:
        if op.name == "const":
            continue
        free = [v for v in op.operands if v is not None and v not in known]
        if not op.regions and all(const_array(v) is not None for v in free):
            known.update(op.results)
        else:
            count += sum(1 for o in op.walk() if o.name not in ("const", "yield"))
    return count


def _unrolled(op: Op, block: Block, body: list[Op], count: int, rw: Rewriter) -> list[Value | None]:
    """Copy the body ``count`` times; return a value for each result."""
    end = block.terminator
    assert end is not None
    carried = list(op.operands[2:])
    stacked: list[list[Value | None]] = [[] for _ in end.operands[1 + len(carried) :]]
    rw.also(*body)
    for number in range(count):
        values: dict[Value, Value] = {}
        for arg, known in zip(block.args[:2], (number, True), strict=True):
            if arg.first_use is not None:
                values[arg] = rw.const(np.full(arg.shape or (), known))
        values |= {a: v for a, v in zip(block.args[2:], carried, strict=True) if v is not None}
        for inner in body:
            made = clone_op(inner, values)
            if number + 1 < count:  # names are those of the last round
                made.node_name = None
                for result in made.results:
                    result.name = None
            rw.insert(made)
        yielded = [None if v is None else values.get(v, v) for v in end.operands[1:]]
        carried = yielded[: len(carried)]
        for rows, row in zip(stacked, yielded[len(carried) :], strict=True):
            rows.append(rw.unsqueeze(row, rw.const([0])))
    return [*carried, *(rw.concat(*rows, axis=0) for rows in stacked)]
