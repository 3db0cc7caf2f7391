"""Constants of a session: data read once, packed forms made once, shared by all plans."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.backends.numba import memory
from lepton_ir.tensors import FileTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from lepton_ir.backends.numba.plan import Array
    from lepton_ir.tensors import Tensor


_KEPT = 1 << 16
"""Bytes up to which data stays in memory; more is dropped when no plan reads it any more."""


class Constants:
    """The constants of one session.

    A large constant is in memory while a plan reads it, or while it is packed: the packed form
    stays, the data itself goes back to the file it came from.
    """

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}
        self._kept: dict[int, Array] = {}
        self._seen: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()
        self._derived: dict[Hashable, Array] = {}
        self._owned: set[int] = set()
        self._lock = threading.RLock()

    def data(self, tensor: Tensor) -> Array:
        """Return the data of ``tensor``, row by row, with a vector that may be read behind it."""
        key = self.key(tensor)
        with self._lock:
            found = self._seen.get(key)
            if found is None:
                found = self._seen[key] = _loaded(tensor)
                if found.nbytes <= _KEPT:
                    self._kept[key] = found
            return found

    def key(self, tensor: Tensor) -> int:
        """Return what identifies ``tensor`` as long as the session lives."""
        self._tensors[id(tensor)] = tensor
        return id(tensor)

    def is_loaded(self, tensor: Tensor) -> bool:
        """Return whether the data of ``tensor`` itself is in memory."""
        return id(tensor) in self._seen

    def derived(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """Return the constant of ``key``, made when first asked for."""
        with self._lock:
            found = self._derived.get(key)
            if found is None:
                found = self._derived[key] = with_slack(np.asarray(make(), order="C"))
                found.flags.writeable = False
                self._owned.add(id(found))
            return found

    def owns(self, array: Array) -> bool:
        """Return whether ``array`` is a derived constant."""
        return id(array) in self._owned

    @property
    def nbytes(self) -> int:
        """Bytes of the derived constants."""
        return sum(a.nbytes for a in self._derived.values())


def _loaded(tensor: Tensor) -> Array:
    if isinstance(tensor, FileTensor) and tensor.dtype.bits >= 8 and sys.byteorder == "little":
        found = _allocated(tensor.shape, tensor.dtype.numpy)
        tensor.read_into(found)
        found.flags.writeable = False
        return found
    return with_slack(np.asarray(tensor.numpy(), order="C"))


def with_slack(array: Array) -> Array:
    """Return ``array``, copied if a vector read behind its end could leave the mapped memory."""
    if array.dtype == object or memory.is_readable(array.ctypes.data + array.nbytes):
        return array
    copy = _allocated(array.shape, array.dtype)
    copy[...] = array
    copy.flags.writeable = array.flags.writeable
    return copy


def _allocated(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an uninitialized array on cache lines, with slack behind it."""
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    found: Array = aligned(nbytes + memory.SLACK)[:nbytes].view(kind).reshape(shape)
    return found


def aligned(nbytes: int) -> np.ndarray[Any, Any]:
    """Return ``nbytes`` uninitialized bytes that start on a cache line."""
    rest, unit = memory.placement(nbytes)
    raw = np.empty(nbytes + unit, np.uint8)
    start = (rest - address_of(raw)) % unit
    return raw[start : start + nbytes]


def address_of(array: Array) -> int:
    """Return where a contiguous array lies; a quarter of the time that NumPy takes to tell."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):  # read-only, empty, or of a type that C has not
        return int(array.__array_interface__["data"][0])


def aligned_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Return an uninitialized array that starts on a cache line."""
    kind = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    found: np.ndarray[Any, Any] = aligned(nbytes).view(kind).reshape(shape)
    return found
