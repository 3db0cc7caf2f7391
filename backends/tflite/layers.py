"""Weights and biases of convolutions and dense layers on integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.parameters import Params, params_of
from lepton_ir.backends.tflite.reads import Read, Unfit
from lepton_ir.infer import const_array, const_tensor

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value

Array = np.ndarray[Any, Any]

_CLOSE = 1e-6
"""Scales of biases that differ by less (as a ratio) are products rounded in another order."""


def layer_reads(op: Op, reads: dict[Value, Read], x: Read, dtype: DType) -> Read:
    """Say what a layer reads: data, weights, bias; returns one element of a bias of zeros.

    Raises:
        Unfit: its weights or its bias cannot be integers.
    """
    weight = op.operands[1]
    assert op.operands[0] is not None
    assert weight is not None
    held = held_weight(op, dtype)
    reads[op.operands[0]] = x
    reads[weight] = held
    bias = op.operands[2] if len(op.operands) > 2 else None
    if x.params.axis is not None:
        raise Unfit("its data has a scale per channel")
    scale = _product(x.params, held.params)
    if bias is not None:
        reads[bias] = _bias(bias, scale, dtype)
    zero = np.zeros(1, np.int64 if dtype is dtypes.I16 else np.int32)
    return Read(array=zero, params=_units(scale), name="no_bias")


def held_weight(op: Op, dtype: DType | None) -> Read:
    """Return the weights of a layer, which are constants with a scale per result or one.

    Args:
        op: the layer.
        dtype: of its data, ``None`` when that is float.

    Raises:
        Unfit: no kernel takes them.
    """
    weight = op.operands[1]
    pair = None if weight is None else weight.op
    if pair is None or pair.name != "dequantize_linear" or pair.block is not op.block:
        raise Unfit("its weights are not quantized")
    source, params = pair.operands[0], params_of(pair)
    payload = const_tensor(source)
    if payload is None or params is None or source is None or weight is None:
        raise Unfit("its weights are not constants with constant scales")
    if params.axis is not None and params.axis != _results_axis(op, weight.rank or 2):
        raise Unfit("its weights have a scale along another axis than that of results")
    if source.dtype in (dtypes.I8, dtypes.I4):
        if dtype is dtypes.U8:
            raise Unfit("kernels for data of u8 take weights of u8")
        if not params.symmetric:
            raise Unfit("its weights have zero points")
        return Read(held=source, params=params)
    if source.dtype is dtypes.U8 and dtype is dtypes.U8:
        if params.axis is not None:
            raise Unfit("its weights of u8 have a scale per channel")
        return Read(held=source, params=params)
    raise Unfit(f"its weights are of {source.dtype}")


def _results_axis(op: Op, rank: int) -> int:
    """Return the axis of a layer's weights along which there is one index for each result."""
    if op.name == "matmul":
        return rank - 1
    return 1 if op.name == "gemm" and not op.attr("transB") else 0


def _product(x: Params, weight: Params) -> Array:
    return np.float32(x.scale[0]) * np.asarray(weight.scale, np.float32)


def _units(scale: Array) -> Params:
    axis = 0 if scale.size > 1 else None
    return Params(tuple(float(s) for s in scale), (0,) * scale.size, axis)


def _bias(bias: Value, scale: Array, dtype: DType) -> Read:
    """Return a bias in units of the products of scales: as it is, if that is what it has.

    Raises:
        Unfit: it is no constant, or too large.
    """
    wide = np.int64 if dtype is dtypes.I16 else np.int32
    pair, name = bias.op, bias.name or "bias"
    given = const_array(bias)
    if pair is not None and pair.name == "dequantize_linear":
        params, codes = params_of(pair), const_array(pair.operands[0])
        if params is not None and codes is not None and params.symmetric:
            name = (pair.operands[0].name if pair.operands[0] else None) or name
            units = np.asarray(params.scale, np.float32)
            if codes.dtype.kind == "i" and np.allclose(units, scale, rtol=_CLOSE, atol=0):
                return Read(array=codes.reshape(-1).astype(wide), params=_units(scale), name=name)
            given = codes.reshape(-1).astype(np.float64) * units
    if given is None:
        raise Unfit("its bias is not a constant")
    exact = np.rint(given.reshape(-1).astype(np.float64) / scale)
    if not np.isfinite(exact).all() or np.abs(exact).max(initial=0) > np.iinfo(np.int32).max:
        raise Unfit("its bias does not fit 32 bits in units of the scales")
    return Read(array=exact.astype(wide), params=_units(scale), name=name)
