"""Lists that a loop fills and something behind it joins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.builder import create
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value


@rewrite("concat_from_sequence", exact=True)
def list_to_stack(m: Match, rw: Rewriter) -> bool:
    """Stack a list to which every round of a loop appends one row => a stacked result of the loop.

    Of a loop without rounds the source fails, at the empty list.
    """
    joined, filled = m.root, m.root.operands[0]
    loop = None if filled is None else filled.op
    if filled is None or loop is None or loop.name != "loop" or loop.has_attr_refs:
        return False
    if not joined.attr("new_axis"):
        return rw.fail("the elements are joined, not stacked")
    if filled.use_count > 1:
        return rw.fail("the list has other users")
    block, end = loop.regions[0].block, loop.regions[0].block.terminator
    index = filled.index
    if end is None or index >= len(loop.operands) - 2 or _fills(loop.operands[2 + index]):
        return rw.fail("the list is not empty before the loop")
    arg, insert = block.args[2 + index], end.operands[1 + index]
    append = None if insert is None else insert.op
    if append is None or append.name != "sequence_insert" or append.operands[0] is not arg:
        return rw.fail("a round does not append to the list")
    row = append.operands[1]
    if append.operand("position") is not None or arg.use_count > 1 or append.result.use_count > 1:
        return rw.fail("a round does more with the list than append to it")
    rank = row.rank if row is not None and isinstance(row.type, TensorType) else None
    if row is None or rank is None:
        return rw.fail("the rank of what a round appends is not known")
    axis = int(joined.attr("axis")) % (rank + 1)
    rw.also(loop, append)
    rw.permit()
    stacked = _without_list(loop, index, row, rw)
    if axis:
        perm = [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]
        stacked = rw.transpose(stacked, perm=perm)
    return rw.replace(joined, stacked)


def _fills(value: Value | None) -> bool:
    return value is None or value.op is None or value.op.name != "sequence_empty"


def _without_list(loop: Op, index: int, row: Value, rw: Rewriter) -> Value:
    """Replace a loop by one that stacks ``row`` in place of the carried list ``index``."""
    old, end = loop.regions[0].block, loop.regions[0].block.terminator
    assert end is not None
    assert loop.block is not None
    operands = [v for i, v in enumerate(loop.operands) if i != 2 + index]
    made = create("loop", operands, dict(loop.attrs), len(loop.results), rw.loc)
    block = made.regions[0].block
    append = end.operands[1 + index]
    yielded = [v for i, v in enumerate(end.operands) if i != 1 + index]
    yielded.append(row)
    end.set_operands(yielded)
    if append is not None and append.op is not None:
        append.op.erase()
    for i, arg in enumerate(old.args):
        if i != 2 + index:
            new = block.add_arg(arg.type, arg.name)
            new.declared, new.meta, new.content = arg.declared, arg.meta, arg.content
            arg.replace_all_uses(new)
    for op in list(old.ops):
        op.detach()
        block.append(op)
    here, rw.block, rw.before = (rw.block, rw.before), loop.block, loop
    rw.insert(made)
    rw.block, rw.before = here
    rest = [r for i, r in enumerate(loop.results) if i != index]
    for before, after in zip(rest, made.results[:-1], strict=True):
        after.name, after.declared, after.meta = before.name, before.declared, before.meta
        before.replace_all_uses(after)
    for op in (*made.walk(), *(use.op for result in made.results for use in result.uses)):
        rw.worklist.push(op)
    return made.results[-1]
