"""Rows of views: what changes shapes and order, and how such views are written through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.torch.lowering import INT_MAX, Lowering, Sym
from lepton_ir.frontends.torch.table import torch_op, writes
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Sequence


# -- reshaping -------------------------------------------------------------------------------------


@torch_op("view", "reshape", "_unsafe_view", "_reshape_alias", "view_copy")
def view(
    b: Lowering, self: Value, size: Any = None, shape: Any = None, dtype: Any = None, **_: Any
) -> Any:
    if dtype is not None:
        return b.bit_cast(self, to=dtype)
    return b.resized(self, size if size is not None else shape)


@torch_op("view_as", "reshape_as")
def view_as(b: Lowering, self: Value, other: Value) -> Any:
    return b.resized(self, b.shape_of(other))


@torch_op("flatten")
def flatten(b: Lowering, self: Value, start_dim: int = 0, end_dim: int = -1) -> Any:
    rank = b.rank(self)
    if not rank:
        return b.resized(self, [1])
    first, last = b.axis(self, start_dim), b.axis(self, end_dim)
    if first == last:
        return self
    middle = [b.size_of(self, d) for d in range(first, last + 1)]
    known = all(isinstance(m, int) for m in middle)
    outer = [b.size_of(self, d) for d in range(rank) if d < first or d > last]
    # One size may be left to the runtime, unless another may be 0.
    if known or any(isinstance(o, Sym) for o in outer):
        total: Any = middle[0]
        for m in middle[1:]:
            total = total * m if known else b.arith("mul", total, m)
    else:
        total = -1 if 0 not in outer else b.arith("mul", *middle[:2])
    return b.resized(self, [*outer[:first], total, *outer[first:]])


@torch_op("unflatten")
def unflatten(b: Lowering, self: Value, dim: int, sizes: Sequence[Any]) -> Any:
    axis = b.axis(self, dim)
    outer = b.sizes_of(self)
    return b.resized(self, [*outer[:axis], *sizes, *outer[axis + 1 :]])


def _back(b: Lowering, base: Value, new: Value, **_: Any) -> Value:
    """A view of all elements in order is written through by reshaping."""
    return b.resized(new, b.shape_of(base))


writes("view", "view_as", "unsqueeze", "squeeze", "unflatten", "reshape", "flatten")(_back)
writes("_unsafe_view", "reshape_as")(_back)


@torch_op("squeeze")
def squeeze(b: Lowering, self: Value, dim: Any = None) -> Any:
    shape = self.shape
    assert shape is not None
    dims = b.axes(self, dim) if dim is not None else [i for i, d in enumerate(shape) if d == 1]
    ones = [d for d in dims if shape[d] == 1]
    return b.squeeze(self, b.ints(ones)) if ones else self


@torch_op("unsqueeze")
def unsqueeze(b: Lowering, self: Value, dim: int) -> Any:
    return b.unsqueeze(self, b.ints([b.axis(self, dim, extra=1)]))


# -- order -----------------------------------------------------------------------------------------


def transposed(b: Lowering, x: Value, perm: Sequence[int]) -> Value:
    """Return ``x`` with its axes in another order; ``x`` itself when that is the same."""
    if list(perm) == list(range(len(perm))):
        return x
    result: Value = b.transpose(x, perm=perm)
    return result


def _swapped(b: Lowering, x: Value, first: int, second: int) -> Value:
    order = list(range(b.rank(x)))
    if not order:
        return x
    i, j = b.axis(x, first), b.axis(x, second)
    order[i], order[j] = order[j], order[i]
    return transposed(b, x, order)


@torch_op("permute")
def permute(b: Lowering, self: Value, dims: Sequence[int]) -> Any:
    return transposed(b, self, [b.axis(self, d) for d in dims])


@writes("permute")
def _permute_back(b: Lowering, base: Value, new: Value, dims: Sequence[int]) -> Value:
    order = [b.axis(base, d) for d in dims]
    return transposed(b, new, [order.index(i) for i in range(len(order))])


@torch_op("transpose", "swapaxes", "swapdims")
def transpose(
    b: Lowering,
    self: Value,
    dim0: int = 0,
    dim1: int = 0,
    axis0: int | None = None,
    axis1: int | None = None,
) -> Any:
    return _swapped(b, self, dim0 if axis0 is None else axis0, dim1 if axis1 is None else axis1)


@writes("transpose")
def _transpose_back(b: Lowering, base: Value, new: Value, dim0: int, dim1: int) -> Value:
    return _swapped(b, new, dim0, dim1)


@torch_op("t")
def t(b: Lowering, self: Value) -> Any:
    return _swapped(b, self, 0, 1) if b.rank(self) == 2 else self


@writes("t")
def _t_back(b: Lowering, base: Value, new: Value) -> Value:
    return _swapped(b, new, 0, 1) if b.rank(new) == 2 else new


@torch_op("mT", "mH", "adjoint")
def matrix_transpose(b: Lowering, self: Value) -> Any:
    return _swapped(b, self, -2, -1)


@torch_op("numpy_T")
def numpy_t(b: Lowering, self: Value) -> Any:
    return transposed(b, self, list(reversed(range(b.rank(self)))))


@torch_op("movedim", "moveaxis")
def movedim(b: Lowering, self: Value, source: Any, destination: Any) -> Any:
    source = [source] if isinstance(source, int) else source
    destination = [destination] if isinstance(destination, int) else destination
    moved = {b.axis(self, d): b.axis(self, s) for s, d in zip(source, destination, strict=True)}
    rest = iter(i for i in range(b.rank(self)) if i not in moved.values())
    return transposed(
        b, self, [moved[i] if i in moved else next(rest) for i in range(b.rank(self))]
    )


# -- repeating -------------------------------------------------------------------------------------


@torch_op("expand", "broadcast_to", "expand_copy")
def expand(b: Lowering, self: Value, size: Sequence[Any], implicit: bool = False) -> Any:
    lead = len(size) - b.rank(self)
    sizes = [
        b.size_of(self, i - lead) if isinstance(s, int) and s == -1 else s
        for i, s in enumerate(size)
    ]
    if list(self.shape or ()) == sizes:
        return self
    return b.expand(self, b.ints(sizes))


@torch_op("expand_as")
def expand_as(b: Lowering, self: Value, other: Value) -> Any:
    return b.expand(self, b.shape_of(other))


@torch_op("repeat", "tile")
def repeat(b: Lowering, self: Value, repeats: Any = None, dims: Any = None) -> Any:
    counts = list(repeats if repeats is not None else dims)
    lead = len(counts) - b.rank(self)
    if lead < 0:
        counts = [1] * -lead + counts
    x = b.unsqueeze(self, b.ints(list(range(lead)))) if lead > 0 else self
    return b.tile(x, b.ints(counts)) if counts else x


@torch_op("repeat_interleave.self_int")
def repeat_interleave(
    b: Lowering, self: Value, repeats: Any, dim: int | None = None, output_size: Any = None
) -> Any:
    x = self if dim is not None else b.resized(self, [-1])
    axis = 0 if dim is None else b.axis(self, dim)
    sizes = b.sizes_of(x)
    wide = b.unsqueeze(x, b.ints([axis + 1]))
    wide = b.expand(wide, b.ints([*sizes[: axis + 1], repeats, *sizes[axis + 1 :]]))
    total = _product(b, sizes[axis], repeats)
    return b.resized(wide, [*sizes[:axis], total, *sizes[axis + 1 :]])


def _product(b: Lowering, x: Any, y: Any) -> Any:
    return x * y if isinstance(x, int) and isinstance(y, int) else b.arith("mul", x, y)


# -- joining and cutting ---------------------------------------------------------------------------


@torch_op("cat", "concat", "concatenate")
def cat(b: Lowering, tensors: Sequence[Value], dim: int = 0) -> Any:
    # A vector of no elements joins with anything.
    kept = [t for t in tensors if t.shape != (0,)] or list(tensors[:1])
    dtype = b.common(*tensors)
    parts = [b.cast_to(t, dtype) for t in kept]
    return parts[0] if len(parts) == 1 else b.concat(*parts, axis=b.axis(parts[0], dim))


@torch_op("stack")
def stack(b: Lowering, tensors: Sequence[Value], dim: int = 0) -> Any:
    axis = b.axis(tensors[0], dim, extra=1)
    dtype = b.common(*tensors)
    parts = [b.unsqueeze(b.cast_to(t, dtype), b.ints([axis])) for t in tensors]
    return b.concat(*parts, axis=axis)


def _at_least(b: Lowering, x: Value, rank: int) -> Value:
    lead = rank - b.rank(x)
    wide: Value = b.unsqueeze(x, b.ints(list(range(lead)))) if lead > 0 else x
    return wide


@torch_op("atleast_1d")
def atleast_1d(b: Lowering, self: Value) -> Any:
    return _at_least(b, self, 1)


@torch_op("hstack")
def hstack(b: Lowering, tensors: Sequence[Value]) -> Any:
    parts = [_at_least(b, t, 1) for t in tensors]
    return cat(b, parts, 0 if b.rank(parts[0]) == 1 else 1)


@torch_op("vstack", "row_stack")
def vstack(b: Lowering, tensors: Sequence[Value]) -> Any:
    return cat(b, [_at_least(b, t, 2) for t in tensors], 0)


@torch_op("slice", "slice_copy")
def slice_(
    b: Lowering, self: Value, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Any:
    start, end = 0 if start is None else start, INT_MAX if end is None else end
    if (start, end, step) == (0, INT_MAX, 1):
        return self
    axis = b.axis(self, dim)
    return b.slice(self, b.ints([start]), b.ints([end]), b.ints([axis]), b.ints([step]))


@torch_op("narrow", "narrow_copy")
def narrow(b: Lowering, self: Value, dim: int, start: Any, length: Any) -> Any:
    if isinstance(start, Value):
        start = Sym(b.reshape(b.cast_to(start, dtypes.I64), b.ints([])))
    return slice_(b, self, dim, *_bounds(b, self, dim, start, length))


def _bounds(b: Lowering, x: Value, dim: int, start: Any, length: Any) -> tuple[Any, Any]:
    """Return start and end of a stretch."""
    if isinstance(start, int) and start < 0:
        start = b.arith("add", b.size_of(x, dim), start)
    if isinstance(start, int) and isinstance(length, int):
        return start, start + length
    return start, b.arith("add", start, length)


def scattered(b: Lowering, base: Value, new: Value, axis: int, places: Value) -> Value:
    """Return ``base`` with its slices at ``places`` (a vector) along ``axis`` replaced."""
    order = [axis, *(i for i in range(b.rank(base)) if i != axis)]
    back = [order.index(i) for i in range(len(order))]
    moved = transposed(b, base, order)
    indices = b.unsqueeze(places, b.ints([1]))
    found = b.scatter_nd(
        moved, indices, transposed(b, b.cast_to(new, base.dtype or dtypes.F32), order)
    )
    return transposed(b, found, back)


def _places(b: Lowering, base: Value, axis: int, start: Any, end: Any, step: Any) -> Value:
    """Return the indices that a slice takes, clamped as PyTorch clamps."""
    size = b.size_of(base, axis)
    whole = b.const(np.asarray(0, np.int64))
    top = size.value if isinstance(size, Sym) else b.full((), size, dtypes.I64)
    every = b.range(whole, top, b.full((), 1, dtypes.I64))
    return slice_(b, every, 0, start, end, step)  # type: ignore[no-any-return]


@torch_op("slice_scatter")
def slice_scatter(
    b: Lowering,
    self: Value,
    src: Value,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: Any = 1,
) -> Any:
    axis = b.axis(self, dim)
    size = b.size_of(self, axis)
    if (start in (None, 0)) and (end in (None, INT_MAX) or end == size) and step == 1:
        return b.cast_to(src, self.dtype or dtypes.F32)
    return scattered(b, self, src, axis, _places(b, self, axis, start, end, step))


@writes("slice")
def _slice_back(
    b: Lowering,
    base: Value,
    new: Value,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: Any = 1,
) -> Value:
    return slice_scatter(b, base, new, dim, start, end, step)  # type: ignore[no-any-return]


@writes("narrow")
def _narrow_back(b: Lowering, base: Value, new: Value, dim: int, start: Any, length: Any) -> Value:
    first, end = _bounds(b, base, dim, start, length)
    return slice_scatter(b, base, new, dim, first, end)  # type: ignore[no-any-return]


def _index(b: Lowering, index: Any) -> Value:
    if isinstance(index, (Sym, int)):
        return b.operand(index, dtypes.I64)
    return b.cast_to(index, dtypes.I64)


@torch_op("select", "select_copy")
def select(b: Lowering, self: Value, dim: int, index: Any) -> Any:
    return b.gather(self, _index(b, index), axis=b.axis(self, dim))


@torch_op("select_scatter")
def select_scatter(b: Lowering, self: Value, src: Value, dim: int, index: Any) -> Any:
    axis = b.axis(self, dim)
    place = b.reshape(_index(b, index), b.ints([1]))
    if isinstance(index, int) and index < 0:
        size = b.size_of(self, axis)
        place = b.ints([size + index if isinstance(size, int) else b.arith("add", size, index)])
    return scattered(b, self, b.unsqueeze(src, b.ints([axis])), axis, place)


@writes("select")
def _select_back(b: Lowering, base: Value, new: Value, dim: int, index: Any) -> Value:
    return select_scatter(b, base, new, dim, index)  # type: ignore[no-any-return]


def _parts(b: Lowering, x: Value, sizes: Sequence[Any], dim: int) -> list[Value]:
    axis = b.axis(x, dim)
    if len(sizes) == 1:
        return [x]
    found = b.split(x, b.ints(list(sizes)), axis=axis, results=len(sizes))
    return list(found)


def _equal_sizes(b: Lowering, x: Value, size: Any, dim: int) -> list[Any]:
    total = b.static_size(x, dim, "split")
    if not isinstance(size, int) or size < 0 or (size == 0 and total):
        raise UnsupportedError("a split of computed size", code="torch-size")
    if not total:
        return [0]
    return [min(size, total - i) for i in range(0, total, size)]


@torch_op("split", "unsafe_split")
def split(
    b: Lowering, self: Value, split_size: Any = None, dim: int = 0, split_sizes: Any = None
) -> Any:
    wanted = split_size if split_sizes is None else split_sizes
    sizes = wanted if isinstance(wanted, list) else _equal_sizes(b, self, wanted, dim)
    return _parts(b, self, sizes, dim)


@torch_op("split_with_sizes", "unsafe_split_with_sizes", "split_with_sizes_copy")
def split_with_sizes(b: Lowering, self: Value, split_sizes: Sequence[Any], dim: int = 0) -> Any:
    return _parts(b, self, split_sizes, dim)


def _chunk_size(b: Lowering, x: Value, chunks: int, dim: int) -> int:
    return max(-(-b.static_size(x, dim, "chunk") // chunks), 1)


@torch_op("chunk", "unsafe_chunk")
def chunk(b: Lowering, self: Value, chunks: int, dim: int = 0) -> Any:
    return split(b, self, _chunk_size(b, self, chunks, dim), dim)


@torch_op("tensor_split.sections")
def tensor_split(b: Lowering, self: Value, sections: int, dim: int = 0) -> Any:
    total = b.static_size(self, dim, "tensor_split")
    low, more = divmod(total, sections)
    return _parts(b, self, [low + (i < more) for i in range(sections)], dim)


@torch_op("unbind", "unbind_copy")
def unbind(b: Lowering, self: Value, dim: int = 0) -> Any:
    size = b.static_size(self, dim, "unbind")
    axis = b.axis(self, dim)
    return [b.squeeze(p, b.ints([axis])) for p in _parts(b, self, [1] * size, dim)]


@writes("split", "split_with_sizes")
def _split_back(
    b: Lowering,
    base: Value,
    new: Value,
    position: int,
    split_size: Any = None,
    dim: int = 0,
    split_sizes: Any = None,
) -> Value:
    wanted = split_size if split_sizes is None else split_sizes
    sizes = wanted if isinstance(wanted, list) else _equal_sizes(b, base, wanted, dim)
    start = sum(sizes[:position])
    return slice_scatter(b, base, new, dim, start, start + sizes[position])  # type: ignore[no-any-return]


@writes("chunk")
def _chunk_back(
    b: Lowering, base: Value, new: Value, position: int, chunks: int, dim: int = 0
) -> Value:
    size = _chunk_size(b, base, chunks, dim)
    return _split_back(b, base, new, position, size, dim)  # type: ignore[no-any-return]


@writes("unbind")
def _unbind_back(b: Lowering, base: Value, new: Value, position: int, dim: int = 0) -> Value:
    return select_scatter(b, base, new, dim, position)  # type: ignore[no-any-return]


# -- moving elements -------------------------------------------------------------------------------


@torch_op("flip")
def flip(b: Lowering, self: Value, dims: Sequence[int]) -> Any:
    axes = b.axes(self, dims) if dims else []
    if not axes:
        return self
    count = len(axes)
    return b.slice(
        self, b.ints([-1] * count), b.ints([-INT_MAX] * count), b.ints(axes), b.ints([-1] * count)
    )


@torch_op("roll")
def roll(b: Lowering, self: Value, shifts: Any, dims: Any = ()) -> Any:
    shifts = [shifts] if isinstance(shifts, (int, Sym)) else shifts
    dims = [dims] if isinstance(dims, int) else list(dims)
    if not dims:
        flat = roll(b, b.resized(self, [-1]), shifts, [0])
        return b.resized(flat, b.shape_of(self))
    x = self
    for shift, dim in zip(shifts, dims, strict=True):
        size = b.static_size(x, dim, "roll")
        if isinstance(shift, Sym):
            raise UnsupportedError("a roll by a computed number", code="torch-size")
        cut = size - shift % size if size else 0
        if cut in (0, size):
            continue
        tail, head = slice_(b, x, dim, cut), slice_(b, x, dim, 0, cut)
        x = b.concat(tail, head, axis=b.axis(x, dim))
    return x


@torch_op("tril")
def tril(b: Lowering, self: Value, diagonal: int = 0) -> Any:
    return _triangle(b, self, diagonal, False)


@torch_op("triu")
def triu(b: Lowering, self: Value, diagonal: int = 0) -> Any:
    return _triangle(b, self, diagonal, True)


def _triangle(b: Lowering, x: Value, diagonal: Any, upper: bool) -> Value:
    return b.trilu(x, b.operand(diagonal, dtypes.I64), upper=upper)  # type: ignore[no-any-return]


@torch_op("diagonal", "diagonal_copy", "linalg_diagonal")
def diagonal(b: Lowering, self: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal of two axes, as the last axis of the result."""
    i, j = b.axis(self, dim1), b.axis(self, dim2)
    rows, columns = b.static_size(self, i, "diagonal"), b.static_size(self, j, "diagonal")
    count = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)
    at = np.arange(count, dtype=np.int64)
    pairs = np.stack([at - min(offset, 0), at + max(offset, 0)], -1)
    rest = [a for a in range(b.rank(self)) if a not in (i, j)]
    found = b.gather_nd(transposed(b, self, [i, j, *rest]), b.const(pairs))
    return transposed(b, found, [*range(1, len(rest) + 1), 0])


@torch_op("pixel_shuffle")
def pixel_shuffle(b: Lowering, self: Value, upscale_factor: int) -> Any:
    return _with_batch(b, self, lambda x: b.depth_to_space(x, blocksize=upscale_factor, mode="CRD"))


def _with_batch(b: Lowering, x: Value, f: Any) -> Any:
    """Apply ``f`` to (N, C, H, W); images of other ranks are reshaped around it."""
    if b.rank(x) == 4:
        return f(x)
    sizes = b.sizes_of(x)
    found = f(b.resized(x, [-1, *sizes[-3:]]))
    return b.resized(found, [*sizes[:-3], *b.sizes_of(found)[1:]])


@torch_op("pixel_unshuffle")
def pixel_unshuffle(b: Lowering, self: Value, downscale_factor: int) -> Any:
    def unshuffle(x: Value) -> Value:
        n, c, h, w = b.sizes_of(x)
        r = downscale_factor
        high, wide = (s // r if isinstance(s, int) else b.arith("div", s, r) for s in (h, w))
        parts = b.resized(x, [n, c, high, r, wide, r])
        moved = transposed(b, parts, [0, 1, 3, 5, 2, 4])
        return b.resized(moved, [n, _product(b, c, r * r), high, wide])

    return _with_batch(b, self, unshuffle)


@torch_op("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(b: Lowering, self: Value, groups: int) -> Any:
    n, c, *rest = b.sizes_of(self)
    assert isinstance(c, int)
    parts = b.resized(self, [n, groups, c // groups, *rest])
    order = [0, 2, 1, *range(3, len(rest) + 3)]
    return b.resized(transposed(b, parts, order), [n, c, *rest])


@torch_op("unfold")
def unfold(b: Lowering, self: Value, dimension: int, size: int, step: int) -> Any:
    """Windows of an axis, as a new last axis."""
    axis = b.axis(self, dimension)
    total = b.static_size(self, axis, "unfold")
    starts = np.arange(0, total - size + 1, step, dtype=np.int64)
    windows = b.gather(self, b.const(starts[:, None] + np.arange(size)), axis=axis)
    order = [i for i in range(b.rank(windows)) if i != axis + 1]
    return transposed(b, windows, [*order, axis + 1])


@torch_op("meshgrid")
def meshgrid(b: Lowering, tensors: Sequence[Value], indexing: str = "ij") -> Any:
    count = len(tensors)
    swap = indexing == "xy" and count > 1
    order = [1, 0, *range(2, count)] if swap else list(range(count))
    sizes = [b.size_of(tensors[i], 0) if tensors[i].rank else 1 for i in order]
    found = []
    for i, tensor in enumerate(tensors):
        at = order.index(i)
        shape = [1] * count
        line = b.resized(tensor, [*shape[:at], -1, *shape[at + 1 :]])
        found.append(b.expand(line, b.ints(sizes)))
    return found


@torch_op("constant_pad_nd", "pad")
def pad(
    b: Lowering, self: Value, pad: Sequence[Any], mode: str = "constant", value: Any = None
) -> Any:
    """Pads are given from the last axis on, both sides of each."""
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    count = len(pad) // 2
    axes = list(range(b.rank(self) - count, b.rank(self)))
    before = [pad[2 * (count - 1 - i)] for i in range(count)]
    after = [pad[2 * (count - 1 - i) + 1] for i in range(count)]
    fill = b.like(self, value or 0) if mode == "constant" else None
    return b.pad(self, b.ints([*before, *after]), fill, b.ints(axes), mode=names[mode])


for _rank in (1, 2, 3):

    def _reflect(b: Lowering, self: Value, padding: Sequence[Any]) -> Any:
        return pad(b, self, padding, "reflect")

    def _replicate(b: Lowering, self: Value, padding: Sequence[Any]) -> Any:
        return pad(b, self, padding, "replicate")

    torch_op(f"reflection_pad{_rank}d")(_reflect)
    torch_op(f"replication_pad{_rank}d")(_replicate)
