"""The example of a third party's package, installed and run as a stranger would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

EXAMPLE = Path(__file__).resolve().parent / "plugin_example"
ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(filter(None, [str(path), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": search, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip installed the package; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = folder / "site"
    result = run(
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"),
        *("--no-deps", "--no-build-isolation", "--target", target, source),
        cwd=folder,
        path=target,
    )
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture
def model(tmp_path: Path) -> Path:
    bounds = [numpy_helper.from_array(np.float32(v), n) for n, v in (("lo", 0), ("hi", 6))]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "x"], ["s"], name="/Mul"),
            helper.make_node("Clip", ["s", "lo", "hi"], ["y"], name="/act/Clip"),
        ],
        "clip",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        bounds,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    return path


def lepton_opt(*arguments: object, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    return run("-m", "lepton_ir.tools.lepton_opt", *arguments, cwd=cwd, path=path)


def test_pass_and_op_are_found(installed, tmp_path):
    result = lepton_opt("--list-passes", "--list-ops", cwd=tmp_path, path=installed)
    assert result.returncode == 0, result.stderr
    assert "relu6          Recognise relu6." in result.stdout
    assert "tolerance=0.0" in result.stdout
    assert "relu6(x) -> y" in result.stdout


def test_pass_runs_on_a_model(installed, tmp_path, model):
    result = lepton_opt(
        model, "--passes=relu6", "--emit=lir", "-o", "out.lir", cwd=tmp_path, path=installed
    )
    assert result.returncode == 0, result.stderr
    assert "check: equal" in result.stdout
    assert " = relu6(" in (tmp_path / "out.lir").read_text(encoding="utf-8")


def test_target_without_the_operation_gets_its_decomposition(installed, tmp_path, model):
    result = lepton_opt(model, "--passes=relu6", "--stats", cwd=tmp_path, path=installed)
    assert result.returncode == 0, result.stderr
    assert "relu6/clip_to_relu6" in result.stdout
    assert "check: equal" in result.stdout
    written = onnx.load(tmp_path / "model.opt.onnx")
    assert [node.op_type for node in written.graph.node] == ["Mul", "Clip"]


def test_options_reach_the_pass(installed, tmp_path, model):
    result = lepton_opt(*(model, "--passes=relu6{tolerance=oops}"), cwd=tmp_path, path=installed)
    assert result.returncode == 1
    assert "option tolerance of relu6" in result.stderr


def test_its_golden_tests_pass(installed, tmp_path):
    golden = tmp_path / "golden"
    shutil.copytree(EXAMPLE / "golden", golden)
    arguments = ("-m", "pytest", "-q", "-p", "lepton_ir.testing.plugin", golden)
    result = run(*arguments, cwd=tmp_path, path=installed)
    assert result.returncode == 0, result.stdout
    assert "4 passed" in result.stdout
    before = (golden / "relu6.lir").read_text(encoding="utf-8")
    result = run(*arguments, "--update-golden", cwd=tmp_path, path=installed)
    assert result.returncode == 0, result.stdout
    assert (golden / "relu6.lir").read_text(encoding="utf-8") == before


def test_its_files_work_as_single_plugins_too(tmp_path, model):
    files = [f"--plugin={EXAMPLE / 'lepton_relu6' / name}" for name in ("ops.py", "passes.py")]
    result = lepton_opt(
        model, *files, "--passes=relu6", "--emit=lir", cwd=tmp_path, path=tmp_path / "none"
    )
    assert result.returncode == 0, result.stderr
    assert " = relu6(" in (tmp_path / "model.opt.lir").read_text(encoding="utf-8")
