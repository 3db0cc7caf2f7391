"""The forms in which integer convolutions read their weights: four bytes to a lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.blocked import blocks_of
from lepton_ir.backends.numba.kernels.conv_weights import joined, output_parts, window_axes
from lepton_ir.backends.numba.kernels.quads import QUAD, quads_of

if TYPE_CHECKING:
    from lepton_ir.backends.numba.plan import Array


def without_zero(w: Array, zero: Array) -> Array | None:
    """Return weights less their zero points, one or one an output, as signed bytes if they fit."""
    moved: Array = w.astype(np.int16) - zero.astype(np.int16).reshape(-1, *(1,) * (w.ndim - 1))
    if moved.size and (moved.min() < -128 or moved.max() > 127):
        return None
    return moved.astype(np.int8)


def in_fewer_groups(w: Array, group: int, fewer: int) -> Array:
    """Return the weights of ``group`` groups as those of ``fewer``, zeros between the groups."""
    outputs, here, *window = w.shape
    together = group // fewer
    found = np.zeros((fewer, together, outputs // group, together, here, *window), w.dtype)
    parts = w.reshape(fewer, together, outputs // group, here, *window)
    for i in range(together):
        found[:, i, :, i] = parts[:, i]
    return found.reshape(outputs, together * here, *window)


def pack_byte_windows(w: Array, block: int, lanes: int, vectors: int, group: int) -> Array:
    """Return ``[group, output blocks, input block, window, quad, output, 4]``, zeros filled in.

    Output blocks stand in pairs of ``vectors``; a last single one is narrower, so the result is
    flat.
    """
    w = window_axes(w)
    outputs, channels, rows, columns = w.shape
    w = w.reshape(group, outputs // group, channels, rows, columns)
    inputs = blocks_of(channels, block)
    parts = []
    for g in range(group):
        for chosen, width in output_parts(w[g], lanes, vectors):
            part = np.zeros((inputs * block, rows, columns, width), np.int8)
            part[:channels, :, :, : len(chosen)] = chosen.transpose(1, 2, 3, 0)
            part = part.reshape(inputs, block // QUAD, QUAD, rows, columns, width)
            parts.append(part.transpose(0, 3, 4, 1, 5, 2).reshape(-1))
    return joined(parts, np.int8)


def pack_byte_taps(w: Array, lanes: int) -> Array:
    """Return ``[block, row, quad of columns, channel, 4]`` of a depthwise window."""
    w = window_axes(w)
    channels, _, rows, columns = w.shape
    blocks, quads = blocks_of(channels, lanes), quads_of(columns)
    whole = np.zeros((blocks * lanes, rows, quads * QUAD), np.int8)
    whole[:channels, :, :columns] = w[:, 0]
    found = aligned_array((blocks, rows, quads, lanes, QUAD), np.int8)
    found[...] = whole.reshape(blocks, lanes, rows, quads, QUAD).transpose(0, 2, 3, 1, 4)
    return found


def start_of_sums(w: Array, zero: int, lanes: int) -> Array:
    """Return what the zero point takes from each sum, filled up to whole blocks."""
    found = aligned_array((blocks_of(len(w), lanes) * lanes,), np.int32)
    found[:] = 0
    sums: Array = w.reshape(len(w), -1).sum(1, dtype=np.int64)
    found[: len(w)] = -zero * sums
    return found
