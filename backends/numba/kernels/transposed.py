"""Transposed convolutions: each phase of the results is a convolution of its own.

Results that are a stride apart use the same elements of the window, so they are a convolution whose
pixels are stored apart. Few output channels whose windows do not overlap are one product and a
rearrangement instead.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.expression import Expression, Step
from lepton_ir.backends.numba.codegen.library import Kernel
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.blocked import blocks_of, plane_strides, to_blocked
from lepton_ir.backends.numba.kernels.conv import (
    VECTORS,
    Convolution,
    Direct,
    panel_widths,
    translate_tail,
)
from lepton_ir.backends.numba.kernels.conv_weights import pack_direct
from lepton_ir.backends.numba.kernels.gemm import call_matrix
from lepton_ir.backends.numba.kernels.panels import pack_panels, width_of
from lepton_ir.backends.numba.kernels.tiles import max_pixels, tile_widths
from lepton_ir.backends.numba.kernels.views import permuted
from lepton_ir.backends.numba.kernels.window import Phase, Window, phases_of, transposed_halo
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Array, Ref, Tensor, row_major

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN = Expression(("f32",), (), (0,))
_ADD = Expression(("f32", "f32"), (Step("add", "f32", (0, 1)),), (2,))


@lowers("conv_transpose", tail=True)
def lower_phases(lo: Lowering) -> None:
    """Lower ConvTranspose over one or two axes, phase by phase."""
    op, x, weights = lo.anchor, lo.operand(0), lo.known(1)
    if x.dtype is not dtypes.F32 or weights is None or op.attr("group") != 1:
        lo.decline("groups, other types, or weights that are not constant")
    sizes, kernel = x.shape[2:], weights.shape[2:]
    axes = phases_of(op, sizes, kernel) if len(sizes) in (1, 2) else None
    if axes is None:
        lo.decline("more than two axes, dilated windows or gaps between windows")
    _, shape = lo.type()
    x = to_blocked(lo, x, tuple(transposed_halo(axes, sizes)))
    expression, operands = translate_tail(lo)
    conv = Convolution(lo, _window([p[0] for _, p in axes]), shape, expression, operands)
    rows = axes[0] if len(axes) == 2 else (1, [Phase(0, 1, 0, 1, 0)])
    for row, column in itertools.product(rows[1], axes[-1][1]):
        strides = (rows[0], axes[-1][0])
        _call_phase(lo, conv, x, (row, column), strides)
    lo.set(conv.y)


def _window(phases: Sequence[Phase]) -> Window:
    taps, pads = [p.taps for p in phases], [(p.pad, 0) for p in phases]
    if len(phases) == 1:
        taps, pads = [1, *taps], [(0, 0), *pads]
    return Window((taps[0], taps[1]), (1, 1), (1, 1), (pads[0], pads[1]))


def _call_phase(
    lo: Lowering,
    conv: Convolution,
    x: Tensor,
    phase: tuple[Phase, Phase],
    strides: tuple[int, int],
) -> None:
    """Add the convolution of one phase, its results stored ``strides`` apart."""
    block = lo.machine.lanes
    row, column = phase

    def pack(w: Array) -> Array:
        w = w if w.ndim == 4 else w[:, :, None]
        part = w[:, :, row.tap :: strides[0], column.tap :: strides[1]][:, :, ::-1, ::-1]
        return pack_direct(part.transpose(1, 0, 2, 3), block, VECTORS, 1)

    weights = lo.packed(1, ("phase", block, row.tap, column.tap, strides), pack)
    assert weights is not None
    tiles = tile_widths(column.count, max_pixels(lo.machine, VECTORS))
    blocks = blocks_of(conv.shape[1], block)
    window = Window((row.taps, column.taps), (1, 1), (1, 1), ((0, 0), (0, 0)))
    widths = tuple(w for w, _ in tiles)
    config = Direct(window, widths, panel_widths(blocks), True, strides[1])
    xn, xc, xr, pixel = plane_strides(x)
    start = Ref(x.ref.buffer, x.ref.offset - row.pad * xr - column.pad * pixel)
    args: list[int | Ref] = [start, weights, _moved(conv.y.ref, row, column, plane_strides(conv.y))]
    args += [x.shape[1], blocks, row.count, x.shape[0], 1, xn, xc, xr]
    yn, yc, yr, _ = plane_strides(conv.y)
    args += [yn, yc, yr * strides[0], *(count for _, count in tiles)]
    for mode, ref, steps in conv.operands:
        place = _moved(ref, row, column, steps) if mode == "f" else ref
        args += [place, steps[0], steps[1], steps[2] * strides[0]]
    lo.call(Kernel("conv", (config, conv.epilogue)), *args)


def _moved(ref: Ref, row: Phase, column: Phase, strides: Sequence[int]) -> Ref:
    """Return the address of the first result of a phase."""
    return Ref(ref.buffer, ref.offset + row.first * strides[2] + column.first * strides[3])


@lowers("conv_transpose")
def lower_product(lo: Lowering) -> None:
    """Lower ConvTranspose over two axes with strides equal to the window and few outputs."""
    op, x, weights = lo.anchor, lo.operand(0), lo.operand(1)
    known = lo.is_known(1) and len(weights.shape) == 4
    if x.dtype is not dtypes.F32 or not known or op.attr("group") != 1:
        lo.decline("groups, other types or axes, weights that are not constant")
    channels, outputs, *window = weights.shape
    if list(op.attr("strides") or (1, 1)) != window or any(op.attr("pads") or ()):
        lo.decline("windows that overlap, or padding")
    if outputs >= lo.machine.lanes:
        lo.decline("as many output channels as fill a block")
    n, _, rows, columns = x.shape
    _, shape = lo.type()
    if shape != (n, outputs, rows * window[0], columns * window[1]):
        lo.decline("padding of the output")
    x = lo.plain(x)
    width = width_of(lo.machine)
    taps = window[0] * window[1]

    def pack(w: Array) -> Array:
        return pack_panels(np.ascontiguousarray(w.reshape(channels, -1)), width)

    def spread(b: Array) -> Array:
        found = aligned_array((outputs * taps,), np.float32)
        found[:] = np.repeat(b, taps)
        return found

    panels = lo.packed(1, ("conv_transpose", width), pack)
    assert panels is not None
    operands = []
    if lo.has(2):
        bias = lo.packed(2, ("conv_transpose", taps), spread)
        if bias is None:
            lo.decline("a bias that is not constant")
        operands.append(Tensor(dtypes.F32, (outputs * taps,), bias, (1,)))
    pixels = rows * columns
    product = lo.new(dtypes.F32, (n * pixels, outputs * taps))
    for i in range(n):
        ref = Ref(x.ref.buffer, x.ref.offset + 4 * i * channels * pixels)
        # The image is read as it lies: neighbours along a row of the matrix are planes apart.
        a = Tensor(dtypes.F32, (pixels, channels), ref, (1, pixels))
        target = Ref(product.ref.buffer, product.ref.offset + 4 * i * pixels * outputs * taps)
        c = Tensor(dtypes.F32, (pixels, outputs * taps), target, (outputs * taps, 1))
        call_matrix(lo, a, panels, c, _ADD if operands else _PLAIN, operands)
    inner = (n, rows, columns, outputs, *window)
    view = Tensor(dtypes.F32, inner, product.ref, row_major(inner))
    whole = lo.plain(permuted(view, (0, 3, 1, 4, 2, 5)))
    lo.set(Tensor(dtypes.F32, shape, whole.ref, row_major(shape)))
