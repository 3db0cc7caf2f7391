"""What the writer makes one operator of: a producer and the activation behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.tflite.row import constant_ints
from lepton_ir.backends.tflite.table import reason_against
from lepton_ir.backends.tflite.table_elementwise import CLIPS, clip_bounds

if TYPE_CHECKING:
    from lepton_ir.ir import Function, Op, Value

PRODUCERS = frozenset(
    (
        "add",
        "sub",
        "mul",
        "div",
        "conv_nhwc",
        "conv_transpose_nhwc",
        "max_pool_nhwc",
        "average_pool_nhwc",
        "l2_pool_nhwc",
        "matmul",
        "gemm",
        "fully_connected",
    )
)
"""Operations whose operators have a fused activation function."""

FUSED = frozenset(("RELU", "RELU6", "RELU_N1_TO_1"))
"""The functions that all of their kernels have."""


def activation_of(op: Op) -> str:
    """Return the activation function that an operation is; ``""`` for none."""
    if not op.results or op.results[0].dtype is not dtypes.F32:
        return ""
    if op.name == "relu":
        return "RELU"
    bounds = clip_bounds(op) if op.name == "clip" else None
    kind = "" if bounds is None else CLIPS.get(bounds, "")
    return kind if kind in FUSED else ""


SHRINK = "SHRINK"
"""In place of an activation: a slice drops the axes that a squeeze behind it drops."""


def fused_squeezes(function: Function) -> dict[Op, tuple[str, Value]]:
    """Return slices whose only reader drops axes, and its result: one operator does both."""
    found: dict[Op, tuple[str, Value]] = {}
    for op in function.walk():
        x = op.operands[0] if op.name == "squeeze" else None
        if x is None or x.op is None or x.op.name != "slice" or x.op.block is not op.block:
            continue
        if x.use_count == 1 and dropped_axes(op) and not reason_against(x.op):
            found[x.op] = (SHRINK, op.results[0])
    return found


def dropped_axes(op: Op) -> tuple[int, ...]:
    """Return the axes that a squeeze drops, all known to have one element; empty otherwise."""
    x = op.operands[0]
    axes = constant_ints(op.operands[1]) if len(op.operands) > 1 else None
    if x is None or x.shape is None or not axes:
        return ()
    chosen = tuple(sorted({a % len(x.shape) for a in axes}))
    return chosen if all(x.shape[a] == 1 for a in chosen) else ()


def flattened(function: Function) -> dict[Value, Value]:
    """Return what a dense layer can read in place of a matrix: FULLY_CONNECTED reshapes it.

    ``gemm(reshape(x, [-1, k]), w, b)`` with k columns, whose rows are consecutive elements of x.
    """
    found: dict[Value, Value] = {}
    for op in function.walk():
        value = op.operands[0] if op.name == "gemm" and not op.attr("transA") else None
        made = None if value is None else value.op
        if value is None or made is None or made.name != "reshape" or made.block is not op.block:
            continue
        x, columns = made.operands[0], (value.shape or (None,))[-1]
        alone = value.use_count == 1 and not reason_against(op)
        if x is not None and alone and isinstance(columns, int) and columns and (x.rank or 0) > 1:
            found[value] = x
    return found


def fused_activations(function: Function) -> dict[Op, tuple[str, Value]]:
    """Return the activation that each producer with one user is fused with, and its result."""
    found: dict[Op, tuple[str, Value]] = {}
    for op in function.walk():
        kind = activation_of(op)
        x = op.operands[0] if kind else None
        if x is None or x.op is None or x.op.name not in PRODUCERS:
            continue
        alone = x.use_count == 1 and x.op.block is op.block and x.op not in found
        if alone and _has_activation(x.op) and not reason_against(x.op):
            found[x.op] = (kind, op.results[0])
    return found


def _has_activation(op: Op) -> bool:
    from lepton_ir.backends.tflite.table import rows

    return rows()[op.name].kind(op) != "BATCH_MATMUL"
