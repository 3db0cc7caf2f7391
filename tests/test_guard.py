"""`--guard=ort`: rewrites that cost onnxruntime a fusion are left out."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import F32, info, model
from test_cli import shell

from lepton_ir.backends.onnx.runner import census, latency
from lepton_ir.tools.guard import fused, lost_fusions

BREAKS = '''
"""A harmless rule, and one that is right but hides Gelu from onnxruntime."""
from __future__ import annotations

from dataclasses import dataclass

from lepton_ir import P, RewritePass, var
from lepton_ir.rewrite import rewrite


@dataclass(frozen=True)
class Breaks(RewritePass, name="breaks"):
    """Rewrite Erf and Identity."""

    @rewrite(P.erf(var("x")))
    def odd_erf(self, m, rw):
        """erf(x) => -erf(-x)."""
        if m.x.op is not None and m.x.op.name == "neg":
            return rw.fail("done")
        return rw.replace(m.root, rw.neg(rw.erf(rw.neg(m.x))))

    @rewrite(P.identity(var("x")))
    def no_identity(self, m, rw):
        """identity(x) => x."""
        return rw.replace(m.root, m.x, same=True)
'''


def gelu_net() -> onnx.ModelProto:
    """x -> Identity -> MatMul -> Add -> Gelu by Erf, and an Erf alone on another input."""
    root = np.float32(math.sqrt(2))
    nodes = [
        helper.make_node("Identity", ["x"], ["i"], name="/Identity"),
        helper.make_node("MatMul", ["i", "w"], ["m"], name="/MatMul"),
        helper.make_node("Add", ["m", "b"], ["a"], name="/Add"),
        helper.make_node("Div", ["a", "root"], ["d"], name="/Div"),
        helper.make_node("Erf", ["d"], ["e"], name="/Erf"),
        helper.make_node("Add", ["e", "one"], ["p"], name="/Add1"),
        helper.make_node("Mul", ["a", "p"], ["q"], name="/Mul"),
        helper.make_node("Mul", ["q", "half"], ["y"], name="/Mul1"),
        helper.make_node("Erf", ["z"], ["f"], name="/Erf1"),
    ]
    rows = [16, 64]
    return model(
        nodes,
        [info("x", F32, rows), info("z", F32, rows)],
        [info("y", F32, rows), info("f", F32, rows)],
        constants={
            "w": np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64),
            "b": np.linspace(-1, 1, 64, dtype=np.float32),
            "root": root,
            "one": np.float32(1),
            "half": np.float32(0.5),
        },
    )


@pytest.fixture
def folder(tmp_path):
    onnx.save(gelu_net(), tmp_path / "net.onnx")
    (tmp_path / "breaks.py").write_text(BREAKS, encoding="utf-8")
    return tmp_path


def test_rewrite_that_hides_a_fusion_is_left_out(folder):
    options = ("--plugin", folder / "breaks.py", "--passes=breaks", "--json")
    plain = shell(folder / "net.onnx", *options, "-o", folder / "plain.onnx")
    assert plain.returncode == 0, plain.stderr
    result = shell(folder / "net.onnx", *options, "--guard=ort", "-o", folder / "out.onnx")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["guard"]
    assert found["lost"] == {}
    left_out = {item["name"] for item in found["excluded"]}
    assert "breaks/odd_erf@/Erf" in left_out
    assert not any("no_identity" in name for name in left_out)
    assert "Gelu" in found["excluded"][0]["reason"]
    kinds = [fused(census(str(folder / f"{name}.onnx"))) for name in ("net", "plain", "out")]
    assert any("Gelu" in kind for kind in kinds[0])
    assert not any("Gelu" in kind for kind in kinds[1])
    assert any("Gelu" in kind for kind in kinds[2])
    assert "Identity" not in [n.op_type for n in onnx.load(folder / "out.onnx").graph.node]


def test_rule_that_steps_in_is_left_out_too(folder):
    text = BREAKS.replace('name="breaks"', 'name="steps_in"').replace("class Breaks", "class Steps")
    start, end = text.index("    @rewrite(P.erf"), text.index("    @rewrite(P.identity")
    rule = text[start:end]
    second = rule.replace("odd_erf", "second_erf").replace('var("x"))', 'var("x")), benefit=-1')
    (folder / "steps.py").write_text(text[:end] + second + text[end:], encoding="utf-8")
    options = ("--plugin", folder / "steps.py", "--passes=steps_in", "--json", "--guard=ort")
    result = shell(folder / "net.onnx", *options, "-o", folder / "out.onnx")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["guard"]
    names = " ".join(item["name"] for item in found["excluded"])
    assert "odd_erf" in names
    assert "second_erf" in names
    assert found["lost"] == {}


def test_report_says_that_nothing_is_lost(folder):
    result = shell(folder / "net.onnx", "--guard=ort", "--passes=canonicalize")
    assert result.returncode == 0, result.stderr
    assert "guard: no fusion of onnxruntime is lost" in result.stdout
    assert "guard: latency" in result.stdout


def test_census_counts_fused_operations(folder):
    found = census(str(folder / "net.onnx"))
    assert found["Erf"] == 1
    assert any(name.startswith("com.microsoft:") for name in found)


def test_latency_of_a_model_against_itself(folder):
    path = str(folder / "net.onnx")
    feeds = {n: np.ones((16, 64), np.float32) for n in ("x", "z")}
    found = latency(path, path, feeds, 0.3)
    assert found["cycles"] >= 5
    assert found["noise"] >= 1
    assert 0.2 < found["ratio"] < 5


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        # The pieces lie around.
        ({"com.microsoft:Gelu": 2}, {"com.microsoft:Gelu": 1, "Erf": 1}, {"Gelu": (2, 1)}),
        # The work itself is gone.
        ({"com.microsoft:Gelu": 2}, {"com.microsoft:Gelu": 1}, {}),
        # A better kind took its place, although an Erf came from elsewhere.
        ({"com.microsoft:Gelu": 1}, {"com.microsoft:BiasGelu": 1, "Erf": 1}, {}),
        # Three projections became one.
        ({"com.microsoft:FusedMatMul": 3}, {"com.microsoft:FusedMatMul": 1, "Split": 1}, {}),
        (
            {"com.microsoft.nchwc:Conv+Relu": 2},
            {"com.microsoft.nchwc:Conv": 2, "Max": 2},
            {"+Relu": (2, 0)},
        ),
        ({"com.microsoft:New": 1}, {"Add": 1}, {"New": (1, 0)}),
        ({"com.microsoft:FusedConv+Relu": 1}, {"com.microsoft.nchwc:Conv+Relu": 1}, {}),
    ],
)
def test_lost_fusions(before, after, lost):
    assert lost_fusions(before, after) == lost
