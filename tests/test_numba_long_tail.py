"""Road b against the reference interpreter: element types, axes, odd values, wrong indices."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.backends.numba import long_tail
from lepton_ir.backends.numba.profile import Profile
from lepton_ir.diagnostics import LeptonError
from lepton_ir.interp import run_list
from lepton_ir.text.parse import parse_module

KINDS = {
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
    "int8": "i8",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "bool": "bool",
}


@pytest.fixture
def small(monkeypatch):
    """Take tensors of any size."""
    entries = {name: entry._replace(least=0) for name, entry in long_tail.ENTRIES.items()}
    monkeypatch.setattr(long_tail, "ENTRIES", entries)


pytestmark = pytest.mark.usefixtures("small")


def session_of(body: str, inputs: dict[str, Any]) -> Any:
    arguments = ", ".join(
        f"%{n}: {KINDS[a.dtype.name]}[{','.join(map(str, a.shape))}]" for n, a in inputs.items()
    )
    module = parse_module(f"func @main({arguments}) {{\n{body}\n}}\n")
    session = lepton_ir.compile(module, threads=1, passes="")
    session.profile = Profile()
    return module, session


def check(body: str, road: str = "b", **inputs: Any) -> list[Any]:
    module, session = session_of(body, inputs)
    found = session.run(None, inputs)
    assert set(session.profile.by_road()) == {road}, session.profile.render()
    for f, e in zip(found, run_list(module, inputs), strict=True):
        assert f.dtype == e.dtype
        np.testing.assert_array_equal(f, e)
    return found


def numbers(dtype: str, *shape: int, seed: int = 0) -> Any:
    drawn = np.random.default_rng([seed, *shape]).integers(0, 50, shape)
    return drawn.astype(dtype) if dtype != "bool" else drawn % 2 == 0


def indexes(size: int, *shape: int, dtype: str = "int64", seed: int = 1) -> Any:
    return np.random.default_rng([seed, *shape]).integers(-size, size, shape).astype(dtype)


MOVED = ["float16", "float32", "float64", "int8", "int64", "bool"]
SUMMED = ["float32", "float64", "int32", "int64"]
ORDERED = ["float32", "float64", "int8", "int64", "uint8"]


@pytest.mark.parametrize("dtype", MOVED)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_gather_elements(index, axis, dtype):
    body = f"  %y = gather_elements(%x, %i) {{axis={axis}}}\n  return(%y)"
    x = numbers(dtype, 4, 5, 6)
    shape = [4, 5, 6]
    shape[axis] = 7
    check(body, "a", x=x, i=indexes(x.shape[axis], *shape, dtype=index))
    check(body, "a", x=x, i=indexes(x.shape[axis], 2, 3, 4, dtype=index))  # smaller on other axes


@pytest.mark.parametrize("dtype", MOVED)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_elements(axis, dtype):
    body = f"  %y = scatter_elements(%x, %i, %u) {{axis={axis}}}\n  return(%y)"
    shape = [4, 5, 6]
    shape[axis] = 9
    i = indexes(4, *shape)
    check(body, x=numbers(dtype, 4, 5, 6), i=i, u=numbers(dtype, *shape, seed=2))


@pytest.mark.parametrize("dtype", SUMMED)
@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_scatters_that_combine(reduction, dtype):
    x, u = numbers(dtype, 4, 5, 6), numbers(dtype, 3, 5, 6, seed=2)
    if dtype.startswith("float"):
        x[0, 0, 0], u[1, 2, 3], u[0, 0, 1] = np.nan, np.nan, -np.inf
    body = f"  %y = scatter_elements(%x, %i, %u) {{reduction={reduction}}}\n  return(%y)"
    check(body, x=x, i=indexes(4, 3, 5, 6), u=u)
    body = f"  %y = scatter_nd(%x, %i, %u) {{reduction={reduction}}}\n  return(%y)"
    check(body, x=x, i=indexes(4, 7, 2), u=numbers(dtype, 7, 6, seed=3))


@pytest.mark.parametrize("dtype", MOVED)
def test_rows_by_coordinates(dtype):
    x = numbers(dtype, 4, 5, 6)
    check("  %y = gather_nd(%x, %i)\n  return(%y)", x=x, i=indexes(4, 3, 2))
    check("  %y = gather_nd(%x, %i)\n  return(%y)", x=x, i=indexes(4, 3, 2, 3))
    body = "  %y = gather_nd(%x, %i) {batch_dims=1}\n  return(%y)"
    check(body, x=x, i=indexes(5, 4, 3, 1))
    u = numbers(dtype, 3, 2, 6, seed=4)
    check("  %y = scatter_nd(%x, %i, %u)\n  return(%y)", x=x, i=indexes(4, 3, 2, 2), u=u)


@pytest.mark.parametrize("dtype", ORDERED)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("largest", ["true", "false"])
def test_top_k(largest, axis, dtype):
    x = numbers(dtype, 9, 11)
    if dtype.startswith("float"):
        x[2, 3:5], x[3, 4], x[4, 4], x[5, 1] = np.nan, np.inf, -np.inf, np.inf
    for k in (1, 4, 9):
        body = f"  %k = const() {{value=[{k}]}} : i64[1]\n"
        body += f"  %v, %i = top_k(%x, %k) {{axis={axis}, largest={largest}}}\n  return(%v, %i)"
        check(body, x=x)


@pytest.mark.parametrize("dtype", ORDERED)
@pytest.mark.parametrize("op", ["arg_max", "arg_min"])
@pytest.mark.parametrize("attrs", ["axis=0", "axis=1, keepdims=false", "axis=-2"])
@pytest.mark.parametrize("last", ["true", "false"])
def test_where_the_largest_is(last, attrs, op, dtype):
    x = numbers(dtype, 4, 5, 6)
    if dtype.startswith("float"):
        x[1, 0, 2], x[2, 4, 4], x[3] = np.nan, -np.inf, np.nan
    check(f"  %y = {op}(%x) {{{attrs}, select_last_index={last}}}\n  return(%y)", x=x)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis):
    body = "  %d = const() {value=7} : i64[]\n"
    body += f"  %y = one_hot(%i, %d, %v) {{axis={axis}}}\n  return(%y)"
    check(body, i=indexes(9, 4, 5), v=np.array([2.5, -1.0], np.float32))
    check(body, i=indexes(9, 4, 5, dtype="int32"), v=np.array([0, 1], np.int8))


@pytest.mark.parametrize("center", ["true", "false"])
@pytest.mark.parametrize("threshold", [None, 0.4])
def test_non_max_suppression(threshold, center):
    g = np.random.default_rng(3)
    boxes = g.random((2, 40, 4)).astype(np.float32)
    scores = np.round(g.random((2, 3, 40)), 1).astype(np.float32)  # with equal ones
    body = "  %m = const() {value=[9]} : i64[1]\n  %t = const() {value=[0.3]} : f32[1]\n"
    body += "" if threshold is None else f"  %s = const() {{value=[{threshold}]}} : f32[1]\n"
    last = "" if threshold is None else ", %s"
    body += f"  %y = non_max_suppression(%b, %c, %m, %t{last}) {{center_point_box={center}}}\n"
    (found,) = check(body + "  return(%y)", b=boxes, c=scores)
    assert len(found) > 6


WRONG = [
    ("gather_elements(%x, %i) {axis=1}", (4, 5), (4, 5), None),
    ("scatter_elements(%x, %i, %u) {axis=1}", (4, 5), (4, 5), (4, 5)),
    ("scatter_elements(%x, %i, %u) {axis=1, reduction=add}", (4, 5), (4, 5), (4, 5)),
    ("gather_nd(%x, %i)", (4, 5), (3, 2), None),
    ("scatter_nd(%x, %i, %u)", (4, 5), (3, 2), (3,)),
    ("scatter_nd(%x, %i, %u) {reduction=max}", (4, 5), (3, 2), (3,)),
]


@pytest.mark.parametrize("bad", [5, -6, 1 << 40])
@pytest.mark.parametrize(("text", "x", "i", "u"), WRONG)
def test_an_index_out_of_range_names_the_node(text, x, i, u, bad):
    index = np.zeros(i, np.int64)
    index[1, 1] = bad
    inputs = {"x": np.ones(x, np.float32), "i": index}
    if u is not None:
        inputs["u"] = np.ones(u, np.float32)
    _, session = session_of(f"  %wrong = {text}\n  return(%wrong)", inputs)
    with pytest.raises(LeptonError, match=f"index {bad} is out of range for an axis of 5") as e:
        session.run(None, inputs)
    assert "wrong" in str(e.value)


def test_views_and_constants_are_read_as_they_are():
    body = "  %t = transpose(%x) {perm=[1,0]}\n  %i = const() {value=[[0,-1,2]]} : i64[1,3]\n"
    body += "  %y = gather_elements(%t, %i) {axis=0}\n  return(%y)"
    check(body, "a", x=numbers("float32", 4, 5))
    body = (
        "  %i = const() {value=[[0,-1],[1,2]]} : i64[2,2]\n  %y = gather_nd(%x, %i)\n  return(%y)"
    )
    check(body, x=numbers("float32", 4, 5, 2))


@pytest.mark.parametrize("dtype", SUMMED)
@pytest.mark.parametrize("attrs", ["", "exclusive=true", "reverse=true, exclusive=true"])
def test_cum_sum(attrs, dtype):
    x = numbers(dtype, 4, 5, 6)
    if dtype.startswith("float"):
        x[1, 0, 2], x[2, 4, 4] = np.nan, np.inf
    for axis in (0, 1, -1):
        body = f"  %a = const() {{value={axis}}} : i64[]\n"
        body += f"  %y = cum_sum(%x, %a){f' {{{attrs}}}' if attrs else ''}\n  return(%y)"
        check(body, "a", x=x)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
def test_integers_between_bounds(dtype):
    kind = KINDS[dtype]
    body = f"  %l = const() {{value=7}} : {kind}[]\n  %h = const() {{value=30}} : {kind}[]\n"
    check(body + "  %y = clip(%x, %l, %h)\n  return(%y)", "a", x=numbers(dtype, 5, 40))
    check(body + "  %y = clip(%x, _, %h)\n  return(%y)", "a", x=numbers(dtype, 5, 40))


CODE = """
import sys
import numpy as np
import lepton_ir
from lepton_ir.text.parse import parse_module
module = parse_module('''func @main(%x: f32[N,64,2]) {
  %y = arg_max(%x) {axis=1}
  return(%y)
}
''')
session = lepton_ir.compile(module, threads=1)
session.run(None, {"x": np.ones((4, 64, 2), np.float32)})
assert "numba" not in sys.modules
session.run(None, {"x": np.ones((1024, 64, 2), np.float32)})
assert "numba" in sys.modules
"""


def test_numba_is_imported_for_large_tensors_only():
    subprocess.run([sys.executable, "-c", CODE], check=True)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", ["true", "false"])
@pytest.mark.parametrize("sizes", [(7,), (6, 9), (3, 4, 5)])
def test_grid_sample(mode, padding, align, sizes):
    rng = np.random.default_rng(len(sizes))
    x = rng.standard_normal((2, 3, *sizes)).astype(np.float32)
    x[0, 0].reshape(-1)[:2] = np.inf, np.nan
    grid = rng.uniform(-1.4, 1.4, (2, *(s + 1 for s in sizes), len(sizes))).astype(np.float32)
    body = f"""
  %y = grid_sample(%x, %g) {{mode="{mode}", padding_mode="{padding}", align_corners={align}}}
  return(%y)"""
    check(body, x=x, g=grid)
    check(body, x=x.astype(np.float64), g=grid.astype(np.float64))
