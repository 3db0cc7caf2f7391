"""Rows of convolutions; channels-last ones stay so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder
from lepton_ir.frontends.keras.table import layer
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Sequence


def numbers(given: Any, count: int) -> list[int]:
    """Return one number an axis."""
    found = [given] if isinstance(given, int) else list(given)
    return found * count if len(found) == 1 else found


def same_pads(
    sizes: Sequence[Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> dict[str, Any]:
    """Return TensorFlow's SAME padding as attributes: numbers where the sizes are static."""
    if not all(isinstance(s, int) for s in sizes):
        return {"auto_pad": "SAME_UPPER"}
    before, after = [], []
    for size, k, step, hole in zip(sizes, kernel, strides, dilations, strict=True):
        out = -(-size // step)
        total = max((out - 1) * step + (k - 1) * hole + 1 - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return {"pads": [*before, *after]}


def spatial_sizes(b: KerasBuilder, x: Value, last: bool) -> list[Any]:
    """Return the sizes of the spatial axes."""
    sizes = b.sizes_of(x)
    return sizes[1:-1] if last else sizes[2:]


class _Window:
    """Strides, dilations and padding of a layer's configuration."""

    def __init__(self, b: KerasBuilder, me: Context, x: Value, kernel: Sequence[int]) -> None:
        count = len(kernel)
        self.strides = numbers(me.get("strides", 1), count)
        self.dilations = numbers(me.get("dilation_rate", 1), count)
        self.padding = str(me.get("padding", "valid")).lower()
        sizes = spatial_sizes(b, x, me.channels_last)
        self.attrs: dict[str, Any] = {"strides": self.strides, "dilations": self.dilations}
        if self.padding == "same":
            self.attrs |= same_pads(sizes, kernel, self.strides, self.dilations)
        elif self.padding == "causal" and count == 1:
            self.attrs["pads"] = [(kernel[0] - 1) * self.dilations[0], 0]
        elif self.padding != "valid":
            raise UnsupportedError(f"padding {self.padding}", code="keras-layer")


def convolve(
    b: KerasBuilder,
    me: Context,
    x: Value,
    w: Value,
    bias: Value | None,
    kernel: Sequence[int],
    group: int,
) -> Any:
    """Return a convolution with ``w`` (M, kernel..., C/group)."""
    window = _Window(b, me, x, kernel)
    if me.channels_last:
        return b.conv_nhwc(x, w, bias, group=group, **window.attrs)
    rank = b.rank(w)
    first = b.transpose(w, perm=[0, rank - 1, *range(1, rank - 1)])
    return b.conv(x, first, bias, group=group, **window.attrs)


def _outward(w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(kernel..., C, M) to (M, kernel..., C)."""
    return np.moveaxis(w, -1, 0)


def _depthwise(w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(kernel..., C, multiplier) to (C * multiplier, kernel..., 1)."""
    *kernel, channels, multiplier = w.shape
    return np.moveaxis(w.reshape(*kernel, channels * multiplier), -1, 0)[..., None]


@layer("Conv1D", "Conv2D", "Conv3D", weights="kernel bias?")
@layer("Convolution1D", "Convolution2D", "Convolution3D", weights="kernel bias?")
def conv(b: KerasBuilder, me: Context, x: Value) -> Any:
    *kernel, channels, filters = me.tensor("kernel").shape
    w = me.made("kernel", _outward, filters, *kernel, channels)
    y = convolve(b, me, x, w, me.optional("bias"), kernel, me.get("groups") or 1)
    return me.activated(y)


@layer("DepthwiseConv1D", "DepthwiseConv2D", weights="kernel bias?")
def depthwise_conv(b: KerasBuilder, me: Context, x: Value) -> Any:
    *kernel, channels, multiplier = me.tensor("kernel").shape
    w = me.made("kernel", _depthwise, channels * multiplier, *kernel, 1)
    return me.activated(convolve(b, me, x, w, me.optional("bias"), kernel, channels))


@layer(*("SeparableConv1D", "SeparableConv2D"), weights="depthwise_kernel pointwise_kernel bias?")
def separable_conv(b: KerasBuilder, me: Context, x: Value) -> Any:
    *kernel, channels, multiplier = me.tensor("depthwise_kernel").shape
    w = me.made("depthwise_kernel", _depthwise, channels * multiplier, *kernel, 1)
    y = convolve(b, me, x, w, None, kernel, channels)
    *ones, inner, filters = me.tensor("pointwise_kernel").shape
    point = me.made("pointwise_kernel", _outward, filters, *ones, inner)
    bias = me.optional("bias")
    if me.channels_last:
        return me.activated(b.conv_nhwc(y, point, bias))
    rank = b.rank(point)
    first = b.transpose(point, perm=[0, rank - 1, *range(1, rank - 1)])
    return me.activated(b.conv(y, first, bias))


@layer("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", weights="kernel bias?")
@layer("Deconvolution2D", "Deconvolution3D", weights="kernel bias?")
def conv_transpose(b: KerasBuilder, me: Context, x: Value) -> Any:
    """The gradient of a convolution: TensorFlow pads what that convolution would have padded."""
    *kernel, filters, channels = me.tensor("kernel").shape
    count = len(kernel)
    strides, dilations = (
        numbers(me.get("strides", 1), count),
        numbers(me.get("dilation_rate", 1), count),
    )
    same = str(me.get("padding", "valid")).lower() == "same"
    extra = me.get("output_padding")
    more = [None] * count if extra is None else numbers(extra, count)
    before, after, output_padding = [], [], []
    for k, step, hole, given in zip(kernel, strides, dilations, more, strict=True):
        reach = (k - 1) * hole + 1
        # What the output has more than (n - 1) * step, by Keras's rules.
        if given is None:
            size = step if same else step + max(reach - step, 0)
        else:
            size = reach - (2 * (reach // 2) if same else 0) + given
        total = reach - size
        before.append(max(total, 0) // 2)
        after.append(max(total, 0) - max(total, 0) // 2)
        output_padding.append(max(-total, 0))
    attrs = {"strides": strides, "dilations": dilations, "pads": [*before, *after]}
    attrs["output_padding"] = output_padding
    w = me.made("kernel", lambda w: np.moveaxis(w, -2, 0), filters, *kernel, channels)
    bias = me.optional("bias")
    if me.channels_last:
        return me.activated(b.conv_transpose_nhwc(x, w, bias, **attrs))
    rank = b.rank(w)
    first = b.transpose(w, perm=[rank - 1, 0, *range(1, rank - 1)])
    return me.activated(b.conv_transpose(x, first, bias, **attrs))
