"""Conversion of 16-bit floats by integer arithmetic, where no instruction does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.backends.numba.codegen.emitter import F32, I16, I32, Emitter, Val, lanes_of, vector

if TYPE_CHECKING:
    from lepton_ir.backends.numba.machine import Machine

_INFINITY = 0x7F800000
_HALF_INFINITY, _HALF_NAN = 0x7C00, 0x7E00


def native(machine: Machine) -> bool:
    """Return whether the machine converts 16-bit floats itself."""
    return machine.has("f16c") or machine.has("avx512f") or machine.has("fullfp16")


def widen(e: Emitter, bits: Val) -> Val:
    """Return the f32 of the bits of an f16, exactly."""
    lanes = lanes_of(bits.type)
    b, ints, floats = e.b, vector(I32, lanes), vector(F32, lanes)
    wide = b.zext(bits, ints)
    sign = b.shl(b.and_(wide, e.const(0x8000, ints)), e.const(16, ints))
    magnitude = b.shl(b.and_(wide, e.const(0x7FFF, ints)), e.const(13, ints))
    # The exponent is rebiased by a multiplication, which makes denormals normal as well.
    scaled = b.fmul(b.bitcast(magnitude, floats), e.const(2.0**112, floats))
    special = b.icmp_unsigned(">=", magnitude, e.const(0x0F800000, ints))
    exponent = b.select(special, e.const(_INFINITY, ints), e.zero(ints))
    return b.bitcast(b.or_(b.or_(b.bitcast(scaled, ints), exponent), sign), floats)


def narrow(e: Emitter, value: Val) -> Val:
    """Return the bits of the f16 nearest to an f32, ties to even."""
    lanes = lanes_of(value.type)
    b, ints, floats = e.b, vector(I32, lanes), vector(F32, lanes)
    bits = b.bitcast(value, ints)
    sign = b.and_(b.lshr(bits, e.const(16, ints)), e.const(0x8000, ints))
    magnitude = b.and_(bits, e.const(0x7FFFFFFF, ints))
    odd = b.and_(b.lshr(magnitude, e.const(13, ints)), e.const(1, ints))
    rebias = e.const(((15 - 127) << 23) + 0xFFF, ints)
    normal = b.lshr(b.add(b.add(magnitude, rebias), odd), e.const(13, ints))
    # The ulp of 0.5 is the smallest denormal of f16: the addition rounds to it.
    shifted = b.fadd(b.bitcast(magnitude, floats), e.const(0.5, floats))
    denormal = b.sub(b.bitcast(shifted, ints), e.const(0x3F000000, ints))
    found = b.select(b.icmp_unsigned("<", magnitude, e.const(0x38800000, ints)), denormal, normal)
    large = b.icmp_unsigned(">=", magnitude, e.const(0x47800000, ints))
    nan = b.icmp_unsigned(">", magnitude, e.const(_INFINITY, ints))
    special = b.select(nan, e.const(_HALF_NAN, ints), e.const(_HALF_INFINITY, ints))
    found = b.select(large, special, found)
    return b.trunc(b.or_(found, sign), vector(I16, lanes))
