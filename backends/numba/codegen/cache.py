"""Object code on disk: a file a kernel, written atomically, checked when read, bounded in size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time

LIMIT = 256 << 20
"""Bytes the cache may hold; the files not used for longest go first."""

_MAGIC = b"lepton-kernel-1\n"
_DIGEST = hashlib.sha256().digest_size
_PRUNE_EVERY = 64
"""Writes of one process between two looks at the size of the whole folder."""

_PRUNE_SECONDS = 600
"""How long a look is good for other processes: one at tens of thousands of files takes longer than
to compile some kernels."""

_STAMP = ".looked"
"""Ends the name of a file beside a folder whose time is that of the last look."""


def folder(name: str = "kernels") -> str:
    """Return a folder of the cache: below ``LEPTON_CACHE``, or below a place of the user's own."""
    chosen = os.environ.get("LEPTON_CACHE")
    if chosen:
        return os.path.join(chosen, name)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "lepton", name)


class Store:
    """Blobs by key. What cannot be read or written is as good as absent: a kernel is rebuilt."""

    def __init__(self, path: str = "", limit: int = LIMIT) -> None:
        self.path = path or folder()
        self.limit = limit
        self._writes = 0

    def get(self, key: str) -> bytes | None:
        """Return the blob of ``key``, ``None`` when absent, torn or damaged."""
        place = os.path.join(self.path, key)
        try:
            with open(place, "rb") as file:
                data = file.read()
        except OSError:
            return None
        start = len(_MAGIC) + _DIGEST
        if data[: len(_MAGIC)] != _MAGIC or len(data) <= start:
            return None
        blob = data[start:]
        if hashlib.sha256(blob).digest() != data[len(_MAGIC) : start]:
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return blob

    def put(self, key: str, blob: bytes) -> None:
        """Store ``blob``; several processes may do so at once."""
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".new-")
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(blob).digest() + blob)
            os.replace(temporary, os.path.join(self.path, key))
        except OSError:
            return
        self._writes += 1
        if self._writes % _PRUNE_EVERY == 0 or (self._writes == 1 and self._is_due()):
            self.prune()

    def _is_due(self) -> bool:
        """Return whether no process has looked for a while."""
        try:
            looked = os.stat(self.path + _STAMP).st_mtime
        except OSError:
            return True
        return abs(time.time() - looked) > _PRUNE_SECONDS

    def prune(self) -> None:
        """Remove the files used longest ago until the rest fits the limit."""
        with contextlib.suppress(OSError), open(self.path + _STAMP, "wb") as file:
            os.utime(file.fileno())
        found = []
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    stat = entry.stat()
                    found.append((stat.st_mtime, stat.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
