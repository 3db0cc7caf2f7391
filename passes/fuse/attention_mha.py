"""Attention of ONNX 23 and MultiHeadAttention of onnxruntime."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.infer import const_tensor
from lepton_ir.ir import Value
from lepton_ir.passes.fuse._match import available, f32, made_by, same_dim, sole_user
from lepton_ir.passes.fuse._weights import constant
from lepton_ir.passes.fuse.attention_parts import (
    Core,
    Part,
    cached,
    core_of,
    fits_scores,
    rows_of,
    sizes,
    turned_back,
    unrepeated,
)
from lepton_ir.passes.fuse.ort_common import biased, contrib, is_f32, only_used_after
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


@rewrite("transpose")
def fuse_attention(m: Match, rw: Rewriter) -> bool:
    """transpose(softmax(s * q @ k' + bias) @ v) => reshape(attention(q, k, v, bias, scale=s)).

    ms_multi_head_attention where the opset has no Attention. q, k and v are heads; where they were
    split from rows (batch, length, heads * size), the rows are read instead. Groups of keys and
    values that are repeated for several heads are read once, where attention does so. A key and a
    value that prolong a cache become ``past`` and ``present``.
    """
    product = made_by(m.root.operands[0], "matmul")
    if product is None or tuple(m.root.attr("perm") or ()) != _TO_HEADS:
        return False
    core = core_of(product)
    if isinstance(core, str):
        return rw.fail("{}", core) if core else False
    if not sole_user(product.result):
        return rw.fail("the result has other users")
    q, v = sizes(core.q), sizes(core.v)
    if q is None or v is None or q[0] != v[0]:
        return rw.fail("heads and head sizes are not known, or they differ")
    keys = core.v.shape[2] if core.v.shape is not None else None
    if core.bias is not None and not fits_scores(core.bias, core.q, keys):
        return rw.fail("{} is not proven to have the shape of the scores", core.bias)
    if not is_f32(core.q, core.v, core.bias):
        return rw.fail("elements are {}", core.q.dtype)
    if not available(rw, "attention") and not contrib(rw, _NAME):
        return False
    sources = _sources(core, m.root, available(rw, "attention"))
    if sources is None:
        return rw.fail("the keys are not turned in a known way")
    rw.also(*core.ops)
    return _make(m, rw, core, sources, q[0], v[1])


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
    if standard and sources.in_heads:
        return _make_in_heads(m, rw, core, sources)
    query: Value | Part
    if sources.query is None:
        query = rw.reshape(rw.transpose(core.q, perm=_TO_HEADS), [0, 0, heads * found[1]])
    else:
        query = sources.query
    rows = _build_rows(rw, query, sources.key, sources.value)
    past = [] if sources.past is None else [pair[1] for pair in sources.past]
    attrs: dict[str, float] = {}
    if f32(core.scale) != f32(1 / math.sqrt(found[1])):
        attrs["scale"] = f32(core.scale)
    results = 3 if past else 1
    if standard:
        attrs |= {"q_num_heads": heads, "kv_num_heads": heads}
        made = rw.build("attention", *rows, core.bias, *past, results=results, **attrs)
    else:
        attrs["num_heads"] = heads
        made = rw.build(_NAME, *rows, None, None, core.bias, *past, results=results, **attrs)
    answer = rw.ctx.legal(made)
    if answer is not True:
        return rw.fail("{} cannot be written: {}", made.name, answer)
    rw.replace(m.root, rw.reshape(made.results[0], [0, 0, heads, out_size]))
    if sources.past is not None:
        for (op, _), result in zip(sources.past, made.results[1:], strict=True):
            rw.replace(op, result)
    return True


def _make_in_heads(m: Match, rw: Rewriter, core: Core, sources: _Sources) -> bool:
    """Make Attention over heads; the transpose behind it stays."""
    made = rw.build(
        "attention", core.q, sources.key, sources.value, core.bias, scale=f32(core.scale)
    )
    answer = rw.ctx.legal(made)
    if answer is not True:
        return rw.fail("attention cannot be written: {}", answer)
    return rw.replace(m.root, rw.transpose(made.results[0], perm=_TO_HEADS))


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
