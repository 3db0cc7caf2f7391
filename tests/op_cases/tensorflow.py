"""Sample calls of the operations that TensorFlow Lite has and ONNX has not."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(7)
_nan, _inf = np.nan, np.inf


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _a(*values: float, dtype: object = np.float32) -> np.ndarray:
    return np.array(values, dtype)


def _i(*values: int, dtype: object = np.int32) -> np.ndarray:
    return np.array(values, dtype)


def _pairs() -> list[Case]:
    return [
        Case((_f(2, 3, 4), _f(3, 1))),
        Case((_f(4, dtype=np.float16), _f(1, dtype=np.float16))),
        Case((_f(4, dtype=ml_dtypes.bfloat16), _f(4, dtype=ml_dtypes.bfloat16))),
        Case((_f(0, 3, dtype=np.float64), _f(3, dtype=np.float64))),
        Case((_i(7, -7, 7, -7), _i(2, 2, -2, -2))),
        Case((np.array(3.5, np.float32), np.array(-2, np.float32))),
    ]


_FLOATS: list[Case] = [
    Case((_f(2, 3),)),
    Case((_f(4, dtype=np.float16),)),
    Case((_f(0, 3),)),
    Case((_f(2, dtype=np.float64),)),
]
_S2B = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
_BOXES = _a(0, 0, 1, 1, 0, 0.1, 1, 1.1, 0, -0.1, 1, 0.9, 0, 10, 1, 11, 0, 10.1, 1, 11.1).reshape(
    5, 4
)
_SCORES = _a(0.9, 0.75, 0.6, 0.95, 0.5)


def _lstm(*gone: int, projection: bool = False, norm: bool = False, **attrs: object) -> Case:
    """Return a layer of 4 cells on sequences of 3 numbers; ``gone`` are operands left out."""
    units = 2 if projection else 4
    operands: list[np.ndarray | None] = [_f(2, 5, 3)]
    operands += [_f(4, 3) for _ in range(4)] + [_f(4, units) for _ in range(4)]
    operands += [_f(4) for _ in range(7)]
    operands += [_f(2, 4), _f(2)] if projection else [None, None]
    operands += [_f(2, units), _f(2, 4)]
    operands += [_f(4) for _ in range(4)] if norm else []
    for i in gone:
        operands[i] = None
    if attrs.get("time_major"):
        operands[0] = _f(5, 2, 3)
    return Case(tuple(operands), dict(attrs), results=3)


_PEEPHOLES = (9, 10, 11)

CASES: dict[str, list[Case]] = {
    "squared_difference": [
        *_pairs(),
        Case((_a(1, 2, _nan), _a(3, 5, 0)), expected=(_a(4, 9, _nan),)),
    ],
    "maximum": [
        *_pairs(),
        Case((_a(_nan, 0, 1), _a(0, _nan, 2)), expected=(_a(0, _nan, 2),)),
    ],
    "minimum": [
        *_pairs(),
        Case((_a(_nan, 0, 1), _a(0, _nan, 2)), expected=(_a(0, _nan, 1),)),
    ],
    "floor_div": [
        *_pairs(),
        Case((_i(7, -7, 7, -7), _i(2, 2, -2, -2)), expected=(_i(3, -4, -4, 3),)),
        Case((_a(7, -7, 7.5), _a(2, 2, -2)), expected=(_a(3, -4, -4),)),
    ],
    "floor_mod": [
        *_pairs(),
        Case((_a(7.5, -7.25, 0, 1), _a(-2, 2, -2, -_inf)), expected=(_a(-0.5, 0.75, 0, -_inf),)),
    ],
    "atan2": [
        *(c for c in _pairs() if c.operands[0].dtype.kind != "i"),
        Case(
            (_a(0.0, -0.0, 0, -0.0, 1, _inf), _a(-1, -1, 1, -0.0, 0, _inf)),
            expected=(_a(np.pi, -np.pi, 0, -np.pi, np.pi / 2, np.pi / 4),),
        ),
    ],
    "fully_connected": [
        Case((_f(2, 3), _f(4, 3), _f(4))),
        Case((_f(2, 5, 3), _f(4, 3))),
        Case((_f(3, dtype=np.float16), _f(2, 3, dtype=np.float16), _f(2, dtype=np.float16))),
        Case((_f(0, 2, 3), _f(4, 3), _f(4))),
        Case((_a(1, 2), _a(3, 4).reshape(1, 2), _a(0.5)), expected=(_a(11.5),)),
    ],
    "batch_matmul": [
        Case((_f(2, 3, 4), _f(2, 4, 5))),
        Case((_f(2, 4, 3), _f(4, 5)), {"adj_x": True}),
        Case((_f(3, 4), _f(2, 1, 5, 4)), {"adj_y": True}),
        Case((_f(2, 0, 3), _f(2, 5, 0)), {"adj_x": True, "adj_y": True}),
    ],
    "rsqrt": [Case((_a(4, 0.25, 1e-3, 7),)), Case((_a(4, dtype=np.float16),)), Case((_f(0, 2),))],
    "l2_normalization": [
        *_FLOATS,
        Case((_a(3, 4),), expected=(_a(0.6, 0.8),)),
        Case((_a(0, 1e-8),), expected=(_a(0, 1e-2),)),
    ],
    "right_shift": [
        Case((_i(-8, 8, -1, 5), _i(1, 1, 40, 31)), expected=(_i(-4, 4, -1, 0),)),
        Case(
            (_i(8, 200, dtype=np.uint8), _i(1, 9, dtype=np.uint8)),
            expected=(_i(4, 1, dtype=np.uint8),),
        ),
        Case((_i(-8, 7, dtype=np.int16), _i(2, dtype=np.int16))),
        Case((_i(-8, 7, dtype=np.int64), _i(2, dtype=np.int64))),
    ],
    "left_shift": [
        Case((_i(-8, 8, 3), _i(1, 1, 31)), expected=(_i(-16, 16, -(2**31)),)),
        Case((_i(8, 200, dtype=np.uint8), _i(1, 3, dtype=np.uint8))),
        Case((_i(-8, 7, dtype=np.int8), _i(2, dtype=np.int8))),
    ],
    "fake_quant": [
        Case((_f(20) * 4,), {"min": -3.0, "max": 5.0}),
        Case((_f(20),), {"min": -1.0, "max": 0.5, "num_bits": 4, "narrow_range": True}),
        Case((_a(-9, 0, 9),), {"min": 0.0, "max": 6.0}),
    ],
    "real": [Case((np.array([1 + 2j, -3j], np.complex64),), expected=(_a(1, 0),))],
    "imag": [Case((np.array([1 + 2j, -3j], np.complex64),), expected=(_a(2, -3),))],
    "complex_abs": [Case((np.array([3 + 4j, -3j], np.complex64),), expected=(_a(5, 3),))],
    "pack": [
        Case((_f(2, 3), _f(2, 3)), {"axis": 1}),
        Case((_f(2),), {"axis": -1}),
        Case((_i(1), _i(2), _i(3)), expected=(_i(1, 2, 3).reshape(3, 1),)),
        Case((np.array(1, np.float32), np.array(2, np.float32))),
    ],
    "unpack": [
        Case((_f(2, 3),), {"axis": 1}, results=3),
        Case((_f(1, 3),), results=1),
        Case((_i(4, 5),), results=2, expected=(_i(4).reshape(()), _i(5).reshape(()))),
    ],
    "space_to_batch_nd": [
        Case((_f(2, 4, 6, 3), _i(2, 3), _i(0, 0, 1, 2).reshape(2, 2)), const=(1, 2)),
        Case((_f(2, 4), _i(2), _i(2, 0).reshape(1, 2)), const=(1, 2)),
        Case(
            (_S2B, _i(2, 2, dtype=np.int64), np.zeros((2, 2), np.int64)),
            const=(1, 2),
            expected=(
                _a(0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15).reshape(4, 2, 2, 1),
            ),
        ),
    ],
    "batch_to_space_nd": [
        Case((_f(12, 2, 3, 3), _i(2, 3), _i(1, 0, 1, 2).reshape(2, 2)), const=(1, 2)),
        Case((_f(4, 2), _i(2), _i(0, 0).reshape(1, 2)), const=(1, 2)),
        Case(
            (
                _a(0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15).reshape(4, 2, 2, 1),
                _i(2, 2),
                np.zeros((2, 2), np.int32),
            ),
            const=(1, 2),
            expected=(_S2B,),
        ),
    ],
    "dynamic_update_slice": [
        Case((_f(4, 5), _f(2, 3), _i(3, 1))),
        Case((_i(1, 2, 3, 4), _i(8, 9), _i(-3)), expected=(_i(8, 9, 3, 4),)),
        Case((_f(3, 2), _f(0, 2), _i(1, 0, dtype=np.int64))),
        Case((np.array(1, np.float32), np.array(2, np.float32), np.zeros(0, np.int32))),
    ],
    "one_hot_on_off": [
        Case(
            (_i(0, 2, -1, 5), _i(3).reshape(()), _a(2).reshape(()), _a(-1).reshape(())),
            const=(1,),
            expected=(_a(2, -1, -1, -1, -1, 2, -1, -1, -1, -1, -1, -1).reshape(4, 3),),
        ),
        Case(
            (_i(0, 2).reshape(1, 2), _i(3).reshape(()), _i(1).reshape(()), _i(0).reshape(())),
            {"axis": 0},
        ),
    ],
    "soft_non_max_suppression": [
        Case(
            (_BOXES, _SCORES, _i(4).reshape(()), _a(0.5).reshape(()), _a(0.4).reshape(())),
            results=3,
            const=(2,),
            expected=(_i(3, 0, 0, 0), _a(0.95, 0.9, 0, 0), _i(2).reshape(())),
        ),
        Case(
            (
                *(_BOXES, _SCORES, _i(4).reshape(()), _a(0.5).reshape(()), _a(0).reshape(())),
                _a(0.5).reshape(()),
            ),
            results=3,
        ),
    ],
    "unidirectional_sequence_lstm": [
        _lstm(),
        _lstm(*_PEEPHOLES, cell_clip=0.3, time_major=True),
        _lstm(1, 5, 9, 12),
        _lstm(*_PEEPHOLES, projection=True, proj_clip=0.5),
        _lstm(*_PEEPHOLES, norm=True, activation="RELU6"),
        _lstm(*_PEEPHOLES, hidden_scale=0.01, hidden_zero_point=3, cell_scale=2.0**-12),
    ],
    "rfft2d": [Case((_f(2, 4, 8), _i(4, 8)), const=(1,)), Case((_f(4, 4), _i(2, 4)))],
}
