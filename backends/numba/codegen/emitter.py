"""Emitting vector kernels: a thin layer over llvmlite's IRBuilder.

Every kernel is a function ``void k(i64* args, i64 tid, i64 nthreads)``. Addresses and sizes come as
64-bit integers; loops keep their state in phi nodes, so accumulators stay in registers.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

from llvmlite import ir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.backends.numba.machine import Machine

F32, F64, F16 = ir.FloatType(), ir.DoubleType(), ir.HalfType()
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
BYTES = ir.PointerType(I8)
VOID = ir.VoidType()

KERNEL_TYPE = ir.FunctionType(VOID, [ir.PointerType(I64), I64, I64])
"""The one signature of all kernels."""

Val = Any
"""An llvmlite value; llvmlite carries no types."""

_SUFFIX = {"float": "f32", "double": "f64", "half": "f16"}


def i64(value: int) -> ir.Constant:
    """Return a 64-bit integer constant."""
    return ir.Constant(I64, int(value))


def vector(element: Any, lanes: int) -> Any:
    """Return a vector type; the element type itself for one lane."""
    return ir.VectorType(element, lanes) if lanes > 1 else element


def lanes_of(type_: Any) -> int:
    """Return the number of lanes of a vector or scalar type."""
    return type_.count if isinstance(type_, ir.VectorType) else 1


def element_of(type_: Any) -> Any:
    """Return the element type of a vector or scalar type."""
    return type_.element if isinstance(type_, ir.VectorType) else type_


def suffix(type_: Any) -> str:
    """Return LLVM's name of a type inside an intrinsic's name: ``v16f32``."""
    element = element_of(type_)
    name = _SUFFIX.get(str(element), str(element))
    return f"v{type_.count}{name}" if isinstance(type_, ir.VectorType) else name


class Emitter:
    """Builds the body of one kernel.

    Attributes:
        b: the builder.
        machine: what the kernel is made for.
        lanes: 32-bit lanes of a full vector.
        tid: index of the running thread.
        threads: number of threads that run this kernel.
    """

    def __init__(self, function: Any, machine: Machine) -> None:
        self.module = function.module
        self.function = function
        self.b = ir.IRBuilder(function.append_basic_block("entry"))
        self.machine = machine
        self.lanes = machine.lanes
        if isinstance(function.args[0].type, ir.PointerType):
            self.table, self.tid, self.threads = function.args

    # -- arguments, addresses, memory --------------------------------------------------------------

    def args(self, count: int) -> list[Val]:
        """Load the first ``count`` arguments."""
        return [self.b.load(self.b.gep(self.table, [i64(i)])) for i in range(count)]

    def ptr(self, address: Val) -> Val:
        """Turn an address into a byte pointer; do it once, then use offsets."""
        return self.b.inttoptr(address, BYTES)

    def off(self, pointer: Val, offset: Val | int) -> Val:
        """Return ``pointer`` moved by ``offset`` bytes."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = i64(offset)
        return self.b.gep(pointer, [offset], source_etype=I8)

    def load(self, pointer: Val, type_: Any, offset: Val | int = 0) -> Val:
        """Load a scalar or vector of any alignment above its element's size."""
        size = _bytes(element_of(type_))
        return self.b.load(self.off(pointer, offset), align=size, typ=type_)

    def store(self, value: Val, pointer: Val, offset: Val | int = 0) -> None:
        """Store a scalar or vector."""
        place = self.b.bitcast(self.off(pointer, offset), ir.PointerType(value.type))
        self.b.store(value, place).align = _bytes(element_of(value.type))

    def load_masked(self, pointer: Val, type_: Any, mask: Val) -> Val:
        """Load the lanes that ``mask`` sets; others are zero and their memory is not touched."""
        name = f"llvm.masked.load.{suffix(type_)}.p0"
        align = ir.Constant(I32, _bytes(type_.element))
        return self.intrinsic(name, type_, [pointer, align, mask, self.zero(type_)])

    def store_masked(self, value: Val, pointer: Val, mask: Val) -> None:
        """Store the lanes that ``mask`` sets."""
        name = f"llvm.masked.store.{suffix(value.type)}.p0"
        align = ir.Constant(I32, _bytes(value.type.element))
        self.intrinsic(name, VOID, [value, pointer, align, mask])

    def prefetch(self, pointer: Val, offset: int) -> None:
        """Ask for the cache line at ``offset``."""
        args = [self.off(pointer, offset), *(ir.Constant(I32, v) for v in (0, 3, 1))]
        self.intrinsic("llvm.prefetch.p0", VOID, args)

    # -- constants and vectors ---------------------------------------------------------------------

    def vec(self, element: Any = F32, lanes: int = 0) -> Any:
        """Return a full vector type of 32-bit lanes' count, or of ``lanes``."""
        return vector(element, lanes or self.lanes)

    def const(self, value: float, type_: Any) -> Val:
        """Return ``value`` in every lane."""
        element = element_of(type_)
        if isinstance(element, ir.FloatType):
            value = round_f32(value)
        elif isinstance(element, ir.IntType):
            value = int(value)
        if isinstance(type_, ir.VectorType):
            return ir.Constant(type_, [ir.Constant(element, value)] * type_.count)
        return ir.Constant(element, value)

    def zero(self, type_: Any) -> Val:
        """Return zero in every lane."""
        return self.const(0, type_)

    def splat(self, value: Val, lanes: int = 0) -> Val:
        """Return a vector with the scalar ``value`` in every lane."""
        lanes = lanes or self.lanes
        if lanes == 1:
            return value
        empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
        first = self.b.insert_element(empty, value, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return self.b.shuffle_vector(first, empty, mask)

    def lane_mask(self, remaining: Val, lanes: int = 0) -> Val:
        """Return the mask of the lanes below ``remaining``."""
        lanes = lanes or self.lanes
        numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        small = self.minimum(remaining, i64(lanes))
        return self.b.icmp_signed("<", numbers, self.splat(self.b.trunc(small, I32), lanes))

    # -- arithmetic --------------------------------------------------------------------------------

    def intrinsic(self, name: str, result: Any, args: Sequence[Val]) -> Val:
        """Call an LLVM intrinsic or a function of the C library."""
        found = self.module.globals.get(name)
        if found is None:
            found = ir.Function(self.module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.b.call(found, args)

    def unary(self, name: str, x: Val) -> Val:
        """Call an overloaded intrinsic of one operand: ``sqrt``, ``floor``, ``fabs``."""
        return self.intrinsic(f"llvm.{name}.{suffix(x.type)}", x.type, [x])

    def fma(self, x: Val, y: Val, z: Val) -> Val:
        """Return ``x * y + z``, fused where the machine does that."""
        name = "fma" if self.machine.lanes > 4 or self.machine.has("fma") else "fmuladd"
        return self.intrinsic(f"llvm.{name}.{suffix(x.type)}", x.type, [x, y, z])

    def above(self, x: Val, limit: Val) -> Val:
        """Return the larger of two floats; ``x`` where ``x`` is NaN."""
        return self.b.select(self.b.fcmp_ordered(">", limit, x), limit, x)

    def below(self, x: Val, limit: Val) -> Val:
        """Return the smaller of two floats; ``x`` where ``x`` is NaN."""
        return self.b.select(self.b.fcmp_ordered("<", limit, x), limit, x)

    def minimum(self, x: Val, y: Val) -> Val:
        """Return the smaller of two signed integers."""
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def sum_lanes(self, x: Val) -> Val:
        """Return the sum of all lanes, in any order."""
        start = self.zero(x.type.element)
        name = f"llvm.vector.reduce.fadd.{suffix(x.type)}"
        found = self._reducer(name, x.type.element, [start.type, x.type])
        return self.b.call(found, [start, x], fastmath=("reassoc",))

    def reduce_lanes(self, x: Val, combine: Callable[[Val, Val], Val]) -> Val:
        """Combine all lanes pairwise with an associative, commutative function."""
        lanes = x.type.count
        while lanes > 1:
            lanes //= 2
            parts = [
                self.b.shuffle_vector(
                    x, x, ir.Constant(ir.VectorType(I32, lanes), list(range(start, start + lanes)))
                )
                for start in (0, lanes)
            ]
            x = combine(*parts)
        return self.b.extract_element(x, ir.Constant(I32, 0))

    def _reducer(self, name: str, result: Any, types: Sequence[Any]) -> Any:
        found = self.module.globals.get(name)
        return found or ir.Function(self.module, ir.FunctionType(result, types), name)

    # -- control -----------------------------------------------------------------------------------

    def loop(
        self,
        stop: Val,
        state: Sequence[Val],
        body: Callable[[Val, list[Val]], Sequence[Val]],
        *,
        start: Val | None = None,
        step: int = 1,
    ) -> list[Val]:
        """Emit ``for i in range(start, stop, step): state = body(i, state)``; return the state."""
        b = self.b
        start = i64(0) if start is None else start
        before = b.block
        head, done = b.append_basic_block("loop"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", start, stop), head, done)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(start, before)
        inside = [b.phi(v.type) for v in state]
        for phi, value in zip(inside, state, strict=True):
            phi.add_incoming(value, before)
        after = list(body(index, list(inside)))
        following = b.add(index, i64(step))
        last = b.block
        for phi, value in zip([index, *inside], [following, *after], strict=True):
            phi.add_incoming(value, last)
        b.cbranch(b.icmp_signed("<", following, stop), head, done)
        b.position_at_end(done)
        results = []
        for value, final in zip(state, after, strict=True):
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phi.add_incoming(final, last)
            results.append(phi)
        return results

    def each(
        self, stop: Val, body: Callable[[Val], object], *, start: Val | None = None, step: int = 1
    ) -> None:
        """Emit a loop without state."""

        def run(index: Val, _: list[Val]) -> list[Val]:
            body(index)
            return []

        self.loop(stop, [], run, start=start, step=step)

    def interleave(self, bodies: Sequence[Callable[[], object]]) -> None:
        """Emit straight-line computations that do not depend on each other, by turns.

        A processor looks only so far ahead: behind a long chain of operations it does not see the
        beginning of the next one. Computations with blocks of their own are left one after another.
        """
        block = self.b.block
        start = len(block.instructions)
        parts: list[list[Any]] = []
        for body in bodies:
            before = len(block.instructions)
            body()
            parts.append(block.instructions[before:])
        if self.b.block is not block:
            return
        turns = itertools.chain.from_iterable(itertools.zip_longest(*parts))
        block.instructions[start:] = [i for i in turns if i is not None]

    def subroutine(
        self, name: str, count: int, body: Callable[[Emitter, list[Val]], object]
    ) -> Val:
        """Emit a function of ``count`` integers that is called from this kernel only."""
        function = ir.Function(self.module, ir.FunctionType(VOID, [I64] * count), name)
        function.linkage = "internal"
        inner = Emitter(function, self.machine)
        body(inner, list(function.args))
        inner.b.ret_void()
        return function

    def choose(
        self,
        condition: Val,
        then: Callable[[], Sequence[Val]],
        otherwise: Callable[[], Sequence[Val]],
    ) -> list[Val]:
        """Emit one of two computations; return their results, as many as both have."""
        b = self.b
        yes, no, done = (b.append_basic_block(n) for n in ("then", "else", "chosen"))
        b.cbranch(condition, yes, no)
        ends = []
        for block, compute in ((yes, then), (no, otherwise)):
            b.position_at_end(block)
            found = list(compute())
            ends.append((found, b.block))
            b.branch(done)
        b.position_at_end(done)
        results = []
        for pair in zip(*(found for found, _ in ends), strict=True):
            phi = b.phi(pair[0].type)
            for value, (_, block) in zip(pair, ends, strict=True):
                phi.add_incoming(value, block)
            results.append(phi)
        return results

    def share(self, count: Val) -> tuple[Val, Val]:
        """Return this thread's half-open share of ``range(count)``."""
        b = self.b
        first = b.sdiv(b.mul(count, self.tid), self.threads)
        return first, b.sdiv(b.mul(count, b.add(self.tid, i64(1))), self.threads)

    def divmod(self, x: Val, y: Val) -> tuple[Val, Val]:
        """Return quotient and remainder of non-negative integers."""
        quotient = self.b.udiv(x, y)
        return quotient, self.b.sub(x, self.b.mul(quotient, y))

    def ceil_div(self, x: Val, y: int) -> Val:
        """Return ``x / y`` rounded up, of non-negative integers."""
        return self.b.udiv(self.b.add(x, i64(y - 1)), i64(y))


def _bytes(element: Any) -> int:
    if isinstance(element, ir.IntType):
        return max(1, int(element.width) // 8)
    return {"half": 2, "float": 4, "double": 8}.get(str(element), 8)


def round_f32(value: float) -> float:
    """Return the f32 that is closest to a number."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
