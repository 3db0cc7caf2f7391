"""Softmax, its relatives, and dropout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.infer import const_array
from lepton_ir.opdef import Bool, Int, op
from lepton_ir.ops._nn import (
    Array,
    cast_to,
    computed_in,
    known_axis,
    narrow,
    operand,
    plain_type,
    require_axis,
    require_dtype,
    require_rank,
)
from lepton_ir.ops._numeric import widen
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value
    from lepton_ir.types import Type


def _infer_softmax(ctx: InferContext) -> Type:
    rank, axis = ctx.rank("x"), ctx.attrs["axis"]
    if rank is not None and not (ctx.attrs["coerce_2d"] and axis == rank):
        known_axis(ctx, "C1", axis, rank)
    return plain_type(ctx)


def _softmax_axes(op: Op) -> list[int]:
    attrs = op.all_attrs()
    axis: int = attrs["axis"]
    if not attrs["coerce_2d"]:
        return [axis]
    if axis < 0:
        return list(range(axis, 0))
    axes = list(range(axis, require_rank(operand(op, "x"), "x")))
    if not axes:
        raise ValueError("axis is the rank of x")
    return axes


def _decompose_softmax(b: Builder, op: Op) -> list[Value]:
    x, axes = operand(op, "x"), _softmax_axes(op)
    wide = cast_to(b, x, computed_in(x, "x"))
    e = b.exp(b.sub(wide, b.reduce_max(wide, axes, keepdims=True)))
    y = b.div(e, b.reduce_sum(e, axes, keepdims=True))
    return [cast_to(b, y, require_dtype(x, "x"))]


def _decompose_log_softmax(b: Builder, op: Op) -> list[Value]:
    x, axes = operand(op, "x"), _softmax_axes(op)
    wide = cast_to(b, x, computed_in(x, "x"))
    shifted = b.sub(wide, b.reduce_max(wide, axes, keepdims=True))
    y = b.sub(shifted, b.log(b.reduce_sum(b.exp(shifted), axes, keepdims=True)))
    return [cast_to(b, y, require_dtype(x, "x"))]


def _decompose_hardmax(b: Builder, op: Op) -> list[Value]:
    attrs = op.all_attrs()
    x, axis = operand(op, "x"), attrs["axis"]
    values = b.const(np.array([0, 1]).astype(require_dtype(x, "x").numpy))
    flat = b.flatten(x, axis=axis) if attrs["coerce_2d"] else x
    inner = 1 if attrs["coerce_2d"] else axis
    size = b.gather(b.shape(flat), b.const(np.array([inner], np.int64)), axis=0)
    best = b.arg_max(flat, axis=inner, keepdims=False)
    y = b.one_hot(best, size, values, axis=inner)
    return [b.reshape(y, b.shape(x)) if attrs["coerce_2d"] else y]


def _rows(x: Array, axis: int, coerce_2d: bool) -> tuple[Array, int]:
    """Return x in the shape whose one axis is normalized, in the type it is computed in."""
    if not coerce_2d:
        return widen(x), require_axis(x, axis)
    split = x.ndim if axis == x.ndim else require_axis(x, axis)
    return widen(x).reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:])), 1


def _rounded(step: Array, x: Array) -> Array:
    """Round a step of float16 as the function body of Softmax-13 does, unless it overflows."""
    if x.dtype != np.float16:
        return step
    with np.errstate(over="ignore"):
        half = step.astype(np.float16).astype(step.dtype)
    return np.where(np.isinf(half), step, half)


@op("softmax(x)", infer=_infer_softmax, traits="composite", decompose=_decompose_softmax)
def softmax(x: Array, *, axis: Int = -1, coerce_2d: Bool = False) -> Array:
    """``exp(x) / sum(exp(x))`` along ``axis`` (ONNX Softmax-13).

    With ``coerce_2d`` over all axes from ``axis`` on together, which is what opsets before 13 mean.

    C1  -rank(x) <= axis < rank(x)
    """
    rows, axis = _rows(x, axis, coerce_2d)
    if not rows.size:
        return x.copy()
    with np.errstate(invalid="ignore"):
        e = _rounded(np.exp(_rounded(rows - rows.max(axis=axis, keepdims=True), x)), x)
        total = _rounded(e.sum(axis=axis, keepdims=True), x)
    return narrow((e / total).reshape(x.shape), x.dtype)


@op("log_softmax(x)", infer=_infer_softmax, traits="composite", decompose=_decompose_log_softmax)
def log_softmax(x: Array, *, axis: Int = -1, coerce_2d: Bool = False) -> Array:
    """``log(softmax(x))`` along ``axis`` (ONNX LogSoftmax-13), see ``softmax``.

    C1  -rank(x) <= axis < rank(x)
    """
    rows, axis = _rows(x, axis, coerce_2d)
    if not rows.size:
        return x.copy()
    with np.errstate(invalid="ignore"):
        shifted = rows - rows.max(axis=axis, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return narrow((shifted - total).reshape(x.shape), x.dtype)


@op("hardmax(x)", infer=_infer_softmax, traits="composite", decompose=_decompose_hardmax)
def hardmax(x: Array, *, axis: Int = -1, coerce_2d: Bool = False) -> Array:
    """1 at the first maximum along ``axis``, 0 elsewhere (ONNX Hardmax-13), see ``softmax``.

    C1  -rank(x) <= axis < rank(x)
    """
    rows, axis = _rows(x, axis, coerce_2d)
    if not rows.size:
        return x.copy()
    y = np.zeros(rows.shape, x.dtype)
    np.put_along_axis(y, np.expand_dims(rows.argmax(axis=axis), axis), 1, axis=axis)
    return y.reshape(x.shape)


# -- dropout ---------------------------------------------------------------------------------------


def _infer_dropout(ctx: InferContext) -> list[Type]:
    for name in ("ratio", "training_mode"):
        if ctx.rank(name) not in (None, 0, 1):
            ctx.fail("C1", f"{name} has rank {ctx.rank(name)}")
    return [plain_type(ctx), TensorType(dtypes.BOOL, ctx.shape("x"))]


def _decompose_dropout(b: Builder, op: Op) -> list[Value]:
    training = op.operand("training_mode")
    if training is not None:
        flag = const_array(training)
        ratio = const_array(op.operand("ratio"))
        keeps_all = ratio is not None and ratio.size == 1 and not ratio.any()
        if not keeps_all and (flag is None or bool(flag.reshape(-1)[0])):
            raise ValueError("training mode is not known to be off")
    x = operand(op, "x")
    if len(op.results) == 1:
        return [b.identity(x)]
    return [b.identity(x), b.expand(b.const(np.array(True)), b.shape(x))]


@op(
    "dropout(x, ratio?, training_mode?) -> y, mask?",
    infer=_infer_dropout,
    traits="random composite",
    decompose=_decompose_dropout,
)
def dropout(
    x: Array,
    ratio: Array | None = None,
    training_mode: Array | None = None,
    *,
    seed: Int | None = None,
) -> tuple[Array, Array]:
    """X itself and a mask of ones: dropout in inference (ONNX Dropout-22).

    In training elements are dropped at random, which has no deterministic meaning unless the
    ratio is 0.

    C1  ratio and training_mode are scalars
    """
    trains = training_mode is not None and bool(training_mode.reshape(-1)[0])
    if trains and (ratio is None or ratio.reshape(-1)[0] != 0):
        raise UnsupportedError("dropout in training mode is random", code="no-meaning")
    return x, np.ones(x.shape, np.bool_)
