"""The pass ``relu6``."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_ir import P, RewritePass, Rewriter, const, var
from lepton_ir.pattern import Match
from lepton_ir.rewrite import rewrite


@dataclass(frozen=True)
class Relu6(RewritePass, name="relu6"):
    """Recognise relu6.

    Attributes:
        tolerance: how far the bounds may be from 0 and 6.
    """

    tolerance: float = 0.0

    @rewrite(P.clip(var("x"), const("lo"), const("hi")), exact=True)
    def clip_to_relu6(self, m: Match, rw: Rewriter) -> bool:
        """clip(x, 0, 6) => relu6(x)."""
        if not (m.lo.is_close(0, self.tolerance) and m.hi.is_close(6, self.tolerance)):
            return rw.fail("bounds are {} and {}", m.lo.scalar(), m.hi.scalar())
        return rw.replace(m.root, rw.relu6(m.x))
