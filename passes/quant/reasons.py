"""Why a layer is hard to quantize: the first cause that applies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.passes.quant.common import LAYERS, float_constant, weight_axis
from lepton_ir.passes.quant.numbers import BIAS_LIMIT, affine

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.calibrate import Range
    from lepton_ir.passes.quant.static import Prepared

Array = np.ndarray[Any, Any]

NARROW_RANGE = 16.0
"""Ratio of range and root mean square from which on rounding takes more than it should."""

DEAD = 1e-6
"""Largest weight of a channel, over that of all, below which the channel is dead."""


def cause(ops: list[Op], found: Prepared) -> str:
    """Name what makes a layer and what follows it hard to quantize."""
    weighted = ops[0].name in LAYERS and float_constant(ops[0], 1) is not None
    layer = ops[0] if weighted else None
    if layer is not None:
        top = _channel_tops(layer)
        if float(top.min(initial=np.inf)) < DEAD * float(top.max(initial=0.0)):
            return "dead channel: some weights are next to nothing beside the others"
        worst = _bias_overflow(layer, found, top)
        if worst > 1:
            return (
                f"bias overflow: a bias is {worst:.3g} times what fits its 32 bits, so that the "
                "weights of its channel get a coarser scale"
            )
    worst, name = _worst_outlier(ops, found)
    if worst > NARROW_RANGE:
        return f"range outlier: {name} reaches {worst:.0f} times its root mean square"
    if layer is not None and layer.name == "conv" and layer.attr("group") != 1:
        return "its channels are convolved alone, and have one scale for their different ranges"
    return "what follows amplifies its rounding"


def _channel_tops(layer: Op) -> Array:
    weight = float_constant(layer, 1)
    assert weight is not None
    data, axis = np.abs(weight.numpy()), weight_axis(layer)
    return np.asarray(data.max(tuple(i for i in range(data.ndim) if i != axis), initial=0.0))


def _bias_overflow(layer: Op, found: Prepared, top: Array) -> float:
    """Return the largest bias over the largest that fits, in units of ``x_scale * w_scale``."""
    bias = float_constant(layer, 2)
    x = _range(layer.operands[0], found)
    if bias is None or x is None or bias.size != top.size:
        return 0.0
    x_scale = float(affine(x.low, x.high, dtypes.U8, False).scale)
    unit = x_scale * top.astype(np.float64) / 127
    held = np.abs(bias.numpy().astype(np.float64).reshape(-1))
    return float(np.max(held[unit > 0] / unit[unit > 0], initial=0.0)) / BIAS_LIMIT


def _worst_outlier(ops: list[Op], found: Prepared) -> tuple[float, str]:
    plan = found.plan
    values = [op.operands[i] for op in ops for i in plan.inputs[op]]
    values += [v for op in ops for v in plan.outputs[op]]
    worst, name = 0.0, ""
    for value in values:
        held = _range(value, found)
        if held is not None and held.outlier > worst:
            worst, name = held.outlier, (value.name if value is not None else "") or "a value"
    return worst, name


def _range(value: Value | None, found: Prepared) -> Range | None:
    return None if value is None else found.ranges.get(found.plan.root(value))
