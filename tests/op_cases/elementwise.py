"""Sample calls of the elementwise operations."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from tests.op_cases import Case

RNG = np.random.default_rng(20240501)
F32 = RNG.standard_normal((2, 3, 4)).astype(np.float32)
SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-30, 88.0, -88.0, 3e38]
)
F16 = np.array([0.1, -2.5, 300.0, -0.0, 1e-5, 4.0], np.float16)
BF16 = np.array([0.1, -2.5, 3.0, -0.0, 1e-5, 4.0], ml_dtypes.bfloat16)
EMPTY = np.zeros((0, 3), np.float32)
SCALAR = np.array(0.7, np.float32)


def i64(*values: int) -> Any:
    return np.array(values, np.int64)


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


with np.errstate(over="ignore"):
    FLOAT_INPUTS = [
        *(F32, SPECIAL, F16, BF16, EMPTY, SCALAR),
        *(SPECIAL.astype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16)),
    ]


def unary(*more: Any, **attrs: Any) -> list[Case]:
    return [Case((x,), attrs) for x in [*FLOAT_INPUTS, *more]]


_FLOAT_UNARY = (
    "acos acosh asin asinh atan atanh ceil cos cosh exp floor log reciprocal round sin sinh sqrt "
    "tan tanh erf sigmoid softplus softsign elu selu celu leaky_relu thresholded_relu "
    "hard_sigmoid hard_swish mish swish gelu"
)
CASES: dict[str, list[Case]] = {name: unary() for name in _FLOAT_UNARY.split()}
CASES["erf"].append(
    Case((np.array([0.5, -1.0, 3.0]),), expected=(np.array([*map(math.erf, (0.5, -1.0, 3.0))]),))
)
CASES["round"].append(
    Case((f32(0.5, 1.5, 2.5, -0.5, -1.5),), expected=(f32(0.0, 2.0, 2.0, -0.0, -2.0),))
)
CASES["softplus"].append(Case((f32(200.0, -200.0, 0.0),), expected=(f32(200, 0, math.log(2)),)))
CASES["elu"] += unary(alpha=0.3)
CASES["selu"] += unary(alpha=1.5, gamma=2.0)
CASES["celu"] += unary(alpha=2.5)
CASES["leaky_relu"] += unary(alpha=0.3)
CASES["thresholded_relu"] += unary(alpha=0.4)
CASES["hard_sigmoid"] += unary(alpha=0.5, beta=0.25)
CASES["swish"] += unary(alpha=1.702)
CASES["gelu"] += unary(approximate="tanh")

_INTS = [np.array([-3, 0, 7, -128, 127], np.int8), i64(2, -5, 0), np.array(-4, np.int32)]
CASES["abs"] = unary(*_INTS, np.array([3, 0], np.uint8))
CASES["neg"] = unary(*_INTS)
CASES["sign"] = unary(*_INTS, np.array([3, 0], np.uint64))
CASES["relu"] = unary(*_INTS)
CASES["shrink"] = [
    *unary(),
    *unary(bias=1.5, lambd=1.5),
    Case((i64(-3, -1, 0, 1, 3),), {"lambd": 1.5, "bias": 1.0}, expected=(i64(-2, 0, 0, 0, 2),)),
]
_BOOL = np.array([[True, False], [False, False]])
CASES["not"] = [Case((_BOOL,)), Case((np.array(True),))]
CASES["bitwise_not"] = [Case((x,)) for x in [*_INTS, np.array([3, 0], np.uint16)]]
CASES["is_nan"] = [
    *unary(),
    Case(
        (np.array([np.nan, 1.0], ml_dtypes.float8_e4m3fnuz),), expected=(np.array([True, False]),)
    ),
]
_INF = f32(np.inf, -np.inf, np.nan, 1.0)
CASES["is_inf"] = [
    *unary(),
    Case((_INF,), expected=(np.array([True, True, False, False]),)),
    Case((_INF,), {"detect_negative": False}, expected=(np.array([True, False, False, False]),)),
    Case((_INF,), {"detect_positive": False}, expected=(np.array([False, True, False, False]),)),
    Case(
        (_INF,), {"detect_positive": False, "detect_negative": False}, expected=(np.zeros(4, bool),)
    ),
    Case((_INF.astype(ml_dtypes.float8_e5m2),)),
]

_ROW = RNG.standard_normal((4,)).astype(np.float32)
_COLUMN = RNG.standard_normal((3, 1)).astype(np.float32)
_PAIRS = [
    (F32, F32[::-1].copy()),
    (F32, _ROW),
    (_COLUMN, F32),
    (_COLUMN, _ROW),
    (SCALAR, F32),
    (EMPTY, f32(1, 2, 3)),
    (np.zeros((2, 0, 3), np.float32), np.ones((1, 1), np.float32)),
    (SPECIAL.astype(np.float32)[:, None], f32(np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.0)),
    (F16, F16[::-1].copy()),
    (BF16, BF16[:1]),
    (SPECIAL, np.array(2.5)),
]
_INT_PAIRS = [
    (np.array([100, -100, 7, -7, 7], np.int8), np.array([100, -100, 2, 2, -2], np.int8)),
    (np.array([[200], [3]], np.uint8), np.array([100, 7], np.uint8)),
    (i64(7, -7, 2**62), i64(3, 3, 4)),
    (np.array(6, np.int32), np.array([4, 5, -6], np.int32)),
    (i64(12), i64(2, 3, 4)),
]


def pairs(floats: bool = True, ints: bool = True) -> list[Case]:
    return [Case(p) for p in [*(_PAIRS if floats else ()), *(_INT_PAIRS if ints else ())]]


for _name in [
    "add",
    "sub",
    "mul",
    "div",
    "greater",
    "greater_or_equal",
    "less",
    "less_or_equal",
    "equal",
    "max",
    "min",
]:
    CASES[_name] = pairs()
CASES["equal"] += [
    Case((_BOOL, np.array([True, False]))),
    Case(
        (np.array(["a", "b"], object), np.array(["a"], object)), expected=(np.array([True, False]),)
    ),
]
CASES["div"].append(Case((i64(7, -7, 7, -7), i64(2, 2, -2, -2)), expected=(i64(3, -3, -3, 3),)))
for _name in ("max", "min", "sum", "mean"):
    CASES.setdefault(_name, pairs(ints=False))
    CASES[_name] += [
        Case((F32,)),
        Case((F32, _ROW, _COLUMN)),
        Case((F16, F16, F16[:1])),
        Case((BF16, BF16[:1], BF16, BF16)),
        Case((SCALAR, SCALAR)),
    ]
CASES["max"].append(Case((f32(np.nan, 1), f32(0, np.nan)), expected=(f32(np.nan, np.nan),)))
CASES["mod"] = [
    *pairs(),
    *(Case(p, {"fmod": True}) for p in [*_PAIRS, *_INT_PAIRS]),
    Case((i64(-7, 7, -7), i64(3, -3, -3)), expected=(i64(2, -2, -1),)),
    Case((i64(-7, 7, -7), i64(3, -3, -3)), {"fmod": True}, expected=(i64(-1, 1, -1),)),
]
CASES["pow"] = [
    *pairs(ints=False),
    Case((F32, np.array([0, 1, 2, 3], np.int64))),
    Case((i64(2, -3, 5), np.array([3, 2, 0], np.uint8)), expected=(i64(8, 9, 1),)),
    Case((i64(2, -1, 1, -1), i64(-2, -3, -5, -2)), expected=(i64(0, -1, 1, 1),)),
    Case((np.array([2, 9], np.int32), f32(3.0, 0.5)), expected=(np.array([8, 3], np.int32),)),
    Case((F16, np.array(2.0, np.float32))),
    Case((BF16, np.array(2, np.int32))),
]
for _name in ("and", "or", "xor"):
    CASES[_name] = [Case((_BOOL, np.array([True, False]))), Case((np.array(True), _BOOL))]
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    CASES[_name] = pairs(floats=False)
_SHIFTS = np.array([0, 1, 7, 8, 100, -1], np.int8)
CASES["bit_shift"] = [
    Case(
        (np.array([-2], np.int8), _SHIFTS),
        {"direction": "RIGHT"},
        expected=(np.array([-2, -1, -1, -1, -1, -1], np.int8),),
    ),
    Case(
        (np.array([-2], np.int8), _SHIFTS),
        {"direction": "LEFT"},
        expected=(np.array([-2, -4, 0, 0, 0, 0], np.int8),),
    ),
    Case((np.array([[16], [4]], np.uint64), np.array([1, 2], np.uint64)), {"direction": "RIGHT"}),
]
CASES["prelu"] = [
    Case((F32, _ROW)),
    Case((F32, _COLUMN)),
    Case((F32, SCALAR)),
    Case((F16, F16[:1])),
    Case((SPECIAL.astype(np.float32), f32(0.5))),
    Case((i64(-2, 3), i64(4)), expected=(i64(-8, 3),)),
]
_LOW, _HIGH = np.array(-0.5, np.float32), np.array(0.5, np.float32)
CASES["clip"] = [
    Case((F32,)),
    Case((F32, _LOW)),
    Case((F32, None, _HIGH)),
    Case((F32, _LOW, _HIGH), const=(1, 2)),
    Case((SPECIAL.astype(np.float32), _LOW, _HIGH)),
    Case((f32(1, 2), _HIGH, _LOW), expected=(f32(-0.5, -0.5),)),
    Case((F16, np.array(-1, np.float16), np.array(1, np.float16)), const=(1, 2)),
    Case((i64(-9, 2, 9), np.array(0), np.array(5)), expected=(i64(0, 2, 5),)),
    Case((F32, f32(0.0), None)),
    Case((SCALAR, f32(1.0), None)),
]
CASES["swiglu"] = [
    Case((F32, F32[::-1].copy())),
    Case((F32, F32 + 1), {"alpha": 1.702}),
    Case((F16, F16[::-1].copy())),
    Case((BF16, BF16[::-1].copy())),
    Case((EMPTY, EMPTY)),
    Case((SPECIAL.astype(np.float32), SPECIAL[::-1].astype(np.float32))),
]
