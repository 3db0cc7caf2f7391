"""Nodes of ``keras.ops``, and the operators of Keras 2's functional API."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends import formulas
from lepton_ir.frontends.keras.layers.core import general_relu
from lepton_ir.frontends.keras.lowering import KerasBuilder, dtype_named
from lepton_ir.frontends.keras.table import operation
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INT_MAX = (1 << 63) - 1


def _unary(name: str) -> Callable[..., Any]:
    def row(b: KerasBuilder, x: Any) -> Any:
        return b.build(name, b.floating(x)).result

    return row


for _name in (
    *(
        "Exp",
        "Log",
        "Sqrt",
        "Sin",
        "Cos",
        "Tan",
        "Tanh",
        "Sigmoid",
        "Erf",
        "Reciprocal",
        "Softsign",
    ),
    *(
        "Softplus",
        "Mish",
        "Asin",
        "Acos",
        "Atan",
        "Sinh",
        "Cosh",
        "Asinh",
        "Acosh",
        "Atanh",
        "Selu",
    ),
):
    operation(_name)(_unary(_name.lower()))
for _name, _op in (
    ("Arcsin", "asin"),
    ("Arccos", "acos"),
    ("Arctan", "atan"),
    ("Arcsinh", "asinh"),
):
    operation(_name)(_unary(_op))


def _any(name: str) -> Callable[..., Any]:
    def row(b: KerasBuilder, x: Any) -> Any:
        return b.build(name, x).result

    return row


for _name, _op in (
    *(("Abs", "abs"), ("Absolute", "abs"), ("Negative", "neg"), ("Sign", "sign")),
    *(("Floor", "floor"), ("Ceil", "ceil"), ("LogicalNot", "not"), ("Isnan", "is_nan")),
):
    operation(_name)(_any(_op))


@operation("Identity", "StopGradient", "Copy")
def identity(b: KerasBuilder, x: Any, **_: Any) -> Any:
    return x


@operation("Round")
def round_(b: KerasBuilder, x: Value, decimals: int = 0) -> Any:
    scale = b.like(x, 10.0**decimals)
    return b.round(x) if not decimals else b.div(b.round(b.mul(x, scale)), scale)


@operation("Square")
def square(b: KerasBuilder, x: Value) -> Any:
    return b.mul(x, x)


@operation("Rsqrt")
def rsqrt(b: KerasBuilder, x: Value) -> Any:
    return b.reciprocal(b.sqrt(x))


@operation("Log1p")
def log1p(b: KerasBuilder, x: Value) -> Any:
    return formulas.log1p(b, b.floating(x))


@operation("Expm1")
def expm1(b: KerasBuilder, x: Value) -> Any:
    return formulas.expm1(b, b.floating(x))


# -- activations -----------------------------------------------------------------------------------


@operation("Relu")
def relu(
    b: KerasBuilder,
    x: Value,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
    alpha: float = 0.0,
) -> Any:
    return general_relu(b, x, negative_slope or alpha, max_value, threshold)


@operation("Relu6")
def relu6(b: KerasBuilder, x: Value) -> Any:
    return b.clip(x, b.like(x, 0), b.like(x, 6))


@operation("Silu", "Swish")
def silu(b: KerasBuilder, x: Value) -> Any:
    return b.mul(x, b.sigmoid(x))


@operation("Gelu")
def gelu(b: KerasBuilder, x: Value, approximate: bool = False) -> Any:
    return b.gelu(x, approximate="tanh" if approximate else "none")


@operation("Elu")
def elu(b: KerasBuilder, x: Value, alpha: float = 1.0) -> Any:
    return b.elu(x, alpha=alpha)


@operation("Celu")
def celu(b: KerasBuilder, x: Value, alpha: float = 1.0) -> Any:
    return b.celu(x, alpha=alpha)


@operation("LeakyRelu")
def leaky_relu(b: KerasBuilder, x: Value, negative_slope: float = 0.2) -> Any:
    return b.leaky_relu(x, alpha=negative_slope)


@operation("HardSigmoid")
def hard_sigmoid(b: KerasBuilder, x: Value) -> Any:
    return b.hard_sigmoid(x, alpha=1 / 6, beta=0.5)


@operation("HardSilu", "HardSwish")
def hard_silu(b: KerasBuilder, x: Value) -> Any:
    return b.hard_swish(x)


@operation("HardTanh")
def hard_tanh(b: KerasBuilder, x: Value) -> Any:
    return b.clip(x, b.like(x, -1), b.like(x, 1))


@operation("LogSigmoid")
def log_sigmoid(b: KerasBuilder, x: Value) -> Any:
    return b.neg(b.softplus(b.neg(x)))


@operation("Softmax")
def softmax(b: KerasBuilder, x: Value, axis: int = -1) -> Any:
    return b.softmax(x, axis=b.axis(x, axis))


@operation("LogSoftmax")
def log_softmax(b: KerasBuilder, x: Value, axis: int = -1) -> Any:
    return b.log_softmax(x, axis=b.axis(x, axis))


@operation("Glu")
def glu(b: KerasBuilder, x: Value, axis: int = -1) -> Any:
    half, gate = b.split(x, axis=b.axis(x, axis), num_outputs=2, results=2)
    return b.mul(half, b.sigmoid(gate))


@operation("TanhShrink")
def tanh_shrink(b: KerasBuilder, x: Value) -> Any:
    return b.sub(x, b.tanh(x))


@operation("SoftShrink")
def soft_shrink(b: KerasBuilder, x: Value, threshold: float = 0.5) -> Any:
    return b.shrink(x, lambd=threshold, bias=threshold)


@operation("HardShrink")
def hard_shrink(b: KerasBuilder, x: Value, threshold: float = 0.5) -> Any:
    return b.shrink(x, lambd=threshold, bias=0.0)


@operation("SquarePlus", "Squareplus")
def square_plus(b: KerasBuilder, x: Value, b_: Any = 4) -> Any:
    root = b.sqrt(b.add(b.mul(x, x), b.like(x, b_)))
    return b.mul(b.add(x, root), b.like(x, 0.5))


# -- two operands ----------------------------------------------------------------------------------


def _binary(name: str) -> Callable[..., Any]:
    def row(b: KerasBuilder, x1: Any, x2: Any) -> Any:
        return b.build(name, *b.together(x1, x2)).result

    return row


for _name, _op in (
    *(("Add", "add"), ("Subtract", "sub"), ("Multiply", "mul"), ("Maximum", "max")),
    *(("Minimum", "min"), ("Power", "pow"), ("Equal", "equal"), ("Greater", "greater")),
    *(("GreaterEqual", "greater_or_equal"), ("Less", "less"), ("LessEqual", "less_or_equal")),
    *(("LogicalAnd", "and"), ("LogicalOr", "or"), ("LogicalXor", "xor"), ("Matmul", "matmul")),
):
    operation(_name)(_binary(_op))


@operation("Divide", "TrueDivide")
def divide(b: KerasBuilder, x1: Any, x2: Any) -> Any:
    x, y = b.together(x1, x2)
    return b.div(b.floating(x), b.floating(y))


@operation("FloorDivide")
def floor_divide(b: KerasBuilder, x1: Any, x2: Any) -> Any:
    return formulas.floor_div(b, *b.together(x1, x2))


@operation("Mod")
def mod(b: KerasBuilder, x1: Any, x2: Any) -> Any:
    return formulas.floor_mod(b, *b.together(x1, x2))


@operation("NotEqual")
def not_equal(b: KerasBuilder, x1: Any, x2: Any) -> Any:
    return b.not_(b.equal(*b.together(x1, x2)))


@operation("Where")
def where(b: KerasBuilder, condition: Value, x1: Any = None, x2: Any = None) -> Any:
    return b.where(b.cast_to(condition, dtypes.BOOL), *b.together(x1, x2))


@operation("Clip")
def clip(b: KerasBuilder, x: Value, x_min: Any = None, x_max: Any = None) -> Any:
    return b.clip(x, b.like(x, x_min), b.like(x, x_max))


@operation("Einsum")
def einsum(b: KerasBuilder, *operands: Any, subscripts: str) -> Any:
    return b.einsum(*b.together(*operands), equation=subscripts)


# -- reductions ------------------------------------------------------------------------------------


def _reduction(name: str) -> Callable[..., Any]:
    def row(b: KerasBuilder, x: Value, axis: Any = None, keepdims: bool = False, **_: Any) -> Any:
        axes = b.axes(x, axis)
        return b.build(name, x, b.ints(axes), keepdims=keepdims).result

    return row


for _name, _op in (
    *(("Mean", "reduce_mean"), ("Sum", "reduce_sum"), ("Max", "reduce_max"), ("Min", "reduce_min")),
    *(("Prod", "reduce_prod"), ("Amax", "reduce_max"), ("Amin", "reduce_min")),
    ("Logsumexp", "reduce_log_sum_exp"),
):
    operation(_name)(_reduction(_op))


def _variance(b: KerasBuilder, x: Value, axis: Any, keepdims: bool) -> Any:
    axes = b.ints(b.axes(x, axis))
    away = b.sub(x, b.reduce_mean(x, axes, keepdims=True))
    return b.reduce_mean(b.mul(away, away), axes, keepdims=keepdims)


@operation("Var")
def var(b: KerasBuilder, x: Value, axis: Any = None, keepdims: bool = False) -> Any:
    return _variance(b, x, axis, keepdims)


@operation("Std")
def std(b: KerasBuilder, x: Value, axis: Any = None, keepdims: bool = False) -> Any:
    return b.sqrt(_variance(b, x, axis, keepdims))


@operation("Norm")
def norm(
    b: KerasBuilder, x: Value, ord: Any = None, axis: Any = None, keepdims: bool = False
) -> Any:
    names = {None: "reduce_l2", 2: "reduce_l2", "euclidean": "reduce_l2", 1: "reduce_l1"}
    if ord not in names:
        raise UnsupportedError(f"a norm of order {ord}", code="keras-op")
    return b.build(names[ord], x, b.ints(b.axes(x, axis)), keepdims=keepdims).result


def _position(name: str) -> Callable[..., Any]:
    def row(b: KerasBuilder, x: Value, axis: int | None = None, keepdims: bool = False) -> Any:
        if axis is None:
            x, axis = b.resized(x, [-1]), 0
        found = b.build(name, x, axis=b.axis(x, axis), keepdims=keepdims).result
        return b.cast_to(found, dtypes.I32)

    return row


operation("Argmax")(_position("arg_max"))
operation("Argmin")(_position("arg_min"))


@operation("Cumsum")
def cumsum(b: KerasBuilder, x: Value, axis: int | None = None, dtype: Any = None) -> Any:
    if axis is None:
        x, axis = b.resized(x, [-1]), 0
    return b.cum_sum(x, b.full((), b.axis(x, axis), dtypes.I64))


@operation("TopK")
def top_k(b: KerasBuilder, x: Value, k: int, sorted: bool = True) -> Any:
    values, places = b.top_k(x, b.ints([k]), axis=-1, results=2)
    return [values, b.cast_to(places, dtypes.I32)]


# -- shapes ----------------------------------------------------------------------------------------


@operation("Reshape")
def reshape(b: KerasBuilder, x: Value, newshape: Sequence[Any], **_: Any) -> Any:
    return b.resized(x, [-1 if s is None else s for s in newshape])


@operation("Transpose")
def transpose(b: KerasBuilder, x: Value, axes: Any = None) -> Any:
    order = axes or list(reversed(range(b.rank(x))))
    return b.transpose(x, perm=[b.axis(x, a) for a in order])


@operation("ExpandDims")
def expand_dims(b: KerasBuilder, x: Value, axis: Any = -1) -> Any:
    axes = [axis] if isinstance(axis, int) else list(axis)
    return b.unsqueeze(x, b.ints(axes))


@operation("Squeeze")
def squeeze(b: KerasBuilder, x: Value, axis: Any = None) -> Any:
    axes = [i for i, d in enumerate(x.shape or ()) if d == 1] if axis is None else b.axes(x, axis)
    return b.squeeze(x, b.ints(axes))


@operation("Ravel")
def ravel(b: KerasBuilder, x: Value) -> Any:
    return b.resized(x, [-1])


@operation("Swapaxes")
def swapaxes(b: KerasBuilder, x: Value, axis1: int, axis2: int) -> Any:
    order = list(range(b.rank(x)))
    i, j = b.axis(x, axis1), b.axis(x, axis2)
    order[i], order[j] = order[j], order[i]
    return b.transpose(x, perm=order)


@operation("BroadcastTo")
def broadcast_to(b: KerasBuilder, x: Value, shape: Sequence[Any]) -> Any:
    return b.expand(x, b.ints(list(shape)))


@operation("Concatenate")
def concatenate(b: KerasBuilder, xs: Sequence[Any], axis: int = 0) -> Any:
    parts = b.together(*xs)
    return b.concat(*parts, axis=b.axis(parts[0], axis))


@operation("Stack")
def stack(b: KerasBuilder, xs: Sequence[Any], axis: int = 0) -> Any:
    parts = b.together(*xs)
    place = b.axis(parts[0], axis, extra=1)
    return b.concat(*(b.unsqueeze(p, b.ints([place])) for p in parts), axis=place)


@operation("Split")
def split(b: KerasBuilder, x: Value, indices_or_sections: Any, axis: int = 0) -> Any:
    place = b.axis(x, axis)
    if isinstance(indices_or_sections, int):
        count = indices_or_sections
        return list(b.split(x, axis=place, num_outputs=count, results=count)) if count > 1 else [x]
    ends = [0, *indices_or_sections, b.static_size(x, place, "split")]
    sizes = [e - s for s, e in pairwise(ends)]
    return list(b.split(x, b.ints(sizes), axis=place, results=len(sizes)))


@operation("Tile")
def tile(b: KerasBuilder, x: Value, repeats: Any) -> Any:
    counts = [repeats] if isinstance(repeats, int) else list(repeats)
    lead = len(counts) - b.rank(x)
    counts = [1] * -lead + counts if lead < 0 else counts
    wide = b.unsqueeze(x, b.ints(list(range(lead)))) if lead > 0 else x
    return b.tile(wide, b.ints(counts))


@operation("Repeat")
def repeat(b: KerasBuilder, x: Value, repeats: int, axis: int | None = None) -> Any:
    if axis is None:
        x, axis = b.resized(x, [-1]), 0
    place = b.axis(x, axis)
    sizes = b.sizes_of(x)
    wide = b.expand(
        b.unsqueeze(x, b.ints([place + 1])),
        b.ints([*sizes[: place + 1], repeats, *sizes[place + 1 :]]),
    )
    size = sizes[place]
    total: Any = size * repeats if isinstance(size, int) else b.arith("mul", size, repeats)
    return b.resized(wide, [*sizes[:place], total, *sizes[place + 1 :]])


@operation("Flip")
def flip(b: KerasBuilder, x: Value, axis: Any = None) -> Any:
    axes = b.axes(x, axis)
    count = len(axes)
    return b.slice(
        x, b.ints([-1] * count), b.ints([-INT_MAX] * count), b.ints(axes), b.ints([-1] * count)
    )


@operation("Pad")
def pad(
    b: KerasBuilder, x: Value, pad_width: Any, mode: str = "constant", constant_values: Any = None
) -> Any:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "edge"}
    if mode not in modes:
        raise UnsupportedError(f"padding {mode}", code="keras-op")
    widths = [[pad_width] * 2] if isinstance(pad_width, int) else pad_width
    widths = [[w, w] if isinstance(w, int) else list(w) for w in widths]
    widths = widths * b.rank(x) if len(widths) == 1 else widths
    fill = b.like(x, constant_values or 0) if mode == "constant" else None
    return b.pad(x, b.ints([w[0] for w in widths] + [w[1] for w in widths]), fill, mode=modes[mode])


@operation("Take")
def take(b: KerasBuilder, x: Any, indices: Any, axis: int | None = None) -> Any:
    data = b.as_value(x, dtypes.F32) if not isinstance(x, Value) else x
    places = b.as_value(indices, dtypes.I64)
    if axis is None:
        return b.gather(b.resized(data, [-1]), places, axis=0)
    return b.gather(data, places, axis=b.axis(data, axis))


@operation("TakeAlongAxis")
def take_along_axis(b: KerasBuilder, x: Value, indices: Value, axis: int = -1) -> Any:
    return b.gather_elements(x, b.cast_to(indices, dtypes.I64), axis=b.axis(x, axis))


def _triangle(upper: bool) -> Callable[..., Any]:
    def row(b: KerasBuilder, x: Value, k: int = 0) -> Any:
        return b.trilu(x, b.full((), k, dtypes.I64), upper=upper)

    return row


operation("Tril")(_triangle(False))
operation("Triu")(_triangle(True))


@operation("Cast")
def cast(b: KerasBuilder, x: Value, dtype: Any) -> Any:
    return b.cast_to(x, dtype_named(dtype))


@operation("OneHot")
def one_hot(
    b: KerasBuilder,
    x: Value,
    num_classes: int,
    axis: int = -1,
    dtype: Any = None,
    sparse: bool = False,
) -> Any:
    kind = dtype_named(dtype or "float32")
    values = b.const(np.asarray([0, 1], kind.numpy), kind)
    return b.one_hot(
        b.cast_to(x, dtypes.I64), b.full((), num_classes, dtypes.I64), values, axis=axis
    )


@operation("GetItem")
def get_item(b: KerasBuilder, x: Value, key: Any) -> Any:
    """``x[key]`` with numbers, slices, ``None`` and ``...``."""
    items = list(key) if isinstance(key, (list, tuple)) else [key]
    given = sum(1 for i in items if i is not None and i is not Ellipsis)
    full = [slice(None)] * (b.rank(x) - given)
    at = next((i for i, k in enumerate(items) if k is Ellipsis), len(items))
    items = [*items[:at], *full, *items[at + 1 :]]
    cuts: list[tuple[int, int, int, int]] = []
    gone: list[int] = []
    fresh: list[int] = []
    axis, place = 0, 0
    for item in items:
        if item is None:
            fresh.append(place)
            place += 1
            continue
        if isinstance(item, (bool, Value)):
            raise UnsupportedError("indexing with a tensor", code="keras-op")
        if isinstance(item, int):
            cuts.append((axis, item, item + 1 if item != -1 else INT_MAX, 1))
            gone.append(axis)
        else:
            if item != slice(None):
                cuts.append((axis, *_ends(item)))
            place += 1
        axis += 1
    if cuts:
        axes, starts, ends, steps = (b.ints(list(c)) for c in zip(*cuts, strict=True))
        x = b.slice(x, starts, ends, axes, steps)
    if gone:
        x = b.squeeze(x, b.ints(gone))
    return b.unsqueeze(x, b.ints(fresh)) if fresh else x


def _ends(item: slice) -> tuple[int, int, int]:
    step = item.step or 1
    start = item.start if item.start is not None else (0 if step > 0 else -1)
    stop = item.stop if item.stop is not None else (INT_MAX if step > 0 else -INT_MAX)
    return start, stop, step
