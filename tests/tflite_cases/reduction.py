"""Cases: reductions."""

from __future__ import annotations

from tests.tflite_cases import case, q, rand
from tests.tflite_models import T, const

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
        feeds=[rand(4, 3), [2, 0, 2, -1]],
    )
