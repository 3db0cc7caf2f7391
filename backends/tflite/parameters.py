"""Which numbers the integers of a tensor stand for, as pairs in the IR say it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.formats.tflite.node import Node
from lepton_ir.infer import const_array
from lepton_ir.ops.quant import integer_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.ir import Op

PAIR = ("quantize_linear", "dequantize_linear")


@dataclass(frozen=True)
class Params:
    """``scale * (q - zero)``.

    Attributes:
        scale: f32, one number or one for each index of the axis.
        zero: as many integers.
        axis: the axis, ``None`` per tensor.
    """

    scale: tuple[float, ...]
    zero: tuple[int, ...]
    axis: int | None = None

    @functools.cached_property
    def node(self) -> Node:
        """The table in a file."""
        return Node(
            "QuantizationParameters",
            scale=np.asarray(self.scale, np.float32),
            zero_point=np.asarray(self.zero, np.int64),
            quantized_dimension=self.axis or 0,
        )

    @property
    def symmetric(self) -> bool:
        """Whether 0 stands for 0."""
        return not any(self.zero)

    def shifted(self, by: int) -> Params:
        """Return the parameters of codes that are larger by a number."""
        return Params(self.scale, tuple(z + by for z in self.zero), self.axis)

    def permuted(self, perm: Sequence[int]) -> Params:
        """Return the parameters behind a transposition."""
        return (
            self
            if self.axis is None
            else Params(self.scale, self.zero, list(perm).index(self.axis))
        )

    def codes(self, array: np.ndarray[Any, Any], dtype: dtypes.DType) -> np.ndarray[Any, Any]:
        """Return numbers as ``quantize_linear`` rounds them, per tensor."""
        low, high = integer_range(dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            exact = np.rint(array.astype(np.float32) / np.float32(self.scale[0])) + self.zero[0]
            found: np.ndarray[Any, Any] = np.clip(np.nan_to_num(exact, nan=low), low, high)
        return found.astype(dtype.numpy)


def params_of(op: Op) -> Params | None:
    """Return the parameters of half a pair; ``None`` where a tensor has no such ones."""
    if op.name not in PAIR or op.attr("block_size"):
        return None
    integers = op.results[0] if op.name == "quantize_linear" else op.operands[0]
    floats = op.operands[0] if op.name == "quantize_linear" else op.results[0]
    scale = const_array(op.operands[1])
    point = op.operands[2] if len(op.operands) > 2 else None
    zero = None if point is None else const_array(point)
    if scale is None or (point is not None and zero is None):
        return None
    assert integers is not None
    assert floats is not None
    if scale.dtype != np.float32 or floats.dtype is not dtypes.F32 or integers.rank is None:
        return None
    zeros = np.zeros(scale.size, np.int64) if zero is None else zero.reshape(-1)
    if not scale.size or zeros.size != scale.size:
        return None
    axis = op.attr("axis") % max(integers.rank, 1) if scale.size > 1 else None
    values = tuple(float(s) for s in scale.reshape(-1))
    return Params(values, tuple(int(z) for z in zeros), axis)
