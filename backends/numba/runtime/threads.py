"""Threads that run a table of kernel calls together: started once, shared by all sessions.

Worker threads spin for a job in native code, without the GIL, for a short while; then they sleep on
a semaphore. All threads run the same table and claim shares of each row (:mod:`.vm`); the calling
thread never waits for one that does not run.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from lepton_ir.backends.numba.codegen.emitter import I32, I64, KERNEL_TYPE, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.library import Kernel, emits, kernel_function
from lepton_ir.backends.numba.constants import aligned
from lepton_ir.backends.numba.runtime.vm import COUNTER_WORDS, JOB_SHIFT, VM, emit_pause

if TYPE_CHECKING:
    from lepton_ir.backends.numba.codegen.library import Library

_LINE = 64
_GENERATION, _TABLE, _COUNT, _COUNTERS = 0, 8, 16, 24
"""Byte offsets of the job in the shared words; the workers' own lines follow."""

_STATE, _SEEN = 0, 8
"""Byte offsets in a worker's line: whether it sleeps, and the last job that it has run."""

_ROWS = 1024
"""Rows that have counters from the start."""

_SPINS, _YIELDS = 2000, 200
"""Looks for a job before yielding the processor, and yields before falling asleep."""

PUBLISH = Kernel("publish")
WORK = Kernel("work")


@emits("publish")
def emit_publish(e: Emitter) -> None:
    """Publish a job; note in each worker's line (third word) whether it must be woken."""
    words, table, count, counters, workers = e.args(5)
    b = e.b
    base = e.ptr(words)
    b.fence("seq_cst")  # the counters are set before anybody sees the job
    e.store(table, base, _TABLE)
    e.store(count, base, _COUNT)
    e.store(counters, base, _COUNTERS)
    b.atomic_rmw("add", b.inttoptr(words, ir.PointerType(I64)), i64(1), "seq_cst")

    def wake(w: Val) -> None:
        line = b.add(words, b.mul(b.add(w, i64(1)), i64(_LINE)))
        state = b.inttoptr(line, ir.PointerType(I64))
        e.store(b.atomic_rmw("xchg", state, i64(0), "seq_cst"), e.ptr(line), 16)

    e.each(workers, wake)


@emits("work")
def emit_work(e: Emitter) -> None:
    """Run jobs until none has come for a while; then note that the worker sleeps."""
    words, vm = e.args(2)
    b = e.b
    line = b.add(words, b.mul(e.tid, i64(_LINE)))
    pointer = ir.PointerType(I64)
    generation, state = b.inttoptr(words, pointer), b.inttoptr(line, pointer)
    function = b.inttoptr(vm, ir.PointerType(KERNEL_TYPE))
    arguments = b.alloca(I64, 4)
    top, check, job, idle, again, sleep, late, done = (
        b.append_basic_block(n)
        for n in ("top", "check", "job", "idle", "again", "sleep", "late", "gone")
    )
    b.branch(top)
    b.position_at_end(top)
    seen = e.load(e.ptr(line), I64, _SEEN)
    b.branch(check)
    b.position_at_end(check)
    spins = b.phi(I64)
    spins.add_incoming(i64(0), top)
    now = b.load_atomic(generation, "seq_cst", 8)
    b.cbranch(b.icmp_signed("!=", now, seen), job, idle)
    b.position_at_end(job)
    e.store(now, e.ptr(line), _SEEN)
    fields = [e.load(e.ptr(words), I64, offset) for offset in (_TABLE, _COUNT, _COUNTERS)]
    for index, value in enumerate([*fields, now]):
        b.store(value, b.gep(arguments, [i64(index)]))
    b.call(function, [arguments, e.tid, e.threads])
    b.branch(top)
    b.position_at_end(idle)
    more = b.add(spins, i64(1))
    with b.if_else(b.icmp_signed("<", more, i64(_SPINS))) as (then, otherwise):
        with then:
            emit_pause(e)
        with otherwise:
            e.intrinsic("sched_yield", I32, [])
    b.cbranch(b.icmp_signed("<", more, i64(_SPINS + _YIELDS)), again, sleep)
    b.position_at_end(again)
    spins.add_incoming(more, again)
    b.branch(check)
    b.position_at_end(sleep)
    b.atomic_rmw("xchg", state, i64(1), "seq_cst")
    latest = b.load_atomic(generation, "seq_cst", 8)
    b.cbranch(b.icmp_signed("!=", latest, seen), late, done)
    b.position_at_end(late)
    # A job came in between. Whoever clears the state decides: either this thread goes on, or the
    # publisher has seen it asleep and will wake it.
    asleep = b.atomic_rmw("xchg", state, i64(0), "seq_cst")
    b.cbranch(b.icmp_signed("==", asleep, i64(1)), top, done)
    b.position_at_end(done)


class Pool:
    """Threads of one process.

    Args:
        library: where the kernels come from.
        threads: how many run a job, the calling one included.
    """

    def __init__(self, library: Library, threads: int) -> None:
        self.threads = threads
        self.pid = os.getpid()
        self._busy = threading.Lock()
        self._words = _zeros(_LINE * (threads + 1))
        # A late thread may still look at counters of an earlier job: none is ever given back.
        self._counters = [_zeros(8 * COUNTER_WORDS * _ROWS)]
        vm, publish, work = library.addresses([VM, PUBLISH, WORK])
        self._vm, self._publish = kernel_function(vm), kernel_function(publish)
        self._work = kernel_function(work)
        self._arguments = np.array([self._words.ctypes.data, vm], np.int64)
        self._wake = [threading.Semaphore(0) for _ in range(threads - 1)]
        for w in range(threads - 1):
            name = f"lepton-{w + 1}"
            threading.Thread(target=self._serve, args=(w,), name=name, daemon=True).start()

    def _serve(self, w: int) -> None:
        while True:
            self._work(self._arguments.ctypes.data, w + 1, self.threads)
            self._wake[w].acquire()

    def run(self, table: int, count: int) -> bool:
        """Run a table with all threads; return whether they were free to do so."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            job = int(self._words[0]) + 1
            counters = self._counters_for(count, job)
            call = np.array(
                [self._words.ctypes.data, table, count, counters, self.threads - 1], np.int64
            )
            self._publish(call.ctypes.data, 0, 1)
            for w, semaphore in enumerate(self._wake):
                if self._words[(w + 1) * _LINE // 8 + 2]:
                    semaphore.release()
            arguments = np.array([table, count, counters, job], np.int64)
            self._vm(arguments.ctypes.data, 0, self.threads)
        finally:
            self._busy.release()
        return True

    def _counters_for(self, count: int, job: int) -> int:
        """Return the address of counters for ``count`` rows, set for a job."""
        words = COUNTER_WORDS * count
        if len(self._counters[-1]) < words:
            self._counters.append(_zeros(8 * 2 * words))
        counters = self._counters[-1]
        counters[:words] = job << JOB_SHIFT
        return int(counters.ctypes.data)


def _zeros(nbytes: int) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = aligned(nbytes).view(np.int64)
    found[:] = 0
    return found


def pool(library: Library, threads: int) -> Pool:
    """Return the pool of this process; a forked process gets its own."""
    return _pool(library, threads, os.getpid())


@functools.cache
def _pool(library: Library, threads: int, pid: int) -> Pool:
    return Pool(library, threads)
