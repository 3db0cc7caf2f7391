"""Running a model file in onnxruntime, for the numeric check and for calibration."""

from __future__ import annotations

import os
from typing import Any

import onnxruntime as ort

_NUMPY = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "bool": "bool",
    **{f"{u}int{b}": f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)},
}


class OrtRunner:
    """One session on the CPU, without onnxruntime's own graph optimizations.

    Args:
        path: model file.
        optimized: let onnxruntime optimize, as a user would run it.
        threads: intra-op threads.

    Raises:
        Exception: whatever onnxruntime raises for a model it refuses.
    """

    def __init__(self, path: str, optimized: bool = False, threads: int = 0) -> None:
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        )
        options.intra_op_num_threads = threads or min(os.cpu_count() or 1, 2)
        options.log_severity_level = 4
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def inputs(self) -> list[tuple[str, str, list[Any]]]:
        """Return (name, NumPy dtype name, shape) per input."""
        found: list[tuple[str, str, list[Any]]] = []
        for x in self.session.get_inputs():
            kind = x.type.removeprefix("tensor(").removesuffix(")")
            found.append((x.name, _NUMPY.get(kind, x.type), list(x.shape)))
        return found

    def outputs(self) -> list[str]:
        """Return output names."""
        return [x.name for x in self.session.get_outputs()]

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Run; returns all outputs in order."""
        found: list[Any] = self.session.run(None, feeds)
        return found
