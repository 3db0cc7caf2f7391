"""TensorFlow operators: one frozen graph each, with what TensorFlow computed.

``tests/oracle/tf_ops.py`` makes the cases; see there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lepton_ir import load
from lepton_ir.frontends.tensorflow import table
from lepton_ir.interp import run_list
from lepton_ir.ir import Module
from tests.oracle_cases import Cases, assert_same, run_as_onnx

CASES = Cases("tf_ops.tar.xz")
_NOT_RUN = {
    "cumprod.pb": "the usual ONNX opset lacks it",
    "bitcast.pb": "the usual ONNX opset lacks it",
    "rfft_angle.pb": "angles of real numbers jump by a turn with the sign of a rounding",
}


def _plain(name: Any) -> str:
    return str(name).removesuffix(":0")


def _read(name: str, folder: Path) -> tuple[Module, dict[str, Any], dict[str, Any]]:
    """Return a module, its feeds, and what TensorFlow computed by the names of outputs."""
    module = load(CASES.write(name, folder))
    data = CASES.arrays(name)
    given = {_plain(n): data[f"in{i}"] for i, n in enumerate(data["inputs"])}
    feeds = {str(v.name): given[_plain(v.name)] for v in module.main.inputs}
    return module, feeds, {_plain(n): data[f"out{i}"] for i, n in enumerate(data["names"])}


def _compare(module: Module, found: list[Any], expected: dict[str, Any]) -> None:
    got = dict(zip(map(_plain, module.main.output_names), found, strict=True))
    assert_same([got[n] for n in expected], list(expected.values()))


@pytest.mark.parametrize("name", CASES.models())
def test_meaning_is_tensorflows(name: str, tmp_path: Path) -> None:
    module, feeds, expected = _read(name, tmp_path)
    _compare(module, run_list(module, feeds), expected)


@pytest.mark.parametrize("name", [n for n in CASES.models() if n not in _NOT_RUN])
def test_onnx_of_it_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    module, feeds, expected = _read(name, tmp_path)
    _compare(module, run_as_onnx(module, feeds, tmp_path), expected)


def test_rows() -> None:
    assert len(table.load()) >= 200
