"""Rows of attention."""

from __future__ import annotations

import math
from typing import Any

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder
from lepton_ir.frontends.keras.table import layer
from lepton_ir.ir import Value

layer("Projection", weights="kernel bias?")(lambda b, me, x: project(b, me, x))


def project(b: KerasBuilder, me: Context, x: Value) -> Value:
    """Return (batch, steps, heads, width) of (batch, steps, features)."""
    kernel = me.tensor("kernel")
    features, heads, width = kernel.shape
    flat = me.made("kernel", lambda k: k.reshape(features, -1), features, heads * width)
    y = b.matmul(x, flat)
    if me.has("bias"):
        y = b.add(y, me.made("bias", lambda k: k.reshape(-1), heads * width))
    sizes = b.sizes_of(x)[:-1]
    return b.resized(y, [*sizes, heads, width])


def _joined(b: KerasBuilder, me: Context, x: Value) -> Any:
    """(batch, steps, heads, width) to (batch, steps, features)."""
    kernel = me.tensor("kernel")
    heads, width, *out = kernel.shape
    features = math.prod(out)
    flat = me.made("kernel", lambda k: k.reshape(heads * width, features), heads * width, features)
    sizes = b.sizes_of(x)
    y = b.matmul(b.resized(x, [*sizes[:2], heads * width]), flat)
    if me.has("bias"):
        y = b.add(y, me.made("bias", lambda k: k.reshape(-1), features))
    return y if len(out) == 1 else b.resized(y, [*sizes[:2], *out])


def _bias(b: KerasBuilder, scores: Value, visible: Value | None) -> Value:
    """Return scores with what is not visible lowered out of reach."""
    if visible is None:
        return scores
    low = -3e4 if scores.dtype is dtypes.F16 else -1e9
    hidden = b.where(b.cast_to(visible, dtypes.BOOL), b.like(scores, 0), b.like(scores, low))
    return b.add(scores, hidden)  # type: ignore[no-any-return]


def _both(b: KerasBuilder, x: Value | None, y: Value | None) -> Value | None:
    if x is None or y is None:
        return x if y is None else y
    return b.and_(b.cast_to(x, dtypes.BOOL), b.cast_to(y, dtypes.BOOL))  # type: ignore[no-any-return]


def _causal(b: KerasBuilder, query: Value, key: Value) -> Value:
    ones = b.expand(b.full((), True, dtypes.BOOL), b.ints([b.size_of(query, 1), b.size_of(key, 1)]))
    found: Value = b.trilu(ones, b.full((), 0, dtypes.I64), upper=False)
    return found


def _visible(
    b: KerasBuilder,
    query: Value,
    key: Value,
    value: Value,
    given: Value | None,
    causal: bool,
    given_masks: dict[str, Any],
) -> Value | None:
    """Return what each query may see, (batch, queries, keys) or less."""
    mask = given
    masks = {n: given_masks.get(f"{n}_mask") for n in ("query", "key", "value")}
    for name, x in (("query", query), ("value", value), ("key", key)):
        masks[name] = masks[name] if masks[name] is not None else b.masks.get(x)
    if masks["query"] is not None:
        mask = _both(b, mask, b.unsqueeze(masks["query"], b.ints([2])))
    for name in ("value", "key"):
        if masks[name] is not None and (name == "value" or key is not value):
            mask = _both(b, mask, b.unsqueeze(masks[name], b.ints([1])))
    return _both(b, mask, _causal(b, query, key)) if causal else mask


@layer("MultiHeadAttention", children="query_dense key_dense value_dense output_dense")
def multi_head(
    b: KerasBuilder,
    me: Context,
    query: Value,
    value: Value,
    key: Value | None = None,
    attention_mask: Value | None = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
    **masks: Any,
) -> Any:
    axes = me.get("attention_axes")
    if axes not in (None, 1, [1]) or me.get("use_gate"):
        raise UnsupportedError("attention over other axes, or gated", code="keras-layer")
    if b.rank(query) != 3 or me.get("sliding_window"):
        raise UnsupportedError("attention over more than one axis, or a window", code="keras-layer")
    key = value if key is None else key
    visible = _visible(b, query, key, value, attention_mask, use_causal_mask, masks)
    found, weights = _projected(b, me, (query, key, value), visible, int(me.get("key_dim")))
    found = me.keep_mask(query, found)
    return [found, weights] if return_attention_scores else found


def _projected(
    b: KerasBuilder,
    me: Context,
    operands: tuple[Value, Value, Value],
    visible: Value | None,
    width: int,
    repeats: int = 1,
) -> tuple[Any, Value]:
    """Return attention between the layer's projections, and its weights.

    Each head of key and value serves ``repeats`` heads of the query.
    """
    names = ("query_dense", "key_dense", "value_dense")
    q, k, v = (project(b, me.child(n), x) for n, x in zip(names, operands, strict=True))
    k, v = (_repeated(b, x, repeats) for x in (k, v))
    y, weights = _attend(b, q, k, v, visible, 1 / math.sqrt(width))
    return _joined(b, me.child("output_dense"), y), weights


def _attend(
    b: KerasBuilder, q: Value, k: Value, v: Value, visible: Value | None, scale: float
) -> tuple[Value, Value]:
    """Return (batch, queries, heads, width) and the weights (batch, heads, queries, keys)."""
    heads = [0, 2, 1, 3]
    q = b.mul(q, b.like(q, scale))
    scores = b.matmul(b.transpose(q, perm=heads), b.transpose(k, perm=[0, 2, 3, 1]))
    if visible is not None and b.rank(visible) == 3:
        visible = b.unsqueeze(visible, b.ints([1]))
    weights = b.softmax(_bias(b, scores, visible), axis=-1)
    y = b.matmul(weights, b.transpose(v, perm=heads))
    return b.transpose(y, perm=heads), weights


@layer(
    "GroupQueryAttention",
    "GroupedQueryAttention",
    children="query_dense key_dense value_dense output_dense",
)
def grouped(
    b: KerasBuilder,
    me: Context,
    query: Value,
    value: Value,
    key: Value | None = None,
    attention_mask: Value | None = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
    **masks: Any,
) -> Any:
    if me.get("use_gate") or me.get("sliding_window"):
        raise UnsupportedError("gated attention, or a window", code="keras-layer")
    key = value if key is None else key
    visible = _visible(b, query, key, value, attention_mask, use_causal_mask, masks)
    repeats = int(me.get("num_query_heads")) // int(me.get("num_key_value_heads"))
    width = int(me.get("head_dim"))
    found, weights = _projected(b, me, (query, key, value), visible, width, repeats)
    return [found, weights] if return_attention_scores else found


def _repeated(b: KerasBuilder, x: Value, count: int) -> Value:
    """Return each head ``count`` times, one after the other."""
    if count == 1:
        return x
    n, t, heads, width = b.sizes_of(x)
    wide = b.expand(b.unsqueeze(x, b.ints([3])), b.ints([n, t, heads, count, width]))
    assert isinstance(heads, int)
    return b.resized(wide, [n, t, heads * count, width])


def _operands(inputs: Any, more: tuple[Any, ...]) -> tuple[Value, Value, Value]:
    given = list(inputs) if isinstance(inputs, list) else [inputs, *more]
    query, value, *key = given
    return query, value, key[0] if key else value


def _dot(
    b: KerasBuilder,
    me: Context,
    scores: Value,
    query: Value,
    value: Value,
    key: Value,
    causal: bool,
    given: dict[str, Any],
) -> tuple[Any, Value]:
    mask = b.masks.get(value)
    visible = None if mask is None else b.unsqueeze(mask, b.ints([1]))
    if causal:
        visible = _both(b, visible, _causal(b, query, key))
    weights = b.softmax(_bias(b, scores, visible), axis=-1)
    return me.keep_mask(query, b.matmul(weights, value)), weights


@layer("Attention", weights="scale?")
def attention(
    b: KerasBuilder,
    me: Context,
    inputs: Any,
    *more: Any,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
    **given: Any,
) -> Any:
    """Luong's attention: the scores are products."""
    if me.get("score_mode", "dot") != "dot":
        raise UnsupportedError("score_mode concat", code="keras-layer")
    query, value, key = _operands(inputs, more)
    scores = b.matmul(query, b.transpose(key, perm=[0, 2, 1]))
    if me.get("use_scale"):
        scores = b.mul(scores, me.weight("scale"))
    y, weights = _dot(b, me, scores, query, value, key, use_causal_mask, given)
    return [y, weights] if return_attention_scores else y


@layer("AdditiveAttention", weights="scale?")
def additive(
    b: KerasBuilder,
    me: Context,
    inputs: Any,
    *more: Any,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
    **given: Any,
) -> Any:
    """Bahdanau's attention: ``sum(scale * tanh(query + key))``."""
    query, value, key = _operands(inputs, more)
    mixed = b.tanh(b.add(b.unsqueeze(query, b.ints([2])), b.unsqueeze(key, b.ints([1]))))
    if me.get("use_scale", True):
        mixed = b.mul(mixed, me.weight("scale"))
    scores = b.reduce_sum(mixed, b.ints([-1]), keepdims=False)
    y, weights = _dot(b, me, scores, query, value, key, use_causal_mask, given)
    return [y, weights] if return_attention_scores else y
