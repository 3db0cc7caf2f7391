"""Sample calls of the loss family."""

from __future__ import annotations

import itertools

import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(12)
_REDUCTIONS = ("none", "sum", "mean")


def _f(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape).astype(np.float32)


_T1 = np.array([0, 4, 2], np.int64)
_T3 = _rng.integers(0, 5, (3, 2, 4)).astype(np.int32)
_IGNORED = np.array([0, -1, 2], np.int64)
_WEIGHT = np.array([0.2, 0.3, 0.6, 0.1, 1.0], np.float32)


def _grid(results: int | None = None) -> list[Case]:
    cases = []
    for reduction, weight in itertools.product(_REDUCTIONS, (None, _WEIGHT)):
        attrs = {"reduction": reduction}
        cases += [
            Case((_f(3, 5), _T1, weight), attrs, results),
            Case((_f(3, 5), _IGNORED, weight), {**attrs, "ignore_index": -1}, results),
            Case((_f(3, 5, 2, 4), _T3, weight), {**attrs, "ignore_index": 2}, results),
        ]
    return cases


CASES: dict[str, list[Case]] = {
    "negative_log_likelihood_loss": [
        Case(
            (np.array([[1, 2], [3, 5]], np.float32), np.array([0, 1], np.int64)),
            expected=(np.array(-3, np.float32),),
        ),
        *_grid(),
        Case((_f(3, 5).astype(np.float16), _T1), {"reduction": "sum"}),
    ],
    "softmax_cross_entropy_loss": [
        Case(
            (np.zeros((1, 4), np.float32), np.array([1], np.int64)),
            expected=(np.array(np.log(4), np.float32),),
        ),
        *_grid(1),
        *_grid(2),
    ],
}
