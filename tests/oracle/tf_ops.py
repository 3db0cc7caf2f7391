"""Makes ``tests/data/tf_ops.tar.xz``: one frozen graph per operator, with what TensorFlow computed.

Run with a Python that has tensorflow: ``python tests/oracle/tf_ops.py OUT.tar.xz [case ...]``.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf

raw = tf.raw_ops
CASES: list[tuple[str, Any, list[Any], bool]] = []
RNG = np.random.default_rng(0)


def f(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Return drawn floats."""
    return RNG.uniform(low, high, shape).astype(np.float32)


def i(*shape: int, low: int = -5, high: int = 6, dtype: Any = np.int32) -> np.ndarray:
    """Return drawn integers."""
    return RNG.integers(low, high, shape).astype(dtype)


def case(name: str, build: Any, *inputs: Any, dynamic: bool = False) -> None:
    """Add a case; with ``dynamic`` all sizes of the inputs are unknown to the graph."""
    CASES.append((name + ("_dynamic" if dynamic else ""), build, list(inputs), dynamic))


def _math() -> None:
    x = np.concatenate([f(12), np.float32([0.0, np.inf, -np.inf, np.nan])])
    for name in (
        *("abs", "atan", "ceil", "cos", "cosh", "exp", "floor", "sign", "sin", "sinh", "tan"),
        *("tanh", "sigmoid", "square", "negative", "round", "asinh"),
    ):
        case(name, getattr(tf.math, name), x)
    for name in ("erf", "erfc", "expm1"):
        case(name, getattr(tf.math, name), f(9))
    pos = f(9, low=0.1, high=4)
    for name in ("log", "log1p", "sqrt", "rsqrt", "reciprocal"):
        case(name, getattr(tf.math, name), pos)
    case("log1p_small", tf.math.log1p, f(9, low=-1e-4, high=1e-4))
    case("expm1_small", tf.math.expm1, f(9, low=-1e-4, high=1e-4))
    for name in ("acos", "asin", "atanh"):
        case(name, getattr(tf.math, name), f(7, low=-0.9, high=0.9))
    case("acosh", tf.math.acosh, f(7, low=1, high=4))
    case("rint", tf.math.rint, f(9))
    for name in ("relu", "relu6", "elu", "selu", "softplus", "softsign", "softmax", "log_softmax"):
        case(name, getattr(tf.nn, name), f(3, 6, low=-9, high=9))
    case("leaky_relu", lambda x: tf.nn.leaky_relu(x, 0.3), f(9))
    case("gelu", tf.nn.gelu, f(9))
    case("gelu_tanh", lambda x: tf.nn.gelu(x, approximate=True), f(9))
    case("swish", tf.nn.swish, f(9))
    a, b = f(3, 4), f(4)
    for name in (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "atan2", "floordiv"),
        *("floormod", "squared_difference", "divide_no_nan", "multiply_no_nan", "greater", "less"),
        *("equal", "not_equal", "greater_equal", "less_equal"),
    ):
        case(name, getattr(tf.math, name), a, b)
    case("pow", tf.pow, f(3, 4, low=0.1), b)
    case("divide_no_nan_0", tf.math.divide_no_nan, f(3), np.float32([0, 1, 0]))
    m, n = i(3, 4), i(4, low=1)
    for name in ("add", "subtract", "multiply", "maximum", "floordiv", "floormod"):
        case(f"{name}_int", getattr(tf.math, name), m, n)
    case("floordiv_neg", tf.math.floordiv, m, -n)
    case("floormod_neg", tf.math.floormod, m, -n)
    case("floormod_negf", tf.math.floormod, f(9), np.float32(-0.7))
    case("truncatediv", lambda x, y: raw.TruncateDiv(x=x, y=y), m, n)
    case("truncatemod", tf.truncatemod, m, n)
    case("mod_float", lambda x, y: raw.TruncateMod(x=x, y=y), a, b)
    for name in ("logical_and", "logical_or"):
        case(name, getattr(tf, name), np.array([True, True, False]), np.array([True, False, False]))
    case("logical_not", tf.logical_not, np.array([True, False]))
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"):
        case(name, getattr(tf.bitwise, name), i(5, low=0, high=99), i(5, low=0, high=5))
    case("invert", tf.bitwise.invert, m)
    case("xlogy", tf.math.xlogy, f(5, low=0), f(5, low=0.1))
    case("xdivy", tf.math.xdivy, f(5, low=0), f(5, low=0.1))
    case("add_n", lambda x, y: tf.add_n([x, y, x]), a, f(3, 4))
    case("clip", lambda x: tf.clip_by_value(x, -0.5, 0.7), a)
    case("cast", lambda x: tf.cast(x, tf.int32), f(9))
    case("cast_bool", lambda x: tf.cast(x > 0, tf.float32), f(9))
    case("bitcast", lambda x: tf.bitcast(x, tf.int32), f(9))
    case("is_nan", lambda x: (tf.math.is_nan(x), tf.math.is_inf(x), tf.math.is_finite(x)), x)
    c = f(2, 3, 4)
    for name in ("sum", "mean", "max", "min", "prod", "euclidean_norm"):
        g = getattr(tf, f"reduce_{name}", None) or getattr(tf.math, f"reduce_{name}")
        case(f"reduce_{name}", lambda x, g=g: g(x, axis=[0, 2]), c)
        case(f"reduce_{name}_all", lambda x, g=g: g(x), c)
        case(f"reduce_{name}_keep", lambda x, g=g: g(x, axis=-1, keepdims=True), c)
    case("reduce_any", lambda x: tf.reduce_any(x > 1, axis=1), c)
    case("reduce_all", lambda x: tf.reduce_all(x > -1, axis=[0, 1], keepdims=True), c)
    case("reduce_std", lambda x: tf.math.reduce_std(x, axis=1), c)
    case("logsumexp", lambda x: tf.reduce_logsumexp(x, axis=1), c)
    case("argmax", lambda x: tf.argmax(x, axis=1), c)
    case("argmin", lambda x: tf.argmin(x, axis=-1, output_type=tf.int32), c)
    case("cumsum", lambda x: tf.cumsum(x, axis=1, exclusive=True, reverse=True), c)
    case("cumprod", lambda x: tf.math.cumprod(x, axis=-1), c)
    case("top_k", lambda x: tuple(tf.math.top_k(x, 2)), c)
    case("l2_loss", tf.nn.l2_loss, c)
    case("bucketize", lambda x: raw.Bucketize(input=x, boundaries=[-1.0, 0.0, 1.0]), f(9))


def _nn() -> None:
    x = f(2, 7, 6, 4)
    for pad in ("VALID", "SAME"):
        for stride in (1, 2, 3):
            case(
                f"conv2d_{pad}_{stride}",
                lambda x, w, p=pad, s=stride: tf.nn.conv2d(x, w, s, p),
                x,
                f(3, 2, 4, 5),
            )
            case(
                f"max_pool_{pad}_{stride}",
                lambda x, p=pad, s=stride: tf.nn.max_pool2d(x, 3, s, p),
                x,
            )
            case(
                f"avg_pool_{pad}_{stride}",
                lambda x, p=pad, s=stride: tf.nn.avg_pool2d(x, 3, s, p),
                x,
            )
            case(
                f"depthwise_{pad}_{stride}",
                lambda x, w, p=pad, s=stride: tf.nn.depthwise_conv2d(x, w, [1, s, s, 1], p),
                x,
                f(3, 3, 4, 2),
            )
            case(
                f"transpose_{pad}_{stride}",
                lambda x, w, p=pad, s=stride: tf.nn.conv2d_transpose(
                    x, w, tf.stack([2, *_up(p, s, (7, 6), (3, 2)), 5]), s, p
                ),
                x,
                f(3, 2, 5, 4),
            )
        case(
            f"dilated_{pad}",
            lambda x, w, p=pad: tf.nn.conv2d(x, w, 1, p, dilations=2),
            x,
            f(3, 2, 4, 5),
        )
        case(
            f"conv2d_{pad}",
            lambda x, w, p=pad: tf.nn.conv2d(x, tf.constant(w), 2, p),
            x,
            f(3, 3, 4, 5),
            dynamic=True,
        )
        case(f"max_pool_{pad}", lambda x, p=pad: tf.nn.max_pool2d(x, 3, 2, p), x, dynamic=True)
    case(
        "conv2d_explicit",
        lambda x, w: tf.nn.conv2d(x, w, 1, [[0, 0], [1, 2], [0, 1], [0, 0]]),
        x,
        f(3, 2, 4, 5),
    )
    case("conv2d_groups", lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), x, f(3, 3, 2, 6))
    case("conv1d", lambda x, w: tf.nn.conv1d(x, w, 2, "SAME"), f(2, 9, 3), f(3, 3, 4))
    case(
        "conv3d",
        lambda x, w: tf.nn.conv3d(x, w, [1, 1, 2, 1, 1], "SAME"),
        f(1, 4, 5, 4, 2),
        f(2, 3, 2, 2, 3),
    )
    case("pool3d", lambda x: tf.nn.max_pool3d(x, 2, 2, "VALID"), f(1, 4, 5, 4, 2))
    case("avg_pool3d", lambda x: tf.nn.avg_pool3d(x, 2, 2, "SAME"), f(1, 4, 5, 4, 2))
    case("bias_add", tf.nn.bias_add, x, f(4))
    case("bias_add_first", lambda x, b: tf.nn.bias_add(x, b, "NCHW"), x, f(7))
    case("batch_norm", _batch_norm, x)
    case("lrn", lambda x: tf.nn.local_response_normalization(x, 2, 1.5, 0.1, 0.75), x)
    case("depth_to_space", lambda x: tf.nn.depth_to_space(x, 2), x)
    case("space_to_depth", lambda x: tf.nn.space_to_depth(x, 2), f(1, 4, 6, 3))
    case(
        "dilation2d",
        lambda x, w: tf.nn.dilation2d(x, w, [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1]),
        x,
        f(2, 3, 4),
    )
    case("matmul", tf.matmul, f(3, 4), f(4, 5))
    case(
        "matmul_t",
        lambda x, y: tf.matmul(x, y, transpose_a=True, transpose_b=True),
        f(4, 3),
        f(5, 4),
    )
    case("batch_matmul", lambda x, y: tf.matmul(x, y, adjoint_b=True), f(2, 3, 4), f(2, 5, 4))
    case("batch_matmul_wide", tf.matmul, f(3, 1, 2, 4), f(2, 4, 5))
    case("einsum", lambda x, y: tf.einsum("bij,bkj->bik", x, y), f(2, 3, 4), f(2, 5, 4))
    case("lstm_block", _lstm_block, f(2, 3), f(2, 4), f(2, 4), f(7, 16), f(16))
    case(
        "gru_block",
        lambda x, h, a, b, c, d: tuple(
            raw.GRUBlockCell(x=x, h_prev=h, w_ru=a, w_c=b, b_ru=c, b_c=d)
        ),
        f(2, 3),
        f(2, 4),
        f(7, 8),
        f(7, 4),
        f(8),
        f(4),
    )
    case("layer_norm", _layer_norm, f(2, 5, 8))


def _up(pad: str, stride: int, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> list[int]:
    return [
        n * stride + (max(k - stride, 0) if pad == "VALID" else 0)
        for n, k in zip(sizes, kernel, strict=True)
    ]


def _batch_norm(x: Any) -> Any:
    scale, offset, mean = (tf.constant(f(4)) for _ in range(3))
    variance = tf.constant(f(4, low=0.5))
    return raw.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        is_training=False,
        epsilon=1e-3,
    )[0]


def _layer_norm(x: Any) -> Any:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, tf.constant(f(8)), tf.constant(f(8)), 1e-6)


def _lstm_block(x: Any, c: Any, h: Any, w: Any, b: Any) -> Any:
    zero = tf.zeros(4)
    return tuple(
        raw.LSTMBlockCell(x=x, cs_prev=c, h_prev=h, w=w, wci=zero, wcf=zero, wco=zero, b=b)
    )


def _shape() -> None:
    x = f(2, 3, 4)
    case("shape", lambda x: (tf.shape(x), tf.size(x), tf.rank(x)), x)
    case("reshape", lambda x: tf.reshape(x, [4, -1]), x)
    case("reshape", lambda x: tf.reshape(x, [tf.shape(x)[0], -1]), x, dynamic=True)
    case("expand_dims", lambda x: tf.expand_dims(x, -1), x)
    case("squeeze", tf.squeeze, f(1, 3, 1))
    case("squeeze_0", lambda x: tf.squeeze(x, 0), f(1, 3, 1))
    case("transpose", lambda x: tf.transpose(x, [2, 0, 1]), x)
    case("invert_permutation", tf.math.invert_permutation, np.int32([2, 0, 1]))
    case("concat", lambda x: tf.concat([x, x * 2], -1), x)
    case("stack", lambda x: tf.stack([x, x + 1], 1), x)
    case("unstack", lambda x: tf.unstack(x, axis=1), x)
    case("split", lambda x: tf.split(x, 2, -1), x)
    case("split_v", lambda x: tf.split(x, [1, -1], -1), x)
    case("slice", lambda x: tf.slice(x, [0, 1, 0], [-1, 2, 3]), x)
    case("slice", lambda x: tf.slice(x, [0, 1, 0], [-1, 2, tf.shape(x)[2] - 1]), x, dynamic=True)
    case("strided", lambda x: x[:, 1:, ::2], x)
    case("strided_neg", lambda x: x[::-1, -2:, 3:0:-2], x)
    case("strided_int", lambda x: x[1, ..., -1], x)
    case("strided_new", lambda x: x[:, tf.newaxis, ..., tf.newaxis, 1], x)
    case("strided_computed", lambda x, k: x[:, k[0], : k[1]], x, np.int32([1, 3]))
    case("strided_last", lambda x, k: x[:, k[0]], x, np.int32([-1]))
    case("tile", lambda x: tf.tile(x, [1, 2, 3]), x)
    case("fill", lambda x: tf.fill([2, 3], 7.0) + x[0, 0, 0], x)
    case("fill", lambda x: tf.fill(tf.shape(x), 7.0) + x, x, dynamic=True)
    case("broadcast_to", lambda x: tf.broadcast_to(x, [5, 2, 3, 4]), x)
    case(
        "broadcast_args",
        lambda x: tf.broadcast_dynamic_shape(tf.shape(x), tf.constant([3, 1])),
        x,
        dynamic=True,
    )
    case("zeros_like", lambda x: tf.zeros_like(x) + tf.ones_like(x) * x, x, dynamic=True)
    case("range", lambda x: tf.range(1, 9, 3) + tf.cast(x[0, 0, 0], tf.int32), x)
    case("range", lambda x: tf.range(tf.shape(x)[0]), x, dynamic=True)
    case("linspace", lambda x: tf.linspace(x[0, 0, 0], x[0, 0, 1], 5), x)
    case("pad", lambda x: tf.pad(x, [[0, 1], [2, 0], [1, 1]]), x)
    case("pad_value", lambda x: tf.pad(x, [[0, 1], [2, 0], [1, 1]], constant_values=3.0), x)
    case("pad_reflect", lambda x: tf.pad(x, [[0, 1], [2, 0], [1, 1]], "REFLECT"), x)
    case("pad_symmetric", lambda x: tf.pad(x, [[0, 1], [2, 0], [1, 3]], "SYMMETRIC"), x)
    case("reverse", lambda x: tf.reverse(x, [0, -1]), x)
    case("reverse_sequence", lambda x: tf.reverse_sequence(x, [1, 3], seq_axis=1, batch_axis=0), x)
    case("roll", lambda x: tf.roll(x, [1, -1], [1, 2]), x)
    case("space_to_batch", lambda x: tf.space_to_batch(x, [2, 2], [[1, 0], [0, 1]]), f(1, 3, 5, 2))
    case("batch_to_space", lambda x: tf.batch_to_space(x, [2, 2], [[1, 0], [0, 1]]), f(4, 3, 5, 2))


def _array() -> None:
    x = f(4, 5, 3)
    case("gather", lambda x, j: tf.gather(x, j), x, i(2, 3, low=0, high=4))
    case("gather_axis", lambda x, j: tf.gather(x, j, axis=1), x, i(2, 2, low=0, high=5))
    case(
        "gather_batch",
        lambda x, j: tf.gather(x, j, axis=1, batch_dims=1),
        x,
        i(4, 2, low=0, high=5),
    )
    case(
        "gather_batch_2",
        lambda x, j: tf.gather(x, j, axis=2, batch_dims=1),
        x,
        i(4, 2, low=0, high=3),
    )
    case("gather_nd", lambda x, j: tf.gather_nd(x, j), x, i(6, 2, low=0, high=4))
    case("scatter_nd", lambda j, u: tf.scatter_nd(j, u, [5, 3]), np.int32([[1], [3], [1]]), f(3, 3))
    for name in ("update", "add", "sub", "max", "min"):
        g = getattr(tf, f"tensor_scatter_nd_{name}")
        case(f"tensor_scatter_{name}", g, f(5, 3), np.int32([[1], [3]]), f(2, 3))
    case("where", lambda x: tf.where(x > 0), x)
    case("select", lambda x, y: tf.where(x > 0, x, y), x, f(5, 3))
    case("select_rows", lambda x, y: raw.Select(condition=x[:, 0, 0] > 0, x=x, y=y), x, f(4, 5, 3))
    case("one_hot", lambda j: tf.one_hot(j, 4), i(2, 3, low=-1, high=5))
    case("one_hot_axis", lambda j: tf.one_hot(j, 4, 2.0, -1.0, axis=1), i(2, 3, low=0, high=4))
    case("unique", lambda j: tuple(tf.unique(j)), i(9))
    case("dynamic_stitch", lambda x, y: tf.dynamic_stitch([[0, 2], [1]], [x, y]), f(2, 3), f(1, 3))
    case("segment_sum", lambda x: tf.math.unsorted_segment_sum(x, tf.constant([0, 1, 0, 2]), 3), x)
    case("band_part", lambda x: tf.linalg.band_part(x, 1, 0), x)
    case("diag", tf.linalg.diag, f(2, 3))
    case("diag_part", tf.linalg.diag_part, f(2, 4, 4))
    case("set_diag", tf.linalg.set_diag, f(2, 4, 4), f(2, 4))
    case("cross", tf.linalg.cross, f(2, 3), f(2, 3))


def _image() -> None:
    x = f(1, 4, 5, 2)
    for half in (False, True):
        for corners in (False, True):
            if half and corners:
                continue
            kind = {"align_corners": corners, "half_pixel_centers": half}
            label = f"{int(half)}{int(corners)}"
            case(
                f"bilinear_{label}",
                lambda x, k=kind: raw.ResizeBilinear(images=x, size=[7, 3], **k),
                x,
            )
            case(
                f"nearest_{label}",
                lambda x, k=kind: raw.ResizeNearestNeighbor(images=x, size=[7, 3], **k),
                x,
            )
    case("bicubic", lambda x: raw.ResizeBicubic(images=x, size=[8, 10], half_pixel_centers=True), x)
    boxes = np.float32([[0, 0, 1, 1], [0, 0, 1, 1.1], [0, 2, 1, 3], [0, 2.1, 1, 3]])
    scores = np.float32([0.9, 0.8, 0.7, 0.95])
    case("nms", lambda b, s: tf.image.non_max_suppression(b, s, 3, 0.5), boxes, scores)
    case(
        "nms_v4",
        lambda b, s: raw.NonMaxSuppressionV4(
            boxes=b,
            scores=s,
            max_output_size=3,
            iou_threshold=0.5,
            score_threshold=0.1,
            pad_to_max_output_size=True,
        ),
        boxes,
        scores,
    )
    case(
        "patches",
        lambda x: tf.image.extract_patches(x, [1, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1], "VALID"),
        x,
    )
    case("contrast", lambda x: raw.AdjustContrastv2(images=x, contrast_factor=0.5), f(1, 4, 5, 3))


def _quant() -> None:
    x = f(3, 4)
    case("fake_quant", lambda x: tf.quantization.fake_quant_with_min_max_vars(x, -1.5, 1.7), x)
    case("fake_quant_args", lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1, 1), x)
    case(
        "fake_quant_narrow",
        lambda x: tf.quantization.fake_quant_with_min_max_vars(x, -1.5, 1.5, narrow_range=True),
        x,
    )
    case(
        "fake_quant_channels",
        lambda x: tf.quantization.fake_quant_with_min_max_vars_per_channel(
            x, [-1.0, -2, -1, -0.5], [1.0, 1, 2, 0.7]
        ),
        x,
    )
    case(
        "quantize_dequantize",
        lambda x: tf.quantization.quantize_and_dequantize_v2(x, -1.0, 1.0, range_given=True),
        x,
    )


def _signal() -> None:
    case("rfft", lambda x: tf.abs(tf.signal.rfft(x)), f(2, 16))
    case("rfft_angle", lambda x: tf.math.angle(tf.signal.rfft(x)), f(2, 16))
    case("irfft", lambda x: tf.signal.irfft(tf.complex(x, x * 0.5)), f(2, 9))


for _part in (_math, _nn, _shape, _array, _image, _quant, _signal):
    _part()


def _flat(found: Any) -> list[np.ndarray]:
    if isinstance(found, (list, tuple)):
        return [a for item in found for a in _flat(item)]
    return [np.asarray(found)]


def _put(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))


def main(path: str, only: list[str]) -> None:
    """Write the archive."""
    with tarfile.open(path, "w:xz", preset=9) as out:
        for name, build, inputs, dynamic in CASES:
            if only and name not in only:
                continue
            arrays = [np.asarray(x) for x in inputs]
            given = arrays[:1] if dynamic and len(arrays) > 1 else arrays
            fixed = arrays[len(given) :]
            specs = [
                tf.TensorSpec(
                    [None] * (x.ndim - 1) + [x.shape[-1]] if dynamic and x.ndim else x.shape,
                    x.dtype,
                )
                for x in given
            ]
            try:
                concrete = tf.function(
                    lambda *xs, b=build, c=fixed: b(*xs, *c), autograph=False
                ).get_concrete_function(*specs)
                found = _flat(concrete(*map(tf.constant, given)))
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {str(error)[:200]}")
                continue
            graph = concrete.graph.as_graph_def()
            flat = {f"in{k}": v for k, v in enumerate(given)}
            names = [t.name for t in concrete.graph.outputs]
            buffer = io.BytesIO()
            np.savez(
                buffer,
                **flat,
                **{f"out{k}": v for k, v in enumerate(found)},
                names=np.asarray(names),
                inputs=np.asarray([t.name for t in concrete.graph.inputs]),
            )
            _put(out, f"{name}.pb", graph.SerializeToString(deterministic=True))
            _put(out, f"{name}.npz", buffer.getvalue())
    print(f"{len(CASES)} cases")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
