"""Sessions in fresh processes: seconds until the first result, peak memory, beside onnxruntime's.

    python -m lepton_ir.tools.bench.sessions MODEL.onnx... [--dim NAME=SIZE] [--rounds 3]

For each model: onnxruntime, `lepton_ir.compile` of the ONNX file, and of the `.lepton` file made of
it, each in a process of its own with one thread, in turn. The kernel cache is warm but for the row
`cold`. Peaks are `VmHWM` after a second run; mapped file pages count. `whole` is the process from
its start to its end. Exits 1 if the memory of one exceeds `--max-memory` times onnxruntime's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton_ir.tools.bench import measure

_CHILD = """
import json, sys, time
kind, path, sizes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
started = time.perf_counter()
import numpy
if kind == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    imported = time.perf_counter()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
else:
    import lepton_ir
    imported = time.perf_counter()
    session = lepton_ir.compile(path, threads=1)
created = time.perf_counter()
names = {"float": "float32", "double": "float64"}
feeds = {}
for arg in session.get_inputs():
    shape = [d if isinstance(d, int) else sizes.get(str(d), 1) for d in arg.shape]
    name = arg.type[7:-1]
    feeds[arg.name] = numpy.zeros(shape, names.get(name, name))
session.run(None, feeds)
first = time.perf_counter()
session.run(None, feeds)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"import": imported - started, "create": created - imported,
                  "first": first - created, "peak": peak}))
"""

_SAVE = """
import sys, lepton_ir
lepton_ir.save(lepton_ir.load(sys.argv[1]), sys.argv[2], passes="O2")
"""


def _child(kind: str, path: Path, sizes: dict[str, int], cache: str = "") -> dict[str, float]:
    """Run one session in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-c", _CHILD, kind, str(path), json.dumps(sizes)]
    with tempfile.NamedTemporaryFile("r") as out:
        shell = ["sh", "-c", 'exec "$@" >"$0"', out.name, *command]
        run = measure.run(shell, env={"LEPTON_CACHE": cache} if cache else None)
        if not run.ok:
            raise subprocess.CalledProcessError(run.status or 1, kind, run.output)
        found: dict[str, float] = json.loads(Path(out.name).read_text(encoding="utf-8"))
    return found | {"whole": run.wall, "cpu": run.user + run.system}


def _measure(
    path: Path, sizes: dict[str, int], rounds: int, folder: Path
) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each kind of session, a dictionary a round."""
    file = folder / f"{path.stem}.lepton"
    subprocess.run([sys.executable, "-c", _SAVE, str(path), str(file)], check=True)
    cold = _child("lepton", path, sizes, str(folder / f"{path.stem}.cache"))
    kinds = {"onnxruntime": path, "lepton": path, "lepton file": file}
    for kind, model in kinds.items():
        _child(kind, model, sizes)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, model in kinds.items():
            found[kind].append(_child(kind, model, sizes))
    file.unlink()
    return found | {"cold": [cold]}


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: measure.median([r[key] for r in rounds]) for key in rounds[0]}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", help="where the .lepton files go (default: temporary)")
    parser.add_argument("--max-memory", type=float, default=1.1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    sizes = {name: int(size) for name, _, size in (d.partition("=") for d in args.dim)}
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    rows: list[list[object]] = []
    stored: dict[str, Any] = {"environment": measure.environment()}
    good = True
    for path in args.models:
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            found = _measure(path, sizes, args.rounds, Path(folder))
        stored[path.name] = found
        limit = args.max_memory * _medians(found["onnxruntime"])["peak"]
        for kind, rounds in found.items():
            m = _medians(rounds)
            seconds = [f"{m[key]:.3f}" for key in ("import", "create", "first", "whole", "cpu")]
            share = m["peak"] * args.max_memory / limit
            rows.append([f"{path.stem} {kind}", *seconds, f"{m['peak']:.0f}", f"{share:.2f}"])
            good &= kind == "cold" or m["peak"] <= limit
    header = [
        "session",
        "import s",
        "create s",
        "first run s",
        "whole s",
        "cpu s",
        "peak MB",
        "of ort's",
    ]
    print(measure.table(header, rows))
    if args.json:
        args.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
