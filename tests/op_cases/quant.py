"""Sample calls of the quantization family."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lepton_ir import dtypes
from tests.op_cases import Case

_rng = np.random.default_rng(15)


def _f(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return (_rng.standard_normal(shape) * 4).astype(dtype)


def _u(*shape: int) -> np.ndarray:
    return _rng.integers(0, 256, shape).astype(np.uint8)


def _i(*shape: int) -> np.ndarray:
    return _rng.integers(-128, 128, shape).astype(np.int8)


def _s(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _z(value: int, dtype: type = np.uint8) -> np.ndarray:
    return np.array(value).astype(dtype)


_HALVES = np.array([-3, -1, 1, 3, 5, 600], np.float32)
_SCALES = np.array([0.05, 0.1, 0.2], np.float32)
_NARROW = (dtypes.I4, dtypes.U4, dtypes.I2, dtypes.U2, dtypes.I16, dtypes.U16)
_FLOATS = (
    dtypes.F8E4M3FN,
    dtypes.F8E4M3FNUZ,
    dtypes.F8E5M2,
    dtypes.F8E5M2FNUZ,
    dtypes.F6E2M3,
    dtypes.F6E3M2,
    dtypes.F4E2M1,
)

CASES: dict[str, list[Case]] = {
    "quantize_linear": [
        Case((_HALVES, _s(2), _z(1)), expected=(np.array([0, 1, 1, 3, 3, 255], np.uint8),)),
        Case((_HALVES, _s(2)), expected=(np.array([0, 0, 0, 2, 2, 255], np.uint8),)),
        Case((_f(2, 3, 4), _SCALES, np.array([0, 5, 9], np.int8))),
        Case((_f(2, 4, 3), _SCALES), {"axis": -1, "output_dtype": dtypes.I8}),
        Case((_f(2, 6), np.abs(_f(2, 3)) + 1, _u(2, 3)), {"block_size": 2}),
        Case((_f(2, 5), np.abs(_f(2, 3)) + 1, _u(2, 3)), {"block_size": 2}),
        Case((_f(3, dtype=np.float16), np.array(0.1, np.float16), _z(3))),
        Case((_f(3), _s(0.1)), {"precision": dtypes.F16}),
        Case((np.array([7, -9], np.int32), _s(2)), {"output_dtype": dtypes.I8}),
        *(Case((_f(3, 4), _s(0.4)), {"output_dtype": d}) for d in _NARROW),
        *(Case((_f(3, 4), _s(0.4)), {"output_dtype": d}) for d in _FLOATS),
        *(
            Case((_HALVES * 1e5, _s(0.4)), {"output_dtype": d, "saturate": False})
            for d in _FLOATS[:4]
        ),
        Case((_f(0, 3), _s(1), _z(0))),
        Case((_f(), _s(1), _z(0))),
    ],
    "dequantize_linear": [
        Case((np.array([0, 3, 255], np.uint8), _s(2), _z(3)), expected=(_s([-6, 0, 504]),)),
        Case((_i(2, 3, 4), _SCALES, np.array([0, 5, 9], np.int8))),
        Case((_i(3, 2), _SCALES), {"axis": 0}),
        Case((_u(2, 6), np.abs(_f(2, 3)), _u(2, 3)), {"block_size": 2}),
        Case((_rng.integers(-(2**30), 2**30, (3, 4)).astype(np.int32), _s(1e-5))),
        Case((_i(4).astype(ml_dtypes.int4), _s(0.5), _z(1, ml_dtypes.int4))),
        Case((_f(4).astype(ml_dtypes.float8_e4m3fn), _s(0.5))),
        Case((_f(4).astype(ml_dtypes.float4_e2m1fn), np.array(2, np.float16))),
        Case((_u(4), _s(0.3)), {"output_dtype": dtypes.BF16}),
        Case((_u(4).astype(np.uint16), np.array(0.25, ml_dtypes.bfloat16), _z(9, np.uint16))),
    ],
    "dynamic_quantize_linear": [
        Case((_f(3, 4),), results=3),
        Case((np.abs(_f(3, 4)),), results=3),
        Case((-np.abs(_f(3, 4)),), results=3),
        Case(
            (np.zeros((2, 2), np.float32),),
            results=3,
            expected=(np.zeros((2, 2), np.uint8), _s(1), _z(0)),
        ),
    ],
    "matmul_integer": [
        Case((_u(2, 3), _i(3, 4))),
        Case((_u(5, 2, 3), _i(3, 4), _z(7), _i(4))),
        Case((_u(2, 3), _u(3, 4), _u(2), _z(9))),
    ],
    "conv_integer": [
        Case((_u(1, 2, 5, 5), _i(3, 2, 3, 3))),
        Case((_u(1, 2, 5, 5), _u(4, 1, 3, 3), _z(7), _u(4)), {"group": 2, "pads": (1, 1, 1, 1)}),
        Case((_i(1, 2, 9), _i(3, 2, 3), _z(3, np.int8), _z(2, np.int8)), {"strides": (2,)}),
    ],
    "qlinear_matmul": [
        Case((_u(2, 3), _s(0.1), _z(3), _u(3, 4), _s(0.02), _z(9), _s(0.3), _z(100))),
        Case((_i(5, 2, 3), _s(0.1), _z(3, np.int8), _i(3, 3), _SCALES, _i(3), _s(1), _z(9))),
    ],
    "qlinear_conv": [
        Case(
            (_u(1, 2, 5, 5), _s(0.1), _z(7), _i(3, 2, 3, 3), _SCALES, _i(3), _s(0.9), _z(100)),
            {"pads": (1, 1, 1, 1)},
        ),
        Case(
            (
                *(_u(1, 2, 6, 6), _s(0.1), _z(7), _u(4, 1, 3, 3), _s(0.02), _z(90)),
                *(_s(0.1), _z(100), np.array([5, -900, 40, 0], np.int32)),
            ),
            {"group": 2, "strides": (2, 2), "auto_pad": "SAME_UPPER"},
        ),
    ],
}
