"""Sparse constants of a TFLite file, made dense when they are read.

Each level of the format walks one dim of the tensor in its traversal order, blocks last: a dense
level has all indices, a compressed one (``SPARSE_CSR``) lists those of each parent between two
``segments``. Values are stored in the order of that walk.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.tensors import LazyTensor, from_packed_bytes

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType
    from lepton_ir.formats.tflite.node import Node

MAX_GROWTH = 1 << 6
"""How many times larger than its file's bytes a dense tensor may be."""

_CSR = 1

Array = np.ndarray[Any, Any]


def dense_tensor(
    sparsity: Node, data: memoryview, dtype: DType, shape: tuple[int, ...]
) -> LazyTensor:
    """Return the dense tensor; its elements are placed when it is first read.

    Raises:
        ValueError: the sparsity contradicts itself or the shape, or lies about the values.
    """
    if min(shape, default=0) < 0 or dtype.nbytes(math.prod(shape)) > MAX_GROWTH * len(data):
        raise ValueError(f"a sparse tensor of shape {list(shape)} from {len(data)} bytes")
    walk = _Walk(sparsity, shape)
    places = walk.places()
    if dtype.nbytes(len(places)) != len(data):
        raise ValueError(f"{len(data)} bytes for {len(places)} values of {dtype}")

    def make() -> Array:
        dense = np.zeros(math.prod(shape), dtype.numpy)
        dense[places] = from_packed_bytes(data, dtype, (len(places),))
        return dense.reshape(shape)

    return LazyTensor(make, dtype, shape)


class _Walk:
    """The levels of a sparse tensor, from the outermost in."""

    def __init__(self, sparsity: Node, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._rank = len(shape)
        order = sparsity.traversal_order
        self._order = [] if order is None else [int(d) for d in order]
        blocks = sparsity.block_map
        self._blocks = [] if blocks is None else [int(d) for d in blocks]
        self._levels = sparsity.dim_metadata or ()
        if len(self._order) != len(self._levels) or sorted(self._order) != list(
            range(self._rank + len(self._blocks))
        ):
            raise ValueError("the traversal order does not fit the shape and the block map")
        if len(set(self._blocks)) != len(self._blocks) or any(
            not 0 <= d < self._rank for d in self._blocks
        ):
            raise ValueError("the block map names no dims of the shape")
        self._sizes = self._level_sizes()

    def _level_sizes(self) -> list[int]:
        """Return the size of each level; a blocked dim has two, whose product is its size."""
        inner = [1] * self._rank
        for d, level in zip(self._order, self._levels, strict=True):
            if d >= self._rank:
                if level.format == _CSR or level.dense_size < 1:
                    raise ValueError("a block is not dense")
                inner[self._blocks[d - self._rank]] = int(level.dense_size)
        sizes = []
        for d, level in zip(self._order, self._levels, strict=True):
            size = inner[self._blocks[d - self._rank]] if d >= self._rank else 0
            if d < self._rank:
                if self._shape[d] % inner[d]:
                    raise ValueError("the blocks do not divide the shape")
                size = self._shape[d] // inner[d]
                if level.format != _CSR and int(level.dense_size) != size:
                    raise ValueError(f"a dense level of {level.dense_size} for a dim of {size}")
            sizes.append(size)
        return sizes

    def places(self) -> Array:
        """Return the flat index in the dense tensor of every stored value.

        Raises:
            ValueError: an index is out of range, or the segments contradict themselves.
        """
        strides = [math.prod(self._shape[d + 1 :]) for d in range(self._rank)]
        inner = {self._blocks[d - self._rank]: s for d, s in self._blocked()}
        places = np.zeros(1, np.int64)
        for d, size, level in zip(self._order, self._sizes, self._levels, strict=True):
            dim = d if d < self._rank else self._blocks[d - self._rank]
            step = strides[dim] * (inner.get(d, 1) if d < self._rank else 1)
            if level.format == _CSR:
                places = self._compressed(level, places, size, step)
            else:
                places = (places[:, None] + np.arange(size) * step).reshape(-1)
        if len(np.unique(places)) != len(places):
            raise ValueError("two values have one place")
        return places

    def _blocked(self) -> list[tuple[int, int]]:
        found = zip(self._order, self._sizes, strict=True)
        return [(d, size) for d, size in found if d >= self._rank]

    def _compressed(self, level: Node, places: Array, size: int, step: int) -> Array:
        segments, indices = _integers(level.array_segments), _integers(level.array_indices)
        counts = np.diff(segments)
        if len(segments) != len(places) + 1 or segments[0] != 0 or np.any(counts < 0):
            raise ValueError("the segments do not fit the level around them")
        if segments[-1] != len(indices):
            raise ValueError(f"the segments end at {segments[-1]} of {len(indices)} indices")
        if np.any(indices < 0) or np.any(indices >= size):
            raise ValueError(f"an index is outside of a dim of {size}")
        found: Array = np.repeat(places, counts) + indices * step
        return found


def _integers(vector: Node | None) -> Array:
    if vector is None or vector.values.get("values") is None:
        return np.zeros(0, np.int64)
    return np.asarray(vector.values["values"], np.int64)
