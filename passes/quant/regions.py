"""Which parts of a static plan are worth their borders.

A region is a set of planned operations that pass quantized values to one another. At its borders
floats are quantized and dequantized, and onnxruntime turns images into channels-last order and
back, as its integer convolutions want them. The model of its time is rough and in units of one
multiply-add of a float convolution: integers save a share of the products of layers, and pay for
every element that crosses a border. Regions that lose stay in float.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lepton_ir.passes.quant.common import LAYERS, constant

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.static import Plan

GAIN = 0.5
"""Share of a dense layer's time that integers save."""

GROUPED_GAIN = 0.0
"""Of a convolution in groups, which moves more than it computes."""

BORDER = 8.0
"""Multiply-adds worth one element that is quantized or dequantized."""

SMALL = 1024
"""Elements whose crossing takes no time that matters."""

FREE_DIM = 32
"""Length taken for a dim that is not known."""


def drop_islands(run: Run, plan: Plan) -> None:
    """Drop regions whose borders cost more than their integers gain, until none is left."""
    from lepton_ir.passes.quant.static import prune

    if run.options.islands or run.whole:
        return
    while True:
        lost = {op for region in regions(plan) if gain(plan, region) < 0 for op in region}
        if not lost:
            return
        for op in plan.ops:
            if op in lost and op.name in LAYERS:
                run.refuse(op, "not fused by the runtime: its borders cost more than integers gain")
        plan.drop(lost)
        prune(plan)


def regions(plan: Plan) -> list[list[Op]]:
    """Return the planned operations in groups that quantized values connect."""
    parent: dict[Op, Op] = {op: op for op in plan.ops}

    def find(op: Op) -> Op:
        while parent[op] is not op:
            parent[op] = parent[parent[op]]
            op = parent[op]
        return op

    maker = {value: op for op in plan.ops for value in plan.outputs[op]}
    for op in plan.ops:
        for index in plan.inputs[op]:
            source = maker.get(op.operands[index])  # type: ignore[arg-type]
            if source is not None:
                parent[find(op)] = find(source)
    found: dict[Op, list[Op]] = {}
    for op in plan.ops:
        found.setdefault(find(op), []).append(op)
    return list(found.values())


def gain(plan: Plan, region: list[Op]) -> float:
    """Return what a region saves, less than 0 if its borders cost more."""
    inside = set(region)
    total = sum(_saved(op) for op in region)
    made = {value for op in region for value in plan.outputs[op]}
    given = dict.fromkeys(op.operands[i] for op in region for i in plan.inputs[op])
    borders = [v for v in given if v is not None and v not in made and not _is_input(v)]
    ends = [
        value
        for op in region
        if op.name not in ("matmul", "gemm")  # which give floats for nothing
        for value in plan.outputs[op]
        if any(u not in inside and not _ends(u) for u in value.users)
    ]
    crossing = sum(_elements(v) for v in [*borders, *ends])
    return total - BORDER * crossing if crossing > SMALL else 0.0


def _is_input(value: Value) -> bool:
    """Return whether a value has to be quantized in any case, and once."""
    return value.op is None


def _ends(op: Op) -> bool:
    return op.definition is not None and "terminator" in op.definition.traits


def _elements(value: Value) -> int:
    shape = value.shape or ()
    return math.prod(d if isinstance(d, int) else FREE_DIM for d in shape[1:])


def _saved(op: Op) -> float:
    weight = constant(op, 1) if op.name in LAYERS else None
    elements = _elements(op.result)
    if op.name == "matmul" and weight is None:
        inner = (op.operands[0].shape or (FREE_DIM,))[-1] if op.operands[0] is not None else None
        return GAIN * (inner if isinstance(inner, int) else FREE_DIM) * elements
    if weight is None:
        return 0.0
    if op.name == "conv":
        products = math.prod(weight.shape[1:])
        return (GAIN if op.attr("group") == 1 else GROUPED_GAIN) * products * elements
    rows = max(weight.shape[0], 1)
    return GAIN * (math.prod(weight.shape) // rows if op.name == "gemm" else rows) * elements
