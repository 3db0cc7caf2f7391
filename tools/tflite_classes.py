"""Which operations TFLite can express: by operation, element type, rank and constness, as data.

The lists come from the mapping of ONNX to TFLite and from what LiteRT's kernels were measured to
take, not from the backend: the conformance tool holds the backend to them. A line is a list of
element types, then the operations that have a form for them, each with what must hold:
``name@1`` judges operand 1, ``name!1,2`` wants constant operands 1 and 2, ``name<5`` ranks up to 5.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_ir.ir import Module, Op

EXPRESSIBLE = """
f32 f16: acos acosh asin asinh atan atanh ceil cos cosh erf exp floor log reciprocal round sin sinh
    sqrt tan tanh sigmoid softplus softsign elu selu celu leaky_relu thresholded_relu hard_sigmoid
    hard_swish mish swish gelu relu prelu is_nan softmax<6 log_softmax<6 hardmax is_inf swiglu
    batch_normalization instance_normalization group_normalization layer_normalization lrn
    rms_normalization lp_normalization mean_variance_normalization conv conv_transpose gemm einsum
    average_pool lp_pool global_average_pool global_lp_pool global_max_pool attention
    rotary_embedding causal_conv_with_state reduce_l2 reduce_log_sum reduce_log_sum_exp det<4
    negative_log_likelihood_loss softmax_cross_entropy_loss mean matmul quantize_linear
    dynamic_quantize_linear ms_bias_gelu ms_fast_gelu ms_quick_gelu linear_attention
f32 f16 i8 i16 i32 i64 u8 u16 u32: add sub mul min max abs neg sign sum equal less less_or_equal
    greater greater_or_equal clip shrink
f32 f16 i8 i16 i32 u8 u16: div
f32 f16 i8 i16 i32 i64 u8: mod
f32 f16 i32: pow
bool: and or xor not equal
i8 i16 i32 i64 u8 u16 u32: bitwise_and
i8 i16 i32 u8 u16 u32: bitwise_not bitwise_or bitwise_xor bit_shift
f32 f16 i8 i16 i32 i64 u8 u16 u32 bool: where@1 identity cast cast_like transpose<8 reshape flatten
    squeeze!1 unsqueeze!1 concat<6 split slice!3 pad!3<5 tile expand gather gather_elements
    gather_nd scatter_elements scatter_nd one_hot@2 constant_of_shape shape size depth_to_space
    space_to_depth trilu eye_like compress reverse_sequence dropout center_crop_pad!1 if loop scan
    non_zero const
f32 f16 i32 i64 i8 u8 i16: reduce_sum<6 reduce_mean<6 reduce_sum_square<6 reduce_l1<6 range arg_max
    arg_min top_k cum_sum cum_prod!1
f32 f16 i32 i64 i8 u8 i16 bool: reduce_max<6 reduce_min<6
f32 i32 i64 i8 u8 i16: reduce_prod
f32 f16 i8 u8 i16: max_pool
f32 f16 i8 u8 i16 i32: resize!1,2,3
f32 f16 i8 u8 i16 i32 u16 u32: bit_cast
i8 u8 i16 u16 i32: dequantize_linear
i8 u8: qlinear_conv qlinear_matmul conv_integer matmul_integer
f32: lstm gru rnn dft!1,2 stft!1,2,3 grid_sample affine_grid!1 roi_align max_unpool col2im!1,2
    deform_conv tensor_scatter hann_window hamming_window blackman_window mel_weight_matrix
    non_max_suppression unique
i32 i64: hann_window hamming_window blackman_window mel_weight_matrix
"""

NEVER = {
    "strings": "string_",
    "sequences": "sequence split_to_sequence concat_from_sequence",
    "optional values": "optional",
    "random numbers, which no two runtimes draw alike": "random multinomial bernoulli",
}
"""Families that have no form, by the first letters of their operations."""


@dataclass(frozen=True)
class Form:
    """What one operation may be given.

    Attributes:
        dtypes: element types of the operand that is judged.
        judged: that operand.
        constant: operands that must be constants.
        rank: the highest rank.
    """

    dtypes: frozenset[str]
    judged: int
    constant: tuple[int, ...]
    rank: int


_CELL = re.compile(r"(\w+?)(?:@(\d+))?(?:!([\d,]+))?(?:<(\d+))?")


@functools.cache
def forms() -> dict[str, list[Form]]:
    """Return the forms of each operation."""
    found: dict[str, list[Form]] = {}
    joined = EXPRESSIBLE.strip().replace("\n    ", " ")
    for line in joined.splitlines():
        types, _, cells = line.partition(":")
        for cell in cells.split():
            match = _CELL.fullmatch(cell)
            assert match is not None
            name, judged, constant, rank = match.groups()
            numbers = tuple(int(n) for n in (constant or "").split(",") if n)
            form = Form(frozenset(types.split()), int(judged or 0), numbers, int(rank or 8))
            found.setdefault(name, []).append(form)
    return found


def classify(module: Module) -> str:
    """Return why a module cannot be expressed, ``""`` when it can."""
    for value in module.main.inputs:
        shape, dtype = value.shape, value.dtype
        if dtype is None or shape is None:
            return f"an input of type {value.type}"
        if dtype.name in ("f64", "bf16", "u64", "str") or dtype.bits < 8:
            return f"an input of {dtype}"
    for op in module.walk():
        reason = reason_of(op)
        if reason:
            return f"{op.name}: {reason}"
    return ""


def reason_of(op: Op) -> str:
    """Return why an operation cannot be expressed, ``""`` when it can."""
    if op.name in ("return", "yield", "const"):
        return ""
    for why, heads in NEVER.items():
        if op.name.startswith(tuple(heads.split())):
            return why
    if op.definition is None:
        return "an operation that is not known"
    if op.attrs.get("training_mode") or (op.name == "dropout" and len(op.operands) > 2):
        return "training"
    known = forms().get(op.name)
    if known is None:
        return "there is no operator and no arithmetic for it"
    reasons = [_misses(op, form) for form in known]
    return "" if "" in reasons else reasons[-1]


def _misses(op: Op, form: Form) -> str:
    value = op.operands[form.judged] if form.judged < len(op.operands) else op.results[0]
    dtype = None if value is None else value.dtype
    if dtype is not None and dtype.name not in form.dtypes:
        return f"not of {dtype}"
    for made in op.results:
        if made.dtype is not None and made.dtype.name in _NO_TENSORS:
            return f"no result of {made.dtype}"
        if made.shape is not None and 0 in made.shape:
            return "a result without elements"
    empty = value is not None and 0 in (value.shape or ())
    if empty and op.name.startswith(_WHOLE):
        return "an operand without elements"
    for index in form.constant:
        given = op.operands[index] if index < len(op.operands) else None
        if given is not None and (given.op is None or given.op.name != "const"):
            return f"operand {index} is no constant"
    ranks = [v.rank or 0 for v in (*op.operands, *op.results) if v is not None]
    if max(ranks, default=0) > form.rank:
        return f"rank {max(ranks)}"
    return ""


_WHOLE = (
    "reduce_",
    "matmul",
    "gemm",
    "conv",
    "softmax",
    "log_softmax",
    "arg_",
    "top_k",
    "max_pool",
)
"""Operations whose kernels were measured to be wrong, or refuse, where there are no elements."""

_NO_TENSORS = frozenset(
    (
        *("f64", "bf16", "u64", "str", "i4", "u4", "i2", "u2", "f4e2m1", "c64", "c128"),
        *("f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f8e8m0"),
    )
)
