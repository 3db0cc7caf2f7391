"""Constants a few rows at a time: read so, and computed so when the result is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.tensors import ExternalTensor, Tensor, packed_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_ir.dtypes import DType

Array = np.ndarray[Any, Any]

BLOCK = 1 << 20
"""Elements held at a time."""


def rows(tensor: Tensor, start: int, stop: int) -> Array:
    """Return rows of a tensor's first axis; of one in a file only these are read."""
    if not isinstance(tensor, ExternalTensor) or tensor.dtype.bits < 8:
        return tensor.numpy()[start:stop]
    kind = tensor.dtype.numpy
    stride = tensor.nbytes // max(tensor.shape[0], 1)
    count = (stop - start) * stride // kind.itemsize
    data = np.fromfile(tensor.path, kind, count, offset=tensor.offset + start * stride)
    return data.reshape(stop - start, *tensor.shape[1:])


@dataclass(frozen=True)
class Parts:
    """A float constant as pieces of about ``BLOCK`` elements; iterating starts over each time.

    Attributes:
        source: the constant.
        axis: of the channels, ``None`` when they are not told apart.
        factor: what it is multiplied with, of the same rank.
    """

    source: Tensor
    axis: int | None = None
    factor: Array | None = None

    def __iter__(self) -> Iterator[tuple[Any, Any, Array]]:
        """Yield the index of a piece, that of its channels, and its elements."""
        shape, factor = self.source.shape, self.factor
        if not shape:
            yield ..., ..., self.source.numpy()
            return
        held = None if isinstance(self.source, ExternalTensor) else self.source.numpy()
        step = max(BLOCK // max(math.prod(shape[1:]), 1), 1)
        for start in range(0, shape[0], step):
            part = slice(start, min(start + step, shape[0]))
            data = rows(self.source, part.start, part.stop) if held is None else held[part]
            if factor is not None:
                data = data * (factor[part] if factor.shape[0] > 1 else factor)
            yield part, part if self.axis == 0 else ..., data

    @property
    def others(self) -> tuple[int, ...] | None:
        """The axes that do not count channels."""
        rank = len(self.source.shape)
        return None if self.axis is None else tuple(i for i in range(rank) if i != self.axis)


class DerivedTensor(Tensor):
    """A constant computed from another one whenever it is read, and never kept.

    Args:
        pieces: gives the elements in order, in arrays of any shape.
        dtype: element type.
        shape: static shape.
    """

    __slots__ = ("_pieces",)

    def __init__(
        self, pieces: Callable[[], Iterator[Array]], dtype: DType, shape: tuple[int, ...]
    ) -> None:
        super().__init__(dtype, shape)
        self._pieces = pieces

    def numpy(self) -> Array:
        out: Array = np.empty(self.size, self.dtype.numpy)
        at = 0
        for piece in self._pieces():
            out[at : at + piece.size] = piece.reshape(-1)
            at += piece.size
        return out.reshape(self.shape)

    def chunks(self) -> Iterator[bytes | memoryview]:
        for piece in self._pieces():
            yield packed_bytes(piece, self.dtype)
