"""``.pt2`` archives: a zip of JSON and raw weights. Nothing in it is ever unpickled or unpacked.

PyTorch stores every entry uncompressed, so that weights stay in the file until they are read.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from typing import Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.dtypes import DType
from lepton_ir.tensors import DataFile, FileTensor, LazyTensor, Tensor, from_array

SCHEMA_MAJOR = 8
"""The major version of torch.export's schema that is read; minor ones only add fields."""

MAX_ENTRIES = 200_000
_LOCAL_HEADER = 30

DTYPES: dict[int, DType] = {
    1: dtypes.U8,
    2: dtypes.I8,
    3: dtypes.I16,
    4: dtypes.I32,
    5: dtypes.I64,
    6: dtypes.F16,
    7: dtypes.F32,
    8: dtypes.F64,
    12: dtypes.BOOL,
    13: dtypes.BF16,
    28: dtypes.U16,
    29: dtypes.F8E4M3FN,
    30: dtypes.F8E5M2,
    31: dtypes.F8E4M3FNUZ,
    32: dtypes.F8E5M2FNUZ,
    33: dtypes.F8E8M0,
    34: dtypes.U32,
    35: dtypes.U64,
}
"""Element types by their number in the archive (torch's serialized ``ScalarType``)."""

_COMPLEX = frozenset((9, 10, 11))


def dtype_of(code: Any, what: str) -> DType:
    """Return the element type of a number in the archive.

    Raises:
        UnsupportedError: a complex type, or one that is not known.
    """
    found = DTYPES.get(code) if isinstance(code, int) else None
    if found is None:
        kind = "complex numbers" if code in _COMPLEX else f"element type {code!r:.20}"
        raise UnsupportedError(f"{what} has {kind}, which cannot be read", code="pt2-dtype")
    return found


class Archive:
    """An open archive.

    Args:
        path: the file.

    Raises:
        InvalidModelError: no zip file, or not one of torch.export.
        UnsupportedError: an older layout, whose weights are pickled.
    """

    def __init__(self, path: str) -> None:
        try:
            self.file = DataFile(path)
            with zipfile.ZipFile(path) as zipped:
                entries = zipped.infolist()
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise InvalidModelError(f"no zip archive: {error}", code="pt2-zip") from error
        if len(entries) > MAX_ENTRIES:
            raise InvalidModelError(f"{len(entries)} entries", code="pt2-zip")
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            if entry.filename in self.entries:
                name = shorten(entry.filename)
                raise InvalidModelError(f"entry {name} is there twice", code="pt2-zip")
            self.entries[entry.filename] = entry
        self.root = self._find_root()

    def _find_root(self) -> str:
        """Return the folder that all entries lie in."""
        models = [n for n in self.entries if n.endswith("models/model.json")]
        if len(models) == 1:
            return models[0].removesuffix("models/model.json")
        old = any(n.endswith("serialized_exported_program.json") for n in self.entries)
        pickled = any(n.endswith("data.pkl") for n in self.entries)
        if old or pickled:
            what = "an archive of torch 2.7 or older" if old else "a pickled or TorchScript model"
            raise UnsupportedError(
                f"{what}: its weights are pickled, and pickles can run any code",
                code="pt2-pickle",
                hint="load it in torch 2.8 or later and write it with torch.export.save",
            )
        several = f"{len(models)} models" if models else "no models/model.json"
        raise InvalidModelError(f"no archive of torch.export: {several}", code="pt2-layout")

    def _range(self, name: str) -> tuple[int, int]:
        """Return offset and size of an entry's bytes in the file."""
        entry = self.entries.get(name)
        if entry is None:
            raise InvalidModelError(f"no entry {shorten(name)}", code="pt2-layout")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise UnsupportedError(
                f"entry {shorten(name)} is compressed or encrypted",
                code="pt2-zip",
                hint="torch.export.save stores entries as they are; write the file again with it",
            )
        size = self.file.size
        header = np.empty(_LOCAL_HEADER, np.uint8)
        if not 0 <= entry.header_offset <= size - _LOCAL_HEADER:
            raise InvalidModelError(f"entry {shorten(name)} lies outside the file", code="pt2-zip")
        self.file.read_into(header, entry.header_offset)
        signature, *_, names, extra = struct.unpack("<4s5H3I2H", header.tobytes())
        start = entry.header_offset + _LOCAL_HEADER + names + extra
        if signature != b"PK\x03\x04" or start + entry.file_size > size:
            raise InvalidModelError(f"entry {shorten(name)} lies outside the file", code="pt2-zip")
        return start, entry.file_size

    def json(self, name: str) -> Any:
        """Return the contents of a JSON entry.

        Raises:
            InvalidModelError: it is missing or no JSON.
        """
        start, size = self._range(self.root + name)
        data = np.empty(size, np.uint8)
        if size:
            self.file.read_into(data, start)
        try:
            return json.loads(data.tobytes())
        except (ValueError, RecursionError) as error:
            text = shorten(str(error))
            raise InvalidModelError(f"{name} is no JSON: {text}", code="pt2-json") from error

    def has(self, name: str) -> bool:
        """Return whether there is an entry."""
        return self.root + name in self.entries

    def tensors(self, folder: str, config: str) -> dict[str, Tensor]:
        """Return the tensors of ``data/weights`` or ``data/constants`` by their names.

        Raises:
            InvalidModelError: the configuration contradicts the data.
            UnsupportedError: a tensor is pickled, sparse or complex.
        """
        if not self.has(f"{folder}/{config}"):
            return {}
        found: dict[str, Tensor] = {}
        entries = expect(self.json(f"{folder}/{config}"), dict, config).get("config")
        for name, entry in expect(entries, dict, config).items():
            what = f"tensor {shorten(name)}"
            entry = expect(entry, dict, what)
            if entry.get("tensor_meta") is None:
                continue  # a custom object: whoever reads it is refused by name
            if entry.get("use_pickle"):
                raise UnsupportedError(
                    f"{what} is pickled, and pickles can run any code",
                    code="pt2-pickle",
                    hint="convert subclasses of Tensor to plain tensors before exporting",
                )
            path = f"{self.root}{folder}/{expect(entry.get('path_name'), str, what)}"
            found[name] = self._tensor(path, expect(entry["tensor_meta"], dict, what), what)
        return found

    def _tensor(self, path: str, meta: dict[str, Any], what: str) -> Tensor:
        dtype = dtype_of(meta.get("dtype"), what)
        shape = _static(meta.get("sizes"), what)
        strides = _static(meta.get("strides"), what)
        offset = _static([meta.get("storage_offset", {"as_int": 0})], what)[0]
        if meta.get("layout") not in (7, 0, None):
            raise UnsupportedError(f"{what} is not dense", code="pt2-layout")
        if len(strides) != len(shape):
            raise InvalidModelError(f"{what} has {len(strides)} strides", code="pt2-tensor")
        size = dtype.bits // 8
        if 0 in shape:
            return from_array(np.empty(shape, dtype.numpy), dtype)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        start, nbytes = self._range(path)
        if (last + 1) * size > nbytes:
            raise InvalidModelError(
                f"{what} needs {(last + 1) * size} bytes, its data has {nbytes}", code="pt2-tensor"
            )
        first = start + offset * size
        if _is_dense(shape, strides):
            return FileTensor(self.file, first, dtype, shape)
        count = last + 1 - offset
        if math.prod(shape) > max(count, 1):
            raise UnsupportedError(f"{what} repeats its elements", code="pt2-tensor")
        flat = FileTensor(self.file, first, dtype, (count,))

        def gather() -> np.ndarray[Any, Any]:
            array = flat.numpy()
            steps = tuple(s * array.itemsize for s in strides)
            return np.ascontiguousarray(np.lib.stride_tricks.as_strided(array, shape, steps))

        return LazyTensor(gather, dtype, shape)


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _static(items: Any, what: str) -> tuple[int, ...]:
    """Return numbers that must not be symbolic."""
    found = []
    for item in expect(items, list, what):
        number = item.get("as_int") if isinstance(item, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 62:
            raise InvalidModelError(f"{what}: sizes are wrong: {item!r:.40}", code="pt2-tensor")
        found.append(number)
    return tuple(found)


def expect(value: Any, kind: type, what: str) -> Any:
    """Return ``value`` if it is a ``kind``.

    Raises:
        InvalidModelError: it is something else.
    """
    if not isinstance(value, kind):
        text = f"{what}: expected {kind.__name__}, got {value!r:.40}"
        raise InvalidModelError(text, code="pt2-json")
    return value
