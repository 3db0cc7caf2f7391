"""Weights that stay in the model file until a session packs them."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_ir
from lepton_ir.diagnostics import InvalidModelError
from lepton_ir.interp import run_list
from lepton_ir.tensors import FileTensor, RawTensor


def model(*, opset: int = 20) -> Any:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((200, 160)).astype(np.float32)
    table = rng.standard_normal((500, 200)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 160])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.ones(160, np.float32), "b"),
            numpy_helper.from_array(table, "table"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.fixture
def path(tmp_path) -> Any:
    onnx.save(model(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def payloads(module: Any) -> list[Any]:
    return [op.attrs["value"] for op in module.walk() if op.name == "const"]


def test_large_weights_stay_in_the_file_and_are_the_same(path):
    lazy, eager = (lepton_ir.load(path, lazy=flag) for flag in (True, False))
    assert [type(t) for t in payloads(lazy)] == [FileTensor, RawTensor, FileTensor]
    for a, b in zip(payloads(lazy), payloads(eager), strict=True):
        assert a.type == b.type
        assert a.digest() == b.digest()
        assert np.array_equal(a.numpy(), b.numpy())
    lepton_ir.save(lazy, path.with_name("a.onnx"))
    lepton_ir.save(eager, path.with_name("b.onnx"))
    assert path.with_name("a.onnx").read_bytes() == path.with_name("b.onnx").read_bytes()


def test_a_session_outlives_its_file_when_that_is_replaced(path):
    session = lepton_ir.compile(path, threads=1)
    expected = run_list(lepton_ir.load(path), {"i": np.arange(3)})
    path.unlink()
    for count in (3, 2):
        (y,) = session.run(None, {"i": np.arange(count)})
        np.testing.assert_allclose(y, expected[0][:count], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["cut", "overwrite"])
def test_a_file_that_changes_under_a_session_is_refused(path, change):
    session = lepton_ir.compile(path, threads=1)
    with open(path, "r+b") as file:
        if change == "cut":
            file.truncate(1000)
        else:
            file.seek(5000)
            file.write(b"other")
    with pytest.raises(InvalidModelError, match="changed since it was opened"):
        session.run(None, {"i": np.arange(3)})


def test_old_opsets_and_odd_files_are_read_whole(path, tmp_path):
    old = model(opset=6)
    del old.graph.node[0]
    old.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 200]))
    onnx.save(old, tmp_path / "old.onnx")
    assert not any(
        isinstance(t, FileTensor)
        for t in payloads(lepton_ir.load(tmp_path / "old.onnx", lazy=True))
    )
    data = path.read_bytes()
    (tmp_path / "two.onnx").write_bytes(
        data + onnx.ModelProto(graph=onnx.GraphProto(name="h")).SerializeToString()
    )
    module = lepton_ir.load(tmp_path / "two.onnx", lazy=True)
    assert not any(isinstance(t, FileTensor) for t in payloads(module))
    (tmp_path / "torn.onnx").write_bytes(data[:-50_000])
    with pytest.raises(InvalidModelError, match="not a valid ONNX file"):
        lepton_ir.load(tmp_path / "torn.onnx", lazy=True)


def test_a_wrong_length_is_refused_as_ever(tmp_path):
    broken = model()
    broken.graph.initializer[0].raw_data += b"1234"
    (tmp_path / "m.onnx").write_bytes(broken.SerializeToString())
    with pytest.raises(InvalidModelError, match="holds 128004 bytes but its type"):
        lepton_ir.load(tmp_path / "m.onnx", lazy=True)


@pytest.mark.parametrize("suffix", [".onnx", ".lepton"])
def test_packed_weights_are_in_memory_once(path, suffix):
    if suffix == ".lepton":
        lepton_ir.save(lepton_ir.load(path), path.with_suffix(suffix))
    session = lepton_ir.compile(path.with_suffix(suffix), threads=1)
    for count in (3, 40, 5):
        session.run(None, {"i": np.arange(count)})
    gc.collect()
    large = [t for t in payloads(session.module) if t.nbytes > 1 << 16]
    assert len(large) == 2
    held = {t.shape: session.constants.is_loaded(t) for t in large}
    assert held == {(500, 200): True, (200, 160): False}  # the table is read as it is
