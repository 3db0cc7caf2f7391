"""Run a function over many items in forked workers, surviving crashes and hangs.

Unlike `concurrent.futures`, a worker that dies (a segmentation fault in native code) or overruns
its time costs one item and is replaced; the other items keep running. Workers are forked, so items
and functions need not be pickled; results are.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Literal, TypeVar

Item = TypeVar("Item")

__all__ = ["Outcome", "run_isolated"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item.

    `status` is "done" (the function returned `value`), "raised" (`value` is the exception as one
    line), "died" (`value` is the worker's exit code as text) or "timeout".
    """

    index: int
    status: Literal["done", "raised", "died", "timeout"]
    value: object
    seconds: float


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    index: int | None = None
    started: float = 0.0


def run_isolated(
    function: Callable[[Item], object],
    items: Sequence[Item],
    *,
    jobs: int = 2,
    timeout: float = 60.0,
) -> Iterator[Outcome]:
    """Yield one `Outcome` per item, in order of completion.

    Args:
        function: called in a forked child; its result must be picklable.
        items: inherited by the children through fork.
        jobs: number of children alive at once.
        timeout: wall-clock seconds an item may take before its worker is killed.
    """
    pending = iter(range(len(items)))
    workers: list[_Worker] = []
    try:
        for _ in range(min(jobs, len(items))):
            worker = _spawn(function, items)
            workers.append(worker)
            _assign(worker, pending)
        while busy := [worker for worker in workers if worker.index is not None]:
            for worker in _ready(busy, timeout):
                yield _collect(worker, timeout)
                if not worker.process.is_alive():
                    workers.remove(worker)
                    worker = _spawn(function, items)
                    workers.append(worker)
                _assign(worker, pending)
    finally:
        for worker in workers:
            worker.connection.close()
            worker.process.kill()
            worker.process.join()


def _spawn(function: Callable[[Item], object], items: Sequence[Item]) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, items, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(
    function: Callable[[Item], object], items: Sequence[Item], connection: Connection
) -> None:
    while True:
        try:
            index = connection.recv()
        except EOFError:
            return
        try:
            reply = ("done", function(items[index]))
        except Exception as error:
            reply = ("raised", f"{type(error).__name__}: {error}")
        connection.send(reply)


def _assign(worker: _Worker, pending: Iterator[int]) -> None:
    worker.index = next(pending, None)
    worker.started = time.monotonic()
    if worker.index is not None:
        worker.connection.send(worker.index)


def _ready(busy: list[_Worker], timeout: float) -> list[_Worker]:
    """Return the workers that have replied, died or overrun, waiting for the first such."""
    deadline = min(worker.started for worker in busy) + timeout
    replied = wait([worker.connection for worker in busy], max(0.0, deadline - time.monotonic()))
    now = time.monotonic()
    return [
        worker for worker in busy if worker.connection in replied or now - worker.started >= timeout
    ]


def _collect(worker: _Worker, timeout: float) -> Outcome:
    assert worker.index is not None
    seconds = time.monotonic() - worker.started
    if not worker.connection.poll():
        worker.process.kill()
        worker.process.join()
        return Outcome(worker.index, "timeout", f"no answer within {timeout:g} s", seconds)
    try:
        status, value = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        text = f"worker ended with exit code {worker.process.exitcode}"
        return Outcome(worker.index, "died", text, seconds)
    return Outcome(worker.index, status, value, seconds)
