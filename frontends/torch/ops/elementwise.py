"""Rows of arithmetic, functions of one operand, activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends import formulas
from lepton_ir.frontends.torch.lowering import Lowering, Sym, promote
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.dtypes import DType


# -- functions of one operand ----------------------------------------------------------------------

_FLOAT_ONLY = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "exp", "log"),
    *("reciprocal", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh"),
)
_ANY = ("abs", "ceil", "floor", "neg")


def _function(name: str, floats: bool) -> Callable[..., Value]:
    def row(b: Lowering, self: Value) -> Value:
        x = b.floats(self)[0] if floats else self
        if name in ("ceil", "floor") and not dtype_of(x).is_float:
            return x
        result: Value = b.build(name, x).result
        return result

    return row


for _name in _FLOAT_ONLY:
    torch_op(_name)(_function(_name, True))
for _name in _ANY:
    torch_op(_name)(_function(_name, False))
torch_op("negative")(_function("neg", False))
torch_op("special_erf")(_function("erf", True))
torch_op("special_expit")(_function("sigmoid", True))


def dtype_of(x: Value) -> DType:
    """Return the element type; every value of an exported graph has one."""
    assert x.dtype is not None
    return x.dtype


@torch_op("sign", "sgn")
def sign(b: Lowering, self: Value) -> Any:
    """The sign; 0 for NaN."""
    if not dtype_of(self).is_float:
        return b.sign(self)
    return b.where(b.is_nan(self), b.like(self, 0), b.sign(self))


@torch_op("relu")
def relu(b: Lowering, self: Value) -> Any:
    return b.relu(self)


@torch_op("rsqrt")
def rsqrt(b: Lowering, self: Value) -> Any:
    return b.reciprocal(b.sqrt(b.floats(self)[0]))


@torch_op("square")
def square(b: Lowering, self: Value) -> Any:
    return b.mul(self, self)


@torch_op("round")
def round_(b: Lowering, self: Value, decimals: int = 0) -> Any:
    if not dtype_of(self).is_float:
        return self
    if not decimals:
        return b.round(self)
    scale = b.like(self, 10.0 ** abs(decimals))
    if decimals > 0:
        return b.div(b.round(b.mul(self, scale)), scale)
    return b.mul(b.round(b.div(self, scale)), scale)


@torch_op("trunc", "fix")
def trunc(b: Lowering, self: Value) -> Any:
    if not dtype_of(self).is_float:
        return self
    return b.where(b.less(self, b.like(self, 0)), b.ceil(self), b.floor(self))


@torch_op("frac")
def frac(b: Lowering, self: Value) -> Any:
    return b.sub(self, trunc(b, self))


@torch_op("expm1", "special_expm1")
def expm1(b: Lowering, self: Value) -> Any:
    return formulas.expm1(b, b.floats(self)[0])


@torch_op("log1p", "special_log1p")
def log1p(b: Lowering, self: Value) -> Any:
    return formulas.log1p(b, b.floats(self)[0])


@torch_op("log2")
def log2(b: Lowering, self: Value) -> Any:
    x = b.floats(self)[0]
    return b.mul(b.log(x), b.like(x, 1 / math.log(2)))


@torch_op("log10")
def log10(b: Lowering, self: Value) -> Any:
    x = b.floats(self)[0]
    return b.mul(b.log(x), b.like(x, 1 / math.log(10)))


@torch_op("exp2", "special_exp2")
def exp2(b: Lowering, self: Value) -> Any:
    x = b.floats(self)[0]
    return b.pow(b.like(x, 2), x)


@torch_op("erfc", "special_erfc")
def erfc(b: Lowering, self: Value) -> Any:
    x = b.floats(self)[0]
    return b.sub(b.like(x, 1), b.erf(x))


@torch_op("logit", "special_logit")
def logit(b: Lowering, self: Value, eps: float | None = None) -> Any:
    x = b.floats(self)[0]
    if eps is not None:
        x = b.clip(x, b.like(x, eps), b.like(x, 1 - eps))
    return b.log(b.div(x, b.sub(b.like(x, 1), x)))


@torch_op("deg2rad")
def deg2rad(b: Lowering, self: Value) -> Any:
    x = b.floats(self)[0]
    return b.mul(x, b.like(x, math.pi / 180))


@torch_op("rad2deg")
def rad2deg(b: Lowering, self: Value) -> Any:
    x = b.floats(self)[0]
    return b.mul(x, b.like(x, 180 / math.pi))


@torch_op("sinc", "special_sinc")
def sinc(b: Lowering, self: Value) -> Any:
    x = b.floats(self)[0]
    zero = b.equal(x, b.like(x, 0))
    arg = b.mul(b.where(zero, b.like(x, 1), x), b.like(x, math.pi))
    return b.where(zero, b.like(x, 1), b.div(b.sin(arg), arg))


@torch_op("nan_to_num")
def nan_to_num(
    b: Lowering,
    self: Value,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Any:
    if not dtype_of(self).is_float:
        return self
    limits = b.limits(self)
    top = float(limits.max) if posinf is None else posinf
    low = float(limits.min) if neginf is None else neginf
    x = b.where(b.is_nan(self), b.like(self, nan or 0.0), self)
    x = b.where(b.equal(x, b.like(self, math.inf)), b.like(self, top), x)
    return b.where(b.equal(x, b.like(self, -math.inf)), b.like(self, low), x)


# -- arithmetic ------------------------------------------------------------------------------------


def _scaled(b: Lowering, x: Value, alpha: Any) -> Value:
    if not isinstance(alpha, Sym) and alpha == 1:
        return x
    result: Value = b.mul(x, b.like(x, alpha))
    return result


@torch_op("add")
def add(b: Lowering, self: Any, other: Any, alpha: Any = 1) -> Any:
    x, y = b.operands(self, other)
    if x.dtype is dtypes.BOOL:
        return b.or_(x, y)
    return b.add(x, _scaled(b, y, alpha))


@torch_op("sub", "subtract")
def sub(b: Lowering, self: Any, other: Any, alpha: Any = 1) -> Any:
    x, y = b.operands(self, other)
    return b.sub(x, _scaled(b, y, alpha))


@torch_op("rsub")
def rsub(b: Lowering, self: Any, other: Any, alpha: Any = 1) -> Any:
    return sub(b, other, self, alpha)


@torch_op("mul", "multiply")
def mul(b: Lowering, self: Any, other: Any) -> Any:
    x, y = b.operands(self, other)
    return b.and_(x, y) if x.dtype is dtypes.BOOL else b.mul(x, y)


@torch_op("div", "divide", "true_divide")
def div(b: Lowering, self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return b.div(*b.floats(self, other))
    x, y = b.operands(self, other)
    if rounding_mode == "floor":
        return formulas.floor_div(b, x, y)
    return trunc(b, b.div(x, y))  # integers are truncated already


@torch_op("floor_divide")
def floor_divide(b: Lowering, self: Any, other: Any) -> Any:
    return formulas.floor_div(b, *b.operands(self, other))


@torch_op("remainder")
def remainder(b: Lowering, self: Any, other: Any) -> Any:
    return formulas.floor_mod(b, *b.operands(self, other))


@torch_op("fmod")
def fmod(b: Lowering, self: Any, other: Any) -> Any:
    return b.mod(*b.operands(self, other), fmod=True)


@torch_op("pow")
def pow_(b: Lowering, self: Any, exponent: Any) -> Any:
    if isinstance(exponent, (int, float)) and isinstance(self, Value):
        if exponent == 2:
            x = b.operand(self, b.common(self, exponent))
            return b.mul(x, x)
        if exponent == 0.5:
            return b.sqrt(b.floats(self, exponent)[0])
        if exponent == 1:
            return b.operand(self, b.common(self, exponent))
    return b.pow(*b.operands(self, exponent))


@torch_op("float_power")
def float_power(b: Lowering, self: Any, exponent: Any) -> Any:
    return b.pow(b.operand(self, dtypes.F64), b.operand(exponent, dtypes.F64))


@torch_op("maximum", "max.other")
def maximum(b: Lowering, self: Value, other: Value) -> Any:
    x, y = b.operands(self, other)
    return b.or_(x, y) if x.dtype is dtypes.BOOL else b.max(x, y)


@torch_op("minimum", "min.other")
def minimum(b: Lowering, self: Value, other: Value) -> Any:
    x, y = b.operands(self, other)
    return b.and_(x, y) if x.dtype is dtypes.BOOL else b.min(x, y)


def _ignoring_nan(b: Lowering, name: str, x: Value, y: Value) -> Any:
    found = b.build(name, x, y).result
    if not dtype_of(x).is_float:
        return found
    return b.where(b.is_nan(x), y, b.where(b.is_nan(y), x, found))


@torch_op("fmax")
def fmax(b: Lowering, self: Value, other: Value) -> Any:
    return _ignoring_nan(b, "max", *b.operands(self, other))


@torch_op("fmin")
def fmin(b: Lowering, self: Value, other: Value) -> Any:
    return _ignoring_nan(b, "min", *b.operands(self, other))


@torch_op("atan2", "arctan2")
def atan2(b: Lowering, self: Value, other: Value) -> Any:
    return formulas.atan2(b, *b.floats(self, other))


@torch_op("hypot")
def hypot(b: Lowering, self: Value, other: Value) -> Any:
    x, y = b.floats(self, other)
    return b.sqrt(b.add(b.mul(x, x), b.mul(y, y)))


@torch_op("copysign")
def copysign(b: Lowering, self: Value, other: Any) -> Any:
    x, y = b.floats(self, other)
    size = b.abs(x)
    return b.where(b.less(y, b.like(x, 0)), b.neg(size), size)


@torch_op("xlogy", "special_xlogy")
def xlogy(b: Lowering, self: Any, other: Any) -> Any:
    x, y = b.floats(self, other)
    zero = b.like(x, 0)
    found = b.where(b.equal(x, zero), zero, b.mul(x, b.log(y)))
    return b.where(b.is_nan(y), y, found)


@torch_op("lerp")
def lerp(b: Lowering, self: Value, end: Value, weight: Any) -> Any:
    x, y = b.operands(self, end)
    return b.add(x, b.mul(b.operand(weight, dtype_of(x)), b.sub(y, x)))


@torch_op("addcmul")
def addcmul(b: Lowering, self: Value, tensor1: Value, tensor2: Value, value: Any = 1) -> Any:
    x, s, t = b.operands(self, tensor1, tensor2)
    return b.add(x, _scaled(b, b.mul(s, t), value))


@torch_op("addcdiv")
def addcdiv(b: Lowering, self: Value, tensor1: Value, tensor2: Value, value: Any = 1) -> Any:
    x, s, t = b.floats(self, tensor1, tensor2)
    return b.add(x, _scaled(b, b.div(s, t), value))


@torch_op("clamp", "clip")
def clamp(b: Lowering, self: Value, min: Any = None, max: Any = None) -> Any:
    dtype = b.common(*(a for a in (self, min, max) if a is not None))
    x = b.operand(self, dtype)
    low = None if min is None else b.operand(min, dtype)
    high = None if max is None else b.operand(max, dtype)
    if (low is None or low.rank == 0) and (high is None or high.rank == 0):
        return b.clip(x, low, high)
    x = x if low is None else b.max(x, low)
    return x if high is None else b.min(x, high)


@torch_op("clamp_min")
def clamp_min(b: Lowering, self: Value, min: Any) -> Any:
    return clamp(b, self, min)


@torch_op("clamp_max")
def clamp_max(b: Lowering, self: Value, max: Any) -> Any:
    return clamp(b, self, None, max)


# -- activations -----------------------------------------------------------------------------------


@torch_op("relu6")
def relu6(b: Lowering, self: Value) -> Any:
    return b.clip(self, b.like(self, 0), b.like(self, 6))


@torch_op("hardtanh")
def hardtanh(b: Lowering, self: Value, min_val: Any = -1, max_val: Any = 1) -> Any:
    return b.clip(self, b.like(self, min_val), b.like(self, max_val))


@torch_op("leaky_relu")
def leaky_relu(b: Lowering, self: Value, negative_slope: float = 0.01) -> Any:
    return b.leaky_relu(self, alpha=negative_slope)


@torch_op("rrelu", "rrelu_with_noise_functional")
def rrelu(
    b: Lowering,
    self: Value,
    lower: float = 0.125,
    upper: float = 1 / 3,
    training: bool = False,
    noise: Value | None = None,
) -> Any:
    if training:
        raise UnsupportedError("rrelu in training mode", code="torch-train")
    found = b.leaky_relu(self, alpha=(lower + upper) / 2)
    return found if noise is None else (found, None)


@torch_op("elu")
def elu(
    b: Lowering, self: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> Any:
    if (scale, input_scale) == (1, 1):
        return b.elu(self, alpha=alpha)
    inner = b.sub(b.exp(b.mul(self, b.like(self, input_scale))), b.like(self, 1))
    below = b.mul(inner, b.like(self, alpha * scale))
    return b.where(b.greater(self, b.like(self, 0)), b.mul(self, b.like(self, scale)), below)


@torch_op("celu")
def celu(b: Lowering, self: Value, alpha: float = 1.0) -> Any:
    return b.celu(self, alpha=alpha)


@torch_op("selu")
def selu(b: Lowering, self: Value) -> Any:
    return b.selu(self)


@torch_op("prelu", "_prelu_kernel")
def prelu(b: Lowering, self: Value, weight: Value) -> Any:
    rank = b.rank(self)
    if weight.rank == 1 and rank > 2:
        weight = b.resized(weight, [b.size_of(weight, 0), *[1] * (rank - 2)])
    return b.prelu(self, weight)


@torch_op("gelu")
def gelu(b: Lowering, self: Value, approximate: str = "none") -> Any:
    return b.gelu(self, approximate=approximate)


@torch_op("silu")
def silu(b: Lowering, self: Value) -> Any:
    return b.mul(self, b.sigmoid(self))


@torch_op("mish")
def mish(b: Lowering, self: Value) -> Any:
    return b.mish(self)


@torch_op("hardswish")
def hardswish(b: Lowering, self: Value) -> Any:
    return b.hard_swish(self)


@torch_op("hardsigmoid")
def hardsigmoid(b: Lowering, self: Value) -> Any:
    return b.hard_sigmoid(self, alpha=1 / 6, beta=0.5)


@torch_op("softplus")
def softplus(b: Lowering, self: Value, beta: Any = 1, threshold: Any = 20) -> Any:
    if beta == 1:
        found = b.softplus(self)
    else:
        found = b.div(b.softplus(b.mul(self, b.like(self, beta))), b.like(self, beta))
    # Above the threshold PyTorch returns x; there the logarithm differs by less than a rounding.
    if threshold >= 20:
        return found
    large = b.greater(b.mul(self, b.like(self, beta)), b.like(self, threshold))
    return b.where(large, self, found)


@torch_op("log_sigmoid", "log_sigmoid_forward")
def log_sigmoid(b: Lowering, self: Value) -> Any:
    return b.neg(b.softplus(b.neg(self)))


@torch_op("softsign")
def softsign(b: Lowering, self: Value) -> Any:
    return b.softsign(self)


@torch_op("glu")
def glu(b: Lowering, self: Value, dim: int = -1) -> Any:
    half, gate = b.split(self, axis=b.axis(self, dim), num_outputs=2, results=2)
    return b.mul(half, b.sigmoid(gate))


@torch_op("threshold")
def threshold(b: Lowering, self: Value, threshold: Any, value: Any) -> Any:
    return b.where(b.greater(self, b.like(self, threshold)), self, b.like(self, value))


@torch_op("hardshrink")
def hardshrink(b: Lowering, self: Value, lambd: float = 0.5) -> Any:
    return b.shrink(self, lambd=lambd, bias=0.0)


@torch_op("softshrink")
def softshrink(b: Lowering, self: Value, lambd: float = 0.5) -> Any:
    return b.shrink(self, lambd=lambd, bias=lambd)


@torch_op("tanhshrink")
def tanhshrink(b: Lowering, self: Value) -> Any:
    return b.sub(self, b.tanh(self))


# -- element types ---------------------------------------------------------------------------------


@torch_op("to", "_to_copy", "type_as", "to.other")
def to(
    b: Lowering, self: Value, dtype: DType | None = None, other: Value | None = None, **_: Any
) -> Any:
    wanted = dtype or (other.dtype if other is not None else None)
    return self if wanted is None else b.cast_to(self, wanted)


def _convert(dtype: DType) -> Callable[..., Value]:
    def row(b: Lowering, self: Value, **_: Any) -> Value:
        return b.cast_to(self, dtype)

    return row


for _name, _dtype in (
    ("_cast_Float", dtypes.F32),
    ("_cast_Half", dtypes.F16),
    ("_cast_Double", dtypes.F64),
    ("_cast_Long", dtypes.I64),
    ("_cast_Int", dtypes.I32),
):
    torch_op(_name)(_convert(_dtype))


def same(b: Lowering, self: Value, **_: Any) -> Value:
    """Rows of what changes nothing but who owns the data."""
    return self


torch_op(
    *("alias", "detach", "lift", "lift_fresh", "contiguous", "clone", "lift_fresh_copy"),
    *("_conj", "resolve_conj", "resolve_neg", "positive", "_lazy_clone", "detach_"),
)(same)


@torch_op("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def dropout(b: Lowering, input: Value, p: float = 0.5, train: bool = False) -> Any:
    if train and p:
        raise UnsupportedError(
            "dropout in training mode", code="torch-train", hint="call .eval() before exporting"
        )
    return input


@torch_op("native_dropout")
def native_dropout(b: Lowering, input: Value, p: float, train: bool | None) -> Any:
    kept = dropout(b, input, p, bool(train))
    return kept, b.expand(b.full((), True, dtypes.BOOL), b.shape_of(input))


@torch_op("result_type")
def result_type(b: Lowering, tensor1: Any, tensor2: Any) -> Any:
    return promote(b.common(tensor1), b.common(tensor2))
