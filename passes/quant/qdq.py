"""Building the quantize/dequantize pairs of a static plan, its integer weights and biases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.passes.quant.common import LAYERS, Editor, float_constant, new_layer
from lepton_ir.passes.quant.correct import Correction, corrected
from lepton_ir.passes.quant.integers import (
    expand_hard,
    hard_affine,
    merge_convolution,
    mergeable,
    quantize_constants,
)
from lepton_ir.passes.quant.numbers import BIAS_LIMIT, SMALLEST_WEIGHT_SCALE, Affine, affine
from lepton_ir.passes.quant.weights import dequantized
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.calibrate import Range
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.numbers import Weight
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
        deciders: by value, the operation whose choices its pair follows.
        parameters: by value, scale and zero point, and the constants that hold them.
        values: by what ``dequantize_linear`` gives, the value it stands for.
        returned: by value, what ``dequantize_linear`` gives, where the model returns it.
        means: by layer, of its input's channels, where biases are to be corrected.
        corrections: of biases, as they were made.
        rounded: by layer, its weight where it is not simply rounded to the nearest.
        weights: by source and scales, what ``dequantize_linear`` gives for them.
    """

    run: Run
    plan: Plan
    ranges: dict[Value, Range]
    deciders: dict[Value, Op] = field(default_factory=dict)
    parameters: dict[Value, tuple[Affine, Value, Value]] = field(default_factory=dict)
    values: dict[Value, Value] = field(default_factory=dict)
    returned: dict[Value, Value] = field(default_factory=dict)
    weights: dict[tuple[Value, int], Value] = field(default_factory=dict)
    means: dict[Op, Array] = field(default_factory=dict)
    rounded: dict[Op, Weight] = field(default_factory=dict)
    corrections: list[Correction] = field(default_factory=list)


def insert_pairs(
    run: Run,
    plan: Plan,
    ranges: dict[Value, Range],
    means: dict[Op, Array],
    weights: dict[Op, Weight],
) -> list[Correction]:
    """Rewrite the main function as planned.

    Args:
        run: the run.
        plan: what is quantized.
        ranges: by root value; they give the scales.
        means: of the inputs of layers whose bias is to be corrected.
        weights: of layers that are not simply rounded to the nearest.

    Returns:
        The corrections of biases.
    """
    state = _Pairs(run, plan, ranges, means=means, rounded=weights)
    readers: dict[Value, list[tuple[Op, int]]] = {}
    for op in plan.ops:
        for index in plan.inputs[op]:
            value = op.operands[index]
            assert value is not None
            readers.setdefault(value, []).append((op, index))
    state.deciders = {value: found[0][0] for value, found in readers.items()}
    maker = {value: op for op in plan.ops for value in plan.outputs[op]}
    state.deciders |= maker
    fixed = {v for v, op in maker.items() if op.name == "hard_sigmoid"}
    for value, everywhere in _in_order(plan.paired(whole=run.whole), plan):
        anchor = maker.get(value) or readers[value][0][0]
        if value in fixed:
            state.values[value] = value
            _parameters(state, value, Editor(anchor, f"static-{anchor.name}"))
        elif value in plan.factor:
            _rescale(state, value, anchor)
        else:
            _pair(state, value, anchor, readers.get(value, []), everywhere)
    for op in plan.ops:
        quantize_constants(op, _constants(plan, op), run.activation_dtype(op))
        if op.name in LAYERS:
            _layer(state, op)
    for op in plan.ops:
        if op.name in ("hard_sigmoid", "hard_swish") and not run.whole:
            expand_hard(op, run.activation_dtype(op))
    return state.corrections


def _constants(plan: Plan, op: Op) -> list[int]:
    """Return the slots of constants to quantize; a factor is gone by then."""
    return plan.constants.get(op, []) if not plan.factor.keys() & set(plan.outputs[op]) else []


def _in_order(paired: dict[Value, bool], plan: Plan) -> list[tuple[Value, bool]]:
    """Return values with the root of a scale before the views of it."""
    return sorted(paired.items(), key=lambda item: _depth(item[0], plan))


def _depth(value: Value, plan: Plan) -> int:
    depth = 0
    while value in plan.source:
        value, depth = plan.source[value], depth + 1
    return depth


def _parameters(state: _Pairs, value: Value, edit: Editor) -> tuple[Affine, Value, Value]:
    found = state.parameters.get(value)
    if found is not None:
        return found
    source, factor = state.plan.source.get(value), state.plan.factor.get(value)
    if source is not None and factor is None:
        found = _parameters(state, source, edit)
    elif source is not None and factor is not None:
        p, _, zero = _parameters(state, source, edit)
        p = Affine(np.asarray(p.scale * np.float32(factor), np.float32), p.zero)
        found = (p, edit.const(p.scale), zero)
    else:
        op = state.deciders[value]
        dtype = state.run.activation_dtype(op)
        fixed = state.run.fixed(op) if value in state.plan.outputs.get(op, ()) else None
        if fixed is not None:
            p = Affine(np.asarray(fixed[0], np.float32), np.asarray(fixed[1], dtype.numpy))
        elif value in state.ranges:
            r = state.ranges[value]
            p = affine(r.low, r.high, dtype, state.run.symmetric(op))
        else:
            p = hard_affine(dtype)
        if op.name == "concat":
            # Operands share these, so they have to stand before.
            edit = Editor(op, f"static-{op.name}")
            edit.before = edit.block.first
        # No names: with the tensor's, these would be a percent of a small model's bytes.
        found = (p, edit.const(p.scale), edit.const(p.zero))
    state.parameters[value] = found
    return found


def _rescale(state: _Pairs, value: Value, op: Op) -> None:
    """Replace a product with a number by the codes of its operand, read with another scale."""
    edit = Editor(op, "static-mul")
    (index,) = state.plan.inputs[op]
    held = op.operands[index]
    assert held is not None
    assert held.op is not None
    _, scale, zero = _parameters(state, value, edit)
    y = edit.dequantize_linear(held.op.operands[0], scale, zero)
    y.name, y.declared, y.meta = value.name, value.declared, value.meta
    y.op.node_name = op.node_name
    value.replace_all_uses(y)
    state.values[y] = value
    op.erase()


def _pair(
    state: _Pairs, value: Value, anchor: Op, readers: list[tuple[Op, int]], everywhere: bool
) -> None:
    """Put a pair behind ``value``, read by ``readers`` or by all that read ``value``."""
    edit = Editor(anchor, f"static-{anchor.name}").at_value(value)
    _, scale, zero = _parameters(state, value, edit)
    users = list(value.uses) if everywhere else []
    q = edit.quantize_linear(value, scale, zero)
    # No names either: those of the exporter are shorter, and a file holds each of them three times.
    y: Value = edit.dequantize_linear(q, scale, zero)
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
    if tensor is None:
        _product(state, op)
        return
    given = op.operands[0]
    assert given is not None
    step = state.parameters[state.values[given]][0].scale
    bias = float_constant(op, 2)
    (made,) = state.plan.outputs[op]
    merged = mergeable(op, made) if run.merges and op.name == "conv" else None
    if merged is not None and run.activation_dtype(op).bits != 8:
        merged = None
    floor = None if bias is None else _floor(bias, step)
    weight = run.weight(source, run.axis(op), floor, forced=merged is not None)
    assert weight is not None
    better = state.rounded.get(op)
    if better is not None and np.array_equal(better.scale, weight.scale):
        weight = better
    float_bias = np.zeros(0) if bias is None else bias.numpy()
    if bias is not None and op in state.means:
        mean = state.means[op]
        bias = DenseTensor(corrected(op, tensor.numpy(), weight, bias.numpy(), mean))
    layer = new_layer(run, op, weight, tensor.nbytes, weight.nbytes)
    layer.source = op.result if merged is None else made
    held = op.operands[2] if bias is not None else None
    integers, originals = None, [source]
    if bias is not None and held is not None:
        scale = weight.scale * step
        integers = Editor(op, rule).const(bias_codes(bias.numpy(), scale))
        Editor(op, rule).named(integers, held.name, "_quantized")
        if op in state.means:
            plain = bias_codes(float_bias, scale)
            state.corrections.append(Correction(integers, plain))
        layer.bytes_before += bias.nbytes
        layer.bytes_after += bias.size * (4 if merged is not None else 8)
        originals.append(held)
    if merged is not None:
        at = Editor(op, rule).at_value(source)
        zero = at.const(np.zeros((), np.int8))
        parts = (*at.weight_consts(weight, source.name), zero)
        layer.result = merge_convolution(op, merged, parts, integers)
        ends = state.ranges.get(state.plan.root(made))
        if ends is not None and ends.cut:
            layer.ends = (ends.low, ends.high)
    else:
        key = (source, id(weight))
        if key not in state.weights:
            at = Editor(op, rule).at_value(source)
            state.weights[key] = dequantized(at, weight, source, zero=op.name != "conv")
        op.set_operand(1, state.weights[key])
        if integers is not None and held is not None:
            made_scale = state.parameters[state.values[given]][1]
            long = weight.scale.size > LONG_BIAS and not run.whole
            _read_bias(op, integers, made_scale, weight.scale * step, rule, long=long)
        layer.result = state.returned.get(op.result, op.result)
    layer.output = layer.result.name or ""
    run.record(layer, *originals)


def _product(state: _Pairs, op: Op) -> None:
    """Note a product of two activations, which has neither weight nor bias."""
    layer = new_layer(state.run, op, None, 0, 0)
    layer.source = op.result
    layer.result = state.returned.get(op.result, op.result)
    layer.output = layer.result.name or ""
    state.run.record(layer)


def _floor(bias: Tensor, step: Array) -> Array:
    """Return the least weight scales with which the bias fits its integers."""
    magnitude = np.abs(bias.numpy().reshape(-1).astype(np.float64))
    floor = np.maximum(magnitude / (float(step) * BIAS_LIMIT), SMALLEST_WEIGHT_SCALE)
    return np.where(magnitude > 0, floor, 0.0)


def bias_codes(bias: Array, scale: Array) -> Array:
    """Return a bias in i32, in units of ``scale``."""
    exact = bias.reshape(-1).astype(np.float64)
    codes: Array = np.rint(exact / scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
    return codes


LONG_BIAS = 48
"""Channels from which on a product in the graph takes less of a file than its result."""


def _read_bias(op: Op, held: Value, x_scale: Value, scale: Array, rule: str, *, long: bool) -> None:
    """Dequantize the bias of a layer whose weight is dequantized already.

    Its scale, ``x_scale * w_scale``, is a product of constants that stand in the file already if it
    is ``long``; runtimes fold it while they load the model.
    """
    edit = Editor(op, rule)
    weight = op.operands[1]
    if long and weight is not None and weight.op is not None:
        step = Editor(op, "static-bias-scale").mul(x_scale, weight.op.operands[1])
    else:
        step = edit.const(np.asarray(scale, np.float32))
    axis = {"axis": 0} if scale.ndim else {}
    op.set_operand(2, edit.dequantize_linear(held, step, **axis))
