"""Transposing in registers: square blocks of 32-bit elements, the heart of packing and layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from lepton_ir.backends.numba.codegen.emitter import I32, Emitter, Val

if TYPE_CHECKING:
    from collections.abc import Sequence


def transpose_block(e: Emitter, rows: Sequence[Val]) -> list[Val]:
    """Return the columns of a square block of vectors, as many as a vector has lanes.

    Each round interleaves the first half of the vectors with the second; after as many rounds as
    the number of lanes has bits, rows have become columns.
    """
    lanes = rows[0].type.count
    assert len(rows) == lanes
    half = lanes // 2
    low = [n for i in range(half) for n in (i, lanes + i)]
    high = [n for i in range(half, lanes) for n in (i, lanes + i)]
    masks = [ir.Constant(ir.VectorType(I32, lanes), m) for m in (low, high)]
    found = list(rows)
    rounds = lanes.bit_length() - 1
    for _ in range(rounds):
        found = [
            e.b.shuffle_vector(found[i], found[i + half], mask)
            for i in range(half)
            for mask in masks
        ]
    return found
