"""Run a model on this machine: `lepton-run MODEL`.

Inputs come from `--input name=file.npy` (repeatable; `.npz` files and folders without a name) or
`--random`. Prints a line per output, or with `--json` one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lepton_ir.diagnostics import LeptonError

if TYPE_CHECKING:
    from lepton_ir.backends.numba.session import Session

_SYMBOL = 2
"""Size of a symbolic dim in random inputs that no `--dim` fixes."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(prog="lepton-run", description="Run a model on this machine.")
    p.add_argument("model", metavar="MODEL", help="a model file, or a .lepton file")
    p.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="an input from a .npy file; or a .npz file with several",
    )
    p.add_argument("--random", action="store_true", help="random values for the other inputs")
    p.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help=f"size of a symbolic dim of random inputs (default {_SYMBOL})",
    )
    p.add_argument("--seed", type=int, default=0, help="of the random values (default 0)")
    p.add_argument("--threads", type=int, metavar="N", help="threads (default: all cores)")
    p.add_argument(
        "--target", default="host", metavar="MACHINE", help="host, generic, x86-64-v3, ..."
    )
    p.add_argument(
        "--passes", default="O2,integers", metavar="PIPELINE", help="what runs first (O2,integers)"
    )
    p.add_argument(
        "--precision",
        default="standard",
        choices=("fast", "standard", "high"),
        help="fast: algorithms that round two to five times as much; high: plain sums only",
    )
    p.add_argument("--output", metavar="FILE", help="write the outputs to a .npz file")
    p.add_argument(
        "--bench", nargs="?", type=float, const=2.0, metavar="SECONDS", help="measure the time"
    )
    p.add_argument(
        "--profile", action="store_true", help="which operation took which road and time"
    )
    p.add_argument("--plan", action="store_true", help="print the plan: kernels, memory")
    p.add_argument("--json", action="store_true", help="print JSON")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parser().parse_args(argv)
    try:
        report = _run(args)
    except LeptonError as error:
        if args.json:
            print(json.dumps({"error": error.as_json()}))
        sys.stderr.write(error.render() + "\n")
        return 1
    if args.json:
        print(json.dumps(report))
    return 0


def run() -> NoReturn:
    """Run the command line as a process of its own."""
    gc.disable()  # nothing that is made while starting becomes garbage
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking LLVM and NumPy apart takes longer than a run of a small model


def _run(args: argparse.Namespace) -> dict[str, Any]:
    import lepton_ir

    started = time.perf_counter()
    session: Session = lepton_ir.compile(
        args.model, args.target, args.threads, passes=args.passes, precision=args.precision
    )
    feeds = _feeds(session, args)
    loaded = time.perf_counter()
    gc.enable()
    outputs = session.run(None, feeds)
    first = time.perf_counter()
    report: dict[str, Any] = {
        "load_seconds": round(loaded - started, 4),
        "first_run_seconds": round(first - loaded, 4),
        "kernels_compiled": session.library.compiled,
        "threads": session.threads,
        "outputs": [_described(a, x) for a, x in zip(session.get_outputs(), outputs, strict=True)],
        "memory": _memory(session),
    }
    if args.bench is not None:
        report["bench"] = _bench(session, feeds, args.bench)
    if args.profile:
        report["profile"] = _profile(session, feeds, as_text=not args.json)
    if args.plan:
        from lepton_ir.backends.numba.dump import plan_text

        report["plan"] = plan_text(session)
    if args.output:
        import numpy as np

        named = {a.name: x for a, x in zip(session.get_outputs(), outputs, strict=True)}
        arrays: dict[str, Any] = {n: x for n, x in named.items() if isinstance(x, np.ndarray)}
        np.savez(args.output, **arrays)
    if not args.json:
        _print(report)
    return report


def _feeds(session: Session, args: argparse.Namespace) -> dict[str, Any]:
    feeds: dict[str, Any] = {}
    for item in args.input:
        from lepton_ir.feeds import load_feeds

        name, _, path = item.rpartition("=")
        for found in load_feeds([path]):
            feeds.update({name: next(iter(found.values()))} if name else found)
    if args.random:
        feeds = {**_random(session, args), **feeds}
    return feeds


def _random(session: Session, args: argparse.Namespace) -> dict[str, Any]:
    from lepton_ir import dims
    from lepton_ir.compare import draw
    from lepton_ir.types import TensorType

    sizes = {}
    for item in args.dim:
        name, _, size = item.partition("=")
        if not size.isdigit():
            raise LeptonError(f"{item!r} is not NAME=SIZE", code="usage")
        sizes[name] = int(size)
    inputs = []
    for value in session.module.main.inputs:
        t = value.type
        if not isinstance(t, TensorType) or t.dtype is None or t.shape is None:
            raise LeptonError(f"no random values for {value}", code="usage", hint="use --input")
        shape = []
        for dim in t.shape:
            names = () if dim is None or isinstance(dim, int) else dims.symbols(dim)
            env = {n: sizes.get(n, _SYMBOL) for n in names}
            shape.append(_SYMBOL if dim is None else dims.evaluate(dim, env))
        inputs.append((value.name or "", t.dtype.numpy.name, shape))
    return draw(inputs, args.seed, _SYMBOL)


def _described(arg: Any, value: Any) -> dict[str, Any]:
    import numpy as np

    if not isinstance(value, np.ndarray):
        return {"name": arg.name, "type": type(value).__name__}
    found = {"name": arg.name, "shape": list(value.shape), "dtype": value.dtype.name}
    if value.size and value.dtype.kind in "fiu":
        wide = value.astype(np.float64)
        found |= {"min": float(wide.min()), "max": float(wide.max()), "mean": float(wide.mean())}
    return found


def _memory(session: Session) -> dict[str, int]:
    segments = session.segments()
    return {
        "arena_bytes": max((s.arena_bytes for s in segments), default=0),
        "intermediates_bytes": sum(s.sum_bytes for s in segments),
        "packed_weights_bytes": session.constants.nbytes,
    }


def _bench(session: Session, feeds: dict[str, Any], seconds: float) -> dict[str, float]:
    import statistics

    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        started = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - started)
    return {
        "runs": len(times),
        "median_ms": 1e3 * statistics.median(times),
        "best_ms": 1e3 * min(times),
        "worst_ms": 1e3 * max(times),
    }


def _profile(session: Session, feeds: dict[str, Any], *, as_text: bool) -> Any:
    from dataclasses import asdict

    from lepton_ir.backends.numba.profile import Profile

    session.profile = Profile()
    for _ in range(3):
        session.run(None, feeds)
    profile, session.profile = session.profile, None
    return profile.render() if as_text else [asdict(e) for e in profile.entries.values()]


def _print(report: dict[str, Any]) -> None:
    for out in report["outputs"]:
        rest = ", ".join(f"{k} {v:.6g}" for k, v in out.items() if isinstance(v, float))
        print(f"{out['name']}: {out.get('dtype', out.get('type'))}{out.get('shape', '')}  {rest}")
    memory = report["memory"]
    print(
        f"loaded in {report['load_seconds']:.3f} s, first run {report['first_run_seconds']:.3f} s, "
        f"{report['kernels_compiled']} kernels compiled; arena "
        f"{memory['arena_bytes'] / 1e6:.1f} MB of {memory['intermediates_bytes'] / 1e6:.1f} MB"
    )
    if "bench" in report:
        bench = report["bench"]
        print(
            f"{bench['runs']} runs with {report['threads']} threads: median "
            f"{bench['median_ms']:.3f} ms, best {bench['best_ms']:.3f}, "
            f"worst {bench['worst_ms']:.3f}"
        )
    for part in ("profile", "plan"):
        if part in report:
            print(report[part])


if __name__ == "__main__":
    run()
