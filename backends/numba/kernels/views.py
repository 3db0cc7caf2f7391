"""Operations that only say how memory is read: no kernel runs until somebody needs rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Ref, Tensor, row_major

if TYPE_CHECKING:
    from collections.abc import Sequence


def _strided(lo: Lowering, t: Tensor) -> Tensor:
    return lo.plain(t) if t.blocked is not None else t


def shifted(t: Tensor, elements: int) -> Ref:
    """Return the address of an element."""
    return Ref(t.ref.buffer, t.ref.offset + elements * t.itemsize)


@lowers("identity")
def lower_identity(lo: Lowering) -> None:
    """Lower Identity."""
    lo.set(replace(lo.operand(0)))


@lowers("reshape", "flatten", "squeeze", "unsqueeze")
def lower_reshape(lo: Lowering) -> None:
    """Lower what keeps the order of elements."""
    t = _strided(lo, lo.operand(0))
    _, shape = lo.type()
    strides = reshaped(t, shape)
    if strides is None:
        t, strides = lo.plain(t), row_major(shape)
    lo.set(Tensor(t.dtype, shape, t.ref, strides))


def reshaped(t: Tensor, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Return the strides of a view with another shape, ``None`` if there is none."""
    if t.is_plain:
        return row_major(tuple(shape))
    pairs = [(n, s) for n, s in zip(t.shape, t.strides, strict=True) if n != 1]
    found: list[int] = []
    position = len(pairs) - 1
    for size in reversed(shape):
        if size == 1:
            found.append(1)
            continue
        if position < 0:
            return None
        have, stride = pairs[position]
        if have % size:
            merged = _merge(pairs, position, size)
            if merged is None:
                return None
            position, stride = merged
            found.append(stride)
            continue
        found.append(stride)
        if have == size:
            position -= 1
        else:
            pairs[position] = (have // size, stride * size)
    return tuple(reversed(found)) if position < 0 else None


def _merge(pairs: list[tuple[int, int]], last: int, size: int) -> tuple[int, int] | None:
    """Return how one axis covers several: the axis before them, and the stride."""
    total, stride = pairs[last]
    position = last - 1
    while total < size and position >= 0:
        count, step = pairs[position]
        if step != stride * total:
            return None
        total *= count
        position -= 1
    return (position, stride) if total == size else None


@lowers("transpose")
def lower_transpose(lo: Lowering) -> None:
    """Lower Transpose."""
    t = _strided(lo, lo.operand(0))
    perm = lo.anchor.attr("perm") or tuple(reversed(range(len(t.shape))))
    lo.set(permuted(t, perm))


def permuted(t: Tensor, perm: Sequence[int]) -> Tensor:
    """Return a view with its axes in another order."""
    shape = tuple(t.shape[p] for p in perm)
    return Tensor(t.dtype, shape, t.ref, tuple(t.strides[p] for p in perm))


@lowers("expand")
def lower_expand(lo: Lowering) -> None:
    """Lower Expand: repeated axes have stride 0."""
    from lepton_ir.backends.numba.strides import broadcast

    t = _strided(lo, lo.operand(0))
    _, shape = lo.type()
    lo.set(Tensor(t.dtype, shape, t.ref, broadcast(t, shape)))


@lowers("slice")
def lower_slice(lo: Lowering) -> None:
    """Lower Slice with known bounds."""
    t = _strided(lo, lo.operand(0))
    starts, ends = lo.ints(1), lo.ints(2)
    axes = lo.ints(3) if lo.has(3) else tuple(range(len(starts or ())))
    steps = lo.ints(4) if lo.has(4) else (1,) * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None:
        lo.decline("bounds that depend on data")
    shape, strides, offset = list(t.shape), list(t.strides), 0
    for start, end, raw, step in zip(starts, ends, axes, steps, strict=True):
        axis = raw % len(t.shape)
        positions = range(t.shape[axis])[_slice(start, end, step)]
        offset += positions.start * t.strides[axis]
        shape[axis], strides[axis] = len(positions), t.strides[axis] * step
    lo.set(Tensor(t.dtype, tuple(shape), shifted(t, offset), tuple(strides)))


def _slice(start: int, end: int, step: int) -> slice:
    """Return a Python slice: a backward one that goes below index 0 ends with nothing."""
    if step < 0 and end < -(1 << 30):
        return slice(start, None, step)
    return slice(start, end, step)


@lowers("split")
def lower_split(lo: Lowering) -> None:
    """Lower Split."""
    t = _strided(lo, lo.operand(0))
    axis = lo.anchor.attr("axis") % len(t.shape)
    start = 0
    for index in range(len(lo.op.results)):
        _, shape = lo.type(index)
        ref = shifted(t, start * t.strides[axis])
        lo.set(Tensor(t.dtype, shape, ref, t.strides), index)
        start += shape[axis]


@lowers("concat")
def lower_concat(lo: Lowering) -> None:
    """Lower Concat: each operand is copied to its place."""
    from lepton_ir.backends.numba.kernels.copy import copy_into

    given = [lo.operand(i) for i in range(len(lo.anchor.operands))]
    dtype, whole = lo.type()
    axis = lo.anchor.attr("axis") % len(whole)
    if axis == 1 and all(t.blocked is not None for t in given):
        from lepton_ir.backends.numba.kernels.blocked import concat_channels

        if concat_channels(lo, given, whole):
            return
    tensors = [_strided(lo, t) for t in given]
    y = lo.new(dtype, whole)
    start = 0
    for t in tensors:
        part = Tensor(y.dtype, t.shape, shifted(y, start * y.strides[axis]), y.strides)
        copy_into(lo, t, part)
        start += t.shape[axis]
    lo.set(y)


@lowers("tile")
def lower_tile(lo: Lowering) -> None:
    """Lower Tile: a copy of a view that repeats each axis with stride 0."""
    t, repeats = _strided(lo, lo.operand(0)), lo.ints(1)
    if repeats is None:
        lo.decline("repeats that depend on data")
    pairs = list(zip(repeats, t.shape, t.strides, strict=True))
    inner = tuple(n for count, size, _ in pairs for n in (count, size))
    strides = tuple(s for _, _, stride in pairs for s in (0, stride))
    whole = lo.plain(Tensor(t.dtype, inner, t.ref, strides))
    shape = tuple(count * size for count, size, _ in pairs)
    lo.set(Tensor(t.dtype, shape, whole.ref, row_major(shape)))


@lowers("pad")
def lower_pad(lo: Lowering) -> None:
    """Lower Pad: gathers along the axes, or the operand copied into what a constant fills."""
    t = _strided(lo, lo.operand(0))
    pads = lo.ints(1)
    axes = lo.ints(3) if lo.has(3) else tuple(range(len(t.shape)))
    if pads is None or axes is None:
        lo.decline("padding that depends on data")
    if min(pads, default=0) < 0:
        lo.decline("negative padding")
    if lo.anchor.attr("mode") == "constant":
        _pad_constant(lo, t, pads, axes)
        return
    t = lo.plain(t)
    for before, behind, raw in zip(pads, pads[len(axes) :], axes, strict=False):
        if before or behind:
            t = _pad_by_index(lo, t, raw % len(t.shape), (before, behind))
    lo.set(t)


def _pad_by_index(lo: Lowering, t: Tensor, axis: int, pads: tuple[int, int]) -> Tensor:
    """Pad one axis with elements of its own."""
    from lepton_ir.backends.numba.kernels.gather import call_gather

    mode = lo.anchor.attr("mode")
    index = np.pad(np.arange(t.shape[axis]), pads, mode=mode)
    y = lo.new(t.dtype, (*t.shape[:axis], len(index), *t.shape[axis + 1 :]))
    call_gather(lo, t, axis, index, y)
    return y


def _pad_constant(lo: Lowering, t: Tensor, pads: Sequence[int], axes: Sequence[int]) -> None:
    from lepton_ir.backends.numba.kernels.copy import copy_into, fill

    value = np.zeros((), t.dtype.numpy)
    if lo.has(2):
        known = lo.known(2)
        if known is None or known.size != 1:
            lo.decline("a value that depends on data")
        value = known.reshape(())
    y = lo.new(*lo.type())
    fill(lo, y, value)
    offset = sum(
        before * y.strides[axis % len(t.shape)] for before, axis in zip(pads, axes, strict=False)
    )
    copy_into(lo, t, Tensor(y.dtype, t.shape, shifted(y, offset), y.strides))
    lo.set(y)


@lowers("depth_to_space")
def lower_depth_to_space(lo: Lowering) -> None:
    """Lower DepthToSpace: a transposition of more axes."""
    t = lo.plain(lo.operand(0))
    if len(t.shape) != 4:
        lo.decline("not four axes")
    n, c, h, w = t.shape
    b = lo.anchor.attr("blocksize")
    dcr = lo.anchor.attr("mode") == "DCR"
    inner = (n, b, b, c // (b * b), h, w) if dcr else (n, c // (b * b), b, b, h, w)
    view = Tensor(t.dtype, inner, t.ref, row_major(inner))
    moved = lo.plain(permuted(view, (0, 3, 4, 1, 5, 2) if dcr else (0, 1, 4, 2, 5, 3)))
    shape = (n, c // (b * b), h * b, w * b)
    lo.set(Tensor(t.dtype, shape, moved.ref, row_major(shape)))
