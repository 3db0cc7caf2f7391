"""Statically quantized convolutions: integers in, integers out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import made_by, settle, sole_user
from lepton_ir.passes.fuse.ort_common import contrib, wants_contrib
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_CODES = (dtypes.U8, dtypes.I8)


def _one_number(value: Value | None) -> bool:
    found = const_array(value)
    return found is not None and found.size == 1 and found.ndim <= 1


def per_tensor(op: Op | None) -> bool:
    """Return whether a (de)quantization has one constant scale (f32) and zero point (8 bits)."""
    if op is None or len(op.operands) < 3 or not _one_number(op.operands[1]):
        return False
    scale = op.operands[1]
    if scale is None or scale.dtype is not dtypes.F32:
        return False
    zero = op.operands[2]
    return _one_number(zero) and zero is not None and zero.dtype in _CODES


def codes_of(op: Op) -> Value:
    """Return the integers that a dequantization reads."""
    codes = op.operands[0]
    assert codes is not None
    return codes


def _scale_of(op: Op, index: int = 1) -> np.ndarray[Any, Any] | None:
    found = const_array(op.operands[index])
    return None if found is None else found.astype(np.float64).reshape(-1)


def _weight(op: Op | None) -> bool:
    """Whether a weight has one scale, or one an output channel, and zero points like it."""
    if op is None or op.attr("block_size") or len(op.operands) < 3 or op.operands[0] is None:
        return False
    scale, zero = const_array(op.operands[1]), const_array(op.operands[2])
    codes = op.operands[0]
    if scale is None or zero is None or codes.dtype not in _CODES or not codes.shape:
        return False
    if scale.size > 1 and (op.attr("axis") != 0 or scale.shape != (codes.shape[0],)):
        return False
    if scale.shape != zero.shape or (zero.size > 1 and (zero != zero[0]).any()):
        return False
    return codes.dtype is dtypes.I8 or zero.size == 1


def _bias(op: Op | None, x: Op, w: Op) -> bool:
    """Whether a bias has the product of the scales of x and w, and zero point 0."""
    if op is None or op.operands[0] is None or op.operands[0].dtype is not dtypes.I32:
        return False
    scale, left, right = _scale_of(op), _scale_of(x), _scale_of(w)
    if scale is None or left is None or right is None or scale.size not in (1, right.size):
        return False
    if len(op.operands) > 2 and op.operands[2] is not None:
        zero = const_array(op.operands[2])
        if zero is None or zero.any():
            return False
    return bool(np.allclose(scale, left * right, rtol=1e-4, atol=0))


@rewrite("quantize_linear", benefit=1)
def signed_codes_to_unsigned(m: Match, rw: Rewriter) -> bool:
    """dequantize(quantize(x) as i8) => the same as u8, with 128 added to the zero point.

    Codes and zero point move together: results are bit-identical. Convolutions of onnxruntime on
    x86 are several times as fast on unsigned codes.
    """
    if not wants_contrib(rw.ctx) or not per_tensor(m.root):
        return False
    codes = m.root.result
    if codes.dtype is not dtypes.I8 or m.root.attr("block_size"):
        return False
    readers = codes.users
    if not readers or not all(r.name == "dequantize_linear" for r in readers):
        return rw.fail("the codes are not only dequantized")
    if not all(per_tensor(r) and r.operands[0] is codes for r in readers):
        return rw.fail("the scales are not constants, one a tensor")
    moved = _unsigned(rw, m.root.operands[2])
    attrs = {k: v for k, v in m.root.all_attrs().items() if k != "output_dtype"}
    made: Value = rw.quantize_linear(*m.root.operands[:2], moved, **attrs)
    for reader in readers:
        again = _unsigned(rw, reader.operands[2])
        rw.also(reader)
        built = rw.build("dequantize_linear", made, reader.operands[1], again, **reader.all_attrs())
        rw.replace(reader.result, built.result)
    return True


def _unsigned(rw: Rewriter, zero: Value | None) -> Value:
    found = const_array(zero)
    assert found is not None
    return rw.const((found.astype(np.int16) + 128).astype(np.uint8), dtypes.U8)


_UNARY = {
    "sigmoid": "ms_qlinear_sigmoid",
    "leaky_relu": "ms_qlinear_leaky_relu",
    "global_average_pool": "ms_qlinear_global_average_pool",
}


@rewrite("quantize_linear")
def fuse_qlinear_unary(m: Match, rw: Rewriter) -> bool:
    """quantize(sigmoid(dequantize(x))) => ms_qlinear_sigmoid(x), each scale being one number.

    Also for leaky_relu and global_average_pool. The result may differ by one step.
    """
    inner = made_by(m.root.operands[0], *_UNARY)
    if inner is None:
        return False
    if not sole_user(inner.result):
        return rw.fail("{} has other users", inner)
    x = made_by(inner.operands[0], "dequantize_linear")
    if x is None or not per_tensor(x) or not per_tensor(m.root):
        return rw.fail("the scales are not constants, one a tensor")
    if m.root.result.dtype is not codes_of(x).dtype or not contrib(rw, _UNARY[inner.name]):
        return rw.fail("codes of x and the result have different types")
    rw.also(inner)
    operands = [*x.operands[:3], *m.root.operands[1:3]]
    made = rw.build(_UNARY[inner.name], *operands, **inner.all_attrs())
    return settle(rw, m.root, made.result)


@rewrite("quantize_linear")
def fuse_qlinear_conv(m: Match, rw: Rewriter) -> bool:
    """quantize(conv(dequantize(x), dequantize(w), dequantize(b))) => qlinear_conv(x, w, b).

    For unsigned codes of 8 bits, x and the result with one scale, w with one or one an output
    channel, and b in the scale of the product. The result may differ by one step.
    """
    conv = made_by(m.root.operands[0], "conv")
    if conv is None or not wants_contrib(rw.ctx):
        return False
    if not sole_user(conv.result):
        return rw.fail("{} has other users", conv)
    x, w = (made_by(v, "dequantize_linear") for v in conv.operands[:2])
    if x is None or w is None or not per_tensor(x) or not per_tensor(m.root) or not _weight(w):
        return rw.fail("the scales are not constants of a known layout")
    if m.root.result.dtype is not codes_of(x).dtype:
        return rw.fail("codes of x and the result have different types")
    if codes_of(x).dtype is not dtypes.U8:
        return rw.fail("the kernel for signed codes is slow")
    bias = conv.operand("b")
    b = made_by(bias, "dequantize_linear")
    if bias is not None and (b is None or not _bias(b, x, w)):
        return rw.fail("the bias is not in the scale of the product")
    rw.also(conv)
    operands = [*x.operands[:3], *w.operands[:3], *m.root.operands[1:3]]
    codes = None if b is None else codes_of(b)
    return settle(rw, m.root, rw.qlinear_conv(*operands, codes, **conv.all_attrs()))
