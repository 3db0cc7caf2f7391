"""The forms in which convolutions read their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.blocked import blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        for chosen, width in output_parts(w[g], block, vectors):
            part = np.zeros((inputs * block, rows, columns, width), np.float32)
            part[:channels, :, :, : len(chosen)] = chosen.transpose(1, 2, 3, 0)
            part = part.reshape(inputs, block, rows, columns, width).transpose(0, 2, 3, 1, 4)
            parts.append(part.reshape(-1))
    return joined(parts, np.float32)


def pack_plain(w: Array, block: int, vectors: int) -> Array:
    """Return ``[output blocks, channel, window, outputs]``, flat."""
    w = window_axes(w)
    channels, rows, columns = w.shape[1:]
    parts = []
    for chosen, width in output_parts(w, block, vectors):
        part = np.zeros((channels, rows, columns, width), np.float32)
        part[..., : len(chosen)] = chosen.transpose(1, 2, 3, 0)
        parts.append(part.reshape(-1))
    return joined(parts, np.float32)


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


def output_parts(w: Array, block: int, vectors: int) -> Iterator[tuple[Array, int]]:
    """Yield weights of ``vectors`` output blocks each, and how wide these are."""
    start, left = 0, blocks_of(len(w), block)
    while left:
        width = block * min(vectors, left)
        yield w[start : start + width], width
        start, left = start + width, left - min(vectors, left)


def joined(parts: list[Array], dtype: type[np.generic]) -> Array:
    """Return flat parts one after the other, aligned."""
    found = aligned_array((sum(p.size for p in parts),), dtype)
    start = 0
    for part in parts:
        found[start : start + part.size] = part
        start += part.size
    return found
