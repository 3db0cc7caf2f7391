"""Attention whose heads share keys and values in groups, and the caches that it prolongs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dims import same_dim
from lepton_ir.ir import Value
from lepton_ir.passes.fuse._match import settle, sole_user
from lepton_ir.passes.fuse.attention_bias import seeing, size_of
from lepton_ir.passes.fuse.attention_parts import cached, rows_of, sizes
from lepton_ir.passes.fuse.ort_common import contrib, is_f32, only_used_after
from lepton_ir.passes.fuse.repeat import unrepeated
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.ir import Op
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_NAME = "ms_group_query_attention"
_MULTI = "ms_multi_head_attention"
_STEP = 8
"""What the size of a head is a multiple of in the kernel."""

_Cache = tuple["Op", "Value", "Value"]


def _between(value: Value | None, source: Value) -> list[Op]:
    """Return the operations that make ``value`` of ``source`` by their first operands."""
    passed: list[Op] = []
    while value is not None and value is not source and value.op is not None:
        passed.append(value.op)
        value = value.op.operands[0]
    return passed


def _caches(
    key: Value, value: Value, root: Op, besides: Sequence[Op] = ()
) -> tuple[_Cache, _Cache] | str:
    """Return what makes keys and values of one past and one present, or why that is not so."""
    keys, values = cached(key), cached(value)
    if keys is None or values is None or keys[0] is values[0]:
        return "keys and values prolong no caches"
    for op, past, new in (keys, values):
        if sizes(past) is None or sizes(past) != sizes(new):
            return "heads and their sizes are not known, or they differ"
        if not is_f32(past, new):
            return f"elements are {past.dtype}"
        if not only_used_after(op.result, root, besides):
            return f"{op.result} is read before"
    for a, b in zip(keys[1:], values[1:], strict=True):
        assert a.shape is not None
        assert b.shape is not None
        if not (same_dim(a.shape[0], b.shape[0]) and same_dim(a.shape[2], b.shape[2])):
            return "keys and values are not proven to have the same length"
    return keys, values


# -- onnxruntime -----------------------------------------------------------------------------------


@rewrite(_MULTI)
def groups_into_attention(m: Match, rw: Rewriter) -> bool:
    """ms_multi_head_attention(q, k[groups], v[groups]) => ms_group_query_attention(q, k, v).

    For one query, and k and v that are a past with one key behind it, whose heads stand for
    several heads of q each. The operation is causal, which leaves out no key of the last query.
    More queries are neither proven to see what a causal mask lets them see, nor faster. The batch
    is known: the kernel ends the process for an empty one.
    """
    op = m.root
    q, key, value = op.operands[:3]
    if q is None or key is None or value is None or key.rank != 4 or value.rank != 4:
        return False
    groups = unrepeated(key), unrepeated(value)
    if groups[0] is key or groups[1] is value or q.shape is None:
        return False
    others = [x for i, x in enumerate(op.operands[3:], 3) if i != 5]
    if any(x is not None for x in others) or len(op.results) > 1:
        return rw.fail("it has other operands")
    batch, length, _ = q.shape
    if length != 1:
        return rw.fail("there is more than one query, and no mask is proven to be causal")
    if not isinstance(batch, int) or batch < 1:
        return rw.fail("the batch may be empty, which ends onnxruntime")
    repeats = [*_between(key, groups[0]), *_between(value, groups[1])]
    if not all(sole_user(r.result) for r in repeats):
        return rw.fail("the repeated keys or values have other users")
    found = _caches(*groups, op, repeats)
    if isinstance(found, str):
        return rw.fail("{}", found)
    rw.also(*repeats)
    found_sizes = sizes(groups[0])
    if found_sizes is None or found_sizes != sizes(groups[1]):
        return rw.fail("keys and values have heads of two sizes")
    if found_sizes[1] % _STEP:
        return rw.fail("the kernel takes no heads of {} elements", found_sizes[1])
    return contrib(rw, _NAME) and _make_groups(m, rw, found, batch)


def _make_groups(m: Match, rw: Rewriter, caches: tuple[_Cache, _Cache], batch: int) -> bool:
    op, heads = m.root, sizes(caches[0][1])
    bias = op.operand("attention_bias")
    if bias is not None:
        bias = seeing(rw, bias)
        if bias is None:
            return False
    assert heads is not None
    rows: list[Value] = []
    for _, _, new in caches:
        found = rows_of(new, [])
        flat = found if isinstance(found, Value) else rw.reshape(new, [0, 1, heads[0] * heads[1]])
        rows.append(flat)
    (keys, past_key, _), (values, past_value, _) = caches
    rw.also(keys, values)
    before = rw.cast(size_of(rw, past_key, 2), to=dtypes.I32)
    total = rw.add(before, rw.const(np.ones(1, np.int32)))
    lengths = before if batch == 1 else rw.expand(before, rw.const(np.asarray([batch], np.int64)))
    attrs = {"num_heads": op.attr("num_heads"), "kv_num_heads": heads[0]}
    if op.attr("scale"):
        attrs["scale"] = op.attr("scale")
    operands = [op.operands[0], *rows, past_key, past_value, lengths, total, None, None, None, bias]
    made = rw.build(_NAME, *operands, results=3, **attrs)
    answer = rw.ctx.legal(made)
    if answer is not True:
        return rw.fail("{} cannot be written: {}", _NAME, answer)
    rw.replace(op, made.results[0])
    rw.replace(keys, made.results[1])
    return rw.replace(values, made.results[2])


# -- standard --------------------------------------------------------------------------------------


def _plain(op: Op) -> bool:
    """Whether an Attention has heads, sees all keys and gives only its result."""
    if len(op.results) > 1 or len(op.operands) < 3 or op.attr("is_causal"):
        return False
    return all(x is not None and x.rank == 4 for x in op.operands[:3]) and not any(op.operands[4:])


@rewrite("attention")
def unrepeat_groups(m: Match, rw: Rewriter) -> bool:
    """attention(q, k[groups], v[groups]) => attention(q, k, v), which repeats them itself."""
    op = m.root
    if not _plain(op):
        return False
    q, key, value = op.operands[:3]
    assert q is not None
    assert key is not None
    assert value is not None
    groups = unrepeated(key), unrepeated(value)
    if groups[0] is key and groups[1] is value:
        return False
    found = [sizes(x) for x in (q, *groups)]
    if any(x is None for x in found) or found[1][0] != found[2][0]:  # type: ignore[index]
        return rw.fail("keys and values are not repeated alike")
    made = rw.build("attention", q, *groups, *op.operands[3:], **op.all_attrs())
    return settle(rw, op, made.results[0])


@rewrite("attention")
def cache_into_attention(m: Match, rw: Rewriter) -> bool:
    """attention(q, concat(past_k, k), concat(past_v, v)) => attention(q, k, v, past_k, past_v).

    For heads (batch, heads, length, size). The prolonged caches become its results. Not for causal
    attention, which counts from the first key without a past and from the past's end with one.
    """
    op = m.root
    if not _plain(op):
        return False
    q, key, value = op.operands[:3]
    assert q is not None
    assert key is not None
    assert value is not None
    if cached(key) is None and cached(value) is None:
        return False
    found = _caches(key, value, op)
    if isinstance(found, str):
        return rw.fail("{}", found)
    (keys, past_key, k), (values, past_value, v) = found
    assert past_key.shape is not None
    if q.shape is None or not same_dim(q.shape[0], past_key.shape[0]):
        return rw.fail("queries and keys are not proven to have one batch")
    rw.also(keys, values)
    mask = op.operands[3] if len(op.operands) > 3 else None
    operands = [q, k, v, mask, past_key, past_value]
    made = rw.build("attention", *operands, results=3, **op.all_attrs())
    answer = rw.ctx.legal(made)
    if answer is not True:
        return rw.fail("attention cannot be written: {}", answer)
    for old, result in zip((op, keys, values), made.results, strict=True):
        rw.replace(old, result)
    return True
