"""Sample calls of normalizations."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lepton_ir.dtypes import F64
from tests.op_cases import Case

_rng = np.random.default_rng(23)
_BF16 = ml_dtypes.bfloat16
_DTYPES = (np.float64, np.float16, _BF16)


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _p(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.uniform(0.5, 2, shape).astype(dtype)


def _batch(channels: int, dtype: object = np.float32) -> tuple[np.ndarray, ...]:
    return (*(_f(channels, dtype=dtype) for _ in range(3)), _p(channels, dtype=dtype))


CASES: dict[str, list[Case]] = {
    "batch_normalization": [
        Case(
            tuple(np.array(v, np.float32) for v in ([[1, 2]], [2, 1], [1, 0], [0, 1], [1, 4])),
            {"epsilon": 0.0},
            expected=(np.array([[3, 0.5]], np.float32),),
        ),
        Case((_f(2, 3, 4, 5), *_batch(3)), {"epsilon": 0.01}),
        Case((_f(4), *_batch(1))),
        Case((_f(4, 3), *_batch(3))),
        Case((_f(0, 3, 4), *_batch(3))),
        Case((_f(2, 3, 4), *_batch(3)), {"training_mode": True, "momentum": 0.75}, results=3),
        Case((_f(2, 3, 4, dtype=np.float16), *_batch(3)), {"training_mode": True}, results=3),
        Case((_f(2, 3, 4, dtype=np.float64), *_batch(3, np.float64))),
        Case((_f(2, 3, 4, dtype=np.float16), *_batch(3, np.float16))),
        Case((_f(2, 3, 4, dtype=_BF16), *_batch(3, _BF16))),
    ],
    "instance_normalization": [
        Case(
            tuple(np.array(v, np.float32) for v in ([[[1, 3]]], [2], [5])),
            {"epsilon": 0.0},
            expected=(np.array([[[3, 7]]], np.float32),),
        ),
        Case((_f(2, 3, 4, 5), _f(3), _f(3)), {"epsilon": 0.01}),
        Case((_f(0, 3, 4), _f(3), _f(3))),
        *(Case((_f(2, 3, 8, dtype=d), _f(3, dtype=d), _f(3, dtype=d))) for d in _DTYPES),
    ],
    "layer_normalization": [
        Case(
            (np.array([[1, 3]], np.float32), np.array([2, 4], np.float32)),
            {"epsilon": 0.0},
            results=3,
            expected=(
                np.array([[-2, 4]], np.float32),
                np.array([[2]], np.float32),
                np.array([[1]], np.float32),
            ),
        ),
        Case((_f(2, 3, 4), _f(4), _f(4)), {"epsilon": 0.01}),
        Case((_f(2, 3, 4), _f(3, 4), _f(1, 4)), {"axis": 1}, results=3),
        Case((_f(2, 3, 4), _f(1)), {"axis": -3}, results=2),
        Case((_f(5), _f(5), _f(5))),
        Case((_f(0, 3), _f(3))),
        Case((_f(2, 3, dtype=np.float64), _f(3, dtype=np.float64)), {"stash_type": F64}, results=3),
        Case((_f(2, 8, dtype=np.float16), _f(8, dtype=np.float16)), results=3),
        Case((_f(2, 8, dtype=_BF16), _f(8, dtype=_BF16), _f(8, dtype=_BF16))),
    ],
    "group_normalization": [
        Case(
            tuple(np.array(v, np.float32) for v in ([[[1], [3]]], [2, 4], [0, 1])),
            {"epsilon": 0.0, "num_groups": 1},
            expected=(np.array([[[-2], [5]]], np.float32),),
        ),
        Case((_f(2, 4, 3, 5), _f(4), _f(4)), {"num_groups": 2}),
        Case((_f(2, 4, 3), _f(2), _f(2)), {"num_groups": 2, "per_group": True}),
        Case((_f(2, 4), _f(4), _f(4)), {"num_groups": 2}),
        Case((_f(0, 4, 3), _f(4), _f(4)), {"num_groups": 4}),
        *(
            Case((_f(2, 4, 8, dtype=d), _f(4, dtype=d), _f(4, dtype=d)), {"num_groups": 2})
            for d in (np.float16, _BF16)
        ),
        Case(
            (_f(2, 4, 3, dtype=np.float64), _f(4, dtype=np.float64), _f(4, dtype=np.float64)),
            {"num_groups": 2, "stash_type": F64},
        ),
    ],
    "rms_normalization": [
        Case(
            (np.array([[3, 4]], np.float32), np.array([5, 10], np.float32)),
            {"epsilon": 12.5},
            expected=(np.array([[3, 8]], np.float32),),
        ),
        Case((_f(2, 3, 4), _f(4)), {"epsilon": 0.01}),
        Case((_f(2, 3, 4), _f(3, 4)), {"axis": 1}),
        Case((_f(2, 3, 4), _f(1)), {"axis": -2}),
        Case((_f(0, 3), _f(3))),
        Case((_f(2, 8, dtype=np.float16), _f(8)), {}),
        Case((_f(2, 8, dtype=np.float16), _f(8, dtype=np.float16)), {}),
        Case((_f(2, 8, dtype=_BF16), _f(8, dtype=_BF16))),
        Case((_f(2, 3, dtype=np.float64), _f(3, dtype=np.float64)), {"stash_type": F64}),
    ],
    "lrn": [
        Case(
            (np.array([[[1], [2], [3]]], np.float32),),
            {"size": 3, "alpha": 3.0, "beta": 1.0, "bias": 1.0},
            expected=(np.array([[[1 / 6], [2 / 15], [3 / 14]]], np.float32),),
        ),
        Case((_f(2, 5, 3, 2),), {"size": 2, "alpha": 0.1, "bias": 2.0}),
        Case((_f(2, 3, 4),), {"size": 5}),
        Case((_f(0, 3, 4),), {"size": 3}),
        *(Case((_f(1, 4, 2, dtype=d),), {"size": 3}) for d in _DTYPES),
    ],
    "lp_normalization": [
        Case(
            (np.array([[3, -4], [0, 0]], np.float32),),
            expected=(np.array([[0.6, -0.8], [0, 0]], np.float32),),
        ),
        Case(
            (np.array([[3, -4], [1, 0]], np.float32),),
            {"p": 1, "axis": 0},
            expected=(np.array([[0.75, -1], [0.25, 0]], np.float32),),
        ),
        Case((_f(0, 3),)),
        *(Case((_f(2, 4, dtype=d),)) for d in _DTYPES),
    ],
    "mean_variance_normalization": [
        Case(
            (np.array([1, 3], np.float32),),
            {"axes": (0,)},
            expected=(np.array([-1, 1], np.float32),),
        ),
        Case((_f(2, 3, 4, 5),)),
        Case((_f(2, 3, 4),), {"axes": (-1, 0)}),
        Case((_f(2, 3, 4, 5, dtype=np.float64),)),
        Case((_f(2, 3, 4, 5, dtype=_BF16),)),
    ],
}
