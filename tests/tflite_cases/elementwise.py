"""Cases: one element at a time."""

from __future__ import annotations

import numpy as np

from tests.tflite_cases import case, q
from tests.tflite_models import T, const

_F = T((2, 3, 4))
for _op in ("ABS", "CEIL", "COS", "ELU", "FLOOR", "GELU", "HARD_SWISH", "LOGISTIC", "NEG"):
    case(_op, [_F], [_F])
for _op in ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ROUND", "SIGN", "SIN", "SQUARE"):
    case(_op, [_F], [_F], low=-8, high=8)
for _op in ("EXP", "TANH", "ZEROS_LIKE"):
    case(_op, [_F], [_F])
for _op in ("LOG", "SQRT", "RSQRT"):
    case(_op, [_F], [_F], low=0.1, high=5)
case("GELU", [_F], [_F], label="tanh", approximate=True)
case("LEAKY_RELU", [_F], [_F], alpha=0.2)
case("PRELU", [T((2, 5, 3)), const([[0.1, 0.2, 0.3]])], [T((2, 5, 3))])
case("ABS", [T((3,), "int32")], [T((3,), "int32")], label="i32")
case("NEG", [T((3,), "int64")], [T((3,), "int64")], label="i64")
case("ELU", [q((4, 4))], [q((4, 4), 0.03, -5)], label="i8", steps=1)
for _op in (
    "LOGISTIC",
    "TANH",
    "RELU",
    "RELU6",
    "LEAKY_RELU",
    "HARD_SWISH",
    "ABS",
    "RSQRT",
    "SQRT",
):
    _out = {"LOGISTIC": q((4, 8), 1 / 256, -128), "TANH": q((4, 8), 1 / 128, 0)}
    _in = q((4, 8), 0.05, -128) if _op in ("RSQRT", "SQRT") else q((4, 8))
    case(_op, [_in], [_out.get(_op, q((4, 8), 0.04, -7))], label="i8", steps=1)
case("EXP", [q((4, 8), 0.02, 5)], [q((4, 8), 0.05, -128)], label="i8", steps=1)
case(
    "LOGISTIC",
    [q((4, 8), dtype="uint8", zero=120)],
    [q((4, 8), 1 / 256, 0, "uint8")],
    label="u8",
    steps=1,
)
case(
    "LOGISTIC",
    [q((4, 8), 1 / 4096, 0, "int16")],
    [q((4, 8), 1 / 32768, 0, "int16")],
    label="i16",
    steps=8,
)

_B = T((1, 4))
for _op in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"):
    case(_op, [_F, _B], [_F])
    case(
        _op,
        [T((3, 2), "int32"), T((2,), "int32")],
        [T((3, 2), "int32")],
        label="i32",
        low=1,
        high=9,
    )
for _op in ("MAXIMUM", "MINIMUM"):
    case(
        _op,
        [T((4,)), T((4,))],
        [T((4,))],
        label="nan",
        feeds=[[np.nan, 0, 1, 5], [0, np.nan, 2, 4]],
    )
case("ADD", [_F, _B], [_F], label="relu6", low=-9, high=9, fused_activation_function=3)
case("MUL", [_F, _B], [_F], label="relu1", fused_activation_function=2)
case("SUB", [_F, _B], [_F], label="relu", fused_activation_function=1)
case(
    "DIV",
    [T((4,), "int32"), T((4,), "int32")],
    [T((4,), "int32")],
    label="trunc",
    feeds=[[7, -7, 7, -7], [2, 2, -2, -2]],
)
for _op in ("ADD", "SUB", "MUL"):
    case(
        _op, [q((2, 8)), q((2, 8), 0.03, -4)], [q((2, 8), 0.07, 9)], label="i8", steps=1, version=2
    )
case(
    "ADD",
    [q((2, 8), dtype="uint8"), q((2, 8), 0.03, 4, "uint8")],
    [q((2, 8), 0.07, 9, "uint8")],
    label="u8",
    steps=1,
)
case(
    "ADD",
    [q((2, 8), 1 / 4096, 0, "int16"), q((2, 8), 1 / 2048, 0, "int16")],
    [q((2, 8), 1 / 1024, 0, "int16")],
    label="i16",
    steps=1,
    pot_scale_int16=False,
)
case("MAXIMUM", [q((2, 8)), q((1, 8))], [q((2, 8))], label="i8")
case("SQUARED_DIFFERENCE", [q((2, 8)), q((2, 8))], [q((2, 8), 0.5, -128)], label="i8", steps=1)
_SIGNS = [[7, -7, 7, -7, 6], [2, 2, -2, -2, 3]]
for _op in ("FLOOR_DIV", "FLOOR_MOD"):
    for _d in ("int32", "float32"):
        case(_op, [T((5,), _d), T((5,), _d)], [T((5,), _d)], label=_d, feeds=_SIGNS)
case(
    "FLOOR_MOD",
    [T((4,)), T((4,))],
    [T((4,))],
    label="fractions",
    feeds=[[7.5, -7.25, 0, 1], [-2, -2, 2, 3]],
)
case(
    "FLOOR_MOD", [T((5,), "int64"), T((5,), "int64")], [T((5,), "int64")], label="i64", feeds=_SIGNS
)
case("POW", [T((4,)), T((4,))], [T((4,))], low=0.2, high=3)
case("POW", [T((4,), "int32"), T((4,), "int32")], [T((4,), "int32")], label="i32", low=0, high=4)
case("ATAN2", [T((8,)), T((8,))], [T((8,))])
case(
    "ATAN2",
    [T((6,)), T((6,))],
    [T((6,))],
    label="zeros",
    feeds=[[0.0, -0.0, 0, 1, -1, -0.0], [-1, -1, 1, 0, 0, 2]],
)
case("ADD_N", [T((2, 3))] * 3, [T((2, 3))])
case("ADD_N", [T((2, 3), "int32")] * 3, [T((2, 3), "int32")], label="i32")
for _op in ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"):
    case(_op, [T((3, 4), "int32"), T((4,), "int32")], [T((3, 4), "bool")])
    case(
        _op,
        [T((4,)), T((4,))],
        [T((4,), "bool")],
        label="nan",
        feeds=[[np.nan, 0, 1, 5], [0, np.nan, 1, 4]],
    )
    case(_op, [q((2, 8)), q((2, 8))], [T((2, 8), "bool")], label="i8")
for _op in ("LOGICAL_AND", "LOGICAL_OR"):
    case(_op, [T((3, 4), "bool"), T((4,), "bool")], [T((3, 4), "bool")])
case("LOGICAL_NOT", [T((8,), "bool")], [T((8,), "bool")])
case("SELECT", [T((2, 3), "bool"), T((2, 3)), T((2, 3))], [T((2, 3))])
case("SELECT", [T((2,), "bool"), T((2, 3)), T((2, 3))], [T((2, 3))], label="rows")
case("SELECT_V2", [T((2, 1), "bool"), T((1, 3)), T(())], [T((2, 3))])
for _d in ("int8", "int16", "int32", "uint8", "uint32"):
    _lo = 0 if _d.startswith("u") else -100
    case("BITWISE_XOR", [T((8,), _d), T((8,), _d)], [T((8,), _d)], label=_d, low=_lo, high=100)
    case(
        "RIGHT_SHIFT",
        [T((4,), _d), T((4,), _d)],
        [T((4,), _d)],
        label=_d,
        feeds=[[8, 100, 7, 64 if _lo == 0 else -64], [1, 3, 7, 9]],
    )
for _d in ("int8", "int32"):
    case("STABLEHLO_AND", [T((8,), _d), T((8,), _d)], [T((8,), _d)], label=_d, low=-100, high=100)
    case(
        "STABLEHLO_SHIFT_LEFT",
        [T((4,), _d), T((4,), _d)],
        [T((4,), _d)],
        label=_d,
        feeds=[[8, 100, -7, -64], [1, 3, 7, 2]],
    )
for _op in ("STABLEHLO_ADD", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_MINIMUM"):
    case(_op, [T((2, 3)), T((2, 3))], [T((2, 3))])
for _from, _to in (
    ("float32", "int32"),
    ("int32", "float32"),
    ("int64", "int32"),
    ("bool", "float32"),
    ("float32", "bool"),
    ("uint8", "float32"),
    ("float32", "float16"),
    ("int32", "int8"),
    ("int32", "bool"),
    ("float32", "int64"),
    ("int16", "int32"),
):
    _lo = 0 if _from == "uint8" else -9
    case(
        "CAST",
        [T((6,), _from)],
        [T((6,), _to)],
        label=f"{_from}-{_to}",
        low=_lo,
        high=9,
        in_data_type=0,
        out_data_type=0,
    )
case("BITCAST", [T((4,))], [T((4,), "int32")])
case("DEQUANTIZE", [q((3, 5))], [T((3, 5))], label="i8", version=2)
case("DEQUANTIZE", [T((3, 5), "float16")], [T((3, 5))], label="f16", version=3)
case("DEQUANTIZE", [q((3, 5), 1 / 2048, 0, "int16")], [T((3, 5))], label="i16", version=3)
case("QUANTIZE", [T((3, 5))], [q((3, 5))], label="i8")
case("QUANTIZE", [T((3, 5))], [q((3, 5), dtype="uint8", zero=100)], label="u8")
case("QUANTIZE", [q((3, 5))], [q((3, 5), 0.05, 131, "uint8")], label="i8-u8", version=2)
case("QUANTIZE", [q((3, 50))], [q((3, 50), 0.07, 9)], label="i8-i8", steps=1, version=2)
case(
    "FAKE_QUANT",
    [T((20,))],
    [T((20,))],
    low=-9,
    high=9,
    min=-3.0,
    max=5.0,
    num_bits=8,
    narrow_range=False,
)
case(
    "FAKE_QUANT",
    [T((20,))],
    [T((20,))],
    label="bits",
    low=-9,
    high=9,
    min=-1.0,
    max=5.0,
    num_bits=4,
)
case("BUCKETIZE", [T((9,))], [T((9,), "int32")], boundaries=[-1.0, 0.0, 1.5])
