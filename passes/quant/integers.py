"""Operations that need another form on integers: hard sigmoids, constants, old convolutions.

``hard_sigmoid(x) = clip(alpha * x + beta, 0, 1)`` is one sum that saturates: ``x + beta / alpha``
quantized to ``[0, 1 / alpha]`` and read with a scale ``alpha`` times as large. onnxruntime runs it
as QLinearAdd, and ``hard_swish(x) = x * hard_sigmoid(x)`` with one QLinearMul more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_tensor
from lepton_ir.passes.quant.common import Editor
from lepton_ir.passes.quant.numbers import Affine, affine

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value


def hard_affine(dtype: DType) -> Affine:
    """Return the parameters of a hard sigmoid's result: all of ``[0, 1]``."""
    return affine(0.0, 1.0, dtype, False)


def hard_sigmoid(edit: Editor, x: Value, alpha: float, beta: float, dtype: DType) -> Value:
    """Build ``hard_sigmoid(x)`` behind a pair of its own.

    Args:
        edit: where to build.
        x: a dequantized value.
        alpha: factor, positive.
        beta: summand, positive.
        dtype: of activations.
    """
    p = affine(0.0, 1.0 / alpha, dtype, False)
    zero = edit.const(p.zero)
    total = edit.add(x, number(edit, beta / alpha, dtype))
    codes = edit.quantize_linear(total, edit.const(p.scale), zero)
    y: Value = edit.dequantize_linear(codes, edit.const(hard_affine(dtype).scale), zero)
    return y


def number(edit: Editor, value: float, dtype: DType, rank: int = 0) -> Value:
    """Build a dequantized number; it is exact but for the rounding of its scale."""
    p = affine(min(value, 0.0), max(value, 0.0), dtype, False)
    limits = np.iinfo(dtype.numpy)
    code = limits.max if value > 0 else limits.min
    held = edit.const(np.full((1,) * rank, code, dtype.numpy))
    y: Value = edit.dequantize_linear(held, edit.const(p.scale), edit.const(p.zero))
    return y


def expand_hard(op: Op, dtype: DType) -> None:
    """Replace a planned ``hard_sigmoid`` or ``hard_swish`` by its integer form."""
    edit = Editor(op, f"static-{op.name}")
    x, old = op.operands[0], op.result
    assert x is not None
    swish = op.name == "hard_swish"
    alpha, beta = (1 / 6, 0.5) if swish else (float(op.attr("alpha")), float(op.attr("beta")))
    y = hard_sigmoid(edit, x, alpha, beta, dtype)
    if swish:
        y = edit.mul(x, y)
    assert y.op is not None
    y.op.node_name = op.node_name
    y.name, y.declared, y.meta = old.name, old.declared, old.meta
    old.replace_all_uses(y)
    op.erase()


def quantize_constants(op: Op, slots: list[int], dtype: DType) -> None:
    """Read the constant operands of a join through ``dequantize_linear``."""
    for index in slots:
        source, tensor = op.operands[index], const_tensor(op.operands[index])
        assert source is not None
        assert tensor is not None
        data = tensor.numpy()
        edit = Editor(op, f"static-{op.name}")
        if data.size == 1:
            op.set_operand(index, number(edit, float(data.reshape(-1)[0]), dtype, data.ndim))
            continue
        p = affine(float(data.min()), float(data.max()), dtype, False)
        limits = np.iinfo(dtype.numpy)
        codes = np.rint(data.astype(np.float64) / float(p.scale)) + int(p.zero)
        held = edit.const(codes.clip(limits.min, limits.max).astype(dtype.numpy))
        edit.named(held, source.name, "_quantized")
        y = edit.dequantize_linear(held, edit.const(p.scale), edit.const(p.zero))
        op.set_operand(index, y)


def mergeable(op: Op, y: Value) -> Op | None:
    """Return the ``quantize_linear`` that can become one with a convolution before it.

    Args:
        op: a convolution in pairs.
        y: its result with the activation taken in. Nothing else may read it, and the activation
            must be what saturation does anyway.
    """
    (user,) = y.users if y.use_count == 1 else (None,)
    if (
        user is None
        or user.name != "quantize_linear"
        or (op.result is not y and op.result.use_count != 1)
    ):
        return None
    p = [const_tensor(v) for v in user.operands[1:3]]
    if p[0] is None or p[1] is None:
        return None
    lowest = int(np.iinfo(p[1].dtype.numpy).min)
    return user if y is op.result or int(p[1].numpy()) == lowest else None


def _is_default(key: str, value: Any) -> bool:
    """Return whether an attribute of a convolution says no more than its absence.

    The kernel's shape is that of the weight.
    """
    if key in ("dilations", "strides"):
        return all(number == 1 for number in value or ())
    return key == "kernel_shape" or (key == "pads" and not any(value or ()))


def merge_convolution(
    op: Op, user: Op, parts: tuple[Value, Value, Value], bias: Value | None
) -> Value:
    """Make a convolution and the ``quantize_linear`` of its result one ``qlinear_conv``.

    Args:
        op: a convolution that reads a dequantized value.
        user: what ``mergeable`` gave.
        parts: integers, scales and zero points of the weight.
        bias: i32.

    Returns:
        The dequantized result.
    """
    x, y = op.operands[0], user.operands[0]
    assert x is not None
    assert x.op is not None
    assert y is not None
    edit = Editor(user, "static-conv")
    parts[1].name = None  # its place says what it is, and names take their bytes in each file
    given = {key: value for key, value in op.attrs.items() if not _is_default(key, value)}
    q = edit.qlinear_conv(*x.op.operands[:3], *parts, *user.operands[1:3], bias, **given)
    old, name = user.result, y.name
    q.name, q.declared, q.meta = old.name, old.declared, old.meta
    q.op.node_name = op.node_name
    old.replace_all_uses(q)
    user.erase()
    if y.op is not None and y.op is not op:
        y.op.erase()
    op.erase()
    (reader, *_) = q.users
    reader.result.name = reader.result.name or name
    found: Value = reader.result
    return found
