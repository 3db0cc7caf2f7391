"""Attention of onnxruntime with its projections inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dims import same_dim
from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import made_by, readable, settle, sole_user
from lepton_ir.passes.fuse._weights import WEIGHT_LIMIT, constant
from lepton_ir.passes.fuse.ort_common import contrib, is_f32
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_NAME = "ms_attention"
_LONG = 1024
"""Rows from which MultiHeadAttention without a bias is faster: it never forms the scores."""


@dataclass
class _Projection:
    """``x @ weight + bias`` of rank 3; ``ops`` are what nothing else reads."""

    x: Value
    weight: Value
    bias: Value | None
    ops: list[Op]


def _vector(value: Value | None, columns: object) -> bool:
    return value is not None and readable(value) and value.shape == (columns,)


def _projection(rows: Value) -> _Projection | None:
    """Return the projection that makes ``rows``, spelled with a MatMul or with a flattened Gemm."""
    ops: list[Op] = []
    value, bias = rows, None
    add = made_by(value, "add")
    if add is not None and rows.shape:
        for i in (0, 1):
            if _vector(add.operands[i], rows.shape[-1]) and add.operands[1 - i] is not None:
                bias, inner = add.operands[i], add.operands[1 - i]
                assert inner is not None
                ops.append(add)
                value = inner
                break
    product = made_by(value, "matmul")
    if product is None:
        return _flattened(value) if bias is None else None
    x, w = product.operands
    if x is None or w is None or x.rank != 3 or not _matrix(w):
        return None
    return _Projection(x, w, bias, [*ops, product])


def _matrix(w: Value) -> bool:
    return readable(w) and w.dtype is dtypes.F32 and w.rank == 2


def _flattened(rows: Value) -> _Projection | None:
    """Return the projection where ``rows`` is ``reshape(gemm(reshape(x), w, b))``."""
    back = made_by(rows, "reshape")
    gemm = None if back is None else made_by(back.operands[0], "gemm")
    flat = None if gemm is None else made_by(gemm.operands[0], "reshape")
    if back is None or gemm is None or flat is None:
        return None
    if gemm.attr("transA") or gemm.attr("transB"):
        return None
    if gemm.attr("alpha") != 1 or gemm.attr("beta") != 1:
        return None
    x, (_, w, *rest) = flat.operands[0], gemm.operands
    bias = rest[0] if rest else None
    if x is None or w is None or not _matrix(w) or w.shape is None or not x.shape:
        return None
    if bias is not None and not _vector(bias, w.shape[1]):
        return None
    if rows.shape is None or len(x.shape) != 3 or len(rows.shape) != 3 or x.shape[2] != w.shape[0]:
        return None
    if not all(same_dim(a, b) for a, b in zip(x.shape[:2], rows.shape[:2], strict=True)):
        return None
    if not sole_user(gemm.result):
        return None
    return _Projection(x, w, bias, [back, gemm])


def _of_one_split(rows: list[Value]) -> tuple[Op, _Projection] | None:
    """Return the split of one projection whose three parts in order are ``rows``."""
    split = rows[0].op
    if split is None or split.name != "split" or split.has_attr_refs or len(split.results) != 3:
        return None
    if any(r is not p for r, p in zip(rows, split.results, strict=True)):
        return None
    if split.attr("axis") not in (-1, 2) or split.operands[0] is None:
        return None
    whole = _projection(split.operands[0])
    return None if whole is None or not sole_user(split.operands[0]) else (split, whole)


@rewrite("ms_multi_head_attention", benefit=1)
def projections_into_attention(m: Match, rw: Rewriter) -> bool:
    """ms_multi_head_attention(x @ p + a, x @ q + b, x @ r + c) => ms_attention(x, p|q|r, a|b|c).

    For constant weights and biases that nothing else reads. The parts of one projection are taken
    as they are. Not without a bias of the scores where rows are many: there the separate form is
    faster.
    """
    op = m.root
    rows = [r for r in op.operands[:3] if r is not None]
    others = op.operands[4:5] + op.operands[6:]
    if len(rows) < 3 or len(op.results) > 1 or any(o is not None for o in others):
        return False
    if any(r.rank != 3 or not sole_user(r) for r in rows) or not is_f32(*rows):
        return rw.fail("rows have other users, or they are heads")
    length = rows[0].shape[1] if rows[0].shape else None
    if isinstance(length, int) and length >= _LONG and op.operand("attention_bias") is None:
        return rw.fail("{} rows without a bias are faster apart", length)
    if not contrib(rw, _NAME):
        return False
    found = _of_one_split(rows)
    if found is not None:
        rw.also(found[0], *found[1].ops)
        return _pack(m, rw, found[1].x, found[1].weight, found[1].bias, rows)
    parts = [_projection(r) for r in rows]
    if any(p is None for p in parts):
        return rw.fail("they are no projections with constant weights")
    known = [p for p in parts if p is not None]
    if any(p.x is not known[0].x for p in known):
        return rw.fail("queries, keys and values are projections of different values")
    why = _why_not(known)
    if why:
        return rw.fail("{}", why)
    for p in known:
        rw.also(*p.ops)
    weight = rw.const(np.concatenate([constant(p.weight) for p in known], axis=1), dtypes.F32)
    return _pack(m, rw, known[0].x, weight, _joined_bias(rw, known), rows)


def _why_not(parts: list[_Projection]) -> str:
    """Return why the weights may not be put side by side."""
    if any(p.weight.use_count != 1 for p in parts):
        return "a weight has other users"
    if sum(t.nbytes for p in parts if (t := const_tensor(p.weight))) > WEIGHT_LIMIT:
        return "the weights are too large to copy"
    return ""


def _joined_bias(rw: Rewriter, parts: list[_Projection]) -> Value | None:
    if all(p.bias is None for p in parts):
        return None
    columns = [p.weight.shape[1] for p in parts if p.weight.shape is not None]
    pieces: list[Any] = [
        np.zeros(n, np.float32) if p.bias is None else constant(p.bias)
        for p, n in zip(parts, columns, strict=True)
    ]
    return rw.const(np.concatenate(pieces), dtypes.F32)


def _pack(
    m: Match, rw: Rewriter, x: Value, weight: Value, bias: Value | None, rows: list[Value]
) -> bool:
    op, heads = m.root, m.root.attr("num_heads")
    widths = [r.shape[2] for r in rows if r.shape is not None]
    if not all(isinstance(w, int) and w and w % heads == 0 for w in widths):
        return rw.fail("the widths {} are no multiples of the heads", widths)
    if widths[0] != widths[1]:
        return rw.fail("queries and keys have widths {}", widths)
    extra = op.operand("bias")
    if extra is not None:
        if bias is not None or not readable(extra):
            return rw.fail("it has biases of its own")
        bias = extra
    attrs: dict[str, Any] = {"num_heads": heads, "unidirectional": op.attr("unidirectional")}
    if op.attr("scale"):
        attrs["scale"] = op.attr("scale")
    if widths[2] != widths[0]:
        attrs["qkv_hidden_sizes"] = tuple(widths)
    shift = op.operand("attention_bias")
    made = rw.build(_NAME, x, weight, bias, None, None, shift, results=1, **attrs)
    return settle(rw, op, made.result)
