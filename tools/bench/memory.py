"""Wall seconds and peak memory on a 2.235 GiB model with external data.

    python -m lepton_ir.tools.bench.memory --dir /var/tmp --peers onnxscript
    python -m lepton_ir.tools.bench.memory --peers onnxruntime-4bit --max-mb 600 \
        --options="--check=off --target=ort '--passes=quant{mode=weights bits=4}'" --min-share 0.12

The peak counts mapped file pages. Twice the model's size in free disk space is needed; the model
is made once in `--dir` and kept there if `--keep` is given. Exits 1 if `lepton-opt` fails, loses
weights, or exceeds `--max-seconds` or `--max-mb`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lepton_ir.tools.bench import measure

MATRICES = 6
ROWS = 10_000
MAX_SECONDS = 10.0
MAX_MB = 300.0


def make_model(folder: Path, rows: int) -> Path:
    """The external-data model in `folder`, written by a process of its own unless complete.

    Raises:
        subprocess.CalledProcessError: the generator failed.
    """
    path = folder / f"external{rows}.onnx"
    if not path.exists():
        script = Path(__file__).with_name("synthetic.py")
        command = [sys.executable, str(script), "external", "--size", str(rows), "-o", str(path)]
        subprocess.run(command, check=True)
    return path


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def measure_one(
    model: Path, template: Sequence[str], folder: Path, *, runs: int, timeout: float
) -> tuple[list[measure.Run], int]:
    """Run a command template on the model `runs` times.

    Returns:
        The runs, and how many bytes the last one wrote.
    """
    results, written = [], 0
    for _ in range(runs):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = measure.fill(template, model, Path(scratch, "out.onnx"))
            results.append(measure.run(command, timeout=timeout))
            written = folder_bytes(Path(scratch))
    return results, written


def _rows(name: str, runs: Sequence[measure.Run], written: int) -> list[object]:
    wall = measure.median([r.wall for r in runs])
    peak = max(r.peak_mb for r in runs)
    status = "ok" if all(r.ok for r in runs) else "failed"
    return [name, f"{wall:.2f}", f"{peak:.0f}", f"{written / 2**20:.0f}", status]


def measure_all(
    args: argparse.Namespace, commands: dict[str, list[str]]
) -> dict[str, tuple[list[measure.Run], int]]:
    """Make the model and run every command on it; its files are removed unless kept."""
    results = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as scratch:
        folder = Path(args.dir) if args.keep and args.dir else Path(scratch)
        model = make_model(folder, args.rows)
        for name, template in commands.items():
            results[name] = measure_one(
                model, template, Path(scratch), runs=args.runs, timeout=args.timeout
            )
    return results


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", help="where the model and the results go (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="keep and reuse the model in --dir")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of each of the six weights")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--peers", default="", help=", ".join(measure.EXTERNAL_PEERS))
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--lepton", help="the program, instead of the installed lepton-opt")
    parser.add_argument("--options", default="--passes=O2 --check=off")
    parser.add_argument("--no-lepton", action="store_true", help="measure the peers only")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS)
    parser.add_argument("--max-mb", type=float, default=MAX_MB)
    parser.add_argument(
        "--min-share", type=float, default=1.0, help="bytes written over bytes of weights"
    )
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    args.peers = [n for n in args.peers.split(",") if n]
    if unknown := set(args.peers) - set(measure.EXTERNAL_PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _parse(argv)
    commands = {
        n: measure.peer_template(n, args.peer_python, measure.EXTERNAL_PEERS) for n in args.peers
    }
    if not args.no_lepton:
        commands = {"lepton": measure.lepton_template(args.lepton, args.options), **commands}
    results = measure_all(args, commands)
    rows = [_rows(name, *result) for name, result in results.items()]
    print(measure.table(["command", "wall s", "peak MB", "written MB", "status"], rows))
    for name, (runs, _) in results.items():
        for failed in (r for r in runs if not r.ok):
            print(f"{name}: exit status {failed.status}: {failed.output.strip()}")
    if args.json:
        stored = {
            "environment": measure.environment(),
            "rows": {
                name: {"written": written, "runs": [r.as_json() for r in runs]}
                for name, (runs, written) in results.items()
            },
        }
        args.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0 if args.no_lepton or _acceptable(results["lepton"], args) else 1


def _acceptable(result: tuple[list[measure.Run], int], args: argparse.Namespace) -> bool:
    runs, written = result
    return (
        all(r.ok and r.wall <= args.max_seconds and r.peak_mb <= args.max_mb for r in runs)
        and written >= args.min_share * MATRICES * 4 * args.rows * args.rows
    )


if __name__ == "__main__":
    sys.exit(main())
