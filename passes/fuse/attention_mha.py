"""Attention of ONNX 23 and MultiHeadAttention of onnxruntime."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dims import same_dim
from lepton_ir.infer import const_tensor
from lepton_ir.ir import Value
from lepton_ir.passes.fuse._match import available, f32, made_by, settle, sole_user
from lepton_ir.passes.fuse._weights import constant
from lepton_ir.passes.fuse.attention_bias import fits, joined, seeing
from lepton_ir.passes.fuse.attention_parts import (
    Core,
    Part,
    cached,
    core_of,
    rows_of,
    sizes,
    turned_back,
)
from lepton_ir.passes.fuse.ort_common import biased, contrib, is_f32, only_used_after
from lepton_ir.passes.fuse.repeat import unrepeated
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_NAME = "ms_multi_head_attention"
_TO_HEADS = (0, 2, 1, 3)


@dataclass
class _Sources:
    """Where the operands of an attention come from; rows have the heads side by side.

    Attributes:
        key: rows or a part, or heads when ``in_heads``.
        past: the caches and the operations that prolong them.
    """

    query: Value | Part | None
    key: Value | Part
    value: Value | Part
    in_heads: bool = False
    past: tuple[tuple[Op, Value], tuple[Op, Value]] | None = None


@rewrite("transpose", "matmul")
def fuse_attention(m: Match, rw: Rewriter) -> bool:
    """transpose(softmax(s * q @ k' + bias) @ v) => reshape(attention(q, k, v, bias, scale=s)).

    ms_multi_head_attention where the opset has no Attention. q, k and v are heads; where they were
    split from rows (batch, length, heads * size), the rows are read instead. Groups of keys and
    values that are repeated for several heads are read once, where attention does so. A key and a
    value that prolong a cache become ``past`` and ``present``. Several biases become their sum. A
    single query needs no transpose.
    """
    product = m.root if m.root.name == "matmul" else made_by(m.root.operands[0], "matmul")
    if product is None or (m.root is not product and tuple(m.root.attr("perm") or ()) != _TO_HEADS):
        return False
    core = core_of(product)
    if isinstance(core, str):
        return rw.fail("{}", core) if core else False
    if core.v.rank != 4 or (m.root is product and not _has_one_row(core.q)):
        return False
    if m.root is not product and not sole_user(product.result):
        return rw.fail("the result has other users")
    q, v = sizes(core.q), sizes(core.v)
    if q is None or v is None or not _one_batch(core, *q):
        return rw.fail("batch, heads and head sizes are not known, or they differ")
    if not is_f32(core.q, core.v, *core.biases):
        return rw.fail("elements are {}", core.q.dtype)
    if not _may_be_made(rw):
        return False
    sources = _sources(core, product, available(rw, "attention"))
    if sources is None:
        return rw.fail("the keys are not turned in a known way")
    rw.also(*core.ops)
    return _make(m, rw, core, sources, q[0], v[1])


def _has_one_row(q: Value) -> bool:
    return q.shape is not None and q.shape[2] == 1


def _one_batch(core: Core, heads: int, size: int) -> bool:
    """Return whether queries, keys and values have the same batch, heads and sizes, proven."""
    q, k, v = core.q.shape, core.k_turned.shape, core.v.shape
    if q is None or k is None or v is None or k[1] != heads or k[2] != size or v[1] != heads:
        return False
    return same_dim(q[0], k[0]) and same_dim(q[0], v[0])


def _may_be_made(rw: Rewriter) -> bool:
    return available(rw, "attention") or contrib(rw, _NAME)


def bias_of(core: Core, rw: Rewriter, *, standard: bool) -> Value | None:
    """Build the bias of the scores; ``None`` and a reason when there is none that fits."""
    assert core.q.shape is not None
    assert core.v.shape is not None
    scores = (*core.q.shape[:-1], core.v.shape[-2])
    for term in core.biases:
        if not fits(term, scores):
            rw.fail("{} is not proven to fit the scores", term)
            return None
    bias = joined(rw, core.biases, scores)
    return seeing(rw, bias) if standard and bias is not None else bias


def _sources(core: Core, root: Op, groups: bool) -> _Sources | None:
    ops: list[Op] = []
    query = rows_of(core.q, ops)
    key, value = rows_of(core.k_turned, ops, turned=True), rows_of(core.v, ops)
    if key is not None and value is not None:
        return _Sources(query, key, value)
    turn = turned_back(core.k_turned)
    if turn is None or turn.operands[0] is None:
        return None
    heads, values = turn.operands[0], core.v
    found = _cache(core, heads, turn, root)
    if found is not None:
        return _Sources(query, *found)
    if groups:
        heads, values = unrepeated(heads), unrepeated(values)
    if sizes(heads) is None or sizes(heads) != sizes(values):
        return None
    return _Sources(query, heads, values, in_heads=True)


def _cache(
    core: Core, heads: Value, turn: Op, root: Op
) -> tuple[Value | Part, Value | Part, bool, tuple[tuple[Op, Value], tuple[Op, Value]]] | None:
    keys, values = cached(heads), cached(core.v)
    if keys is None or values is None or keys[0] is values[0]:
        return None
    members = {*core.ops, turn}
    for op, past, new in (keys, values):
        if not is_f32(past) or not only_used_after(op.result, root, members):
            return None
        if sizes(past) is None or sizes(past) != sizes(new):
            return None
        assert past.shape is not None
        assert core.q.shape is not None
        if not same_dim(past.shape[0], core.q.shape[0]):
            return None
    if not _same_length(keys[1], values[1]):
        return None
    ops: list[Op] = []
    key, value = rows_of(keys[2], ops), rows_of(values[2], ops)
    if key is None or value is None:
        return None
    return key, value, False, ((keys[0], keys[1]), (values[0], values[1]))


def _same_length(a: Value, b: Value) -> bool:
    assert a.shape is not None
    assert b.shape is not None
    return same_dim(a.shape[2], b.shape[2])


def _build_rows(rw: Rewriter, *sources: Value | Part) -> list[Value]:
    """Build the rows; parts of one whole by one split."""
    split: dict[int, list[Value]] = {}
    rows: list[Value] = []
    for source in sources:
        if not isinstance(source, Part):
            rows.append(source)
            continue
        if id(source.packed) not in split:
            parts = rw.build("split", source.packed, results=source.count, **_equal(rw, source))
            split[id(source.packed)] = list(parts.results)
        rows.append(split[id(source.packed)][source.index])
    return rows


def _equal(rw: Rewriter, part: Part) -> dict[str, int]:
    """Return the attributes that split the columns into equal parts."""
    attrs = {"axis": 2}
    if available(rw, "split", num_outputs=part.count):
        attrs["num_outputs"] = part.count
    return attrs


def _make(m: Match, rw: Rewriter, core: Core, sources: _Sources, heads: int, out_size: int) -> bool:
    found = sizes(core.q)
    assert found is not None
    standard = available(rw, "attention")
    bias = bias_of(core, rw, standard=standard) if core.biases else None
    if core.biases and bias is None:
        return False
    if standard and sources.in_heads:
        return _make_in_heads(m, rw, core, sources, bias)
    query: Value | Part
    if sources.query is None:
        query = rw.reshape(rw.transpose(core.q, perm=_TO_HEADS), [0, 0, heads * found[1]])
    else:
        query = sources.query
    rows = _build_rows(rw, query, sources.key, sources.value)
    past = [] if sources.past is None else [pair[1] for pair in sources.past]
    made = build_attention(rw, rows, bias, past, heads, core.scale, found[1])
    answer = rw.ctx.legal(made)
    if answer is not True:
        return rw.fail("{} cannot be written: {}", made.name, answer)
    shape = [0, 0, heads, out_size] if m.root.name == "transpose" else [0, heads, 1, out_size]
    rw.replace(m.root, rw.reshape(made.results[0], shape))
    if sources.past is not None:
        for (op, _), result in zip(sources.past, made.results[1:], strict=True):
            rw.replace(op, result)
    return True


def build_attention(
    rw: Rewriter,
    rows: list[Value],
    bias: Value | None,
    past: list[Value],
    heads: int,
    scale: float,
    size: int,
) -> Op:
    """Build the operation of the opset, or of onnxruntime, that attends over rows."""
    attrs: dict[str, float] = {}
    if f32(scale) != f32(1 / math.sqrt(size)):
        attrs["scale"] = f32(scale)
    results = 3 if past else 1
    if available(rw, "attention"):
        attrs |= {"q_num_heads": heads, "kv_num_heads": heads}
        return rw.build("attention", *rows, bias, *past, results=results, **attrs)
    attrs["num_heads"] = heads
    return rw.build(_NAME, *rows, None, None, bias, *past, results=results, **attrs)


def _make_in_heads(
    m: Match, rw: Rewriter, core: Core, sources: _Sources, bias: Value | None
) -> bool:
    """Make Attention over heads; the transpose behind it stays."""
    made = rw.build("attention", core.q, sources.key, sources.value, bias, scale=f32(core.scale))
    answer = rw.ctx.legal(made)
    if answer is not True:
        return rw.fail("attention cannot be written: {}", answer)
    if m.root.name == "matmul":
        return rw.replace(m.root, made.results[0])
    return rw.replace(m.root, rw.transpose(made.results[0], perm=_TO_HEADS))


@rewrite("matmul")
def fuse_flat_attention(m: Match, rw: Rewriter) -> bool:
    """softmax(s * q @ k' + bias) @ v => attention(q, k, v, bias, scale=s) of one head.

    For values of rank 3, whose first axis is batch and heads together.
    """
    core = core_of(m.root)
    if isinstance(core, str):
        return False  # said by fuse_attention
    if core.v.rank != 3:
        return False
    turn = made_by(core.k_turned, "transpose")
    if turn is None or tuple(turn.attr("perm") or ()) != (0, 2, 1):
        return rw.fail("the keys are not turned in a known way")
    q, k, v = core.q, turn.operands[0], core.v
    if k is None or q.shape is None or k.shape is None or v.shape is None:
        return False
    size = q.shape[2]
    known = isinstance(size, int) and size == k.shape[2] and isinstance(v.shape[2], int)
    if not known or not all(same_dim(q.shape[0], x.shape[0]) for x in (k, v) if x.shape):
        return rw.fail("batch and head sizes are not known, or they differ")
    if not is_f32(q, v, *core.biases):
        return rw.fail("elements are {}", q.dtype)
    if not _may_be_made(rw):
        return False
    rw.also(*core.ops)
    bias = bias_of(core, rw, standard=available(rw, "attention")) if core.biases else None
    if core.biases:
        if bias is None:
            return False
        bias = rw.unsqueeze(bias, [1])
    assert isinstance(size, int)
    made = build_attention(rw, [q, k, v], bias, [], 1, core.scale, size)
    return settle(rw, m.root, made.results[0])


# -- biases of the projections ---------------------------------------------------------------------


def _constant_bias(row: Value) -> tuple[Op, Value, Value] | None:
    found = biased(row)
    if found is None or not sole_user(row) or const_tensor(found[2]) is None:
        return None
    return found if found[1].rank == 3 and made_by(found[1], "matmul") is not None else None


@rewrite(_NAME)
def projection_bias_into_attention(m: Match, rw: Rewriter) -> bool:
    """ms_multi_head_attention(q + b, k + c, v + d) => ms_multi_head_attention(q, k, v, b|c|d).

    For constant biases of projections that nothing else reads; at least two of the three.
    """
    op = m.root
    if op.operand("bias") is not None or len(op.operands) < 3:
        return False
    rows = op.operands[:3]
    if any(r is None or r.rank != 3 for r in rows):
        return False
    found = [_constant_bias(r) if r is not None else None for r in rows]
    if sum(f is not None for f in found) < 2:
        return False
    biases: list[np.ndarray] = []
    operands: list[Value | None] = list(op.operands)
    for i, (row, hit) in enumerate(zip(rows, found, strict=True)):
        assert row is not None
        assert row.shape is not None
        width = row.shape[2]
        if not isinstance(width, int):
            return rw.fail("the width of {} is not known", row)
        biases.append(np.zeros(width, np.float32) if hit is None else constant(hit[2]))
        if hit is not None:
            rw.also(hit[0])
            operands[i] = hit[1]
    if len({id(o) for o in operands[:3]}) < len({id(r) for r in rows}):
        return rw.fail("rows are shared")
    joined = rw.const(np.concatenate(biases), dtypes.F32)
    made = rw.build(
        _NAME, *operands[:3], joined, *operands[4:], results=len(op.results), **op.all_attrs()
    )
    return rw.replace(op, list(made.results))
