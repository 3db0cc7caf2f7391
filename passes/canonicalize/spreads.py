"""Expands that merge or that broadcasting makes needless, reshapes that copy dims by number."""

from __future__ import annotations

import numpy as np

from lepton_ir import dims
from lepton_ir.infer import const_tensor, content_of
from lepton_ir.ir import Value
from lepton_ir.ops._shapes import broadcast_shapes
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite
from lepton_ir.types import Shape


@rewrite("reshape", exact=True)
def reshape_copies_dims(m: Match, rw: Rewriter) -> bool:
    """reshape(x: [N, S, 8], concat(N, S, -1, 4)) => reshape(x, [0, 0, -1, 4]).

    Every element of the shape is a literal, -1, or the dim of x at its own place.
    """
    x, shape = m.root.operands
    if x is None or x.shape is None or const_tensor(shape) is not None:
        return False
    wanted = content_of(shape)
    if wanted is None:
        return rw.fail("the shape's elements are not known")
    literal: list[int] = []
    for i, d in enumerate(wanted):
        if isinstance(d, int) and (d > 0 or d == -1):
            literal.append(d)
        elif i < len(x.shape) and dims.same_dim(d, x.shape[i]):
            literal.append(0)
        else:
            return rw.fail("element {} of the shape, {}, is not a dim of {} there", i, d, x)
    if literal.count(-1) > 1:
        return False
    return rw.replace(m.root, rw.reshape(x, rw.const(np.asarray(literal, np.int64))))


@rewrite("expand", exact=True)
def merge_expands(m: Match, rw: Rewriter) -> bool:
    """expand(expand(x, s), t) => expand(x, t) where t alone says the whole result."""
    x, shape = m.root.operands
    inner = x.op if x is not None else None
    if inner is None or inner.name != "expand" or inner.has_attr_refs:
        return False
    wanted, result = content_of(shape), m.root.result.shape
    if wanted is None or result is None or len(wanted) != len(result):
        return rw.fail("the shape's elements are not known")
    if not all(dims.same_dim(a, b) for a, b in zip(wanted, result, strict=True)):
        return rw.fail("the inner expand sets dims that the outer one takes over")
    rw.also(inner)
    return rw.replace(m.root, rw.expand(inner.operands[0], shape))


@rewrite("matmul", exact=True)
def drop_expand_of_batches(m: Match, rw: Rewriter) -> bool:
    """matmul(expand(a, s), b) => matmul(a, b) where only batch axes grow, to sizes b has."""
    for i in (0, 1):
        value, other = m.root.operands[i], m.root.operands[1 - i]
        inner = value.op if value is not None else None
        if inner is None or value is None or other is None or inner.name != "expand":
            continue
        source = inner.operands[0]
        if inner.has_attr_refs or source is None or not _grows_batches(source, value, other):
            continue
        try:
            shape = broadcast_shapes([_batch(source), _batch(other)])
        except ValueError:
            continue
        result = m.root.result.shape
        if shape is None or result is None or len(shape) + 2 != len(result):
            continue
        if all(dims.same_dim(a, b) for a, b in zip(shape, result[:-2], strict=True)):
            rw.also(inner)
            operands = [source, other] if i == 0 else [other, source]
            return rw.replace(m.root, rw.matmul(*operands))
    return False


def _batch(value: Value) -> Shape | None:
    return None if value.shape is None else value.shape[:-2]


def _grows_batches(source: Value, value: Value, other: Value) -> bool:
    a, b = source.shape, value.shape
    if a is None or b is None or other.rank is None or min(len(a), len(b), other.rank) < 2:
        return False
    return all(dims.same_dim(p, q) for p, q in zip(a[-2:], b[-2:], strict=True))
