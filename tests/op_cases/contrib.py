"""Sample calls of the com.microsoft family."""

from __future__ import annotations

import itertools

import numpy as np

from tests.op_cases import Case

_rng = np.random.default_rng(16)


def _f(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape).astype(np.float32)


def _u(*shape: int) -> np.ndarray:
    return _rng.integers(0, 256, shape).astype(np.uint8)


def _i(*shape: int) -> np.ndarray:
    return _rng.integers(-128, 128, shape).astype(np.int8)


def _w(*shape: int) -> np.ndarray:
    return _rng.integers(0, 1 << 16, shape).astype(np.uint16)


def _s(value: float) -> np.ndarray:
    return np.array(value, np.float32)


_BOTH = ((_u(), _u), (_i(), _i))
_WINDOW = {"kernel_shape": (3, 2), "pads": (1, 0, 1, 1), "strides": (2, 1)}


def _unary(**attrs: object) -> list[Case]:
    return [Case((make(2, 3, 8), _s(0.03), z, _s(0.02), z), attrs) for z, make in _BOTH]


def _binary() -> list[Case]:
    pairs = [
        Case((make(2, 3, 4), _s(0.03), z, make(4), _s(0.02), z, _s(0.05), z)) for z, make in _BOTH
    ]
    return [*pairs, Case((_u(2, 3), _s(0.03), None, _u(2, 1), _s(0.02), None, _s(0.05)))]


def _nbits(bits: int, rows: int, block: int, *, points: bool, bias: bool = False) -> Case:
    blocks = -(-rows // block)
    return Case(
        (
            _f(2, 3, rows),
            _u(6, blocks, block * bits // 8),
            np.abs(_f(6, blocks)),
            _u(6, -(-blocks * bits // 8)) if points else None,
            None,
            _f(6) if bias else None,
        ),
        {"K": rows, "N": 6, "bits": bits, "block_size": block},
    )


def _layer(directions: int = 1, columns: bool = False) -> tuple[np.ndarray, ...]:
    """x, w, r and b of an LSTM with 4 inputs and 5 hidden elements, and the weights' parameters."""
    count = (directions, 20) if columns else (directions,)
    scales = [(np.abs(_rng.standard_normal(count)) * 0.01 + 1e-3).astype(np.float32) for _ in "wr"]
    weights = (_i(directions, 4, 20), _i(directions, 5, 20), _f(directions, 40))
    return (_f(3, 2, 4), *weights, scales[0], _i(*count), scales[1], _i(*count))


def _dynamic_lstm(
    layer: tuple[np.ndarray, ...],
    optional: tuple[np.ndarray | None, ...] = (None, None, None, None),
    **attrs: object,
) -> Case:
    return Case((*layer[:4], *optional, *layer[4:]), attrs, results=3)


CASES: dict[str, list[Case]] = {
    "ms_dynamic_quantize_lstm": [
        _dynamic_lstm(_layer()),
        _dynamic_lstm(_layer(2, columns=True), direction="bidirectional", hidden_size=5),
        _dynamic_lstm(
            _layer(),
            (np.array([3, 1], np.int32), _f(1, 2, 5), _f(1, 2, 5), _f(1, 15)),
            direction="reverse",
            clip=0.5,
        ),
        _dynamic_lstm(_layer(), activations=("HardSigmoid", "Relu", "Tanh"), input_forget=True),
        Case((np.zeros((0, 2, 4), np.float32), *_layer()[1:4], *[None] * 4, *_layer()[4:])),
        Case((np.zeros((3, 0, 4), np.float32), *_layer()[1:4], *[None] * 4, *_layer()[4:])),
    ],
    "ms_fused_conv": [
        Case((_f(1, 4, 6, 6), _f(6, 4, 3, 3), _f(6))),
        Case((_f(1, 4, 6, 6), _f(6, 4, 3, 3), None, _f(1, 6, 4, 4)), {"activation": "Relu"}),
        Case(
            (_f(1, 4, 6), _f(6, 2, 3), _f(6)),
            {
                "activation": "Clip",
                "activation_params": (0.0, 2.0),
                "group": 2,
                "pads": (1, 1),
                "kernel_shape": (3,),
            },
        ),
        Case((_f(1, 4, 6), _f(6, 4, 3)), {"activation": "LeakyRelu", "activation_params": (0.1,)}),
    ],
    "ms_bias_gelu": [Case((_f(2, 3, 8), _f(8)))],
    "ms_fast_gelu": [Case((_f(2, 3, 8), _f(8))), Case((_f(2, 3),))],
    "ms_quick_gelu": [Case((_f(2, 3, 8),)), Case((_f(2, 3),), {"alpha": 1.5})],
    "ms_skip_layer_normalization": [
        Case((_f(2, 3, 8), _f(2, 3, 8), _f(8), _f(8), _f(8))),
        Case((_f(2, 3, 8), _f(1, 3, 8), _f(8)), {"epsilon": 1e-5}, results=4),
    ],
    "ms_skip_simplified_layer_normalization": [
        Case((_f(2, 3, 8), _f(2, 3, 8), _f(8), _f(8))),
        Case((_f(2, 3, 8), _f(3, 8), _f(8)), {"epsilon": 1e-5}, results=4),
    ],
    "ms_simplified_layer_normalization": [
        Case((_f(2, 3, 8), _f(8))),
        Case((_f(2, 3, 8), _f(3, 8)), {"axis": 1, "epsilon": 0.1}),
    ],
    "ms_fused_matmul": [
        Case((_f(2, 4, 5), _f(2, 5, 6)), {"alpha": 0.5}),
        Case((_f(2, 5, 4), _f(6, 5)), {"transA": True, "transB": True}),
        Case((_f(4, 2, 5), _f(5, 2, 6)), {"transBatchA": True, "transBatchB": True}),
        Case((_f(5, 2, 4), _f(2, 5, 6)), {"transBatchA": True, "transA": True}),
        Case((_f(5), _f(5, 6)), {"transA": True}),
    ],
    "ms_fused_gemm": [
        Case((_f(4, 5), _f(5, 6), _f(6)), {"activation": "Relu"}),
        Case(
            (_f(5, 4), _f(5, 6)),
            {"activation": "LeakyRelu", "activation_alpha": 0.2, "transA": True},
        ),
    ],
    "ms_rotary_embedding": [
        Case((x, ids, _f(16, 4), _f(16, 4)), {"interleaved": interleaved})
        for x, ids, interleaved in itertools.product(
            (_f(2, 3, 16), _f(2, 5, 3, 8)),
            (np.array([5]), np.array([[0, 1, 2], [7, 3, 9]])),
            (False, True),
        )
    ],
    "ms_attention": [
        Case((_f(2, 3, 6), _f(6, 24), _f(24)), {"num_heads": 2}),
        Case((_f(2, 3, 6), _f(6, 24)), {"num_heads": 4, "scale": 0.3, "unidirectional": True}),
        Case(
            (_f(2, 3, 6), _f(6, 22), _f(22), None, None, _f(1, 2, 3, 3)),
            {"num_heads": 2, "qkv_hidden_sizes": (8, 8, 6)},
        ),
        Case(
            (_f(2, 3, 6), _f(6, 24), _f(24), np.array([[1, 1, 0], [1, 1, 1]], np.int32)),
            {"num_heads": 2, "mask_filter_value": -3.0},
        ),
        Case(
            (_f(2, 3, 6), _f(6, 24), _f(24), None, _f(2, 2, 2, 5, 4)),
            {"num_heads": 2, "unidirectional": True},
            results=2,
        ),
    ],
    "ms_multi_head_attention": [
        Case((_f(2, 3, 16), _f(2, 5, 16), _f(2, 5, 24)), {"num_heads": 4}),
        Case((_f(2, 3, 16), _f(2, 5, 16), _f(2, 5, 24), _f(56)), {"num_heads": 4, "scale": 0.3}),
        Case(
            (_f(2, 3, 16), _f(2, 5, 16), _f(2, 5, 16), None, None, _f(1, 4, 3, 5)),
            {"num_heads": 4},
        ),
        Case(
            (_f(2, 3, 16), _f(2, 5, 16), _f(2, 5, 16), None, _u(2, 5).astype(np.int32) | 1),
            {"num_heads": 4},
        ),
        Case(
            (
                *(_f(2, 3, 16), _f(2, 3, 16), _f(2, 3, 16), None, None, None),
                *(_f(2, 4, 6, 4), _f(2, 4, 6, 4)),
            ),
            {"num_heads": 4, "unidirectional": True},
            results=3,
        ),
        Case((_f(2, 3, 16), _f(2, 4, 5, 4), _f(2, 4, 5, 4)), {"num_heads": 4}),
    ],
    "ms_group_query_attention": [
        Case(
            (
                *(_f(2, 3, 24), _f(2, 3, 12), _f(2, 3, 12), None, None),
                *(np.array([2, 2], np.int32), np.array(3, np.int32)),
            ),
            {"num_heads": 4, "kv_num_heads": 2},
        ),
        Case(
            (
                *(_f(2, 1, 24), _f(2, 1, 12), _f(2, 1, 12), _f(2, 2, 4, 6), _f(2, 2, 4, 6)),
                *(np.array([4, 4], np.int32), np.array([5], np.int32)),
                *(None, None, None, _f(1, 4, 1, 5)),
            ),
            {"num_heads": 4, "kv_num_heads": 2, "scale": 0.3},
            results=3,
        ),
    ],
    "ms_quantize_linear": [
        Case((_f(2, 3, 4), _s(1e-4), _w())),
        Case((_f(2, 3, 4), np.abs(_f(3)) + 0.1, _i(3)), {"axis": 1}),
        Case((_f(2, 3), _s(0.1))),
    ],
    "ms_dequantize_linear": [
        Case((_w(2, 3, 4), _s(1e-4), _w())),
        Case((_i(2, 3, 4), np.abs(_f(4)), _i(4)), {"axis": -1}),
        Case((_w(2, 3), _s(0.1))),
    ],
    "ms_qlinear_add": _binary(),
    "ms_qlinear_mul": _binary(),
    "ms_qlinear_sigmoid": _unary(),
    "ms_qlinear_leaky_relu": _unary(alpha=0.1),
    "ms_qlinear_softmax": [*_unary(axis=1, opset=13), *_unary(axis=1, opset=11)],
    "ms_qlinear_concat": [
        Case((_s(0.03), z, make(2, 3), _s(0.02), z, make(2, 5), _s(0.01), z), {"axis": -1})
        for z, make in _BOTH
    ],
    "ms_qlinear_where": [
        Case(
            (_u(2, 3) > 99, make(2, 3), _s(0.02), z, make(3), _s(0.01), z, _s(0.03), z),
        )
        for z, make in _BOTH
    ],
    "ms_qlinear_global_average_pool": [
        Case((_u(2, 3, 5, 5), _s(0.02), _u(), _s(0.01), _u()), {"channels_last": last})
        for last in (False, True)
    ],
    "ms_qlinear_average_pool": [
        Case((_i(1, 5, 6, 7), _s(0.02), _i(), _s(0.01), _i()), {"channels_last": last, **_WINDOW})
        for last in (False, True)
    ],
    "ms_matmul_integer_to_float": [
        Case((_u(2, 4, 5), _i(5, 6), _s(0.1), np.abs(_f(6)), _u(), _i(6), _f(6))),
        Case((_u(4, 5), _u(5, 6), _s(0.1), _s(0.2))),
    ],
    "ms_qgemm": [
        Case((_u(4, 5), _s(0.1), _u(), _i(5, 6), np.abs(_f(6)), _i(6))),
        Case(
            (
                *(_u(5, 4), _s(0.1), _u(), _i(6, 5), _s(0.2), _i()),
                *(np.arange(6, dtype=np.int32), _s(3.0), _u()),
            ),
            {"transA": True, "transB": True, "alpha": 0.5},
        ),
    ],
    "ms_dynamic_quantize_matmul": [
        Case((_f(2, 4, 5), _i(5, 6), np.abs(_f(6)), _i(6), _f(6))),
        Case((_f(4, 5), _u(5, 6), _s(0.02))),
    ],
    "ms_matmul_nbits": [
        _nbits(bits, rows, block, points=points, bias=bias)
        for bits, (rows, block), points, bias in itertools.product(
            (4, 8), ((64, 32), (40, 16)), (False, True), (False, True)
        )
    ],
}
