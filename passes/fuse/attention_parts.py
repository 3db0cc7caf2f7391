"""Taking attention apart: the scores, the heads, the cache, as exporters spell them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.dims import same_dim
from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.fuse._match import Scan, made_by, sole_user

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value

_TO_HEADS = (0, 2, 1, 3)
_KEYS_FROM_ROWS = (0, 2, 3, 1)
_SWAP = (0, 1, 3, 2)
_MOST_BIASES = 3


@dataclass
class Core:
    """``softmax(scale * q @ transpose(k) + biases) @ v`` over values of rank 3 or 4.

    Attributes:
        q: queries (batch, heads, length, size); without the heads when of rank 3.
        k_turned: keys as the product reads them, (batch, heads, size, keys).
        v: values (batch, heads, keys, size of values).
        biases: what is added to the scores, the last addition first.
        scale: the factor of the scores.
        ops: operations that nothing else reads.
    """

    q: Value
    k_turned: Value
    v: Value
    biases: list[Value]
    scale: float
    ops: list[Op]


def strip_factor(value: Value, ops: list[Op], *, only: bool = True) -> tuple[Value, float]:
    """Return x and c where ``value`` is ``x * c``, c being 1 when there is none.

    Args:
        value: where to look.
        ops: operations passed are added.
        only: whether nothing else may read what is passed.
    """
    factor = 1.0
    while True:
        op = made_by(value, "mul", "div")
        if op is None or (only and not sole_user(value)):
            return value, factor
        scan = Scan(op)
        found = scan.with_number(value, op.name)
        if found is None or const_tensor(found[0]) is not None:
            return value, factor
        x, number = found
        if number == 0 or not math.isfinite(number) or x.rank is None or x.rank < scan.rank:
            return value, factor
        ops.append(op)
        value, factor = x, factor * (number if op.name == "mul" else 1 / number)


def _is_last_softmax(op: Op, rank: int) -> bool:
    """Whether a softmax is over the last axis, where taking two dims for all is no difference."""
    return op.attr("axis") in (-1, rank - 1) and op.result.rank == rank


def core_of(product: Op) -> Core | str:
    """Return the attention that ends in the matrix product of weights and values, or why none."""
    weights, v = product.operands
    if weights is None or v is None or v.rank not in (3, 4):
        return ""
    softmax = made_by(weights, "softmax")
    if softmax is None:
        return _why_no_softmax(weights)
    if not _is_last_softmax(softmax, v.rank):
        return "the softmax is not over the last axis"
    if not sole_user(weights):
        return "the weights have other users"
    ops = [product, softmax]
    found = _scores_behind(softmax, ops)
    if isinstance(found, str):
        return found
    raw, biases = found
    if not sole_user(raw[0].result):
        return "the scores have other users"
    q, k = raw[0].operands
    if q is None or k is None or q.rank != v.rank or k.rank != v.rank:
        return f"queries and keys are not proven to have rank {v.rank}"
    q, a = strip_factor(q, ops)
    k, b = strip_factor(k, ops)
    return Core(q, k, v, biases, raw[1] * a * b, [*ops, raw[0], *raw[2]])


def _why_no_softmax(weights: Value) -> str:
    chosen = made_by(weights, "where")
    if chosen is None or made_by(chosen.operands[0], "is_nan") is None:
        return ""
    return "weights that are NaN become 0: rows that see no key are kept"


_Raw = tuple["Op", float, "list[Op]"]


def _scores_behind(softmax: Op, ops: list[Op]) -> tuple[_Raw, list[Value]] | str:
    """Return the raw scores that a softmax reads, and what was added to them."""
    scores = softmax.operands[0]
    biases: list[Value] = []
    while True:
        raw = _raw_scores(scores)
        if raw is not None:
            return raw, biases
        add = made_by(scores, "add")
        if add is None:
            if made_by(scores, "where") is not None:
                return "scores are replaced, not added to"
            return "the scores are no matrix product"
        side = next((i for i in (0, 1) if _has_scores(add.operands[i], _MOST_BIASES)), None)
        if side is None:
            return "no scores are added to"
        if not sole_user(add.result):
            return "the masked scores have other users"
        ops.append(add)
        bias = add.operands[1 - side]
        assert bias is not None
        biases.append(bias)
        scores = add.operands[side]


def _has_scores(value: Value | None, depth: int) -> bool:
    """Return whether raw scores are among at most ``depth`` terms of a sum."""
    if _raw_scores(value) is not None:
        return True
    add = made_by(value, "add")
    if add is None or not depth:
        return False
    return any(_has_scores(v, depth - 1) for v in add.operands)


def _raw_scores(value: Value | None) -> _Raw | None:
    """Return the product of queries and keys, the factor and what was passed to get there."""
    if value is None:
        return None
    ops: list[Op] = []
    x, factor = strip_factor(value, ops)
    product = made_by(x, "matmul")
    return None if product is None else (product, factor, ops)


def sizes(value: Value) -> tuple[int, int] | None:
    """Return heads and head size of a value (batch, heads, length, size)."""
    if value.shape is None or len(value.shape) != 4:
        return None
    heads, size = value.shape[1], value.shape[3]
    if not isinstance(heads, int) or not isinstance(size, int) or heads < 1 or size < 1:
        return None
    return heads, size


def _splits_heads(op: Op) -> bool:
    """Whether a reshape takes the last of three axes apart and keeps the others, proven."""
    x, y = op.operands[0], op.result
    if x is None or x.shape is None or y.shape is None or len(x.shape) != 3 or len(y.shape) != 4:
        return False
    heads, size, width = y.shape[2], y.shape[3], x.shape[2]
    if not (isinstance(heads, int) and isinstance(size, int)) or width != heads * size:
        return False
    return same_dim(x.shape[0], y.shape[0]) and same_dim(x.shape[1], y.shape[1])


def _rows_behind(value: Value, perm: tuple[int, ...], ops: list[Op]) -> Value | None:
    """Return x (batch, length, heads * size) where ``value`` is its heads, turned by ``perm``."""
    turned = made_by(value, "transpose")
    if turned is None:
        return _single_row(value) if perm == _TO_HEADS else None
    if tuple(turned.attr("perm") or ()) != perm:
        return None
    split = made_by(turned.operands[0], "reshape")
    if split is None or not _splits_heads(split):
        return None
    ops += [turned, split]
    return split.operands[0]


def _single_row(value: Value) -> Value | None:
    """Return x (batch, 1, heads * size) where ``value`` is its heads (batch, heads, 1, size)."""
    split = made_by(value, "reshape")
    x = None if split is None else split.operands[0]
    found = sizes(value)
    if split is None or x is None or x.shape is None or found is None or len(x.shape) != 3:
        return None
    assert value.shape is not None
    if x.shape[1] != 1 or value.shape[2] != 1 or x.shape[2] != found[0] * found[1]:
        return None
    return x if same_dim(x.shape[0], value.shape[0]) else None


@dataclass
class Part:
    """One of the equal parts of (batch, length, parts * heads * size) that were split as heads.

    Attributes:
        packed: the whole.
        index: which part.
        count: how many parts.
    """

    packed: Value
    index: int
    count: int


def rows_of(value: Value, ops: list[Op], *, turned: bool = False) -> Value | Part | None:
    """Return what (batch, heads, length, size) was before its heads were split.

    Args:
        value: the heads; (batch, heads, size, length) when ``turned``.
        ops: operations passed are added.
        turned: whether the last axes are exchanged.
    """
    found = _rows_behind(value, _KEYS_FROM_ROWS if turned else _TO_HEADS, ops)
    if found is not None:
        return found
    if turned:
        back = turned_back(value)
        if back is None:
            return None
        ops.append(back)
        assert back.operands[0] is not None
        value = back.operands[0]
        found = _rows_behind(value, _TO_HEADS, ops)
        if found is not None:
            return found
    return _part_of(value)


def turned_back(value: Value) -> Op | None:
    """Return the transpose of the last two of four axes that makes ``value``."""
    op = made_by(value, "transpose")
    return op if op is not None and tuple(op.attr("perm") or ()) == _SWAP else None


def _part_of(value: Value) -> Part | None:
    """Return the part where ``value`` is ``transpose(reshape(x, (b, n, 3, h, d)), ...)[i]``."""
    chosen = _chosen(value)
    if chosen is None:
        return None
    stacked, index = chosen
    turned = made_by(stacked, "transpose")
    if turned is None or tuple(turned.attr("perm") or ()) != (2, 0, 3, 1, 4):
        return None
    split = made_by(turned.operands[0], "reshape")
    x = None if split is None else split.operands[0]
    if split is None or x is None or x.shape is None or split.result.shape is None:
        return None
    before, after = x.shape, split.result.shape
    if len(before) != 3 or len(after) != 5:
        return None
    inner = [d for d in after[2:] if isinstance(d, int)]
    if len(inner) != 3 or before[2] != math.prod(inner):
        return None
    if not (same_dim(before[0], after[0]) and same_dim(before[1], after[1])):
        return None
    return Part(x, index, inner[0])


def _chosen(value: Value) -> tuple[Value, int] | None:
    """Return x and i where ``value`` is ``x[i]``, spelled by split, slice or gather."""
    op = value.op
    if op is None or op.has_attr_refs:
        return None
    if op.name == "gather":
        x, index = op.operands
        number = const_array(index)
        if x is None or op.attr("axis") != 0 or number is None or number.ndim or number < 0:
            return None
        return x, int(number)
    if op.name not in ("squeeze", "reshape"):
        return None
    part = op.operands[0]
    if part is None or part.shape is None or not part.shape or part.shape[0] != 1:
        return None
    if value.shape is None or len(value.shape) != len(part.shape) - 1:
        return None
    if not all(same_dim(a, b) for a, b in zip(part.shape[1:], value.shape, strict=True)):
        return None
    return _slab(part)


def _slab(part: Value) -> tuple[Value, int] | None:
    """Return x and i where ``part`` is ``x[i : i + 1]``."""
    op = part.op
    if op is None or op.has_attr_refs or op.operands[0] is None:
        return None
    x = op.operands[0]
    if op.name == "split" and op.attr("axis") == 0 and x.shape:
        if all(r.shape is not None and r.shape[0] == 1 for r in op.results):
            return x, part.index
        return None
    if op.name != "slice" or x.shape is None:
        return None
    start, axes, steps = (const_array(op.operand(n)) for n in ("starts", "axes", "steps"))
    if start is None or start.size != 1 or (op.operand("steps") is not None and steps is None):
        return None
    axis = 0 if op.operand("axes") is None else (-1 if axes is None else int(axes[0]))
    first = int(start.reshape(-1)[0])
    if axis not in (0, -len(x.shape)) or first < 0 or (steps is not None and int(steps[0]) != 1):
        return None
    return x, first


def cached(value: Value) -> tuple[Op, Value, Value] | None:
    """Return op, past and new where ``value`` is both behind one another along the keys."""
    op = made_by(value, "concat")
    if op is None or op.attr("axis") not in (2, -2) or len(op.operands) != 2:
        return None
    past, new = op.operands
    return None if past is None or new is None or past.rank != 4 else (op, past, new)
