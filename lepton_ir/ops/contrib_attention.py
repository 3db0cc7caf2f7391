"""Attention of the ``com.microsoft`` domain: over projected rows, and with its projections."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Bool, Float, Int, Ints, op
from lepton_ir.ops._support import Array, Shape, first_dtype, widen
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.dims import Dim
    from lepton_ir.infer import InferContext

_FORMS = (
    "ms_multi_head_attention: only unpacked operands without buffers have a meaning "
    "(query, key and value of rank 3, or key and value of rank 4)"
)


def total_length(past: Shape | None, has_past: bool, length: Dim | None) -> Dim | None:
    """Return how many keys there are with those of the past (batch, heads, length, size)."""
    if not has_past or length is None:
        return length
    if past is None or len(past) != 4 or past[2] is None:
        return None
    return dims.add(past[2], length)


def _infer_attention(ctx: InferContext) -> list[Type]:
    heads = ctx.attrs["num_heads"]
    if heads < 1:
        ctx.fail("C1", f"num_heads is {heads}")
    q, k, v = ctx.shape("query"), ctx.shape("key"), ctx.shape("value")
    packed = any(ctx.has(n) for n in ("past_sequence_length", "cache_indirection"))
    if packed or q is None or k is None or v is None or len(q) != 3 or len(k) != len(v):
        return [UNKNOWN] * 3
    if len(k) not in (3, 4):
        return [UNKNOWN] * 3
    dtype = first_dtype(ctx, "query", "key", "value")
    if len(k) == 4:
        size, width = k[3], None if v[3] is None else dims.mul(v[3], heads)
        head: Dim | None = v[3]
        length = k[2]
    else:
        size = None if q[2] is None else dims.floordiv(q[2], heads)
        width, length = v[2], k[1]
        head = None if width is None else dims.floordiv(width, heads)
    total = total_length(ctx.shape("past_key"), ctx.has("past_key"), length)
    return [
        TensorType(dtype, (q[0], q[1], width)),
        TensorType(dtype, (q[0], heads, total, size)),
        TensorType(dtype, (q[0], heads, total, head)),
    ]


def split_heads(x: Array, bias: Array | None, heads: int) -> Array:
    """Return (batch, heads, length, size) of (batch, length, heads * size), or ``x`` as it is."""
    if x.ndim == 4:
        return widen(x)
    y = widen(x) if bias is None else widen(x) + widen(bias)
    return y.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _padding(mask: Array, batch: int, length: int, total: int, filler: float) -> Array:
    """Return what a padding mask adds to the scores."""
    if mask.shape == (batch, total):
        mask = mask[:, None, None, :]
    elif mask.shape == (batch, length, total):
        mask = mask[:, None]
    else:
        raise ValueError(f"no meaning for a padding mask of shape {mask.shape}")
    return np.where(mask > 0, np.float32(0), np.float32(filler))


def attend(q: Array, k: Array, v: Array, shift: Array | None, before: int | None) -> Array:
    """Return ``softmax(q @ k' + shift) @ v``; causal behind ``before`` keys unless ``None``."""
    scores = np.matmul(q, k.swapaxes(2, 3))
    if shift is not None:
        scores = scores + shift
    if before is not None:
        later = np.arange(scores.shape[3]) > np.arange(scores.shape[2])[:, None] + before
        scores = np.where(later, np.finfo(scores.dtype).min, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(np.matmul(weights / weights.sum(axis=-1, keepdims=True), v))


@op(
    "ms_multi_head_attention(query, key?, value?, bias?, key_padding_mask?, attention_bias?, "
    "past_key?, past_value?, past_sequence_length?, cache_indirection?) "
    "-> y, present_key?, present_value?",
    infer=_infer_attention,
)
def ms_multi_head_attention(
    query: Array,
    key: Array | None = None,
    value: Array | None = None,
    bias: Array | None = None,
    key_padding_mask: Array | None = None,
    attention_bias: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    past_sequence_length: Array | None = None,
    cache_indirection: Array | None = None,
    *,
    mask_filter_value: Float = -10000.0,
    num_heads: Int,
    scale: Float | None = None,
    unidirectional: Bool = False,
) -> tuple[Array, ...]:
    """Scaled dot-product attention over (batch, length, heads * size).

    com.microsoft MultiHeadAttention-1. No meaning for packed operands, preallocated buffers or
    masks of key lengths.

    C1  num_heads >= 1
    """
    if key is None or value is None or query.ndim != 3 or key.ndim != value.ndim:
        raise ValueError(_FORMS)
    buffered = past_sequence_length is not None or cache_indirection is not None
    mixed = key.ndim == 4 and (bias is not None or past_key is not None)
    if buffered or mixed or key.ndim == 5:
        raise ValueError(_FORMS)
    width = query.shape[2]
    parts = (None,) * 3 if bias is None else np.split(bias, (width, 2 * width))
    q = split_heads(query, parts[0], num_heads)
    k, v = split_heads(key, parts[1], num_heads), split_heads(value, parts[2], num_heads)
    before = 0
    if past_key is not None and past_value is not None:
        before = past_key.shape[2]
        k = np.concatenate([widen(past_key), k], axis=2)
        v = np.concatenate([widen(past_value), v], axis=2)
    shift = None if attention_bias is None else widen(attention_bias)
    if key_padding_mask is not None:
        sizes = q.shape[0], q.shape[2], k.shape[2]
        padding = _padding(key_padding_mask, *sizes, mask_filter_value)
        shift = padding if shift is None else shift + padding
    factor = np.float32(scale or 1 / math.sqrt(q.shape[3]))
    y = attend(q * factor, k, v, shift, before if unidirectional else None)
    y = y.transpose(0, 2, 1, 3).reshape(*query.shape[:2], -1)
    return tuple(part.astype(query.dtype) for part in (y, k, v))


# -- with projections ------------------------------------------------------------------------------

_PACKED_FORMS = "ms_attention: no meaning for key lengths, rotation or shared buffers"


def _widths(total: Dim | None, sizes: tuple[int, ...] | None) -> tuple[Dim | None, ...]:
    """Return the widths of queries, keys and values."""
    if sizes:
        return tuple(sizes)
    third = None if total is None else dims.exact_div(total, 3)
    return (third,) * 3


def _infer_packed(ctx: InferContext) -> list[Type]:
    heads, sizes = ctx.attrs["num_heads"], ctx.attrs["qkv_hidden_sizes"]
    if heads < 1:
        ctx.fail("C1", f"num_heads is {heads}")
    if sizes and (len(sizes) != 3 or sizes[0] != sizes[1] or any(s % heads for s in sizes)):
        ctx.fail("C2", f"qkv_hidden_sizes is {list(sizes)} for {heads} heads")
    x, w, past = ctx.shape("x"), ctx.shape("weights"), ctx.shape("past")
    special = ctx.has("past_sequence_length") or ctx.attrs["do_rotary"]
    if special or x is None or w is None or len(x) != 3 or len(w) != 2:
        return [UNKNOWN] * 2
    dtype = first_dtype(ctx, "x", "weights")
    width = _widths(w[1], sizes)
    size = None if width[2] is None else dims.exact_div(width[2], heads)
    total = total_length(None if past is None else past[1:], ctx.has("past"), x[1])
    return [
        TensorType(dtype, (x[0], x[1], width[2])),
        TensorType(dtype, (2, x[0], heads, total, size)),
    ]


@op(
    "ms_attention(x, weights, bias?, mask_index?, past?, attention_bias?, past_sequence_length?) "
    "-> y, present?",
    infer=_infer_packed,
)
def ms_attention(
    x: Array,
    weights: Array,
    bias: Array | None = None,
    mask_index: Array | None = None,
    past: Array | None = None,
    attention_bias: Array | None = None,
    past_sequence_length: Array | None = None,
    *,
    do_rotary: Bool = False,
    mask_filter_value: Float = -10000.0,
    num_heads: Int,
    past_present_share_buffer: Bool = False,
    qkv_hidden_sizes: Ints | None = None,
    rotary_embedding_dim: Int = 0,
    scale: Float | None = None,
    unidirectional: Bool = False,
) -> tuple[Array, ...]:
    """Self-attention over ``x @ weights + bias``, whose columns are queries, keys and values.

    com.microsoft Attention-1. No meaning for masks of key lengths, rotary embeddings or shared
    buffers.

    C1  num_heads >= 1
    C2  qkv_hidden_sizes are three multiples of num_heads, the first two equal
    """
    if do_rotary or past_present_share_buffer or past_sequence_length is not None:
        raise ValueError(_PACKED_FORMS)
    if mask_index is not None and mask_index.ndim == 1:
        raise ValueError(_PACKED_FORMS)
    wide = np.matmul(widen(x), widen(weights))
    rows = wide if bias is None else wide + widen(bias)
    widths = qkv_hidden_sizes or (weights.shape[1] // 3,) * 3
    parts = np.split(rows, np.cumsum(widths)[:2], axis=2)
    q, k, v = (split_heads(part, None, num_heads) for part in parts)
    before = 0
    if past is not None:
        before = past.shape[3]
        k = np.concatenate([widen(past[0]), k], axis=2)
        v = np.concatenate([widen(past[1]), v], axis=2)
    shift = None if attention_bias is None else widen(attention_bias)
    if mask_index is not None:
        padding = _padding(mask_index, q.shape[0], q.shape[2], k.shape[2], mask_filter_value)
        shift = padding if shift is None else shift + padding
    factor = np.float32(scale or 1 / math.sqrt(q.shape[3]))
    y = attend(q * factor, k, v, shift, before if unidirectional else None)
    y = y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1).astype(x.dtype)
    if k.shape != v.shape:
        return (y,)
    return y, np.stack([k, v]).astype(x.dtype)
