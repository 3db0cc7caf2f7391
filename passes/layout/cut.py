"""Which operations to compute in another axis order: a minimum cut over a region.

Every operation of a region that the order can pass through gets a label: 1 (computed in the new
order) or 0 (left alone). A value needs one transpose for each side on which it is produced
differently from how it is read; transposes next to the region that undo the order cost nothing
where the label is 1. The minimum cut has the fewest transposes; a tie changes nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_ir.infer import const_tensor
from lepton_ir.ir import Op, Value
from lepton_ir.passes.layout.axes import LAST_AXIS, plan, principal_order, source_order
from lepton_ir.passes.layout.order import Order, Plan, compose, is_identity, perm_of
from lepton_ir.rewrite import is_dead
from lepton_ir.tensors import ElidedTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMO_KEY = "layout.rejected"
"""Where a run keeps which transposes were found to have no better region."""

DEEP_KEY = "layout.deep"
"""Where a run keeps whether transposes move through reshapes and resizes."""

_REGION_LIMIT = 512
_USE_LIMIT = 128
_SOURCE, _SINK = 0, 1


@dataclass
class Region:
    """Operations that could be computed in another order, and the order of every value there."""

    root: Op
    exact: bool
    deep: bool = False
    plans: dict[Op, Plan] = field(default_factory=dict)
    orders: dict[Value, Order] = field(default_factory=dict)
    border: list[Op] = field(default_factory=list)

    def grow(self, value: Value, order: Order) -> None:
        """Take in everything that an order of ``value`` passes through."""
        self.orders[value] = order
        queue = deque([value])
        while queue and len(self.plans) < _REGION_LIMIT:
            current = queue.popleft()
            at = self.orders[current]
            for op, wanted in self._neighbours(current, at):
                if wanted is not None and op not in self.plans:
                    self._take(op, wanted, queue)

    def _neighbours(self, value: Value, order: Order) -> Iterator[tuple[Op, Order | None]]:
        producer = value.op
        if producer is not None and producer.block is self.root.block:
            if producer.name == "transpose":
                self.border.append(producer)
            elif producer.name != "const":
                yield producer, self._source_order(producer, order)
        if value.use_count > _USE_LIMIT:
            return
        for use in value.uses:
            if use.op.block is not self.root.block:
                continue
            if use.op.name == "transpose":
                self.border.append(use.op)
            else:
                yield use.op, principal_order(use.op, use.index, order)

    def _source_order(self, op: Op, order: Order) -> Order | None:
        first = op.operands[0] if op.operands else None
        return source_order(op, order, None if first is None else self.orders.get(first))

    def _take(self, op: Op, order: Order, queue: deque[Value]) -> None:
        known = self.orders.get(op.results[0]) if op.results else None
        found = plan(op, order, self.exact, deep=self.deep, known=known)
        if found is None:
            return
        values = [
            *zip(op.operands, found.operands, strict=False),
            *zip(op.results, found.results, strict=True),
        ]
        fresh: dict[Value, Order] = {}
        for value, wanted in values:
            if value is None or wanted is None:
                continue
            if const_tensor(value) is not None:
                if isinstance(const_tensor(value), ElidedTensor):
                    return
                continue
            if value.rank != len(wanted):
                continue  # made of a constant of fewer bits, which is reordered
            known = self.orders.get(value, fresh.get(value))
            if known is None:
                fresh[value] = wanted
            elif known != wanted:
                return
        self.plans[op] = found
        self.orders.update(fresh)
        queue.extend(v for v, o in fresh.items() if not is_identity(o))

    def reads_in_order(self, op: Op, index: int) -> bool:
        """Whether ``op`` of this region wants operand ``index`` in the region's order."""
        found = self.plans.get(op)
        return (
            found is not None
            and index < len(found.operands)
            and found.operands[index] is not None
            and op.operands[index] in self.orders
        )


class _Network:
    """A flow network."""

    def __init__(self) -> None:
        self.heads: list[int] = []
        self.room: list[int] = []
        self.edges: list[list[int]] = [[], []]

    def node(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def edge(self, tail: int, head: int, capacity: int) -> None:
        for a, b, c in ((tail, head, capacity), (head, tail, 0)):
            self.edges[a].append(len(self.heads))
            self.heads.append(b)
            self.room.append(c)

    def reach(self) -> dict[int, int]:
        """Return the nodes that the source still reaches, with the edge each was reached by."""
        found = {_SOURCE: -1}
        queue = deque([_SOURCE])
        while queue:
            for e in self.edges[queue.popleft()]:
                head = self.heads[e]
                if self.room[e] > 0 and head not in found:
                    found[head] = e
                    if head == _SINK:
                        return found
                    queue.append(head)
        return found

    def augment(self) -> int:
        """Push as much as one more path from source to sink takes; return how much."""
        found = self.reach()
        if _SINK not in found:
            return 0
        path = []
        at = _SINK
        while at != _SOURCE:
            path.append(found[at])
            at = self.heads[found[at] ^ 1]
        amount = min(self.room[e] for e in path)
        for e in path:
            self.room[e] -= amount
            self.room[e ^ 1] += amount
        return amount


_MANY = 1 << 30

_UNIT = 64
"""What a transpose costs. Where a region is deep, one at an end of the graph costs 1 less, and one
of integers 2: they are smaller, and what stands between pairs computes on integers."""


@dataclass
class _Sides:
    """Who makes a value and who reads it, as nodes of the network."""

    producer: int
    readers: set[int]


def _sides(region: Region, value: Value, nodes: dict[Op, int]) -> _Sides | None:
    """Return the nodes around ``value``; ``None`` where its label changes no cost."""
    order = region.orders[value]
    if is_identity(order):
        return None
    producer = value.op
    made = _SINK
    if producer is not None and producer in nodes:
        made = nodes[producer]
    elif producer is not None and producer.name == "transpose" and not producer.has_attr_refs:
        perm = perm_of(producer)
        if perm is not None and is_identity(compose(perm, order)):
            made = _SOURCE
        elif value.use_count == 1 and perm is not None:
            return None
    readers: set[int] = set()
    for count, use in enumerate(value.uses):
        if count > _USE_LIMIT:
            readers.add(_SINK)
            break
        if region.reads_in_order(use.op, use.index):
            readers.add(nodes[use.op])
        elif is_dead(use.op):
            continue
        elif use.op.name != "transpose" or use.op.has_attr_refs or perm_of(use.op) is None:
            readers.add(_SINK)
        elif perm_of(use.op) == order:
            readers.add(_SOURCE)
    return _Sides(made, readers)


def _weight(region: Region, value: Value) -> int:
    """Return what a transpose of ``value`` costs."""
    if not region.deep:
        return _UNIT
    dtype = value.dtype
    narrow = dtype is not None and dtype.is_integer and dtype.bits <= 16
    return _UNIT - (_given(value) or _returned(value)) - 2 * narrow


def _given(value: Value) -> bool:
    """Whether ``value`` is an argument, or a transposed one."""
    op = value.op
    if op is not None and op.name == "transpose" and op.operands[0] is not None:
        op = op.operands[0].op
    return op is None


def _returned(value: Value) -> bool:
    """Whether ``value`` is returned, as it is or transposed."""
    for user in value.users:
        turned = user.result.users if user.name == "transpose" else ()
        if user.name == "return" or any(u.name == "return" for u in turned):
            return True
    return False


def _own_costs(region: Region, op: Op) -> tuple[int, int]:
    """Return what transposes inside of ``op`` cost when it is left alone, and when it is not."""
    found = region.plans[op]
    if not region.deep or op.name not in LAST_AXIS or op.operands[0] is None:
        return 0, 0
    last = (op.operands[0].rank or 0) - 1
    axes = (op.attr("axis"), found.attrs.get("axis"))
    before, after = (2 * _UNIT * (a not in (-1, last)) for a in axes)
    return before, after


def best_label(region: Region) -> set[Op]:
    """Return the operations to compute in the new order; empty when that removes no transpose."""
    network = _Network()
    nodes = {op: network.node() for op in region.plans}
    cost = 0
    for op, node in nodes.items():
        before, after = _own_costs(region, op)
        cost += before
        network.edge(_SOURCE, node, before)
        network.edge(node, _SINK, after)
    for value in region.orders:
        sides = _sides(region, value, nodes)
        if sides is None:
            continue
        made = sides.producer
        unit = _weight(region, value)
        # A value wanted as transposed by several costs one transpose, in either direction.
        one = bool(sides.readers - {_SOURCE}) if made == _SOURCE else _SOURCE in sides.readers
        cost += unit * one
        if made != _SINK:
            middle = network.node()
            network.edge(made, middle, unit)
            for reader in sorted(sides.readers):
                network.edge(middle, reader, _MANY)
        if made != _SOURCE:
            middle = network.node()
            network.edge(middle, made, unit)
            for reader in sorted(sides.readers):
                network.edge(reader, middle, _MANY)
    flow = 0
    while flow < cost:
        pushed = network.augment()
        if not pushed:
            break
        flow += pushed
    if flow >= cost:
        return set()
    found = network.reach()
    return {op for op, node in nodes.items() if node in found}
