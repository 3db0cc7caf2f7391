"""Sliding windows: whether their padding is one of the two that TFLite has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_ir.dims import Dim
    from lepton_ir.ir import Op


@dataclass(frozen=True)
class Axis:
    """One spatial axis of an operation on channels-last tensors.

    Attributes:
        size: of the input.
        out: of the result.
        kernel: taps.
        stride: distance of windows.
        dilation: distance of taps.
        begin: padding in front.
        end: padding behind.
    """

    size: Dim | None
    out: Dim | None
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int

    @property
    def extent(self) -> int:
        """Elements from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def known(self) -> bool:
        """Whether both sizes are numbers."""
        return isinstance(self.size, int) and isinstance(self.out, int)

    @property
    def valid(self) -> bool:
        """Whether windows lie inside of the input, as many as fit."""
        if self.begin or self.end:
            return False
        if isinstance(self.size, int) and isinstance(self.out, int):
            return self.out == (self.size - self.extent) // self.stride + 1
        return True

    @property
    def same(self) -> bool:
        """Whether there is one window for every ``stride`` elements, padded evenly."""
        if isinstance(self.size, int) and isinstance(self.out, int):
            if self.out != -(-self.size // self.stride):
                return False
            total = max((self.out - 1) * self.stride + self.extent - self.size, 0)
            return self.begin == total // 2
        return (
            self.stride == 1
            and self.begin + self.end == self.extent - 1
            and self.begin == (self.extent - 1) // 2
        )


def spatial(op: Op) -> list[Axis]:
    """Return the spatial axes of an operation, its ``auto_pad`` made explicit where it can be."""
    x, y = op.operands[0], op.results[0]
    assert x is not None
    rank = (x.rank or 2) - 2
    taps = op.attr("kernel_shape") if "pool" in op.name else (op.operands[1].shape or ())[1:-1]  # type: ignore[union-attr]
    strides = op.attr("strides") or (1,) * rank
    dilations = op.attr("dilations") or (1,) * rank
    pads = op.attr("pads") or (0,) * (2 * rank)
    found = []
    for i in range(rank):
        size = (x.shape or ())[1 + i]
        out = None if y.shape is None else y.shape[1 + i]
        begin, end = pads[i], pads[i + rank]
        axis = Axis(size, out, int(taps[i]), strides[i], dilations[i], begin, end)  # type: ignore[arg-type]
        found.append(_automatic(axis, op.attr("auto_pad")))
    return found


def _automatic(axis: Axis, auto_pad: str) -> Axis:
    """Return the axis with the padding that ``auto_pad`` stands for; begin is -1 if unknown."""
    if auto_pad == "NOTSET":
        return axis
    begin = end = 0
    if auto_pad.startswith("SAME"):
        total = axis.extent - 1 if axis.stride == 1 else -1
        if isinstance(axis.size, int):
            out = -(-axis.size // axis.stride)
            total = max((out - 1) * axis.stride + axis.extent - axis.size, 0)
        if total < 0:
            begin = end = -1
        elif auto_pad == "SAME_UPPER":
            begin, end = total // 2, total - total // 2
        else:
            begin, end = total - total // 2, total // 2
    return Axis(axis.size, axis.out, axis.kernel, axis.stride, axis.dilation, begin, end)


def padding_of(op: Op, *, transposed: bool = False) -> str:
    """Return ``VALID`` or ``SAME`` when the padding of an operation is that one, else ``""``."""
    axes = spatial(op)
    if transposed:
        return _transposed_padding(op, axes)
    ceil = "pool" in op.name and op.attr("ceil_mode")
    if all(a.valid and (a.known or not ceil) for a in axes):
        return "VALID"
    if op.attr("auto_pad") == "SAME_UPPER" or all(a.same for a in axes):
        return "SAME"
    return ""


def _transposed_padding(op: Op, axes: list[Axis]) -> str:
    """As `padding_of` for a transposed convolution, whose padding takes from the result."""
    rank = len(axes)
    more = op.attr("output_padding") or (0,) * rank
    if op.attr("auto_pad") not in ("NOTSET", "VALID") or op.attr("output_shape"):
        return ""
    if any(extra >= axis.stride for axis, extra in zip(axes, more, strict=True)):
        return ""
    if not any(a.begin or a.end for a in axes):
        return "VALID"
    for axis, extra in zip(axes, more, strict=True):
        if extra:
            return ""
        if not isinstance(axis.size, int) or not isinstance(axis.out, int):
            total = axis.kernel - axis.stride
            if total < 0 or axis.begin != total // 2 or axis.begin + axis.end != total:
                return ""
            continue
        if -(-axis.out // axis.stride) != axis.size:
            return ""
        total = max((axis.size - 1) * axis.stride + axis.kernel - axis.out, 0)
        if axis.begin != total // 2 or axis.end != total - total // 2:
            return ""
    return "SAME"
