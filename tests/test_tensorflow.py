"""SavedModels and frozen graphs, with what TensorFlow computed.

``tests/oracle/tf_graphs.py`` makes the cases; see there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_ir import load, run_passes
from lepton_ir.interp import run_module
from lepton_ir.ir import Module
from tests.oracle_cases import Cases, run_as_onnx

CASES = Cases("tf_graphs.tar.xz")

_LAYERS = {"lstm": {"lstm"}, "gru": {"gru"}, "rnn": {"rnn"}, "bidirectional": {"lstm", "gru"}}


def names() -> list[str]:
    return [n.removesuffix(".npz") for n in CASES.files() if n.endswith(".npz")]


def unpack(name: str, folder: Path) -> Path:
    """Write the files of a case; return the path of the model."""
    path = folder / name
    for key, data in CASES.files().items():
        place = folder / key
        if key.startswith((f"{name}/", f"{name}.pb")):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            path = path if "/" in key else place
    return path


def runs(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return inputs and results of the runs of a case."""
    data = CASES.arrays(f"{name}.npz")
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for key in data:
        number, kind, what = key.split(":", 2)
        found.setdefault(number, ({}, {}))[kind == "o"][what] = data[key]
    return list(found.values())


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, want in expected.items():
        got = found[f"{key}.out" if key == "total" else key]
        assert got.shape == want.shape, key
        assert got.dtype == want.dtype, key
        np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-6)


def assert_runs(module: Module, name: str) -> None:
    for feeds, expected in runs(name):
        assert_same(run_module(module, feeds), expected)


@pytest.mark.parametrize("name", names())
def test_results(name: str, tmp_path: Path) -> None:
    module = load(unpack(name, tmp_path))
    assert_runs(module, name)
    run_passes(module, "O2")
    assert_runs(module, name)
    if name in _LAYERS:
        made = {op.name for op in module.walk()}
        assert made >= _LAYERS[name]
        assert "loop" not in made


@pytest.mark.parametrize("name", names())
def test_results_in_onnxruntime(name: str, tmp_path: Path) -> None:
    path = unpack(name, tmp_path)
    for feeds, expected in runs(name):
        module = load(path)
        keys = [k.removesuffix(".out") for k in module.main.output_names]
        assert_same(
            dict(zip(keys, run_as_onnx(module, feeds, tmp_path), strict=True)),
            {k: v for k, v in expected.items() if k != "total"},
        )


def test_names_of_a_signature(tmp_path: Path) -> None:
    module = load(unpack("dense", tmp_path))
    assert [v.name for v in module.main.inputs] == ["x"]
    assert sorted(module.main.output_names) == ["y", "z"]
    assert str(module.main.inputs[0].type) == "f32[batch,4]"


def test_names_of_a_frozen_graph(tmp_path: Path) -> None:
    module = load(unpack("v1_while", tmp_path))
    assert [v.name for v in module.main.inputs] == ["x", "n"]
    assert module.main.output_names == ["result"]


def test_written_variables_can_be_carried(tmp_path: Path) -> None:
    module = load(unpack("counter", tmp_path), keep_overridable=True)
    x = np.ones((2, 4), np.float32)
    total = np.float32(0.5)
    for _ in range(2):
        found = run_module(module, {"x": x, "total": total})
        np.testing.assert_allclose(found["output_0"], x + total)
        total = found["total.out"]
    assert total == 16.5


def test_weights_stay_in_their_file(tmp_path: Path) -> None:
    from lepton_ir.infer import const_tensor
    from lepton_ir.tensors import FileTensor

    module = load(unpack("dense", tmp_path))
    tensors = [const_tensor(v) for op in module.walk() for v in op.results]
    assert sum(isinstance(t, FileTensor) for t in tensors) == 3


def test_rows_that_became_biases_are_rows_again(tmp_path: Path) -> None:
    module = load(unpack("v1_bias", tmp_path))
    run_passes(module, "dce")
    assert {op.name for op in module.walk()} == {"const", "mul", "add", "return"}


def test_length_of_stacked_results(tmp_path: Path) -> None:
    module = load(unpack("lstm_static", tmp_path))
    (loop,) = (op for op in module.walk() if op.name == "loop")
    assert str(loop.results[-1].type) == "f32[5,batch,3]"


@pytest.mark.parametrize("name", ["dense", "v1_dense", "v1_text"])
def test_formats_are_told_by_content(name: str, tmp_path: Path) -> None:
    path = unpack(name, tmp_path)
    renamed = path.rename(tmp_path / ("other" + (".pbtxt" if name == "v1_text" else "")))
    assert_runs(load(renamed), name)
