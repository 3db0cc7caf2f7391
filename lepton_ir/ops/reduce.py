"""Reductions over axes: sums, extremes, norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.infer import content_of
from lepton_ir.opdef import Bool, op
from lepton_ir.ops._numeric import (
    BOOLEANS,
    FLOATS,
    NUMBERS,
    Array,
    float_dtype,
    in_f32,
    require,
    truncated_div,
    widen,
)
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.dims import Dim
    from lepton_ir.infer import Content, InferContext
    from lepton_ir.ir import Op, Value

_DOC = """

The axes default to all, or to none with ``noop_with_empty_axes`` (also when given but empty).

C1  -rank(x) <= axis < rank(x)
"""


def _axes_known(ctx: InferContext) -> tuple[int, ...] | None:
    """Return the axes as given, ``()`` when absent or empty, ``None`` when not known."""
    if not ctx.has("axes"):
        return ()
    if ctx.shape("axes") == (0,):
        return ()
    return ctx.ints("axes")


def _infer(ctx: InferContext) -> Type:
    value = ctx.value("x")
    if value is None or not isinstance(value.type, TensorType):
        return UNKNOWN
    dtype, shape = value.type.dtype, value.type.shape
    axes, keep = _axes_known(ctx), ctx.attrs["keepdims"]
    if axes == ():
        if ctx.attrs["noop_with_empty_axes"]:
            return TensorType(dtype, shape)
        if not keep:
            return TensorType(dtype, ())
        return TensorType(dtype, None if shape is None else (1,) * len(shape))
    if shape is None:
        return TensorType(dtype, None)
    if axes is None:
        kept = (d if isinstance(d, int) and d == 1 else None for d in shape)
        if keep:
            return TensorType(dtype, kept)
        count = (ctx.shape("axes") or (None,))[0]  # each axis once, as the meaning demands
        known = isinstance(count, int) and 0 < count <= len(shape)
        return TensorType(dtype, (None,) * (len(shape) - count) if known else None)  # type: ignore[operator]
    rank = len(shape)
    for axis in axes:
        if not -rank <= axis < rank:
            ctx.fail("C1", f"axis {axis} is out of range for rank {rank}")
    chosen = {axis % rank for axis in axes}
    if keep:
        return TensorType(dtype, (1 if i in chosen else d for i, d in enumerate(shape)))
    if len(chosen) != len(axes):
        return TensorType(dtype, None)
    return TensorType(dtype, (d for i, d in enumerate(shape) if i not in chosen))


def _chosen(x: Array, axes: Array | None, noop: bool) -> tuple[int, ...]:
    """Return the axes to reduce, counted from the front.

    Raises:
        ValueError: an axis out of range or given twice.
    """
    if axes is None or axes.size == 0:
        return () if noop else tuple(range(x.ndim))
    found = []
    for axis in axes.reshape(-1).tolist():
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"axis {axis} is out of range for rank {x.ndim}")
        found.append(axis % x.ndim)
    if len(set(found)) != len(found):
        raise ValueError(f"an axis is given twice: {found}")
    return tuple(found)


def _meaning(
    function: Callable[[Array, tuple[int, ...], bool], Any], allowed: str
) -> Callable[..., Array]:
    """Return the meaning that applies ``function(x, axes, keepdims)``, narrow floats in f32."""

    def meaning(
        x: Array,
        axes: Array | None = None,
        *,
        keepdims: Bool = True,
        noop_with_empty_axes: Bool = False,
    ) -> Array:
        dtype = require(allowed, x)
        chosen = _chosen(x, axes, noop_with_empty_axes)
        with np.errstate(all="ignore"):
            result = np.asarray(function(widen(x), chosen, bool(keepdims)))
            return result.astype(dtype.numpy, copy=False)

    return meaning


def _content(
    function: Callable[[Dim, Dim], Dim],
    start: Dim | None = None,
    each: Callable[[Dim], Dim | None] = lambda d: d,
) -> Callable[[InferContext], Content | None]:
    """Return the content hook of a reduction of all elements of a vector."""

    def content(ctx: InferContext) -> Content | None:
        elements = content_of(ctx.value("x"))
        axes = _axes_known(ctx)
        if elements is None or axes is None:
            return None
        mapped = [None if d is None else each(d) for d in elements]
        if ctx.rank("x") == 0 or (axes == () and ctx.attrs["noop_with_empty_axes"]):
            return tuple(mapped)
        total = start
        for element in mapped:
            if element is None:
                return None
            total = element if total is None else function(total, element)
        return None if total is None else (total,)

    return content


def _sum(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(np.sum(x, axis=axes, keepdims=keep, dtype=x.dtype))


def _prod(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(np.prod(x, axis=axes, keepdims=keep, dtype=x.dtype))


def _extreme(x: Array, axes: tuple[int, ...], keep: bool, *, greatest: bool) -> Array:
    start: Any
    if x.dtype.kind == "b":
        start = not greatest
    elif x.dtype.kind == "f":
        start = -np.inf if greatest else np.inf
    else:
        start = np.iinfo(x.dtype).min if greatest else np.iinfo(x.dtype).max
    reduce = np.max if greatest else np.min
    return np.asarray(reduce(x, axis=axes, keepdims=keep, initial=start))


def _max(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return _extreme(x, axes, keep, greatest=True)


def _min(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return _extreme(x, axes, keep, greatest=False)


def _mean(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    if x.dtype.kind in "iu" and count > np.iinfo(x.dtype).max:
        raise ValueError(f"{count} elements are too many to count in {x.dtype}")
    total = _sum(x, axes, keep)
    if count == 0 and np.size(total):
        raise ValueError("the mean of no elements is not defined")
    return truncated_div(total, np.asarray(count).astype(x.dtype))


def _l1(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return _sum(np.abs(x), axes, keep)


def _sum_square(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return _sum(x * x, axes, keep)


def _l2(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    """Square root of the sum of squares; of integers computed in f64 and truncated."""
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    return np.asarray(np.sqrt(_sum_square(x, axes, keep)))


def _log_sum(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(np.log(_sum(x, axes, keep)))


def _log_sum_exp(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    """Shifted by the greatest element where that is finite, so that exp does not overflow."""
    top = _max(x, axes, True)
    top = np.where(np.isinf(top), np.zeros((), x.dtype), top)
    result = np.log(_sum(np.exp(x - top), axes, True)) + top
    return np.asarray(result if keep else result.squeeze(axes))


def _part(b: Builder, name: str, x: Value, op: Op) -> Value:
    """Build the reduction ``name`` of ``x`` with the axes and attributes of ``op``."""
    reduced = b.build(name, x, op.operand("axes"), **op.attrs)
    return reduced.result


def _build_l2(b: Builder, x: Value, op: Op) -> Any:
    return b.sqrt(_part(b, "reduce_sum", b.mul(x, x), op))


def _build_log_sum(b: Builder, x: Value, op: Op) -> Any:
    return b.log(_part(b, "reduce_sum", x, op))


def _build_log_sum_exp(b: Builder, x: Value, op: Op) -> Any:
    kept = dict(op.attrs, keepdims=True)
    axes = op.operand("axes")
    top = b.reduce_max(x, axes, **kept)
    zero = b.const(np.zeros((), float_dtype(x).numpy))
    top = b.where(b.is_inf(top), zero, top)
    total = _part(b, "reduce_sum", b.exp(b.sub(x, top)), op)
    if not op.attr("keepdims"):
        top = _part(b, "reduce_sum", top, op)
    return b.add(b.log(total), top)


def _integers_too(
    build: Callable[[Builder, Value, Op], Value],
) -> Callable[[Builder, Op], list[Value]]:
    """Return a decomposition of floats (f16 and bf16 through f32) and integers."""
    wide = in_f32(build)

    def decompose(b: Builder, op: Op) -> list[Value]:
        x = op.operands[0]
        assert x is not None
        if x.dtype is not None and x.dtype.is_integer:
            return [build(b, x, op)]
        return wide(b, op)

    return decompose


def _define(
    name: str,
    function: Callable[[Array, tuple[int, ...], bool], Any],
    what: str,
    allowed: str = NUMBERS,
    content: Callable[[InferContext], Content | None] | None = None,
    decompose: Callable[[Builder, Op], list[Value]] | None = None,
) -> None:
    op(
        f"{name}(x, axes?)",
        _infer,
        _meaning(function, allowed),
        traits="composite" if decompose else "",
        content=content,
        decompose=decompose,
        doc=what + _DOC,
    )


def _abs_dim(d: Dim) -> Dim | None:
    return d if dims.prove_ge(d, 0) is True else None


_define(
    "reduce_sum", _sum, "Sum, 0 of nothing (ONNX ReduceSum-13).", NUMBERS, _content(dims.add, 0)
)
_define(
    "reduce_prod",
    _prod,
    "Product, 1 of nothing (ONNX ReduceProd-18).",
    NUMBERS,
    _content(dims.mul, 1),
)
_define(
    "reduce_max",
    _max,
    "Greatest element; of nothing the least value of the type (ONNX ReduceMax-20).",
    NUMBERS + BOOLEANS,
    _content(dims.maximum),
)
_define(
    "reduce_min",
    _min,
    "Least element; of nothing the greatest value of the type (ONNX ReduceMin-20).",
    NUMBERS + BOOLEANS,
    _content(dims.minimum),
)
_define("reduce_mean", _mean, "Mean; of integers rounded toward zero (ONNX ReduceMean-18).")
_define(
    "reduce_l1",
    _l1,
    "Sum of absolute values (ONNX ReduceL1-18).",
    NUMBERS,
    _content(dims.add, 0, _abs_dim),
    _integers_too(lambda b, x, op: _part(b, "reduce_sum", b.abs(x), op)),
)
_define(
    "reduce_sum_square",
    _sum_square,
    "Sum of squares (ONNX ReduceSumSquare-18).",
    NUMBERS,
    _content(dims.add, 0, lambda d: dims.mul(d, d)),
    _integers_too(lambda b, x, op: _part(b, "reduce_sum", b.mul(x, x), op)),
)
_define(
    "reduce_l2",
    _l2,
    "Square root of the sum of squares (ONNX ReduceL2-18).",
    NUMBERS,
    None,
    in_f32(_build_l2),
)
_define(
    "reduce_log_sum",
    _log_sum,
    "Logarithm of the sum (ONNX ReduceLogSum-28).",
    FLOATS,
    None,
    in_f32(_build_log_sum),
)
_define(
    "reduce_log_sum_exp",
    _log_sum_exp,
    "Logarithm of the sum of exponentials, without overflow (ONNX ReduceLogSumExp-28).",
    FLOATS,
    None,
    in_f32(_build_log_sum_exp),
)
