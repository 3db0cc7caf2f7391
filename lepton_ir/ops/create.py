"""Tensors made from sizes: expand, tile, constant_of_shape, range, eye_like, one_hot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.infer import MAX_CONTENT, const_array
from lepton_ir.opdef import DTypeAttr, Int, TensorAttr, op
from lepton_ir.ops._axes import length
from lepton_ir.ops._support import scalar
from lepton_ir.tensors import Tensor
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.infer import Content, InferContext

Array = np.ndarray[Any, Any]


# -- expand, tile ----------------------------------------------------------------------------------


def _expanded(ctx: InferContext, d: Dim | None, wanted: Dim | None) -> Dim | None:
    """Return the dim of ``d`` broadcast with an element of ``shape``."""
    if wanted.__class__ is int and wanted < 0:
        ctx.fail("C2", f"shape asks for a size of {wanted}")
    if d is wanted or (wanted.__class__ is int and wanted == 1):
        return d
    if d.__class__ is int and d == 1:
        return wanted
    if d is None or wanted is None:
        known = wanted if d is None else d
        return known if isinstance(known, int) else None
    if isinstance(d, int) and isinstance(wanted, int) and d != wanted:
        ctx.fail("C1", f"a dim of {d} does not broadcast to {wanted}")
    return dims.broadcast(d, wanted)


def _infer_expand(ctx: InferContext) -> Type:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    wanted = ctx.content("shape")
    if wanted is None:
        count = length(ctx, "shape")
        if count is None:
            return TensorType(dtype, None)
        wanted = (None,) * count
    if found is None:
        return TensorType(dtype, None)
    rank = max(len(found), len(wanted))
    left: Content = (1,) * (rank - len(found)) + found
    right: Content = (1,) * (rank - len(wanted)) + wanted
    return TensorType(dtype, [_expanded(ctx, a, b) for a, b in zip(left, right, strict=True)])


def _repeated_content(ctx: InferContext) -> Content | None:
    """Return the content of a rank-1 result that repeats ``x`` a whole number of times."""
    found, shape = ctx.content("x"), ctx.op.results[0].shape
    if not found or shape is None or len(shape) > 1:
        return None
    count = shape[0] if shape else 1
    if not isinstance(count, int) or count > MAX_CONTENT or count % len(found):
        return None
    return found * (count // len(found))


@op("expand(x, shape)", infer=_infer_expand, content=_repeated_content)
def expand(x: Array, shape: Array) -> Array:
    """Broadcast ``x`` with a shape, in both directions (ONNX Expand-13).

    C1  both shapes broadcast
    C2  elements of shape are >= 0
    """
    target = np.broadcast_shapes(x.shape, tuple(int(d) for d in shape))
    return np.broadcast_to(x, target).copy()


def _infer_tile(ctx: InferContext) -> Type:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    if found is None:
        count = length(ctx, "repeats")
        return TensorType(dtype, None if count is None else (None,) * count)
    repeats = ctx.content("repeats") or (None,) * len(found)
    if len(repeats) != len(found):
        ctx.fail("C1", f"repeats has {len(repeats)} elements for rank {len(found)}")
    if any(r.__class__ is int and r < 0 for r in repeats):
        ctx.fail("C1", "a repeat is negative")
    return TensorType(dtype, [_times(d, r) for d, r in zip(found, repeats, strict=True)])


def _times(d: Dim | None, r: Dim | None) -> Dim | None:
    if (d.__class__ is int and d == 0) or (r.__class__ is int and r == 0):
        return 0
    return None if d is None or r is None else dims.mul(d, r)


@op("tile(x, repeats)", infer=_infer_tile, content=_repeated_content)
def tile(x: Array, repeats: Array) -> Array:
    """Repeat a tensor along every axis (ONNX Tile-13).

    C1  one repeat >= 0 for each axis of x
    """
    counts = [int(r) for r in repeats]
    if len(counts) != x.ndim or any(r < 0 for r in counts):
        raise ValueError(f"tile: repeats {counts} for rank {x.ndim}")
    return np.tile(x, counts)


# -- constant_of_shape, range, eye_like ------------------------------------------------------------


def _infer_constant_of_shape(ctx: InferContext) -> Type:
    value = ctx.attrs["value"]
    dtype = value.dtype if isinstance(value, Tensor) else dtypes.F32 if value is None else None
    found = ctx.content("x")
    if found is None:
        count = length(ctx, "x")
        return TensorType(dtype, None if count is None else (None,) * count)
    if any(d.__class__ is int and d < 0 for d in found):
        ctx.fail("C1", f"shape {found} has a negative size")
    return TensorType(dtype, found)


def _filled_content(ctx: InferContext) -> Content | None:
    value, shape = ctx.attrs["value"], ctx.op.results[0].shape
    if not isinstance(value, Tensor) or value.size != 1 or shape is None or len(shape) > 1:
        return None
    count = shape[0] if shape else 1
    if not isinstance(count, int) or count > MAX_CONTENT:
        return None
    return (int(value.numpy().reshape(-1)[0]),) * count


@op("constant_of_shape(x)", infer=_infer_constant_of_shape, content=_filled_content)
def constant_of_shape(x: Array, *, value: TensorAttr | None = None) -> Array:
    """A tensor of shape ``x`` filled with one value, by default f32 zero (ONNX ConstantOfShape-25).

    C1  no element of x is negative
    """
    fill = np.zeros(1, dtype=np.float32) if value is None else value.numpy().reshape(-1)
    shape = [int(d) for d in x]
    if fill.size != 1 or any(d < 0 for d in shape):
        raise ValueError(f"constant_of_shape: shape {shape}, {fill.size} values")
    return np.full(shape, fill[0], dtype=fill.dtype)


def _range_count(start: float, limit: float, delta: float) -> int:
    return max(math.ceil((limit - start) / delta), 0)


def _integer_bounds(ctx: InferContext) -> tuple[Dim, Dim, int] | None:
    """Return start, limit and an integer delta when they are known integers or dims."""
    found = []
    for name in ("start", "limit", "delta"):
        content = ctx.content(name)
        if content is None or len(content) != 1 or content[0] is None:
            return None
        found.append(content[0])
    start, limit, delta = found
    return (start, limit, delta) if isinstance(delta, int) and delta else None


def _constant_count(ctx: InferContext) -> int | None:
    """Return the length of a range of constants; not where rounding decides it."""
    arrays = [const_array(ctx.value(n)) for n in ("start", "limit", "delta")]
    if any(a is None or a.size != 1 for a in arrays):
        return None
    start, limit, delta = (float(a.reshape(-1)[0]) for a in arrays if a is not None)
    if not delta or not all(map(math.isfinite, (start, limit, delta))):
        return None
    quotient = (limit - start) / delta
    nearest = round(quotient)
    if abs(quotient - nearest) < 1e-3 * max(1.0, abs(quotient)) and quotient != nearest:
        return None
    return max(math.ceil(quotient), 0)


def _infer_range(ctx: InferContext) -> Type:
    names = ("start", "limit", "delta")
    dtype = next((d for d in map(ctx.dtype, names) if d is not None), None)
    delta = const_array(ctx.value("delta"))
    if delta is not None and delta.size == 1 and not delta.reshape(-1)[0]:
        ctx.fail("C1", "delta is 0")
    bounds = _integer_bounds(ctx)
    if bounds is None:
        return TensorType(dtype, (_constant_count(ctx),))
    start, limit, step = bounds
    distance = dims.sub(limit, start) if step > 0 else dims.sub(start, limit)
    return TensorType(dtype, (dims.ceildiv(dims.maximum(distance, 0), abs(step)),))


def _range_content(ctx: InferContext) -> Content | None:
    bounds, shape = _integer_bounds(ctx), ctx.op.results[0].shape
    if bounds is None or shape is None or not isinstance(shape[0], int):
        return None
    if shape[0] > MAX_CONTENT:
        return None
    start, _, step = bounds
    return tuple(dims.add(start, i * step) for i in range(shape[0]))


@op("range(start, limit, delta)", infer=_infer_range, content=_range_content)
def range_(
    start: Array, limit: Array, delta: Array, *, stash_type: DTypeAttr = dtypes.F32
) -> Array:
    """``start + i * delta`` up to ``limit``, which is left out (ONNX Range-27).

    f16 and bf16 are computed in ``stash_type``.

    C1  delta is not 0
    """
    kind = start.dtype
    first, last, step = (np.asarray(v).reshape(-1)[0] for v in (start, limit, delta))
    if not step:
        raise ValueError("range: delta is 0")
    if np.issubdtype(kind, np.integer):
        values = np.arange(int(first), int(last), int(step), dtype=np.int64)
        return values.astype(kind)
    wide = kind if kind in (np.float32, np.float64) else stash_type.numpy
    count = _range_count(float(first), float(last), float(step))
    steps = np.arange(count).astype(wide) * np.asarray(step).astype(wide)
    values = np.asarray(first).astype(wide) + steps
    return np.asarray(values.astype(kind))


def _infer_eye_like(ctx: InferContext) -> Type:
    found = ctx.shape("x")
    if found is not None and len(found) != 2:
        ctx.fail("C1", f"x has rank {len(found)}")
    dtype: DType | None = ctx.attrs["dtype"] or ctx.dtype("x")
    return TensorType(dtype, (None, None) if found is None else found)


@op("eye_like(x)", infer=_infer_eye_like)
def eye_like(x: Array, *, dtype: DTypeAttr | None = None, k: Int = 0) -> Array:
    """A matrix of the shape of ``x`` with ones on diagonal ``k`` (ONNX EyeLike-22).

    C1  rank(x) = 2
    """
    if x.ndim != 2:
        raise ValueError(f"eye_like: x has rank {x.ndim}")
    rows, columns = x.shape
    kind = x.dtype if dtype is None else dtype.numpy
    return np.eye(rows, columns, min(max(k, -rows), columns), dtype=bool).astype(kind)


# -- one_hot ---------------------------------------------------------------------------------------


def _depth(ctx: InferContext) -> Dim | None:
    content = ctx.content("depth")
    if content is not None:
        return content[0] if len(content) == 1 else None
    found = ctx.const("depth")
    if found is None or found.size != 1:
        return None
    return int(found.reshape(-1)[0])


def _infer_one_hot(ctx: InferContext) -> Type:
    found, dtype = ctx.shape("indices"), ctx.dtype("values")
    if found is None:
        return TensorType(dtype, None)
    rank, axis, depth = len(found) + 1, ctx.attrs["axis"], _depth(ctx)
    if not -rank <= axis < rank:
        ctx.fail("C1", f"axis {axis} is out of range for rank {rank}")
    if depth.__class__ is int and depth < 1:
        ctx.fail("C2", f"depth is {depth}")
    return TensorType(dtype, (*found[: axis % rank], depth, *found[axis % rank :]))


@op("one_hot(indices, depth, values)", infer=_infer_one_hot)
def one_hot(indices: Array, depth: Array, values: Array, *, axis: Int = -1) -> Array:
    """``values[1]`` where a new axis meets the index, else ``values[0]`` (ONNX OneHot-28).

    Negative indices count from ``depth``; others out of range give ``values[0]`` throughout.

    C1  -rank(result) <= axis < rank(result)
    C2  depth >= 1, one element
    C3  values has two elements
    """
    count = scalar(depth, "depth")
    rank = indices.ndim + 1
    if count < 1 or np.size(values) != 2 or not -rank <= axis < rank:
        raise ValueError(f"one_hot: depth {count}, {np.size(values)} values, axis {axis}")
    index = indices.astype(np.int64)
    index = np.expand_dims(np.where(index < 0, index + count, index), axis % rank)
    classes = np.arange(count).reshape([count if i == axis % rank else 1 for i in range(rank)])
    return np.asarray(np.where(index == classes, values[1], values[0]).astype(values.dtype))
