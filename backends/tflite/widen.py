"""Element types that a kernel does not take, computed in one that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.backends.tflite.kernels import kernels
from lepton_ir.backends.tflite.lowering import dtype_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lepton_ir.builder import Builder
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value

    Lower = Callable[[Any, Any], Any]

_WIDER: dict[DType, tuple[DType, ...]] = {
    dtypes.BOOL: (dtypes.U8, dtypes.I8, dtypes.I32, dtypes.F32),
    dtypes.I8: (dtypes.I16, dtypes.I32, dtypes.F32),
    dtypes.U8: (dtypes.I16, dtypes.I32, dtypes.F32),
    dtypes.I16: (dtypes.I32, dtypes.F32),
    dtypes.U16: (dtypes.I32, dtypes.F32),
    dtypes.U32: (dtypes.I64,),
    dtypes.F16: (dtypes.F32,),
}
"""Types that hold every number of another one, the nearest first."""

ARITHMETIC = frozenset(
    (
        *("add", "sub", "mul", "div", "max", "min", "mod", "pow", "abs", "neg", "sign"),
        *("equal", "less", "less_or_equal", "greater", "greater_or_equal", "floor_div"),
        *("bitwise_and", "bitwise_xor", "left_shift", "right_shift"),
        *("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod"),
        *("matmul", "gemm", "softmax", "log_softmax", "leaky_relu", "prelu", "relu", "elu"),
        *("gelu", "hard_swish", "cum_sum", "resize", "range", "clip", "atan2"),
        *("conv_nhwc", "conv_transpose_nhwc", "max_pool_nhwc", "average_pool_nhwc"),
        *("l2_pool_nhwc", "lrn_nhwc", "arg_max", "arg_min", "top_k", "non_zero"),
    )
)
"""Operations that give the same in a wider type, but for wrapping, which the way back does."""

MOVEMENT = frozenset(
    (
        *("where", "concat", "split", "slice", "pad", "tile", "expand", "gather", "gather_nd"),
        *("scatter_nd", "transpose", "reverse_sequence", "depth_to_space_nhwc"),
        *("space_to_depth_nhwc", "one_hot", "reshape", "squeeze", "unsqueeze"),
        "dynamic_update_slice",
    )
)
"""Operations that move elements."""

_DATA = {
    "where": (1, 2),
    "gather": (0,),
    "gather_nd": (0,),
    "scatter_nd": (0, 2),
    "slice": (0,),
    "pad": (0, 2),
    "tile": (0,),
    "expand": (0,),
    "split": (0,),
    "reverse_sequence": (0,),
    "one_hot": (2,),
    "reshape": (0,),
    "squeeze": (0,),
    "unsqueeze": (0,),
    "dynamic_update_slice": (0, 1),
    "cum_sum": (0,),
    "resize": (0,),
    "top_k": (0,),
    **{f"reduce_{k}": (0,) for k in ("sum", "mean", "max", "min", "prod")},
}
"""The operands that are elements, where not all are."""


def widened(rows: Mapping[str, Any], name: str, first: Lower | None) -> Lower:
    """Return a lowering: ``first`` if it has a way, else the operation in a wider type."""

    def lower(b: Builder, op: Op) -> list[Value]:
        wider = _wider_type(rows, op)
        if wider is not None:
            return _computed_in(b, op, wider)
        if first is not None:
            found: list[Value] = first(b, op)
            return found
        raise ValueError("no operator takes these operands")

    return lower


def _indices(op: Op) -> tuple[int, ...]:
    return _DATA.get(op.name, tuple(range(len(op.operands))))


def _wider_type(rows: Mapping[str, Any], op: Op) -> DType | None:
    """Return the type in which the kernel computes, ``None`` if it takes the operands' own."""
    row = rows[op.name]
    value = op.operands[row.judged] if op.operands else op.results[0]
    if value is None or value.dtype is None or value.rank is None:
        return None
    taken = kernels()[row.kind(op)].dtypes
    if value.dtype.name in taken:
        return None
    return next((w for w in _WIDER.get(value.dtype, ()) if w.name in taken), None)


def _computed_in(b: Builder, op: Op, wider: DType) -> list[Value]:
    indices = _indices(op)
    narrow = dtype_of(next(v for i, v in enumerate(op.operands) if i in indices and v is not None))
    operands = [
        b.cast(v, to=wider) if i in indices and v is not None and v.dtype is narrow else v
        for i, v in enumerate(op.operands)
    ]
    made = b.build(op.name, *operands, results=len(op.results), **op.attrs)
    return [
        b.cast(new, to=old.dtype) if new.dtype is wider and old.dtype is not wider else new
        for new, old in zip(made.results, op.results, strict=True)
    ]
