"""Rows of random numbers: their distribution is kept, not the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.frontends.tensorflow.ops._common import wide
from lepton_ir.frontends.tensorflow.table import tf_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node


def _drawn(b: TfBuilder, node: Node, sizes: Value, name: str) -> Value:
    kind = node.attr("dtype", dtypes.F32) or dtypes.F32
    base = b.expand(b.full((), 0, kind), wide(b, sizes))
    return b.build(name, base).result


@tf_op("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2")
def uniform(b: TfBuilder, node: Node, sizes: Value, *_: Value) -> Any:
    return _drawn(b, node, sizes, "random_uniform_like")


@tf_op("RandomStandardNormal", "StatelessRandomNormal", "StatelessRandomNormalV2")
def normal(b: TfBuilder, node: Node, sizes: Value, *_: Value) -> Any:
    return _drawn(b, node, sizes, "random_normal_like")
