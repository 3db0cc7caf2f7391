"""Sample calls of the families indexing and select."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tests.op_cases import Case


def f32(*shape: int) -> Any:
    return ((np.arange(int(np.prod(shape)), dtype=np.float32) * 7) % 5).reshape(shape)


def i64(*items: int) -> Any:
    return np.array(items, dtype=np.int64)


def words(*items: str) -> Any:
    return np.array(items, dtype=object)


BF16 = ml_dtypes.bfloat16

CASES: dict[str, list[Case]] = {
    "where": [
        Case((np.array([True, False]), f32(3, 2), np.array(9, np.float32))),
        Case((np.array([[True], [False]]), i64(1), i64(2, 3))),
        Case((np.array([True]), words("a"), words("b"))),
        Case((np.zeros(0, bool), f32(0), f32(1))),
    ],
    "gather": [
        Case((f32(3, 4), i64(0, -1)), {"axis": 1}),
        Case((f32(3, 4), np.array(1))),
        Case((f32(3), np.zeros((2, 0), np.int32))),
        Case((i64(5, 6, 7), i64(2)), const=(0, 1), expected=(i64(7),)),
        Case((words("a", "b"), i64(1))),
    ],
    "gather_elements": [
        Case((f32(3, 3), i64(1, -1, 0).reshape(1, 3))),
        Case((f32(3, 2), np.array([[1], [0]], np.int32)), {"axis": 1}),
    ],
    "gather_nd": [
        Case((f32(2, 3), i64(0, 1, -1, 2).reshape(2, 2))),
        Case((f32(2, 3, 2), i64(1, 2).reshape(2, 1)), {"batch_dims": 1}),
        Case((f32(2, 3), np.zeros((2, 0), np.int64))),
    ],
    "scatter_elements": [
        Case((f32(3), i64(0, 0), f32(2)), expected=(np.array([2, 2, 4], np.float32),)),
        Case((f32(2, 3), i64(1, -1).reshape(2, 1), f32(2, 1)), {"axis": 1, "reduction": "add"}),
        Case((f32(3).astype(BF16), i64(1), f32(1).astype(BF16)), {"reduction": "max"}),
        Case((np.array([True, False]), i64(1), np.array([True])), {"reduction": "mul"}),
        Case((words("a", "b"), i64(1), words("c"))),
    ],
    "scatter_nd": [
        Case((f32(3, 2), i64(-1).reshape(1, 1), f32(1, 2))),
        Case((f32(3), i64(1, 1).reshape(2, 1), f32(2)), {"reduction": "min"}),
        Case((f32(3), i64(1, 1).reshape(2, 1), f32(2)), {"reduction": "mul"}),
    ],
    "tensor_scatter": [
        Case((f32(2, 1, 4, 3), f32(2, 1, 2, 3))),
        Case((f32(2, 1, 4, 3), f32(2, 1, 2, 3), i64(3, 1)), {"mode": "circular"}),
        Case((f32(2, 4, 3), f32(2, 1, 3), i64(3, 0)), {"axis": 1}),
    ],
    "top_k": [
        Case((f32(2, 5), i64(2)), const=(1,)),
        Case((f32(2, 5), i64(1)), {"axis": 0, "largest": False}, const=(1,)),
        Case((np.array([3, 0, 255, 3], np.uint8), i64(3)), expected=None),
        Case((f32(4).astype(BF16), i64(2)), {"sorted": False}, const=(1,)),
        Case((f32(3), i64(0)), const=(1,)),
    ],
    "arg_max": [
        Case((f32(3, 4),)),
        Case((np.array([1, 3, 3], np.int8),), {"select_last_index": True}, expected=(i64(2),)),
        Case((f32(3, 4),), {"axis": -1, "keepdims": False}),
    ],
    "arg_min": [
        Case((f32(3, 4),)),
        Case((f32(3, 4),), {"axis": 1, "select_last_index": True}),
        Case((f32(4).astype(BF16),), {"keepdims": False}),
    ],
    "non_zero": [
        Case((f32(3, 4),)),
        Case((np.array([False, True]),), expected=(i64(1).reshape(1, 1),)),
        Case((np.array(2.0),)),
        Case((f32(0, 3),)),
    ],
    "unique": [
        Case(
            (i64(2, 1, 1, 3),),
            results=4,
            expected=(i64(1, 2, 3), i64(1, 0, 3), i64(1, 0, 0, 2), i64(2, 1, 1)),
        ),
        Case(
            (i64(2, 1, 1, 3),),
            {"sorted": False},
            4,
            expected=(i64(2, 1, 3), i64(0, 1, 3), i64(0, 1, 1, 2), i64(1, 2, 1)),
        ),
        Case((np.array([[1, 0], [1, 0], [2, 3]], np.float32),), {"axis": 0}, 4),
        Case((words("b", "a", "b"),), results=2),
        Case((words("b", "a", "b"),), {"axis": 0}, 4),
    ],
    "compress": [
        Case((f32(3, 2), np.array([True, False, True])), {"axis": 0}),
        Case((f32(3, 2), np.array([False, True, True, True])), const=(1,)),
        Case((f32(3, 2), np.array([False, True])), {"axis": -1}, const=(1,)),
    ],
    "cum_sum": [
        Case((f32(2, 3), np.array(1)), const=(1,)),
        Case((f32(2, 3), np.array(0)), {"exclusive": True, "reverse": True}, const=(1,)),
        Case((f32(3).astype(BF16), np.array(-1))),
        Case((f32(0, 3), np.array(0)), {"exclusive": True}, const=(1,)),
        Case((np.array([2**31 - 1, 1], np.int32), np.array(0))),
    ],
    "cum_prod": [
        Case((f32(2, 3), np.array(1)), const=(1,)),
        Case(
            (i64(1, 2, 3), np.array(0)), {"exclusive": True}, const=(1,), expected=(i64(1, 1, 2),)
        ),
        Case((f32(3).astype(np.float16), np.array(0)), {"reverse": True}),
    ],
}
