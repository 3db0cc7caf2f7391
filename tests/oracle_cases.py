"""Stored cases of ``tests/oracle/``: small models, with what the frameworks computed for them."""

from __future__ import annotations

import io
import os
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lepton_ir import dtypes, run_passes, save
from lepton_ir.ir import Module

FOLDER = Path(os.environ.get("LEPTON_ORACLE", Path(__file__).parent / "data"))
"""Where the archives lie; ``make oracle`` makes them anew in another folder."""

_TOLERANCE = {"float16": 4e-3, "float64": 1e-11}
_USUAL, _BF16 = 3e-6, 3e-2


class Cases:
    """An archive of cases: ``NAME.KIND`` is a model, ``NAME.npz`` its inputs and results.

    Args:
        file: its name in the folder.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    @cache  # noqa: B019 (one object an archive)
    def files(self) -> dict[str, bytes]:
        """Return the contents of the archive."""
        with tarfile.open(FOLDER / self.file) as archive:
            found = {}
            for member in archive.getmembers():
                data = archive.extractfile(member)
                assert data is not None
                found[member.name] = data.read()
        return found

    def models(self) -> list[str]:
        """Return the names of the models."""
        return [n for n in self.files() if not n.endswith(".npz")]

    def arrays(self, name: str) -> dict[str, Any]:
        """Return what is stored for a model."""
        stem = name.rsplit(".", 1)[0].removesuffix(".core")
        data = np.load(io.BytesIO(self.files()[f"{stem}.npz"]))
        return {k: data[k] for k in data}

    def given(self, name: str) -> tuple[list[Any], list[Any]]:
        """Return inputs and results of a model, in order."""
        data = self.arrays(name)
        return tuple(  # type: ignore[return-value]
            [data[f"{kind}{i}"] for i in range(len(data)) if f"{kind}{i}" in data]
            for kind in ("in", "out")
        )

    def write(self, name: str, folder: Path) -> Path:
        """Put a model into a folder; return its path."""
        path = folder / f"case.{name.rsplit('.', 1)[1]}"
        path.write_bytes(self.files()[name])
        return path


def feeds_of(module: Module, given: list[Any]) -> dict[str, Any]:
    """Return arrays by the names of the inputs, in order."""
    feeds = {}
    for value, array in zip(module.main.inputs, given, strict=True):
        bf16 = value.dtype is dtypes.BF16
        feeds[str(value.name)] = array.astype(ml_dtypes.bfloat16) if bf16 else array
    return feeds


def assert_same(found: list[Any], expected: list[Any]) -> None:
    """Compare results with a framework's: shapes and element types too."""
    for got, want in zip(found, expected, strict=False):
        got = np.asarray(got)
        rough = got.dtype == ml_dtypes.bfloat16
        assert got.shape == want.shape
        assert rough or got.dtype == want.dtype
        wide = want.astype(np.float64)
        scale = np.abs(wide[np.isfinite(wide)]).max(initial=1e-30)
        tolerance = _BF16 if rough else _TOLERANCE.get(str(want.dtype), _USUAL)
        np.testing.assert_allclose(
            got.astype(np.float64), wide, rtol=tolerance, atol=tolerance * scale
        )


def run_as_onnx(module: Module, feeds: dict[str, Any], folder: Path) -> list[Any]:
    """Optimize a module, write it as ONNX and run it in onnxruntime."""
    import onnxruntime as ort

    run_passes(module, "O2,legalize")
    save(module, folder / "case.onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(folder / "case.onnx"), options)
    found: list[Any] = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    return found
