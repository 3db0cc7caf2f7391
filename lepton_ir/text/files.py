"""``.lir`` files: text, and ``NAME.lir.npz`` beside it where constants are large."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lepton_ir.diagnostics import InvalidModelError, LeptonError, shorten
from lepton_ir.text.parse import parse_module
from lepton_ir.text.print import print_module

if TYPE_CHECKING:
    from lepton_ir.ir import Module

MAX_TEXT_BYTES = 1 << 29
"""Largest text that is read; its syntax takes several times as much memory."""


def read_lir(path: str | os.PathLike[str]) -> Module:
    """Read a ``.lir`` file, check it, and return the module.

    Raises:
        InvalidModelError: the file cannot be read or parsed.
        VerifyError: the text spells a module that breaks a constraint.
    """
    from lepton_ir.verify import verify_module

    path = os.fspath(path)
    shown = shorten(path)
    try:
        if not os.path.isfile(path):
            raise InvalidModelError("not a file", where=shown, code="lir-file")
        if os.path.getsize(path) > MAX_TEXT_BYTES:
            raise InvalidModelError(
                f"the text is larger than {MAX_TEXT_BYTES >> 20} MiB", where=shown, code="lir-file"
            )
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise InvalidModelError(
            f"not UTF-8 text (byte {error.start})", where=shown, code="lir-file"
        ) from error
    except OSError as error:
        raise InvalidModelError(
            f"cannot read the file: {error.strerror or error}", where=shown, code="lir-file"
        ) from error
    module = parse_module(text, folder=os.path.dirname(os.path.abspath(path)), filename=shown)
    try:
        verify_module(module)
    except LeptonError as error:
        error.where = f"{shown}: {error.where}"
        raise
    return module


def write_lir(module: Module, path: str | os.PathLike[str]) -> None:
    """Write a module as ``.lir``, large constants in ``NAME.lir.npz`` beside it.

    Each of the two files appears whole or not at all; the text comes last.
    """
    path = os.fspath(path)
    archive = path + ".npz"
    text = print_module(module, blobs="npz", npz_path=archive)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
