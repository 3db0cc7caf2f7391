"""The fuse_attention pass: attention blocks as one operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lepton_ir.passes.fuse.ort_common import wants_contrib
from lepton_ir.rewrite import RewritePass

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module


@dataclass(frozen=True)
class FuseAttention(RewritePass, name="fuse_attention"):
    """Recognise scaled dot-product attention, its projections and its key/value cache.

    Writes Attention where the opset has it (ONNX 23), MultiHeadAttention, GroupQueryAttention and
    Attention of com.microsoft for onnxruntime, and nothing elsewhere. Results stay within rounding.

    Attributes:
        contrib_only: do nothing unless the target is ``ort``.
    """

    contrib_only: bool = False

    needs = "shapes"
    clean_up = "fold,canonicalize,cse,dce"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.fuse.attention_mha",
        "lepton_ir.passes.fuse.attention_packed",
        "lepton_ir.passes.fuse.attention_rotary",
        "lepton_ir.passes.fuse.attention_groups",
    )

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules."""
        if wants_contrib(ctx) or not self.contrib_only:
            super().run(module, ctx)
