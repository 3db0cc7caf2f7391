"""Sample calls of the linear algebra family."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(11)


def _f(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _i(*shape: int, dtype: type = np.int32) -> np.ndarray:
    return _rng.integers(-5, 6, shape).astype(dtype)


_A, _B = np.array([[1, 2], [3, 4]], np.float32), np.array([[5, 6], [7, 8]], np.float32)

CASES: dict[str, list[Case]] = {
    "matmul": [
        Case((_A, _B), expected=(np.array([[19, 22], [43, 50]], np.float32),)),
        Case((_f(2, 1, 3, 4), _f(5, 4, 6))),
        Case((_f(4), _f(4))),
        Case((_f(4), _f(3, 4, 2))),
        Case((_f(3, 2, 4), _f(4))),
        Case((_i(2, 3), _i(3, 4))),
        Case((_f(2, 3, dtype=np.float16), _f(3, 4, dtype=np.float16))),
        Case((_f(2, 3).astype(ml_dtypes.bfloat16), _f(3, 4).astype(ml_dtypes.bfloat16))),
        Case((_f(2, 0), _f(0, 3)), expected=(np.zeros((2, 3), np.float32),)),
        Case((_f(0, 2), _f(2, 3))),
    ],
    "gemm": [
        Case((_A, _B, np.ones(2, np.float32)), expected=(np.array([[20, 23], [44, 51]], "f4"),)),
        Case((_f(4, 3), _f(5, 4), _f(3, 1)), {"transA": True, "transB": True, "alpha": 0.5}),
        Case((_f(3, 4), _f(4, 5)), {"alpha": 2.0}),
        Case((_f(3, 4), _f(4, 5), _f(5)), {"beta": 0.25}),
        Case((_f(3, 4), _f(4, 5), _f(1, 1)), {"beta": 0.0}),
        Case((_i(3, 4), _i(4, 5), _i(3, 5)), {"alpha": 2.0, "beta": 3.0}),
        Case((_f(3, 0), _f(0, 5), _f(5))),
    ],
    "einsum": [
        Case((_A, _B), {"equation": "ij,jk->ik"}, expected=(_A @ _B,)),
        Case((_A,), {"equation": "ii"}, expected=(np.array(5, np.float32),)),
        Case((_A,), {"equation": "ij -> ji"}, expected=(_A.T,)),
        Case((_f(2, 3, 4), _f(2, 4, 5)), {"equation": "bij,bjk"}),
        Case((_f(2, 3, 4, 4),), {"equation": "...ii->...i"}),
        Case((_f(2, 1, 3, 4), _f(5, 4, 6)), {"equation": "...ij,...jk->...ik"}),
        Case((_f(3), _f(3, 4), _f(4)), {"equation": "i,ij,j->"}),
        Case((_f(3), _f(3)), {"equation": "Z,a"}),
        Case((_i(2, 3), _i(3)), {"equation": "ij,j->i"}),
        Case((_f(2, 3, dtype=np.float16),), {"equation": "ij->j"}),
    ],
    "det": [
        Case((_A,), expected=(np.array(-2, np.float32),)),
        Case((_f(2, 3, 3, 3),)),
        Case((_f(0, 2, 2),)),
        Case((_f(3, 3, dtype=np.float16),)),
    ],
}
