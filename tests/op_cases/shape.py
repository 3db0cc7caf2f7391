"""Sample calls of the families cast, shape, window and create."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lepton_ir import dtypes
from lepton_ir.tensors import from_array
from tests.op_cases import Case


def f32(*shape: int) -> Any:
    return (np.arange(int(np.prod(shape)), dtype=np.float32) - 3).reshape(shape)


def i64(*items: int) -> Any:
    return np.array(items, dtype=np.int64)


def words(*items: str) -> Any:
    return np.array(items, dtype=object)


BF16 = ml_dtypes.bfloat16
MAX = 2**63 - 1
MIN = -(2**63)

CASES: dict[str, list[Case]] = {
    "identity": [
        Case((f32(2, 3),)),
        Case((words("a", "b"),)),
        Case((f32(2).astype(BF16),)),
        Case(([f32(2), f32(1)],)),
    ],
    "cast": [
        Case((f32(2, 3),), {"to": dtypes.I32}),
        Case((np.array([1.5, -2.25, np.nan], np.float32),), {"to": dtypes.BF16}),
        Case((i64(200, -1),), {"to": dtypes.I8}, expected=(np.array([-56, -1], np.int8),)),
        Case(
            (np.array([1e9, -1e9], np.float32),),
            {"to": dtypes.F8E4M3FN},
            expected=(np.array([448, -448], ml_dtypes.float8_e4m3fn),),
        ),
        Case(
            (np.array([1e9, np.inf], np.float32),),
            {"to": dtypes.F8E5M2, "saturate": False},
            expected=(np.array([np.inf, np.inf], ml_dtypes.float8_e5m2),),
        ),
        Case(
            (np.array([3.0, 4.0, 0.75], np.float32),),
            {"to": dtypes.F8E8M0, "round_mode": "nearest"},
            expected=(np.array([4, 4, 1], ml_dtypes.float8_e8m0fnu),),
        ),
        Case(
            (np.array([7, 8, -9], np.int32),),
            {"to": dtypes.I4},
            expected=(np.array([7, -8, 7], ml_dtypes.int4),),
        ),
        Case((np.array([1, -8], ml_dtypes.int4),), {"to": dtypes.F32}),
        Case((f32(0, 2),), {"to": dtypes.BOOL}),
        Case(
            (words("1.5", "-inf", "NaN"),),
            {"to": dtypes.F32},
            expected=(np.array([1.5, -np.inf, np.nan], np.float32),),
        ),
        Case((words("7", "-1"),), {"to": dtypes.U8}, expected=(np.array([7, 255], np.uint8),)),
        Case(
            (np.array(0.1, np.float32),),
            {"to": dtypes.STRING},
            expected=(np.array("0.1", dtype=object),),
        ),
    ],
    "cast_like": [
        Case((f32(2, 3), np.zeros(0, np.int32))),
        Case((f32(3), np.zeros((), BF16))),
    ],
    "bit_cast": [
        Case((f32(2, 3),), {"to": dtypes.I32}),
        Case((np.array(1.0, np.float32),), {"to": dtypes.U32}),
        Case(
            (np.array([-1, 7], ml_dtypes.int4),),
            {"to": dtypes.U4},
            expected=(np.array([15, 7], ml_dtypes.uint4),),
        ),
    ],
    "shape": [
        Case((f32(2, 3, 4),), expected=(i64(2, 3, 4),)),
        Case((f32(2, 3, 4),), {"start": -2}, expected=(i64(3, 4),)),
        Case((f32(2, 3, 4),), {"start": 2, "end": 1}, expected=(i64(),)),
        Case((np.array(1.0),), expected=(i64(),)),
    ],
    "size": [Case((f32(2, 3),)), Case((f32(0, 3),)), Case((words("a"),))],
    "reshape": [
        Case((f32(2, 3, 4), i64(0, -1)), const=(1,)),
        Case((f32(2, 3, 4), i64(4, 6)), const=(1,)),
        Case((f32(0, 3), i64(3, 0)), {"allowzero": True}, const=(1,)),
        Case((f32(3, 0, 2), i64(3, -1)), const=(1,)),
        Case((f32(1), i64()), const=(1,)),
        Case((f32(2, 6), i64(3, 4))),
        Case((words("a", "b"), i64(2, 1)), const=(1,)),
    ],
    "flatten": [
        Case((f32(2, 3, 4),)),
        Case((f32(2, 3, 4),), {"axis": 0}),
        Case((f32(2, 3, 4),), {"axis": -1}),
        Case((np.array(2.0),), {"axis": 0}),
        Case((f32(2, 0, 4),)),
    ],
    "squeeze": [
        Case((f32(1, 3, 1),)),
        Case((f32(1, 3, 1), i64(-1)), const=(1,)),
        Case((f32(1, 3, 1), i64(0, 0)), const=(1,)),
        Case((f32(1, 3, 1), i64(0))),
    ],
    "unsqueeze": [
        Case((f32(2, 3), i64(0, -1)), const=(1,)),
        Case((np.array(2.0), i64(0)), const=(1,)),
        Case((f32(2, 3), i64(1))),
    ],
    "transpose": [
        Case((f32(2, 3, 4),)),
        Case((f32(2, 3, 4),), {"perm": (1, 2, 0)}),
        Case((np.array(2.0),)),
        Case((words("a", "b"),), {"perm": (0,)}),
    ],
    "expand": [
        Case((f32(3, 1), i64(2, 1, 4)), const=(1,)),
        Case((f32(3, 1), i64(1, 1)), const=(1,)),
        Case((f32(3, 1), i64(0)), const=(1,)),
        Case((f32(3, 1), i64(3, 4))),
    ],
    "tile": [
        Case((f32(2, 3), i64(2, 1)), const=(1,)),
        Case((f32(2), i64(0)), const=(1,)),
        Case((f32(2, 3), i64(1, 2))),
    ],
    "concat": [
        Case((f32(2, 3), f32(2, 1)), {"axis": 1}),
        Case((f32(2, 3), f32(0, 3), f32(1, 3)), {"axis": -2}),
        Case((i64(1, 2), i64(3)), {"axis": 0}, const=(0, 1)),
        Case((words("a"), words("b")), {"axis": 0}),
    ],
    "split": [
        Case((f32(7), None), {"num_outputs": 3}, 3, expected=(f32(3), f32(6)[3:], f32(7)[6:])),
        Case((f32(2, 6), i64(1, 5)), {"axis": 1}, 2, const=(1,)),
        Case((f32(6), i64(2, 0, 4)), {}, 3),
    ],
    "slice": [
        Case((f32(4, 5), i64(1, 0), i64(MAX, -1)), const=(1, 2)),
        Case((f32(4, 5), i64(-1), i64(MIN), i64(1), i64(-2)), const=(1, 2, 3, 4)),
        Case((f32(4), i64(-9), i64(-9), i64(0), i64(-1)), const=(1, 2, 3, 4), expected=(f32(1),)),
        Case((f32(4), i64(3), i64(1)), const=(1, 2)),
        Case((f32(4, 5), i64(1), i64(3), i64(-1)), const=(3,)),
        Case((i64(3, 4, 5), i64(1), i64(2)), const=(0, 1, 2)),
    ],
    "pad": [
        Case((f32(2, 3), i64(1, 0, 0, 2)), const=(1,)),
        Case((f32(4), i64(-1, 3), np.array(7, np.float32)), const=(1,)),
        Case((f32(2, 3), i64(2, -1), None, i64(-1)), const=(1, 3)),
        Case((f32(2, 3), i64(0, 2, 0, 2)), {"mode": "reflect"}, const=(1,)),
        Case((f32(5), i64(-2, 3)), {"mode": "edge"}, const=(1,)),
        Case((f32(3), i64(5, 7)), {"mode": "wrap"}, const=(1,)),
        Case((words("a"), i64(1, 0)), const=(1,), expected=(words("", "a"),)),
    ],
    "center_crop_pad": [
        Case((f32(5), i64(2)), const=(1,), expected=(f32(3)[1:],)),
        Case((f32(2, 3), i64(5)), {"axes": (-1,)}, const=(1,)),
        Case((f32(2, 3), i64(1, 6))),
    ],
    "trilu": [
        Case((f32(3, 4),)),
        Case((f32(2, 3, 4), np.array(-1)), {"upper": False}, const=(1,)),
        Case((f32(3, 4), np.array(9)), const=(1,)),
        Case((f32(0, 4),)),
    ],
    "depth_to_space": [
        Case((f32(1, 8, 2, 3),), {"blocksize": 2}),
        Case((f32(1, 8, 2, 3),), {"blocksize": 2, "mode": "CRD"}),
    ],
    "space_to_depth": [
        Case((f32(1, 2, 4, 6),), {"blocksize": 2}),
        Case((f32(1, 2, 4, 6),), {"blocksize": 2, "mode": "CRD"}),
    ],
    "reverse_sequence": [
        Case((f32(4, 3), i64(4, 1, 2))),
        Case((f32(3, 4, 2), i64(0, 1, 3)), {"batch_axis": 0, "time_axis": 1}),
    ],
    "constant_of_shape": [
        Case((i64(2, 3),), const=(0,)),
        Case((i64(2, 0),), {"value": from_array(i64(7))}, const=(0,)),
        Case((i64(),), {"value": from_array(np.array([True]))}, const=(0,)),
        Case((i64(3),), {"value": from_array(np.array([2], np.int32))}),
    ],
    "range": [
        Case((np.array(1), np.array(9), np.array(3)), const=(0, 1, 2), expected=(i64(1, 4, 7),)),
        Case((np.array(9), np.array(1), np.array(-3)), const=(0, 1, 2)),
        Case((np.array(3), np.array(1), np.array(1)), const=(0, 1, 2)),
        Case((np.array(0, np.float32), np.array(1, np.float32), np.array(0.3, np.float32))),
        Case(tuple(np.array(v, BF16) for v in (0, 4, 1)), const=(0, 1, 2)),
    ],
    "eye_like": [
        Case((f32(3, 4),)),
        Case((f32(3, 4),), {"dtype": dtypes.I32, "k": 1}),
        Case((f32(3, 4),), {"dtype": dtypes.BF16, "k": -9}),
    ],
    "one_hot": [
        Case((i64(0, -1, 5), np.array(3), f32(2)), const=(1,)),
        Case((i64(0, 1).reshape(1, 2), i64(4), words("no", "yes")), {"axis": 0}, const=(1,)),
        Case((f32(2), np.array(3.0, np.float32), i64(0, 1)), const=(1,)),
    ],
}
