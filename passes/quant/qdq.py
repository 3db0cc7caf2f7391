"""Building the quantize/dequantize pairs of a static plan, its integer weights and biases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.passes.quant.common import LAYERS, Editor, float_constant, new_layer, weight_axis
from lepton_ir.passes.quant.numbers import BIAS_LIMIT, SMALLEST_WEIGHT_SCALE, Affine, affine
from lepton_ir.passes.quant.weights import dequantized

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.calibrate import Range
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.static import Plan
    from lepton_ir.tensors import Tensor

Array = np.ndarray[Any, Any]


@dataclass
class _Pairs:
    """State while pairs are inserted.

    Attributes:
        run: the run.
        plan: what is quantized.
        ranges: by root value.
        dtype: of activations.
        parameters: by root value, scale and zero point, and the constants that hold them.
        values: by what ``dequantize_linear`` gives, the value it stands for.
        returned: by value, what ``dequantize_linear`` gives, where the model returns it.
        weights: by source and scales, what ``dequantize_linear`` gives for them.
    """

    run: Run
    plan: Plan
    ranges: dict[Value, Range]
    dtype: DType
    parameters: dict[Value, tuple[Affine, Value, Value]] = field(default_factory=dict)
    values: dict[Value, Value] = field(default_factory=dict)
    returned: dict[Value, Value] = field(default_factory=dict)
    weights: dict[tuple[Value, int], Value] = field(default_factory=dict)


def insert_pairs(run: Run, plan: Plan, ranges: dict[Value, Range]) -> None:
    """Rewrite the main function as planned, with scales from the ranges."""
    name = run.options.activations
    dtype = dtypes.BY_NAME[name] if name else run.prefers("activation_dtype") or dtypes.U8
    state = _Pairs(run, plan, ranges, dtype)
    readers: dict[Value, list[tuple[Op, int]]] = {}
    for op in plan.ops:
        for index in plan.inputs[op]:
            value = op.operands[index]
            assert value is not None
            readers.setdefault(value, []).append((op, index))
    maker = {plan.output[op]: op for op in plan.ops}
    for value, everywhere in _in_order(plan.paired(), plan):
        anchor = maker.get(value) or readers[value][0][0]
        _pair(state, value, anchor, readers.get(value, []), everywhere)
    for op in plan.ops:
        if op.name in LAYERS:
            _layer(state, op)


def _in_order(paired: dict[Value, bool], plan: Plan) -> list[tuple[Value, bool]]:
    """Return values with the root of a scale before the views of it."""
    return sorted(paired.items(), key=lambda item: _depth(item[0], plan))


def _depth(value: Value, plan: Plan) -> int:
    depth = 0
    while value in plan.source:
        value, depth = plan.source[value], depth + 1
    return depth


def _parameters(state: _Pairs, value: Value, edit: Editor) -> tuple[Affine, Value, Value]:
    root = state.plan.root(value)
    found = state.parameters.get(root)
    if found is None:
        r = state.ranges[root]
        p = affine(r.low, r.high, state.dtype, state.run.options.symmetric)
        scale = edit.named(edit.const(p.scale), root.name, "_scale")
        zero = edit.named(edit.const(p.zero), root.name, "_zero_point")
        found = state.parameters[root] = (p, scale, zero)
    return found


def _pair(
    state: _Pairs, value: Value, anchor: Op, readers: list[tuple[Op, int]], everywhere: bool
) -> None:
    """Put a pair behind ``value``, read by ``readers`` or by all that read ``value``."""
    edit = Editor(anchor, f"static-{anchor.name}").at_value(value)
    _, scale, zero = _parameters(state, value, edit)
    users = list(value.uses) if everywhere else []
    q = edit.named(edit.quantize_linear(value, scale, zero), value.name, "_quantized")
    y = edit.named(edit.dequantize_linear(q, scale, zero), value.name, "_dequantized")
    state.values[y] = value
    for op, index in readers:
        op.set_operand(index, y)
    for use in users:
        if use.op.operands[use.index] is value:
            use.op.set_operand(use.index, y)
    terminator = state.run.module.main.block.terminator
    if terminator is not None and y in terminator.operands:
        # The name of a model's output goes with the value that is returned now.
        y.name, value.name = value.name, value.name and value.name + "_float"
        y.declared, value.declared = value.declared, None
        state.returned[value] = y


def _layer(state: _Pairs, op: Op) -> None:
    """Give a layer its integer weight and bias."""
    run, rule = state.run, f"static-{op.name}"
    source = op.operands[1]
    tensor = float_constant(op, 1)
    assert source is not None
    assert tensor is not None
    axis = weight_axis(op)
    given = op.operands[0]
    assert given is not None
    step = state.parameters[state.plan.root(state.values[given])][0].scale
    bias = float_constant(op, 2)
    weight = run.weight(source, axis, None if bias is None else _floor(bias, step))
    assert weight is not None
    layer = new_layer(run, op, weight, tensor.nbytes, weight.nbytes)
    layer.source = op.result
    layer.result = state.returned.get(op.result, op.result)
    layer.output = layer.result.name or ""
    key = (source, id(weight))
    if key not in state.weights:
        state.weights[key] = dequantized(Editor(op, rule).at_value(source), weight, source)
    op.set_operand(1, state.weights[key])
    originals = [source]
    held = op.operands[2] if bias is not None else None
    if bias is not None and held is not None:
        layer.bytes_before += bias.nbytes
        layer.bytes_after += _bias(op, held, bias, weight.scale * step, rule)
        originals.append(held)
    run.record(layer, *originals)


def _floor(bias: Tensor, step: Array) -> Array:
    """Return the least weight scales with which the bias fits its integers."""
    magnitude = np.abs(bias.numpy().reshape(-1).astype(np.float64))
    floor = np.maximum(magnitude / (float(step) * BIAS_LIMIT), SMALLEST_WEIGHT_SCALE)
    return np.where(magnitude > 0, floor, 0.0)


def _bias(op: Op, source: Value, bias: Tensor, scale: Array, rule: str) -> int:
    """Put the bias in integers in units of ``scale``; return their bytes."""
    exact = bias.numpy().reshape(-1).astype(np.float64)
    q = np.rint(exact / scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
    edit = Editor(op, rule)
    held = edit.named(edit.const(q), source.name, "_quantized")
    step = edit.named(edit.const(np.asarray(scale, np.float32)), source.name, "_scale")
    axis = {"axis": 0} if scale.ndim else {}
    y = edit.dequantize_linear(held, step, **axis)
    op.set_operand(2, edit.named(y, source.name, "_dequantized"))
    return int(q.nbytes + scale.nbytes)
