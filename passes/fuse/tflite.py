"""The fuse_tflite pass: forms for which TFLite has an operator, or a cheaper one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lepton_ir.passes.fuse import tflite_products
from lepton_ir.rewrite import RewritePass, RuleSet, collect_rules

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module


@dataclass(frozen=True)
class FuseTflite(RewritePass, name="fuse_tflite"):
    """Make forms that TFLite has operators for; does nothing unless the target is ``tflite``.

    Results stay within rounding.

    Attributes:
        products: make products with a bias and with transposed operands instead. Other rules and
            the layout pass do not know them, so that they belong behind both.
    """

    products: bool = False
    needs = "shapes"
    clean_up = "dce"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.fuse.tflite_forms",
        "lepton_ir.passes.fuse.conv",
        "lepton_ir.passes.fuse.gemm",
    )

    def rules(self) -> RuleSet:
        """Return the rules of products, or all others."""
        return RuleSet(tuple(collect_rules(tflite_products))) if self.products else super().rules()

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules when the target is TFLite."""
        if ctx.target is not None and ctx.target.name == "tflite":
            super().run(module, ctx)
