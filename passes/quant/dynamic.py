"""Dynamic quantization: activations are quantized while the model runs.

``x @ w`` becomes ``cast(matmul_integer(q, wq)) * (x_scale * w_scale)`` with ``q``, ``x_scale`` and
its zero point from ``dynamic_quantize_linear(x)``, made once for all products that read ``x``.
This is the form that onnxruntime runs as DynamicQuantizeMatMul or MatMulIntegerToFloat.
With one range per row (``rows``) it is ``dequantize(quantize(x * 127 / m)) @ dequantize(wq)`` times
``m / 127``, with ``m`` the largest magnitude of each row: the scale that is quantized with is 1
everywhere, so that standard operations can say it, and onnxruntime runs it as MatMulIntegerToFloat.
Convolutions stay in float: onnxruntime's ConvInteger is slower than its float convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.passes.quant.common import Editor, Layer, float_constant, new_layer
from lepton_ir.passes.quant.numbers import Weight, quantize_weight
from lepton_ir.passes.quant.parts import DerivedTensor
from lepton_ir.passes.quant.smooth import factors
from lepton_ir.passes.quant.weights import dequantized, gather_layer
from lepton_ir.tensors import DenseTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run

SMALLEST_STEP = 1e-20
"""Step of a row of zeros, a normal f32."""

ONE_SIDED = frozenset({"relu", "gelu", "erf", "sigmoid", "softmax", "silu", "ms_bias_gelu"})
"""Operations behind which values are hardly negative."""

_FLOAT_LAYERS = {
    "conv": "onnxruntime's integer convolution with dynamic ranges is slower than float "
    "(quant{mode=static} quantizes it)",
    "conv_transpose": "there is no integer form of it",
    "lstm": "there is no standard integer form of it",
    "gru": "there is no standard integer form of it",
    "rnn": "there is no standard integer form of it",
}


Array = np.ndarray[Any, Any]


@dataclass
class _Product:
    """Integer operands that are shared between products."""

    factors: dict[Value, Array | None] = field(default_factory=dict)
    inputs: dict[Value, tuple[Value, ...]] = field(default_factory=dict)
    weights: dict[tuple[Value, bool], tuple[Value, ...]] = field(default_factory=dict)


def quantize_dynamic(run: Run) -> None:
    """Quantize matrix products with constant weights, and tables, in ``main``."""
    shared = _Product()
    convolutions = 0
    for op in list(run.module.main.walk()):
        if op.block is None or op.has_attr_refs:
            continue
        if op.name in ("matmul", "gemm"):
            _product(run, op, shared)
        elif op.name == "gather" and run.options.embeddings:
            gather_layer(run, op)
        elif op.name in _FLOAT_LAYERS:
            run.refuse(op, _FLOAT_LAYERS[op.name])
            convolutions += op.name == "conv"
    if convolutions:
        run.ctx.remark(
            "note",
            "",
            "{} convolutions stay in float; with calibration data (--calib) static quantization "
            "takes them too",
            convolutions,
        )


def _obstacle(run: Run, op: Op) -> str:
    weight = float_constant(op, 1)
    x = op.operands[0]
    if weight is None:
        return "its weight is no f32 constant"
    if len(weight.shape) != 2:
        return "its weight is no matrix"
    if weight.nbytes < run.options.min_bytes:
        return f"its weight is smaller than {run.options.min_bytes} bytes"
    if x is None or x.dtype is not dtypes.F32:
        return "its input is not f32"
    if not run.options.attention_values and _is_averaged(op.result):
        return "attention averages its result, but not the error of its rounding"
    if op.name == "gemm" and (op.attr("transA") or op.attr("beta") not in (0.0, 1.0)):
        return "it transposes its input or scales its bias"
    return ""


def _product(run: Run, op: Op, shared: _Product) -> None:
    reason = _obstacle(run, op)
    if reason:
        run.refuse(op, reason)
        return
    transposed = op.name == "gemm" and bool(op.attr("transB"))
    x, source = op.operands[0], op.operands[1]
    assert x is not None
    assert source is not None
    weight = run.weight(source, 0 if transposed else 1)
    if weight is None:
        run.refuse(op, "its weight holds NaN or infinities")
        return
    rule = f"dynamic-{op.name}"
    if not run.permitted(rule, op):
        return
    tensor = float_constant(op, 1)
    assert tensor is not None
    layer = new_layer(run, op, weight, tensor.nbytes, weight.nbytes)
    layer.source = op.result
    by_row = run.options.rows and x.rank and run.has("dequantize_linear", 13, axis=0)
    rewrite = _rewrite_rows if by_row else _rewrite
    rewrite(run, op, (x, source, weight, transposed), shared, rule, layer)


def _rewrite(
    run: Run,
    op: Op,
    parts: tuple[Value, Value, Weight, bool],
    shared: _Product,
    rule: str,
    layer: Layer,
) -> None:
    x, source, weight, transposed = parts
    edit = Editor(op, rule)
    key = (source, transposed)
    if key not in shared.weights:
        at = Editor(op, rule).at_value(source)
        stored = _transposed(weight) if transposed else weight
        held = at.weight_consts(stored, source.name)
        shared.weights[key] = (*held, at.weight_zero(stored, source.name))
    wq, w_scale, w_zero = shared.weights[key]
    if x not in shared.inputs or op.block is not run.module.main.block:
        at = Editor(op, rule)
        if op.block is run.module.main.block:
            at.at_value(x)
        made = at.dynamic_quantize_linear(x, results=3)
        for value, suffix in zip(made, ("_quantized", "_scale", "_zero_point"), strict=True):
            at.named(value, x.name, suffix)
        if op.block is run.module.main.block:
            shared.inputs[x] = made
        q, x_scale, x_zero = made
    else:
        q, x_scale, x_zero = shared.inputs[x]
    acc = edit.matmul_integer(q, wq, x_zero, w_zero)
    scale = edit.mul(x_scale, w_scale)
    if op.name == "gemm" and op.attr("alpha") != 1.0:
        scale = edit.mul(scale, float(op.attr("alpha")))
    y = edit.mul(edit.cast(acc, to=dtypes.F32), scale)
    assert acc.op is not None
    _finish(edit, op, acc.op, y, layer)
    run.record(layer, source)


def _rewrite_rows(
    run: Run,
    op: Op,
    parts: tuple[Value, Value, Weight, bool],
    shared: _Product,
    rule: str,
    layer: Layer,
) -> None:
    x, source, weight, transposed = parts
    key = (source, transposed)
    smoothed = _smoothed(run, op, x, shared, transposed)
    if smoothed is not None:
        weight = smoothed
        layer.weight_sqnr, layer.bytes_after = weight.sqnr, weight.nbytes
    if key not in shared.weights or smoothed is not None:
        at = Editor(op, rule).at_value(source)
        stored = _transposed(weight) if transposed else weight
        held = dequantized(at, stored, source, zero=True)
        if smoothed is None:
            shared.weights[key] = (held,)
    else:
        (held,) = shared.weights[key]
    top = op.block is run.module.main.block
    if x not in shared.inputs or not top:
        at = Editor(op, rule)
        made = _rows(at.at_value(x) if top else at, x, shared.factors.get(x))
        if top:
            shared.inputs[x] = made
    else:
        made = shared.inputs[x]
    edit = Editor(op, rule)
    given, step, *low = made
    product = edit.matmul(given, held)
    alpha = float(op.attr("alpha")) if op.name == "gemm" else 1.0
    y = edit.mul(product, step)
    if low:
        sums = weight.tensor.numpy().sum(1 if transposed else 0, dtype=np.float64) * weight.scale
        y = edit.add(y, edit.mul(low[0], edit.const(sums.astype(np.float32))))
    if alpha != 1.0:
        y = edit.mul(y, alpha)
    _finish(edit, op, product.op, y, layer)
    run.record(layer, source)


def _smoothed(run: Run, op: Op, x: Value, shared: _Product, transposed: bool) -> Weight | None:
    """Return the weight that goes with the factors of ``x``; ``None`` if it has none."""
    if x not in shared.factors:
        inside = op.block is run.module.main.block
        share = run.options.smooth if inside else 0.0
        shared.factors[x] = factors(x, share) if share > 0 else None
    s, tensor = shared.factors[x], float_constant(op, 1)
    if s is None or tensor is None:
        return None
    wide = s[None, :] if transposed else s[:, None]
    axis = None if not run.per_channel else 0 if transposed else 1
    return quantize_weight(tensor, axis, run.limit, factor=wide)


def _rows(edit: Editor, x: Value, factor: Array | None) -> tuple[Value, ...]:
    """Return ``x`` quantized by rows, scaled so that 1 is the step, and the steps.

    For values that are hardly negative, the least of each row too: what is quantized is the
    difference from it.
    """
    axes = edit.const(np.array([-1], np.int64))
    name = x.name
    if factor is not None:
        x = edit.mul(x, edit.const(np.float32(1) / factor))
    least: tuple[Value, ...] = ()
    if _one_sided(x):
        low = edit.reduce_min(x, axes)
        least, top, middle, levels = (low,), edit.sub(edit.reduce_max(x, axes), low), 0, 255
        moved = edit.sub(x, low)
    else:
        top, middle, levels, moved = edit.reduce_max(edit.abs(x), axes), 128, 127, x
    step = edit.max(edit.mul(top, float(np.float32(1 / levels))), SMALLEST_STEP)
    one, zero = edit.const(np.float32(1)), edit.const(np.uint8(middle))
    q = edit.quantize_linear(edit.div(moved, step), one, zero)
    edit.named(q, name, "_quantized")
    return edit.named(edit.dequantize_linear(q, one, zero), name, "_dequantized"), step, *least


def _is_averaged(value: Value, depth: int = 6) -> bool:
    """Return whether an attention's weights multiply ``value``: a product with a softmax."""
    for use in value.uses if depth else ():
        op = use.op
        if op.name == "matmul" and use.index == 1 and _from_softmax(op.operands[0]):
            return True
        moves = op.name in ("add", "reshape", "transpose", "unsqueeze", "squeeze", "concat")
        if moves and any(_is_averaged(r, depth - 1) for r in op.results):
            return True
    return False


def _from_softmax(value: Value | None, depth: int = 3) -> bool:
    if value is None or value.op is None or not depth:
        return False
    if value.op.name == "softmax":
        return True
    moves = value.op.name in ("cast", "reshape", "where", "mul", "dropout")
    return moves and any(_from_softmax(v, depth - 1) for v in value.op.operands)


def _one_sided(x: Value, depth: int = 4) -> bool:
    """Guess whether ``x`` is an activation's result; a wrong guess costs precision only."""
    op = x.op
    if op is None or depth == 0:
        return False
    if op.name in ONE_SIDED:
        return True
    return op.name in ("mul", "add", "reshape") and any(
        v is not None and _one_sided(v, depth - 1) for v in op.operands
    )


def _finish(edit: Editor, op: Op, made: Op, y: Value, layer: Layer) -> None:
    """Add the bias and put ``y`` in the place of ``op``."""
    bias = op.operand("c") if op.name == "gemm" and op.attr("beta") else None
    if bias is not None:
        y = edit.add(y, bias)
    result = op.result
    y.name, y.declared, y.meta = result.name, result.declared, result.meta
    made.node_name = op.node_name
    result.replace_all_uses(y)
    op.erase()
    layer.result = y


def _transposed(weight: Weight) -> Weight:
    """Return the weight stored the other way round."""
    source = weight.tensor
    shape = (source.shape[1], source.shape[0])

    def pieces() -> Iterator[Array]:
        yield np.ascontiguousarray(source.numpy().T)

    tensor: Tensor = (
        DerivedTensor(pieces, dtypes.I8, shape)
        if isinstance(source, DerivedTensor)
        else DenseTensor(next(pieces()))
    )
    return Weight(tensor, weight.scale, None if weight.axis is None else 1, weight.sqnr)
