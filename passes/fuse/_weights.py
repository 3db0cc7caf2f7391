"""Arithmetic on weights: affine maps a channel, computed in f64 and rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import readable
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value
    from lepton_ir.rewrite import Rewriter

Array = np.ndarray[Any, Any]

WEIGHT_LIMIT = 256 << 20
"""Bytes of a weight that folding is willing to read and write."""

COPY_BUDGET = 64 << 20
"""Bytes that folding may add to a module by copying weights that something else reads too."""

_VECTOR_LIMIT = 16 << 20
_BUDGET_KEY = "fuse.copied"


class Affine:
    """``x * scale + shift`` a channel; both are f64, of rank 0 (all channels alike) or 1.

    Attributes:
        x: what the operation is applied to.
        scale: factors.
        shift: summands.
    """

    __slots__ = ("scale", "shift", "x")

    def __init__(self, x: Value, scale: Array, shift: Array) -> None:
        self.x = x
        self.scale = scale
        self.shift = shift

    @property
    def scales(self) -> bool:
        """Whether any factor is not 1."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether any summand is not 0."""
        return bool((self.shift != 0).any())


def channel_vector(
    value: Value | None, rank: int, channels: int | None, axis: int = 1
) -> Array | None:
    """Return a constant that differs at most along ``axis`` of a tensor of ``rank``, in f64.

    ``None`` when it is not such a constant, would broadcast to more channels or a higher rank, or
    has elements that are not finite.
    """
    tensor = const_tensor(value)
    if tensor is None or not readable(value) or not tensor.dtype.is_float:
        return None
    if len(tensor.shape) > rank or tensor.nbytes > _VECTOR_LIMIT:
        return None
    shape = (1,) * (rank - len(tensor.shape)) + tensor.shape
    if any(d != 1 for i, d in enumerate(shape) if i != axis):
        return None
    if shape[axis] != 1 and (channels is None or shape[axis] != channels):
        return None
    array = tensor.numpy().astype(np.float64).reshape(-1)
    if not np.isfinite(array).all():
        return None
    return array[0] if array.size == 1 else array


def batch_norm_affine(op: Op, channels: int | None) -> Affine | str:
    """Return what an inference BatchNormalization does, or why that is not known."""
    if op.attr("training_mode"):
        return "it trains"
    if any(r.first_use is not None for r in op.results[1:]):
        return "its statistics are used"
    x, *params = op.operands
    found = [channel_vector(v, 2, channels) for v in params]
    if x is None or any(v is None for v in found):
        return "its parameters are not finite constants of the right size"
    scale, shift, mean, variance = (np.atleast_1d(v) for v in found if v is not None)
    wide = variance + float(op.attr("epsilon"))
    if not (wide > 0).all():
        return "variance + epsilon is not positive"
    factor = scale / np.sqrt(wide)
    summand = shift - mean * factor
    if not (np.isfinite(factor).all() and np.isfinite(summand).all()):
        return "its factors are not finite"
    return Affine(x, factor, summand)


def affine_of(
    op: Op, operand: Value, rank: int, channels: int | None, axis: int = 1
) -> Affine | str:
    """Return what ``op`` does to its operand as an affine map a channel, or why it is none.

    Args:
        op: batch_normalization, add, sub, mul or div with a constant.
        operand: the operand of ``op`` in question.
        rank: proven rank of ``operand``.
        channels: proven size of ``operand`` along ``axis``; ``None`` when not known.
        axis: the channel axis (1 for batch_normalization).
    """
    if op.name == "batch_normalization":
        if operand is not op.operands[0] or axis != 1:
            return "it is a parameter of the normalization"
        return batch_norm_affine(op, channels)
    a, b = op.operands
    if a is b:
        return "both operands are the same"
    other = b if operand is a else a
    vector = channel_vector(other, rank, channels, axis)
    if vector is None:
        return "the other operand is not a finite constant a channel"
    one, zero = np.float64(1), np.float64(0)
    if op.name == "add":
        return Affine(operand, np.asarray(one), vector)
    if op.name == "sub":
        if operand is a:
            return Affine(operand, np.asarray(one), -vector)
        return Affine(operand, np.asarray(-one), vector)
    if op.name == "mul":
        return Affine(operand, vector, np.asarray(zero))
    if operand is not a:
        return "it is the divisor"
    if not np.all(vector):
        return "a divisor is 0"
    with np.errstate(over="ignore"):
        inverse = np.asarray(1 / vector)
    if not np.isfinite(inverse).all():
        return "a divisor is too small"
    return Affine(operand, inverse, np.asarray(zero))


def spread(vector: Array, shape: Sequence[int]) -> Array:
    """Reshape a vector of channels to ``shape``; a scalar stays one."""
    return vector if vector.ndim == 0 else vector.reshape(shape)


def rounded(wide: Array, dtype: DType) -> Array | None:
    """Return f64 numbers as ``dtype``, ``None`` when one leaves its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(dtype.numpy)
    return narrow if np.isfinite(narrow.astype(np.float64)).all() else None


def scaled(weight: Array, factor: Array, dtype: DType) -> Array | None:
    """Return ``weight * factor`` rounded once, ``None`` when it leaves the range of ``dtype``.

    Rows that fall below the smallest normal number would lose digits: ``None`` too.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if dtype.name in ("f32", "f64", "f16"):
            out = np.empty(weight.shape, dtype.numpy)
            np.multiply(weight, factor, out=out, dtype=np.float64, casting="same_kind")
        else:
            out = (weight.astype(np.float64) * factor).astype(dtype.numpy)
    if not np.isfinite(out).all():
        return None
    if dtype.bits == 16 and out.size:
        most = float(np.abs(out.astype(np.float32)).max())
        if 0 < most < 1e-4:
            return None
    return out


def affordable(rw: Rewriter, weight: Value) -> bool:
    """Return whether a changed copy of ``weight`` may be made; says why not."""
    tensor = const_tensor(weight)
    if tensor is None or not readable(weight):
        return rw.fail("the weight {} is not a constant", weight)
    if not tensor.dtype.is_float or tensor.dtype.bits < 16:
        return rw.fail("the weight has elements of {}", tensor.dtype)
    if tensor.nbytes > WEIGHT_LIMIT:
        return rw.fail("the weight has {} bytes", tensor.nbytes)
    copied = rw.ctx.data.get(_BUDGET_KEY, 0)
    if weight.use_count > 1 and copied + tensor.nbytes > COPY_BUDGET:
        return rw.fail("the weight has other users and {} bytes", tensor.nbytes)
    return True


def new_weight(rw: Rewriter, array: Array, like: Value) -> Value:
    """Build the changed copy of the weight ``like``."""
    tensor = const_tensor(like)
    assert tensor is not None
    made = rw.const(DenseTensor(np.ascontiguousarray(array), tensor.dtype), name=like.name)
    if like.use_count > 1:
        rw.ctx.data[_BUDGET_KEY] = rw.ctx.data.get(_BUDGET_KEY, 0) + tensor.nbytes
    return made


def constant(value: Value) -> Array:
    """Return the data of a constant that is known to be one."""
    tensor = const_tensor(value)
    assert tensor is not None
    return tensor.numpy()


def wide_bias(rw: Rewriter, bias: Value | None) -> Array | None:
    """Return a bias in f64, 0 when there is none; says why not."""
    if bias is None:
        return np.zeros(())
    if not readable(bias):
        rw.fail("the bias {} is not a constant", bias)
        return None
    array = constant(bias).astype(np.float64)
    if not np.isfinite(array).all():
        rw.fail("the bias is not finite")
        return None
    return array
