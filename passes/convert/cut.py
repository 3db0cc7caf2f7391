"""Where the casts go: light operations compute in the type that needs the fewest.

Every value that is made in one type and read in the other costs one cast, however many read it.
Which side each light operation takes is a minimum cut between the operations that must stay and
those worth converting, solved apart for each group of light operations that touch one another. Of
equally good cuts the one with the fewest operations in the wide type is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.passes.convert.facts import is_constant, is_heavy
from lepton_ir.passes.convert.flow import INFINITE, Network
from lepton_ir.passes.convert.plan import CASTS, Reason

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.convert.plan import Plan

WIDE, LOW = "wide", "low"
"""Source and sink of the cut."""


def save_casts(plan: Plan) -> None:
    """Take operations out of the plan that cost more casts than they save."""
    free = {op for op in plan.low if not is_heavy(op)}
    edges = [e for e in map(lambda v: _members(plan, v, free), _values(plan)) if len(e) > 1]
    for group in _groups(free, edges):
        for op in _wide_side(*group):
            plan.low.discard(op)
            plan.kept[op] = Reason(CASTS, op.name)


def _values(plan: Plan) -> list[Value]:
    found: dict[Value, None] = {}
    for op in plan.ops:
        for value in plan.floats(op):
            if not is_constant(value):
                found[value] = None
    return list(found)


def _members(plan: Plan, value: Value, free: set[Op]) -> list[Any]:
    """Return who makes and who reads ``value``: free operations, or the side of fixed ones."""

    def side(op: Op) -> Any:
        return op if op in free else LOW if op in plan.low else WIDE

    if value.op is not None:
        members = [side(value.op)]
    else:
        members = [WIDE if plan.keep_io or _nested(value) else LOW]
    for use in value.uses:
        op = use.op
        if op.name == "return":
            members.append(WIDE if plan.keep_io else LOW)
        elif op in plan.slots and use.index in plan.slots[op]:
            members.append(side(op))
        else:
            members.append(WIDE)
    return list(dict.fromkeys(members))


def _nested(value: Value) -> bool:
    block = value.producer
    return getattr(block, "parent_op", None) is not None


def _groups(free: set[Op], edges: list[list[Any]]) -> list[tuple[list[Op], list[list[Any]]]]:
    """Split into parts that share no free operation."""
    parent: dict[Op, Op] = {}

    def root(op: Op) -> Op:
        while (up := parent.get(op, op)) is not op:
            parent[op] = parent.get(up, up)
            op = up
        return op

    inner = [(e, [m for m in e if m in free]) for e in edges]
    for _, ops in inner:
        for op in ops[1:]:
            a, b = root(ops[0]), root(op)
            if a is not b:
                parent[b] = a
    members: dict[Op, dict[Op, None]] = {}
    held: dict[Op, list[list[Any]]] = {}
    for edge, ops in inner:
        if ops:
            top = root(ops[0])
            members.setdefault(top, {}).update(dict.fromkeys(ops))
            held.setdefault(top, []).append(edge)
    return [(list(ops), held[top]) for top, ops in members.items()]


def _wide_side(ops: list[Op], edges: list[list[Any]]) -> list[Op]:
    """Return the operations of a group that stay wide."""
    sides = {m for e in edges for m in e if isinstance(m, str)}
    if WIDE not in sides:
        return []
    if LOW not in sides:
        return ops
    network = Network()
    number: dict[Any, int] = {WIDE: 0, LOW: 1, **{op: network.node() for op in ops}}
    for members in edges:
        nodes = [number[m] for m in members]
        if len(nodes) == 2:
            network.edge(nodes[0], nodes[1], 1, 1)
            continue
        start, end = network.node(), network.node()
        network.edge(start, end, 1)
        for node in nodes:
            network.edge(node, start, INFINITE)
            network.edge(end, node, INFINITE)
    side = network.source_side()
    return [op for op in ops if side[number[op]]]
