"""The geometry of convolutions and pools: windows, padding, and the halo that it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.infer import const_array
from lepton_ir.ops.conv import transposed_crop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.kernels.blocked import Halo
    from lepton_ir.ir import Op, Value


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution or pooling, always with two axes.

    Attributes:
        kernel: rows and columns of the window.
        strides: steps.
        dilations: distances of its elements.
        pads: zeros before and after, by axis.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]


def window_of(op: Op, sizes: Sequence[int], kernel: Sequence[int]) -> Window | None:
    """Return the geometry of an operation on an image of ``sizes``; ``None`` for 3-D ones."""
    rank = len(sizes)
    if rank not in (1, 2) or len(kernel) != rank:
        return None
    strides = tuple(op.attr("strides") or (1,) * rank)
    dilations = tuple(op.attr("dilations") or (1,) * rank)
    pads = pads_of(op, sizes, kernel, strides, dilations)
    if rank == 1:
        pairs = ((0, 0), pads[0])
        return Window((1, kernel[0]), (1, strides[0]), (1, dilations[0]), pairs)
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1]),
    )


def pads_of(
    op: Op,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    """Return the padding of an operation with a window, by axis."""
    rank = len(sizes)
    auto = op.attr("auto_pad")
    if auto in ("NOTSET", ""):
        given = op.attr("pads") or (0,) * (2 * rank)
        return [(given[i], given[i + rank]) for i in range(rank)]
    if auto == "VALID":
        return [(0, 0)] * rank
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return found


@dataclass(frozen=True)
class Phase:
    """Every ``stride``-th result of a transposed convolution along one axis: a convolution.

    Attributes:
        first: its first result.
        count: number of its results.
        tap: the first element of the window that it uses; the next ones are strides apart.
        taps: how many it uses.
        pad: elements in front of the axis that its first result reads; negative when that begins
            behind the first element.
    """

    first: int
    count: int
    tap: int
    taps: int
    pad: int

    def halo(self, size: int) -> tuple[int, int]:
        """Return the zeros that it reads before and behind an axis of ``size``."""
        behind = self.count + self.taps - 1 - self.pad - size
        return max(self.pad, 0), max(behind, 0)


def phases_of(
    op: Op, sizes: Sequence[int], kernel: Sequence[int]
) -> list[tuple[int, list[Phase]]] | None:
    """Return stride and phases of a transposed convolution, by axis.

    ``None`` for dilated windows and those that leave gaps between results.
    """
    rank = len(sizes)
    strides = op.attr("strides") or (1,) * rank
    if any(d != 1 for d in op.attr("dilations") or ()) or any(
        k < s for k, s in zip(kernel, strides, strict=True)
    ):
        return None
    given, extra = op.attr("pads") or (0,) * (2 * rank), op.attr("output_padding") or (0,) * rank
    explicit = op.attr("output_shape")
    targets = list(explicit[-rank:]) if explicit else [None] * rank
    found = []
    for i, (size, k, stride) in enumerate(zip(sizes, kernel, strides, strict=True)):
        full = stride * (size - 1) + k + extra[i]
        pads = (given[i], given[i + rank])
        try:
            begin, out = transposed_crop(full, size, stride, targets[i], op.attr("auto_pad"), pads)
        except ValueError:
            return None
        found.append((stride, _phases(k, stride, begin, out)))
    return found


def _phases(kernel: int, stride: int, begin: int, out: int) -> list[Phase]:
    """Return the phases of an axis: result ``first + stride * t`` sums elements around ``t``."""
    found = []
    for first in range(min(stride, out)):
        tap = (first + begin) % stride
        taps = -(-(kernel - tap) // stride)
        last_read = (first + begin - tap) // stride
        found.append(Phase(first, -(-(out - first) // stride), tap, taps, taps - 1 - last_read))
    return found


def halo_for(value: Value, shape: Sequence[int]) -> Halo:
    """Return the halo that the convolutions which read ``value`` want around it."""
    rank = len(shape) - 2
    found = [(0, 0)] * rank
    for use in value.uses:
        wanted = _wanted(use.op, shape[2:]) if use.index == 0 else None
        for i, (before, behind) in enumerate(wanted or ()):
            found[i] = (max(found[i][0], before), max(found[i][1], behind))
    return tuple(found)


def _wanted(op: Op, sizes: Sequence[int]) -> Sequence[tuple[int, int]] | None:
    """Return the halo that an operation wants around its first operand."""
    if op.name not in ("conv", "conv_integer", "conv_transpose") or op.operands[1] is None:
        return None
    shape = op.operands[1].shape
    if shape is None or len(shape) != len(sizes) + 2:
        return None
    kernel = [k for k in shape[2:] if isinstance(k, int)]
    if len(kernel) != len(sizes):
        return None
    if op.name == "conv_transpose":
        axes = phases_of(op, sizes, kernel)
        return None if axes is None else transposed_halo(axes, sizes)
    window = window_of(op, sizes, kernel)
    return None if window is None else window.pads[2 - len(sizes) :]


def transposed_halo(
    axes: Sequence[tuple[int, list[Phase]]], sizes: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the zeros that the phases of a transposed convolution read around an image."""
    found = []
    for (_, phases), size in zip(axes, sizes, strict=True):
        halos = [p.halo(size) for p in phases]
        found.append((max(h[0] for h in halos), max(h[1] for h in halos)))
    return found


def fill_for(value: Value) -> int:
    """Return what integer convolutions that read ``value`` want around it: its zero point."""
    for use in value.uses:
        op = use.op
        if op.name == "conv_integer" and use.index == 0 and len(op.operands) > 2:
            zero = const_array(op.operands[2])
            if zero is not None and zero.size == 1:
                return int(zero.reshape(-1)[0])
    return 0
