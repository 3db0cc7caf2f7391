"""Control flow decided at compile time."""

from __future__ import annotations

from lepton_ir.infer import const_array
from lepton_ir.ir import Block, Op, Value
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite


def move_out(block: Block, before: Op, rw: Rewriter) -> list[Value | None]:
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
    yielded = move_out(m.root.region(taken).block, m.root, rw)
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


@rewrite("if", exact=True)
def swap_branches(m: Match, rw: Rewriter) -> bool:
    """if(not c) {a} {b} => if(c) {b} {a}."""
    cond = m.root.operands[0]
    negation = None if cond is None else cond.op
    if negation is None or negation.name != "not":
        return False
    then, other = m.root.region("then_branch").block, m.root.region("else_branch").block
    if then.args or other.args:
        return rw.fail("the branches take arguments")
    rw.permit()
    _swap_blocks(then, other)
    rw.set_operand(m.root, 0, negation.operands[0])
    for use in negation.operands[0].uses if negation.operands[0] is not None else ():
        rw.worklist.push(use.op)  # it may now merge with this one
    return True


def _swap_blocks(a: Block, b: Block) -> None:
    """Exchange the operations of two blocks without arguments."""
    first, second = list(a.ops), list(b.ops)
    for op in (*first, *second):
        op.detach()
    for op in second:
        a.append(op)
    for op in first:
        b.append(op)


_MERGE_WINDOW = 16
"""Operations looked through for a neighbouring ``if`` on the same condition."""

_MAX_MERGED = 32
"""Results of an ``if`` that is merged once more: each merge moves what all before it gathered."""


@rewrite("if", exact=True)
def merge_branches(m: Match, rw: Rewriter) -> bool:
    """if(c) {a} {b}, if(c) {d} {e} => if(c) {a, d} {b, e}.

    The first moves down to the second, so its results may be read only from there on.
    """
    first = m.root
    if first.block is None or first.has_attr_refs or len(first.results) > _MAX_MERGED:
        return False
    second = first.next
    for _ in range(_MERGE_WINDOW):
        if second is None or (second.name == "if" and second.operands[0] is first.operands[0]):
            break
        second = second.next
    if second is None or second.name != "if" or second.operands[0] is not first.operands[0]:
        return False
    for result in first.results:
        for use in result.uses:
            at: Op | None = use.op
            while at is not None and at.block is not first.block:
                at = at.parent
            if at is None or (at is not second and at.is_before(second)):
                return rw.fail("a result is read before the second one")
    if not all(_is_quiet(op) for op in first.walk() if op is not first):
        return rw.fail("a branch has effects")
    rw.also(second)
    rw.permit()
    _merge_into(first, second)
    rw.worklist.push(second)
    for inner in second.walk():
        rw.worklist.push(inner)
    rw.erase(first)
    return True


def _is_quiet(op: Op) -> bool:
    definition = op.definition
    return definition is not None and ("terminator" in definition.traits or definition.pure)


def _merge_into(first: Op, second: Op) -> None:
    """Put the branches of ``first`` in front of those of ``second``, results behind."""
    count = len(second.results)
    yields: list[list[Value | None]] = []
    for source, target in zip(first.regions, second.regions, strict=True):
        anchor, end = target.block.first, source.block.terminator
        assert anchor is not None
        assert end is not None
        yields.append(list(end.operands))
        end.erase()
        for op in list(source.block.ops):
            op.detach()
            target.block.insert_before(op, anchor)
    for i, result in enumerate(first.results):
        new = second.add_result(result.type, result.name)
        new.declared, new.meta, new.content = result.declared, result.meta, result.content
        for use in list(result.uses):
            branch = _branch_of(use.op, second)
            if branch is None:
                use.op.set_operand(use.index, new)
            else:
                use.op.set_operand(use.index, yields[branch][i])
    for region, extra in zip(second.regions, yields, strict=True):
        end = region.block.terminator
        assert end is not None
        assert len(end.operands) == count
        end.set_operands([*end.operands, *extra])


def _branch_of(op: Op, holder: Op) -> int | None:
    """Return in which region of ``holder`` an operation is, ``None`` if in none."""
    at: Op | None = op
    while at is not None:
        if at.parent is holder and at.block is not None:
            return holder.regions.index(at.block.region)
        at = at.parent
    return None
