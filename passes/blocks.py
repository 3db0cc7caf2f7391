"""Weights of few bits become products in blocks: codes that are multiplied as they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lepton_ir import dtypes
from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import available, made_by
from lepton_ir.rewrite import rewrite
from lepton_ir.tensors import ElidedTensor

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

Array = np.ndarray[Any, Any]

_BITS = {"u4": 4, "i4": 4, "u8": 8, "i8": 8}
_WHOLE = 16
"""A block that holds a whole column is a multiple of this."""


class _Blocks(NamedTuple):
    """A stored matrix: unsigned codes ``[n, k]``, scales and zero points ``[n, blocks]``."""

    codes: Array
    scale: Array
    zero: Array | None
    bits: int
    block: int


@rewrite("matmul", "gemm")
def blockwise_matmul(m: Match, rw: Rewriter) -> bool:
    """A product x @ dequantize(w) => ms_matmul_nbits(x, w), w constant codes of 4 or 8 bits.

    With a scale for each block of a column, for each column, or one for all. A gemm's third operand
    is added afterwards.
    """
    op = m.root
    x, w = op.operands[:2]
    columns = op.name == "gemm" and bool(op.attr("transB"))
    turned = made_by(w, "transpose")
    if turned is not None and op.name == "matmul" and turned.result.rank == 2:
        columns = list(turned.attr("perm") or (1, 0)) == [1, 0]
        w = turned.operands[0] if columns else w
    stored = made_by(w, "dequantize_linear")
    if stored is None or made_by(x, "dequantize_linear") is not None:
        return False
    if x is None or x.dtype is not dtypes.F32 or op.result.dtype is not dtypes.F32:
        return rw.fail("x is not f32")
    if op.name == "gemm":
        c = op.operand("c")
        if op.attr("transA") or op.attr("alpha") != 1.0 or (c is not None and op.attr("beta") != 1):
            return rw.fail("it transposes x, or scales")
    if x.rank is None or x.rank < 2:
        return rw.fail("x is a vector, or of unknown rank")
    attrs = {"K": 0, "N": 0, "bits": 4, "block_size": 32}
    if not available(rw, "ms_matmul_nbits", **attrs):
        return rw.fail("the target has no MatMulNBits")
    found = _blocks(stored, columns)
    if found is None:
        return rw.fail("the weight is no constant matrix of 4 or 8 bits in blocks of its columns")
    y = _product(rw, x, found)
    added = op.operand("c") if op.name == "gemm" else None
    return rw.replace(op, y if added is None else rw.add(y, added))


def _product(rw: Rewriter, x: Value, w: _Blocks) -> Value:
    columns, depth = w.codes.shape
    blocks = w.scale.shape[1]
    whole = np.zeros((columns, blocks * w.block), np.uint8)
    whole[:, :depth] = w.codes
    if w.bits == 4:
        whole = whole[:, ::2] | whole[:, 1::2] << 4
    zero = None if w.zero is None else rw.const(w.zero)
    packed = rw.const(whole.reshape(columns, blocks, -1))
    attrs = {"K": depth, "N": columns, "bits": w.bits, "block_size": w.block}
    y: Value = rw.ms_matmul_nbits(x, packed, rw.const(w.scale), zero, **attrs)
    return y


def _blocks(op: Op, columns: bool) -> _Blocks | None:
    """Return the blocks of a dequantized constant; ``columns`` if its columns lie as rows."""
    codes, scale, *rest = op.operands
    tensors = [const_tensor(v) for v in (codes, scale, *rest) if v is not None]
    if any(t is None or isinstance(t, ElidedTensor) for t in tensors) or len(tensors) < 2:
        return None
    name = "" if codes is None or codes.dtype is None else codes.dtype.name
    if name not in _BITS or op.result.dtype is not dtypes.F32:
        return None
    w, s, *z = (t.numpy() for t in tensors if t is not None)
    if w.ndim != 2 or w.size == 0 or s.dtype != np.float32:
        return None
    along = 1 if columns else 0
    block = _granularity(op, w, s, along)
    if block is None:
        return None
    w, parameters = w.astype(np.int16), [s, *(v.astype(np.float32) for v in z)]
    if not columns:
        w = w.T
    blocks = -(-w.shape[1] // block)
    spread = [_spread(p, len(w), blocks, columns) for p in parameters]
    middle = 1 << (_BITS[name] - 1)
    moved = middle if name[0] == "i" else 0
    zero = spread[1] + np.float32(moved) if z else np.full(spread[0].shape, moved, np.float32)
    codes_ = (w + moved).astype(np.uint8)
    return _Blocks(codes_, spread[0], None if (zero == middle).all() else zero, _BITS[name], block)


def _granularity(op: Op, w: Array, scale: Array, along: int) -> int | None:
    """Return the length of a block along a column, ``None`` where scales stand otherwise."""
    axis: int = op.attr("axis") % 2
    block: int = op.attr("block_size")
    whole: int = -(-w.shape[along] // _WHOLE) * _WHOLE
    if scale.size == 1 and scale.ndim < 2:
        return whole
    if block:
        return block if axis == along and block % _WHOLE == 0 else None
    return whole if axis != along else None


def _spread(parameter: Array, columns: int, blocks: int, by_rows: bool) -> Array:
    """Return a scale or zero point as ``[n, blocks]``."""
    if parameter.ndim == 2:
        parameter = parameter if by_rows else parameter.T
    else:
        parameter = parameter.reshape(-1, 1)
    return np.ascontiguousarray(np.broadcast_to(parameter, (columns, blocks)))
