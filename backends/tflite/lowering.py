"""What lowerings share: operands that are there, and constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value
    from lepton_ir.types import Shape


def operand(op: Op, index: int) -> Value:
    """Return an operand that is there.

    Raises:
        ValueError: it is absent.
    """
    found = op.operands[index] if index < len(op.operands) else None
    if found is None:
        raise ValueError(f"operand {index} is absent")
    return found


def optional(op: Op, index: int) -> Value | None:
    """Return an operand, or ``None`` when it is absent."""
    return op.operands[index] if index < len(op.operands) else None


def rank_of(value: Value) -> int:
    """Return the rank.

    Raises:
        ValueError: it is not known.
    """
    if value.rank is None:
        raise ValueError("the rank is not known")
    return value.rank


def shape_of(value: Value) -> Shape:
    """Return the shape, some sizes of which may be symbolic.

    Raises:
        ValueError: the rank is not known.
    """
    if value.shape is None:
        raise ValueError("the rank is not known")
    return value.shape


def static_shape(value: Value) -> tuple[int, ...]:
    """Return the shape as numbers.

    Raises:
        ValueError: some are not known.
    """
    shape = shape_of(value)
    if not all(isinstance(d, int) for d in shape):
        raise ValueError("a size is not known")
    return shape  # type: ignore[return-value]


def dtype_of(value: Value) -> DType:
    """Return the element type.

    Raises:
        ValueError: it is not known.
    """
    if value.dtype is None:
        raise ValueError("the element type is not known")
    return value.dtype


def i64(b: Builder, *numbers: int) -> Value:
    """Build a vector of i64."""
    return b.const(np.asarray(numbers, np.int64))


def full(b: Builder, number: Any, like: Value) -> Value:
    """Build a scalar with the element type of ``like``."""
    return b.const(np.asarray(number).astype(dtype_of(like).numpy))


def cut(b: Builder, x: Value, axis: int, start: int, stop: int) -> Value:
    """Build a slice along one axis."""
    found: Value = b.slice(x, i64(b, start), i64(b, stop), i64(b, axis))
    return found


def sizes(b: Builder, x: Value) -> Value:
    """Build the vector of the sizes of a value, a constant when all are known."""
    shape = shape_of(x)
    if all(isinstance(d, int) for d in shape):
        return i64(b, *shape)  # type: ignore[arg-type]
    found: Value = b.shape(x)
    return found


def inverse(perm: Sequence[int]) -> list[int]:
    """Return the permutation that undoes another."""
    return [list(perm).index(i) for i in range(len(perm))]
