"""Transposed convolutions whose windows do not overlap: one product, then a rearrangement."""

from __future__ import annotations

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.expression import Expression, Step
from lepton_ir.backends.numba.constants import aligned_array
from lepton_ir.backends.numba.kernels.gemm import call_matrix
from lepton_ir.backends.numba.kernels.panels import pack_panels, width_of
from lepton_ir.backends.numba.kernels.views import permuted
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Array, Ref, Tensor, row_major

_PLAIN = Expression(("f32",), (), (0,))
_ADD = Expression(("f32", "f32"), (Step("add", "f32", (0, 1)),), (2,))


@lowers("conv_transpose")
def lower_conv_transpose(lo: Lowering) -> None:
    """Lower ConvTranspose over two axes with strides equal to the window."""
    op, x, weights = lo.anchor, lo.operand(0), lo.operand(1)
    known = lo.is_known(1) and len(weights.shape) == 4
    if x.dtype is not dtypes.F32 or not known or op.attr("group") != 1:
        lo.decline("groups, other types or axes, weights that are not constant")
    channels, outputs, *window = weights.shape
    if list(op.attr("strides") or (1, 1)) != window or any(op.attr("pads") or ()):
        lo.decline("windows that overlap, or padding")
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
