"""Writer of Lepton's own text form: holds every module as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.text.files import write_lir

if TYPE_CHECKING:
    import os

    from lepton_ir.ir import Module, Op


class LirTarget:
    """A target on which everything is legal."""

    name = "lir"

    def legal(self, op: Op) -> bool | str:
        """Every operation has a text."""
        return True

    def has(self, name: str, module: Module, attrs: dict[str, Any]) -> bool:
        """Every operation of the table exists."""
        return True

    def quant(self, key: str) -> Any:
        """No preference."""
        return None

    def save(self, module: Module, path: str | os.PathLike[str]) -> None:
        """Write ``path``, and large constants in an ``.npz`` beside it."""
        write_lir(module, path)


target = LirTarget()
