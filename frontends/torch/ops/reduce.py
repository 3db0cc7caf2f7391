"""Rows of reductions, scans along an axis, sorting and softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.torch.lowering import Lowering, Sym
from lepton_ir.frontends.torch.ops.compare import truth
from lepton_ir.frontends.torch.ops.elementwise import dtype_of
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dtypes import DType

Axes = "Sequence[int] | int | None"


def reduced(b: Lowering, name: str, x: Value, dim: Any, keepdim: bool) -> Value:
    """Return a reduction over axes; all of them for ``None`` or none. Rank 0 has nothing to sum."""
    if not b.rank(x):
        return b.build(name, x, b.ints([]), keepdims=False, noop_with_empty_axes=False).result
    return b.build(name, x, b.ints(b.axes(x, dim)), keepdims=keepdim).result


def _summed(x: Value, b: Lowering, dtype: DType | None) -> Value:
    """Return the operand of a sum or product: integers are added as i64."""
    if dtype is not None:
        return b.cast_to(x, dtype)
    return x if dtype_of(x).is_float else b.cast_to(x, dtypes.I64)


@torch_op("sum")
def sum_(
    b: Lowering, self: Value, dim: Any = None, keepdim: bool = False, dtype: DType | None = None
) -> Any:
    return reduced(b, "reduce_sum", _summed(self, b, dtype), dim, keepdim)


@torch_op("nansum")
def nansum(
    b: Lowering, self: Value, dim: Any = None, keepdim: bool = False, dtype: DType | None = None
) -> Any:
    x = _summed(self, b, dtype)
    x = b.where(b.is_nan(x), b.like(x, 0), x) if dtype_of(x).is_float else x
    return reduced(b, "reduce_sum", x, dim, keepdim)


@torch_op("mean")
def mean(
    b: Lowering, self: Value, dim: Any = None, keepdim: bool = False, dtype: DType | None = None
) -> Any:
    x = self if dtype is None else b.cast_to(self, dtype)
    return reduced(b, "reduce_mean", x, dim, keepdim)


@torch_op("prod")
def prod(
    b: Lowering, self: Value, dim: Any = None, keepdim: bool = False, dtype: DType | None = None
) -> Any:
    return reduced(b, "reduce_prod", _summed(self, b, dtype), dim, keepdim)


def _extreme(b: Lowering, name: str, x: Value, dim: Any, keepdim: bool) -> Value:
    if x.dtype is dtypes.BOOL:
        wide = reduced(b, name, b.cast_to(x, dtypes.U8), dim, keepdim)
        return b.cast_to(wide, dtypes.BOOL)
    return reduced(b, name, x, dim, keepdim)


@torch_op("amax")
def amax(b: Lowering, self: Value, dim: Any = (), keepdim: bool = False) -> Any:
    return _extreme(b, "reduce_max", self, dim, keepdim)


@torch_op("amin")
def amin(b: Lowering, self: Value, dim: Any = (), keepdim: bool = False) -> Any:
    return _extreme(b, "reduce_min", self, dim, keepdim)


@torch_op("max", "max.default")
def max_(b: Lowering, self: Value) -> Any:
    return _extreme(b, "reduce_max", self, None, False)


@torch_op("min", "min.default")
def min_(b: Lowering, self: Value) -> Any:
    return _extreme(b, "reduce_min", self, None, False)


@torch_op("max.dim")
def max_dim(b: Lowering, self: Value, dim: int, keepdim: bool = False) -> Any:
    return amax(b, self, dim, keepdim), arg_max(b, self, dim, keepdim)


@torch_op("min.dim")
def min_dim(b: Lowering, self: Value, dim: int, keepdim: bool = False) -> Any:
    return amin(b, self, dim, keepdim), arg_min(b, self, dim, keepdim)


@torch_op("aminmax")
def aminmax(b: Lowering, self: Value, dim: int | None = None, keepdim: bool = False) -> Any:
    return amin(b, self, dim, keepdim), amax(b, self, dim, keepdim)


def _position(b: Lowering, name: str, x: Value, dim: int | None, keepdim: bool) -> Value:
    if x.dtype is dtypes.BOOL:
        x = b.cast_to(x, dtypes.U8)
    if not b.rank(x):
        return b.full((), 0, dtypes.I64)
    if dim is not None:
        return b.build(name, x, axis=b.axis(x, dim), keepdims=keepdim).result
    rank = b.rank(x)
    flat = b.build(name, b.resized(x, [-1]), axis=0, keepdims=False).result
    result: Value = b.reshape(flat, b.ints([1] * rank)) if keepdim else flat
    return result


@torch_op("argmax")
def arg_max(b: Lowering, self: Value, dim: int | None = None, keepdim: bool = False) -> Any:
    return _position(b, "arg_max", self, dim, keepdim)


@torch_op("argmin")
def arg_min(b: Lowering, self: Value, dim: int | None = None, keepdim: bool = False) -> Any:
    return _position(b, "arg_min", self, dim, keepdim)


def _as_result(b: Lowering, x: Value, found: Value) -> Value:
    """``any`` and ``all`` of bytes are bytes, of everything else bools."""
    return b.cast_to(found, dtypes.U8 if x.dtype is dtypes.U8 else dtypes.BOOL)


@torch_op("any")
def any_(b: Lowering, self: Value, dim: Any = None, keepdim: bool = False) -> Any:
    bits = b.cast_to(truth(b, self), dtypes.U8)
    # The greatest of no elements is 0, which any of nothing is; sums would wrap.
    found = reduced(b, "reduce_max", bits, dim, keepdim)
    return _as_result(b, self, found)


@torch_op("all")
def all_(b: Lowering, self: Value, dim: Any = None, keepdim: bool = False) -> Any:
    bits = b.cast_to(b.not_(truth(b, self)), dtypes.U8)
    found = b.cast_to(reduced(b, "reduce_max", bits, dim, keepdim), dtypes.BOOL)
    return _as_result(b, self, b.not_(found))


@torch_op("count_nonzero")
def count_nonzero(b: Lowering, self: Value, dim: Any = None) -> Any:
    return reduced(b, "reduce_sum", b.cast_to(truth(b, self), dtypes.I64), dim, False)


# -- moments and norms -----------------------------------------------------------------------------


def _moments(
    b: Lowering, x: Value, dim: Any, keepdim: bool, correction: Any
) -> tuple[Value, Value]:
    """Return variance and mean over axes, in two passes."""
    axes = b.axes(x, dim)
    centre = reduced(b, "reduce_mean", x, axes, True)
    away = b.sub(x, centre)
    total = reduced(b, "reduce_sum", b.mul(away, away), axes, keepdim)
    count = b.cast_to(_count(b, x, axes), dtype_of(x))
    free = b.max(b.sub(count, b.like(x, correction)), b.like(x, 0)) if correction else count
    mean_ = centre if keepdim else reduced(b, "reduce_mean", x, axes, False)
    return b.div(total, free), mean_


def _count(b: Lowering, x: Value, axes: Sequence[int]) -> Value:
    sizes = [b.size_of(x, a) for a in axes]
    if not any(isinstance(s, Sym) for s in sizes):
        return b.full((), math.prod(s for s in sizes if isinstance(s, int)), dtypes.I64)
    return b.reduce_prod(b.ints(sizes), b.ints([0]), keepdims=False)  # type: ignore[no-any-return]


def _correction(correction: Any, unbiased: bool | None) -> Any:
    if unbiased is not None:
        return int(unbiased)
    return 1 if correction is None else correction


@torch_op("var")
def var(
    b: Lowering,
    self: Value,
    dim: Any = None,
    unbiased: bool | None = None,
    correction: Any = None,
    keepdim: bool = False,
) -> Any:
    return _moments(b, self, dim, keepdim, _correction(correction, unbiased))[0]


@torch_op("std")
def std(
    b: Lowering,
    self: Value,
    dim: Any = None,
    unbiased: bool | None = None,
    correction: Any = None,
    keepdim: bool = False,
) -> Any:
    return b.sqrt(var(b, self, dim, unbiased, correction, keepdim))


@torch_op("var_mean")
def var_mean(
    b: Lowering,
    self: Value,
    dim: Any = None,
    unbiased: bool | None = None,
    correction: Any = None,
    keepdim: bool = False,
) -> Any:
    return _moments(b, self, dim, keepdim, _correction(correction, unbiased))


@torch_op("std_mean")
def std_mean(
    b: Lowering,
    self: Value,
    dim: Any = None,
    unbiased: bool | None = None,
    correction: Any = None,
    keepdim: bool = False,
) -> Any:
    spread, centre = _moments(b, self, dim, keepdim, _correction(correction, unbiased))
    return b.sqrt(spread), centre


@torch_op("norm", "linalg_vector_norm")
def norm(
    b: Lowering,
    self: Value,
    p: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    dtype: DType | None = None,
    ord: Any = None,
) -> Any:
    order = ord if ord is not None else (2 if p is None else p)
    x = b.floats(self if dtype is None else b.cast_to(self, dtype))[0]
    if order == 2:
        return reduced(b, "reduce_l2", x, dim, keepdim)
    size = b.abs(x)
    if order == 1:
        return reduced(b, "reduce_sum", size, dim, keepdim)
    if order in (math.inf, -math.inf):
        return reduced(b, "reduce_max" if order > 0 else "reduce_min", size, dim, keepdim)
    if order == 0:
        return reduced(b, "reduce_sum", b.cast_to(truth(b, x), dtype_of(x)), dim, keepdim)
    total = reduced(b, "reduce_sum", b.pow(size, b.like(x, order)), dim, keepdim)
    return b.pow(total, b.like(x, 1 / order))


@torch_op("frobenius_norm")
def frobenius_norm(b: Lowering, self: Value, dim: Any = None, keepdim: bool = False) -> Any:
    return norm(b, self, 2, dim, keepdim)


@torch_op("logsumexp")
def logsumexp(b: Lowering, self: Value, dim: Any, keepdim: bool = False) -> Any:
    return reduced(b, "reduce_log_sum_exp", b.floats(self)[0], dim, keepdim)


@torch_op("softmax", "_softmax", "special_softmax")
def softmax(
    b: Lowering, self: Value, dim: int, dtype: DType | None = None, half_to_float: bool = False
) -> Any:
    x = _softmax_operand(b, self, dtype, half_to_float)
    return b.softmax(x, axis=b.axis(x, dim)) if b.rank(x) else b.full((), 1, dtype_of(x))


@torch_op("log_softmax", "_log_softmax", "special_log_softmax")
def log_softmax(
    b: Lowering, self: Value, dim: int, dtype: DType | None = None, half_to_float: bool = False
) -> Any:
    x = _softmax_operand(b, self, dtype, half_to_float)
    return b.log_softmax(x, axis=b.axis(x, dim)) if b.rank(x) else b.full((), 0, dtype_of(x))


def _softmax_operand(b: Lowering, x: Value, dtype: DType | None, to_f32: bool) -> Value:
    if to_f32:
        return b.cast_to(x, dtypes.F32)
    return b.floats(x)[0] if dtype is None else b.cast_to(x, dtype)


@torch_op("_safe_softmax")
def safe_softmax(b: Lowering, self: Value, dim: int, dtype: DType | None = None) -> Any:
    """Softmax that is 0 where every element of a row is minus infinity."""
    x = _softmax_operand(b, self, dtype, False)
    axis = b.axis(x, dim)
    lowest = b.equal(reduced(b, "reduce_max", x, [axis], True), b.like(x, -math.inf))
    return b.where(lowest, b.like(x, 0), b.softmax(x, axis=axis))


# -- along an axis ---------------------------------------------------------------------------------


@torch_op("cumsum")
def cumsum(b: Lowering, self: Value, dim: int, dtype: DType | None = None) -> Any:
    x = _summed(self, b, dtype)
    return b.cum_sum(x, b.full((), b.axis(x, dim), dtypes.I64)) if b.rank(x) else x


@torch_op("cumprod")
def cumprod(b: Lowering, self: Value, dim: int, dtype: DType | None = None) -> Any:
    x = _summed(self, b, dtype)
    return b.cum_prod(x, b.full((), b.axis(x, dim), dtypes.I64)) if b.rank(x) else x


@torch_op("topk")
def topk(
    b: Lowering, self: Value, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Any:
    if not b.rank(self):
        return self, b.full((), 0, dtypes.I64)
    return b.top_k(
        self, b.ints([k]), axis=b.axis(self, dim), largest=largest, sorted=True, results=2
    )


@torch_op("sort")
def sort(
    b: Lowering, self: Value, dim: int = -1, descending: bool = False, stable: bool | None = None
) -> Any:
    """A full ``top_k``: equal elements keep their order, so it is stable."""
    if not b.rank(self):
        return self, b.full((), 0, dtypes.I64)
    return topk(b, self, b.size_of(self, dim), dim, descending)


@torch_op("argsort")
def argsort(
    b: Lowering, self: Value, dim: int = -1, descending: bool = False, stable: bool = False
) -> Any:
    return sort(b, self, dim, descending)[1]


@torch_op("kthvalue")
def kthvalue(b: Lowering, self: Value, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    values, places = topk(b, self, k, dim, largest=False)
    axis = b.axis(self, dim)
    last = b.ints([k - 1]) if keepdim else b.full((), k - 1, dtypes.I64)
    return b.gather(values, last, axis=axis), b.gather(places, last, axis=axis)


@torch_op("median.dim")
def median(b: Lowering, self: Value, dim: int = -1, keepdim: bool = False) -> Any:
    if dtype_of(self).is_float:
        raise UnsupportedError("median of floats, whose NaN rule is its own", code="torch-op")
    size = b.static_size(self, dim, "median")
    return kthvalue(b, self, (size + 1) // 2, dim, keepdim)
