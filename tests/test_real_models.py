"""Real models through O2: same results in onnxruntime, interface and provenance kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import lepton_ir
from lepton_ir.compare import EQUAL, compare_outputs, draw
from tests.provenance import violations

ort = pytest.importorskip("onnxruntime")

_LARGE = 3_000_000
"""Bytes from which a model is left to the slow run."""

_SYMBOL = 2


def _files() -> list[Path]:
    root = Path(__file__).resolve().parents[2] / "shared" / "models"
    return sorted(root.rglob("*.onnx")) if root.is_dir() else []


def _known_shapes(models: Path) -> dict[str, dict[str, list[int]]]:
    """Input shapes with which a model runs, by file name, where a manifest has them."""
    rows = map(json.loads, (models / "manifest.jsonl").read_text().splitlines())
    return {Path(r["path"]).name: r["run_inputs"] for r in rows if r.get("run_inputs")}


def _session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _feeds(session: Any, shapes: dict[str, list[int]]) -> dict[str, Any]:
    names = {"float": "float32", "double": "float64"}
    inputs = []
    for x in session.get_inputs():
        kind = x.type.removeprefix("tensor(").removesuffix(")")
        inputs.append((x.name, names.get(kind, kind), shapes.get(x.name, list(x.shape))))
    return draw(inputs, 0, _SYMBOL)


def _params() -> list[Any]:
    return [
        pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.stat().st_size > _LARGE else [])
        for p in _files()
    ]


@pytest.mark.parametrize("path", _params())
def test_o2_keeps_results(path: Path, shared_models: Path, tmp_path: Path) -> None:
    try:
        before = _session(path)
        feeds = _feeds(before, _known_shapes(shared_models).get(path.name, {}))
        expected = before.run(None, feeds)
    except Exception as error:  # the model needs an operator or inputs that are not here
        pytest.skip(f"onnxruntime does not run the source: {str(error)[:100]}")
    module = lepton_ir.load(path)
    lepton_ir.run_passes(module, "O2")
    out = tmp_path / "out.onnx"
    lepton_ir.save(module, out)
    after = _session(out)
    names = [x.name for x in after.get_outputs()]
    assert names == [x.name for x in before.get_outputs()]
    accepted = {x.name for x in after.get_inputs()}
    found = after.run(None, {n: v for n, v in feeds.items() if n in accepted})
    verdict = compare_outputs(names, expected, found)
    assert verdict.status == EQUAL, verdict
    source = onnx.load(path, load_external_data=False)
    assert violations(source, onnx.load(out, load_external_data=False)) == []


@pytest.mark.parametrize("path", _params())
def test_plain_copy_is_equal(path: Path, shared_models: Path, tmp_path: Path) -> None:
    module = lepton_ir.load(path)
    out = tmp_path / "copy.onnx"
    lepton_ir.save(module, out)
    source = onnx.load(path, load_external_data=False)
    copy = onnx.load(out, load_external_data=False)
    assert [o.name for o in copy.graph.output] == [o.name for o in source.graph.output]
    named = [n.name for n in source.graph.node if n.name and n.op_type != "Constant"]
    assert [n.name for n in copy.graph.node if n.name in set(named)] == named
    try:
        before = _session(path)
        feeds = _feeds(before, _known_shapes(shared_models).get(path.name, {}))
        expected = before.run(None, feeds)
    except Exception as error:  # the model needs an operator or inputs that are not here
        pytest.skip(f"onnxruntime does not run the source: {str(error)[:100]}")
    after = _session(out)
    accepted = {x.name for x in after.get_inputs()}
    found = after.run(None, {n: v for n, v in feeds.items() if n in accepted})
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
