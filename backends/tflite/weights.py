"""The bytes of constants as the file holds them, left where they lie when they lie in a file."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError
from lepton_ir.tensors import ExternalTensor, FileTensor, RawTensor, Tensor, packed_bytes

TYPES = {
    dtypes.F32: "FLOAT32",
    dtypes.F16: "FLOAT16",
    dtypes.BF16: "BFLOAT16",
    dtypes.F64: "FLOAT64",
    dtypes.I64: "INT64",
    dtypes.I32: "INT32",
    dtypes.I16: "INT16",
    dtypes.I8: "INT8",
    dtypes.I4: "INT4",
    dtypes.I2: "INT2",
    dtypes.U64: "UINT64",
    dtypes.U32: "UINT32",
    dtypes.U16: "UINT16",
    dtypes.U8: "UINT8",
    dtypes.U4: "UINT4",
    dtypes.BOOL: "BOOL",
}
"""The tensor type of the format for each element type that it has."""

_BORDER = mmap.ALLOCATIONGRANULARITY


class Mapped:
    """Files that are mapped once each, for all the tensors in them."""

    def __init__(self) -> None:
        self._files: dict[object, mmap.mmap] = {}

    def bytes_of(self, tensor: Tensor) -> memoryview:
        """Return the little-endian bytes of a constant, without a copy where there can be none.

        Raises:
            InvalidModelError: the file that holds them has become too short.
        """
        if isinstance(tensor, RawTensor):
            return memoryview(tensor.raw).cast("B")
        if isinstance(tensor, (ExternalTensor, FileTensor)) and tensor.nbytes >= _BORDER:
            return self._range(tensor)
        return memoryview(packed_bytes(tensor.numpy(), tensor.dtype)).cast("B")

    def array_of(self, tensor: Tensor) -> np.ndarray[Any, Any]:
        """Return the same as an array."""
        if isinstance(tensor, ExternalTensor) and tensor.dtype.bits >= 8:
            return np.frombuffer(self.bytes_of(tensor), tensor.dtype.numpy).reshape(tensor.shape)
        return tensor.numpy()

    def _range(self, tensor: ExternalTensor | FileTensor) -> memoryview:
        key, start = tensor.place
        mapped = self._files.get(key)
        if mapped is None:
            if isinstance(tensor, FileTensor):
                mapped = mmap.mmap(tensor.file.fd, 0, access=mmap.ACCESS_READ)
            else:
                with open(os.fspath(tensor.path), "rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._files[key] = mapped
        found = memoryview(mapped)[start : start + tensor.nbytes]
        if len(found) != tensor.nbytes:
            raise InvalidModelError(
                f"external data is {tensor.nbytes - len(found)} bytes short",
                where=str(getattr(tensor, "path", "")),
                code="external-data",
            )
        return found
