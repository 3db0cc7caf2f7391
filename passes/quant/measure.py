"""Signal-to-noise ratios of layer outputs, float against quantized, on the calibration data.

Both models run as one, side by side, and the sums of squares are taken inside it in f64, so that
no activation leaves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.clone import clone_op
from lepton_ir.passes.quant.causes import POOR, explain
from lepton_ir.passes.quant.numbers import decibels
from lepton_ir.passes.quant.probe import add_outputs, run_probe

if TYPE_CHECKING:
    from lepton_ir.ir import Value
    from lepton_ir.passes.quant.common import Layer, Run, Snapshot
    from lepton_ir.passes.quant.feeds import Feeds


def measure_outputs(run: Run, before: Snapshot, feeds: Feeds) -> None:
    """Fill in ``output_sqnr`` of all layers of ``main``'s own block.

    ``10 log10(sum x^2 / sum (x - y)^2)`` over all elements and samples, where x is the tensor
    ``Layer.output`` in the float model and y the one of that name in the quantized model; all
    layers before it are quantized too. Runtimes without graph optimizations give these numbers.
    """
    main = before.module.main
    values: dict[Value, Value] = dict(zip(run.module.main.inputs, main.inputs, strict=True))
    anchor = main.block.terminator
    assert anchor is not None
    for op in run.module.main.block.ops:
        if op.definition is None or "terminator" not in op.definition.traits:
            copy = clone_op(op, values)
            copy.node_name = None
            main.block.insert_before(copy, anchor)
    build = Builder(main.block, anchor)
    measured: list[Layer] = []
    found: dict[Value, Layer] = {}
    outputs: list[Value] = []
    for layer in run.layers:
        x = None if layer.source is None else before.values.get(layer.source)
        y = None if layer.result is None else values.get(layer.result)
        if x is None or y is None:
            continue
        found[x] = layer
        if layer.ends is not None:
            x = build.clip(x, *(build.const(np.float32(v)) for v in layer.ends))
        wide = build.cast(x, to=dtypes.F64)
        error = build.sub(wide, build.cast(y, to=dtypes.F64))
        measured.append(layer)
        outputs += [
            build.reduce_sum_square(wide, keepdims=False),
            build.reduce_sum_square(error, keepdims=False),
        ]
    if not measured:
        return
    add_outputs(before.module, outputs)
    sums = np.zeros(len(outputs))
    for results in run_probe(before.module, feeds, run.ctx, "measure"):
        sums += [float(np.asarray(r)) for r in results]
    for layer, (signal, noise) in zip(measured, sums.reshape(-1, 2).tolist(), strict=True):
        layer.output_sqnr = decibels(signal, noise)
    poor = explain(run, found)
    if poor:
        worst = min(poor, key=lambda r: r.output_sqnr or 0.0)
        run.ctx.remark(
            "note",
            worst.name,
            "{} layer outputs keep less than {:.0f} dB of signal to noise, this one {:.1f} dB: {}",
            len(poor),
            POOR,
            worst.output_sqnr,
            worst.cause or "its rounding",
        )
