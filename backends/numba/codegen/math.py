"""Vector mathematics: functions of LLVM values, right for NaN, infinities and signed zeros.

The f32 functions are polynomials and rational functions of their own, with errors of a few units in
the last place. Other types, and functions that are rarely hot, call the C library lane by lane.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from lepton_ir.backends.numba.codegen.emitter import (
    F32,
    I32,
    Emitter,
    Val,
    element_of,
    lanes_of,
    round_f32,
    suffix,
    vector,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXP_LOW, _EXP_HIGH = -104.0, 89.0
ROUND = 12582912.0
"""1.5 * 2^23: adding it rounds a small float to an integer, in its lowest bits."""
ROUND_BITS = 0x4B400000
"""The bits of ``ROUND`` in f32."""
_LOG2E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP_COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_EXP_STEPS = 16
"""Parts of an octave whose powers of two are looked up."""
_EXP_PART_COEFFICIENTS = (0.16666667163, 0.5000079870)
"""e**r = 1 + r + r**2 * polynomial(r) for a sixteenth of an octave around 0."""
_LOG_COEFFICIENTS = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_TANH_LIMIT = 7.90531110763549805
_TANH_TOP = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_BOTTOM = (
    1.19825839466702e-06,
    1.18534705686654e-04,
    2.26843463243900e-03,
    4.89352518554385e-03,
)
_TANH_ONE = 9.25
"""From here on tanh is taken as 1."""
_TANH_START, _TANH_STOP = 0.5, 7.99
"""Parts are counted from here to there, beside the argument."""
_ERF_LIMIT = 4.0
_ERF_TOP = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_BOTTOM = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def _is_f32(x: Val) -> bool:
    return isinstance(element_of(x.type), ir.FloatType)


def polynomial(e: Emitter, x: Val, coefficients: tuple[float, ...]) -> Val:
    """Return a polynomial by Horner's rule, highest coefficient first."""
    total = e.const(coefficients[0], x.type)
    for c in coefficients[1:]:
        total = e.fma(total, x, e.const(c, x.type))
    return total


def library(e: Emitter, name: str, *args: Val) -> Val:
    """Call a function of the C library, lane by lane; its f32 form ends in ``f``."""
    type_ = args[0].type
    element = element_of(type_)
    full = name + ("f" if isinstance(element, ir.FloatType) else "")
    if not isinstance(type_, ir.VectorType):
        return e.intrinsic(full, element, args)
    result = ir.Constant(type_, ir.Undefined)
    for lane in range(type_.count):
        index = ir.Constant(I32, lane)
        scalars = [e.b.extract_element(a, index) for a in args]
        result = e.b.insert_element(result, e.intrinsic(full, element, scalars), index)
    return result


def _scaled(e: Emitter, x: Val, k: Val) -> Val:
    """Return ``x * 2**k`` for a float ``k`` that is an integer, denormal results included."""
    if lanes_of(x.type) == 16 and e.machine.has("avx512f"):
        full = ir.Constant(ir.IntType(16), -1)
        mode = ir.Constant(I32, 4)  # the current rounding mode
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        return e.intrinsic(name, x.type, [x, k, x, full, mode])
    ints = vector(I32, lanes_of(x.type))
    whole = e.b.fptosi(k, ints)
    half = e.b.ashr(whole, e.const(1, ints))
    for part in (half, e.b.sub(whole, half)):
        exponent = e.b.shl(e.b.add(part, e.const(127, ints)), e.const(23, ints))
        x = e.b.fmul(x, e.b.bitcast(exponent, x.type))
    return x


def exp(e: Emitter, x: Val, *, summand: bool = False) -> Val:
    """Return e to the power of x.

    Args:
        e: the emitter.
        x: the exponent.
        summand: whether the result is added to something near 1: large and small ones may be wrong
            by some more units in the last place.
    """
    if not _is_f32(x):
        return library(e, "exp", x)
    t, b = x.type, e.b
    x = e.below(e.above(x, e.const(_EXP_LOW, t)), e.const(_EXP_HIGH, t))
    if looks_up(e, x):
        return _exp_by_parts(e, x, summand)
    k = e.fma(x, e.const(_LOG2E, t), e.const(ROUND, t))
    k = b.fsub(k, e.const(ROUND, t))
    r = e.fma(k, e.const(-_LN2_HIGH, t), x)
    r = e.fma(k, e.const(-_LN2_LOW, t), r)
    p = polynomial(e, r, _EXP_COEFFICIENTS)
    p = e.fma(p, b.fmul(r, r), b.fadd(r, e.const(1.0, t)))
    # The conversion of NaN to an integer is undefined: it is put back at the end.
    safe = b.select(b.fcmp_unordered("uno", x, x), e.zero(t), k)
    return _scaled(e, p, safe)


def _exp_by_parts(e: Emitter, x: Val, summand: bool) -> Val:
    """Return e**x for x in range: a power of two is looked up, so that few terms are left."""
    t, b = x.type, e.b
    rounding = e.const(ROUND / _EXP_STEPS, t)  # to sixteenths, which are the lowest bits
    shifted = e.fma(x, e.const(_LOG2E, t), rounding)
    k = b.fsub(shifted, rounding)
    if summand:
        r = e.fma(k, e.const(-math.log(2), t), x)
    else:
        r = e.fma(k, e.const(-_LN2_LOW, t), e.fma(k, e.const(-_LN2_HIGH, t), x))
    part = _looked_up(e, [2.0 ** (i / _EXP_STEPS) for i in range(_EXP_STEPS)], shifted)
    p = e.fma(polynomial(e, r, _EXP_PART_COEFFICIENTS), b.fmul(r, r), r)
    return _scaled(e, e.fma(part, p, part), k)  # by the whole part of k


def looks_up(e: Emitter, x: Val) -> bool:
    """Return whether tables of 16 and 32 floats fit registers and are looked up there."""
    return lanes_of(x.type) == 16 and e.machine.has("avx512f")


def _looked_up(e: Emitter, table: Sequence[float], index: Val) -> Val:
    """Return elements of a table of 16 or 32 floats at the lowest bits of each lane."""
    ints, halves = vector(I32, 16), []
    for start in range(0, len(table), 16):
        part = [ir.Constant(F32, round_f32(v)) for v in table[start : start + 16]]
        halves.append(ir.Constant(vector(F32, 16), part))
    bits = e.b.bitcast(index, ints)
    if len(halves) == 1:
        name = "llvm.x86.avx512.permvar.sf.512"
        return e.intrinsic(name, halves[0].type, [halves[0], bits])
    name = "llvm.x86.avx512.vpermi2var.ps.512"
    return e.intrinsic(name, halves[0].type, [halves[0], bits, halves[1]])


def log(e: Emitter, x: Val) -> Val:
    """Return the natural logarithm."""
    if not _is_f32(x):
        return library(e, "log", x)
    t, b = x.type, e.b
    ints = vector(I32, lanes_of(t))
    tiny = b.fcmp_ordered("<", x, e.const(1.1754943508222875e-38, t))
    scaled = b.select(tiny, b.fmul(x, e.const(2.0**23, t)), x)
    bits = b.bitcast(scaled, ints)
    # The mantissa goes to [sqrt(1/2), sqrt(2)), the rest to the exponent.
    offset = b.sub(bits, e.const(0x3F3504F3, ints))
    exponent = b.ashr(offset, e.const(23, ints))
    mantissa = b.add(b.and_(offset, e.const(0x7FFFFF, ints)), e.const(0x3F3504F3, ints))
    m = b.fsub(b.bitcast(mantissa, t), e.const(1.0, t))
    k = b.sitofp(exponent, t)
    k = b.fsub(k, b.select(tiny, e.const(23.0, t), e.zero(t)))
    square = b.fmul(m, m)
    y = b.fmul(b.fmul(polynomial(e, m, _LOG_COEFFICIENTS), m), square)
    y = e.fma(k, e.const(_LN2_LOW, t), y)
    y = e.fma(square, e.const(-0.5, t), y)
    y = e.fma(k, e.const(_LN2_HIGH, t), b.fadd(y, m))
    infinity = e.const(math.inf, t)
    y = b.select(b.fcmp_ordered("==", x, infinity), infinity, y)
    y = b.select(b.fcmp_ordered("==", x, e.zero(t)), e.const(-math.inf, t), y)
    return b.select(b.fcmp_unordered("<", x, e.zero(t)), _nan(e, x), y)


def _nan(e: Emitter, like: Val) -> Val:
    return e.const(math.nan, like.type)


def _rational(
    e: Emitter, x: Val, limit: float, top: tuple[float, ...], bottom: tuple[float, ...]
) -> Val:
    """Return an odd rational function, constant beyond ``limit``."""
    x = e.below(e.above(x, e.const(-limit, x.type)), e.const(limit, x.type))
    square = e.b.fmul(x, x)
    return e.b.fdiv(e.b.fmul(x, polynomial(e, square, top)), polynomial(e, square, bottom))


def tanh(e: Emitter, x: Val) -> Val:
    """Return the hyperbolic tangent."""
    if not _is_f32(x):
        return library(e, "tanh", x)
    if looks_up(e, x):
        return _tanh_by_parts(e, x)
    found = _rational(e, x, _TANH_LIMIT, _TANH_TOP, _TANH_BOTTOM)
    size = e.unary("fabs", x)
    # 1 - tanh(9) is below half a unit in the last place; factors that are large notice one.
    sign = e.intrinsic(f"llvm.copysign.{suffix(x.type)}", x.type, [e.const(1.0, x.type), x])
    found = e.b.select(e.b.fcmp_ordered(">", size, e.const(9.0, x.type)), sign, found)
    return e.b.select(e.b.fcmp_ordered("<", size, e.const(4e-4, x.type)), x, found)


def _tanh_by_parts(e: Emitter, x: Val) -> Val:
    """Return the hyperbolic tangent by one of 32 polynomials, whose coefficients are looked up."""
    t, b = x.type, e.b
    size = e.below(e.unary("fabs", x), e.const(_TANH_ONE, t))
    # The parts are as wide as an eighth of the power of two below: the bits of a float count them.
    place = e.below(b.fadd(size, e.const(_TANH_START, t)), e.const(_TANH_STOP, t))
    bits = b.bitcast(place, vector(I32, lanes_of(t)))
    part = b.lshr(bits, e.const(20, bits.type))
    terms = [_looked_up(e, column, part) for column in zip(*_tanh_parts(), strict=True)]
    found = terms[-1]
    for term in reversed(terms[:-1]):
        found = e.fma(found, size, term)
    return e.intrinsic(f"llvm.copysign.{suffix(t)}", t, [found, x])


@functools.cache
def _tanh_parts() -> tuple[tuple[float, ...], ...]:
    """Return the coefficients of tanh in each part, lowest first, in the order of its bits."""
    found: dict[int, tuple[float, ...]] = {}
    for number in range(32):
        octave, eighth = divmod(number, 8)
        ends = [_TANH_START * 2.0**octave * (1 + n / 8) for n in (eighth, eighth + 1)]
        low, high = (v - _TANH_START for v in ends)
        bits = 8 * (126 + octave) + eighth  # exponents of the parts start at that of a half
        found[bits % 32] = _tanh_part(low, high if number < 31 else _TANH_ONE)
    return tuple(found[i] for i in range(32))


def _tanh_part(low: float, high: float) -> tuple[float, ...]:
    """Return the coefficients of tanh in one part, by interpolation.

    Around zero the first two are exact. Elsewhere they take what rounding the others costs in the
    middle, at the end of the last part, which is 1 from there on.
    """
    if low == 0.0:
        nodes = chebyshev_nodes(low, high, 3)
        return 0.0, 1.0, *interpolate(nodes, [(math.tanh(u) / u - 1) / u for u in nodes])
    nodes, fixed = chebyshev_nodes(low, high, 5), (low + high) / 2
    if high == _TANH_ONE:
        nodes, fixed = [low + (u - low) * (high - low) / (nodes[0] - low) for u in nodes], high
    terms = interpolate(nodes, list(map(math.tanh, nodes)))
    for power in (4, 3, 2):
        lost = terms[power] - round_f32(terms[power])
        terms[power] -= lost
        terms[1] += lost * power * fixed ** (power - 1)  # of the tangent there
        terms[0] -= lost * (power - 1) * fixed**power
    for power in (1, 0):
        lost = terms[power] - round_f32(terms[power])
        terms[power] -= lost
        terms[1 - power] += lost * fixed ** (2 * power - 1)
    return tuple(terms)


def chebyshev_nodes(low: float, high: float, count: int) -> list[float]:
    """Return the points of an interval where interpolation by a polynomial is nearly the best."""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle + half * math.cos(math.pi * (2 * i + 1) / (2 * count)) for i in range(count)]


def interpolate(nodes: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return the coefficients, lowest first, of the polynomial through some points."""
    count, slopes = len(nodes), list(values)
    for order in range(1, count):
        for i in range(count - 1, order - 1, -1):
            slopes[i] = (slopes[i] - slopes[i - 1]) / (nodes[i] - nodes[i - order])
    found = [0.0] * count
    for node, slope in zip(reversed(nodes), reversed(slopes), strict=True):
        moved = [0.0, *found[:-1]]
        found = [m - node * c for m, c in zip(moved, found, strict=True)]
        found[0] += slope
    return found


def erf(e: Emitter, x: Val) -> Val:
    """Return the error function."""
    if not _is_f32(x):
        return library(e, "erf", x)
    return _rational(e, x, _ERF_LIMIT, _ERF_TOP, _ERF_BOTTOM)


def sigmoid(e: Emitter, x: Val) -> Val:
    """Return ``1 / (1 + exp(-x))``."""
    one = e.const(1.0, x.type)
    return e.b.fdiv(one, e.b.fadd(one, exp(e, e.b.fneg(x), summand=True)))


def softplus(e: Emitter, x: Val) -> Val:
    """Return ``log(1 + exp(x))`` without overflow."""
    positive = maximum(e, x, e.zero(x.type))
    rest = exp(e, e.b.fneg(e.unary("fabs", x)))
    return e.b.fadd(positive, _log_of_one_and(e, rest))


def _log_of_one_and(e: Emitter, x: Val) -> Val:
    """Return ``log(1 + x)`` for ``0 <= x <= 1``, exact for small ``x``."""
    b, one = e.b, e.const(1.0, x.type)
    total = b.fadd(x, one)
    kept = b.fsub(total, one)  # the part of x that the sum holds
    safe = b.select(b.fcmp_unordered("==", kept, e.zero(x.type)), one, kept)
    found = b.fmul(log(e, total), b.fdiv(x, safe))
    return b.select(b.fcmp_unordered("==", kept, e.zero(x.type)), x, found)


def maximum(e: Emitter, x: Val, y: Val) -> Val:
    """Return the larger one; NaN if either is NaN."""
    b = e.b
    larger = b.select(b.fcmp_ordered(">", y, x), y, x)
    return b.select(b.fcmp_unordered("uno", y, y), y, larger)


def minimum(e: Emitter, x: Val, y: Val) -> Val:
    """Return the smaller one; NaN if either is NaN."""
    b = e.b
    smaller = b.select(b.fcmp_ordered("<", y, x), y, x)
    return b.select(b.fcmp_unordered("uno", y, y), y, smaller)


def gelu(e: Emitter, x: Val, approximate: str) -> Val:
    """Return the Gaussian error linear unit."""
    b, t = e.b, x.type
    half = b.fmul(x, e.const(0.5, t))
    if approximate == "tanh":
        cube = b.fmul(b.fmul(x, x), x)
        inner = b.fmul(e.fma(cube, e.const(0.044715, t), x), e.const(math.sqrt(2 / math.pi), t))
        return e.fma(half, tanh(e, inner), half)
    return e.fma(half, erf(e, b.fmul(x, e.const(math.sqrt(0.5), t))), half)


def power(e: Emitter, x: Val, exponent: float) -> Val:
    """Return x to a constant power."""
    b = e.b
    if exponent == 2.0:
        return b.fmul(x, x)
    if exponent == 3.0:
        return b.fmul(b.fmul(x, x), x)
    if exponent == 1.0:
        return x
    if exponent == -1.0:
        return b.fdiv(e.const(1.0, x.type), x)
    return library(e, "pow", x, e.const(exponent, x.type))


def to_int(e: Emitter, x: Val, type_: Any) -> Val:
    """Convert floats to integers towards zero; what does not fit becomes the smallest integer."""
    b = e.b
    width = element_of(type_).width
    limit = 2.0 ** (width - 1)
    low = b.fcmp_ordered(">=", x, e.const(-limit, x.type))
    fits = b.and_(low, b.fcmp_ordered("<", x, e.const(limit, x.type)))
    found = b.fptosi(b.select(fits, x, e.zero(x.type)), type_)
    return b.select(fits, found, e.const(-(2 ** (width - 1)), type_))
