"""Constants of a session: data read once, packed forms made once, shared by all plans."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from lepton_ir.backends.numba.plan import Array
    from lepton_ir.tensors import Tensor


class Constants:
    """The constants of one session."""

    def __init__(self) -> None:
        self._data: dict[int, tuple[Tensor, Array]] = {}
        self._derived: dict[Hashable, Array] = {}
        self._lock = threading.RLock()

    def data(self, tensor: Tensor) -> Array:
        """Return the data of ``tensor``, row by row."""
        found = self._data.get(id(tensor))
        if found is None:
            array = np.asarray(tensor.numpy(), order="C")
            found = self._data[id(tensor)] = (tensor, array)
        return found[1]

    def key(self, tensor: Tensor) -> Hashable:
        """Return what identifies ``tensor`` as long as the session lives."""
        self._data.setdefault(id(tensor), (tensor, np.asarray(tensor.numpy(), order="C")))
        return id(tensor)

    def derived(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """Return the constant of ``key``, made when first asked for."""
        with self._lock:
            found = self._derived.get(key)
            if found is None:
                found = self._derived[key] = np.asarray(make(), order="C")
                found.flags.writeable = False
            return found

    @property
    def nbytes(self) -> int:
        """Bytes of the derived constants."""
        return sum(a.nbytes for a in self._derived.values())


def aligned(nbytes: int, alignment: int = 64) -> np.ndarray[Any, Any]:
    """Return ``nbytes`` uninitialized bytes that start on a cache line."""
    raw = np.empty(nbytes + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + nbytes]


def aligned_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return an uninitialized array that starts on a cache line."""
    kind = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    found: np.ndarray[Any, Any] = aligned(nbytes).view(kind).reshape(shape)
    return found
