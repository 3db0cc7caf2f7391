"""The corpus of bad and odd inputs, and the command that writes, verifies and runs it.

    python tests/bad_input/corpus.py --list
    python tests/bad_input/corpus.py --write FOLDER
    python tests/bad_input/corpus.py --verify
    python tests/bad_input/corpus.py --run [--jobs 2] [--class bomb] [--name PART] [--fork]

Every case is generated from code, with fixed seeds; nothing is stored.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, not `tests`
    sys.path[:1] = [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]

from bad_input import bombs, contents, external, files, odd, runner, structure, text, tflite
from bad_input.case import Case
from bad_input.judge import compare
from bad_input.runner import Outcome, forked, run_case, spawned, warm_up

_MODULES = (files, structure, contents, external, bombs, odd, text, tflite)


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case, in a fixed order.

    Raises:
        ValueError: Two cases have the same name.
    """
    found = tuple(case for module in _MODULES for case in module.cases())
    twice = [name for name, count in Counter(case.id for case in found).items() if count > 1]
    if twice:
        raise ValueError(f"cases defined twice: {twice}")
    return found


def select(groups: Sequence[str], part: str, heavy: bool) -> list[Case]:
    """The cases of the given classes whose name contains `part`."""
    return [
        case
        for case in all_cases()
        if (not groups or case.group in groups) and part in case.id and (heavy or not case.heavy)
    ]


def _one(task: tuple[str, str, bool]) -> Outcome:
    name, base, fork = task
    case = next(case for case in all_cases() if case.id == name)
    folder = Path(base) / name.replace("/", "--")
    return run_case(case, folder, forked if fork else spawned)


def run(cases: Iterable[Case], base: Path, *, fork: bool, jobs: int) -> Iterator[Outcome]:
    """Run cases one after another, or in `jobs` processes; outcomes come in the cases' order."""
    if fork:
        warm_up(base / "warm-up")
    tasks = [(case.id, str(base), fork) for case in cases]
    if jobs <= 1:
        yield from map(_one, tasks)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_one, tasks)


def table(outcomes: Sequence[Outcome]) -> str:
    """One line per class: cases, refused, kept, failures, slowest, largest."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.group].append(outcome)
    groups["TOTAL"] = list(outcomes)
    lines = [
        f"{'class':16} {'cases':>5} {'refused':>7} {'kept':>5} {'FAILED':>6} {'s':>6} {'MB':>6}"
    ]
    for group, members in groups.items():
        kept = sum(o.run.code == 0 for o in members)
        failed = sum(bool(o.problems) for o in members)
        slowest = max((o.run.seconds for o in members), default=0.0)
        largest = max((o.run.peak_kb for o in members), default=0) // 1024
        counts = f"{len(members):5} {len(members) - kept:7} {kept:5} {failed:6}"
        lines.append(f"{group:16} {counts} {slowest:6.2f} {largest:6}")
    return "\n".join(lines)


def describe(outcome: Outcome) -> str:
    """A failed case with its problems and the start of its message."""
    message = outcome.run.stderr.strip().split("\n")
    shown = message[-1] if "traceback" in outcome.problems else message[0]
    return f"{outcome.id}: {'; '.join(outcome.problems)}\n    | {shown[:200]}"


def verify(cases: Iterable[Case]) -> int:
    """Generate every case; run the source of those to keep in onnxruntime. Count of failures."""
    failures, started, count, size = 0, time.monotonic(), 0, 0
    for case in cases:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "case"
            folder.mkdir()
            try:
                path = Path(case.write(folder))
            except Exception as error:
                print(f"{case.id}: cannot be generated: {type(error).__name__}: {error}")
                failures += 1
                continue
            count += 1
            size += sum(p.lstat().st_size for p in folder.rglob("*.onnx") if p.is_file())
            if case.judge == "none" or case.expect == "refuse" or path.suffix == ".lir":
                continue
            before = time.monotonic()
            verdict = compare(path, path, case.judge == "values", 120.0)
            if (seconds := time.monotonic() - before) > 2:
                print(f"{case.id}: onnxruntime takes {seconds:.1f} s for source and source")
            if case.expect == "keep" and verdict != "equal":
                failures += 1
                print(f"{case.id}: to be kept, but {verdict[:300]}")
    print(f"{count} cases, {size >> 20} MB, {time.monotonic() - started:.1f} s, {failures} wrong")
    return failures


def _run(cases: list[Case], options: argparse.Namespace) -> int:
    outcomes = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lepton-bad-") as temporary:
        for outcome in run(cases, Path(temporary), fork=options.fork, jobs=options.jobs):
            outcomes.append(outcome)
            if outcome.problems:
                print(describe(outcome), flush=True)
            elif options.show:
                first = outcome.run.stderr.strip().replace("\n", "\n    | ")
                print(f"{outcome.id}: {outcome.verdict}\n    | {first}", flush=True)
    print(table(outcomes))
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    print(f"{len(outcomes)} cases, {failed} failed, {time.monotonic() - started:.1f} s")
    return int(failed > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """The command described at the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true", help="print every case and the counts")
    parser.add_argument("--write", metavar="FOLDER", help="write the corpus as files")
    parser.add_argument("--verify", action="store_true", help="check the generator itself")
    parser.add_argument("--run", action="store_true", help="run lepton-opt on every case")
    parser.add_argument("--fork", action="store_true", help="fork a warm process for each case")
    parser.add_argument("--show", action="store_true", help="print the messages of good cases too")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--passes", default="O2", help="the pipeline to run")
    parser.add_argument("--check", default="off", help="how lepton-opt checks its results")
    parser.add_argument("--class", dest="groups", action="append", default=[], metavar="CLASS")
    parser.add_argument("--name", default="", help="only cases whose name contains this")
    parser.add_argument("--heavy", action="store_true", help="also chains of 100,000 nodes")
    options = parser.parse_args(argv)
    runner.PASSES, runner.CHECK = options.passes, options.check
    cases = select(options.groups, options.name, options.heavy)
    if options.list:
        for case in cases:
            print(f"{case.expect:7} {case.id}")
        expected = Counter(case.expect for case in cases)
        print(f"{len(cases)} cases: {dict(expected)}\n{dict(Counter(c.group for c in cases))}")
    if options.write:
        for case in cases:
            folder = Path(options.write) / case.group / case.name
            folder.mkdir(parents=True)
            case.write(folder)
    code = 0
    if options.verify:
        code |= int(verify(cases) > 0)
    if options.run:
        code |= _run(cases, options)
    return code


if __name__ == "__main__":
    sys.exit(main())
