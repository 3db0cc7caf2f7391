"""Rows of arithmetic, comparisons and functions of one operand, and reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends import formulas
from lepton_ir.frontends.tensorflow.ops._common import (
    dtype_of,
    number,
    numbers,
    scalar,
    wide,
)
from lepton_ir.frontends.tensorflow.table import tf_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node


def _unary(name: str) -> Callable[..., Value]:
    def row(b: TfBuilder, node: Node, x: Value) -> Value:
        return b.build(name, x).result

    return row


_SAME = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf"),
    *("Exp", "Floor", "Log", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Sin"),
    *("Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "Round"),
)
for _name in _SAME:
    tf_op(_name)(_unary(_name.lower()))
for _name, _op in (
    *(("Inv", "reciprocal"), ("Rint", "round"), ("IsNan", "is_nan"), ("IsInf", "is_inf")),
    *(("LogicalNot", "not"), ("Invert", "bitwise_not")),
):
    tf_op(_name)(_unary(_op))


@tf_op("Relu6")
def relu6(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.clip(x, b.like(x, 0), b.like(x, 6))


@tf_op("LeakyRelu")
def leaky_relu(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.leaky_relu(x, alpha=float(node.attr("alpha", 0.2)))


@tf_op("Elu")
def elu(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.elu(x, alpha=1.0)


@tf_op("Rsqrt")
def rsqrt(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.reciprocal(b.sqrt(x))


@tf_op("Square")
def square(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.mul(x, x)


@tf_op("Erfc")
def erfc(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.sub(b.like(x, 1), b.erf(x))


@tf_op("Expm1")
def expm1(b: TfBuilder, node: Node, x: Value) -> Any:
    return formulas.expm1(b, x)


@tf_op("Log1p")
def log1p(b: TfBuilder, node: Node, x: Value) -> Any:
    return formulas.log1p(b, x)


@tf_op("IsFinite")
def is_finite(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.not_(b.or_(b.is_nan(x), b.is_inf(x)))


@tf_op("Cast")
def cast(b: TfBuilder, node: Node, x: Value) -> Any:
    wanted = node.attr("DstT")
    if wanted is None:
        raise UnsupportedError("a cast to strings or resources", code="tf-dtype")
    return b.cast_to(x, wanted)


@tf_op("Bitcast")
def bitcast(b: TfBuilder, node: Node, x: Value) -> Any:
    wanted = node.attr("type")
    if wanted is None or wanted.bits != dtype_of(x).bits:
        raise UnsupportedError("a bitcast between widths", code="tf-dtype")
    return b.bit_cast(x, to=wanted)


# -- two operands ----------------------------------------------------------------------------------


def _binary(name: str) -> Callable[..., Value]:
    def row(b: TfBuilder, node: Node, x: Value, y: Value) -> Value:
        return b.build(name, x, y).result

    return row


for _name, _op in (
    *(("Add", "add"), ("AddV2", "add"), ("Sub", "sub"), ("Mul", "mul"), ("RealDiv", "div")),
    *(("Maximum", "max"), ("Minimum", "min"), ("Pow", "pow"), ("Equal", "equal")),
    *(("Greater", "greater"), ("GreaterEqual", "greater_or_equal"), ("Less", "less")),
    *(("LessEqual", "less_or_equal"), ("LogicalAnd", "and"), ("LogicalOr", "or")),
    *(("BitwiseAnd", "bitwise_and"), ("BitwiseOr", "bitwise_or"), ("BitwiseXor", "bitwise_xor")),
    ("TruncateDiv", "div"),
):
    tf_op(_name)(_binary(_op))


@tf_op("NotEqual")
def not_equal(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    return b.not_(b.equal(x, y))


@tf_op("AddN", "AccumulateNV2")
def add_n(b: TfBuilder, node: Node, *xs: Value) -> Any:
    total = xs[0]
    for x in xs[1:]:
        total = b.add(total, x)
    return total


@tf_op("Div")
def div(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    return b.div(x, y)


@tf_op("DivNoNan")
def div_no_nan(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    zero = b.like(y, 0)
    void = b.equal(y, zero)
    return b.where(void, zero, b.div(x, b.where(void, b.like(y, 1), y)))


@tf_op("MulNoNan")
def mul_no_nan(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    zero = b.like(y, 0)
    return b.where(b.equal(y, zero), zero, b.mul(x, y))


@tf_op("FloorDiv")
def floor_div(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    return formulas.floor_div(b, x, y)


@tf_op("FloorMod")
def floor_mod(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    return formulas.floor_mod(b, x, y)


@tf_op("Mod", "TruncateMod")
def truncate_mod(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    return b.mod(x, y, fmod=True)


@tf_op("SquaredDifference")
def squared_difference(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    away = b.sub(x, y)
    return b.mul(away, away)


@tf_op("Atan2")
def atan2(b: TfBuilder, node: Node, y: Value, x: Value) -> Any:
    return formulas.atan2(b, y, x)


@tf_op("Xlogy")
def xlogy(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    zero = b.like(x, 0)
    return b.where(b.equal(x, zero), zero, b.mul(x, b.log(y)))


@tf_op("Xdivy")
def xdivy(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    zero = b.like(x, 0)
    return b.where(b.equal(x, zero), zero, b.div(x, y))


@tf_op("ApproximateEqual")
def approximate_equal(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    return b.less(b.abs(b.sub(x, y)), b.like(x, float(node.attr("tolerance", 1e-5))))


def _shift(direction: str) -> Callable[..., Any]:
    def row(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
        return formulas.shifted(b, x, y, direction)

    return row


tf_op("LeftShift")(_shift("LEFT"))
tf_op("RightShift")(_shift("RIGHT"))


@tf_op("ClipByValue")
def clip_by_value(b: TfBuilder, node: Node, x: Value, low: Value, high: Value) -> Any:
    if low.rank == 0 and high.rank == 0:
        return b.clip(x, low, high)
    return b.min(b.max(x, low), high)


# -- reductions ------------------------------------------------------------------------------------


def _axes(b: TfBuilder, x: Value, axis: Value) -> list[int]:
    return [b.axis(x, a) for a in numbers(axis, "the axis")]


def _reduction(name: str) -> Callable[..., Any]:
    def row(b: TfBuilder, node: Node, x: Value, axis: Value) -> Any:
        axes = _axes(b, x, axis)
        if not axes and name != "reduce_l2":
            return x
        keep = bool(node.attr("keep_dims", False))
        return b.build(name, x, b.ints(axes), keepdims=keep).result

    return row


for _name in ("Sum", "Mean", "Max", "Min", "Prod"):
    tf_op(_name)(_reduction(f"reduce_{_name.lower()}"))
tf_op("EuclideanNorm")(_reduction("reduce_l2"))


def _logical(any_of: bool) -> Callable[..., Any]:
    def row(b: TfBuilder, node: Node, x: Value, axis: Value) -> Any:
        bits = b.cast_to(x if any_of else b.not_(x), dtypes.I32)
        keep = bool(node.attr("keep_dims", False))
        total = b.reduce_sum(bits, b.ints(_axes(b, x, axis)), keepdims=keep)
        found = b.greater(total, b.like(total, 0))
        return found if any_of else b.not_(found)

    return row


tf_op("Any")(_logical(True))
tf_op("All")(_logical(False))


def _position(name: str) -> Callable[..., Any]:
    def row(b: TfBuilder, node: Node, x: Value, axis: Value) -> Any:
        at = b.axis(x, number(axis, "the axis"))
        found = b.build(name, x, axis=at, keepdims=False).result
        return b.cast_to(found, node.attr("output_type", dtypes.I64) or dtypes.I64)

    return row


tf_op("ArgMax")(_position("arg_max"))
tf_op("ArgMin")(_position("arg_min"))


def _cumulative(name: str) -> Callable[..., Any]:
    def row(b: TfBuilder, node: Node, x: Value, axis: Value) -> Any:
        exclusive, backwards = (bool(node.attr(n, False)) for n in ("exclusive", "reverse"))
        at = scalar(b, wide(b, axis))
        return b.build(name, x, at, exclusive=exclusive, reverse=backwards).result

    return row


tf_op("Cumsum")(_cumulative("cum_sum"))
tf_op("Cumprod")(_cumulative("cum_prod"))


@tf_op("Softmax")
def softmax(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.softmax(x, axis=-1)


@tf_op("LogSoftmax")
def log_softmax(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.log_softmax(x, axis=-1)


@tf_op("L2Loss")
def l2_loss(b: TfBuilder, node: Node, x: Value) -> Any:
    total = b.reduce_sum(b.mul(x, x), keepdims=False)
    return b.mul(total, b.like(total, 0.5))


@tf_op("TopKV2", "TopK")
def top_k(b: TfBuilder, node: Node, x: Value, k: Value | None = None) -> Any:
    count = b.ints([int(node.attr("k", 1))]) if k is None else b.reshape(wide(b, k), b.ints([1]))
    values, places = b.top_k(x, count, axis=-1, results=2)
    return [values, b.cast_to(places, node.attr("index_type", dtypes.I32) or dtypes.I32)]


@tf_op("Bucketize")
def bucketize(b: TfBuilder, node: Node, x: Value) -> Any:
    import numpy as np

    edges = np.asarray(node.attr("boundaries") or [], np.float32)
    rank = b.rank(x)
    limits = b.const(edges)
    last = b.unsqueeze(b.cast_to(x, dtypes.F32), b.ints([rank]))
    below = b.cast_to(b.less_or_equal(limits, last), dtypes.I32)
    return b.reduce_sum(below, b.ints([rank]), keepdims=False)
