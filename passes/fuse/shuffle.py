"""Blocks of pixels moved to channels and back: reshape-transpose-reshape, strided slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.dims import same_dim
from lepton_ir.passes.canonicalize.slices import slice_ranges
from lepton_ir.passes.fuse._match import available, made_by, readable, settle, sole_user
from lepton_ir.passes.fuse._weights import Array, affordable, constant, new_weight
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.dims import Dim
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_VIEWS = ("reshape",)
_END = 1 << 31
_DTYPES = ("f32", "f64")


def _chain(root: Op) -> tuple[Op, Op, tuple[Dim | None, ...]] | None:
    """Return transpose, first reshape and shape of x in reshape(transpose(reshape(x)))."""
    turn = made_by(root.operands[0], "transpose")
    split = None if turn is None else made_by(turn.operands[0], *_VIEWS)
    if turn is None or split is None or split.operands[0] is None:
        return None
    shape = split.operands[0].shape
    if shape is None or len(shape) != 4 or split.result.rank != 6 or root.result.rank != 4:
        return None
    if not sole_user(turn.result) or not sole_user(split.result):
        return None
    return turn, split, shape


def _fixed(value: Value, *axes: int) -> list[int] | None:
    shape = value.shape
    sizes = [] if shape is None else [shape[a] for a in axes]
    known = [s for s in sizes if isinstance(s, int) and s > 0]
    return known if shape is not None and len(known) == len(axes) else None


@rewrite("reshape")
def fuse_depth_to_space(m: Match, rw: Rewriter) -> bool:
    """reshape(transpose(reshape(x))) that moves channels to blocks of pixels => depth_to_space.

    [N, b, b, C, H, W] by 0 3 4 1 5 2 is mode DCR, [N, C, b, b, H, W] by 0 1 4 2 5 3 is mode CRD
    (pixel shuffle).
    """
    found = _chain(m.root)
    if found is None:
        return False
    turn, split, shape = found
    modes = {(0, 3, 4, 1, 5, 2): ("DCR", 1, 2, 3), (0, 1, 4, 2, 5, 3): ("CRD", 2, 3, 1)}
    mode = modes.get(tuple(turn.attr("perm") or ()))
    if mode is None:
        return False
    name, i, j, channel = mode
    sizes, parts, out = _fixed(split.result, i, j, channel), split.result.shape, m.root.result.shape
    x = split.operands[0]
    if sizes is None or parts is None or out is None or x is None or sizes[0] != sizes[1]:
        return rw.fail("block and channels are not known, or the block is not square")
    block, _, channels = sizes
    whole = same_dim(parts[0], shape[0]) and same_dim(parts[4], shape[2])
    whole = whole and same_dim(parts[5], shape[3]) and shape[1] == channels * block * block
    whole = whole and same_dim(out[0], shape[0]) and out[1] == channels
    if not whole or not _scaled(out, shape, block):
        return rw.fail("the reshapes are not proven to keep batch, height and width apart")
    if x.dtype is None or x.dtype.name not in _DTYPES:
        return rw.fail("elements are {}", x.dtype)
    attrs = {"blocksize": block, "mode": name}
    if block == 1 or not available(rw, "depth_to_space", **attrs):
        return rw.fail("the opset has no such DepthToSpace")
    rw.also(turn, split)
    return settle(rw, m.root, rw.depth_to_space(x, **attrs))


def _scaled(large: tuple[Dim | None, ...], small: tuple[Dim | None, ...], block: int) -> bool:
    for a, b in ((large[2], small[2]), (large[3], small[3])):
        if a is None or b is None or not same_dim(a, b * block):
            return False
    return True


_BLOCKS_FIRST, _CHANNELS_FIRST = (0, 3, 5, 1, 2, 4), (0, 1, 3, 5, 2, 4)


@rewrite("reshape")
def fuse_space_to_depth(m: Match, rw: Rewriter) -> bool:
    """reshape(transpose(reshape(x, [N, C, H, b, W, b]), 0 3 5 1 2 4)) => space_to_depth(x).

    By 0 1 3 5 2 4 (pixel unshuffle) the channels are in another order: then the convolution that
    alone reads them takes a weight with its input channels in the new order.
    """
    found = _chain(m.root)
    perm = None if found is None else tuple(found[0].attr("perm") or ())
    if found is None or perm not in (_BLOCKS_FIRST, _CHANNELS_FIRST):
        return False
    turn, split, shape = found
    sizes, parts, out = _fixed(split.result, 3, 5, 1), split.result.shape, m.root.result.shape
    x = split.operands[0]
    if sizes is None or parts is None or out is None or x is None or sizes[0] != sizes[1]:
        return rw.fail("block and channels are not known, or the block is not square")
    block, _, channels = sizes
    whole = same_dim(parts[0], shape[0]) and shape[1] == channels
    whole = whole and same_dim(out[0], shape[0]) and out[1] == channels * block * block
    whole = whole and same_dim(parts[2], out[2]) and same_dim(parts[4], out[3])
    if not whole or not _scaled(shape, out, block):
        return rw.fail("the reshapes are not proven to keep batch, height and width apart")
    if x.dtype is None or x.dtype.name not in _DTYPES or block == 1:
        return rw.fail("elements are {}", x.dtype)
    if not available(rw, "space_to_depth", blocksize=block):
        return rw.fail("the opset has no such SpaceToDepth")
    rw.also(turn, split)
    if perm == _CHANNELS_FIRST:
        return _reordered(m, rw, x, block, lambda old: _phases_first(old, channels))
    return settle(rw, m.root, rw.space_to_depth(x, blocksize=block))


def _phases_first(old: Array, channels: int) -> Array:
    """Move the phases of input channels in front of the channels they are of."""
    parts = old.reshape(old.shape[0], channels, -1, *old.shape[2:])
    return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(old.shape)


def _phase(value: Value | None) -> tuple[Value, list[Op], int, int, int] | None:
    """Return x, the slices, and p, q, b where ``value`` is x[:, :, p::b, q::b]."""
    steps: dict[int, tuple[int, int]] = {}
    passed: list[Op] = []
    while (op := made_by(value, "slice")) is not None and value is not None:
        ranges = slice_ranges(op)
        if ranges is None or not set(ranges) <= {2, 3} or set(ranges) & set(steps):
            return None
        for axis, (start, end, step) in ranges.items():
            given = op.operands[0]
            size = None if given is None or given.shape is None else given.shape[axis]
            to_end = end >= _END - 1 or (isinstance(size, int) and end >= size)
            if not to_end or not 0 <= start < step:
                return None
            steps[axis] = (start, step)
        passed.append(op)
        value = op.operands[0]
    if value is None or set(steps) != {2, 3} or steps[2][1] != steps[3][1]:
        return None
    return value, passed, steps[2][0], steps[3][0], steps[2][1]


@rewrite("concat")
def slices_to_space_to_depth(m: Match, rw: Rewriter) -> bool:
    """concat(x[..., ::2, ::2], x[..., ::2, 1::2], ...) over channels => space_to_depth(x).

    All phases once. In another order of phases the channels differ: then the convolution that
    alone reads them takes a weight with its input channels in the new order.
    """
    if m.root.attr("axis") not in (1, -3) or len(m.root.operands) not in (4, 9, 16):
        return False
    phases = [_phase(v) for v in m.root.operands]
    first = phases[0]
    if first is None:
        return False
    x, _, _, _, block = first
    order: list[int] = []
    passed: list[Op] = []
    for phase in phases:
        if phase is None or phase[0] is not x or phase[4] != block:
            return rw.fail("the operands are not slices of one tensor with one step")
        order.append(phase[2] * block + phase[3])
        passed += phase[1]
    if sorted(order) != list(range(block * block)) or len(order) != block * block:
        return rw.fail("not every phase occurs once")
    if x.rank != 4 or x.dtype is None or x.dtype.name not in _DTYPES:
        return rw.fail("x is not a batch of images of f32 or f64")
    if not available(rw, "space_to_depth", blocksize=block):
        return rw.fail("the opset has no such SpaceToDepth")
    rw.also(*dict.fromkeys(passed))
    if order == sorted(order):
        return settle(rw, m.root, rw.space_to_depth(x, blocksize=block))
    return _reordered(m, rw, x, block, lambda old: _by_phase(old, order))


def _by_phase(old: Array, order: list[int]) -> Array:
    """Put the input channels of each phase in the place of that phase."""
    parts = old.reshape(old.shape[0], len(order), -1, *old.shape[2:])
    return np.ascontiguousarray(parts[:, np.argsort(order)]).reshape(old.shape)


def _reordered(
    m: Match, rw: Rewriter, x: Value, block: int, turned: Callable[[Array], Array]
) -> bool:
    users = m.root.result.users
    conv = users[0] if len(users) == 1 else None
    if conv is None or conv.name != "conv" or conv.operands[0] is not m.root.result:
        return rw.fail("the phases are in another order and no convolution alone reads them")
    weight = conv.operands[1]
    if conv.has_attr_refs or conv.attr("group") != 1 or weight is None or not readable(weight):
        return rw.fail("the convolution has groups or no constant weight")
    if not affordable(rw, weight):
        return False
    old = constant(weight)
    if old.shape[1] % (block * block):
        return rw.fail("the channels of the weight do not fit")
    rw.also(conv)
    deep = rw.space_to_depth(x, blocksize=block)
    rw.before = conv
    made = rw.build(
        "conv", deep, new_weight(rw, turned(old), weight), *conv.operands[2:], **conv.attrs
    )
    made.node_name = conv.node_name
    return rw.replace(conv, made.result)
