"""`lepton-opt extract`: parts of models by the names of their tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import F32, I64, assert_same, info, model, run

from lepton_ir import api
from lepton_ir.tools.extract import extract, extract_ops
from lepton_ir.tools.lepton_opt import main
from lepton_ir.verify import verify_module


def chain() -> onnx.ModelProto:
    """x, z -> a = x + w, b = relu(a), c = b * z, y = tanh(c), and k = exp(b)."""
    nodes = [
        helper.make_node("Add", ["x", "w"], ["a"], name="/Add"),
        helper.make_node("Relu", ["a"], ["b"], name="/Relu"),
        helper.make_node("Mul", ["b", "z"], ["c"], name="/Mul"),
        helper.make_node("Tanh", ["c"], ["y"], name="/Tanh"),
        helper.make_node("Exp", ["b"], ["k"], name="/Exp"),
    ]
    rows = ["N", 4]
    return model(
        nodes,
        [info("x", F32, rows), info("z", F32, rows)],
        [info("y", F32, rows), info("k", F32, rows)],
        constants={"w": np.arange(4, dtype=np.float32)},
    )


@pytest.fixture
def path(tmp_path):
    onnx.save(chain(), tmp_path / "chain.onnx")
    return tmp_path / "chain.onnx"


def cut(path, *arguments):
    out = path.with_name("out.onnx")
    code = main(["extract", str(path), "-o", str(out), *arguments])
    if code:
        return code, None
    onnx.checker.check_model(out, full_check=True)
    return code, onnx.load(out)


def test_inner_tensors_begin_and_end_the_part(path, capsys):
    code, part = cut(path, "--inputs=b,z", "--outputs", "c")
    assert code == 0
    assert [n.op_type for n in part.graph.node] == ["Mul"]
    assert [n.name for n in part.graph.node] == ["/Mul"]
    assert [i.name for i in part.graph.input] == ["b", "z"]
    assert [d.dim_param or d.dim_value for d in part.graph.input[0].type.tensor_type.shape.dim] == [
        "N",
        4,
    ]
    assert "1 of 5 nodes" in capsys.readouterr().out
    b, z = np.ones((2, 4), np.float32), np.full((2, 4), 3, np.float32)
    assert_same(run(part, {"b": b, "z": z})[0], b * z)


def test_without_inputs_the_needed_ones_of_the_model_are_kept(path):
    _, part = cut(path, "--outputs=k")
    assert [i.name for i in part.graph.input] == ["x"]
    assert [i.name for i in part.graph.initializer] == ["w"]
    assert [n.op_type for n in part.graph.node] == ["Add", "Relu", "Exp"]


def test_the_whole_model_is_a_part(path):
    _, part = cut(path)
    source = onnx.load(path)
    assert part.graph.node == source.graph.node
    assert part.graph.output == source.graph.output


def test_an_open_cut_names_what_is_missing(path, capsys):
    code, _ = cut(path, "--inputs=a", "--outputs=y")
    assert code == 1
    assert "y also depends on z" in capsys.readouterr().err
    assert not path.with_name("out.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--inputs=x", "--outputs=yy"), "did you mean y"),
        (("--inputs=x,x", "--outputs=a"), "x is named twice"),
        (("--inputs=a", "--outputs=a"), "an input and an output"),
    ],
)
def test_bad_names(path, capsys, arguments, message):
    code, _ = cut(path, *arguments)
    assert code == 1
    assert message in capsys.readouterr().err


def test_model_is_never_overwritten(path, capsys):
    before = path.read_bytes()
    assert main(["extract", str(path), "--outputs=a", "-o", str(path)]) == 1
    assert "overwrite" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_constant_may_become_an_input(path):
    _, part = cut(path, "--inputs=x,w", "--outputs=a")
    assert [i.name for i in part.graph.input] == ["x", "w"]
    assert not part.graph.initializer


def test_computed_dims_get_names_of_their_own(tmp_path):
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["c"], axis=0),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "c"], ["y"]),
    ]
    proto = model(nodes, [info("x", F32, ["N", 4])], [info("y", F32, None)])
    onnx.save(proto, tmp_path / "m.onnx")
    _, part = cut(tmp_path / "m.onnx", "--inputs=r,c", "--outputs=y")
    first, second = (i.type.tensor_type.shape.dim[0].dim_param for i in part.graph.input)
    assert first == second != ""


def test_captures_of_subgraphs_come_along(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Add", ["a", "w"], ["t"])], "then", [], [info("t", F32, [2])]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["b"], ["e"])], "else", [], [info("e", F32, [2])]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("If", ["cond"], ["y"], then_branch=branch, else_branch=other),
    ]
    proto = model(
        nodes,
        [info("x", F32, [2]), info("cond", onnx.TensorProto.BOOL, [])],
        [info("y", F32, [2])],
        constants={"w": np.ones(2, np.float32)},
    )
    onnx.save(proto, tmp_path / "m.onnx")
    code, _ = cut(tmp_path / "m.onnx", "--inputs=cond,b", "--outputs=y")
    assert code == 1  # the branch reads a, too
    _, part = cut(tmp_path / "m.onnx", "--inputs=cond,a", "--outputs=y")
    feeds = {"cond": np.array(False), "a": np.zeros(2, np.float32)}
    assert_same(run(part, feeds)[0], np.full(2, -1, np.float32))


def test_any_operations_make_a_module(path):
    module = api.load(str(path))
    ops = [op for op in module.main.walk() if op.node_name in ("/Relu", "/Tanh")]
    part = extract_ops(module, ops)
    verify_module(part)
    assert [v.name for v in part.main.inputs] == ["a", "c"]
    assert part.main.output_names == ["b", "y"]
    assert [op.name for op in module.main.walk()].count("relu") == 1


def test_source_module_stays_as_it_was(path):
    module = api.load(str(path))
    before = [str(op) for op in module.main.walk()], module.main.epoch
    extract(module, ["b", "z"], ["y"])
    assert ([str(op) for op in module.main.walk()], module.main.epoch) == before


def test_a_model_called_like_the_subcommand(path, monkeypatch, capsys):
    monkeypatch.chdir(path.parent)
    path.rename(path.with_name("extract"))
    assert main(["./extract", "--check=off", "--report=none", "-o", "r.onnx"]) == 0
    assert path.with_name("r.onnx").exists()


def test_integer_tensors_keep_their_type(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["y"]),
    ]
    proto = model(nodes, [info("x", F32, ["N", 4])], [info("y", F32, ["N", 4])])
    onnx.save(proto, tmp_path / "m.onnx")
    _, part = cut(tmp_path / "m.onnx", "--inputs=x,s", "--outputs=y")
    assert part.graph.input[1].type.tensor_type.elem_type == I64
