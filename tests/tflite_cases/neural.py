"""Cases: convolutions, products."""

from __future__ import annotations

import numpy as np

from tests.tflite_cases import SAME, VALID, case, ints, q, rand
from tests.tflite_models import T, const

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
        [T((2, *_size, 3)), const(rand(4, *_k, 3)), const(rand(4))],
        [T((2, *_o, 4))],
        label=f"f{_i}",
        fused_activation_function=_i % 4,
        **_how,
    )
    case(
        "DEPTHWISE_CONV_2D",
        [T((2, *_size, 3)), const(rand(1, *_k, 6)), const(rand(6))],
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
            const(ints(4, *_k, 3), "int8", scale=_sc),
            const(ints(4, low=-500, high=500), "int32", scale=[0.05 * s for s in _sc]),
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
            const(ints(1, *_k, 4), "int8", scale=_sc, axis=3),
            const(ints(4, low=-500, high=500), "int32", scale=[0.05 * s for s in _sc]),
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
        const(ints(4, 3, 3, 3, low=0, high=255), "uint8", scale=0.02, zero=130),
        const(ints(4, low=-500, high=500), "int32", scale=0.001),
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
        const(ints(4, 3, 3, 3), "int8", scale=[0.01, 0.02, 0.005, 0.03]),
        const(
            ints(4, low=-5000, high=5000),
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
    [T((1, 5, 5, 4)), const(rand(6, 3, 3, 2)), const(rand(6))],
    [T((1, 5, 5, 6))],
    label="groups",
    stride_h=1,
    stride_w=1,
    version=6,
)
case(
    "CONV_2D",
    [T((1, 5, 5, 4)), const(ints(6, 3, 3, 4), "int8", scale=[0.01] * 6), const(rand(6))],
    [T((1, 5, 5, 6))],
    label="hybrid",
    stride_h=1,
    stride_w=1,
    version=5,
    tolerance=2e-2,
)
case(
    "CONV_2D",
    [T((-1, 5, 5, 4)), const(rand(6, 3, 3, 4)), const(rand(6))],
    [T((-1, 5, 5, 6))],
    label="batch",
    stride_h=1,
    stride_w=1,
)
case(
    "CONV_2D",
    [T((1, 6, 5, 4)), T((6, 3, 3, 4)), const(rand(6))],
    [T((1, 6, 5, 6))],
    label="weights",
    stride_h=1,
    stride_w=1,
)
case(
    "CONV_3D",
    [T((1, 4, 5, 6, 2)), const(rand(3, 2, 3, 2, 4)), const(rand(4))],
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
            const(rand(3, 3, 3, 2)),
            T((1, 4, 4 if _out[1] < 0 else 6, 2)),
            const(rand(3)),
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
        const(ints(3, 3, 3, 2), "int8", scale=[0.01, 0.02, 0.03]),
        q((1, 4, 4, 2)),
        const(ints(3, low=-300, high=300), "int32", scale=[0.0005, 0.001, 0.0015]),
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
    [const([1, 4, 6, 6, 3], "int32"), const(rand(2, 3, 2, 3, 2)), T((1, 2, 3, 3, 2))],
    [T((1, 4, 6, 6, 3))],
    stride_d=2,
    stride_h=2,
    stride_w=2,
)
case(
    "FULLY_CONNECTED",
    [T((3, 4)), const(rand(5, 4)), const(rand(5))],
    [T((3, 5))],
    fused_activation_function=1,
)
case("FULLY_CONNECTED", [T((3, 2, 4)), const(rand(5, 4)), None], [T((6, 5))], label="flat")
case(
    "FULLY_CONNECTED",
    [T((3, 2, 4)), const(rand(5, 4)), const(rand(5))],
    [T((3, 2, 5))],
    label="keep",
    keep_num_dims=True,
    version=5,
)
case("FULLY_CONNECTED", [T((3, 4)), T((5, 4)), None], [T((3, 5))], label="weights")
case(
    "FULLY_CONNECTED",
    [q((3, 4)), const(ints(5, 4), "int8", scale=0.02), const(ints(5), "int32", scale=0.001)],
    [q((3, 5), 0.1, -3)],
    label="i8",
    steps=1,
    version=4,
)
case(
    "FULLY_CONNECTED",
    [q((3, 2, 4)), const(ints(5, 4), "int8", scale=0.02), const(ints(5), "int32", scale=0.001)],
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
        const(ints(5, 4), "int8", scale=0.02),
        const(ints(5), "int64", scale=0.02 / 4096),
    ],
    [q((3, 5), 1 / 512, 0, "int16")],
    label="i16",
    steps=1,
    version=7,
)
case(
    "FULLY_CONNECTED",
    [T((3, 4)), const(ints(5, 4), "int8", scale=0.02), None],
    [T((3, 5))],
    label="hybrid",
    tolerance=2e-2,
    version=3,
)
case("BATCH_MATMUL", [T((2, 3, 4)), T((2, 4, 5))], [T((2, 3, 5))])
case(
    "BATCH_MATMUL",
    [T((2, 4, 3)), const(rand(2, 5, 4))],
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
case("EMBEDDING_LOOKUP", [T((3,), "int32"), const(rand(5, 4))], [T((3, 4))], feeds=[[0, 4, 2]])


def _nibbles(*shape: int) -> T:
    """Return weights of 4 bits, two to a byte, the lower one first."""
    codes = ints(*shape, low=-7, high=7).reshape(-1) & 15
    packed = (codes[::2] | codes[1::2] << 4).astype(np.uint8)
    return T(shape, "uint8", packed, scale=[0.1 + 0.02 * i for i in range(shape[0])], kind="INT4")


case(
    "FULLY_CONNECTED",
    [T((3, 4)), _nibbles(6, 4), None],
    [T((3, 6))],
    label="i4",
    tolerance=3e-2,
    version=10,
)
case(
    "FULLY_CONNECTED",
    [q((3, 4)), _nibbles(6, 4), const(ints(6), "int32", scale=0.005)],
    [q((3, 6), 0.1, -3)],
    label="i8-i4",
    steps=1,
    version=10,
)
