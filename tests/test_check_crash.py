"""A result that ends the runtime is wrong if the source runs; the verdict does not hang on luck."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import lepton_ir
from lepton_ir.builder import Builder
from lepton_ir.check import Checker


def _split(path: Path, *outputs: str) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Split", ["x"], list(outputs), axis=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_result_that_ends_the_runtime_is_a_mismatch(tmp_path: Path) -> None:
    source = _split(tmp_path / "source.onnx", "a", "b", "y")
    result = _split(tmp_path / "result.onnx", "", "b", "y")
    code = "import sys, numpy as np, onnxruntime as o\n"
    code += "o.InferenceSession(sys.argv[1]).run(None, {'x': np.ones((2, 6), np.float32)})"
    run = subprocess.run([sys.executable, "-c", code, result], capture_output=True, check=False)
    if run.returncode != -signal.SIGSEGV:
        pytest.skip("this onnxruntime writes no output that is not named")
    with Checker("onnxruntime") as checker:
        checker.open(str(source))
        verdict = checker.compare(str(result))
        assert verdict["status"] == "mismatch", verdict
        assert "ends onnxruntime, where the source runs" in verdict["reason"]
        assert checker.compare(str(source))["status"] == "equal"


def test_a_runner_that_is_killed_says_nothing_about_the_result(tmp_path: Path) -> None:
    source = _split(tmp_path / "source.onnx", "a", "b", "y")
    with Checker("reference") as checker:
        checker.open(str(source))
        assert checker.compare(str(source))["status"] == "equal"
        assert checker._child is not None
        checker._child.send_signal(signal.SIGSTOP)
        checker._send({"compare": str(source)})
        checker._child.kill()
        checker._child.wait()
        with pytest.raises(EOFError):
            checker._drain()
        assert not checker._crashed()


def test_all_parts_of_a_split_have_names_in_files(tmp_path: Path) -> None:
    module = lepton_ir.load(_split(tmp_path / "source.onnx", "a", "b", "y"))
    (op,) = [op for op in module.main.block.ops if op.name == "split"]
    build = Builder(module.main.block, op)
    parts = build.build("split", op.operands[0], axis=1, results=3).results
    op.results[2].replace_all_uses(parts[1])
    op.erase()
    lepton_ir.save(module, tmp_path / "out.onnx")
    (node,) = onnx.load(tmp_path / "out.onnx").graph.node
    assert len(node.output) == 3
    assert all(node.output)
