"""Models of one operator each, for every builtin operator that is read, with inputs to run."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.tflite_models import Array, T, const, one_operator

SAME, VALID = 0, 1


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        name: unique.
        operator: the builtin operator it is about.
        model: its bytes.
        feeds: one list of inputs for each run, state kept between them.
        tolerance: of floats, relative to the largest; steps of integers.
        fails: what LiteRT does with it is no answer (reading it must still work).
    """

    name: str
    operator: str
    model: bytes
    feeds: list[list[Array]]
    tolerance: float = 2e-6
    steps: int = 0


CASES: list[Case] = []


def draw(t: T, seed: int, low: float, high: float) -> Array:
    """Return an input for a tensor: numbers from ``low`` to ``high``, quantized ones of all."""
    rng = np.random.default_rng(seed)
    shape = [abs(d) if d != -1 else 2 for d in t.shape]
    if t.dtype == "bool":
        return rng.random(shape) < 0.5
    if t.scale is not None:
        info = np.iinfo(t.dtype)
        return rng.integers(info.min, info.max + 1, shape).astype(t.dtype)
    if t.dtype.startswith("float"):
        return np.asarray(rng.random(shape) * (high - low) + low, t.dtype)
    return np.asarray(rng.integers(int(low), int(high) + 1, shape), t.dtype)


def case(
    operator: str,
    operands: list[T | None],
    results: list[T],
    *,
    label: str = "",
    low: float = -3,
    high: float = 3,
    feeds: list[Any] | None = None,
    tolerance: float = 2e-6,
    steps: int = 0,
    version: int = 1,
    runs: int = 1,
    **options: Any,
) -> None:
    """Add a case; operands without data are drawn unless ``feeds`` gives them."""
    name = f"{operator}-{label or sum(c.operator == operator for c in CASES)}"
    inputs = [t for t in operands if t is not None and t.data is None]
    seed = zlib.crc32(name.encode())
    if feeds is None:
        found = [
            [draw(t, seed + i + 100 * r, low, high) for i, t in enumerate(inputs)]
            for r in range(runs)
        ]
    else:
        found = [[np.asarray(f, t.dtype) for f, t in zip(feeds, inputs, strict=True)]]
    model = one_operator(operator, operands, results, version, **options)
    CASES.append(Case(name, operator, model, found, tolerance, steps))


def q(
    shape: tuple[int, ...], scale: Any = 0.05, zero: int = 3, dtype: str = "int8", **how: Any
) -> T:
    """Return a quantized tensor."""
    return T(shape, dtype, scale=scale, zero=zero, **how)


def _rand(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _ints(*shape: int, seed: int = 0, low: int = -127, high: int = 127) -> Array:
    return np.random.default_rng(seed).integers(low, high + 1, shape)


# -- one element at a time -------------------------------------------------------------------------

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

# -- convolutions and products ---------------------------------------------------------------------

for _i, (_size, _k, _s, _d, _p) in enumerate(
    [
        ((7, 8), (3, 3), (2, 1), (1, 1), SAME),
        ((7, 8), (3, 2), (1, 2), (1, 1), VALID),
        ((9, 9), (3, 3), (1, 1), (2, 2), SAME),
        ((5, 6), (1, 1), (3, 3), (1, 1), SAME),
    ]
):
    _o = [
        -(-n // s) if _p == SAME else (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(_size, _k, _s, _d, strict=True)
    ]
    _how = {
        "padding": _p,
        "stride_h": _s[0],
        "stride_w": _s[1],
        "dilation_h_factor": _d[0],
        "dilation_w_factor": _d[1],
    }
    case(
        "CONV_2D",
        [T((2, *_size, 3)), const(_rand(4, *_k, 3)), const(_rand(4))],
        [T((2, *_o, 4))],
        label=f"f{_i}",
        fused_activation_function=_i % 4,
        **_how,
    )
    case(
        "DEPTHWISE_CONV_2D",
        [T((2, *_size, 3)), const(_rand(1, *_k, 6)), const(_rand(6))],
        [T((2, *_o, 6))],
        label=f"f{_i}",
        depth_multiplier=2,
        version=2,
        **_how,
    )
    _sc = [0.01, 0.02, 0.005, 0.03]
    case(
        "CONV_2D",
        [
            q((2, *_size, 3)),
            const(_ints(4, *_k, 3), "int8", scale=_sc),
            const(_ints(4, low=-500, high=500), "int32", scale=[0.05 * s for s in _sc]),
        ],
        [q((2, *_o, 4), 0.2, -4)],
        label=f"i8-{_i}",
        steps=1,
        version=3,
        fused_activation_function=_i % 4,
        **_how,
    )
    case(
        "DEPTHWISE_CONV_2D",
        [
            q((2, *_size, 2)),
            const(_ints(1, *_k, 4), "int8", scale=_sc, axis=3),
            const(_ints(4, low=-500, high=500), "int32", scale=[0.05 * s for s in _sc]),
        ],
        [q((2, *_o, 4), 0.1, -4)],
        label=f"i8-{_i}",
        steps=1,
        version=3,
        depth_multiplier=2,
        **_how,
    )
case(
    "CONV_2D",
    [
        q((1, 5, 5, 3), dtype="uint8", zero=120),
        const(_ints(4, 3, 3, 3, low=0, high=255), "uint8", scale=0.02, zero=130),
        const(_ints(4, low=-500, high=500), "int32", scale=0.001),
    ],
    [q((1, 5, 5, 4), 0.2, 128, "uint8")],
    label="u8",
    steps=1,
    stride_h=1,
    stride_w=1,
)
case(
    "CONV_2D",
    [
        q((1, 5, 5, 3), 1 / 4096, 0, "int16"),
        const(_ints(4, 3, 3, 3), "int8", scale=[0.01, 0.02, 0.005, 0.03]),
        const(
            _ints(4, low=-5000, high=5000),
            "int64",
            scale=[s / 4096 for s in (0.01, 0.02, 0.005, 0.03)],
        ),
    ],
    [q((1, 5, 5, 4), 1 / 1024, 0, "int16")],
    label="i16",
    steps=2,
    stride_h=1,
    stride_w=1,
    version=4,
)
case(
    "CONV_2D",
    [T((1, 5, 5, 4)), const(_rand(6, 3, 3, 2)), const(_rand(6))],
    [T((1, 5, 5, 6))],
    label="groups",
    stride_h=1,
    stride_w=1,
    version=6,
)
case(
    "CONV_2D",
    [T((1, 5, 5, 4)), const(_ints(6, 3, 3, 4), "int8", scale=[0.01] * 6), const(_rand(6))],
    [T((1, 5, 5, 6))],
    label="hybrid",
    stride_h=1,
    stride_w=1,
    version=5,
    tolerance=2e-2,
)
case(
    "CONV_2D",
    [T((-1, 5, 5, 4)), const(_rand(6, 3, 3, 4)), const(_rand(6))],
    [T((-1, 5, 5, 6))],
    label="batch",
    stride_h=1,
    stride_w=1,
)
case(
    "CONV_2D",
    [T((1, 6, 5, 4)), T((6, 3, 3, 4)), const(_rand(6))],
    [T((1, 6, 5, 6))],
    label="weights",
    stride_h=1,
    stride_w=1,
)
case(
    "CONV_3D",
    [T((1, 4, 5, 6, 2)), const(_rand(3, 2, 3, 2, 4)), const(_rand(4))],
    [T((1, 4, 3, 6, 4))],
    stride_d=1,
    stride_h=2,
    stride_w=1,
)
for _p, _out in ((SAME, (8, 12)), (VALID, (9, 13)), (SAME, (7, 11))):
    case(
        "TRANSPOSE_CONV",
        [
            const([1, *_out, 3], "int32"),
            const(_rand(3, 3, 3, 2)),
            T((1, 4, 4 if _out[1] < 0 else 6, 2)),
            const(_rand(3)),
        ],
        [T((1, *_out, 3))],
        label=f"{_p}-{_out[0]}",
        padding=_p,
        stride_h=2,
        stride_w=2,
        version=3,
    )
case(
    "TRANSPOSE_CONV",
    [
        const([1, 8, 8, 3], "int32"),
        const(_ints(3, 3, 3, 2), "int8", scale=[0.01, 0.02, 0.03]),
        q((1, 4, 4, 2)),
        const(_ints(3, low=-300, high=300), "int32", scale=[0.0005, 0.001, 0.0015]),
    ],
    [q((1, 8, 8, 3), 0.1, 2)],
    label="i8",
    steps=1,
    stride_h=2,
    stride_w=2,
    version=3,
)
case(
    "CONV_3D_TRANSPOSE",
    [const([1, 4, 6, 6, 3], "int32"), const(_rand(2, 3, 2, 3, 2)), T((1, 2, 3, 3, 2))],
    [T((1, 4, 6, 6, 3))],
    stride_d=2,
    stride_h=2,
    stride_w=2,
)
case(
    "FULLY_CONNECTED",
    [T((3, 4)), const(_rand(5, 4)), const(_rand(5))],
    [T((3, 5))],
    fused_activation_function=1,
)
case("FULLY_CONNECTED", [T((3, 2, 4)), const(_rand(5, 4)), None], [T((6, 5))], label="flat")
case(
    "FULLY_CONNECTED",
    [T((3, 2, 4)), const(_rand(5, 4)), const(_rand(5))],
    [T((3, 2, 5))],
    label="keep",
    keep_num_dims=True,
    version=5,
)
case("FULLY_CONNECTED", [T((3, 4)), T((5, 4)), None], [T((3, 5))], label="weights")
case(
    "FULLY_CONNECTED",
    [q((3, 4)), const(_ints(5, 4), "int8", scale=0.02), const(_ints(5), "int32", scale=0.001)],
    [q((3, 5), 0.1, -3)],
    label="i8",
    steps=1,
    version=4,
)
case(
    "FULLY_CONNECTED",
    [q((3, 2, 4)), const(_ints(5, 4), "int8", scale=0.02), const(_ints(5), "int32", scale=0.001)],
    [q((3, 2, 5), 0.1, -3)],
    label="i8-keep",
    steps=1,
    version=5,
    keep_num_dims=True,
)
case(
    "FULLY_CONNECTED",
    [
        q((3, 4), 1 / 4096, 0, "int16"),
        const(_ints(5, 4), "int8", scale=0.02),
        const(_ints(5), "int64", scale=0.02 / 4096),
    ],
    [q((3, 5), 1 / 512, 0, "int16")],
    label="i16",
    steps=1,
    version=7,
)
case(
    "FULLY_CONNECTED",
    [T((3, 4)), const(_ints(5, 4), "int8", scale=0.02), None],
    [T((3, 5))],
    label="hybrid",
    tolerance=2e-2,
    version=3,
)
case("BATCH_MATMUL", [T((2, 3, 4)), T((2, 4, 5))], [T((2, 3, 5))])
case(
    "BATCH_MATMUL",
    [T((2, 4, 3)), const(_rand(2, 5, 4))],
    [T((2, 3, 5))],
    label="adjoint",
    adj_x=True,
    adj_y=True,
)
case(
    "BATCH_MATMUL",
    [q((2, 3, 4)), q((2, 4, 5), 0.02, 0)],
    [q((2, 3, 5), 0.1, 1)],
    label="i8",
    steps=1,
    version=2,
)
case("EMBEDDING_LOOKUP", [T((3,), "int32"), const(_rand(5, 4))], [T((3, 4))], feeds=[[0, 4, 2]])

# -- pooling, normalization, resampling ------------------------------------------------------------

for _op in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"):
    for _p, _o in ((SAME, (4, 6)), (VALID, (3, 5))):
        _how = {"padding": _p, "stride_h": 2, "stride_w": 1, "filter_height": 3, "filter_width": 2}
        case(_op, [T((2, 7, 6, 3))], [T((2, *_o, 3))], label=f"f{_p}", **_how)
        if _op != "L2_POOL_2D":
            case(
                _op,
                [q((2, 7, 6, 3))],
                [q((2, *_o, 3))],
                label=f"i8-{_p}",
                steps=1,
                version=2,
                **_how,
            )
case("SOFTMAX", [T((2, 3, 5))], [T((2, 3, 5))], beta=1.0)
case("SOFTMAX", [T((2, 5))], [T((2, 5))], label="beta", beta=0.5)
case("SOFTMAX", [q((2, 8))], [q((2, 8), 1 / 256, -128)], label="i8", steps=1, beta=1.0, version=2)
case("LOG_SOFTMAX", [T((2, 5))], [T((2, 5))])
case("LOG_SOFTMAX", [q((2, 8))], [q((2, 8), 16 / 256, 127)], label="i8", steps=1, version=2)
case("L2_NORMALIZATION", [T((2, 3, 5))], [T((2, 3, 5))])
case("L2_NORMALIZATION", [T((2, 3))], [T((2, 3))], label="zeros", feeds=[[[0, 0, 0], [1e-8, 0, 0]]])
case(
    "L2_NORMALIZATION", [q((2, 8), zero=0)], [q((2, 8), 1 / 128, 0)], label="i8", steps=1, version=2
)
case(
    "LOCAL_RESPONSE_NORMALIZATION",
    [T((1, 2, 3, 7))],
    [T((1, 2, 3, 7))],
    tolerance=1e-5,
    radius=2,
    bias=1.5,
    alpha=0.3,
    beta=0.75,
)
for _op in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
    for _a, _h in ((False, False), (True, False), (False, True)):
        for _size in ((8, 6), (2, 3), (5, 7)):
            case(
                _op,
                [T((1, 4, 6, 2)), const(_size, "int32")],
                [T((1, *_size, 2))],
                label=f"{_a:d}{_h:d}-{_size[0]}",
                align_corners=_a,
                half_pixel_centers=_h,
                version=3,
            )
    case(
        _op,
        [q((1, 4, 6, 2)), const((8, 6), "int32")],
        [q((1, 8, 6, 2))],
        label="i8",
        steps=1,
        version=2,
    )
case("DEPTH_TO_SPACE", [T((1, 2, 3, 8))], [T((1, 4, 6, 2))], block_size=2)
case("SPACE_TO_DEPTH", [T((1, 4, 6, 2))], [T((1, 2, 3, 8))], block_size=2)
case(
    "SPACE_TO_BATCH_ND",
    [T((2, 4, 6, 3)), const([2, 3], "int32"), const([[0, 0], [1, 2]], "int32")],
    [T((12, 2, 3, 3))],
)
case(
    "BATCH_TO_SPACE_ND",
    [T((12, 2, 3, 3)), const([2, 3], "int32"), const([[1, 0], [1, 2]], "int32")],
    [T((2, 3, 6, 3))],
)
case(
    "SPACE_TO_BATCH_ND",
    [q((1, 4, 4, 1)), const([2, 2], "int32"), const([[0, 2], [2, 0]], "int32")],
    [q((4, 3, 3, 1))],
    label="i8",
    version=2,
)

# -- movement --------------------------------------------------------------------------------------

case("RESHAPE", [T((2, 6)), const([3, -1], "int32")], [T((3, 4))], new_shape=[3, -1])
case(
    "RESHAPE",
    [T((2, 6)), T((2,), "int32")],
    [T((-1, -1))],
    label="dynamic",
    feeds=[_rand(2, 6), [4, 3]],
)
case("RESHAPE", [q((2, 6)), const([12], "int32")], [q((12,))], label="i8")
case("SQUEEZE", [T((1, 3, 1))], [T((3,))])
case("SQUEEZE", [T((1, 3, 1))], [T((1, 3))], label="axes", squeeze_dims=[-1])
case("EXPAND_DIMS", [T((2, 3)), const([-1], "int32")], [T((2, 3, 1))])
case("TRANSPOSE", [T((2, 3, 4)), const([2, 0, 1], "int32")], [T((4, 2, 3))])
case("TRANSPOSE", [q((2, 3)), const([1, 0], "int32")], [q((3, 2))], label="i8", version=2)
case("CONCATENATION", [T((2, 3)), T((2, 1))], [T((2, 4))], axis=-1)
case("CONCATENATION", [q((2, 3)), q((2, 4))], [q((2, 7))], label="i8", axis=1, version=2)
case(
    "CONCATENATION",
    [q((2, 30), dtype="uint8"), q((2, 40), 0.03, 9, "uint8")],
    [q((2, 70), dtype="uint8", zero=4)],
    label="u8-scales",
    axis=1,
    steps=1,
)
case("PACK", [T((2, 3)), T((2, 3))], [T((2, 2, 3))], axis=1, values_count=2)
case("PACK", [T((2,), "int32")], [T((2, 1), "int32")], label="one", axis=-1, values_count=1)
case("UNPACK", [T((2, 3))], [T((2,))] * 3, axis=1, num=3)
case("SPLIT", [const(1, "int32"), T((2, 6))], [T((2, 2))] * 3, num_splits=3)
case(
    "SPLIT_V",
    [T((2, 6)), const([1, -1, 2], "int32"), const(1, "int32")],
    [T((2, 1)), T((2, 3)), T((2, 2))],
    num_splits=3,
)
case("TILE", [T((2, 3)), const([2, 1], "int32")], [T((4, 3))])
case("BROADCAST_TO", [T((1, 3)), const([2, 2, 3], "int32")], [T((2, 2, 3))], version=2)
case(
    "BROADCAST_ARGS",
    [T((2,), "int32"), T((3,), "int32")],
    [T((3,), "int32")],
    feeds=[[1, 3], [4, 2, 1]],
)
case("REVERSE_V2", [T((2, 3, 4)), const([1], "int32")], [T((2, 3, 4))])
case(
    "REVERSE_SEQUENCE",
    [T((2, 4, 3)), const([1, 3], "int32")],
    [T((2, 4, 3))],
    seq_dim=1,
    batch_dim=0,
)
case(
    "REVERSE_SEQUENCE",
    [T((2, 3, 4)), const([2, 3], "int64")],
    [T((2, 3, 4))],
    label="last",
    seq_dim=2,
    batch_dim=0,
)
case("PAD", [T((2, 3)), const([[1, 0], [0, 2]], "int32")], [T((3, 5))])
case("PAD", [q((2, 3)), const([[1, 0], [0, 2]], "int32")], [q((3, 5))], label="i8", version=2)
case(
    "PAD",
    [T((2, 3)), T((2, 2), "int32")],
    [T((-1, -1))],
    label="dynamic",
    feeds=[_rand(2, 3), [[1, 0], [0, 2]]],
)
case("PADV2", [T((2, 3)), const([[1, 0], [0, 2]], "int32"), const(7.0)], [T((3, 5))])
case(
    "MIRROR_PAD",
    [T((3, 4)), const([[1, 2], [3, 0]], "int32")],
    [T((6, 7))],
    label="reflect",
    mode=0,
)
case(
    "MIRROR_PAD",
    [T((3, 4)), const([[3, 2], [1, 4]], "int32")],
    [T((8, 9))],
    label="symmetric",
    mode=1,
)
case("SLICE", [T((4, 5)), const([1, 2], "int32"), const([2, -1], "int32")], [T((2, 3))])
case(
    "SLICE",
    [T((4, 5)), T((2,), "int32"), T((2,), "int32")],
    [T((-1, -1))],
    label="dynamic",
    feeds=[_rand(4, 5), [1, 2], [-1, 2]],
)
_X = T((4, 5, 6))
for _i, (_b, _e, _s, _o, _how) in enumerate(
    [
        ([1, 0, 2], [3, 5, 6], [1, 2, 3], (2, 3, 2), {}),
        ([-1, 4, 0], [0, 0, 0], [-1, -2, 1], (3, 2, 6), {"end_mask": 4}),
        ([1, 0], [0, 2], [1, 1], (2, 6), {"shrink_axis_mask": 1}),
        (
            [0, 0, -1],
            [0, 0, 0],
            [1, 1, 1],
            (4, 5),
            {"begin_mask": 1, "end_mask": 1, "ellipsis_mask": 2, "shrink_axis_mask": 4},
        ),
        ([0, 1], [0, 3], [1, 1], (1, 2, 5, 6), {"new_axis_mask": 1}),
        ([2, 1, 0], [1, 2, 6], [1, 1, 1], (1, 2, 6), {"offset": True}),
        ([9, -9, 5], [-9, 9, -7], [-1, 1, -1], (4, 5, 6), {}),
    ]
):
    case(
        "STRIDED_SLICE",
        [_X, const(_b, "int32"), const(_e, "int32"), const(_s, "int32")],
        [T(_o)],
        label=f"{_i}",
        **_how,
    )
case(
    "STRIDED_SLICE",
    [_X, T((2,), "int32"), T((2,), "int32"), const([1, 1], "int32")],
    [T((-1, 6))],
    label="dynamic",
    feeds=[_rand(4, 5, 6), [-1, 1], [0, 3]],
    shrink_axis_mask=1,
)
case(
    "DYNAMIC_UPDATE_SLICE",
    [T((4, 5)), T((2, 3)), T((2,), "int32")],
    [T((4, 5))],
    feeds=[_rand(4, 5), _rand(2, 3), [3, 1]],
)
case("SHAPE", [T((2, 3, 4))], [T((3,), "int32")], out_type=2)
case("RANK", [T((2, 3, 4))], [T((), "int32")])
case("FILL", [const([2, 3], "int32"), T(())], [T((2, 3))])
case(
    "RANGE", [T((), "int32"), T((), "int32"), T((), "int32")], [T((-1,), "int32")], feeds=[2, 11, 3]
)
case("RANGE", [T(()), T(()), T(())], [T((-1,))], label="f32", feeds=[2, -1, -0.5])
case("MATRIX_DIAG", [T((2, 3))], [T((2, 3, 3))])
case("MATRIX_SET_DIAG", [T((2, 3, 4)), T((2, 3))], [T((2, 3, 4))])
case("MATRIX_SET_DIAG", [T((2, 4, 3)), T((2, 3))], [T((2, 4, 3))], label="tall")

# -- reductions ------------------------------------------------------------------------------------

for _op in ("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN"):
    case(_op, [T((2, 3, 4)), const([0, -1], "int32")], [T((3,))])
    case(_op, [T((2, 3, 4)), const([1], "int32")], [T((2, 1, 4))], label="keep", keep_dims=True)
    case(_op, [T((2, 3), "int32"), const([1], "int32")], [T((2,), "int32")], label="i32", high=9)
for _op in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
    _o = q((2, 4), 0.2, 5) if _op == "SUM" else q((2, 4))
    case(_op, [q((2, 3, 4)), const([1], "int32")], [_o], label="i8", steps=1, version=2)
for _op in ("REDUCE_ANY", "REDUCE_ALL"):
    case(_op, [T((4, 3), "bool"), const([1], "int32")], [T((4,), "bool")])
for _op in ("ARG_MAX", "ARG_MIN"):
    case(_op, [T((3, 4)), const(1, "int32")], [T((3,), "int32")], output_type=2)
    case(_op, [T((3, 4)), const(-2, "int32")], [T((4,), "int64")], label="i64", output_type=4)
    case(
        _op,
        [q((3, 40)), const(1, "int32")],
        [T((3,), "int32")],
        label="i8",
        output_type=2,
        version=2,
    )
case("TOPK_V2", [T((3, 6)), const(2, "int32")], [T((3, 2)), T((3, 2), "int32")])
case("CUMSUM", [T((3, 4)), const(1, "int32")], [T((3, 4))], exclusive=True, reverse=True)
case("CUMSUM", [T((3, 4), "int32"), const(0, "int32")], [T((3, 4), "int32")], label="i32")
case(
    "UNIQUE", [T((6,), "int32")], [T((-1,), "int32"), T((6,), "int32")], feeds=[[3, 1, 3, 2, 1, 3]]
)
case("SEGMENT_SUM", [T((4, 3)), const([0, 0, 1, 2], "int32")], [T((3, 3))])
for _op in ("SUM", "PROD", "MAX", "MIN"):
    case(
        f"UNSORTED_SEGMENT_{_op}",
        [T((4, 3)), T((4,), "int32"), const(4, "int32")],
        [T((4, 3))],
        feeds=[_rand(4, 3), [2, 0, 2, -1]],
    )

# -- indices ---------------------------------------------------------------------------------------

case(
    "GATHER", [T((4, 5)), T((2, 2), "int32")], [T((2, 2, 5))], feeds=[_rand(4, 5), [[0, 3], [2, 2]]]
)
case(
    "GATHER",
    [T((4, 5)), T((2,), "int64")],
    [T((4, 2))],
    label="axis",
    axis=-1,
    feeds=[_rand(4, 5), [4, 0]],
)
case(
    "GATHER",
    [T((2, 3, 5)), T((2, 2), "int32")],
    [T((2, 2, 5))],
    label="batch",
    axis=1,
    batch_dims=1,
    feeds=[_rand(2, 3, 5), [[0, 2], [1, 1]]],
)
case(
    "GATHER",
    [T((2, 3, 5)), T((2, 4), "int32")],
    [T((2, 3, 4))],
    label="batch-axis",
    axis=2,
    batch_dims=1,
    feeds=[_rand(2, 3, 5), [[0, 2, 4, 1], [1, 1, 3, 0]]],
)
case("GATHER", [q((4, 5)), T((2,), "int32")], [q((2, 5))], label="i8", feeds=[_ints(4, 5), [3, 0]])
case(
    "GATHER_ND",
    [T((3, 4, 2)), T((2, 2), "int32")],
    [T((2, 2))],
    feeds=[_rand(3, 4, 2), [[0, 3], [2, 1]]],
)
case(
    "SCATTER_ND", [const([[0], [2], [0]], "int32"), T((3, 4)), const([4, 4], "int32")], [T((4, 4))]
)
case(
    "SCATTER_ND",
    [const([[0], [2], [0]], "int32"), T((3,), "int32"), const([4], "int32")],
    [T((4,), "int32")],
    label="i32",
)
case(
    "SPARSE_TO_DENSE",
    [const([[0, 1], [2, 2]], "int32"), const([3, 4], "int32"), T((2,)), const(0.5)],
    [T((3, 4))],
)
case(
    "SPARSE_TO_DENSE",
    [const([0, 2], "int32"), const([4], "int32"), const(5.0), const(0.0)],
    [T((4,))],
    label="scalar",
)
case(
    "ONE_HOT",
    [T((4,), "int32"), const(3, "int32"), const(2.0), const(-1.0)],
    [T((4, 3))],
    axis=-1,
    feeds=[[0, 2, -1, 5]],
)
case(
    "ONE_HOT",
    [T((4,), "int32"), const(3, "int32"), const(1, "int32"), const(0, "int32")],
    [T((3, 4), "int32")],
    label="axis",
    axis=0,
    feeds=[[0, 2, 1, 1]],
)
case("WHERE", [T((3, 4), "bool")], [T((-1, 2), "int64")])
case(
    "DYNAMIC_UPDATE_SLICE",
    [T((4,), "int32"), T((2,), "int32"), T((1,), "int32")],
    [T((4,), "int32")],
    label="i32",
    feeds=[[1, 2, 3, 4], [8, 9], [-3]],
)
_BOXES = [
    [0, 0, 1, 1],
    [0, 0.1, 1, 1.1],
    [0, -0.1, 1, 0.9],
    [0, 10, 1, 11],
    [0, 10.1, 1, 11.1],
    [0, 100, 1, 101],
]
_SCORES = [0.9, 0.75, 0.6, 0.95, 0.5, 0.3]
case(
    "NON_MAX_SUPPRESSION_V4",
    [T((6, 4)), T((6,)), const(5, "int32"), const(0.5), const(0.4)],
    [T((5,), "int32"), T((), "int32")],
    feeds=[_BOXES, _SCORES],
)
case(
    "NON_MAX_SUPPRESSION_V5",
    [T((6, 4)), T((6,)), const(6, "int32"), const(0.5), const(0.0), const(0.5)],
    [T((6,), "int32"), T((6,)), T((), "int32")],
    feeds=[_BOXES, _SCORES],
)
case("RFFT2D", [T((2, 4, 8)), const([4, 8], "int32")], [T((2, 4, 5), "complex64")])
case("REAL", [T((4,), "complex64")], [T((4,))], feeds=[[1 + 2j, -3j, 4, -1 - 1j]])
case("IMAG", [T((4,), "complex64")], [T((4,))], feeds=[[1 + 2j, -3j, 4, -1 - 1j]])
case("COMPLEX_ABS", [T((4,), "complex64")], [T((4,))], feeds=[[1 + 2j, -3j, 4, -1 - 1j]])
