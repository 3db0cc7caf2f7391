"""Tensors of an ONNX file as constant payloads; nothing is allocated before it is checked."""

from __future__ import annotations

import math
import os
import stat
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import SparseTensorProto, TensorProto

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError
from lepton_ir.frontends.onnx.table_values import dtype_of, shown
from lepton_ir.tensors import DenseTensor, ExternalTensor, FileTensor, RawTensor, Tensor

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType
    from lepton_ir.frontends.onnx.ranges import Range

MAX_DENSE_BYTES = 4 << 20
"""Bytes up to which a sparse constant becomes a dense one."""

_INT32_WORDS = frozenset({dtypes.F16, dtypes.BF16, dtypes.I16, dtypes.U16})


MAX_BITS = 8 << 62
"""Bits beyond which NumPy refuses a shape, even of an array without elements."""

_DATA_FIELDS = (
    *("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
)


class TensorReader:
    """Turns TensorProtos into payloads.

    Args:
        folder: the model's folder, where external data must lie; ``None`` when the model came
            as bytes and can have none.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else os.path.realpath(folder)
        self._files: dict[str, tuple[str, int]] = {}
        self.external = False

    def read(self, proto: TensorProto, what: str, place: Range | None = None) -> Tensor:
        """Return the payload of a tensor; ``what`` names it in messages.

        Args:
            proto: the tensor.
            what: names it in messages.
            place: where its raw data lies, when it was left in the file.

        Raises:
            InvalidModelError: the header, the data and the external file do not fit together.
        """
        dtype = dtype_of(proto.data_type, what)
        shape = tuple(proto.dims)
        if any(d < 0 for d in shape):
            raise InvalidModelError(
                f"{what} has a negative size in its shape {list(shape)}", code="onnx-tensor"
            )
        if math.prod(d for d in shape if d) * max(dtype.bits or 64, 8) > MAX_BITS:
            raise InvalidModelError(
                f"{what} has sizes that no memory holds: {shown(str(list(shape)))}",
                code="onnx-tensor",
            )
        if proto.HasField("segment"):
            raise InvalidModelError(f"{what} is stored in segments", code="onnx-tensor")
        if proto.data_location == TensorProto.EXTERNAL:
            return self._external(proto, dtype, shape, what)
        if proto.HasField("raw_data") or place is not None:
            if any(len(getattr(proto, field)) for field in _DATA_FIELDS):
                raise InvalidModelError(
                    f"{what} has its data twice, raw and not", code="onnx-tensor"
                )
            if dtype is dtypes.STRING:
                raise InvalidModelError(f"{what} holds strings as raw data", code="onnx-tensor")
            raw = proto.raw_data
            found = len(raw) if place is None else place.length
            self._check(found, dtype.nbytes(math.prod(shape)), "bytes", what, dtype, shape)
            if place is not None:
                return FileTensor(place.file, place.start, dtype, shape)
            return RawTensor(raw, dtype, shape)
        return self._typed(proto, dtype, shape, what)

    def _check(
        self, found: int, needed: int, unit: str, what: str, dtype: DType, shape: Any
    ) -> None:
        if found != needed:
            dims = shown(",".join(map(str, shape)), 60)
            raise InvalidModelError(
                f"{what} holds {found} {unit} but its type {dtype}[{dims}] needs {needed}",
                code="onnx-tensor",
            )

    def _typed(self, proto: TensorProto, dtype: DType, shape: tuple[int, ...], what: str) -> Tensor:
        """Decode the data of a field of numbers, whose length must be what the shape needs."""
        size = math.prod(shape)
        field, needed = "int32_data", size
        if dtype in (dtypes.F32, dtypes.C64):
            field = "float_data"
        elif dtype in (dtypes.F64, dtypes.C128):
            field = "double_data"
        elif dtype is dtypes.I64:
            field = "int64_data"
        elif dtype in (dtypes.U32, dtypes.U64):
            field = "uint64_data"
        elif dtype is dtypes.STRING:
            field = "string_data"
        elif dtype.bits < 8:
            needed = dtype.nbytes(size)
        if dtype.kind == "complex":
            needed = 2 * size
        data = getattr(proto, field)
        self._check(len(data), needed, "elements", what, dtype, shape)
        if dtype is dtypes.STRING:
            items = np.empty(size, object)
            items[:] = [_text(s) for s in data]
            return DenseTensor(items.reshape(shape), dtype)
        return _from_field(data, field, dtype, shape)

    def _external(
        self, proto: TensorProto, dtype: DType, shape: tuple[int, ...], what: str
    ) -> Tensor:
        entries = {e.key: e.value for e in proto.external_data}
        path, size = self._file(entries.get("location", ""), what)
        if dtype is dtypes.STRING:
            raise InvalidModelError(f"{what} holds strings as external data", code="external-data")
        offset = _number(entries.get("offset", "0"), "offset", what)
        needed = dtype.nbytes(math.prod(shape))
        if "length" in entries:
            length = _number(entries["length"], "length", what)
            self._check(length, needed, "bytes", what, dtype, shape)
        if offset + needed > size:
            raise InvalidModelError(
                f"{what} lies at bytes {offset} to {offset + needed} of its data file, which has "
                f"{size} bytes",
                where=shown(path),
                code="external-data",
                hint="the data file is truncated or belongs to another model",
            )
        self.external = True
        return ExternalTensor(path, offset, dtype, shape)

    def _file(self, location: str, what: str) -> tuple[str, int]:
        """Return the path and size of a data file inside the model's folder."""
        if location in self._files:
            return self._files[location]
        if self._folder is None:
            raise InvalidModelError(
                f"{what} has its data in another file, which a model given as bytes cannot have",
                code="external-data",
                hint="load the model from its path",
            )
        place = shown(location)
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or os.path.isabs(location) or ".." in parts:
            raise InvalidModelError(
                f'{what} has its data in "{place}", which is no path inside the model\'s folder',
                code="external-data",
            )
        path = os.path.realpath(os.path.join(self._folder, location))
        if os.path.commonpath([path, self._folder]) != self._folder:
            raise InvalidModelError(
                f'{what} has its data in "{place}", a link that leaves the model\'s folder',
                code="external-data",
            )
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            raise InvalidModelError(
                f'{what} has its data in "{place}", which cannot be read: '
                f"{getattr(error, 'strerror', error)}",
                code="external-data",
                hint="keep the data file beside the model",
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelError(
                f'{what} has its data in "{place}", which is no regular file', code="external-data"
            )
        self._files[location] = (path, status.st_size)
        return self._files[location]

    def read_sparse(self, proto: SparseTensorProto, what: str) -> Tensor | None:
        """Return the dense payload of a sparse tensor, ``None`` when that would be large.

        Raises:
            InvalidModelError: values, indices and shape do not fit together.
        """
        shape = tuple(proto.dims)
        values = self.read(proto.values, what)
        if any(d < 0 for d in shape) or len(values.shape) != 1:
            raise InvalidModelError(f"{what} is a malformed sparse tensor", code="onnx-tensor")
        indices = self.read(proto.indices, f"the indices of {what}")
        size = math.prod(shape)
        count = values.shape[0]
        if indices.dtype is not dtypes.I64 or indices.shape not in ((count,), (count, len(shape))):
            raise InvalidModelError(f"{what}: indices do not fit its values", code="onnx-tensor")
        if values.dtype is dtypes.STRING or values.dtype.nbytes(size) > MAX_DENSE_BYTES:
            return None
        index = indices.numpy()
        limit = np.asarray(shape if index.ndim == 2 else size, np.int64)
        if count and ((index < 0).any() or (index >= limit).any()):
            raise InvalidModelError(f"{what}: an index is out of range", code="onnx-tensor")
        dense = np.zeros(size, values.dtype.numpy)
        flat = np.ravel_multi_index(tuple(index.T), shape) if index.ndim == 2 and count else index
        dense[flat.reshape(-1)] = values.numpy()
        return DenseTensor(dense.reshape(shape), values.dtype)


def _number(text: str, field: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidModelError(
            f'{what} has the {field} "{shown(text, 40)}" in its data file, expected a number',
            code="external-data",
        )
    return int(text)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _from_field(data: Any, field: str, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    if field == "float_data":
        array = np.fromiter(data, np.float32, len(data))
        if dtype is dtypes.C64:
            array = array.view(np.complex64)
    elif field == "double_data":
        array = np.fromiter(data, np.float64, len(data))
        if dtype is dtypes.C128:
            array = array.view(np.complex128)
    elif field == "int64_data":
        array = np.fromiter(data, np.int64, len(data))
    elif field == "uint64_data":
        array = np.fromiter(data, np.uint64, len(data)).astype(dtype.numpy)
    else:
        words = np.fromiter(data, np.int32, len(data))
        if dtype.bits < 8 or (dtype.is_float and dtype.bits == 8):
            return RawTensor(words.astype(np.uint8).tobytes(), dtype, shape)
        if dtype in _INT32_WORDS:
            array = words.astype(np.uint16).view(dtype.numpy)
        else:
            array = words.astype(dtype.numpy)
    return DenseTensor(array.reshape(shape), dtype)
