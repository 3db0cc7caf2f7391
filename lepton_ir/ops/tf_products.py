"""Products as TensorFlow Lite has them: with a bias, with transposed operands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Bool, op
from lepton_ir.ops._nn import operand, require_rank, require_vector
from lepton_ir.ops._support import Array, Shape, first_dtype, widen
from lepton_ir.ops.linalg import matmul_shape
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value


def _infer_dense(ctx: InferContext) -> TensorType:
    x, w = ctx.shape("x"), ctx.shape("w")
    if w is not None and len(w) != 2:
        ctx.fail("C1", f"w has rank {len(w)}")
    if x == ():
        ctx.fail("C1", "x is a scalar")
    rows = None if w is None else w[0]
    rows = require_vector(ctx, "C3", "b", rows) if ctx.op.operand("b") is not None else rows
    dtype = first_dtype(ctx, "x", "w")
    if x is None:
        return TensorType(dtype, None)
    have, want = x[-1], None if w is None else w[1]
    if have is not None and want is not None and dims.prove_eq(have, want) is False:
        ctx.fail("C2", f"x has {have} columns but w has {want}")
    return TensorType(dtype, (*x[:-1], rows))


def _decompose_dense(b: Builder, op: Op) -> list[Value]:
    y: Value = b.matmul(operand(op, "x"), b.transpose(operand(op, "w"), perm=(1, 0)))
    bias = op.operand("b")
    return [y if bias is None else b.add(y, bias)]


@op(
    "fully_connected(x, w, b?)",
    infer=_infer_dense,
    traits="composite",
    decompose=_decompose_dense,
)
def fully_connected(x: Array, w: Array, b: Array | None = None) -> Array:
    """Product of x (..., K) and the transposed w (M, K), plus b (M) (TFLite's FULLY_CONNECTED).

    All axes of x but the last are kept.

    C1  rank(x) >= 1 and rank(w) == 2
    C2  x.shape[-1] == w.shape[1]
    C3  b is a vector of w.shape[0] elements
    """
    if not x.ndim or w.ndim != 2 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"x {x.shape} and w {w.shape} do not fit")
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"w {w.shape} and b {b.shape} do not fit")
    y = np.matmul(widen(x), widen(w).T)
    if b is not None:
        y = y + widen(b)
    return np.asarray(y).astype(x.dtype, copy=False)


def _turned(shape: Shape | None, flag: bool) -> Shape | None:
    return shape if shape is None or not flag else (*shape[:-2], shape[-1], shape[-2])


def _infer_batch_matmul(ctx: InferContext) -> TensorType:
    shapes = []
    for name, flag in (("x", "adj_x"), ("y", "adj_y")):
        shape = ctx.shape(name)
        if shape is not None and len(shape) < 2:
            ctx.fail("C1", f"{name} has rank {len(shape)}")
        shapes.append(_turned(shape, bool(ctx.attrs[flag])))
    return TensorType(
        first_dtype(ctx, "x", "y"), matmul_shape(ctx, shapes[0], shapes[1], ("x", "y"))
    )


def _swap(b: Builder, value: Value, what: str) -> Value:
    rank = require_rank(value, what)
    turned: Value = b.transpose(value, perm=(*range(rank - 2), rank - 1, rank - 2))
    return turned


def _decompose_batch_matmul(b: Builder, op: Op) -> list[Value]:
    values = []
    for name, flag in (("x", "adj_x"), ("y", "adj_y")):
        value = operand(op, name)
        values.append(_swap(b, value, name) if op.attr(flag) else value)
    return [b.matmul(*values)]


@op(
    "batch_matmul(x, y)",
    infer=_infer_batch_matmul,
    traits="composite",
    decompose=_decompose_batch_matmul,
)
def batch_matmul(x: Array, y: Array, *, adj_x: Bool = False, adj_y: Bool = False) -> Array:
    """Matrix product, the last two axes of either side swapped before (TFLite's BATCH_MATMUL).

    Other axes broadcast.

    C1  rank(x) >= 2 and rank(y) >= 2
    C2  the columns of x are as many as the rows of y
    """
    if x.ndim < 2 or y.ndim < 2:
        raise ValueError(f"x {x.shape} and y {y.shape} are no matrices")
    left, right = widen(x), widen(y)
    left = left.swapaxes(-1, -2) if adj_x else left
    right = right.swapaxes(-1, -2) if adj_y else right
    return np.asarray(np.matmul(left, right)).astype(x.dtype, copy=False)
