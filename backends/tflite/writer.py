"""TFLite out: `save` writes a file that appears whole or not at all, weights streamed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lepton_ir.backends.tflite import kept
from lepton_ir.backends.tflite.emit import Emitter
from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.formats.tflite.validate import validate
from lepton_ir.formats.tflite.writer import write_file

if TYPE_CHECKING:
    from lepton_ir.ir import Module


def save(
    module: Module,
    path: str | os.PathLike[str],
    *,
    notes: list[tuple[str, str]] | None = None,
) -> None:
    """Write a module, every operation of which is legal.

    Args:
        module: what to write.
        path: of the file.
        notes: gets what the user should know: of which operation, and a text.

    Raises:
        UnsupportedError: an operation cannot be written; names it and says why.
        LeptonError: the file cannot be written.
    """
    target = os.path.abspath(os.fspath(path))
    emitter = Emitter(module)
    model = emitter.model()
    if notes is not None:
        notes += emitter.notes()
    validate(model)
    try:
        write_file(model, target, archive=kept.archive(module))
    except OSError as error:
        raise LeptonError(
            f"cannot write: {error.strerror or error}", where=shorten(target, 200), code="write"
        ) from error
