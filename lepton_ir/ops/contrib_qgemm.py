"""Quantized Gemm of onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.opdef import Bool, Float, op
from lepton_ir.ops._support import Array
from lepton_ir.ops.quant import matmul_integer, matrix_parameter, quantize_linear
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value


def _infer(ctx: InferContext) -> TensorType:
    dtype = ctx.dtype("y_zero_point") or ctx.dtype("a") if ctx.has("y_scale") else dtypes.F32
    a, b = ctx.shape("a"), ctx.shape("b")
    for name, shape in (("a", a), ("b", b)):
        if shape is not None and len(shape) != 2:
            ctx.fail("C1", f"{name} has rank {len(shape)}")
    if a is None or b is None:
        return TensorType(dtype, None)
    rows, inner = a if not ctx.attrs["transA"] else reversed(a)
    other, columns = b if not ctx.attrs["transB"] else reversed(b)
    if inner is not None and other is not None and dims.prove_eq(inner, other) is False:
        ctx.fail("C2", f"a has {inner} columns but b has {other} rows")
    return TensorType(dtype, (rows, columns))


def _decompose(b: Builder, op: Op) -> list[Value]:
    operands: list[Any] = [*op.operands, *(None,) * (9 - len(op.operands))]
    x, x_scale, x_zero, w, w_scale, w_zero, c, y_scale, y_zero = operands
    for scale in (x_scale, w_scale):
        if scale.shape is None or len(scale.shape) > 1:
            raise ValueError("the scales are not known to be numbers or vectors")
    if x_scale.shape not in ((), (1,)):
        raise ValueError("the scale of a is not known to be one number")
    alpha = op.attr("alpha")
    left = b.dequantize_linear(x, x_scale, x_zero)
    right = b.dequantize_linear(w, w_scale, w_zero, axis=0 if op.attr("transB") else 1)
    if c is not None:
        if c.rank is None or c.rank == 0:
            raise ValueError("the rank of c is not known")
        step = b.mul(x_scale, w_scale)
        step = step if alpha == 1.0 else b.mul(step, b.const(np.float32(alpha)))
        c = b.dequantize_linear(c, step, None, axis=c.rank - 1)
    attrs = {k: op.attr(k) for k in ("alpha", "transA", "transB")}
    y: Value = b.gemm(left, right, c, **attrs)
    if y_scale is None:
        return [y]
    return [b.quantize_linear(y, y_scale, y_zero, output_dtype=op.result.dtype)]


@op(
    "ms_qgemm(a, a_scale, a_zero_point, b, b_scale, b_zero_point, c?, y_scale?, y_zero_point?)",
    infer=_infer,
    traits="composite",
    decompose=_decompose,
)
def ms_qgemm(
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    c: Array | None = None,
    y_scale: Array | None = None,
    y_zero_point: Array | None = None,
    *,
    alpha: Float = 1.0,
    transA: Bool = False,
    transB: Bool = False,
) -> Array:
    """Quantized ``gemm`` (com.microsoft QGemm-1): floats without ``y_scale``.

    ``c`` is i32 in units of ``alpha * a_scale * b_scale``.

    C1  rank(a) == rank(b) == 2
    C2  columns of A' == rows of B'
    """
    total = matmul_integer(a.T if transA else a, b.T if transB else b, a_zero_point, b_zero_point)
    if c is not None:
        total = total + c
    left = matrix_parameter(a_scale, 2, column=False).astype(np.float32)
    right = matrix_parameter(b_scale, 2, column=True).astype(np.float32)
    y = total.astype(np.float32) * (np.float32(alpha) * left * right)
    if y_scale is None:
        return np.asarray(y)
    wanted = None if y_zero_point is not None else dtypes.from_numpy(a.dtype)
    return np.asarray(quantize_linear(y, y_scale, y_zero_point, output_dtype=wanted))
