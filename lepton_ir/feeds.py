"""Reading feeds that a user gives: ``.npz`` files, ``.npy`` files, folders of them."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.diagnostics import LeptonError

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_feeds(paths: list[str]) -> Iterator[dict[str, Any]]:
    """Yield one dict (input name to array) per ``.npz`` file, and one per folder of ``.npy`` files.

    A folder of ``.npz`` files yields one per file; a folder of ``.npy`` files yields one, with the
    file names (less the suffix) as input names. No pickled objects are read.

    Raises:
        LeptonError: a missing or unreadable file.
    """
    for path in paths:
        if os.path.isdir(path):
            yield from _folder(path)
        else:
            yield _archive(path)


def _folder(path: str) -> Iterator[dict[str, Any]]:
    names = sorted(os.listdir(path))
    archives = [n for n in names if n.endswith(".npz")]
    arrays = [n for n in names if n.endswith(".npy")]
    if not archives and not arrays:
        raise LeptonError(
            "the folder has no .npz or .npy files",
            code="feeds",
            where=path,
            hint="save one .npz per sample: numpy.savez(path, input_name=array)",
        )
    for name in archives:
        yield _archive(os.path.join(path, name))
    if arrays:
        yield {n[: -len(".npy")]: _load(os.path.join(path, n)) for n in arrays}


def _archive(path: str) -> dict[str, Any]:
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        name = os.path.splitext(os.path.basename(path))[0]
        return {name: loaded}
    return dict(loaded)


def _load(path: str) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
        return {k: found[k] for k in found.files} if hasattr(found, "files") else found
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if "pickled" in reason:  # NumPy takes whatever it does not know for a pickle
            reason = "this holds Python objects, or is neither .npz nor .npy"
        raise LeptonError(
            f"cannot read arrays: {reason}",
            code="feeds",
            where=path,
            hint="give .npz or .npy files as numpy.savez and numpy.save write them",
        ) from error
