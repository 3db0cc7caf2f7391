"""Runs `lepton-opt` on cases, in a child with limits, and says what was not as promised."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bad_input.case import Case
from bad_input.judge import compare

MEMORY_KB = 2 * 1024 * 1024
MAX_LINES = 40
MAX_LINE = 400
SLACK_BYTES = 16 << 20
HASHED_BYTES = 64 << 20
PASSES, CHECK = "O2", "off"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Run:
    """How one run of the tool ended; `code` is negative for a signal, None when it was stopped."""

    code: int | None
    seconds: float
    peak_kb: int
    stopped: str = ""
    stdout: str = ""
    stderr: str = ""


@dataclass
class Outcome:
    """A case, how its run ended, and everything that broke a promise."""

    id: str
    group: str
    run: Run
    verdict: str = ""
    problems: list[str] = field(default_factory=list)


Launch = Callable[[Sequence[str], Path, float], Run]


def _peak_kb(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def _supervise(pid: int, seconds: float) -> Run:
    """Wait for a child that leads its own process group; stop it beyond its limits."""
    started = time.monotonic()
    stopped, peak = "", 0
    watch = os.pidfd_open(pid)
    try:
        while not select.select([watch], [], [], 0.02)[0]:
            peak = max(peak, _peak_kb(pid))
            elapsed = time.monotonic() - started
            if elapsed > seconds:
                stopped = f"still running after {elapsed:.1f} s"
            elif peak > MEMORY_KB:
                stopped = f"took {peak // 1024} MB after {elapsed:.1f} s"
            if stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                break
    finally:
        os.close(watch)
    _, status, usage = os.wait4(pid, 0)
    elapsed = time.monotonic() - started
    code = None if stopped else os.waitstatus_to_exitcode(status)
    return Run(code, elapsed, max(peak, usage.ru_maxrss), stopped)


def _streams(run: Run, folder: Path) -> Run:
    for name in ("stdout", "stderr"):
        with (folder / name).open("rb") as file:
            setattr(run, name, file.read(1 << 20).decode("utf-8", errors="surrogateescape"))
    return run


def spawned(argv: Sequence[str], folder: Path, seconds: float) -> Run:
    """Run the tool as a user does: a process of its own."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    )
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        child = subprocess.Popen(
            [sys.executable, "-m", "lepton_ir", *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder / "cwd",
            env=environment,
            start_new_session=True,
        )
        run = _supervise(child.pid, seconds)
        child.returncode = run.code if run.code is not None else -signal.SIGKILL
    return _streams(run, folder)


def _in_child(argv: Sequence[str], folder: Path) -> int:
    os.setsid()
    os.chdir(folder / "cwd")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(folder / "stdout", flags), 1)
    os.dup2(os.open(folder / "stderr", flags), 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    code = 70
    try:
        main = importlib.import_module("lepton_ir.tools.lepton_opt").main
        code = main(list(argv)) or 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def forked(argv: Sequence[str], folder: Path, seconds: float) -> Run:
    """Run the tool in a fork of this process, whose imports are warm: much less start-up."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 71
        try:
            code = _in_child(argv, folder)
        finally:
            os._exit(code & 0xFF)
    return _streams(_supervise(pid, seconds), folder)


def warm_up(folder: Path) -> Run:
    """Import everything that a usual run imports, into this process.

    Raises:
        RuntimeError: The tool fails on a sound model.
    """
    from bad_input.case import small_net

    (folder / "cwd").mkdir(parents=True, exist_ok=True)
    source, target = folder / "warm.onnx", folder / "warm.opt.onnx"
    source.write_bytes(small_net().SerializeToString())
    argv = [str(source), "-o", str(target), f"--passes={PASSES}", f"--check={CHECK}"]
    run = forked(argv, folder, 60.0)
    if run.code != 0:
        raise RuntimeError(f"the tool fails on a sound model: {run.code} {run.stderr[-2000:]}")
    # Only now in this process: a failure here would otherwise take the whole run down.
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        importlib.import_module("lepton_ir.tools.lepton_opt").main(argv)
    return run


def _signature(path: Path) -> str:
    info = path.lstat()
    kind = stat.S_IFMT(info.st_mode)
    if not stat.S_ISREG(info.st_mode):
        return f"{kind}"
    if info.st_size > HASHED_BYTES:
        return f"{kind} {info.st_size} {info.st_mtime_ns}"
    return f"{kind} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _snapshot(*folders: Path) -> dict[str, str]:
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            found[str(path)] = _signature(path)
    return found


def _where(case: Case, argument: str, target: Path) -> list[str]:
    """Names of which a refusal has to mention one; none where they are too long to print."""
    known = [Path(argument).name, *([target.name] if "-o" in case.args else [])]
    return known if all(0 < len(name) <= 60 for name in known) else []


def check_refusal(case: Case, run: Run, where: Sequence[str]) -> list[str]:
    """What is not as promised about a refusal's exit code and message."""
    problems = []
    lines = run.stderr.rstrip("\n").split("\n")
    if run.code != 1:
        problems.append(f"exit code {run.code} for a refusal")
    if not lines[0].startswith("error"):
        problems.append(f"first line is no error: {lines[0][:100]!r}")
    if (count := sum(line.startswith("error") for line in lines)) > 1:
        problems.append(f"{count} errors")
    if len(lines) > MAX_LINES:
        problems.append(f"message of {len(lines)} lines")
    if (longest := max(map(len, lines))) > MAX_LINE:
        problems.append(f"message line of {longest} characters")
    if where and not any(name in run.stderr for name in where):
        problems.append(f"message does not name the file ({where[0]})")
    problems += [f"message does not match {p!r}" for p in case.says if not _found(p, run.stderr)]
    return problems


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _check_streams(run: Run) -> list[str]:
    text = run.stderr + run.stdout
    problems = ["traceback"] if "Traceback (most recent call last)" in text else []
    if any((c < " " and c not in "\n\t") or c == "\x7f" or "\ud800" <= c < "\ue000" for c in text):
        problems.append("control characters in what is printed")
    return problems


def _check_kept(case: Case, source: Path, target: Path) -> tuple[str, list[str]]:
    if not target.is_file():
        return "", ["exit code 0 without an output file"]
    problems = []
    if target.stat().st_size > 2 * source.stat().st_size + SLACK_BYTES:
        problems.append(f"result of {target.stat().st_size >> 20} MB")
    if case.judge == "none" or source.suffix == ".lir":
        return "not judged", problems
    seconds = 20.0 if not case.heavy else 120.0
    verdict = compare(source, target, case.judge == "values", seconds)
    fine = verdict == "equal" or (case.expect == "either" and verdict.startswith("source: "))
    return verdict, problems if fine else [*problems, verdict]


def _prepare(case: Case, base: Path) -> tuple[list[str], Path, Path]:
    """Write the case; return its arguments, its model and where the result goes."""
    if base.exists():
        shutil.rmtree(base)
    folder, out = base / "case", base / "out"
    for path in (folder, out, base / "cwd"):
        path.mkdir(parents=True)
    argument = case.write(folder)
    extra = [text.replace("{dir}", str(folder)).replace("{out}", str(out)) for text in case.args]
    if "-o" not in extra:
        extra += ["-o", str(out / "result.onnx")]
    target = Path(extra[extra.index("-o") + 1])
    return [argument, *extra, f"--passes={PASSES}", f"--check={CHECK}"], Path(argument), target


def run_case(case: Case, base: Path, launch: Launch) -> Outcome:
    """Generate one case below `base`, run the tool on it, and judge what it did."""
    argv, source, target = _prepare(case, base)
    watched = (base / "case", base / "out", base / "cwd")
    before = _snapshot(*watched)
    run = launch(argv, base, case.seconds)
    outcome = Outcome(case.id, case.group, run)
    after = _snapshot(*watched)
    problems = outcome.problems
    if run.stopped:
        problems.append(run.stopped)
    elif run.code is not None and run.code < 0:
        problems.append(f"ended by {signal.Signals(-run.code).name}")
    elif run.peak_kb > MEMORY_KB:
        problems.append(f"took {run.peak_kb // 1024} MB")
    problems += _check_streams(run)
    problems += [f"changed {Path(p).name}" for p, s in before.items() if after.get(p) != s][:3]
    new = [Path(path) for path in after if path not in before]
    if run.code == 0:
        stray = [path for path in new if not str(path).startswith(str(target))]
        if case.expect == "refuse":
            problems.append("was accepted")
        else:
            outcome.verdict, found = _check_kept(case, source, target)
            problems += found
    else:
        stray = new
        outcome.verdict = "refused"
        if case.expect == "keep":
            problems.append("was refused")
        problems += check_refusal(case, run, _where(case, argv[0], target))
    problems += [f"left {path.name[:60]} behind" for path in stray[:3]]
    shutil.rmtree(base, ignore_errors=True)
    return outcome
