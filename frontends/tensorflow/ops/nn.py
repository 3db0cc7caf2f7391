"""Rows of products, convolutions, pooling and normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.tensorflow.ops._common import (
    dtype_of,
    is_nhwc,
    numbers,
    padding,
    permuted,
    spatial,
)
from lepton_ir.frontends.tensorflow.table import tf_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node


# -- products --------------------------------------------------------------------------------------


def _turned(b: TfBuilder, x: Value) -> Value:
    order = list(range(b.rank(x)))
    order[-2:] = order[-1], order[-2]
    return permuted(b, x, order)


@tf_op("MatMul")
def matmul(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    left = _turned(b, x) if node.attr("transpose_a", False) else x
    return b.matmul(left, _turned(b, y) if node.attr("transpose_b", False) else y)


@tf_op("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def batch_matmul(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    left = _turned(b, x) if node.attr("adj_x", False) else x
    found = b.matmul(left, _turned(b, y) if node.attr("adj_y", False) else y)
    wanted = node.attr("Tout")
    return found if wanted is None else b.cast_to(found, wanted)


@tf_op("_FusedMatMul")
def fused_matmul(b: TfBuilder, node: Node, x: Value, y: Value, *more: Value) -> Any:
    return _fused(b, node, matmul(b, node, x, y), more)


def _fused(b: TfBuilder, node: Node, x: Any, more: tuple[Value, ...]) -> Any:
    """Apply what TensorFlow's own optimizer fused into an operator."""
    rest = list(more)
    for name in node.attr("fused_ops") or []:
        if name == "BiasAdd":
            x = b.add(x, rest.pop(0))
        elif name in ("Relu", "Elu", "Sigmoid", "Tanh"):
            x = b.build(name.lower(), x).result
        elif name == "Relu6":
            x = b.clip(x, b.like(x, 0), b.like(x, 6))
        elif name == "LeakyRelu":
            x = b.leaky_relu(x, alpha=float(node.attr("leakyrelu_alpha", 0.2)))
        elif name == "FusedBatchNorm":
            scale, offset, mean, variance = rest[:4]
            epsilon = float(node.attr("epsilon", 1e-4))
            x = _normalized(b, x, scale, offset, mean, variance, epsilon, is_nhwc(node))
        elif name != "LinearIdentity":
            raise UnsupportedError(f"{name} fused into an operator", code="tf-fused")
    return x


@tf_op("Einsum")
def einsum(b: TfBuilder, node: Node, *xs: Value) -> Any:
    return b.einsum(*xs, equation=str(node.attr("equation")).replace(" ", ""))


@tf_op("BiasAdd", "BiasAddV1")
def bias_add(b: TfBuilder, node: Node, x: Value, bias: Value) -> Any:
    if not is_nhwc(node) and b.rank(x) > 2:
        bias = b.reshape(bias, b.ints([-1, *[1] * (b.rank(x) - 2)]))
        return b.add(x, bias)
    return b.add(x, _unsqueezed(bias, b.rank(x)))


def _unsqueezed(bias: Value, rank: int) -> Value:
    """Return what a bias had been before TensorFlow dropped its axes of one element in front.

    It writes the sum of two rows so, as it optimizes frozen graphs.
    """
    op = bias.op
    source = op.operands[0] if op is not None and op.name == "squeeze" else None
    if source is None or source.shape is None or bias.rank != 1 or len(source.shape) > rank:
        return bias
    return source if all(d == 1 for d in source.shape[:-1]) else bias


# -- convolutions ----------------------------------------------------------------------------------


def _kernel(b: TfBuilder, w: Value) -> list[int]:
    """Return the spatial sizes of a filter (spatial..., in, out)."""
    return [b.static_size(w, i, "a convolution") for i in range(b.rank(w) - 2)]


def _outward(b: TfBuilder, w: Value) -> Value:
    """(spatial..., in, out) to (out, spatial..., in)."""
    rank = b.rank(w)
    return permuted(b, w, [rank - 1, *range(rank - 1)])


def _convolve(b: TfBuilder, node: Node, x: Value, w: Value, kernel: list[int], group: int) -> Any:
    """Convolve with ``w`` (out, spatial..., in / group)."""
    count = len(kernel)
    strides, dilations = spatial(node, "strides", count), spatial(node, "dilations", count)
    attrs = padding(b, node, x, kernel, strides, dilations)
    attrs |= {"strides": strides, "dilations": dilations, "group": group}
    if is_nhwc(node):
        return b.conv_nhwc(x, w, **attrs)
    rank = count + 2
    return b.conv(x, permuted(b, w, [0, rank - 1, *range(1, rank - 1)]), **attrs)


@tf_op("Conv2D", "Conv3D")
def conv(b: TfBuilder, node: Node, x: Value, w: Value) -> Any:
    axis = -1 if is_nhwc(node) else 1
    channels, inner = b.size_of(x, axis), b.static_size(w, -2, "a convolution")
    # Of channels that are not known there is one group: more of them fail when it runs.
    group = channels // max(inner, 1) if isinstance(channels, int) else 1
    return _convolve(b, node, x, _outward(b, w), _kernel(b, w), group)


@tf_op("_FusedConv2D")
def fused_conv(b: TfBuilder, node: Node, x: Value, w: Value, *more: Value) -> Any:
    return _fused(b, node, conv(b, node, x, w), more)


def _depthwise(b: TfBuilder, w: Value) -> tuple[Value, int]:
    """(spatial..., C, multiplier) to (C * multiplier, spatial..., 1), and C."""
    *kernel, channels, multiplier = (b.static_size(w, i, "a filter") for i in range(b.rank(w)))
    flat = b.resized(w, [*kernel, 1, channels * multiplier])
    return _outward(b, flat), channels


@tf_op("DepthwiseConv2dNative")
def depthwise(b: TfBuilder, node: Node, x: Value, w: Value) -> Any:
    kernel = _kernel(b, w)
    weights, channels = _depthwise(b, w)
    return _convolve(b, node, x, weights, kernel, channels)


@tf_op("_FusedDepthwiseConv2dNative")
def fused_depthwise(b: TfBuilder, node: Node, x: Value, w: Value, *more: Value) -> Any:
    return _fused(b, node, depthwise(b, node, x, w), more)


@tf_op("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def conv_transpose(b: TfBuilder, node: Node, sizes: Value, w: Value, x: Value) -> Any:
    """The gradient of a convolution: padded by what that one would have padded."""
    kernel = _kernel(b, w)
    count = len(kernel)
    strides, dilations = spatial(node, "strides", count), spatial(node, "dilations", count)
    last = is_nhwc(node)
    given = b.sizes_of(x)
    inner = given[1:-1] if last else given[2:]
    wanted = _wanted(b, node, sizes, inner, kernel, strides, dilations, last)
    before, after, more = [], [], []
    for k, step, hole, gain in zip(kernel, strides, dilations, wanted, strict=True):
        total = (k - 1) * hole + 1 - gain
        before.append(max(total, 0) // 2)
        after.append(max(total, 0) - max(total, 0) // 2)
        more.append(max(-total, 0))
        del step
    attrs = {"strides": strides, "dilations": dilations, "pads": [*before, *after]}
    attrs["output_padding"] = more
    rank = count + 2
    if last:  # (spatial..., out, in) to (out, spatial..., in)
        weights = permuted(b, w, [rank - 2, *range(rank - 2), rank - 1])
        return b.conv_transpose_nhwc(x, weights, **attrs)
    weights = permuted(b, w, [rank - 1, rank - 2, *range(rank - 2)])
    return b.conv_transpose(x, weights, **attrs)


def _wanted(
    b: TfBuilder,
    node: Node,
    sizes: Value,
    inner: list[Any],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    last: bool,
) -> list[int]:
    """Return what each spatial size of the result has more than ``(n - 1) * stride``."""
    try:
        total = numbers(sizes, "the output's shape")
    except UnsupportedError:
        total = []
    if total and all(isinstance(n, int) for n in inner):
        out = total[1:-1] if last and len(total) > len(inner) else total[-len(inner) :]
        return [o - (n - 1) * s for o, n, s in zip(out, inner, strides, strict=True)]
    if str(node.attr("padding")) == "SAME":
        return list(strides)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return [max(r, s) for r, s in zip(reach, strides, strict=True)]


# -- pooling ---------------------------------------------------------------------------------------


def _pool(name: str, count: int) -> Callable[..., Any]:
    def row(b: TfBuilder, node: Node, x: Value, *sizes: Value) -> Any:
        if sizes:  # MaxPoolV2 has its window and strides as operands
            window, steps = (numbers(s, "the window") for s in sizes)
            last = is_nhwc(node)
            kernel = window[1:-1] if last else window[2:]
            strides = steps[1:-1] if last else steps[2:]
        else:
            kernel, strides = (spatial(node, n, count) for n in ("ksize", "strides"))
        attrs = padding(b, node, x, kernel, strides, [1] * count)
        attrs |= {"kernel_shape": kernel, "strides": strides}
        return b.build(f"{name}_nhwc" if is_nhwc(node) else name, x, **attrs).result

    return row


tf_op("MaxPool", "MaxPoolV2")(_pool("max_pool", 2))
tf_op("AvgPool")(_pool("average_pool", 2))
tf_op("MaxPool3D")(_pool("max_pool", 3))
tf_op("AvgPool3D")(_pool("average_pool", 3))


# -- normalization ---------------------------------------------------------------------------------


def _normalized(
    b: TfBuilder,
    x: Value,
    scale: Value,
    offset: Value,
    mean: Value,
    variance: Value,
    epsilon: float,
    last: bool,
) -> Any:
    factor = b.div(scale, b.sqrt(b.add(variance, b.like(variance, epsilon))))
    shift = b.sub(offset, b.mul(mean, factor))
    if not last:
        shape = b.ints([-1, *[1] * (b.rank(x) - 2)])
        factor, shift = b.reshape(factor, shape), b.reshape(shift, shape)
    kind = dtype_of(x)
    wide = b.cast_to(x, dtype_of(factor))
    return b.cast_to(b.add(b.mul(wide, factor), shift), kind)


@tf_op("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "_FusedBatchNormEx")
def batch_norm(
    b: TfBuilder,
    node: Node,
    x: Value,
    scale: Value,
    offset: Value,
    mean: Value,
    variance: Value,
    *side: Value,
) -> Any:
    if node.attr("is_training", True):
        raise UnsupportedError(
            "batch norm in training mode", code="tf-train", hint="export the model for inference"
        )
    epsilon = float(node.attr("epsilon", 1e-4))
    found = _normalized(b, x, scale, offset, mean, variance, epsilon, is_nhwc(node))
    if side:
        found = b.add(found, side[0])
    if str(node.attr("activation_mode", "Identity")) == "Relu":
        found = b.relu(found)
    return [found, mean, variance]


@tf_op("LRN")
def lrn(b: TfBuilder, node: Node, x: Value) -> Any:
    radius = int(node.attr("depth_radius", 5))
    size = 2 * radius + 1
    alpha = float(node.attr("alpha", 1.0)) * size
    beta, bias = float(node.attr("beta", 0.5)), float(node.attr("bias", 1.0))
    return b.lrn_nhwc(x, alpha=alpha, beta=beta, bias=bias, size=size)


@tf_op("DepthToSpace")
def depth_to_space(b: TfBuilder, node: Node, x: Value) -> Any:
    name = "depth_to_space_nhwc" if is_nhwc(node) else "depth_to_space"
    return b.build(name, x, blocksize=int(node.attr("block_size"))).result


@tf_op("SpaceToDepth")
def space_to_depth(b: TfBuilder, node: Node, x: Value) -> Any:
    name = "space_to_depth_nhwc" if is_nhwc(node) else "space_to_depth"
    return b.build(name, x, blocksize=int(node.attr("block_size"))).result


# -- recurrent cells -------------------------------------------------------------------------------


@tf_op("LSTMBlockCell")
def lstm_block_cell(
    b: TfBuilder,
    node: Node,
    x: Value,
    c: Value,
    h: Value,
    w: Value,
    wci: Value,
    wcf: Value,
    wco: Value,
    bias: Value,
) -> Any:
    """One step; the gates of ``[x, h] @ w + bias`` are i, ci, f, o."""
    if node.attr("use_peephole", False):
        raise UnsupportedError("peepholes", code="tf-op")
    gates = b.add(b.matmul(b.concat(x, h, axis=1), w), bias)
    i, ci, f, o = b.split(gates, axis=1, num_outputs=4, results=4)
    forget = b.add(f, b.like(f, float(node.attr("forget_bias", 1.0))))
    i, ci, f, o = b.sigmoid(i), b.tanh(ci), b.sigmoid(forget), b.sigmoid(o)
    state = b.add(b.mul(ci, i), b.mul(c, f))
    clip = float(node.attr("cell_clip", 3.0))
    if clip > 0:
        state = b.clip(state, b.like(state, -clip), b.like(state, clip))
    co = b.tanh(state)
    return [i, state, f, o, ci, co, b.mul(co, o)]


@tf_op("GRUBlockCell")
def gru_block_cell(
    b: TfBuilder,
    node: Node,
    x: Value,
    h: Value,
    w_ru: Value,
    w_c: Value,
    b_ru: Value,
    b_c: Value,
) -> Any:
    """One step; the gates of ``[x, h] @ w_ru + b_ru`` are r, u."""
    gates = b.sigmoid(b.add(b.matmul(b.concat(x, h, axis=1), w_ru), b_ru))
    r, u = b.split(gates, axis=1, num_outputs=2, results=2)
    c = b.tanh(b.add(b.matmul(b.concat(x, b.mul(h, r), axis=1), w_c), b_c))
    return [r, u, c, b.add(b.mul(u, h), b.mul(b.sub(b.like(u, 1), u), c))]


@tf_op("Dilation2D")
def dilation(b: TfBuilder, node: Node, x: Value, w: Value) -> Any:
    """Grayscale dilation: the maximum over windows of ``x + w``."""
    kernel = [b.static_size(w, i, "a dilation") for i in range(2)]
    strides, rates = spatial(node, "strides", 2), spatial(node, "rates", 2)
    attrs = padding(b, node, x, kernel, strides, rates)
    pads = attrs.get("pads")
    if "auto_pad" in attrs:
        raise UnsupportedError("SAME padding of unknown sizes", code="tf-op")
    if pads:
        low = b.like(x, -3.4e38)
        x = b.pad(x, b.ints([0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0]), low)
    sizes = [b.static_size(x, i, "a dilation") for i in (1, 2)]
    outs = [
        (n - (k - 1) * r - 1) // s + 1
        for n, k, r, s in zip(sizes, kernel, rates, strides, strict=True)
    ]
    best = None
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            starts = [i * rates[0], j * rates[1]]
            ends = [a + (o - 1) * s + 1 for a, o, s in zip(starts, outs, strides, strict=True)]
            part = b.slice(x, b.ints(starts), b.ints(ends), b.ints([1, 2]), b.ints(strides))
            tap = b.gather_nd(w, b.ints([i, j]))
            moved = b.add(part, tap)
            best = moved if best is None else b.max(best, moved)
    return best
