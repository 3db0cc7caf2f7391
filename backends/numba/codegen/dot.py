"""Dot products of bytes: each 32-bit lane adds the products of its four unsigned and signed bytes.

Exact in 32 bits on every machine. With VNNI it is one instruction; elsewhere bytes are widened to
16 bits and multiplied in pairs (the instruction that multiplies bytes directly saturates).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.backends.numba.codegen.emitter import I8, I16, I32, Emitter, Val, vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.machine import Machine

_PAIRS = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
_FLIP = -0x7F7F7F80  # 128 in every byte


def has_vnni(machine: Machine) -> bool:
    """Return whether one instruction multiplies bytes and adds them in 32 bits."""
    wide = machine.has("avx512vnni") and machine.has("avx512vl")
    return (machine.lanes == 16 and wide) or (
        machine.lanes == 8 and (wide or machine.has("avxvnni"))
    )


def _has_pairs(machine: Machine) -> bool:
    """Return whether one instruction adds neighbouring products of 16-bit integers."""
    x86 = machine.cpu.startswith("x86-64") or machine.has("sse2")
    return x86 and (machine.lanes < 16 or machine.has("avx512bw"))


class Dot:
    """Emits dot products of bytes over full vectors of i32.

    Args:
        e: the emitter.
        flip: whether the left bytes are signed in memory; they become unsigned by adding 128,
            which whoever knows the sums of the right bytes takes back.
    """

    def __init__(self, e: Emitter, flip: bool = False) -> None:
        self.e = e
        self.flip = flip
        self.type = e.vec(I32)
        self.vnni = has_vnni(e.machine)
        self._pairs = _PAIRS.get(e.lanes, "") if _has_pairs(e.machine) else ""

    def left(self, quad: Val) -> Sequence[Val]:
        """Prepare four unsigned bytes, an i32, for all lanes."""
        return self.left_vector(self.e.splat(quad))

    def left_vector(self, value: Val) -> Sequence[Val]:
        """Prepare four unsigned bytes in each lane."""
        b = self.e.b
        if self.flip:
            value = b.xor(value, self.e.const(_FLIP, self.type))
        if self.vnni:
            return (value,)
        mask = self.e.const(0x00FF00FF, self.type)
        low = b.and_(value, mask)
        high = b.and_(b.lshr(value, self.e.const(8, self.type)), mask)
        return b.bitcast(low, self._words), b.bitcast(high, self._words)

    def right(self, value: Val) -> Sequence[Val]:
        """Prepare four signed bytes in each lane."""
        if self.vnni:
            return (value,)
        e, b = self.e, self.e.b
        words = b.bitcast(value, self._words)
        eight = e.const(8, self._words)
        return b.ashr(b.shl(words, eight), eight), b.ashr(words, eight)

    def add(self, total: Val, left: Sequence[Val], right: Sequence[Val]) -> Val:
        """Return ``total`` plus the dot products of prepared operands."""
        if self.vnni:
            return self._dot(total, left[0], right[0])
        for x, y in zip(left, right, strict=True):
            total = self.e.b.add(total, self._multiply_pairs(x, y))
        return total

    @property
    def _words(self) -> Any:
        return vector(I16, 2 * self.e.lanes)

    def _dot(self, total: Val, left: Val, right: Val) -> Val:
        bits = 32 * self.e.lanes
        bytes_ = vector(I8, bits // 8)
        args = [total, self.e.b.bitcast(left, bytes_), self.e.b.bitcast(right, bytes_)]
        return self.e.intrinsic(f"llvm.x86.avx512.vpdpbusd.{bits}", self.type, args)

    def _multiply_pairs(self, x: Val, y: Val) -> Val:
        """Return the sums of neighbouring products of 16-bit integers."""
        e, b = self.e, self.e.b
        if self._pairs:
            return e.intrinsic(self._pairs, self.type, [x, y])
        sixteen = e.const(16, self.type)
        x, y = b.bitcast(x, self.type), b.bitcast(y, self.type)
        low = [b.ashr(b.shl(v, sixteen), sixteen) for v in (x, y)]
        high = [b.ashr(v, sixteen) for v in (x, y)]
        return b.add(b.mul(*low), b.mul(*high))
