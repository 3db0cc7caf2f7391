"""Sample calls of recurrent layers."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(26)
_LENGTHS = np.array([3, 1], np.int32)
_DTYPES = (np.float64, np.float16, ml_dtypes.bfloat16)


def _f(*shape: int, dtype: object = np.float32) -> np.ndarray:
    return _rng.standard_normal(shape).astype(dtype)


def _weights(gates: int, directions: int = 1, dtype: object = np.float32) -> tuple[np.ndarray, ...]:
    """w, r and b of a layer with 4 inputs and 5 hidden elements."""
    return (
        _f(directions, gates * 5, 4, dtype=dtype),
        _f(directions, gates * 5, 5, dtype=dtype),
        _f(directions, gates * 10, dtype=dtype),
    )


def _common(gates: int, results: int, names: int) -> list[Case]:
    """Cases that all three layers share; ``names`` activations a direction."""
    x, h = _f(3, 2, 4), _f(1, 2, 5)
    both = {"direction": "bidirectional"}
    batch_first = (_f(2, 3, 4), *_weights(gates, 2), _LENGTHS, _f(2, 2, 5))
    mixed = ("LeakyRelu", "HardSigmoid", "Elu", "Softsign", "Softplus", "Relu")[:names]
    explicit = ("Affine", "ScaledTanh", "ThresholdedRelu")[:names]
    return [
        Case((x, *_weights(gates)[:2])),
        Case((x, *_weights(gates)), {"hidden_size": 5}, results=results),
        Case((x, *_weights(gates), _LENGTHS), results=results),
        Case((x, *_weights(gates), _LENGTHS, h), {"direction": "reverse"}, results=results),
        Case((x, *_weights(gates, 2), _LENGTHS, _f(2, 2, 5)), both, results=results),
        Case(batch_first, {**both, "layout": True}, results=results),
        Case((x, *_weights(gates)), {"clip": 0.3, "activations": mixed}),
        Case(
            (x, *_weights(gates, 2)),
            {
                **both,
                "activations": (*mixed, *explicit),
                "activation_alpha": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
                "activation_beta": (0.6, 0.7, 0.8),
            },
        ),
        Case((_f(0, 2, 4), *_weights(gates)), results=results),
        Case((_f(3, 0, 4), *_weights(gates)), results=results),
        *(
            Case((_f(3, 2, 4, dtype=d), *_weights(gates, dtype=d)), results=results)
            for d in _DTYPES
        ),
    ]


def _a(*shape: int, values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32).reshape(shape)


CASES: dict[str, list[Case]] = {
    "rnn": [
        *_common(1, 2, 1),
        Case(
            (
                _a(3, 1, 1, values=(1, 2, -9)),
                _a(1, 1, 1, values=(1,)),
                _a(1, 1, 1, values=(10,)),
                _a(1, 2, values=(0.5, 0.5)),
                None,
                _a(1, 1, 1, values=(1,)),
            ),
            {"activations": ("Relu",)},
            results=2,
            expected=(_a(3, 1, 1, 1, values=(12, 123, 1222)), _a(1, 1, 1, values=(1222,))),
        ),
    ],
    "gru": [
        *_common(3, 2, 2),
        Case((_f(3, 2, 4), *_weights(3)), {"linear_before_reset": True}, results=2),
        Case(
            (
                _a(1, 1, 1, values=(1,)),
                _a(1, 3, 1, values=(2, 3, 4)),
                _a(1, 3, 1, values=(1, 1, 1)),
                None,
                None,
                _a(1, 1, 1, values=(2,)),
            ),
            {
                "activations": ("Affine", "Relu"),
                "activation_alpha": (0.125,),
                "activation_beta": (0.0,),
            },
            expected=(_a(1, 1, 1, 1, values=(0.5 * 5.25 + 0.5 * 2,)),),
        ),
    ],
    "lstm": [
        *_common(4, 3, 3),
        Case(
            (_f(3, 2, 4), *_weights(4), _LENGTHS, _f(1, 2, 5), _f(1, 2, 5), _f(1, 15)),
            results=3,
        ),
        Case(
            (_f(3, 2, 4), *_weights(4), None, None, _f(1, 2, 5), _f(1, 15)),
            {"input_forget": True, "clip": 0.5},
            results=3,
        ),
        Case(
            (
                _a(1, 1, 1, values=(1,)),
                _a(1, 4, 1, values=(1, 2, 3, 4)),
                _a(1, 4, 1, values=(0, 0, 0, 0)),
                None,
                None,
                None,
                _a(1, 1, 1, values=(10,)),
                _a(1, 3, values=(0.1, 0.01, 0.2)),
            ),
            {"activations": ("Relu", "Relu", "Relu")},
            results=3,
            expected=(
                _a(1, 1, 1, 1, values=(58 * 2.58,)),
                _a(1, 1, 1, values=(58 * 2.58,)),
                _a(1, 1, 1, values=(58,)),
            ),
        ),
    ],
}
