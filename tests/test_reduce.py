"""`lepton-opt reduce`: small models that fail as large ones do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import F32, info, model
from test_cli import WRONG, shell

from lepton_ir import api
from lepton_ir.diagnostics import LeptonError
from lepton_ir.pipeline import count_ops
from lepton_ir.text.parse import parse_module
from lepton_ir.tools.reduce import failure_of, shrink
from lepton_ir.tools.reduce_regions import opened, openings
from lepton_ir.verify import verify_module

REFUSES = '''
"""A pass that refuses models with Tanh."""
from __future__ import annotations

from dataclasses import dataclass

from lepton_ir.diagnostics import LeptonError
from lepton_ir.pipeline import Pass


@dataclass(frozen=True)
class Refuses(Pass, name="refuses"):
    """Refuse Tanh."""

    def run(self, module, ctx):
        """Raise."""
        for op in module.walk():
            if op.name == "tanh":
                raise LeptonError(f"cannot do {op.node_name!r}", code="refuses")
'''


def deep(layers: int = 12) -> onnx.ModelProto:
    """Layers of MatMul and Relu, with one Add and one Tanh in the middle, and two outputs."""
    rng = np.random.default_rng(0)
    nodes, constants, name = [], {}, "x"
    for i in range(layers):
        constants[f"w{i}"] = (rng.standard_normal((16, 16)) / 4).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"m{i}"], name=f"/MatMul{i}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"], name=f"/Relu{i}"))
        name = f"r{i}"
        if i == layers // 2:
            constants["bias"] = rng.standard_normal(16).astype(np.float32)
            nodes.append(helper.make_node("Add", [name, "bias"], ["a"], name="/Add"))
            nodes.append(helper.make_node("Tanh", ["a"], ["t"], name="/Tanh"))
            name = "t"
    nodes.append(helper.make_node("Exp", ["r0"], ["e"], name="/Exp"))
    return model(
        nodes,
        [info("x", F32, ["N", 16])],
        [info(name, F32, ["N", 16]), info("e", F32, ["N", 16])],
        constants=constants,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(deep(), tmp_path / "deep.onnx")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    (tmp_path / "refuses.py").write_text(REFUSES, encoding="utf-8")
    return tmp_path


def test_wrong_rewrite_shrinks_to_one_node(folder):
    options = ("--plugin", folder / "wrong.py", "--passes=canonicalize,wrong,dce,cse")
    result = shell("reduce", folder / "deep.onnx", *options, "--seconds=60")
    assert result.returncode == 0, result.stderr
    path = folder / "deep.reduced.lir"
    module = api.load(str(path))
    assert [op.name for op in module.main.walk()] == ["const", "add", "return"]
    assert "0.5" in path.read_text("utf-8")
    assert "--passes=wrong\n" in result.stdout
    assert not list(folder.glob("*.npz"))
    again = shell("--plugin", folder / "wrong.py", "--run-reproducer", path)
    assert again.returncode == 1
    assert "the result is wrong" in again.stderr


def test_refusal_keeps_its_message(folder):
    options = ("--plugin", folder / "refuses.py", "--passes=refuses,cse", "--check=off")
    out = folder / "small.onnx"
    result = shell("reduce", folder / "deep.onnx", *options, "-o", out)
    assert result.returncode == 0, result.stderr
    assert [n.op_type for n in onnx.load(out).graph.node] == ["Tanh"]
    assert "refuses: cannot do #" in result.stdout
    assert re.search(r"nodes +\d+ -> +1\b", result.stdout)


def test_what_does_not_fail_is_an_error(folder):
    result = shell("reduce", folder / "deep.onnx", "--passes=O1", "--check=off")
    assert result.returncode == 1
    assert "does not fail" in result.stderr
    assert not (folder / "deep.reduced.lir").exists()


def test_failing_check_calls_it(folder):
    options = ("--plugin", folder / "wrong.py", "--passes=canonicalize,wrong,dce")
    result = shell(folder / "deep.onnx", *options, "--reduce=60")
    assert result.returncode == 1
    assert "reduced: " in result.stderr
    assert count_ops(api.load(str(folder / "deep.opt.reduced.lir"))) == 1
    assert (folder / "deep.opt.repro.lir").exists()


def test_time_is_bounded(folder):
    options = ("--plugin", folder / "wrong.py", "--passes=wrong", "--seconds=0.001")
    result = shell("reduce", folder / "deep.onnx", *options)
    assert result.returncode == 0, result.stderr
    assert "the time is up" in result.stdout


def test_shrink_finds_all_that_is_needed():
    assert shrink(list(range(100)), lambda kept: {1, 50, 99} <= set(kept)) == [1, 50, 99]
    assert shrink([1, 2, 3], lambda kept: False) == [1, 2, 3]
    assert shrink([1, 2, 3], lambda kept: True) == [3]


def test_failures_are_compared_without_names_and_numbers():
    first = failure_of(LeptonError("node 'a' has 3 of 4", code="x"))
    assert first == failure_of(LeptonError("node 'bb' has 5 of 17", code="x"))
    assert first != failure_of(LeptonError("node 'a' has 3 of 4", code="y"))


REGIONS = """
func @main(%x: f32[4,3], %h0: f32[3], %c: bool[]) {
  %n = const() {value=4} : i64[]
  %y, %z = if(%c) {
    %e = exp(%x)
    %h, %s = scan(%h0, %e) {num_scan_inputs=1} (%hp: f32[3], %r: f32[3]) {
      %a = mul(%hp, %r)
      %b = sin(%a)
      %t = OP(%b)
      yield(%t, %t)
    }
    %k = loop(%n, _, %h) (%i: i64[], %g: bool[], %v: f32[3]) {
      %w = cos(%v)
      %q = abs(%w)
      yield(%g, %q)
    }
    yield(%k, %s)
  } {
    %m = cos(%h0)
    %o = neg(%x)
    yield(%m, %o)
  }
  return(%y, %z)
}
"""


def test_what_fails_in_a_region_comes_out_of_it(folder: Path) -> None:
    path = folder / "regions.lir"
    path.write_text(REGIONS.replace("OP", "tanh"), encoding="utf-8")
    options = ("--plugin", folder / "refuses.py", "--passes=refuses", "--check=off")
    out = folder / "small.lir"
    result = shell("reduce", path, *options, "-o", out)
    assert result.returncode == 0, result.stderr
    names = [op.name for op in api.load(out).walk()]
    assert sorted(names) == ["return", "tanh"]


@pytest.mark.parametrize(("place", "region", "inside"), [(1, 0, "scan"), (1, 1, "neg")])
def test_a_branch_stands_in_for_its_if(place: int, region: int, inside: str) -> None:
    module = parse_module(REGIONS.replace("OP", "tanh"))
    assert openings(module) == [(1, 0), (1, 1)]
    made = opened(module, place, region)
    verify_module(made)
    assert inside in {op.name for op in made.main.block.ops}
    assert "if" not in {op.name for op in made.main.block.ops}


def test_a_step_stands_in_for_its_loop() -> None:
    module = opened(parse_module(REGIONS.replace("OP", "tanh")), 1, 0)
    for kind in ("loop", "scan"):
        place = next(i for i, op in enumerate(module.main.block.ops) if op.name == kind)
        module = opened(module, place, 0)
        verify_module(module)
    assert [v.shape for v in module.main.inputs] == [(4, 3), (3,), (), (3,)]
    assert not openings(module)
