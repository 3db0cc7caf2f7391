"""Prepared modules of ONNX files, kept on disk: a warm start imports neither onnx nor passes.

An entry is the graph behind the passes; weights that the passes left alone stay in the model file.
It belongs to one state of that file (path, size, time of the last change, inode) and of this
program. What cannot be read or written is as good as absent.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import os
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import plugins
from lepton_ir.backends.numba.codegen import cache
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.tensors import StoredTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.ir import Module
    from lepton_ir.tensors import DataFile

LIMIT = 128 << 20
"""Bytes that all entries may take."""

MAX_BYTES = 16 << 20
"""Bytes of new constants (folded weights) from which on a module is not worth keeping."""

SUFFIX = ".onnx"

_PIPELINES = ("", "O1", "O2", "O3")
"""Names of pipelines, which stand among those of passes."""


class Entry:
    """The place of one model's prepared module.

    Args:
        path: the model file.
        passes: the pipeline that runs over it.
    """

    def __init__(self, path: str, passes: str) -> None:
        self.path = os.path.realpath(path)
        self.identity: tuple[int, ...] = ()
        self._key = ""
        is_onnx = path.lower().endswith(SUFFIX)  # other files may be read by a plugin
        if is_onnx and _is_own(passes) and os.path.isfile(self.path):
            status = os.stat(self.path)
            self.identity = status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev
            text = repr((self.path, self.identity, passes, _code_version(), np.__version__))
            self._key = hashlib.sha256(text.encode()).hexdigest()
        self._store = cache.Store(cache.folder("prepared"), LIMIT)

    def load(self) -> Module | None:
        """Return the module, ``None`` when there is none for the present state of the files."""
        blob = self._store.get(self._key) if self._key else None
        if blob is None:
            return None
        from lepton_ir.backends.numba.file import load_copy

        return load_copy(blob)

    def store(self, module: Module) -> None:
        """Keep ``module``."""
        from lepton_ir import ops
        from lepton_ir.backends.numba.file import write

        if not self._key or not set(plugins.names("ops")) <= ops.TABLE.keys():
            return
        tensors = [v for op in module.walk() for v in op.attrs.values() if isinstance(v, Tensor)]
        if sum(t.nbytes for t in tensors if not isinstance(t, StoredTensor)) > MAX_BYTES:
            return
        out = io.BytesIO()
        sources: list[DataFile] = []
        try:
            write(out, module, sources)
        except (OSError, UnsupportedError):
            return
        if all(f.path != self.path or f.identity == self.identity for f in sources):
            self._store.put(self._key, out.getvalue())


def _is_own(passes: str) -> bool:
    """Return whether no plugin has a part in a pipeline."""
    return all(n in _PIPELINES or plugins.is_own("passes", n) for n in passes.split(","))


@functools.cache
def _code_version() -> str:
    """Return what changes with this program: names, sizes and times of its modules."""
    digest = hashlib.sha256()
    for package in ("", ".passes", ".frontends", ".backends"):
        for folder in importlib.import_module(f"lepton_ir{package}").__path__:
            for name, size, time in sorted(_modules(folder, package)):
                digest.update(f"{name} {size} {time}\n".encode())
    return digest.hexdigest()


def _modules(folder: str, package: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of the modules in a folder and below it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{package}.{entry.name}"
            if entry.name.endswith(".py"):
                status = entry.stat()
                yield name, status.st_size, status.st_mtime_ns
            elif entry.is_dir() and entry.name.isidentifier() and entry.name != "__pycache__":
                yield from _modules(entry.path, name)
