"""Static int8 against onnxruntime's own quantizer: latency, signal to noise, bytes, integer ops.

``python -m lepton_ir.tools.bench.quant_peers MODEL... --calib FILE.npz``. The peer gets several
settings, each after its own shape inference and graph optimization: pairs (QDQ) or integer
operators, u8 or i8 activations, weights per channel, ranges by min-max, entropy or percentile; all
operations that it knows, or only products. Latencies are compared in pairs, in turns; a ratio is
the median of Lepton's time over the peer's. Integers and floats are counted in onnxruntime's own
optimized graphs.
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

PAIRS = 15
"""Runs of each file in turns."""

SETTINGS: dict[str, dict[str, str]] = {
    "qdq": {},
    "qdq-i8": {"activations": "i8"},
    "qdq-entropy": {"method": "Entropy"},
    "qdq-percentile": {"method": "Percentile"},
    "qdq-products": {"types": "products"},
    "qop": {"format": "QOperator"},
    "qop-entropy": {"format": "QOperator", "method": "Entropy"},
    "qop-products": {"format": "QOperator", "types": "products"},
}
"""Settings of the peer by name."""

PRODUCTS = frozenset({"Conv", "FusedConv", "MatMul", "Gemm", "FusedMatMul", "FusedGemm"})
"""Products in floats."""

INTEGERS = frozenset({"QGemm", "QAttention", "MatMulIntegerToFloat", "ConvInteger"})
"""Operators on integers beside those called QLinear."""


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


def integer_ops(ops: dict[str, int]) -> int:
    """Return how many operators of a census compute on integers."""
    return sum(n for op, n in ops.items() if op.startswith("QLinear") or op in INTEGERS)


def float_products(ops: dict[str, int]) -> int:
    """Return how many products of a census are computed in floats."""
    return sum(n for op, n in ops.items() if op in PRODUCTS)


def latencies(paths: list[str], feed: dict[str, Array], pairs: int = PAIRS) -> list[list[float]]:
    """Return milliseconds of runs of each file, taken in turns."""
    sessions = [session(p) for p in paths]
    times: list[list[float]] = [[] for _ in paths]
    for s in sessions:
        s.run(None, feed)
    for i in range(pairs):
        order = range(len(sessions)) if i % 2 else reversed(range(len(sessions)))
        for k in order:
            start = time.perf_counter()
            sessions[k].run(None, feed)
            times[k].append(1e3 * (time.perf_counter() - start))
    return times


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


def prepared(path: str, target: str) -> None:
    """Write what onnxruntime's quantizer asks for: shapes inferred, graph optimized."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(path, target, skip_symbolic_shape=True)


def by_peer(ready: str, target: str, feeds: list[dict[str, Array]], setting: str) -> None:
    """Quantize a prepared model with onnxruntime's quantizer.

    Scales per channel need opset 13 in pairs, none in integer operators.
    """
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = iter(feeds)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.items, None)

    logging.disable(logging.WARNING)
    chosen = SETTINGS[setting]
    kind = chosen.get("format", "QDQ")
    opset = onnx.load(ready, load_external_data=False).opset_import[0].version
    q.quantize_static(
        ready,
        target,
        Reader(),
        quant_format=getattr(q.QuantFormat, kind),
        activation_type=q.QuantType.QInt8 if "activations" in chosen else q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        per_channel=kind == "QOperator" or opset >= 13,
        calibrate_method=getattr(q.CalibrationMethod, chosen.get("method", "MinMax")),
        op_types_to_quantize=["Conv", "MatMul", "Gemm"] if "types" in chosen else None,
    )


def compare(path: str, calib: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Quantize one model both ways and measure; returns Lepton's row, then one per setting."""
    feeds = feeds_of(path, calib, options.samples + options.held_out)
    seen, unseen = feeds[: options.samples], feeds[options.samples :] or feeds
    name = os.path.basename(path)
    with tempfile.TemporaryDirectory() as folder:
        files = {"lepton": os.path.join(folder, "lepton.onnx")}
        spent = {"lepton": time.perf_counter()}
        by_lepton(path, files["lepton"], seen, options.options)
        spent["lepton"] = time.perf_counter() - spent["lepton"]
        ready = os.path.join(folder, "ready.onnx")
        if options.peers:
            prepared(path, ready)
        for peer in options.peers.split(",") if options.peers else ():
            target, start = os.path.join(folder, peer + ".onnx"), time.perf_counter()
            try:
                by_peer(ready, target, seen, peer)
                session(target)
            except Exception as error:
                print(f"  {name} {peer}: {str(error)[:200]}", file=sys.stderr)
                continue
            files[peer], spent[peer] = target, time.perf_counter() - start
        times = latencies([path, *files.values()], unseen[0], options.pairs)
        rows = []
        for kind, file, taken in zip(files, files.values(), times[1:], strict=True):
            ops = census(file)
            row = {"model": name, "by": kind, "seconds": spent[kind]}
            row["of_float"] = float(np.median(np.array(taken) / times[0]))
            row["lepton_over"] = float(np.median(np.array(times[1]) / taken))
            row["db"] = ratio(path, file, unseen)
            row["bytes"] = os.path.getsize(file) / os.path.getsize(path)
            row |= {"integer": integer_ops(ops), "float_products": float_products(ops)}
            rows.append(row | {"ops": ops})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure and print one row per model and quantizer."""
    parser = argparse.ArgumentParser(prog="quant_peers", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--calib", required=True, help=".npz with arrays for the inputs")
    parser.add_argument("--options", default="", help="options of the quant pass")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=0, help="samples to measure on")
    parser.add_argument("--peers", default=",".join(SETTINGS), help="settings; empty: none")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--ops", action="store_true", help="print the census too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    for path in options.models:
        for row in compare(path, options.calib, options):
            if options.json:
                print(json.dumps(row), flush=True)
                continue
            print(
                f"{row['model']:<28} {row['by']:<15} of float {row['of_float']:.3f}  "
                f"lepton/this {row['lepton_over']:.3f}  {row['db']:6.2f} dB  "
                f"bytes {row['bytes']:.4f}  integer {row['integer']:>3}  "
                f"float products {row['float_products']:>3}  {row['seconds']:.0f} s",
                flush=True,
            )
            if options.ops:
                print(f"    {row['ops']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
