"""Candidates of a reduction without a control flow operation: what one of its regions computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.builder import Builder
from lepton_ir.clone import clone_module

if TYPE_CHECKING:
    from lepton_ir.ir import Block, Module, Op, Value


def openings(module: Module) -> list[tuple[int, int]]:
    """Return the places of what can be opened: an operation of the main block, and its region."""
    return [
        (place, region)
        for place, op in enumerate(module.main.block.ops)
        if op.name in ("if", "loop", "scan")
        for region in range(len(op.regions))
    ]


def opened(module: Module, place: int, region: int) -> Module:
    """Return a copy where one region stands in place of its operation.

    A branch is taken; a loop does one step on its first values. A row of a sequence becomes an
    input of the model.

    Args:
        module: the model.
        place: index of the operation in the main block.
        region: index of its region.

    Raises:
        ValueError: the region does not fit its operation.
    """
    made = clone_module(module)
    block = made.main.block
    op = list(block.ops)[place]
    inner = op.regions[region].block
    end = inner.terminator
    if end is None:
        raise ValueError("the region has no end")
    build = Builder(block, before=op)
    for arg, value in zip(inner.args, _given(op, inner, block, build), strict=True):
        arg.replace_all_uses(value)
    yielded = list(end.operands)
    end.erase()
    for moved in list(inner.ops):
        moved.detach()
        block.insert_before(moved, op)
    for result, taken in zip(op.results, _taken(op, yielded, build), strict=True):
        if result.first_use is not None and taken is not None:
            taken.name = taken.name or result.name
            result.replace_all_uses(taken)
    op.erase()
    return made


def _given(op: Op, inner: Block, block: Block, build: Builder) -> list[Value]:
    """Return the values that a region starts with."""
    first: list[Value | None] = list(op.operands)
    if op.name == "if":
        first = []
    elif op.name == "loop":
        known = zip(inner.args[:2], (0, True), strict=True)
        first[:2] = [build.const(np.full(arg.shape or (), value)) for arg, value in known]
    else:
        carried = len(first) - int(op.attr("num_scan_inputs"))
        first[carried:] = [block.add_arg(a.type, a.name) for a in inner.args[carried:]]
    found = [value for value in first if value is not None]
    if len(found) < len(inner.args):
        raise ValueError("an argument has no first value")
    return found


def _taken(op: Op, yielded: list[Value | None], build: Builder) -> list[Value | None]:
    """Return what a region gives for each result; rows that are stacked gain an axis."""
    if op.name == "if":
        return yielded
    if op.name == "loop":
        carried, axes = len(op.operands) - 2, []
        yielded = yielded[1:]
    else:
        carried = len(op.operands) - int(op.attr("num_scan_inputs"))
        axes = [int(a) for a in op.attr("scan_output_axes")]
    axes = axes or [0] * (len(yielded) - carried)
    rows = zip(yielded[carried:], axes, strict=True)
    return [*yielded[:carried], *(build.unsqueeze(row, build.const([axis])) for row, axis in rows)]
