"""Sorting the nodes of a graph that is not sorted, and saying where it runs in a circle."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from onnx import AttributeProto

from lepton_ir.diagnostics import InvalidModelError
from lepton_ir.frontends.onnx.table_values import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from onnx import GraphProto, NodeProto


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attr in node.attribute:
        if attr.type == AttributeProto.GRAPH:
            yield attr.g
        elif attr.type == AttributeProto.GRAPHS:
            yield from attr.graphs


def read_names(node: NodeProto) -> set[str]:
    """Return the names that a node reads, those its subgraphs take from outside included.

    A name that a subgraph both takes from outside and defines itself counts as its own.
    """
    names = {n for n in node.input if n}
    stack = [(g, frozenset[str]()) for g in _graphs(node)]
    while stack:
        graph, outer = stack.pop()
        own = set(outer)
        own.update(i.name for i in graph.input)
        own.update(i.name for i in graph.initializer)
        for inner in graph.node:
            own.update(inner.output)
        bound = frozenset(own)
        names.update(o.name for o in graph.output if o.name not in bound)
        for inner in graph.node:
            names.update(n for n in inner.input if n and n not in bound)
            stack.extend((g, bound) for g in _graphs(inner))
    return names


def sorted_nodes(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Return the nodes so that each follows those it reads; file order where that is free.

    Raises:
        InvalidModelError: the nodes form a cycle; names some of them.
    """
    items = list(nodes)
    producer = {name: i for i, node in enumerate(items) for name in node.output if name}
    users: list[list[int]] = [[] for _ in items]
    waiting = [0] * len(items)
    for i, node in enumerate(items):
        sources = {producer[n] for n in read_names(node) if n in producer}
        waiting[i] = len(sources)
        for source in sources:
            users[source].append(i)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for user in users[i]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(items):
        _report_cycle(items, users, waiting)
    return [items[i] for i in order]


def _report_cycle(items: list[NodeProto], users: list[list[int]], waiting: list[int]) -> None:
    """Raise, naming the nodes of one cycle."""
    stuck = {i for i, count in enumerate(waiting) if count}
    # Walking backwards from any stuck node stays among stuck nodes and must repeat one.
    sources: dict[int, int] = {}
    for i in stuck:
        for user in users[i]:
            sources.setdefault(user, i)
    seen: dict[int, int] = {}
    path: list[int] = []
    at = min(stuck)
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = sources[at]
    cycle = path[seen[at] :][::-1]
    some = [items[i].name or next(iter(items[i].output), "?") for i in cycle[:6]]
    names = " -> ".join(f'"{shown(n, 60)}"' for n in some)
    more = f" and {len(cycle) - 6} more" if len(cycle) > 6 else ""
    raise InvalidModelError(
        f"the nodes {names}{more} feed one another in a cycle", code="onnx-cycle"
    )
