from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_ir.testing.golden import (
    GoldenFailure,
    check_case,
    check_numeric,
    read_golden,
    run_case,
    update_file,
    updated,
)
from lepton_ir.text.parse import parse_module

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.rglob("*.lir"))

TEXT = """// RUN: cse,dce
// ===== merges
func @main(%x: f32[N]) {
  %a = exp(%x)
  %b = exp(%x)
  %c = add(%a, %b)
  return(%c)
}
// ===== fails
// EXPECT-ERROR: contradicts
func @main(%x: f32[2]) {
  %y = exp(%x) : f32[3]
  return(%y)
}
"""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(GOLDEN)))
def test_updating_changes_nothing(path: Path) -> None:
    assert updated(path) == path.read_text("utf-8")
    for case in read_golden(path)[1]:
        check_case(case, str(path))


def test_update_writes_results_and_is_stable(tmp_path: Path) -> None:
    path = tmp_path / "t.lir"
    path.write_text(TEXT, encoding="utf-8")
    assert update_file(path)
    assert not update_file(path)
    text = path.read_text("utf-8")
    assert "%c = add(%a, %a) : f32[N]" in text
    _, cases = read_golden(path)
    assert [c.name for c in cases] == ["merges", "fails"]
    for case in cases:
        check_case(case, str(path))


def test_a_changed_result_fails_with_a_diff(tmp_path: Path) -> None:
    path = tmp_path / "t.lir"
    path.write_text(TEXT, encoding="utf-8")
    update_file(path)
    path.write_text(path.read_text("utf-8").replace("add(%a, %a)", "mul(%a, %a)"))
    with pytest.raises(GoldenFailure, match=r"(?s)-.*mul\(%a, %a\).*\+.*add\(%a, %a\)"):
        check_case(read_golden(path)[1][0], str(path))


def test_a_missing_error_fails(tmp_path: Path) -> None:
    path = tmp_path / "t.lir"
    path.write_text(TEXT.replace(": f32[3]", ": f32[2]"), encoding="utf-8")
    with pytest.raises(GoldenFailure, match="no error"):
        check_case(read_golden(path)[1][1], str(path))


RULES = """// RUN: canonicalize,cse,dce
// ===== a neutral element
func @main(%x: f32[N]) {
  %o = const() {value=0.0} : f32[]
  %a = add(%x, %o)
  %b = exp(%a)
  %c = exp(%a)
  %d = mul(%b, %c)
  return(%d)
}
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RULE: canonicalize/add_zero", ""),
        ("RULE: cse/add_zero", "the rule cse/add_zero is not applied, these are: canonicalize/"),
        ("NOT: merge_constants", ""),
        ("NOT: add_zero", "the rule add_zero is applied"),
        ("NOT: where_not", "the rule where_not is never tried"),
        ("NOT: times_one: not a constant", "the rule times_one did not say: not a constant"),
        ("NOT: merge_constants: no reason at all", "did not say: no reason at all"),
        ("PUBLISHED: an exporter", "where the pattern of a // RULE: is from"),
    ],
)
def test_rules_are_applied_or_not_as_the_case_says(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "t.lir"
    path.write_text(RULES.replace("func", f"// {line}\nfunc", 1), encoding="utf-8")
    update_file(path)
    case = read_golden(path)[1][0]
    if not message:
        check_case(case, str(path))
        return
    with pytest.raises(GoldenFailure, match=message):
        check_case(case, str(path))


def test_errors_name_the_line_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.lir"
    path.write_text(TEXT, encoding="utf-8")
    outcome = run_case(read_golden(path)[1][1], str(path))
    assert outcome.error is not None
    assert f"{path}:12:" in outcome.error.render() or ":12:" in outcome.error.render()


def test_wrong_numbers_are_found() -> None:
    a = parse_module("func @main(%x: f32[N]) { %y = exp(%x) return(%y) }")
    b = parse_module("func @main(%x: f32[N]) { %y = tanh(%x) return(%y) }")
    check_numeric(a, a, {})
    with pytest.raises(GoldenFailure, match="not bit-identical"):
        check_numeric(a, b, {})
    with pytest.raises(GoldenFailure, match="largest difference"):
        check_numeric(a, b, {"rtol": 1e-3})


def test_the_pytest_plugin_collects_updates_and_reports(tmp_path: Path) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    (folder / "t.lir").write_text(TEXT, encoding="utf-8")
    code = (
        "import sys, pytest\n"
        "from lepton_ir.testing import plugin\n"
        "sys.exit(pytest.main(sys.argv[1:], plugins=[plugin]))"
    )

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        args = [sys.executable, "-c", code, "-p", "no:cacheprovider", *options, "."]
        return subprocess.run(
            args, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120
        )

    failed = run()
    assert failed.returncode == 1
    assert "write it with --update-golden" in failed.stdout
    assert "Traceback" not in failed.stdout
    assert run("--update-golden").returncode == 0
    passed = run("--golden-remarks")
    assert passed.returncode == 0
    assert "2 passed" in passed.stdout
