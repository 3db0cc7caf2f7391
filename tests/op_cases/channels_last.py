"""Sample calls of the channels-last operations: those of their namesakes, axes permuted."""

from __future__ import annotations

import numpy as np

from lepton_ir.ops.channels_last import channels_last
from tests.op_cases import Case, conv, norm, pool, shape

_rng = np.random.default_rng(5)


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(channels_last(x.ndim)))


def _permuted(case: Case, drop: tuple[str, ...] = ()) -> Case | None:
    """Return the case of a namesake for channels-last operands, ``None`` where there is none."""
    x, *others = case.operands
    if x.ndim < 3 or (case.results or 1) != 1:
        return None
    attrs = {k: v for k, v in case.attrs.items() if k not in drop}
    expected = None if case.expected is None else (_last(case.expected[0]),)
    return Case((_last(x), *others), attrs, expected=expected)


def _unary(cases: list[Case], drop: tuple[str, ...] = ()) -> list[Case]:
    return [c for c in (_permuted(case, drop) for case in cases) if c is not None]


def _weighted(cases: list[Case], *, transposed: bool = False) -> list[Case]:
    """Permute x and w; ``transposed`` weights come as (C, M, ...)."""
    found = []
    for case in _unary(cases, drop=("kernel_shape",)):
        x, w, *others = case.operands
        axes = (1, *range(2, w.ndim), 0) if transposed else channels_last(w.ndim)
        weights = np.ascontiguousarray(w.transpose(axes))
        found.append(Case((x, weights, *others), case.attrs, expected=case.expected))
    return found


def _square_mean(x: np.ndarray) -> np.ndarray:
    """The root of the mean square of windows of 2 x 2 at strides of 2."""
    n, h, w, c = x.shape
    blocks = np.square(x).reshape(n, h // 2, 2, w // 2, 2, c)
    return np.sqrt(blocks.mean(axis=(2, 4)))


_L2 = _f(2, 4, 6, 3)
_D2S = np.arange(16, dtype=np.float32).reshape(1, 2, 2, 4)

CASES: dict[str, list[Case]] = {
    "conv_nhwc": [
        *_weighted(conv.CASES["conv"]),
        Case((_f(1, 4, 4, 6), _f(12, 3, 3, 1), _f(12)), {"group": 6, "auto_pad": "SAME_UPPER"}),
        Case(
            (np.ones((1, 3, 3, 2), np.float32), np.ones((1, 3, 3, 2), np.float32)),
            expected=(np.full((1, 1, 1, 1), 18, np.float32),),
        ),
    ],
    "conv_transpose_nhwc": [
        *_weighted(conv.CASES["conv_transpose"], transposed=True),
        Case((_f(1, 3, 4, 2), _f(5, 2, 3, 2), _f(5)), {"strides": (2, 2), "pads": (0, 1, 0, 0)}),
    ],
    "max_pool_nhwc": _unary(pool.CASES["max_pool"], drop=("storage_order",)),
    "average_pool_nhwc": _unary(pool.CASES["average_pool"]),
    "l2_pool_nhwc": [
        Case((_L2,), {"kernel_shape": (2, 2), "strides": (2, 2)}, expected=(_square_mean(_L2),)),
        Case((_f(1, 5, 5, 2),), {"kernel_shape": (3, 3), "auto_pad": "SAME_UPPER"}),
        Case((_f(1, 5, 2),), {"kernel_shape": (3,), "pads": (1, 1)}),
        Case((_f(0, 5, 5, 2),), {"kernel_shape": (3, 3)}),
        Case((_f(1, 5, 5, 2, dtype=np.float16),), {"kernel_shape": (3, 3)}),
    ],
    "depth_to_space_nhwc": [
        *_unary(shape.CASES["depth_to_space"]),
        Case(
            (_D2S,),
            {"blocksize": 2},
            expected=(
                np.array(
                    [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]], np.float32
                ).reshape(1, 4, 4, 1),
            ),
        ),
    ],
    "space_to_depth_nhwc": _unary(shape.CASES["space_to_depth"]),
    "lrn_nhwc": _unary(norm.CASES["lrn"]),
}
