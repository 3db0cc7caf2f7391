"""Attention with key/value cache, linear attention, rotary embeddings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Bool, DTypeAttr, Float, Int, Str, op
from lepton_ir.ops._nn import (
    Array,
    cast_to,
    common_dtype,
    computed_in,
    dim_add,
    dim_div,
    dim_mul,
    first_known,
    plain_type,
    require_dtype,
    require_equal,
)
from lepton_ir.ops._numeric import widen
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value
    from lepton_ir.types import Type


class _Heads(NamedTuple):
    """Dims of query, key or value as (batch, heads, length, size)."""

    batch: Dim | None
    heads: Dim | None
    length: Dim | None
    size: Dim | None


def _split_dims(ctx: InferContext, name: str, heads: int | None) -> _Heads:
    shape = ctx.shape(name)
    if shape is None:
        return _Heads(None, heads, None, None)
    if len(shape) == 4:
        return _Heads(*shape)
    if len(shape) != 3:
        ctx.fail("C1", f"{name} has rank {len(shape)}")
    if heads is None or heads < 1:
        ctx.fail("C2", f"{name} has rank 3, which needs q_num_heads and kv_num_heads")
    if isinstance(shape[2], int) and shape[2] % heads:
        ctx.fail("C2", f"the last dim of {name} is {shape[2]}, not a multiple of {heads} heads")
    return _Heads(shape[0], heads, shape[1], dim_div(shape[2], heads))


def _infer_attention(ctx: InferContext) -> list[Type]:
    attrs = ctx.attrs
    ranks = {ctx.rank(n) for n in ("q", "k", "v")} - {None}
    if len(ranks) > 1:
        ctx.fail("C1", f"q, k and v have different ranks {sorted(ranks, key=str)}")
    q = _split_dims(ctx, "q", attrs["q_num_heads"])
    k = _split_dims(ctx, "k", attrs["kv_num_heads"])
    v = _split_dims(ctx, "v", attrs["kv_num_heads"])
    require_equal(ctx, "C3", "the head size of k", k.size, q.size)
    require_equal(ctx, "C3", "the length of v", v.length, k.length)
    if ctx.has("past_key") != ctx.has("past_value"):
        ctx.fail("C4", "past_key and past_value should be given together")
    past_length: Dim | None = 0
    past_key, past_value = ctx.shape("past_key"), ctx.shape("past_value")
    if ctx.has("past_key"):
        if any(s is not None and len(s) != 4 for s in (past_key, past_value)):
            ctx.fail("C4", "past_key and past_value should have rank 4")
        lengths = [s[2] for s in (past_key, past_value) if s is not None]
        past_length = first_known(*lengths)
    batch = first_known(q.batch, k.batch, v.batch)
    total = dim_add(first_known(k.length, v.length), past_length)
    heads = first_known(k.heads, v.heads)
    dtype, value_dtype = common_dtype(ctx, "q", "k", "past_key"), ctx.dtype("v")
    rank = next(iter(ranks), None)
    if rank is None:
        y: tuple[Dim | None, ...] | None = None
    elif rank == 4:
        y = (batch, q.heads, q.length, v.size)
    else:
        y = (batch, q.length, dim_mul(q.heads, v.size))
    return [
        TensorType(dtype, y),
        TensorType(dtype, (batch, heads, total, first_known(k.size, q.size))),
        TensorType(value_dtype, (batch, heads, total, v.size)),
        TensorType(dtype, (batch, q.heads, q.length, total)),
    ]


# -- decomposition ---------------------------------------------------------------------------------


def _static(dim: Dim | None, what: str) -> int:
    if not isinstance(dim, int):
        raise ValueError(f"{what} is not known")
    return dim


def _heads_first(b: Builder, value: Value, heads: int | None, what: str) -> Value:
    """Return the operand as (batch, heads, length, size)."""
    if value.rank == 4:
        return value
    if value.rank != 3 or value.shape is None or heads is None:
        raise ValueError(f"the rank of {what} is not known")
    size = _static(value.shape[2], f"the last dim of {what}") // heads
    split: Value = b.transpose(b.reshape(value, [0, 0, heads, size]), perm=(0, 2, 1, 3))
    return split


def _length(b: Builder, value: Value) -> Value:
    """The length of a (batch, heads, length, size) operand as an i64 scalar."""
    length = None if value.shape is None else value.shape[2]
    if isinstance(length, int):
        found: Value = b.const(np.array(length, np.int64))
    else:
        found = b.gather(b.shape(value), b.const(np.array(2, np.int64)), axis=0)
    return found


def _allowed(b: Builder, op: Op, q: Value, k: Value) -> Value | None:
    """Return which keys a query may see by causality and window, or ``None`` for all."""
    attrs = op.all_attrs()
    left, right = attrs["left_window_size"], attrs["right_window_size"]
    if not attrs["is_causal"] and left < 0 and right < 0:
        return None
    zero, one = b.const(np.array(0, np.int64)), b.const(np.array(1, np.int64))
    past = op.operand("past_key")
    rows = b.unsqueeze(b.range(zero, _length(b, q), one), [1])
    if past is not None:
        rows = b.add(rows, _length(b, past))
    distance = b.sub(rows, b.range(zero, _length(b, k), one))
    conditions = []
    if attrs["is_causal"]:
        conditions.append(b.greater_or_equal(distance, zero))
    if left >= 0:
        conditions.append(b.less_or_equal(distance, b.const(np.array(left, np.int64))))
    if right >= 0:
        conditions.append(b.greater_or_equal(distance, b.const(np.array(-right, np.int64))))
    found: Value = conditions[0]
    for condition in conditions[1:]:
        found = b.and_(found, condition)
    return found


def _bias(b: Builder, op: Op, q: Value, k: Value) -> Value | None:
    """Return what is added to the scores: the mask, and -inf where a key may not be seen."""
    assert q.dtype is not None
    zero = b.const(np.zeros((), q.dtype.numpy))
    minus = b.const(np.array(-np.inf).astype(q.dtype.numpy))
    allowed = _allowed(b, op, q, k)
    mask = op.operand("attn_mask")
    if mask is None:
        return None if allowed is None else b.where(allowed, zero, minus)
    if mask.shape is None or not mask.shape or k.shape is None:
        raise ValueError("the shape of attn_mask is not known")
    last, total = mask.shape[-1], k.shape[2]
    if last is None or total is None or dims.prove_eq(last, total) is not True:
        raise ValueError("the last dim of attn_mask is not known to be that of the keys")
    if mask.dtype is None:
        raise ValueError("the element type of attn_mask is not known")
    if mask.dtype.kind != "bool":
        added: Value = mask if mask.dtype is q.dtype else b.cast(mask, to=q.dtype)
        return added if allowed is None else b.add(added, b.where(allowed, zero, minus))
    both = mask if allowed is None else b.and_(mask, allowed)
    found: Value = b.where(both, zero, minus)
    return found


def _guarded_softmax(b: Builder, op: Op, scores: Value, bias: Value | None, out: Value) -> Value:
    """Softmax in the requested precision; rows that may see no key become 0."""
    assert out.dtype is not None
    precision: DType = op.all_attrs()["softmax_precision"] or out.dtype
    wide = scores if scores.dtype is precision else b.cast(scores, to=precision)
    weights = b.softmax(wide, axis=-1)
    attrs = op.all_attrs()
    windowed = attrs["left_window_size"] >= 0 or attrs["right_window_size"] >= 0
    if bias is not None and (op.operand("attn_mask") is not None or windowed):
        assert bias.dtype is not None
        minus = b.const(np.array(-np.inf).astype(bias.dtype.numpy))
        blind = b.equal(b.reduce_max(bias, [-1], keepdims=True), minus)
        weights = b.where(blind, b.const(np.zeros((), precision.numpy)), weights)
    found: Value = weights if precision is out.dtype else b.cast(weights, to=out.dtype)
    return found


def _repeat_heads(b: Builder, value: Value, repeats: int, what: str) -> Value:
    if repeats == 1:
        return value
    assert value.shape is not None
    heads = _static(value.shape[1], f"the heads of {what}")
    repeated: Value = b.gather(value, b.const(np.repeat(np.arange(heads), repeats)), axis=1)
    return repeated


def _decompose_attention(b: Builder, op: Op) -> list[Value]:
    attrs = op.all_attrs()
    if op.operand("nonpad_kv_seqlen") is not None:
        raise ValueError("nonpad_kv_seqlen has no decomposition")
    operands = [op.operand(n) for n in ("q", "k", "v")]
    assert all(v is not None for v in operands)
    q, k, v = (
        _heads_first(b, value, attrs[f"{'q' if name == 'q' else 'kv'}_num_heads"], name)
        for value, name in zip(operands, "qkv", strict=True)
        if value is not None
    )
    if q.dtype is None or v.dtype is None or q.shape is None or k.shape is None:
        raise ValueError("the types of q, k and v are not known")
    repeats = _static(q.shape[1], "the heads of q") // _static(k.shape[1], "the heads of k")
    past_key, past_value = op.operand("past_key"), op.operand("past_value")
    if past_key is not None:
        k, v = b.concat(past_key, k, axis=2), b.concat(past_value, v, axis=2)
    scale = attrs["scale"]
    if scale is None:
        scale = 1 / math.sqrt(_static(q.shape[3], "the head size"))
    root = math.sqrt(scale)
    bias = _bias(b, op, q, k)
    keys = _repeat_heads(b, k, repeats, "k")
    raw = b.matmul(b.mul(q, root), b.mul(b.transpose(keys, perm=(0, 1, 3, 2)), root))
    cap = attrs["softcap"]
    capped = b.mul(b.tanh(b.div(raw, cap)), cap) if cap > 0 else raw
    scores = capped if bias is None else b.add(capped, bias)
    weights = _guarded_softmax(b, op, scores, bias, q)
    values = _repeat_heads(b, v, repeats, "v")
    left = weights if values.dtype is q.dtype else b.cast(weights, to=values.dtype)
    y = b.matmul(left, values)
    y = y if values.dtype is q.dtype else b.cast(y, to=q.dtype)
    if operands[0] is not None and operands[0].rank == 3:
        assert v.shape is not None
        hidden = attrs["q_num_heads"] * _static(v.shape[3], "the head size of v")
        y = b.reshape(b.transpose(y, perm=(0, 2, 1, 3)), [0, 0, hidden])
    shown = (raw, capped, scores, weights)[attrs["qk_matmul_output_mode"]]
    return [y, k, v, shown][: len(op.results)]


# -- meaning ---------------------------------------------------------------------------------------


def _split_heads(x: Array, heads: int | None) -> Array:
    if x.ndim == 4:
        return x
    if x.ndim != 3 or not heads or x.shape[2] % heads:
        raise ValueError(f"an operand of {x.shape} cannot be split into {heads} heads")
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)


def _mask_bias(mask: Array | None, total: int, dtype: np.dtype[np.floating]) -> Array:
    """Return the additive mask, padded with -inf to ``total`` keys."""
    if mask is None:
        return np.zeros((1, 1), dtype)
    if mask.dtype == np.bool_:
        mask = np.where(mask, dtype.type(0), dtype.type(-np.inf))
    missing = total - mask.shape[-1]
    if missing < 0:
        raise ValueError(f"attn_mask {mask.shape} is longer than {total} keys")
    widths = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
    return np.pad(widen(mask).astype(dtype), widths, constant_values=-np.inf)


def _visible(
    length: int, total: int, offset: Array, is_causal: bool, left: int, right: int
) -> Array:
    """Which of ``total`` keys each query sees; ``offset`` is a scalar or (batch, 1, 1, 1)."""
    distance = np.arange(length)[:, None] + offset - np.arange(total)
    seen = np.ones(distance.shape, np.bool_)
    if is_causal:
        seen &= distance >= 0
    if left >= 0:
        seen &= distance <= left
    if right >= 0:
        seen &= -distance <= right
    return seen


def _masked_softmax(scores: Array, bias: Array, dtype: np.dtype[np.floating]) -> Array:
    """Softmax over the last axis in steps of ``dtype``; a row without any visible key is 0."""
    if not scores.shape[-1]:
        return scores
    with np.errstate(invalid="ignore"):
        top = scores.max(axis=-1, keepdims=True)
        shifted = _rounded(scores - np.where(np.isneginf(top), scores.dtype.type(0), top), dtype)
        e = _rounded(np.exp(shifted), dtype)
        weights = _rounded(e / _rounded(e.sum(axis=-1, keepdims=True), dtype), dtype)
    return np.where(np.isneginf(bias.max(axis=-1, keepdims=True)), scores.dtype.type(0), weights)


def _rounded(x: Array, dtype: np.dtype[np.floating]) -> Array:
    """Round to ``dtype`` and go on in the precision of ``widen``; f32 and f64 stay as they are."""
    return x if x.dtype == dtype else widen(x.astype(dtype))


@op(
    "attention(q, k, v, attn_mask?, past_key?, past_value?, nonpad_kv_seqlen?)"
    " -> y, present_key?, present_value?, qk_matmul_output?",
    infer=_infer_attention,
    traits="composite",
    decompose=_decompose_attention,
)
def attention(
    q: Array,
    k: Array,
    v: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    is_causal: Bool = False,
    kv_num_heads: Int | None = None,
    left_window_size: Int = -1,
    q_num_heads: Int | None = None,
    qk_matmul_output_mode: Int = 0,
    right_window_size: Int = -1,
    scale: Float | None = None,
    softcap: Float = 0.0,
    softmax_precision: DTypeAttr | None = None,
) -> tuple[Array, Array, Array, Array]:
    """``softmax(softcap(q k^T * scale) + mask) v`` with a key/value cache (ONNX Attention-25).

    q is (batch, q heads, length, size) or (batch, length, q heads * size), k and v likewise with
    their heads, which divide those of q. A row that sees no key gives 0. The fourth result is the
    scores raw (mode 0), after softcap (1), after the mask (2) or after softmax (3).

    C1  q, k and v have the same rank, 3 or 4
    C2  rank 3 needs q_num_heads and kv_num_heads, which divide the last dims
    C3  k has the head size of q, v the length of k
    C4  past_key and past_value come together, with rank 4
    """
    rank, dtype, value_dtype = q.ndim, q.dtype, v.dtype
    if (past_key is None) != (past_value is None):
        raise ValueError("past_key and past_value should be given together")
    if nonpad_kv_seqlen is not None and past_key is not None:
        raise ValueError("nonpad_kv_seqlen excludes past_key and past_value")
    if not 0 <= qk_matmul_output_mode <= 3 or min(left_window_size, right_window_size) < -1:
        raise ValueError("qk_matmul_output_mode or a window size is out of range")
    q, k, v = _split_heads(q, q_num_heads), *(_split_heads(x, kv_num_heads) for x in (k, v))
    if past_key is not None and past_value is not None:
        k, v = np.concatenate((past_key, k), axis=2), np.concatenate((past_value, v), axis=2)
    heads, groups = q.shape[1], k.shape[1]
    if not groups or heads % groups or v.shape[1] != groups:
        raise ValueError(f"{heads} heads of q are no multiple of {groups} heads of k and v")
    wide = widen(q)
    length, total = q.shape[2], k.shape[2]
    bias = _mask_bias(attn_mask, total, wide.dtype)
    offset = np.array(0 if past_key is None else past_key.shape[2])
    seen = np.ones((1, 1), np.bool_)
    if nonpad_kv_seqlen is not None:
        valid = nonpad_kv_seqlen.reshape(-1, 1, 1, 1)
        offset, seen = valid - length, np.arange(total) < valid
    if is_causal or max(left_window_size, right_window_size) >= 0:
        seen = seen & _visible(
            length, total, offset, is_causal, left_window_size, right_window_size
        )
    bias = bias + np.where(seen, wide.dtype.type(0), wide.dtype.type(-np.inf))
    factor = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    root = _rounded(np.asarray(math.sqrt(factor), wide.dtype).astype(dtype), wide.dtype)
    keys, values = (np.repeat(widen(x), heads // groups, axis=1) for x in (k, v))
    left, right = (_rounded(x * root, dtype) for x in (wide, keys.swapaxes(2, 3)))
    raw = _rounded(np.matmul(left, right), dtype)
    capped = raw
    if softcap > 0:
        cap = wide.dtype.type(softcap)
        capped = _rounded(_rounded(np.tanh(_rounded(raw / cap, dtype)), dtype) * cap, dtype)
    scores = _rounded(capped + bias, dtype)
    precision = dtype if softmax_precision is None else softmax_precision.numpy
    weights = _masked_softmax(
        widen(scores.astype(precision)), np.broadcast_to(bias, scores.shape), precision
    ).astype(dtype)
    y = np.matmul(widen(weights), values).astype(dtype)
    if rank == 3:
        y = y.transpose(0, 2, 1, 3).reshape(y.shape[0], length, -1)
    shown = (raw, capped, scores, weights)[qk_matmul_output_mode].astype(dtype)
    return y, k, v.astype(value_dtype), shown


# -- linear attention ------------------------------------------------------------------------------

_RULES = ("linear", "gated", "delta", "gated_delta")


def _infer_linear_attention(ctx: InferContext) -> list[Type]:
    heads, groups = ctx.attrs["q_num_heads"], ctx.attrs["kv_num_heads"]
    if groups < 1 or heads < 1 or heads % groups:
        ctx.fail("C2", f"q_num_heads is {heads} and kv_num_heads is {groups}")
    shapes = []
    for name, count in (("query", heads), ("key", groups), ("value", groups)):
        shape = ctx.shape(name)
        if shape is not None and len(shape) != 3:
            ctx.fail("C1", f"{name} has rank {len(shape)}")
        if shape is not None and isinstance(shape[2], int) and shape[2] % count:
            ctx.fail("C2", f"the last dim of {name} is {shape[2]}, which {count} does not divide")
        shapes.append(shape or (None,) * 3)
    query, key, value = shapes
    dtype = common_dtype(ctx, "query", "key", "value", "decay", "beta")
    batch = first_known(query[0], key[0], value[0])
    length = first_known(query[1], key[1], value[1])
    key_size = first_known(dim_div(query[2], heads), dim_div(key[2], groups))
    value_size = dim_div(value[2], groups)
    state = ctx.dtype("past_state") if ctx.has("past_state") else dtype
    return [
        TensorType(dtype, (batch, length, dim_mul(heads, value_size))),
        TensorType(state, (batch, groups, key_size, value_size)),
    ]


def _check_linear(
    rule: str, heads: int, groups: int, decay: Array | None, beta: Array | None
) -> None:
    if rule not in _RULES:
        raise ValueError(f"update_rule should be one of {', '.join(_RULES)}, got {rule!r}")
    if heads < 1 or groups < 1 or heads % groups:
        raise ValueError(f"q_num_heads {heads} is no multiple of kv_num_heads {groups}")
    if (decay is not None) != rule.startswith("gated"):
        raise ValueError(f"update_rule {rule} and decay do not fit")
    if (beta is not None) != rule.endswith("delta"):
        raise ValueError(f"update_rule {rule} and beta do not fit")


@op(
    "linear_attention(query, key, value, past_state?, decay?, beta?) -> y, present_state",
    infer=_infer_linear_attention,
)
def linear_attention(
    query: Array,
    key: Array,
    value: Array,
    past_state: Array | None = None,
    decay: Array | None = None,
    beta: Array | None = None,
    *,
    chunk_size: Int = 64,
    kv_num_heads: Int,
    q_num_heads: Int,
    scale: Float = 0.0,
    update_rule: Str = "gated_delta",
) -> tuple[Array, Array]:
    """Recurrent attention with a (batch, kv heads, key size, value size) state.

    ONNX LinearAttention-27: a token decays the state by ``exp(decay)`` (gated rules), adds
    ``key (x) value`` or ``beta * key (x) (value - state^T key)`` (delta rules), and reads
    ``scale * query^T state``. Computed in float32; ``chunk_size`` is a tuning hint.

    C1  query, key and value have rank 3: (batch, length, heads * size)
    C2  kv_num_heads divides q_num_heads, and both the last dims
    """
    _check_linear(update_rule, q_num_heads, kv_num_heads, decay, beta)
    q, k, v = (
        _split_heads(x, h).astype(np.float32)
        for x, h in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads))
    )
    batch, _, length, key_size = q.shape
    shape = (batch, kv_num_heads, key_size, v.shape[3])
    if past_state is not None and past_state.shape != shape:
        raise ValueError(f"past_state is {past_state.shape} but should be {shape}")
    state = np.zeros(shape, np.float32) if past_state is None else past_state.astype(np.float32)
    factor = np.float32(scale or 1 / math.sqrt(key_size))
    gates = None if decay is None else np.exp(_split_heads(decay, kv_num_heads).astype(np.float32))
    rates = None if beta is None else _split_heads(beta, beta.shape[2]).astype(np.float32)
    y = np.zeros((batch, q_num_heads, length, v.shape[3]), np.float32)
    for t in range(length):
        written = v[:, :, t]
        if gates is not None:
            state = state * gates[:, :, t, :, None]
        if rates is not None:
            written = rates[:, :, t] * (written - np.einsum("bhdm,bhd->bhm", state, k[:, :, t]))
        state = state + k[:, :, t, :, None] * written[:, :, None, :]
        read = np.repeat(state, q_num_heads // kv_num_heads, axis=1)
        y[:, :, t] = factor * np.einsum("bhd,bhdm->bhm", q[:, :, t], read)
    packed = y.transpose(0, 2, 1, 3).reshape(batch, length, q_num_heads * v.shape[3])
    kept = query.dtype if past_state is None else past_state.dtype
    return packed.astype(query.dtype), state.astype(kept)


# -- rotary embedding ------------------------------------------------------------------------------


def _infer_rotary(ctx: InferContext) -> Type:
    rank = ctx.rank("x")
    if rank not in (None, 3, 4):
        ctx.fail("C1", f"x has rank {rank}")
    if rank == 3 and not ctx.attrs["num_heads"]:
        ctx.fail("C1", "x has rank 3, which needs num_heads")
    common_dtype(ctx, "x", "cos_cache", "sin_cache")
    return plain_type(ctx)


def _decompose_rotary(b: Builder, op: Op) -> list[Value]:
    attrs = op.all_attrs()
    x, cos, sin = (op.operand(n) for n in ("x", "cos_cache", "sin_cache"))
    if x is None or cos is None or sin is None or x.shape is None:
        raise ValueError("the rank of x is not known")
    last = _static(x.shape[-1], "the last dim of x")
    size = last if x.rank == 4 else last // attrs["num_heads"]
    rotated = attrs["rotary_embedding_dim"] or size
    half = rotated // 2
    positions = op.operand("position_ids")
    if positions is not None:
        cos, sin = (b.gather(c, positions, axis=0) for c in (cos, sin))
    dtype = computed_in(x, "x")
    cos, sin = (b.unsqueeze(cast_to(b, c, dtype), [1 if x.rank == 4 else 2]) for c in (cos, sin))
    wide = cast_to(b, x, dtype)
    if x.rank == 3:
        wide = b.reshape(wide, [0, 0, attrs["num_heads"], size])
    if attrs["interleaved"]:
        first, second = (b.slice(wide, [i], [rotated], [3], [2]) for i in (0, 1))
    else:
        first, second = b.slice(wide, [0], [half], [3]), b.slice(wide, [half], [rotated], [3])
    real = b.sub(b.mul(cos, first), b.mul(sin, second))
    imag = b.add(b.mul(sin, first), b.mul(cos, second))
    if attrs["interleaved"]:
        pairs = b.concat(b.unsqueeze(real, [4]), b.unsqueeze(imag, [4]), axis=4)
        parts = [b.reshape(pairs, [0, 0, 0, rotated])]
    else:
        parts = [real, imag]
    if rotated < size:
        parts.append(b.slice(wide, [rotated], [size], [3]))
    y = b.concat(*parts, axis=3) if len(parts) > 1 else parts[0]
    y = cast_to(b, y, require_dtype(x, "x"))
    return [y if x.rank == 4 else b.reshape(y, [0, 0, last])]


@op(
    "rotary_embedding(x, cos_cache, sin_cache, position_ids?)",
    infer=_infer_rotary,
    traits="composite",
    decompose=_decompose_rotary,
)
def rotary_embedding(
    x: Array,
    cos_cache: Array,
    sin_cache: Array,
    position_ids: Array | None = None,
    *,
    interleaved: Bool = False,
    num_heads: Int | None = None,
    rotary_embedding_dim: Int = 0,
) -> Array:
    """Rotate pairs of elements of every head by the angle of their position (RotaryEmbedding-23).

    x is (batch, heads, length, size) or (batch, length, heads * size). The caches are (positions,
    size / 2), read at ``position_ids``, or (batch, length, size / 2). Only the first
    ``rotary_embedding_dim`` elements of a head are rotated (0: all).

    C1  rank(x) is 3 with num_heads, or 4
    """
    heads = _split_heads(x, num_heads)
    rotated = rotary_embedding_dim or heads.shape[3]
    if rotated % 2 or rotated > heads.shape[3]:
        raise ValueError(f"{rotated} elements of a head of {heads.shape[3]} cannot be paired")
    caches = (cos_cache, sin_cache)
    if position_ids is not None:
        caches = (cos_cache[position_ids], sin_cache[position_ids])
    if any(c.ndim != 3 or c.shape[2] != rotated // 2 for c in caches):
        raise ValueError(f"the caches {cos_cache.shape} do not fit {rotated} rotated elements")
    cos, sin = (widen(c)[:, None] for c in caches)
    turned = widen(heads)[..., :rotated]
    pairs = turned.reshape(*turned.shape[:3], *((-1, 2) if interleaved else (2, rotated // 2)))
    first, second = np.moveaxis(pairs, 4 if interleaved else 3, 0)
    y = widen(heads).copy()
    real, imag = cos * first - sin * second, sin * first + cos * second
    if interleaved:
        y[..., 0:rotated:2], y[..., 1:rotated:2] = real, imag
    else:
        y[..., : rotated // 2], y[..., rotated // 2 : rotated] = real, imag
    y = y.astype(x.dtype)
    return y if x.ndim == 4 else y.transpose(0, 2, 1, 3).reshape(x.shape)
