"""The few calls that the measuring tools make into Lepton, imported only when made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

__all__ = ["Lepton"]


class Lepton:
    """Loads, optimizes, prints, parses, interprets and saves modules."""

    def load(self, model: onnx.ModelProto) -> Any:
        """Import `model`."""
        import lepton_ir

        return lepton_ir.load(model.SerializeToString())

    def run_passes(self, module: Any, passes: str, target: str = "onnx") -> Any:
        """Run the pipeline over `module` in place and return the report."""
        import lepton_ir

        return lepton_ir.run_passes(module, passes, target=target)

    def save(self, module: Any, path: Path) -> None:
        """Write `module`, as the suffix says."""
        import lepton_ir

        lepton_ir.save(module, path)

    def run_tflite(self, path: Path, feeds: Mapping[str, Any]) -> list[Any]:
        """Run a TFLite file in LiteRT and return the outputs in order.

        It trusts the file: an illegal one ends the process.
        """
        from lepton_ir import plugins

        runner: Any = plugins.load("backends", "runner-litert")
        outputs: list[Any] = runner(str(path), threads=1).run(dict(feeds))
        return outputs

    def print(self, module: Any, folder: Path) -> str:
        """Return the text of `module`, with its large constants written below `folder`."""
        from lepton_ir.text.print import print_module

        text: str = print_module(module, blobs="npz", npz_path=folder / "weights.npz")
        return text

    def parse(self, text: str, folder: Path) -> Any:
        """Read what `print` returned."""
        from lepton_ir.text.parse import parse_module

        return parse_module(text, folder=folder)

    def interpret(self, module: Any, feeds: Mapping[str, Any]) -> list[Any]:
        """Run the reference interpreter and return the outputs in order.

        Raises:
            UnsupportedError: an op of the module has no meaning.
        """
        from lepton_ir.interp import run_list

        return run_list(module, feeds)

    def compile(self, module: Any, passes: str, machine: str) -> Any:
        """Return a session of the Numba backend.

        Raises:
            UnsupportedError: it cannot run an op of the module.
        """
        import lepton_ir

        return lepton_ir.compile(module, machine, 1, passes=passes)
