"""The forms in which convolutions read their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.blocked import blocks_of

if TYPE_CHECKING:
    from lepton_ir.backends.numba.plan import Array


def pack_direct(w: Array, block: int, vectors: int, group: int) -> Array:
    """Return ``[group, output blocks, input block, window, channel, outputs]``, zeros filled in.

    Output blocks stand in pairs of ``vectors``; a last single one is narrower, so the result is
    flat.
    """
    outputs, channels, rows, columns = window_axes(w).shape
    w = window_axes(w).reshape(group, outputs // group, channels, rows, columns)
    inputs = blocks_of(channels, block)
    parts = []
    for g in range(group):
        start, left = 0, blocks_of(outputs // group, block)
        while left:
            width = block * min(vectors, left)
            part = np.zeros((inputs * block, rows, columns, width), np.float32)
            chosen = w[g, start : start + width]
            part[:channels, :, :, : len(chosen)] = chosen.transpose(1, 2, 3, 0)
            part = part.reshape(inputs, block, rows, columns, width).transpose(0, 2, 3, 1, 4)
            parts.append(part.reshape(-1))
            start, left = start + width, left - min(vectors, left)
    return _joined(parts)


def pack_plain(w: Array, block: int, vectors: int) -> Array:
    """Return ``[output blocks, channel, window, outputs]``, flat."""
    w = window_axes(w)
    outputs, channels, rows, columns = w.shape
    parts, start, left = [], 0, blocks_of(outputs, block)
    while left:
        width = block * min(vectors, left)
        part = np.zeros((channels, rows, columns, width), np.float32)
        chosen = w[start : start + width]
        part[..., : len(chosen)] = chosen.transpose(1, 2, 3, 0)
        parts.append(part.reshape(-1))
        start, left = start + width, left - min(vectors, left)
    return _joined(parts)


def pack_depthwise(w: Array, block: int) -> Array:
    """Return ``[output block, window, input of the group, output]``, zeros filled in."""
    w = window_axes(w)
    outputs, inputs, rows, columns = w.shape
    found = aligned_array((blocks_of(outputs, block), rows, columns, inputs, block), np.float32)
    found[:] = 0
    for start in range(0, outputs, block):
        part = w[start : start + block].transpose(2, 3, 1, 0)
        found[start // block, ..., : part.shape[-1]] = part
    return found


def window_axes(w: Array) -> Array:
    """Return weights with a window of two axes; the first ones of more join the channels."""
    if w.ndim == 3:
        return w[:, :, None, :]
    return w.reshape(len(w), -1, *w.shape[-2:])


def _joined(parts: list[Array]) -> Array:
    found = aligned_array((sum(p.size for p in parts),), np.float32)
    start = 0
    for part in parts:
        found[start : start + part.size] = part
        start += part.size
    return found
