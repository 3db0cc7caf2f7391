"""Static quantization: which operations of a model compute on integers.

Layers (``conv``, ``matmul`` and ``gemm`` with constant weights) read dequantized u8 activations and
dequantized i8 weights; a bias is i32 in units of ``x_scale * w_scale``. What joins their results
(``add``, ``mul``, ``concat``, pools, ``sigmoid``) is quantized when all its inputs are and some
quantized operation reads the result, likewise what only moves elements (``reshape``, ``max_pool``),
which keeps scale and zero point. A ``relu`` or ``clip`` behind an operation belongs to it: there is
no pair in between. So every pair stands where onnxruntime fuses it away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.passes.quant.common import LAYERS, Editor, constant, float_constant, weight_axis
from lepton_ir.passes.quant.qdq import insert_pairs

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.tensors import Tensor

JOINS = frozenset(
    {"add", "mul", "concat", "average_pool", "global_average_pool", "sigmoid", "leaky_relu"}
)
"""Operations on activations that onnxruntime has in integers, with a scale of their own."""

VIEWS = frozenset({"reshape", "flatten", "squeeze", "unsqueeze", "transpose", "max_pool"})
"""Operations that pass their first operand's elements on: the result keeps its scale."""

MAX_POOL_OPSET = 12
"""MaxPool takes 8-bit integers since opset 12."""


@dataclass
class Plan:
    """What is quantized.

    Attributes:
        ops: layers, joins and views, in order.
        inputs: by operation, the operand slots of activations.
        output: by operation, the value it gives with its activation taken in.
        source: by view result, the value whose scale it keeps.
    """

    ops: list[Op] = field(default_factory=list)
    inputs: dict[Op, list[int]] = field(default_factory=dict)
    output: dict[Op, Value] = field(default_factory=dict)
    source: dict[Value, Value] = field(default_factory=dict)

    def root(self, value: Value) -> Value:
        """Return the value whose range gives the scale of ``value``."""
        while value in self.source:
            value = self.source[value]
        return value

    def paired(self) -> dict[Value, bool]:
        """Return the values that get a pair; ``True`` if all that read it read the pair.

        An operation in integers must have no reader of its float result. A matrix product may
        give floats directly: it gets a pair only where another operation wants integers, or where
        onnxruntime would make it and a float bias one Gemm, which has no integer form.
        """
        made = {self.output[op] for op in self.ops}
        wanted: dict[Value, bool] = {}
        for op in self.ops:
            for index in self.inputs[op]:
                value = op.operands[index]
                assert value is not None
                wanted[value] = value in made
            if op.name not in ("matmul", "gemm") or _joins_gemm(op):
                wanted[self.output[op]] = True
        return wanted


def quantize_static(run: Run, feeds: Feeds) -> None:
    """Calibrate and quantize the main function's own block."""
    from lepton_ir.passes.quant.calibrate import calibrate

    plan = make_plan(run)
    if not plan.ops:
        return
    roots = list(dict.fromkeys(plan.root(v) for v in plan.paired()))
    insert_pairs(run, plan, calibrate(run, roots, feeds))


def make_plan(run: Run) -> Plan:
    """Return which operations to quantize."""
    plan = Plan()
    available: set[Value] = set()
    _split_fused(run)
    for found in run.module.main.block.ops:
        op = _as_pool(run, found, available)
        slots = _activation_slots(run, op, available)
        if not slots:
            continue
        plan.ops.append(op)
        plan.inputs[op] = slots
        out = op.result if op.name in VIEWS else absorbed(op)
        plan.output[op] = out
        available.add(out)
        if op.name in VIEWS:
            source = op.operands[0]
            assert source is not None
            plan.source[out] = source
    _prune(run, plan)
    return plan


def _joins_gemm(op: Op) -> bool:
    """Return whether onnxruntime merges a matrix product with the bias that is added to it."""
    x, value = op.operands[0], op.result
    if op.name != "matmul" or value.use_count != 1 or x is None or x.shape is None:
        return False
    (user,) = value.users
    if user.name != "add" or not any(constant(user, i) is not None for i in range(2)):
        return False
    return len(x.shape) == 2 or all(isinstance(d, int) for d in x.shape)


def _split_fused(run: Run) -> None:
    """Take convolutions apart that hold their activation; integers have another way to."""
    for op in run.module.main.block.ops:
        fused = op.name == "ms_fused_conv" and float_constant(op, 1) is not None
        if not fused or op.definition is None or op.definition.decompose is None:
            continue
        if not run.permitted("static-split", op):
            continue
        edit = Editor(op, "static-split")
        (y,) = op.definition.decompose(edit, op)
        old = op.result
        y.name, y.declared, y.meta = old.name, old.declared, old.meta
        made = op.prev
        while made is not None and made.loc is edit.loc:
            if made.name == "conv":
                made.node_name = op.node_name
            made = made.prev
        old.replace_all_uses(y)
        op.erase()


def _as_pool(run: Run, op: Op, available: set[Value]) -> Op:
    """Turn the mean over all spatial axes into the pool that is the same, and has integers."""
    if op.name != "reduce_mean" or op.operands[0] not in available or not op.attr("keepdims"):
        return op
    axes, rank = constant(op, 1), op.result.rank
    if rank is None or rank < 3 or axes is None:
        return op
    if sorted(int(a) % rank for a in axes.numpy().reshape(-1)) != list(range(2, rank)):
        return op
    if not run.permitted("static-mean-to-pool", op):
        return op
    y = Editor(op, "static-mean-to-pool").global_average_pool(op.operands[0])
    old = op.result
    y.name, y.declared, y.meta = old.name, old.declared, old.meta
    made: Op = y.op
    made.node_name = op.node_name
    old.replace_all_uses(y)
    op.erase()
    return made


def _activation_slots(run: Run, op: Op, available: set[Value]) -> list[int]:
    if op.name in LAYERS:
        reason = _layer_obstacle(op)
        if reason:
            run.refuse(op, reason)
            return []
        return [0]
    if op.name in JOINS:
        slots = list(range(len(op.operands)))
    elif op.name in VIEWS and len(op.results) == 1:
        if op.name == "max_pool" and run.module.opsets.get("", 99) < MAX_POOL_OPSET:
            return []
        slots = [0]
    else:
        return []
    found = all(op.operands[i] in available for i in slots)
    return slots if found and op.result.dtype is dtypes.F32 else []


def _layer_obstacle(op: Op) -> str:
    x = op.operands[0]
    weight = float_constant(op, 1)
    if weight is None:
        return "its weight is no f32 constant"
    if x is None or x.dtype is not dtypes.F32:
        return "its input is not f32"
    if op.name != "conv" and len(weight.shape) != 2:
        return "its weight is no matrix"
    if not _finite(weight):
        return "its weight holds NaN or infinities"
    if len(op.operands) > 2 and op.operands[2] is not None:
        bias = float_constant(op, 2)
        if bias is None:
            return "its bias is no f32 constant"
        channels = weight.shape[weight_axis(op)]
        if bias.size != channels or bias.shape[-1:] != (channels,) or not _finite(bias):
            return "its bias is no vector of finite numbers"
    if op.name == "gemm" and (op.attr("transA") or op.attr("alpha") != 1 or op.attr("beta") != 1):
        return "it transposes its input or scales its result"
    return ""


def _finite(tensor: Tensor) -> bool:
    """Return whether all elements of an f32 tensor are finite; their sum in f64 tells."""
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(np.sum(tensor.numpy(), dtype=np.float64)))


def absorbed(op: Op) -> Value:
    """Return the result of ``op``, or of the ``relu`` or ``clip`` that alone reads it."""
    value = op.result
    if value.use_count != 1:
        return value
    (user,) = value.users
    if user.block is not op.block or user.operands[0] is not value:
        return value
    bounds = all(constant(user, i) is not None for i in range(1, len(user.operands)))
    if user.name == "relu" or (user.name == "clip" and bounds and len(user.operands) == 3):
        return user.result
    return value


def _prune(run: Run, plan: Plan) -> None:
    """Drop joins and views that no quantized operation reads, and what is not permitted."""
    kept: set[Op] = set()
    for op in reversed(plan.ops):
        if op.name in LAYERS or any(user in kept for user in plan.output[op].users):
            kept.add(op)
    ops, plan.ops = plan.ops, []
    given: set[Value] = set()
    for op in ops:
        layer = op.name in LAYERS
        fed = layer or all(op.operands[i] in given for i in plan.inputs[op])
        if op in kept and fed and run.permitted(f"static-{op.name}", op):
            plan.ops.append(op)
            given.add(plan.output[op])
    plan.source = {v: s for v, s in plan.source.items() if v in given}
