"""Bias correction: what the rounding of weights does to the mean of a layer's result is undone.

``y = W x + b`` with ``W' = W + e`` has the mean ``E[y] + e E[x]``; the bias takes ``-e E[x]``. The
means of inputs, per channel over samples and positions, come from one run over the data. A tap of
a convolution that falls on padding at some positions counts for the others only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.builder import Builder
from lepton_ir.infer import const_tensor
from lepton_ir.passes.quant.common import LAYERS
from lepton_ir.passes.quant.numbers import spread
from lepton_ir.passes.quant.probe import Probe, add_outputs, run_probe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.numbers import Weight
    from lepton_ir.passes.quant.static import Plan

Array = np.ndarray[Any, Any]


@dataclass
class Correction:
    """A corrected bias, as it stands in the module.

    Attributes:
        value: the constant, i32.
        plain: what it would be without the correction.
    """

    value: Value
    plain: Array


SETTLING = 16
"""Samples on which both are compared."""

MARGIN = 0.9
"""Share of the squared distance without corrections that they must not exceed. The means come from
the samples that judge them, so that a smaller gain may be none on others."""


def settle(run: Run, source: Module, corrections: list[Correction], feeds: Feeds) -> None:
    """Take corrections back where they bring the outputs hardly closer to the float model's.

    What lowers the error of every layer may still raise that of a model whose layers cancel it.
    """
    few = list(itertools.islice(feeds, SETTLING))
    with Probe(source, run.ctx, "measure", fast=True) as probe:
        expected = [results for results in probe.run(few)]
    found = []
    for _ in range(2):
        with Probe(run.snapshot().module, run.ctx, "measure", fast=True) as probe:
            found.append(_distance(expected, probe.run(few)))
        _swap(corrections)
    if found[0] > MARGIN * found[1]:
        _swap(corrections)
        run.ctx.remark("note", "", "biases are not corrected: the outputs come hardly closer by it")


def _swap(corrections: list[Correction]) -> None:
    for item in corrections:
        old, tensor = item.value.op, const_tensor(item.value)
        assert old is not None
        assert old.block is not None
        assert tensor is not None
        build = Builder(old.block, old)
        build.loc = old.loc
        made = build.const(item.plain)
        item.plain, made.name = tensor.numpy(), item.value.name
        item.value.replace_all_uses(made)
        item.value = made
        old.erase()


def _distance(expected: list[list[Any]], results: Iterable[list[Any]]) -> float:
    """Return the worst output's squared distance, as a share of its square."""
    sums: dict[int, Array] = {}
    for want, have in zip(expected, results, strict=True):
        for i, (x, y) in enumerate(zip(want, have, strict=True)):
            if isinstance(x, np.ndarray) and x.dtype == np.float32 and np.isfinite(x).all():
                wide = x.astype(np.float64)
                pair = np.array([np.square(wide - y).sum(), np.square(wide).sum()])
                sums[i] = sums.get(i, np.zeros(2)) + pair
    return max((float(e / max(s, 1e-60)) for e, s in sums.values()), default=0.0)


def input_means(run: Run, plan: Plan, feeds: Feeds) -> dict[Op, Array]:
    """Return the mean of each channel of the input, f64, for layers with a bias."""
    layers = [op for op in plan.ops if op.name in LAYERS and _has_bias(op)]
    if not layers:
        return {}
    snapshot = run.snapshot()
    inputs = {op: snapshot.values[x] for op in layers if (x := op.operands[0]) is not None}
    return channel_means(snapshot.module, inputs, feeds, run.ctx)


def channel_means(
    module: Module, inputs: dict[Op, Value], feeds: Feeds, ctx: PassContext
) -> dict[Op, Array]:
    """Return the mean of each channel of the input, f64, by layer.

    Args:
        module: a copy of the model, which is changed.
        inputs: the copy's value that each layer reads.
        feeds: the samples.
        ctx: of the pass.
    """
    build = Builder(module.main.block, module.main.block.terminator)
    outputs: list[Value] = []
    for op, x in inputs.items():
        channel = 1 if op.name == "conv" else (x.rank or 2) - 1
        axes = [i for i in range(x.rank or 0) if i != channel]
        outputs.append(build.reduce_mean(x, build.const(np.array(axes)), keepdims=False))
    add_outputs(module, outputs)
    sums, count = [np.zeros(1) for _ in inputs], 0
    for results in run_probe(module, feeds, ctx, "calibrate"):
        if all(np.isfinite(r).all() for r in results):
            sums = [s + np.asarray(r, np.float64) for s, r in zip(sums, results, strict=True)]
            count += 1
    return {op: s / max(count, 1) for op, s in zip(inputs, sums, strict=True) if count}


def _has_bias(op: Op) -> bool:
    x = op.operands[0]
    return len(op.operands) > 2 and op.operands[2] is not None and x is not None and bool(x.rank)


def coverage(op: Op, shape: tuple[int, ...]) -> Array:
    """Return the share of positions at which each tap of a convolution is not on padding.

    Args:
        op: the convolution.
        shape: of its weight.

    Returns:
        What broadcasts with the weight; ones where the size of the input is not known.
    """
    rank = len(shape) - 2
    sizes = (op.operands[0].shape or ())[2:] if op.operands[0] is not None else ()
    counts = (op.result.shape or ())[2:]
    pads = list(op.attrs.get("pads") or [0] * 2 * rank)
    plain = str(op.attr("auto_pad")) in ("NOTSET", "VALID") and len(sizes) == len(counts) == rank
    result = np.ones(shape[2:])
    for axis in range(rank if plain else 0):
        size, count = sizes[axis], counts[axis]
        if not isinstance(size, int) or not isinstance(count, int) or not count:
            continue
        stride = (op.attrs.get("strides") or [1] * rank)[axis]
        dilation = (op.attrs.get("dilations") or [1] * rank)[axis]
        taps = np.arange(shape[2 + axis])[:, None] * dilation - pads[axis]
        at = np.arange(count)[None, :] * stride + taps
        share = ((at >= 0) & (at < size)).mean(1)
        result = result * share.reshape((-1,) + (1,) * (rank - axis - 1))
    return np.asarray(result)


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
        error = (error * coverage(op, data.shape)).reshape(*data.shape[:2], -1).sum(-1)
        group = int(op.attr("group"))
        parts = mean.reshape(group, -1)[np.arange(len(error)) // (len(error) // group)]
        shift = np.sum(error * parts, axis=1)
    else:
        shift = error @ mean if op.attrs.get("transB") else mean @ error
    return np.asarray(bias.reshape(-1) - shift, np.float32).reshape(bias.shape)
