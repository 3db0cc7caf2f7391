"""Bias correction: what the rounding of weights does to the mean of a layer's result is undone.

``y = W x + b`` with ``W' = W + e`` has the mean ``E[y] + e E[x]``; the bias takes ``-e E[x]``. The
means of inputs, per channel over samples and positions, come from one run over the data. Padding
is taken for pixels like the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.builder import Builder
from lepton_ir.passes.quant.common import LAYERS
from lepton_ir.passes.quant.numbers import spread
from lepton_ir.passes.quant.probe import add_outputs, run_probe

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.numbers import Weight
    from lepton_ir.passes.quant.static import Plan

Array = np.ndarray[Any, Any]


def input_means(run: Run, plan: Plan, feeds: Feeds) -> dict[Op, Array]:
    """Return the mean of each channel of the input, f64, for layers with a bias."""
    layers = [op for op in plan.ops if op.name in LAYERS and _has_bias(op)]
    if not layers:
        return {}
    snapshot = run.snapshot()
    main = snapshot.module.main
    inputs = dict(zip(run.module.main.inputs, main.inputs, strict=True))
    build = Builder(main.block, main.block.terminator)
    outputs: list[Value] = []
    for op in layers:
        x = op.operands[0]
        assert x is not None
        copy = inputs.get(x) or snapshot.values[x]
        channel = 1 if op.name == "conv" else (x.rank or 2) - 1
        axes = [i for i in range(x.rank or 0) if i != channel]
        outputs.append(build.reduce_mean(copy, build.const(np.array(axes)), keepdims=False))
    add_outputs(snapshot.module, outputs)
    sums, count = [np.zeros(1) for _ in layers], 0
    for results in run_probe(snapshot.module, feeds, run.ctx, "calibrate"):
        if all(np.isfinite(r).all() for r in results):
            sums = [s + np.asarray(r, np.float64) for s, r in zip(sums, results, strict=True)]
            count += 1
    return {op: s / max(count, 1) for op, s in zip(layers, sums, strict=True) if count}


def _has_bias(op: Op) -> bool:
    x = op.operands[0]
    return len(op.operands) > 2 and op.operands[2] is not None and x is not None and bool(x.rank)


def corrected(op: Op, data: Array, weight: Weight, bias: Array, mean: Array) -> Array:
    """Return the bias that keeps the mean of a layer's result, in the bias's shape and f32.

    Args:
        op: the layer.
        data: its weight in f32.
        weight: as it is quantized.
        bias: in f32.
        mean: of its input's channels.
    """
    back = weight.tensor.numpy() * spread(weight.scale, weight.axis, data.ndim).astype(np.float64)
    error = back - data
    if op.name == "conv":
        error = error.reshape(*data.shape[:2], -1).sum(-1)
        group = int(op.attr("group"))
        parts = mean.reshape(group, -1)[np.arange(len(error)) // (len(error) // group)]
        shift = np.sum(error * parts, axis=1)
    else:
        shift = error @ mean if op.attrs.get("transB") else mean @ error
    return np.asarray(bias.reshape(-1) - shift, np.float32).reshape(bias.shape)
