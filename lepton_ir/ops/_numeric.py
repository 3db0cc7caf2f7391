"""How meanings compute: element types checked, narrow floats widened, warnings off."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value

Array = np.ndarray[Any, Any]

FLOATS = "f"
SIGNED = "fi"
NUMBERS = "fiu"
INTEGERS = "iu"
BOOLEANS = "b"
ANY_FLOATS = "fn"
EQUALITY = "fiubs"


def kind_of(dtype: DType) -> str:
    """Return the class letter of an element type.

    ``f`` floats of 16 bits and more, ``n`` narrower floats, ``i`` and ``u`` integers of a byte and
    more, ``x`` sub-byte integers, ``b`` bool, ``s`` strings, ``c`` complex.
    """
    if dtype.is_float:
        return "f" if dtype.bits >= 16 else "n"
    if dtype.is_integer and dtype.bits < 8:
        return "x"
    return dtype.kind[0]


def require(allowed: str, *operands: Array | None) -> DType:
    """Return the one element type of the present operands.

    Args:
        allowed: class letters, see :func:`kind_of`.
        operands: arrays, or ``None`` for absent ones.

    Raises:
        ValueError: the element types differ, or are not allowed.
    """
    found = list(dict.fromkeys(dtypes.from_numpy(v.dtype) for v in operands if v is not None))
    if len(found) != 1:
        raise ValueError(f"operands should share one element type, got {found}")
    if kind_of(found[0]) not in allowed:
        raise ValueError(f"element type {found[0]} is not allowed")
    return found[0]


def widen(x: Array) -> Array:
    """Return floats narrower than 32 bits as f32, and anything else unchanged."""
    dtype = dtypes.from_numpy(x.dtype)
    return x.astype(np.float32) if dtype.is_float and dtype.bits < 32 else x


def f32(value: float) -> float:
    """Return a float attribute as ONNX stores it, rounded to f32."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def typed(
    function: Callable[..., Any], allowed: str = FLOATS, *, predicate: bool = False
) -> Callable[..., Array]:
    """Return ``function`` on wide floats as a meaning on operands of one allowed element type.

    Floats narrower than 32 bits are computed in f32 and the result is cast back.

    Args:
        function: takes arrays (``None`` where absent) and attributes.
        allowed: class letters of element types, see :func:`kind_of`.
        predicate: the result is bool rather than of the operands' type.
    """

    @functools.wraps(function)
    def meaning(*operands: Array | None, **attrs: Any) -> Array:
        dtype = require(allowed, *operands)
        with np.errstate(all="ignore"):
            result = function(*(None if v is None else widen(v) for v in operands), **attrs)
            return np.asarray(result).astype(np.bool_ if predicate else dtype.numpy, copy=False)

    return meaning


def floats(function: Callable[..., Any]) -> Callable[..., Array]:
    """Decorate a function on f32 and f64 arrays into a meaning on all float types."""
    return typed(function, FLOATS)


def numbers(function: Callable[..., Any]) -> Callable[..., Array]:
    """Decorate a function on arrays of floats and integers into a meaning."""
    return typed(function, NUMBERS)


def erf(x: Array) -> Array:
    """Return the error function to double precision; slow enough to mind, exact to an ulp."""
    flat = np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size)
    return flat.reshape(x.shape).astype(x.dtype)


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))``; exp overflows to inf where the result is 0."""
    result: Array = np.reciprocal(1 + np.exp(-x))
    return result


def truncated_div(a: Array, b: Array) -> Array:
    """Divide floats, or integers rounding toward zero as C does.

    Raises:
        ValueError: an integer division by zero, or of the least integer by -1.
    """
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    if np.any(b == 0) and np.broadcast(a, b).size:
        raise ValueError("integer division by zero")
    quotient = a // b
    if a.dtype.kind == "i":
        if np.any((a == np.iinfo(a.dtype).min) & (b == -1)):
            raise ValueError("integer division overflows")
        quotient = quotient + ((quotient < 0) & (quotient * b != a))
    return np.asarray(quotient, a.dtype)


def to_integer(x: Array, dtype: np.dtype[Any]) -> Array:
    """Truncate f64 to integers.

    Raises:
        ValueError: NaN or a value out of range, where runtimes differ.
    """
    info = np.iinfo(dtype)
    whole = np.trunc(x)
    if not np.all((whole >= float(info.min)) & (whole < float(info.max) + (dtype.itemsize < 8))):
        raise ValueError(f"a result is out of the range of {dtype}")
    return whole.astype(dtype)


def in_f32(build: Callable[[Builder, Value, Op], Value]) -> Callable[[Builder, Op], list[Value]]:
    """Return a decomposition that computes the first operand's narrow floats in f32.

    ``build(b, x, op)`` gets the first operand, cast to f32 when it is f16 or bf16, so that the
    parts round as the whole does.
    """

    def decompose(b: Builder, op: Op) -> list[Value]:
        x = op.operands[0]
        assert x is not None
        dtype = float_dtype(x)
        if dtype.bits >= 32:
            return [build(b, x, op)]
        wide = b.cast(x, to=dtypes.F32)
        return [b.cast(build(b, wide, op), to=dtype)]

    return decompose


def float_dtype(x: Value) -> DType:
    """Return the element type of ``x``.

    Raises:
        ValueError: unknown, or not a float.
    """
    if x.dtype is None:
        raise ValueError("the element type is not known")
    if not x.dtype.is_float:
        raise ValueError(f"element type {x.dtype} does not decompose")
    return x.dtype
