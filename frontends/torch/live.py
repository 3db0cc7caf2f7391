"""Live modules: exported by torch itself, then read as an archive is."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import LeptonError, UnsupportedError, shorten
from lepton_ir.frontends.torch.reader import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_ir.ir import Module


def export(
    module: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    **options: Any,
) -> Module:
    """Return a module of the IR for a ``torch.nn.Module`` or an exported program.

    Args:
        module: what to export; put into evaluation mode by the caller.
        args: example operands, as the module is called.
        kwargs: those by name.
        dynamic_shapes: as for ``torch.export.export``.
        options: those of the reader of archives.

    Raises:
        LeptonError: torch is not installed, or cannot export the module.
        UnsupportedError: the program uses an operator without a row.
    """
    try:
        import torch
    except ImportError as error:
        raise LeptonError(
            "torch is not installed",
            code="torch-missing",
            hint="pip install lepton-ir[torch], or save an archive with torch.export.save",
        ) from error
    program = module
    if isinstance(module, torch.nn.Module):
        try:
            program = torch.export.export(
                module, tuple(args), dict(kwargs or {}), dynamic_shapes=dynamic_shapes
            )
        except Exception as error:
            text = shorten(str(error).strip().split("\n")[0], 300)
            raise UnsupportedError(
                f"torch.export cannot export it: {text}", code="torch-export"
            ) from error
    with tempfile.TemporaryDirectory(prefix="lepton-torch-") as folder:
        path = os.path.join(folder, "module.pt2")
        torch.export.save(program, path)
        found = load(path, **options)
    found.meta.pop("source_path", None)
    return found
