"""Conversions of element types: Cast, CastLike, BitCast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dtypes import DType
from lepton_ir.opdef import Bool, DTypeAttr, Str, op
from lepton_ir.ops._axes import content_like
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.infer import InferContext

Array = np.ndarray[Any, Any]

_SATURATING = (dtypes.F8E4M3FN, dtypes.F8E4M3FNUZ, dtypes.F8E5M2, dtypes.F8E5M2FNUZ)
_NARROW_INTS = (dtypes.I4, dtypes.I2, dtypes.U4, dtypes.U2)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _format(value: float) -> str:
    """Format as runtimes do: 8 significant digits, INF and NaN spelled as in the specification."""
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "INF" if value > 0 else "-INF"
    return f"{value:.8g}"


def _to_strings(x: Array, source: DType) -> Array:
    if source is dtypes.STRING:
        return x.copy()
    if source.is_float:
        items = [_format(float(v)) for v in x.astype(np.float64).ravel()]
    else:
        items = [str(int(v)) for v in x.ravel()]
    result = np.empty(x.size, dtype=object)
    result[:] = items
    return result.reshape(x.shape)


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


def _from_strings(x: Array, to: DType) -> Array:
    """Parse numbers; float literals follow Cast's rules for INF and NaN (any letter case)."""
    texts = [_text(v).strip() for v in x.ravel()]
    if to.is_float:
        return np.array([float(t) for t in texts], dtype=np.float64).reshape(x.shape)
    try:
        values = np.array([_parse_int(t) & 0xFFFFFFFFFFFFFFFF for t in texts], dtype=np.uint64)
    except OverflowError as error:
        raise ValueError(f"cast: {error}") from error
    return values.view(np.int64).reshape(x.shape)


def _to_e8m0(x: Array, saturate: bool, round_mode: str) -> Array:
    """Round f32 to a power of two (Cast-25, FLOAT8E8M0); the sign is ignored."""
    if round_mode not in ("up", "down", "nearest"):
        raise ValueError(f"cast: round_mode is {round_mode!r}; it is up, down or nearest")
    wide = x.astype(np.float32)
    bits = wide.view(np.uint32)
    exponent = ((bits >> 23) & 0xFF).astype(np.int32)
    fraction = bits & 0x7FFFFF
    if round_mode == "up":
        exponent += fraction > 0
    elif round_mode == "nearest":
        # A subnormal's half is not a tie of two powers of two: it must exceed it.
        exponent += np.where(exponent > 0, fraction >= 0x400000, fraction > 0x400000)
    limit = 0xFE if saturate else 0xFF
    code = np.minimum(exponent, limit).astype(np.uint8)
    code = np.where(np.isinf(wide), limit, code)
    code = np.where(np.isnan(wide), 0xFF, code)
    return np.ascontiguousarray(code.astype(np.uint8)).view(dtypes.F8E8M0.numpy)


def _wrap(x: Array, to: DType) -> Array:
    """Keep the low bits of integers and read them as a 2- or 4-bit type."""
    mask = (1 << to.bits) - 1
    low = (x.astype(np.int64) & mask).astype(np.int8)
    if to.kind == "int":
        sign = 1 << (to.bits - 1)
        low = (low ^ sign) - np.int8(sign)
    return low.astype(to.numpy)


def _widen(x: Array, source: DType) -> Array:
    """Return narrow types in one NumPy computes with: floats as f32, 2 and 4 bits as i8."""
    if source in _NARROW_INTS:
        return x.astype(np.int8)
    if source.is_float and source not in (dtypes.F64, dtypes.F32, dtypes.F16):
        return x.astype(np.float32)
    return x


def convert(x: Array, to: DType, saturate: bool = True, round_mode: str = "up") -> Array:
    """Return ``x`` converted to ``to`` by the rules of Cast-25.

    Args:
        x: array of any element type but complex.
        to: element type of the result.
        saturate: clip to the largest finite value instead of overflowing (float8 only).
        round_mode: ``up``, ``down`` or ``nearest`` (F8E8M0 only).

    Raises:
        ValueError: a string that is no number, or a bad ``round_mode``.
    """
    source = dtypes.from_numpy(x.dtype)
    if to is dtypes.STRING:
        return _to_strings(x, source)
    if source is to:
        return x.copy()
    wide = _from_strings(x, to) if source is dtypes.STRING else _widen(x, source)
    with np.errstate(over="ignore", invalid="ignore"):
        if to is dtypes.F8E8M0:
            return _to_e8m0(wide, saturate, round_mode)
        if to in _NARROW_INTS:
            return np.asarray(_wrap(wide, to))
        if to is dtypes.BOOL:
            return np.asarray(wide != 0)
        if to in _SATURATING and saturate:
            import ml_dtypes

            limit = float(ml_dtypes.finfo(to.numpy).max)  # type: ignore[no-untyped-call]
            wide = np.clip(wide.astype(np.float32), -limit, limit)
        elif to.is_float and to.bits < 16:
            wide = wide.astype(np.float32)
        return np.asarray(wide.astype(to.numpy))


def _infer_cast(ctx: InferContext) -> Type:
    kind = ctx.type("x")
    return TensorType(ctx.attrs["to"], kind.shape if isinstance(kind, TensorType) else None)


@op(
    "cast(x)",
    infer=_infer_cast,
    content=content_like,
    traits="elementwise idempotent",
)
def cast(x: Array, *, to: DTypeAttr, saturate: Bool = True, round_mode: Str = "up") -> Array:
    """Convert the element type (ONNX Cast-25).

    Integers keep their low bits; numbers become strings of 8 significant digits as in ONNX
    Runtime; ``saturate`` and ``round_mode`` only concern float8 results.

    C1  strings converted to numbers are numerals, INF or NaN
    """
    return convert(x, to, saturate, round_mode)


def _infer_cast_like(ctx: InferContext) -> Type:
    kind = ctx.type("x")
    shape = kind.shape if isinstance(kind, TensorType) else None
    return TensorType(ctx.dtype("target_type"), shape)


@op("cast_like(x, target_type)", infer=_infer_cast_like, content=content_like)
def cast_like(
    x: Array, target_type: Array, *, saturate: Bool = True, round_mode: Str = "up"
) -> Array:
    """Convert to the element type of ``target_type`` (ONNX CastLike-25)."""
    return convert(x, dtypes.from_numpy(target_type.dtype), saturate, round_mode)


def _check_bits(ctx: InferContext) -> Type:
    source, to = ctx.dtype("x"), ctx.attrs["to"]
    if source is not None and source is not to and (source.bits != to.bits or not to.bits):
        ctx.fail("C1", f"x has {source.bits} bits an element ({source}), {to} has {to.bits}")
    kind = ctx.type("x")
    return TensorType(to, kind.shape) if isinstance(kind, TensorType) else UNKNOWN


@op("bit_cast(x)", infer=_check_bits, traits="elementwise idempotent")
def bit_cast(x: Array, *, to: DTypeAttr) -> Array:
    """Read the same bits as another element type (ONNX BitCast-26).

    C1  both types have the same number of bits and neither is string
    """
    source = dtypes.from_numpy(x.dtype)
    if source.bits != to.bits or not to.bits:
        raise ValueError(f"bit_cast: {source} and {to} do not have the same number of bits")
    plain = np.ascontiguousarray(x).reshape(x.shape)
    if to is dtypes.BOOL:
        return np.asarray(plain.view(np.uint8) != 0)
    if to.bits >= 8:
        return plain.view(to.numpy)
    low = plain.view(np.uint8) & ((1 << to.bits) - 1)
    return np.asarray(_wrap(low, to) if to in _NARROW_INTS else low.view(to.numpy))
