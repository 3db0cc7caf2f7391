"""Start-up of `lepton-opt --help` against `python -c "import numpy"`, and what it imports.

    python -m lepton_ir.tools.bench.startup --runs 15

Rounds run help, numpy, numpy, help; the figure is the median ratio. Python's own import-time log
says whether numpy or onnx was imported. Exits 1 if one was, or if the ratio exceeds `--max-ratio`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lepton_ir.tools.bench import measure

HEAVY = ("numpy", "onnx", "onnxruntime", "networkx", "numba", "lark", "rich", "ml_dtypes")
FORBIDDEN = ("numpy", "onnx")
MAX_RATIO = 0.7


def imported_modules(command: Sequence[str]) -> set[str]:
    """Every module that a Python program imports from its start to its end.

    Raises:
        subprocess.CalledProcessError: the program failed.
    """
    child = subprocess.run(
        list(command),
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    lines = (line for line in child.stderr.splitlines() if line.startswith("import time:"))
    return {line.rsplit("|", 1)[1].strip() for line in lines if line.count("|") == 2}


def measure_ratio(
    first: Sequence[str], second: Sequence[str], runs: int
) -> tuple[float, list[measure.Run], list[measure.Run]]:
    """Median ratio of wall seconds over `runs` rounds, after one round that warms the caches."""
    measure.abba(first, second)
    ratios, ours, theirs = [], [], []
    for _ in range(runs):
        a, b = measure.abba(first, second)
        ratios.append(measure.wall_ratio(a, b))
        ours += a
        theirs += b
    return measure.median(ratios), ours, theirs


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--python", default=sys.executable, help="the one that imports numpy")
    parser.add_argument("--lepton", help="the program, instead of the installed lepton-opt")
    parser.add_argument("--max-ratio", type=float, default=MAX_RATIO)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    program = args.lepton.split() if args.lepton else measure.lepton_command()
    command = [*program, "--help"]
    modules = imported_modules(command)
    heavy = [name for name in HEAVY if name in modules]
    reference = [args.python, "-c", "import numpy"]
    ratio, ours, theirs = measure_ratio(command, reference, args.runs)
    rows = [
        [name, f"{measure.median([r.wall for r in runs]) * 1000:.1f}", f"{runs[0].peak_mb:.1f}"]
        for name, runs in (("lepton-opt --help", ours), ("import numpy", theirs))
    ]
    print(measure.table(["command", "median ms", "peak MB"], rows))
    print(f"ratio {ratio:.3f} (at most {args.max_ratio}); {len(modules)} modules imported")
    print(f"heavy modules: {', '.join(heavy) or 'none'}")
    if args.json:
        stored = {
            "environment": measure.environment(),
            "ratio": round(ratio, 4),
            "heavy": heavy,
            "modules": sorted(modules),
            "help": [r.as_json() for r in ours],
            "numpy": [r.as_json() for r in theirs],
        }
        args.json.write_text(json.dumps(stored, indent=1) + "\n")
    succeeded = all(r.ok for r in ours + theirs)
    return 0 if succeeded and ratio <= args.max_ratio and not modules & set(FORBIDDEN) else 1


if __name__ == "__main__":
    sys.exit(main())
