"""Prepared modules on disk: served for the same file and program only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_ir
from lepton_ir.backends.numba import prepared
from lepton_ir.backends.numba.file import MAGIC
from lepton_ir.backends.numba.prepared import Entry
from lepton_ir.diagnostics import InvalidModelError


def write(path: Any, scale: float = 1.0, *, external: bool = False) -> None:
    rng = np.random.default_rng(0)
    weights = (scale * rng.standard_normal((160, 128))).astype(np.float32)
    factor = np.full(128, 2, np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Mul", ["p", "f"], ["q"]),
        helper.make_node("Relu", ["q"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 160])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 128])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(factor, "f")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, path, save_as_external_data=external, location="w.data", size_threshold=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Any:
    monkeypatch.setenv("LEPTON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


X = np.ones((2, 160), np.float32)


def result(path: Any, **options: Any) -> Any:
    return lepton_ir.compile(path, threads=1, **options).run(None, {"x": X})[0]


@pytest.mark.parametrize("external", [False, True])
def test_the_second_start_gives_the_same_and_imports_no_onnx(tmp_path, cache, external):
    path = tmp_path / "m.onnx"
    write(path, external=external)
    expected = result(path)
    assert len(list(cache.iterdir())) == 1
    assert Entry(str(path), "O2,integers").load() is not None
    code = f"""
import sys, numpy, lepton_ir
session = lepton_ir.compile({str(path)!r}, threads=1)
y = session.run(None, {{"x": numpy.ones((2, 160), "float32")}})[0]
numpy.save({str(tmp_path / "y.npy")!r}, y)
print([m for m in ("onnx", "networkx", "lark", "lepton_ir.passes.fold") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.parametrize("external", [False, True])
def test_a_changed_file_is_prepared_again(tmp_path, external):
    path = tmp_path / "m.onnx"
    write(path, external=external)
    first = result(path)
    stamp = path.stat().st_mtime_ns
    for name in ("m.onnx", "w.data"):
        if (tmp_path / name).exists():
            (tmp_path / name).unlink()
    write(path, 3.0, external=external)
    os.utime(path, ns=(stamp, stamp + 1))
    np.testing.assert_allclose(result(path), 3 * first, rtol=1e-5)


def test_another_pipeline_or_program_is_another_entry(tmp_path, cache, monkeypatch):
    path = tmp_path / "m.onnx"
    write(path)
    result(path)
    result(path, passes="")
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(prepared, "_code_version", lambda: "another")
    assert Entry(str(path), "O2,integers").load() is None


def test_what_plugins_may_have_a_part_in_is_not_kept(tmp_path):
    path = tmp_path / "m.onnx"
    write(path)
    (tmp_path / "m.pb").write_bytes(path.read_bytes())
    for name, passes in (("onnx", "O2,acme"), ("onnx", "O2,fold{max_bytes=1}"), ("pb", "O2")):
        entry = Entry(str(tmp_path / f"m.{name}"), passes)
        entry.store(lepton_ir.load(path))
        assert entry.load() is None


def test_a_torn_entry_is_made_again(tmp_path, cache):
    path = tmp_path / "m.onnx"
    write(path)
    expected = result(path)
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:-40])
    assert np.array_equal(result(path), expected)
    assert Entry(str(path), "O2,integers").load() is not None


def test_a_lepton_file_cannot_name_other_files(tmp_path):
    path = tmp_path / "m.lepton"
    write(tmp_path / "m.onnx")
    lepton_ir.save(lepton_ir.load(tmp_path / "m.onnx"), path)
    data = path.read_bytes()
    start = len(MAGIC) + 8
    text = json.loads(data[start : start + int.from_bytes(data[len(MAGIC) : start], "little")])
    text["sources"] = [["/etc/hostname", 1, 1, 1, 1]]
    for op in text["function"]["body"]["ops"]:
        if op["op"] == "const":
            op["attrs"]["value"] = ["source", "u8", [4], 0, 0]
    body = json.dumps(text).encode()
    path.write_bytes(MAGIC + len(body).to_bytes(8, "little") + body)
    with pytest.raises(InvalidModelError, match="damaged"):
        lepton_ir.compile(path)
