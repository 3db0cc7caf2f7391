"""The integers pass: products of dequantized tensors become products of their integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from lepton_ir import dtypes
from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.decompose import decompose_body
from lepton_ir.passes.fuse._match import made_by, sole_user
from lepton_ir.passes.fuse.qdq import params_of
from lepton_ir.rewrite import RewritePass, rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

Array = np.ndarray[Any, Any]

_BYTES = (dtypes.U8, dtypes.I8)
_PRODUCTS = ("matmul_integer", "conv_integer")
_LARGEST = (1 << 31) - 1
_READERS = 8


@dataclass(frozen=True)
class Integers(RewritePass, name="integers"):
    """Compute quantized products in integers, as runtimes do, and scale them afterwards.

    ``(a - za) sa`` times ``(b - zb) sb`` is the exact integer sum times ``sa sb``, rounded once,
    where floats would round each partial sum. What is quantized behind it may differ by one step.
    Floats times weights of few bits become MatMulNBits, where the target has it.
    """

    needs = "shapes"
    clean_up = "fold,dce"
    rule_modules: ClassVar[tuple[str, ...]] = (__name__, "lepton_ir.passes.blocks")


class _Codes(NamedTuple):
    """The integers behind a dequantized tensor."""

    codes: Value
    zero: Value | None
    scale: Array
    axis: int | None


def _codes(value: Value | None, axis: int | None = None) -> _Codes | None:
    """Return the bytes of a dequantized tensor of one scale, or of one a slice along ``axis``."""
    op = made_by(value, "dequantize_linear")
    params = None if op is None else params_of(op)
    if op is None or params is None or params.dtype not in _BYTES or not params.safe:
        return None
    if op.result.dtype is not dtypes.F32 or (params.axis is not None and params.axis != axis):
        return None
    codes, zero = op.operands[0], op.operands[2] if len(op.operands) > 2 else None
    assert codes is not None
    if zero is not None and not any(params.zero):
        zero = None
    return _Codes(codes, zero, np.array(params.scale, np.float32), params.axis)


def _one(rw: Rewriter, zero: Value | None) -> Value | None:
    """Return a zero point of one number as a scalar."""
    if zero is None or zero.shape == ():
        return zero
    found = const_array(zero)
    assert found is not None
    return rw.const(found.reshape(()), zero.dtype)


def _number(value: Value | None) -> Array | None:
    """Return a constant, or the product of two, as scales of biases are written."""
    product = made_by(value, "mul")
    if product is None:
        return const_array(value)
    left, right = map(const_array, product.operands)
    return None if left is None or right is None else left * right


def _whole_bias(bias: Value | None, scale: Array, reach: int) -> Array | None:
    """Return a bias as integers in units of ``scale``, if it is stored so and sums fit 32 bits."""
    op = made_by(bias, "dequantize_linear")
    if op is None:
        return None
    codes, step = const_array(op.operands[0]), _number(op.operands[1])
    if codes is None or step is None:
        return None
    if codes.dtype != np.int32 or codes.ndim != 1:
        return None
    zero = op.operands[2] if len(op.operands) > 2 else None
    known = None if zero is None else const_array(zero)
    if zero is not None and (known is None or known.any()):
        return None
    if step.size not in (1, codes.size) or not np.allclose(step.reshape(-1), scale, 1e-5, 0):
        return None
    fits = int(np.abs(codes.astype(np.int64)).max(initial=0)) + reach <= _LARGEST
    return codes if fits else None


def _scaled(
    rw: Rewriter, product: Value, scale: Array, bias: Value | None, tail: int, depth: int
) -> Value:
    """Return ``product * scale + bias``, with ``tail`` axes behind those of scale and bias."""
    shape = (-1,) + (1,) * tail
    whole = _whole_bias(bias, scale, depth * 255 * 128)
    if whole is not None:
        product = rw.add(product, rw.const(whole.reshape(shape)))
    y: Value = rw.cast(product, to=dtypes.F32)
    y = rw.mul(y, rw.const(scale.reshape(shape if scale.size > 1 else ())))
    if bias is not None and whole is None:
        y = rw.add(y, rw.reshape(bias, shape) if tail else bias)
    return y


@rewrite("matmul")
def integer_matmul(m: Match, rw: Rewriter) -> bool:
    """dequantize(a) @ dequantize(b) => cast(matmul_integer(a, b)) * (a_scale * b_scale).

    For bytes: a with one scale, b with one or, where it is a matrix, one a column.
    """
    a, b = m.root.operands
    if made_by(a, "dequantize_linear") is None or made_by(b, "dequantize_linear") is None:
        return False
    assert b is not None
    left, right = _codes(a), _codes(b, 1 if b.rank == 2 else None)
    if left is None or right is None:
        return rw.fail("the scales are not constants, one a tensor or a column, or no bytes")
    if (left.codes.rank or 0) < 2 or (right.codes.rank or 0) < 2:
        return rw.fail("an operand is a vector, or of unknown rank")
    if right.codes.rank != 2 and left.codes.rank != right.codes.rank:
        return rw.fail("the batch axes are broadcast")
    zero = right.zero if right.axis is not None else _one(rw, right.zero)
    product = rw.matmul_integer(left.codes, right.codes, _one(rw, left.zero), zero)
    return rw.replace(m.root, _scaled(rw, product, left.scale * right.scale, None, 0, 0))


@rewrite("gemm")
def integer_gemm(m: Match, rw: Rewriter) -> bool:
    """gemm(dequantize(a), dequantize(b), c) => the scaled matmul_integer(a, b) plus c.

    For bytes and a constant b, alpha and beta 1. A c that is dequantized from i32 with the
    product's scale is added in integers.
    """
    op = m.root
    if made_by(op.operands[0], "dequantize_linear") is None:
        return False
    column = 0 if op.attr("transB") else 1
    left, right = _codes(op.operands[0]), _codes(op.operands[1], column)
    if left is None or right is None or const_tensor(right.codes) is None:
        return rw.fail("the scales are not constants, one a tensor or a column, or no bytes")
    bias = op.operand("c")
    plain = op.attr("alpha") == 1.0 and (bias is None or op.attr("beta") == 1.0)
    if op.attr("transA") or not plain:
        return rw.fail("it transposes a, or scales")
    if bias is not None and (bias.shape is None or len(bias.shape) != 1):
        return rw.fail("c is not one number a column")
    codes = rw.transpose(right.codes, perm=[1, 0]) if column == 0 else right.codes
    zero = right.zero if right.axis is not None else _one(rw, right.zero)
    product = rw.matmul_integer(left.codes, codes, _one(rw, left.zero), zero)
    depth = _static(right.codes)[1 - column]
    scale = left.scale * right.scale
    return rw.replace(op, _scaled(rw, product, scale, bias, 0, depth))


@rewrite("conv")
def integer_conv(m: Match, rw: Rewriter) -> bool:
    """conv(dequantize(x), dequantize(w), b) => the scaled conv_integer(x, w) plus b.

    For bytes, x with one scale, constant w with one or one an output channel and in the middle of
    their range, over one or two axes, in one group or groups of one or multiples of 16 channels.
    A b that is dequantized from i32 with the product's scale is added in integers.
    """
    op = m.root
    if made_by(op.operands[0], "dequantize_linear") is None:
        return False
    x, w = _codes(op.operands[0]), _codes(op.operands[1], 0)
    if x is None or w is None or const_tensor(w.codes) is None:
        return rw.fail("the scales are not constants, one a tensor or a channel, or no bytes")
    zero = None if w.zero is None else const_array(w.zero)
    middle = 128 if w.codes.dtype is dtypes.U8 else 0
    if (zero is None and middle) or (zero is not None and (zero != middle).any()):
        return rw.fail("zero points of weights are not in the middle")
    if w.codes.rank not in (3, 4) or not _grouped(op):
        return rw.fail("more than two axes, or groups of some channels")
    w_zero = None if zero is None else rw.const(np.full((), middle, zero.dtype), w.codes.dtype)
    product = rw.conv_integer(x.codes, w.codes, _one(rw, x.zero), w_zero, **op.all_attrs())
    _, *window = _static(w.codes)
    scale, bias = x.scale * w.scale, op.operand("b")
    y = _scaled(rw, product, scale, bias, len(window) - 1, int(np.prod(window)))
    return rw.replace(op, y)


def _static(codes: Value) -> tuple[int, ...]:
    """Return the shape of a constant."""
    tensor = const_tensor(codes)
    assert tensor is not None
    return tensor.shape


def _grouped(op: Op) -> bool:
    """Return whether a convolution has one group, groups of one channel or of many."""
    group, x, w = op.attr("group"), op.operands[0], op.operands[1]
    shapes = [None if v is None or v.shape is None else v.shape for v in (x, w)]
    if group == 1:
        return True
    if shapes[0] is None or shapes[1] is None:
        return False
    channels, outputs = shapes[0][1], shapes[1][0]
    if not isinstance(channels, int) or not isinstance(outputs, int):
        return False
    whole = not (channels // group % 16 or outputs // group % 16)
    return whole or group == channels == outputs


@rewrite("quantize_linear")
def scale_into_quantize(m: Match, rw: Rewriter) -> bool:
    """quantize(cast(product) * c, s) => quantize(cast(product) * (c / s), 1), product in integers.

    One multiplication in place of two and a division, as QLinearConv and QLinearMatMul define it.
    """
    params, scaled = params_of(m.root), made_by(m.root.operands[0], "mul")
    if params is None or scaled is None or params.axis is not None or params.scale == (1.0,):
        return False
    y, c = scaled.operands
    cast, scale = made_by(y, "cast"), const_array(c)
    product = None if cast is None else cast.operands[0]
    if product is not None and product.op is not None and product.op.name == "add":
        product = product.op.operands[0]
    if cast is None or scale is None or made_by(product, *_PRODUCTS) is None:
        return False
    if not sole_user(scaled.result):
        return rw.fail("the floats have other users")
    rw.also(scaled)
    found = rw.const(scale / np.float32(params.scale[0]))
    one = rw.const(np.ones((), np.float32))
    zero = _one(rw, m.root.operands[2]) if len(m.root.operands) > 2 else None
    attrs = m.root.all_attrs()
    return rw.replace(m.root, rw.quantize_linear(rw.mul(y, found), one, zero, **attrs))


@rewrite("dequantize_linear", exact=True)
def dequantize_for_each_reader(m: Match, rw: Rewriter) -> bool:
    """Readers of one dequantized tensor get dequantizations of their own, part of their kernels."""
    users = m.root.result.users
    params = params_of(m.root)
    if params is None or params.axis is not None or not 1 < len(users) <= _READERS:
        return False
    if const_array(m.root.operands[0]) is not None:
        return rw.fail("it is a constant")
    if any(u.definition is None or "elementwise" not in u.definition.traits for u in users):
        return rw.fail("a reader is not elementwise")
    for user in users[1:]:
        own = rw.dequantize_linear(*m.root.operands, **m.root.all_attrs())
        for index, value in enumerate(user.operands):
            if value is m.root.result:
                rw.set_operand(user, index, own)
    return True


@rewrite(
    "qlinear_conv",
    "qlinear_matmul",
    "ms_qgemm",
    "ms_qlinear_add",
    "ms_qlinear_mul",
    "ms_qlinear_sigmoid",
    "ms_qlinear_leaky_relu",
    "ms_qlinear_global_average_pool",
    "ms_qlinear_average_pool",
    "ms_qlinear_concat",
    "ms_qlinear_softmax",
    "ms_qlinear_where",
    "ms_matmul_integer_to_float",
    "ms_dynamic_quantize_matmul",
)
def quantized_apart(m: Match, rw: Rewriter) -> bool:
    """An operation on quantized tensors => dequantize, the operation on floats, quantize."""
    return decompose_body(m, rw)
