"""Elementwise kernels against NumPy in double precision: operations, special values, shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir import dtypes
from lepton_ir.backends.numba.profile import Profile
from lepton_ir.interp import run_list
from lepton_ir.text.parse import parse_module

TARGETS = ["host", "generic"]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 88.7, -103.5, 65504.0, 1e5]

# Operation, attributes, relative and absolute error that f32 may have.
UNARY = [
    *(("exp", "", 2e-7, 2e-45), ("log", "", 2e-7, 4e-7), ("tanh", "", 5e-7, 0.0)),
    *(("erf", "", 5e-7, 1e-42), ("sigmoid", "", 3e-7, 1e-38), ("softplus", "", 5e-7, 1e-38)),
    *(("relu", "", 0.0, 0.0), ("gelu", "", 3e-7, 6e-7), ("swish", "", 4e-7, 1e-36)),
    *(("gelu", "approximate=tanh", 6e-7, 2e-6), ("mish", "", 1e-6, 1e-36)),
    *(("hard_swish", "", 4e-7, 4e-7), ("hard_sigmoid", "alpha=0.3", 3e-7, 1e-7)),
    *(("elu", "alpha=0.5", 3e-7, 1e-7), ("leaky_relu", "alpha=0.3", 2e-7, 1e-44)),
    *(("sqrt", "", 2e-7, 0.0), ("floor", "", 0.0, 0.0), ("ceil", "", 0.0, 0.0)),
    *(("round", "", 0.0, 0.0), ("sign", "", 0.0, 0.0), ("abs", "", 0.0, 0.0)),
    *(("neg", "", 0.0, 0.0), ("reciprocal", "", 2e-7, 0.0), ("sin", "", 2e-7, 1e-7)),
    *(("cos", "", 2e-7, 1e-7), ("atan", "", 2e-7, 0.0), ("softsign", "", 3e-7, 0.0)),
    ("is_nan", "", 0.0, 0.0),
]


def text_of(name: str, dtype: str, shape: tuple[int, ...], count: int, attrs: str = "") -> str:
    sizes = ",".join(map(str, shape))
    inputs = ", ".join(f"%x{i}: {dtype}[{sizes}]" for i in range(count))
    operands = ", ".join(f"%x{i}" for i in range(count))
    return f"func @main({inputs}) {{\n  %y = {name}({operands}) {{{attrs}}}\n  return(%y)\n}}\n"


def run_by_kernels(text: str, feeds: dict[str, Any], target: str) -> list[Any]:
    """Run; every operation must have had a kernel."""
    session = lepton_ir.compile(parse_module(text), target, 1, passes="")
    session.profile = Profile()
    found = session.run(None, feeds)
    assert set(session.profile.by_road()) <= {"a"}, session.profile.render()
    return found


def close(found: Any, exact: Any, rtol: float, atol: float) -> None:
    a, b = found.astype(np.float64), exact.astype(np.float64)
    with np.errstate(all="ignore"):
        b = np.where(np.abs(b) > np.finfo(np.float32).max, np.copysign(np.inf, b), b)
        assert np.array_equal(np.isnan(a), np.isnan(b))
        wrong = ~((a == b) | np.isnan(a) | (np.abs(a - b) <= rtol * np.abs(b) + atol))
    assert not wrong.any(), (a[wrong][:5], b[wrong][:5])


def samples(shape: tuple[int, ...], seed: int = 0) -> Any:
    x = (np.random.default_rng(seed).standard_normal(shape) * 10).astype(np.float32)
    x.reshape(-1)[: len(SPECIAL)] = SPECIAL
    return x


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "attrs", "rtol", "atol"), UNARY)
def test_functions_of_one_operand(name, attrs, rtol, atol, target):
    x = samples((3, 37))
    (found,) = run_by_kernels(text_of(name, "f32", (3, 37), 1, attrs), {"x0": x}, target)
    exact = parse_module(text_of(name, "f64", (3, 37), 1, attrs))
    close(found, run_list(exact, {"x0": x.astype(np.float64)})[0], rtol, atol)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "units"), [("exp", 1.5), ("tanh", 5.0), ("sigmoid", 7.0)])
def test_functions_that_look_parts_up_are_exact_in_every_part(name, units, target):
    x = np.concatenate(
        [np.linspace(-s, s, 40001, dtype=np.float32) for s in (1e-3, 0.2, 2.0, 10.0, 87.0)]
    )
    (found,) = run_by_kernels(text_of(name, "f32", x.shape, 1), {"x0": x}, target)
    wide = x.astype(np.float64)
    exact = {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v))}[name](wide)
    one_unit = np.spacing(np.abs(exact).astype(np.float32))
    allowed = units if target == "host" else 2 * units  # no fused multiplication
    assert (np.abs(found - exact) <= allowed * one_unit).all()
    if name == "tanh":
        assert np.abs(found).max() == 1.0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16", "i64", "i32", "i16", "u8", "bool"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "max", "min", "less", "equal", "and", "xor"])
def test_functions_of_two_operands(name, dtype, target):
    if (name in ("and", "xor")) != (dtype == "bool") and (name, dtype) != ("equal", "bool"):
        pytest.skip("not defined")
    kind = dtypes.dtype(dtype).numpy
    with np.errstate(all="ignore"):
        feeds = {"x0": samples((5, 19)).astype(kind), "x1": samples((5, 19), 1).astype(kind)}
    feeds["x1"][1] = feeds["x0"][1]
    text = text_of(name, dtype, (5, 19), 2)
    (found,) = run_by_kernels(text, feeds, target)
    (expected,) = run_list(parse_module(text), feeds)
    assert found.dtype == expected.dtype
    pair = (found.astype(np.float64), expected.astype(np.float64))
    assert np.array_equal(*pair, equal_nan=True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(), (1,), (16,), (17,), (64,), (65,), (2, 0, 3), (300, 7)])
def test_lengths_that_are_no_multiple_of_a_vector(shape, target):
    x = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) / 100
    session = lepton_ir.compile(parse_module(text_of("exp", "f32", shape, 1)), target, 1, passes="")
    np.testing.assert_allclose(session.run(None, {"x0": x})[0], np.exp(x), rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 4, 5), (3, 1, 1)),
        ((2, 3, 4, 5), (5,)),
        ((2, 1, 4, 1), (1, 3, 1, 5)),
        ((7, 1), (1, 33)),
        ((1, 1), (4, 40)),
        ((3, 1, 5, 1, 7), (1, 4, 1, 6, 1)),
    ],
)
def test_operands_are_broadcast(shapes, target):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    dims = [",".join(map(str, s)) for s in shapes]
    text = f"func @main(%a: f32[{dims[0]}], %b: f32[{dims[1]}]) {{\n"
    text += "  %y = sub(%a, %b)\n  return(%y)\n}\n"
    (found,) = run_by_kernels(text, {"a": a, "b": b}, target)
    assert np.array_equal(found, a - b)


@pytest.mark.parametrize("target", TARGETS)
def test_every_half_is_converted_both_ways(target):
    text = "func @main(%x: f16[65536]) {\n  %y = cast(%x) {to=f32}\n  %z = cast(%y) {to=f16}\n"
    x = np.arange(65536, dtype=np.uint16).view(np.float16)
    y, z = run_by_kernels(text + "  return(%y, %z)\n}\n", {"x": x}, target)
    assert np.array_equal(y, x.astype(np.float32), equal_nan=True)
    assert np.array_equal(z, x, equal_nan=True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("wanted", ["f16", "bf16", "f64", "bool", "i32", "i64"])
def test_floats_are_converted_as_numpy_does(wanted, target):
    x = samples((40,))
    rng = np.random.default_rng(3)
    x[20:] = (rng.standard_normal(20) * 10.0 ** rng.integers(-9, 6, 20)).astype(np.float32)
    text = f"func @main(%x: f32[40]) {{\n  %y = cast(%x) {{to={wanted}}}\n  return(%y)\n}}\n"
    (found,) = run_by_kernels(text, {"x": x}, target)
    (expected,) = run_list(parse_module(text), {"x": x})
    assert found.dtype == expected.dtype
    both_nan = np.isnan(found.astype(np.float64)) & np.isnan(expected.astype(np.float64))
    assert ((found == expected) | both_nan).all()


def test_a_result_may_take_the_memory_of_an_operand_that_dies():
    # Each value is read twice, so that it is stored; then its memory is free for the next one.
    text = "func @main(%x: f32[1000]) {\n  %a = exp(%x)\n  %s = reduce_sum(%a)\n"
    text += "  %b = div(%a, %s)\n  %t = reduce_max(%b)\n  %c = div(%b, %t)\n"
    text += "  %u = reduce_mean(%c)\n  %d = sub(%c, %u)\n  return(%d)\n}\n"
    session = lepton_ir.compile(parse_module(text), "host", 1, passes="")
    x = np.linspace(-3, 3, 1000, dtype=np.float32)
    c = np.exp(x - 3)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], c - c.mean(), atol=1e-6)
    (segment,) = session.segments()
    assert segment.arena_bytes < 0.5 * segment.sum_bytes
