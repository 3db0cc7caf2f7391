"""Nested work without Python's recursion: a model's subgraphs may be nested as deep as it likes."""

from __future__ import annotations

from collections.abc import Generator

Task = Generator["Task", None, None]
"""Work that yields the tasks it needs done before it goes on."""


def run_task(task: Task) -> None:
    """Run a task and those it yields, innermost first."""
    stack = [task]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
        else:
            stack.append(child)
