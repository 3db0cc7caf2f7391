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
