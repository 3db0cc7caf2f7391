"""All benchmarks in one run: start-up, growth by family, memory; a peer's speed where one is named.

python -m lepton_ir.tools.bench [--quick] [--peer-python PATH] [--out DIR]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lepton_ir.tools.bench import compare, growth, memory, startup

FULL = "10000,30000,100000"
QUICK = "2000,5000,10000"


def _compare(python: str, nodes: int, store: list[str]) -> int:
    """Compare with onnxsim on one synthetic model of each family."""
    with tempfile.TemporaryDirectory() as folder:
        for family in growth.FAMILIES:
            path = Path(folder, f"{family}.onnx")
            growth.write_model(sys.executable, family, nodes, path)
        options = ["--peer-python", python, "--options=--passes=O2 --check=off"]
        return compare.main([folder, *options, *store])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exits 1 if any benchmark fails or misses its target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller models, fewer runs")
    parser.add_argument("--peer-python", help="an interpreter that has onnxsim")
    parser.add_argument("--out", type=Path, help="a folder for the raw runs as JSON")
    args = parser.parse_args(argv)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)

    def store(name: str) -> list[str]:
        return ["--json", str(args.out / f"{name}.json")] if args.out else []

    sizes, repeat = (QUICK, "1") if args.quick else (FULL, "3")
    rows = "2000" if args.quick else str(memory.ROWS)
    try:
        statuses = [
            startup.main(["--runs", "5" if args.quick else "15", *store("startup")]),
            growth.main(
                ["--sizes", sizes, "--repeat", repeat, "--max-exponent", "1.1", *store("growth")]
            ),
            memory.main(["--rows", rows, *store("memory")]),
        ]
        if args.peer_python:
            statuses.append(_compare(args.peer_python, 10_000, store("compare")))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
