"""Views: reshapes, squeezes, transposes and expands that cancel, merge or do nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_ir import dims
from lepton_ir.dims import Dim
from lepton_ir.infer import const_tensor
from lepton_ir.ir import Op, Value
from lepton_ir.ops._shapes import broadcast_shapes
from lepton_ir.pattern import Match, P, attr, const, var
from lepton_ir.rewrite import Rewriter, refines, rewrite
from lepton_ir.types import TensorType

_RESHAPES = ("reshape", "squeeze", "unsqueeze", "flatten")


MAX_RANK = 64
"""Rank of a tensor as far as rules look at single axes."""


def reshape_operand(source: Value, target: Value) -> list[int] | None:
    """Return the ``shape`` operand that reshapes ``source`` to the proven shape of ``target``.

    ``None`` when the proven shape cannot be said with constants, see `literal_shape`.
    """
    return None if target.shape is None else literal_shape(source.shape or (), target.shape)


def literal_shape(given: Sequence[Dim | None], wanted: Sequence[Dim | None]) -> list[int] | None:
    """Return the ``shape`` operand that reshapes a tensor of one proven shape to another.

    Literal sizes, 0 for "as in the source", or one -1; ``None`` when ``wanted`` cannot be said that
    way. Never -1 beside a dim that may be 0: an empty tensor would leave it open.
    """
    out: list[int] = []
    copies = unknown = 0
    for i, d in enumerate(wanted):
        if isinstance(d, int):
            if d == 0:
                return None  # 0 would mean "as in the source"
            out.append(d)
        elif i < len(given) and dims.same_dim(d, given[i]):
            out.append(0)
            copies += 1
        else:
            out.append(-1)
            unknown += 1
    if unknown > 1 or (unknown and copies):
        if copies == 1 and unknown == 0:
            return out
        return None
    if copies == 1 and not unknown:
        # One open dim: -1 says the same and does not depend on the source's rank.
        out[out.index(0)] = -1
    return out


@rewrite("reshape", exact=True)
def reshape_literal(m: Match, rw: Rewriter) -> bool:
    """reshape(x, computed shape) => reshape(x, constant) where the proven result allows it."""
    x, shape = m.root.operands
    assert x is not None
    if const_tensor(shape) is not None:
        return False
    literal = reshape_operand(x, m.root.result)
    if literal is None:
        return rw.fail("the result {} cannot be said with constants", m.root.result.type)
    return rw.replace(m.root, rw.reshape(x, rw.const(np.asarray(literal, np.int64))))


@rewrite(
    *(*_RESHAPES, "expand", "tile", "pad", "transpose", "concat", "split", "resize"), exact=True
)
def nothing_happens(m: Match, rw: Rewriter) -> bool:
    """A view, expand, tile, pad or one-part concat or split whose result is its operand => x."""
    op = m.root
    x = op.operands[0]
    if x is None or len(op.results) != 1 or not _keeps_elements(op, x):
        return False
    return rw.replace(op, x)


def _keeps_elements(op: Op, x: Value) -> bool:
    """Whether equal shapes of operand and result mean equal elements."""
    if op.name == "transpose":
        perm = op.attr("perm")
        return bool(perm) and list(perm) == list(range(len(perm)))
    if op.name == "concat":
        return len(op.operands) == 1
    if op.name == "pad":
        pads = const_tensor(op.operand("pads"))
        return pads is not None and not pads.numpy().any() and refines(x.type, op.result.type)
    if op.name == "resize":
        scales = const_tensor(op.operand("scales"))
        ones = scales is not None and scales.size > 0 and bool((scales.numpy() == 1).all())
        mode = op.attr("coordinate_transformation_mode")
        return ones and mode != "tf_crop_and_resize"
    return refines(x.type, op.result.type)


@rewrite(*_RESHAPES, exact=True)
def merge_views(m: Match, rw: Rewriter) -> bool:
    """A chain of reshape, squeeze, unsqueeze, flatten => one reshape, or nothing.

    The merged shape rests on the proven type of the result, so 0 and -1 in the steps between
    cannot change it.
    """
    source, steps = m.root.operands[0], 0
    passed: list[Op] = []
    while source is not None and source.op is not None and source.op.name in _RESHAPES:
        if source.op.has_attr_refs:
            break
        passed.append(source.op)
        source = source.op.operands[0]
        steps += 1
    if source is None or steps == 0:
        return False
    rw.also(*passed)
    if refines(source.type, m.root.result.type):
        return rw.replace(m.root, source)
    literal = reshape_operand(source, m.root.result)
    if literal is None:
        return rw.fail("the result {} cannot be said with constants", m.root.result.type)
    return rw.replace(m.root, rw.reshape(source, rw.const(np.asarray(literal, np.int64))))


@rewrite(
    P.unsqueeze(P.unsqueeze(var("x"), const("a")), const("b")),
    exact=True,
)
def merge_unsqueezes(m: Match, rw: Rewriter) -> bool:
    """unsqueeze(unsqueeze(x, a), b) => unsqueeze(x, a and b), axes not negative."""
    inner, outer = m.a.ints(), m.b.ints()
    if min((*inner, *outer), default=0) < 0:
        return rw.fail("negative axes with an unknown rank")
    rank = len(inner) + len(outer) + max((*inner, *outer), default=0) + 1
    slots = [-1] * rank
    for axis in outer:
        slots[axis] = -2
    free = [i for i, s in enumerate(slots) if s == -1]
    axes = sorted([*outer, *(free[a] for a in inner)])
    return rw.replace(m.root, rw.unsqueeze(m.x, rw.const(np.asarray(axes, np.int64))))


@rewrite(P.transpose(P.transpose(var("x"), perm=attr("p")).shared(), perm=attr("q")), exact=True)
def merge_transposes(m: Match, rw: Rewriter) -> bool:
    """transpose(transpose(x, p), q) => transpose(x, p[q]), or x when that is the identity."""
    rank = len(m.p or m.q or ()) or m.x.rank
    if rank is None:
        return rw.fail("the rank is not known")
    p = m.p or tuple(reversed(range(rank)))
    q = m.q or tuple(reversed(range(rank)))
    perm = tuple(p[i] for i in q)
    if perm == tuple(range(rank)):
        return rw.replace(m.root, m.x, same=True)
    if m.ops[-1].result.use_count > 1:
        return rw.fail("the inner transpose has other users")
    return rw.replace(m.root, rw.transpose(m.x, perm=perm))


_BROADCASTING = (
    *("add", "sub", "mul", "div", "pow", "equal", "less", "less_or_equal", "greater"),
    *("greater_or_equal", "and", "or", "xor", "where", "mod"),
)


@rewrite(*_BROADCASTING, exact=True)
def drop_expand(m: Match, rw: Rewriter) -> bool:
    """f(expand(x, s), y) => f(x, y) where broadcasting proves the same result shape."""
    op = m.root
    for i, value in enumerate(op.operands):
        producer = None if value is None else value.op
        if producer is None or producer.name != "expand" or producer.has_attr_refs:
            continue
        source = producer.operands[0]
        assert source is not None
        others = [v for j, v in enumerate(op.operands) if j != i and v is not None]
        shape = broadcast_all([source, *others])
        result = op.result.shape
        if shape is None or result is None or len(shape) != len(result):
            continue
        if not all(map(dims.same_dim, shape, result)):
            continue
        rw.also(producer)
        operands = list(op.operands)
        operands[i] = source
        return rw.replace(op, rw.build(op.name, *operands, **op.attrs).result)
    return False


def broadcast_all(values: list[Value]) -> tuple[Dim | None, ...] | None:
    """Return the shape of the broadcast, with dims only where they are certain."""
    try:
        return broadcast_shapes([v.shape for v in values])
    except ValueError:
        return None


@rewrite("unsqueeze", exact=True)
def reduce_keeps_dims(m: Match, rw: Rewriter) -> bool:
    """unsqueeze(reduce(x, axes, keepdims=false), axes) => reduce(x, axes, keepdims=true)."""
    x, axes = m.root.operands
    producer = None if x is None else x.op
    if x is None or producer is None or not producer.name.startswith("reduce_"):
        return False
    if producer.attr("keepdims") or x.use_count > 1 or producer.has_attr_refs:
        return rw.fail("the reduction keeps its dims or has other users")
    reduced = const_tensor(producer.operand("axes"))
    added = const_tensor(axes)
    source = producer.operands[0]
    if reduced is None or added is None or source is None or source.rank is None:
        return rw.fail("axes or rank are not known")
    rank = source.rank
    over = sorted(int(a) % rank for a in reduced.numpy().reshape(-1)) if rank else []
    if not over or over != sorted(int(a) % rank for a in added.numpy().reshape(-1)):
        return rw.fail("the axes differ")
    if not isinstance(m.root.result.type, TensorType):
        return False
    attrs = {**producer.attrs, "keepdims": True}
    rw.also(producer)
    made = rw.build(producer.name, source, producer.operand("axes"), **attrs)
    return rw.replace(m.root, made.result)


@rewrite("range", exact=True)
def range_of_scalars(m: Match, rw: Rewriter) -> bool:
    """range(start: [1], ...) => range(reshape(start, []), ...).

    Runtimes take vectors of one element as long as they do not know the shape before they run;
    what inference and folding make known, they would refuse.
    """
    changed = False
    for i, value in enumerate(m.root.operands):
        if value is not None and value.shape == (1,):
            rw.permit()
            rw.set_operand(m.root, i, rw.reshape(value, rw.const(np.zeros(0, np.int64))))
            changed = True
    return changed or rw.fail("its operands are scalars, as far as known")


@rewrite("squeeze", "unsqueeze", exact=True)
def sort_axes(m: Match, rw: Rewriter) -> bool:
    """squeeze(x, [2, 1]) => squeeze(x, [1, 2]); onnx's shape inference needs them in order."""
    axes = const_tensor(m.root.operand("axes"))
    if axes is None or axes.size < 2 or axes.size > MAX_RANK:
        return False
    given = [int(a) for a in axes.numpy().reshape(-1)]
    if min(given) < 0 or given == sorted(given):
        return rw.fail("the axes {} are sorted, or counted from the back", given)
    rw.permit()
    rw.set_operand(m.root, 1, rw.const(np.asarray(sorted(given), np.int64)))
    return True
