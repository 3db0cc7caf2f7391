"""Results too large to keep: written to a temporary file, read back when the model is written."""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.tensors import DenseTensor, ExternalTensor, RawTensor, Tensor

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType

KEPT = 64 << 20
"""Bytes of payloads that stay in memory; from then on only those of ``SMALL`` bytes do."""

SMALL = 1 << 16
"""Payloads up to this size always stay in memory."""


class Spool:
    """A temporary file that lives as long as one of its tensors does."""

    def __init__(self) -> None:
        self._path = ""
        self._kept = 0

    def keep(self, array: np.ndarray[Any, Any], dtype: DType, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor with the bytes of ``array``, which are those of the file format."""
        data = np.ascontiguousarray(array)
        if data.nbytes <= SMALL or self._kept + data.nbytes <= KEPT:
            self._kept += data.nbytes
            if dtype.bits < 8:
                return RawTensor(data.tobytes(), dtype, shape)
            return DenseTensor(data.reshape(shape), dtype)
        if not self._path:
            handle, self._path = tempfile.mkstemp(prefix="lepton-quant-")
            os.close(handle)
            weakref.finalize(self, _remove, self._path)
        offset = os.path.getsize(self._path)
        with open(self._path, "ab") as file:
            data.tofile(file)
        return SpooledTensor(self, self._path, offset, dtype, shape)


class SpooledTensor(ExternalTensor):
    """A tensor in a spool's file."""

    __slots__ = ("_spool",)

    def __init__(
        self, spool: Spool, path: str, offset: int, dtype: DType, shape: tuple[int, ...]
    ) -> None:
        super().__init__(path, offset, dtype, shape)
        self._spool = spool


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)
