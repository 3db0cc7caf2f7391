"""Slow inferences on a busy machine: the slowest of many against the median, beside onnxruntime's.

    python -m lepton_ir.tools.bench.contention MODEL.onnx [--runs 200] [--threads 2] [--rounds 3]

A second process computes all the time. In each round both runtimes make `--runs` inferences, ten by
turns; the figure is the slowest time over the median, and its ratio to onnxruntime's. Exits 1 if
the median of these ratios exceeds `--max-ratio`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import lepton_ir
from lepton_ir.backends.onnx.runner import OrtRunner
from lepton_ir.compare import draw
from lepton_ir.tools.bench import measure


def _busy() -> None:
    x = np.random.default_rng(0).standard_normal((300, 300))
    while True:
        x = np.tanh(x @ x / 300)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _round(runs: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Return the seconds of `count` runs of each, ten of one after ten of the other."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(-(-count // 10)):
        for name, run in runs.items():
            time.sleep(0.02)  # threads of the other one go on spinning for a while
            run()
            found[name] += [_seconds(run) for _ in range(10)]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=1, help="that keep the machine busy")
    parser.add_argument("--max-ratio", type=float, default=1.2)
    args = parser.parse_args(argv)
    peer = OrtRunner(str(args.model), optimized=True, threads=args.threads)
    shapes = [(n, t, [1 if isinstance(d, str) else d for d in s]) for n, t, s in peer.inputs()]
    feeds = draw(shapes, 0, 1)
    session = lepton_ir.compile(str(args.model), threads=args.threads)
    runs: dict[str, Callable[[], object]] = {
        "onnxruntime": lambda: peer.run(feeds),
        "lepton": lambda: session.run(None, feeds),
    }
    for run in runs.values():
        run()
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_busy, daemon=True) for _ in range(args.processes)]
    for other in others:
        other.start()
    time.sleep(1.0)
    rows: list[list[object]] = []
    ratios = []
    try:
        for _ in range(args.rounds):
            found = _round(runs, args.runs)
            tail = {n: max(times) / statistics.median(times) for n, times in found.items()}
            ratios.append(tail["lepton"] / tail["onnxruntime"])
            for name, times in found.items():
                ordered = sorted(times)
                marks = (ordered[len(ordered) // 2], ordered[-len(ordered) // 50], ordered[-1])
                rows.append([name, *(f"{1e3 * m:.2f}" for m in marks), f"{tail[name]:.2f}"])
    finally:
        for other in others:
            other.terminate()
    print(measure.table(["runtime", "median ms", "98 % ms", "slowest ms", "slowest/median"], rows))
    ratio = statistics.median(ratios)
    print(f"{ratio:.2f} of onnxruntime's (at most {args.max_ratio})")
    return 0 if ratio <= args.max_ratio else 1


if __name__ == "__main__":
    sys.exit(main())
