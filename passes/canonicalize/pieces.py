"""Pieces of one tensor along one axis: slices, gathers and splits that belong together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_ir.infer import const_array
from lepton_ir.ir import Op, Value
from lepton_ir.passes.canonicalize.slices import slice_ranges
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite

_MOST = 64
_USE_LIMIT = 256


@dataclass(frozen=True)
class Piece:
    """Elements ``start`` to ``end`` of ``source`` along ``axis``; the other axes are whole."""

    source: Value
    axis: int
    start: int
    end: int


def _size(value: Value | None, axis: int) -> int | None:
    if value is None or value.shape is None or axis >= len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def _attr_axis(op: Op, rank: int | None) -> int | None:
    axis = int(op.attr("axis"))
    if axis >= 0:
        return axis
    return None if rank is None else axis + rank


def _of_slice(op: Op) -> Piece | None:
    ranges, x = slice_ranges(op), op.operands[0]
    if ranges is None or len(ranges) != 1 or x is None:
        return None
    ((axis, (start, end, step)),) = ranges.items()
    size = _size(x, axis)
    if step != 1 or size is None:
        return None
    start, end = (min(max(v + size if v < 0 else v, 0), size) for v in (start, end))
    return Piece(x, axis, start, end) if start < end else None


def _of_gather(op: Op, vector: bool) -> Piece | None:
    """A gather of consecutive indices: a vector of them, or one that drops the axis."""
    x, indices = op.operands
    found = const_array(indices)
    axis = None if x is None else _attr_axis(op, x.rank)
    if found is None or x is None or axis is None or found.ndim != int(vector) or not found.size:
        return None
    size = _size(x, axis)
    if size is None:
        return None
    taken = [int(i) + size if int(i) < 0 else int(i) for i in found.reshape(-1)]
    first = taken[0]
    if taken != list(range(first, first + len(taken))) or first < 0 or taken[-1] >= size:
        return None
    return Piece(x, axis, first, first + len(taken))


def _of_split(op: Op, index: int) -> Piece | None:
    x = op.operands[0]
    axis = None if x is None else _attr_axis(op, x.rank)
    if x is None or axis is None:
        return None
    sizes = [_size(r, axis) for r in op.results]
    start = 0
    for i, size in enumerate(sizes):
        if size is None:
            return None
        if i == index:
            return Piece(x, axis, start, start + size) if size else None
        start += size
    return None


def piece_of(value: Value | None) -> Piece | None:
    """Return what part of another tensor ``value`` is, where that is certain."""
    op = None if value is None else value.op
    if op is None or value is None or op.has_attr_refs:
        return None
    if op.name == "slice":
        return _of_slice(op)
    if op.name == "gather":
        return _of_gather(op, vector=True)
    if op.name == "split":
        return _of_split(op, value.index)
    if op.name == "unsqueeze":
        inner = op.operands[0].op if op.operands[0] is not None else None
        axes = const_array(op.operand("axes"))
        if inner is None or inner.name != "gather" or inner.has_attr_refs or axes is None:
            return None
        found = _of_gather(inner, vector=False)
        if found is None or axes.size != 1 or found.source.rank is None:
            return None
        axis = int(axes.reshape(-1)[0])
        axis = axis + found.source.rank if axis < 0 else axis
        return found if axis == found.axis else None
    return None


def _sliced(rw: Rewriter, whole: Piece) -> Value:
    bounds = [rw.const(np.asarray([v], np.int64)) for v in (whole.start, whole.end, whole.axis)]
    made: Value = rw.slice(whole.source, *bounds)
    return made


@rewrite("concat", exact=True)
def concat_of_pieces(m: Match, rw: Rewriter) -> bool:
    """concat(x[0:2], x[2:5], y) along the axis they were cut on => concat(x[0:5], y).

    Slices, splits, gathers of consecutive indices, and unstacked elements are pieces; all of them
    together are x itself.
    """
    operands = m.root.operands
    axis = _attr_axis(m.root, m.root.result.rank)
    if axis is None or len(operands) < 2 or len(operands) > _MOST:
        return False
    merged: list[Value | Piece | None] = []
    passed: list[Op] = []
    for value in operands:
        found = piece_of(value)
        last = merged[-1] if merged else None
        if found is None or found.axis != axis:
            merged.append(value)
            continue
        if isinstance(last, Piece) and last.source is found.source and last.end == found.start:
            merged[-1] = Piece(found.source, axis, last.start, found.end)
        else:
            merged.append(found)
        assert value is not None
        assert value.op is not None
        passed.append(value.op)
    wider = [
        p for p in merged if isinstance(p, Piece) and (p.start, p.end) != (0, _size(p.source, axis))
    ]
    whole = sum(isinstance(p, Piece) for p in merged) - len(wider)
    if len(merged) == len(operands) and not whole:
        return rw.fail("no two operands are neighbouring pieces of one tensor")
    gone = sum(all(u is m.root for r in op.results for u in r.users) for op in set(passed))
    if wider and len(wider) + (len(merged) > 1) >= gone + 1:
        return rw.fail("slices that would be made are as many as those that go")
    rw.also(*dict.fromkeys(passed))
    values = [
        p if not isinstance(p, Piece) else (_sliced(rw, p) if p in wider else p.source)
        for p in merged
    ]
    if len(values) == 1 and values[0] is not None:
        return rw.replace(m.root, values[0])
    return rw.replace(m.root, rw.concat(*values, axis=axis))


@rewrite("slice", "gather", exact=True)
def pieces_to_split(m: Match, rw: Rewriter) -> bool:
    """x[0:2], x[2:5], x[5:n] that cover an axis => split(x, [2, 3, n - 5])."""
    first = piece_of(m.root.result)
    if first is None or first.start != 0 or first.source.use_count > _USE_LIMIT:
        return False
    size = _size(first.source, first.axis)
    found: dict[int, tuple[Piece, Op]] = {}
    for user in first.source.users:
        if user.name not in ("slice", "gather") or user.operands[0] is not first.source:
            continue
        piece = piece_of(user.result)
        if piece is None or piece.axis != first.axis:
            continue
        if user.block is not m.root.block or piece.start in found:
            return rw.fail("pieces overlap or are in another block")
        found[piece.start] = (piece, user)
    parts = [found[k] for k in sorted(found)]
    ends = [0, *(p.end for p, _ in parts)]
    if len(parts) < 2 or ends[:-1] != [p.start for p, _ in parts] or ends[-1] != size:
        return rw.fail("the slices beside it do not cover the axis without overlap")
    assert m.root.block is not None
    m.root.block.ensure_order()
    users = [u for _, u in parts]
    merging = sum(u.result.use_count == 1 and u.result.users[0].name == "slice" for u in users)
    if 1 + merging >= len(parts):
        return rw.fail("the slices merge with those behind them")
    rw.also(*users)
    rw.permit()
    rw.before = min(users, key=lambda u: u.order)
    sizes = rw.const(np.asarray([p.end - p.start for p, _ in parts], np.int64))
    made = rw.build("split", first.source, sizes, results=len(parts), axis=first.axis)
    for user, part in zip(users, made.results, strict=True):
        rw.replace(user.result, part)
    return True


@rewrite("slice", "gather", exact=True)
def piece_of_concat(m: Match, rw: Rewriter) -> bool:
    """concat(a, b, c)[the place of b] => b."""
    piece = piece_of(m.root.result)
    producer = None if piece is None else piece.source.op
    if piece is None or producer is None or producer.name != "concat" or producer.has_attr_refs:
        return False
    if _attr_axis(producer, piece.source.rank) != piece.axis or len(producer.operands) > _MOST:
        return rw.fail("it was joined on another axis")
    start = 0
    for value in producer.operands:
        size = _size(value, piece.axis)
        if size is None or value is None or start > piece.start:
            break
        if (start, start + size) == (piece.start, piece.end):
            rw.also(producer)
            return rw.replace(m.root, value)
        start += size
    return rw.fail("it is not one whole operand")
