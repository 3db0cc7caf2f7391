"""Reproducers: a pipeline and the module it goes wrong on, in one file that ``lepton-opt`` runs."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from lepton_ir.diagnostics import LeptonError
from lepton_ir.text.files import write_lir

if TYPE_CHECKING:
    from lepton_ir.ir import Module

RUN = "// RUN: "


def write_reproducer(
    module: Module, path: str | os.PathLike[str], pipeline: str, options: str = ""
) -> None:
    """Write ``// RUN: pipeline options`` and the module, large constants in an ``.npz`` beside it.

    Args:
        module: as it was before the pipeline.
        path: the ``.lir`` file; the archive is ``NAME.lir.npz``.
        pipeline: pipeline text.
        options: further options of the command line, quoted as for a shell.

    Raises:
        LeptonError: a line break in the pipeline or the options, or the file cannot be written.
    """
    line = f"{RUN}{pipeline} {options}".rstrip()
    if len(line.splitlines()) != 1:
        raise LeptonError("a pipeline of several lines fits no reproducer", code="reproducer")
    target = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(target)
    archive = name + ".npz"
    try:
        with tempfile.TemporaryDirectory(prefix=".lepton-", dir=folder) as scratch:
            text = os.path.join(scratch, name)
            write_lir(module, text)
            with open(text, encoding="utf-8", newline="") as file:
                head, body = file.readline(), file.read()
            with open(text, "w", encoding="utf-8", newline="\n") as file:
                file.write(f"{head}{line}\n{body}")
            if os.path.exists(os.path.join(scratch, archive)):
                os.replace(os.path.join(scratch, archive), os.path.join(folder, archive))
            os.replace(text, target)
    except OSError as error:
        raise LeptonError(
            f"cannot write the reproducer: {error.strerror or error}",
            code="reproducer",
            where=target,
        ) from error
