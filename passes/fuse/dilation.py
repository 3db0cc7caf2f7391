"""Convolutions over blocks of pixels that were moved to the batch, which are dilated ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_ir import dims
from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import made_by, settle
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_MOVES = ("reshape", "transpose", "space_to_depth", "depth_to_space")
_MOST = 8
_PRIME = (1 << 31) - 1
"""Stands for a symbol: sizes that are numbers do not have it as a factor."""

_ORDERS = {"DCR": (0, 3, 4, 1, 5, 2), "CRD": (0, 1, 4, 2, 5, 3), "": (0, 3, 5, 1, 2, 4)}

Axis = list[int]
"""The parts of an axis, the outermost first, by their numbers; none where its size is 1."""


def _sizes(value: Value | None) -> list[int] | None:
    """Return the sizes of ``value``, if known; multiples of a prime for its only symbol."""
    if value is None or value.shape is None or any(d is None for d in value.shape):
        return None
    known = [d for d in value.shape if d is not None]
    names = {s for d in known for s in dims.symbols(d)}
    try:
        sizes = [int(dims.evaluate(d, dict.fromkeys(names, _PRIME))) for d in known]
    except (ValueError, ArithmeticError):
        return None
    plain = all(
        0 < s < _PRIME if isinstance(d, int) else s % _PRIME == 0 and s < _PRIME**2
        for s, d in zip(sizes, known, strict=True)
    )
    return sizes if plain and len(names) < 2 else None


@dataclass
class _Trace:
    """Follows axes through operations that only move elements.

    Attributes:
        size: of each part of an axis.
        inside: the outer and the inner part of a part that was taken apart.
    """

    size: list[int] = field(default_factory=list)
    inside: dict[int, tuple[int, int]] = field(default_factory=dict)

    def axis(self, *sizes: int) -> Axis:
        """Return an axis of new parts of these sizes."""
        made = []
        for size in sizes:
            if size > 1:
                made.append(len(self.size))
                self.size.append(size)
        return made

    def resolved(self, axis: Axis) -> Axis:
        """Return an axis with parts in place of what was taken apart."""
        found: Axis = []
        for part in axis:
            pair = self.inside.get(part)
            found += [part] if pair is None else self.resolved(list(pair))
        return found

    def shaped(self, axes: Sequence[Axis], sizes: list[int] | None) -> list[Axis] | None:
        """Regroup the parts of ``axes`` to axes of ``sizes``, if these divide them."""
        if sizes is None:
            return None
        rest = self.resolved([part for axis in axes for part in axis])
        made: list[Axis] = []
        for size in sizes:
            axis: Axis = []
            while size > 1:
                if not rest:
                    return None
                part = rest.pop(0)
                if self.size[part] > size:
                    inner, left = divmod(self.size[part], size)
                    if left:
                        return None
                    pair = self.axis(size, inner)
                    self.inside[part] = (pair[0], pair[1])
                    part, rest = pair[0], [pair[1], *rest]
                if size % self.size[part]:
                    return None
                axis.append(part)
                size //= self.size[part]
            made.append(axis)
        return None if rest else made

    def moved(self, op: Op, axes: list[Axis]) -> list[Axis] | None:
        """Return the axes of the result of ``op``, given those of its operand."""
        if op.name == "transpose":
            perm = op.attr("perm") or range(len(axes))[::-1]
            return [axes[i] for i in perm]
        if op.name == "reshape":
            return self.shaped(axes, _sizes(op.result))
        block, out = int(op.attr("blocksize")), _sizes(op.result)
        n, c, h, w = (math.prod(self.size[p] for p in self.resolved(axis)) for axis in axes)
        mode = "" if op.name == "space_to_depth" else str(op.attr("mode"))
        inner = c // block**2
        sizes = {
            "": [n, c, h // block, block, w // block, block],
            "DCR": [n, block, block, inner, h, w],
            "CRD": [n, inner, block, block, h, w],
        }[mode]
        split = self.shaped(axes, sizes)
        return None if split is None else self.shaped([split[i] for i in _ORDERS[mode]], out)


def _moves_before(value: Value | None) -> tuple[Value, list[Op]] | None:
    """Return where the moves that make ``value`` start, and the moves, the first one first."""
    ops: list[Op] = []
    while len(ops) < _MOST and (op := made_by(value, *_MOVES)) is not None:
        ops.insert(0, op)
        value = op.operands[0]
    return (value, ops) if value is not None and ops else None


@dataclass
class _Blocks:
    """Axes of the images that a convolution reads in blocks, and of the blocks.

    Attributes:
        images: axis of batch, channels, height and width.
        rates: height and width of a block.
    """

    images: tuple[int, int, int, int]
    rates: tuple[int, int]


def _blocks_before(value: Value | None) -> tuple[Value, list[Op], _Blocks] | None:
    """Return images, moves and blocks where ``value`` has the places in a block in its batch."""
    found = _moves_before(value)
    sizes = None if found is None else _sizes(found[0])
    if found is None or sizes is None or len(sizes) != 4:
        return None
    trace = _Trace()
    first = [trace.axis(size) for size in sizes]
    axes: list[Axis] | None = first
    for op in found[1]:
        axes = None if axes is None else trace.moved(op, axes)
    if axes is None or len(axes) != 4:
        return None
    source, made = ([trace.resolved(a) for a in side] for side in (first, axes))
    for order in _orders():
        n, c, h, w = (source[i] for i in order)
        rows, columns = h[len(made[2]) :], w[len(made[3]) :]
        if (
            made == [[*rows, *columns, *n], c, h[: len(made[2])], w[: len(made[3])]]
            and len(rows) < 2
            and len(columns) < 2
            and rows + columns
        ):
            rates = tuple(math.prod(trace.size[p] for p in axis) for axis in (rows, columns))
            return found[0], found[1], _Blocks(order, (rates[0], rates[1]))
    return None


def _orders() -> list[tuple[int, int, int, int]]:
    """Orders in which images may have batch, channels, height and width; the usual ones first."""
    return [(0, 1, 2, 3), (0, 3, 1, 2), (1, 0, 2, 3), (3, 0, 1, 2), (3, 2, 0, 1), (2, 3, 0, 1)]


def _blocks_behind(result: Value, rates: tuple[int, int]) -> tuple[Op, list[Op], list[int]] | str:
    """Return the move that puts blocks together again, all moves, and its axes by n, c, h, w."""
    sizes = _sizes(result)
    if sizes is None or sizes[0] % math.prod(rates):
        return "the sizes of the result are not known"
    trace = _Trace()
    batch = [trace.axis(s) for s in (*rates, sizes[0] // math.prod(rates))]
    channels, h, w = (trace.axis(s) for s in sizes[1:])
    axes: list[Axis] | None = [batch[0] + batch[1] + batch[2], channels, h, w]
    ops: list[Op] = []
    while axes is not None and len(ops) < _MOST:
        users = result.users
        if len(users) != 1 or users[0].name not in _MOVES or users[0].has_attr_refs:
            break
        ops.append(users[0])
        axes, result = trace.moved(users[0], axes), users[0].result
        wanted = [batch[2], channels, h + batch[0], w + batch[1]]
        found = [trace.resolved(a) for a in wanted]
        now = [] if axes is None else [trace.resolved(a) for a in axes]
        for order in _orders():
            if [now[i] for i in order if len(now) == 4] == found:
                return ops[-1], ops, list(order)
    return "the blocks of its result are not put together again"


def _turned(rw: Rewriter, x: Value, order: tuple[int, int, int, int]) -> Value:
    """Build ``x`` with its axes in this order; a padding comes behind, next to the convolution."""
    if order == (0, 1, 2, 3):
        return x
    pad = made_by(x, "pad")
    pads = None if pad is None else const_array(pad.operands[1])
    if pad is None or pads is None or pads.size != 8 or len(pad.operands) > 3:
        turned: Value = rw.transpose(x, perm=order)
        return turned
    moved = pads.reshape(2, 4)[:, list(order)].reshape(-1)
    inner = rw.transpose(pad.operands[0], perm=order)
    padded = rw.build("pad", inner, rw.const(moved), *pad.operands[2:], **pad.all_attrs())
    return padded.result


@rewrite("conv")
def conv_over_blocks(m: Match, rw: Rewriter) -> bool:
    """batch_to_space(conv(space_to_batch(x), w, b)) => conv(x, w, b, dilations) with wider pads.

    Space to batch is any chain of reshapes, transposes and space_to_depth that puts the place in a
    block in front of the batch, batch to space any that takes it back. Each place sees only pixels
    of its own kind, which are as far apart as blocks are large. Padding of a convolution over
    blocks is that many pixels as well. For strides of 1.
    """
    conv = m.root
    if made_by(conv.operands[0], *_MOVES) is None or conv.result.rank != 4:
        return False
    found = _blocks_before(conv.operands[0])
    if found is None:
        return False
    x, before, blocks = found
    attrs = conv.all_attrs()
    if any(s != 1 for s in attrs.get("strides") or ()) or attrs.get("auto_pad") != "NOTSET":
        return rw.fail("it has strides, or pads by its input's size")
    behind = _blocks_behind(conv.result, blocks.rates)
    if isinstance(behind, str):
        return rw.fail("{}", behind)
    last, after, order = behind
    rw.also(*before, *after)
    dilations = attrs.get("dilations") or (1, 1)
    pads = attrs.get("pads") or (0, 0, 0, 0)
    attrs["dilations"] = tuple(d * r for d, r in zip(dilations, blocks.rates, strict=True))
    attrs["pads"] = tuple(p * r for p, r in zip(pads, blocks.rates * 2, strict=True))
    images = _turned(rw, x, blocks.images)
    made = rw.build("conv", images, *conv.operands[1:], **attrs).result
    back = sorted(range(4), key=order.__getitem__)
    return settle(rw, last, made if order == [0, 1, 2, 3] else rw.transpose(made, perm=back))
