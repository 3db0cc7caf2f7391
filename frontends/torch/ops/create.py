"""Rows that make tensors of sizes and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.torch.lowering import Lowering, Sym
from lepton_ir.frontends.torch.ops.elementwise import dtype_of
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.dtypes import DType


def filled(b: Lowering, size: Sequence[Any], number: Any, dtype: DType) -> Value:
    """Return a tensor with one value everywhere."""
    if not any(isinstance(s, Sym) for s in size) and not isinstance(number, (Sym, Value)):
        return b.full(tuple(size), number, dtype)
    result: Value = b.expand(b.operand(number, dtype), b.ints(list(size)))
    return result


def _declared(b: Lowering, dtype: DType | None) -> DType:
    return dtype or b.declared[0] or dtypes.F32


def _sized(number: Any) -> Callable[..., Value]:
    def row(b: Lowering, size: Sequence[Any], dtype: DType | None = None, **_: Any) -> Value:
        return filled(b, size, number, _declared(b, dtype))

    return row


def _like(number: Any) -> Callable[..., Value]:
    def row(b: Lowering, self: Value, dtype: DType | None = None, **_: Any) -> Value:
        return filled(b, b.sizes_of(self), number, dtype or dtype_of(self))

    return row


def _new(number: Any) -> Callable[..., Value]:
    def row(
        b: Lowering, self: Value, size: Sequence[Any], dtype: DType | None = None, **_: Any
    ) -> Value:
        return filled(b, size, number, dtype or dtype_of(self))

    return row


for _name, _number in (("zeros", 0), ("ones", 1), ("empty", 0)):
    torch_op(_name)(_sized(_number))
    torch_op(f"{_name}_like")(_like(_number))
    torch_op(f"new_{_name}")(_new(_number))
torch_op("empty_strided", "empty_permuted")(_sized(0))
torch_op("zero")(_like(0))


@torch_op("full")
def full(
    b: Lowering, size: Sequence[Any], fill_value: Any, dtype: DType | None = None, **_: Any
) -> Any:
    return filled(b, size, fill_value, _declared(b, dtype))


@torch_op("full_like")
def full_like(
    b: Lowering, self: Value, fill_value: Any, dtype: DType | None = None, **_: Any
) -> Any:
    return filled(b, b.sizes_of(self), fill_value, dtype or dtype_of(self))


@torch_op("new_full")
def new_full(
    b: Lowering,
    self: Value,
    size: Sequence[Any],
    fill_value: Any,
    dtype: DType | None = None,
    **_: Any,
) -> Any:
    return filled(b, size, fill_value, dtype or dtype_of(self))


@torch_op("fill")
def fill(b: Lowering, self: Value, value: Any) -> Any:
    return filled(b, b.sizes_of(self), value, dtype_of(self))


@torch_op("copy")
def copy(b: Lowering, self: Value, src: Value, non_blocking: bool = False) -> Any:
    return b.expand(b.cast_to(src, dtype_of(self)), b.shape_of(self))


@torch_op("scalar_tensor")
def scalar_tensor(b: Lowering, s: Any, dtype: DType | None = None, **_: Any) -> Any:
    return b.operand(s, _declared(b, dtype))


@torch_op("arange")
def arange(
    b: Lowering, end: Any, start: Any = 0, step: Any = 1, dtype: DType | None = None, **_: Any
) -> Any:
    kind = _declared(b, dtype)
    # Computed as PyTorch does, in the widest type, and narrowed afterwards.
    wide = dtypes.I64 if kind.is_integer else dtypes.F64
    if not any(isinstance(a, Sym) for a in (start, end, step)):
        count = max(int(np.ceil((end - start) / step)), 0)
        if count <= 4096:
            numbers = np.asarray(start) + np.arange(count) * np.asarray(step)
            return b.const(numbers.astype(kind.numpy), kind)
    bounds = [b.operand(a, wide) for a in (start, end, step)]
    return b.cast_to(b.range(*bounds), kind)


@torch_op("linspace")
def linspace(
    b: Lowering, start: Any, end: Any, steps: Any, dtype: DType | None = None, **_: Any
) -> Any:
    if any(isinstance(a, (Sym, Value)) for a in (start, end, steps)):
        raise UnsupportedError("linspace of computed bounds", code="torch-op")
    kind = _declared(b, dtype)
    return b.const(np.linspace(start, end, steps).astype(kind.numpy), kind)


@torch_op("eye")
def eye(b: Lowering, n: Any, m: Any = None, dtype: DType | None = None, **_: Any) -> Any:
    if isinstance(n, Sym) or isinstance(m, Sym):
        ones = filled(b, [n, n if m is None else m], 0, _declared(b, dtype))
        return b.eye_like(ones)
    kind = _declared(b, dtype)
    return b.const(np.eye(n, m).astype(kind.numpy), kind)


def _triangle(row: int, col: int, offset: int, upper: bool) -> np.ndarray[Any, Any]:
    pick = np.triu_indices if upper else np.tril_indices
    return np.stack(pick(row, offset, col)).astype(np.int64)


@torch_op("tril_indices")
def tril_indices(b: Lowering, row: int, col: int, offset: int = 0, **_: Any) -> Any:
    return b.const(_triangle(row, col, offset, False))


@torch_op("triu_indices")
def triu_indices(b: Lowering, row: int, col: int, offset: int = 0, **_: Any) -> Any:
    return b.const(_triangle(row, col, offset, True))


def _window(name: str) -> Callable[..., Value]:
    def row(
        b: Lowering, window_length: int, periodic: bool = True, dtype: DType | None = None, **_: Any
    ) -> Value:
        size = b.full((), window_length, dtypes.I64)
        found = b.build(name, size, periodic=periodic).result
        return b.cast_to(found, _declared(b, dtype))

    return row


for _name in ("hann_window", "blackman_window"):
    torch_op(_name)(_window(_name))


# -- random numbers --------------------------------------------------------------------------------


def _random(b: Lowering, size: Sequence[Any], normal: bool, dtype: DType) -> Value:
    shaped = filled(b, size, 0, dtype)
    name = "random_normal_like" if normal else "random_uniform_like"
    return b.build(name, shaped).result


@torch_op("rand")
def rand(b: Lowering, size: Sequence[Any], dtype: DType | None = None, **_: Any) -> Any:
    return _random(b, size, False, _declared(b, dtype))


@torch_op("randn")
def randn(b: Lowering, size: Sequence[Any], dtype: DType | None = None, **_: Any) -> Any:
    return _random(b, size, True, _declared(b, dtype))


@torch_op("rand_like")
def rand_like(b: Lowering, self: Value, dtype: DType | None = None, **_: Any) -> Any:
    return _random(b, b.sizes_of(self), False, dtype or dtype_of(self))


@torch_op("randn_like")
def randn_like(b: Lowering, self: Value, dtype: DType | None = None, **_: Any) -> Any:
    return _random(b, b.sizes_of(self), True, dtype or dtype_of(self))


@torch_op("bernoulli.p")
def bernoulli(b: Lowering, self: Value, p: float = 0.5, **_: Any) -> Any:
    return b.bernoulli(b.expand(b.like(self, p), b.shape_of(self)))
