"""Rows of dense layers, embeddings, reshaping and what only acts in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder, activate
from lepton_ir.frontends.keras.table import layer
from lepton_ir.ir import Value


@layer("Dense", weights="kernel bias?")
def dense(b: KerasBuilder, me: Context, x: Value) -> Any:
    y = b.matmul(x, me.weight("kernel"))
    bias = me.optional("bias")
    y = y if bias is None else b.add(y, bias)
    return me.keep_mask(x, me.activated(y))


@layer("EinsumDense", weights="kernel bias?")
def einsum_dense(b: KerasBuilder, me: Context, x: Value) -> Any:
    y = b.einsum(x, me.weight("kernel"), equation=me.get("equation"))
    bias = me.weight("bias") if me.get("bias_axes") else None
    return me.activated(y if bias is None else b.add(y, bias))


@layer("Embedding", weights="embeddings")
def embedding(b: KerasBuilder, me: Context, x: Value) -> Any:
    ids = x if x.dtype in (dtypes.I32, dtypes.I64) else b.cast_to(x, dtypes.I32)
    y = b.gather(me.weight("embeddings"), ids, axis=0)
    if me.get("mask_zero"):
        b.masks[y] = b.not_(b.equal(ids, b.like(ids, 0)))
    return y


@layer("Masking")
def masking(b: KerasBuilder, me: Context, x: Value) -> Any:
    void = b.like(x, me.get("mask_value", 0.0))
    differs = b.cast_to(b.not_(b.equal(x, void)), dtypes.I32)
    kept = b.reduce_max(differs, b.ints([-1]), keepdims=True)
    y = b.mul(x, b.cast_to(kept, x.dtype or dtypes.F32))
    b.masks[y] = b.cast_to(b.squeeze(kept, b.ints([-1])), dtypes.BOOL)
    return y


@layer(
    *(
        "InputLayer",
        "Dropout",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
        "GaussianNoise",
    ),
    *("GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomContrast", "RandomBrightness"),
    *("RandomTranslation", "RandomHue", "RandomSaturation", "RandomSharpness", "RandomColorJitter"),
    *(
        "RandomShear",
        "RandomPosterization",
        "RandomGrayscale",
        "RandomGaussianBlur",
        "AutoContrast",
    ),
)
def untouched(b: KerasBuilder, me: Context, x: Value) -> Any:
    """What acts in training only."""
    if me.layer.class_name == "AutoContrast":
        raise UnsupportedError("AutoContrast acts outside training too", code="keras-layer")
    return x


# -- activations -----------------------------------------------------------------------------------


@layer("Activation")
def activation(b: KerasBuilder, me: Context, x: Value) -> Any:
    return me.keep_mask(x, me.activated(x))


@layer("ReLU")
def relu(b: KerasBuilder, me: Context, x: Value) -> Any:
    slope = me.get("negative_slope") or 0.0
    threshold = me.get("threshold") or 0.0
    top = me.get("max_value")
    if isinstance(slope, dict) or isinstance(top, dict):
        raise UnsupportedError("a limit that is an array", code="keras-layer")
    return me.keep_mask(x, general_relu(b, x, slope, top, threshold))


def general_relu(
    b: KerasBuilder, x: Value, slope: float, top: float | None, threshold: float
) -> Any:
    """``x`` at or above the threshold, at most ``top``; ``slope * (x - threshold)`` below it."""
    if threshold:
        low = b.mul(b.sub(x, b.like(x, threshold)), b.like(x, slope))
        y = b.where(b.greater_or_equal(x, b.like(x, threshold)), x, low)
    elif slope:
        y = b.leaky_relu(x, alpha=slope)
    elif top is not None:
        return b.clip(x, b.like(x, 0), b.like(x, top))
    else:
        return b.relu(x)
    return y if top is None else b.clip(y, None, b.like(x, top))


@layer("LeakyReLU")
def leaky_relu(b: KerasBuilder, me: Context, x: Value) -> Any:
    slope = me.get("negative_slope", me.get("alpha", 0.3))
    if isinstance(slope, dict):  # Keras 2 wrote a NumPy number
        slope = slope.get("value", 0.3)
    return me.keep_mask(x, b.leaky_relu(x, alpha=float(slope)))


@layer("PReLU", weights="alpha")
def prelu(b: KerasBuilder, me: Context, x: Value) -> Any:
    return b.prelu(x, me.weight("alpha"))


@layer("ELU")
def elu(b: KerasBuilder, me: Context, x: Value) -> Any:
    return b.elu(x, alpha=float(me.get("alpha", 1.0)))


@layer("ThresholdedReLU")
def thresholded_relu(b: KerasBuilder, me: Context, x: Value) -> Any:
    return b.thresholded_relu(x, alpha=float(me.get("theta", 1.0)))


@layer("Softmax")
def softmax(b: KerasBuilder, me: Context, x: Value) -> Any:
    axis = me.get("axis", -1)
    if isinstance(axis, list):
        if len(axis) != 1:
            raise UnsupportedError("softmax over several axes", code="keras-layer")
        axis = axis[0]
    return b.softmax(x, axis=b.axis(x, axis))


# -- shapes ----------------------------------------------------------------------------------------


@layer("Flatten")
def flatten(b: KerasBuilder, me: Context, x: Value) -> Any:
    rank = b.rank(x)
    if rank == 1:
        return b.unsqueeze(x, b.ints([1]))
    if not me.channels_last and rank > 2:
        x = b.transpose(x, perm=[0, *range(2, rank), 1])
    return flat(b, x)


def flat(b: KerasBuilder, x: Value) -> Value:
    """Return (batch, everything else)."""
    sizes = b.sizes_of(x)
    if all(isinstance(s, int) for s in sizes[1:]):
        total = math.prod(s for s in sizes[1:] if isinstance(s, int))
        return b.resized(x, [sizes[0], total])
    rest = sizes[1]
    for size in sizes[2:]:
        rest = b.arith("mul", rest, size)
    return b.resized(x, [sizes[0], rest])


@layer("Reshape")
def reshape(b: KerasBuilder, me: Context, x: Value) -> Any:
    return b.resized(x, [b.size_of(x, 0), *me.get("target_shape")])


@layer("Permute")
def permute(b: KerasBuilder, me: Context, x: Value) -> Any:
    return b.transpose(x, perm=[0, *me.get("dims")])


@layer("RepeatVector")
def repeat_vector(b: KerasBuilder, me: Context, x: Value) -> Any:
    return b.tile(b.unsqueeze(x, b.ints([1])), b.ints([1, me.get("n"), 1]))


def spatial_axes(me: Context, rank: int) -> list[int]:
    """Return the axes between batch and channels, or behind them."""
    return list(range(1, rank - 1)) if me.channels_last else list(range(2, rank))


def pairs(given: Any, count: int) -> list[list[int]]:
    """Return two numbers for every spatial axis; one number serves an axis, or all."""
    if isinstance(given, int):
        return [[given, given]] * count
    if count == 1 and len(given) == 2 and all(isinstance(g, int) for g in given):
        return [list(given)]
    return [[g, g] if isinstance(g, int) else list(g) for g in given]


@layer("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def zero_padding(b: KerasBuilder, me: Context, x: Value) -> Any:
    axes = spatial_axes(me, b.rank(x))
    ends = pairs(me.get("padding", 1), len(axes))
    pads = [e[0] for e in ends] + [e[1] for e in ends]
    return b.pad(x, b.ints(pads), b.like(x, 0), b.ints(axes))


@layer("Cropping1D", "Cropping2D", "Cropping3D")
def cropping(b: KerasBuilder, me: Context, x: Value) -> Any:
    axes = spatial_axes(me, b.rank(x))
    ends = pairs(me.get("cropping", 1), len(axes))
    stops = [-e[1] if e[1] else (1 << 62) for e in ends]
    return b.slice(x, b.ints([e[0] for e in ends]), b.ints(stops), b.ints(axes))


# -- wrappers --------------------------------------------------------------------------------------


@layer("TimeDistributed", children="layer")
def time_distributed(b: KerasBuilder, me: Context, x: Value) -> Any:
    """The inner layer over batch and steps as one axis."""
    sizes = b.sizes_of(x)
    both = all(isinstance(s, int) for s in sizes[:2])
    total: Any = sizes[0] * sizes[1] if both else b.arith("mul", sizes[0], sizes[1])  # type: ignore[operator]
    y = me.child("layer").build(b.resized(x, [total, *sizes[2:]]))
    return me.keep_mask(x, b.resized(y, [*sizes[:2], *b.sizes_of(y)[1:]]))


@layer("SpectralNormalization", weights="vector_u", children="layer", frozen="vector_u")
def spectral_normalization(b: KerasBuilder, me: Context, x: Value) -> Any:
    """The inner layer: outside training the kernel is used as it was stored."""
    return me.child("layer").build(x)


@layer("ReversibleEmbedding", weights="embeddings")
def reversible_embedding(b: KerasBuilder, me: Context, x: Value, reverse: bool = False) -> Any:
    if not reverse:
        return b.gather(me.weight("embeddings"), b.cast_to(x, dtypes.I32), axis=0)
    if not me.get("tie_weights", True):
        raise UnsupportedError("embeddings that are not tied", code="keras-layer")
    y = b.matmul(x, b.transpose(me.weight("embeddings"), perm=[1, 0]))
    cap = me.get("logit_soft_cap")
    return y if cap is None else b.mul(b.tanh(b.div(y, b.like(y, cap))), b.like(y, cap))


def as_array(b: KerasBuilder, items: Any, dtype: Any) -> Value:
    """Return numbers of a configuration as a constant."""
    return b.const(np.asarray(items).astype(dtype.numpy), dtype)


__all__ = ["activate", "as_array", "flat", "general_relu", "pairs", "spatial_axes"]
