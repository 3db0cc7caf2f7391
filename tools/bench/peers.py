"""Runtimes that sessions are compared with, each with the same few methods."""

from __future__ import annotations

import importlib
from typing import Any

from lepton_ir.backends.onnx.runner import OrtRunner

NAMES = ("onnxruntime", "openvino")


def peer(name: str, path: str, threads: int, shapes: dict[str, tuple[int, ...]]) -> Any:
    """Return a runtime that has loaded a model: ``run(feeds)`` returns all outputs in order.

    Args:
        name: one of `NAMES`; packages that are not installed raise an ImportError.
        path: the ONNX file.
        threads: how many compute.
        shapes: of the inputs, for runtimes that are faster when they know them.
    """
    if name == "onnxruntime":
        return OrtRunner(path, optimized=True, threads=threads)
    if name == "openvino":
        return OpenVino(path, threads, shapes)
    raise ValueError(f"no peer is called {name!r}")


class OpenVino:
    """OpenVINO on the processor: f32, one stream, shapes fixed, results not copied."""

    def __init__(self, path: str, threads: int, shapes: dict[str, tuple[int, ...]]) -> None:
        core = importlib.import_module("openvino").Core()
        model = core.read_model(path)
        fixed = {
            port: shapes[port.any_name] for port in model.inputs if port.partial_shape.is_dynamic
        }
        if fixed:
            model.reshape(fixed)
        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core.compile_model(model, "CPU", config).create_infer_request()
        self._names = [port.any_name for port in model.inputs]

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Run; returns all outputs in order."""
        given = {name: feeds[name] for name in self._names}
        return list(self._request.infer(given, share_inputs=True, share_outputs=True).values())
