"""TFLite files read and written again: same answers, no more operators, no larger.

    python -m lepton_ir.tools.bench.tflite_again DIR... [--only TEXT] [-- OPTIONS]

Each ``.tflite`` file that LiteRT runs goes through ``lepton-opt a.tflite -o b.tflite``; then LiteRT
runs both on the same drawn inputs, twice in a row each. A line says whether the results are equal
(``bits``) or by how much they differ, relative to the largest magnitude, and gives operators and
bytes of both. Ends with 1 when a file falls short.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ir.formats.tflite.reader import read_file

SLACK = 1.02, 2048
"""How much larger a file may be: this many times, and as many bytes more."""

FLOAT_LIMIT = 2e-5
"""Difference of float results, relative to the largest magnitude, that counts as the same."""

_WORKER = """
import json, sys
import numpy as np
from lepton_ir.tools.bench.tflite_again import outputs
outputs(json.loads(sys.argv[1]))
"""


def drawn(shape: list[int], dtype: str, seed: int, quantized: bool) -> Any:
    """Return an input: standard normal numbers, all codes, or small numbers that may be indices."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    info = np.iinfo(dtype)
    if quantized:
        return rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def outputs(job: dict[str, Any]) -> None:
    """Run one file on what a job says; its results go to a file."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=job["model"], num_threads=1)
    details = runner.get_input_details()
    runner.allocate_tensors()
    found = {}
    given = np.load(job["feeds"]) if "feeds" in job else None
    for draw in range(job["draws"] if given is None else len(given)):
        for i, d in enumerate(details):
            shape = [int(s) for s in d["shape"]]
            quantized = bool(d["quantization_parameters"]["scales"].size)
            seed = 1000 * draw + i
            x = drawn(shape, np.dtype(d["dtype"]).name, seed, quantized)
            if given is not None and i == 0:
                x = given[draw]
            runner.set_tensor(d["index"], x)
        for again in range(2):
            runner.invoke()
            for k, d in enumerate(runner.get_output_details()):
                found[f"{draw}.{again}.{k}"] = runner.get_tensor(d["index"]).copy()
    np.savez(job["to"], **found)


def run(model: Path, folder: Path, name: str, **job: Any) -> dict[str, Any] | str:
    """Return what LiteRT gives, or why it gives nothing."""
    to = folder / f"{name}.npz"
    given = {"draws": 3, **job, "model": str(model), "to": str(to)}
    command = [sys.executable, "-c", _WORKER, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:160] if done.stderr else str(done.returncode)
    with np.load(to) as data:
        return dict(data)


def operators(path: Path) -> int:
    """Return how many operators all subgraphs have."""
    return sum(len(g.operators or ()) for g in read_file(str(path)).subgraphs)


def difference(ours: dict[str, Any], source: dict[str, Any]) -> float:
    """Return the largest difference, relative to the magnitude of its output; 0 for equal bits."""
    worst = 0.0
    for key, y in source.items():
        x = ours.get(key)
        if x is None or x.shape != y.shape or x.dtype != y.dtype:
            return float("inf")
        if x.tobytes() == y.tobytes():
            continue
        a, b = x.astype(np.float64), y.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            gap = np.where(same, 0, np.abs(a - b))
        scale = 1.0 if y.dtype.kind != "f" else max(float(np.nanmax(np.abs(b))), 1e-30)
        worst = max(worst, float(np.nanmax(gap, initial=0)) / scale)
    return worst


def again(source: Path, folder: Path, options: list[str]) -> tuple[Path | None, str]:
    """Write a file again; returns the new one, or ``None`` and why there is none."""
    ours = folder / "again.tflite"
    ours.unlink(missing_ok=True)
    command = [sys.executable, "-m", "lepton_ir.tools.lepton_opt", str(source), "-o", str(ours)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if "error" in x] or ["?"]
        return None, lines[0][:300]
    return ours, ""


def judge(source: Path, folder: Path, options: list[str]) -> tuple[str, bool]:
    """Return a line about one file, and whether it is as it should be."""
    reference = run(source, folder, "source")
    ours, why = again(source, folder, options)
    if isinstance(reference, str):
        return f"does not run ({reference}); {why or 'written'}", True
    if ours is None:
        return f"NOT WRITTEN: {why}", False
    found = run(ours, folder, "ours")
    if isinstance(found, str):
        return f"WRITTEN, DOES NOT RUN: {found}", False
    gap = difference(found, reference)
    counts = operators(ours), operators(source)
    sizes = ours.stat().st_size, source.stat().st_size
    floats = any(y.dtype.kind == "f" for y in reference.values())
    marks = []
    if gap > (FLOAT_LIMIT if floats else 0):
        marks.append("DIFFERENT")
    if counts[0] > counts[1]:
        marks.append("MORE OPERATORS")
    if sizes[0] > sizes[1] * SLACK[0] + SLACK[1]:
        marks.append("LARGER")
    equal = "bits" if not gap else f"{gap:.1e}"
    line = f"{equal:8} operators {counts[1]} -> {counts[0]}, bytes {sizes[1]} -> {sizes[0]}"
    return " ".join([line, *marks]), not marks


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--only", default="", help="files whose path holds this text")
    parser.add_argument("options", nargs="*", help="of lepton-opt, behind --")
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:cut])
    options, bad, count = given[cut + 1 :], 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        for folder in args.folders:
            for source in sorted(folder.rglob("*.tflite")):
                if args.only in str(source):
                    line, good = judge(source, Path(scratch), options)
                    print(f"{source.relative_to(folder)}: {line}", flush=True)
                    bad += not good
                    count += 1
    print(f"{count - bad} of {count} files as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
