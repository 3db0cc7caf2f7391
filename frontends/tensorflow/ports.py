"""Names of the results of operators that have several: functions refer to results by name.

The names are facts of TensorFlow's op definitions. An operator that is not here has one named
result, which may be a list.
"""

from __future__ import annotations

from typing import Any

from lepton_ir.diagnostics import InvalidModelError, shorten

_TABLE = """
TensorArrayV3: handle flow
TensorListConcat TensorListConcatV2: tensor lengths
TensorArrayConcatV3: value lengths
TensorListPopBack: output_handle tensor
FusedBatchNorm FusedBatchNormV2: y batch_mean batch_variance reserve_space_1 reserve_space_2
FusedBatchNormV3: y batch_mean batch_variance reserve_space_1 reserve_space_2 reserve_space_3
TopK TopKV2: values indices
Unique UniqueV2: y idx
UniqueWithCounts UniqueWithCountsV2: y idx count
Switch RefSwitch: output_false output_true
Merge RefMerge: output value_index
ListDiff: out idx
BlockLSTM BlockLSTMV2 LSTMBlockCell: i cs f o ci co h
GRUBlockCell: r u c h
CudnnRNN: output output_h output_c reserve_space
CudnnRNNV2 CudnnRNNV3: output output_h output_c reserve_space host_reserved
Svd: s u v
Qr: q r
SelfAdjointEigV2 Eig: e v
Lu: lu p
LogMatrixDeterminant: sign log_abs_determinant
NonMaxSuppressionV4: selected_indices valid_outputs
NonMaxSuppressionV5: selected_indices selected_scores valid_outputs
CombinedNonMaxSuppression: nmsed_boxes nmsed_scores nmsed_classes valid_detections
MaxPoolWithArgmax: output argmax
SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits: loss backprop
QuantizeV2 Requantize QuantizedReshape QuantizedConcat QuantizedConcatV2 \
QuantizeDownAndShrinkRange: output output_min output_max
QuantizedConv2D QuantizedMaxPool QuantizedAvgPool: output min_output max_output
QuantizedMatMul QuantizedBiasAdd: out min_out max_out
QuantizedRelu: activations min_activations max_activations
QuantizedAdd QuantizedMul: z min_z max_z
RequantizationRange: output_min output_max
CTCGreedyDecoder: decoded_indices decoded_values decoded_shape log_probability
BroadcastGradientArgs: r0 r1
StatelessRandomGetKeyCounter: key counter
StatelessRandomGetKeyCounterAlg: key counter alg
SparseReshape: output_indices output_shape
SparseFillEmptyRows: output_indices output_values empty_row_indicator reverse_index_map
"""


def _parse(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.strip().replace("\\\n", "").splitlines():
        ops, _, names = line.partition(":")
        found.update(dict.fromkeys(ops.split(), tuple(names.split())))
    return found


PORTS = _parse(_TABLE)
"""Operator to the names of its results; each is one tensor."""


def port_of(op: str, name: str, index: int, signature: Any = None) -> int:
    """Return the number of a result.

    Args:
        op: the operator.
        name: of the result.
        index: in a result that is a list.
        signature: of the function that the operator's name stands for, if it does.

    Raises:
        InvalidModelError: the operator has no such result.
    """
    names = PORTS.get(op)
    if signature is not None:
        names = tuple(a.name for a in signature.output_arg)
    if names is None:
        return index
    if name not in names or index:
        raise InvalidModelError(
            f"{shorten(op)} has no result {shorten(name)}:{index}", code="tf-input"
        )
    return names.index(name)
