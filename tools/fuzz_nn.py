"""Random neural-network idioms for `lepton_ir.tools.fuzz`: what exporters write, optimizers love.

Linear algebra, convolutions and what surrounds them, activations and normalizations spelled out,
quantize-dequantize pairs, shape computations, and ops that do nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_ir.tools.fuzz_graph import Dim, Scope, Tensor, broadcast, product, static
from lepton_ir.tools.fuzz_ops import production

__all__: list[str] = []


def _last_static(t: Tensor) -> bool:
    return t.plain and t.rank >= 1 and (static(t.shape[-1]) or 0) > 0


# -- linear algebra ----------------------------------------------------------------------------


@production(3.0)
def matmul(g: Scope) -> Tensor | None:
    """MatMul by a constant, at times with a bias, a scale or an activation."""
    x = g.pick(lambda t: _last_static(t) and t.rank >= 2)
    if x is None:
        return None
    inner, outer = static(x.shape[-1]) or 1, g.rng.randint(1, 5)
    w = g.weights(inner, outer)
    size = max(abs(x.lo), abs(x.hi)) * inner
    y = g.emit("MatMul", [x, w], shape=(*x.shape[:-1], g.dim(outer)), lo=-size, hi=size)
    if g.rng.random() < 0.6:
        bias = g.weights(outer)
        operands = [y, bias] if g.rng.random() < 0.7 else [bias, y]
        y = g.emit("Add", operands, shape=y.shape, lo=-size - 1, hi=size + 1)
    if g.rng.random() < 0.3:
        y = g.emit("Mul", [y, g.weights(outer)], shape=y.shape)
    return g.tame(y)


@production(1.0)
def matmul_dynamic(g: Scope) -> Tensor | None:
    """MatMul of a tensor with its own transpose, as attention does."""
    x = g.pick(lambda t: t.plain and t.nonempty and t.rank >= 2)
    if x is None:
        return None
    perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    turned = g.move("Transpose", [x], tuple(x.shape[i] for i in perm), perm=perm)
    shape = (*x.shape[:-1], x.shape[-2])
    if g.too_large(shape):
        return None
    size = max(abs(x.lo), abs(x.hi)) ** 2 * max(x.shape[-1] or (1,))
    y = g.emit("MatMul", [x, turned], shape=shape, lo=-size, hi=size)
    return g.tame(y)


@production(2.0)
def gemm(g: Scope) -> Tensor | None:
    """Gemm with its attributes, at times followed by BatchNormalization."""
    x = g.pick(lambda t: _last_static(t) and t.rank == 2)
    if x is None:
        return None
    inner, outer = static(x.shape[1]) or 1, g.rng.randint(1, 4)
    turn_b, turn_a = g.rng.randint(0, 1), g.rng.random() < 0.2
    if turn_a:
        x = g.move("Transpose", [x], (x.shape[1], x.shape[0]), perm=[1, 0])
    w = g.weights(outer, inner) if turn_b else g.weights(inner, outer)
    inputs: list[Tensor | None] = [x, w]
    if g.opset < 11 or g.rng.random() < 0.7:
        inputs.append(g.weights(*g.rng.choice([(outer,), (1, outer), (1,), ()])))
    alpha, beta = g.rng.choice([1.0, 1.0, 0.5]), g.rng.choice([1.0, 1.0, 2.0])
    rows = x.shape[1] if turn_a else x.shape[0]
    size = max(abs(x.lo), abs(x.hi)) * inner + 2
    y = g.emit(
        "Gemm", inputs, shape=(rows, g.dim(outer)), lo=-size, hi=size, alpha=alpha, beta=beta,
        transA=int(turn_a), transB=turn_b,
    )  # fmt: skip
    if g.rng.random() < 0.3:
        y = batch_norm(g, y)
    return g.tame(y)


def batch_norm(g: Scope, x: Tensor) -> Tensor:
    """BatchNormalization for inference over axis 1, whose dim is static."""
    channels = static(x.shape[1]) or 1
    seeded = np.random.default_rng(g.rng.getrandbits(32))
    variance = g.constant(seeded.uniform(0.5, 2, channels).astype(np.float32))
    parameters = [g.weights(channels), g.weights(channels), g.weights(channels), variance]
    size = 1.5 * max(abs(x.lo), abs(x.hi)) + 3
    epsilon = g.rng.choice([None, 1e-3])
    return g.tame(
        g.emit("BatchNormalization", [x, *parameters], lo=-size, hi=size, epsilon=epsilon)
    )


def _image(g: Scope, spatial: int) -> Tensor | None:
    """Return a float tensor with static channels and spatial dims of at least 3, fed if need be."""

    def fits(t: Tensor) -> bool:
        return (
            t.plain
            and t.nonempty
            and t.rank == spatial + 2
            and static(t.shape[1]) is not None
            and all(min(d or (0,)) >= 3 for d in t.shape[2:])
        )

    x = g.pick(fits)
    if x is None and len(g.context.inputs) < 7:
        batch = g.rng.choice([*g.context.symbols.values(), g.dim(1), g.dim(2)])
        if batch is None or min(batch) == 0:
            batch = g.dim(1)
        sizes = g.dims(*(g.rng.randint(3, 5) for _ in range(spatial)))
        x = g.feed("f32", (batch, g.dim(g.rng.choice([1, 2, 4])), *sizes))
    return x


def _window(size: Dim, kernel: int, stride: int, pads: int, dilation: int = 1) -> Dim:
    assert size is not None
    return tuple((s + pads - dilation * (kernel - 1) - 1) // stride + 1 for s in size)


@production(3.0)
def convolution(g: Scope) -> Tensor | None:
    """Conv in one or two dims with Pad before and normalization or activation after it."""
    spatial = g.rng.choice([1, 2, 2])
    x = _image(g, spatial)
    if x is None:
        return None
    if g.rng.random() < 0.25:
        x = _zero_pad(g, x, spatial)
    channels = static(x.shape[1]) or 1
    groups = g.rng.choice([1, 1, channels])
    outputs = groups * g.rng.choice([1, 2])
    kernel, stride = g.rng.choice([1, 2, 3]), g.rng.choice([1, 1, 2])
    dilation = g.rng.choice([1, 1, 1, 2]) if kernel == 2 else 1
    pads = [g.rng.choice([0, 1]) for _ in range(2 * spatial)]
    w = g.weights(outputs, channels // groups, *[kernel] * spatial)
    inputs = [x, w, g.weights(outputs)] if g.rng.random() < 0.5 else [x, w]
    out = [
        _window(d, kernel, stride, pads[i] + pads[i + spatial], dilation)
        for i, d in enumerate(x.shape[2:])
    ]
    size = max(abs(x.lo), abs(x.hi)) * channels // groups * kernel**spatial + 1
    y = g.emit(
        "Conv", inputs, shape=(x.shape[0], g.dim(outputs), *out), lo=-size, hi=size, pads=pads,
        strides=[stride] * spatial, dilations=[dilation] * spatial, group=groups,
        kernel_shape=[kernel] * spatial if g.rng.random() < 0.7 else None,
    )  # fmt: skip
    return _after_convolution(g, g.tame(y), outputs, spatial)


def _zero_pad(g: Scope, x: Tensor, spatial: int) -> Tensor:
    amounts = [g.rng.choice([0, 1, 1]) for _ in range(2 * spatial)]
    pads = [0, 0, *amounts[:spatial], 0, 0, *amounts[spatial:]]
    shape = tuple(
        d and tuple(s + pads[i] + pads[i + x.rank] for s in d) for i, d in enumerate(x.shape)
    )
    ends: dict[str, Any] = {"lo": min(x.lo, 0.0), "hi": max(x.hi, 0.0), "exact": x.exact}
    if g.opset < 11:
        return g.emit("Pad", [x], shape=shape, pads=pads, **ends)
    return g.emit("Pad", [x, g.ints(*pads)], shape=shape, **ends)


def _after_convolution(g: Scope, y: Tensor, channels: int, spatial: int) -> Tensor:
    follow = g.rng.choice(["", "bn", "bn", "scale", "bias", "relu", "relu6"])
    ones = [1] * spatial
    if follow == "bn":
        y = batch_norm(g, y)
    elif follow == "scale":
        y = g.tame(g.emit("Mul", [y, g.weights(channels, *ones)]))
    elif follow == "bias":
        y = g.emit("Add", [y, g.weights(channels, *ones)], lo=y.lo - 1, hi=y.hi + 1)
    if follow == "relu" or (follow and g.rng.random() < 0.3):
        y = g.emit("Relu", [y], lo=0.0, hi=max(y.hi, 0.0))
    elif follow == "relu6":
        y = g.clip(y, 0.0, 6.0)
    return y


@production(1.0)
def transposed_convolution(g: Scope) -> Tensor | None:
    """ConvTranspose, at times with BatchNormalization after it."""
    x = _image(g, 2)
    if x is None:
        return None
    channels = static(x.shape[1]) or 1
    outputs, kernel, stride = g.rng.randint(1, 3), g.rng.choice([2, 3]), g.rng.choice([1, 2])
    w = g.weights(channels, outputs, kernel, kernel)
    out = [d and tuple((s - 1) * stride + kernel for s in d) for d in x.shape[2:]]
    shape = (x.shape[0], g.dim(outputs), *out)
    if g.too_large(shape):
        return None
    size = max(abs(x.lo), abs(x.hi)) * channels * kernel**2
    inputs = [x, w, g.weights(outputs)] if g.rng.random() < 0.5 else [x, w]
    y = g.emit(
        "ConvTranspose", inputs, shape=shape, lo=-size - 1, hi=size + 1, strides=[stride, stride]
    )
    y = g.tame(y)
    return batch_norm(g, y) if g.rng.random() < 0.6 else y


@production(1.5)
def pooling(g: Scope) -> Tensor | None:
    """MaxPool, AveragePool, or a global one."""
    x = _image(g, g.rng.choice([1, 2]))
    if x is None:
        return None
    spatial = x.rank - 2
    op = g.rng.choice(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
    if op.startswith("Global"):
        return g.emit(op, [x], shape=(*x.shape[:2], *g.dims(*[1] * spatial)))
    pads, stride = [g.rng.choice([0, 1])] * (2 * spatial), g.rng.choice([1, 2])
    out = [_window(d, 2, stride, 2 * pads[0]) for d in x.shape[2:]]
    include = g.rng.randint(0, 1) if op == "AveragePool" else None
    return g.emit(
        op, [x], shape=(*x.shape[:2], *out), lo=min(x.lo, 0), hi=max(x.hi, 0),
        kernel_shape=[2] * spatial, pads=pads, strides=[stride] * spatial,
        count_include_pad=include,
    )  # fmt: skip


@production(0.8)
def channel_norm(g: Scope) -> Tensor | None:
    """BatchNormalization or InstanceNormalization alone."""
    x = _image(g, g.rng.choice([1, 2]))
    if x is None:
        return None
    if g.rng.random() < 0.5:
        return batch_norm(g, x)
    channels = static(x.shape[1]) or 1
    inputs = [x, g.weights(channels), g.weights(channels)]
    return g.emit("InstanceNormalization", inputs, lo=-8.0, hi=8.0, epsilon=0.1)


@production(0.7)
def depth_space(g: Scope) -> Tensor | None:
    """SpaceToDepth after padding to an even size, or DepthToSpace."""
    x = g.pick(lambda t: t.plain and t.rank == 4 and t.known and (static(t.shape[1]) or 1) % 4 == 0)
    if x is None:
        return None
    channels = static(x.shape[1]) or 4
    height, width = (d and tuple(2 * s for s in d) for d in x.shape[2:])
    shape = (x.shape[0], g.dim(channels // 4), height, width)
    mode = g.rng.choice(["DCR", "CRD"]) if g.opset >= 11 else None
    y = g.move("DepthToSpace", [x], shape, blocksize=2, mode=mode)
    return g.move("SpaceToDepth", [y], x.shape, blocksize=2) if g.rng.random() < 0.4 else y


@production(0.6, since=13)
def resize(g: Scope) -> Tensor | None:
    """Resize the last two dims by a whole factor, to the nearest element."""
    x = g.pick(lambda t: t.plain and t.nonempty and t.rank == 4)
    if x is None:
        return None
    height, width = (d and tuple(2 * s for s in d) for d in x.shape[2:])
    shape = (*x.shape[:2], height, width)
    if g.too_large(shape):
        return None
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    return g.move(
        "Resize", [x, None, scales], shape, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip


@production(0.7)
def recurrent(g: Scope) -> Tensor | None:
    """LSTM or GRU over the first axis, with some of the optional inputs and results."""
    x = g.pick(lambda t: _last_static(t) and t.rank == 3 and t.nonempty)
    if x is None:
        return None
    op, gates = g.rng.choice([("LSTM", 4), ("GRU", 3)])
    hidden, width = g.rng.randint(1, 3), static(x.shape[-1]) or 1
    direction = g.rng.choice(["forward", "reverse", "bidirectional"])
    ways = 2 if direction == "bidirectional" else 1
    inputs: list[Tensor | None] = [
        x, g.weights(ways, gates * hidden, width), g.weights(ways, gates * hidden, hidden),
    ]  # fmt: skip
    if g.rng.random() < 0.6:
        inputs.append(g.weights(ways, 2 * gates * hidden))
    shape = (x.shape[0], g.dim(ways), x.shape[1], g.dim(hidden))
    attrs: dict[str, Any] = {"direction": direction, "hidden_size": hidden}
    if op == "GRU":
        attrs["linear_before_reset"] = g.rng.randint(0, 1)
    if g.rng.random() < 0.5:
        return g.emit(op, inputs, shape=shape, lo=-1, hi=1, **attrs)
    last = Tensor(g.context.fresh("last"), "f32", shape[1:], -1, 1)
    g.node(op, inputs, ["", last.name], **attrs)
    return g.add(last)


@production(0.7, since=12)
def einsum(g: Scope) -> Tensor | None:
    """Einsum that is a MatMul, a transpose or a sum."""
    x = g.pick(lambda t: t.plain and t.nonempty and t.rank == 2)
    if x is None:
        return None
    rows, columns = x.shape
    form = g.rng.choice(["ij->ji", "ij->i", "ij,kj->ik"])
    shape = {"ij->ji": (columns, rows), "ij->i": (rows,), "ij,kj->ik": (rows, rows)}[form]
    size = max(abs(x.lo), abs(x.hi), 1.0) ** 2 * max(columns or (1,))
    inputs = [x, x] if "," in form else [x]
    return g.tame(g.emit("Einsum", inputs, shape=shape, lo=-size, hi=size, equation=form))


# -- activations and normalizations spelled out ------------------------------------------------


@production(1.5)
def spelled_activation(g: Scope) -> Tensor | None:
    """Gelu (both forms), SiLU, HardSwish, Mish or QuickGelu in small ops."""
    x = g.pick(lambda t: t.plain and max(abs(t.lo), abs(t.hi)) <= 16)
    if x is None:
        return None
    size = max(abs(x.lo), abs(x.hi))

    def scaled(t: Tensor, by: float) -> Tensor:
        return g.emit("Mul", [t, g.scalar(by)], lo=-abs(by) * size, hi=abs(by) * size)

    kind = g.rng.choice(["gelu", "tanh-gelu", "silu", "quick-gelu", "hard-swish", "mish"])
    if kind == "gelu":
        root = g.emit("Div", [x, g.scalar(math.sqrt(2))])
        gate = g.emit("Add", [g.emit("Erf", [root], lo=-1, hi=1), g.scalar(1.0)], lo=0, hi=2)
        order = [scaled(x, 0.5), gate] if g.rng.random() < 0.5 else [x, scaled(gate, 0.5)]
        return g.emit("Mul", order, lo=-size, hi=size)
    if kind == "tanh-gelu":
        cube = g.emit("Pow", [x, g.scalar(3.0)], lo=-(size**3), hi=size**3)
        inner = g.emit("Add", [x, g.emit("Mul", [cube, g.scalar(0.044715)])])
        wide = g.emit("Mul", [inner, g.scalar(math.sqrt(2 / math.pi))])
        gate = g.emit("Add", [g.emit("Tanh", [wide], lo=-1, hi=1), g.scalar(1.0)], lo=0, hi=2)
        return g.emit("Mul", [scaled(x, 0.5), gate], lo=-size, hi=size)
    if kind in {"silu", "quick-gelu"}:
        inner = x if kind == "silu" else scaled(x, 1.702)
        gate = g.emit("Sigmoid", [inner], lo=0, hi=1)
    elif kind == "hard-swish":
        moved = g.emit("Add", [x, g.scalar(3.0)], lo=x.lo + 3, hi=x.hi + 3)
        gate = g.emit("Div", [g.clip(moved, 0.0, 6.0), g.scalar(6.0)], lo=0, hi=1)
    else:
        gate = g.emit("Tanh", [g.emit("Softplus", [x], lo=0, hi=size + 1)], lo=0, hi=1)
    return g.emit("Mul", [x, gate] if g.rng.random() < 0.5 else [gate, x], lo=-size, hi=size)


@production(1.5)
def spelled_norm(g: Scope) -> Tensor | None:
    """LayerNorm or RMSNorm over the last axis in small ops."""
    x = g.pick(lambda t: _last_static(t) and t.nonempty and t.rank >= 2)
    if x is None:
        return None
    last, width = x.rank - 1, static(x.shape[-1]) or 1
    centred = x
    if g.rng.random() < 0.6:
        mean = g.reduce("ReduceMean", x, [last], keepdims=True)
        centred = g.emit("Sub", [x, mean], lo=x.lo - x.hi, hi=x.hi - x.lo)
    size = max(abs(centred.lo), abs(centred.hi))
    if g.rng.random() < 0.5:
        square = g.emit("Mul", [centred, centred], lo=0, hi=size**2)
    else:
        square = g.emit("Pow", [centred, g.scalar(2.0)], lo=0, hi=size**2)
    variance = g.reduce("ReduceMean", square, [last], keepdims=True)
    # The large epsilon keeps the division well conditioned for rows that are almost constant.
    moved = g.emit("Add", [variance, g.scalar(0.1)], lo=0.1, hi=size**2 + 0.1)
    root = g.emit("Sqrt", [moved], lo=0.3, hi=size + 0.4)
    bound = math.sqrt(width) + 1
    if g.rng.random() < 0.7:
        y = g.emit("Div", [centred, root], lo=-bound, hi=bound)
    else:
        inverse = g.emit("Reciprocal", [root], lo=0.0, hi=4.0)
        y = g.emit("Mul", [centred, inverse], lo=-bound, hi=bound)
    y = g.emit("Mul", [y, g.weights(width)], lo=-bound, hi=bound)
    if g.rng.random() < 0.6:
        y = g.emit("Add", [y, g.weights(width)], lo=-bound - 1, hi=bound + 1)
    return y


@production(0.7, since=17)
def layer_norm(g: Scope) -> Tensor | None:
    """LayerNormalization as one node."""
    x = g.pick(lambda t: _last_static(t) and t.nonempty and t.rank >= 2)
    if x is None:
        return None
    width = static(x.shape[-1]) or 1
    inputs = [x, g.weights(width)] + ([g.weights(width)] if g.rng.random() < 0.6 else [])
    bound = math.sqrt(width) + 2
    return g.emit("LayerNormalization", inputs, lo=-bound, hi=bound, axis=-1, epsilon=0.1)


# -- quantization ------------------------------------------------------------------------------


@production(1.5, since=10)
def quantize_dequantize(g: Scope) -> Tensor | None:
    """A quantize-dequantize pair on exact values, or the dequantization of a constant."""
    scale = g.rng.choice([0.05, 0.1])
    kind = g.rng.choice(["u8", "i8"])
    zero = g.scalar(g.rng.choice([0, 3]) if kind == "i8" else 128, kind)
    if g.rng.random() < 0.3:
        seeded = np.random.default_rng(g.rng.getrandbits(32))
        low = 0 if kind == "u8" else -128
        q = g.constant(seeded.integers(low, low + 256, (3, 4)), kind)
    else:
        x = g.pick(lambda t: t.plain and t.exact and max(abs(t.lo), abs(t.hi)) <= LIMIT_QUANTIZED)
        if x is None:
            return None
        inputs = [x, g.scalar(scale), zero]
        q = g.emit("QuantizeLinear", inputs, dtype=kind, lo=-128, hi=255, exact=True)
    pair = [q, g.scalar(scale), zero]
    return g.emit("DequantizeLinear", pair, dtype="f32", lo=-26, hi=26, exact=False)


LIMIT_QUANTIZED = 16.0
"""Values quantized are at most this large; larger ones saturate, which is defined too."""


# -- shape computations ------------------------------------------------------------------------


@production(2.5)
def shape_chain(g: Scope) -> Tensor | None:
    """Shape -> Gather -> Unsqueeze -> Concat -> Reshape, as exporters write `x.view(b, -1)`."""
    x = g.pick(lambda t: t.nonempty and 2 <= t.rank <= 4)
    if x is None:
        return None
    keep = g.rng.randint(1, x.rank - 1)
    parts = [_size_of(g, x, axis) for axis in range(keep)]
    rest: Dim = product(x.shape[keep:])
    shape = (*x.shape[:keep], rest)
    if g.rng.random() < 0.7:
        parts.append(g.ints(-1))
    else:
        total = g.squeeze(_size_of(g, x, keep), [0])
        for axis in range(keep + 1, x.rank):
            other = g.squeeze(_size_of(g, x, axis), [0])
            total = g.emit("Mul", [total, other], lo=0, hi=512, exact=True)
        parts.append(g.unsqueeze(total, [0]))
    target = g.emit("Concat", parts, shape=g.dims(len(parts)), lo=-1, hi=512, exact=True, axis=0)
    return g.move("Reshape", [x, target], shape)


def _size_of(g: Scope, x: Tensor, axis: int) -> Tensor:
    """Return one dim of `x` as a one-element int64 tensor, by one of three spellings."""
    ends: dict[str, Any] = {"lo": 0, "hi": 512, "exact": True}
    shape_of = g.emit("Shape", [x], shape=g.dims(x.rank), dtype="i64", special=False, **ends)
    choice = g.rng.random()
    if choice < 0.3:
        return g.slice(shape_of, 0, (axis, axis + 1), g.dim(1))
    if choice < 0.5:
        return g.emit("Gather", [shape_of, g.ints(axis)], shape=g.dims(1), axis=0, **ends)
    scalar = g.emit("Gather", [shape_of, g.scalar(axis, "i64")], shape=(), axis=0, **ends)
    return g.unsqueeze(scalar, [0])


@production(1.0)
def expand_as(g: Scope) -> Tensor | None:
    """Expand a constant or a tensor to the shape of another."""
    x = g.pick(lambda t: t.known and 1 <= t.rank <= 4)
    y = g.pick(lambda t: t.known and t.dtype in {"f32", "i64", "bool"} and t.rank <= 2)
    if x is None:
        return None
    source = y if y and broadcast(y.shape, x.shape) == x.shape else g.weights(1)
    target = g.emit("Shape", [x], shape=g.dims(x.rank), dtype="i64", lo=0, hi=512, exact=True,
                    special=False)  # fmt: skip
    return g.move("Expand", [source, target], x.shape)


# -- ops that do nothing -----------------------------------------------------------------------


@production(4.0)
def neutral(g: Scope) -> Tensor | None:
    """An op, or a pair of ops, that changes nothing (or makes zero), in many spellings."""
    x = g.pick(lambda t: t.floating and t.known and t.dtype != "f16")
    if x is None:
        return None
    kind = g.rng.choice(
        ["add0", "mul1", "div1", "sub0", "neg2", "id", "mul0", "self-sub", "concat1", "dropout",
         "transpose", "slice", "unsqueeze", "reshape", "same-cast", "max1", "pow1", "mul-1"]
    )  # fmt: skip
    binary = {"add0": ("Add", 0), "mul1": ("Mul", 1), "div1": ("Div", 1), "sub0": ("Sub", 0),
              "mul0": ("Mul", 0), "pow1": ("Pow", 1), "mul-1": ("Mul", -1)}  # fmt: skip
    if kind in binary:
        op, value = binary[kind]
        size = max(abs(x.lo), abs(x.hi))
        other = g.scalar(value, x.dtype, rank=g.rng.choice([0, 0, 1]) if x.rank else 0)
        order = [other, x] if op in {"Add", "Mul"} and g.rng.random() < 0.4 else [x, other]
        return g.emit(op, order, shape=x.shape, dtype=x.dtype, lo=-size, hi=size, special=x.special)
    if kind == "neg2":
        y = g.emit("Neg", [x], lo=-x.hi, hi=-x.lo, exact=x.exact)
        return g.emit("Neg", [y], lo=x.lo, hi=x.hi, exact=x.exact)
    if kind == "self-sub":
        return g.emit("Sub", [x, x], lo=-1e-3, hi=1e-3)
    if kind == "max1":
        return x if x.special else g.emit("Max", [x], exact=x.exact)
    return _neutral_move(g, x, kind)


def _neutral_move(g: Scope, x: Tensor, kind: str) -> Tensor:
    if kind == "same-cast":
        return g.cast(x, x.dtype)
    if kind == "dropout":
        if g.opset < 12:
            return g.move("Dropout", [x], x.shape, ratio=0.5)
        ratio = g.scalar(0.5)
        return g.move("Dropout", [x, ratio] if g.rng.random() < 0.5 else [x], x.shape)
    if x.rank == 0 or kind == "id":
        return g.move("Identity", [x], x.shape)
    if kind == "concat1":
        return g.move("Concat", [x], x.shape, axis=0)
    if kind == "transpose":
        return g.move("Transpose", [x], x.shape, perm=list(range(x.rank)))
    if kind == "slice":
        return g.slice(x, x.rank - 1, (0, 2**31 - 1), x.shape[-1])
    if kind == "unsqueeze":
        return g.squeeze(g.unsqueeze(x, [1]), [1])
    return g.move("Reshape", [x, g.ints(*[0] * x.rank)], x.shape)
