"""The comparison of rounding errors: what it says of known errors, and a run on a model."""

import json

import numpy as np
import pytest

from lepton_ir.tools.bench import accuracy


def test_errors_are_by_the_largest_magnitude():
    exact = [np.array([4.0, -8.0]), np.array([3])]
    found = accuracy.errors(exact, [np.array([4.0, -7.0], np.float32), np.array([5])])
    assert found == (1 / 64 / 2, 1 / 8)


def test_infinities_must_be_where_they_belong():
    exact = [np.array([1.0, np.inf])]
    assert accuracy.errors(exact, [np.array([1.0, np.inf])]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="in other places"):
        accuracy.errors(exact, [np.array([1.0, 2.0])])


def test_a_lucky_peer_counts_as_rounding():
    ours, lucky, rounding = (accuracy.Errors(s, s**0.5) for s in (4e-16, 0.0, 1e-16))
    found = accuracy.summary([(ours, lucky, rounding)] * 3)
    assert found["rms"] == found["max_worst"] == pytest.approx(2.0)


def test_what_the_peer_refuses_is_inconclusive(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 3] x, float[m, 3] z) => '
    text += "(float[k, 3] y) { y = Add(x, z) }"
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    command = [str(tmp_path), "--dim", "n=2", "--dim", "m=5"]
    assert accuracy.main(command) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["inconclusive"].startswith("onnxruntime: ")


def test_what_is_not_finite_is_inconclusive(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) {\n'
    text += "a = Abs(x)\nb = Sub(a, a)\ny = Div(b, b)\n}"
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert accuracy.main([str(tmp_path), "--draws", "2"]) == 0
    assert "no number is finite" in json.loads(capsys.readouterr().out)["inconclusive"]


def test_a_model_with_dynamic_ranges_is_judged(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[4, 70] x) => (float[4, 70] y) {\n'
    text += "q, s, z = DynamicQuantizeLinear(x)\ny = DequantizeLinear(q, s, z)\n}"
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert accuracy.main([str(tmp_path), "--draws", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["rms"] <= 2


def test_a_model_is_judged(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[4, 700] x) => (float[4, 4] y) {\n'
    text += "t = Transpose(x)\ny = MatMul(x, t)\n}"
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert accuracy.main([str(tmp_path), "--draws", "3"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["model"] == "m.onnx"
    assert row["draws"] == 3
    assert 0 < row["rms"] <= 2
