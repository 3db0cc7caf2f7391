"""Constants made by a formula, so that a test has a large weight in ten characters.

``rand`` is counter-based and our own, so its numbers never change: element ``i`` comes from the
64-bit state ``mix(seed + (i + 1) * 0x9E3779B97F4A7C15)`` where ``mix`` is SplitMix64's finalizer
(Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.dtypes import DType
from lepton_ir.tensors import LazyTensor

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_RANGE = 10
"""``rand`` of an integer type draws 0 <= x < this unless the text says otherwise."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1


class GeneratedTensor(LazyTensor):
    """A constant whose text is a formula; the data is made when first read.

    Attributes:
        text: the formula, such as ``rand(7)``.
    """

    __slots__ = ("text",)

    def __init__(
        self,
        text: str,
        make: Callable[[], np.ndarray[Any, Any]],
        dtype: DType,
        shape: tuple[int, ...],
    ) -> None:
        super().__init__(make, dtype, shape)
        self.text = text


def random_bits(seed: int, count: int) -> np.ndarray[Any, Any]:
    """Return ``count`` 64-bit words; word ``i`` depends on ``seed`` and ``i`` only."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN + np.uint64(seed & _MASK)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return f64 numbers in [-1, 1): the upper 53 bits of each word, divided by 2**52, minus 1."""
    bits = random_bits(seed, int(np.prod(shape, dtype=np.int64)))
    return ((bits >> np.uint64(11)).astype(np.float64) / (1 << 52) - 1.0).reshape(shape)


def rand(
    dtype: DType, shape: tuple[int, ...], seed: int, limit: float | None = None
) -> GeneratedTensor:
    """Return pseudo-random data.

    Floats are uniform in [-limit, limit) (1 by default), integers uniform in [0, limit) (10 by
    default, less where the type is narrower), bool is the top bit.

    Raises:
        ValueError: an element type without random numbers, or a limit the type does not hold.
    """
    if dtype.kind in ("string", "complex"):
        raise ValueError(f"rand() makes no {dtype.name}")
    if dtype.is_integer:
        top = 1 << (dtype.bits - (dtype.kind == "int"))
        bound = min(DEFAULT_RANGE, top) if limit is None else int(limit)
        if not 0 < bound <= top:
            raise ValueError(f"rand() of {dtype.name} needs a limit between 1 and {top}")
    text = f"rand({seed})" if limit is None else f"rand({seed}, {limit})"

    def make() -> np.ndarray[Any, Any]:
        if dtype.is_float:
            return (uniform(seed, shape) * (limit or 1.0)).astype(dtype.numpy)
        bits = random_bits(seed, int(np.prod(shape, dtype=np.int64))).reshape(shape)
        if dtype.kind == "bool":
            return (bits >> np.uint64(63)).astype(np.bool_)
        return (bits % np.uint64(bound)).astype(np.int64).astype(dtype.numpy)

    return GeneratedTensor(text, make, dtype, shape)


def arange(dtype: DType, shape: tuple[int, ...]) -> GeneratedTensor:
    """Return 0, 1, 2, ... in row-major order.

    Raises:
        ValueError: strings and bool do not count.
    """
    if dtype.kind in ("string", "bool"):
        raise ValueError(f"arange() makes no {dtype.name}")

    def make() -> np.ndarray[Any, Any]:
        count = int(np.prod(shape, dtype=np.int64))
        return np.arange(count).astype(dtype.numpy).reshape(shape)

    return GeneratedTensor("arange()", make, dtype, shape)
