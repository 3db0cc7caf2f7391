"""Large constants beside the text: ``.npz`` archives, written and read without ever unpickling.

An entry holds the array itself where NumPy has its type, else the bytes of the file form
(little-endian, sub-byte elements packed) as u8; the type in the text says which.
"""

from __future__ import annotations

import os
import zipfile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, shorten
from lepton_ir.dtypes import DType
from lepton_ir.tensors import LazyTensor, Tensor, from_packed_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAX_HEADER = 4096


def _is_native(dtype: DType) -> bool:
    return hasattr(np, dtype.numpy_name) and dtype is not dtypes.STRING


def write_npz(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to an uncompressed ``.npz``, streamed, whole or not at all.

    Same tensors, same bytes: entries carry no time. Strings cannot be in it.
    """
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, tensor in tensors.items():
                info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
                with archive.open(info, "w", force_zip64=True) as entry:
                    _write_entry(entry, tensor)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _write_entry(entry: IO[bytes], tensor: Tensor) -> None:
    native = _is_native(tensor.dtype)
    dtype = tensor.dtype.numpy.newbyteorder("<") if native else np.dtype(np.uint8)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": tensor.shape if native else (tensor.nbytes,),
    }
    np.lib.format.write_array_header_1_0(entry, header)
    for chunk in tensor.chunks():
        entry.write(chunk)


class Archives:
    """The ``.npz`` files of one folder, opened once each; nothing outside the folder is read."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else os.path.realpath(folder)
        self._known: dict[str, tuple[str, dict[str, int]]] = {}

    def tensor(self, file: str, key: str, dtype: DType, shape: tuple[int, ...]) -> Tensor:
        """Return the constant ``key`` of ``file``; the data is read when asked for.

        Raises:
            InvalidModelError: the file is outside the folder, no archive, or has no such entry
                of this type and shape.
        """
        path, entries = self._open(file)
        name = f"{key}.npy"
        if name not in entries:
            raise InvalidModelError(
                f"{shorten(file)} has no entry {shorten(key)!r}", code="lir-blob"
            )
        packed = _check_header(path, name, entries[name], dtype, shape)
        return LazyTensor(lambda: _load(path, name, dtype, shape, packed), dtype, shape)

    def _open(self, file: str) -> tuple[str, dict[str, int]]:
        known = self._known.get(file)
        if known is not None:
            return known
        if self.folder is None:
            raise InvalidModelError(
                f"the text refers to {shorten(file)}, but the folder it lies in is not known",
                code="lir-blob",
            )
        path = os.path.realpath(os.path.join(self.folder, file)) if "\0" not in file else ""
        inside = path.startswith(self.folder.rstrip(os.sep) + os.sep)
        if os.path.isabs(file) or not inside or not os.path.isfile(path):
            raise InvalidModelError(
                f"{shorten(file)!r} is not a file in the folder of the text", code="lir-blob"
            )
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {i.filename: i.file_size for i in archive.infolist()}
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise InvalidModelError(
                f"{shorten(file)} is not a readable .npz archive: {error}", code="lir-blob"
            ) from error
        self._known[file] = (path, entries)
        return path, entries


def _check_header(path: str, name: str, size: int, dtype: DType, shape: tuple[int, ...]) -> bool:
    """Check an entry's type, shape and size; return whether it holds the packed file bytes."""
    what = f"entry {shorten(name)!r} of {shorten(os.path.basename(path))}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as entry:
            found_shape, order, found = _header(entry)
            offset = entry.tell()
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise InvalidModelError(f"{what} cannot be read: {error}", code="lir-blob") from error
    native = _is_native(dtype) and found == dtype.numpy and found_shape == shape and not order
    nbytes = dtype.nbytes(int(np.prod(shape, dtype=object)))
    packed = found == np.uint8 and found_shape == (nbytes,) and dtype is not dtypes.STRING
    if not (native or packed):
        wanted = f"{dtype.name}[{','.join(map(str, shape))}]"
        raise InvalidModelError(
            f"{what} holds {found}{list(found_shape)}, the text says {wanted}", code="lir-blob"
        )
    if size - offset != nbytes:
        raise InvalidModelError(
            f"{what} has {size - offset} bytes of data, expected {nbytes}", code="lir-blob"
        )
    return not native


def _header(entry: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(entry)
    if version != (1, 0):
        raise ValueError(f"format version {version} of .npy is not supported")
    shape, order, dtype = np.lib.format.read_array_header_1_0(entry, _MAX_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    return shape, bool(order), dtype


def _load(
    path: str, name: str, dtype: DType, shape: tuple[int, ...], packed: bool
) -> np.ndarray[Any, Any]:
    nbytes = dtype.nbytes(int(np.prod(shape, dtype=np.int64)))
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as entry:
            _header(entry)
            raw = entry.read(nbytes)
    except (OSError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise InvalidModelError(
            f"entry {shorten(name)!r} cannot be read: {error}", where=path, code="lir-blob"
        ) from error
    if len(raw) != nbytes:
        raise InvalidModelError(f"entry {shorten(name)!r} ends early", where=path, code="lir-blob")
    return from_packed_bytes(raw, dtype, shape)
