"""Pooling over sliding windows, over whole axes, over regions, and max unpooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.opdef import Bool, Float, Int, Ints, Str, op
from lepton_ir.ops import _window
from lepton_ir.ops._nn import Array, common_dtype, merged, narrow
from lepton_ir.ops._numeric import widen
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value
    from lepton_ir.ops._window import Window
    from lepton_ir.types import Type


def _infer_pool(ctx: InferContext) -> list[Type]:
    shape = ctx.shape("x")
    kernel = ctx.attrs["kernel_shape"]
    if shape is not None and len(shape) != len(kernel) + 2:
        ctx.fail("C1", f"x has rank {len(shape)} but kernel_shape {len(kernel)} elements")
    x = shape or (None,) * (len(kernel) + 2)
    found = (*x[:2], *_window.output_dims(ctx, x[2:], kernel, "C2"))
    return [TensorType(ctx.dtype("x"), found), TensorType(dtypes.I64, found)]


def _windows(
    x: Array,
    kernel_shape: Ints,
    strides: Ints | None,
    dilations: Ints | None,
    pads: Ints | None,
    auto_pad: str,
    ceil_mode: bool,
) -> list[Window]:
    if x.ndim != len(kernel_shape) + 2:
        raise ValueError(f"x has rank {x.ndim} but kernel_shape is {tuple(kernel_shape)}")
    spec = _window.complete(
        len(kernel_shape), strides, dilations, pads, auto_pad, ceil_mode, pooling=True
    )
    return _window.windows(x.shape[2:], kernel_shape, spec)


def _sum_taps(x: Array, axes: Sequence[Window]) -> Array:
    padded = _window.pad_spatial(x, axes)
    total = np.zeros((*x.shape[:2], *(a.out for a in axes)), x.dtype)
    for _, where in _window.taps(axes):
        total += padded[(slice(None), slice(None), *where)]
    return total


@op("average_pool(x)", infer=_infer_pool)
def average_pool(
    x: Array,
    *,
    auto_pad: Str = "NOTSET",
    ceil_mode: Bool = False,
    count_include_pad: Bool = False,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Mean of every window of x (N, C, spatial...) (ONNX AveragePool-22).

    Padding counts into the divisor with ``count_include_pad``; what ``ceil_mode`` reaches behind
    the padding never does.

    C1  rank(x) == len(kernel_shape) + 2
    C2  one stride and dilation >= 1 and two pads for every spatial axis
    """
    axes = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    total = _sum_taps(widen(x), axes)
    divisor = np.ones((1,) * len(axes), np.int64)
    for i, a in enumerate(axes):
        at = np.arange(a.out)[:, None] * a.stride + np.arange(a.kernel) * a.dilation - a.begin
        low, high = (-a.begin, a.size + a.end) if count_include_pad else (0, a.size)
        count = ((at >= low) & (at < high)).sum(axis=1)
        divisor = divisor * count.reshape((-1,) + (1,) * (len(axes) - 1 - i))
    if divisor.size and divisor.min() == 0:
        raise ValueError("a window lies in the padding, where there is no mean")
    return narrow(total / divisor.astype(total.dtype), x.dtype)


@op("lp_pool(x)", infer=_infer_pool)
def lp_pool(
    x: Array,
    *,
    auto_pad: Str = "NOTSET",
    ceil_mode: Bool = False,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    p: Int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """``sum(|x| ** p) ** (1 / p)`` of every window of x (N, C, spatial...) (ONNX LpPool-22).

    C1  rank(x) == len(kernel_shape) + 2
    C2  one stride and dilation >= 1 and two pads for every spatial axis
    """
    if p < 1:
        raise ValueError(f"p should be at least 1, got {p}")
    axes = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    total = _sum_taps(np.abs(widen(x)) ** p, axes)
    return narrow(total ** (1.0 / p), x.dtype)


def _lowest(dtype: np.dtype[Any]) -> float:
    return int(np.iinfo(dtype).min) if dtype.kind in "iu" else -np.inf


def _window_max(x: Array, axes: Sequence[Window]) -> Array:
    padded = _window.pad_spatial(x, axes, _lowest(x.dtype))
    best = np.full((*x.shape[:2], *(a.out for a in axes)), _lowest(x.dtype), x.dtype)
    for _, where in _window.taps(axes):
        np.maximum(best, padded[(slice(None), slice(None), *where)], out=best)
    return best


def _window_arg_max(x: Array, axes: Sequence[Window], column_major: bool) -> Array:
    """Flat index of the first maximum of every window, in the tensor without its padding."""
    spatial = x.shape[2:]
    places = np.arange(math.prod(spatial), dtype=np.int64)
    places = places.reshape(spatial[::-1]).T if column_major else places.reshape(spatial)
    places = _window.pad_spatial(places[None, None], axes, -1)
    padded = _window.pad_spatial(x, axes, _lowest(x.dtype))
    shape = (*x.shape[:2], *(a.out for a in axes))
    best = np.full(shape, _lowest(x.dtype), x.dtype)
    index = np.full(shape, -1, np.int64)
    for _, where in _window.taps(axes):
        cells = (slice(None), slice(None), *where)
        value, place = padded[cells], places[cells]
        better = (place >= 0) & ((value > best) | (index < 0))
        best = np.where(better, value, best)
        index = np.where(better, place, index)
    if index.size and index.min() < 0:
        raise ValueError("a window lies in the padding, where there is no maximum")
    images = np.arange(math.prod(x.shape[:2])).reshape((*x.shape[:2], *(1,) * len(axes)))
    flat: Array = index + images * math.prod(spatial)
    return flat


@op("max_pool(x) -> y, indices?", infer=_infer_pool)
def max_pool(
    x: Array,
    *,
    auto_pad: Str = "NOTSET",
    ceil_mode: Bool = False,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    storage_order: Bool = False,
    strides: Ints | None = None,
) -> tuple[Array, Array]:
    """Maximum of every window of x (N, C, spatial...), and its flat index (ONNX MaxPool-22).

    ``storage_order`` counts the indices of an image column by column.

    C1  rank(x) == len(kernel_shape) + 2
    C2  one stride and dilation >= 1 and two pads for every spatial axis
    """
    axes = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    wide = widen(x)
    best = _window_max(wide, axes).astype(x.dtype)
    return best, _window_arg_max(wide, axes, storage_order)


# -- whole axes ------------------------------------------------------------------------------------


def _infer_global(ctx: InferContext) -> Type:
    shape = ctx.shape("x")
    if shape is None:
        return TensorType(ctx.dtype("x"), None)
    if len(shape) < 2:
        ctx.fail("C1", f"x has rank {len(shape)}")
    return TensorType(ctx.dtype("x"), (*shape[:2], *(1,) * (len(shape) - 2)))


def _spatial_axes(x: Array) -> tuple[int, ...]:
    if x.ndim < 3:
        raise ValueError(f"x has rank {x.ndim}, which has no spatial axes")
    return tuple(range(2, x.ndim))


def _reduce_spatial(b: Builder, op: Op, reduction: str) -> list[Value]:
    x = op.operand("x")
    assert x is not None
    if x.rank is None or x.rank < 3:
        raise ValueError("the rank of x is not known")
    return [getattr(b, reduction)(x, list(range(2, x.rank)), keepdims=True)]


def _decompose_global_average(b: Builder, op: Op) -> list[Value]:
    return _reduce_spatial(b, op, "reduce_mean")


def _decompose_global_max(b: Builder, op: Op) -> list[Value]:
    return _reduce_spatial(b, op, "reduce_max")


def _decompose_global_lp(b: Builder, op: Op) -> list[Value]:
    p = op.all_attrs()["p"]
    if p not in (1, 2):
        raise ValueError(f"there is no reduction of order {p}")
    return _reduce_spatial(b, op, f"reduce_l{p}")


@op(
    "global_average_pool(x)",
    infer=_infer_global,
    traits="composite",
    decompose=_decompose_global_average,
)
def global_average_pool(x: Array) -> Array:
    """Mean over all spatial axes of x (N, C, spatial...), kept as 1 (ONNX GlobalAveragePool-22).

    C1  rank(x) >= 2
    """
    axes = _spatial_axes(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        wide = widen(x)
        count = wide.dtype.type(math.prod(x.shape[2:]))
        return narrow(wide.sum(axis=axes, keepdims=True) / count, x.dtype)


@op("global_max_pool(x)", infer=_infer_global, traits="composite", decompose=_decompose_global_max)
def global_max_pool(x: Array) -> Array:
    """Maximum over all spatial axes of x (N, C, spatial...), kept as 1 (ONNX GlobalMaxPool-22).

    C1  rank(x) >= 2
    """
    if not math.prod(x.shape[2:]):
        raise ValueError("a maximum over no elements is undefined")
    return narrow(widen(x).max(axis=_spatial_axes(x), keepdims=True), x.dtype)


@op("global_lp_pool(x)", infer=_infer_global, traits="composite", decompose=_decompose_global_lp)
def global_lp_pool(x: Array, *, p: Int = 2) -> Array:
    """``sum(|x| ** p) ** (1 / p)`` over all spatial axes, kept as 1 (ONNX GlobalLpPool-22).

    C1  rank(x) >= 2
    """
    if p < 1:
        raise ValueError(f"p should be at least 1, got {p}")
    total = (np.abs(widen(x)) ** p).sum(axis=_spatial_axes(x), keepdims=True)
    return narrow(total ** (1.0 / p), x.dtype)


# -- unpooling -------------------------------------------------------------------------------------


def _infer_max_unpool(ctx: InferContext) -> Type:
    dtype = ctx.dtype("x")
    kernel = ctx.attrs["kernel_shape"]
    x = merged(ctx.shape("x"), ctx.shape("i"))
    if x is not None and len(x) != len(kernel) + 2:
        ctx.fail("C1", f"x has rank {len(x)} but kernel_shape {len(kernel)} elements")
    rank = len(kernel)
    if ctx.has("output_shape"):
        content = ctx.content("output_shape")
        if content is None or len(content) != rank + 2:
            return TensorType(dtype, (None,) * (rank + 2))
        return TensorType(dtype, [None if isinstance(d, int) and d < 0 else d for d in content])
    if x is None:
        return TensorType(dtype, (None,) * (rank + 2))
    get = ctx.attrs.get
    try:
        spec = _window.complete(rank, get("strides"), None, get("pads"))
    except ValueError as error:
        ctx.fail("C2", str(error))
    spatial: list[Dim | None] = []
    for i, size in enumerate(x[2:]):
        if size is None:
            spatial.append(None)
            continue
        pads = spec.pads[i] + spec.pads[rank + i]
        out = dims.add(dims.mul(dims.sub(size, 1), spec.strides[i]), kernel[i] - pads)
        spatial.append(None if dims.prove_ge(out, 0) is False else out)
    return TensorType(dtype, (*x[:2], *spatial))


@op("max_unpool(x, i, output_shape?)", infer=_infer_max_unpool)
def max_unpool(
    x: Array,
    i: Array,
    output_shape: Array | None = None,
    *,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Put the elements of x back to flat indices i, zeros elsewhere (ONNX MaxUnpool-22).

    The indices count in the shape ``(size - 1) * stride - pads + kernel``; ``output_shape`` then
    extends that with zeros behind.

    C1  rank(x) == len(kernel_shape) + 2, and i has the shape of x
    C2  one stride >= 1 and two pads for every spatial axis
    """
    rank = len(kernel_shape)
    if x.ndim != rank + 2 or i.shape != x.shape:
        raise ValueError(f"x {x.shape}, i {i.shape} and kernel_shape {kernel_shape} do not fit")
    spec = _window.complete(rank, strides, None, pads)
    inner = (
        *x.shape[:2],
        *(
            max((n - 1) * spec.strides[a] + kernel_shape[a] - spec.pads[a] - spec.pads[rank + a], 0)
            for a, n in enumerate(x.shape[2:])
        ),
    )
    flat = np.zeros(math.prod(inner), x.dtype)
    if i.size and (i.min() < 0 or i.max() >= flat.size):
        raise ValueError(f"an index is outside of {inner}")
    flat[i.reshape(-1)] = x.reshape(-1)
    y = flat.reshape(inner)
    if output_shape is None:
        return y
    shape = tuple(int(d) for d in output_shape.reshape(-1))
    if len(shape) != y.ndim or any(a < b for a, b in zip(shape, inner, strict=True)):
        raise ValueError(f"output_shape {shape} does not hold {inner}")
    result = np.zeros(shape, x.dtype)
    result[tuple(slice(0, n) for n in inner)] = y
    return result


# -- regions ---------------------------------------------------------------------------------------


def _infer_max_roi_pool(ctx: InferContext) -> Type:
    x, rois = ctx.shape("x"), ctx.shape("rois")
    pooled = ctx.attrs["pooled_shape"]
    if (x is not None and len(x) != 4) or (rois is not None and len(rois) != 2):
        ctx.fail("C1", "x should have rank 4 and rois rank 2")
    if len(pooled) != 2 or min(pooled) < 0:
        ctx.fail("C2", f"pooled_shape is {tuple(pooled)}")
    count = None if rois is None else rois[0]
    channels = None if x is None else x[1]
    return TensorType(common_dtype(ctx, "x", "rois"), (count, channels, *pooled))


def _bins(low: int, high: int, bins: int, size: int) -> list[slice]:
    """Split the closed interval ``low..high`` into overlapping bins, clipped to the image."""
    extent = max(high - low + 1, 1) / bins
    found = []
    for i in range(bins):
        start = min(max(math.floor(i * extent) + low, 0), size)
        stop = min(max(math.ceil((i + 1) * extent) + low, 0), size)
        found.append(slice(start, stop))
    return found


@op("max_roi_pool(x, rois)", infer=_infer_max_roi_pool)
def max_roi_pool(x: Array, rois: Array, *, pooled_shape: Ints, spatial_scale: Float = 1.0) -> Array:
    """Maximum over a grid of bins of every region of x (N, C, H, W) (ONNX MaxRoiPool-22).

    ``rois`` is (R, 5): batch, x1, y1, x2, y2, scaled by ``spatial_scale`` and rounded half away
    from 0; an empty bin gives 0.

    C1  rank(x) == 4 and rank(rois) == 2
    C2  pooled_shape is (height, width)
    """
    if x.ndim != 4 or rois.ndim != 2 or rois.shape[1] != 5 or len(pooled_shape) != 2:
        raise ValueError(f"x {x.shape}, rois {rois.shape} and {pooled_shape} do not fit")
    height, width = x.shape[2:]
    wide = widen(x)
    y = np.zeros((rois.shape[0], x.shape[1], *pooled_shape), wide.dtype)
    for r, (batch, *corners) in enumerate(widen(rois)):
        if not 0 <= int(batch) < x.shape[0]:
            raise ValueError(f"roi {r} is of image {batch}, x has {x.shape[0]}")
        x1, y1, x2, y2 = (
            math.floor(abs(c) + 0.5) * (-1 if c < 0 else 1)
            for c in (float(v) * spatial_scale for v in corners)
        )
        for i, rows in enumerate(_bins(y1, y2, pooled_shape[0], height)):
            for j, columns in enumerate(_bins(x1, x2, pooled_shape[1], width)):
                cell = wide[int(batch), :, rows, columns]
                if cell.size:
                    y[r, :, i, j] = cell.max(axis=(1, 2))
    return y.astype(x.dtype)
