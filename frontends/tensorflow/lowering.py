"""What the rows of the table are written with."""

from __future__ import annotations

from lepton_ir.frontends.sized import SizedBuilder, Sym

__all__ = ["Sym", "TfBuilder"]


class TfBuilder(SizedBuilder):
    """A builder with TensorFlow's habits."""
