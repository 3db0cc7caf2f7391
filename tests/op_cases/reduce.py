"""Sample calls of the reductions."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tests.op_cases import Case

RNG = np.random.default_rng(20240502)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
INTS = np.array([[3, -4, 5], [-6, 7, 2]], np.int64)
BIG = np.array([[2**30, 2**30, 3], [1, -2, 5]], np.int32)
SPECIAL = np.array([[np.nan, 1], [np.inf, 2], [-np.inf, np.inf], [-np.inf, 3]], np.float32)
EMPTY = np.zeros((2, 0, 4), np.float32)


def axes(*values: int) -> Any:
    return np.array(values, np.int64)


def _on(x: Any) -> list[Case]:
    keep = {"keepdims": False}
    return [
        Case((x,)),
        Case((x,), keep),
        Case((x, axes(1)), const=(1,)),
        Case((x, axes(-1)), keep, const=(1,)),
        Case((x, axes(0, -1)), keep, const=(1,)),
        Case((x, axes(1, 0)), {}),
        Case((x, axes()), {"noop_with_empty_axes": True}),
        Case((x, axes()), {"noop_with_empty_axes": True}, const=(1,)),
        Case((x,), {"noop_with_empty_axes": True, "keepdims": False}),
        Case((x, axes()), keep, const=(1,)),
        Case((x, axes(1)), {"noop_with_empty_axes": True}, const=(1,)),
    ]


def _floats(*others: Any) -> list[Case]:
    kinds = [X, SPECIAL, X.astype(np.float64), X.astype(np.float16), X.astype(ml_dtypes.bfloat16)]
    rank_0 = np.array(1.5, np.float32)
    more = [
        Case((np.array([200, 300, 1e-6], np.float16),)),
        Case((rank_0,)),
        Case((rank_0,), {"keepdims": False}),
        Case((np.array([1, 2, 3], np.float32), axes(0)), {"keepdims": False}, const=(1,)),
    ]
    return [case for x in [*kinds, *others] for case in _on(x)] + more


def _empty(value: float, dtype: Any = np.float32) -> Case:
    x = EMPTY.astype(dtype)
    return Case((x, axes(1)), const=(1,), expected=(np.full((2, 1, 4), value, dtype),))


_NO = {"keepdims": False}
CASES: dict[str, list[Case]] = {
    "reduce_sum": [
        *_floats(INTS, BIG, EMPTY),
        _empty(0),
        Case((np.array([2, 3, 4], np.int64),), _NO, expected=(np.array(9),)),
    ],
    "reduce_prod": [
        *_floats(INTS, BIG, EMPTY),
        _empty(1),
        Case((np.array([2, 3, 4], np.int64), axes(0)), _NO, const=(1,), expected=(np.array(24),)),
    ],
    "reduce_max": [
        *_floats(INTS, EMPTY),
        _empty(-np.inf),
        _empty(-(2**31), np.int32),
        Case((np.array([[True, False], [False, False]]), axes(1)), const=(1,)),
        Case((np.array([2, 5, 4], np.int64),), _NO, expected=(np.array(5),)),
    ],
    "reduce_min": [
        *_floats(INTS, EMPTY),
        _empty(np.inf),
        _empty(255, np.uint8),
        Case((np.array([[True, False], [True, True]]), axes(1)), const=(1,)),
        Case((np.array([2, 5, 4], np.int64),), _NO, expected=(np.array(2),)),
    ],
    "reduce_mean": [
        *_floats(INTS),
        Case((np.array([-3, -4], np.int32),), expected=(np.array([-3], np.int32),)),
    ],
    "reduce_l1": [*_floats(INTS, BIG, EMPTY), _empty(0)],
    "reduce_l2": [
        *_floats(EMPTY),
        _empty(0),
        Case((np.array([3, 4], np.int64),), expected=(np.array([5]),)),
    ],
    "reduce_sum_square": [*_floats(INTS, BIG, EMPTY), _empty(0)],
    "reduce_log_sum": [*_floats(POSITIVE, EMPTY), _empty(-np.inf)],
    "reduce_log_sum_exp": [
        *_floats(EMPTY),
        _empty(-np.inf),
        Case((np.array([1e3, 1e3], np.float32),), expected=(np.array([1000.6931], np.float32),)),
        Case((np.array([-np.inf, -np.inf], np.float32),)),
    ],
}
