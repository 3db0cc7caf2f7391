"""Minimum cut of a small network with integer capacities (Dinic's algorithm)."""

from __future__ import annotations

from collections import deque

INFINITE = 1 << 60
"""Capacity of an edge that is never cut."""


class Network:
    """Nodes are numbers from 0; node 0 is the source, node 1 the sink.

    Edge ``e`` and its reverse ``e ^ 1`` lie next to each other.
    """

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]
        self._to: list[int] = []
        self._left: list[int] = []

    def node(self) -> int:
        """Add a node."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, a: int, b: int, capacity: int, back: int = 0) -> None:
        """Add an edge from ``a`` to ``b``, and one back."""
        for start, end, room in ((a, b, capacity), (b, a, back)):
            self._edges[start].append(len(self._to))
            self._to.append(end)
            self._left.append(room)

    def source_side(self) -> list[bool]:
        """Return for each node whether it is on the source's side, of the cuts the smallest."""
        while True:
            level = self._levels()
            if level[1] < 0:
                return [at >= 0 for at in level]
            position = [0] * len(self._edges)
            while self._augment(level, position):
                pass

    def _levels(self) -> list[int]:
        level = [-1] * len(self._edges)
        level[0] = 0
        queue = deque([0])
        while queue:
            node = queue.popleft()
            for e in self._edges[node]:
                if self._left[e] and level[self._to[e]] < 0:
                    level[self._to[e]] = level[node] + 1
                    queue.append(self._to[e])
        return level

    def _augment(self, level: list[int], position: list[int]) -> bool:
        """Push flow along one shortest path; ``False`` when there is none left."""
        path: list[int] = []
        node = 0
        while node != 1:
            edges = self._edges[node]
            while position[node] < len(edges):
                e = edges[position[node]]
                if self._left[e] and level[self._to[e]] == level[node] + 1:
                    break
                position[node] += 1
            else:
                if not path:
                    return False
                node = self._to[path.pop() ^ 1]
                position[node] += 1
                continue
            path.append(e)
            node = self._to[e]
        room = min(self._left[e] for e in path)
        for e in path:
            self._left[e] -= room
            self._left[e ^ 1] += room
        return True
