"""TFLite in: what is read computes what LiteRT does, as it is and as ONNX in onnxruntime."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.diagnostics import LeptonError
from lepton_ir.foreign import Foreign
from lepton_ir.interp import run_list
from lepton_ir.ir import Module
from lepton_ir.types import TensorType
from tests.tflite_cases import Case, load
from tests.tflite_models import HAS_LITERT, litert

needs_litert = pytest.mark.skipif(
    not HAS_LITERT, reason="needs LiteRT: pip install 'lepton-ir[litert]'"
)
CASES = load()
BY_NAME = {c.name: c for c in CASES}


@functools.cache
def answers() -> dict[str, Any]:
    """What LiteRT says to every case, asked once."""
    found = litert([(c.model, c.feeds) for c in CASES])
    return dict(zip(BY_NAME, found, strict=True))


def _expected(case: Case) -> list[list[np.ndarray]]:
    found = answers()[case.name]
    if isinstance(found, str):
        pytest.fail(f"LiteRT does not run the case: {found}")
    return found


def _compare(case: Case, got: list[Any], want: list[np.ndarray]) -> None:
    for g, w in zip(got, want, strict=True):
        g = np.asarray(g)
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        if w.dtype.kind in "fc":
            scale = max(1.0, float(np.nanmax(np.abs(w), initial=0)))
            np.testing.assert_allclose(g, w, rtol=0, atol=case.tolerance * scale, equal_nan=True)
        else:
            difference = np.abs(g.astype(np.int64) - w.astype(np.int64))
            assert difference.max(initial=0) <= case.steps, f"{g} is not {w}"


def _first(module: Module) -> dict[str, np.ndarray]:
    """Return the first contents of all states, by the name of their input."""
    types = {v.name: v.type for v in module.main.inputs}
    found = {}
    for state in module.main.meta.get("states", ()):
        if "input" in state:
            type_ = types[state["input"]]
            assert isinstance(type_, TensorType)
            assert type_.dtype is not None
            shape, dtype = type_.static_shape, type_.dtype.numpy
            initial = state.get("initial", 0)
            if isinstance(initial, Foreign):
                found[state["input"]] = np.frombuffer(initial.data, dtype).reshape(shape)
            else:
                found[state["input"]] = np.full(shape, initial, dtype)
    return found


def _drive(module: Module, case: Case, run: Callable[[dict[str, Any]], list[Any]]) -> list[Any]:
    """Run the case's feeds one after the other, states fed back."""
    main = module.main
    held, following = _first(module), {}
    for state in main.meta.get("states", ()):
        following[state["output"]] = state.get("input")
    names = [v.name or "" for v in main.inputs if v.name not in held]
    results = []
    for feeds in case.feeds:
        found = run({**dict(zip(names, feeds, strict=True)), **held})
        results.append(
            [v for n, v in zip(main.output_names, found, strict=True) if n not in following]
        )
        for name, value in zip(main.output_names, found, strict=True):
            if following.get(name):
                held[following[name]] = np.asarray(value)
    return results


@needs_litert
@pytest.mark.parametrize("name", BY_NAME)
def test_interpreter_computes_what_litert_does(name: str) -> None:
    case = BY_NAME[name]
    want = _expected(case)
    module = lepton_ir.load(case.model)
    assert not [op.name for op in module.walk() if op.definition is None], "it stays opaque"
    for found, expected in zip(
        _drive(module, case, lambda f: run_list(module, f)), want, strict=True
    ):
        _compare(case, found, expected)


NO_KERNEL = {
    "BITCAST-0": "bit_cast does not exist in opset",
    "COMPLEX_ABS-0": "complex_abs does not exist",
    "IMAG-0": "imag does not exist",
    "REAL-0": "real does not exist",
    "RFFT2D-0": "rfft2d does not exist",
    "NON_MAX_SUPPRESSION_V5-0": "scores that decay have no counterpart",
}
"""Cases that no ONNX file can say, or that onnxruntime does not run, and the reason."""


@needs_litert
@pytest.mark.parametrize("name", BY_NAME)
def test_onnxruntime_computes_what_litert_does(name: str, tmp_path: Path) -> None:
    import onnxruntime

    case = BY_NAME[name]
    want = _expected(case)
    module = lepton_ir.load(case.model)
    path = str(tmp_path / "case.onnx")
    if name in NO_KERNEL:
        with pytest.raises(LeptonError, match=NO_KERNEL[name]):
            lepton_ir.run_passes(module, "legalize")
        return
    lepton_ir.run_passes(module, "legalize")
    lepton_ir.save(module, path)
    session = onnxruntime.InferenceSession(path)
    for found, expected in zip(
        _drive(module, case, lambda f: session.run(None, f)), want, strict=True
    ):
        _compare(case, found, expected)
