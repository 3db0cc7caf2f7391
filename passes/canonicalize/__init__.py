"""Canonical form: algebra, casts, views, slices and concats, shape chains, constant branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lepton_ir.rewrite import RewritePass, apply_rules

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module


@dataclass(frozen=True)
class Canonicalize(RewritePass, name="canonicalize"):
    """Bring operations into their simplest equal form.

    Attributes:
        exact: apply only rules whose results are bit-identical.
    """

    exact: bool = False
    needs = "shapes"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.canonicalize.algebra",
        "lepton_ir.passes.canonicalize.casts",
        "lepton_ir.passes.canonicalize.views",
        "lepton_ir.passes.canonicalize.slices",
        "lepton_ir.passes.canonicalize.control",
        "lepton_ir.passes.canonicalize.ranks",
        "lepton_ir.passes.canonicalize.signs",
        "lepton_ir.passes.canonicalize.states",
        "lepton_ir.passes.canonicalize.fills",
        "lepton_ir.passes.canonicalize.reductions",
        "lepton_ir.passes.canonicalize.pieces",
        "lepton_ir.passes.canonicalize.spreads",
        "lepton_ir.passes.canonicalize.operators",
        "lepton_ir.passes.canonicalize.computed",
        "lepton_ir.passes.canonicalize.moves",
        "lepton_ir.passes.canonicalize.regions",
        "lepton_ir.passes.canonicalize.unroll",
        "lepton_ir.passes.canonicalize.sequences",
    )

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules to every function until none matches."""
        rules = self.rules()
        before, ctx.exact = ctx.exact, ctx.exact or self.exact
        try:
            for function in list(module.functions.values()):
                apply_rules(function, rules, ctx)
        finally:
            ctx.exact = before
