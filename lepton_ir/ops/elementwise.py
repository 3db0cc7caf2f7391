"""Arithmetic, comparison, logic and bits, one element at a time with broadcasting."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.infer import content_of
from lepton_ir.opdef import Bool, Str, op
from lepton_ir.ops import _activations as _activations
from lepton_ir.ops._numeric import (
    ANY_FLOATS,
    BOOLEANS,
    EQUALITY,
    FLOATS,
    INTEGERS,
    NUMBERS,
    SIGNED,
    Array,
    erf,
    floats,
    numbers,
    require,
    sigmoid,
    to_integer,
    truncated_div,
    typed,
    widen,
)
from lepton_ir.ops._shapes import (
    content_of_all,
    infer_broadcast,
    infer_broadcast_first,
    infer_compare,
    infer_predicate,
    infer_same,
)
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.infer import Content, InferContext
    from lepton_ir.ir import Op, Value

_BROADCAST_DOC = """

C1  the shapes of the operands broadcast
C2  the operands have one element type
"""


# -- one operand -----------------------------------------------------------------------------------


def _abs_dim(a: Dim) -> Dim | None:
    if dims.prove_ge(a, 0) is True:
        return a
    return dims.mul(-1, a) if dims.prove_ge(0, a) is True else None


def _unary(
    name: str,
    function: Callable[..., Any],
    what: str,
    allowed: str = FLOATS,
    traits: str = "",
    content: Callable[..., Dim | None] | None = None,
) -> None:
    op(
        f"{name}(x)",
        infer_same,
        typed(function, allowed),
        traits=f"elementwise {traits}",
        content=None if content is None else content_of_all(content),
        doc=f"{what} of each element (ONNX {name.replace('_', ' ').title().replace(' ', '')}).",
    )


_unary("abs", np.abs, "Absolute value", NUMBERS, "idempotent", _abs_dim)
_unary("neg", np.negative, "Negation", SIGNED, "involution", lambda a: dims.mul(-1, a))
_unary("sign", np.sign, "Sign (-1, 0, 1; NaN of NaN)", NUMBERS, "idempotent")
_unary("ceil", np.ceil, "Least integer not below", FLOATS, "idempotent")
_unary("floor", np.floor, "Greatest integer not above", FLOATS, "idempotent")
_unary("round", np.rint, "Nearest integer, halves to even,", FLOATS, "idempotent")
_unary("reciprocal", np.reciprocal, "Reciprocal")
_unary("sqrt", np.sqrt, "Square root")
_unary("exp", np.exp, "Exponential")
_unary("log", np.log, "Natural logarithm")
_unary("erf", erf, "Error function")
_unary("sigmoid", sigmoid, "1 / (1 + exp(-x))")
_unary("sin", np.sin, "Sine")
_unary("cos", np.cos, "Cosine")
_unary("tan", np.tan, "Tangent")
_unary("asin", np.arcsin, "Inverse sine")
_unary("acos", np.arccos, "Inverse cosine")
_unary("atan", np.arctan, "Inverse tangent")
_unary("sinh", np.sinh, "Hyperbolic sine")
_unary("cosh", np.cosh, "Hyperbolic cosine")
_unary("tanh", np.tanh, "Hyperbolic tangent")
_unary("asinh", np.arcsinh, "Inverse hyperbolic sine")
_unary("acosh", np.arccosh, "Inverse hyperbolic cosine")
_unary("atanh", np.arctanh, "Inverse hyperbolic tangent")
_unary("not", np.logical_not, "Negation", BOOLEANS, "involution")
_unary("bitwise_not", np.invert, "Complement of the bits", INTEGERS, "involution")

op(
    "is_nan(x)",
    infer_predicate,
    typed(np.isnan, ANY_FLOATS, predicate=True),
    traits="elementwise",
    doc="Whether each element is NaN (ONNX IsNaN-20).",
)


def _is_inf(x: Array, *, detect_negative: Bool = True, detect_positive: Bool = True) -> Array:
    if detect_negative and detect_positive:
        return np.isinf(x)
    if not (detect_negative or detect_positive):
        return np.zeros(x.shape, np.bool_)
    return np.isposinf(x) if detect_positive else np.isneginf(x)


op(
    "is_inf(x)",
    infer_predicate,
    typed(_is_inf, ANY_FLOATS, predicate=True),
    traits="elementwise",
    doc="Whether each element is infinite, of the signs asked for (ONNX IsInf-20).",
)


# -- two operands ----------------------------------------------------------------------------------


def _binary(
    name: str,
    function: Callable[..., Any],
    what: str,
    allowed: str = NUMBERS,
    traits: str = "",
    content: Callable[..., Dim | None] | None = None,
) -> None:
    op(
        f"{name}(a, b)",
        infer_broadcast,
        typed(function, allowed),
        traits=f"elementwise {traits}",
        content=None if content is None else content_of_all(content),
        doc=what + _BROADCAST_DOC,
    )


def _div_dim(a: Dim, b: Dim) -> Dim | None:
    """Divide rounding toward zero, where that is certain; a valid program does not divide by 0."""
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            return None
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    exact = None if isinstance(b, int) and b == 0 else dims.exact_div(a, b, nonzero=True)
    if exact is not None:
        return exact
    if dims.prove_ge(a, 0) is True and dims.prove_ge(b, 0) is True and b != 0:
        return dims.floordiv(a, b)
    return None


_binary("add", np.add, "Sum; integers wrap (ONNX Add).", NUMBERS, "commutative", dims.add)
_binary("sub", np.subtract, "Difference; integers wrap (ONNX Sub).", NUMBERS, "", dims.sub)
_binary("mul", np.multiply, "Product; integers wrap (ONNX Mul).", NUMBERS, "commutative", dims.mul)
_binary(
    "div",
    truncated_div,
    "Quotient; of integers rounded toward zero, an error by zero (ONNX Div).",
    NUMBERS,
    "",
    _div_dim,
)
_binary("and", np.logical_and, "Logical and (ONNX And).", BOOLEANS, "commutative")
_binary("or", np.logical_or, "Logical or (ONNX Or).", BOOLEANS, "commutative")
_binary("xor", np.logical_xor, "Exclusive or (ONNX Xor).", BOOLEANS, "commutative")
_binary("bitwise_and", np.bitwise_and, "And of bits (ONNX BitwiseAnd).", INTEGERS, "commutative")
_binary("bitwise_or", np.bitwise_or, "Or of bits (ONNX BitwiseOr).", INTEGERS, "commutative")
_binary("bitwise_xor", np.bitwise_xor, "Xor of bits (ONNX BitwiseXor).", INTEGERS, "commutative")


def _compare(
    name: str, function: Callable[..., Any], what: str, allowed: str = NUMBERS, traits: str = ""
) -> None:
    op(
        f"{name}(a, b)",
        infer_compare,
        typed(function, allowed, predicate=True),
        traits=f"elementwise {traits}",
        doc=f"Whether a is {what} b; false where one is NaN." + _BROADCAST_DOC,
    )


_compare("equal", np.equal, "equal to", EQUALITY, "commutative")
_compare("greater", np.greater, "greater than")
_compare("greater_or_equal", np.greater_equal, "not less than")
_compare("less", np.less, "less than")
_compare("less_or_equal", np.less_equal, "not greater than")


def _mod_content(ctx: InferContext) -> Content | None:
    truncate = ctx.attrs["fmod"]

    def mod(a: Dim, b: Dim) -> Dim | None:
        if isinstance(b, int) and b == 0:
            return None
        if truncate and isinstance(a, int) and isinstance(b, int):
            return abs(a) % abs(b) * (-1 if a < 0 else 1)
        if truncate and not (dims.prove_ge(a, 0) is True and dims.prove_ge(b, 0) is True):
            return None
        return dims.mod(a, b)

    return content_of_all(mod)(ctx)


@op("mod(a, b)", infer=infer_broadcast, traits="elementwise", content=_mod_content)
@numbers
def mod(a: Array, b: Array, *, fmod: Bool = False) -> Array:
    """Remainder with the sign of ``b``, or with that of ``a`` if ``fmod`` (ONNX Mod-28).

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    """
    if a.dtype.kind in "iu" and np.any(b == 0) and np.broadcast(a, b).size:
        raise ValueError("integer remainder of a division by zero")
    return np.asarray(np.fmod(a, b) if fmod else np.mod(a, b))


def _integer_pow(x: Array, y: Array) -> Array:
    """Raise integers to integers, exactly.

    Raises:
        ValueError: zero to a negative power, or a result out of range (runtimes differ there).
    """
    if np.any((x == 0) & (y < 0)):
        raise ValueError("zero to a negative power")
    wide = np.uint64 if x.dtype == np.uint64 else np.int64
    exponent = y.astype(np.int64)
    if np.any((exponent < 0) & (y > 0)):
        raise ValueError("the exponent is out of the range of i64")
    to_integer(np.power(x.astype(np.float64), y.astype(np.float64)), x.dtype)
    power = np.power(x.astype(wide), np.maximum(exponent, 0).astype(wide))
    odd = exponent % 2 != 0
    inverse = np.where(x == 1, 1, np.where(x.astype(np.float64) == -1, np.where(odd, -1, 1), 0))
    return np.where(exponent < 0, inverse.astype(wide), power)


@op("pow(x, y) -> z", infer=infer_broadcast_first, traits="elementwise")
def pow_(x: Array, y: Array) -> Array:
    """Power, of the base's element type whatever the exponent's (ONNX Pow-15).

    C1  the shapes of the operands broadcast
    """
    base = require(NUMBERS, x)
    require(NUMBERS, y)
    with np.errstate(all="ignore"):
        if base.is_float:
            return np.asarray(np.power(widen(x), widen(y))).astype(x.dtype, copy=False)
        if y.dtype.kind in "iu":
            return np.asarray(_integer_pow(x, y), x.dtype)
        return to_integer(np.power(x.astype(np.float64), y.astype(np.float64)), x.dtype)


@op("bit_shift(x, y) -> z", infer=infer_broadcast, traits="elementwise")
def bit_shift(x: Array, y: Array, *, direction: Str) -> Array:
    """Shift the bits; past either end only the sign's extension is left (ONNX BitShift-28).

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    """
    dtype = require(INTEGERS, x, y)
    if direction not in ("LEFT", "RIGHT"):
        raise ValueError(f"direction is LEFT or RIGHT, not {direction!r}")
    inside = (y >= 0) & (y < dtype.bits)
    amount = np.where(inside, y, np.zeros_like(y))
    if direction == "LEFT":
        shifted, fill = np.left_shift(x, amount), np.zeros_like(x)
    else:
        shifted, fill = np.right_shift(x, amount), np.where(x < 0, ~np.zeros_like(x), 0)
    return np.asarray(np.where(inside, shifted, fill), x.dtype)


@op("prelu(x, slope)", infer=infer_broadcast, traits="elementwise")
@numbers
def prelu(x: Array, slope: Array) -> Array:
    """``x`` where it is not negative, else ``slope * x`` (ONNX PRelu-16).

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    """
    return np.where(x < 0, x * slope, x)


# -- any number of operands ------------------------------------------------------------------------


def _variadic(
    name: str,
    function: Callable[..., Any],
    what: str,
    allowed: str,
    content: Callable[..., Dim] | None = None,
    decompose: Callable[..., Any] | None = None,
) -> None:
    def fold(*xs: Array) -> Any:
        return reduce(function, xs)

    op(
        f"{name}(xs*)",
        infer_broadcast,
        typed(fold, allowed),
        traits="elementwise commutative" + (" composite" if decompose else ""),
        content=None if content is None else content_of_all(lambda *xs: reduce(content, xs)),
        decompose=decompose,
        doc=f"{what} (ONNX {name.title()})." + _BROADCAST_DOC,
    )


def _wide_operands(b: Builder, op: Op) -> tuple[list[Value], dtypes.DType]:
    values = [v for v in op.operands if v is not None]
    dtype = next((v.dtype for v in values if v.dtype is not None), None)
    if dtype is None or not values:
        raise ValueError("the element type is not known")
    if dtype.is_float and dtype.bits < 32 and len(values) > 1:
        return [b.cast(v, to=dtypes.F32) for v in values], dtype
    return values, dtype


def _narrowed(b: Builder, value: Value, dtype: dtypes.DType) -> list[Value]:
    return [value if value.dtype is dtype else b.cast(value, to=dtype)]


def _decompose_sum(b: Builder, op: Op) -> list[Value]:
    values, dtype = _wide_operands(b, op)
    return _narrowed(b, reduce(b.add, values), dtype)


def _decompose_mean(b: Builder, op: Op) -> list[Value]:
    values, dtype = _wide_operands(b, op)
    total = reduce(b.add, values)
    return _narrowed(b, b.div(total, float(len(values))), dtype)


_variadic("max", np.maximum, "Greatest of all operands, NaN if one is", NUMBERS, dims.maximum)
_variadic("min", np.minimum, "Least of all operands, NaN if one is", NUMBERS, dims.minimum)
_variadic("sum", np.add, "Sum of all operands", FLOATS, None, _decompose_sum)


@op(
    "mean(xs*)",
    infer=infer_broadcast,
    traits="elementwise commutative composite",
    decompose=_decompose_mean,
)
@floats
def mean(*xs: Array) -> Array:
    """Arithmetic mean of all operands (ONNX Mean-13).

    C1  the shapes of the operands broadcast
    C2  the operands have one element type
    """
    return np.asarray(reduce(np.add, xs) / len(xs))


def _infer_clip(ctx: InferContext) -> TensorType:
    for name in ("min", "max"):
        shape = ctx.shape(name)
        if shape is not None and any(isinstance(d, int) and d != 1 for d in shape):
            ctx.fail("C1", f"{name} has shape {list(shape)}")
    dtype = next((d for d in map(ctx.dtype, ("x", "min", "max")) if d is not None), None)
    return TensorType(dtype, ctx.shape("x"))


def _clip_content(ctx: InferContext) -> Content | None:
    found = content_of(ctx.value("x"))
    for name, bound in (("min", dims.maximum), ("max", dims.minimum)):
        limit = content_of(ctx.value(name))
        if found is None or (ctx.has(name) and (limit is None or len(limit) != 1)):
            return None
        if limit is not None:
            at = limit[0]
            found = tuple(None if d is None or at is None else bound(d, at) for d in found)
    return found


def _decompose_clip(b: Builder, op: Op) -> list[Value]:
    value = op.operands[0]
    assert value is not None
    for name in ("min", "max"):
        limit = op.operand(name)
        if limit is None:
            continue
        if limit.rank is None or (
            limit.rank > 0 and (value.rank is None or value.rank < limit.rank)
        ):
            raise ValueError(f"{name} is not known to be a scalar")
        value = b.max(value, limit) if name == "min" else b.min(value, limit)
    return [value]


@op(
    "clip(x, min?, max?)",
    infer=_infer_clip,
    traits="elementwise composite",
    content=_clip_content,
    decompose=_decompose_clip,
)
@numbers
def clip(x: Array, min: Array | None = None, max: Array | None = None) -> Array:
    """``min(max, max(x, min))`` with scalar bounds, NaN kept (ONNX Clip-13).

    C1  min and max have one element
    """
    for bound in (min, max):
        if bound is not None and bound.size != 1:
            raise ValueError(f"a bound has shape {bound.shape}, not one element")
    if min is not None:
        x = np.maximum(x, min.reshape(()))
    return x if max is None else np.minimum(x, max.reshape(()))
