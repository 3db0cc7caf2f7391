"""What LiteRT's kernels do on quantized tensors, as measured: element types and scales.

A row is an operator, the element types of its data, and how the parameters of its result go with
those of its operands: ``free``, ``same`` (for all of them), ``result`` (those of all operands are
the result's), ``fixed`` (see `FIXED`), ``layer`` (weights and bias), ``none`` (the result is not
quantized).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lepton_ir.backends.tflite.parameters import Params

INTEGERS = """
CONV_2D i8 u8 i16 | layer
DEPTHWISE_CONV_2D i8 u8 i16 | layer
TRANSPOSE_CONV i8 u8 i16 | layer
FULLY_CONNECTED i8 u8 i16 | layer
BATCH_MATMUL i8 i16 | free
ADD i8 u8 i16 | free
SUB i8 u8 i16 | free
MUL i8 u8 i16 | free
DIV u8 | free
SQUARED_DIFFERENCE i8 | free
MEAN i8 u8 i16 | free
SUM i8 u8 | free
RELU i8 u8 i16 | free
RELU6 i8 u8 i16 | free
RELU_N1_TO_1 i8 u8 | free
LEAKY_RELU i8 u8 i16 | free
PRELU i8 u8 | free
HARD_SWISH i8 u8 | free
ELU i8 | free
GELU i8 u8 | free
EXP i8 i16 | free
LOG i8 | free
RSQRT i8 i16 | free
ABS i8 i16 | free
QUANTIZE i8 u8 i16 | free
MAX_POOL_2D i8 u8 i16 | same
AVERAGE_POOL_2D i8 u8 i16 | same
RESIZE_BILINEAR i8 u8 i16 | same
RESIZE_NEAREST_NEIGHBOR i8 u8 i16 | same
MAXIMUM i8 u8 i16 | result
MINIMUM i8 u8 i16 | result
CONCATENATION i8 u8 i16 | result
PADV2 i8 u8 i16 | same
MIRROR_PAD i8 u8 i16 | same
RESHAPE i8 u8 i16 | same
TRANSPOSE i8 u8 i16 | same
SQUEEZE i8 u8 i16 | same
EXPAND_DIMS i8 u8 i16 | same
STRIDED_SLICE i8 u8 i16 | same
SLICE i8 u8 i16 | same
SPLIT i8 u8 i16 | same
SPLIT_V i8 u8 i16 | same
GATHER i8 u8 i16 | same
GATHER_ND i8 u8 i16 | same
TILE i8 u8 i16 | same
BROADCAST_TO i8 u8 i16 | same
REVERSE_V2 i8 u8 i16 | same
REVERSE_SEQUENCE i8 u8 i16 | same
SPACE_TO_DEPTH i8 u8 | same
DEPTH_TO_SPACE i8 u8 | same
SPACE_TO_BATCH_ND i8 u8 i16 | same
BATCH_TO_SPACE_ND i8 u8 i16 | same
SELECT_V2 i8 u8 i16 | result
REDUCE_MAX i8 u8 i16 | same
REDUCE_MIN i8 u8 i16 | same
TOPK_V2 i8 u8 | same
PACK i8 u8 i16 | result
UNPACK i8 u8 i16 | same
SOFTMAX i8 u8 i16 | fixed
LOGISTIC i8 u8 i16 | fixed
TANH i8 u8 i16 | fixed
LOG_SOFTMAX i8 u8 | fixed
L2_NORMALIZATION i8 u8 | fixed
EQUAL i8 u8 | none
NOT_EQUAL i8 u8 | none
LESS i8 u8 | none
LESS_EQUAL i8 u8 | none
GREATER i8 u8 | none
GREATER_EQUAL i8 u8 | none
ARG_MAX i8 u8 | none
ARG_MIN i8 u8 | none
"""

FIXED: dict[tuple[str, str], tuple[float, int]] = {
    ("SOFTMAX", "i8"): (1 / 256, -128),
    ("SOFTMAX", "u8"): (1 / 256, 0),
    ("SOFTMAX", "i16"): (1 / 32768, 0),
    ("LOGISTIC", "i8"): (1 / 256, -128),
    ("LOGISTIC", "u8"): (1 / 256, 0),
    ("LOGISTIC", "i16"): (1 / 32768, 0),
    ("TANH", "i8"): (1 / 128, 0),
    ("TANH", "u8"): (1 / 128, 128),
    ("TANH", "i16"): (1 / 32768, 0),
    ("LOG_SOFTMAX", "i8"): (16 / 256, 127),
    ("LOG_SOFTMAX", "u8"): (16 / 256, 255),
    ("L2_NORMALIZATION", "i8"): (1 / 128, 0),
    ("L2_NORMALIZATION", "u8"): (1 / 128, 128),
}
"""Scale and zero point that a kernel gives its result, whatever the tensor says."""


@dataclass(frozen=True)
class Integer:
    """What one kernel does on quantized tensors.

    Attributes:
        dtypes: names of the element types of its data.
        how: how parameters go together, see the module's docstring.
    """

    dtypes: frozenset[str]
    how: str


@functools.cache
def integers() -> dict[str, Integer]:
    """Return every kernel that takes quantized tensors, by operator."""
    found = {}
    for line in INTEGERS.strip().splitlines():
        head, _, how = line.partition("|")
        name, *types = head.split()
        found[name] = Integer(frozenset(types), how.strip())
    return found


def fixed(builtin: str, dtype: str) -> Params | None:
    """Return the parameters that a kernel gives its result, ``None`` if it takes any."""
    known = FIXED.get((builtin, dtype))
    return None if known is None else Params((known[0],), (known[1],))


@functools.cache
def fixed_operations() -> dict[tuple[str, str], tuple[float, int]]:
    """Return `FIXED` by the names of operations."""
    names = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid", "TANH": "tanh"}
    names |= {"LOG_SOFTMAX": "log_softmax", "L2_NORMALIZATION": "l2_normalization"}
    return {(names[builtin], dtype): known for (builtin, dtype), known in FIXED.items()}
