"""Slices, concats, splits and gathers that cancel or merge."""

from __future__ import annotations

import numpy as np

from lepton_ir import dims
from lepton_ir.dims import Dim
from lepton_ir.infer import const_array, content_of
from lepton_ir.ir import Op, Value
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, refines, rewrite

_END = 1 << 31
"""Slice ends from here on mean "to the end" for every tensor that can exist."""


def _ints(value: Value | None) -> list[int] | None:
    array = const_array(value)
    return None if array is None else [int(i) for i in array.reshape(-1)]


def slice_ranges(op: Op) -> dict[int, tuple[int, int, int]] | None:
    """Return axis -> (start, end, step) of a slice with constant bounds and axes that are known."""
    starts, ends = _ints(op.operand("starts")), _ints(op.operand("ends"))
    if starts is None or ends is None:
        return None
    axes_operand, steps_operand = op.operand("axes"), op.operand("steps")
    axes = list(range(len(starts))) if axes_operand is None else _ints(axes_operand)
    steps = [1] * len(starts) if steps_operand is None else _ints(steps_operand)
    if axes is None or steps is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    rank = op.operands[0].rank if op.operands[0] is not None else None
    if any(a < 0 for a in axes):
        if rank is None:
            return None
        axes = [a % rank for a in axes]
    if len(set(axes)) != len(axes):
        return None
    return {a: (s, e, k) for a, s, e, k in zip(axes, starts, ends, steps, strict=True)}


@rewrite("slice", exact=True)
def slice_everything(m: Match, rw: Rewriter) -> bool:
    """slice(x) with steps 1 and a result of x's proven shape => x."""
    x = m.root.operands[0]
    steps = m.root.operand("steps")
    known = _ints(steps)
    if x is None or (steps is not None and (known is None or any(k != 1 for k in known))):
        return False
    if not refines(x.type, m.root.result.type):
        ranges = slice_ranges(m.root)
        if ranges is None or not all(s == 0 and e >= _END for s, e, _ in ranges.values()):
            return False
        return rw.replace(m.root, x, same=True)
    return rw.replace(m.root, x)


@rewrite("slice", exact=True)
def merge_slices(m: Match, rw: Rewriter) -> bool:
    """slice(slice(x)) on different axes, or both forward with steps 1 => one slice."""
    inner_value = m.root.operands[0]
    inner = None if inner_value is None else inner_value.op
    if inner is None or inner.name != "slice" or inner.has_attr_refs:
        return False
    assert inner_value is not None
    if inner_value.use_count > 1:
        return rw.fail("the inner slice has other users")
    first, second = slice_ranges(inner), slice_ranges(m.root)
    if first is None or second is None:
        return rw.fail("the bounds are not constant")
    merged = dict(first)
    for axis, outer in second.items():
        if axis not in first:
            merged[axis] = outer
            continue
        (s1, e1, k1), (s2, e2, k2) = first[axis], outer
        if k1 != 1 or k2 != 1 or min(s1, s2, e2) < 0 or e1 < 0:
            return rw.fail("both slice axis {} with negative bounds or steps", axis)
        merged[axis] = (s1 + s2, min(e1, s1 + e2) if e2 < _END else e1, 1)
        # An inner slice that ends before the outer one starts leaves nothing, as does the
        # merged one: its end is not after its start.
    rw.also(inner)
    axes = sorted(merged)
    columns = [[merged[a][i] for a in axes] for i in range(3)]
    operands = [rw.const(np.asarray(c, np.int64)) for c in (columns[0], columns[1], axes)]
    if any(k != 1 for k in columns[2]):
        operands.append(rw.const(np.asarray(columns[2], np.int64)))
    return rw.replace(m.root, rw.slice(inner.operands[0], *operands))


def _axis(op: Op) -> int | None:
    axis = int(op.attr("axis"))
    if axis >= 0:
        return axis
    rank = op.operands[0].rank if op.operands[0] is not None else None
    return None if rank is None else axis % rank


def _joins(value: Value | None, axis: int) -> Op | None:
    """Return the concat along ``axis`` that makes ``value`` for a single reader."""
    producer = None if value is None else value.op
    if value is None or producer is None or producer.name != "concat" or value.use_count != 1:
        return None
    return producer if not producer.has_attr_refs and _axis(producer) == axis else None


@rewrite("concat", exact=True)
def flatten_concat(m: Match, rw: Rewriter) -> bool:
    """concat(concat(a, b), c) on one axis => concat(a, b, c).

    Only the last of a chain takes the others in, all at once: the work is linear in its length.
    """
    root = m.root
    axis = _axis(root)
    if axis is None or not any(_joins(v, axis) for v in root.operands):
        return False
    use = root.result.first_use
    if use is not None and use.op.name == "concat" and _joins(root.result, axis) is not None:
        outer = use.op
        if not outer.has_attr_refs and _axis(outer) == axis:
            return False
    operands: list[Value | None] = []
    inner: list[Op] = []
    pending: list[Value | None] = list(reversed(root.operands))
    while pending:
        value = pending.pop()
        producer = _joins(value, axis)
        if producer is None:
            operands.append(value)
        else:
            inner.append(producer)
            pending.extend(reversed(producer.operands))
    rw.also(*inner)
    return rw.replace(root, rw.concat(*operands, axis=axis))


@rewrite("concat", exact=True)
def concat_of_split(m: Match, rw: Rewriter) -> bool:
    """concat(all parts of split(x, axis), axis) in order => x."""
    first = m.root.operands[0]
    producer = None if first is None else first.op
    if producer is None or producer.name != "split" or producer.has_attr_refs:
        return False
    if list(m.root.operands) != list(producer.results):
        return rw.fail("not all parts, or not in order")
    axis = _axis(m.root)
    if axis is None or axis != _axis(producer):
        return rw.fail("the axes differ")
    rw.also(producer)
    return rw.replace(m.root, producer.operands[0], same=True)  # type: ignore[arg-type]


def _part_sizes(op: Op, axis: int) -> list[Dim | None]:
    return [None if r.shape is None else r.shape[axis] for r in op.results]


@rewrite("split", exact=True)
def split_of_concat(m: Match, rw: Rewriter) -> bool:
    """split(concat(a, b, ...)) into the very sizes of a, b, ... => a, b, ..."""
    x = m.root.operands[0]
    producer = None if x is None else x.op
    if producer is None or producer.name != "concat" or producer.has_attr_refs:
        return False
    axis = _axis(m.root)
    if axis is None or axis != _axis(producer):
        return rw.fail("the axes differ")
    parts = producer.operands
    if len(parts) != len(m.root.results):
        return rw.fail("{} operands, {} parts", len(parts), len(m.root.results))
    sizes = [None if v is None or v.shape is None else v.shape[axis] for v in parts]
    for a, b in zip(sizes, _part_sizes(m.root, axis), strict=True):
        if a is None or b is None or dims.prove_eq(a, b) is not True:
            return rw.fail("part sizes {} and {} are not proven equal", a, b)
    rw.also(producer)
    return rw.replace(m.root, list(parts))


@rewrite("gather", exact=True)
def gather_everything(m: Match, rw: Rewriter) -> bool:
    """gather(x, [0, 1, ..., n-1]) along an axis of size n => x."""
    x, indices = m.root.operands
    if x is None or indices is None or x.shape is None or indices.rank != 1:
        return False
    known = content_of(indices)
    axis = _axis(m.root)
    if known is None or axis is None or axis >= len(x.shape):
        return False
    if list(known) != list(range(len(known))) or x.shape[axis] != len(known):
        return False
    return rw.replace(m.root, x)


@rewrite("gather", exact=True)
def merge_gathers(m: Match, rw: Rewriter) -> bool:
    """gather(gather(x, p), q) => gather(x, p[q]) along one axis, p and q constant."""
    x, indices = m.root.operands
    inner = None if x is None else x.op
    if inner is None or inner.name != "gather" or inner.has_attr_refs or x is None:
        return False
    axis = _axis(m.root)
    first, second = const_array(inner.operands[1]), const_array(indices)
    if first is None or second is None or first.ndim != 1:
        return rw.fail("indices are not constant")
    if x.use_count > 1 or axis is None or axis != _axis(inner):
        return rw.fail("the inner gather has other users, or another axis")
    if not (-first.size <= second).all() or not (second < first.size).all():
        return rw.fail("an index is out of range")
    rw.also(inner)
    merged = rw.const(first[second])
    attrs = {**m.root.attrs, "axis": axis}
    return rw.replace(m.root, rw.build("gather", inner.operands[0], merged, **attrs).result)


@rewrite("gather", exact=True)
def gather_of_shape(m: Match, rw: Rewriter) -> bool:
    """gather(shape(x), [k, k+1, ...]) => shape(x) {start=k, end=...} where Shape has them.

    Not for a scalar index: that gather would only become a squeeze, and runtimes look for it.
    """
    x, indices = m.root.operands
    producer = None if x is None else x.op
    if producer is None or producer.name != "shape" or producer.has_attr_refs:
        return False
    if producer.attr("start") != 0 or producer.attr("end") is not None:
        return rw.fail("the shape is already a part")
    source = producer.operands[0]
    known = _ints(indices)
    if indices is None or indices.rank != 1 or not known or source is None or source.rank is None:
        return rw.fail("index or rank are not known")
    rank = source.rank
    first = known[0] + rank if known[0] < 0 else known[0]
    span = [i + rank if i < 0 else i for i in known]
    if span != list(range(first, first + len(span))) or not 0 <= first < first + len(span) <= rank:
        return rw.fail("the indices {} are not a range", known)
    function = m.root.function
    attrs = {"start": first, "end": first + len(span)}
    module = None if function is None else function.module
    if module is None or not rw.ctx.legal_name("shape", module, **attrs):
        return rw.fail("Shape has no start and end in this opset")
    rw.also(producer)
    return rw.replace(m.root, rw.shape(source, **attrs))
