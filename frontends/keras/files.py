"""Keras files: HDF5, alone or in a zip. Nothing is unpickled, and nothing outside is followed."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from typing import Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, LeptonError, UnsupportedError, shorten
from lepton_ir.tensors import LazyTensor

MAX_CONFIG = 256 << 20
"""Bytes of a configuration."""


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise LeptonError(
            "h5py is not installed, which Keras files need",
            code="keras-h5py",
            hint="pip install lepton-ir[keras]",
        ) from error
    return h5py


class _Part(io.RawIOBase):
    """A range of a file, as a file."""

    def __init__(self, path: str, start: int, size: int) -> None:
        self.file = open(path, "rb")  # noqa: SIM115 (closed with the object)
        self.start, self.size, self.at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self.at, self.size)[whence]
        self.at = max(base + offset, 0)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), self.size - self.at), 0)
        self.file.seek(self.start + self.at)
        data = self.file.read(count)
        view[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


class WeightFile:
    """An HDF5 file of weights, read dataset by dataset.

    Args:
        source: a path, or a part of a file.
        size: bytes of it.

    Raises:
        InvalidModelError: it is no HDF5 file.
    """

    def __init__(self, source: Any, size: int) -> None:
        self.h5py = _h5py()
        self.size = size
        try:
            self.file = self.h5py.File(source, "r")
        except (OSError, ValueError, RuntimeError) as error:
            text = shorten(str(error))
            raise InvalidModelError(f"no HDF5 file: {text}", code="keras-h5") from error

    def find(self, path: str) -> Any:
        """Return a group or a dataset, ``None`` where there is none.

        Raises:
            UnsupportedError: a link out of the file lies on the way.
        """
        here: Any = self.file
        for part in path.split("/"):
            if not part:
                continue
            if not isinstance(here, self.h5py.Group):
                return None
            try:
                link = here.get(part, getlink=True)
                if link is None:
                    return None
                if not isinstance(link, self.h5py.HardLink):
                    raise UnsupportedError(
                        f"{shorten(path)} is a link, which is not followed", code="keras-h5"
                    )
                here = here[part]
            except (KeyError, OSError, RuntimeError, ValueError, TypeError) as error:
                text = shorten(str(error))
                raise InvalidModelError(
                    f"{shorten(path)} cannot be read: {text}", code="keras-h5"
                ) from error
        return here

    def names(self, path: str) -> list[str]:
        """Return the names in a group."""
        group = self.find(path)
        try:
            return list(group.keys()) if isinstance(group, self.h5py.Group) else []
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise InvalidModelError(
                f"{shorten(path)} cannot be read: {shorten(str(error))}", code="keras-h5"
            ) from error

    def attribute(self, path: str, name: str) -> Any:
        """Return an attribute of a group, joined where it was written in parts."""
        group = self.find(path)
        if group is None:
            return None
        try:
            if name in group.attrs:
                return group.attrs[name]
            parts: list[Any] = []
            while f"{name}{len(parts)}" in group.attrs:  # 64 kB is the most one attribute holds
                parts.append(group.attrs[f"{name}{len(parts)}"])
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise InvalidModelError(
                f"attribute {name} cannot be read: {shorten(str(error))}", code="keras-h5"
            ) from error
        return np.concatenate(parts) if parts else None

    def tensor(self, path: str) -> LazyTensor | None:
        """Return a dataset as a tensor that is read when it is first used.

        Raises:
            InvalidModelError: its data is not whole in the file.
            UnsupportedError: its element type is not known, or its data lies elsewhere.
        """
        dataset = self.find(path)
        what = f"weight {shorten(path)}"
        if not isinstance(dataset, self.h5py.Dataset):
            return None
        try:
            shape = tuple(int(n) for n in dataset.shape or ())
            dtype = dtypes.from_numpy(dataset.dtype)
            virtual = dataset.is_virtual or dataset.external
            stored = dataset.id.get_storage_size()
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            text = shorten(str(error))
            raise UnsupportedError(f"{what} cannot be read: {text}", code="keras-h5") from error
        if virtual or dtype is dtypes.STRING:
            raise UnsupportedError(f"{what}: its data lies in other files", code="keras-h5")
        if math.prod(shape) * dataset.dtype.itemsize > min(stored, self.size):
            raise InvalidModelError(
                f"{what} is {dtype}{list(shape)}, but the file holds {stored} bytes of it",
                code="keras-h5",
            )

        def read() -> np.ndarray[Any, Any]:
            try:
                return np.asarray(dataset[()], dtype.numpy)
            except (OSError, RuntimeError, ValueError) as error:
                raise InvalidModelError(
                    f"{what} cannot be read: {shorten(str(error))}", code="keras-h5"
                ) from error

        return LazyTensor(read, dtype, shape)


def decode(data: Any, what: str) -> Any:
    """Return JSON.

    Raises:
        InvalidModelError: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError, TypeError) as error:
        text = shorten(str(error))
        raise InvalidModelError(f"{what} is no JSON: {text}", code="keras-json") from error


def open_archive(path: str) -> tuple[Any, WeightFile]:
    """Return configuration and weights of a ``.keras`` file.

    Raises:
        InvalidModelError: it is none.
        UnsupportedError: its entries are compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {e.filename: e for e in archive.infolist()}
            config = entries.get("config.json")
            if config is None or "model.weights.h5" not in entries:
                raise InvalidModelError(
                    "no Keras archive: config.json or model.weights.h5 is missing",
                    code="keras-zip",
                )
            if config.file_size > MAX_CONFIG:
                raise InvalidModelError("config.json is too large", code="keras-zip")
            with archive.open(config) as file:
                text = file.read(MAX_CONFIG)
            weights = entries["model.weights.h5"]
            if weights.compress_type != zipfile.ZIP_STORED or weights.flag_bits & 1:
                raise UnsupportedError(
                    "the weights are compressed or encrypted",
                    code="keras-zip",
                    hint="Keras stores them as they are; save the model again",
                )
            with archive.open(weights) as entry:
                start = getattr(entry, "_orig_compress_start", None)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise InvalidModelError(
            f"no zip archive: {shorten(str(error))}", code="keras-zip"
        ) from error
    if start is None or start + weights.file_size > os.path.getsize(path):
        raise InvalidModelError("the weights lie outside the file", code="keras-zip")
    part = _Part(path, start, weights.file_size)
    return decode(text, "config.json"), WeightFile(part, weights.file_size)


def open_h5(path: str) -> tuple[Any, WeightFile]:
    """Return configuration and weights of an ``.h5`` file.

    Raises:
        InvalidModelError: it is none.
        UnsupportedError: it holds weights only.
    """
    if not os.path.isfile(path):
        raise InvalidModelError("no such file", code="keras-h5")
    weights = WeightFile(path, os.path.getsize(path))
    config = weights.attribute("", "model_config")
    if config is None:
        raise UnsupportedError(
            "the file holds no model, perhaps only weights",
            code="keras-h5",
            hint="save the whole model with model.save(...), not model.save_weights(...)",
        )
    return decode(config, "model_config"), weights
