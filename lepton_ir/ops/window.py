"""Parts of tensors and margins around them: slice, pad, crops, triangles, blocks, reversal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Bool, Int, Ints, Str, op
from lepton_ir.ops._axes import axes_of, infer_like, length, like
from lepton_ir.ops._support import normalized
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.dims import Dim
    from lepton_ir.infer import Content, InferContext

Array = np.ndarray[Any, Any]


# -- slice -----------------------------------------------------------------------------------------

UNLIMITED = 2**31 - 1
"""Bounds from here on mean "to the end" (Slice-13: INT_MAX, INT_MIN when slicing backward)."""


def _is_open(end: int) -> bool:
    return end in (UNLIMITED, 2**63 - 1)


def slice_bounds(dim: int, start: int, end: int, step: int) -> slice:
    """Return the Python slice of a Slice-13 along a dim of known size.

    Bounds count from the end when negative and are then clamped: to ``[0, dim]`` for positive
    steps, else the start to ``[0, dim - 1]`` and the end to ``[-1, dim]``. As in ONNX Runtime an
    end of INT_MAX is no bound in either direction.
    """
    start = start + dim if start < 0 else start
    if step > 0:
        end = end + dim if end < 0 else end
        return slice(min(max(start, 0), dim), min(max(end, 0), dim), step)
    if dim == 0:
        return slice(0, 0, step)
    start = min(max(start, 0), dim - 1)
    if _is_open(end):
        return slice(start, None, step)
    end = min(max(end + dim if end < 0 else end, -1), dim)
    return slice(start, None if end == -1 else end, step)


def _forward_end(end: Dim, dim: Dim) -> Dim | None:
    """Return the clamped end of a slice with a positive step, ``None`` when its sign is open."""
    if isinstance(end, int):
        if end >= UNLIMITED:
            return dim
        if end >= 0:
            return dims.minimum(end, dim)
        return 0 if end <= -UNLIMITED else dims.maximum(dims.add(dim, end), 0)
    sign = dims.prove_ge(end, 0)
    if sign is True:
        return dims.minimum(end, dim)
    if sign is False:
        return dims.maximum(dims.add(dim, end), 0)
    # dim-1 and dim-2 are negative only for dims of 0 and 1, where either reading gives 0.
    if dims.sub(dim, end) in (1, 2):
        return dims.maximum(end, 0)
    return None


def _forward_size(dim: Dim, start: Dim, end: Dim, step: int) -> Dim | None:
    stop = _forward_end(end, dim)
    if stop is None:
        return None
    if isinstance(start, int) and start < 0:
        if start <= -UNLIMITED:
            count = stop
        else:
            # stop - max(dim+start, 0)
            after = dims.sub(stop, dims.add(dim, start))
            count = dims.maximum(dims.minimum(after, stop), 0)
    else:
        if not isinstance(start, int):
            sign = dims.prove_ge(start, 0)
            if sign is None and dims.sub(dim, start) in (1, 2):
                start = dims.maximum(start, 0)
            elif sign is not True:
                return None
        # A start beyond the end needs no clamping: the count is not positive then.
        count = dims.maximum(dims.sub(stop, start), 0)
    return dims.ceildiv(count, step)


def slice_size(dim: Dim | None, start: Dim | None, end: Dim | None, step: int) -> Dim | None:
    """Return how many elements of a dim a slice takes, ``None`` when that is not certain."""
    if start is None or end is None:
        return None
    fixed = isinstance(start, int) and isinstance(end, int)
    if fixed and step < 0 and _is_open(end):  # type: ignore[arg-type]
        return None
    if dim is None:
        return 0 if fixed and start == end and step > 0 else None
    if fixed and isinstance(dim, int):
        return len(range(dim)[slice_bounds(dim, start, end, step)])  # type: ignore[arg-type]
    if step > 0:
        return _forward_size(dim, start, end, step)
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    whole = (start == -1 or start >= UNLIMITED) and end <= -UNLIMITED
    return dims.ceildiv(dim, -step) if whole else None


def _slice_axes(ctx: InferContext, rank: int, count: int | None) -> tuple[int, ...] | None:
    if ctx.has("axes"):
        axes = ctx.ints("axes")
        return None if axes is None else axes_of(ctx, axes, rank)
    if count is not None and count > rank:
        ctx.fail("C1", f"{count} bounds for rank {rank}")
    return None if count is None else tuple(range(count))


def _slice_steps(ctx: InferContext, count: int) -> tuple[int | None, ...]:
    if not ctx.has("steps"):
        return (1,) * count
    found = ctx.content("steps")
    if found is None or len(found) != count:
        return (None,) * count
    if any(s.__class__ is int and s == 0 for s in found):
        ctx.fail("C2", "a step is 0")
    return tuple(s if isinstance(s, int) else None for s in found)


def _infer_slice(ctx: InferContext) -> Type:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    if found is None:
        return TensorType(dtype, None)
    counts = [length(ctx, n) for n in ("starts", "ends", "axes") if ctx.has(n)]
    count = next((c for c in counts if c is not None), None)
    axes = _slice_axes(ctx, len(found), count)
    if axes is None:
        return TensorType(dtype, (None,) * len(found))
    if any(c is not None and c != len(axes) for c in counts):
        ctx.fail("C1", f"starts, ends and axes have {counts} elements")
    nothing: Content = (None,) * len(axes)
    starts, ends = ctx.content("starts") or nothing, ctx.content("ends") or nothing
    result = list(found)
    for a, s, e, k in zip(axes, starts, ends, _slice_steps(ctx, len(axes)), strict=True):
        if k == 1 and s.__class__ is int and s == 0 and isinstance(e, int) and e >= UNLIMITED:
            continue
        result[a] = None if k is None else slice_size(result[a], s, e, k)
    return TensorType(dtype, result)


def _slice_content(ctx: InferContext) -> Content | None:
    found = ctx.content("x")
    starts, ends = ctx.ints("starts"), ctx.ints("ends")
    steps = ctx.ints("steps") if ctx.has("steps") else (1,)
    if found is None or ctx.rank("x") != 1 or steps is None or not starts or not ends:
        return None
    if ctx.has("axes") and ctx.ints("axes") not in ((0,), (-1,)):
        return None
    if len(starts) != 1 or (steps[0] < 0 and _is_open(ends[0])):
        return None
    return found[slice_bounds(len(found), starts[0], ends[0], steps[0])]


@op("slice(x, starts, ends, axes?, steps?)", infer=_infer_slice, content=_slice_content)
def slice_(
    x: Array,
    starts: Array,
    ends: Array,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    """A strided window (ONNX Slice-13); bounds are clamped, see ``slice_bounds``.

    C1  starts, ends, axes and steps have one length; -rank(x) <= axis < rank(x)
    C2  steps are not 0
    """
    count = len(starts)
    places = range(count) if axes is None else [normalized(int(a), x.ndim) for a in axes]
    strides = [1] * count if steps is None else [int(s) for s in steps]
    if len(ends) != count or len(places) != count or len(strides) != count or 0 in strides:
        raise ValueError("slice: bounds, axes and steps do not fit, or a step is 0")
    if axes is None and count > x.ndim:
        raise ValueError(f"slice: {count} bounds for rank {x.ndim}")
    window = [slice(None)] * x.ndim
    for a, s, e, k in zip(places, starts, ends, strides, strict=True):
        window[a] = slice_bounds(x.shape[a], int(s), int(e), k)
    return x[tuple(window)]


# -- pad -------------------------------------------------------------------------------------------


def _infer_pad(ctx: InferContext) -> Type:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    if ctx.attrs["mode"] not in ("constant", "reflect", "edge", "wrap"):
        ctx.fail("C2", f"mode is {ctx.attrs['mode']!r}")
    if found is None:
        return TensorType(dtype, None)
    rank = len(found)
    axes: tuple[int, ...] | None = tuple(range(rank))
    if ctx.has("axes"):
        ints = ctx.ints("axes")
        axes = None if ints is None else axes_of(ctx, ints, rank)
    if axes is None:
        return TensorType(dtype, (None,) * rank)
    pads = ctx.content("pads")
    if pads is not None and len(pads) != 2 * len(axes):
        ctx.fail("C1", f"pads has {len(pads)} elements for {len(axes)} axes")
    result = list(found)
    for i, a in enumerate(axes):
        result[a] = None if pads is None else _padded(result[a], pads[i], pads[len(axes) + i])
        d = result[a]
        if isinstance(d, int) and d < 0:
            ctx.fail("C3", f"pads cut axis {a} to a size of {d}")
    return TensorType(dtype, result)


def _padded(d: Dim | None, before: Dim | None, after: Dim | None) -> Dim | None:
    if d is None or before is None or after is None:
        return None
    return dims.add(dims.add(d, before), after)


@op("pad(x, pads, constant_value?, axes?)", infer=_infer_pad)
def pad(
    x: Array,
    pads: Array,
    constant_value: Array | None = None,
    axes: Array | None = None,
    *,
    mode: Str = "constant",
) -> Array:
    """Add elements around a tensor, or cut them off where pads are negative (ONNX Pad-25).

    Negative pads cut first; the modes ``reflect``, ``edge`` and ``wrap`` see what is left.

    C1  pads has two elements for each axis, first all begins and then all ends
    C2  mode is constant, reflect, edge or wrap
    C3  no size becomes negative
    """
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ValueError(f"pad: mode is {mode!r}")
    places = range(x.ndim) if axes is None else [normalized(int(a), x.ndim) for a in axes]
    if len(pads) != 2 * len(places):
        raise ValueError(f"pad: {len(pads)} pads for {len(places)} axes")
    amounts = [(0, 0)] * x.ndim
    for i, a in enumerate(places):
        amounts[a] = (int(pads[i]), int(pads[len(places) + i]))
    if any(d + b + e < 0 for d, (b, e) in zip(x.shape, amounts, strict=True)):
        raise ValueError(f"pad: pads {amounts} cut more than shape {x.shape}")
    empty = any(d + b + e == 0 for d, (b, e) in zip(x.shape, amounts, strict=True))
    if mode == "constant" or empty:
        return _pad_constant(x, amounts, constant_value)
    cut = tuple(
        slice(min(max(-b, 0), d), max(d + min(e, 0), 0))
        for d, (b, e) in zip(x.shape, amounts, strict=True)
    )
    grown = [(max(b, 0), max(e, 0)) for b, e in amounts]
    return np.pad(x[cut], grown, mode=mode)  # type: ignore[call-overload,no-any-return]


def _pad_constant(x: Array, amounts: list[tuple[int, int]], value: Array | None) -> Array:
    fill: Any = "" if x.dtype == object else 0
    if value is not None and np.size(value):
        fill = np.ravel(value)[0]
    shape = [d + b + e for d, (b, e) in zip(x.shape, amounts, strict=True)]
    result = np.full(shape, fill, dtype=x.dtype)
    source, target = [], []
    for d, new, (b, _) in zip(x.shape, shape, amounts, strict=True):
        low, high = max(-b, 0), min(d, new - b)
        high = max(low, high)
        source.append(slice(low, high))
        target.append(slice(low + b, high + b))
    result[tuple(target)] = x[tuple(source)]
    return result


# -- center_crop_pad, trilu ------------------------------------------------------------------------


def _infer_center_crop_pad(ctx: InferContext) -> Type:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    if found is None:
        return TensorType(dtype, None)
    given = ctx.attrs["axes"]
    axes = tuple(range(len(found))) if given is None else axes_of(ctx, given, len(found))
    sizes = ctx.content("shape")
    if sizes is not None and len(sizes) != len(axes):
        ctx.fail("C2", f"shape has {len(sizes)} elements for {len(axes)} axes")
    result = list(found)
    for i, a in enumerate(axes):
        result[a] = None if sizes is None else sizes[i]
        d = result[a]
        if isinstance(d, int) and d < 0:
            ctx.fail("C2", f"shape asks for a size of {d}")
    return TensorType(dtype, result)


@op("center_crop_pad(x, shape)", infer=_infer_center_crop_pad)
def center_crop_pad(x: Array, shape: Array, *, axes: Ints | None = None) -> Array:
    """Crop to, or pad with zeros to, the given sizes around the centre (ONNX CenterCropPad-18).

    The odd element is cut, or added, at the end.

    C1  -rank(x) <= axis < rank(x)
    C2  one size >= 0 for each axis
    """
    places = range(x.ndim) if axes is None else [normalized(a, x.ndim) for a in axes]
    if len(shape) != len(places) or any(int(s) < 0 for s in shape):
        raise ValueError(f"center_crop_pad: shape {shape} for {len(places)} axes")
    amounts = [(0, 0)] * x.ndim
    for a, wanted in zip(places, shape, strict=True):
        more = int(wanted) - x.shape[a]
        begin = more // 2 if more >= 0 else -(-more // 2)
        amounts[a] = (begin, more - begin)
    return _pad_constant(x, amounts, None)


def _infer_trilu(ctx: InferContext) -> Type:
    rank = ctx.rank("x")
    if rank is not None and rank < 2:
        ctx.fail("C1", f"x has rank {rank}")
    return like(ctx)


@op("trilu(x, k?)", infer=_infer_trilu)
def trilu(x: Array, k: Array | None = None, *, upper: Bool = True) -> Array:
    """Keep the upper or lower triangle of the last two axes, zeros elsewhere (ONNX Trilu-14).

    C1  rank(x) >= 2
    """
    if x.ndim < 2:
        raise ValueError(f"trilu: x has rank {x.ndim}")
    shift = 0 if k is None or not np.size(k) else int(np.ravel(k)[0])
    # Beyond the matrix all shifts are alike; NumPy's own range is that of a C long.
    shift = min(max(shift, -x.shape[-2] - 1), x.shape[-1] + 1)
    keep = np.tri(x.shape[-2], x.shape[-1], shift - 1 if upper else shift, dtype=bool) != upper
    return np.where(keep, x, np.zeros((), dtype=x.dtype))


# -- blocks and sequences --------------------------------------------------------------------------


def _block(ctx: InferContext) -> int:
    block: int = ctx.attrs["blocksize"]
    if block < 1:
        ctx.fail("C2", f"blocksize is {block}")
    if ctx.attrs["mode"] not in ("DCR", "CRD"):
        ctx.fail("C2", f"mode is {ctx.attrs['mode']!r}")
    return block


def _divided(ctx: InferContext, d: Dim | None, by: int, what: str) -> Dim | None:
    if isinstance(d, int) and d % by:
        ctx.fail("C3", f"{what} {d} does not divide by {by}")
    return None if d is None else dims.floordiv(d, by)


def _infer_depth_to_space(ctx: InferContext) -> Type:
    found, block = ctx.shape("x"), _block(ctx)
    if found is None:
        return TensorType(ctx.dtype("x"), (None,) * 4)
    if len(found) != 4:
        ctx.fail("C1", f"x has rank {len(found)}")
    n, c, h, w = found
    depth = _divided(ctx, c, block * block, "channels")
    grown = [None if d is None else dims.mul(d, block) for d in (h, w)]
    return TensorType(ctx.dtype("x"), (n, depth, *grown))


@op("depth_to_space(x)", infer=_infer_depth_to_space, traits="view")
def depth_to_space(x: Array, *, blocksize: Int, mode: Str = "DCR") -> Array:
    """Move blocks of channels into the plane (ONNX DepthToSpace-28).

    C1  rank(x) = 4
    C2  blocksize >= 1; mode is DCR or CRD
    C3  blocksize * blocksize divides the channels
    """
    if x.ndim != 4 or blocksize < 1 or x.shape[1] % blocksize**2 or mode not in ("DCR", "CRD"):
        raise ValueError(f"depth_to_space: shape {x.shape}, blocksize {blocksize}, mode {mode!r}")
    n, c, h, w = x.shape
    depth = c // blocksize**2
    if mode == "DCR":
        y = x.reshape(n, blocksize, blocksize, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, depth, blocksize, blocksize, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, depth, h * blocksize, w * blocksize)


def _infer_space_to_depth(ctx: InferContext) -> Type:
    found, block = ctx.shape("x"), _block(ctx)
    if found is None:
        return TensorType(ctx.dtype("x"), (None,) * 4)
    if len(found) != 4:
        ctx.fail("C1", f"x has rank {len(found)}")
    n, c, h, w = found
    depth = None if c is None else dims.mul(c, block * block)
    rows, columns = _divided(ctx, h, block, "height"), _divided(ctx, w, block, "width")
    return TensorType(ctx.dtype("x"), (n, depth, rows, columns))


@op("space_to_depth(x)", infer=_infer_space_to_depth, traits="view")
def space_to_depth(x: Array, *, blocksize: Int, mode: Str = "DCR") -> Array:
    """Move blocks of the plane into channels, the inverse of depth_to_space (ONNX SpaceToDepth-28).

    C1  rank(x) = 4
    C2  blocksize >= 1; mode is DCR or CRD
    C3  blocksize divides height and width
    """
    if x.ndim != 4 or blocksize < 1 or mode not in ("DCR", "CRD"):
        raise ValueError(f"space_to_depth: shape {x.shape}, blocksize {blocksize}, mode {mode!r}")
    n, c, h, w = x.shape
    if h % blocksize or w % blocksize:
        raise ValueError(f"space_to_depth: blocksize {blocksize} does not divide {h} x {w}")
    blocks = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    y = blocks.transpose((0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
    return y.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def _infer_reverse_sequence(ctx: InferContext) -> Type:
    axes = (ctx.attrs["batch_axis"], ctx.attrs["time_axis"])
    if sorted(axes) != [0, 1]:
        ctx.fail("C1", f"batch_axis and time_axis are {axes}")
    rank = ctx.rank("x")
    if rank is not None and rank < 2:
        ctx.fail("C1", f"x has rank {rank}")
    return infer_like(ctx)


@op("reverse_sequence(x, sequence_lens)", infer=_infer_reverse_sequence)
def reverse_sequence(
    x: Array, sequence_lens: Array, *, batch_axis: Int = 1, time_axis: Int = 0
) -> Array:
    """Reverse the first ``sequence_lens[i]`` steps of each batch item (ONNX ReverseSequence-28).

    C1  rank(x) >= 2; batch_axis and time_axis are 0 and 1 in either order
    C2  0 <= sequence_lens <= the time dim, one for each batch item
    """
    if x.ndim < 2 or sorted((batch_axis, time_axis)) != [0, 1]:
        raise ValueError(f"reverse_sequence: rank {x.ndim}, axes {batch_axis} and {time_axis}")
    steps, batch = x.shape[time_axis], x.shape[batch_axis]
    lens = np.asarray(sequence_lens, dtype=np.int64)
    if lens.shape != (batch,) or (lens < 0).any() or (lens > steps).any():
        raise ValueError(f"reverse_sequence: sequence_lens {lens} for {batch} x {steps} steps")
    step = np.arange(steps)[:, None]
    source = np.where(step < lens, lens - 1 - step, step)
    by_time = x if time_axis == 0 else x.swapaxes(0, 1)
    y = by_time[source, np.arange(batch)]
    return y if time_axis == 0 else y.swapaxes(0, 1)
