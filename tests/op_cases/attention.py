"""Sample calls of attention, linear attention and rotary embeddings."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lepton_ir.dtypes import F32, F64
from tests.op_cases import Case

_rng = np.random.default_rng(25)
_BF16 = ml_dtypes.bfloat16


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _qkv(
    q: int = 3, k: int = 4, heads: int = 2, groups: int = 2, dtype: object = np.float32
) -> tuple[np.ndarray, ...]:
    return (
        _f(2, heads, q, 4, dtype=dtype),
        _f(2, groups, k, 4, dtype=dtype),
        _f(2, groups, k, 6, dtype=dtype),
    )


_FLAT = (_f(2, 3, 8), _f(2, 4, 4), _f(2, 4, 6))
_HEADS = {"q_num_heads": 2, "kv_num_heads": 1}
_PAST = (_f(2, 2, 2, 4), _f(2, 2, 2, 6))
_MASK = np.array([[True, False, False, True], [False] * 4, [True] * 4])
_ONES = np.ones((1, 1, 2, 1), np.float32)

_ATTENTION: list[Case] = [
    Case(
        (_ONES, _ONES, np.array([[[[1.0], [3.0]]]], np.float32)),
        expected=(np.full((1, 1, 2, 1), 2, np.float32),),
    ),
    Case(
        (_ONES, _ONES, np.array([[[[1.0], [3.0]]]], np.float32)),
        {"is_causal": True},
        expected=(np.array([[[[1.0], [2.0]]]], np.float32),),
    ),
    Case(_qkv(), results=4),
    Case(_qkv(heads=4), {"scale": 0.3}),
    Case(_FLAT, _HEADS, results=4),
    Case((*_qkv(), _f(3, 4))),
    Case((*_qkv(), _f(2, 1, 3, 4)), {"softcap": 2.0}, results=4),
    Case((*_qkv(), _MASK), results=3),
    Case((*_qkv(), _MASK), {"is_causal": True}),
    Case((*_qkv(), _MASK[:, :2])),
    Case((*_qkv(), None, *_PAST), {"is_causal": True}, results=3),
    Case((*_qkv(), _f(3, 6), *_PAST), results=4),
    Case(_qkv(5, 5), {"left_window_size": 1, "right_window_size": 1}),
    Case(_qkv(5, 3), {"left_window_size": 1, "is_causal": True}),
    Case((*_qkv(), None, None, None, np.array([2, 4])), {"is_causal": True}),
    Case((*_qkv(), None, None, None, np.array([4, 1])), {"left_window_size": 2}),
    *(
        Case((*_qkv(), _MASK), {"qk_matmul_output_mode": m, "softcap": 1.5}, results=4)
        for m in range(4)
    ),
    Case(_qkv(0, 4)),
    Case(_qkv(dtype=np.float64)),
    Case(_qkv(dtype=np.float16), {"softmax_precision": F32}),
    Case(_qkv(dtype=np.float16), {"is_causal": True}),
    Case(_qkv(), {"softmax_precision": F64}),
]


def _linear(heads: int, groups: int, dtype: object = np.float32) -> tuple[np.ndarray, ...]:
    return tuple(_f(2, 3, n, dtype=dtype) for n in (heads * 4, groups * 4, groups * 2))


def _counts(heads: int, groups: int, rule: str) -> dict[str, object]:
    return {"q_num_heads": heads, "kv_num_heads": groups, "update_rule": rule}


_LINEAR: list[Case] = [
    Case(
        tuple(np.array([[[a], [b]]], np.float32) for a, b in ((1, 1), (1, 2), (3, 5))),
        {**_counts(1, 1, "linear"), "scale": 1.0},
        results=2,
        expected=(np.array([[[3], [13]]], np.float32), np.array([[[[13]]]], np.float32)),
    ),
    Case((*_linear(4, 2), _f(2, 2, 4, 2), _f(2, 3, 2)), _counts(4, 2, "gated"), results=2),
    Case((*_linear(2, 2), None, _f(2, 3, 8)), _counts(2, 2, "gated"), results=2),
    Case((*_linear(2, 2), None, None, _f(2, 3, 1)), _counts(2, 2, "delta"), results=2),
    Case(
        (*_linear(2, 1, np.float16), _f(2, 1, 4, 2), *(_f(2, 3, 1, dtype=np.float16),) * 2),
        _counts(2, 1, "gated_delta"),
        results=2,
    ),
]


def _rope(length: int, half: int, dtype: object = np.float32) -> tuple[np.ndarray, np.ndarray]:
    angles = _rng.uniform(0, 3, (length, half))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


_IDS = np.array([[0, 2, 1], [4, 3, 0]])
_BATCHED = tuple(np.stack([c, c]) for c in _rope(3, 4))

_ROTARY: list[Case] = [
    Case(
        (
            np.array([[[[3, 4]]]], np.float32),
            np.zeros((1, 1, 1), np.float32),
            np.ones((1, 1, 1), np.float32),
        ),
        expected=(np.array([[[[-4, 3]]]], np.float32),),
    ),
    Case((_f(2, 2, 3, 8), *_rope(5, 4), _IDS)),
    Case((_f(2, 2, 3, 8), *_BATCHED)),
    Case((_f(2, 2, 3, 8), *_rope(5, 4), _IDS), {"interleaved": True}),
    Case((_f(2, 3, 16), *_rope(5, 4), _IDS), {"num_heads": 2}),
    Case((_f(2, 3, 16), *_rope(5, 2), _IDS), {"num_heads": 2, "rotary_embedding_dim": 4}),
    Case((_f(2, 2, 3, 8), *_rope(5, 2), _IDS), {"interleaved": True, "rotary_embedding_dim": 4}),
    Case((_f(2, 2, 3, 8, dtype=np.float16), *_rope(5, 4, np.float16), _IDS)),
    Case((_f(2, 2, 3, 8, dtype=_BF16), *_rope(5, 4, _BF16), _IDS)),
]

CASES: dict[str, list[Case]] = {
    "attention": _ATTENTION,
    "linear_attention": _LINEAR,
    "rotary_embedding": _ROTARY,
}
