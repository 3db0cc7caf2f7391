"""Passes that make forms for which TFLite has an operator, or a cheaper one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lepton_ir.rewrite import RewritePass

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module


@dataclass(frozen=True)
class FuseTflite(RewritePass, name="fuse_tflite"):
    """Make activations and arithmetic of TFLite; does nothing unless the target is ``tflite``.

    Results stay within rounding.
    """

    needs = "shapes"
    clean_up = "dce"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.fuse.tflite_forms",
        "lepton_ir.passes.fuse.conv",
        "lepton_ir.passes.fuse.gemm",
    )

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules when the target is TFLite."""
        if ctx.target is not None and ctx.target.name == "tflite":
            super().run(module, ctx)


@dataclass(frozen=True)
class FuseProducts(RewritePass, name="fuse_products"):
    """Make products with a bias, of transposed operands and with inverse roots.

    Only where the target has them. Other rules and the layout pass do not know them, so that this
    belongs behind both.
    """

    needs = "shapes"
    clean_up = "dce"
    rule_modules: ClassVar[tuple[str, ...]] = ("lepton_ir.passes.fuse.tflite_products",)

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules when there is a target that has such products."""
        if ctx.target is not None:
            super().run(module, ctx)
