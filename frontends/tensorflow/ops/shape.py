"""Rows of shapes, joining, cutting and repeating."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.tensorflow.ops._common import (
    INT_MAX,
    dtype_of,
    joined,
    number,
    numbers,
    permuted,
    scalar,
    wide,
)
from lepton_ir.frontends.tensorflow.table import tf_op
from lepton_ir.infer import const_array, content_of
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node


# -- what changes nothing --------------------------------------------------------------------------


@tf_op("CheckNumerics", "CheckNumericsV2", "EnsureShape", "Copy", "DebugIdentity")
def identity(b: TfBuilder, node: Node, x: Value, *_: Value) -> Any:
    return x


@tf_op("ShardingBarrier")
def identity_n(b: TfBuilder, node: Node, *xs: Value) -> Any:
    return list(xs)


# -- shapes ----------------------------------------------------------------------------------------


def _as(b: TfBuilder, node: Node, value: Value, name: str = "out_type") -> Value:
    return b.cast_to(value, node.attr(name, dtypes.I32) or dtypes.I32)


@tf_op("Shape")
def shape(b: TfBuilder, node: Node, x: Value) -> Any:
    return _as(b, node, b.shape(x))


@tf_op("ShapeN")
def shape_n(b: TfBuilder, node: Node, *xs: Value) -> Any:
    return [_as(b, node, b.shape(x)) for x in xs]


@tf_op("Size")
def size(b: TfBuilder, node: Node, x: Value) -> Any:
    return _as(b, node, b.size(x))


@tf_op("Rank")
def rank(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.full((), b.rank(x), dtypes.I32)


@tf_op("Reshape")
def reshape(b: TfBuilder, node: Node, x: Value, sizes: Value) -> Any:
    content = content_of(sizes)
    return b.reshape(x, wide(b, sizes), allowzero=content is None or -1 not in content)


@tf_op("ExpandDims")
def expand_dims(b: TfBuilder, node: Node, x: Value, axis: Value) -> Any:
    return b.unsqueeze(x, b.ints([b.axis(x, number(axis, "the axis"), extra=1)]))


@tf_op("Squeeze")
def squeeze(b: TfBuilder, node: Node, x: Value) -> Any:
    axes = [b.axis(x, int(a)) for a in node.attr("squeeze_dims") or []]
    if not axes:
        if any(d is None for d in x.shape or (None,)):
            raise UnsupportedError("a squeeze of unknown sizes", code="tf-op")
        axes = [i for i, d in enumerate(x.shape or ()) if d == 1]
    return b.squeeze(x, b.ints(axes)) if axes else x


@tf_op("Transpose", "ConjugateTranspose")
def transpose(b: TfBuilder, node: Node, x: Value, perm: Value) -> Any:
    return permuted(b, x, [b.axis(x, p) for p in numbers(perm, "the permutation")])


@tf_op("InvertPermutation")
def invert_permutation(b: TfBuilder, node: Node, x: Value) -> Any:
    places = b.shape_of(x)
    every = b.range(b.full((), 0, dtypes.I64), scalar(b, places), b.full((), 1, dtypes.I64))
    zeros = b.mul(every, b.full((), 0, dtypes.I64))
    found = b.scatter_elements(zeros, wide(b, x), every, axis=0)
    return b.cast_to(found, dtype_of(x))


# -- joining and cutting ---------------------------------------------------------------------------


def _concat(b: TfBuilder, parts: list[Value], axis: int) -> Any:
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=b.axis(parts[0], axis))


@tf_op("ConcatV2")
def concat_v2(b: TfBuilder, node: Node, *xs: Value) -> Any:
    return _concat(b, list(xs[:-1]), number(xs[-1], "the axis"))


@tf_op("Concat")
def concat(b: TfBuilder, node: Node, axis: Value, *xs: Value) -> Any:
    return _concat(b, list(xs), number(axis, "the axis"))


@tf_op("ConcatOffset")
def concat_offset(b: TfBuilder, node: Node, axis: Value, *shapes: Value) -> Any:
    at = number(axis, "the axis")
    found: list[Value] = []
    total = b.mul(shapes[0], b.like(shapes[0], 0))
    only = np.zeros(len(numbers(shapes[0], "a shape")), dtype_of(shapes[0]).numpy)
    only[at] = 1
    mask = b.const(only)
    for item in shapes:
        found.append(total)
        total = b.add(total, b.mul(item, mask))
    return found


@tf_op("Pack")
def pack(b: TfBuilder, node: Node, *xs: Value) -> Any:
    axis = b.axis(xs[0], int(node.attr("axis", 0)), extra=1)
    parts = [b.unsqueeze(x, b.ints([axis])) for x in xs]
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=axis)


def _split(b: TfBuilder, x: Value, sizes: Value | None, count: int, axis: int) -> list[Value]:
    if count == 1:
        return [x]
    if sizes is None:
        return list(b.split(x, axis=axis, num_outputs=count, results=count))
    return list(b.split(x, sizes, axis=axis, results=count))


@tf_op("Unpack")
def unpack(b: TfBuilder, node: Node, x: Value) -> Any:
    axis = b.axis(x, int(node.attr("axis", 0)))
    count = int(node.attr("num"))
    parts = _split(b, x, None, count, axis)
    return [b.squeeze(p, b.ints([axis])) for p in parts]


@tf_op("Split")
def split(b: TfBuilder, node: Node, axis: Value, x: Value) -> Any:
    at = b.axis(x, number(axis, "the axis"))
    count = int(node.attr("num_split"))
    total = b.size_of(x, at)
    if isinstance(total, int) and total % count:
        raise UnsupportedError(f"{total} in {count} equal parts", code="tf-op")
    return _split(b, x, None, count, at)


@tf_op("SplitV")
def split_v(b: TfBuilder, node: Node, x: Value, sizes: Value, axis: Value) -> Any:
    at = b.axis(x, number(axis, "the axis"))
    given = const_array(sizes)
    if given is not None and (given < 0).any():
        total = b.static_size(x, at, "a split with one size left open")
        rest = total - int(given[given >= 0].sum())
        sizes = b.ints([rest if g < 0 else int(g) for g in given.reshape(-1)])
    return _split(b, x, wide(b, sizes), int(node.attr("num_split")), at)


@tf_op("Slice")
def slice_(b: TfBuilder, node: Node, x: Value, begin: Value, sizes: Value) -> Any:
    axes = b.ints(list(range(b.rank(x))))
    start = wide(b, begin)
    known = const_array(sizes)
    if known is not None:
        first = const_array(begin)
        if first is not None:
            ends = [
                INT_MAX if s < 0 else int(f) + int(s) for f, s in zip(first, known, strict=True)
            ]
            return b.slice(x, start, b.ints(ends), axes)
        open_ = known < 0
        end = b.add(start, b.ints([0 if o else int(s) for o, s in zip(open_, known, strict=True)]))
        if open_.any():
            end = b.where(b.const(np.asarray(open_)), b.full((), INT_MAX, dtypes.I64), end)
        return b.slice(x, start, end, axes)
    count = wide(b, sizes)
    end = b.where(b.less(count, b.like(count, 0)), b.like(count, INT_MAX), b.add(start, count))
    return b.slice(x, start, end, axes)


def _bits(node: Node, name: str) -> int:
    return int(node.attr(name, 0) or 0)


@tf_op("StridedSlice")
def strided_slice(
    b: TfBuilder, node: Node, x: Value, begin: Value, end: Value, strides: Value
) -> Any:
    """``x[begin:end:strides]`` with masks, a bit for each entry of the specification."""
    steps = numbers(strides, "the strides")
    count = len(steps)
    ellipsis, fresh = _bits(node, "ellipsis_mask"), _bits(node, "new_axis_mask")
    shrink = _bits(node, "shrink_axis_mask")
    if not any(ellipsis >> i & 1 for i in range(count)):
        ellipsis, spare = 1 << count, 1
    else:
        spare = 0
    used = sum(1 for i in range(count) if not (ellipsis >> i & 1) and not (fresh >> i & 1))
    skipped = b.rank(x) - used
    axis, place = 0, 0
    cut: list[tuple[int, int]] = []  # entry, axis
    gone: list[int] = []
    new: list[int] = []
    for i in range(count + spare):
        if ellipsis >> i & 1:
            axis, place = axis + skipped, place + skipped
        elif fresh >> i & 1:
            new.append(place)
            place += 1
        else:
            cut.append((i, axis))
            if shrink >> i & 1:
                gone.append(axis)
            else:
                place += 1
            axis += 1
    found = _cut(b, node, x, (begin, end, steps), cut, shrink)
    if gone:
        found = b.squeeze(found, b.ints(gone))
    return b.unsqueeze(found, b.ints(new)) if new else found


def _cut(
    b: TfBuilder,
    node: Node,
    x: Value,
    spec: tuple[Value, Value, list[int]],
    cut: list[tuple[int, int]],
    shrink: int,
) -> Any:
    begin, end, steps = spec
    first, last = const_array(begin), const_array(end)
    masks = _bits(node, "begin_mask"), _bits(node, "end_mask")
    starts: list[Any] = []
    ends: list[Any] = []
    axes: list[int] = []
    for i, axis in cut:
        step = steps[i]
        open_start, open_end = masks[0] >> i & 1, masks[1] >> i & 1
        if shrink >> i & 1:
            start = int(first[i]) if first is not None else _item(b, begin, i)
            if isinstance(start, int):
                stop: Any = start + 1 if start != -1 else INT_MAX
            else:
                # A computed place: -1 ends at the end.
                after = b.add(start, b.ints([1]))
                stop = b.where(b.equal(after, b.ints([0])), b.ints([INT_MAX]), after)
            step = 1
            steps = [*steps[:i], 1, *steps[i + 1 :]]
        else:
            start = (0 if step > 0 else -1) if open_start else _known(b, begin, first, i)
            far = INT_MAX if step > 0 else -INT_MAX
            stop = far if open_end else _known(b, end, last, i)
            whole = isinstance(start, int) and start == 0 and stop == INT_MAX
            if whole and step == 1:
                continue
        starts.append(start)
        ends.append(stop)
        axes.append(axis)
    if not axes:
        return x
    wanted = [steps[i] for i, axis in cut if axis in axes]
    return b.slice(x, _vector(b, starts), _vector(b, ends), b.ints(axes), b.ints(wanted))


def _known(b: TfBuilder, value: Value, array: Any, index: int) -> Any:
    return int(array[index]) if array is not None else _item(b, value, index)


def _item(b: TfBuilder, value: Value, index: int) -> Value:
    """Return one element of a vector as a vector of one."""
    found: Value = b.slice(wide(b, value), b.ints([index]), b.ints([index + 1]), b.ints([0]))
    return found


def _vector(b: TfBuilder, items: list[Any]) -> Value:
    if all(isinstance(i, int) for i in items):
        return b.ints(items)
    return joined(b, *(i if isinstance(i, Value) else b.ints([i]) for i in items))


# -- repeating and filling -------------------------------------------------------------------------


@tf_op("Tile")
def tile(b: TfBuilder, node: Node, x: Value, multiples: Value) -> Any:
    return b.tile(x, wide(b, multiples))


@tf_op("Fill")
def fill(b: TfBuilder, node: Node, sizes: Value, value: Value) -> Any:
    known = const_array(sizes)
    number_ = const_array(value)
    if known is not None and number_ is not None and number_.size == 1:
        return b.full(
            tuple(int(k) for k in known.reshape(-1)), number_.reshape(-1)[0], dtype_of(value)
        )
    return b.expand(value, wide(b, sizes))


@tf_op("BroadcastTo")
def broadcast_to(b: TfBuilder, node: Node, x: Value, sizes: Value) -> Any:
    return b.expand(x, wide(b, sizes))


@tf_op("BroadcastArgs")
def broadcast_args(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    """The shape that two shapes broadcast to: that of a sum of tensors of these shapes."""
    zero = b.full((), 0, dtypes.F32)
    both = b.add(b.expand(zero, wide(b, x)), b.expand(zero, wide(b, y)))
    return b.cast_to(b.shape(both), dtype_of(x))


def _filled(value: int) -> Any:
    def row(b: TfBuilder, node: Node, x: Value) -> Any:
        known = x.shape is not None and all(isinstance(d, int) for d in x.shape)
        if known:
            return b.full(
                tuple(int(d) for d in x.shape or () if isinstance(d, int)), value, dtype_of(x)
            )
        return b.expand(b.like(x, value), b.shape(x))

    return row


tf_op("ZerosLike")(_filled(0))
tf_op("OnesLike")(_filled(1))


@tf_op("Range")
def range_(b: TfBuilder, node: Node, start: Value, limit: Value, delta: Value) -> Any:
    known = [const_array(v) for v in (start, limit, delta)]
    if all(k is not None for k in known):
        first, last, step = (k.reshape(-1)[0] for k in known if k is not None)
        if step and (last - first) / step < 1 << 16:
            return b.const(np.arange(first, last, step, dtype=dtype_of(start).numpy))
    kind = dtype_of(start)
    scalars = [scalar(b, wide(b, v) if kind.is_integer else v) for v in (start, limit, delta)]
    return b.cast_to(b.range(*scalars), kind)


@tf_op("LinSpace")
def linspace(b: TfBuilder, node: Node, start: Value, stop: Value, num: Value) -> Any:
    count = number(num, "the number of points")
    share = np.linspace(0, 1, count).astype(dtype_of(start).numpy)
    return b.add(start, b.mul(b.const(share), b.sub(stop, start)))


@tf_op("Pad")
def pad(b: TfBuilder, node: Node, x: Value, pads: Value) -> Any:
    return pad_v2(b, node, x, pads, b.like(x, 0))


@tf_op("PadV2")
def pad_v2(b: TfBuilder, node: Node, x: Value, pads: Value, fill_value: Value) -> Any:
    return b.pad(x, _pads(b, pads), scalar(b, fill_value))


def _pads(b: TfBuilder, pads: Value) -> Value:
    """(rank, 2) to all starts, then all ends."""
    known = const_array(pads)
    if known is not None:
        return b.ints([int(p) for p in known.T.reshape(-1)])
    turned: Value = b.transpose(wide(b, pads), perm=[1, 0])
    return b.reshape(turned, b.ints([-1]))  # type: ignore[no-any-return]


@tf_op("MirrorPad")
def mirror_pad(b: TfBuilder, node: Node, x: Value, pads: Value) -> Any:
    if str(node.attr("mode")) == "REFLECT":
        return b.pad(x, _pads(b, pads), mode="reflect")
    known = const_array(pads)
    if known is None:
        raise UnsupportedError("symmetric padding of a computed number", code="tf-op")
    for axis, (before, after) in enumerate(known):
        if before or after:
            size = b.static_size(x, axis, "symmetric padding")
            places = np.pad(np.arange(size), (int(before), int(after)), mode="symmetric")
            x = b.gather(x, b.const(places.astype(np.int64)), axis=axis)
    return x


@tf_op("ReverseV2")
def reverse_v2(b: TfBuilder, node: Node, x: Value, axes: Value) -> Any:
    return _reversed(b, x, [b.axis(x, a) for a in numbers(axes, "the axes")])


@tf_op("Reverse")
def reverse(b: TfBuilder, node: Node, x: Value, dims: Value) -> Any:
    known = const_array(dims)
    if known is None:
        raise UnsupportedError("the axes are computed by the graph", code="tf-constant")
    return _reversed(b, x, [i for i, d in enumerate(known) if d])


def _reversed(b: TfBuilder, x: Value, axes: list[int]) -> Any:
    if not axes:
        return x
    count = len(axes)
    ones, low = b.ints([-1] * count), b.ints([-INT_MAX] * count)
    return b.slice(x, ones, low, b.ints(axes), ones)


@tf_op("ReverseSequence")
def reverse_sequence(b: TfBuilder, node: Node, x: Value, lengths: Value) -> Any:
    batch, time = int(node.attr("batch_dim", 0)), int(node.attr("seq_dim"))
    if {batch, time} != {0, 1}:
        raise UnsupportedError("axes other than the first two", code="tf-op")
    return b.reverse_sequence(x, wide(b, lengths), batch_axis=batch, time_axis=time)


@tf_op("Roll")
def roll(b: TfBuilder, node: Node, x: Value, shift: Value, axis: Value) -> Any:
    for by, at in zip(numbers(shift, "the shift"), numbers(axis, "the axis"), strict=True):
        place = b.axis(x, at)
        total = b.static_size(x, place, "a roll")
        cut = (total - by % total) if total else 0
        if cut in (0, total):
            continue
        start, end, where = b.ints([cut]), b.ints([INT_MAX]), b.ints([place])
        tail = b.slice(x, start, end, where)
        x = b.concat(tail, b.slice(x, b.ints([0]), start, where), axis=place)
    return x


# -- blocks ----------------------------------------------------------------------------------------


@tf_op("SpaceToBatchND")
def space_to_batch(b: TfBuilder, node: Node, x: Value, block: Value, pads: Value) -> Any:
    return b.space_to_batch_nd(x, wide(b, block), wide(b, pads))


@tf_op("BatchToSpaceND")
def batch_to_space(b: TfBuilder, node: Node, x: Value, block: Value, crops: Value) -> Any:
    return b.batch_to_space_nd(x, wide(b, block), wide(b, crops))


@tf_op("SpaceToBatch")
def space_to_batch_old(b: TfBuilder, node: Node, x: Value, pads: Value) -> Any:
    size_ = int(node.attr("block_size"))
    return b.space_to_batch_nd(x, b.ints([size_, size_]), wide(b, pads))


@tf_op("BatchToSpace")
def batch_to_space_old(b: TfBuilder, node: Node, x: Value, crops: Value) -> Any:
    size_ = int(node.attr("block_size"))
    return b.batch_to_space_nd(x, b.ints([size_, size_]), wide(b, crops))
