"""Sample calls of convolutions."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(21)


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _row(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, -1)


_ONE_TO_FIVE = _row(1, 2, 3, 4, 5)

CASES: dict[str, list[Case]] = {
    "conv": [
        Case((_ONE_TO_FIVE, _row(1, 10)), expected=(_row(21, 32, 43, 54),)),
        Case((_ONE_TO_FIVE, _row(1, 10)), {"strides": (2,)}, expected=(_row(21, 43),)),
        Case((_ONE_TO_FIVE, _row(1, 10)), {"dilations": (3,)}, expected=(_row(41, 52),)),
        Case((_ONE_TO_FIVE, _row(1, 10)), {"pads": (1, 0)}, expected=(_row(10, 21, 32, 43, 54),)),
        Case(
            (_ONE_TO_FIVE, _row(1, 10)),
            {"auto_pad": "SAME_UPPER"},
            expected=(_row(21, 32, 43, 54, 5),),
        ),
        Case(
            (_ONE_TO_FIVE, _row(1, 10)),
            {"auto_pad": "SAME_LOWER", "strides": (2,)},
            expected=(_row(10, 32, 54),),
        ),
        Case((_f(2, 3, 7, 6), _f(4, 3, 3, 2), _f(4)), {"pads": (1, 0, 1, 1), "strides": (2, 1)}),
        Case((_f(2, 4, 5, 5), _f(6, 2, 3, 3), _f(6)), {"group": 2, "dilations": (2, 1)}),
        Case((_f(1, 4, 6, 6), _f(4, 1, 3, 3)), {"group": 4, "kernel_shape": (3, 3)}),
        Case((_f(1, 4, 6, 6), _f(8, 1, 3, 3)), {"group": 4}),
        Case((_f(1, 3, 4, 4), _f(5, 3, 1, 1), _f(5)), {"auto_pad": "VALID"}),
        Case((_f(1, 2, 4, 3, 5), _f(3, 2, 2, 2, 2)), {"strides": (2, 1, 1)}),
        Case((_f(0, 2, 4, 4), _f(3, 2, 2, 2), _f(3))),
        Case((_f(1, 2, 5, dtype=np.float64), _f(3, 2, 2, dtype=np.float64))),
        Case((_f(1, 2, 5, dtype=np.float16), _f(3, 2, 2, dtype=np.float16))),
        Case(
            (
                _f(1, 2, 5, dtype=ml_dtypes.bfloat16),
                _f(3, 2, 2, dtype=ml_dtypes.bfloat16),
                _f(3, dtype=ml_dtypes.bfloat16),
            )
        ),
    ],
    "conv_transpose": [
        Case((_row(1, 2, 3), _row(1, 10)), expected=(_row(1, 12, 23, 30),)),
        Case(
            (_row(1, 2, 3), _row(1, 10, 100)),
            {"strides": (2,), "auto_pad": "SAME_UPPER"},
            expected=(_row(1, 10, 102, 20, 203, 30),),
        ),
        Case(
            (_row(1, 2, 3), _row(1, 10, 100)),
            {"strides": (2,), "auto_pad": "SAME_LOWER"},
            expected=(_row(10, 102, 20, 203, 30, 300),),
        ),
        Case(
            (_row(1, 2, 3), _row(1, 10, 100)),
            {"strides": (2,), "output_shape": (6,)},
            expected=(_row(10, 102, 20, 203, 30, 300),),
        ),
        Case(
            (_row(1, 2), _row(1, 10)),
            {"strides": (3,), "output_padding": (2,)},
            expected=(_row(1, 10, 0, 2, 20, 0, 0),),
        ),
        Case((_row(1, 2), _row(1, 10)), {"output_shape": (4,)}, expected=(_row(1, 12, 20, 0),)),
        Case((_f(2, 4, 3, 3), _f(4, 3, 2, 3), _f(6)), {"group": 2, "pads": (1, 0, 0, 1)}),
        Case((_f(1, 2, 3, 3), _f(2, 1, 2, 2)), {"dilations": (2, 1), "kernel_shape": (2, 2)}),
        Case((_f(1, 1, 2, 2, 2), _f(1, 2, 2, 2, 2)), {"strides": (1, 2, 2)}),
        Case((_f(0, 2, 3), _f(2, 1, 2))),
        Case((_f(1, 2, 3, dtype=np.float16), _f(2, 1, 2, dtype=np.float16))),
        Case((_f(1, 2, 3, dtype=ml_dtypes.bfloat16), _f(2, 1, 2, dtype=ml_dtypes.bfloat16))),
    ],
    "deform_conv": [
        Case(
            (_row(1, 2, 4), _row(1, 10), np.array([[[0.5, 0], [0, 5]]], np.float32)),
            expected=(_row(21.5, 2),),
        ),
        Case(
            (
                _f(2, 4, 5, 5),
                _f(6, 2, 2, 2),
                _f(2, 16, 4, 4),
                _f(6),
                _f(2, 8, 4, 4),
            ),
            {"group": 2, "offset_group": 2},
        ),
        Case(
            (_f(1, 2, 5, 4), _f(3, 2, 3, 2), _f(1, 12, 3, 3)),
            {"pads": (1, 1, 1, 1), "strides": (2, 2), "kernel_shape": (3, 2)},
        ),
        Case((_f(1, 1, 3, 3, 3), _f(1, 1, 2, 2, 2), _f(1, 24, 2, 2, 2))),
        Case(tuple(_f(*s, dtype=np.float16) for s in ((1, 1, 3, 3), (1, 1, 2, 2), (1, 8, 2, 2)))),
    ],
    "causal_conv_with_state": [
        Case(
            (_row(1, 2, 3), _row(1, 10)),
            results=2,
            expected=(_row(10, 21, 32), _row(3)),
        ),
        Case((_f(2, 3, 5), _f(3, 1, 4), _f(3), _f(2, 3, 3)), {"activation": "silu"}, results=2),
        Case((_f(2, 3, 1), _f(3, 1, 4), _f(3), _f(2, 3, 3)), {"activation": "swish"}, results=2),
        Case((_f(2, 3, 2), _f(3, 1, 1)), results=2),
        Case((_f(0, 3, 2), _f(3, 1, 2)), results=2),
        Case(
            (_f(1, 2, 4, dtype=np.float16), _f(2, 1, 2, dtype=np.float16)),
            results=2,
        ),
        Case(
            (_f(1, 2, 4, dtype=ml_dtypes.bfloat16), _f(2, 1, 2, dtype=ml_dtypes.bfloat16)),
            results=2,
        ),
    ],
}
