"""The geometry of convolutions and pools: windows, padding, and the halo that it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.infer import const_array

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
    pads = _pads(op, sizes, kernel, strides, dilations)
    if rank == 1:
        pairs = ((0, 0), pads[0])
        return Window((1, kernel[0]), (1, strides[0]), (1, dilations[0]), pairs)
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1]),
    )


def _pads(
    op: Op,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
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


def halo_for(value: Value, shape: Sequence[int]) -> Halo:
    """Return the halo that the convolutions which read ``value`` want around it."""
    rank = len(shape) - 2
    found = [(0, 0)] * rank
    for use in value.uses:
        op = use.op
        if op.name not in ("conv", "conv_integer") or use.index != 0 or op.operands[1] is None:
            continue
        kernel = op.operands[1].shape
        if kernel is None or len(kernel) != rank + 2:
            continue
        if any(not isinstance(k, int) for k in kernel[2:]):
            continue
        window = window_of(op, shape[2:], [k for k in kernel[2:] if isinstance(k, int)])
        if window is not None:
            pads = window.pads[2 - rank :]
            found = [(max(a, c), max(b, d)) for (a, b), (c, d) in zip(found, pads, strict=True)]
    return tuple(found)


def fill_for(value: Value) -> int:
    """Return what integer convolutions that read ``value`` want around it: its zero point."""
    for use in value.uses:
        op = use.op
        if op.name == "conv_integer" and use.index == 0 and len(op.operands) > 2:
            zero = const_array(op.operands[2])
            if zero is not None and zero.size == 1:
                return int(zero.reshape(-1)[0])
    return 0
