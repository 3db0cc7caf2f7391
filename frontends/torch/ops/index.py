"""Rows that take and write elements at places which are data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.torch.lowering import Lowering
from lepton_ir.frontends.torch.ops.compare import truth
from lepton_ir.frontends.torch.ops.elementwise import dtype_of
from lepton_ir.frontends.torch.ops.shape import scattered, transposed
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Sequence


@torch_op("embedding")
def embedding(
    b: Lowering,
    weight: Value,
    indices: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    return b.gather(weight, indices, axis=0)


@torch_op("index_select")
def index_select(b: Lowering, self: Value, dim: int, index: Value) -> Any:
    return b.gather(self, b.resized(index, [-1]), axis=b.axis(self, dim))


@torch_op("gather")
def gather(b: Lowering, self: Value, dim: int, index: Value, sparse_grad: bool = False) -> Any:
    if not b.rank(self):
        return b.expand(self, b.shape_of(index))
    return b.gather_elements(_cut(b, self, index, b.axis(self, dim)), index, axis=b.axis(self, dim))


def _cut(b: Lowering, x: Value, index: Value, axis: int) -> Value:
    """Return ``x`` cut to the sizes of ``index`` on all axes but one, which ONNX asks for."""
    if x.shape is None or index.shape is None:
        return x
    axes = [
        i for i, (n, m) in enumerate(zip(x.shape, index.shape, strict=True)) if i != axis and n != m
    ]
    if not axes:
        return x
    ends = [b.size_of(index, i) for i in axes]
    return b.slice(x, b.ints([0] * len(axes)), b.ints(ends), b.ints(axes))  # type: ignore[no-any-return]


@torch_op("take_along_dim")
def take_along_dim(b: Lowering, self: Value, indices: Value, dim: int | None = None) -> Any:
    if dim is None:
        return gather(b, b.resized(self, [-1]), 0, b.resized(indices, [-1]))
    return gather(b, self, dim, indices)


@torch_op("take")
def take(b: Lowering, self: Value, index: Value) -> Any:
    return b.gather(b.resized(self, [-1]), index, axis=0)


def coordinates(b: Lowering, mask: Value) -> list[Value]:
    """Return the places of true elements, one vector per axis."""
    found = b.non_zero(truth(b, mask))
    return [b.gather(found, b.full((), i, dtypes.I64), axis=0) for i in range(b.rank(mask))]


@torch_op("nonzero")
def nonzero(b: Lowering, self: Value) -> Any:
    return b.transpose(b.non_zero(truth(b, self)), perm=[1, 0])


@torch_op("nonzero_numpy")
def nonzero_numpy(b: Lowering, self: Value) -> Any:
    return coordinates(b, self)


@torch_op("argwhere")
def argwhere(b: Lowering, self: Value) -> Any:
    return nonzero(b, self)


@torch_op("masked_select")
def masked_select(b: Lowering, self: Value, mask: Value) -> Any:
    shape = b.shape_of(b.and_(truth(b, mask), truth(b, b.expand(truth(b, self), b.shape_of(self)))))
    x, m = b.expand(self, shape), b.expand(truth(b, mask), shape)
    return b.compress(b.resized(x, [-1]), b.resized(m, [-1]), axis=0)


# -- indexing with tensors -------------------------------------------------------------------------


class _Places:
    """What ``x[i, :, j]`` addresses: indexed axes in front, the broadcast index tensors stacked."""

    def __init__(self, b: Lowering, x: Value, indices: Sequence[Value | None]) -> None:
        expanded: list[Value | None] = []
        for index in indices:
            if index is not None and index.dtype in (dtypes.BOOL, dtypes.U8):
                expanded.extend(coordinates(b, index))
            else:
                expanded.append(index)
        self.axes = [i for i, v in enumerate(expanded) if v is not None]
        given = [v for v in expanded if v is not None]
        rest = [i for i in range(b.rank(x)) if i not in self.axes]
        self.order = [*self.axes, *rest]
        self.rank = max(b.rank(v) for v in given)
        # Neighbouring indexed axes keep their place in the result; others put theirs in front.
        together = self.axes == list(range(self.axes[0], self.axes[0] + len(self.axes)))
        self.front = self.axes[0] if together else 0
        wide = [b.cast_to(v, dtypes.I64) for v in given]
        if len(wide) > 1:
            shape = _broadcast(b, wide)
            wide = [b.expand(v, shape) for v in wide]
        last = [b.unsqueeze(v, b.ints([self.rank])) for v in wide]
        self.vectors = last[0] if len(last) == 1 else b.concat(*last, axis=self.rank)
        self.single = wide[0] if len(wide) == 1 else None

    def result_order(self, rank: int) -> list[int]:
        """Return how a result with the index axes in front is put in PyTorch's order."""
        others = list(range(self.rank, rank))
        return [*others[: self.front], *range(self.rank), *others[self.front :]]


def _broadcast(b: Lowering, values: Sequence[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = b.add(total, value)
    return b.shape_of(total)


@torch_op("index", "_unsafe_index")
def index(b: Lowering, self: Value, indices: Sequence[Value | None]) -> Any:
    places = _Places(b, self, indices)
    if places.single is not None:
        axis = places.axes[0]
        return b.gather(self, places.single, axis=axis)
    found = b.gather_nd(transposed(b, self, places.order), places.vectors)
    return transposed(b, found, places.result_order(b.rank(found)))


@torch_op("index_put", "_unsafe_index_put")
def index_put(
    b: Lowering,
    self: Value,
    indices: Sequence[Value | None],
    values: Value,
    accumulate: bool = False,
) -> Any:
    mask = indices[0]
    masked = len(indices) == 1 and mask is not None and mask.dtype is dtypes.BOOL
    if masked and mask is not None and not accumulate and values.shape in ((), (1,)):
        wide = b.rank(self) - b.rank(mask)
        last = b.ints([b.rank(mask) + i for i in range(wide)])
        spread = b.unsqueeze(mask, last) if wide else mask
        return b.where(spread, b.cast_to(b.reshape(values, b.ints([])), dtype_of(self)), self)
    places = _Places(b, self, indices)
    moved = transposed(b, self, places.order)
    kept = [b.size_of(moved, i) for i in range(len(places.axes), b.rank(self))]
    lead = [b.size_of(places.vectors, i) for i in range(places.rank)]
    # The values broadcast to the result of ``index`` in PyTorch's order.
    rank = places.rank + len(kept)
    order = places.result_order(rank)
    sizes = [*lead, *kept]
    wide_values = b.expand(b.cast_to(values, dtype_of(self)), b.ints([sizes[i] for i in order]))
    back = [order.index(i) for i in range(rank)]
    reduction = "add" if accumulate else "none"
    found = b.scatter_nd(
        moved, places.vectors, transposed(b, wide_values, back), reduction=reduction
    )
    return transposed(b, found, [places.order.index(i) for i in range(b.rank(self))])


# -- scattering ------------------------------------------------------------------------------------

_REDUCTIONS = {
    "sum": "add",
    "add": "add",
    "prod": "mul",
    "multiply": "mul",
    "amax": "max",
    "amin": "min",
}


def _scatter(
    b: Lowering, x: Value, dim: int, index_: Value, src: Value, reduction: str = "none"
) -> Any:
    if not b.rank(x):
        raise UnsupportedError("scatter into a scalar", code="torch-op")
    axis = b.axis(x, dim)
    source = b.cast_to(src, dtype_of(x))
    axes = [
        i
        for i, (n, m) in enumerate(zip(source.shape or (), index_.shape or (), strict=True))
        if n != m
    ]
    if axes:
        ends = [b.size_of(index_, i) for i in axes]
        source = b.slice(source, b.ints([0] * len(axes)), b.ints(ends), b.ints(axes))
    return b.scatter_elements(x, index_, source, axis=axis, reduction=reduction)


@torch_op("scatter.src", "scatter.reduce")
def scatter_src(
    b: Lowering, self: Value, dim: int, index: Value, src: Value, reduce: str | None = None
) -> Any:
    return _scatter(b, self, dim, index, src, _REDUCTIONS[reduce] if reduce else "none")


@torch_op("scatter.value", "scatter.value_reduce")
def scatter_value(
    b: Lowering, self: Value, dim: int, index: Value, value: Any, reduce: str | None = None
) -> Any:
    source = b.expand(b.like(self, value), b.shape_of(index))
    return _scatter(b, self, dim, index, source, _REDUCTIONS[reduce] if reduce else "none")


@torch_op("scatter_add")
def scatter_add(b: Lowering, self: Value, dim: int, index: Value, src: Value) -> Any:
    return _scatter(b, self, dim, index, src, "add")


@torch_op("scatter_reduce")
def scatter_reduce(
    b: Lowering,
    self: Value,
    dim: int,
    index: Value,
    src: Value,
    reduce: str,
    include_self: bool = True,
) -> Any:
    if reduce not in _REDUCTIONS or not include_self:
        raise UnsupportedError(
            f"scatter_reduce {reduce}, include_self={include_self}", code="torch-op"
        )
    return _scatter(b, self, dim, index, src, _REDUCTIONS[reduce])


@torch_op("index_add")
def index_add(
    b: Lowering, self: Value, dim: int, index: Value, source: Value, alpha: Any = 1
) -> Any:
    values = source if alpha == 1 else b.mul(source, b.like(source, alpha))
    order = [b.axis(self, dim), *(i for i in range(b.rank(self)) if i != b.axis(self, dim))]
    moved, added = transposed(b, self, order), transposed(b, values, order)
    places = b.unsqueeze(b.cast_to(index, dtypes.I64), b.ints([1]))
    found = b.scatter_nd(moved, places, added, reduction="add")
    return transposed(b, found, [order.index(i) for i in range(len(order))])


@torch_op("index_copy")
def index_copy(b: Lowering, self: Value, dim: int, index: Value, source: Value) -> Any:
    return scattered(b, self, source, b.axis(self, dim), b.cast_to(index, dtypes.I64))


@torch_op("index_fill")
def index_fill(b: Lowering, self: Value, dim: int, index: Value, value: Any) -> Any:
    axis = b.axis(self, dim)
    sizes = b.sizes_of(self)
    filled = (
        b.like(self, value) if not isinstance(value, Value) else b.cast_to(value, dtype_of(self))
    )
    sizes[axis] = b.size_of(index, 0)
    return scattered(b, self, b.expand(filled, b.ints(sizes)), axis, b.cast_to(index, dtypes.I64))


@torch_op("masked_scatter")
def masked_scatter(b: Lowering, self: Value, mask: Value, source: Value) -> Any:
    wide = b.expand(truth(b, mask), b.shape_of(self))
    flat = b.resized(wide, [-1])
    rank = b.cum_sum(b.cast_to(flat, dtypes.I64), b.full((), 0, dtypes.I64))
    places = b.max(b.sub(rank, b.full((), 1, dtypes.I64)), b.full((), 0, dtypes.I64))
    taken = b.gather(b.resized(source, [-1]), places, axis=0)
    return b.where(wide, b.resized(taken, b.shape_of(self)), self)


@torch_op("bucketize", "searchsorted")
def bucketize(
    b: Lowering,
    self: Any = None,
    boundaries: Value | None = None,
    out_int32: bool = False,
    right: bool = False,
    sorted_sequence: Value | None = None,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """The number of boundaries below (``right``: not above) each element."""
    limits = boundaries if boundaries is not None else sorted_sequence
    if limits is None or b.rank(limits) != 1 or sorter is not None:
        raise UnsupportedError("searchsorted over several rows", code="torch-op")
    x, edges = b.operands(self, limits)
    last = b.unsqueeze(x, b.ints([b.rank(x)]))
    after = right or side == "right"
    below = b.less_or_equal(edges, last) if after else b.less(edges, last)
    found = b.reduce_sum(b.cast_to(below, dtypes.I64), b.ints([b.rank(x)]), keepdims=False)
    return b.cast_to(found, dtypes.I32 if out_int32 else dtypes.I64)


@torch_op("one_hot")
def one_hot(b: Lowering, self: Value, num_classes: int = -1) -> Any:
    if num_classes < 0:
        raise UnsupportedError("one_hot without num_classes", code="torch-op")
    values = b.const(np.asarray([0, 1], np.int64))
    return b.one_hot(self, b.full((), num_classes, dtypes.I64), values, axis=-1)


@torch_op("_unique2", "unique_dim", "unique_consecutive")
def unique(
    b: Lowering,
    self: Value,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    **other: Any,
) -> Any:
    if other:
        raise UnsupportedError("unique along an axis or of neighbours", code="torch-op")
    values, _, inverse, counts = b.unique(self, sorted=True, results=4)
    return values, b.resized(inverse, b.shape_of(self)), counts
