"""What strip drops, and what the default pipeline keeps of it."""

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


_TRACE = "/lib/torch/nn/functional.py(782): max_pool2d\n<string>(24): forward\n"


def _traced(path: Path) -> None:
    """Write a model with what exporters and people leave at nodes, values and the graph."""
    _model(path)
    model = onnx.load(path)
    node = model.graph.node[0]
    for key in ("pkg.torch.onnx.stack_trace", "namespace", "pkg.onnxscript.rewriter.rule_name"):
        node.metadata_props.add(key=key, value="noise")
    node.doc_string = _TRACE
    other = model.graph.node.add()
    other.CopyFrom(helper.make_node("Sin", ["x"], ["z"], name="s", doc_string="my sine"))
    other.metadata_props.add(key="namespace", value="my own")
    model.graph.metadata_props.add(key="pkg.torch.export.x", value="noise")
    model.graph.metadata_props.add(key="author", value="me")
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2]))
    onnx.save(model, path)


def test_the_default_pipeline_drops_what_exporters_left_and_keeps_the_rest(tmp_path: Path) -> None:
    _traced(tmp_path / "a.onnx")
    for pipeline, left in (("O2", 1), ("O3", 1), ("O1", 4), ("strip{traces=false}", 0)):
        module = api.load(tmp_path / "a.onnx")
        api.run_passes(module, pipeline)
        api.save(module, tmp_path / "b.onnx")
        graph = onnx.load(tmp_path / "b.onnx").graph
        assert len(graph.node[0].metadata_props) == left
        if pipeline in ("O2", "O3"):
            assert [node.doc_string for node in graph.node] == ["", "my sine"]
            kept = [*graph.node[0].metadata_props, *graph.node[1].metadata_props]
            assert [(p.key, p.value) for p in [*kept, *graph.metadata_props]] == [
                ("stack_trace", "line 1"),
                ("namespace", "my own"),
                ("author", "me"),
            ]
