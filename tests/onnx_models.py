"""Small ONNX models for tests, and running them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton_ir.frontends.onnx.reader import load

ort = pytest.importorskip("onnxruntime")
F32, I64 = TensorProto.FLOAT, TensorProto.INT64
info = helper.make_tensor_value_info


def model(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    opset: int = 17,
    constants: dict[str, Any] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    functions = more.pop("functions", [])
    imports = more.pop("imports", {"": opset})
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors, **more)
    proto = helper.make_model(graph, functions=functions, ir_version=8)
    del proto.opset_import[:]
    proto.opset_import.extend(helper.make_opsetid(d, v) for d, v in imports.items())
    return proto


def load_proto(proto: onnx.ModelProto, **options: Any) -> Any:
    return load(proto.SerializeToString(), **options)


def run(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        np.testing.assert_array_equal(a, b)


X4 = [info("x", F32, [2, 4, 6, 8])]
Y = [info("y", F32, None)]
node = helper.make_node
