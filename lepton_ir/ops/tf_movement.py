"""Operators of TensorFlow Lite that move elements and that ONNX has not as one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.infer import content_of
from lepton_ir.opdef import Int, op
from lepton_ir.ops._nn import Array, common_dtype, known_axis, merged, operand, require_rank
from lepton_ir.ops._support import known, normalized
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.infer import Content, InferContext
    from lepton_ir.ir import Op, Value


# -- along a new axis ------------------------------------------------------------------------------


def _infer_pack(ctx: InferContext) -> Type:
    values = ctx.values("xs")
    dtype = next((v.dtype for v in values if v.dtype is not None), None)
    shape = values[0].shape if values else None
    for value in values[1:]:
        if value.dtype is not None and value.dtype is not dtype:
            ctx.fail("C1", f"operands are {dtype} and {value.dtype}")
        if shape is not None and value.rank is not None and value.rank != len(shape):
            ctx.fail("C1", f"operands have ranks {len(shape)} and {value.rank}")
        shape = merged(shape, value.shape)
    if shape is None:
        return TensorType(dtype, None)
    axis = known_axis(ctx, "C2", ctx.attrs["axis"], len(shape) + 1)
    assert axis is not None
    return TensorType(dtype, (*shape[:axis], len(values), *shape[axis:]))


def _decompose_pack(b: Builder, op: Op) -> list[Value]:
    values = [v for v in op.variadic("xs") if v is not None]
    rank = require_rank(values[0], "the operands")
    axis = normalized(op.attr("axis"), rank + 1)
    return [b.concat(*(b.unsqueeze(v, [axis]) for v in values), axis=axis)]


def _pack_content(ctx: InferContext) -> Content | None:
    """Return the elements of scalars behind each other."""
    parts: list[Dim | None] = []
    for value in ctx.values("xs"):
        if value.rank != 0:
            return None
        parts.extend(content_of(value) or (None,))
    return tuple(parts)


@op(
    "pack(xs*)",
    infer=_infer_pack,
    content=_pack_content,
    traits="composite",
    decompose=_decompose_pack,
)
def pack(*xs: Array, axis: Int = 0) -> Array:
    """Put operands of one shape behind each other along a new axis (TFLite PACK).

    C1  the operands have one element type and one shape
    C2  -rank(result) <= axis < rank(result)
    """
    if not xs or any(x.shape != xs[0].shape or x.dtype != xs[0].dtype for x in xs):
        raise ValueError("the operands differ in shape or element type")
    return np.stack(xs, normalized(axis, xs[0].ndim + 1))


def _infer_unpack(ctx: InferContext) -> list[Type]:
    dtype, shape = ctx.dtype("x"), ctx.shape("x")
    count = ctx.num_results
    if shape is None:
        return [TensorType(dtype, None)] * count
    axis = known_axis(ctx, "C1", ctx.attrs["axis"], len(shape))
    assert axis is not None
    if isinstance(shape[axis], int) and shape[axis] != count:
        ctx.fail("C2", f"{count} results for a dim of {shape[axis]}")
    return [TensorType(dtype, (*shape[:axis], *shape[axis + 1 :]))] * count


def _decompose_unpack(b: Builder, op: Op) -> list[Value]:
    x, count, axis = operand(op, "x"), len(op.results), op.attr("axis")
    if count == 1:
        return [b.squeeze(x, [axis])]
    parts = b.build("split", x, axis=axis, num_outputs=count, results=count).results
    return [b.squeeze(p, [axis]) for p in parts]


@op("unpack(x) -> ys*", infer=_infer_unpack, traits="composite", decompose=_decompose_unpack)
def unpack(x: Array, *, axis: Int = 0) -> tuple[Array, ...]:
    """Take x apart along an axis, which goes (TFLite UNPACK).

    C1  -rank(x) <= axis < rank(x)
    C2  there are as many results as the dim has elements
    """
    at = normalized(axis, x.ndim)
    return tuple(np.array(np.take(x, i, at)) for i in range(x.shape[at]))


# -- blocks and batches ----------------------------------------------------------------------------


def _blocks(ctx: InferContext, pads: str) -> tuple[Any, Any, int | None]:
    """Return the block sizes and pads where they are known, and how many there are."""
    blocks, amounts = ctx.ints("block_shape"), ctx.ints(pads)
    shape = ctx.shape("block_shape")
    count: Any = len(blocks) if blocks is not None else (shape[0] if shape else None)
    rank = ctx.rank("x")
    if isinstance(count, int) and rank is not None and rank < count + 1:
        ctx.fail("C1", f"{count} blocks for rank {rank}")
    if blocks is not None and min(blocks, default=1) < 1:
        ctx.fail("C2", f"the blocks are {blocks}")
    if amounts is not None and (min(amounts, default=0) < 0):
        ctx.fail("C2", f"{pads} are {amounts}")
    pairs = None if amounts is None else list(zip(amounts[::2], amounts[1::2], strict=False))
    return blocks, pairs, count if isinstance(count, int) else None


def _infer_to_batch(ctx: InferContext) -> Type:
    blocks, pairs, count = _blocks(ctx, "paddings")
    x, dtype = ctx.shape("x"), ctx.dtype("x")
    if x is None or count is None:
        return TensorType(dtype, None if x is None else (None,) * len(x))
    spatial: list[Dim | None] = [None] * count
    batch = None
    if blocks is not None:
        batch = None if x[0] is None else dims.mul(x[0], math.prod(blocks))
        if pairs is not None:
            for i, (size, block, pair) in enumerate(zip(x[1:], blocks, pairs, strict=False)):
                total = None if size is None else dims.add(size, sum(pair))
                if isinstance(total, int) and total % block:
                    ctx.fail("C3", f"blocks of {block} do not divide {total}")
                spatial[i] = None if total is None else dims.floordiv(total, block)
    return TensorType(dtype, (batch, *spatial, *x[1 + count :]))


def _infer_from_batch(ctx: InferContext) -> Type:
    blocks, pairs, count = _blocks(ctx, "crops")
    x, dtype = ctx.shape("x"), ctx.dtype("x")
    if x is None or count is None:
        return TensorType(dtype, None if x is None else (None,) * len(x))
    spatial: list[Dim | None] = [None] * count
    batch = None
    if blocks is not None:
        total = math.prod(blocks)
        if isinstance(x[0], int) and x[0] % total:
            ctx.fail("C3", f"{total} blocks do not divide a batch of {x[0]}")
        batch = None if x[0] is None else dims.floordiv(x[0], total)
        if pairs is not None:
            for i, (size, block, pair) in enumerate(zip(x[1:], blocks, pairs, strict=False)):
                out = None if size is None else dims.sub(dims.mul(size, block), sum(pair))
                spatial[i] = None if out is None or dims.prove_ge(out, 0) is False else out
    return TensorType(dtype, (batch, *spatial, *x[1 + count :]))


def _constants(op: Op, pads: str) -> tuple[list[int], list[tuple[int, int]], int]:
    """Return blocks, pads and the rank of x for a decomposition.

    Raises:
        ValueError: one of them is not known.
    """
    from lepton_ir.infer import InferContext as Context

    ctx = Context(op)
    blocks, amounts = ctx.ints("block_shape"), ctx.ints(pads)
    rank = require_rank(operand(op, "x"), "x")
    if blocks is None or amounts is None:
        raise ValueError(f"block_shape or {pads} is not constant")
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    return list(blocks), pairs, rank


def _split_shape(b: Builder, x: Value, factors: dict[int, tuple[int, ...]]) -> Value:
    """Reshape x so that the axes in ``factors`` become several (-1: what is left)."""
    if known(x.shape) is not None:
        shape: list[int] = []
        for axis, size in enumerate(known(x.shape) or ()):
            if axis not in factors:
                shape.append(size)
                continue
            rest = math.prod(f for f in factors[axis] if f > 0)
            shape += [size // rest if f < 0 else f for f in factors[axis]]
        return b.reshape(x, shape)  # type: ignore[no-any-return]
    sizes = b.shape(x)
    parts = []
    for axis in range(require_rank(x, "x")):
        size = b.slice(sizes, [axis], [axis + 1], [0])
        for f in factors.get(axis, (-1,)):
            divisor = math.prod(v for v in factors.get(axis, (-1,)) if v > 0)
            rest = size if divisor == 1 else b.div(size, b.const(np.int64(divisor)))
            parts.append(rest if f < 0 else b.const(np.asarray([f], np.int64)))
    return b.reshape(x, b.concat(*parts, axis=0), allowzero=True)  # type: ignore[no-any-return]


def _merge_axes(b: Builder, x: Value, groups: Sequence[Sequence[int]]) -> Value:
    """Reshape x so that each group of neighbouring axes becomes one."""
    sizes = known(x.shape)
    if sizes is not None:
        return b.reshape(x, [math.prod(sizes[i] for i in g) for g in groups])  # type: ignore[no-any-return]
    shape = b.shape(x)
    parts = []
    for group in groups:
        part = b.slice(shape, [group[0]], [group[0] + 1], [0])
        for i in group[1:]:
            part = b.mul(part, b.slice(shape, [i], [i + 1], [0]))
        parts.append(part)
    return b.reshape(x, b.concat(*parts, axis=0), allowzero=True)  # type: ignore[no-any-return]


def _decompose_to_batch(b: Builder, op: Op) -> list[Value]:
    blocks, pairs, rank = _constants(op, "paddings")
    x, m = operand(op, "x"), len(blocks)
    if any(any(p) for p in pairs):
        begins = [0, *(p[0] for p in pairs), *[0] * (rank - 1 - m)]
        ends = [0, *(p[1] for p in pairs), *[0] * (rank - 1 - m)]
        x = b.pad(x, [*begins, *ends])
    split = _split_shape(b, x, {i + 1: (-1, s) for i, s in enumerate(blocks)})
    inner = [2 + 2 * i for i in range(m)]
    outer = [1 + 2 * i for i in range(m)]
    rest = list(range(1 + 2 * m, rank + m))
    moved = b.transpose(split, perm=[*inner, 0, *outer, *rest])
    return [_merge_axes(b, moved, [range(m + 1), *([m + 1 + i] for i in range(rank - 1))])]


def _decompose_from_batch(b: Builder, op: Op) -> list[Value]:
    blocks, pairs, rank = _constants(op, "crops")
    x, m = operand(op, "x"), len(blocks)
    split = _split_shape(b, x, {0: (*blocks, -1)})
    order = [m]
    for i in range(m):
        order += [m + 1 + i, i]
    order += list(range(2 * m + 1, rank + m))
    moved = b.transpose(split, perm=order)
    groups = [[0], *([1 + 2 * i, 2 + 2 * i] for i in range(m))]
    merged_ = _merge_axes(b, moved, [*groups, *([2 * m + 1 + i] for i in range(rank - 1 - m))])
    if not any(any(p) for p in pairs):
        return [merged_]
    ends = [-e if e else np.iinfo(np.int64).max for _, e in pairs]
    return [b.slice(merged_, [s for s, _ in pairs], ends, list(range(1, m + 1)))]


def _checked(x: Array, block_shape: Array, pads: Array) -> tuple[list[int], Array]:
    blocks = [int(v) for v in block_shape.reshape(-1)]
    pairs = np.asarray(pads, np.int64).reshape(-1, 2)
    if len(pairs) != len(blocks) or x.ndim < len(blocks) + 1:
        raise ValueError(f"{len(blocks)} blocks, {len(pairs)} pads for rank {x.ndim}")
    if min(blocks, default=1) < 1 or (pairs < 0).any():
        raise ValueError(f"the blocks are {blocks}, the pads {pairs.tolist()}")
    return blocks, pairs


@op(
    "space_to_batch_nd(x, block_shape, paddings)",
    infer=_infer_to_batch,
    traits="composite",
    decompose=_decompose_to_batch,
)
def space_to_batch_nd(x: Array, block_shape: Array, paddings: Array) -> Array:
    """Move blocks of the axes behind the first, padded with 0, into the batch.

    Element (i, j) of each block goes to the batch ``i * width + j`` times as large
    (TFLite SPACE_TO_BATCH_ND).

    C1  rank(x) > len(block_shape)
    C2  block_shape >= 1, and paddings >= 0 has two columns
    C3  the blocks divide the padded dims
    """
    blocks, pairs = _checked(x, block_shape, paddings)
    m = len(blocks)
    x = np.pad(x, [(0, 0), *map(tuple, pairs.tolist()), *[(0, 0)] * (x.ndim - 1 - m)])
    shape = [x.shape[0]]
    for size, block in zip(x.shape[1:], blocks, strict=False):
        if size % block:
            raise ValueError(f"blocks of {block} do not divide {size}")
        shape += [size // block, block]
    split = x.reshape(*shape, *x.shape[1 + m :])
    inner, outer = [2 + 2 * i for i in range(m)], [1 + 2 * i for i in range(m)]
    moved = split.transpose(*inner, 0, *outer, *range(1 + 2 * m, split.ndim))
    return moved.reshape(x.shape[0] * math.prod(blocks), *moved.shape[m + 1 :])


@op(
    "batch_to_space_nd(x, block_shape, crops)",
    infer=_infer_from_batch,
    traits="composite",
    decompose=_decompose_from_batch,
)
def batch_to_space_nd(x: Array, block_shape: Array, crops: Array) -> Array:
    """Move batches back into blocks of the axes behind the first, and crop those.

    The inverse of ``space_to_batch_nd`` (TFLite BATCH_TO_SPACE_ND).

    C1  rank(x) > len(block_shape)
    C2  block_shape >= 1, and crops >= 0 has two columns
    C3  the blocks divide the batch
    """
    blocks, pairs = _checked(x, block_shape, crops)
    m, total = len(blocks), math.prod(blocks)
    if x.shape[0] % total:
        raise ValueError(f"{total} blocks do not divide a batch of {x.shape[0]}")
    split = x.reshape(*blocks, x.shape[0] // total, *x.shape[1:])
    order = [m]
    for i in range(m):
        order += [m + 1 + i, i]
    moved = split.transpose(*order, *range(2 * m + 1, split.ndim))
    sizes = [size * block for size, block in zip(x.shape[1:], blocks, strict=False)]
    y = moved.reshape(x.shape[0] // total, *sizes, *x.shape[1 + m :])
    if any(b + e > s for (b, e), s in zip(pairs.tolist(), sizes, strict=True)):
        raise ValueError(f"crops {pairs.tolist()} of {sizes}")
    cut = [slice(b, s - e) for (b, e), s in zip(pairs.tolist(), sizes, strict=True)]
    return np.ascontiguousarray(y[(slice(None), *cut)])


# -- updates ---------------------------------------------------------------------------------------


_MAX_GRID = 1 << 22
"""Elements of an update that are placed one by one."""


def _infer_update(ctx: InferContext) -> Type:
    x, update = ctx.shape("x"), ctx.shape("update")
    if x is not None and update is not None:
        if len(x) != len(update):
            ctx.fail("C1", f"x has rank {len(x)}, update {len(update)}")
        for size, part in zip(x, update, strict=True):
            if isinstance(size, int) and isinstance(part, int) and part > size:
                ctx.fail("C2", f"an update of {part} for a dim of {size}")
    return TensorType(common_dtype(ctx, "x", "update"), x)


def _decompose_update(b: Builder, op: Op) -> list[Value]:
    x, update, start = (operand(op, n) for n in ("x", "update", "start"))
    sizes, parts = known(x.shape), known(update.shape)
    if sizes is None or parts is None:
        raise ValueError("the shapes are not known")
    if not sizes:
        return [update]
    if math.prod(parts) > _MAX_GRID:
        raise ValueError("the update is too large to place each element")
    room = np.asarray([s - p for s, p in zip(sizes, parts, strict=True)], np.int64)
    at = b.min(b.max(b.cast(start, to=dtypes.I64), b.const(np.int64(0))), b.const(room))
    axes = np.meshgrid(*(np.arange(p, dtype=np.int64) for p in parts), indexing="ij")
    grid = np.stack(axes, axis=-1)
    return [b.scatter_nd(x, b.add(b.const(grid), at), update)]


@op(
    "dynamic_update_slice(x, update, start)",
    infer=_infer_update,
    traits="composite",
    decompose=_decompose_update,
)
def dynamic_update_slice(x: Array, update: Array, start: Array) -> Array:
    """Replace a part of x by ``update`` from ``start`` on (TFLite DYNAMIC_UPDATE_SLICE).

    ``start`` is moved so that the update lies inside.

    C1  x and update have one element type and rank, start one element for each axis
    C2  update is no larger than x
    """
    if update.ndim != x.ndim or start.size != x.ndim or update.dtype != x.dtype:
        raise ValueError(f"x {x.shape}, update {update.shape} and start {start.shape} do not fit")
    y = x.copy()
    where = []
    for size, part, at in zip(x.shape, update.shape, start.reshape(-1).tolist(), strict=True):
        if part > size:
            raise ValueError(f"an update of {part} for a dim of {size}")
        begin = min(max(int(at), 0), size - part)
        where.append(slice(begin, begin + part))
    y[tuple(where)] = update
    return y
