"""Growth of an optimizer's CPU time with the size of the model, for each synthetic family.

    python -m lepton_ir.tools.bench.growth --sizes 10000,30000,100000 --max-exponent 1.1

The exponent is the slope of log(seconds) over log(nodes) by least squares. Start-up flattens it,
so `net` fits the seconds left after the time of a one-unit model is taken off: the honest figure.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lepton_ir.tools.bench import measure

FAMILIES = ("chain", "wide", "transformer", "duplicates", "transposes")
SMALLEST = 50
CLOCKS: dict[str, Callable[[measure.Run], float]] = {
    "user": lambda run: run.user,
    "cpu": lambda run: run.user + run.system,
    "wall": lambda run: run.wall,
}


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Least-squares slope of log(seconds) over log(sizes).

    NaN below two different sizes, or where a time is not positive.
    """
    if len(set(sizes)) < 2 or min(seconds) <= 0:
        return math.nan
    xs, ys = [math.log(s) for s in sizes], [math.log(s) for s in seconds]
    x0, y0 = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    covariance = math.fsum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True))
    return covariance / math.fsum((x - x0) ** 2 for x in xs)


def write_model(python: str, family: str, nodes: int, path: Path) -> None:
    """Write a synthetic model in a process of its own, to keep this one small.

    Raises:
        subprocess.CalledProcessError: the generator failed.
    """
    script = Path(__file__).with_name("synthetic.py")
    command = [python, str(script), family, "--nodes", str(nodes), "-o", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def grow(
    family: str,
    template: Sequence[str],
    sizes: Sequence[int],
    *,
    repeat: int,
    timeout: float,
    clock: str,
    python: str = sys.executable,
) -> dict[str, object]:
    """Time one command over the sizes of one family.

    Sizes go up, then down, and so on, which spreads a drift of the machine over all of them.

    Returns:
        Median seconds and peak for each size, the time of the smallest model, both exponents
        (None if a run failed), and the failures.
    """
    points = [SMALLEST, *sizes]
    runs: dict[int, list[measure.Run]] = {n: [] for n in points}
    with tempfile.TemporaryDirectory() as folder:
        models = {n: Path(folder, f"{family}{n}.onnx") for n in points}
        for nodes, path in models.items():
            write_model(python, family, nodes, path)
        for turn in range(repeat):
            for nodes in points if turn % 2 == 0 else reversed(points):
                command = measure.fill(template, models[nodes], Path(folder, "out.onnx"))
                runs[nodes].append(measure.run(command, timeout=timeout))
    seconds = {n: measure.median([CLOCKS[clock](r) for r in runs[n]]) for n in points}
    failures = [f"{n}: {r.status} {r.output}" for n in points for r in runs[n] if not r.ok]
    net = [seconds[n] - seconds[SMALLEST] for n in sizes]
    fits = {"exponent": slope(sizes, [seconds[n] for n in sizes]), "net": slope(sizes, net)}
    return {
        "family": family,
        "seconds": {n: round(seconds[n], 4) for n in points},
        "peak_mb": {n: round(measure.median([r.peak_mb for r in runs[n]]), 1) for n in points},
        **{k: None if failures or math.isnan(v) else round(v, 4) for k, v in fits.items()},
        "failures": failures,
    }


def report(rows: Sequence[dict[str, object]], sizes: Sequence[int]) -> str:
    """One line a family: seconds at each size, both exponents, peak at the largest."""
    lines = []
    for row in rows:
        seconds, peak = row["seconds"], row["peak_mb"]
        assert isinstance(seconds, dict)
        assert isinstance(peak, dict)
        timed = [seconds[n] for n in (SMALLEST, *sizes)]
        lines.append([row["family"], *timed, row["exponent"], row["net"], peak[sizes[-1]]])
    return measure.table(["seconds", SMALLEST, *sizes, "exponent", "net", "peak MB"], lines)


def _sizes(text: str) -> list[int]:
    return sorted({int(part) for part in text.split(",")})


def _command(args: argparse.Namespace) -> list[str]:
    if args.command:
        return shlex.split(args.command)
    if args.peer:
        return measure.peer_template(args.peer, args.peer_python)
    return measure.lepton_template(args.lepton, args.options)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--sizes", type=_sizes, default=[10_000, 30_000, 100_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="user")
    parser.add_argument("--peer", choices=measure.PEERS, help="measure a peer instead")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--command", help="measure any command with {in} and {out} instead")
    parser.add_argument("--lepton", help="the program, instead of the installed lepton-opt")
    parser.add_argument("--options", default="--passes=O2 --check=off")
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--max-exponent", type=float)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    args.families = args.families.split(",")
    if unknown := set(args.families) - set(FAMILIES):
        parser.error(f"unknown families: {', '.join(sorted(unknown))}")
    if args.sizes[0] <= SMALLEST:
        parser.error(f"sizes must be above {SMALLEST}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exits 1 if a run fails or an exponent exceeds `--max-exponent`."""
    args = _parse(argv)
    command = _command(args)
    options = {"repeat": args.repeat, "timeout": args.timeout, "clock": args.clock}
    rows = []
    for family in args.families:
        rows.append(grow(family, command, args.sizes, **options))
        print(report(rows[-1:], args.sizes), file=sys.stderr, flush=True)
    print(report(rows, args.sizes))
    for row in rows:
        for failure in row["failures"] if isinstance(row["failures"], list) else ():
            print(f"failed: {row['family']} {failure}")
    if args.json:
        stored = {"environment": measure.environment(), "command": command, "rows": rows}
        args.json.write_text(json.dumps(stored, indent=1) + "\n")
    limit = math.inf if args.max_exponent is None else args.max_exponent
    return 0 if all(_within(row["net"], limit) for row in rows) else 1


def _within(exponent: object, limit: float) -> bool:
    return isinstance(exponent, float) and exponent <= limit


if __name__ == "__main__":
    sys.exit(main())
