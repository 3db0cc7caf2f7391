"""The decompose pass: composites become the smaller operations that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.opdef import load_all
from lepton_ir.rewrite import RewritePass, Rule, RuleSet

if TYPE_CHECKING:
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter


def decompose_body(m: Match, rw: Rewriter) -> bool:
    """Replace the root by its decomposition; the op table's own reason when there is none."""
    definition = m.root.definition
    assert definition is not None
    if definition.decompose is None:
        return rw.fail("{} has no decomposition", m.root.name)
    try:
        values = definition.decompose(rw, m.root)
    except ValueError as error:
        return rw.fail("{}", error)
    return rw.replace(m.root, list(values))


@dataclass(frozen=True)
class Decompose(RewritePass, name="decompose"):
    """Replace composite operations by the smaller ones they stand for, again and again.

    Attributes:
        ops: names of the operations to take apart; all composites when empty.
    """

    ops: tuple[str, ...] = ()
    needs = "shapes"
    clean_up = "fold,canonicalize,cse,dce"

    def __post_init__(self) -> None:
        table = load_all()
        for name in self.ops:
            if name not in table:
                raise ValueError(f"no operation called {name!r}")
            if table[name].decompose is None:
                raise ValueError(f"{name} is not a composite")

    def rules(self) -> RuleSet:
        """Return one rule for all composites asked for."""
        names = self.ops or tuple(n for n, d in load_all().items() if d.decompose is not None)
        doc = "A composite becomes smaller operations with the same meaning."
        return RuleSet((Rule("decompose", names, None, decompose_body, doc=doc),))
