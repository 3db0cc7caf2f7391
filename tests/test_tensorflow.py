"""SavedModels and frozen graphs, with what TensorFlow computed.

``tests/oracle/tf_graphs.py`` makes the cases; see there.
"""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_ir import load, run_passes
from lepton_ir.interp import run_module
from lepton_ir.ir import Module

CASES = Path(__file__).parent / "data" / "tf_graphs.tar.xz"

_LAYERS = {"lstm": {"lstm"}, "gru": {"gru"}, "rnn": {"rnn"}, "bidirectional": {"lstm", "gru"}}


@cache
def cases() -> dict[str, bytes]:
    with tarfile.open(CASES) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


def names() -> list[str]:
    return [n.removesuffix(".npz") for n in cases() if n.endswith(".npz")]


def unpack(name: str, folder: Path) -> Path:
    """Write the files of a case; return the path of the model."""
    path = folder / name
    for key, data in cases().items():
        place = folder / key
        if key.startswith((f"{name}/", f"{name}.pb")):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            path = path if "/" in key else place
    return path


def runs(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return inputs and results of the runs of a case."""
    data = np.load(io.BytesIO(cases()[f"{name}.npz"]))
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for key in data:
        number, kind, what = key.split(":", 2)
        found.setdefault(number, ({}, {}))[kind == "o"][what] = data[key]
    return list(found.values())


def assert_runs(module: Module, name: str) -> None:
    for feeds, expected in runs(name):
        found = run_module(module, feeds)
        for key, want in expected.items():
            got = found[f"{key}.out" if key == "total" else key]
            assert got.shape == want.shape, key
            assert got.dtype == want.dtype, key
            np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-6)


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
