"""Rows that take and write elements at places which are data, and of matrices' diagonals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.tensorflow.ops._common import (
    dtype_of,
    floats,
    number,
    permuted,
    scalar,
    wide,
)
from lepton_ir.frontends.tensorflow.table import tf_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node


@tf_op("Gather", "ResourceGather")
def gather(b: TfBuilder, node: Node, x: Value, places: Value) -> Any:
    return b.gather(x, places, axis=0)


@tf_op("GatherV2")
def gather_v2(b: TfBuilder, node: Node, x: Value, places: Value, axis: Value) -> Any:
    at = b.axis(x, number(axis, "the axis"))
    batch = int(node.attr("batch_dims", 0))
    batch = batch + b.rank(places) if batch < 0 else batch
    if not batch:
        return b.gather(x, places, axis=at)
    if batch == b.rank(places) - 1 and at == batch == b.rank(x) - 1:
        return b.gather_elements(x, wide(b, places), axis=at)
    if at != batch:
        order = [*range(batch), at, *(i for i in range(batch, b.rank(x)) if i != at)]
        moved = permuted(b, x, order)
        found = b.gather_nd(moved, _last(b, places), batch_dims=batch)
        lead = b.rank(places)
        front = list(range(batch))
        new, rest = list(range(batch, lead)), list(range(lead, b.rank(found)))
        before = at - batch
        return permuted(b, found, [*front, *rest[:before], *new, *rest[before:]])
    return b.gather_nd(x, _last(b, places), batch_dims=batch)


def _last(b: TfBuilder, places: Value) -> Value:
    found: Value = b.unsqueeze(wide(b, places), b.ints([b.rank(places)]))
    return found


@tf_op("GatherNd", "ResourceGatherNd")
def gather_nd(b: TfBuilder, node: Node, x: Value, places: Value) -> Any:
    batch = int(node.attr("batch_dims", 0))
    return b.gather_nd(x, wide(b, places), batch_dims=batch)


@tf_op("ScatterNd")
def scatter_nd(b: TfBuilder, node: Node, places: Value, updates: Value, sizes: Value) -> Any:
    zeros = b.expand(b.like(updates, 0), wide(b, sizes))
    return b.scatter_nd(zeros, wide(b, places), updates, reduction="add")


def _tensor_scatter(reduction: str) -> Callable[..., Any]:
    def row(b: TfBuilder, node: Node, x: Value, places: Value, updates: Value) -> Any:
        return b.scatter_nd(x, wide(b, places), updates, reduction=reduction)

    return row


for _name, _reduction in (("Update", "none"), ("Add", "add"), ("Max", "max"), ("Min", "min")):
    tf_op(f"TensorScatter{_name}")(_tensor_scatter(_reduction))


@tf_op("TensorScatterSub")
def tensor_scatter_sub(b: TfBuilder, node: Node, x: Value, places: Value, updates: Value) -> Any:
    return b.scatter_nd(x, wide(b, places), b.neg(updates), reduction="add")


@tf_op("Select")
def select(b: TfBuilder, node: Node, condition: Value, x: Value, y: Value) -> Any:
    """A vector of conditions chooses rows, as ``SelectV2`` does not."""
    missing = b.rank(x) - b.rank(condition)
    if b.rank(condition) == 1 and missing > 0:
        axes = list(range(1, 1 + missing))
        condition = b.unsqueeze(condition, b.ints(axes))
    return b.where(condition, x, y)


@tf_op("SelectV2")
def select_v2(b: TfBuilder, node: Node, condition: Value, x: Value, y: Value) -> Any:
    return b.where(condition, x, y)


@tf_op("Where")
def where(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.transpose(b.non_zero(b.cast_to(x, dtypes.BOOL)), perm=[1, 0])


@tf_op("OneHot")
def one_hot(b: TfBuilder, node: Node, x: Value, depth: Value, on: Value, off: Value) -> Any:
    values = b.concat(b.reshape(off, b.ints([1])), b.reshape(on, b.ints([1])), axis=0)
    # TensorFlow's places outside of 0..depth - 1 are nowhere, ONNX's negative ones count back.
    ids = wide(b, x)
    inside = b.greater_or_equal(ids, b.like(ids, 0))
    ids = b.where(inside, ids, wide(b, depth) if depth.rank == 0 else scalar(b, wide(b, depth)))
    axis = int(node.attr("axis", -1))
    return b.one_hot(ids, scalar(b, wide(b, depth)), values, axis=axis)


@tf_op("Unique", "UniqueV2")
def unique(b: TfBuilder, node: Node, x: Value, *axis: Value) -> Any:
    if b.rank(x) != 1:
        raise UnsupportedError("unique elements along an axis", code="tf-op")
    values, inverse, _ = _distinct(b, node, x)
    return [values, inverse]


def _distinct(b: TfBuilder, node: Node, x: Value) -> list[Value]:
    """Return the values, the place of each element among them, and how often each is there."""
    kind = node.attr("out_idx", dtypes.I32) or dtypes.I32
    own = dtype_of(x)
    given = wide(b, x) if own.is_integer and own.bits < 64 else x  # runtimes know few types here
    values, _, inverse, counts = b.unique(given, sorted=False, results=4)
    return [b.cast_to(values, own), b.cast_to(inverse, kind), b.cast_to(counts, kind)]


@tf_op("UniqueWithCounts")
def unique_with_counts(b: TfBuilder, node: Node, x: Value) -> Any:
    return _distinct(b, node, x)


@tf_op("DynamicStitch", "ParallelDynamicStitch")
def dynamic_stitch(b: TfBuilder, node: Node, *items: Value) -> Any:
    """Rows of several tensors at given places; the places must be known."""
    half = len(items) // 2
    places = [floats(p, "the places").reshape(-1).astype(np.int64) for p in items[:half]]
    parts = []
    for place, data in zip(items[:half], items[half:], strict=True):
        keep = [b.size_of(data, i) for i in range(b.rank(place), b.rank(data))]
        parts.append(b.resized(data, [-1, *keep]))
    joined = parts[0] if half == 1 else b.concat(*parts, axis=0)
    order = np.concatenate(places)
    last = np.full(int(order.max(initial=-1)) + 1, -1, np.int64)
    last[order] = np.arange(len(order))  # the last of several wins
    if (last < 0).any():
        raise UnsupportedError("places that nothing is written to", code="tf-op")
    return b.gather(joined, b.const(last), axis=0)


def _segment(reduction: str, start: float) -> Callable[..., Any]:
    def row(b: TfBuilder, node: Node, x: Value, places: Value, count: Value) -> Any:
        rows = b.resized(x, [-1, *b.sizes_of(x)[b.rank(places) :]])
        ids = b.resized(wide(b, places), [-1])
        sizes = [b.ints([number(count, "the number of segments")])]
        if b.rank(rows) > 1:
            sizes.append(b.shape(rows, start=1))
        shape = sizes[0] if len(sizes) == 1 else b.concat(*sizes, axis=0)
        kind = dtype_of(x)
        edge = start
        if reduction in ("max", "min") and kind.is_integer:
            limits = np.iinfo(kind.numpy)
            edge = int(limits.min if reduction == "max" else limits.max)
        base = b.expand(b.full((), edge, kind), shape)
        found = b.scatter_nd(base, b.unsqueeze(ids, b.ints([1])), rows, reduction=reduction)
        return found

    return row


_TOP = 3.4028234663852886e38
for _name, _reduction, _start in (
    *(("Sum", "add", 0.0), ("Prod", "mul", 1.0), ("Max", "max", -_TOP), ("Min", "min", _TOP)),
):
    tf_op(f"UnsortedSegment{_name}")(_segment(_reduction, _start))


# -- diagonals -------------------------------------------------------------------------------------


@tf_op("MatrixBandPart")
def band_part(b: TfBuilder, node: Node, x: Value, lower: Value, upper: Value) -> Any:
    below, above = number(lower, "the band"), number(upper, "the band")
    if below >= 0:
        x = b.trilu(x, b.full((), -below, dtypes.I64), upper=True)
    if above >= 0:
        x = b.trilu(x, b.full((), above, dtypes.I64), upper=False)
    return x


@tf_op("MatrixDiag", "BatchMatrixDiag")
def matrix_diag(b: TfBuilder, node: Node, x: Value) -> Any:
    size = b.static_size(x, -1, "a diagonal")
    eye = b.const(np.eye(size).astype(dtype_of(x).numpy), dtype_of(x))
    return b.mul(b.unsqueeze(x, b.ints([b.rank(x) - 1])), eye)


@tf_op("MatrixDiagV2", "MatrixDiagV3")
def matrix_diag_v3(b: TfBuilder, node: Node, x: Value, k: Value, *_: Value) -> Any:
    if number(k, "the diagonal"):
        raise UnsupportedError("a diagonal beside the main one", code="tf-op")
    return matrix_diag(b, node, x)


@tf_op("MatrixDiagPart", "BatchMatrixDiagPart")
def matrix_diag_part(b: TfBuilder, node: Node, x: Value) -> Any:
    rows, columns = b.static_size(x, -2, "a diagonal"), b.static_size(x, -1, "a diagonal")
    size = min(rows, columns)
    rank = b.rank(x)
    if rows != size or columns != size:
        x = b.slice(x, b.ints([0, 0]), b.ints([size, size]), b.ints([rank - 2, rank - 1]))
    eye = b.const(np.eye(size, dtype=bool))
    kept = b.where(eye, x, b.like(x, 0))
    return b.reduce_sum(kept, b.ints([rank - 1]), keepdims=False)


@tf_op("MatrixDiagPartV2", "MatrixDiagPartV3")
def matrix_diag_part_v3(b: TfBuilder, node: Node, x: Value, k: Value, *_: Value) -> Any:
    if number(k, "the diagonal"):
        raise UnsupportedError("a diagonal beside the main one", code="tf-op")
    return matrix_diag_part(b, node, x)


@tf_op("MatrixSetDiag", "MatrixSetDiagV2", "MatrixSetDiagV3")
def matrix_set_diag(b: TfBuilder, node: Node, x: Value, diagonal: Value, *k: Value) -> Any:
    if k and number(k[0], "the diagonal"):
        raise UnsupportedError("a diagonal beside the main one", code="tf-op")
    rows, columns = b.static_size(x, -2, "a diagonal"), b.static_size(x, -1, "a diagonal")
    if rows != columns:
        raise UnsupportedError("the diagonal of a matrix that is not square", code="tf-op")
    eye = b.const(np.eye(rows, dtype=bool))
    return b.where(eye, b.unsqueeze(diagonal, b.ints([b.rank(x) - 1])), x)


@tf_op("Diag")
def diag(b: TfBuilder, node: Node, x: Value) -> Any:
    if b.rank(x) != 1:
        raise UnsupportedError("a diagonal of more than a vector", code="tf-op")
    return matrix_diag(b, node, x)


@tf_op("DiagPart")
def diag_part(b: TfBuilder, node: Node, x: Value) -> Any:
    if b.rank(x) != 2:
        raise UnsupportedError("a diagonal of more than a matrix", code="tf-op")
    return matrix_diag_part(b, node, x)


@tf_op("Cross")
def cross(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    def part(v: Value, *order: int) -> Value:
        found: Value = b.gather(v, b.const(np.asarray(order, np.int64)), axis=-1)
        return found

    left = b.mul(part(x, 1, 2, 0), part(y, 2, 0, 1))
    return b.sub(left, b.mul(part(x, 2, 0, 1), part(y, 1, 2, 0)))
