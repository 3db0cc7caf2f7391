"""TFLite in: what is read computes what LiteRT does, as it is and as ONNX in onnxruntime."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.diagnostics import LeptonError
from lepton_ir.foreign import Foreign
from lepton_ir.formats.tflite.node import Node
from lepton_ir.interp import run_list
from lepton_ir.ir import Module
from lepton_ir.text.parse import parse_module
from lepton_ir.text.print import print_module
from lepton_ir.types import TensorType
from tests.tflite_cases import Case, load
from tests.tflite_models import HAS_LITERT, Maker, T, const, litert, one_operator

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


# -- names, states, what stays opaque --------------------------------------------------------------


def custom_model() -> bytes:
    """Return a model of one custom operator."""
    maker = Maker()
    x = T((2, 3))
    code = Node("OperatorCode", builtin_code=32, deprecated_builtin_code=32, custom_code="Mine")
    maker.codes.append(code.replace(version=4))
    operator = Node("Operator", inputs=[0, -1], outputs=[1], custom_options=b"\x01\x02")
    maker.graph([x, T((2, 3), "int8", scale=0.5, zero=3), x], [0], [1], [operator])
    return maker.model()


def test_custom_operators_stay_as_they_are_and_are_refused_by_name(tmp_path: Path) -> None:
    module = lepton_ir.load(custom_model())
    op = next(o for o in module.walk() if o.definition is None)
    assert (op.name, op.version) == ("tflite.custom.Mine", 4)
    assert op.operands[1] is None
    assert op.attrs["custom_options"] == Foreign("tflite.custom_options", b"\x01\x02")
    assert (op.attrs["scale_0"], op.attrs["zero_point_0"]) == ((0.5,), (3,))
    again = parse_module(print_module(module))
    assert next(o for o in again.walk() if o.definition is None).attrs == op.attrs
    for write in (
        lambda: lepton_ir.run_passes(module, "legalize"),
        lambda: lepton_ir.save(module, tmp_path / "x.onnx"),
    ):
        with pytest.raises(LeptonError, match="Mine is a custom operator of TFLite"):
            write()
    assert not list(tmp_path.iterdir())


def signature_model() -> bytes:
    """Return a model of two subgraphs, each with a signature."""
    maker = Maker()
    x = T((2,))
    for name in ("double", "triple"):
        factor = const(2.0 if name == "double" else 3.0)
        maker.graph([x, factor, x], [0], [2], [maker.operator("MUL", [0, 1], [2])], name)
    entries = [
        Node(
            "SignatureDef",
            signature_key=f"sig_{i}",
            subgraph_index=i,
            inputs=[Node("TensorMap", name="in", tensor_index=0)],
            outputs=[Node("TensorMap", name="out", tensor_index=2)],
        )
        for i in range(2)
    ]
    maker.buffers.append(Node("Buffer", data=b"hello"))
    metadata = [Node("Metadata", name="note", buffer=len(maker.buffers) - 1)]
    return maker.model(signature_defs=entries, description="two", metadata=metadata)


def test_signatures_names_and_metadata_are_kept() -> None:
    module = lepton_ir.load(signature_model())
    assert list(module.functions) == ["main", "signature:sig_1"]
    main = module.main
    assert ([v.name for v in main.inputs], main.output_names) == (["in"], ["out"])
    assert main.meta["signatures"] == [{"key": "sig_0", "inputs": ["in"], "outputs": ["out"]}]
    assert main.meta["tensors"] == {"inputs": ["t0"], "outputs": ["t2"]}
    assert module.meta["tflite"]["description"] == "two"
    assert module.meta["tflite"]["metadata"] == [["note", Foreign("tflite.metadata", b"hello")]]
    lepton_ir.run_passes(module, "O2")
    assert list(module.functions) == ["main", "signature:sig_1"]
    feeds = {"in": np.ones(2, np.float32)}
    assert run_list(module, feeds)[0].tolist() == [2, 2]
    other = lepton_ir.load(signature_model(), signature="sig_1")
    assert run_list(other, feeds)[0].tolist() == [3, 3]
    with pytest.raises(LeptonError, match="no signature"):
        lepton_ir.load(signature_model(), signature="sig_2")


def test_variables_are_inputs_and_outputs() -> None:
    case = BY_NAME["READ_VARIABLE-0"]
    main = lepton_ir.load(case.model).main
    assert [v.name for v in main.inputs] == ["t0", "count", "sum"]
    assert main.output_names == ["t4", "t6", "count.next", "sum.next"]
    first, second = main.meta["states"]
    assert second == {
        "name": "sum",
        "kind": "resource",
        "container": "c",
        "input": "sum",
        "output": "sum.next",
        "initial": 1.0,
    }
    assert isinstance(first["initial"], Foreign)
    kept = lepton_ir.load(case.model, keep_overridable=True).main
    assert kept.overridable["count"].numpy().tolist() == [5, -2]


def test_open_dims_are_symbols() -> None:
    module = lepton_ir.load(BY_NAME["CONV_2D-batch"].model)
    assert str(module.main.inputs[0].type) == "f32[t0_0,5,5,4]"
    result = module.main.outputs[0]
    assert result is not None
    assert str(result.type) == "f32[t0_0,5,5,6]"


# -- real files ------------------------------------------------------------------------------------


def _real() -> list[Any]:
    root = Path(os.environ.get("LEPTON_SHARED", Path(__file__).parents[2] / "shared"))
    files = sorted((root / "models" / "real").rglob("*.tflite"))
    small = [pytest.param(p, id=p.stem) for p in files if p.stat().st_size < 200_000]
    large = [p for p in files if p.stat().st_size >= 200_000]
    return small + [pytest.param(p, id=p.stem, marks=pytest.mark.slow) for p in large]


def _drawn(module: Module) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    held = {s.get("input") for s in module.main.meta.get("states", ())}
    found = []
    for value in module.main.inputs:
        type_ = value.type
        if value.name in held:
            continue
        assert isinstance(type_, TensorType)
        assert type_.dtype is not None
        shape = [d if isinstance(d, int) else 1 for d in type_.shape or ()]
        if type_.dtype.is_float:
            found.append(rng.random(shape).astype(type_.dtype.numpy))
        else:
            high = 3 if type_.dtype.bits > 8 else np.iinfo(type_.dtype.numpy).max
            found.append(rng.integers(0, high, shape).astype(type_.dtype.numpy))
    return found


def _close(module: Module, found: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Floats are equal, integers close: a step before a softmax is several behind it.

    Kernels that quantize floats while they run give other results than the floats do.
    """
    hybrid = module.meta["tflite"].get("hybrid")
    rounds = any(op.name == "quantize_linear" for op in module.walk())
    for g, w in zip(found, want, strict=True):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        if w.dtype.kind == "f":
            limit = 3e-2 if hybrid else 1e-3 if rounds else 2e-4
            assert np.abs(g - w).max() <= limit * max(np.abs(w).max(), 1e-3)
        else:
            steps = np.abs(g.astype(np.int64) - w.astype(np.int64))
            assert np.mean(steps) <= 2
            assert steps.max() <= 10


@needs_litert
@pytest.mark.parametrize("path", _real() or [pytest.param(None, id="none")])
def test_real_files_compute_what_litert_does(path: Path | None) -> None:
    if path is None:
        pytest.skip("no shared models beside the repository")
    module = lepton_ir.load(path)
    if any(op.definition is None for op in module.walk()):
        pytest.skip("it has custom operators that nothing here runs")
    feeds = [_drawn(module), _drawn(module)]
    want = litert([(path.read_bytes(), feeds)])[0]
    assert not isinstance(want, str), want
    case = Case(path.stem, "", b"", feeds)
    for found, expected in zip(
        _drive(module, case, lambda f: run_list(module, f)), want, strict=True
    ):
        _close(module, [np.asarray(v) for v in found], expected)


@pytest.mark.parametrize("name", ["RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL"])
def test_random_numbers_are_random_operations(name: str) -> None:
    x, count = T((2, 3)), const(5, "int32")
    operands = [x, count] if name == "MULTINOMIAL" else [const([2, 5], "int32")]
    dtype = "int64" if name == "MULTINOMIAL" else "float32"
    module = lepton_ir.load(one_operator(name, operands, [T((2, 5), dtype)], seed=3))
    op = module.main.block.last.prev  # type: ignore[union-attr]
    assert op is not None
    assert op.definition is not None
    assert op.definition.effects == "random"
    assert op.result.shape == (2, 5)
