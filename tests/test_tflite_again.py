"""TFLite to TFLite: what a file has beside its operators comes back with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.reader import read_file
from tests.test_tflite_frontend import BY_NAME, custom_model, needs_litert, signature_model
from tests.tflite_cases import ints, rand
from tests.tflite_models import Maker, T, const, litert


def _written(data: bytes, path: Path) -> Path:
    module = lepton_ir.load(data)
    lepton_ir.run_passes(module, "O2,tflite", target="tflite")
    lepton_ir.save(module, path)
    return path


def _names(maps: Any) -> list[str]:
    return [m.name for m in maps]


def test_signatures_names_and_metadata_come_back(tmp_path: Path) -> None:
    model = read_file(str(_written(signature_model(), tmp_path / "x.tflite")))
    assert model.description == "two"
    keys = [(s.signature_key, _names(s.inputs), _names(s.outputs)) for s in model.signature_defs]
    assert keys == [("sig_0", ["in"], ["out"]), ("sig_1", ["in"], ["out"])]
    for entry in model.signature_defs:
        graph = model.subgraphs[entry.subgraph_index]
        tensors = [graph.tensors[i].name for i in (*graph.inputs, *graph.outputs)]
        assert tensors == ["t0", "t2"]
    found = {m.name: bytes(model.buffers[m.buffer].data) for m in model.metadata}
    assert found["note"] == b"hello"


def test_an_archive_comes_back(tmp_path: Path) -> None:
    source = tmp_path / "source.tflite"
    source.write_bytes(signature_model())
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    target = _written(source.read_bytes(), tmp_path / "x.tflite")
    with zipfile.ZipFile(target) as archive:
        assert archive.read("labels.txt") == b"cat\ndog\n"


def test_custom_operators_come_back_unchanged(tmp_path: Path) -> None:
    model = read_file(str(_written(custom_model(), tmp_path / "x.tflite")))
    graph = model.subgraphs[0]
    op: Node = graph.operators[0]
    code = model.operator_codes[op.opcode_index]
    assert (code.custom_code, code.version, code.builtin_code) == ("Mine", 4, 32)
    assert (bytes(op.custom_options), list(op.inputs)[1]) == (b"\x01\x02", -1)
    params = graph.tensors[op.outputs[0]].quantization
    assert (params.scale[0], params.zero_point[0]) == (0.5, 3)


@needs_litert
@pytest.mark.parametrize(
    "name",
    ["READ_VARIABLE-0", "IF-0", "WHILE-0", "SVDF-0", "RNN-4", "UNIDIRECTIONAL_SEQUENCE_LSTM-plain"],
)
def test_states_and_control_flow_come_back(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    path = _written(case.model, tmp_path / "x.tflite")
    want, got = litert([(case.model, case.feeds), (path.read_bytes(), case.feeds)])
    assert not isinstance(want, str), want
    assert not isinstance(got, str), got
    if "LSTM" in name:
        assert len(read_file(str(path)).subgraphs[0].operators) == 1
    for w, g in zip(want, got, strict=True):
        for x, y in zip(w, g, strict=True):
            np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-5)


def test_a_tflite_file_stays_one_where_nothing_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(signature_model())
    command = [sys.executable, "-m", "lepton_ir", str(tmp_path / "m.tflite"), "--check=off"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert read_file(str(tmp_path / "m.opt.tflite")).description == "two"
    subprocess.run([*command, "--target=ort"], check=True, capture_output=True, timeout=60)
    assert (tmp_path / "m.opt.onnx").is_file()


@needs_litert
def test_sums_of_dynamic_range_products_keep_their_weights(tmp_path: Path) -> None:
    maker = Maker()
    x, y = T((2, 8)), T((2, 16))
    weights = [const(ints(16, 8, seed=i), "int8", scale=0.02) for i in range(2)]
    dense = [maker.operator("FULLY_CONNECTED", [i, 2 + i, -1], [4 + i], 3) for i in range(2)]
    operators = [*dense, maker.operator("ADD", [4, 5], [6])]
    maker.graph([x, x, *weights, y, y, y], [0, 1], [6], operators)
    model = maker.model()
    path = _written(model, tmp_path / "x.tflite")
    kinds = {t.type for t in read_file(str(path)).subgraphs[0].tensors if t.buffer}
    assert kinds == {9}, "the weights are no longer of i8"
    feeds = [[rand(2, 8), rand(2, 8, seed=1)]]
    want, got = litert([(model, feeds), (path.read_bytes(), feeds)])
    np.testing.assert_array_equal(got[0][0], want[0][0])
