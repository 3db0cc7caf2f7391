"""Sample calls of pooling."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(22)


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _row(*values: float, dtype: object = np.float32) -> np.ndarray:
    return np.array(values, dtype).reshape(1, 1, -1)


_X = _row(1, 5, 2, 4, 3)
_DTYPES = (np.float64, np.float16, ml_dtypes.bfloat16)

_WINDOWS: list[Case] = [
    Case((_f(2, 3, 7, 6),), {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)}),
    Case((_f(1, 2, 7, 8),), {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": True}),
    Case((_f(1, 2, 7, 8),), {"kernel_shape": (2, 3), "dilations": (2, 2)}),
    Case((_f(1, 2, 7, 8),), {"kernel_shape": (3, 3), "auto_pad": "SAME_UPPER"}),
    Case((_f(1, 2, 7, 8),), {"kernel_shape": (2, 2), "auto_pad": "SAME_LOWER", "strides": (2, 2)}),
    Case((_f(1, 2, 7, 8),), {"kernel_shape": (2, 2), "auto_pad": "VALID", "strides": (2, 3)}),
    Case((_f(1, 2, 4, 3, 5),), {"kernel_shape": (2, 1, 3)}),
    Case((_f(0, 2, 4),), {"kernel_shape": (2,)}),
    *(Case((_f(1, 2, 4, dtype=d),), {"kernel_shape": (2,)}) for d in _DTYPES),
]

_GLOBAL: list[Case] = [
    Case((_f(2, 3, 4, 5),)),
    Case((_f(2, 3, 4),)),
    Case((_f(2, 3, 2, 3, 2),)),
    Case((_f(0, 3, 4),)),
    *(Case((_f(1, 2, 4, dtype=d),)) for d in _DTYPES),
]

CASES: dict[str, list[Case]] = {
    "average_pool": [
        *_WINDOWS,
        Case((_X,), {"kernel_shape": (2,)}, expected=(_row(3, 3.5, 3, 3.5),)),
        Case(
            (_X,),
            {"kernel_shape": (3,), "strides": (2,), "pads": (1, 1)},
            expected=(_row(3, 11 / 3, 3.5),),
        ),
        Case(
            (_X,),
            {"kernel_shape": (3,), "strides": (2,), "pads": (1, 1), "count_include_pad": True},
            expected=(_row(2, 11 / 3, 7 / 3),),
        ),
        Case(
            (_row(1, 1, 1, 1, 1, 1),),
            {
                "kernel_shape": (3,),
                "strides": (2,),
                "pads": (1, 1),
                "count_include_pad": True,
                "ceil_mode": True,
            },
            expected=(_row(2 / 3, 1, 1, 1 / 2),),
        ),
    ],
    "max_pool": [
        *_WINDOWS,
        Case(
            (_X,),
            {"kernel_shape": (2,)},
            results=2,
            expected=(_row(5, 5, 4, 4), _row(1, 1, 3, 3, dtype=np.int64)),
        ),
        Case(
            (np.array([[[[1, 2], [4, 3]], [[8, 5], [6, 7]]]], np.float32),),
            {"kernel_shape": (1, 2), "storage_order": True},
            results=2,
            expected=(
                np.array([[[[2], [4]], [[8], [7]]]], np.float32),
                np.array([[[[2], [1]], [[4], [7]]]], np.int64),
            ),
        ),
        Case(
            (_row(3, 3, -128, dtype=np.int8),),
            {"kernel_shape": (2,), "pads": (1, 1), "strides": (2,)},
            results=2,
            expected=(_row(3, 3, dtype=np.int8), _row(0, 1, dtype=np.int64)),
        ),
        Case((_row(0, 200, 7, dtype=np.uint8),), {"kernel_shape": (2,)}),
        Case((_f(2, 3, 6, 7),), {"kernel_shape": (3, 2), "pads": (1, 1, 1, 0)}, results=2),
    ],
    "lp_pool": [
        *_WINDOWS,
        Case((_row(3, -4, 0),), {"kernel_shape": (2,)}, expected=(_row(5, 4),)),
        Case((_row(3, -4, 0),), {"kernel_shape": (2,), "p": 1}, expected=(_row(7, 4),)),
        Case((_f(1, 2, 4, 4),), {"kernel_shape": (2, 2), "p": 3}),
    ],
    "global_average_pool": [*_GLOBAL, Case((_X,), expected=(_row(3),))],
    "global_max_pool": [*_GLOBAL, Case((_X,), expected=(_row(5),))],
    "global_lp_pool": [
        *_GLOBAL,
        Case((_row(3, -4),), expected=(_row(5),)),
        Case((_row(3, -4),), {"p": 1}, expected=(_row(7),)),
        Case((_f(1, 2, 3),), {"p": 3}),
    ],
    "max_unpool": [
        Case(
            (_row(5, 4), _row(1, 3, dtype=np.int64)),
            {"kernel_shape": (2,), "strides": (2,)},
            expected=(_row(0, 5, 0, 4),),
        ),
        Case(
            (_row(5, 4), _row(1, 3, dtype=np.int64), np.array([1, 1, 6])),
            {"kernel_shape": (2,), "strides": (2,)},
            expected=(_row(0, 5, 0, 4, 0, 0),),
            const=(2,),
        ),
        Case(
            (_f(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]])),
            {"kernel_shape": (2, 2), "strides": (2, 2)},
        ),
        Case(
            (_f(0, 1, 2), np.zeros((0, 1, 2), np.int64)),
            {"kernel_shape": (3,), "strides": (2,), "pads": (1, 0)},
        ),
        *(
            Case((_f(1, 1, 2, dtype=d), _row(0, 2, dtype=np.int64)), {"kernel_shape": (2,)})
            for d in _DTYPES
        ),
    ],
    "max_roi_pool": [
        Case(
            (
                np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4),
                np.array([[0, 0, 0, 3, 1], [0, 6, 6, 9, 9]], np.float32),
            ),
            {"pooled_shape": (1, 2)},
            expected=(np.array([[[[5, 7]]], [[[0, 0]]]], np.float32),),
        ),
        Case(
            (_f(2, 3, 8, 9), np.array([[1, 2, 4, 10, 14], [0, 0, 0, 17, 15]], np.float32)),
            {"pooled_shape": (2, 3), "spatial_scale": 0.5},
        ),
        Case((_f(1, 2, 4, 4), np.zeros((0, 5), np.float32)), {"pooled_shape": (2, 2)}),
        Case(
            (_f(1, 2, 4, 4, dtype=np.float16), np.array([[0, 0, 0, 2, 2]], np.float16)),
            {"pooled_shape": (2, 2)},
        ),
    ],
}
