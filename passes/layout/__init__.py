"""Layout: transposes that pairs of others, constants and axis attributes can take in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lepton_ir.passes.decompose import decompose_body
from lepton_ir.passes.layout.cut import DEEP_KEY, MEMO_KEY
from lepton_ir.rewrite import RewritePass, Rule, RuleSet, apply_rules

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module


@dataclass(frozen=True)
class Layout(RewritePass, name="layout"):
    """Move transposes through the operations around them where that leaves fewer of them.

    A region of operations that know their axes (elementwise, reductions, concats, slices, pads,
    quantization...) is computed in the layout of a transpose next to it, when a minimum cut says
    that fewer transposes remain at its border. No other operation is ever added.

    Attributes:
        deep: also through reshapes that keep groups of axes apart, and through resizes.
    """

    deep: bool = False
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
        ctx.data[DEEP_KEY] = self.deep
        for function in list(module.functions.values()):
            try:
                apply_rules(function, rules, ctx)
            finally:
                ctx.data.pop(MEMO_KEY, None)


@dataclass(frozen=True)
class ChannelsLast(RewritePass, name="channels_last"):
    """Convolve and pool on tensors whose channels are the last axis, between transposes.

    Runtimes of phones have such kernels only. The layout pass then removes the transposes that
    others undo; weights are reordered when they are written. Normalizations of images become
    arithmetic, which transposes pass through.
    """

    needs = "shapes,fold,canonicalize"
    clean_up = "layout{deep},fold,canonicalize,cse,dce"
    rule_modules: ClassVar[tuple[str, ...]] = (
        "lepton_ir.passes.layout.channels",
        "lepton_ir.passes.layout.lines",
    )


_LAST = (
    *("conv_nhwc", "conv_transpose_nhwc", "max_pool_nhwc", "average_pool_nhwc", "l2_pool_nhwc"),
    *("depth_to_space_nhwc", "space_to_depth_nhwc", "lrn_nhwc"),
)


@dataclass(frozen=True)
class ChannelsFirst(Layout, name="channels_first"):
    """Convolve and pool on tensors whose channels are the second axis.

    The reverse of channels_last: other rules and backends know such operations only. Each one is
    put between transposes, and those that others undo are removed as the layout pass does. Nothing
    happens to a model without operations on channels-last tensors.
    """

    deep: bool = True
    needs = "shapes"
    clean_up = "fold,canonicalize,cse,dce"

    def rules(self) -> RuleSet:
        """Return those of the layout pass, and one for all operations on channels-last tensors."""
        doc = "conv_nhwc(x, w) => transpose(conv(transpose(x), transpose(w))); its kin alike."
        rule = Rule("convolve_channels_first", _LAST, None, decompose_body, True, doc)
        return RuleSet((rule, *super().rules().rules))

    def run(self, module: Module, ctx: PassContext) -> None:
        """Apply the rules if there are such operations."""
        if any(op.name in _LAST for op in module.walk()):
            super().run(module, ctx)
