"""Grouping operations that the target runs as one kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_ir import opdef
from lepton_ir.diagnostics import merge_locations
from lepton_ir.ir import Op
from lepton_ir.pipeline import Pass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_ir.context import PassContext
    from lepton_ir.ir import Block, Module, Value

    Role = Callable[[Op], str]

MAX_OPS = 24
"""Operations in one group; longer kernels run out of registers."""


@dataclass(eq=False)
class _Group:
    """Operations with one result that others read: that of the last one.

    Attributes:
        ops: the operations, in any order.
        anchor: the one that is no elementwise operation.
    """

    ops: list[Op] = field(default_factory=list)
    anchor: Op | None = None


@dataclass(frozen=True)
class Group(Pass, name="group"):
    """Put elementwise chains, and what they follow, into ``fused`` operations.

    The target says with ``role(op)`` what an operation can be: ``elementwise``, ``anchor`` (it may
    begin a group, as a convolution does) or nothing. Inside a group all values but the last have
    the shape of the result and are read by the group alone, so that none is stored.
    """

    rule_names = ("group",)

    def run(self, module: Module, ctx: PassContext) -> None:
        """Group the operations of every block; does nothing for a target without kernels."""
        role: Any = getattr(ctx.target, "role", None)
        if role is None:
            return
        for function in module.functions.values():
            for block in list(_blocks(function.block)):
                for group in _groups(block, role):
                    _form(group, ctx)


def _blocks(block: Block) -> Iterator[Block]:
    pending = [block]
    while pending:
        current = pending.pop()
        yield current
        for op in current.ops:
            if op.name != "fused":
                pending += [r.block for r in op.regions]


def _groups(block: Block, role: Role) -> list[_Group]:
    """Return the groups of a block, each with at least two operations."""
    of: dict[Op, _Group] = {}
    for op in block.ops:
        kind = role(op) if len(op.results) == 1 and not op.regions else ""
        shape = op.results[0].shape if op.results else None
        # Unknown sizes are not known to be equal.
        if kind not in ("elementwise", "anchor") or shape is None or None in shape:
            continue
        of[op] = _Group([op], op if kind == "anchor" else None)
        if kind == "elementwise":
            _absorb(op, of)
    unique = {id(g): g for g in of.values()}
    return [g for g in unique.values() if len(g.ops) > 1]


def _absorb(op: Op, of: dict[Op, _Group]) -> None:
    """Take the groups whose result only the group of ``op`` reads into it, again and again.

    What an anchor reads is finished before the kernel begins, so it stays outside.
    """
    group = of[op]
    inside = {op}
    pending = [v for v in op.operands if v is not None]
    while pending:
        value = pending.pop()
        producer = value.op
        if producer is None or producer in inside or not _may_join(value, op, inside):
            continue
        other = of.get(producer)
        if other is None or len(group.ops) + len(other.ops) > MAX_OPS:
            continue
        if group.anchor and (other.anchor or any(u.op is group.anchor for u in value.uses)):
            continue
        group.ops += other.ops
        group.anchor = group.anchor or other.anchor
        for o in other.ops:
            of[o] = group
            inside.add(o)
        pending += [v for o in inside if o is not group.anchor for v in o.operands if v is not None]


def _may_join(value: Value, op: Op, inside: set[Op]) -> bool:
    producer = value.op
    assert producer is not None
    return (
        producer.block is op.block
        and value.shape == op.results[0].shape
        and all(use.op in inside for use in value.uses)
    )


def _form(group: _Group, ctx: PassContext) -> None:
    """Move a group into the region of a ``fused`` operation where its last one stands."""
    block = group.ops[0].block
    assert block is not None
    block.ensure_order()
    ops = sorted(group.ops, key=lambda o: o.order)
    last = ops[-1]
    if not ctx.allow("group", last):
        return
    location = merge_locations([o.loc for o in ops], "group")
    fused = Op("fused", opdef.lookup("fused"), [], {}, 1, 1, location)
    old, new = last.results[0], fused.results[0]
    new.type, new.name, new.declared, new.meta = old.type, old.name, old.declared, old.meta
    block.insert_before(fused, last)
    old.replace_all_uses(new)
    fused.regions[0].name = "body"
    body = fused.regions[0].block
    for op in ops:
        op.detach()
        body.append(op)
    body.append(Op("yield", opdef.lookup("yield"), [old], {}, 0))
