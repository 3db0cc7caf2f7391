"""Sample calls of sequences and optionals."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lepton_ir import dtypes
from lepton_ir.types import TensorType
from tests.op_cases import Case

_rng = np.random.default_rng(41)


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


_A, _B, _C = _f(2, 3), _f(2, 3), _f(4, 3)
_WORDS = np.array(["a", "bc"], object)
_TEXT = [_WORDS, np.array(["d"], object)]
_SCALARS = [np.array(1, np.int32), np.array(2, np.int32)]
_X = _f(5, 4)

CASES: dict[str, list[Case]] = {
    "sequence_construct": [
        Case((_A,), expected=([_A],)),
        Case((_A, _B), expected=([_A, _B],)),
        Case((_A, _C, _f(0, 3))),
        Case(tuple(_SCALARS), expected=(_SCALARS,)),
        Case((_f(2, dtype=ml_dtypes.bfloat16), _f(3, dtype=ml_dtypes.bfloat16))),
        Case((_WORDS, _WORDS), expected=([_WORDS, _WORDS],)),
    ],
    "sequence_empty": [
        Case((), expected=([],)),
        Case((), {"dtype": dtypes.I64}, expected=([],)),
    ],
    "sequence_at": [
        Case(([_A, _C], np.array(0, np.int64)), expected=(_A,)),
        Case(([_A, _C], np.array(1, np.int32)), expected=(_C,)),
        Case(([_A, _C], np.array(-2, np.int64)), expected=(_A,), const=(1,)),
        Case((_TEXT, np.array(-1, np.int64)), expected=(_TEXT[1],)),
    ],
    "sequence_insert": [
        Case(([_A], _B), expected=([_A, _B],)),
        Case(([], _B), expected=([_B],)),
        Case(([_A, _B], _C, np.array(0, np.int64)), expected=([_C, _A, _B],)),
        Case(([_A, _B], _C, np.array(-1, np.int32)), expected=([_A, _C, _B],), const=(2,)),
        Case(([_A, _B], _C, np.array(2, np.int64)), expected=([_A, _B, _C],)),
    ],
    "sequence_erase": [
        Case(([_A, _C],), expected=([_A],)),
        Case(([_A],), expected=([],)),
        Case(([_A, _B, _C], np.array(1, np.int64)), expected=([_A, _C],)),
        Case(([_A, _B, _C], np.array(-3, np.int32)), expected=([_B, _C],), const=(1,)),
    ],
    "sequence_length": [
        Case(([],), expected=(np.array(0, np.int64),)),
        Case(([_A, _C],), expected=(np.array(2, np.int64),)),
        Case((_TEXT,), expected=(np.array(2, np.int64),)),
    ],
    "concat_from_sequence": [
        Case(([_A, _C],), {"axis": 0}, expected=(np.concatenate([_A, _C]),)),
        Case(([_A, _B],), {"axis": -1}, expected=(np.concatenate([_A, _B], 1),)),
        Case(([_A],), {"axis": 1}, expected=(_A,)),
        Case(([_A, _f(0, 3)],), {"axis": -2}, expected=(_A,)),
        Case(([_A, _B],), {"axis": 0, "new_axis": True}, expected=(np.stack([_A, _B]),)),
        Case(([_A, _B],), {"axis": -1, "new_axis": True}, expected=(np.stack([_A, _B], -1),)),
        Case((_SCALARS,), {"axis": 0, "new_axis": True}, expected=(np.array([1, 2], np.int32),)),
        Case((_TEXT,), {"axis": 0}, expected=(np.concatenate(_TEXT),)),
    ],
    "split_to_sequence": [
        Case((_X,), expected=([_X[i : i + 1] for i in range(5)],)),
        Case((_X,), {"keepdims": False}, expected=(list(_X),)),
        Case((_X,), {"axis": -1, "keepdims": False}, expected=(list(_X.T),)),
        Case((_X, np.array(2, np.int64)), expected=([_X[:2], _X[2:4], _X[4:]],)),
        Case((_X, np.array(9, np.int32)), {"axis": 1}, expected=([_X],), const=(1,)),
        Case((_X, _i(1, 0, 4)), expected=([_X[:1], _X[1:1], _X[1:]],), const=(1,)),
        Case((_X, _i(3, 1)), {"axis": 1, "keepdims": False}, expected=([_X[:, :3], _X[:, 3:]],)),
        Case((_f(0, 4),), expected=([],)),
        Case((_WORDS,), {"keepdims": False}),
    ],
    "optional": [
        Case((_A,), expected=(_A,)),
        Case(([_A, _C],), expected=([_A, _C],)),
        Case((), {"type": TensorType(dtypes.F32, (2, 3))}, expected=(None,)),
        Case((None,), {"type": TensorType(dtypes.F32, None)}, expected=(None,)),
    ],
    "optional_has_element": [
        Case((_A,), expected=(np.array(True),)),
        Case(([],), expected=(np.array(True),)),
        Case((), expected=(np.array(False),)),
    ],
    "optional_get_element": [
        Case((_A,), expected=(_A,)),
        Case(([_A, _C],), expected=([_A, _C],)),
        Case((_WORDS,), expected=(_WORDS,)),
    ],
}
