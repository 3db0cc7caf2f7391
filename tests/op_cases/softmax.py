"""Sample calls of softmax, its relatives, and dropout."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(24)
_DTYPES = (np.float64, np.float16, ml_dtypes.bfloat16)


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


_LOGS = np.log(np.array([[1, 3], [2, 2]], np.float32))
_SHARES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)

_COMMON: list[Case] = [
    Case((_f(2, 3, 4),)),
    Case((_f(2, 3, 4),), {"axis": 0}),
    Case((_f(2, 3, 4),), {"axis": -2}),
    Case((_f(2, 3, 4),), {"axis": 1, "coerce_2d": True}),
    Case((_f(2, 3, 4),), {"axis": -1, "coerce_2d": True}),
    Case((_f(2, 3, 4),), {"axis": 0, "coerce_2d": True}),
    Case((_f(3),)),
    Case((_f(0, 3),)),
    Case((np.array([[1e4, -1e4, 1e4]], np.float32),)),
    *(Case((_f(2, 4, dtype=d),)) for d in _DTYPES),
]

CASES: dict[str, list[Case]] = {
    "softmax": [*_COMMON, Case((_LOGS,), expected=(_SHARES,))],
    "log_softmax": [*_COMMON, Case((_LOGS,), expected=(np.log(_SHARES),))],
    "hardmax": [
        *_COMMON,
        Case(
            (np.array([[1, 3, 3], [2, 1, 0]], np.float32),),
            expected=(np.array([[0, 1, 0], [1, 0, 0]], np.float32),),
        ),
    ],
    "dropout": [
        Case((_LOGS,), results=2, expected=(_LOGS, np.ones((2, 2), np.bool_))),
        Case((_f(2, 3), np.array(0.3, np.float32), np.array(False)), results=2, const=(1, 2)),
        Case((_f(0, 3), np.array(0.3, np.float32)), {"seed": 3}),
        Case((_f(2, 3, dtype=ml_dtypes.bfloat16),)),
        Case((_f(2, 3, dtype=ml_dtypes.float8_e4m3fn),)),
    ],
}
