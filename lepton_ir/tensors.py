"""What a constant holds, behind one protocol: size and type are known without touching the data.

Passes look at ``dtype``, ``shape`` and ``nbytes`` first; ``numpy()`` may read a file. Data is
read-only everywhere: a pass that changes a constant makes a new tensor.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, LeptonError
from lepton_ir.dtypes import DType
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 4 << 20
"""Bytes held at a time while a large tensor is hashed, compared or written."""

_SAMPLES = 16


class Tensor:
    """Base of all constant payloads.

    Attributes:
        dtype: element type.
        shape: static shape.
    """

    __slots__ = ("_digest", "dtype", "shape")
    dtype: DType
    shape: tuple[int, ...]

    def __init__(self, dtype: DType, shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        self._digest: str | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the payload as stored in a file (sub-byte types packed)."""
        return self.dtype.nbytes(self.size)

    @property
    def type(self) -> TensorType:
        """The tensor's type."""
        return TensorType(self.dtype, self.shape)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the data as a read-only array of ``dtype.numpy`` (strings: object array)."""
        raise NotImplementedError

    def splat_value(self) -> Any:
        """Return the one value all elements share when that is known without a scan, else None."""
        return None

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the little-endian file bytes, ``CHUNK`` at a time; not for strings."""
        data = memoryview(packed_bytes(self.numpy(), self.dtype)).cast("B")
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]

    def digest(self) -> str:
        """Return the SHA-256 of dtype, shape and data in hexadecimal; computed once, streamed."""
        if self._digest is None:
            h = hashlib.sha256(f"{self.dtype.name}{self.shape}".encode())
            if self.dtype is dtypes.STRING:
                for item in self.numpy().ravel():
                    raw = item if isinstance(item, bytes) else str(item).encode()
                    h.update(len(raw).to_bytes(8, "little") + raw)
            else:
                for chunk in self.chunks():
                    h.update(chunk)
            self._digest = h.hexdigest()
        return self._digest

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.type})"


class DenseTensor(Tensor):
    """A tensor held in memory."""

    __slots__ = ("_array",)

    def __init__(self, array: np.ndarray[Any, Any], dtype: DType | None = None) -> None:
        found = dtype or dtypes.from_numpy(array.dtype)
        if array.dtype != found.numpy:
            array = array.astype(found.numpy)
        if array.flags.writeable:
            array = array.view()
            array.flags.writeable = False
        super().__init__(found, array.shape)
        self._array = array

    def numpy(self) -> np.ndarray[Any, Any]:
        return self._array

    def splat_value(self) -> Any:
        return self._array.reshape(-1)[0] if self._array.size == 1 else None


class RawTensor(Tensor):
    """A tensor over bytes in file order (a protobuf field, say); decoded when first read."""

    __slots__ = ("_array", "raw")

    def __init__(self, raw: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        if len(raw) != self.nbytes:
            raise InvalidModelError(
                f"tensor data holds {len(raw)} bytes but {self.type} needs {self.nbytes}",
                code="tensor-data",
            )
        self.raw = raw
        self._array: np.ndarray[Any, Any] | None = None

    def numpy(self) -> np.ndarray[Any, Any]:
        if self._array is None:
            self._array = from_packed_bytes(self.raw, self.dtype, self.shape)
        return self._array

    def chunks(self) -> Iterator[bytes | memoryview]:
        data = memoryview(self.raw)
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]


class SplatTensor(Tensor):
    """A tensor whose elements are all one value; takes no memory until it is read."""

    __slots__ = ("value",)

    def __init__(self, value: Any, dtype: DType, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self.value = np.asarray(value).astype(dtype.numpy)[()]

    def numpy(self) -> np.ndarray[Any, Any]:
        return np.broadcast_to(np.asarray(self.value, dtype=self.dtype.numpy), self.shape)

    def splat_value(self) -> Any:
        return self.value

    def chunks(self) -> Iterator[bytes | memoryview]:
        per_chunk = CHUNK * 8 // max(self.dtype.bits, 1) // 8 * 8
        for start in range(0, self.size, per_chunk):
            count = min(per_chunk, self.size - start)
            block = np.broadcast_to(np.asarray(self.value, dtype=self.dtype.numpy), (count,))
            yield packed_bytes(block, self.dtype)


class LazyTensor(Tensor):
    """A tensor made by a function when first read, and kept."""

    __slots__ = ("_array", "_make")

    def __init__(
        self,
        make: Callable[[], np.ndarray[Any, Any]],
        dtype: DType,
        shape: tuple[int, ...],
    ) -> None:
        super().__init__(dtype, shape)
        self._make: Callable[[], np.ndarray[Any, Any]] | None = make
        self._array: np.ndarray[Any, Any] | None = None

    def numpy(self) -> np.ndarray[Any, Any]:
        if self._array is None:
            assert self._make is not None
            self._array = DenseTensor(self._make(), self.dtype).numpy()
            self._make = None
            if self._array.shape != self.shape:
                raise ValueError(f"lazy tensor made {self._array.shape}, promised {self.shape}")
        return self._array


class PermutedTensor(Tensor):
    """A tensor whose axes are those of another in another order; made anew by whoever reads it.

    Its data is in memory only while somebody holds it, so weights are never held twice.

    Args:
        source: the other tensor.
        order: axis ``i`` is axis ``order[i]`` of ``source``.
        split: what ``source`` is reshaped to before, ``None`` for its own shape.
        shape: what the result is reshaped to, ``None`` for that of the axes in order.
    """

    __slots__ = ("_array", "order", "source", "split")
    source: Tensor
    order: tuple[int, ...]
    split: tuple[int, ...]

    def __init__(
        self,
        source: Tensor,
        order: tuple[int, ...],
        split: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        if isinstance(source, PermutedTensor) and split is None and source.is_plain:
            inner = source
            source, split = inner.source, inner.split
            order = tuple(inner.order[i] for i in order)
        self.source = source
        self.order = order
        self.split = source.shape if split is None else split
        super().__init__(source.dtype, shape or tuple(self.split[i] for i in order))
        self._array: weakref.ref[np.ndarray[Any, Any]] | None = None

    def rearranges_as(self, other: PermutedTensor) -> bool:
        """Whether ``other`` moves the elements of its source alike."""
        return (self.order, self.split) == (other.order, other.split)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is reshaped behind the change of order."""
        return self.shape == tuple(self.split[i] for i in self.order)

    def numpy(self) -> np.ndarray[Any, Any]:
        found = None if self._array is None else self._array()
        if found is None:
            moved = self.source.numpy().reshape(self.split).transpose(self.order)
            found = np.ascontiguousarray(moved).reshape(self.shape)
            found.flags.writeable = False
            self._array = weakref.ref(found)
        return found


class ElidedTensor(Tensor):
    """A constant whose data was left out of a dump; only its type and hash are known."""

    __slots__ = ("name", "short_hash")

    def __init__(self, name: str, dtype: DType, shape: tuple[int, ...], short_hash: str) -> None:
        super().__init__(dtype, shape)
        self.name = name
        self.short_hash = short_hash

    def numpy(self) -> np.ndarray[Any, Any]:
        raise LeptonError(
            f"the data of constant #{self.name} was elided from this dump",
            code="elided-constant",
            hint="write the dump with its weights beside it (--emit=lir keeps them in an .npz)",
        )

    def digest(self) -> str:
        return f"elided:{self.name}:{self.short_hash}"

    def chunks(self) -> Iterator[bytes | memoryview]:
        self.numpy()
        yield b""


class StoredTensor(Tensor):
    """A tensor in a file, read by range."""

    __slots__ = ("_fingerprint",)

    def __init__(self, dtype: DType, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self._fingerprint: bytes | None = None

    @property
    def place(self) -> tuple[object, int]:
        """What tells the data apart from other data: the file, and the first byte."""
        raise NotImplementedError

    def _read(self, start: int, count: int) -> bytes:
        raise NotImplementedError

    def fingerprint(self) -> bytes:
        """Return a few samples of the data: unequal fingerprints prove unequal data."""
        if self._fingerprint is None:
            count = min(256, self.nbytes)
            step = max((self.nbytes - count) // (_SAMPLES - 1), 1)
            starts = sorted({min(i * step, self.nbytes - count) for i in range(_SAMPLES)})
            self._fingerprint = b"".join(self._read(s, count) for s in starts)
        return self._fingerprint


class ExternalTensor(StoredTensor):
    """A tensor in a file beside the model, read by range; never mapped as a whole.

    Args:
        path: the data file, already checked to lie inside the model's folder.
        offset: first byte.
        dtype: element type.
        shape: static shape; the range must lie inside the file (checked by the importer).
    """

    __slots__ = ("offset", "path")

    def __init__(self, path: str, offset: int, dtype: DType, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self.path = path
        self.offset = offset

    @property
    def place(self) -> tuple[object, int]:
        return self.path, self.offset

    def numpy(self) -> np.ndarray[Any, Any]:
        return from_packed_bytes(self._read(0, self.nbytes), self.dtype, self.shape)

    def _read(self, start: int, count: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset + start)
            data = file.read(count)
        if len(data) != count:
            raise InvalidModelError(
                f"external data ends at byte {self.offset + start + len(data)}, "
                f"{count - len(data)} bytes short",
                where=self.path,
                code="external-data",
            )
        return data

    def chunks(self) -> Iterator[bytes | memoryview]:
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.offset)
            left = self.nbytes
            while left:
                data = file.read(min(CHUNK, left))
                if not data:
                    raise InvalidModelError(
                        f"external data is {left} bytes short",
                        where=self.path,
                        code="external-data",
                    )
                left -= len(data)
                yield data


class DataFile:
    """An open file that tensors read ranges of; closed with the last of them.

    Its data may neither be cut off nor overwritten while it is used: a file that was is refused.
    Replacing it (by a rename) does no harm.

    Args:
        path: the file.

    Attributes:
        identity: size, time of the last change, and what the file system calls it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.fd = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.fd)
        self.identity = self._look()

    def _look(self) -> tuple[int, int, int, int]:
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self.identity[0]

    def read_into(self, out: np.ndarray[Any, Any], offset: int) -> None:
        """Fill the bytes of ``out`` with those from ``offset`` on.

        Raises:
            InvalidModelError: the file has changed since it was opened.
        """
        view = memoryview(out.data).cast("B")
        while view:
            count = _read_at(self.fd, view, offset) if self._look() == self.identity else 0
            if not count:
                raise InvalidModelError(
                    "the file has changed since it was opened", where=self.path, code="changed-file"
                )
            view, offset = view[count:], offset + count


def _read_at(fd: int, view: memoryview, offset: int) -> int:
    """Read bytes from ``offset`` on into ``view``; return how many."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, len(view))
    view[: len(data)] = data
    return len(data)


class FileTensor(StoredTensor):
    """A tensor in a range of an open file; its data is in memory only while somebody holds it."""

    __slots__ = ("_array", "file", "offset")

    def __init__(self, file: DataFile, offset: int, dtype: DType, shape: tuple[int, ...]) -> None:
        super().__init__(dtype, shape)
        self.file = file
        self.offset = offset
        self._array: weakref.ref[np.ndarray[Any, Any]] | None = None

    @property
    def place(self) -> tuple[object, int]:
        return self.file, self.offset

    def read_into(self, out: np.ndarray[Any, Any]) -> None:
        """Fill a plain array of ``nbytes`` bytes with the bytes in the file."""
        self.file.read_into(out.reshape(-1).view(np.uint8), self.offset)

    def numpy(self) -> np.ndarray[Any, Any]:
        found = None if self._array is None else self._array()
        if found is None:
            raw = np.empty(self.nbytes, np.uint8)
            self.read_into(raw)
            found = from_packed_bytes(raw.data, self.dtype, self.shape)
            self._array = weakref.ref(found)
        return found

    def _read(self, start: int, count: int) -> bytes:
        block = np.empty(count, np.uint8)
        self.file.read_into(block, self.offset + start)
        return block.tobytes()

    def chunks(self) -> Iterator[bytes | memoryview]:
        for start in range(0, self.nbytes, CHUNK):
            block = np.empty(min(CHUNK, self.nbytes - start), np.uint8)
            self.file.read_into(block, self.offset + start)
            yield block.data


def same_content(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same bits; streams large ones, never trusts a hash."""
    if a is b:
        return True
    if a.dtype is not b.dtype or a.shape != b.shape:
        return False
    if isinstance(a, ElidedTensor) or isinstance(b, ElidedTensor):
        return a.digest() == b.digest()
    if isinstance(a, StoredTensor) and isinstance(b, StoredTensor):
        if a.place == b.place:
            return True
        if a.fingerprint() != b.fingerprint():
            return False
    if isinstance(a, PermutedTensor) and isinstance(b, PermutedTensor) and a.rearranges_as(b):
        return same_content(a.source, b.source)
    if a.dtype is dtypes.STRING:
        return bool(np.array_equal(a.numpy(), b.numpy()))
    return _same_bytes(a, b)


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    left, right = a.chunks(), b.chunks()
    x: memoryview = memoryview(b"")
    y: memoryview = memoryview(b"")
    while True:
        x = x if len(x) else memoryview(next(left, b"")).cast("B")
        y = y if len(y) else memoryview(next(right, b"")).cast("B")
        n = min(len(x), len(y))
        if n == 0:
            return len(x) == len(y)
        if x[:n] != y[:n]:
            return False
        x, y = x[n:], y[n:]


_PACKED_BITS = (2, 4)
"""Widths stored several to a byte, low bits first (ONNX TensorProto.raw_data); 6-bit
types are packed as a little-endian bit stream."""


def packed_bytes(array: np.ndarray[Any, Any], dtype: DType) -> bytes | memoryview:
    """Return the file bytes of ``array``: little-endian, row-major, sub-byte elements packed."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype.bits in _PACKED_BITS:
        codes = flat.view(np.uint8) & np.uint8((1 << dtype.bits) - 1)
        per = 8 // dtype.bits
        padded = np.zeros((len(codes) + per - 1) // per * per, np.uint8)
        padded[: len(codes)] = codes
        out = np.zeros(len(padded) // per, np.uint8)
        for i in range(per):
            out |= padded[i::per] << np.uint8(i * dtype.bits)
        return out.tobytes()
    if dtype.bits == 6:
        bits = np.unpackbits(flat.view(np.uint8)[:, None], axis=1, bitorder="little")[:, :6]
        return np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    if flat.dtype.byteorder == ">" or (flat.dtype.byteorder == "=" and _BIG_ENDIAN):
        flat = flat.byteswap()
    return memoryview(flat.view(np.uint8).data) if flat.size else b""


_BIG_ENDIAN = sys.byteorder == "big"


def from_packed_bytes(
    raw: bytes | memoryview, dtype: DType, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Return the read-only array that ``raw`` (little-endian, packed) holds.

    Raises:
        ValueError: too few or too many bytes.
    """
    count = math.prod(shape)
    if dtype.bits in _PACKED_BITS:
        per, mask = 8 // dtype.bits, np.uint8((1 << dtype.bits) - 1)
        data = np.frombuffer(raw, np.uint8)
        codes = np.empty(len(data) * per, np.uint8)
        for i in range(per):
            codes[i::per] = (data >> np.uint8(i * dtype.bits)) & mask
        array = _codes_to_array(codes[:count], dtype)
    elif dtype.bits == 6:
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: count * 6]
        wide = np.zeros((count, 8), np.uint8)
        wide[:, :6] = bits.reshape(count, 6)
        codes = np.packbits(wide, axis=1, bitorder="little").reshape(-1)
        array = codes.view(dtype.numpy)
    else:
        array = np.frombuffer(raw, dtype.numpy.newbyteorder("<") if _BIG_ENDIAN else dtype.numpy)
        array = array.astype(dtype.numpy) if _BIG_ENDIAN else array
    array = array.reshape(shape)
    if array.flags.writeable:
        array.flags.writeable = False
    return array


def _codes_to_array(codes: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """Give unsigned bit patterns the element type; signed ml_dtypes integers hold signed bytes."""
    if dtype.kind == "int":
        sign = np.uint8(1 << (dtype.bits - 1))
        signed = (codes ^ sign).astype(np.int16) - int(sign)
        return signed.astype(np.int8).astype(dtype.numpy)
    if dtype.kind == "uint":
        return codes.astype(dtype.numpy)
    return codes.view(dtype.numpy)


def from_array(array: Any, dtype: DType | None = None) -> DenseTensor:
    """Return a tensor over ``array`` (anything NumPy converts), without copying where possible."""
    converted = np.asarray(array)
    if dtype is None and converted.dtype.kind in "US":
        converted = converted.astype(object)
    return DenseTensor(converted, dtype)
