"""Rows of the operations that work element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.graph import type_number
from lepton_ir.backends.tflite.kernels import kernels
from lepton_ir.backends.tflite.row import Row, fusing, plain
from lepton_ir.infer import const_array

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.ir import Op


def _elu(op: Op) -> str:
    return "" if op.attr("alpha") == 1.0 else "ELU has no alpha"


def _leaky_relu(g: Graph, op: Op) -> None:
    g.add("LEAKY_RELU", [g.value(op.operands[0])], [g.result(op)], alpha=float(op.attr("alpha")))


def _gelu(g: Graph, op: Op) -> None:
    approximate = op.attr("approximate") == "tanh"
    g.add("GELU", [g.value(op.operands[0])], [g.result(op)], approximate=approximate)


def _cast(g: Graph, op: Op) -> None:
    x = op.operands[0]
    assert x is not None
    assert x.dtype is not None
    kinds = {"in_data_type": type_number(x.dtype), "out_data_type": type_number(op.attr("to"))}
    g.add("CAST", [g.value(x)], [g.result(op)], **kinds)


def _cast_fits(op: Op) -> str:
    to = op.results[0].dtype
    assert to is not None
    known = kernels()["CAST"].dtypes
    return "" if to.name in known else f"LiteRT's CAST does not give {to}"


def _two(op: Op) -> str:
    return "" if len(op.operands) == 2 else "the operator takes two operands"


def _mod(op: Op) -> str:
    if op.attr("fmod"):
        return "FLOOR_MOD has the sign of the divisor"
    return ""


def _pow(op: Op) -> str:
    x, y = op.operands
    assert x is not None
    assert y is not None
    return "" if x.dtype is y.dtype else "POW takes operands of one type"


def _same_shape(op: Op) -> str:
    a, b = op.operands
    assert a is not None
    assert b is not None
    return "" if a.shape == b.shape else "the operator does not broadcast"


def clip_bounds(op: Op) -> tuple[float, float] | None:
    """Return the bounds of a clip of floats when both are constants."""
    if op.results[0].dtype not in (dtypes.F32, dtypes.F16):
        return None
    bounds = []
    for i, absent in ((1, -np.inf), (2, np.inf)):
        value = op.operands[i] if i < len(op.operands) else None
        known = None if value is None else const_array(value)
        if value is not None and (known is None or known.size != 1):
            return None
        bounds.append(absent if known is None else float(known.reshape(-1)[0]))
    return bounds[0], bounds[1]


CLIPS = {
    (0.0, np.inf): "RELU",
    (0.0, 6.0): "RELU6",
    (-1.0, 1.0): "RELU_N1_TO_1",
    (0.0, 1.0): "RELU_0_TO_1",
}
"""Operators that clip, by their bounds."""


def _clip_kind(op: Op) -> str:
    return CLIPS.get(clip_bounds(op) or (0.0, 6.0), "RELU6")


def _clip_fits(op: Op) -> str:
    return "" if clip_bounds(op) in CLIPS else "no operator clips to these bounds"


def _clip(g: Graph, op: Op) -> None:
    g.add(_clip_kind(op), [g.value(op.operands[0])], [g.result(op)])


def _same_bits(op: Op) -> str:
    x, y = op.operands[0], op.results[0]
    assert x is not None
    assert x.dtype is not None
    assert y.dtype is not None
    if y.dtype.name not in kernels()["BITCAST"].dtypes:
        return f"LiteRT's BITCAST does not give {y.dtype}"
    return "" if x.dtype.bits == y.dtype.bits else "the elements have other sizes"


def _prelu_fits(op: Op) -> str:
    slope, x = op.operands[1], op.operands[0]
    assert slope is not None
    assert x is not None
    return "" if (slope.rank or 0) <= (x.rank or 0) else "the slope has more axes than x"


ROWS = {
    **{
        name: plain(builtin)
        for name, builtin in {
            "abs": "ABS",
            "neg": "NEG",
            "sign": "SIGN",
            "exp": "EXP",
            "log": "LOG",
            "sqrt": "SQRT",
            "floor": "FLOOR",
            "ceil": "CEIL",
            "round": "ROUND",
            "sin": "SIN",
            "cos": "COS",
            "tanh": "TANH",
            "sigmoid": "LOGISTIC",
            "relu": "RELU",
            "hard_swish": "HARD_SWISH",
            "not": "LOGICAL_NOT",
            "and": "LOGICAL_AND",
            "or": "LOGICAL_OR",
            "xor": "NOT_EQUAL",
            "equal": "EQUAL",
            "less": "LESS",
            "less_or_equal": "LESS_EQUAL",
            "greater": "GREATER",
            "greater_or_equal": "GREATER_EQUAL",
            "bitwise_xor": "BITWISE_XOR",
            "right_shift": "RIGHT_SHIFT",
            "floor_div": "FLOOR_DIV",
            "rsqrt": "RSQRT",
        }.items()
    },
    **{name: fusing(name.upper()) for name in ("add", "sub", "mul", "div")},
    "max": plain("MAXIMUM", fits=_two),
    "min": plain("MINIMUM", fits=_two),
    "bitwise_and": plain("STABLEHLO_AND", fits=_same_shape),
    "left_shift": plain("STABLEHLO_SHIFT_LEFT", fits=_same_shape),
    "bit_cast": plain("BITCAST", fits=_same_bits),
    "atan2": plain("ATAN2", fits=_same_shape),
    "mod": plain("FLOOR_MOD", fits=_mod),
    "pow": plain("POW", fits=_pow),
    "elu": plain("ELU", fits=_elu),
    "leaky_relu": Row("LEAKY_RELU", _leaky_relu),
    "prelu": plain("PRELU", fits=_prelu_fits),
    "gelu": Row("GELU", _gelu),
    "cast": Row("CAST", _cast, _cast_fits),
    "clip": Row(_clip_kind, _clip, _clip_fits),
    "where": plain("SELECT_V2", judged=1),
}
