"""Sessions of the Numba backend: feeds, shapes, control flow, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.interp import run_list
from lepton_ir.text.parse import parse_module

TWO_INPUTS = """
module @m {opset=20} {
  func @main(%x: f32[N,3], %y: f32[N,3]) -> (f32[N,3]) {
    %z = add(%x, %y) : f32[N,3]
    return(%z)
  }
}
"""


OTHERS = ("networkx", "lark", "onnxruntime", "numba")

BLOCKED = {
    ".lir": ("onnx", "networkx", "onnxruntime", "numba"),
    ".onnx": OTHERS,
    ".lepton": ("onnx", *OTHERS),
}
"""Packages that a model must run without; reading text takes lark, reading ONNX onnx."""


def module_of(body: str, inputs: str) -> Any:
    return parse_module(f"func @main({inputs}) {{\n{body}\n}}\n")


def compare(module: Any, *all_feeds: dict[str, Any], target: str = "host", **options: Any) -> Any:
    """Run all feeds through one session and the interpreter; return the session."""
    session = lepton_ir.compile(module, target, 1, **options)
    for feeds in all_feeds:
        expected = run_list(module, feeds)
        for e, f in zip(expected, session.run(None, feeds), strict=True):
            if isinstance(e, list):
                assert len(e) == len(f)
            else:
                assert e.dtype == f.dtype
                np.testing.assert_allclose(f, e, rtol=2e-5, atol=2e-6)
    return session


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


@pytest.fixture
def two() -> Any:
    return lepton_ir.compile(parse_module(TWO_INPUTS), threads=1)


def test_inputs_and_outputs_are_described_as_onnxruntime_does(two):
    assert [(a.name, a.shape, a.type) for a in two.get_inputs()] == [
        ("x", ["N", 3], "tensor(float)"),
        ("y", ["N", 3], "tensor(float)"),
    ]
    assert [a.shape for a in two.get_outputs()] == [["N", 3]]


def test_one_session_runs_all_sizes_of_a_symbolic_dim(two):
    for n in (1, 5, 0, 2):
        (z,) = two.run(None, {"x": ones(n, 3), "y": ones(n, 3)})
        assert z.shape == (n, 3)
        assert (z == 2).all()


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": ones(2, 3)}, "no value for input 'y' of type f32"),
        ({"x": ones(2, 3), "y": ones(2, 3), "w": ones(1)}, "no input 'w'; the inputs are x, y"),
        ({"x": np.ones((2, 3)), "y": ones(2, 3)}, "'x' takes f32 (float32), got float64"),
        ({"x": ones(2, 4), "y": ones(2, 3)}, "'x' takes shape [N, 3], got [2, 4]"),
        ({"x": ones(3), "y": ones(2, 3)}, "'x' takes shape [N, 3], got [3]"),
        ({"x": ones(2, 3), "y": ones(4, 3)}, "'y' takes shape [N, 3] with N = 2, got [4, 3]"),
        ({"x": [ones(3)], "y": ones(4, 3)}, "'x' takes an array of type f32"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_with_what_was_expected(two, feeds, message):
    with pytest.raises(LeptonError) as caught:
        two.run(None, feeds)
    assert message in str(caught.value)


def test_outputs_can_be_chosen_and_unknown_ones_are_named():
    module = module_of(
        "    %a = add(%x, %x)\n    %b = mul(%a, %x)\n    return(%a, %b)", "%x: f32[2]"
    )
    names = module.main.output_names
    session = lepton_ir.compile(module, threads=1)
    feeds = {"x": np.array([1, 3], np.float32)}
    (b,) = session.run([names[1]], feeds)
    assert b.tolist() == [2, 18]
    with pytest.raises(LeptonError, match="no output 'zz'"):
        session.run(["zz"], feeds)


def test_results_never_alias_feeds_or_each_other_or_later_runs():
    module = module_of(
        "    %a = identity(%x)\n    %b = add(%x, %x)\n    return(%a, %x, %b)", "%x: f32[2]"
    )
    session = lepton_ir.compile(module, threads=1)
    x = np.array([1, 2], np.float32)
    first = session.run(None, {"x": x})
    copies = [f.copy() for f in first]
    first[0][:] = 7
    assert x.tolist() == [1, 2]
    session.run(None, {"x": np.array([5, 6], np.float32)})
    assert first[2].tolist() == copies[2].tolist()
    assert not np.shares_memory(first[0], first[1])


def test_shapes_that_depend_on_data_cut_the_plan():
    module = module_of(
        "  %i = non_zero(%x)\n  %t = transpose(%i) {perm=[1,0]}\n"
        "  %g = gather_nd(%x, %t)\n  %y = add(%g, %g)\n  return(%y)",
        "%x: f32[6]",
    )
    session = compare(
        module,
        {"x": np.array([0, 1, 0, 2, 0, 3], np.float32)},
        {"x": np.array([0, 1, 0, 0, 0, 0], np.float32)},
        {"x": np.zeros(6, np.float32)},
        {"x": np.array([0, 4, 0, 2, 0, 3], np.float32)},
    )
    assert len(session.segments()) == 4  # one before the cut, one for each number of elements


def test_loops_are_run_by_the_plan_and_carry_shapes_that_grow():
    module = module_of(
        "  %r = loop(%n, %c, %x) (%i: i64[], %go: bool[], %a: f32[?]) {\n"
        "    %b = concat(%a, %x) {axis=0}\n    yield(%go, %b)\n  }\n  return(%r)",
        "%n: i64[], %c: bool[], %x: f32[2]",
    )
    feeds = {"n": np.int64(3), "c": np.True_, "x": np.array([1, 2], np.float32)}
    compare(module, feeds, {**feeds, "n": np.int64(0)}, {**feeds, "n": np.int64(1)})


def test_branches_read_outer_values():
    module = module_of(
        "  %y = add(%x, %x)\n  %z = if(%c) {\n    %a = mul(%y, %y)\n    yield(%a)\n  } {\n"
        "    yield(%y)\n  }\n  return(%z)",
        "%c: bool[], %x: f32[2]",
    )
    x = np.array([1, 3], np.float32)
    compare(module, {"c": np.True_, "x": x}, {"c": np.False_, "x": x})


def test_an_opaque_operation_is_refused_by_name():
    module = module_of('    %y = "com.acme.Foo"(%x)\n    return(%y)', "%x: f32[2]")
    with pytest.raises(UnsupportedError, match=r"com\.acme\.Foo is not known"):
        lepton_ir.compile(module)


def test_an_unknown_machine_is_refused_with_the_known_ones():
    with pytest.raises(LeptonError, match="x86-64-v3"):
        lepton_ir.compile(parse_module(TWO_INPUTS), "z80")


def test_sessions_in_two_threads_do_not_disturb_each_other(two):
    other = lepton_ir.compile(parse_module(TWO_INPUTS), threads=1)
    wrong: list[Any] = []

    def work(session: Any, value: float) -> None:
        x = np.full((64, 3), value, np.float32)
        for _ in range(200):
            (z,) = session.run(None, {"x": x, "y": x})
            if not (z == 2 * value).all():
                wrong.append(z)

    jobs = [(two, 1.0), (other, 2.0), (two, 3.0)]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_the_command_line_runs_measures_and_explains(tmp_path):
    path = tmp_path / "m.lir"
    path.write_text(TWO_INPUTS)
    np.save(tmp_path / "x.npy", ones(4, 3))
    command = [sys.executable, "-m", "lepton_ir.tools.lepton_run", str(path), "--random"]
    command += ["--input", f"x={tmp_path / 'x.npy'}", "--dim", "N=4", "--threads", "1"]
    command += ["--bench", "0.01", "--profile", "--plan", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["outputs"][0]["shape"] == [4, 3]
    assert report["bench"]["median_ms"] > 0
    assert report["profile"][0]["op"] == "add"
    assert "returns" in report["plan"]


def test_the_command_line_names_what_is_wrong(tmp_path):
    path = tmp_path / "m.lir"
    path.write_text(TWO_INPUTS)
    command = [sys.executable, "-m", "lepton_ir.tools.lepton_run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no value for input 'x'" in done.stderr


def test_a_lepton_file_runs_with_other_packages_blocked(tmp_path):
    path, out = tmp_path / "m.lir", tmp_path / "m.lepton"
    path.write_text(
        "func @main(%x: f32[N,16]) {\n  %w = const() {value=rand(1)} : f32[16,8]\n"
        "  %y = matmul(%x, %w)\n  %z = relu(%y)\n  %s = shape(%z)\n  return(%z, %s)\n}\n"
    )
    command = [sys.executable, "-m", "lepton_ir.tools.lepton_opt", str(path), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "networkx", "lark", "onnxruntime", "numba"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
import lepton_ir, numpy
session = lepton_ir.compile({str(out)!r}, threads=1)
y, s = session.run(None, {{session.get_inputs()[0].name: numpy.ones((3, 16), "float32")}})
print(y.sum(), s.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    session = lepton_ir.compile(str(path), threads=1)
    y, s = session.run(None, {"x": ones(3, 16)})
    assert done.stdout.split(maxsplit=1)[1].strip() == str(s.tolist())
    assert float(done.stdout.split()[0]) == pytest.approx(float(y.sum()), rel=1e-5)


@pytest.mark.parametrize("damage", ["cut", "text", "magic"])
def test_a_damaged_lepton_file_is_refused(tmp_path, damage):
    path = tmp_path / "m.lepton"
    lepton_ir.save(parse_module(TWO_INPUTS), path)
    data = path.read_bytes()
    broken = {
        "cut": data[: len(data) // 2],
        "text": data.replace(b'"add"', b'"odd"'),
        "magic": b"X" + data[1:],
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(LeptonError, match=r"damaged|not a \.lepton file"):
        lepton_ir.compile(str(path))


def test_threads_share_the_work_and_change_no_bit():
    text = """func @main(%x: f32[1,3,40,50]) {
  %w = const() {value=rand(1)} : f32[40,3,3,3]
  %y = conv(%x, %w) {pads=[1,1,1,1]}
  %v = const() {value=rand(2)} : f32[40,40,1,1]
  %z = conv(%y, %v)
  %r = relu(%z)
  %t = transpose(%r) {perm=[0,2,3,1]}
  %m = const() {value=rand(3)} : f32[40,70]
  %p = matmul(%t, %m)
  %s = softmax(%p)
  return(%s)
}
"""
    module = parse_module(text)
    x = np.random.default_rng(0).standard_normal((1, 3, 40, 50)).astype(np.float32)
    (expected,) = lepton_ir.compile(module, threads=1).run(None, {"x": x})
    for count in (2, 3):
        session = lepton_ir.compile(module, threads=count)
        for _ in range(20):
            assert np.array_equal(session.run(None, {"x": x})[0], expected)


def test_symbols_may_have_any_name():
    module = parse_module(
        'func @main(%x: f32["batch size*2",3], %y: f32["batch size*2",3]) {\n'
        "  %z = add(%x, %y)\n  %s = shape(%z)\n  return(%z, %s)\n}\n"
    )
    session = lepton_ir.compile(module, threads=1)
    z, s = session.run(None, {"x": ones(4, 3), "y": ones(4, 3)})
    assert z.shape == (4, 3)
    assert s.tolist() == [4, 3]
    with pytest.raises(LeptonError, match="takes shape"):
        session.run(None, {"x": ones(4, 3), "y": ones(5, 3)})


@pytest.mark.parametrize("suffix", [".lir", ".onnx", ".lepton"])
def test_no_compiler_is_needed(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    lepton_ir.save(parse_module(TWO_INPUTS), path)
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED[suffix]!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
import os, shutil
assert not any(shutil.which(c) for c in ("cc", "gcc", "clang", "ld", "as"))
from lepton_ir.tools.lepton_run import main
sys.exit(main([{str(path)!r}, "--random", "--json"]))
"""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    env = {"PATH": str(tmp_path / "bin"), "LEPTON_CACHE": str(tmp_path / "c"), "HOME": "/nowhere"}
    compiled = []
    for _ in range(2):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        compiled.append(json.loads(done.stdout)["kernels_compiled"])
    assert compiled[0] > 0
    assert compiled[1] == 0


def test_runs_of_the_same_plan_take_a_short_way_with_the_same_results():
    module = module_of(
        "    %a = matmul(%x, %x)\n    %b = softmax(%a)\n    %c = relu(%x)\n    return(%b, %c)",
        "%x: f32[N,N]",
    )
    session = lepton_ir.compile(module, threads=1)
    names = [a.name for a in session.get_outputs()]
    feeds = [np.random.default_rng(n).standard_normal((n, n)).astype(np.float32) for n in (5, 7, 5)]
    seen = []
    for x in (*feeds, feeds[0].T, feeds[1][::-1]):
        expected = run_list(module, {"x": x})
        for _ in range(3):
            found = session.run(None, {"x": x})
            seen += found
            for e, f in zip(expected, found, strict=True):
                np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-6)
            (last,) = session.run(names[1:], {"x": x})
            assert np.array_equal(last, found[1])
    assert len({a.__array_interface__["data"][0] for a in seen}) == len(seen)
    x = feeds[0]
    for wrong in ({"x": x.astype(np.float64)}, {"x": x[:3]}, {"x": x, "y": x}, {}):
        with pytest.raises(LeptonError):
            session.run(None, wrong)


def test_feeds_at_the_end_of_mapped_memory_are_not_read_beyond():
    import mmap

    module = module_of("    %y = exp(%x)\n    return(%y)", "%x: f32[1021]")
    session = lepton_ir.compile(module, threads=1)
    with mmap.mmap(-1, 2 * mmap.PAGESIZE) as pages:
        x = np.frombuffer(pages, np.float32)[-1021:]
        for _ in range(2):
            (y,) = session.run(None, {"x": x})
            assert (y == 1).all()
        del x


def test_a_plan_is_written_without_running_or_compiling(tmp_path):
    path, out = tmp_path / "m.onnx", tmp_path / "m.plan"
    lepton_ir.save(parse_module(TWO_INPUTS), path)
    command = [sys.executable, "-m", "lepton_ir.tools.lepton_opt", str(path), "-o", str(out)]
    done = subprocess.run([*command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "input x has a dim N without a size" in done.stderr
    done = subprocess.run([*command, "--dim=N=4"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "elementwise slot0 slot1 slot2" in out.read_text()
