"""Operations that move elements: a shorter one, or none, that says the same."""

from __future__ import annotations

import math

import numpy as np

from lepton_ir import dims
from lepton_ir.diagnostics import Location
from lepton_ir.infer import const_array, const_tensor
from lepton_ir.ir import Op, Value
from lepton_ir.passes.canonicalize.operators import made_by
from lepton_ir.passes.canonicalize.slices import slice_ranges
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, refines, rewrite

_END = 1 << 31
_MOST = 64
_BLOCK = 8
_SIGNED = ("f16", "f32", "f64", "i32", "i64")


def _element(ranges: dict[int, tuple[int, int, int]]) -> tuple[int, int] | None:
    """Return axis and index of a slice that takes one element, counted from either end."""
    if len(ranges) != 1:
        return None
    ((axis, (start, end, step)),) = ranges.items()
    one = end == start + 1 or (start == -1 and end >= _END)
    if step != 1 or not one or (start < 0 and end == 0):
        return None
    return axis, start


def _in_blocks(x: Value, axis: int) -> bool:
    """Whether an element along ``axis`` is a block of memory worth a copy, or a single number.

    Kernels of gather copy block by block: along the last axis a slice is faster.
    """
    if x.shape is None:
        return False
    known = [d for d in x.shape[axis + 1 :] if isinstance(d, int)]
    return len(x.shape) == 1 or math.prod(known) >= _BLOCK


@rewrite("squeeze", "reshape", exact=True)
def element_of_slice(m: Match, rw: Rewriter) -> bool:
    """squeeze(x[:, k:k+1], 1) => gather(x, k, axis=1)."""
    value = m.root.operands[0]
    cut = made_by(value, "slice")
    if cut is None or value is None or value.shape is None:
        return False
    if value.use_count > 1:
        return rw.fail("the slice has other users")
    ranges, x = slice_ranges(cut), cut.operands[0]
    found = None if ranges is None else _element(ranges)
    if found is None or x is None or x.rank is None:
        return rw.fail("it does not take one element of a known axis")
    axis, index = found
    if value.shape[axis] != 1:
        return rw.fail("the element is not proven to exist")
    if not _in_blocks(x, axis):
        return rw.fail("its elements are not next to each other")
    rest = (*value.shape[:axis], *value.shape[axis + 1 :])
    out = m.root.result.shape
    if out is None or len(out) != len(rest) or not all(map(dims.same_dim, out, rest)):
        return rw.fail("more than the axis of the slice goes")
    rw.also(cut)
    return rw.replace(m.root, rw.gather(x, rw.const(np.asarray(index, np.int64)), axis=axis))


@rewrite("split", exact=True)
def unstack_by_gather(m: Match, rw: Rewriter) -> bool:
    """squeeze(split(x, ones)[i]) for every i => gather(x, i), one operation less.

    onnxruntime writes it back as it likes.
    """
    op, x = m.root, m.root.operands[0]
    if x is None or x.rank is None:
        return False
    axis = int(op.attr("axis")) % x.rank if x.rank else 0
    users: list[tuple[int, Op]] = []
    for i, part in enumerate(op.results):
        if part.shape is None or len(part.shape) != x.rank or part.shape[axis] != 1:
            return rw.fail("a part is not proven to be one element")
        squeeze = part.users[0] if part.use_count == 1 else None
        if squeeze is None or squeeze.name != "squeeze" or squeeze.has_attr_refs:
            return rw.fail("a part is not only squeezed")
        axes = const_array(squeeze.operand("axes"))
        if axes is None or axes.size != 1 or int(axes.reshape(-1)[0]) % x.rank != axis:
            return rw.fail("another axis is squeezed")
        users.append((i, squeeze))
    if not _in_blocks(x, axis) or len(users) > _MOST:
        return rw.fail("its elements are not next to each other")
    rw.also(*(squeeze for _, squeeze in users))
    rw.permit()
    for i, squeeze in users:
        rw.loc = Location("", (op.loc, squeeze.loc), rw.rule)
        made = rw.gather(x, rw.const(np.asarray(i, np.int64)), axis=axis)
        rw.replace(squeeze.result, made)
    return True


def _plain_pad(op: Op) -> tuple[np.ndarray, float] | None:
    """Return amounts and fill of a constant pad of all axes."""
    amounts = const_array(op.operand("pads"))
    if op.attr("mode") != "constant" or amounts is None or op.operand("axes") is not None:
        return None
    fill = op.operand("constant_value")
    array = None if fill is None else const_array(fill)
    if fill is not None and (array is None or array.size != 1):
        return None
    number = 0.0 if array is None else float(array.reshape(-1)[0])
    return amounts.reshape(-1), number


@rewrite("pad", exact=True)
def merge_pads(m: Match, rw: Rewriter) -> bool:
    """pad(pad(x, p, c), q, c) => pad(x, p + q, c) where neither cuts."""
    inner = made_by(m.root.operands[0], "pad")
    if inner is None:
        return False
    if inner.result.use_count > 1:
        return rw.fail("the inner pad has other users")
    first, second = _plain_pad(inner), _plain_pad(m.root)
    if first is None or second is None or first[0].shape != second[0].shape:
        return rw.fail("amounts, fill or mode are not constant ones of all axes")
    if first[1] != second[1] or min(first[0].min(), second[0].min()) < 0:
        return rw.fail("the fills differ, or one of them cuts")
    rw.also(inner)
    total = rw.const(np.asarray(first[0] + second[0], np.int64))
    return rw.replace(m.root, rw.pad(inner.operands[0], total, *m.root.operands[2:3]))


@rewrite("max_pool", "average_pool", exact=True)
def pool_of_one(m: Match, rw: Rewriter) -> bool:
    """max_pool(x) and average_pool(x) with windows of one pixel, one apart, unpadded => x."""
    op, x = m.root, m.root.operands[0]
    if x is None or len(op.results) != 1:
        return False
    if any(k != 1 for k in op.attr("kernel_shape")) or any(
        s != 1 for s in op.attr("strides") or ()
    ):
        return False
    if any(op.attr("pads") or ()) or not refines(x.type, op.result.type):
        return rw.fail("it pads")
    return rw.replace(op, x)


@rewrite("resize", exact=True)
def resize_to_same_size(m: Match, rw: Rewriter) -> bool:
    """resize(x, sizes) to the proven sizes of x => x: every sample falls on its own pixel."""
    op, x = m.root, m.root.operands[0]
    if x is None or op.operand("sizes") is None or op.operand("scales") is not None:
        return False
    if op.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return rw.fail("it crops")
    if not refines(x.type, op.result.type):
        return rw.fail("the sizes are not proven to be those of {}", x)
    return rw.replace(op, x)


_BROADCASTING = ("add", "sub", "mul", "div", "min", "max", "equal", "less", "greater", "and", "or")


def _only_spreads(tile: Op) -> Value | None:
    """Return x where ``tile`` repeats only axes of size 1 of it."""
    x, out = tile.operands[0], tile.result.shape
    if x is None or x.shape is None or out is None or len(x.shape) != len(out):
        return None
    return (
        x if all(a == 1 or dims.same_dim(a, b) for a, b in zip(x.shape, out, strict=True)) else None
    )


@rewrite(*_BROADCASTING, exact=True)
def drop_tile(m: Match, rw: Rewriter) -> bool:
    """f(tile(x, r), y) => f(x, y) where only axes of size 1 are repeated, to sizes that y has."""
    op = m.root
    if len(op.operands) != 2:
        return False
    for i in (0, 1):
        tile, other = made_by(op.operands[i], "tile"), op.operands[1 - i]
        x = None if tile is None else _only_spreads(tile)
        if tile is None or x is None or other is None:
            continue
        out = tile.result.shape
        if out is None or other.shape is None or len(other.shape) < len(out):
            return rw.fail("{} is not proven to have the repeated sizes", other)
        sizes = zip(reversed(out), reversed(other.shape), reversed(x.shape or ()), strict=False)
        if not all(dims.same_dim(a, c) or dims.same_dim(a, b) for a, b, c in sizes):
            return rw.fail("{} is not proven to have the repeated sizes", other)
        rw.also(tile)
        operands = [x, other] if i == 0 else [other, x]
        return rw.replace(op, rw.build(op.name, *operands, **op.attrs).result)
    return False


@rewrite("reshape", exact=True)
def concat_of_stack(m: Match, rw: Rewriter) -> bool:
    """reshape(concat(unsqueeze(a, k), unsqueeze(b, k))) that joins axes k and k + 1 => concat."""
    joined = made_by(m.root.operands[0], "concat")
    out = m.root.result.shape
    if joined is None or out is None or not 1 < len(joined.operands) <= _MOST:
        return False
    rank = joined.result.rank
    parts = [made_by(v, "unsqueeze") for v in joined.operands]
    if rank is None or rank != len(out) + 1:
        return False
    axis = int(joined.attr("axis")) % rank
    values: list[Value] = []
    for part in parts:
        axes = None if part is None else const_array(part.operand("axes"))
        x = None if part is None else part.operands[0]
        if axes is None or x is None or x.shape is None or axes.size != 1:
            return False
        if int(axes.reshape(-1)[0]) % rank != axis or axis >= len(out):
            return rw.fail("an operand is not stacked on the axis of the concat")
        values.append(x)
    first = values[0].shape
    assert first is not None
    size = first[axis]
    wanted = [
        size * len(values) if i == axis and size is not None else d for i, d in enumerate(first)
    ]
    if not all(map(dims.same_dim, wanted, out)):
        return rw.fail("the reshape does not join the stacked axis with the next one")
    rw.also(joined, *(p for p in parts if p is not None))
    return rw.replace(m.root, rw.concat(*values, axis=axis))


@rewrite("sub", "mul", "max", "min", exact=True)
def sign_by_constant(m: Match, rw: Rewriter) -> bool:
    """(x) * -1 => -x, 0 - x => -x, max(x, -inf) => x, min(x, inf) => x."""
    op = m.root
    if len(op.operands) != 2:
        return False
    a, b = op.operands
    order = ((a, b),) if op.name == "sub" else ((a, b), (b, a))
    for given, x in order:
        tensor = const_tensor(given)
        if tensor is None or x is None or tensor.size == 0 or const_tensor(x) is not None:
            continue
        number = tensor.splat_value()
        if number is None or x.dtype is None or x.dtype.name not in _SIGNED:
            continue
        return _by_number(m, rw, op.name, x, float(number))
    return False


def _by_number(m: Match, rw: Rewriter, name: str, x: Value, number: float) -> bool:
    if name == "mul" and number == -1:
        return _negated(m, rw, x)
    if name == "sub" and number == 0:
        if rw.ctx.exact and x.dtype is not None and x.dtype.is_float:
            return rw.fail("0 - 0 is 0, not -0")
        return _negated(m, rw, x)
    if (name, number) in (("max", -np.inf), ("min", np.inf)):
        return rw.replace(m.root, x)
    return False


def _negated(m: Match, rw: Rewriter, x: Value) -> bool:
    if not refines(x.type, m.root.result.type):
        return rw.fail("the constant may raise the rank")
    return rw.replace(m.root, rw.neg(x))
