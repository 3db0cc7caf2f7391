"""Running a model file in onnxruntime, for the numeric check, calibration and the guard."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
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
        integers: let it compute quantize/dequantize pairs in integers when it optimizes.

    Raises:
        Exception: whatever onnxruntime raises for a model it refuses.
    """

    def __init__(
        self, path: str, optimized: bool = False, threads: int = 0, integers: bool = True
    ) -> None:
        options = ort.SessionOptions()
        if not integers:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
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

    @staticmethod
    def answer(request: dict[str, Any], feeds: list[dict[str, Any]]) -> dict[str, Any]:
        """Answer a question of the guard.

        Args:
            request: ``{"ask": "census", "path": ...}``, see :func:`census`, or
                ``{"ask": "latency", "paths": [a, b], "seconds": ...}``, see :func:`latency`.
            feeds: inputs that the source ran on.

        Raises:
            Exception: whatever onnxruntime raises.
        """
        if request["ask"] == "census":
            return {"census": census(request["path"])}
        if not feeds:
            return {"problem": "there are no inputs that the source runs on"}
        first, second = request["paths"]
        return latency(first, second, feeds[0], float(request["seconds"]))


def census(path: str) -> dict[str, int]:
    """Return the operations of the graph that onnxruntime makes of a model, with their number.

    Those of other domains than ONNX's have the domain in front (``com.microsoft.nchwc:Conv``); a
    fused activation stands behind (``com.microsoft:FusedConv+Relu``). Nested graphs count.
    """
    import onnx

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        # Weights beside it: only the graph is read, and no model is too large for one message.
        for key, value in (("file_name", "weights"), ("min_size_in_bytes", "1024")):
            options.add_session_config_entry(
                f"session.optimized_model_external_initializers_{key}", value
            )
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        proto = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return dict(Counter(_kind(node) for node in _nodes(proto.graph)))


def _nodes(graph: Any) -> Iterator[Any]:
    graphs = [graph]
    while graphs:
        for node in graphs.pop().node:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)


def _kind(node: Any) -> str:
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}:"
    fused = next((a.s.decode() for a in node.attribute if a.name == "activation"), "")
    return f"{domain}{node.op_type}{'+' if fused else ''}{fused}"


_BLOCK_SECONDS = 0.01
"""Runs are timed in blocks of about this long, far above the clock's resolution."""

_MIN_CYCLES, _WARM_UPS = 5, 3


def latency(
    first: str, second: str, feeds: dict[str, Any], seconds: float, threads: int = 0
) -> dict[str, Any]:
    """Time two models against each other, both optimized by onnxruntime.

    Blocks of runs alternate as A B B A, so that a machine that gets faster or slower during a cycle
    favours neither; medians over the cycles resist what disturbs single ones.

    Args:
        first: model file A.
        second: model file B.
        feeds: inputs of both.
        seconds: time for all cycles.
        threads: intra-op threads.

    Returns:
        ``ratio`` of B to A, ``noise``: how far from 1 it may be for equal models, the larger one of
        A against itself and of the ratios' own spread (the notch of a box plot, 1.57 interquartile
        ranges by the root of their number), ``first``: seconds of one run of A, ``cycles``.
    """
    runners = [OrtRunner(path, optimized=True, threads=threads) for path in (first, second)]
    given = [{n: feeds[n] for n, _, _ in r.inputs() if n in feeds} for r in runners]
    for runner, inputs in zip(runners, given, strict=True):
        for _ in range(_WARM_UPS):
            runner.run(inputs)
    single = _timed(runners[0], given[0], 1)
    count = max(1, round(_BLOCK_SECONDS / max(single, 1e-7)))
    until = time.perf_counter() + seconds
    ratios: list[float] = []
    itself: list[float] = []
    singles: list[float] = []
    while len(ratios) < _MIN_CYCLES or time.perf_counter() < until:
        times = [_timed(runners[i], given[i], count) for i in (0, 1, 1, 0)]
        ratios.append((times[1] + times[2]) / (times[0] + times[3]))
        itself.append(times[3] / times[0])
        singles += [times[0], times[3]]
    low, _, high = statistics.quantiles(ratios, n=4)
    spread = 1 + 1.57 * (high - low) / len(ratios) ** 0.5
    drift = statistics.median(itself)
    return {
        "ratio": statistics.median(ratios),
        "noise": max(drift, 1 / drift, spread),
        "first": statistics.median(singles),
        "cycles": len(ratios),
    }


def _timed(runner: OrtRunner, feeds: dict[str, Any], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        runner.run(feeds)
    return max((time.perf_counter() - started) / count, 1e-9)
