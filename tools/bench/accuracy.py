"""Rounding errors of whole models against a float64 run, beside those of onnxruntime.

    python -m lepton_ir.tools.bench.accuracy MODEL|DIR... [--draws 5] [--max-mb 60]
        [--manifest FILE] [--dim NAME=SIZE] [--precision high] [--target host]

The truth is the reference interpreter with every float a float64. For each draw of the inputs the
error of a runtime is taken over all float outputs together, each by its own largest magnitude: the
root of the mean square, and the largest. A row shows our error by the peer's: of the errors of all
draws together (`rms`, the one to judge by), and of single draws the median and the worst; the same
for the largest differences. No error counts as less than that of rounding the truth to float32, so
that a peer which happens to hit the last bit of a few outputs does not make the ratio mean nothing.
Draws that the peer or the float64 run cannot run, or whose results are not finite, do not count; a
model without others is `inconclusive`, one that we cannot run is a `problem`. Exits 1 if an `rms`
is above `--limit` or a model has a problem.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lepton_ir
from lepton_ir.compare import draw
from lepton_ir.interp import run_list
from lepton_ir.tools.bench import measure
from lepton_ir.tools.bench.run_peers import known_shapes, widened

Feeds = dict[str, np.ndarray[Any, Any]]


class InconclusiveError(Exception):
    """There is nothing to compare with; says why."""


@contextlib.contextmanager
def _needed(what: str) -> Iterator[None]:
    """Make errors of what we compare with inconclusive."""
    try:
        yield
    except Exception as error:  # whatever a runtime raises
        raise InconclusiveError(f"{what}: {type(error).__name__}: {error}") from error


class Errors(NamedTuple):
    """Errors of one runtime in one draw.

    Attributes:
        squares: their mean square.
        largest: the largest one.
    """

    squares: float
    largest: float


def errors(exact: Sequence[Any], found: Sequence[Any]) -> Errors:
    """Return the errors of float outputs, each by its largest finite magnitude.

    Raises:
        ValueError: a result has another shape, or is not finite where it should be.
        InconclusiveError: no float of the truth is finite.
    """
    parts = []
    for truth, result in zip(exact, found, strict=True):
        if not isinstance(truth, np.ndarray) or truth.dtype.kind != "f" or not truth.size:
            continue
        if truth.shape != result.shape:
            raise ValueError(f"shape {result.shape} instead of {truth.shape}")
        finite = np.isfinite(truth.astype(np.float32))
        if not np.array_equal(finite, np.isfinite(result)):
            raise ValueError("infinities or NaN in other places")
        wide = truth[finite]
        scale = float(np.abs(wide).max(initial=0.0)) or 1.0
        parts.append(np.abs(result[finite].astype(np.float64) - wide).ravel() / scale)
    every = np.concatenate(parts) if parts else np.zeros(1)
    if not every.size:
        raise InconclusiveError("float64 run: no number is finite")
    return Errors(float(np.square(every).mean()), float(every.max(initial=0.0)))


class Model:
    """A model in three forms: exact, ours and the peer's.

    Args:
        path: its file.
        args: of the command line.
        shapes: of inputs whose shape is known.

    Raises:
        LeptonError: our side refuses the model.
        InconclusiveError: the peer does.
    """

    def __init__(self, path: Path, args: argparse.Namespace, shapes: dict[str, list[int]]) -> None:
        from lepton_ir.backends.onnx.runner import OrtRunner

        sizes = {n: int(s) for n, _, s in (d.partition("=") for d in args.dim)}
        with _needed("onnxruntime"):
            self.peer = OrtRunner(str(path), optimized=True, threads=1)
        self.inputs = [
            (
                n,
                t,
                [sizes.get(d, args.symbol) if isinstance(d, str) else d for d in shapes.get(n, s)],
            )
            for n, t, s in self.peer.inputs()
        ]
        self.session = lepton_ir.compile(
            str(path), args.target, threads=1, precision=args.precision
        )
        self.exact = widened(lepton_ir.load(str(path)))
        self.filled = {n: float(s) for n, _, s in (f.partition("=") for f in args.fill)}

    def feeds(self, seed: int) -> Feeds:
        """Return the inputs of one draw."""
        found: Feeds = draw(self.inputs, seed, 1)
        for name in found.keys() & self.filled.keys():
            found[name] = np.full_like(found[name], self.filled[name])
        return found

    def measure(self, seed: int) -> tuple[Errors, Errors, Errors]:
        """Return the errors of ours, of the peer, and of the truth rounded to float32.

        Raises:
            InconclusiveError: the peer or the float64 run refuses the inputs.
        """
        feeds = self.feeds(seed)
        with _needed("onnxruntime"):
            theirs = self.peer.run(feeds)
        known = {v.name for v in self.exact.main.inputs}
        wide = {
            n: v.astype(np.float64) if v.dtype == np.float32 else v
            for n, v in feeds.items()
            if n in known
        }
        with _needed("float64 run"):
            exact = run_list(self.exact, wide)
        names = {a.name for a in self.session.get_inputs()}
        ours = self.session.run(None, {n: v for n, v in feeds.items() if n in names})
        rounded = [
            t.astype(np.float32).astype(np.float64)
            if isinstance(t, np.ndarray) and t.dtype.kind == "f"
            else t
            for t in exact
        ]
        runs = (ours, theirs, rounded)
        first, second, third = (errors(exact, run) for run in runs)
        return first, second, third


def summary(draws: Sequence[tuple[Errors, Errors, Errors]]) -> dict[str, float]:
    """Return the ratios of ours to the peer's over all draws."""

    def total(which: int) -> float:
        return sum(max(d[which].squares, d[2].squares) for d in draws)

    singles = [
        (max(a.squares, r.squares) / max(b.squares, r.squares, 1e-60)) ** 0.5 for a, b, r in draws
    ]
    largest = [max(a.largest, r.largest) / max(b.largest, r.largest, 1e-30) for a, b, r in draws]
    return {
        "rms": (total(0) / max(total(1), 1e-60)) ** 0.5,
        "rms_median": measure.median(singles),
        "rms_worst": max(singles),
        "max": max(a.largest for a, _, _ in draws)
        / max(*(b.largest for _, b, _ in draws), *(r.largest for *_, r in draws), 1e-30),
        "max_median": measure.median(largest),
        "max_worst": max(largest),
        "error": max(a.largest for a, _, _ in draws),
    }


def judge(path: Path, args: argparse.Namespace, shapes: dict[str, list[int]]) -> dict[str, Any]:
    """Return the row of a model; draws go on up to `--draws`, or until `--seconds` have passed."""
    try:
        model = Model(path, args, shapes)
        draws, reason = [], None
        started = time.perf_counter()
        for seed in range(args.draws):
            try:
                draws.append(model.measure(seed))
            except InconclusiveError as error:
                reason = error
            enough = len(draws) >= min(args.draws, 3)
            if enough and time.perf_counter() - started > args.seconds:
                break
        if reason is not None and not draws:
            raise reason
    except InconclusiveError as error:
        return {"model": path.name, "inconclusive": str(error)[:160]}
    except Exception as error:  # a model that our side refuses does not stop the others
        return {"model": path.name, "problem": f"{type(error).__name__}: {error}"[:160]}
    return {"model": path.name, "draws": len(draws), **summary(draws)}


def _files(places: Sequence[Path], max_mb: float) -> Iterator[Path]:
    for place in places:
        for path in sorted(place.rglob("*.onnx")) if place.is_dir() else [place]:
            data = sum(p.stat().st_size for p in path.parent.glob(f"{path.name}?data"))
            if not place.is_dir() or path.stat().st_size + data <= max_mb * 2**20:
                yield path


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="after three draws at least")
    parser.add_argument("--max-mb", type=float, default=60.0, help="of files found in folders")
    parser.add_argument("--manifest", type=Path, help="input shapes by model, as `run_inputs`")
    parser.add_argument("--symbol", type=int, default=1, help="size of symbolic dims")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--fill", action="append", default=[], metavar="INPUT=NUMBER")
    parser.add_argument("--precision", default="standard")
    parser.add_argument("--target", default="host")
    parser.add_argument("--limit", type=float, default=2.0)
    args = parser.parse_args(argv)
    known = known_shapes(args.manifest)
    worst, bad = 0.0, False
    for path in _files(args.models, args.max_mb):
        row = judge(path, args, known.get(path.name, {}))
        worst, bad = max(worst, row.get("rms", 0.0)), bad or "problem" in row
        shown = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in row.items()}
        print(json.dumps(shown), flush=True)
    return 1 if bad or worst > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
