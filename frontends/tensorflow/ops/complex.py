"""Rows of operators on complex numbers, which are pairs of real ones in a last axis of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.frontends.tensorflow.table import tf_complex

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node
    from lepton_ir.ir import Value

REAL = {dtypes.C64: dtypes.F32, dtypes.C128: dtypes.F64}
"""Complex types and those of their parts."""


def _parts(b: TfBuilder, x: Value) -> tuple[Value, Value]:
    one, two = (b.gather(x, b.full((), i, dtypes.I64), axis=-1) for i in (0, 1))
    return one, two


def _pair(b: TfBuilder, real: Value, imag: Value) -> Value:
    last = b.ints([-1])
    found: Value = b.concat(b.unsqueeze(real, last), b.unsqueeze(imag, last), axis=-1)
    return found


@tf_complex("Add", "AddV2")
def add(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    return b.add(x, y)


@tf_complex("Sub")
def sub(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    return b.sub(x, y)


@tf_complex("Neg")
def neg(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.neg(x)


@tf_complex("Conj")
def conj(b: TfBuilder, node: Node, x: Value) -> Any:
    assert x.dtype is not None
    return b.mul(x, b.const(np.asarray([1, -1], x.dtype.numpy)))


@tf_complex("Mul")
def mul(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    (a, c), (d, e) = _parts(b, x), _parts(b, y)
    real = b.sub(b.mul(a, d), b.mul(c, e))
    return _pair(b, real, b.add(b.mul(a, e), b.mul(c, d)))


@tf_complex("Exp")
def exp(b: TfBuilder, node: Node, x: Value) -> Any:
    real, imag = _parts(b, x)
    size = b.exp(real)
    return _pair(b, b.mul(size, b.cos(imag)), b.mul(size, b.sin(imag)))


@tf_complex("Cast")
def cast(b: TfBuilder, node: Node, x: Value) -> Any:
    source, target = node.attr("SrcT"), node.attr("DstT")
    if target not in REAL:
        return b.cast_to(_parts(b, x)[0], target)
    if source in REAL:
        return b.cast_to(x, REAL[target])
    real = b.cast_to(x, REAL[target])
    return _pair(b, real, b.expand(b.like(real, 0), b.shape_of(real)))


@tf_complex("ExpandDims")
def expand_dims(b: TfBuilder, node: Node, x: Value, axis: Value) -> Any:
    from lepton_ir.frontends.tensorflow.ops._common import number

    at = number(axis, "the axis")
    return b.unsqueeze(x, b.ints([at if at >= 0 else at - 1]))


@tf_complex("Reshape")
def reshape(b: TfBuilder, node: Node, x: Value, shape: Value) -> Any:
    return b.resized(x, b.concat(b.cast_to(shape, dtypes.I64), b.ints([2]), axis=0))
