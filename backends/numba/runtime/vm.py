"""The loop that runs a table of kernel calls, alone or together with other threads."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Callable

VM = Kernel("vm")
"""Arguments: table of (kernel, address of its arguments) pairs, their number, the counters of the
rows, the job's number (see :func:`emit_shared_row`)."""

COUNTER_WORDS = 2
"""64-bit words of a row's counters: shares claimed, shares done."""

JOB_SHIFT = 8
"""Counters hold ``job << JOB_SHIFT`` and, below it, the number of shares."""

_SPINS = 2000
"""Looks at a counter before the processor is given to somebody else."""


@emits("vm")
def emit_vm(e: Emitter) -> None:
    """Call each row's kernel; with several threads, a row is done before the next one begins."""
    b = e.b
    table, count, counters, job = e.args(4)
    rows = b.inttoptr(table, ir.PointerType(I64))
    base = b.shl(job, i64(JOB_SHIFT))

    def call(index: Val, share: Val) -> None:
        place = b.gep(rows, [b.shl(index, i64(1))])
        function = b.inttoptr(b.load(place), ir.PointerType(KERNEL_TYPE))
        arguments = b.inttoptr(b.load(b.gep(place, [i64(1)])), ir.PointerType(I64))
        b.call(function, [arguments, share, e.threads])

    def row(index: Val) -> None:
        with b.if_else(b.icmp_signed("==", e.threads, i64(1))) as (alone, together):
            with alone:
                call(index, i64(0))
            with together:
                place = b.add(counters, b.mul(index, i64(8 * COUNTER_WORDS)))
                emit_shared_row(e, place, base, lambda share: call(index, share))

    e.each(count, row)


def emit_shared_row(e: Emitter, place: Val, base: Val, call: Callable[[Val], None]) -> None:
    """Claim shares of a row and run them until none is left; then wait until all are done.

    A thread that comes late finds nothing to claim, so nobody waits for one that does not run. A
    thread that is so late that the counters belong to another job claims nothing either: it must
    not touch the table, which may be gone.
    """
    b = e.b
    words = ir.PointerType(I64)
    claimed = b.inttoptr(place, words)
    done = b.inttoptr(b.add(place, i64(8)), words)
    claim, attempt, run, wait, again, give_up, finished = (
        b.append_basic_block(n)
        for n in ("claim", "attempt", "run", "wait", "again", "yield", "finished")
    )
    b.branch(claim)
    b.position_at_end(claim)
    old = b.load_atomic(claimed, "seq_cst", 8)
    share = b.sub(old, base)
    b.cbranch(b.icmp_unsigned("<", share, e.threads), attempt, wait)
    b.position_at_end(attempt)
    swapped = b.cmpxchg(claimed, old, b.add(old, i64(1)), "seq_cst", "seq_cst")
    b.cbranch(b.extract_value(swapped, 1), run, claim)
    b.position_at_end(run)
    call(share)
    b.atomic_rmw("add", done, i64(1), "seq_cst")
    b.branch(claim)
    b.position_at_end(wait)
    spins = b.phi(I64)
    spins.add_incoming(i64(0), claim)
    count = b.sub(b.load_atomic(done, "seq_cst", 8), base)
    b.cbranch(b.icmp_unsigned(">=", count, e.threads), finished, again)
    b.position_at_end(again)
    emit_pause(e)
    more = b.add(spins, i64(1))
    spins.add_incoming(more, again)
    spins.add_incoming(more, give_up)
    b.cbranch(b.icmp_signed(">", more, i64(_SPINS)), give_up, wait)
    b.position_at_end(give_up)
    e.intrinsic("sched_yield", I32, [])
    b.branch(wait)
    b.position_at_end(finished)


def emit_pause(e: Emitter) -> None:
    """Tell the processor that this thread only waits."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        e.intrinsic("llvm.x86.sse2.pause", VOID, [])
