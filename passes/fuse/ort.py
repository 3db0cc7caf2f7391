"""The fuse_ort pass: what onnxruntime fuses by itself, written down for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lepton_ir.passes.fuse import skip
from lepton_ir.passes.fuse.ort_common import wants_contrib
from lepton_ir.rewrite import RewritePass, RuleSet, collect_rules

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module


@dataclass(frozen=True)
class FuseOrt(RewritePass, name="fuse_ort"):
    """Make operations of the domain com.microsoft; does nothing unless the target is ``ort``.

    Results stay within rounding, those of quantized operations within one step.

    Attributes:
        skip_norm: make SkipLayerNormalization and its like. Fewer nodes, but on CPU their kernels
            take up to five times what Add and LayerNormalization take together.
    """

    skip_norm: bool = False
    needs = "shapes"
    clean_up = "dce"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.fuse.ort_activation",
        "lepton_ir.passes.fuse.ort_matmul",
        "lepton_ir.passes.fuse.ort_norm",
        "lepton_ir.passes.fuse.ort_quant",
        "lepton_ir.passes.fuse.ort_qdq",
        "lepton_ir.passes.fuse.ort_qlinear",
    )

    def rules(self) -> RuleSet:
        """Return the rules, with those of sums before a normalization when asked for."""
        found = super().rules()
        if not self.skip_norm:
            return found
        return RuleSet((*found.rules, *collect_rules(skip)))

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules when the target is onnxruntime."""
        if wants_contrib(ctx):
            super().run(module, ctx)
