"""Checkpoints: an index (a sorted table of blocks) beside files of raw weights.

Weights stay in their files until they are read; the checksums of the index are verified, those of
the weights are not, which would read them all.
"""

from __future__ import annotations

import math
import os
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.tensorflow.nodes import STRING, dtype_of
from lepton_ir.frontends.tensorflow.protos import parse
from lepton_ir.frontends.tensorflow.snappy import uncompress, varint
from lepton_ir.frontends.tensorflow.tensors import static_shape
from lepton_ir.tensors import DataFile, DenseTensor, FileTensor, LazyTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_INDEX = 256 << 20
"""Bytes of an index."""

MAX_BLOCK = 64 << 20
"""Bytes of a block of it, uncompressed."""

MAX_SHARDS = 100_000
MAX_TEXT = 64 << 20

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER = 5
_MASK = 0xA282EAD8
_CASTAGNOLI = 0x82F63B78


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the checksum (CRC-32C) of bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a checksum as tables store it."""
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


class _Damaged(Exception):
    """The index is not as it should be; the text says where."""


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Return the entries of a sorted table.

    Raises:
        InvalidModelError: it is truncated or damaged.
    """
    try:
        if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
            raise _Damaged("the end of the file is not that of a table")
        footer = data[-_FOOTER:]
        _, _, position = _handle(footer, 0)
        start, size, _ = _handle(footer, position)
        found: dict[bytes, bytes] = {}
        done: set[int] = set()
        for _, handle in _entries(_block(data, start, size)):
            start, size, _ = _handle(handle, 0)
            if start in done:
                raise _Damaged("a block is there twice")
            done.add(start)
            found.update(_entries(_block(data, start, size)))
    except (_Damaged, IndexError, ValueError, struct.error) as error:
        text = str(error) or "it ends too early"
        raise InvalidModelError(
            f"the checkpoint's index is damaged: {text}", code="tf-index"
        ) from (error)
    return found


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    start, position = varint(data, position)
    size, position = varint(data, position)
    return start, size, position


def _block(data: bytes, start: int, size: int) -> bytes:
    end = start + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise _Damaged(f"a block of {size} bytes at {start} is outside of the file")
    kind, crc = data[end], struct.unpack_from("<I", data, end + 1)[0]
    if masked(crc32c(data[start : end + 1])) != crc:
        raise _Damaged(f"the checksum of the block at {start} is wrong")
    content = data[start:end]
    if kind == 0:
        return content
    if kind != 1:
        raise _Damaged(f"compression {kind} of the block at {start} is not known")
    return uncompress(content, MAX_BLOCK)


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a block; keys share their beginning with the one before."""
    restarts = struct.unpack_from("<I", block, len(block) - 4)[0]
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise _Damaged("a block has more restarts than bytes")
    key, position = b"", 0
    while position < end:
        shared, position = varint(block, position)
        own, position = varint(block, position)
        size, position = varint(block, position)
        if shared > len(key) or position + own + size > end:
            raise _Damaged("an entry goes beyond its block")
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + size]
        position += size


class Bundle:
    """An open checkpoint.

    Args:
        prefix: path of its files without what tells them apart (``.index`` ...).
        folder: the model's folder, where all files must lie.

    Raises:
        InvalidModelError: the index is missing or damaged.
    """

    def __init__(self, prefix: str, folder: str) -> None:
        self.prefix = prefix
        self.folder = os.path.realpath(folder)
        self._files: dict[int, DataFile] = {}
        entries = read_table(self._index())
        header = parse("BundleHeaderProto", entries.pop(b"", b""), "the checkpoint's header")
        if header.endianness:
            raise UnsupportedError("the checkpoint is big-endian", code="tf-index")
        if not 0 < header.num_shards <= MAX_SHARDS:
            raise InvalidModelError(
                f"the checkpoint has {header.num_shards} data files", code="tf-index"
            )
        self.shards = int(header.num_shards)
        self._entries = {k.decode("utf-8", "replace"): v for k, v in entries.items()}

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def _inside(self, path: str) -> str:
        real = os.path.realpath(path)
        if os.path.commonpath([real, self.folder]) != self.folder:
            raise InvalidModelError(
                f"{shorten(os.path.basename(path))} is a link out of the model's folder",
                code="tf-index",
            )
        return real

    def _index(self) -> bytes:
        path = self._inside(f"{self.prefix}.index")
        try:
            if not os.path.isfile(path):
                raise FileNotFoundError(2, "there is no such file")
            size = os.path.getsize(path)
            if size > MAX_INDEX:
                raise UnsupportedError(f"the index has {size} bytes", code="tf-index")
            with open(path, "rb") as file:
                return file.read(size)
        except OSError as error:
            raise InvalidModelError(
                f"cannot read the checkpoint's index: {error.strerror}", code="tf-index"
            ) from error

    def _file(self, shard: int) -> DataFile:
        if not 0 <= shard < self.shards:
            raise InvalidModelError(
                f"data file {shard} of {self.shards} does not exist", code="tf-shard"
            )
        if shard not in self._files:
            path = self._inside(f"{self.prefix}.data-{shard:05d}-of-{self.shards:05d}")
            try:
                if not os.path.isfile(path):
                    raise FileNotFoundError(2, "there is no such file")
                self._files[shard] = DataFile(path)
            except OSError as error:
                raise InvalidModelError(
                    f"cannot read {shorten(os.path.basename(path))}: {error.strerror}",
                    code="tf-shard",
                ) from error
        return self._files[shard]

    def tensor(self, key: str) -> Tensor:
        """Return a tensor; its data stays in the file.

        Raises:
            InvalidModelError: there is none, or type, shape and file do not fit together.
            UnsupportedError: it is stored in parts, or holds handles.
        """
        if key not in self._entries:
            raise InvalidModelError(f"the checkpoint has no {shorten(key)}", code="tf-variable")
        entry = parse("BundleEntryProto", self._entries[key], f"entry {shorten(key)}")
        what = f"variable {shorten(key)}"
        if entry.slices:
            raise UnsupportedError(f"{what} is stored in parts", code="tf-variable")
        dtype = dtypes.STRING if entry.dtype == STRING else dtype_of(entry.dtype)
        if dtype is None:
            raise UnsupportedError(f"{what} holds handles, not numbers", code="tf-variable")
        shape = static_shape(entry.shape, what, dtype)
        file = self._file(entry.shard_id)
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > file.size:
            raise InvalidModelError(
                f"{what} lies at bytes {entry.offset} to {entry.offset + entry.size} of a file "
                f"of {file.size}",
                code="tf-variable",
            )
        if dtype is dtypes.STRING:
            return _texts(file, entry, shape, what)
        needed = math.prod(shape) * dtype.numpy.itemsize
        if needed != entry.size:
            raise InvalidModelError(
                f"{what} has {entry.size} bytes, its type {dtype}{list(shape)!r:.60} needs "
                f"{needed}",
                code="tf-variable",
            )
        if dtype.bits < 8:  # one element a byte, unlike in our files
            raw = FileTensor(file, entry.offset, dtypes.I8, shape)
            return LazyTensor(lambda: raw.numpy().view(dtype.numpy), dtype, shape)
        return FileTensor(file, entry.offset, dtype, shape)

    def message(self, key: str, name: str) -> Any:
        """Return the message in a string tensor of one element."""
        found = self.texts(key)
        if len(found) != 1:
            raise InvalidModelError(f"{shorten(key)} is not one text", code="tf-variable")
        return parse(name, found[0], shorten(key))

    def texts(self, key: str) -> list[bytes]:
        """Return the elements of a string tensor as bytes."""
        entry = parse("BundleEntryProto", self._entries[key], f"entry {shorten(key)}")
        what = f"variable {shorten(key)}"
        if entry.dtype != STRING:
            raise InvalidModelError(f"{what} is no text", code="tf-variable")
        shape = static_shape(entry.shape, what, dtypes.STRING)
        file = self._file(entry.shard_id)
        return _split(file, entry, math.prod(shape), what)


def _texts(file: DataFile, entry: Any, shape: tuple[int, ...], what: str) -> Tensor:
    items = np.empty(math.prod(shape), object)
    items[:] = [t.decode("utf-8", "replace") for t in _split(file, entry, len(items), what)]
    return DenseTensor(items.reshape(shape), dtypes.STRING)


def _split(file: DataFile, entry: Any, count: int, what: str) -> list[bytes]:
    """Return the texts of a string tensor: their lengths come first, then a checksum."""
    if not 0 <= entry.size <= MAX_TEXT or count > entry.size:
        raise InvalidModelError(f"{what} has {entry.size} bytes for {count} texts", code="tf-text")
    if entry.offset < 0 or entry.offset + entry.size > file.size:
        raise InvalidModelError(f"{what} lies outside of its file", code="tf-text")
    block = np.empty(entry.size, np.uint8)
    file.read_into(block, entry.offset)
    data, position, sizes = block.tobytes(), 0, []
    try:
        for _ in range(count):
            size, position = varint(data, position)
            sizes.append(size)
    except (IndexError, ValueError) as error:
        raise InvalidModelError(f"{what} has no valid lengths", code="tf-text") from error
    position += 4
    if position + sum(sizes) != len(data):
        raise InvalidModelError(f"{what} has texts of other lengths", code="tf-text")
    found = []
    for size in sizes:
        found.append(data[position : position + size])
        position += size
    return found
