"""Sample calls of the image family."""

from __future__ import annotations

import itertools

import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(14)


def _f(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape).astype(np.float32)


def _s(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


_SQUARE = np.array([[[[1, 2], [3, 4]]]], np.float32)
_UP = np.repeat(np.repeat(_SQUARE, 2, 2), 2, 3)


def _scaled(x: np.ndarray, scales: np.ndarray, **attrs: object) -> Case:
    return Case((x, None, scales), attrs, const=(2,))


def _sized(x: np.ndarray, sizes: np.ndarray, **attrs: object) -> Case:
    return Case((x, None, None, sizes), attrs, const=(3,))


_TRANSFORMS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
)
_RESIZE = [
    Case((_SQUARE, None, _s(1, 1, 2, 2)), expected=(_UP,), const=(2,)),
    *(
        _scaled(_f(1, 1, 5, 6), _s(1, 1, *scale), mode=mode, coordinate_transformation_mode=t)
        for mode, t, scale in itertools.product(
            ("nearest", "linear", "cubic"), _TRANSFORMS, ((2, 1.5), (0.6, 0.5))
        )
    ),
    *(_sized(_f(1, 2, 5, 6), _i(1, 2, 8, 3), mode=m) for m in ("nearest", "linear", "cubic")),
    *(
        _scaled(_f(7), _s(0.7), nearest_mode=m)
        for m in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    _scaled(_f(1, 1, 8, 8), _s(1, 1, 0.4, 0.4), mode="linear", antialias=True),
    _scaled(_f(1, 1, 8, 8), _s(1, 1, 0.4, 0.4), mode="cubic", antialias=True),
    _scaled(_f(1, 1, 4, 4), _s(1, 1, 2, 2), mode="cubic", exclude_outside=True, cubic_coeff_a=-0.5),
    _sized(_f(1, 1, 4, 6), _i(7, 8), axes=(2, 3), keep_aspect_ratio_policy="not_larger"),
    _sized(_f(1, 1, 4, 6), _i(7, 8), axes=(3, 2), keep_aspect_ratio_policy="not_smaller"),
    Case(
        (_f(1, 1, 4, 4), _s(0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7), None, _i(1, 1, 3, 3)),
        {
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "extrapolation_value": 10.0,
            "mode": "linear",
        },
        const=(1, 3),
    ),
    _scaled(_rng.integers(0, 255, (1, 1, 3, 3)).astype(np.uint8), _s(1, 1, 2, 2)),
    Case((_f(1, 1, 4, 4), _s(), _s(), _i(1, 1, 2, 2)), const=(1, 2, 3)),
]

_BOXES = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 10, 1, 11]]], np.float32)
_SCORES = np.array([[[0.9, 0.75, 0.6]]], np.float32)

CASES: dict[str, list[Case]] = {
    "resize": _RESIZE,
    "grid_sample": [
        Case(
            (x, _rng.uniform(-1.3, 1.3, grid).astype(np.float32)),
            {"mode": mode, "padding_mode": padding, "align_corners": corners},
        )
        for mode, padding, corners in itertools.product(
            ("linear", "nearest", "cubic"), ("zeros", "border", "reflection"), (False, True)
        )
        for x, grid in (
            (_f(2, 3, 4, 5), (2, 3, 6, 2)),
            (_f(1, 2, 3, 4, 5), (1, 2, 3, 4, 3)),
            (_f(1, 2, 6), (1, 3, 1)),
        )
    ],
    "affine_grid": [
        Case((_f(2, 2, 3), _i(2, 3, 4, 5)), {"align_corners": corners}, const=(1,))
        for corners in (False, True)
    ]
    + [Case((_f(2, 3, 4), _i(2, 3, 4, 5, 6)), const=(1,))],
    "roi_align": [
        Case(
            (_f(2, 3, 8, 8), _s(0, 0, 4, 4, 1, 2, 7.5, 6, -1, 3, 9, 9).reshape(3, 4), _i(0, 1, 1)),
            {
                "mode": mode,
                "output_height": 3,
                "output_width": 2,
                "sampling_ratio": ratio,
                "spatial_scale": 0.9,
                "coordinate_transformation_mode": transform,
            },
        )
        for mode, ratio, transform in itertools.product(
            ("avg", "max"), (0, 2), ("half_pixel", "output_half_pixel")
        )
    ],
    "non_max_suppression": [
        Case(
            (_BOXES, _SCORES, _i(3), _s(0.5), _s(0)), expected=(np.array([[0, 0, 0], [0, 0, 2]]),)
        ),
        Case((_BOXES, _SCORES, _i(1), _s(0.5))),
        Case((_BOXES, _SCORES), expected=(np.zeros((0, 3), np.int64),)),
        Case((_BOXES, _SCORES, _i(3), _s(0.5), _s(0.7)), {"center_point_box": True}),
    ],
    "col2im": [
        Case((_f(1, 5, 5), _i(5, 5), _i(1, 5)), const=(1, 2)),
        Case((_f(1, 4, 5), _i(6, 6), _i(2, 2)), {"dilations": (1, 5)}, const=(1, 2)),
        Case((_f(1, 9, 4), _i(5, 5), _i(3, 3)), {"strides": (2, 2)}, const=(1, 2)),
        Case((_f(2, 10, 15), _i(5, 5), _i(1, 5)), {"pads": (0, 1, 0, 1)}, const=(1, 2)),
        Case((_f(1, 10, 12), _i(3, 4, 5), _i(1, 1, 5)), const=(1, 2)),
    ],
}
