"""Weight-only quantization: 8-bit constants, dequantized where they are read.

Layers read ``dequantize_linear(wq, scale)``; arithmetic stays in float. Of tables that ``gather``
reads along their first axis only the rows that are wanted are dequantized:
``cast(gather(wq, i)) * gather(scale, i)``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.passes.quant.common import Editor, Layer, float_constant, label
from lepton_ir.passes.quant.gptq import hessians

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.nbits import BlockQuantizer
    from lepton_ir.passes.quant.numbers import Weight

TABLE_BYTES = 1 << 20
"""Smaller tables save little, and what they hold reaches all layers."""


def channel_axis(op: Op, index: int, rank: int) -> int | None:
    """Return the axis of operand ``index`` whose elements make separate outputs of ``op``.

    -1 where the operand is no weight that this pass knows.
    """
    if op.name == "matmul":
        if rank == 1:
            return None
        return rank - 1 if index == 1 else rank - 2
    if op.name == "gemm" and index < 2:
        return int(bool(op.attr("transB"))) ^ 1 if index else int(bool(op.attr("transA")))
    if op.name in ("conv", "conv_transpose") and index == 1:
        return 0 if op.name == "conv" else 1
    if op.name in ("lstm", "gru", "rnn") and index in (1, 2):
        return 1
    return -1


def quantize_weights(run: Run, feeds: Feeds | None = None) -> None:
    """Quantize the constant weights of layers, and tables, in ``main``."""
    made: dict[tuple[Value, int | None], Value] = {}
    blocks = _blocks(run)
    if blocks is not None and run.options.weights == "gptq":
        if feeds is None:
            raise LeptonError("weights=gptq needs calibration data", code="quant-calib")
        products = [op for op in run.module.main.block.ops if blocks.takes(op)]
        blocks.hessians = hessians(run, products, feeds)
    for op in list(run.module.main.walk()):
        if op.block is None or op.has_attr_refs:
            continue
        if op.name == "gather" and run.options.embeddings:
            gather_layer(run, op)
            continue
        if blocks is not None and blocks.takes(op):
            blocks.rewrite(op)
            continue
        for index in range(len(op.operands)):
            _operand(run, op, index, made)


def _blocks(run: Run) -> BlockQuantizer | None:
    """Return what quantizes in blocks, if the options ask for it.

    Raises:
        UnsupportedError: the target has no operation for it.
    """
    from lepton_ir.passes.quant.nbits import BlockQuantizer, Scheme

    options = run.options
    chosen = any(c.bits or c.block for _, c in run.recipe.choices)
    if options.bits == 8 and not options.block and not chosen:
        return None
    found = BlockQuantizer(
        run,
        Scheme(options.bits, options.block or 32, options.asymmetric, options.scales == "mse"),
    )
    if not found.fused and not run.has("dequantize_linear", 21, block_size=32):
        raise UnsupportedError(
            "weights in blocks need opset 21 or onnxruntime's MatMulNBits",
            code="quant-opset",
            hint="--opset 21 converts the model; --target=ort writes MatMulNBits",
        )
    return found


def _operand(run: Run, op: Op, index: int, made: dict[tuple[Value, int | None], Value]) -> None:
    source = op.operands[index]
    tensor = float_constant(op, index)
    if source is None or tensor is None:
        return
    axis = channel_axis(op, index, len(tensor.shape))
    if axis == -1:
        return
    if tensor.nbytes < run.options.min_bytes:
        run.refuse(op, "its weight is smaller than {} bytes", run.options.min_bytes)
        return
    key = (source, axis)
    weight = run.weight(source, axis)
    if weight is None:
        run.refuse(op, "its weight holds NaN or infinities")
        return
    rule = f"weights-{op.name}"
    if not run.permitted(rule, op):
        return
    first = key not in made
    if first:
        made[key] = dequantized(Editor(op, rule).at_value(source), weight, source)
    op.set_operand(index, made[key])
    row = Layer(
        label(op),
        f"{op.name} weights",
        source.name or "",
        op.result.name or "",
        weight.sqnr,
        tensor.nbytes if first else 0,
        weight.nbytes if first else 0,
        op.result,
        op.result,
    )
    run.record(row, *([source] if first else []))


def dequantized(edit: Editor, weight: Weight, source: Value, *, zero: bool = False) -> Value:
    """Build the integers of ``source`` and their dequantization.

    Args:
        edit: where to build.
        weight: what to build.
        source: the float constant, for its name.
        zero: with zero points, which some runtimes want for matrix products.
    """
    q, scale = edit.weight_consts(weight, source.name)
    point = edit.weight_zero(weight, source.name) if zero else None
    axis = {} if weight.axis is None else {"axis": weight.axis}
    y: Value = edit.dequantize_linear(q, scale, point, **axis)
    return y


def gather_layer(run: Run, op: Op) -> None:
    """Store a table that ``op`` reads by rows in 8 bits, with a scale per row."""
    tensor = float_constant(op, 0)
    source, indices = op.operands[0], op.operands[1]
    if tensor is None or source is None or len(tensor.shape) != 2 or op.attr("axis") != 0:
        return
    if tensor.nbytes < TABLE_BYTES or tensor.nbytes < run.options.min_bytes:
        run.refuse(op, "its table is smaller than {} bytes", TABLE_BYTES)
        return
    if any(u is not op for u in source.users):
        run.refuse(op, "its table is read by others too")
        return
    weight = run.weight(source, 0)
    if weight is None:
        run.refuse(op, "its table holds NaN or infinities")
        return
    rule = f"{run.mode}-gather"
    if not run.permitted(rule, op):
        return
    edit = Editor(op, rule)
    q = edit.named(edit.const(weight.tensor), source.name, "_quantized")
    rows = edit.gather(q, indices)
    rows.op.node_name = op.node_name
    y = edit.cast(rows, to=dtypes.F32)
    if weight.axis is None:
        scale = edit.named(edit.const(weight.scale), source.name, "_scale")
    else:
        table = edit.const(np.ascontiguousarray(weight.scale.reshape(-1, 1)))
        scale = edit.gather(edit.named(table, source.name, "_scale"), indices)
    y = edit.mul(y, scale)
    result = op.result
    y.name, y.declared, y.meta = result.name, result.declared, result.meta
    result.replace_all_uses(y)
    after = weight.tensor.nbytes + weight.scale.nbytes
    ratio = weight.sqnr if math.isfinite(weight.sqnr) else math.inf
    row = Layer(
        label(op),
        f"gather {run.mode}",
        source.name or "",
        y.name or "",
        ratio,
        tensor.nbytes,
        after,
        result,
        y,
    )
    op.erase()
    run.record(row, source)
