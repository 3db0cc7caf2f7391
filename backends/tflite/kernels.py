"""What LiteRT's kernels take, as measured: element types and ranks, outside of quantization.

A row is an operator, the element types that its kernel computes rightly, and the highest rank.
``probe`` in the tests measures them again. Kernels that only move bytes are listed with all
types that were tried.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

KERNELS = """
ADD f32 f16 i32 i64 i16 | 8
SUB f32 f16 i32 i64 | 8
MUL f32 f16 i32 i64 i16 u32 | 8
DIV f32 f16 i32 | 8
MAXIMUM f32 f16 i32 i64 i8 u8 i16 | 8
MINIMUM f32 f16 i32 i64 i8 u8 i16 | 8
POW f32 i32 | 8
FLOOR_MOD f32 i32 i64 i8 i16 | 8
FLOOR_DIV f32 i32 i8 i16 | 8
LESS f32 f16 i32 i64 i16 | 8
LESS_EQUAL f32 f16 i32 i64 | 8
GREATER f32 f16 i32 i64 | 8
GREATER_EQUAL f32 f16 i32 i64 i16 | 8
EQUAL f32 f16 i32 i64 i16 bool | 8
NOT_EQUAL f32 f16 i32 i64 bool | 8
LOGICAL_AND bool | 8
LOGICAL_OR bool | 8
LOGICAL_NOT bool | 8
BITWISE_XOR i8 i16 i32 u8 u32 | 8
RIGHT_SHIFT i8 i16 i32 u8 u32 | 8
STABLEHLO_AND i8 i16 i32 i64 u8 u16 u32 bool | 8
STABLEHLO_SHIFT_LEFT i8 i16 i32 | 8
ATAN2 f32 f16 | 8
ABS f32 f16 i32 i16 | 8
NEG f32 f16 i32 i64 i8 i16 | 8
SIGN f32 i32 | 8
EXP f32 f16 | 8
LOG f32 f16 | 8
SQRT f32 f16 | 8
RSQRT f32 f16 | 8
SQUARE f32 f16 | 8
FLOOR f32 f16 | 8
CEIL f32 f16 | 8
ROUND f32 f16 | 8
SIN f32 f16 | 8
COS f32 f16 | 8
TANH f32 f16 | 8
LOGISTIC f32 f16 | 8
RELU f32 f16 | 8
RELU_N1_TO_1 f32 | 8
RELU_0_TO_1 f32 | 8
RELU6 f32 f16 | 8
ELU f32 f16 | 8
HARD_SWISH f32 f16 | 8
GELU f32 f16 | 8
LEAKY_RELU f32 | 8
PRELU f32 | 8
SELECT_V2 f32 f16 i32 i64 i8 u8 i16 bool | 8
SOFTMAX f32 | 6
LOG_SOFTMAX f32 | 6
UNIDIRECTIONAL_SEQUENCE_LSTM f32 | 3
MEAN f32 f16 i32 i64 i8 u8 i16 | 6
SUM f32 f16 i32 i64 i8 u8 i16 | 6
REDUCE_MAX f32 f16 i32 i64 i8 u8 i16 | 6
REDUCE_MIN f32 f16 i32 i64 i8 u8 i16 | 6
REDUCE_PROD f32 i32 i64 i8 u8 i16 | 8
CAST f32 f16 i32 i64 i8 u8 i16 u16 u32 bool | 8
RESHAPE f32 f16 i32 i64 i8 u8 i16 u32 bool | 8
TRANSPOSE f32 f16 i32 i64 i8 u8 i16 bool | 8
CONCATENATION f32 f16 i32 i64 i8 u8 i16 bool | 6
SPLIT_V f32 i32 i64 i8 u8 i16 | 8
STRIDED_SLICE f32 f16 i32 i64 i8 u8 i16 bool u32 | 6
PADV2 f32 f16 i32 i64 i8 u8 i16 | 5
MIRROR_PAD f32 i32 i64 i8 u8 i16 | 6
TILE f32 f16 i32 i64 i8 u8 i16 bool | 8
BROADCAST_TO f32 f16 i32 i64 i8 u8 i16 bool | 8
FILL f32 f16 i32 i64 i8 i16 bool | 8
RANGE f32 i32 i64 | 1
SHAPE f32 f16 i32 i64 i8 u8 i16 u32 bool | 8
SQUEEZE f32 f16 i32 i64 i8 u8 i16 u32 bool | 8
EXPAND_DIMS f32 f16 i32 i64 i8 u8 i16 u32 bool | 7
GATHER f32 f16 i32 i64 i8 u8 i16 bool | 8
GATHER_ND f32 i32 i64 i8 u8 i16 bool | 6
BITCAST f32 f16 i32 i64 i8 u8 i16 u32 u16 | 8
IF bool | 8
WHILE f32 f16 i32 i64 i8 u8 i16 bool u32 | 8
REDUCE_ANY bool | 8
REDUCE_ALL bool | 8
NON_MAX_SUPPRESSION_V4 f32 | 2
NON_MAX_SUPPRESSION_V5 f32 | 2
DYNAMIC_UPDATE_SLICE f32 i32 i64 i8 bool | 8
STABLEHLO_SCATTER f32 i32 i64 | 8
SCATTER_ND f32 i32 i64 i8 u8 | 8
ONE_HOT f32 i32 i64 i8 u8 i16 bool | 7
ARG_MAX f32 i32 i8 u8 bool | 8
ARG_MIN f32 i32 i8 u8 bool | 8
TOPK_V2 f32 i32 i64 i8 u8 i16 | 8
CUMSUM f32 i32 i64 | 8
REVERSE_SEQUENCE f32 i32 i64 i8 u8 i16 | 8
WHERE bool f32 i32 i64 i8 u8 | 8
FULLY_CONNECTED f32 | 5
BATCH_MATMUL f32 | 6
CONV_2D f32 | 4
DEPTHWISE_CONV_2D f32 | 4
CONV_3D f32 | 5
TRANSPOSE_CONV f32 | 4
MAX_POOL_2D f32 | 4
AVERAGE_POOL_2D f32 | 4
L2_POOL_2D f32 | 4
DEPTH_TO_SPACE f32 i32 i64 i8 u8 | 4
SPACE_TO_DEPTH f32 i32 i64 i8 u8 | 4
LOCAL_RESPONSE_NORMALIZATION f32 | 4
PACK f32 i32 i64 i8 u8 i16 | 8
UNPACK f32 i32 i64 i8 u8 i16 bool | 8
L2_NORMALIZATION f32 | 4
SPACE_TO_BATCH_ND f32 i32 i64 i8 u8 i16 | 4
BATCH_TO_SPACE_ND f32 i32 i64 i8 u8 i16 | 4
QUANTIZE f32 | 8
DEQUANTIZE i8 u8 i16 i4 i32 f16 | 8
RESIZE_BILINEAR f32 | 4
RESIZE_NEAREST_NEIGHBOR f32 i8 u8 i16 | 4
"""


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes.

    Attributes:
        dtypes: names of the element types.
        rank: the highest rank.
    """

    dtypes: frozenset[str]
    rank: int


@functools.cache
def kernels() -> dict[str, Kernel]:
    """Return every kernel by operator."""
    found = {}
    for line in KERNELS.strip().splitlines():
        head, _, rank = line.partition("|")
        name, *types = head.split()
        found[name] = Kernel(frozenset(types), int(rank))
    return found
