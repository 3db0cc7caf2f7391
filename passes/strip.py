"""Doc strings and metadata of nodes and values: often a stack trace each, read by no runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_ir.pipeline import Pass

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module


@dataclass(frozen=True)
class Strip(Pass, name="strip"):
    """Drop doc strings and metadata of nodes and values; those of the model stay.

    Attributes:
        doc: drop doc strings.
        metadata: drop metadata properties that the source file had.
    """

    doc: bool = True
    metadata: bool = True

    def run(self, module: Module, ctx: PassContext) -> None:
        """Drop them in every function, nested ones included."""
        del ctx
        keys = [key for key, wanted in (("doc", self.doc), ("metadata", self.metadata)) if wanted]
        for function in module.functions.values():
            changed = False
            values = list(function.inputs)
            for op in function.walk():
                op.meta, gone = _without(op.meta, keys)
                changed |= gone
                values += op.results
                for region in op.regions:
                    values += region.block.args
            for value in values:
                value.meta, gone = _without(value.meta, keys)
                changed |= gone
            function.epoch += changed


def _without(meta: dict[str, Any] | None, keys: list[str]) -> tuple[dict[str, Any] | None, bool]:
    """Return ``meta`` without ``keys`` (``None`` when nothing is left), and whether any went."""
    if not meta or not any(key in meta for key in keys):
        return meta, False
    return {k: v for k, v in meta.items() if k not in keys} or None, True
