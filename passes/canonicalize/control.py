"""Control flow decided at compile time."""

from __future__ import annotations

from lepton_ir.infer import const_array
from lepton_ir.ir import Block, Op, Value
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite


def _move_out(block: Block, before: Op, rw: Rewriter) -> list[Value | None]:
    """Move a block's operations in front of ``before``; return what it yields."""
    terminator = block.terminator
    assert terminator is not None
    assert before.block is not None
    yielded = list(terminator.operands)
    terminator.erase()
    for op in list(block.ops):
        op.detach()
        before.block.insert_before(op, before)
        rw.worklist.push(op)
    return yielded


@rewrite("if", exact=True)
def constant_branch(m: Match, rw: Rewriter) -> bool:
    """if(true) {a} {b} => a."""
    known = const_array(m.root.operands[0])
    if known is None or known.size != 1:
        return rw.fail("the condition is not a constant")
    taken = "then_branch" if bool(known.reshape(-1)[0]) else "else_branch"
    rw.permit()
    yielded = _move_out(m.root.region(taken).block, m.root, rw)
    return rw.replace(m.root, yielded, same=True)


@rewrite("loop", exact=True)
def loop_never_runs(m: Match, rw: Rewriter) -> bool:
    """loop(0 iterations, carried) => carried, when nothing is stacked."""
    count, cond = const_array(m.root.operand("m")), const_array(m.root.operand("cond"))
    no_rounds = count is not None and count.size == 1 and int(count.reshape(-1)[0]) <= 0
    no_start = cond is not None and cond.size == 1 and not bool(cond.reshape(-1)[0])
    if not (no_rounds or no_start):
        return False
    carried = m.root.operands[2:]
    if len(carried) != len(m.root.results):
        return rw.fail("it stacks results, of no rows")
    return rw.replace(m.root, list(carried), same=True)
