"""Root mean square normalization of onnxruntime, which has it before opset 23."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.passes.fuse._match import available, f32, is_centred, settle
from lepton_ir.passes.fuse.norm import covers, is_one, ones, only_norm, quotients
from lepton_ir.passes.fuse.ort_common import contrib, is_f32
from lepton_ir.passes.fuse.reduction import mean_of_squares
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_NAME = "ms_simplified_layer_normalization"


@rewrite("div", "mul")
def fuse_simplified_layer_norm(m: Match, rw: Rewriter) -> bool:
    """(x / sqrt(mean(x ** 2) + eps)) over the last axis => ms_simplified_layer_normalization(x, 1).

    Where the opset has no RMSNormalization.
    """
    for scan, d, v, epsilon in quotients(m):
        square = mean_of_squares(scan, v)
        if square is None or square[0] is not d or square[1] != 1:
            continue
        if available(rw, "rms_normalization") or not contrib(rw, _NAME):
            return False
        if is_centred(d):
            return rw.fail("x - mean(x) is layer normalization, which the runtime finds itself")
        size = d.shape[-1] if d.shape else None
        if not is_f32(d) or not isinstance(size, int) or size < 1:
            return rw.fail("the size of the last axis is not known")
        if not 0 <= epsilon < 1 or not scan.settles_on(d, rw):
            return rw.fail("epsilon is {}", epsilon)
        made = rw.build(_NAME, d, ones(rw, [size], dtypes.F32), axis=-1, epsilon=f32(epsilon))
        return settle(rw, m.root, made.result)
    return False


@rewrite("mul")
def scale_into_simplified_norm(m: Match, rw: Rewriter) -> bool:
    """ms_simplified_layer_normalization(x, 1) * s => ... (x, s) for an s of one row's shape."""
    for i in (0, 1):
        norm = only_norm(m.root.operands[i], _NAME)
        scale = m.root.operands[1 - i]
        if norm is None or scale is None or not is_one(norm.operands[1]):
            continue
        if not covers(scale, norm):
            return rw.fail("{} is not proven to have the shape of the last axis", scale)
        rw.also(norm)
        made = rw.build(_NAME, norm.operands[0], scale, **norm.all_attrs())
        return settle(rw, m.root, made.result)
    return False
