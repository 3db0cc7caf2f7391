"""Elementwise expressions: programs over vectors, shared by all kernels that end or begin with one.

An expression is plain data, so it is part of a kernel's key. A row of ``TABLE`` is all it takes to
add an operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from lepton_ir.backends.numba.codegen import half
from lepton_ir.backends.numba.codegen import math as vmath
from lepton_ir.backends.numba.codegen.emitter import (
    F16,
    F32,
    F64,
    I1,
    I8,
    I16,
    I32,
    I64,
    Emitter,
    Val,
    element_of,
    lanes_of,
    vector,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.backends.numba.machine import Machine

FLOATS = ("f32", "f64", "f16", "bf16")
SIGNED = ("i64", "i32", "i16", "i8")
UNSIGNED = ("u64", "u32", "u16", "u8")
INTEGERS = (*SIGNED, *UNSIGNED)
STORED = (*FLOATS, *INTEGERS, "bool")
"""Element types that expressions read, compute and write."""

_MEMORY = {"f32": F32, "f64": F64, "f16": F16, "bf16": I16, "bool": I8}
_MEMORY |= {f"{s}{n}": t for s in "iu" for n, t in ((8, I8), (16, I16), (32, I32), (64, I64))}


def memory_type(dtype: str, machine: Machine) -> Any:
    """Return LLVM's type of an element in memory; f16 is bits where no instruction converts it."""
    return I16 if dtype == "f16" and not half.native(machine) else _MEMORY[dtype]


def compute_type(dtype: str) -> Any:
    """Return LLVM's type in which an element type is computed: 16-bit floats as f32."""
    return {"f16": F32, "bf16": F32, "bool": I1}.get(dtype) or _MEMORY[dtype]


def from_memory(e: Emitter, value: Val, dtype: str) -> Val:
    """Convert what was loaded to the type it is computed in."""
    lanes = lanes_of(value.type)
    if dtype == "f16":
        if isinstance(element_of(value.type), ir.IntType):
            return half.widen(e, value)
        return e.b.fpext(value, vector(F32, lanes))
    if dtype == "bf16":
        ints = vector(I32, lanes)
        wide = e.b.shl(e.b.zext(value, ints), e.const(16, ints))
        return e.b.bitcast(wide, vector(F32, lanes))
    if dtype == "bool":
        return e.b.icmp_unsigned("!=", value, e.zero(value.type))
    return value


def to_memory(e: Emitter, value: Val, dtype: str) -> Val:
    """Convert what was computed to the type that is stored."""
    lanes = lanes_of(value.type)
    if dtype == "f16":
        if not half.native(e.machine):
            return half.narrow(e, value)
        return e.b.fptrunc(value, vector(F16, lanes))
    if dtype == "bf16":
        return _to_bf16(e, value, lanes)
    if dtype == "bool":
        return e.b.zext(value, vector(I8, lanes))
    return value


def _to_bf16(e: Emitter, value: Val, lanes: int) -> Val:
    """Round to the nearest, ties to even; NaN stays NaN."""
    b, ints = e.b, vector(I32, lanes)
    bits = b.bitcast(value, ints)
    high = b.lshr(bits, e.const(16, ints))
    odd = b.and_(high, e.const(1, ints))
    rounded = b.lshr(b.add(bits, b.add(odd, e.const(0x7FFF, ints))), e.const(16, ints))
    nan = b.or_(high, e.const(0x40, ints))
    kept = b.select(b.fcmp_unordered("uno", value, value), nan, rounded)
    return b.trunc(kept, vector(I16, lanes))


@dataclass(frozen=True)
class Step:
    """One operation of an expression.

    Attributes:
        op: key of ``TABLE``, or ``const``.
        dtype: element type of the result.
        args: numbers of its operands; inputs come first, then steps.
        attrs: what else the code depends on.
    """

    op: str
    dtype: str
    args: tuple[int, ...] = ()
    attrs: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Expression:
    """A program over elements.

    Attributes:
        inputs: element types of the inputs.
        steps: what is computed, in order.
        outputs: numbers of the results.
    """

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def dtype(self, number: int) -> str:
        """Return the element type of a value."""
        count = len(self.inputs)
        return self.inputs[number] if number < count else self.steps[number - count].dtype

    @property
    def output_types(self) -> tuple[str, ...]:
        """Element types of the results."""
        return tuple(map(self.dtype, self.outputs))

    def emit(self, e: Emitter, inputs: Sequence[Val], lanes: int) -> list[Val]:
        """Emit the program over vectors of computed types."""
        values = list(inputs)
        for step in self.steps:
            if step.op == "const":
                type_ = vector(compute_type(step.dtype), lanes)
                values.append(e.const(step.attrs[0], type_))
                continue
            args = [values[i] for i in step.args]
            found = TABLE[step.op].emit(_Call(e, step, self.dtype(step.args[0])), *args)
            values.append(_rounded(e, found, step.dtype))
        return [values[i] for i in self.outputs]


def _rounded(e: Emitter, value: Val, dtype: str) -> Val:
    """Round a value to a 16-bit type, as storing each intermediate would."""
    if dtype in ("f16", "bf16"):
        return from_memory(e, to_memory(e, value, dtype), dtype)
    return value


@dataclass(frozen=True)
class _Call:
    """What an emitter of one step may ask."""

    e: Emitter
    step: Step
    source: str

    @property
    def is_float(self) -> bool:
        """Whether the first operand is a float."""
        return self.source in FLOATS

    @property
    def is_signed(self) -> bool:
        """Whether the first operand is signed."""
        return self.source not in UNSIGNED


@dataclass(frozen=True)
class Row:
    """An operation of expressions: how it is emitted, and for which operand types."""

    emit: Callable[..., Val]
    types: tuple[str, ...]


TABLE: dict[str, Row] = {}
"""Operations by their name in the IR."""


def row(name: str, types: tuple[str, ...]) -> Callable[[Callable[..., Val]], Callable[..., Val]]:
    """Register ``emit(call, *operands)`` for an operation whose operands have one of ``types``."""

    def register(emit: Callable[..., Val]) -> Callable[..., Val]:
        TABLE[name] = Row(emit, types)
        return emit

    return register


def _binary(name: str, floating: str, integer: str) -> None:
    def emit(call: _Call, x: Val, y: Val) -> Val:
        return getattr(call.e.b, floating if call.is_float else integer)(x, y)

    TABLE[name] = Row(emit, (*FLOATS, *INTEGERS))


_binary("add", "fadd", "add")
_binary("sub", "fsub", "sub")
_binary("mul", "fmul", "mul")


@row("div", FLOATS)
def _div(call: _Call, x: Val, y: Val) -> Val:
    return call.e.b.fdiv(x, y)


def _compare(name: str, sign: str) -> None:
    def emit(call: _Call, x: Val, y: Val) -> Val:
        b = call.e.b
        if call.is_float:
            return b.fcmp_ordered(sign, x, y)
        return (b.icmp_signed if call.is_signed else b.icmp_unsigned)(sign, x, y)

    TABLE[name] = Row(emit, (*FLOATS, *INTEGERS, *(("bool",) if sign == "==" else ())))


_compare("equal", "==")
_compare("less", "<")
_compare("greater", ">")
_compare("less_or_equal", "<=")
_compare("greater_or_equal", ">=")


def _logic(name: str, method: str) -> None:
    def emit(call: _Call, x: Val, y: Val) -> Val:
        return getattr(call.e.b, method)(x, y)

    TABLE[name] = Row(emit, ("bool",))


_logic("and", "and_")
_logic("or", "or_")
_logic("xor", "xor")


@row("not", ("bool",))
def _not(call: _Call, x: Val) -> Val:
    return call.e.b.not_(x)


@row("where", ("bool",))
def _where(call: _Call, condition: Val, x: Val, y: Val) -> Val:
    return call.e.b.select(condition, x, y)


@row("neg", (*FLOATS, *SIGNED))
def _neg(call: _Call, x: Val) -> Val:
    return call.e.b.fneg(x) if call.is_float else call.e.b.neg(x)


@row("abs", (*FLOATS, *SIGNED))
def _abs(call: _Call, x: Val) -> Val:
    if call.is_float:
        return call.e.unary("fabs", x)
    b = call.e.b
    return b.select(b.icmp_signed("<", x, call.e.zero(x.type)), b.neg(x), x)


@row("sign", FLOATS)
def _sign(call: _Call, x: Val) -> Val:
    e, zero = call.e, call.e.zero(x.type)
    one = e.const(1.0, x.type)
    found = e.b.select(e.b.fcmp_ordered(">", x, zero), one, zero)
    found = e.b.select(e.b.fcmp_ordered("<", x, zero), e.b.fneg(one), found)
    return e.b.select(e.b.fcmp_unordered("uno", x, x), x, found)


def _extremum(name: str, sign: str) -> None:
    def emit(call: _Call, *operands: Val) -> Val:
        function = vmath.maximum if sign == ">" else vmath.minimum
        b, total = call.e.b, operands[0]
        for x in operands[1:]:
            if call.is_float:
                total = function(call.e, total, x)
            else:
                better = (b.icmp_signed if call.is_signed else b.icmp_unsigned)(sign, x, total)
                total = b.select(better, x, total)
        return total

    TABLE[name] = Row(emit, (*FLOATS, *INTEGERS))


_extremum("max", ">")
_extremum("min", "<")


@row("sum", FLOATS)
def _sum(call: _Call, *operands: Val) -> Val:
    total = operands[0]
    for x in operands[1:]:
        total = call.e.b.fadd(total, x)
    return total


@row("at_least", FLOATS)
def _at_least(call: _Call, x: Val, low: Val) -> Val:
    """Raise to a bound that is no NaN; a NaN passes. Half of a clip."""
    return call.e.above(x, low)


@row("at_most", FLOATS)
def _at_most(call: _Call, x: Val, high: Val) -> Val:
    """Lower to a bound that is no NaN; a NaN passes. The other half of a clip."""
    return call.e.below(x, high)


@row("relu", FLOATS)
def _relu(call: _Call, x: Val) -> Val:
    return call.e.above(x, call.e.zero(x.type))


@row("leaky_relu", FLOATS)
def _leaky_relu(call: _Call, x: Val) -> Val:
    e = call.e
    slope = e.const(call.step.attrs[0], x.type)
    return e.b.select(e.b.fcmp_ordered("<", x, e.zero(x.type)), e.b.fmul(x, slope), x)


@row("prelu", FLOATS)
def _prelu(call: _Call, x: Val, slope: Val) -> Val:
    e = call.e
    return e.b.select(e.b.fcmp_ordered("<", x, e.zero(x.type)), e.b.fmul(x, slope), x)


@row("elu", FLOATS)
def _elu(call: _Call, x: Val) -> Val:
    e = call.e
    below = e.b.fsub(vmath.exp(e, x), e.const(1.0, x.type))
    below = e.b.fmul(below, e.const(call.step.attrs[0], x.type))
    return e.b.select(e.b.fcmp_ordered("<", x, e.zero(x.type)), below, x)


@row("hard_sigmoid", FLOATS)
def _hard_sigmoid(call: _Call, x: Val) -> Val:
    e, (alpha, beta) = call.e, call.step.attrs
    inner = e.fma(x, e.const(alpha, x.type), e.const(beta, x.type))
    return e.below(e.above(inner, e.zero(x.type)), e.const(1.0, x.type))


@row("hard_swish", FLOATS)
def _hard_swish(call: _Call, x: Val) -> Val:
    e = call.e
    inner = e.fma(x, e.const(1 / 6, x.type), e.const(0.5, x.type))
    return e.b.fmul(x, e.below(e.above(inner, e.zero(x.type)), e.const(1.0, x.type)))


@row("swish", FLOATS)
def _swish(call: _Call, x: Val) -> Val:
    e, alpha = call.e, call.step.attrs[0]
    inner = x if alpha == 1.0 else e.b.fmul(x, e.const(alpha, x.type))
    one = e.const(1.0, x.type)
    return e.b.fdiv(x, e.b.fadd(one, vmath.exp(e, e.b.fneg(inner))))


@row("mish", FLOATS)
def _mish(call: _Call, x: Val) -> Val:
    return call.e.b.fmul(x, vmath.tanh(call.e, vmath.softplus(call.e, x)))


@row("gelu", FLOATS)
def _gelu(call: _Call, x: Val) -> Val:
    return vmath.gelu(call.e, x, call.step.attrs[0])


@row("pow", FLOATS)
def _pow(call: _Call, x: Val, y: Val = None) -> Val:
    if y is None:
        return vmath.power(call.e, x, call.step.attrs[0])
    return vmath.library(call.e, "pow", x, y)


@row("reciprocal", FLOATS)
def _reciprocal(call: _Call, x: Val) -> Val:
    return call.e.b.fdiv(call.e.const(1.0, x.type), x)


@row("softsign", FLOATS)
def _softsign(call: _Call, x: Val) -> Val:
    e = call.e
    return e.b.fdiv(x, e.b.fadd(e.const(1.0, x.type), e.unary("fabs", x)))


@row("is_nan", FLOATS)
def _is_nan(call: _Call, x: Val) -> Val:
    return call.e.b.fcmp_unordered("uno", x, x)


@row("identity", STORED)
def _identity(call: _Call, x: Val) -> Val:
    return x


for _name, _function in (
    ("exp", vmath.exp),
    ("log", vmath.log),
    ("tanh", vmath.tanh),
    ("erf", vmath.erf),
    ("sigmoid", vmath.sigmoid),
    ("softplus", vmath.softplus),
):
    TABLE[_name] = Row(lambda call, x, f=_function: f(call.e, x), FLOATS)

for _name, _intrinsic in (
    ("sqrt", "sqrt"),
    ("floor", "floor"),
    ("ceil", "ceil"),
    ("round", "rint"),
):
    TABLE[_name] = Row(lambda call, x, n=_intrinsic: call.e.unary(n, x), FLOATS)

_LIBRARY = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")
for _name in _LIBRARY:
    TABLE[_name] = Row(lambda call, x, n=_name: vmath.library(call.e, n, x), FLOATS)


@row("cast", STORED)
def _cast(call: _Call, x: Val) -> Val:
    """Convert between element types; see :func:`can_cast` for the pairs that are allowed."""
    e, b = call.e, call.e.b
    source, wanted = call.source, call.step.dtype
    type_ = vector(compute_type(wanted), lanes_of(x.type))
    if wanted == "bool":
        if source == "bool":
            return x
        zero = e.zero(x.type)
        return b.fcmp_unordered("!=", x, zero) if call.is_float else b.icmp_signed("!=", x, zero)
    if wanted in FLOATS:
        if source in FLOATS:
            return _resize_float(e, x, type_)
        unsigned = source == "bool" or source in UNSIGNED
        return (b.uitofp if unsigned else b.sitofp)(x, type_)
    if source in FLOATS:
        return vmath.to_int(e, x, type_)
    return _resize_int(e, x, type_, source == "bool" or source in UNSIGNED)


def _resize_float(e: Emitter, x: Val, type_: Any) -> Val:
    have, want = element_of(x.type), element_of(type_)
    if str(have) == str(want):
        return x
    return e.b.fpext(x, type_) if isinstance(want, ir.DoubleType) else e.b.fptrunc(x, type_)


def _resize_int(e: Emitter, x: Val, type_: Any, unsigned: bool) -> Val:
    have, want = element_of(x.type).width, element_of(type_).width
    if have == want:
        return x
    if have > want:
        return e.b.trunc(x, type_)
    return (e.b.zext if unsigned else e.b.sext)(x, type_)


@row("quantize_linear", ("f32",))
def _quantize(call: _Call, x: Val, *rest: Val) -> Val:
    """Divide by a scale, round, add a zero point, saturate; NaN gives the lowest integer.

    ``attrs`` say whether there are a scale other than 1 and a zero point other than 0, as operands
    in f32.
    """
    e, operands, wanted = call.e, iter(rest), call.step.dtype
    divides, moves = call.step.attrs
    bits = int(wanted[1:])
    low = 0 if wanted in UNSIGNED else -(1 << (bits - 1))
    high = low + (1 << bits) - 1
    if divides:
        x = e.b.fdiv(x, next(operands))
    bottom, top = e.const(low, x.type), e.const(high, x.type)
    ints = vector(I32, lanes_of(x.type))
    offset = e.const(-vmath.ROUND_BITS, ints)
    if moves:
        zero = next(operands)
        bottom, top = e.b.fsub(bottom, zero), e.b.fsub(top, zero)
        offset = e.b.add(e.b.fptosi(zero, ints), offset)
    # A comparison with NaN fails, so that the bound is taken.
    x = e.b.select(e.b.fcmp_ordered(">", x, bottom), x, bottom)
    x = e.b.select(e.b.fcmp_ordered("<", x, top), x, top)
    shifted = e.b.bitcast(e.b.fadd(x, e.const(vmath.ROUND, x.type)), ints)
    found = e.b.add(shifted, offset)
    return e.b.trunc(found, vector(compute_type(wanted), lanes_of(x.type)))


def has_byte_permutation(machine: Machine) -> bool:
    """Return whether bytes are looked up in a table of two vectors by one instruction."""
    return machine.lanes == 16 and machine.has("avx512vbmi")


@row("lookup", ("u8", "i8"))
def _lookup(call: _Call, code: Val, address: Val) -> Val:
    """Look bytes up in a table of 256."""
    e, lanes = call.e, lanes_of(code.type)
    first = address if lanes == 1 else e.b.extract_element(address, ir.Constant(I32, 0))
    table = e.ptr(first)
    if lanes == 16 and has_byte_permutation(e.machine):
        return _permuted(e, code, table)
    offsets = e.b.zext(code, vector(I64, lanes))
    if lanes == 1:
        return e.load(e.off(table, offsets), I8)
    places = e.b.inttoptr(e.b.add(address, offsets), ir.VectorType(ir.PointerType(), lanes))
    type_, mask = vector(I32, lanes), ir.Constant(ir.VectorType(I1, lanes), [1] * lanes)
    name = f"llvm.masked.gather.v{lanes}i32.v{lanes}p0"
    found = e.intrinsic(name, type_, [places, ir.Constant(I32, 1), mask, e.zero(type_)])
    return e.b.trunc(found, code.type)


def _permuted(e: Emitter, code: Val, table: Val) -> Val:
    """Look 16 bytes up in four vectors of 64, by the lower and the upper half of the table."""
    wide = vector(I8, 64)
    spread = ir.Constant(ir.VectorType(I32, 64), [i % 16 for i in range(64)])
    index = e.b.shuffle_vector(code, code, spread)
    halves = []
    for start in (0, 128):
        low, high = (e.load(table, wide, start + n) for n in (0, 64))
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        found = e.intrinsic(name, wide, [low, index, high])
        first = ir.Constant(ir.VectorType(I32, 16), list(range(16)))
        halves.append(e.b.shuffle_vector(found, found, first))
    upper = e.b.icmp_signed("<", code, e.zero(code.type))
    return e.b.select(upper, halves[1], halves[0])


def can_cast(source: str, wanted: str) -> bool:
    """Return whether ``cast`` computes what NumPy does for these types."""
    if source not in STORED or wanted not in STORED:
        return False
    return not (source in FLOATS and wanted in INTEGERS) or wanted in ("i32", "i64")
