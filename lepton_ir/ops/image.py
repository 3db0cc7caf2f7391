"""Image operations: resizing, sampling at computed positions, blocks back into images."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Bool, Float, Ints, Str, op
from lepton_ir.ops import _resample
from lepton_ir.ops._support import (
    Array,
    Shape,
    known,
    normalized,
    widen,
)
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.infer import InferContext

_POLICIES = ("stretch", "not_larger", "not_smaller")


def _resize_axes(axes: tuple[int, ...] | None, rank: int) -> list[int]:
    if axes is None:
        return list(range(rank))
    return [normalized(a, rank) for a in axes]


def _kept_aspect(sizes: Sequence[int], old: Sequence[int], policy: str) -> list[int]:
    """Return the sizes with one scale for all axes; halves round up (Resize's round_int)."""
    choose = min if policy == "not_larger" else max
    scale = choose(Fraction(s, o) for s, o in zip(sizes, old, strict=True))
    return [int((scale * o + Fraction(1, 2)) // 1) for o in old]


def _given(ctx: InferContext, name: str) -> bool | None:
    """Whether an optional operand counts: an empty vector is as good as an absent one."""
    if not ctx.has(name):
        return False
    shape = ctx.shape(name)
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int):
        return None
    return shape[0] != 0


def _scaled_dim(dim: Dim | None, scale: float) -> Dim | None:
    if isinstance(dim, int):
        return _resample.scaled_size(dim, scale)
    # Past 2**24 the runtime's f32 product would round; no tensor axis is that long in practice.
    return dims.mul(dim, int(scale)) if dim is not None and scale == int(scale) else None


def _infer_resize(ctx: InferContext) -> TensorType:
    x, dtype = ctx.shape("x"), ctx.dtype("x")
    if x is None:
        return TensorType(dtype, None)
    for axis in ctx.attrs["axes"] or ():
        if not -len(x) <= axis < len(x):
            ctx.fail("C2", f"axis {axis} is out of range for rank {len(x)}")
    axes = _resize_axes(ctx.attrs["axes"], len(x))
    scaled, sized = _given(ctx, "scales"), _given(ctx, "sizes")
    if scaled is False and sized is False:
        ctx.fail("C1", "neither scales nor sizes is given")
    shape = list(x)
    for axis in axes:
        shape[axis] = None
    if sized is False:
        scales = ctx.const("scales")
        if scales is not None:
            if scales.size != len(axes):
                ctx.fail("C3", f"{scales.size} scales for {len(axes)} axes")
            for axis, scale in zip(axes, scales.reshape(-1).tolist(), strict=True):
                shape[axis] = _scaled_dim(x[axis], scale)
    elif scaled is False:
        sizes = ctx.content("sizes")
        if sizes is not None:
            if len(sizes) != len(axes):
                ctx.fail("C3", f"{len(sizes)} sizes for {len(axes)} axes")
            for axis, size in zip(axes, _policy_sizes(ctx, x, axes, sizes), strict=True):
                shape[axis] = size
    return TensorType(dtype, shape)


def _policy_sizes(ctx: InferContext, x: Shape, axes: list[int], sizes: Shape) -> Shape:
    policy = ctx.attrs["keep_aspect_ratio_policy"]
    if policy == "stretch":
        return sizes
    old, new = known([x[a] for a in axes]), known(sizes)
    if old is None or new is None or 0 in old:
        return (None,) * len(sizes)
    return tuple(_kept_aspect(new, old, policy))


def _axes_plan(
    shape: Sequence[int],
    roi: Array | None,
    scales: Array | None,
    sizes: Array | None,
    attrs: dict[str, Any],
) -> list[_resample.Axis]:
    """Return what happens along each resized axis."""
    axes = _resize_axes(attrs["axes"], len(shape))
    scales = None if scales is None or scales.size == 0 else scales
    sizes = None if sizes is None or sizes.size == 0 else sizes
    if (scales is None) == (sizes is None):
        raise ValueError("resize needs either scales or sizes")
    count = (scales if scales is not None else sizes).size  # type: ignore[union-attr]
    if count != len(axes):
        raise ValueError(f"{count} scales or sizes for {len(axes)} axes")
    old = [shape[a] for a in axes]
    policy, aspect = attrs["keep_aspect_ratio_policy"], None
    if scales is not None:
        factors = [np.float32(s) for s in scales.reshape(-1)]
        if any(not s > 0 for s in factors):
            raise ValueError(f"scales should be > 0, got {scales}")
        out = [_resample.scaled_size(o, float(s)) for o, s in zip(old, factors, strict=True)]
    else:
        assert sizes is not None
        out = [int(s) for s in sizes.reshape(-1)]
        if policy != "stretch" and 0 not in old:
            choose = min if policy == "not_larger" else max
            aspect = choose(s / o for s, o in zip(out, old, strict=True))
            out = _kept_aspect(out, old, policy)
        factors = [
            np.float32((s / max(o, 1)) if aspect is None else aspect)
            for s, o in zip(out, old, strict=True)
        ]
    plan = []
    crop = attrs["coordinate_transformation_mode"] == "tf_crop_and_resize"
    if crop and (roi is None or roi.size != 2 * len(axes)):
        raise ValueError(f"tf_crop_and_resize needs a roi of {2 * len(axes)} numbers")
    for i, (axis, o, n, s) in enumerate(zip(axes, old, out, factors, strict=True)):
        exact = sizes is not None and aspect is None
        length = np.float32(n) if exact else np.float32(o) * s
        window = (float(roi[i]), float(roi[i + len(axes)])) if crop and roi is not None else (0, 1)
        plan.append(_resample.Axis(axis, o, n, s, length, window))
    return plan


def _check_resize(attrs: dict[str, Any]) -> None:
    for name, allowed in (
        ("mode", ("nearest", "linear", "cubic")),
        ("coordinate_transformation_mode", _resample.TRANSFORMS),
        ("nearest_mode", _resample.NEAREST_MODES),
        ("keep_aspect_ratio_policy", _POLICIES),
    ):
        if attrs[name] not in allowed:
            raise ValueError(f"resize: {attrs[name]!r} is none of {', '.join(allowed)}")


@dataclass(frozen=True)
class Resampling:
    """What Resize does along one axis.

    Attributes:
        axis: which axis.
        out: its new size.
        indexes: (out, k) elements of the axis.
        weights: (out, k) their weights; ``None`` when each result is the one element.
        outside: the results whose position is outside the axis; ``None`` when that plays no role.
    """

    axis: int
    out: int
    indexes: Array
    weights: Array | None = None
    outside: Array | None = None


def resamplings(
    shape: Sequence[int],
    roi: Array | None,
    scales: Array | None,
    sizes: Array | None,
    attrs: dict[str, Any],
) -> list[Resampling]:
    """Return what Resize does to a tensor of ``shape``, axis by axis.

    Raises:
        ValueError: operands or attributes that Resize does not allow.
    """
    _check_resize(attrs)
    window = None if roi is None else widen(roi).reshape(-1)
    mode, transform = attrs["mode"], attrs["coordinate_transformation_mode"]
    found = []
    for axis in _axes_plan(shape, window, scales, sizes, attrs):
        at = _resample.coordinates(axis, transform)
        outside = None
        if transform == "tf_crop_and_resize":
            outside = (at < 0) | (at > axis.size - 1)
        elif axis.size == axis.out and axis.scale == 1:
            continue
        if 0 in (axis.size, axis.out):
            if axis.out:
                raise ValueError("cannot resize an axis of size 0")
            found.append(Resampling(axis.index, 0, np.zeros((0, 1), np.int64), None, outside))
        elif mode == "nearest":
            index = np.clip(_resample.nearest(at, attrs["nearest_mode"]), 0, axis.size - 1)
            index = index.astype(np.int64)[:, None]
            found.append(Resampling(axis.index, axis.out, index, None, outside))
        else:
            indexes, weights = _resample.taps(
                at,
                axis.size,
                mode=mode,
                scale=float(axis.scale),
                antialias=attrs["antialias"],
                exclude_outside=attrs["exclude_outside"],
                cubic_a=attrs["cubic_coeff_a"],
            )
            found.append(Resampling(axis.index, axis.out, indexes, weights, outside))
    return found


@op("resize(x, roi?, scales?, sizes?)", infer=_infer_resize)
def resize(
    x: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    antialias: Bool = False,
    axes: Ints | None = None,
    coordinate_transformation_mode: Str = "half_pixel",
    cubic_coeff_a: Float = -0.75,
    exclude_outside: Bool = False,
    extrapolation_value: Float = 0.0,
    keep_aspect_ratio_policy: Str = "stretch",
    mode: Str = "nearest",
    nearest_mode: Str = "round_prefer_floor",
) -> Array:
    """Resize along axes by nearest, linear or cubic interpolation (ONNX Resize-19).

    An empty ``roi``, ``scales`` or ``sizes`` counts as absent. Coordinates are computed in f32.

    C1  exactly one of scales and sizes is given
    C2  -rank(x) <= axes < rank(x)
    C3  one scale or size per axis
    """
    attrs = {
        "antialias": antialias,
        "axes": axes,
        "coordinate_transformation_mode": coordinate_transformation_mode,
        "cubic_coeff_a": cubic_coeff_a,
        "exclude_outside": exclude_outside,
        "keep_aspect_ratio_policy": keep_aspect_ratio_policy,
        "mode": mode,
        "nearest_mode": nearest_mode,
    }
    result = x if mode == "nearest" else widen(x)
    outside: list[tuple[int, Array]] = []
    for r in resamplings(x.shape, roi, scales, sizes, attrs):
        if r.outside is not None:
            outside.append((r.axis, r.outside))
        if r.weights is None:
            result = np.take(result, r.indexes[:, 0], r.axis)
        else:
            result = _resample.apply_taps(result, r.axis, r.indexes, r.weights)
    return _extrapolated(result.astype(x.dtype), outside, extrapolation_value)


def _extrapolated(x: Array, outside: list[tuple[int, Array]], value: float) -> Array:
    for axis, mask in outside:
        if mask.any():
            shape = [1] * x.ndim
            shape[axis] = len(mask)
            x = np.where(mask.reshape(shape), np.asarray(value).astype(x.dtype), x)
    return x


def _infer_grid_sample(ctx: InferContext) -> TensorType:
    x, grid = ctx.shape("x"), ctx.shape("grid")
    dtype = ctx.dtype("x")
    if x is not None and len(x) < 3:
        ctx.fail("C1", f"x has rank {len(x)}")
    if x is not None and grid is not None and len(x) != len(grid):
        ctx.fail("C1", f"x has rank {len(x)} but grid has {len(grid)}")
    if x is None and grid is None:
        return TensorType(dtype, None)
    rank = len(x or grid or ())
    x, grid = x or (None,) * rank, grid or (None,) * rank
    if isinstance(grid[-1], int) and grid[-1] != rank - 2:
        ctx.fail("C2", f"grid holds {grid[-1]} coordinates for {rank - 2} spatial dims")
    batch = grid[0] if x[0] is None else x[0]
    return TensorType(dtype, (batch, x[1], *grid[1:-1]))


def _reflected(x: Array, low: float, high: float) -> Array:
    """Mirror coordinates at both borders until they lie between them."""
    span = high - low
    if span <= 0:
        return np.full_like(x, low)
    phase = np.mod(x - low, 2 * span)
    return np.asarray(low + np.where(phase > span, 2 * span - phase, phase))


def grid_taps(
    grid: Array, sizes: Sequence[int], mode: str, padding_mode: str, align_corners: bool
) -> list[tuple[Array, Array]]:
    """Return for each spatial axis the indexes and weights, (..., k) each, of `grid_sample`."""
    positions, rank = grid.astype(np.float64), len(sizes)
    axes = []
    for i, size in enumerate(sizes):
        g = positions[..., rank - 1 - i]
        at = (g + 1) / 2 * (size - 1) if align_corners else ((g + 1) * size - 1) / 2
        axes.append(_grid_taps(at, size, mode, padding_mode, align_corners))
    return axes


def _grid_taps(
    at: Array, size: int, mode: str, padding_mode: str, align_corners: bool
) -> tuple[Array, Array]:
    """Return indexes and weights, (..., k) each, of sampling one axis at pixel positions."""
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    if mode == "nearest":
        at = np.rint(at)
    if padding_mode == "border" and mode != "cubic":
        at = np.clip(at, 0, size - 1)
    elif padding_mode == "reflection":
        at = np.where((at < low) | (at > high), _reflected(at, low, high), at)
    base = np.floor(at)
    if mode == "nearest":
        index, weights = base[..., None], np.ones((*at.shape, 1))
    else:
        offsets = np.arange(2) if mode == "linear" else np.arange(-1, 3)
        index = base[..., None] + offsets
        distance = index - at[..., None]
        if mode == "linear":
            weights = _resample.linear_kernel(distance)
        else:
            weights = _resample.cubic_kernel(distance, -0.75)
    if padding_mode == "zeros":
        weights = np.where((index < 0) | (index > size - 1), 0.0, weights)
    elif padding_mode == "reflection":
        index = np.where((index < low) | (index > high), _reflected(index, low, high), index)
    return np.clip(index, 0, size - 1).astype(np.int64), weights


@op("grid_sample(x, grid)", infer=_infer_grid_sample)
def grid_sample(
    x: Array,
    grid: Array,
    *,
    align_corners: Bool = False,
    mode: Str = "linear",
    padding_mode: Str = "zeros",
) -> Array:
    """Sample ``x`` (N, C, D1..Dr) at normalized positions (N, O1..Or, r) (ONNX GridSample-22).

    C1  rank(x) == rank(grid) >= 3
    C2  grid.shape[-1] == rank(x) - 2
    """
    rank = x.ndim - 2
    if x.ndim != grid.ndim or rank < 1 or grid.shape[-1] != rank or len(x) != len(grid):
        raise ValueError(f"grid of shape {grid.shape} does not go with x of shape {x.shape}")
    if mode not in ("nearest", "linear", "cubic"):
        raise ValueError(f"grid_sample: unknown mode {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"grid_sample: unknown padding_mode {padding_mode!r}")
    axes = grid_taps(grid, x.shape[2:], mode, padding_mode, align_corners)
    batch = np.arange(len(x)).reshape((-1,) + (1,) * rank)
    source = np.moveaxis(x, 1, -1)
    if mode == "nearest":
        picked = source[(batch, *(index[..., 0] for index, _ in axes))]
        inside = np.prod([w[..., 0] for _, w in axes], axis=0).astype(bool)
        zero = np.zeros((), x.dtype)
        return np.moveaxis(np.where(inside[..., None], picked, zero), -1, 1).astype(x.dtype)
    source = widen(source)
    total = np.zeros((*grid.shape[:-1], x.shape[1]))
    for chosen in itertools.product(*(range(index.shape[-1]) for index, _ in axes)):
        weight = np.ones(grid.shape[:-1])
        where = []
        for (index, weights), k in zip(axes, chosen, strict=True):
            weight = weight * weights[..., k]
            where.append(index[..., k])
        values = source[(batch, *where)]
        # A tap outside counts 0 even where the clamped element is infinite.
        total += np.where(weight[..., None] == 0, 0, values * weight[..., None])
    return np.moveaxis(total, -1, 1).astype(x.dtype)


def _infer_affine_grid(ctx: InferContext) -> TensorType:
    theta, size = ctx.shape("theta"), ctx.content("size")
    if theta is not None and len(theta) != 3:
        ctx.fail("C1", f"theta has rank {len(theta)}")
    if size is None:
        return TensorType(ctx.dtype("theta"), None)
    if len(size) not in (4, 5):
        ctx.fail("C2", f"size has {len(size)} elements")
    return TensorType(ctx.dtype("theta"), (size[0], *size[2:], len(size) - 2))


@op("affine_grid(theta, size) -> grid", infer=_infer_affine_grid)
def affine_grid(theta: Array, size: Array, *, align_corners: Bool = False) -> Array:
    """Sampling grid of affine maps (N, r, r+1) for ``grid_sample`` (ONNX AffineGrid-20).

    C1  rank(theta) == 3
    C2  size is (N, C, H, W) or (N, C, D, H, W)
    """
    spatial = [int(s) for s in size[2:]]
    rank = len(spatial)
    if rank not in (2, 3) or theta.shape != (int(size[0]), rank, rank + 1):
        raise ValueError(f"theta of shape {theta.shape} does not go with size {size.tolist()}")
    ticks = []
    for extent in spatial:
        steps = np.arange(extent, dtype=np.float64)
        if align_corners:
            ticks.append(-1 + 2 * steps / (extent - 1) if extent > 1 else np.zeros(extent))
        else:
            ticks.append((2 * steps + 1) / extent - 1)
    mesh = np.meshgrid(*ticks, indexing="ij")[::-1]
    points = np.stack([*mesh, np.ones(spatial)], axis=-1)
    found: Array = np.einsum("...k,nik->n...i", points, theta.astype(np.float64))
    return found.astype(theta.dtype)


def _infer_col2im(ctx: InferContext) -> TensorType:
    x, image, block = ctx.shape("x"), ctx.content("image_shape"), ctx.ints("block_shape")
    if x is not None and len(x) != 3:
        ctx.fail("C1", f"x has rank {len(x)}")
    if image is None:
        shape = ctx.shape("image_shape") or ctx.shape("block_shape")
        count = shape[0] if shape else None
        if not isinstance(count, int):
            return TensorType(ctx.dtype("x"), None)
        image = (None,) * count
    channels: Dim | None = None
    if x is not None and x[1] is not None and block is not None and 0 not in block:
        size = dims.product(block)
        if isinstance(x[1], int) and isinstance(size, int) and x[1] % size:
            ctx.fail("C2", f"x has {x[1]} rows, no multiple of the block's {size}")
        channels = dims.exact_div(x[1], size)
    return TensorType(ctx.dtype("x"), (x[0] if x else None, channels, *image))


@op("col2im(x, image_shape, block_shape)", infer=_infer_col2im)
def col2im(
    x: Array,
    image_shape: Array,
    block_shape: Array,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Sum sliding blocks (N, C * block, L) back into images (N, C, image) (ONNX Col2Im-18).

    C1  rank(x) == 3
    C2  x.shape[1] is a multiple of the product of block_shape
    """
    image, block = [int(i) for i in image_shape], [int(i) for i in block_shape]
    rank = len(image)
    dilations, strides = dilations or (1,) * rank, strides or (1,) * rank
    pads = pads or (0,) * (2 * rank)
    padded = [s + pads[i] + pads[i + rank] for i, s in enumerate(image)]
    counts = [
        (p - d * (k - 1) - 1) // s + 1
        for p, d, k, s in zip(padded, dilations, block, strides, strict=True)
    ]
    size = int(np.prod(block))
    if x.shape[1] % size or x.shape[2] != int(np.prod(counts)):
        raise ValueError(f"x of shape {x.shape} does not hold blocks {block} of image {image}")
    source = widen(x)
    blocks = source.reshape(x.shape[0], x.shape[1] // size, *block, *counts)
    result = np.zeros((x.shape[0], x.shape[1] // size, *padded), source.dtype)
    for at in np.ndindex(*block):
        where = tuple(
            slice(a * d, a * d + s * (n - 1) + 1, s)
            for a, d, s, n in zip(at, dilations, strides, counts, strict=True)
        )
        result[(slice(None), slice(None), *where)] += blocks[(slice(None), slice(None), *at)]
    crop = tuple(slice(pads[i], pads[i] + s) for i, s in enumerate(image))
    return result[(slice(None), slice(None), *crop)].astype(x.dtype)
