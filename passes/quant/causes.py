"""Why results of quantized layers are far from the float model's, in the words of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.passes.quant.common import LAYERS, float_constant, label

if TYPE_CHECKING:
    from lepton_ir.ir import Value
    from lepton_ir.passes.quant.calibrate import Range
    from lepton_ir.passes.quant.common import Layer, Run
    from lepton_ir.passes.quant.static import Plan

POOR = 10.0
"""Ratio in dB below which layer outputs are worth a note and a cause."""

NEAR = 3.0
"""Decibels that a layer may be worse than what it reads and still not be the cause."""

NARROW_RANGE = 16.0
"""Ratio of range and root mean square from which on rounding takes more than it should."""


def note_causes(run: Run, plan: Plan, ranges: dict[Value, Range]) -> None:
    """Keep what is suspicious about each planned layer, in case its output turns out poor."""
    for op in plan.ops:
        if op.name not in LAYERS:
            continue
        worst, name = 0.0, ""
        for value in [op.operands[i] for i in plan.inputs[op]] + plan.outputs[op]:
            found = None if value is None else ranges.get(plan.root(value))
            if found is not None and value is not None and found.outlier > worst:
                worst, name = found.outlier, value.name or "a value"
        if worst > NARROW_RANGE:
            cause = f"range outlier: {name} reaches {worst:.0f} times its root mean square"
        elif op.name == "conv" and op.attr("group") != 1 and float_constant(op, 1) is not None:
            cause = "its channels are convolved alone, and have one scale for different ranges"
        else:
            cause = "it amplifies the rounding of what it reads"
        run.causes[label(op)] = cause


def explain(run: Run, measured: dict[Value, Layer]) -> list[Layer]:
    """Name the cause of each poor output; returns these layers.

    Args:
        run: the run.
        measured: layers by their outputs in a float copy of the model.
    """
    poor: list[Layer] = []
    for value, layer in measured.items():
        if layer.output_sqnr is None or layer.output_sqnr >= POOR:
            continue
        poor.append(layer)
        feeders = [f for f in _feeders(value, measured) if f.output_sqnr is not None]
        worst = min(feeders, key=lambda f: f.output_sqnr or 0.0, default=None)
        if worst is not None and (worst.output_sqnr or 0.0) < layer.output_sqnr + NEAR:
            layer.cause = f"inherits the noise of {worst.name}"
        else:
            layer.cause = run.causes.get(layer.name, "")
    return poor


def _feeders(value: Value, measured: dict[Value, Layer]) -> list[Layer]:
    """Return the nearest measured layers that ``value`` is computed from."""
    found: list[Layer] = []
    stack, seen = [value], {value}
    while stack:
        op = stack.pop().op
        for operand in op.operands if op is not None else ():
            if operand is None or operand in seen:
                continue
            seen.add(operand)
            if operand in measured:
                found.append(measured[operand])
            else:
                stack.append(operand)
    return found
