"""The check without onnxruntime: through the reference interpreter, within the same limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lepton_ir.check import Checker


def _model(path: Path, scale: float) -> Path:
    weight = numpy_helper.from_array(np.full((4, 3), scale, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_equal_and_different_results_are_told_apart(tmp_path: Path) -> None:
    source = _model(tmp_path / "source.onnx", 0.5)
    with Checker("reference") as checker:
        checker.start()
        checker.open(str(source))
        same = checker.compare(str(_model(tmp_path / "same.onnx", 0.5)))
        other = checker.compare(str(_model(tmp_path / "other.onnx", 0.75)))
    assert same["status"] == "equal", same
    assert same["draws"] == 2
    assert other["status"] == "mismatch", other


def _quantized(path: Path, weight: float, places: int) -> Path:
    """A wide product between pairs of 4 bits' precision, rounded so many binary places before."""
    constants = {
        "w": np.full((64, 3), weight, np.float32),
        "scale": np.float32(0.5),
        "zero": np.uint8(128),
        "many": np.float32(2**places),
    }
    nodes = [
        helper.make_node("Mul", ["x", "many"], ["a"]),
        helper.make_node("Floor", ["a"], ["b"]),
        helper.make_node("Div", ["b", "many"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4096, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096, 3])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_quantized_models_may_round_otherwise_but_not_give_other_numbers(tmp_path: Path) -> None:
    source = _quantized(tmp_path / "source.onnx", 1.0, 20)
    with Checker("reference") as checker:
        checker.start()
        checker.open(str(source))
        near = str(_quantized(tmp_path / "near.onnx", 1.0, 14))
        rounded = checker.compare(near, facts={"steps": True})
        plain = checker.compare(near)
        other = checker.compare(
            str(_quantized(tmp_path / "other.onnx", 1.1, 20)), facts={"steps": True}
        )
    assert plain["status"] == "mismatch"
    assert rounded["status"] == "inconclusive", rounded
    assert "rounds to few numbers" in rounded["reason"]
    assert other["status"] == "mismatch", other
