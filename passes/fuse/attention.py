"""The fuse_attention pass: attention blocks as one operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lepton_ir.rewrite import RewritePass


@dataclass(frozen=True)
class FuseAttention(RewritePass, name="fuse_attention"):
    """Recognise scaled dot-product attention, its projections and its key/value cache.

    Writes Attention where the opset has it (ONNX 23), MultiHeadAttention and Attention of
    com.microsoft for onnxruntime, and nothing elsewhere. Results stay within rounding.
    """

    needs = "shapes"
    clean_up = "fold,canonicalize,cse,dce"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.fuse.attention_mha",
        "lepton_ir.passes.fuse.attention_rotary",
    )
