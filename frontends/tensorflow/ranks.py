"""Ranks of inputs that the file does not say, by what reads them: a convolution takes images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.frontends.tensorflow.functions import PASSING, Ref
from lepton_ir.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.frontends.tensorflow.functions import Body
    from lepton_ir.frontends.tensorflow.nodes import Node
    from lepton_ir.types import TensorType

_RANKS = {
    "MatMul": 2,
    **dict.fromkeys(("Conv2D", "DepthwiseConv2dNative", "MaxPool", "AvgPool"), 4),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "ResizeBilinear", "LRN"), 4),
    **dict.fromkeys(("Conv3D", "MaxPool3D", "AvgPool3D"), 5),
}
"""Operators whose first operand has one rank; others are refused by TensorFlow as well."""

_KEEPING = frozenset((*PASSING, "Relu", "Relu6", "Tanh", "Sigmoid", "Cast", "BiasAdd"))

_STEPS = 1000


def ranked(type_: TensorType, name: str, body: Body) -> TensorType:
    """Return the type of an input, with a rank where its readers demand one."""
    if type_.shape is not None:
        return type_
    readers: dict[Ref, list[Node]] = {}
    for node in body.nodes.values():
        if node.inputs:
            readers.setdefault(body.operands(node)[0], []).append(node)
    rank = next(_demanded(Ref(name, 0), readers, body), None)
    return type_ if rank is None or rank < 0 else type_.with_shape([None] * rank)


def _demanded(ref: Ref, readers: dict[Ref, list[Node]], body: Body) -> Iterator[int]:
    """Yield ranks that readers demand."""
    work = [(ref, 0)]
    for _ in range(_STEPS):
        if not work:
            return
        found, more = work.pop()
        for node in readers.get(found, ()):
            if node.op in _RANKS:
                yield _RANKS[node.op] - more
            elif node.op in _KEEPING:
                work.append((Ref(node.name, 0), more))
            elif node.op == "ExpandDims" and _is_scalar(node, body):
                work.append((Ref(node.name, 0), more + 1))


def _is_scalar(node: Node, body: Body) -> bool:
    axis = body.nodes.get(body.operands(node)[-1].node)
    value = axis.attr("value") if axis is not None and axis.op == "Const" else None
    return isinstance(value, Tensor) and value.size == 1
