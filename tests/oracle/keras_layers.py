"""Makes ``tests/data/keras_layers.tar.xz``: one small Keras model per layer, with its results.

Run with a Python that has tensorflow: ``python tests/oracle/keras_layers.py OUT.tar.xz``.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
from keras import layers as L
from keras import ops

CASES: list[tuple[str, Any, list[np.ndarray]]] = []
RNG = np.random.default_rng(0)


def f(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Return drawn floats."""
    return RNG.uniform(low, high, shape).astype(np.float32)


def i(*shape: int, low: int = 0, high: int = 9) -> np.ndarray:
    """Return drawn integers."""
    return RNG.integers(low, high, shape).astype(np.int32)


def case(name: str, build: Any, *inputs: np.ndarray, dynamic: bool = False) -> None:
    """Add a case: ``build`` is a layer, or a function of input tensors."""
    CASES.append((name + ("_dynamic" if dynamic else ""), (build, dynamic), list(inputs)))


def _model(build: Any, inputs: list[np.ndarray], dynamic: bool) -> keras.Model:
    given = []
    for x in inputs:
        shape = [None] * (x.ndim - 2) + [x.shape[-1]] if dynamic else x.shape[1:]
        given.append(keras.Input(shape, dtype=str(x.dtype)))
    model = keras.Model(given if len(given) > 1 else given[0], build(*given))
    for layer in model._flatten_layers():
        for weight in layer._trainable_variables:
            weight.assign(RNG.uniform(-0.5, 0.5, weight.shape))
        for weight in layer._non_trainable_variables:
            if "seed" not in weight.path and "count" not in weight.path and weight.shape:
                weight.assign(RNG.uniform(0.5, 1.5, weight.shape))
    return model


def _core() -> None:
    x = f(2, 5)
    case("dense", L.Dense(3, "relu"), x)
    case("dense_nobias", L.Dense(3, use_bias=False), f(2, 4, 5))
    case("einsum_dense", L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), f(2, 4, 5))
    case("embedding", L.Embedding(9, 4), i(2, 6))
    case(
        "masking_pool",
        lambda x: L.GlobalAveragePooling1D()(L.Embedding(9, 4, mask_zero=True)(x)),
        i(2, 6, high=3),
    )
    case("dropout", L.Dropout(0.5), x)
    for name in (
        "relu",
        "tanh",
        "sigmoid",
        "softmax",
        "elu",
        "selu",
        "softplus",
        "softsign",
        "gelu",
        "silu",
        "exponential",
        "hard_sigmoid",
        "hard_silu",
        "relu6",
        "leaky_relu",
        "mish",
        "log_softmax",
        "celu",
        "hard_tanh",
        "tanh_shrink",
        "soft_shrink",
        "hard_shrink",
        "log_sigmoid",
        "linear",
    ):
        case(f"activation_{name}", L.Activation(name), f(3, 6, low=-4, high=4))
    case("relu_layer", L.ReLU(max_value=1.5, negative_slope=0.2, threshold=0.3), f(3, 6))
    case("relu_6", L.ReLU(6.0), f(3, 6, low=-9, high=9))
    case("leaky", L.LeakyReLU(0.1), f(3, 6))
    case("prelu", L.PReLU(shared_axes=[1]), f(2, 3, 4))
    case("elu", L.ELU(0.7), f(3, 6))
    case("softmax_axis", L.Softmax(1), f(2, 3, 4))
    case("flatten", L.Flatten(), f(2, 3, 4))
    case("reshape", L.Reshape((4, -1)), f(2, 3, 8))
    case("permute", L.Permute((2, 1)), f(2, 3, 4))
    case("repeat_vector", L.RepeatVector(3), x)
    case("zero_padding1d", L.ZeroPadding1D((1, 2)), f(2, 3, 4))
    case("zero_padding2d", L.ZeroPadding2D(((1, 0), (2, 1))), f(2, 3, 4, 2))
    case("cropping2d", L.Cropping2D(((1, 0), (1, 1))), f(2, 4, 5, 2))
    case("time_distributed", L.TimeDistributed(L.Conv2D(2, 2)), f(2, 3, 4, 4, 1))
    case("spectral", L.SpectralNormalization(L.Dense(3)), x)
    case("nested", _nested, f(2, 4))
    case("shared", _shared, f(2, 4), f(2, 4))
    case("mixed_float16", lambda x: L.Dense(3, dtype="mixed_float16")(x), x)
    case("identity", L.Identity(), x)


def _nested(x: Any) -> Any:
    inner = keras.Sequential(
        [
            L.Dense(3),
            L.BatchNormalization(),
            keras.Sequential([L.Dense(4, "tanh"), L.BatchNormalization()]),
        ]
    )
    other = keras.Model(y := keras.Input((4,)), [L.Dense(2)(y), L.Dense(3)(y)])
    first, second = other(inner(x))
    return L.Concatenate()([first, second, inner(L.Dense(4)(x))])


def _shared(x: Any, y: Any) -> Any:
    dense = L.Dense(3)
    return L.Subtract()([dense(x), dense(y)])


def _conv() -> None:
    x = f(2, 7, 6, 3)
    for pad in ("valid", "same"):
        for stride in (1, 2, 3):
            case(f"conv2d_{pad}_{stride}", L.Conv2D(4, 3, stride, pad), x)
            case(f"conv2d_transpose_{pad}_{stride}", L.Conv2DTranspose(4, (3, 2), stride, pad), x)
        case(f"conv2d_dilated_{pad}", L.Conv2D(4, 3, padding=pad, dilation_rate=2), x)
        case(f"depthwise_{pad}", L.DepthwiseConv2D(3, 2, pad, depth_multiplier=2), x)
        case(f"separable_{pad}", L.SeparableConv2D(4, 3, 1, pad, depth_multiplier=2), x)
        case(f"conv1d_{pad}", L.Conv1D(4, 3, 2, pad), f(2, 8, 3))
        for size in (2, 3):
            case(f"max_{pad}_{size}", L.MaxPooling2D(size, 2, pad), x)
            case(f"avg_{pad}_{size}", L.AveragePooling2D(size, 2, pad), x)
    case("conv2d_groups", L.Conv2D(4, 3, groups=2), f(1, 5, 5, 4))
    case("conv2d_same", L.Conv2D(4, 3, 2, "same"), x, dynamic=True)
    case("max_same", L.MaxPooling2D(3, 2, "same"), x, dynamic=True)
    case("avg_same", L.AveragePooling2D(3, 2, "same"), x, dynamic=True)
    case("conv2d_transpose_extra", L.Conv2DTranspose(4, 3, 2, "same", output_padding=1), x)
    case("conv2d_transpose_extra_valid", L.Conv2DTranspose(4, 3, 2, "valid", output_padding=1), x)
    case("conv1d_causal", L.Conv1D(4, 3, 1, "causal", dilation_rate=2), f(2, 8, 3))
    case("conv3d", L.Conv3D(2, 2, padding="same"), f(1, 3, 4, 4, 2))
    case("conv3d_transpose", L.Conv3DTranspose(2, 2, 2), f(1, 2, 3, 2, 2))
    case("conv1d_transpose", L.Conv1DTranspose(2, 3, 2, "same"), f(1, 5, 2))
    case("depthwise1d", L.DepthwiseConv1D(3, padding="same"), f(1, 5, 2))
    case("separable1d", L.SeparableConv1D(4, 3), f(1, 5, 2))
    case("max1d", L.MaxPooling1D(2), f(2, 7, 3))
    case("avg3d", L.AveragePooling3D(2), f(1, 4, 4, 4, 2))
    for name in ("Average", "Max"):
        case(f"global_{name.lower()}2d", getattr(L, f"Global{name}Pooling2D")(keepdims=True), x)
        case(f"global_{name.lower()}1d", getattr(L, f"Global{name}Pooling1D")(), f(2, 7, 3))
    case("up2d", L.UpSampling2D((2, 3)), x)
    case("up2d_bilinear", L.UpSampling2D(2, interpolation="bilinear"), x)
    case("up1d", L.UpSampling1D(3), f(2, 4, 3))
    case("up3d", L.UpSampling3D(2), f(1, 2, 3, 2, 2))
    for mode in ("bilinear", "nearest"):
        case(f"resizing_{mode}", L.Resizing(10, 4, mode), x)
    case("cnn", _cnn, f(1, 16, 16, 3))


def _cnn(x: Any) -> Any:
    y = L.Conv2D(8, 3, 2, "same", use_bias=False)(L.Rescaling(1 / 127.5, -1)(x))
    y = L.ReLU(6.0)(L.BatchNormalization()(y))
    z = L.DepthwiseConv2D(3, padding="same")(y)
    y = L.Add()([y, L.Activation("swish")(z)])
    s = L.GlobalAveragePooling2D(keepdims=True)(y)
    y = L.Multiply()([y, L.Conv2D(8, 1, activation="sigmoid")(s)])
    return L.Dense(5, "softmax")(L.Flatten()(L.MaxPooling2D()(y)))


def _norm() -> None:
    x = f(2, 4, 3, 6)
    case("bn", L.BatchNormalization(), x)
    case("bn_plain", L.BatchNormalization(scale=False, center=False), x)
    case("bn_axis", L.BatchNormalization(axis=1), x)
    case("ln", L.LayerNormalization(), x)
    case("ln_axes", L.LayerNormalization(axis=[1, 2]), x)
    case("ln_last_two", L.LayerNormalization(axis=[2, 3]), x)
    case("ln_plain", L.LayerNormalization(scale=False, center=False), x)
    case("gn", L.GroupNormalization(2), x)
    case("gn_instance", L.GroupNormalization(-1), x)
    case("rms", L.RMSNormalization(), x)
    case("unit", L.UnitNormalization(), x)
    case(
        "normalization",
        L.Normalization(mean=[1.0, 2, 3, 4, 5, 6], variance=[1.0, 2, 1, 2, 1, 2]),
        x,
    )


def _rnn() -> None:
    x = f(2, 5, 3)
    for kind in (L.LSTM, L.GRU, L.SimpleRNN):
        name = kind.__name__.lower()
        case(name, kind(4), x)
        case(f"{name}_seq", kind(4, return_sequences=True), x)
        case(f"{name}_state", kind(4, return_sequences=True, return_state=True), x)
        case(f"{name}_back", kind(4, go_backwards=True, return_sequences=True), x)
        case(f"{name}_nobias", kind(4, use_bias=False), x)
        case(f"{name}", kind(4, return_sequences=True), x, dynamic=True)
        case(f"bi_{name}", L.Bidirectional(kind(4, return_sequences=True)), x)
        case(f"bi_{name}_last", L.Bidirectional(kind(4), merge_mode="sum"), x)
        case(
            f"mask_{name}",
            lambda y, k=kind: k(4, return_sequences=True)(L.Embedding(3, 4, mask_zero=True)(y)),
            i(2, 6, high=3),
        )
    case("gru_before", L.GRU(4, reset_after=False), x)
    case("lstm_relu", L.LSTM(4, activation="relu", recurrent_activation="hard_sigmoid"), x)
    case("lstm_initial", lambda x, h, c: L.LSTM(4)(x, initial_state=[h, c]), x, f(2, 4), f(2, 4))
    case("rnn_stacked", L.RNN([L.LSTMCell(4), L.GRUCell(3)], return_sequences=True), x)
    case("rnn_cell", L.RNN(L.SimpleRNNCell(4)), x)
    case("convlstm2d", L.ConvLSTM2D(2, 3, padding="same", return_sequences=True), f(1, 3, 5, 4, 2))
    case("convlstm2d_valid", L.ConvLSTM2D(2, 3, strides=2), f(1, 3, 7, 7, 2))
    case("convlstm1d", L.ConvLSTM1D(2, 3, padding="same"), f(1, 3, 6, 2))
    case("encoder_decoder", _seq2seq, f(2, 5, 3), f(2, 4, 3))


def _seq2seq(x: Any, y: Any) -> Any:
    _, h, c = L.LSTM(4, return_state=True)(x)
    return L.Dense(2)(L.LSTM(4, return_sequences=True)(y, initial_state=[h, c]))


def _attention() -> None:
    q, v = f(2, 4, 6), f(2, 5, 6)
    case("mha", lambda x: L.MultiHeadAttention(2, 3)(x, x), q)
    case("mha_cross", lambda x, y: L.MultiHeadAttention(2, 3, value_dim=4)(x, y), q, v)
    case("mha_causal", lambda x: L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True), q)
    case("mha_scores", lambda x: L.MultiHeadAttention(2, 3)(x, x, return_attention_scores=True), q)
    case("gqa", lambda x: L.GroupQueryAttention(3, 4, 2)(x, x), q)
    case("attention", lambda x, y: L.Attention(use_scale=True)([x, y]), q, v)
    case("additive", lambda x, y: L.AdditiveAttention()([x, y]), q, v)
    case(
        "mha_mask",
        lambda y: (lambda e: L.MultiHeadAttention(2, 3)(e, e))(
            L.Embedding(3, 6, mask_zero=True)(y)
        ),
        i(2, 6, high=3),
    )


def _merge() -> None:
    x, y = f(2, 3, 4), f(2, 3, 4)
    for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"):
        case(name.lower(), lambda x, y, n=name: getattr(L, n)()([x, y]), x, y)
    case("concatenate_1", lambda x, y: L.Concatenate(1)([x, y]), x, y)
    case("dot", lambda x, y: L.Dot((2, 2))([x, y]), x, y)
    case("dot_unit", lambda x, y: L.Dot(1, normalize=True)([x, y]), f(2, 4), f(2, 4))


def _preprocess() -> None:
    case("rescaling", L.Rescaling(0.5, 1.0), f(2, 3))
    case("rescaling_list", L.Rescaling([0.5, 2.0, 1.0], [1.0, 0.0, 2.0]), f(2, 3))
    case("center_crop", L.CenterCrop(2, 3), f(1, 5, 6, 2))
    case("discretization", L.Discretization([-1.0, 0.0, 1.0]), f(2, 4))
    for mode in ("one_hot", "multi_hot", "count"):
        shape = (3,) if mode == "one_hot" else (2, 3)
        del shape
        data = i(3, 1, high=4) if mode == "one_hot" else i(2, 3, high=4)
        case(f"category_{mode}", L.CategoryEncoding(4, mode), data)


def _operations() -> None:
    x = f(2, 3, 4)
    pos = f(2, 3, 4, low=0.2, high=3)
    unary = [
        "exp",
        "sin",
        "cos",
        "tanh",
        "sigmoid",
        "relu",
        "abs",
        "negative",
        "square",
        "floor",
        "ceil",
        "round",
        "sign",
        "erf",
        "arctan",
    ]
    for name in unary:
        case(f"op_{name}", getattr(ops, name), x)
    for name in ("log", "sqrt", "rsqrt", "log1p", "reciprocal"):
        case(f"op_{name}", getattr(ops, name), pos)
    for name in ("mean", "sum", "max", "min", "prod", "var", "std", "logsumexp"):
        case(f"op_{name}", lambda x, n=name: getattr(ops, n)(x, axis=-1, keepdims=True), x)
        if name != "prod":
            case(f"op_{name}_12", lambda x, n=name: getattr(ops, n)(x, axis=(1, 2)), x)
    for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "greater", "equal"):
        case(f"op_{name}", getattr(ops, name), x, f(2, 3, 4))
    case("op_arith", lambda x: (x * 2 + 1 - x / 3) ** 2, x)
    case("op_right", lambda x: 1 - x, x)
    case("op_getitem", lambda x: x[:, 1:, ::2], x)
    case("op_getitem_int", lambda x: x[:, -1], x)
    case("op_getitem_new", lambda x: x[..., None, :2], x)
    case("op_matmul", ops.matmul, x, f(2, 4, 5))
    case("op_einsum", lambda x, y: ops.einsum("bij,bkj->bik", x, y), x, f(2, 5, 4))
    case("op_reshape", lambda x: ops.reshape(x, (-1, 12)), x)
    case("op_transpose", lambda x: ops.transpose(x, (0, 2, 1)), x)
    case("op_expand", lambda x: ops.squeeze(ops.expand_dims(x, 1), 1), x)
    case("op_concat", lambda x: ops.concatenate([x, x], axis=-1), x)
    case("op_stack", lambda x: ops.stack([x, x], axis=1), x)
    case("op_split", lambda x: ops.split(x, 2, axis=-1), x)
    case("op_clip", lambda x: ops.clip(x, -0.5, 0.5), x)
    case("op_where", lambda x: ops.where(x > 0, x, 0.0), x)
    case("op_argmax", lambda x: ops.argmax(x, axis=-1), x)
    case("op_topk", lambda x: ops.top_k(x, 2), x)
    case("op_take", lambda x: ops.take(x, [0, 2], axis=1), x)
    case("op_pad", lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 2]]), x)
    case("op_tile", lambda x: ops.tile(x, (1, 2, 1)), x)
    case("op_repeat", lambda x: ops.repeat(x, 2, axis=1), x)
    case("op_flip", lambda x: ops.flip(x, axis=1), x)
    case("op_cast", lambda x: ops.cast(x, "int32"), x)
    case("op_one_hot", lambda x: ops.one_hot(x, 5), i(2, 3, high=5))
    case("op_cumsum", lambda x: ops.cumsum(x, axis=1), x)
    case("op_tril", ops.tril, x)
    case("op_norm", lambda x: ops.norm(x, axis=-1), x)
    case("op_softmax", lambda x: ops.softmax(x, axis=1), x)


for _part in (_core, _conv, _norm, _rnn, _attention, _merge, _preprocess, _operations):
    _part()


def _flat(found: Any) -> list[np.ndarray]:
    if isinstance(found, (list, tuple)):
        return [a for item in found for a in _flat(item)]
    return [np.asarray(keras.ops.convert_to_numpy(found))]


def _put(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))


def main(path: str, only: list[str]) -> None:
    """Write the archive."""
    with tarfile.open(path, "w:xz", preset=9) as out, tempfile.TemporaryDirectory() as folder:
        for name, (build, dynamic), inputs in CASES:
            if only and name not in only:
                continue
            try:
                keras.utils.set_random_seed(0)
                keras.backend.clear_session()
                model = _model(build, inputs, dynamic)
                found = _flat(model(inputs if len(inputs) > 1 else inputs[0], training=False))
                model.save(f"{folder}/m.keras")
                model.save(f"{folder}/m.h5")
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {str(error)[:200]}")
                continue
            for suffix in ("keras", "h5"):
                with open(f"{folder}/m.{suffix}", "rb") as file:
                    _put(out, f"{name}.{suffix}", file.read())
            arrays = io.BytesIO()
            flat = {f"in{k}": v for k, v in enumerate(inputs)}
            np.savez(arrays, **flat, **{f"out{k}": v for k, v in enumerate(found)})
            _put(out, f"{name}.npz", arrays.getvalue())
    print(f"{len(CASES)} cases")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
