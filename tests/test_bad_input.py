"""Every malformed, hostile or odd input ends as promised: see `bad_input/corpus.py`."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input.case import Case
from bad_input.corpus import all_cases, select
from bad_input.judge import compare
from bad_input.runner import Run, check_refusal, forked, run_case, spawned, warm_up

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits are read from /proc")
QUICK = select([], "", heavy=False)
GROUPS = list(dict.fromkeys(case.group for case in all_cases()))


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    # Short paths: a Unix socket's name has 108 characters at most.
    with tempfile.TemporaryDirectory(prefix="bad-") as folder:
        warm_up(Path(folder) / "warm-up")
        yield Path(folder)


def _report(case: Case, problems: list[str], run: Run) -> str:
    text = "\n".join(f"  {problem}" for problem in problems)
    return f"{case.id} (expected: {case.expect})\n{text}\nstderr:\n{run.stderr[:2000]}"


@linux_only
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
def test_bad_input(case: Case, warm: Path) -> None:
    outcome = run_case(case, warm / "run", forked)
    assert not outcome.problems, _report(case, outcome.problems, outcome.run)


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_bad_input_in_a_process_of_its_own(case: Case, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bad-") as folder:
        outcome = run_case(case, Path(folder) / "run", spawned)
    assert not outcome.problems, _report(case, outcome.problems, outcome.run)


@linux_only
@pytest.mark.parametrize("group", GROUPS)
def test_one_of_each_class_in_a_process_of_its_own(group: str) -> None:
    # The forked runs share one warm process: this one sees what start-up adds.
    case = next(case for case in QUICK if case.group == group)
    with tempfile.TemporaryDirectory(prefix="bad-") as folder:
        outcome = run_case(case, Path(folder) / "run", spawned)
    assert not outcome.problems, _report(case, outcome.problems, outcome.run)


def test_corpus_covers_the_promised_classes() -> None:
    counts = Counter(case.expect for case in all_cases())
    assert sum(counts.values()) >= 230
    assert min(counts[kind] for kind in ("refuse", "keep", "either")) >= 50
    assert len(GROUPS) >= 25


def test_corpus_is_the_same_every_time(tmp_path: Path) -> None:
    # Cases that embed their folder in the file (absolute locations, pickles) are left out.
    groups = ("truncated", "bitflip", "cycle", "function", "attribute", "number", "control")
    for case in all_cases():
        if case.group not in groups:
            continue
        folder = tmp_path / "case"
        written = []
        for _ in range(2):
            folder.mkdir()
            path = Path(case.write(folder))
            written.append(path.read_bytes())
            path.unlink()
            folder.rmdir()
        assert written[0] == written[1], case.id


@pytest.mark.parametrize(
    ("stderr", "problem"),
    [
        ("warning: x\n", "first line is no error"),
        ("error: model.onnx: a\nerror: b\n", "2 errors"),
        ("error: model.onnx: " + "a" * 500, "characters"),
        ("error: model.onnx\n" + "  note: x\n" * 60, "lines"),
        ("error: something is wrong\n", "does not name the file"),
    ],
)
def test_a_bad_message_is_noticed(stderr: str, problem: str) -> None:
    case = next(case for case in all_cases() if case.id == "format/png")
    found = check_refusal(case, Run(1, 0.1, 1, stderr=stderr), ["model.onnx"])
    assert any(problem in text for text in found), found


def test_a_wrong_result_is_noticed(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    paths = []
    for name in ("nan-add", "nan-mul", "largest-add", "inf-add"):
        case = next(case for case in all_cases() if case.id == f"number/{name}")
        (tmp_path / name).mkdir()
        paths.append(Path(case.write(tmp_path / name)))
    assert compare(paths[0], paths[0]) == "equal"
    assert compare(paths[2], paths[3]).startswith("mismatch")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"broken")
    assert compare(broken, paths[0]).startswith("source: ")
    assert compare(paths[0], broken).startswith("result: ")
