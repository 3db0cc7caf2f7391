"""`lepton-opt diff`: what differs between two models."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import F32, info, model

from lepton_ir.tools.lepton_opt import main


def net(**changes) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="/MatMul"),
        helper.make_node("Add", ["m", "b"], ["a"], name="/Add"),
        helper.make_node(changes.get("act", "Relu"), ["a"], ["r"], name="/Act"),
        helper.make_node("Softmax", ["r"], ["y"], name="/Softmax", axis=changes.get("axis", 1)),
    ]
    w = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    return model(
        nodes,
        [info("x", F32, ["N", 4])],
        [info("y", F32, ["N", 4])],
        opset=changes.get("opset", 17),
        constants={"w": w, "b": np.full(4, changes.get("bias", 0.5), np.float32)},
    )


@pytest.fixture
def diff(tmp_path, capsys):
    def run(a, b, *options):
        onnx.save(a, tmp_path / "a.onnx")
        onnx.save(b, tmp_path / "b.onnx")
        arguments = ["diff", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), *options]
        code = main(arguments)
        out, err = capsys.readouterr()
        assert not err
        assert all(len(line) <= 80 for line in out.splitlines()) or "--json" in options
        return code, (json.loads(out) if "--json" in options else out)

    return run


def test_equal_models(diff):
    code, found = diff(net(), net(), "--json", "--run", "--exit-code")
    assert code == 0
    assert found["equal"]
    assert found["same"] == 4
    assert [row["name"] for row in found["tensors"]] == ["m", "a", "r", "y"]
    assert "the models are equal" in diff(net(), net())[1]


def test_changed_node_attribute_constant_and_opset(diff):
    other = net(act="Sigmoid", axis=0, bias=0.25, opset=18)
    code, found = diff(net(), other, "--json", "--exit-code")
    assert code == 1
    assert found["changed"]["/Act"] == "relu -> sigmoid"
    assert found["changed"]["/Softmax"] == "axis: 1 -> 0"
    assert found["changed"]["/Add"] == "other constant b"
    assert found["changed_constants"] == ["b"]
    assert found["constants"]["equal"] == 1
    assert found["opsets"] == {"onnx": [17, 18]}
    assert found["ops"] == {"relu": [1, 0], "sigmoid": [0, 1]}


def test_first_divergence_is_named(diff):
    code, found = diff(net(), net(bias=0.25), "--run", "--json")
    assert code == 0
    assert found["divergence"]["name"] == "a"
    assert found["verdict"]["status"] == "mismatch"
    assert [r["status"] for r in found["tensors"]][:2] == ["equal", "mismatch"]
    _, text = diff(net(), net(bias=0.25), "--run")
    assert "they first differ in a:" in text


def test_provenance_says_what_was_merged(tmp_path, capsys):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="/Conv"),
        helper.make_node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"], name="/Norm"),
        helper.make_node("Relu", ["n"], ["y"], name="/Relu"),
        helper.make_node("Exp", ["n"], ["unused"], name="/Exp"),
    ]
    proto = model(
        nodes,
        [info("x", F32, [1, 3, 8, 8])],
        [info("y", F32, [1, 2, 6, 6])],
        constants={
            "w": np.linspace(-1, 1, 54, dtype=np.float32).reshape(2, 3, 3, 3),
            "s": np.array([0.5, 2], np.float32),
        },
    )
    onnx.save(proto, tmp_path / "a.onnx")
    assert main([str(tmp_path / "a.onnx"), "--check=off", "--report=none"]) == 0
    files = [str(tmp_path / name) for name in ("a.onnx", "a.opt.onnx")]
    assert main(["diff", *files, "--run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["merged"]) == ["/Norm"]
    assert found["merged"]["/Norm"][0] == "/Conv"
    assert found["removed"] == ["/Exp"]
    assert found["added"] == []
    assert found["verdict"]["status"] == "equal"


def test_interface(diff):
    other = net()
    other.graph.input[0].name = "z"
    other.graph.node[0].input[0] = "z"
    _, found = diff(net(), other, "--json", "--run")
    assert len(found["interface"]) == 2
    assert found["changed"]["/MatMul"] == "reads z instead of x"
    assert found["verdict"]["status"] != "equal"


def test_long_names_fit(diff):
    other = net()
    name = "very/long/" * 20
    other.graph.node[0].name = name
    other.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "extra" * 30))
    other.graph.node.append(helper.make_node("Neg", ["extra" * 30], ["e" * 200], name=name * 2))
    diff(net(), other, "--run")


def test_missing_file_is_one_error(tmp_path, capsys):
    onnx.save(net(), tmp_path / "a.onnx")
    assert main(["diff", str(tmp_path / "a.onnx"), str(tmp_path / "none.onnx")]) == 1
    assert len(capsys.readouterr().err.splitlines()) <= 2
