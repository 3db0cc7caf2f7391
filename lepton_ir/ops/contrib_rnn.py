"""Recurrent layers of onnxruntime with quantized weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.opdef import Bool, Float, Floats, Int, Str, Strs, op
from lepton_ir.ops._nn import Array, common_dtype, dim_div, first_known, require_equal
from lepton_ir.ops._numeric import widen
from lepton_ir.ops.quant import dequantize_linear, dynamic_quantize_linear
from lepton_ir.ops.rnn import (
    DIRECTIONS,
    bound_activations,
    initial_state,
    layer_of,
    lstm_step,
    scan,
    stacked,
)
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.infer import InferContext
    from lepton_ir.types import Type

    _Step = Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]

GATES = 4


def _infer(ctx: InferContext) -> list[Type]:
    direction = ctx.attrs["direction"]
    if direction not in DIRECTIONS:
        ctx.fail("C1", f"direction is {direction!r}")
    ranks = {"x": 3, "w": 3, "r": 3, "b": 2, "initial_h": 3, "initial_c": 3, "p": 2}
    for name, rank in ranks.items():
        if ctx.rank(name) not in (None, rank):
            ctx.fail("C2", f"{name} has rank {ctx.rank(name)} but should have {rank}")
    for name in ("w", "r"):
        if ctx.dtype(name) not in (None, dtypes.I8, dtypes.U8):
            ctx.fail("C4", f"{name} should be 8-bit integers")
    directions = len(DIRECTIONS[direction])
    x, w, r = (ctx.shape(n) or (None,) * 3 for n in ("x", "w", "r"))
    for name, shape in (("w", w), ("r", r)):
        require_equal(ctx, "C3", f"the first dim of {name}", shape[0], directions)
    require_equal(ctx, "C3", "the input size of w", w[1], x[2])
    hidden = first_known(ctx.attrs["hidden_size"], r[1], dim_div(w[2], GATES))
    dtype = common_dtype(ctx, "x", "b", "initial_h", "initial_c", "p")
    last = TensorType(dtype, (directions, x[1], hidden))
    return [TensorType(dtype, (x[0], directions, x[1], hidden)), last, last]


def _float_weights(codes: Array, scale: Array, zero: Array) -> Array:
    """Return (directions, columns, inputs) weights of codes (directions, inputs, columns).

    Scales and zero points are one a direction, or one a column.
    """
    parts = []
    for d, part in enumerate(codes):
        s, z = (np.broadcast_to(v[d], part.shape[1:]) for v in (scale, zero))
        parts.append(dequantize_linear(part, s, z, axis=1).T)
    return np.stack(parts) if parts else codes.astype(np.float32).swapaxes(1, 2)


def rounded_by_range(x: Array) -> Array:
    """Return ``x`` quantized to bytes by its range, and dequantized."""
    return np.asarray(dequantize_linear(*dynamic_quantize_linear(x)))


@op(
    "ms_dynamic_quantize_lstm(x, w, r, b?, sequence_lens?, initial_h?, initial_c?, p?, w_scale, "
    "w_zero_point, r_scale, r_zero_point) -> y, y_h?, y_c?",
    infer=_infer,
)
def ms_dynamic_quantize_lstm(
    x: Array,
    w: Array,
    r: Array,
    b: Array | None,
    sequence_lens: Array | None,
    initial_h: Array | None,
    initial_c: Array | None,
    p: Array | None,
    w_scale: Array,
    w_zero_point: Array,
    r_scale: Array,
    r_zero_point: Array,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Strs | None = None,
    clip: Float | None = None,
    direction: Str = "forward",
    hidden_size: Int | None = None,
    input_forget: Bool = False,
) -> tuple[Array, ...]:
    """``lstm`` of 8-bit weights (com.microsoft DynamicQuantizeLSTM-1).

    x is quantized by the range of the whole sequence, the state by that of all its sequences in
    every step. Weights are transposed; their scales and zero points are one a direction or column.

    C1  direction is forward, reverse or bidirectional
    C2  x, w, r, initial_h and initial_c have rank 3, b and p rank 2
    C3  w is (directions, input, 4 * hidden) and r (directions, hidden, 4 * hidden)
    C4  w and r are 8-bit integers
    """
    wide_w, wide_r = (
        _float_weights(*v) for v in ((w, w_scale, w_zero_point), (r, r_scale, r_zero_point))
    )
    operands = (rounded_by_range(x), wide_w, wide_r, b, sequence_lens, initial_h)
    layer = layer_of(operands, GATES, direction, hidden_size, layout=False)
    c = initial_state(initial_c, layer.h.shape, False, layer.h.dtype)
    count, _, hidden = layer.h.shape
    peepholes = np.zeros((count, 3 * hidden), layer.h.dtype) if p is None else widen(p)
    if peepholes.shape != (count, 3 * hidden):
        raise ValueError(f"p is {peepholes.shape} but should be {(count, 3 * hidden)}")
    parameters = (activation_alpha, activation_beta, clip)
    functions = bound_activations(activations, ("Sigmoid", "Tanh", "Tanh"), parameters, count)
    found = []
    for d, three in enumerate(functions):
        step = _rounding(lstm_step(layer, d, three, peepholes[d], input_forget))
        found.append(scan(layer, d, step, (layer.h[d], c[d])))
    return stacked(found, False, x.dtype)


def _rounding(step: _Step) -> _Step:
    """Return a step whose products see the state rounded to bytes."""

    def rounded(share: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        h, c = state
        return step(share, (rounded_by_range(h), c))

    return rounded
