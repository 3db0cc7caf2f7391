"""Static int8 against onnxruntime's own quantizer: latency, signal to noise, bytes, integer ops.

``python -m lepton_ir.tools.bench.quant_peers MODEL... --calib FILE.npz``. The peer gets its best
settings for processors: shape inference and graph optimization before, QDQ, u8 activations, i8
weights per channel, and the better of min-max and entropy ranges when ``--entropy`` is given.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, Any]

ROUNDS = 3


def session(path: str, save: str | None = None) -> Any:
    """Return a session of onnxruntime with all optimizations on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if save is not None:
        options.optimized_model_filepath = save
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def census(path: str) -> dict[str, int]:
    """Count the operators of onnxruntime's own optimized graph."""
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "optimized.onnx")
        session(path, target)
        nodes = onnx.load(target, load_external_data=False).graph.node
        return dict(collections.Counter(n.op_type for n in nodes).most_common())


def latencies(paths: list[str], feed: dict[str, Array], seconds: float = 1.0) -> list[float]:
    """Return the least milliseconds of one run of each file, taken in turns."""
    sessions = [session(p) for p in paths]
    best = [np.inf] * len(paths)
    for s in sessions:
        s.run(None, feed)
    for _ in range(ROUNDS):
        for i, s in enumerate(sessions):
            end = time.perf_counter() + seconds / ROUNDS
            while time.perf_counter() < end:
                start = time.perf_counter()
                s.run(None, feed)
                best[i] = min(best[i], time.perf_counter() - start)
    return [1e3 * b for b in best]


def ratio(source: str, target: str, feeds: list[dict[str, Array]]) -> float:
    """Return the worst signal-to-noise ratio of an output over all feeds, in dB."""
    a, b = session(source), session(target)
    signal: Array | float = 0.0
    noise: Array | float = 0.0
    for feed in feeds:
        pairs = list(zip(a.run(None, feed), b.run(None, feed), strict=True))
        signal = signal + np.array([np.square(x.astype(np.float64)).sum() for x, _ in pairs])
        noise = noise + np.array([np.square(x.astype(np.float64) - y).sum() for x, y in pairs])
    with np.errstate(divide="ignore"):
        return float(np.min(10 * np.log10(signal / np.asarray(noise))))


def feeds_of(path: str, calib: str, count: int) -> list[dict[str, Array]]:
    """Return the first ``count`` feeds of calibration data for a model."""
    import itertools

    import lepton_ir
    from lepton_ir.passes.quant.feeds import open_feeds

    found = open_feeds((calib,), lepton_ir.load(path))
    assert found is not None
    return list(itertools.islice(found, count))


def by_lepton(path: str, target: str, feeds: list[dict[str, Array]], options: str) -> Any:
    """Quantize with Lepton; returns the context of the run."""
    import lepton_ir

    module = lepton_ir.load(path)
    text = "quant{mode=static" + (" " + options if options else "") + "}"
    report = lepton_ir.run_passes(module, "fuse," + text, feeds=lambda: iter(feeds))
    lepton_ir.save(module, target)
    return report.context


def by_peer(path: str, target: str, feeds: list[dict[str, Array]], entropy: bool) -> None:
    """Quantize with onnxruntime's quantizer."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = iter(feeds)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.items, None)

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        ready = os.path.join(folder, "ready.onnx")
        quant_pre_process(path, ready, skip_symbolic_shape=True)
        method = q.CalibrationMethod.Entropy if entropy else q.CalibrationMethod.MinMax
        q.quantize_static(
            ready,
            target,
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            per_channel=onnx.load(ready, load_external_data=False).opset_import[0].version >= 13,
            calibrate_method=method,
        )


def compare(path: str, calib: str, options: argparse.Namespace) -> dict[str, Any]:
    """Quantize one model both ways and measure."""
    feeds = feeds_of(path, calib, options.samples)
    row: dict[str, Any] = {"model": os.path.basename(path)}
    with tempfile.TemporaryDirectory() as folder:
        files = {"float": path}
        ours = os.path.join(folder, "lepton.onnx")
        start = time.perf_counter()
        by_lepton(path, ours, feeds, options.options)
        row["lepton_seconds"] = time.perf_counter() - start
        files["lepton"] = ours
        if not options.alone:
            theirs = os.path.join(folder, "peer.onnx")
            start = time.perf_counter()
            by_peer(path, theirs, feeds, options.entropy)
            row["peer_seconds"] = time.perf_counter() - start
            files["peer"] = theirs
        times = latencies(list(files.values()), feeds[0])
        row |= {f"{k}_ms": t for k, t in zip(files, times, strict=True)}
        for kind, file in list(files.items())[1:]:
            row[f"{kind}_db"] = ratio(path, file, feeds)
            row[f"{kind}_bytes"] = os.path.getsize(file) / os.path.getsize(path)
            row[f"{kind}_ops"] = census(file)
    return row


def main(argv: list[str] | None = None) -> int:
    """Measure and print one row per model."""
    parser = argparse.ArgumentParser(prog="quant_peers", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--calib", required=True, help=".npz with arrays for the inputs")
    parser.add_argument("--options", default="", help="options of the quant pass")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument("--entropy", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    for path in options.models:
        row = compare(path, options.calib, options)
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        print(row["model"])
        for key, value in row.items():
            text = f"{value:.3f}" if isinstance(value, float) else value
            print(f"  {key:<15} {text}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
