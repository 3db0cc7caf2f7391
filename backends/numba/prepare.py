"""From a model to the module that a session runs: inlined, optimized, grouped into kernels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lepton_ir import api
from lepton_ir.ir import Module

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIX = ".lepton"

DEFAULT_PASSES = "O2,integers"
"""What runs before groups are made; without ``integers`` quantized models compute in floats."""


def prepared(model: Module | str | os.PathLike[str] | bytes, passes: str = "O2") -> Module:
    """Return the module of a ``.lepton`` file, else :func:`prepare`, from the cache if possible."""
    if isinstance(model, Module | bytes):
        return prepare(model, passes)
    path = os.fspath(model)
    if path.endswith(SUFFIX):
        from lepton_ir.backends.numba.file import load

        return load(path)
    if path.endswith(api.TEXT_SUFFIX):
        return prepare(path, passes)
    from lepton_ir.backends.numba.prepared import Entry

    entry = Entry(path, passes)
    module = entry.load()
    if module is None:
        module = prepare(path, passes)
        entry.store(module)
    return module


def prepare(model: Module | str | os.PathLike[str] | bytes, passes: str = DEFAULT_PASSES) -> Module:
    """Return a module of its own that a session can run.

    Args:
        model: a module, which is left as it is, or a file.
        passes: pipeline that runs first, ``""`` for none.
    """
    from lepton_ir.clone import clone_module

    module = clone_module(model) if isinstance(model, Module) else _load(model)
    steps: Sequence[str] = ["inline", *filter(None, [passes])]
    api.run_passes(module, ",".join(steps), target="numba")
    names = _without_kernels(module)
    apart = f"decompose{{ops={'+'.join(names)}}}," if names else ""
    api.run_passes(module, f"{apart}group", target="numba")
    return module


def _load(model: str | os.PathLike[str] | bytes) -> Module:
    if isinstance(model, bytes):
        return api.load(model)
    path = os.fspath(model)
    if path.endswith(api.TEXT_SUFFIX) or api.format_of(path) != "onnx":
        return api.load(path)
    return api.load(path, lazy=True)


def _without_kernels(module: Module) -> list[str]:
    """Return the names of composites of floats that no kernel takes as they are."""
    from lepton_ir.backends.numba.lowering import lowerings

    found = set()
    for op in module.walk():
        if op.definition is None or op.definition.decompose is None or lowerings(op.name):
            continue
        values = [v for v in (*op.operands[:1], *op.results[:1]) if v is not None]
        if values and all(v.dtype is not None and v.dtype.is_float for v in values):
            found.add(op.name)
    return sorted(found)
