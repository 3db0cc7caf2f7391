from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from lepton_ir import api


def _model(path: Path) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    node = helper.make_node("Exp", ["x"], ["y"], name="e", doc_string="trace")
    entry = node.metadata_props.add()
    entry.key, entry.value = "stack_trace", "line 1"
    graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.doc_string = "kept"
    onnx.save(model, path)


def _stripped(tmp_path: Path, pipeline: str) -> onnx.ModelProto:
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    _model(source)
    module = api.load(source)
    api.run_passes(module, pipeline)
    api.save(module, target)
    return onnx.load(target)


def test_doc_strings_and_metadata_of_nodes_go(tmp_path: Path) -> None:
    model = _stripped(tmp_path, "strip")
    assert not model.graph.node[0].doc_string
    assert not model.graph.node[0].metadata_props
    assert model.doc_string == "kept"


def test_either_may_stay(tmp_path: Path) -> None:
    model = _stripped(tmp_path, "strip{doc=false}")
    assert model.graph.node[0].doc_string == "trace"
    assert not model.graph.node[0].metadata_props
    model = _stripped(tmp_path, "strip{metadata=false}")
    assert not model.graph.node[0].doc_string
    assert model.graph.node[0].metadata_props[0].value == "line 1"
