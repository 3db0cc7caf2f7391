"""Layout: transposes that pairs of others, constants and axis attributes can take in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lepton_ir.passes.layout.cut import MEMO_KEY
from lepton_ir.rewrite import RewritePass, apply_rules

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module


@dataclass(frozen=True)
class Layout(RewritePass, name="layout"):
    """Move transposes through the operations around them where that leaves fewer of them.

    A region of operations that know their axes (elementwise, reductions, concats, slices, pads,
    quantization...) is computed in the layout of a transpose next to it, when a minimum cut says
    that fewer transposes remain at its border. No other operation is ever added.
    """

    needs = "shapes,fold,canonicalize,cse"
    clean_up = "canonicalize,cse,dce"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.canonicalize.views",
        "lepton_ir.passes.layout.moves",
        "lepton_ir.passes.layout.reshapes",
        "lepton_ir.passes.layout.unstack",
    )

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules to every function until none matches."""
        rules = self.rules()
        for function in list(module.functions.values()):
            try:
                apply_rules(function, rules, ctx)
            finally:
                ctx.data.pop(MEMO_KEY, None)
