"""Shapes and indices that are computed: what inference knows of their elements decides."""

from __future__ import annotations

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.dims import Dim
from lepton_ir.infer import const_array, content_of
from lepton_ir.ir import Value
from lepton_ir.passes.canonicalize.operators import made_by
from lepton_ir.passes.canonicalize.slices import slice_ranges
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, propagate_types, refines, rewrite

_END = 1 << 31
_ROWS = 1 << 16


def _pairs(a: Value | None, b: Value | None) -> list[tuple[Dim, Dim]] | None:
    """Return the elements of two vectors that broadcasting brings together, where known."""
    left, right = content_of(a), content_of(b)
    if left is None or right is None or not left or not right:
        return None
    if len(left) != len(right):
        if min(len(left), len(right)) != 1:
            return None
        left, right = (v * max(len(left), len(right)) if len(v) == 1 else v for v in (left, right))
    pairs = [(p, q) for p, q in zip(left, right, strict=True) if p is not None and q is not None]
    return pairs if len(pairs) == len(left) else None


def _mixed(rw: Rewriter, y: Value | None, x: Value | None, equal: list[bool]) -> Value | None:
    """Build y, a concat, with the elements of x where ``equal`` says so."""
    joined, given = made_by(y, "concat"), content_of(x)
    if joined is None or given is None:
        return None
    given = given * len(equal) if len(given) == 1 else given
    parts: list[Value] = []
    at = 0
    for value in joined.operands:
        known = content_of(value)
        if value is None or known is None or value.rank != 1:
            return None
        here = slice(at, at + len(known))
        at += len(known)
        if not any(equal[here]):
            parts.append(value)
        elif all(equal[here]) and all(isinstance(d, int) for d in given[here]):
            parts.append(rw.const(np.asarray(given[here], np.int64)))
        else:
            return None
    if at != len(equal) or joined.result.dtype is not dtypes.I64:
        return None
    made: Value = rw.concat(*parts, axis=0)
    return made


@rewrite("where", exact=True)
def where_of_known_dims(m: Match, rw: Rewriter) -> bool:
    """where(dims == -1, x, y) => y where no dim can be -1, and x where all are -1.

    Exporters write it where a shape may say -1 for "as it is". With some of each: y, a concat,
    with the elements of x in their places.
    """
    condition, x, y = m.root.operands
    test = made_by(condition, "equal")
    if test is None:
        return False
    pairs = _pairs(*test.operands[:2])
    if pairs is None:
        return rw.fail("the elements compared are not known")
    answers = [dims.prove_eq(a, b) for a, b in pairs]
    if None in answers:
        return rw.fail("a pair is neither proven equal nor different")
    rw.also(test)
    taken = x if all(answers) else y
    if any(answers) and not all(answers):
        taken = _mixed(rw, y, x, [bool(a) for a in answers])
    if taken is None:
        return rw.fail("some elements are of one side and some of the other")
    done = rw.replace(m.root, taken)
    propagate_types(taken, rw.worklist)
    return done


@rewrite("slice", exact=True)
def slice_of_shape(m: Match, rw: Rewriter) -> bool:
    """shape(x)[a:b] => shape(x) {start=a, end=b} where Shape has them."""
    producer = made_by(m.root.operands[0], "shape")
    if producer is None:
        return False
    if producer.attr("start") != 0 or producer.attr("end") is not None:
        return rw.fail("the shape is already a part")
    ranges, source = slice_ranges(m.root), producer.operands[0]
    if ranges is None or set(ranges) != {0} or source is None or source.rank is None:
        return rw.fail("bounds or rank are not known")
    start, end, step = ranges[0]
    rank = source.rank
    start, end = (min(max(v + rank if v < 0 else v, 0), rank) for v in (start, end))
    if step != 1 or start >= end:
        return rw.fail("it takes every other dim, or none")
    function = m.root.function
    attrs = {"start": start, "end": end}
    module = None if function is None else function.module
    if module is None or not rw.ctx.legal_name("shape", module, **attrs):
        return rw.fail("Shape has no start and end in this opset")
    rw.also(producer)
    return rw.replace(m.root, rw.shape(source, **attrs))


def _counts_rows(value: Value | None, rows: Dim) -> bool:
    """Whether ``value`` is 0, 1, ..., rows - 1, in order, whatever its shape."""
    while (view := made_by(value, "unsqueeze", "reshape", "squeeze", "cast")) is not None:
        if view.name == "cast" and not _is_integer(view.operands[0]):
            return False
        value = view.operands[0]
    count = made_by(value, "range")
    if count is not None:
        bounds = [content_of(v) for v in count.operands]
        if any(b is None or len(b) != 1 for b in bounds):
            return False
        start, limit, delta = (b[0] for b in bounds if b is not None)
        known = start == 0 and delta == 1 and limit is not None
        return known and dims.prove_eq(limit, rows) is True  # type: ignore[arg-type]
    array = const_array(value, _ROWS * 8)
    if array is None or not isinstance(rows, int) or array.size != rows:
        return False
    return bool((array.reshape(-1) == np.arange(rows)).all())


def _is_integer(value: Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_integer


@rewrite("scatter_nd", exact=True)
def scatter_everything(m: Match, rw: Rewriter) -> bool:
    """scatter_nd(x, [[0], [1], ..., [n-1]], u) => u, the rows of x being n."""
    x, indices, updates = m.root.operands
    if x is None or indices is None or updates is None or not x.shape or not indices.shape:
        return rw.fail("the shapes are not known")
    if m.root.attr("reduction") != "none":
        return rw.fail("the updates are combined with what is there")
    rows = x.shape[0]
    if len(indices.shape) != 2 or indices.shape[1] != 1 or rows is None:
        return rw.fail("the indices are not those of whole rows")
    if not refines(updates.type, m.root.result.type):
        return rw.fail("the updates are not proven to have the shape of x")
    if not _counts_rows(indices, rows):
        return rw.fail("the indices are not proven to be all rows in order")
    return rw.replace(m.root, updates)
