"""`--attribute`: what passes and rules change in latency and numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import F32, info, model
from test_cli import shell

from lepton_ir.diagnostics import LeptonError
from lepton_ir.tools.attribute import render, require


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Identity, MatMul, and a factor that fusion puts into the weight."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Identity", ["x"], ["i"], name="/Identity"),
        helper.make_node("MatMul", ["i", "w"], ["m"], name="/MatMul"),
        helper.make_node("Mul", ["m", "k"], ["y"], name="/Mul"),
    ]
    constants = {"w": w, "k": np.float32(0.3)}
    path = tmp_path / "net.onnx"
    made = model(nodes, [info("x", F32, [4, 16])], [info("y", F32, [4, 8])], 17, constants)
    onnx.save(made, path)
    return path


def attributed(net: Path, *options: str) -> dict[str, object]:
    run = shell(str(net), "--passes=canonicalize,fuse", "--json", *options)
    assert run.returncode == 0, run.stderr
    found: dict[str, object] = json.loads(run.stdout)["attributed"]
    return found


def test_differences_belong_to_the_pass_and_the_rule_that_make_them(net: Path) -> None:
    found = attributed(net, "--attribute=difference,rules")
    assert found["problem"] == ""
    assert [row["name"] for row in found["passes"]][:2] == ["canonicalize", "fuse"]
    exact, rounding = found["passes"][:2]
    assert exact["difference"]["relative"] == 0.0
    assert exact["difference"]["sqnr"] == "inf"
    assert 0 < rounding["difference"]["relative"] < 1e-5
    assert rounding["difference"]["output"] == "y"
    assert exact["latency"] is None
    total = found["total"]["difference"]["relative"]
    assert total == rounding["difference"]["relative"]
    rules = {row["name"]: row["difference"]["relative"] for row in found["rules"]}
    assert rules["canonicalize/drop_identity"] == 0.0
    assert rules["fuse/scale_into_matmul"] == total


def test_latency_is_measured_in_pairs(net: Path) -> None:
    pytest.importorskip("onnxruntime")
    found = attributed(net, "--attribute=latency", "--check=off")
    for row in [*found["passes"], found["total"]]:
        assert row["latency"]["ratio"] > 0
        assert row["latency"]["noise"] >= 1
        assert row["latency"]["cycles"] >= 5
        assert row["difference"] is None
    assert found["rules"] == []


def test_the_table_has_a_line_a_pass(net: Path) -> None:
    run = shell(str(net), "--attribute=difference", "--passes=canonicalize,fuse")
    lines = run.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "attribution by pass" in line)
    names = [line.split()[0] for line in lines[start + 1 : start + 4]]
    assert names[:2] == ["canonicalize", "fuse"]
    assert all(len(line) <= 80 for line in lines[start : start + 4])


def test_a_pipeline_that_changes_nothing_says_so(net: Path) -> None:
    run = shell(str(net), "--attribute=difference", "--passes=cse")
    assert "attribution: no pass changed anything" in run.stdout


def test_a_source_that_does_not_run_says_so(net: Path) -> None:
    made = onnx.load(net)
    made.graph.node[1].op_type, made.graph.node[1].domain = "Unknown", "some.domain"
    made.opset_import.append(helper.make_opsetid("some.domain", 1))
    onnx.save(made, net)
    found = attributed(net, "--attribute=difference", "--passes=canonicalize")
    assert "cannot load the source" in found["passes"][0]["difference"]["problem"]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [(("speed",), "called 'speed'"), (("rules",), "refinement of what is measured")],
)
def test_what_cannot_be_attributed_is_refused(kinds: tuple[str, ...], message: str) -> None:
    with pytest.raises(LeptonError, match=message):
        require(kinds)


def test_problems_stand_in_the_line() -> None:
    row = {"name": "fuse", "latency": {"problem": "out of time"}, "difference": None}
    found = {"problem": "", "passes": [row], "total": None, "rules": []}
    assert render(found, 46)[1].split() == ["fuse", "-", "-", "-", "out", "of", "time"]
