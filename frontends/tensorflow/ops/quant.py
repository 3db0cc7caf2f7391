"""Rows of fake quantization: pairs of quantize and dequantize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.tensorflow.ops._common import floats
from lepton_ir.frontends.tensorflow.table import tf_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node


def _pair(
    b: TfBuilder, x: Value, low: Any, high: Any, bits: int, narrow: bool, axis: int | None
) -> Any:
    """Round ``x`` to the steps between ``low`` and ``high``, nudged so that 0 is one of them."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    first, last = (1 if narrow else 0), (1 << bits) - 1
    if bits not in (8, 16) or (low > 0).any() or (high < 0).any() or (low >= high).any():
        raise UnsupportedError(
            f"fake quantization to {bits} bits, or a range without 0", code="tf-quant"
        )
    scale = ((high - low) / (last - first)).astype(np.float32)
    zero = np.clip(np.rint(first - low / scale), first, last)
    kind = {8: dtypes.U8, 16: dtypes.U16}[bits]
    if narrow:
        # 1..255 of bytes is -127..127 of signed ones.
        kind = {8: dtypes.I8, 16: dtypes.I16}[bits]
        zero = zero - (1 << bits - 1)
    attrs = {} if axis is None else {"axis": axis}
    if axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    scales, zeros = b.const(scale), b.const(zero.astype(kind.numpy), kind)
    if narrow:
        x = b.max(x, b.const(((-(1 << bits - 1) + 1 - zero) * scale).astype(np.float32)))
    return b.dequantize_linear(b.quantize_linear(x, scales, zeros, **attrs), scales, zeros, **attrs)


def _bits(node: Node) -> tuple[int, bool]:
    return int(node.attr("num_bits", 8)), bool(node.attr("narrow_range", False))


@tf_op("FakeQuantWithMinMaxVars")
def fake_quant(b: TfBuilder, node: Node, x: Value, low: Value, high: Value) -> Any:
    return _pair(b, x, floats(low, "the range"), floats(high, "the range"), *_bits(node), None)


@tf_op("FakeQuantWithMinMaxArgs")
def fake_quant_args(b: TfBuilder, node: Node, x: Value) -> Any:
    low, high = float(node.attr("min", -6.0)), float(node.attr("max", 6.0))
    return _pair(b, x, low, high, *_bits(node), None)


@tf_op("FakeQuantWithMinMaxVarsPerChannel")
def fake_quant_channels(b: TfBuilder, node: Node, x: Value, low: Value, high: Value) -> Any:
    ranges = floats(low, "the range"), floats(high, "the range")
    return _pair(b, x, *ranges, *_bits(node), b.rank(x) - 1)


@tf_op("QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4")
def quantize_and_dequantize(
    b: TfBuilder, node: Node, x: Value, low: Value, high: Value, *bits: Value
) -> Any:
    """Signed steps around 0, of the wider side's size."""
    axis = int(node.attr("axis", -1))
    if not node.attr("range_given", False) or not node.attr("signed_input", True):
        raise UnsupportedError("a range that is not given, or unsigned", code="tf-quant")
    count = int(floats(bits[0], "the bits")) if bits else int(node.attr("num_bits", 8))
    if count not in (8, 16):
        raise UnsupportedError(f"quantization to {count} bits", code="tf-quant")
    narrow = bool(node.attr("narrow_range", False))
    top = (1 << count - 1) - 1
    edges = (
        np.asarray(floats(low, "the range"), np.float64),
        np.asarray(floats(high, "the range"), np.float64),
    )
    lowest = -top if narrow else -top - 1
    scale = np.maximum(edges[0] / lowest, edges[1] / top).astype(np.float32)
    kind = {8: dtypes.I8, 16: dtypes.I16}[count]
    steps = b.const(scale if axis >= 0 else scale.reshape(()))
    attrs = {"axis": axis} if axis >= 0 else {}
    zeros = b.const(np.zeros(scale.shape if axis >= 0 else (), kind.numpy), kind)
    if narrow:
        x = b.max(x, b.const((lowest * scale).astype(np.float32)))
    return b.dequantize_linear(b.quantize_linear(x, steps, zeros, **attrs), steps, zeros, **attrs)
