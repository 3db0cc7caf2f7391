"""Biases that add nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import readable
from lepton_ir.passes.fuse._weights import constant
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_BIAS_LIMIT = 1 << 20
_BIASED = {
    "conv": "b",
    "conv_transpose": "b",
    "gemm": "c",
    "qlinear_conv": "b",
    "layer_normalization": "b",
}


@rewrite(*_BIASED)
def drop_zero_bias(m: Match, rw: Rewriter) -> bool:
    """conv(x, w, 0) => conv(x, w); the same for conv_transpose, gemm, qlinear_conv, layer norm."""
    op = m.root
    assert op.definition is not None
    index = op.definition.operand_index[_BIASED[op.name]]
    bias = op.operands[index] if index < len(op.operands) else None
    tensor = const_tensor(bias)
    if bias is None or tensor is None or tensor.nbytes > _BIAS_LIMIT or not readable(bias):
        return False
    if constant(bias).any():
        return False
    operands = list(op.operands)
    operands[index] = None
    made = rw.build(op.name, *operands, results=len(op.results), **op.all_attrs())
    answer = rw.ctx.legal(made)
    if answer is not True:
        return rw.fail("{} cannot be written without it: {}", op.name, answer)
    return rw.replace(op, list(made.results))
