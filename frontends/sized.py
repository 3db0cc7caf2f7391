"""A builder for frontends whose graphs compute with sizes: PyTorch, Keras, TensorFlow.

Sizes are Python numbers where they are static, and ``Sym`` where the graph computes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.infer import content_of
from lepton_ir.ir import Value
from lepton_ir.tensors import SplatTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dtypes import DType


@dataclass(frozen=True)
class Sym:
    """A scalar that the graph computes: a size, or what ``item()`` returns.

    Attributes:
        value: of rank 0; i64, f64 or bool.
    """

    value: Value

    @property
    def kind(self) -> str:
        """``int``, ``uint``, ``float`` or ``bool``."""
        assert self.value.dtype is not None
        return self.value.dtype.kind


class SizedBuilder(Builder):
    """A builder that knows negative axes, sizes that are numbers or computed, and scalars."""

    def cast_to(self, x: Value, dtype: DType) -> Value:
        """Return ``x`` in another element type; PyTorch's casts truncate, as ONNX's do."""
        if x.dtype is dtype:
            return x
        result: Value = self.cast(x, to=dtype)
        return result

    def scalar(self, item: Any, dtype: DType) -> Value:
        """Return a number or a ``Sym`` as a value of rank 0."""
        return (
            self.cast_to(item.value, dtype) if isinstance(item, Sym) else self.full((), item, dtype)
        )

    def like(self, x: Value, number: Any) -> Value:
        """Return a scalar of the type of ``x``."""
        assert x.dtype is not None
        return self.scalar(number, x.dtype)

    def full(self, shape: tuple[int, ...], number: Any, dtype: DType) -> Value:
        """Return a constant with one value everywhere."""
        return self.const(SplatTensor(np.asarray(number).astype(dtype.numpy), dtype, shape))

    def limits(self, x: Value) -> Any:
        """Return ``min``, ``max`` and ``eps`` of a float type, as attributes."""
        import ml_dtypes

        assert x.dtype is not None
        finfo: Any = ml_dtypes.finfo
        return finfo(x.dtype.numpy)

    # -- axes and sizes ----------------------------------------------------------------------------

    def rank(self, x: Value) -> int:
        """Return the rank of ``x``; ranks are always static in an exported graph."""
        if x.rank is None:
            raise UnsupportedError("the rank is unknown", code="frontend-rank")
        return x.rank

    def axis(self, x: Value, dim: int, extra: int = 0) -> int:
        """Return an axis of ``x`` as a number >= 0.

        Raises:
            UnsupportedError: there is no such axis.
        """
        rank = self.rank(x) + extra
        if not -max(rank, 1) <= dim < max(rank, 1):
            raise UnsupportedError(f"axis {dim} of rank {rank}", code="frontend-axis")
        return dim + rank if dim < 0 else dim

    def axes(self, x: Value, dims: Sequence[int] | int | None) -> list[int]:
        """Return axes of ``x``; all of them for ``None`` or none."""
        if isinstance(dims, int):
            dims = [dims]
        if not dims:
            return list(range(self.rank(x)))
        return [self.axis(x, d) for d in dims] if self.rank(x) else []

    def size_of(self, x: Value, dim: int) -> int | Sym:
        """Return the size of an axis, a number where it is static."""
        dim = self.axis(x, dim)
        shape = x.shape
        assert shape is not None
        size = shape[dim] if shape else 1
        if isinstance(size, int):
            return size
        return Sym(self.reshape(self.shape(x, start=dim, end=dim + 1), self.ints([])))

    def sizes_of(self, x: Value) -> list[int | Sym]:
        """Return all sizes of ``x``."""
        return [self.size_of(x, d) for d in range(self.rank(x))]

    def static_size(self, x: Value, dim: int, why: str) -> int:
        """Return a size that must be static.

        Raises:
            UnsupportedError: it is not; says ``why`` it must be.
        """
        size = self.size_of(x, dim)
        if isinstance(size, Sym):
            raise UnsupportedError(f"{why} needs a static size of axis {dim}", code="frontend-size")
        return size

    def ints(self, items: Sequence[int | Sym]) -> Value:
        """Return an i64 vector of numbers and computed sizes."""
        if not any(isinstance(i, Sym) for i in items):
            return self.const(np.asarray(list(items), np.int64))
        one = self.const(np.asarray([1], np.int64))
        parts = [
            self.reshape(self.cast_to(i.value, dtypes.I64), one)
            if isinstance(i, Sym)
            else self.const(np.asarray([i], np.int64))
            for i in items
        ]
        vector: Value = parts[0] if len(parts) == 1 else self.concat(*parts, axis=0)
        return vector

    def shape_of(self, x: Value) -> Value:
        """Return the shape of ``x`` as an i64 vector, a constant where it is static."""
        shape = x.shape
        if shape is not None and all(isinstance(d, int) for d in shape):
            return self.const(np.asarray(shape, np.int64))
        vector: Value = self.shape(x)
        return vector

    def resized(self, x: Value, sizes: Sequence[int | Sym] | Value) -> Value:
        """Return ``x`` reshaped; 0 means 0, one size may be -1."""
        vector = sizes if isinstance(sizes, Value) else self.ints(sizes)
        content = content_of(vector)
        known = content is not None and all(isinstance(c, int) and c != 0 for c in content)
        result: Value = self.reshape(x, vector, allowzero=not known and -1 not in (content or ()))
        return result

    def arith(self, name: str, *items: int | Sym) -> Sym:
        """Return i64 arithmetic over sizes."""
        values = [i.value if isinstance(i, Sym) else self.full((), i, dtypes.I64) for i in items]
        return Sym(self.build(name, *values).result)


def unique_names(names: Sequence[str], taken: set[str], mark: str = ".") -> list[str]:
    """Return names of outputs, counted where one is taken; ``taken`` grows by them."""
    found: list[str] = []
    for name in names:
        fresh, count = name, 0
        while fresh in taken:
            count += 1
            fresh = f"{name}{mark}{count}"
        taken.add(fresh)
        found.append(fresh)
    return found
