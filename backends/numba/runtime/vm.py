"""The loop that runs a table of kernel calls, and the barrier between two of them."""

from __future__ import annotations

import platform

from llvmlite import ir

from lepton_ir.backends.numba.codegen.emitter import (
    I32,
    I64,
    KERNEL_TYPE,
    VOID,
    Emitter,
    Val,
    i64,
)
from lepton_ir.backends.numba.codegen.library import Kernel, emits

VM = Kernel("vm")
"""Arguments: table of (kernel, address of its arguments) pairs, their number, the barrier."""

BARRIER_WORDS = 16
"""64-bit words of a barrier: a counter and a generation, each on a cache line of its own."""

_SPINS = 2000
"""Looks at the barrier before the processor is given to somebody else."""


@emits("vm")
def emit_vm(e: Emitter) -> None:
    """Call each row's kernel; all threads meet after every row."""
    b = e.b
    table, count, barrier = e.args(3)
    rows = b.inttoptr(table, ir.PointerType(I64))

    def row(index: Val) -> None:
        place = b.gep(rows, [b.shl(index, i64(1))])
        function = b.inttoptr(b.load(place), ir.PointerType(KERNEL_TYPE))
        arguments = b.inttoptr(b.load(b.gep(place, [i64(1)])), ir.PointerType(I64))
        b.call(function, [arguments, e.tid, e.threads])
        with b.if_then(b.icmp_signed(">", e.threads, i64(1))):
            emit_barrier(e, barrier)

    e.each(count, row)


def emit_barrier(e: Emitter, address: Val) -> None:
    """Wait until all threads are here: spin for a while, then yield the processor."""
    b = e.b
    words = ir.PointerType(I64)
    counter = b.inttoptr(address, words)
    generation = b.inttoptr(b.add(address, i64(64)), words)
    before = b.load_atomic(generation, "acquire", 8)
    arrived = b.atomic_rmw("add", counter, i64(1), "acq_rel")
    last, wait, again, give_up, done = (
        b.append_basic_block(n) for n in ("last", "wait", "again", "yield", "met")
    )
    entry = b.block
    b.cbranch(b.icmp_signed("==", b.add(arrived, i64(1)), e.threads), last, wait)
    b.position_at_end(last)
    b.store_atomic(i64(0), counter, "monotonic", 8)
    b.store_atomic(b.add(before, i64(1)), generation, "release", 8)
    b.branch(done)
    b.position_at_end(wait)
    spins = b.phi(I64)
    spins.add_incoming(i64(0), entry)
    now = b.load_atomic(generation, "acquire", 8)
    b.cbranch(b.icmp_signed("!=", now, before), done, again)
    b.position_at_end(again)
    emit_pause(e)
    more = b.add(spins, i64(1))
    spins.add_incoming(more, again)
    spins.add_incoming(more, give_up)
    b.cbranch(b.icmp_signed(">", more, i64(_SPINS)), give_up, wait)
    b.position_at_end(give_up)
    e.intrinsic("sched_yield", I32, [])
    b.branch(wait)
    b.position_at_end(done)


def emit_pause(e: Emitter) -> None:
    """Tell the processor that this thread only waits."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        e.intrinsic("llvm.x86.sse2.pause", VOID, [])
