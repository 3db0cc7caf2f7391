"""What is known about operations in 16 bits, whatever the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.infer import const_tensor

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value

HEAVY = frozenset(
    {
        "attention",
        "conv",
        "conv_transpose",
        "einsum",
        "gemm",
        "gru",
        "lstm",
        "matmul",
        "ms_fused_conv",
        "ms_fused_gemm",
        "ms_fused_matmul",
        "ms_group_query_attention",
        "ms_multi_head_attention",
        "rnn",
    }
)
"""Operations that are worth the casts around them; the others follow their neighbours."""

SENSITIVE = frozenset(
    {
        "batch_normalization",
        "cum_prod",
        "cum_sum",
        "exp",
        "group_normalization",
        "instance_normalization",
        "log",
        "log_softmax",
        "lp_normalization",
        "mean_variance_normalization",
        "negative_log_likelihood_loss",
        "pow",
        "reduce_l1",
        "reduce_l2",
        "reduce_log_sum",
        "reduce_log_sum_exp",
        "reduce_prod",
        "reduce_sum",
        "reduce_sum_square",
        "rms_normalization",
        "softmax_cross_entropy_loss",
        "softplus",
        "tan",
    }
)
"""Operations that overflow f16, or lose its few digits, on ordinary activations: powers and
exponentials leave its range, sums gather the rounding of many terms."""

UNSUITED = frozenset(
    {
        "bernoulli",
        "bit_cast",
        "call",
        "cast_like",
        "dequantize_linear",
        "dynamic_quantize_linear",
        "eye_like",
        "mel_weight_matrix",
        "multinomial",
        "non_max_suppression",
        "quantize_linear",
        "random_normal",
        "random_normal_like",
        "random_uniform",
        "random_uniform_like",
        "range",
        "return",
        "sequence_map",
        "yield",
    }
)
"""Operations whose element type is an attribute, a contract, or that of sequences."""

WIDE_OPERANDS: dict[str, frozenset[str]] = {
    "resize": frozenset({"roi", "scales"}),
    "one_hot": frozenset({"indices", "depth"}),
    "affine_grid": frozenset({"size"}),
}
"""Operands that are no data: they stay as they are when their operation is converted."""

DIVISORS: dict[str, int] = {"div": 1, "reciprocal": 0, "log": 0}
"""Operand that must not become 0."""

GUARDS = frozenset({"add", "clip", "max", "sub", "where"})
"""Operations that keep a divisor away from 0 with a tiny constant."""

GUARDED = frozenset(
    {
        *("expand", "identity", "max", "pow", "reciprocal", "reshape", "slice", "sqrt"),
        *("squeeze", "transpose", "unsqueeze"),
    }
)
"""Operations between such a guard and the division: their results are tiny, or huge, as well."""

ANGLES = frozenset({"sin", "cos"})
"""Periodic functions: the absolute error of their operand counts, which f16 does not bound."""

CARRIES = frozenset(
    {
        *("abs", "add", "cast", "ceil", "clip", "concat", "cum_sum", "div", "expand", "flatten"),
        *("floor", "gather", "identity", "max", "min", "mod", "mul", "neg", "pow", "range"),
        *("reciprocal", "reduce_max", "reduce_min", "reduce_prod", "reduce_sum", "reshape"),
        *("round", "slice", "split", "sqrt", "squeeze", "sub", "sum", "tile", "transpose"),
        *("unsqueeze", "where"),
    }
)
"""Operations that pass the need for all digits on to their operands."""

INDEX_OPERANDS: dict[str, tuple[int, ...]] = {
    "range": (0, 1, 2),
    "resize": (1, 2),
    "one_hot": (0, 1),
}
"""Operands that are positions or sizes."""


def is_unsuited(op: Op) -> bool:
    """Return whether ``op`` has no 16-bit form that this pass makes."""
    name = op.name
    if op.definition is None or op.regions or op.has_attr_refs or name in UNSUITED:
        return True
    parts = ("qlinear", "qgemm", "quantize", "integer", "nbits", "sequence")
    return name != "reverse_sequence" and any(part in name for part in parts)


def touches_quantized(op: Op) -> bool:
    """Return whether ``op`` stands between the pairs of a quantized model."""
    makers = (v.op for v in op.operands if v is not None)
    if any(maker is not None and maker.name == "dequantize_linear" for maker in makers):
        return True
    return any(use.op.name == "quantize_linear" for r in op.results for use in r.uses)


LARGE = 1 << 16
"""Bytes of a constant that make the operation reading it worth converting."""


def is_heavy(op: Op) -> bool:
    """Return whether converting ``op`` is worth the casts around it."""
    if op.name in HEAVY:
        return True
    tensors = (const_tensor(v) for v in op.operands)
    return any(t is not None and t.dtype.is_float and t.nbytes >= LARGE for t in tensors)


def wide_slots(op: Op) -> frozenset[int]:
    """Return the operand slots that keep their type when ``op`` is converted."""
    names = WIDE_OPERANDS.get(op.name)
    if names is None or op.definition is None:
        return frozenset()
    return frozenset(i for n, i in op.definition.operand_index.items() if n in names)


def wants_digits(op: Op) -> tuple[int, ...]:
    """Return the operand slots whose value is an angle, a position or a size."""
    if op.name in ANGLES:
        return (0,)
    if op.name == "cast":
        to = op.attrs.get("to")
        counted = to is not None and to.is_integer and to is not dtypes.BOOL
        return (0,) if counted else ()
    return INDEX_OPERANDS.get(op.name, ())


def carries_digits(op: Op) -> bool:
    """Return whether the digits of the result are those of the operands."""
    if op.name == "matmul":
        return _is_outer_product(op)
    return op.name in CARRIES


def _is_outer_product(op: Op) -> bool:
    x = op.operands[0]
    shape = None if x is None else x.shape
    return bool(shape) and len(shape or ()) > 1 and (shape or (None,))[-1] == 1


def is_constant(value: Value) -> bool:
    """Return whether ``value`` is a constant."""
    return const_tensor(value) is not None
