"""Statically quantized sums, products, concats, choices and matrix products of onnxruntime.

Written as onnxruntime itself selects them from pairs of quantize and dequantize. Softmax stays
between its pairs: codes of a softmax are too coarse for one step to be the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import made_by, settle, sole_user
from lepton_ir.passes.fuse.ort_common import contrib, wants_contrib
from lepton_ir.passes.fuse.ort_qdq import codes_of, per_tensor
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_MOST = 64
_BINARY = {"add": "ms_qlinear_add", "mul": "ms_qlinear_mul"}


def _inner(m: Match, rw: Rewriter, *names: str) -> Op | None:
    """Return the operation that alone the quantization reads; says why there is none."""
    op = made_by(m.root.operands[0], *names)
    if op is None or not wants_contrib(rw.ctx):
        return None
    if not sole_user(op.result):
        rw.fail("{} has other users", op)
        return None
    return op


def _codes(m: Match, rw: Rewriter, values: list[Value | None]) -> list[Op] | None:
    """Return the dequantizations behind ``values``, all of the type of the result's codes."""
    found = [made_by(v, "dequantize_linear") for v in values]
    known = [op for op in found if op is not None and per_tensor(op)]
    if len(known) != len(values) or not per_tensor(m.root):
        rw.fail("the scales are not constants, one a tensor")
        return None
    if any(codes_of(op).dtype is not m.root.result.dtype for op in known):
        rw.fail("codes of the operands and the result have different types")
        return None
    return known


def _triples(ops: list[Op]) -> list[Value | None]:
    return [v for op in ops for v in op.operands[:3]]


@rewrite("quantize_linear")
def fuse_qlinear_binary(m: Match, rw: Rewriter) -> bool:
    """quantize(dequantize(a) + dequantize(b)) => ms_qlinear_add(a, b), and the same for mul.

    The result may differ by one step.
    """
    inner = _inner(m, rw, *_BINARY)
    sides = None if inner is None else _codes(m, rw, list(inner.operands))
    if inner is None or sides is None or not contrib(rw, _BINARY[inner.name]):
        return False
    rw.also(inner)
    made = rw.build(_BINARY[inner.name], *_triples(sides), *m.root.operands[1:3])
    return settle(rw, m.root, made.result)


@rewrite("quantize_linear")
def fuse_qlinear_concat(m: Match, rw: Rewriter) -> bool:
    """quantize(concat(dequantize(a), dequantize(b))) => ms_qlinear_concat(a, b)."""
    inner = _inner(m, rw, "concat")
    if inner is None or len(inner.operands) > _MOST or not contrib(rw, "ms_qlinear_concat"):
        return False
    parts = _codes(m, rw, list(inner.operands))
    if parts is None:
        return False
    rw.also(inner)
    operands = [*m.root.operands[1:3], *_triples(parts)]
    made = rw.build("ms_qlinear_concat", *operands, axis=inner.attr("axis"))
    return settle(rw, m.root, made.result)


@rewrite("quantize_linear")
def fuse_qlinear_where(m: Match, rw: Rewriter) -> bool:
    """quantize(where(c, dequantize(a), dequantize(b))) => ms_qlinear_where(c, a, b)."""
    inner = _inner(m, rw, "where")
    sides = None if inner is None else _codes(m, rw, list(inner.operands[1:]))
    if inner is None or sides is None or not contrib(rw, "ms_qlinear_where"):
        return False
    rw.also(inner)
    operands = [inner.operands[0], *_triples(sides), *m.root.operands[1:3]]
    return settle(rw, m.root, rw.ms_qlinear_where(*operands))


def _columns(op: Op | None) -> bool:
    """Whether a weight is a constant matrix of 8-bit codes with one scale, or one a column."""
    if op is None or op.attr("block_size") or len(op.operands) < 3:
        return False
    codes, scale, zero = op.operands[0], const_array(op.operands[1]), const_array(op.operands[2])
    if codes is None or scale is None or zero is None or codes.rank != 2 or codes.shape is None:
        return False
    if codes.dtype not in (dtypes.U8, dtypes.I8) or scale.shape != zero.shape:
        return False
    return scale.size == 1 or (
        op.attr("axis") in (1, -1) and scale.shape == (codes.shape[1],) and zero.ndim == 1
    )


@rewrite("quantize_linear")
def fuse_qlinear_matmul(m: Match, rw: Rewriter) -> bool:
    """quantize(matmul(dequantize(a), dequantize(b))) => qlinear_matmul(a, b).

    For a and the result with one scale of unsigned codes, b with one or one a column. The result
    may differ by one step.
    """
    inner = _inner(m, rw, "matmul")
    if inner is None:
        return False
    left, right = (made_by(v, "dequantize_linear") for v in inner.operands)
    if left is None or right is None or not (per_tensor(left) and per_tensor(m.root)):
        return rw.fail("the scales are not constants, one a tensor")
    if codes_of(left).dtype is not dtypes.U8 or m.root.result.dtype is not dtypes.U8:
        return rw.fail("the codes are signed, or of different types")
    if not per_tensor(right) and not _columns(right):
        return rw.fail("the scales of the right side are neither one nor one a column")
    rw.also(inner)
    operands = [*left.operands[:3], *right.operands[:3], *m.root.operands[1:3]]
    return settle(rw, m.root, rw.qlinear_matmul(*operands))


@rewrite("quantize_linear")
def fuse_qlinear_average_pool(m: Match, rw: Rewriter) -> bool:
    """quantize(average_pool(dequantize(x))) => ms_qlinear_average_pool(x), up to one step."""
    inner = _inner(m, rw, "average_pool")
    sides = None if inner is None else _codes(m, rw, list(inner.operands))
    if inner is None or sides is None or not contrib(rw, "ms_qlinear_average_pool"):
        return False
    attrs = inner.all_attrs()
    if any(d != 1 for d in attrs.pop("dilations", None) or ()):
        return rw.fail("the windows have holes")
    rw.also(inner)
    operands = [*_triples(sides), *m.root.operands[1:3]]
    return settle(rw, m.root, rw.ms_qlinear_average_pool(*operands, **attrs))
