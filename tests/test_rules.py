from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from lepton_ir.tools import known_names, rules
from lepton_ir.tools.rules import RuleReport, attach_cases, catalogue, golden_cases

REPORTS = catalogue()
attach_cases(REPORTS, golden_cases())


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: r.keys[0])
def test_every_rule_has_both_golden_cases_and_a_published_pattern(report: RuleReport) -> None:
    lacks = ", ".join(report.lacks())
    assert not lacks, f"{report.keys[0]} lacks {lacks}; see CONTRIBUTING.md, Tests"


def test_every_name_in_a_case_is_a_rule() -> None:
    names, patterns = known_names.rule_names()
    for place, case in golden_cases():
        for name in [*case.rules(), *(name for name, _ in case.nots())]:
            known = name in names or any(fnmatchcase(name, p) for p in patterns)
            assert known, f"{place}: no rule is called {name}"


def test_a_rule_that_two_passes_share_is_one() -> None:
    shared = next(r for r in REPORTS if r.name == "merge_views")
    assert shared.keys == (
        "canonicalize/merge_views",
        "channels_first/merge_views",
        "layout/merge_views",
    )


MODEL = """// RUN: canonicalize,dce
// ===== a neutral element
// RULE: add_zero
// PUBLISHED: everybody
func @main(%x: f32[N]) {
  %o = const() {value=-0.0} : f32[]
  %y = add(%x, %o)
  return(%y)
}
// ===== another
// NOT: add_zero
func @main(%x: f32[N]) {
  %o = const() {value=1.0} : f32[]
  %y = add(%x, %o)
  return(%y)
}
"""


def test_the_report_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    (tmp_path / "a.lir").write_text(MODEL, encoding="utf-8")
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["a"]),
        onnx.helper.make_node("Exp", ["a"], ["y"]),
    ]
    info = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N"]) for n in ("x", "y")
    ]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:])
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "m.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    arguments = ["--golden", str(tmp_path), "--models", str(tmp_path), "--jobs", "1"]

    assert rules.main([*arguments, "--json"]) == 1  # the other rules have no case here
    found = {row["rule"]: row for row in json.loads(capsys.readouterr().out)}
    zero, identity = found["add_zero"], found["drop_identity"]
    assert (zero["positive"], zero["negative"]) == (["a.lir:2"], ["a.lir:10"])
    assert zero["published"] == {"a.lir:2": "everybody"}
    assert zero["lacks"] == []
    assert identity["models"] == {f"{tmp_path.name}/m": dict.fromkeys(rules.SETTINGS, 1)}
    assert identity["lacks"] == ["a positive case (RULE)", "a negative case (NOT)"]

    assert rules.main(arguments) == 1
    table = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in table)
    assert any(line.split()[:5] == ["add_zero", "1", "1", "0", "everybody"] for line in table)
