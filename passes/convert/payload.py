"""Constants in 16 bits: what they hold, measured and converted a piece at a time.

Nothing is read as a whole and nothing converted is kept, so that the weights of a model never
sit in memory together, whatever their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.tensors import DenseTensor, SplatTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.dtypes import DType

Array = np.ndarray[Any, Any]

SMALL = 1 << 16
"""Bytes of a constant that is converted at once and kept."""


@dataclass(frozen=True)
class Limits:
    """What an element type can hold.

    Attributes:
        largest: largest finite magnitude.
        normal: least magnitude with all digits.
        rounds_up: magnitudes from here on become infinite.
        vanishes: magnitudes up to here become 0.
    """

    largest: float
    normal: float
    rounds_up: float
    vanishes: float


LIMITS: dict[str, Limits] = {
    "f16": Limits(65504.0, 2.0**-14, 65520.0, 2.0**-25),
    "bf16": Limits(float.fromhex("0x1.fep127"), 2.0**-126, float.fromhex("0x1.ffp127"), 2.0**-134),
}


@dataclass
class Stats:
    """What a constant holds.

    Attributes:
        low: least finite element, ``inf`` when there is none.
        high: largest finite element, ``-inf`` when there is none.
        tiny: least magnitude that is not 0, ``inf`` when there is none.
        size: number of elements.
        vanishing: elements other than 0 that become 0.
        overflowing: finite elements that become infinite.
    """

    low: float = float("inf")
    high: float = float("-inf")
    tiny: float = float("inf")
    size: int = 0
    vanishing: int = 0
    overflowing: int = 0

    @property
    def magnitude(self) -> float:
        """Largest finite magnitude, 0 when there is none."""
        return max(-self.low, self.high, 0.0)

    def add(self, part: Array, limits: Limits) -> None:
        """Take in some elements."""
        self.size += part.size
        finite = part if np.isfinite(part).all() else part[np.isfinite(part)]
        if not finite.size:
            return
        self.low = min(self.low, float(finite.min()))
        self.high = max(self.high, float(finite.max()))
        magnitude = np.abs(finite)
        self.overflowing += int((magnitude >= limits.rounds_up).sum())
        nonzero = magnitude[magnitude > 0]
        if nonzero.size:
            self.tiny = min(self.tiny, float(nonzero.min()))
            self.vanishing += int((nonzero <= limits.vanishes).sum())


def measure(tensor: Tensor, limits: Limits) -> Stats:
    """Return what a float constant holds; streams it."""
    stats = Stats()
    value = tensor.splat_value()
    if value is not None:
        stats.add(np.asarray(value).reshape(1), limits)
        return stats
    for part in parts(tensor):
        stats.add(part, limits)
    return stats


def parts(tensor: Tensor) -> Iterator[Array]:
    """Yield the elements of a float constant in order, a piece at a time."""
    wide = tensor.dtype.numpy.newbyteorder("<")
    rest = b""
    for chunk in tensor.chunks():
        data = memoryview(chunk).cast("B") if not rest else memoryview(rest + bytes(chunk))
        whole = len(data) // wide.itemsize * wide.itemsize
        if whole:
            yield np.frombuffer(data[:whole], wide)
        rest = bytes(data[whole:])


def convert_array(array: Array, dtype: DType) -> Array:
    """Round to the nearest element of ``dtype``, ties to even."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return array.astype(dtype.numpy)


class ConvertedTensor(Tensor):
    """A constant rounded to another float type whenever it is read; nothing is kept."""

    __slots__ = ("source",)

    def __init__(self, source: Tensor, dtype: DType) -> None:
        super().__init__(dtype, source.shape)
        self.source = source

    def numpy(self) -> Array:
        out: Array = np.empty(self.size, self.dtype.numpy)
        at = 0
        for part in parts(self.source):
            out[at : at + part.size] = convert_array(part, self.dtype)
            at += part.size
        out = out.reshape(self.shape)
        out.flags.writeable = False
        return out

    def chunks(self) -> Iterator[bytes | memoryview]:
        wire = np.dtype(f"<u{self.dtype.bits // 8}")
        for part in parts(self.source):
            yield (
                convert_array(part, self.dtype)
                .view(wire.newbyteorder("="))
                .astype(wire)
                .data.cast("B")
            )


def converted(tensor: Tensor, dtype: DType) -> Tensor:
    """Return ``tensor`` rounded to ``dtype``; large ones are converted when they are written."""
    if isinstance(tensor, SplatTensor):
        value = convert_array(np.asarray(tensor.value), dtype)
        return SplatTensor(value, dtype, tensor.shape)
    if tensor.nbytes <= SMALL:
        return DenseTensor(convert_array(tensor.numpy(), dtype), dtype)
    return ConvertedTensor(tensor, dtype)
