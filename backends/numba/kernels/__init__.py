"""Kernel families: each module lowers operations to kernel calls and emits the kernels.

A new family is a new module and one row here; the engine needs no change.
"""

from __future__ import annotations

_FAMILIES = (
    "elementwise",
    "gemm",
    "views",
    "rows",
    "gather",
    "reduce",
    "conv",
    "pool",
    "recurrent",
    "transposed",
    "quads",
    "integer_gemm",
    "ranges",
    "pixels",
    "integer_conv",
    "resize",
    "gated",
    "volumes",
    "einsum",
    "elements",
    "block_sums",
    "blockwise",
)

MODULES: tuple[str, ...] = tuple(f"lepton_ir.backends.numba.kernels.{name}" for name in _FAMILIES)
"""Modules that register lowerings and emitters when imported (see :mod:`..lowering`)."""
