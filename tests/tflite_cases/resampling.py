"""Cases: pooling, normalization, resampling."""

from __future__ import annotations

from tests.tflite_cases import SAME, VALID, case, q
from tests.tflite_models import T, const

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
