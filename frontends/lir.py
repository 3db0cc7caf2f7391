"""Reader of Lepton's own text form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.diagnostics import InvalidModelError
from lepton_ir.text.files import read_lir
from lepton_ir.text.parse import parse_module
from lepton_ir.verify import verify_module

if TYPE_CHECKING:
    import os

    from lepton_ir.ir import Module


def load(source: str | os.PathLike[str] | bytes) -> Module:
    """Return the module of a ``.lir`` file, or of its bytes (then without an archive beside it).

    Raises:
        InvalidModelError: the file cannot be read or parsed.
        VerifyError: the text spells a module that breaks a constraint.
    """
    if not isinstance(source, bytes):
        return read_lir(source)
    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidModelError("not UTF-8 text", code="lir-file") from error
    module = parse_module(text)
    verify_module(module)
    return module
