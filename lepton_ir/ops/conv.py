"""Convolutions: plain, transposed, deformable, and causal with a carried state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Int, Ints, Str, op
from lepton_ir.ops import _window
from lepton_ir.ops._nn import (
    Array,
    common_dtype,
    dim_add,
    dim_mul,
    first_known,
    merged,
    require_equal,
    require_vector,
)
from lepton_ir.ops._numeric import widen
from lepton_ir.ops._window import Window
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value
    from lepton_ir.types import Shape, Type

_COLUMN_BYTES = 64 << 20
"""Memory that the unrolled windows of one matrix product may take (one image at least)."""


def convolve(x: Array, w: Array, axes: Sequence[Window], group: int) -> Array:
    """Convolve ``x`` (N, C, spatial...) with ``w`` (M, C/group, kernel...) by matrix products.

    Returns:
        (N, M, out...) in the dtype of ``x``; ``x`` and ``w`` have the same dtype, any NumPy
        number type.
    """
    n, c = x.shape[:2]
    m = w.shape[0]
    out = tuple(a.out for a in axes)
    points = math.prod(out)
    if not (n and m and points and w.size):
        return np.zeros((n, m, *out), x.dtype)
    x = _window.pad_spatial(x, axes)
    if w.shape[1] == 1 and c == group == m:
        return _depthwise(x, w, axes)
    weights = w.reshape(group, m // group, -1)
    if all(a.kernel == a.stride == 1 for a in axes):
        columns = x.reshape(n, group, c // group, points)
        product: Array = np.matmul(weights, columns).reshape(n, m, *out)
        return product
    shape = (n, group, c // group, *(a.kernel for a in axes), *out)
    x = np.ascontiguousarray(x)
    strides = (
        x.strides[0],
        x.strides[1] * (c // group),
        x.strides[1],
        *(s * a.dilation for s, a in zip(x.strides[2:], axes, strict=True)),
        *(s * a.stride for s, a in zip(x.strides[2:], axes, strict=True)),
    )
    view = np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
    y = np.empty((n, group, m // group, points), x.dtype)
    step = max(1, _COLUMN_BYTES // (weights.shape[2] * group * points * x.itemsize))
    for i in range(0, n, step):
        columns = view[i : i + step].reshape(-1, group, weights.shape[2], points)
        np.matmul(weights, columns, out=y[i : i + step])
    return y.reshape(n, m, *out)


def _depthwise(x: Array, w: Array, axes: Sequence[Window]) -> Array:
    y = np.zeros((x.shape[0], w.shape[0], *(a.out for a in axes)), x.dtype)
    columns = w.reshape(w.shape[0], -1, *(1,) * len(axes))
    for i, (_, where) in enumerate(_window.taps(axes)):
        y += x[(slice(None), slice(None), *where)] * columns[:, i]
    return y


def _with_bias(y: Array, b: Array | None) -> Array:
    if b is not None:
        y = y + widen(b).reshape((-1,) + (1,) * (y.ndim - 2))
    return y


def _check_conv(x: Array, w: Array, kernel_shape: Ints | None, group: int) -> None:
    if x.ndim != w.ndim or x.ndim < 3:
        raise ValueError(f"x has rank {x.ndim} and w rank {w.ndim}; both should be equal, >= 3")
    if group < 1 or x.shape[1] != w.shape[1] * group or w.shape[0] % group:
        raise ValueError(
            f"x has {x.shape[1]} channels, w is {w.shape} and group is {group}: they do not fit"
        )
    if kernel_shape is not None and tuple(kernel_shape) != w.shape[2:]:
        raise ValueError(f"kernel_shape is {tuple(kernel_shape)} but w is {w.shape}")


def _ranks(ctx: InferContext, *names: str) -> int | None:
    """Return the common rank of x and w, from the kernel attribute where neither is known."""
    kernel = ctx.attrs.get("kernel_shape")
    found = None if kernel is None else len(kernel) + 2
    for name in names:
        rank = ctx.rank(name)
        if rank is None:
            continue
        if rank < 3 or (found is not None and found != rank):
            ctx.fail("C1", f"{name} has rank {rank}, expected {found or 'at least 3'}")
        found = rank
    return found


def _kernel(ctx: InferContext, w: Shape) -> tuple[Dim | None, ...]:
    kernel = ctx.attrs.get("kernel_shape")
    if kernel is None:
        return w[2:]
    for i, (declared, found) in enumerate(zip(kernel, w[2:], strict=True)):
        require_equal(ctx, "C4", f"kernel_shape[{i}]", declared, found)
    return tuple(kernel)


def _infer_conv(ctx: InferContext) -> Type:
    dtype = common_dtype(ctx, "x", "w", "b")
    rank = _ranks(ctx, "x", "w")
    if rank is None:
        return TensorType(dtype, None)
    unknown: Shape = (None,) * rank
    x, w = ctx.shape("x") or unknown, ctx.shape("w") or unknown
    group = ctx.attrs["group"]
    if group < 1:
        ctx.fail("C2", f"group is {group} but should be positive")
    require_equal(ctx, "C2", "the number of channels of x", x[1], dim_mul(w[1], group))
    if isinstance(w[0], int) and w[0] % group:
        ctx.fail("C2", f"w has {w[0]} output channels, not a multiple of group {group}")
    channels = require_vector(ctx, "C3", "b", w[0])
    spatial = _window.output_dims(ctx, x[2:], _kernel(ctx, w), "C5")
    return TensorType(dtype, (x[0], channels, *spatial))


@op("conv(x, w, b?)", infer=_infer_conv)
def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: Str = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolve x (N, C, spatial...) with w (M, C/group, kernel...), add b (M) (ONNX Conv-22).

    C1  rank(x) == rank(w) >= 3
    C2  channels(x) == w.shape[1] * group, and group divides w.shape[0]
    C3  b is a vector of w.shape[0] elements
    C4  kernel_shape == w.shape[2:]
    C5  one stride and dilation >= 1 and two pads for every spatial axis
    """
    _check_conv(x, w, kernel_shape, group)
    spec = _window.complete(x.ndim - 2, strides, dilations, pads, auto_pad)
    axes = _window.windows(x.shape[2:], w.shape[2:], spec)
    y = _with_bias(convolve(widen(x), widen(w), axes, group), b)
    return y.astype(x.dtype, copy=False)


# -- transposed ------------------------------------------------------------------------------------


def _transposed_dim(
    ctx: InferContext, size: Dim | None, kernel: Dim | None, i: int, spec: _window.Spec
) -> Dim | None:
    rank = len(spec.strides)
    extra = (ctx.attrs["output_padding"] or (0,) * rank)[i]
    if size is None or kernel is None:
        return None
    stride = spec.strides[i]
    extent = dims.add(dims.mul(dims.sub(kernel, 1), spec.dilations[i]), 1 + extra)
    if spec.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        # With less than a stride of kernel there is nothing to crop, and runtimes differ.
        return dims.mul(size, stride) if dims.prove_ge(extent, stride) else None
    full = dims.add(dims.mul(dims.sub(size, 1), stride), extent)
    pads = 0 if spec.auto_pad == "VALID" else spec.pads[i] + spec.pads[rank + i]
    out = dims.sub(full, pads)
    return None if dims.prove_ge(out, 0) is False else out


def _infer_conv_transpose(ctx: InferContext) -> Type:
    dtype = common_dtype(ctx, "x", "w", "b")
    rank = _ranks(ctx, "x", "w")
    if rank is None:
        return TensorType(dtype, None)
    unknown: Shape = (None,) * rank
    x, w = ctx.shape("x") or unknown, ctx.shape("w") or unknown
    group = ctx.attrs["group"]
    if group < 1:
        ctx.fail("C2", f"group is {group} but should be positive")
    require_equal(ctx, "C2", "the number of channels of x", x[1], w[0])
    channels = require_vector(ctx, "C3", "b", dim_mul(w[1], group))
    get = ctx.attrs.get
    try:
        spec = _window.complete(
            rank - 2, get("strides"), get("dilations"), get("pads"), get("auto_pad", "NOTSET")
        )
    except ValueError as error:
        ctx.fail("C5", str(error))
    kernel = _kernel(ctx, w)
    explicit = get("output_shape")
    if explicit is not None and len(explicit) >= rank - 2:
        # Some exporters give the batch and channel dims too; runtimes read the last ones.
        spatial: Sequence[Dim | None] = tuple(explicit)[len(explicit) - (rank - 2) :]
    else:
        spatial = [_transposed_dim(ctx, x[i + 2], kernel[i], i, spec) for i in range(rank - 2)]
    return TensorType(dtype, (x[0], channels, *spatial))


def transposed_crop(
    full: int, size: int, stride: int, target: int | None, auto_pad: str, pads: tuple[int, int]
) -> tuple[int, int]:
    """Return where the output starts in the full product along one axis, and its length."""
    if target is None and auto_pad in ("NOTSET", "VALID"):
        begin, end = pads if auto_pad == "NOTSET" else (0, 0)
        if begin < 0 or end < 0 or full < begin + end:
            raise ValueError(f"pads {begin}, {end} do not fit a full output of {full}")
        return begin, full - begin - end
    target_size = size * stride if target is None else target
    if target is None and target_size > full:
        raise ValueError(f"auto_pad {auto_pad} asks for more than the full output of {full}")
    total = max(full - target_size, 0)
    return (total // 2 if auto_pad == "SAME_UPPER" else total - total // 2), target_size


@op("conv_transpose(x, w, b?)", infer=_infer_conv_transpose)
def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: Str = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Transposed convolution of x (N, C, spatial...) with w (C, M/group, kernel...).

    ``out = stride * (size - 1) + output_padding + (kernel - 1) * dilation + 1 - pads``
    (ONNX ConvTranspose-22); ``output_shape`` and ``SAME_*`` choose the pads instead.

    C1  rank(x) == rank(w) >= 3
    C2  channels(x) == w.shape[0], and group divides it
    C3  b is a vector of w.shape[1] * group elements
    C4  kernel_shape == w.shape[2:]
    C5  one stride and dilation >= 1 and two pads for every spatial axis
    """
    rank = x.ndim - 2
    if x.ndim != w.ndim or rank < 1 or group < 1 or x.shape[1] != w.shape[0] or w.shape[0] % group:
        raise ValueError(f"x {x.shape}, w {w.shape} and group {group} do not fit")
    if kernel_shape is not None and tuple(kernel_shape) != w.shape[2:]:
        raise ValueError(f"kernel_shape is {tuple(kernel_shape)} but w is {w.shape}")
    spec = _window.complete(rank, strides, dilations, pads, auto_pad)
    extra = (0,) * rank if output_padding is None else tuple(output_padding)
    targets = (None,) * rank if output_shape is None else tuple(output_shape)[-rank:]
    axes: list[Window] = []
    crops: list[tuple[int, int]] = []
    for i, (size, taps) in enumerate(zip(x.shape[2:], w.shape[2:], strict=True)):
        stride, dilation = spec.strides[i], spec.dilations[i]
        full = stride * (size - 1) + (taps - 1) * dilation + 1 + extra[i]
        if full < 0:
            raise ValueError(f"spatial axis {i} of size {size} gives no output")
        axes.append(Window(full, taps, stride, dilation, 0, 0, size))
        pair = (spec.pads[i], spec.pads[rank + i])
        crops.append(transposed_crop(full, size, stride, targets[i], spec.auto_pad, pair))
    y = _cropped(_scatter_taps(widen(x), widen(w), axes, group), crops)
    return _with_bias(y, b).astype(x.dtype)


def _cropped(y: Array, crops: Sequence[tuple[int, int]]) -> Array:
    """Cut ``length`` elements from ``start`` on of each spatial axis, zeros beyond its ends."""
    result = np.zeros((*y.shape[:2], *(length for _, length in crops)), y.dtype)
    source: list[slice] = [slice(None)] * 2
    target: list[slice] = [slice(None)] * 2
    for size, (start, length) in zip(y.shape[2:], crops, strict=True):
        stop = max(start, min(start + length, size))
        source.append(slice(start, stop))
        target.append(slice(0, stop - start))
    result[tuple(target)] = y[tuple(source)]
    return result


def _scatter_taps(x: Array, w: Array, axes: Sequence[Window], group: int) -> Array:
    """Return the full transposed product, (N, M, ``axes[i].size``...)."""
    n, c = x.shape[:2]
    per_group = w.shape[1]
    y = np.zeros((n, group * per_group, *(a.size for a in axes)), x.dtype)
    weights = w.reshape(group, c // group, -1).swapaxes(1, 2)
    columns = np.matmul(weights, x.reshape(n, group, c // group, math.prod(x.shape[2:])))
    columns = columns.reshape(n, group * per_group, *w.shape[2:], *x.shape[2:])
    for tap, where in _window.taps(axes):
        y[(slice(None), slice(None), *where)] += columns[(slice(None), slice(None), *tap)]
    return y


# -- deformable ------------------------------------------------------------------------------------


def _infer_deform_conv(ctx: InferContext) -> Type:
    plain = _infer_conv(ctx)
    assert isinstance(plain, TensorType)
    offset = ctx.shape("offset")
    if plain.shape is None or offset is None:
        return plain
    if len(offset) != len(plain.shape):
        ctx.fail("C6", f"offset has rank {len(offset)} but x has rank {len(plain.shape)}")
    return TensorType(plain.dtype, merged(plain.shape, (None, None, *offset[2:])))


@op("deform_conv(x, w, offset, b?, mask?)", infer=_infer_deform_conv)
def deform_conv(
    x: Array,
    w: Array,
    offset: Array,
    b: Array | None = None,
    mask: Array | None = None,
    *,
    dilations: Ints | None = None,
    group: Int = 1,
    kernel_shape: Ints | None = None,
    offset_group: Int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolution whose taps are displaced by ``offset`` and weighed by ``mask`` (DeformConv-22).

    ``offset`` is (N, offset_group * taps * axes, out...), ``mask`` (N, offset_group * taps,
    out...); fractional positions are interpolated linearly, outside of x is 0.

    C1  rank(x) == rank(w) >= 3
    C2  channels(x) == w.shape[1] * group, and group divides w.shape[0]
    C3  b is a vector of w.shape[0] elements
    C4  kernel_shape == w.shape[2:]
    C5  one stride and dilation >= 1 and two pads for every spatial axis
    C6  rank(offset) == rank(x), and offset_group divides the channels of x
    """
    _check_conv(x, w, kernel_shape, group)
    n, c = x.shape[:2]
    axes = _window.windows(
        x.shape[2:], w.shape[2:], _window.complete(x.ndim - 2, strides, dilations, pads)
    )
    out = tuple(a.out for a in axes)
    count = math.prod(w.shape[2:])
    if offset_group < 1 or c % offset_group:
        raise ValueError(f"offset_group {offset_group} does not divide {c} channels")
    if offset.shape != (n, offset_group * count * len(axes), *out):
        raise ValueError(f"offset has shape {offset.shape}, which does not fit output {out}")
    shifts = widen(offset).reshape(n, offset_group, count, len(axes), *out)
    columns = _sample(widen(x), shifts, axes)
    if mask is not None:
        columns = columns * widen(mask).reshape(n, offset_group, 1, count, *out)
    columns = columns.reshape(n, group, c // group * count, math.prod(out))
    weights = widen(w).reshape(group, w.shape[0] // group, -1)
    y = np.matmul(weights, columns).reshape(n, w.shape[0], *out)
    return _with_bias(y, b).astype(x.dtype)


def _sample(x: Array, shifts: Array, axes: Sequence[Window]) -> Array:
    """Interpolate x at every displaced tap: (N, offset groups, C / groups, taps, out...)."""
    n, groups, count = shifts.shape[:3]
    out = shifts.shape[4:]
    rank = len(axes)
    positions = []
    for i, a in enumerate(axes):
        tap = np.indices([b.kernel for b in axes])[i].reshape((count,) + (1,) * rank)
        start = np.arange(a.out).reshape((-1,) + (1,) * (rank - 1 - i)) * a.stride - a.begin
        positions.append(shifts[:, :, :, i] + (start + tap * a.dilation))
    flat = x.reshape(n, groups, -1, math.prod(a.size for a in axes))
    total = np.zeros((n, groups, flat.shape[2], count * math.prod(out)), x.dtype)
    if not flat.shape[3]:
        return total.reshape(n, groups, -1, count, *out)
    for corner in np.ndindex(*(2,) * rank):
        index = np.zeros(positions[0].shape, np.int64)
        weight = np.ones(positions[0].shape, x.dtype)
        for a, position, upper in zip(axes, positions, corner, strict=True):
            low = np.floor(position)
            cell = low.astype(np.int64) + upper
            fraction = position - low
            weight = weight * (fraction if upper else 1 - fraction)
            weight = np.where((cell >= 0) & (cell < a.size), weight, 0)
            index = index * a.size + np.clip(cell, 0, a.size - 1)
        gathered = np.take_along_axis(flat, index.reshape(n, groups, 1, -1), axis=3)
        total += gathered * weight.reshape(n, groups, 1, -1)
    return total.reshape(n, groups, -1, count, *out)


# -- causal with state -----------------------------------------------------------------------------


def _infer_causal(ctx: InferContext) -> list[Type]:
    dtype = common_dtype(ctx, "x", "weight", "bias", "past_state")
    for name in ("x", "weight", "past_state"):
        if ctx.rank(name) not in (None, 3):
            ctx.fail("C1", f"{name} has rank {ctx.rank(name)} but should have 3")
    x = ctx.shape("x") or (None,) * 3
    weight = ctx.shape("weight") or (None,) * 3
    past = ctx.shape("past_state") or (None,) * 3
    channels = first_known(x[1], weight[0], past[1])
    for found, name in ((weight[0], "weight"), (past[1], "past_state")):
        require_equal(ctx, "C2", f"the number of channels of {name}", found, channels)
    channels = require_vector(ctx, "C2", "bias", channels)
    batch = first_known(x[0], past[0])
    carried = first_known(dim_add(weight[2], -1), past[2])
    if isinstance(carried, int) and carried < 0:
        ctx.fail("C1", "the kernel is empty")
    return [
        TensorType(dtype, (batch, channels, x[2])),
        TensorType(dtype, (batch, channels, carried)),
    ]


def _decompose_causal(b: Builder, op: Op) -> list[Value]:
    x, weight = op.operand("x"), op.operand("weight")
    assert x is not None
    assert weight is not None
    shape = weight.shape
    if shape is None or not isinstance(shape[0], int) or not isinstance(shape[2], int):
        raise ValueError("the channels and the kernel of weight are not known")
    carried = shape[2] - 1
    past = op.operand("past_state")
    if past is None:
        if carried and x.dtype is None:
            raise ValueError("the element type of x is not known")
        padded = b.pad(x, [0, 0, carried, 0, 0, 0]) if carried else x
    else:
        padded = b.concat(past, x, axis=2)
    y = b.conv(padded, weight, op.operand("bias"), group=shape[0])
    if op.all_attrs()["activation"] != "none":
        y = b.mul(y, b.sigmoid(y))
    if carried:
        state = b.slice(padded, [-carried], [np.iinfo(np.int64).max], [2])
    else:
        state = b.slice(padded, [0], [0], [2])
    return [y, state]


@op(
    "causal_conv_with_state(x, weight, bias?, past_state?) -> y, present_state",
    infer=_infer_causal,
    traits="composite",
    decompose=_decompose_causal,
)
def causal_conv_with_state(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    past_state: Array | None = None,
    *,
    activation: Str = "none",
) -> tuple[Array, Array]:
    """Depthwise 1-D convolution over past_state (B, C, k - 1) followed by x (B, C, L).

    ONNX CausalConvWithState-27; the second result is the last k - 1 columns, ``activation`` is
    ``none``, ``silu`` or ``swish``.

    C1  x, weight and past_state have rank 3, weight at least one tap
    C2  x, weight, bias and past_state have the same number of channels
    """
    if activation not in ("none", "silu", "swish"):
        raise ValueError(f"activation should be none, silu or swish, got {activation!r}")
    if x.ndim != 3 or weight.ndim != 3 or weight.shape[:2] != (x.shape[1], 1):
        raise ValueError(f"x {x.shape} and weight {weight.shape} do not fit")
    batch, channels, length = x.shape
    carried = weight.shape[2] - 1
    past = np.zeros((batch, channels, carried), x.dtype) if past_state is None else past_state
    if carried < 0 or past.shape != (batch, channels, carried):
        raise ValueError(f"past_state {past.shape} does not fit x {x.shape}")
    padded = np.concatenate((past, x), axis=2)
    axes = [Window(length + carried, carried + 1, 1, 1, 0, 0, length)]
    y = _with_bias(convolve(widen(padded), widen(weight), axes, channels), bias).astype(x.dtype)
    if activation != "none":
        wide = widen(y)
        with np.errstate(over="ignore"):
            y = (wide / (1 + np.exp(-wide))).astype(x.dtype)
    return y, padded[:, :, length:].copy()
