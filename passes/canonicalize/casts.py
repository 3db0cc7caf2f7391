"""Casts: no-ops, chains through a type that keeps every value, casts of filled tensors."""

from __future__ import annotations

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dtypes import DType
from lepton_ir.infer import const_tensor
from lepton_ir.pattern import Match, P, attr, var
from lepton_ir.rewrite import Rewriter, rewrite
from lepton_ir.tensors import DenseTensor, Tensor

_MANTISSA = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}
_EXPONENT = {"f64": 11, "f32": 8, "f16": 5, "bf16": 8}


def keeps_every_value(source: DType, through: DType) -> bool:
    """Return whether each value of ``source`` is a value of ``through``."""
    if source is through:
        return True
    if source is dtypes.BOOL:
        return through.is_integer or through.name in _MANTISSA
    if source.name in _MANTISSA and through.name in _MANTISSA:
        return (
            _MANTISSA[source.name] <= _MANTISSA[through.name]
            and _EXPONENT[source.name] <= _EXPONENT[through.name]
        )
    if not source.is_integer:
        return False
    digits = source.bits - (source.kind == "int")
    if through.is_integer:
        if source.kind == "int" and through.kind == "uint":
            return False
        return digits <= through.bits - (through.kind == "int")
    # f16 reaches 65504, so 16-bit integers fit neither its range nor its digits.
    return through.name in _MANTISSA and digits <= _MANTISSA[through.name] - (
        1 if through is dtypes.F16 else 0
    )


@rewrite(P.cast(var("x"), to=attr("to")), exact=True)
def cast_to_same(m: Match, rw: Rewriter) -> bool:
    """cast(x: T, to=T) => x."""
    if m.x.dtype is not m.to:
        return False
    return rw.replace(m.root, m.x, same=True)


@rewrite(P.cast(P.cast(var("x"), to=attr("mid")).shared(), to=attr("to")), exact=True)
def cast_chain(m: Match, rw: Rewriter) -> bool:
    """cast(cast(x: S, to=M), to=T) => cast(x, to=T) where every S is an M.

    From a float M to an integer T the range of S must fit T too: out of range, a float
    saturates or is undefined where an integer wraps.
    """
    source = m.x.dtype
    if source is None or not keeps_every_value(source, m.mid):
        return rw.fail("{} does not hold every {}", m.mid, source)
    mid_float_to_int = m.mid.is_float and m.to.is_integer
    if mid_float_to_int and not source.is_float and not keeps_every_value(source, m.to):
        return rw.fail("{} does not hold every {}", m.to, source)
    special = m.to.kind in ("string", "complex") or m.to.bits < 16
    if special and m.to is not dtypes.BOOL and not keeps_every_value(source, m.to):
        return rw.fail("conversion to {} depends on the type it comes from", m.to)
    if m.to is source:
        return rw.replace(m.root, m.x, same=True)
    return rw.replace(m.root, rw.cast(m.x, to=m.to))


@rewrite("cast_like", exact=True)
def cast_like_known(m: Match, rw: Rewriter) -> bool:
    """cast_like(x, y: T) => cast(x, to=T)."""
    x, like = m.root.operands
    if like is None or like.dtype is None:
        return rw.fail("the type to cast to is not known")
    attrs = {k: v for k, v in m.root.attrs.items() if k in ("saturate", "round_mode")}
    return rw.replace(m.root, rw.cast(x, to=like.dtype, **attrs))


@rewrite(P.cast(P.constant_of_shape(var("shape")).named("fill"), to=attr("to")), exact=True)
def cast_of_fill(m: Match, rw: Rewriter) -> bool:
    """cast(constant_of_shape(s){v}, to=T) => constant_of_shape(s){T(v)}."""
    value = m.fill.attr("value")
    if m.to.kind == "string" or (isinstance(value, Tensor) and value.dtype.kind == "string"):
        return rw.fail("strings")
    array = value.numpy() if isinstance(value, Tensor) else np.zeros(1, np.float32)
    if array.dtype.kind == "f" and m.to.is_integer and not np.isfinite(array).all():
        return rw.fail("the value has no integer")
    if m.to.bits < 16 and m.to is not dtypes.BOOL:
        return rw.fail("conversion to {} may saturate", m.to)
    converted = DenseTensor(array.astype(m.to.numpy), m.to)
    return rw.replace(m.root, rw.constant_of_shape(m.shape, value=converted))


_ORDER = {
    "equal": lambda a, b: a == b,
    "greater": lambda a, b: a > b,
    "greater_or_equal": lambda a, b: a >= b,
    "less": lambda a, b: a < b,
    "less_or_equal": lambda a, b: a <= b,
}
_FLIPPED = {"greater": "less", "less": "greater"}


@rewrite(*_ORDER, exact=True)
def compared_truth(m: Match, rw: Rewriter) -> bool:
    """cast(b: bool) > 0 => b, cast(b: bool) == 0 => not b; a number between works like either."""
    for i in (0, 1):
        cast, tensor = m.root.operands[i], const_tensor(m.root.operands[1 - i])
        op = None if cast is None else cast.op
        if op is None or op.name != "cast" or op.has_attr_refs or tensor is None:
            continue
        truth = op.operands[0]
        if truth is None or truth.dtype is not dtypes.BOOL or tensor.size != 1:
            return False
        if truth.rank is None or truth.rank < len(tensor.shape):
            return rw.fail("the constant may raise the rank")
        number, name = tensor.numpy().reshape(-1)[0], m.root.name
        if i == 1:
            stem = name.removesuffix("_or_equal")
            name = name.replace(stem, _FLIPPED.get(stem, stem))
        on_false, on_true = (bool(_ORDER[name](v, number)) for v in (0, 1))
        if on_false == on_true:
            return rw.fail("it is the same for true and false")
        rw.also(op)
        return rw.replace(m.root, truth if on_true else rw.not_(truth))
    return False
