"""The same bytes whatever the hash seed, the number of threads or the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_ir.tools.fuzz import random_model

_SETTINGS = [("0", "1"), ("1", "2"), ("2", "1"), ("3", "2"), ("4", "2")]


def _optimize(model: Path, out: Path, seed: str, threads: str) -> bytes:
    env = dict(os.environ, PYTHONHASHSEED=seed, OMP_NUM_THREADS=threads)
    env["OPENBLAS_NUM_THREADS"] = threads
    command = [sys.executable, "-m", "lepton_ir", str(model), "-o", str(out), "--check=off"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


@pytest.mark.parametrize("number", [3, 17])
def test_random_models_give_the_same_bytes(number: int, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(random_model(number).SerializeToString())
    results = {_optimize(model, tmp_path / f"{s}.onnx", s, t) for s, t in _SETTINGS[:3]}
    assert len(results) == 1


@pytest.mark.slow
def test_real_models_give_the_same_bytes(shared_models: Path, tmp_path: Path) -> None:
    differing = []
    for path in sorted(shared_models.rglob("*.onnx")):
        results = {_optimize(path, tmp_path / f"{s}.onnx", s, t) for s, t in _SETTINGS}
        if len(results) != 1:
            differing.append(path.name)
    assert differing == []
