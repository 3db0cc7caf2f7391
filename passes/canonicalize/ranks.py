"""Branches that the operations behind them could not take: values of the wrong rank."""

from __future__ import annotations

from lepton_ir.infer import const_array
from lepton_ir.ir import Op, Use, Value
from lepton_ir.passes.canonicalize.control import move_out
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite

_DEPTH = 6
_USES = 8
_RECURRENT = ("lstm", "gru", "rnn")


def _demand(use: Use, depth: int) -> int | None:
    """Return the rank without which the operation that ``use`` belongs to fails."""
    op = use.op
    if op.name in _RECURRENT and use.index in (0, 5, 6):
        return 3
    if op.name in ("conv", "conv_transpose") and use.index == 0:
        weight = op.operands[1]
        return None if weight is None else weight.rank
    if op.name == "gemm" and use.index in (0, 1):
        return 2
    if op.name == "transpose" and op.attr("perm") is not None:
        return len(op.attr("perm"))
    if use.index or len(op.results) != 1 or op.definition is None:
        return None
    if op.name in ("squeeze", "unsqueeze"):
        axes = const_array(op.operand("axes"))
        found = None if axes is None else demanded_rank(op.result, depth - 1)
        if found is None or axes is None:
            return None
        return found + (axes.size if op.name == "squeeze" else -axes.size)
    if len(op.operands) == 1 and "elementwise" in op.definition.traits:
        return demanded_rank(op.result, depth - 1)
    return None


def demanded_rank(value: Value, depth: int = _DEPTH) -> int | None:
    """Return the rank that ``value`` has whenever everything behind it succeeds.

    Only operations that run whenever ``value`` is computed count.
    """
    op = value.op
    if op is None or op.block is None or depth == 0 or value.use_count > _USES:
        return None
    for use in value.uses:
        if use.op.block is op.block and not use.op.has_attr_refs:
            found = _demand(use, depth)
            if found is not None:
                return found
    return None


def _contradicts(op: Op, branch: int, index: int, rank: int) -> bool:
    terminator = op.regions[branch].block.terminator
    value = None if terminator is None else terminator.operands[index]
    return value is not None and value.rank is not None and value.rank != rank


@rewrite("if")
def branch_of_wrong_rank(m: Match, rw: Rewriter) -> bool:
    """if(c) {a} {b} => a, where an operation that always follows fails on the rank of b.

    A run that would take b has no result that could change.
    """
    for index, result in enumerate(m.root.results):
        rank = demanded_rank(result)
        if rank is None:
            continue
        wrong = [_contradicts(m.root, branch, index, rank) for branch in (0, 1)]
        if wrong[0] != wrong[1]:
            rw.permit()
            taken = m.root.regions[1 if wrong[0] else 0].block
            return rw.replace(m.root, move_out(taken, m.root, rw), same=True)
    return False
