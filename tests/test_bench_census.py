"""The table of results beside those of peers: what is counted, and what is marked."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from lepton_ir.tools.bench import census
from lepton_ir.tools.bench.census import Cell, Row, count_nodes

_COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"

_OTHER_NAME = (
    "import sys, onnx\n"
    "m = onnx.load(sys.argv[1])\n"
    "m.graph.output[0].name = m.graph.node[-1].output[0] = 'other'\n"
    "onnx.save(m, sys.argv[2])"
)

_OTHER_VALUE = (
    "import sys, onnx\n"
    "m = onnx.load(sys.argv[1])\n"
    "m.graph.node[-1].op_type = 'Exp'\n"
    "onnx.save(m, sys.argv[2])"
)


def _model() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Sin", ["b"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_nodes_of_functions_and_branches_count_but_constants_do_not() -> None:
    model = _model()
    body = [
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Add", ["p", "one"], ["q"]),
        helper.make_node("Add", ["q", "one"], ["r"]),
    ]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "f", ["p"], ["r"], body, opset))
    model.graph.node[1].CopyFrom(helper.make_node("f", ["a"], ["b"], domain="own"))
    branch = helper.make_graph([helper.make_node("Cos", ["b"], ["c"])], "t", [], [])
    model.graph.node[2].CopyFrom(
        helper.make_node("If", ["b"], ["y"], then_branch=branch, else_branch=branch)
    )
    assert count_nodes(model) == 1 + 2 + 1 + 2


def test_only_correct_peers_with_the_same_interface_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    onnx.save(_model(), tmp_path / "m.onnx")
    peers = {"copy": _COPY, "renamed": _OTHER_NAME, "broken": _OTHER_VALUE, "silent": ""}
    options = ["--peers", "", "--json", str(tmp_path / "found.json")]
    for name, script in peers.items():
        (tmp_path / f"{name}.py").write_text(script)
        command = f"{sys.executable} {tmp_path / name}.py {{in}} {{out}}"
        options += ["--peer", f"{name}={command}"]
    census.main([str(tmp_path / "m.onnx"), *options])
    row = census._former(tmp_path / "found.json")["m.onnx"]
    statuses = {name: row.cells[name].status for name in peers}
    wanted = {"copy": "same", "renamed": "interface", "broken": "wrong", "silent": "failed"}
    assert statuses == wanted
    assert (row.cells["lepton"].nodes, row.best("nodes")) == (2, ("copy", 3))
    assert "m.onnx" in capsys.readouterr().out


def test_what_is_above_a_peer_is_marked() -> None:
    ours = Cell("same", nodes=5, size=1030, latency={"ratio": 1.06, "noise": 1.01})
    cells = {"lepton": ours, "lepton-ort": Cell("same", nodes=5), "p": Cell("same", "", 4, 1000)}
    row = Row("m", 9, cells | {"onnxruntime": Cell("same", nodes=4, size=1)})
    assert census._above(row) == ["nodes", "bytes", "ort", "latency"]
    row.cells["p"].status = row.cells["onnxruntime"].status = "wrong"
    assert census._above(row) == ["latency"]
    ours.status = "wrong"
    assert census._above(row) == ["lepton wrong"]
    assert "lepton wrong" in census.render([row])
