"""Fusion: neighbouring operations that one operation, or one set of weights, can stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lepton_ir.rewrite import RewritePass


@dataclass(frozen=True)
class Fuse(RewritePass, name="fuse"):
    """Fold affine operations into weights, and recognise activations and normalizations.

    Results stay within rounding. An operation that the written opset does not have is not made.
    """

    needs = "shapes,fold,canonicalize,cse"
    clean_up = "fold,canonicalize,cse,dce"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.fuse.conv",
        "lepton_ir.passes.fuse.dilation",
        "lepton_ir.passes.fuse.gemm",
        "lepton_ir.passes.fuse.products",
        "lepton_ir.passes.fuse.bias",
        "lepton_ir.passes.fuse.pads",
        "lepton_ir.passes.fuse.clamp",
        "lepton_ir.passes.fuse.activation",
        "lepton_ir.passes.fuse.reduction",
        "lepton_ir.passes.fuse.norm",
        "lepton_ir.passes.fuse.norm_forms",
        "lepton_ir.passes.fuse.qdq",
        "lepton_ir.passes.fuse.einsum",
        "lepton_ir.passes.fuse.shuffle",
        "lepton_ir.passes.fuse.repeat",
        "lepton_ir.passes.fuse.primitives",
        "lepton_ir.passes.fuse.selection",
        "lepton_ir.passes.fuse.scales",
        "lepton_ir.passes.fuse.recurrent",
        "lepton_ir.passes.fuse.arithmetic",
    )
