"""Constants that are mostly zeros as TFLite's sparse tensors, for files that had such ones."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.formats.tflite.node import Node

if TYPE_CHECKING:
    from lepton_ir.ir import Module
    from lepton_ir.tensors import Tensor

LEAST = 512
"""Elements from which on a constant may be sparse."""

SHARE = 0.5
"""Share of elements that are not zeros, up to which it is."""

_CSR = 1
_KINDS = (dtypes.F16, dtypes.F32, dtypes.I8)
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_VECTORS = (("Uint8Vector", np.uint8), ("Uint16Vector", np.uint16), ("Int32Vector", np.int32))

Array = np.ndarray[Any, Any]


def had_sparse(module: Module) -> bool:
    """Return whether the file that a module was read from had sparse constants."""
    return bool(module.meta.get("tflite", {}).get("sparse"))


def sparse_form(payload: Tensor) -> tuple[Node, Array] | None:
    """Return the places and the values of the elements that are not zeros, if those are few.

    All dims are dense but the last, which lists its indices behind each other.
    """
    shape = payload.shape
    if payload.dtype not in _KINDS or len(shape) < 2 or payload.size < LEAST:
        return None
    array = np.ascontiguousarray(payload.numpy())
    rows = array.view(_BITS[array.dtype.itemsize]).reshape(-1, shape[-1]) != 0  # -0 is no zero
    counts = rows.sum(axis=1)
    if counts.sum() > SHARE * payload.size:
        return None
    ends = [0, *itertools.accumulate(int(c) for c in counts)]
    levels = [Node("DimensionMetadata", dense_size=int(d)) for d in shape[:-1]]
    places = Node(
        "DimensionMetadata",
        format=_CSR,
        array_segments=_vector(np.asarray(ends)),
        array_indices=_vector(np.nonzero(rows)[1]),
    )
    order = list(range(len(shape)))
    sparsity = Node("SparsityParameters", traversal_order=order, dim_metadata=(*levels, places))
    return sparsity, array.reshape(rows.shape)[rows]


def _vector(numbers: Array) -> Node:
    """Return indices in the narrowest vector that holds them."""
    top = int(numbers.max(initial=0))
    name, kind = next((n, k) for n, k in _VECTORS if top <= np.iinfo(k).max)
    return Node(name, values=numbers.astype(kind))
