"""Cases: gathers and scatters, and other operators that index."""

from __future__ import annotations

from tests.tflite_cases import case, ints, q, rand
from tests.tflite_models import T, const

case(
    "GATHER", [T((4, 5)), T((2, 2), "int32")], [T((2, 2, 5))], feeds=[rand(4, 5), [[0, 3], [2, 2]]]
)
case(
    "GATHER",
    [T((4, 5)), T((2,), "int64")],
    [T((4, 2))],
    label="axis",
    axis=-1,
    feeds=[rand(4, 5), [4, 0]],
)
case(
    "GATHER",
    [T((2, 3, 5)), T((2, 2), "int32")],
    [T((2, 2, 5))],
    label="batch",
    axis=1,
    batch_dims=1,
    feeds=[rand(2, 3, 5), [[0, 2], [1, 1]]],
)
case(
    "GATHER",
    [T((2, 3, 5)), T((2, 4), "int32")],
    [T((2, 3, 4))],
    label="batch-axis",
    axis=2,
    batch_dims=1,
    feeds=[rand(2, 3, 5), [[0, 2, 4, 1], [1, 1, 3, 0]]],
)
case("GATHER", [q((4, 5)), T((2,), "int32")], [q((2, 5))], label="i8", feeds=[ints(4, 5), [3, 0]])
case(
    "GATHER_ND",
    [T((3, 4, 2)), T((2, 2), "int32")],
    [T((2, 2))],
    feeds=[rand(3, 4, 2), [[0, 3], [2, 1]]],
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
