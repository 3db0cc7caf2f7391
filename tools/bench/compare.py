"""Paired whole-process comparison of `lepton-opt` with other optimizers on given model files.

    python -m lepton_ir.tools.bench.compare model.onnx models/ --peers onnxsim --runs 3

Each round runs lepton, peer, peer, lepton; a ratio is lepton's seconds over the peer's in one
round, and the table shows the median over the rounds. Below 1 Lepton is faster.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lepton_ir.tools.bench import measure


def find_models(paths: Sequence[Path]) -> list[Path]:
    """The given files, and every `.onnx` below the given folders, in a stable order."""
    found: list[Path] = []
    for path in paths:
        found += sorted(path.rglob("*.onnx")) if path.is_dir() else [path]
    return found


def compare_pair(
    model: Path, lepton: Sequence[str], peer: Sequence[str], *, runs: int, timeout: float
) -> dict[str, object]:
    """Compare two command templates on one model over `runs` rounds.

    The first round that sees a failure is the last: its seconds mean nothing.

    Returns:
        `ok`, `ratio` (None unless both succeed), and the medians and raw runs of either side.
    """
    ratios: list[float] = []
    ours: list[measure.Run] = []
    theirs: list[measure.Run] = []
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            measure.fill(template, model, Path(folder, f"{side}.onnx"))
            for side, template in (("a", lepton), ("b", peer))
        ]
        for _ in range(runs):
            first, second = measure.abba(*commands, timeout=timeout)
            ours += first
            theirs += second
            if not all(r.ok for r in first + second):
                break
            ratios.append(measure.wall_ratio(first, second))
    good = all(r.ok for r in ours + theirs)
    return {
        "ok": good,
        "ratio": round(measure.median(ratios), 4) if good else None,
        "ratios": [round(r, 4) for r in ratios],
        "lepton": summary(ours),
        "peer": summary(theirs),
    }


def summary(runs: Sequence[measure.Run]) -> dict[str, object]:
    """Median seconds and peak of some runs of one command, with the runs themselves."""
    return {
        "ok": all(r.ok for r in runs),
        "wall": round(measure.median([r.wall for r in runs]), 4),
        "peak_mb": round(measure.median([r.peak_mb for r in runs]), 1),
        "runs": [r.as_json() for r in runs],
    }


def _cell(side: dict[str, object], key: str) -> object:
    return side[key] if side["ok"] else "failed"


def report(rows: Sequence[dict[str, object]]) -> str:
    """The table, and the geometric mean of the ratios for each peer."""
    lines = []
    for row in rows:
        ours, theirs = row["lepton"], row["peer"]
        assert isinstance(ours, dict)
        assert isinstance(theirs, dict)
        sides = [_cell(side, key) for key in ("wall", "peak_mb") for side in (ours, theirs)]
        ratio = row["ratio"]
        lines.append(
            [str(row["model"])[-40:], row["name"], *sides, "-" if ratio is None else ratio]
        )
    header = ["model", "peer", "lepton s", "peer s", "lepton MB", "peer MB", "ratio"]
    text = [measure.table(header, lines), ""]
    for name in dict.fromkeys(row["name"] for row in rows):
        ratios = [
            float(str(row["ratio"]))
            for row in rows
            if row["name"] == name and row["ratio"] is not None
        ]
        mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
        total = sum(row["name"] == name for row in rows)
        text.append(f"{name}: geometric mean {mean:.3f} over {len(ratios)} of {total} models")
    return "\n".join(text)


def parse_peers(names: str, custom: Sequence[str], python: str) -> dict[str, list[str]]:
    """Command templates of the named peers and of the `NAME=COMMAND` ones.

    Raises:
        KeyError: an unknown peer.
        ValueError: a custom peer without `=`.
    """
    peers = {n: measure.peer_template(n, python) for n in filter(None, names.split(","))}
    for text in custom:
        name, separator, command = text.partition("=")
        if not separator:
            raise ValueError(text)
        peers[name] = shlex.split(command)
    return peers


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help="files or folders")
    parser.add_argument("--peers", default="onnxsim", help=", ".join(measure.PEERS))
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--lepton", help="the program, instead of the installed lepton-opt")
    parser.add_argument("--options", default="--passes=O2")
    parser.add_argument("--runs", type=int, default=3, help="rounds for each pair")
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    try:
        peers = parse_peers(args.peers, args.peer, args.peer_python)
    except (KeyError, ValueError) as error:
        parser.error(f"not a peer: {error}")
    lepton = measure.lepton_template(args.lepton, args.options)
    rows: list[dict[str, object]] = []
    for model in find_models(args.models):
        for name, peer in peers.items():
            pair = compare_pair(model, lepton, peer, runs=args.runs, timeout=args.timeout)
            rows.append({"model": str(model), "name": name, **pair})
            print(f"{model.name} {name}: {pair['ratio']}", file=sys.stderr, flush=True)
    print(report(rows))
    if args.json:
        stored = {"environment": measure.environment(), "command": lepton, "rows": rows}
        args.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
