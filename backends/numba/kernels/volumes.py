"""Convolutions and pools over three axes, made of those over two.

A convolution sees the slices that a window covers along the first axis as channels of one image; a
pool goes over the last two axes, then over the first one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.kernels.conv import convolve
from lepton_ir.backends.numba.kernels.copy import copy_into, fill
from lepton_ir.backends.numba.kernels.pool import pool, pool_mode
from lepton_ir.backends.numba.kernels.views import permuted
from lepton_ir.backends.numba.kernels.window import Window, pads_of
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor, row_major

if TYPE_CHECKING:
    from collections.abc import Sequence

RANK = 3


@lowers("conv", tail=True)
def lower_conv(lo: Lowering) -> None:
    """Lower Conv with constant weights over three axes."""
    x, weights = lo.operand(0), lo.known(1)
    if len(x.shape) != RANK + 2 or weights is None or x.dtype is not dtypes.F32:
        lo.decline("weights that are not constant, or not f32, or not three axes")
    depth, window = _geometry(lo, x, weights.shape[2:])
    _, (count, outputs, slices, *plane) = lo.type()
    channels = x.shape[1]
    stacked = _stack(lo, lo.plain(x), depth, slices)
    image = (count * slices, channels * depth.taps, *x.shape[3:])
    x = Tensor(x.dtype, image, stacked.ref, row_major(image))
    y = lo.plain(convolve(lo, x, window, outputs, (count * slices, outputs, *plane)))
    shape = (count, slices, outputs, *plane)
    lo.set(permuted(Tensor(y.dtype, shape, y.ref, row_major(shape)), (0, 2, 1, 3, 4)))


class _Depth:
    """The first axis of a window: ``taps`` slices, ``dilation`` apart, every ``stride``."""

    def __init__(self, taps: int, stride: int, dilation: int, pads: tuple[int, int]) -> None:
        self.taps = taps
        self.stride = stride
        self.dilation = dilation
        self.pads = pads


def _geometry(lo: Lowering, x: Tensor, kernel: Sequence[int]) -> tuple[_Depth, Window]:
    """Return the first axis of the window, and the other two."""
    op = lo.anchor
    s, d = (tuple(op.attr(n) or (1,) * RANK) for n in ("strides", "dilations"))
    pads = pads_of(op, x.shape[2:], kernel, s, d)
    if min(p for pair in pads for p in pair) < 0:
        lo.decline("negative padding")
    window = Window((kernel[1], kernel[2]), (s[1], s[2]), (d[1], d[2]), (pads[1], pads[2]))
    return _Depth(kernel[0], s[0], d[0], pads[0]), window


def _stack(lo: Lowering, x: Tensor, depth: _Depth, slices: int) -> Tensor:
    """Return ``[N, slices, C, taps, H, W]``: what each window covers along the first axis."""
    count, channels, size, *plane = x.shape
    made = lo.new(x.dtype, (count, slices, channels, depth.taps, *plane))
    if any(depth.pads):
        fill(lo, made, np.zeros((), np.float32))
    for tap in range(depth.taps):
        start = tap * depth.dilation - depth.pads[0]
        first = max(0, -(start // depth.stride))
        last = min(slices, (size - 1 - start) // depth.stride + 1)
        if first >= last:
            continue
        shape = (count, last - first, channels, *plane)
        n, c, slice_, *within = x.strides
        place = Ref(x.ref.buffer, x.ref.offset + 4 * (start + first * depth.stride) * slice_)
        source = Tensor(x.dtype, shape, place, (n, depth.stride * slice_, c, *within))
        n, slice_, c, step, *within = made.strides
        place = Ref(made.ref.buffer, made.ref.offset + 4 * (first * slice_ + tap * step))
        copy_into(lo, source, Tensor(x.dtype, shape, place, (n, slice_, c, *within)))
    return made


@lowers("max_pool", "average_pool")
def lower_pool(lo: Lowering) -> None:
    """Lower MaxPool and AveragePool over three axes."""
    x = lo.operand(0)
    if len(x.shape) != RANK + 2:
        lo.decline("not three axes")
    mode = pool_mode(lo, x)
    depth, window = _geometry(lo, x, lo.anchor.attr("kernel_shape"))
    dtype, (count, channels, slices, rows, columns) = lo.type()
    x = lo.plain(x)
    size = x.shape[2]
    images = (count, channels * size, *x.shape[3:])
    x = Tensor(dtype, images, x.ref, row_major(images))
    x = lo.plain(pool(lo, x, window, mode, (count, channels * size, rows, columns)))
    images = (count, channels, size, rows * columns)
    x = Tensor(dtype, images, x.ref, row_major(images))
    along = Window((depth.taps, 1), (depth.stride, 1), (depth.dilation, 1), (depth.pads, (0, 0)))
    y = lo.plain(pool(lo, x, along, mode, (count, channels, slices, rows * columns)))
    lo.set(Tensor(dtype, lo.type()[1], y.ref, row_major(lo.type()[1])))
