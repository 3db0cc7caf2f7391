"""Sample calls of the signal family."""

from __future__ import annotations

import numpy as np

from lepton_ir import dtypes
from tests.op_cases import Case

_rng = np.random.default_rng(13)


def _f(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape).astype(np.float32)


def _n(value: int) -> np.ndarray:
    return np.array(value, np.int64)


def _windows() -> list[Case]:
    return [
        Case((_n(10),), const=(0,)),
        Case((_n(10),), {"periodic": False}, const=(0,)),
        Case((np.array(7, np.int32),), {"output_datatype": dtypes.F64}, const=(0,)),
        Case((_n(8),), {"output_datatype": dtypes.F16}, const=(0,)),
        Case((_n(0),), const=(0,)),
    ]


CASES: dict[str, list[Case]] = {
    "dft": [
        Case(
            (np.array([[[1], [0], [0], [0]]], np.float32),),
            expected=(np.tile(np.array([1, 0], np.float32), (1, 4, 1)),),
        ),
        Case((_f(2, 6, 1),)),
        Case((_f(2, 6, 2),), {"inverse": True}),
        Case((_f(2, 6, 5, 2), _n(8), _n(1)), const=(1, 2)),
        Case((_f(2, 6, 5, 1), _n(4), _n(-2)), {"onesided": True}, const=(1, 2)),
        Case((_f(2, 5, 2), None, _n(1)), {"onesided": True, "inverse": True}, const=(2,)),
        Case((_f(2, 5, 2), _n(9)), {"onesided": True, "inverse": True}, const=(1,)),
        Case((_f(6, 1).astype(np.float64),)),
    ],
    "stft": [
        Case((_f(2, 32, 1), _n(4), _f(8)), const=(1,)),
        Case((_f(2, 32, 1), _n(5), None, _n(10)), const=(1, 3)),
        Case((_f(1, 32, 2), _n(4), _f(8), _n(8)), {"onesided": False}, const=(1, 3)),
        Case((_f(1, 16, 1), _n(3)), const=(1,)),
    ],
    "hann_window": [
        Case((_n(4),), expected=(np.array([0, 0.5, 1, 0.5], np.float32),), const=(0,)),
        *_windows(),
    ],
    "hamming_window": _windows(),
    "blackman_window": _windows(),
    "mel_weight_matrix": [
        Case(
            (_n(8), _n(16), _n(8192), np.float32(0).reshape(()), np.array(4096, np.float32)),
            const=(0, 1),
        ),
        Case(
            (_n(5), _n(64), _n(8000), np.array(100, np.float32), np.array(4000, np.float32)),
            {"output_datatype": dtypes.F64},
            const=(0, 1),
        ),
    ],
}
