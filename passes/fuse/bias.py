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
    **{"conv": "b", "conv_transpose": "b", "gemm": "c"},
    **{"qlinear_conv": "b", "layer_normalization": "b"},
}
_GEMM_WITHOUT_C = 11
"""First opset in which Gemm may leave its third input out."""


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
    module = rw.function.module
    if op.name == "gemm" and module is not None and rw.ctx.target is not None:
        opset = rw.function.opsets.get("", module.opsets.get("", _GEMM_WITHOUT_C))
        if opset < _GEMM_WITHOUT_C:
            return rw.fail("Gemm of opset {} needs its third input", opset)
    if constant(bias).any():
        return False
    if op.name == "gemm" and (op.operands[0] is None or op.operands[1] is None):
        return False
    operands = list(op.operands)
    operands[index] = None
    made = rw.build.build(op.name, *operands, results=len(op.results), **op.all_attrs())
    return rw.replace(op, list(made.results))
