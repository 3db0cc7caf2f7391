"""The adapt pass: operations that only another format has are taken apart before anything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.passes.decompose import decompose_body
from lepton_ir.pipeline import Pass
from lepton_ir.rewrite import Rule, RuleSet, apply_rules

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module, Op

_FAMILIES = "lepton_ir.ops.tf_"
"""Modules of operations that TensorFlow Lite has and ONNX has not."""


def _is_foreign(op: Op) -> bool:
    definition = op.definition
    return (
        definition is not None
        and definition.decompose is not None
        and definition.module.startswith(_FAMILIES)
    )


@dataclass(frozen=True)
class Adapt(Pass, name="adapt"):
    """Take operations apart that come from another format than the target's.

    Rules know the operations of ONNX; what TensorFlow Lite has beside them (pack, rsqrt, ...) would
    stop them until it is written. Nothing happens to a model without such operations, nor where
    the target has them.
    """

    needs = "shapes"

    def run(self, module: Module, ctx: PassContext) -> None:
        """Take apart what the target lacks; what cannot be is left to ``legalize``."""
        names = {op.name for op in module.walk() if _is_foreign(op)}
        target = ctx.target
        if target is not None and _FAMILIES in getattr(target, "families", ()):
            names = {name for name in names if not target.has(name, module, {})}
        if not names:
            return
        rule = Rule("decompose", tuple(sorted(names)), None, decompose_body)
        for function in list(module.functions.values()):
            apply_rules(function, RuleSet((rule,)), ctx)
