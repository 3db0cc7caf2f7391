"""Small helpers that the neural-network op families share: precision, and common checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.dtypes import DType
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value
    from lepton_ir.types import Shape

Array = np.ndarray[Any, Any]

EPSILON = 9.999999747378752e-06
"""The default epsilon of every normalization: 1e-5 as the float32 that files hold."""


def common_dtype(ctx: InferContext, *names: str) -> DType | None:
    """Return the element type that the named operands share, ``None`` when all are unknown.

    Raises:
        VerifyError: two known element types differ.
    """
    found: DType | None = None
    for name in names:
        dtype = ctx.dtype(name)
        if dtype is None or dtype is found:
            continue
        if found is not None:
            ctx.fail("types", f"{name} is {dtype.name} but {names[0]} is {found.name}")
        found = dtype
    return found


def require_equal(
    ctx: InferContext, constraint: str, what: str, found: Dim | None, expected: Dim | None
) -> None:
    """Report broken ``constraint`` when two dims provably differ.

    Raises:
        VerifyError: they do.
    """
    if found is None or expected is None:
        return
    if dims.prove_eq(found, expected) is False:
        ctx.fail(constraint, f"{what} is {found} but should be {expected}")


def require_vector(ctx: InferContext, constraint: str, name: str, length: Dim | None) -> Dim | None:
    """Check that operand ``name`` is a vector of ``length``; return the length where known.

    Raises:
        VerifyError: another rank, or provably another length.
    """
    shape = ctx.shape(name)
    if shape is None:
        return length
    if len(shape) != 1:
        ctx.fail(constraint, f"{name} has rank {len(shape)} but should be a vector")
    require_equal(ctx, constraint, f"the length of {name}", shape[0], length)
    return first_known(length, shape[0])


def first_known(*found: Dim | None) -> Dim | None:
    """Return an int among dims that are equal, else the first known one."""
    known = [d for d in found if d is not None]
    return next((d for d in known if isinstance(d, int)), known[0] if known else None)


def merged(a: Shape | None, b: Shape | None) -> Shape | None:
    """Return the shape of a value known to have both shapes (the first one's rank wins)."""
    if a is None or b is None or len(a) != len(b):
        return b if a is None else a
    return tuple(first_known(p, q) for p, q in zip(a, b, strict=True))


def known_axis(ctx: InferContext, constraint: str, axis: int, rank: int | None) -> int | None:
    """Return ``axis`` counted from the front, ``None`` when the rank is unknown.

    Raises:
        VerifyError: out of range.
    """
    if rank is None:
        return None
    if not -rank <= axis < rank:
        ctx.fail(constraint, f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def plain_type(ctx: InferContext, name: str = "x") -> TensorType:
    """The type of a result with the dtype and shape of operand ``name``, in plain layout."""
    return TensorType(ctx.dtype(name), ctx.shape(name))


def dim_mul(*factors: Dim | None) -> Dim | None:
    """Product of dims, ``None`` when one is unknown."""
    if any(f is None for f in factors):
        return None
    return dims.product(f for f in factors if f is not None)


def dim_add(*terms: Dim | None) -> Dim | None:
    """Sum of dims, ``None`` when one is unknown."""
    total: Dim = 0
    for term in terms:
        if term is None:
            return None
        total = dims.add(total, term)
    return total


def dim_div(dim: Dim | None, divisor: int) -> Dim | None:
    """Quotient of a dim that the operation requires to be a multiple of ``divisor``."""
    if dim is None or divisor <= 0:
        return None
    exact = dims.exact_div(dim, divisor)
    return dims.floordiv(dim, divisor) if exact is None else exact


def narrow(x: Any, dtype: np.dtype[Any]) -> Array:
    """Return a computed array in the element type of the result."""
    result: Array = np.asarray(x).astype(dtype, copy=False)
    return result


def require_axis(x: Array, axis: int) -> int:
    """Return ``axis`` counted from the front.

    Raises:
        ValueError: out of range.
    """
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is out of range for rank {x.ndim}")
    return axis % x.ndim


def operand(op: Op, name: str) -> Value:
    """Return a required operand of an operation that is being decomposed."""
    value = op.operand(name)
    assert value is not None
    return value


def require_rank(value: Value, what: str) -> int:
    """Return the rank of a value.

    Raises:
        ValueError: it is not known.
    """
    if value.rank is None:
        raise ValueError(f"the rank of {what} is not known")
    return value.rank


def require_dtype(value: Value, what: str) -> DType:
    """Return the element type of a value.

    Raises:
        ValueError: it is not known.
    """
    if value.dtype is None:
        raise ValueError(f"the element type of {what} is not known")
    return value.dtype


def computed_in(value: Value, what: str) -> DType:
    """Return the element type in which a decomposition computes, see ``widen``.

    Raises:
        ValueError: the element type of the value is not known.
    """
    dtype = require_dtype(value, what)
    return dtypes.F32 if dtype.is_float and dtype.bits < 32 else dtype


def cast_to(b: Builder, value: Value, to: DType) -> Value:
    """Build a cast unless the value already has the type."""
    found: Value = value if value.dtype is to else b.cast(value, to=to)
    return found
