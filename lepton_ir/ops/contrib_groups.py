"""Grouped attention of the ``com.microsoft`` domain, whose keys and values have fewer heads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Bool, Float, Int, Str, op
from lepton_ir.ops._support import Array, first_dtype, widen
from lepton_ir.ops.contrib_attention import attend, split_heads, total_length
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.infer import InferContext

_FORMS = (
    "ms_group_query_attention: only float operands of rank 3 have a meaning, without rotation, "
    "windows, sinks, norms or caps, whose caches have no room to spare"
)
_SPECIAL = ("cos_cache", "head_sink", "k_scale", "q_norm_weight", "k_norm_weight", "query_seqlens")


def _infer_groups(ctx: InferContext) -> list[Type]:
    heads, groups = ctx.attrs["num_heads"], ctx.attrs["kv_num_heads"]
    if heads < 1 or groups < 1 or heads % groups:
        ctx.fail("C1", f"num_heads is {heads} and kv_num_heads is {groups}")
    q, k, v = ctx.shape("query"), ctx.shape("key"), ctx.shape("value")
    special = any(ctx.has(n) for n in _SPECIAL) or ctx.attrs["do_rotary"]
    if special or q is None or k is None or v is None or not len(q) == len(k) == len(v) == 3:
        return [UNKNOWN] * 4
    dtype = first_dtype(ctx, "query", "key", "value")
    total = total_length(ctx.shape("past_key"), ctx.has("past_key"), k[1])
    size = None if k[2] is None else dims.exact_div(k[2], groups)
    present = TensorType(dtype, (q[0], groups, total, size))
    return [TensorType(dtype, q), present, present, TensorType(dtype, (q[0], heads, q[1], total))]


def _check_lengths(keys: Array, seqlens: Array, total: Array) -> None:
    length = keys.shape[2]
    if total.size != 1 or int(total.reshape(-1)[0]) != length:
        raise ValueError(f"total_sequence_length is {total.tolist()}, there are {length} keys")
    if seqlens.size != keys.shape[0] or (seqlens.reshape(-1) != length - 1).any():
        raise ValueError(f"seqlens_k is {seqlens.tolist()}, which leaves out some of {length} keys")


@op(
    "ms_group_query_attention(query, key?, value?, past_key?, past_value?, seqlens_k, "
    "total_sequence_length, cos_cache?, sin_cache?, position_ids?, attention_bias?, head_sink?, "
    "k_scale?, v_scale?, q_norm_weight?, k_norm_weight?, query_seqlens?) "
    "-> y, present_key?, present_value?, output_qk?",
    infer=_infer_groups,
)
def ms_group_query_attention(
    query: Array,
    key: Array | None = None,
    value: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    seqlens_k: Array | None = None,
    total_sequence_length: Array | None = None,
    cos_cache: Array | None = None,
    sin_cache: Array | None = None,
    position_ids: Array | None = None,
    attention_bias: Array | None = None,
    head_sink: Array | None = None,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    q_norm_weight: Array | None = None,
    k_norm_weight: Array | None = None,
    query_seqlens: Array | None = None,
    *,
    causal: Bool = True,
    do_rotary: Bool = False,
    k_norm_epsilon: Float | None = None,
    k_quant_type: Str = "NONE",
    kv_cache_bit_width: Int = 0,
    kv_num_heads: Int,
    local_window_size: Int = -1,
    num_heads: Int,
    q_norm_epsilon: Float | None = None,
    qk_norm_epsilon: Float = 1e-6,
    qk_output: Int = 0,
    rotary_interleaved: Bool = False,
    scale: Float | None = None,
    sliding_window_cache: Bool = False,
    smooth_softmax: Int = -1,
    softcap: Float = 0.0,
    v_quant_type: Str = "NONE",
) -> tuple[Array, ...]:
    """Causal attention whose heads share keys and values in groups.

    com.microsoft GroupQueryAttention-1. Query is (batch, length, num_heads * size), key and value
    (batch, length, kv_num_heads * size), the past (batch, kv_num_heads, past length, size). No
    meaning for other forms, nor for caches that are longer than what is attended to.

    C1  num_heads is a multiple of kv_num_heads
    """
    special = (cos_cache, head_sink, k_scale, v_scale, q_norm_weight, k_norm_weight, query_seqlens)
    plain = local_window_size == -1 and smooth_softmax <= 0 and not softcap and not do_rotary
    if key is None or value is None or seqlens_k is None or total_sequence_length is None:
        raise ValueError(_FORMS)
    if any(x is not None for x in special) or not plain or qk_output or sliding_window_cache:
        raise ValueError(_FORMS)
    if not query.ndim == key.ndim == value.ndim == 3:
        raise ValueError(_FORMS)
    pairs = ((query, num_heads), (key, kv_num_heads), (value, kv_num_heads))
    q, k, v = (split_heads(x, None, heads) for x, heads in pairs)
    if past_key is not None and past_value is not None:
        k = np.concatenate([widen(past_key), k], axis=2)
        v = np.concatenate([widen(past_value), v], axis=2)
    _check_lengths(k, seqlens_k, total_sequence_length)
    times = num_heads // kv_num_heads
    factor = np.float32(scale or 1 / math.sqrt(q.shape[3]))
    shift = None if attention_bias is None else widen(attention_bias)
    before = k.shape[2] - q.shape[2] if causal else None
    many = [np.repeat(x, times, axis=1) for x in (k, v)]
    y = attend(q * factor, many[0], many[1], shift, before)
    y = y.transpose(0, 2, 1, 3).reshape(query.shape)
    return tuple(part.astype(query.dtype) for part in (y, k, v))
