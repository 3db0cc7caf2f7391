"""Which version of an operator a model needs, and which runtime that needs: facts, as data.

A row is an operator and its versions with conditions, the first that holds counts, 1 otherwise:
``4:0=i16&1=i16``. A condition is ``0=i8|u8`` (element type of operand 0), ``o0=i16`` (of a result),
``rank>4`` (of operand 0), ``ranks>4`` (of any operand), ``inputs=2`` (operands that are there),
``.keep_num_dims`` (an option that is set), or a word that the operator's tensors are known by, see
``Signature.words``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

VERSIONS = """
CONV_2D 8:0=i16&1=i8&.quantized_bias_type 6:grouped 4:0=i16 3:0=i8&1=i8 7:0=i8&1=i4
    5:0=f32&1=i8|i4&per_channel 2:0=f32&1=i8|i4
DEPTHWISE_CONV_2D 5:0=i16 6:0=f32&1=i8|i4&per_channel 4:0=f32&1=i8|i4 3:0=i8&1=i8 7:0=i8&1=i4
    2:dilated
FULLY_CONNECTED 13:0=i16&1=i4 12:0=f32&1=i8&per_channel 11:0=i16&1=i8&.quantized_bias_type
    8:sparse 7:0=i16&1=i16 10:1=i4 6:inputs=2 5:.keep_num_dims 4:0=i8&1=i8
    9:0=f32&1=i8&.asymmetric_quantize_inputs 3:0=f32&1=i8 2:.weights_format
EMBEDDING_LOOKUP 4:1=i4 4:per_channel
FAKE_QUANT 2:.narrow_range
GATHER 7:0=i4 6:1=i16 5:.batch_dims 4:0=i16 3:0=bool 2:0=i8
SIGN 2:0=i32
MUL 7:0=i16&plain 7:0=u32 6:0=c64 5:0=i64 4:0=i16 3:rescaled 2:0=i8
MAX_POOL_2D 3:0=i16 2:0=i8
AVERAGE_POOL_2D 3:0=i16 2:0=i8
TRANSPOSE 7:0=i4 6:rank>5 5:0=i16 4:rank>4 3:0=bool 2:0=i8
TRANSPOSE_CONV 5:2=i16&.quantized_bias_type 4:.fused_activation_function 3:inputs=4 2:1=i8
SPLIT 4:1=i16 3:1=i32 2:1=i8
SPLIT_V 2:0=i8
SPARSE_TO_DENSE 3:2=i8|u8 2:2=i64
SLICE 6:0=u32 5:rank>4 4:0=i16 3:0=string 2:0=i8
UNPACK 2:0=i8|u8 3:0=bool 4:0=i16
DEQUANTIZE 6:0=i4 3:0=i16|f16 5:0=i8&per_channel 2:0=i8
QUANTIZE 4:0=i4 4:o0=i4 3:per_channel 2:o0=i16
FLOOR_DIV 3:0=i16|i8 2:0=f32
FLOOR_MOD 2:0=i16|i8
L2_NORMALIZATION 2:o0=i8
ABS 5:0=i32 4:0=i16&plain 3:0=i16 2:0=i8|u8
RELU 3:0=i16 2:0=i8|u8
RELU6 3:0=i16 2:0=i8
STRIDED_SLICE 8:.offset 7:0=u32 6:.ellipsis_mask 6:.new_axis_mask 5:0=string 4:rank>4 3:0=bool
    2:0=i8
REVERSE_V2 3:0=i8 2:0=bool
RESIZE_BILINEAR 4:0=i16 3:.half_pixel_centers 2:0=i8
RESIZE_NEAREST_NEIGHBOR 4:0=i16 3:.half_pixel_centers 3:.align_corners 2:0=i8
MAXIMUM 4:0=i16 3:broadcast&ranks>4 2:0=i8
MINIMUM 4:0=i16 3:broadcast&ranks>4 2:0=i8
PACK 2:0=i8 3:0=i16 4:0=u32
TILE 3:0=i8 2:0=string
SQUEEZE 2:0=string
SPACE_TO_BATCH_ND 4:0=i16 3:rank!4 2:0=i8
BATCH_TO_SPACE_ND 4:0=i16 3:rank!4 2:0=i8
ADD 5:0=i16&plain 4:0=i64 3:0=i16 2:0=i8
SUB 5:0=i16 4:0=i64 3:broadcast&ranks>4 2:0=i8
DIV 2:broadcast&ranks>4
GATHER_ND 5:0=bool 4:1=i16 3:0=i16 2:0=string
TANH 3:0=i16 2:0=i8
LOGISTIC 3:0=i16 2:0=i8
FILL 4:1=f16 3:1=i8|i16 2:1=bool|string
EQUAL 4:0=i16 3:0=string 2:0=i8
NOT_EQUAL 3:0=string 2:0=i8
LESS 3:0=i16 2:0=i8
GREATER_EQUAL 3:0=i16 2:0=i8
GREATER 2:0=i8
LESS_EQUAL 2:0=i8
LEAKY_RELU 2:0=i16
RANGE 2:0=i64
BATCH_MATMUL 3:0=i16 2:0=i8 4:0=f32&1=i8&.asymmetric_quantize_inputs
PAD 5:0=bool 4:rank>4 3:0=i16 2:0=i8
PADV2 5:0=bool 4:rank>4 3:0=i16 2:0=i8
CONCATENATION 4:0=u32 3:0=i16 2:0=i8
SOFTMAX 3:0=i16 2:0=i8
MEAN 3:0=i16 2:0=i8
MIRROR_PAD 3:0=i16 2:0=i8
REDUCE_MAX 3:0=i16 2:0=i8
REDUCE_MIN 3:0=i16 2:0=i8
RSQRT 3:0=i16 2:0=i8
ARG_MAX 3:0=bool 2:0=i8
ARG_MIN 3:0=bool 2:0=i8
SELECT_V2 2:1=u32
SPACE_TO_DEPTH 2:0=i8
DEPTH_TO_SPACE 2:0=i8
SUM 2:0=i8
LOG_SOFTMAX 2:0=i8
SQUARED_DIFFERENCE 2:0=i8
TOPK_V2 3:0=i16 3:1=i16 3:o1=i16 2:0=i8
EXP 2:0=i8|i16
LOG 2:0=i8|i16
REDUCE_PROD 2:0=i8|i16
DYNAMIC_UPDATE_SLICE 4:0=i16 3:0=f16 2:2=i64
BROADCAST_TO 3:0=i8|i16 2:always
CAST 7:0=bf16 7:o0=bf16 6:0=i4&o0=f32 5:0=f64|f16 5:o0=f64|f16 4:0=u16 4:o0=u16 3:0=i8 3:o0=i8
    2:0=u32 2:o0=u32
WHERE 2:0=f32|f16|i32|i64|u32|i8|u8
GELU 2:0=i8|u8
"""

RUNTIMES = """
ABS 1.13.0 2.4.0 2.5.0 2.6.0
ADD 1.5.0 1.14.0 2.4.0 2.6.0
ADD_N 1.14.0
ARG_MAX 1.9.0 1.14.0 2.9.0
ARG_MIN 1.9.0 1.14.0 2.9.0
ASSIGN_VARIABLE 2.6.0
AVERAGE_POOL_2D 1.5.0 1.14.0 2.3.0
BATCH_MATMUL 2.3.0 2.3.0 2.4.0 2.5.0
BATCH_TO_SPACE_ND 1.6.0 1.14.0 2.3.0
BROADCAST_ARGS 2.6.0
BROADCAST_TO - 2.5.0 2.5.0
BUCKETIZE 2.8.0
CALL_ONCE 2.5.0
CAST 1.5.0 2.7.0 2.8.0 2.9.0
CEIL 1.14.0
COMPLEX_ABS 2.5.0
CONCATENATION 1.5.0 1.14.0 2.3.0
CONV_2D 1.5.0 1.14.0 1.14.0 2.3.0 2.4.0 2.9.0
CONV_3D 2.5.0
CONV_3D_TRANSPOSE 2.6.0
COS 1.14.0
CUMSUM 2.4.0
DENSIFY 2.2.0
DEPTHWISE_CONV_2D 1.5.0 1.12.0 1.14.0 2.2.0 2.3.0 2.3.0
DEPTH_TO_SPACE 2.1.0 2.5.0
DEQUANTIZE 1.13.1 1.14.0 1.15.0 2.2.0 2.7.0
DIV 1.6.0 2.3.0
DYNAMIC_UPDATE_SLICE 2.9.0
ELU 1.14.0
EMBEDDING_LOOKUP 1.13.0 1.14.0 1.14.0
EQUAL 1.14.0 1.14.0 2.3.0
EXP 1.7.0
EXPAND_DIMS 1.10.0
FAKE_QUANT 1.5.0 1.10.0
FILL 1.13.0 2.3.0 2.5.0
FLOOR 1.9.0
FLOOR_DIV 1.14.0 1.14.0
FLOOR_MOD 1.13.0
FULLY_CONNECTED 1.5.0 1.10.0 1.14.0 1.14.0 2.0.0 2.1.0 2.3.0 2.3.0 2.3.0
GATHER 1.6.0 1.14.0 1.15.0 2.4.0 2.5.0
GATHER_ND 1.14.0 2.3.0 2.5.0
GELU 2.9.0 2.9.0
GREATER 1.14.0 1.14.0
GREATER_EQUAL 1.14.0 1.14.0
HARD_SWISH 1.15.0
IF 1.15.0
L2_NORMALIZATION 1.5.0 1.14.0
L2_POOL_2D 1.5.0
LEAKY_RELU 1.13.1 2.3.0
LESS 1.14.0 1.14.0
LESS_EQUAL 1.14.0 1.14.0
LOCAL_RESPONSE_NORMALIZATION 1.5.0
LOG 1.14.0
LOGICAL_AND 1.11.0
LOGICAL_NOT 1.11.0
LOGICAL_OR 1.11.0
LOGISTIC 1.14.0 1.14.0 2.3.0
LOG_SOFTMAX 1.14.0 1.14.0
LSTM 1.7.0 1.10.0 1.14.0 2.3.0
MATRIX_DIAG 1.14.0
MATRIX_SET_DIAG 1.14.0
MAXIMUM 1.14.0 1.14.0 2.3.0 2.3.0
MAX_POOL_2D 1.5.0 1.14.0 2.3.0
MEAN 1.6.0 1.14.0 2.4.0
MINIMUM 1.14.0 1.14.0 2.3.0 2.3.0
MIRROR_PAD 1.13.1 2.3.0
MUL 1.5.0 1.14.0 1.15.0 2.3.0 2.6.0
MULTINOMIAL 2.8.0
NEG 1.9.0
NON_MAX_SUPPRESSION_V4 2.1.0
NON_MAX_SUPPRESSION_V5 2.1.0
NOT_EQUAL 1.14.0 1.14.0 2.3.0
ONE_HOT 1.11.0
PACK 1.11.0 1.14.0 2.3.0
PAD 1.5.0 1.14.0 2.4.0 2.6.0
PADV2 1.9.0 1.14.0 2.4.0 2.6.0
POW 1.10.0
PRELU 1.8.0
QUANTIZE 1.14.0 1.15.0 2.7.0
RANDOM_STANDARD_NORMAL 2.8.0
RANDOM_UNIFORM 2.8.0
RANGE 1.13.0
RANK 1.14.0
READ_VARIABLE 2.6.0
REDUCE_ALL 2.6.0
REDUCE_ANY 1.11.0
REDUCE_MAX 1.11.0 1.14.0 2.5.0
REDUCE_MIN 1.11.0 1.14.0 2.5.0
REDUCE_PROD 1.11.0 2.6.0
RELU 1.5.0 2.1.0 2.5.0
RELU6 1.5.0 1.14.0 2.5.0
RELU_N1_TO_1 1.5.0
RESHAPE 1.5.0
RESIZE_BILINEAR 1.7.0 1.14.0 2.2.0 2.5.0
RESIZE_NEAREST_NEIGHBOR 1.13.1 1.14.0 2.3.0 2.4.0
REVERSE_SEQUENCE 1.14.0
REVERSE_V2 1.14.0 2.2.0 2.5.0
RFFT2D 2.5.0
ROUND 1.14.0
RSQRT 1.10.0 2.5.0
SCATTER_ND 2.1.0
SEGMENT_SUM 2.2.0
SELECT 1.14.0 1.14.0
SELECT_V2 2.2.0
SHAPE 1.10.0
SIN 1.9.0
SLICE 1.14.0 1.14.0 1.14.0 2.4.0 2.5.0
SOFTMAX 1.5.0 1.14.0 2.3.0
SPACE_TO_BATCH_ND 1.6.0 1.14.0 2.3.0
SPACE_TO_DEPTH 1.5.0 1.14.0
SPARSE_TO_DENSE 1.9.0 1.14.0 1.15.0
SPLIT 1.5.0 1.14.0 1.14.0 2.3.0
SPLIT_V 1.13.1 2.3.0
SQRT 1.10.0
SQUARE 1.12.0
SQUARED_DIFFERENCE 1.13.1 2.5.0
SQUEEZE 1.6.0 2.5.0
STRIDED_SLICE 1.6.0 1.14.0 2.1.0 2.2.0 2.5.0 2.6.0
SUB 1.6.0 1.14.0 2.3.0 2.4.0 2.4.0
SUM 1.10.0 1.15.0
SVDF 1.5.0 1.14.0 2.2.0 2.3.0
TANH 1.14.0 1.14.0 2.3.0
TILE 1.10.1 2.2.0 2.8.0
TOPK_V2 1.7.0 1.14.0
TRANSPOSE 1.6.0 1.14.0 1.15.0 2.3.0 2.4.0
TRANSPOSE_CONV 1.9.0 2.2.0 2.3.0
UNIDIRECTIONAL_SEQUENCE_LSTM 1.13.1 1.14.0 2.3.0
UNIDIRECTIONAL_SEQUENCE_RNN 1.14.0 1.14.0 2.3.0
UNIQUE 1.14.0
UNPACK 1.11.0 1.14.0 2.2.0 2.3.0
VAR_HANDLE 2.6.0
WHERE 1.14.0 2.8.0
WHILE 1.15.0
ZEROS_LIKE 1.12.0
"""
"""The first runtime with each version of an operator, from version 1 on."""

NEWEST_KNOWN = "2.18.0"
"""Runtime that is asked for where a version is not in the list above: those lists end there."""


@dataclass(frozen=True)
class Signature:
    """What the version of an operator hangs on.

    Attributes:
        builtin: the operator.
        inputs: element types of the operands, ``""`` for an absent one.
        outputs: element types of the results.
        ranks: ranks of the operands.
        options: options that are set (not zero).
        words: what else is known: ``grouped``, ``per_channel``, ``dilated``, ``broadcast``,
            ``sparse``, ``plain`` (operand 0 is not quantized), ``rescaled``.
    """

    builtin: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    options: frozenset[str] = field(default_factory=frozenset)
    words: frozenset[str] = field(default_factory=frozenset)

    def meets(self, condition: str) -> bool:
        """Return whether a condition of the table holds."""
        if condition == "always":
            return True
        if condition.startswith("."):
            return condition[1:] in self.options
        name, equals, value = condition.partition("=")
        if name == "inputs":
            return sum(map(bool, self.inputs)) == int(value)
        if equals:
            types, index = (self.outputs, name[1:]) if name.startswith("o") else (self.inputs, name)
            return int(index) < len(types) and types[int(index)] in value.split("|")
        if condition.startswith("ranks>"):
            return max(self.ranks, default=0) > int(condition[6:])
        if condition.startswith("rank"):
            rank = self.ranks[0] if self.ranks else 0
            given = int(condition[5:])
            return rank > given if condition[4] == ">" else rank != given
        return condition in self.words


def _rows(text: str) -> dict[str, list[str]]:
    joined = text.strip().replace("\n    ", " ")
    return {name: cells for name, *cells in (line.split() for line in joined.splitlines())}


@functools.cache
def _versions() -> dict[str, list[tuple[int, list[str]]]]:
    return {
        name: [(int(c.partition(":")[0]), c.partition(":")[2].split("&")) for c in cells]
        for name, cells in _rows(VERSIONS).items()
    }


@functools.cache
def _runtimes() -> dict[str, list[str]]:
    return _rows(RUNTIMES)


def version_of(signature: Signature) -> int:
    """Return the smallest version of the operator that does this."""
    for version, conditions in _versions().get(signature.builtin, ()):
        if all(map(signature.meets, conditions)):
            return version
    return 1


def runtime_of(builtin: str, version: int) -> str:
    """Return the first runtime that has this version of an operator."""
    known = _runtimes().get(builtin, [])
    return known[version - 1] if version <= len(known) else NEWEST_KNOWN


def newest(runtimes: list[str]) -> str:
    """Return the highest of some runtime versions; ``1.5.0``, the first one, of none."""
    return max(runtimes, key=lambda v: tuple(map(int, v.split("."))), default="1.5.0")
