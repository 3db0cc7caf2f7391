"""The rows: names, and what differs between opsets. Everything else is derived (see `table`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import onnx.defs

from lepton_ir.diagnostics import InvalidModelError
from lepton_ir.frontends.onnx.table import (
    Change,
    Custom,
    Dropped,
    Implied,
    Incoming,
    KeepOpaque,
    Moved,
    Outgoing,
    Respelled,
    Row,
    Unwritable,
)
from lepton_ir.infer import const_array
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_IRREGULAR = {
    "Col2Im": "col2im",
    "IsNaN": "is_nan",
    "MatMulNBits": "matmul_nbits",
    "PRelu": "prelu",
    "QGemm": "qgemm",
    "SwiGLU": "swiglu",
}


def snake_case(op_type: str) -> str:
    """Return the IR's name for an ONNX operator name."""
    if op_type in _IRREGULAR:
        return _IRREGULAR[op_type]
    text = op_type.replace("MatMul", "Matmul").replace("QLinear", "Qlinear")
    text = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", text)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", text).lower()


# -- differences that take code --------------------------------------------------------------------


def _split_in(node: Incoming) -> None:
    """Without sizes, Split before opset 18 has as many equal parts as outputs."""
    if len(node.inputs) < 2 and "num_outputs" not in node.attrs:
        node.attrs["num_outputs"] = node.outputs


def _split_out(node: Outgoing) -> None:
    """Parts may be uneven since opset 18 only; before, their number was that of the outputs."""
    parts = node.attrs.pop("num_outputs", None)
    if parts is None:
        return
    x = node.operand(0)
    size = None
    if x is not None and x.shape is not None:
        size = x.shape[node.attrs["axis"]]
    if isinstance(size, int) and size % parts:
        raise Unwritable(f"{size} elements in {parts} uneven parts need opset 18")


def _slice_out(node: Outgoing) -> None:
    """Slice before opset 10 has no steps."""
    steps = node.take_constant(4, "steps")
    if steps is not None and not (isinstance(steps, np.ndarray) and (steps == 1).all()):
        raise Unwritable("steps other than 1 need opset 10")


def _training_in(node: Incoming) -> None:
    """Before opset 14, asking for the statistics meant training, whose results differ."""
    if node.outputs > 1:
        raise KeepOpaque("training mode")


def _training_out(node: Outgoing) -> None:
    if node.attrs.pop("training_mode", False):
        raise Unwritable("training_mode needs opset 14")
    if len(node.op.results) > 1:
        raise Unwritable("the running statistics need opset 14")


def _dropout_out(node: Outgoing) -> None:
    """Before opset 12 Dropout never drops at inference, and says nothing about training."""
    training = node.take_constant(2, "training_mode")
    if training is not None and (not isinstance(training, np.ndarray) or training.any()):
        raise Unwritable("training_mode needs opset 12")
    if node.version < 10 and len(node.op.results) > 1:
        raise Unwritable("the mask is not bool before opset 10")


def _dropout_in(node: Incoming) -> None:
    if node.version < 10 and node.outputs > 1:
        raise KeepOpaque("the mask is not bool before opset 10")


def _upsample_in(node: Incoming) -> None:
    """Upsample is Resize with scales, asymmetric coordinates and floor (as Resize-10)."""
    node.inputs[1:] = [None, *node.inputs[1:2]]
    _legacy_resize_in(node)


def _resize10_in(node: Incoming) -> None:
    node.inputs[1:] = [None, *node.inputs[1:2]]
    _legacy_resize_in(node)


def _legacy_resize_in(node: Incoming) -> None:
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    node.attrs["nearest_mode"] = "floor"
    if node.attrs.get("mode") in ("bilinear", "trilinear"):
        node.attrs["mode"] = "linear"


def _resize11_out(node: Outgoing) -> None:
    """Before opset 13 roi and scales cannot be left out: empty ones mean that they are absent."""
    if node.version < 11:
        return
    node.inputs += [None] * (3 - len(node.inputs))
    for i in (1, 2):
        if node.inputs[i] is None:
            node.inputs[i] = DenseTensor(np.zeros(0, np.float32))


def _legacy_resize_out(node: Outgoing) -> None:
    """Resize-10 and Upsample have scales only, asymmetric coordinates and floor."""
    if node.operand(3) is not None:
        raise Unwritable("sizes need opset 11")
    if node.operand(2) is None:
        raise Unwritable("scales are missing")
    mode = node.attrs.pop("coordinate_transformation_mode")
    nearest = node.attrs.pop("nearest_mode")
    kind = node.attrs["mode"]
    if kind not in ("nearest", "linear"):
        raise Unwritable(f"mode {kind} needs opset 11")
    if mode != "asymmetric":
        raise Unwritable(f"coordinate_transformation_mode {mode} needs opset 11")
    if kind == "nearest" and nearest != "floor":
        raise Unwritable(f"nearest_mode {nearest} needs opset 11")
    for name in ("cubic_coeff_a", "extrapolation_value"):
        node.attrs.pop(name)  # read by modes that were refused above
    node.inputs[:] = [node.inputs[0], node.inputs[2]]


def _upsample_scales_in(node: Incoming) -> None:
    scales = node.attrs.pop("scales")
    node.set_input(1, node.const(scales, "floats", None))


def _upsample_scales_out(node: Outgoing) -> None:
    scales = node.take_constant(1, "scales")
    node.attrs["scales"] = (
        tuple(scales.reshape(-1).tolist()) if isinstance(scales, np.ndarray) else scales
    )


def _clip_out(node: Outgoing) -> None:
    """Clip-6 reads its bounds as f32, and only floats."""
    x = node.operand(0)
    if x is not None and x.dtype is not None and not x.dtype.is_float:
        raise Unwritable(f"Clip of {x.dtype} needs opset 12")


def _dft_out(node: Outgoing) -> None:
    """DFT-17 counts its axis attribute from 0; -2 is the default of today's operand."""
    axis = node.attrs.get("axis")
    x = node.operand(0)
    if isinstance(axis, int) and axis < 0:
        rank = x.rank if x is not None else None
        if rank is None:
            raise Unwritable(f"axis {axis} of an input of unknown rank needs opset 20")
        node.attrs["axis"] = axis + rank


def _pad_axes_out(node: Outgoing) -> None:
    """Pads for some axes only (opset 18) are spelt out for all of them."""
    if node.operand(3) is not None:
        raise Unwritable("axes of Pad need opset 18")


def _softmax(before: int = 13) -> tuple[Change, ...]:
    return (Implied("coerce_2d", True, before),)


def _reduce(before: int) -> tuple[Change, ...]:
    return (Moved("axes", 1, before), Custom(before, None, _reduce_out))


def _reduce_out(node: Outgoing) -> None:
    """Without axes every axis is reduced; an empty list of them is another thing (opset 18)."""
    if node.attrs.pop("noop_with_empty_axes", False):
        value = node.operand(1)
        array = const_array(value)
        if value is None or array is None or array.size == 0:
            raise Unwritable("noop_with_empty_axes is not known before axes were an input")


def _prelu_channels(node: Incoming) -> None:
    """Before opset 7 a slope of one dim is per channel, not broadcast from the right."""
    x, slope = (*node.inputs, None, None)[:2]
    if x is None or slope is None or slope.rank != 1 or slope.shape == (1,):
        return
    if x.rank is None:
        raise InvalidModelError("the slope is per channel and the rank of the input is not known")
    if x.rank > 2:
        node.set_input(1, node.insert("unsqueeze", slope, list(range(1, x.rank - 1))))


BEFORE_7: dict[str, Callable[[Incoming], None]] = {"PRelu": _prelu_channels}
"""What onnx.version_converter leaves as it was in nodes from opsets before 7."""


# -- the rows --------------------------------------------------------------------------------------

_RESIZE: tuple[Change, ...] = (
    Custom(
        11,
        _resize10_in,
        _legacy_resize_out,
        new=(
            "#1",
            "#3",
            "coordinate_transformation_mode",
            "nearest_mode",
            "cubic_coeff_a",
            "extrapolation_value",
        ),
    ),
    Custom(13, None, _resize11_out),
)

CHANGES: dict[str, tuple[Change, ...]] = {
    "BatchNormalization": (
        Dropped("spatial", 1, 9),
        Custom(14, _training_in, _training_out, new=("training_mode",)),
    ),
    "Clip": (
        Moved("min", 1, 11, "like"),
        Moved("max", 2, 11, "like"),
        Custom(12, None, _clip_out),
    ),
    "DFT": (Custom(20, None, _dft_out), Moved("axis", 2, 20, "int", absent=1, meant=-2)),
    "Dropout": (
        Moved("ratio", 1, 12, "float"),
        Custom(12, _dropout_in, _dropout_out, new=("seed", "#2")),
    ),
    "GridSample": (Respelled("mode", (("bilinear", "linear"), ("bicubic", "cubic")), 20),),
    "GroupNormalization": (Implied("per_group", True, 21),),
    "Hardmax": _softmax(),
    "LogSoftmax": _softmax(),
    "Pad": (
        Moved("pads", 1, 11),
        Moved("value", 2, 11, "like"),
        Custom(18, None, _pad_axes_out, new=("#3",)),
    ),
    "ReduceSum": _reduce(13),
    "Resize": _RESIZE,
    "RoiAlign": (Implied("coordinate_transformation_mode", "output_half_pixel", 16),),
    "Slice": (
        Moved("starts", 1, 10),
        Moved("ends", 2, 10),
        Moved("axes", 3, 10),
        Custom(10, None, _slice_out, new=("#4",)),
    ),
    "Softmax": _softmax(),
    "Split": (Moved("split", 1, 13), Custom(18, _split_in, _split_out, new=("num_outputs",))),
    "Squeeze": (Moved("axes", 1, 13),),
    "TopK": (Moved("k", 1, 10, "int1"),),
    "Unsqueeze": (Moved("axes", 1, 13),),
}
CHANGES.update(
    {
        f"Reduce{name}": _reduce(18)
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    }
)

SINCE: dict[str, int] = {"Scan": 9}
"""Operators whose older form is something else (Scan-8 runs over a batch): it stays opaque."""

OLD_OPERATORS: tuple[Row, ...] = (
    Row(
        "",
        "Upsample",
        "resize",
        (
            Custom(9, _upsample_scales_in, _upsample_scales_out, old=("scales",), new=("#1",)),
            Custom(
                1 << 30,
                _upsample_in,
                _legacy_resize_out,
                new=(
                    "#2",
                    "#3",
                    "coordinate_transformation_mode",
                    "nearest_mode",
                    "cubic_coeff_a",
                    "extrapolation_value",
                ),
            ),
        ),
        until=10,
    ),
    Row("", "Scatter", "scatter_elements", until=11),
)
"""Operators that others replaced: read wherever they occur, written where nothing else exists."""

OPAQUE: dict[str, str] = {
    "Constant": "read into const",
    "ImageDecoder": "strings and encoded images are not tensors the IR computes with",
    "RegexFullMatch": "strings",
    "StringConcat": "strings",
    "StringNormalizer": "strings",
    "StringSplit": "strings",
    "TfIdfVectorizer": "strings",
}
"""Operators of the default domain without a row, and why."""

MICROSOFT = "com.microsoft"
MICROSOFT_SAME: tuple[Row, ...] = (Row(MICROSOFT, "Gelu", "gelu", without=("approximate",)),)
"""Operators of onnxruntime that mean the same as a standard operation."""

MICROSOFT_IN_ONNX: tuple[Row, ...] = (
    Row("", "SimplifiedLayerNormalization", "ms_simplified_layer_normalization", contrib=True),
)
"""Operators of onnxruntime that it registers in the default domain."""

EARLY = frozenset({"LayerNormalization"})
"""Operators that onnxruntime registers in all opsets of the default domain, as its own fusions
write them into older models."""


def all_rows() -> Iterator[Row]:
    """Yield every row; those written first come first."""
    from lepton_ir import opdef

    names = {
        s.name
        for s in onnx.defs.get_all_schemas_with_history()
        if s.domain == "" and s.name not in OPAQUE
    }
    old = {row.op_type for row in OLD_OPERATORS}
    for op_type in sorted(names - old):
        changes, since = CHANGES.get(op_type, ()), SINCE.get(op_type, 0)
        early = op_type in EARLY
        yield Row("", op_type, snake_case(op_type), changes, since=since, early=early)
    yield from OLD_OPERATORS
    yield from MICROSOFT_SAME
    yield from MICROSOFT_IN_ONNX
    defined = opdef.load_all()
    for op_type in MICROSOFT_OPERATORS:
        name = f"ms_{snake_case(op_type)}"
        if name in defined:
            yield Row(MICROSOFT, op_type, name)


_MICROSOFT_NAMES = """
    Attention BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu BifurcationDetector CDist
    ComplexMul ComplexMulConj ConvTransposeWithDynamicPads CropAndResize
    DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DequantizeBFP DequantizeLinear
    DequantizeWithOrder DynamicQuantizeLSTM DynamicQuantizeMatMul DynamicTimeWarping EPContext
    EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm FusedMatMul
    FusedMatMulActivation GatedRelativePositionBias GatherBlockQuantized GatherND GemmFastGelu
    GemmFloat8 GemmaRotaryEmbedding GridSample GroupNorm GroupQueryAttention Inverse Irfft
    LongformerAttention MatMulBnb4 MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits
    MaxpoolWithMask MoE MulInteger MultiHeadAttention MurmurHash3 NGramRepeatBlock NhwcConv
    NhwcFusedConv NhwcMaxPool PackedAttention PackedMultiHeadAttention Pad QAttention QGemm
    QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool
    QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere
    QMoE QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention
    QOrderedMatMul QuantizeBFP QuantizeLinear QuantizeWithOrder QuickGelu Range ReduceSumInteger
    RelativePositionBias RemovePadding RestorePadding Rfft RotaryEmbedding SampleOp Sampling
    SkipGroupNorm SkipLayerNormalization
    SkipSimplifiedLayerNormalization SparseAttention SparseToDenseMatMul Tokenizer
    TorchEmbedding TransposeMatMul Trilu UnfoldTensor Unique WhisperBeamSearch WordConvEmbedding
   
"""

MICROSOFT_OPERATORS: tuple[str, ...] = tuple(_MICROSOFT_NAMES.split())
"""Operators of onnxruntime; those that the operation table defines as ``ms_*`` have rows."""
