"""Placing buffers in one arena: those whose lifetimes do not meet share memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Buffer

ALIGNMENT = 64
"""Every buffer starts on a cache line, which is also a vector of the widest machine."""

SLACK = 64
"""Bytes behind each buffer that a full vector may read, never write."""

_PAGE = 4096
"""Bytes that are mapped together, at least."""


def is_readable(end: int) -> bool:
    """Return whether a vector may be read at the address ``end``, where an array stops."""
    return 0 < end & (_PAGE - 1) <= _PAGE - SLACK


_LARGE = 1 << 16
"""Bytes from which on a buffer starts at a place of its own in a page.

Where two are read and written side by side and their addresses agree, or nearly so, in the bits
inside a page, processors take a load for one of what has just been stored elsewhere, and wait.
"""

_APART = 1024
"""Bytes of a page from one large buffer's start to the next one's."""


def align(nbytes: int) -> int:
    """Return ``nbytes`` rounded up to whole cache lines, with room for a vector read at the end.

    A large buffer ends where the next one may start.
    """
    need = (nbytes + SLACK + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return need if nbytes < _LARGE else need + (_APART + ALIGNMENT - need) % _PAGE


def placement(nbytes: int) -> tuple[int, int]:
    """Return where memory of its own starts: the remainder of its address by a number, and that.

    Large arrays that NumPy makes start shortly behind the start of a page.
    """
    return (0, ALIGNMENT) if nbytes < _LARGE else (_APART, _PAGE)


def root(buffer: Buffer) -> Buffer:
    """Return the buffer whose memory ``buffer`` uses in the end."""
    while buffer.parent is not None:
        buffer = buffer.parent
    return buffer


def assign(buffers: Sequence[Buffer]) -> int:
    """Give every buffer an offset; return the size of the arena.

    Greedy by size: the largest buffers are placed first, each at the lowest offset where it meets
    none that lives at the same time. Buffers taken over in place follow their parent.
    """
    owners: dict[Buffer, tuple[int, int]] = {}
    for buffer in buffers:
        top = root(buffer)
        first, last = owners.get(top, (top.first, top.last))
        owners[top] = (min(first, buffer.first), max(last, buffer.last))
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; by offset
    size = 0
    for buffer in sorted(owners, key=lambda x: -x.nbytes):
        first, last = owners[buffer]
        need = align(buffer.nbytes)
        offset = 0
        for start, end, begin, finish in placed:
            if finish < first or last < begin:
                continue
            if offset + need <= start:
                break
            offset = max(offset, end)
        buffer.offset = offset
        size = max(size, offset + need)
        placed.append((offset, offset + need, first, last))
        placed.sort()
    for buffer in buffers:
        buffer.offset = root(buffer).offset
    return size
