"""Rows of spectra. Complex numbers are pairs of real ones in a last axis of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.frontends import formulas
from lepton_ir.frontends.tensorflow.ops._common import number
from lepton_ir.frontends.tensorflow.table import tf_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.frontends.tensorflow.nodes import Node


def _fitted(b: TfBuilder, x: Value, axis: int, size: int) -> Value:
    """Return ``x`` with an axis cut or filled with zeros to ``size``."""
    total = b.static_size(x, axis, "a spectrum")
    if total > size:
        x = b.slice(x, b.ints([0]), b.ints([size]), b.ints([axis]))
    elif total < size:
        x = b.pad(x, b.ints([0, size - total]), b.like(x, 0), b.ints([axis]))
    return x


@tf_op("RFFT")
def rfft(b: TfBuilder, node: Node, x: Value, length: Value) -> Any:
    """The first half of the spectrum of a real signal, as pairs."""
    size = number(length, "the length of a spectrum")
    axis = b.rank(x) - 1
    pairs = b.unsqueeze(_fitted(b, x, axis, size), b.ints([axis + 1]))
    return b.dft(pairs, None, b.full((), axis, dtypes.I64), onesided=True)


@tf_op("IRFFT")
def irfft(b: TfBuilder, node: Node, x: Value, length: Value) -> Any:
    """The real signal of half a spectrum: the other half is its mirror, conjugated."""
    size = number(length, "the length of a spectrum")
    axis = b.rank(x) - 2
    half = _fitted(b, x, axis, size // 2 + 1)
    stop = size - size // 2 - 1
    mirror = b.slice(half, b.ints([stop]), b.ints([0]), b.ints([axis]), b.ints([-1]))
    sign = b.const(np.asarray([1, -1], np.float32))
    whole = b.concat(half, b.mul(mirror, sign), axis=axis) if stop > 0 else half
    found = b.dft(whole, None, b.full((), axis, dtypes.I64), inverse=True)
    return b.gather(found, b.full((), 0, dtypes.I64), axis=axis + 1)


def _part(b: TfBuilder, x: Value, index: int) -> Value:
    found: Value = b.gather(x, b.full((), index, dtypes.I64), axis=-1)
    return found


@tf_op("ComplexAbs")
def complex_abs(b: TfBuilder, node: Node, x: Value) -> Any:
    return b.reduce_l2(x, b.ints([-1]), keepdims=False)


@tf_op("Angle")
def angle(b: TfBuilder, node: Node, x: Value) -> Any:
    return formulas.atan2(b, _part(b, x, 1), _part(b, x, 0))


@tf_op("Real")
def real(b: TfBuilder, node: Node, x: Value) -> Any:
    return _part(b, x, 0)


@tf_op("Imag")
def imag(b: TfBuilder, node: Node, x: Value) -> Any:
    return _part(b, x, 1)


@tf_op("Complex")
def complex_(b: TfBuilder, node: Node, x: Value, y: Value) -> Any:
    last = b.ints([b.rank(x)])
    return b.concat(b.unsqueeze(x, last), b.unsqueeze(y, last), axis=-1)
