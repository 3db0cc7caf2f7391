"""Run models through `lepton_ir.compile` and other runtimes: errors and interleaved times.

    python -m lepton_ir.tools.bench.run_peers MODEL... [--threads 1] [--seconds 2] [--no-time]
        [--peers onnxruntime,openvino]

The error of each is taken against a run of the reference interpreter whose floats are all float64
(`--exact`), otherwise ours against onnxruntime's. Times alternate in one process; a ratio is the
median of a peer's time by ours, so more than 1 is faster than the peer; `ratio` is the smallest.
`share` is the part of this machine's measured peak that the products of the model reach.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lepton_ir
from lepton_ir.compare import draw
from lepton_ir.diagnostics import LeptonError
from lepton_ir.interp import run_list
from lepton_ir.ir import Module
from lepton_ir.tensors import from_array
from lepton_ir.tools.bench import peers
from lepton_ir.tools.bench.peak import operations, peak


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool."""
    p = argparse.ArgumentParser(prog="python -m lepton_ir.tools.bench.run_peers")
    p.add_argument("models", nargs="+", type=Path)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seconds", type=float, default=2.0)
    p.add_argument("--symbol", type=int, default=1, help="size of symbolic dims")
    p.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    p.add_argument("--fill", action="append", default=[], metavar="INPUT=NUMBER", help="a constant")
    p.add_argument("--target", default="host")
    p.add_argument("--wall", action="store_true", help="wall clock also with one thread")
    p.add_argument("--no-time", action="store_true")
    p.add_argument("--exact", action="store_true", help="errors against a float64 run")
    p.add_argument("--peers", default="onnxruntime", help="onnxruntime,openvino")
    p.add_argument("--manifest", type=Path, help="input shapes by model, as `run_inputs`")
    args = p.parse_args(argv)
    known = known_shapes(args.manifest)
    bad = 0
    for path in args.models:
        row = {"model": path.name}
        try:
            row |= _measure(path, args, known.get(path.name, {}))
        except LeptonError as error:
            row["error"] = str(error)
        except Exception as error:
            row["crash"] = f"{type(error).__name__}: {error}"[:300]
        bad += "crash" in row or not row.get("equal", True)
        print(json.dumps(row), flush=True)
    return 1 if bad else 0


def known_shapes(path: Path | None) -> dict[str, dict[str, list[int]]]:
    """Return the `run_inputs` of a manifest by the name of the file."""
    if path is None:
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {Path(r["path"]).name: r["run_inputs"] for r in rows if r.get("run_inputs")}


def _measure(path: Path, args: argparse.Namespace, shapes: dict[str, Any]) -> dict[str, Any]:
    from lepton_ir.backends.onnx.runner import OrtRunner

    sizes = {n: int(s) for n, _, s in (d.partition("=") for d in args.dim)}
    try:
        peer = OrtRunner(str(path), optimized=True, threads=args.threads)
        inputs = [(n, t, shapes.get(n, s)) for n, t, s in peer.inputs()]
        drawn = [
            (n, t, [sizes.get(d, args.symbol) if isinstance(d, str) else d for d in s])
            for n, t, s in inputs
        ]
        feeds = draw(drawn, 0, args.symbol)
        for name, _, number in (f.partition("=") for f in args.fill):
            if name in feeds:
                feeds[name] = np.full_like(feeds[name], float(number))
        expected = peer.run(feeds)
    except Exception as error:
        return {"skipped": f"onnxruntime: {error}"[:200]}
    started = time.perf_counter()
    session = lepton_ir.compile(str(path), args.target, args.threads)
    loaded = time.perf_counter()
    names = {a.name for a in session.get_inputs()}
    given = {n: v for n, v in feeds.items() if n in names}
    found = session.run(None, given)
    row: dict[str, Any] = {
        "load_s": round(loaded - started, 3),
        "first_s": round(time.perf_counter() - loaded, 3),
        "error": max((_error(e, f) for e, f in zip(expected, found, strict=True)), default=0.0),
    }
    row["equal"] = row["error"] < 1e-3
    if args.exact:
        row |= _against_exact(path, feeds, expected, found)
    if not args.no_time:
        # With one thread, the time of the process itself: what else the machine does counts less.
        alone = args.threads == 1 and not args.wall
        clock = time.process_time if alone else time.perf_counter
        runs: dict[str, Callable[[], object]] = {"onnxruntime": lambda: peer.run(feeds)}
        shapes = {n: v.shape for n, v in feeds.items()}
        for name in args.peers.split(","):
            if name not in runs:
                try:
                    other = peers.peer(name, str(path), args.threads, shapes)
                    other.run(feeds)
                except Exception as error:  # what cannot run a model does not stop the others
                    row[f"{name}_problem"] = f"{type(error).__name__}: {error}"[:200]
                else:
                    runs[name] = functools.partial(other.run, feeds)
        row |= times(lambda: session.run(None, given), runs, args.seconds, clock)
        speed = operations(session) / row["ours_ms"] * 1e3
        row["share"] = round(speed / args.threads / _peak(args.target), 3)
    return row


@functools.cache
def _peak(target: str) -> float:
    return peak(target)


def _error(expected: Any, found: Any) -> float:
    """Return the largest difference by the largest magnitude; integers must be equal."""
    if isinstance(expected, list):
        return max((_error(e, f) for e, f in zip(expected, found, strict=True)), default=0.0)
    if not isinstance(expected, np.ndarray) or expected.dtype == object:
        return 0.0
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if expected.size == 0:
        return 0.0
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    if np.isnan(a).all():
        return 0.0
    with np.errstate(all="ignore"):
        scale = float(np.nanmax(np.abs(a))) or 1.0
        return float(np.nanmax(np.where(a == b, 0.0, np.abs(a - b)))) / scale


def _against_exact(path: Path, feeds: Any, peer: list[Any], ours: list[Any]) -> dict[str, float]:
    module = widened(lepton_ir.load(str(path)))
    names = {v.name for v in module.main.inputs}
    wide = {n: _wide(v) for n, v in feeds.items() if n in names}
    exact = run_list(module, wide)
    return {
        "peer_exact": max(_error(_wide(e), _wide(p)) for e, p in zip(exact, peer, strict=True)),
        "ours_exact": max(_error(_wide(e), _wide(o)) for e, o in zip(exact, ours, strict=True)),
    }


def _wide(array: Any) -> Any:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def widened(module: Module) -> Module:
    """Make every f32 constant and cast of a module f64, for the reference interpreter."""
    from lepton_ir import dtypes

    for op in module.walk():
        for name, value in op.attrs.items():
            if value is dtypes.F32:
                op.attrs[name] = dtypes.F64
            elif getattr(value, "dtype", None) is dtypes.F32 and hasattr(value, "numpy"):
                op.attrs[name] = from_array(value.numpy().astype(np.float64))
    return module


def times(
    ours: Callable[[], object],
    runs: dict[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Return medians of the times, and of the ratios of each peer's to ours, run by turns."""
    everyone = {"ours": ours, **runs}
    for run in everyone.values():
        for _ in range(2):
            run()
    started = time.perf_counter()
    next(iter(runs.values()))()
    count = max(1, round(0.02 / max(time.perf_counter() - started, 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in everyone}
    until = time.perf_counter() + seconds
    while len(found["ours"]) < 5 or time.perf_counter() < until:
        for name, run in everyone.items():
            found[name].append(_timed(run, count, clock))
    row: dict[str, Any] = {"ours_ms": round(1e3 * statistics.median(found["ours"]), 3)}
    ratios = {}
    for name in runs:
        pairs = zip(found[name], found["ours"], strict=True)
        ratios[name] = round(statistics.median(a / b for a, b in pairs), 3)
        row[f"{name}_ms"] = round(1e3 * statistics.median(found[name]), 3)
    return row | {"ratio": min(ratios.values()), "ratios": ratios}


SETTLING_SECONDS = 0.02
"""How long threads of a runtime go on spinning after a run, which would slow the next runtime's."""


def _timed(run: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    time.sleep(SETTLING_SECONDS)
    run()
    started = clock()
    for _ in range(count):
        run()
    return (clock() - started) / count


if __name__ == "__main__":
    raise SystemExit(main())
