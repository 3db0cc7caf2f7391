"""Epilogues: the elementwise operations that a kernel applies to its results in registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llvmlite import ir

from lepton_ir.backends.numba.codegen.emitter import Emitter, Val, i64, vector
from lepton_ir.backends.numba.codegen.expression import (
    Expression,
    from_memory,
    memory_type,
    to_memory,
)
from lepton_ir.backends.numba.kernels.elementwise import Translation, itemsize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.backends.numba.lowering import Lowering
    from lepton_ir.backends.numba.plan import Tensor
    from lepton_ir.ir import Value


@dataclass(frozen=True)
class Epilogue:
    """What becomes of an accumulator before it is stored.

    Attributes:
        expression: its input 0 is the accumulator, the others are operands.
        modes: for each operand ``v``: it runs along with the vector, or ``s``: one value for all.
    """

    expression: Expression
    modes: str

    @property
    def result(self) -> str:
        """Element type that is stored."""
        return self.expression.output_types[0]


PLAIN = Epilogue(Expression(("f32",), (), (0,)), "")
"""Stores the accumulator as it is."""


def translate(
    lo: Lowering,
    first: Callable[[Translation, int], int] | None = None,
    accumulator: str = "f32",
) -> tuple[Expression, list[Tensor]]:
    """Like :func:`translate_values`; returns where the operands lie."""
    expression, values = translate_values(lo, accumulator, first)
    return expression, [lo.tensor(v) for v in values]


def translate_values(
    lo: Lowering,
    accumulator: str,
    first: Callable[[Translation, int], int] | None = None,
) -> tuple[Expression, list[Value]]:
    """Translate the operations behind the anchor of a group.

    Args:
        lo: the group, or a single operation.
        accumulator: element type of the sums.
        first: adds steps between the accumulator and those operations; returns their result.

    Returns:
        The expression, and the operands that it reads besides the accumulator.

    Raises:
        Declined: an operation cannot be part of an epilogue.
    """
    # Numbers of quantized layers differ, their kernels need not.
    translation = Translation(lo, apart=accumulator == "i32")
    anchor = lo.anchor.results[0]
    number = translation.input(anchor, accumulator)
    if first is not None:
        number = first(translation, number)
        translation.define(anchor, number)
    for op in lo.tail:
        number = translation.add(op)
    expression = translation.finish([number])
    return expression, translation.leaves[1:]


def with_scalars(e: Emitter, epilogue: Epilogue, operands: Sequence[Val]) -> list[Val]:
    """Return pointers to operands, in place of those with one value for all that value."""
    types = epilogue.expression.inputs[1:]
    return [
        _scalar(e, p, dtype, e.lanes) if mode == "s" else p
        for p, mode, dtype in zip(operands, epilogue.modes, types, strict=True)
    ]


def _scalar(e: Emitter, pointer: Val, dtype: str, lanes: int) -> Val:
    """Return one value in all lanes; as it is if it was loaded before."""
    if isinstance(pointer.type, ir.VectorType):
        return pointer
    value = from_memory(e, e.load(pointer, memory_type(dtype, e.machine)), dtype)
    return e.splat(value, lanes)


def emit_tile_row(
    e: Emitter,
    epilogue: Epilogue,
    accumulator: Val,
    operands: Sequence[Val],
    offset: int,
    mask: Val = None,
) -> Val:
    """Apply an epilogue to one vector of accumulators.

    Args:
        e: the emitter.
        epilogue: what is applied.
        accumulator: the vector.
        operands: pointers to the operands of the tile's row, or what :func:`with_scalars` makes.
        offset: elements from the start of the row.
        mask: lanes that exist, when not all do.

    Returns:
        The vector in the form in which it is stored.
    """
    lanes = accumulator.type.count
    values = [accumulator]
    for pointer, mode, dtype in zip(
        operands, epilogue.modes, epilogue.expression.inputs[1:], strict=True
    ):
        element = memory_type(dtype, e.machine)
        if mode == "s":
            values.append(_scalar(e, pointer, dtype, lanes))
            continue
        place = e.off(pointer, offset * itemsize(dtype))
        type_ = vector(element, lanes)
        loaded = e.load(place, type_) if mask is None else e.load_masked(place, type_, mask)
        values.append(from_memory(e, loaded, dtype))
    (found,) = epilogue.expression.emit(e, values, lanes)
    return to_memory(e, found, epilogue.result)


def store_rows(
    e: Emitter,
    epilogue: Epilogue,
    out: Sequence[Val],
    total: Sequence[Val],
    extra: Sequence[Val],
    masks: Sequence[Val] | None,
) -> None:
    """Apply an epilogue to a tile and store it.

    Args:
        e: the emitter.
        epilogue: what is applied.
        out: a pointer to each row of the result.
        total: the accumulators, row by row.
        extra: address and row stride of each operand, one after the other.
        masks: lanes that exist, for each vector of a row, when not all do.
    """
    vectors, size = len(total) // len(out), itemsize(epilogue.result)
    pairs = [(extra[2 * n], extra[2 * n + 1]) for n in range(len(epilogue.modes))]
    for i, row in enumerate(out):
        places = [e.ptr(e.b.add(p, e.b.mul(stride, i64(i)))) for p, stride in pairs]
        operands = with_scalars(e, epilogue, places)
        for j in range(vectors):
            mask = None if masks is None else masks[j]
            value = total[i * vectors + j]
            found = emit_tile_row(e, epilogue, value, operands, e.lanes * j, mask)
            place = e.off(row, size * e.lanes * j)
            if mask is None:
                e.store(found, place)
            else:
                e.store_masked(found, place, mask)
