"""Activation functions; part of the family ``elementwise``, whose module imports this one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Float, Str, op
from lepton_ir.ops._numeric import (
    NUMBERS,
    SIGNED,
    Array,
    erf,
    f32,
    float_dtype,
    floats,
    in_f32,
    sigmoid,
    typed,
)
from lepton_ir.ops._shapes import common_dtype, content_of_all, infer_same, shape_text
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value

_COMPOSITE = "elementwise composite"


op(
    "relu(x)",
    infer_same,
    typed(lambda x: np.maximum(x, np.zeros((), x.dtype)), SIGNED),
    traits="elementwise idempotent",
    content=content_of_all(lambda a: dims.maximum(a, 0)),
    doc="``max(x, 0)`` (ONNX Relu-14).",
)
op(
    "softsign(x)",
    infer_same,
    typed(lambda x: x / (1 + np.abs(x))),
    traits="elementwise",
    doc="``x / (1 + |x|)`` (ONNX Softsign-22).",
)


@op("leaky_relu(x)", infer=infer_same, traits="elementwise")
@floats
def leaky_relu(x: Array, *, alpha: Float = 0.01) -> Array:
    """``x`` where it is not negative, else ``alpha * x`` (ONNX LeakyRelu-16)."""
    return np.where(x < 0, x * f32(alpha), x)


def _build_softplus(b: Builder, x: Value, op: Op) -> Any:
    return b.add(b.max(x, 0.0), b.log(b.add(b.exp(b.neg(b.abs(x))), 1.0)))


op(
    "softplus(x)",
    infer_same,
    typed(lambda x: np.logaddexp(x, np.zeros((), x.dtype))),
    traits=_COMPOSITE,
    decompose=in_f32(_build_softplus),
    doc="``ln(exp(x) + 1)``, without overflow (ONNX Softplus-22).",
)


def _build_elu(b: Builder, x: Value, op: Op) -> Any:
    below = b.mul(b.sub(b.exp(x), 1.0), f32(op.attr("alpha")))
    return b.where(b.less(x, 0.0), below, x)


@op("elu(x)", infer=infer_same, traits=_COMPOSITE, decompose=in_f32(_build_elu))
@floats
def elu(x: Array, *, alpha: Float = 1.0) -> Array:
    """``x`` where it is not negative, else ``alpha * (exp(x) - 1)`` (ONNX Elu-22)."""
    return np.where(x < 0, np.expm1(x) * f32(alpha), x)


def _build_selu(b: Builder, x: Value, op: Op) -> Any:
    return b.mul(b.elu(x, alpha=op.attr("alpha")), f32(op.attr("gamma")))


@op("selu(x)", infer=infer_same, traits=_COMPOSITE, decompose=in_f32(_build_selu))
@floats
def selu(
    x: Array, *, alpha: Float = 1.6732631921768188, gamma: Float = 1.0507010221481323
) -> Array:
    """``gamma * elu(x, alpha)`` (ONNX Selu-22)."""
    return np.where(x < 0, np.expm1(x) * f32(alpha), x) * f32(gamma)


def _build_celu(b: Builder, x: Value, op: Op) -> Any:
    alpha = f32(op.attr("alpha"))
    below = b.mul(b.sub(b.exp(b.div(x, alpha)), 1.0), alpha)
    return b.add(b.max(x, 0.0), b.min(below, 0.0))


@op("celu(x)", infer=infer_same, traits=_COMPOSITE, decompose=in_f32(_build_celu))
@floats
def celu(x: Array, *, alpha: Float = 1.0) -> Array:
    """``max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`` (ONNX Celu-28)."""
    alpha = f32(alpha)
    return np.asarray(np.maximum(x, 0) + np.minimum(np.expm1(x / alpha) * alpha, 0))


def _build_thresholded_relu(b: Builder, x: Value, op: Op) -> Any:
    above = b.greater(x, f32(op.attr("alpha")))
    return b.where(above, x, b.const(0.0, x.dtype))


@op(
    "thresholded_relu(x)",
    infer=infer_same,
    traits=_COMPOSITE,
    decompose=in_f32(_build_thresholded_relu),
)
@floats
def thresholded_relu(x: Array, *, alpha: Float = 1.0) -> Array:
    """``x`` where it is greater than ``alpha``, else 0 (ONNX ThresholdedRelu-22)."""
    return np.where(x > f32(alpha), x, np.zeros((), x.dtype))


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.asarray(np.maximum(np.minimum(x * f32(alpha) + f32(beta), 1), 0))


def _build_hard_sigmoid(b: Builder, x: Value, op: Op) -> Any:
    line = b.add(b.mul(x, f32(op.attr("alpha"))), f32(op.attr("beta")))
    return b.max(b.min(line, 1.0), 0.0)


@op("hard_sigmoid(x)", infer=infer_same, traits=_COMPOSITE, decompose=in_f32(_build_hard_sigmoid))
@floats
def hard_sigmoid(x: Array, *, alpha: Float = 0.2, beta: Float = 0.5) -> Array:
    """``max(0, min(1, alpha * x + beta))`` (ONNX HardSigmoid-22)."""
    return _hard_sigmoid(x, alpha, beta)


def _build_hard_swish(b: Builder, x: Value, op: Op) -> Any:
    return b.mul(x, b.hard_sigmoid(x, alpha=f32(1 / 6), beta=0.5))


@op("hard_swish(x)", infer=infer_same, traits=_COMPOSITE, decompose=in_f32(_build_hard_swish))
@floats
def hard_swish(x: Array) -> Array:
    """``x * hard_sigmoid(x, alpha=1/6, beta=0.5)`` (ONNX HardSwish-22)."""
    return x * _hard_sigmoid(x, 1 / 6, 0.5)


def _build_mish(b: Builder, x: Value, op: Op) -> Any:
    return b.mul(x, b.tanh(b.softplus(x)))


@op("mish(x)", infer=infer_same, traits=_COMPOSITE, decompose=in_f32(_build_mish))
@floats
def mish(x: Array) -> Array:
    """``x * tanh(softplus(x))`` (ONNX Mish-22)."""
    return np.asarray(x * np.tanh(np.logaddexp(x, np.zeros((), x.dtype))))


def _build_swish(b: Builder, x: Value, op: Op) -> Any:
    alpha = f32(op.attr("alpha"))
    return b.mul(x, b.sigmoid(x if alpha == 1.0 else b.mul(x, alpha)))


@op("swish(x)", infer=infer_same, traits=_COMPOSITE, decompose=in_f32(_build_swish))
@floats
def swish(x: Array, *, alpha: Float = 1.0) -> Array:
    """``x * sigmoid(alpha * x)`` (ONNX Swish-24)."""
    return x * sigmoid(x * f32(alpha))


def _infer_swiglu(ctx: InferContext) -> TensorType:
    a, b = ctx.shape("a"), ctx.shape("b")
    values = [v for v in (ctx.value("a"), ctx.value("b")) if v is not None]
    dtype = common_dtype(ctx, values)
    if a is None or b is None:
        return TensorType(dtype, b if a is None else a)
    different = len(a) != len(b) or any(
        p is not None and q is not None and dims.prove_eq(p, q) is False
        for p, q in zip(a, b, strict=True)
    )
    if different:
        ctx.fail("C1", f"a has shape {shape_text(a)} and b has {shape_text(b)}")
    return TensorType(dtype, (q if p is None else p for p, q in zip(a, b, strict=True)))


def _decompose_swiglu(b: Builder, op: Op) -> list[Value]:
    gate, value = op.operands
    assert gate is not None
    assert value is not None
    dtype = float_dtype(gate)
    alpha = op.attr("alpha")
    if dtype.bits >= 32:
        return [b.mul(b.swish(gate, alpha=alpha), value)]
    from lepton_ir.dtypes import F32

    wide = b.mul(b.swish(b.cast(gate, to=F32), alpha=alpha), b.cast(value, to=F32))
    return [b.cast(wide, to=dtype)]


@op("swiglu(a, b)", infer=_infer_swiglu, traits=_COMPOSITE, decompose=_decompose_swiglu)
@floats
def swiglu(a: Array, b: Array, *, alpha: Float = 1.0) -> Array:
    """``a * sigmoid(alpha * a) * b`` (ONNX SwiGLU-28).

    C1  a and b have the same shape
    C2  the operands have one element type
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape} and b has {b.shape}")
    return a * sigmoid(a * f32(alpha)) * b


_CUBIC = 0.044715


def _build_gelu(b: Builder, x: Value, op: Op) -> Any:
    approximate = op.attr("approximate")
    if approximate == "tanh":
        cube = b.mul(b.mul(b.mul(x, x), x), _CUBIC)
        curve = b.tanh(b.mul(b.add(x, cube), math.sqrt(2 / math.pi)))
    elif approximate == "none":
        curve = b.erf(b.mul(x, math.sqrt(0.5)))
    else:
        raise ValueError(f"approximate {approximate!r} is neither none nor tanh")
    return b.mul(b.mul(x, 0.5), b.add(curve, 1.0))


@op("gelu(x)", infer=infer_same, traits=_COMPOSITE, decompose=in_f32(_build_gelu))
@floats
def gelu(x: Array, *, approximate: Str = "none") -> Array:
    """``x / 2 * (1 + erf(x / sqrt(2)))``, or its approximation through tanh (ONNX Gelu-20)."""
    if approximate == "tanh":
        curve = np.tanh(math.sqrt(2 / math.pi) * (x + x * x * x * _CUBIC))
    elif approximate == "none":
        curve = erf(x * math.sqrt(0.5))
    else:
        raise ValueError(f"approximate {approximate!r} is neither none nor tanh")
    return np.asarray(0.5 * x * (1 + curve))


def _build_shrink(b: Builder, x: Value, op: Op) -> Any:
    bias, limit = f32(op.attr("bias")), f32(op.attr("lambd"))
    above = b.where(b.greater(x, limit), b.sub(x, bias), b.const(0.0, x.dtype))
    return b.where(b.less(x, -limit), b.add(x, bias), above)


def _shrink(x: Array, *, bias: Float = 0.0, lambd: Float = 0.5) -> Array:
    bias, lambd = f32(bias), f32(lambd)
    amount: Any = bias
    if x.dtype.kind in "iu":
        if not bias.is_integer():
            raise ValueError(f"bias {bias} is no integer, and runtimes differ in rounding it")
        amount = np.array(int(bias)).astype(x.dtype)
    above = np.where(x > lambd, x - amount, np.zeros((), x.dtype))
    return np.where(x < -lambd, x + amount, above)


op(
    "shrink(x)",
    infer_same,
    typed(_shrink, NUMBERS),
    traits=_COMPOSITE,
    decompose=in_f32(_build_shrink),
    doc="``x + bias`` below ``-lambd``, ``x - bias`` above ``lambd``, else 0 (ONNX Shrink-9).",
)
