"""Cases: movement."""

from __future__ import annotations

from tests.tflite_cases import case, q, rand
from tests.tflite_models import T, const

case("RESHAPE", [T((2, 6)), const([3, -1], "int32")], [T((3, 4))], new_shape=[3, -1])
case(
    "RESHAPE",
    [T((2, 6)), T((2,), "int32")],
    [T((-1, -1))],
    label="dynamic",
    feeds=[rand(2, 6), [4, 3]],
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
    feeds=[rand(2, 3), [[1, 0], [0, 2]]],
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
    feeds=[rand(4, 5), [1, 2], [-1, 2]],
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
    feeds=[rand(4, 5, 6), [-1, 1], [0, 3]],
    shrink_axis_mask=1,
)
case(
    "DYNAMIC_UPDATE_SLICE",
    [T((4, 5)), T((2, 3)), T((2,), "int32")],
    [T((4, 5))],
    feeds=[rand(4, 5), rand(2, 3), [3, 1]],
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
case("DILATE", [T((2, 3)), const([2, 3], "int32"), const(0.5)], [T((3, 7))])
case("DILATE", [T((2, 3)), const([1, 2], "int32"), const(0.0)], [T((2, 5))], label="rows")
case(
    "STABLEHLO_PAD",
    [T((2, 3)), const(1.5)],
    [T((5, 6))],
    edge_padding_low=[1, 0],
    edge_padding_high=[1, 1],
    interior_padding=[1, 1],
)
case(
    "STABLEHLO_PAD",
    [T((4, 5)), const(1.5)],
    [T((3, 4))],
    label="negative",
    edge_padding_low=[-1, 1],
    edge_padding_high=[0, -2],
    interior_padding=[0, 0],
)
