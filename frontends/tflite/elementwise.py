"""Rows of operators that work on one element at a time, and of casts and quantization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.frontends.tflite.call import quantized, stored
from lepton_ir.frontends.tflite.table import row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.ir import Value

_PLAIN = {
    "ABS": "abs",
    "ATAN2": "atan2",
    "CEIL": "ceil",
    "COS": "cos",
    "ELU": "elu",
    "EXP": "exp",
    "FLOOR": "floor",
    "FLOOR_DIV": "floor_div",
    "FLOOR_MOD": "floor_mod",
    "HARD_SWISH": "hard_swish",
    "LOG": "log",
    "LOGICAL_AND": "and",
    "LOGICAL_NOT": "not",
    "LOGICAL_OR": "or",
    "LOGISTIC": "sigmoid",
    "MAXIMUM": "maximum",
    "MINIMUM": "minimum",
    "NEG": "neg",
    "POW": "pow",
    "PRELU": "prelu",
    "RELU": "relu",
    "ROUND": "round",
    "RSQRT": "rsqrt",
    "SIGN": "sign",
    "SIN": "sin",
    "SQRT": "sqrt",
    "SQUARED_DIFFERENCE": "squared_difference",
    "TANH": "tanh",
    "EQUAL": "equal",
    "GREATER": "greater",
    "GREATER_EQUAL": "greater_or_equal",
    "LESS": "less",
    "LESS_EQUAL": "less_or_equal",
    "STABLEHLO_ADD": "add",
    "STABLEHLO_MAXIMUM": "maximum",
    "STABLEHLO_MINIMUM": "minimum",
    "STABLEHLO_MULTIPLY": "mul",
}
"""Operators that are one operation on the same operands."""


def _read_plain(name: str) -> Any:
    def read(call: Call) -> Value:
        found: Value = call.b.build(name, *call.reals()).result
        return found

    return read


for _name, _ir in _PLAIN.items():
    row(_name, ir=_ir)(_read_plain(_ir))


@row("ADD", "SUB", "MUL", "DIV", ir=("add", "sub", "mul", "div"))
def _arithmetic(call: Call) -> Value:
    made: Value = call.b.build(call.name.lower(), call.real(0), call.real(1)).result
    return call.activate(made)


@row("ADD_N", ir="sum")
def _add_n(call: Call) -> Value:
    values = call.reals()
    if values[0].dtype is None or values[0].dtype.is_float:
        total: Value = call.b.sum(*values)
        return total
    total = values[0]
    for value in values[1:]:
        total = call.b.add(total, value)
    return total


@row("SQUARE", ir="mul")
def _square(call: Call) -> Value:
    x = call.real(0)
    found: Value = call.b.mul(x, x)
    return found


@row("NOT_EQUAL", ir="equal, not")
def _not_equal(call: Call) -> Value:
    found: Value = call.b.not_(call.b.equal(call.real(0), call.real(1)))
    return found


_CLIPS = {"RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1), "RELU_0_TO_1": (0, 1)}


@row(*_CLIPS, ir="clip")
def _clipped(call: Call) -> Value:
    x = call.real(0)
    low, high = _CLIPS[call.name]
    found: Value = call.b.clip(x, call.scalar(low, x), call.scalar(high, x))
    return found


@row("LEAKY_RELU", ir="leaky_relu")
def _leaky_relu(call: Call) -> Value:
    found: Value = call.b.leaky_relu(call.real(0), alpha=call.options.alpha)
    return found


@row("GELU", ir="gelu")
def _gelu(call: Call) -> Value:
    how = "tanh" if call.options.approximate else "none"
    found: Value = call.b.gelu(call.real(0), approximate=how)
    return found


@row("SELECT", "SELECT_V2", ir="where")
def _select(call: Call) -> Value:
    cond, x, y = call.raw(0), call.real(1), call.real(2)
    if call.name == "SELECT" and cond.rank != x.rank:
        # The first dim alone says which rows are taken.
        if call.rank(0) > 1:
            call.opaque("the condition has another rank than what it chooses from")
        cond = call.b.reshape(cond, [-1] + [1] * (call.rank(1) - 1))
    found: Value = call.b.where(cond, x, y)
    return found


# -- bits ------------------------------------------------------------------------------------------


@row("BITWISE_XOR", ir="bitwise_xor, xor", stored=True)
def _bitwise_xor(call: Call) -> Value:
    a, b = call.raw(0), call.raw(1)
    found: Value = call.b.xor(a, b) if a.dtype is dtypes.BOOL else call.b.bitwise_xor(a, b)
    return found


@row("STABLEHLO_AND", ir="bitwise_and, and", stored=True)
def _bitwise_and(call: Call) -> Value:
    a, b = call.raw(0), call.raw(1)
    return call.b.build("and" if a.dtype is dtypes.BOOL else "bitwise_and", a, b).result


@row("RIGHT_SHIFT", ir="right_shift", stored=True)
def _right_shift(call: Call) -> Value:
    found: Value = call.b.right_shift(call.raw(0), call.raw(1))
    return found


@row("STABLEHLO_SHIFT_LEFT", ir="left_shift", stored=True)
def _left_shift(call: Call) -> Value:
    found: Value = call.b.left_shift(call.raw(0), call.raw(1))
    return found


@row("BITCAST", ir="bit_cast", stored=True)
def _bitcast(call: Call) -> Value:
    x, dtype = call.raw(0), call.result().dtype
    if dtype is None or x.dtype is None or x.dtype.bits != dtype.bits:
        call.opaque("it changes the size of an element")
    found: Value = call.b.bit_cast(x, to=dtype)
    return found


# -- types -----------------------------------------------------------------------------------------


@row("CAST", ir="cast", stored=True)
def _cast(call: Call) -> Value:
    dtype = call.result().dtype
    if dtype is None:
        call.opaque("it makes no element type that tensors have")
    found: Value = call.b.cast(call.raw(0), to=dtype)
    return found


@row("DEQUANTIZE", ir="dequantize_linear; cast of f16")
def _dequantize(call: Call) -> Value:
    info, value = call.info(0), call.raw(0)
    if info.quantization is not None:
        found: Value = call.dequantize(value, info.quantization)
        return found
    if info.dtype is None or not info.dtype.is_float:
        call.opaque("its operand has no scale")
    return stored(call.b, value)


@row("QUANTIZE", ir="quantize_linear", stored=True)
def _quantize(call: Call) -> Value:
    params = call.result().quantization
    if params is None:
        call.opaque("its result has no scale")
    return quantized(call.b, call.real(0), params)


@row("DENSIFY", ir="none: sparse constants are made dense when read", stored=True)
def _densify(call: Call) -> Value:
    return call.raw(0)


@row("FAKE_QUANT", ir="fake_quant")
def _fake_quant(call: Call) -> Value:
    o = call.options
    found: Value = call.b.fake_quant(
        call.real(0), min=o.min, max=o.max, num_bits=o.num_bits, narrow_range=o.narrow_range
    )
    return found


@row("BUCKETIZE", ir="greater_or_equal, cast, reduce_sum")
def _bucketize(call: Call) -> Value:
    x = call.raw(0)
    given = call.options.boundaries
    bounds = np.zeros(0, np.float32) if given is None else np.asarray(given, np.float32)
    wide = call.cast(x, dtypes.F32)
    above = call.b.greater_or_equal(call.b.unsqueeze(wide, [-1]), call.b.const(bounds))
    counts: Sequence[Value] = [call.b.cast(above, to=dtypes.I32)]
    found: Value = call.b.reduce_sum(counts[0], [-1], keepdims=False)
    return found


@row("REAL", "IMAG", "COMPLEX_ABS", ir=("real", "imag", "complex_abs"))
def _complex(call: Call) -> Value:
    found: Value = call.b.build(call.name.lower(), call.raw(0)).result
    return found
