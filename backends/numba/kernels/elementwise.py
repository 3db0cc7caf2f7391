"""Elementwise operations: any expression over strided, broadcast tensors as one kernel."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.emitter import Emitter, Val, i64, vector
from lepton_ir.backends.numba.codegen.expression import (
    FLOATS,
    STORED,
    TABLE,
    Expression,
    Step,
    can_cast,
    from_memory,
    memory_type,
    to_memory,
)
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.quantized import OPERATIONS, translate_quantization
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Tensor
from lepton_ir.backends.numba.strides import broadcast, collapse
from lepton_ir.ir import Op
from lepton_ir.tensors import from_array
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Array, Ref
    from lepton_ir.ir import Value

MAX_OUTER = 5
"""Outer loops of a kernel; tensors that need more are left to NumPy."""

MAX_SINGLES = 1 << 14
"""Elements that are written one by one because they lie apart; NumPy is faster with more."""

_FEW_STEPS = 4
"""Expressions up to this length are unrolled four times, longer ones twice."""

_BY_TURNS = 2
"""Vectors whose steps are emitted by turns."""

_ATTRS = {
    "leaky_relu": ("alpha",),
    "elu": ("alpha",),
    "hard_sigmoid": ("alpha", "beta"),
    "swish": ("alpha",),
    "gelu": ("approximate",),
}
_CHEAP_POWERS = (1.0, 2.0, 3.0, -1.0)


# -- from operations to expressions ----------------------------------------------------------------


@dataclass
class Translation:
    """Collects operations into one expression.

    Attributes:
        lo: the operation being lowered.
        apart: numbers are read while running, so that the code does not depend on them.
        leaves: values that the expression reads, in the order of its inputs.
        functions: results that are functions of one tensor of bytes: that tensor, and the
            operations between.
    """

    lo: Lowering
    apart: bool = False
    leaves: list[Value] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    functions: dict[Value, tuple[Value, list[Op]]] = field(default_factory=dict)
    _numbers: dict[Value, int] = field(default_factory=dict)

    def input(self, value: Value, dtype: str = "") -> int:
        """Return the negative number of an input; made positive when finished.

        Raises:
            Declined: its element type is not computed here.
        """
        if value not in self._numbers:
            found = dtype or (value.dtype.name if value.dtype else "?")
            if found not in STORED:
                self.lo.decline(f"elements of type {found}")
            self.leaves.append(value)
            self.inputs.append(found)
            self._numbers[value] = -len(self.leaves)
        return self._numbers[value]

    def operand(self, value: Value | None) -> int:
        """Return the number of an operand: a step, a constant or an input."""
        if value is None:
            self.lo.decline("an operand is absent")
        if value in self._numbers:
            return self._numbers[value]
        known = self.lo.known_value(value)
        dtype = "" if value.dtype is None else value.dtype.name
        if known is not None and known.size == 1 and dtype in STORED:
            if self.apart and dtype == "f32":
                return self.number(float(known.reshape(-1)[0]))
            return self.const(known.reshape(-1)[0], dtype)
        return self.input(value)

    def number_of(self, value: Value) -> float | int | None:
        """Return a known value of one element."""
        known = self.lo.known_value(value)
        return None if known is None or known.size != 1 else _number(known.reshape(-1)[0])

    def number(self, value: float) -> int:
        """Return the number of an f32 that is read while running."""
        return self.input(_stand_in(float(value), "f32"))

    def address(self, constant: Array) -> int:
        """Return the number of the address of a constant, which lives as long as the session."""
        return self.input(_stand_in(constant.ctypes.data, "u64"))

    def const(self, value: Any, dtype: str) -> int:
        """Add a constant."""
        plain = bool(value) if dtype == "bool" else _number(value)
        return self.step(Step("const", dtype, (), (plain,)))

    def step(self, step: Step) -> int:
        """Add a step; return its number."""
        self.steps.append(step)
        return len(self.steps) - 1

    def define(self, value: Value, number: int) -> None:
        """Note that ``value`` is a step or input."""
        self._numbers[value] = number

    def dtype(self, number: int) -> str:
        """Return the element type of an input (negative) or step."""
        return self.inputs[-number - 1] if number < 0 else self.steps[number].dtype

    def add(self, op: Op) -> int:
        """Add an operation.

        Raises:
            Declined: it is not elementwise, or not for these element types.
        """
        if op.name in OPERATIONS:
            number = translate_quantization(self, op)
        else:
            number = self._clip(op) if op.name == "clip" else self._plain(op)
        self.define(op.results[0], number)
        return number

    def _plain(self, op: Op) -> int:
        if op.name not in TABLE or len(op.results) != 1:
            self.lo.decline(f"{op.name} is not elementwise")
        wanted = op.results[0].dtype
        if wanted is None or wanted.name not in STORED:
            self.lo.decline("the element type is not computed here")
        attrs = tuple(op.attr(n) for n in _ATTRS.get(op.name, ()))
        if op.name == "pow":
            args, attrs = self._power(op)
        else:
            args = [self.operand(v) for v in op.operands]
        self._check_types(op, args, wanted.name)
        return self.step(Step(op.name, wanted.name, tuple(args), attrs))

    def _check_types(self, op: Op, args: list[int], wanted: str) -> None:
        types = [self.dtype(a) for a in args]
        if op.name == "cast":
            if not can_cast(types[0], wanted) or op.attr("round_mode") != "up":
                self.lo.decline(f"cast from {types[0]} to {wanted}")
            return
        if types[0] not in TABLE[op.name].types:
            self.lo.decline(f"{op.name} of {types[0]}")
        rest = types[1:]
        if len(set(rest)) > 1 or (op.name != "where" and any(t != types[0] for t in rest)):
            self.lo.decline("operands of several element types")

    def _power(self, op: Op) -> tuple[list[int], tuple[float, ...]]:
        x, y = op.operands
        assert x is not None
        assert y is not None
        known = self.lo.known_value(y)
        if known is not None and known.size == 1:
            exponent = float(known.reshape(-1)[0])
            if exponent in _CHEAP_POWERS:
                return [self.operand(x)], (exponent,)
            base = self.operand(x)
            return [base, self.const(exponent, self.dtype(base))], ()
        return [self.operand(x), self.operand(y)], ()

    def _clip(self, op: Op) -> int:
        number = self.operand(op.operands[0])
        dtype = self.dtype(number)
        if dtype not in TABLE["max"].types:
            self.lo.decline(f"clip of {dtype}")
        names = ("at_least", "at_most") if dtype in FLOATS else ("max", "min")
        for value, name in zip(op.operands[1:], names, strict=False):
            if value is None:
                continue
            known = self.lo.known_value(value)
            if known is None or known.size != 1 or math.isnan(float(known.reshape(-1)[0])):
                self.lo.decline("bounds of clip that are not known")
            bound = self.const(known.reshape(-1)[0], dtype)
            number = self.step(Step(name, dtype, (number, bound)))
        if number < 0:
            number = self.step(Step("identity", dtype, (number,)))
        return number

    def _prune(self, outputs: Sequence[int]) -> list[int]:
        """Drop what no output needs; return the outputs' new numbers."""
        needed, pending = set(), list(outputs)
        while pending:
            number = pending.pop()
            if number not in needed:
                needed.add(number)
                pending += self.steps[number].args if number >= 0 else ()
        # The first input is the accumulator of an epilogue.
        kept = [i for i in range(len(self.inputs)) if i == 0 or -i - 1 in needed]
        alive = [i for i in range(len(self.steps)) if i in needed]
        moved = {i: n for n, i in enumerate(alive)} | {-i - 1: -n - 1 for n, i in enumerate(kept)}
        self.leaves = [self.leaves[i] for i in kept]
        self.inputs = [self.inputs[i] for i in kept]
        self.steps = [
            Step(s.op, s.dtype, tuple(moved[a] for a in s.args), s.attrs)
            for s in (self.steps[i] for i in alive)
        ]
        return [moved[o] for o in outputs]

    def finish(self, outputs: Sequence[int]) -> Expression:
        """Return the expression, its inputs numbered from 0 and its steps behind them.

        Steps that are not needed are left out, and so are the inputs that they alone read.
        """
        outputs = self._prune(outputs)
        count = len(self.inputs)

        def final(number: int) -> int:
            return -number - 1 if number < 0 else number + count

        steps = tuple(Step(s.op, s.dtype, tuple(map(final, s.args)), s.attrs) for s in self.steps)
        return Expression(tuple(self.inputs), steps, tuple(map(final, outputs)))


@functools.lru_cache(4096)
def _stand_in(value: float, dtype: str) -> Value:
    """Return a constant of one element."""
    kind = dtypes.F32 if dtype == "f32" else dtypes.U64
    op = Op("const", None, [], {"value": from_array(np.array(value, kind.numpy))}, 1)
    op.results[0].type = TensorType(kind, ())
    return op.results[0]


def _number(value: Any) -> float | int:
    kind = np.asarray(value).dtype.kind
    return int(value) if kind in "iu" else float(value)


# -- lowering --------------------------------------------------------------------------------------


@lowers("fused", tail=True)
def _lower_group(lo: Lowering) -> None:
    """Lower a group of elementwise operations."""
    translation = Translation(lo)
    number = 0
    for op in lo.tail:
        number = translation.add(op)
    lower_expression(lo, translation, [number])


def _lower_one(lo: Lowering) -> None:
    translation = Translation(lo)
    lower_expression(lo, translation, [translation.add(lo.op)])


for _op in (*TABLE, "clip", "dequantize_linear"):
    if _op not in ("at_least", "at_most", "identity"):
        lowers(_op)(_lower_one)


def lower_expression(lo: Lowering, translation: Translation, outputs: list[int]) -> None:
    """Compute the results of the operation as one expression over strided tensors."""
    expression = translation.finish(outputs)
    tensors = [lo.tensor(v) for v in translation.leaves]
    results = [lo.type(i) for i in range(len(outputs))]
    shape = results[0][1]
    if any(r[1] != shape for r in results):
        lo.decline("results of several shapes")
    if any(t.blocked is not None for t in tensors) and len(results) == 1:
        from lepton_ir.backends.numba.kernels.blocked import lower_blocked

        if lower_blocked(lo, expression, tensors, *results[0]):
            return
    tensors = [_readable(lo, t) for t in tensors]
    made = [lo.new(*r) for r in results]
    call_strided(lo, expression, tensors, made, shape)
    for i, t in enumerate(made):
        lo.set(t, i)
    for t in tensors:
        if t.is_plain and t.shape == shape and t.itemsize == made[0].itemsize:
            lo.in_place(made[0], t)


def _readable(lo: Lowering, t: Tensor) -> Tensor:
    """Return a tensor whose rows can be loaded as vectors."""
    if t.blocked is not None:
        return lo.plain(t)
    sizes, (strides,) = collapse(t.shape, [t.strides])
    if strides[-1] in (0, 1) or sizes[-1] == 1:
        return t
    return lo.plain(t)


def call_strided(
    lo: Lowering,
    expression: Expression,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    shape: Sequence[int],
) -> None:
    """Add a call that evaluates ``expression`` for every index of ``shape``.

    Raises:
        Declined: too many loops, or results that are not written row by row.
    """
    tensors = [*inputs, *outputs]
    strides = [broadcast(t, shape) for t in inputs] + [t.strides for t in outputs]
    call_loops(lo, expression, [t.ref for t in tensors], shape, strides)


def call_loops(
    lo: Lowering,
    expression: Expression,
    refs: Sequence[Ref],
    shape: Sequence[int],
    strides: Sequence[Sequence[int]],
) -> None:
    """Like :func:`call_strided`, with addresses and strides (in elements) given."""
    sizes, kept = collapse(shape, strides)
    count = len(expression.inputs)
    if any(s[-1] != 1 and sizes[-1] != 1 for s in kept[count:]):
        if math.prod(sizes) > MAX_SINGLES:
            lo.decline("results are not written row by row")
        sizes.append(1)
        for s in kept:
            s.append(1)
    if len(sizes) - 1 > MAX_OUTER:
        lo.decline("too many loops")
    modes = "".join({0: "s", 1: "v"}.get(s[-1], "g") for s in kept[:count])
    if sizes[-1] == 1:
        modes = "v" * count
    types = [*expression.inputs, *expression.output_types]
    args: list[int | Ref] = [*sizes]
    for number, (ref, stride, dtype) in enumerate(zip(refs, kept, types, strict=True)):
        size = itemsize(dtype)
        args += [ref, *(s * size for s in stride[:-1])]
        if number < count and modes[number] == "g":
            args.append(stride[-1] * size)
    lo.call(Kernel("elementwise", (expression, len(sizes) - 1, modes)), *args)


def itemsize(dtype: str) -> int:
    """Return the bytes of an element."""
    return 1 if dtype == "bool" else int(dtype.lstrip("biuf")) // 8


# -- the kernel ------------------------------------------------------------------------------------


@emits("elementwise")
def emit_elementwise(e: Emitter, expression: Expression, outer: int, modes: str) -> None:
    """Emit a loop nest around an expression.

    Args:
        e: the emitter.
        expression: what is computed.
        outer: number of loops around the innermost one.
        modes: how each input runs along the innermost loop: ``v`` element by element, ``s`` not at
            all, ``g`` with a stride.
    """
    types = [*expression.inputs, *expression.output_types]
    count = outer + 1 + len(types) * (outer + 1) + modes.count("g")
    args = iter(e.args(count))
    sizes = [next(args) for _ in range(outer + 1)]
    pointers, strides, steps = [], [], []
    for number in range(len(types)):
        pointers.append(e.ptr(next(args)))
        strides.append([next(args) for _ in range(outer)])
        gathers = number < len(modes) and modes[number] == "g"
        steps.append(next(args) if gathers else None)
    inner = _Inner(e, expression, modes, steps)
    _nest(e, inner, sizes, pointers, strides, 0)


def _nest(
    e: Emitter,
    inner: _Inner,
    sizes: list[Val],
    pointers: list[Val],
    strides: list[list[Val]],
    depth: int,
) -> None:
    """Emit the loops from ``depth`` on; threads share the outermost one."""
    if depth == len(sizes) - 1:
        inner.emit(pointers, sizes[depth], shared=depth == 0)
        return
    start, stop = e.share(sizes[0]) if depth == 0 else (i64(0), sizes[depth])

    def body(index: Val) -> None:
        moved = [e.off(p, e.b.mul(index, s[depth])) for p, s in zip(pointers, strides, strict=True)]
        _nest(e, inner, sizes, moved, strides, depth + 1)

    e.each(stop, body, start=start)


class _Inner:
    """The innermost loop: vectors, then a masked rest."""

    def __init__(
        self, e: Emitter, expression: Expression, modes: str, steps: list[Val | None]
    ) -> None:
        self.e = e
        self.expression = expression
        self.modes = modes
        self.steps = steps
        self.types = [*expression.inputs, *expression.output_types]
        self.unroll = 4 if len(expression.steps) <= _FEW_STEPS else 2

    def emit(self, pointers: list[Val], size: Val, shared: bool) -> None:
        """Emit the loop over ``size`` elements."""
        e, lanes = self.e, self.e.lanes
        block = lanes * self.unroll
        start, stop = i64(0), size
        if shared:
            first, last = e.share(e.ceil_div(size, block))
            start = e.b.mul(first, i64(block))
            stop = e.minimum(e.b.mul(last, i64(block)), size)
        fixed = [
            self._scalar(pointers[i], i, lanes) if m == "s" else None
            for i, m in enumerate(self.modes)
        ]
        length = e.b.sub(stop, start)
        full = e.b.add(start, e.b.and_(length, i64(-block)))
        e.each(
            full,
            lambda i: self._block(pointers, fixed, i, self.unroll),
            start=start,
            step=block,
        )
        if "g" in self.modes:
            e.each(stop, lambda i: self._single(pointers, i), start=full)
            return
        vectors = e.b.add(full, e.b.and_(e.b.sub(stop, full), i64(-lanes)))
        e.each(vectors, lambda i: self._block(pointers, fixed, i, 1), start=full, step=lanes)
        with e.b.if_then(e.b.icmp_signed("<", vectors, stop)):
            self._masked(pointers, fixed, vectors, e.b.sub(stop, vectors))

    def _scalar(self, pointer: Val, number: int, lanes: int) -> Val:
        dtype = self.types[number]
        value = from_memory(self.e, self.e.load(pointer, memory_type(dtype, self.e.machine)), dtype)
        return self.e.splat(value, lanes)

    def _at(self, pointer: Val, number: int, index: Val) -> Val:
        return self.e.off(pointer, self.e.b.mul(index, i64(itemsize(self.types[number]))))

    def _block(self, pointers: list[Val], fixed: list[Val | None], index: Val, unroll: int) -> None:
        e, lanes = self.e, self.e.lanes
        count = len(self.modes)
        places = [self._at(p, i, index) for i, p in enumerate(pointers)]

        def vector_at(u: int) -> None:
            values = []
            for i, mode in enumerate(self.modes):
                if mode == "s":
                    values.append(fixed[i])
                    continue
                dtype = self.types[i]
                if mode == "g":
                    values.append(self._gather(pointers[i], i, index, u * lanes))
                    continue
                type_ = vector(memory_type(dtype, self.e.machine), lanes)
                offset = u * lanes * itemsize(dtype)
                values.append(from_memory(e, e.load(places[i], type_, offset), dtype))
            for j, found in enumerate(self.expression.emit(e, values, lanes)):
                dtype = self.types[count + j]
                offset = u * lanes * itemsize(dtype)
                e.store(to_memory(e, found, dtype), places[count + j], offset)

        for u in range(0, unroll, _BY_TURNS):
            e.interleave(
                [functools.partial(vector_at, n) for n in range(u, min(u + _BY_TURNS, unroll))]
            )

    def _gather(self, pointer: Val, number: int, index: Val, first: int) -> Val:
        """Load lanes that stand apart in memory."""
        e, lanes, dtype = self.e, self.e.lanes, self.types[number]
        element = memory_type(dtype, self.e.machine)
        value = e.zero(vector(element, lanes))
        place = e.off(pointer, e.b.mul(e.b.add(index, i64(first)), self.steps[number]))
        for lane in range(lanes):
            loaded = e.load(place, element)
            value = e.b.insert_element(value, loaded, i64(lane))
            if lane + 1 < lanes:
                place = e.off(place, self.steps[number])
        return from_memory(e, value, dtype)

    def _single(self, pointers: list[Val], index: Val) -> None:
        """Compute one element."""
        e, count = self.e, len(self.modes)
        values = []
        for i, mode in enumerate(self.modes):
            place = pointers[i]
            if mode == "v":
                place = self._at(place, i, index)
            elif mode == "g":
                place = e.off(place, e.b.mul(index, self.steps[i]))
            values.append(self._scalar(place, i, 1))
        for j, found in enumerate(self.expression.emit(e, values, 1)):
            place = self._at(pointers[count + j], count + j, index)
            e.store(to_memory(e, found, self.types[count + j]), place)

    def _masked(self, pointers: list[Val], fixed: list[Val | None], index: Val, rest: Val) -> None:
        """Compute fewer elements than a vector has lanes."""
        e, lanes, count = self.e, self.e.lanes, len(self.modes)
        mask = e.lane_mask(rest)
        values = []
        for i, mode in enumerate(self.modes):
            if mode == "s":
                values.append(fixed[i])
                continue
            dtype = self.types[i]
            place = self._at(pointers[i], i, index)
            loaded = e.load_masked(place, vector(memory_type(dtype, self.e.machine), lanes), mask)
            values.append(from_memory(e, loaded, dtype))
        for j, found in enumerate(self.expression.emit(e, values, lanes)):
            place = self._at(pointers[count + j], count + j, index)
            e.store_masked(to_memory(e, found, self.types[count + j]), place, mask)
