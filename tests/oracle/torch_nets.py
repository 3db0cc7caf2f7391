"""Exports well-known networks with torch, for the slow comparison of tests/test_torch.py.

``python tests/oracle/torch_nets.py make_zoo.py OUT``: the networks are those of a ``make_zoo.py``
(builders in ``REG``); each is written as ``NAME.pt2`` and, decomposed, ``NAME.core.pt2``, with its
inputs, results and results in f64 beside it.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch


def _zoo(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("make_zoo", path)
    module = importlib.util.module_from_spec(spec)
    sys.argv = [path, "--list"]
    spec.loader.exec_module(module)
    return module


def _flat(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    if hasattr(found, "values"):
        found = list(found.values())
    return [t for item in found for t in _flat(item)] if isinstance(found, (list, tuple)) else []


class _Net:
    """A network with its inputs, called as torch.export wants it."""

    def __init__(self, module: Any, inputs: dict[str, Any], dynamic: dict[str, Any]) -> None:
        self.module = module.eval()
        self.inputs = inputs
        parameters = inspect.signature(module.forward).parameters
        self.by_name = all(name in parameters for name in inputs)
        auto = torch.export.Dim.AUTO
        shapes = {k: dict.fromkeys(dynamic.get(k, {}), auto) for k in inputs}
        spread = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
        listed = tuple(shapes.values())
        self.shapes = shapes if self.by_name else (listed,) if spread else listed
        self.dynamic = bool(dynamic)

    def export(self) -> Any:
        """Return the exported program."""
        shapes = self.shapes if self.dynamic else None
        if self.by_name:
            return torch.export.export(
                self.module, (), kwargs=dict(self.inputs), dynamic_shapes=shapes
            )
        return torch.export.export(self.module, tuple(self.inputs.values()), dynamic_shapes=shapes)

    def run(self, module: Any, double: bool = False) -> list[np.ndarray]:
        """Return what torch computes, in f64 when asked to."""
        given = {
            k: v.double() if double and v.is_floating_point() else v for k, v in self.inputs.items()
        }
        with torch.no_grad():
            found = module(**given) if self.by_name else module(*given.values())
        return [t.numpy() for t in _flat(found)]


def _write(name: str, net: _Net, out: Path) -> None:
    arrays = {f"in{i}": v.numpy() for i, v in enumerate(net.inputs.values())}
    arrays |= {f"out{i}": v for i, v in enumerate(net.run(net.module))}
    program = net.export()
    for suffix in ("", ".core"):
        torch.export.save(program, out / f"{name}{suffix}.pt2")
        program = program.run_decompositions()
    wide = net.run(net.module.double(), double=True)
    arrays |= {f"wide{i}": v for i, v in enumerate(wide)}
    np.savez(out / f"{name}.npz", **arrays)


def main(zoo: str, folder: str, only: list[str]) -> None:
    """Export every network in a process of its own."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    registry = _zoo(zoo).REG
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name in only or list(registry):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        try:
            torch.manual_seed(0)
            module, inputs, dynamic, _ = registry[name]["fn"]()
            _write(name, _Net(module, inputs, dynamic), out)
            print(f"{name}: written", flush=True)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
