"""Lepton: a compiler-style optimizer for neural-network graphs.

Names are loaded on first use, so that importing the package costs nothing:

>>> import lepton_ir
>>> lepton_ir.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_ir.api import compile, from_torch, load, run_passes, save
    from lepton_ir.builder import Builder
    from lepton_ir.ir import Block, Function, Module, Op, Region, Value
    from lepton_ir.opdef import op
    from lepton_ir.pattern import P, const, var
    from lepton_ir.pipeline import Pass, Pipeline
    from lepton_ir.rewrite import RewritePass, Rewriter
    from lepton_ir.types import TensorType

__version__ = "0.1.0"

__all__ = [
    "Block",
    "Builder",
    "Function",
    "Module",
    "Op",
    "P",
    "Pass",
    "Pipeline",
    "Region",
    "RewritePass",
    "Rewriter",
    "TensorType",
    "Value",
    "__version__",
    "compile",
    "const",
    "from_torch",
    "load",
    "op",
    "run_passes",
    "save",
    "var",
]

# In a checkout the sub-packages lie beside this folder, in a wheel inside it.
if not os.path.isdir(os.path.join(__path__[0], "passes")):
    __path__.append(os.path.dirname(__path__[0]))

# Public name -> the module that defines it. A name equal to that of a sub-module (the decorator
# `lepton_ir.rewrite.rewrite`) cannot stand here: importing the sub-module would replace it.
_HOMES = {
    "Block": "ir",
    "Builder": "builder",
    "Function": "ir",
    "Module": "ir",
    "Op": "ir",
    "P": "pattern",
    "Pass": "pipeline",
    "Pipeline": "pipeline",
    "Region": "ir",
    "RewritePass": "rewrite",
    "Rewriter": "rewrite",
    "TensorType": "types",
    "Value": "ir",
    "compile": "api",
    "from_torch": "api",
    "const": "pattern",
    "load": "api",
    "op": "opdef",
    "run_passes": "api",
    "save": "api",
    "var": "pattern",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
