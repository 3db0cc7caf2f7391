"""Rotary position embeddings, one operation in opset 23 and in onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.dims import same_dim
from lepton_ir.infer import const_array
from lepton_ir.ir import Value
from lepton_ir.passes.fuse._match import available, made_by, settle, sole_user
from lepton_ir.passes.fuse.attention_parts import rows_of, sizes
from lepton_ir.passes.fuse.ort_common import is_f32, wants_contrib
from lepton_ir.rewrite import rewrite
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from lepton_ir.ir import Op
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_CONTRIB = "ms_rotary_embedding"
_TO_HEADS = (0, 2, 1, 3)


def _is_last(axis: int, x: Value) -> bool:
    return x.rank is not None and axis in (-1, x.rank - 1)


def _piece(value: Value | None) -> tuple[Value, int, int] | None:
    """Return x, start and end where ``value`` is ``x[..., start:end]``."""
    op = None if value is None else value.op
    if value is None or op is None or op.has_attr_refs or not value.shape:
        return None
    x = op.operands[0] if op.operands else None
    size = value.shape[-1]
    if x is None or not isinstance(size, int):
        return None
    if op.name == "split" and _is_last(op.attr("axis"), x):
        before = [r.shape[-1] if r.shape else None for r in op.results[: value.index]]
        start = sum(d for d in before if isinstance(d, int))
        return (x, start, start + size) if all(isinstance(d, int) for d in before) else None
    if op.name != "slice":
        return None
    starts, axes = const_array(op.operand("starts")), const_array(op.operand("axes"))
    steps = op.operand("steps")
    stride = None if steps is None else const_array(steps)
    if starts is None or axes is None or starts.size != 1 or axes.size != 1:
        return None
    if steps is not None and (stride is None or int(stride[0]) != 1):
        return None
    first = int(starts[0])
    if first < 0 or not _is_last(int(axes[0]), x):
        return None
    return x, first, first + size


def _turned_halves(value: Value | None) -> tuple[Value, int, list[Op]] | None:
    """Return x and h where ``value`` is ``concat(-x[..., h:], x[..., :h])``."""
    join = made_by(value, "concat")
    if join is None or len(join.operands) != 2 or not _is_last(join.attr("axis"), join.result):
        return None
    negative = made_by(join.operands[0], "neg")
    high = None if negative is None else _piece(negative.operands[0])
    low = _piece(join.operands[1])
    if negative is None or high is None or low is None or high[0] is not low[0]:
        return None
    half = low[2]
    size = low[0].shape[-1] if low[0].shape else None
    if low[1] != 0 or high[1] != half or high[2] != 2 * half or size != 2 * half:
        return None
    return low[0], half, [join, negative]


def _angles(value: Value, name: str, half: int) -> Value | None:
    """Return f (batch, length, h) where ``value`` is ``unsqueeze(name(concat(f, f)), 1)``."""
    spread = made_by(value, "unsqueeze", "reshape")
    wave = None if spread is None else made_by(spread.operands[0], name)
    join = None if wave is None else made_by(wave.operands[0], "concat")
    if wave is None or join is None or len(join.operands) != 2 or join.result.rank != 3:
        return None
    f, again = join.operands
    if f is None or f is not again or not _is_last(join.attr("axis"), join.result):
        return None
    before, after = wave.result.shape, value.shape
    if before is None or after is None or len(after) != 4 or after[1] != 1 or not f.shape:
        return None
    kept = zip(before, (after[0], *after[2:]), strict=True)
    return f if f.shape[-1] == half and all(same_dim(a, b) for a, b in kept) else None


@dataclass
class _Turn:
    """How heads are turned: by operands and attributes behind the heads themselves.

    Attributes:
        name: of the operation.
        operands: all but the heads.
        size: how many elements of a head are turned, 0 for all.
    """

    name: str
    operands: list[Value | None]
    size: int = 0

    def build(self, rw: Rewriter, x: Value) -> Value:
        """Turn heads (batch, heads, length, size), as rows where they were split from rows."""
        heads = sizes(x)
        rows = rows_of(x, [])
        attrs: dict[str, int] = {"rotary_embedding_dim": self.size} if self.size else {}
        if heads is None or not isinstance(rows, Value):
            if self.size and self.name == _CONTRIB and heads is not None:
                attrs["num_heads"] = heads[0]
            turned: Value = rw.build(self.name, x, *self.operands, **attrs).result
            return turned
        attrs["num_heads"] = heads[0]
        made = rw.build(self.name, rows, *self.operands, **attrs).result
        split = rw.reshape(made, [0, 0, *heads])
        back: Value = rw.transpose(split, perm=_TO_HEADS)
        return back


@rewrite("add")
def fuse_rotary_embedding(m: Match, rw: Rewriter) -> bool:
    """(x * cos(a)) + concat(-x[h:], x[:h]) * sin(a) => rotary_embedding(x, cos(f), sin(f)).

    x is heads (batch, heads, length, 2 * h) and a is ``unsqueeze(concat(f, f), 1)``, f the angles
    (batch, length, h). Heads that were split from rows are turned as rows. Where the opset has no
    RotaryEmbedding, ms_rotary_embedding reads cos and sin of the flattened angles at counted
    positions; one row of angles for the whole batch counts from 0.
    """
    for i in (0, 1):
        plain, turned = (made_by(v, "mul") for v in (m.root.operands[i], m.root.operands[1 - i]))
        if plain is None or turned is None:
            return False
        for j in (0, 1):
            found = _turned_halves(turned.operands[j])
            if found is None:
                continue
            x, half, ops = found
            if x not in plain.operands or x.rank != 4:
                continue
            cos = plain.operands[1 if plain.operands[0] is x else 0]
            sin = turned.operands[1 - j]
            return _rotary(m, rw, x, half, (cos, sin), [plain, turned, *ops])
    return False


def _rotary(
    m: Match,
    rw: Rewriter,
    x: Value,
    half: int,
    waves: tuple[Value | None, Value | None],
    ops: list[Op],
) -> bool:
    standard = available(rw, "rotary_embedding")
    if not standard and not (wants_contrib(rw.ctx) and available(rw, _CONTRIB)):
        return rw.fail("the opset has no RotaryEmbedding")
    if waves[0] is None or waves[1] is None:
        return False
    f, again = _angles(waves[0], "cos", half), _angles(waves[1], "sin", half)
    if f is None or f is not again or f.shape is None or x.shape is None:
        return rw.fail("the angles are not those of both halves")
    one = f.shape[0] == 1 and not standard
    if not ((one or same_dim(f.shape[0], x.shape[0])) and same_dim(f.shape[1], x.shape[2])):
        return rw.fail("{} is not proven to have an angle for each position", f)
    if not (one or standard or available(rw, "reshape", allowzero=True)):
        return rw.fail("the opset cannot shape the positions of an empty sequence")
    if not is_f32(x, f):
        return rw.fail("elements are {}", x.dtype)
    if not all(sole_user(op.result) for op in ops):
        return rw.fail("a part of it has other users")
    rw.also(*ops)
    if standard:
        turn = _Turn("rotary_embedding", [rw.cos(f), rw.sin(f)])
    else:
        positions, table = _one_row(rw, f) if one else _counted(rw, f, half)
        turn = _Turn(_CONTRIB, [positions, rw.cos(table), rw.sin(table)])
    return settle(rw, m.root, turn.build(rw, x))


def _one_row(rw: Rewriter, f: Value) -> tuple[Value, Value]:
    """Build the position that counts from 0, and the angles of one batch as a table."""
    return rw.const(np.zeros(1, np.int64)), rw.squeeze(f, [0])


def _counted(rw: Rewriter, f: Value, half: int) -> tuple[Value, Value]:
    """Build positions that count all angles (batch, length, h), and these as a table.

    The kernel wants a table of at least ``length`` rows, which those of an empty batch are not:
    rows of zeros follow, unless the batch is known.
    """
    assert f.shape is not None
    flat = rw.reshape(f, [-1, half])
    rows = rw.gather(rw.shape(flat), rw.const(np.asarray(0)), axis=0)
    count = rw.range(rw.const(np.asarray(0)), rows, rw.const(np.asarray(1)))
    spread = rw.shape(f)
    wanted = rw.gather(spread, rw.const(np.asarray([0, 1])), axis=0)
    positions = rw.reshape(count, wanted, allowzero=True)
    if isinstance(f.shape[0], int) and f.shape[0]:
        return positions, flat
    shape = rw.gather(spread, rw.const(np.asarray([1, 2])), axis=0)
    zeros = rw.constant_of_shape(shape, value=DenseTensor(np.zeros(1, np.float32)))
    return positions, rw.concat(flat, zeros, axis=0)


@rewrite("concat")
def rest_into_rotary_embedding(m: Match, rw: Rewriter) -> bool:
    """concat(rotary_embedding(x[:r]), x[r:]) => rotary_embedding(x, rotary_embedding_dim=r).

    The same for ms_rotary_embedding.
    """
    if len(m.root.operands) != 2 or not _is_last(m.root.attr("axis"), m.root.result):
        return False
    turned = made_by(m.root.operands[0], "rotary_embedding", _CONTRIB)
    rest = _piece(m.root.operands[1])
    low = None if turned is None else _piece(turned.operands[0])
    if turned is None or rest is None or low is None or low[0] is not rest[0]:
        return False
    x = low[0]
    size = x.shape[-1] if x.shape else None
    if x.rank != 4 or low[1] != 0 or rest[1] != low[2] or rest[2] != size:
        return rw.fail("the pieces are not all of {}", x)
    if turned.attr("rotary_embedding_dim") not in (0, low[2]) or not sole_user(turned.result):
        return rw.fail("{} has other users", turned)
    if turned.attr("interleaved"):
        return rw.fail("it turns pairs of neighbours")
    rw.also(turned)
    turn = _Turn(turned.name, list(turned.operands[1:]), low[2])
    return settle(rw, m.root, turn.build(rw, x))


@rewrite("reshape")
def heads_behind_rotary_embedding(m: Match, rw: Rewriter) -> bool:
    """reshape(transpose(rotary_embedding(transpose(y)))) => rotary_embedding(reshape(y)), of rows.

    For y (batch, length, heads, size), transposed to heads and back to rows.
    """
    back = made_by(m.root.operands[0], "transpose")
    turned = None if back is None else made_by(back.operands[0], "rotary_embedding", _CONTRIB)
    there = None if turned is None else made_by(turned.operands[0], "transpose")
    if back is None or turned is None or there is None or there.operands[0] is None:
        return False
    perms = [tuple(op.attr("perm") or ()) for op in (back, there)]
    heads, rows = sizes(there.result), m.root.result.shape
    if perms != [_TO_HEADS, _TO_HEADS] or heads is None or rows is None or len(rows) != 3:
        return False
    assert back.result.shape is not None
    kept = all(same_dim(a, b) for a, b in zip(rows[:2], back.result.shape[:2], strict=True))
    if not kept or rows[2] != heads[0] * heads[1]:
        return rw.fail("the result is not proven to be rows")
    if not (sole_user(turned.result) and sole_user(back.result)):
        return rw.fail("{} has other users", turned)
    rw.also(back, turned)
    flat = rw.reshape(there.operands[0], [0, 0, rows[2]])
    attrs = {**turned.all_attrs(), "num_heads": heads[0]}
    return settle(rw, m.root, rw.build(turned.name, flat, *turned.operands[1:], **attrs).result)
