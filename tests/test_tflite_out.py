"""TFLite out: what is written runs in LiteRT with the numbers of the reference interpreter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir import dims, dtypes
from lepton_ir.backends.tflite import versions
from lepton_ir.backends.tflite.kernels import kernels
from lepton_ir.backends.tflite.table import rows
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.formats.tflite.reader import read_file
from lepton_ir.formats.tflite.schema import enums
from lepton_ir.formats.tflite.validate import builtin_name, validate
from lepton_ir.interp import run_list
from lepton_ir.ir import Module, Value
from lepton_ir.tools import lepton_opt
from lepton_ir.types import TensorType
from tests.litert import run_files

Build = Callable[[Builder, dict[str, Value]], Value | tuple[Value, ...]]


def module_of(inputs: dict[str, tuple[Any, ...]], build: Build, dtype: Any = dtypes.F32) -> Module:
    """Return a module with these inputs, whose outputs are ``y0``, ``y1`` and so on."""
    module = Module("net")
    module.opsets[""] = 21
    main = module.add_function("main")
    values = {n: main.block.add_arg(TensorType(dtype, s), n) for n, s in inputs.items()}
    main.used_symbols |= {str(d) for s in inputs.values() for d in s if not isinstance(d, int)}
    b = Builder(main.block)
    found = build(b, values)
    results = found if isinstance(found, tuple) else (found,)
    main.output_names = [f"y{i}" for i in range(len(results))]
    for name, value in zip(main.output_names, results, strict=True):
        value.name = name
    b.build("return", *results, results=0)
    return module


def lowered(module: Module, passes: str = "shapes,tflite") -> Module:
    """Make a module ready for TFLite."""
    lepton_ir.run_passes(module, passes, target="tflite")
    lepton_ir.run_passes(module, "legalize", target="tflite")
    return module


def draw(shape: tuple[int, ...], seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights(*shape: int) -> Any:
    return draw(shape, 7) * np.float32(0.3)


NETS: dict[str, tuple[dict[str, tuple[int, ...]], Build]] = {
    "conv-same-relu6": (
        {"x": (1, 3, 9, 9)},
        lambda b, v: b.clip(
            b.conv(v["x"], weights(4, 3, 3, 3), weights(4), pads=(1, 1, 1, 1)),
            np.float32(0),
            np.float32(6),
        ),
    ),
    "conv-strided-padded": (
        {"x": (2, 3, 8, 8)},
        lambda b, v: b.relu(b.conv(v["x"], weights(4, 3, 3, 3), pads=(1, 1, 1, 1), strides=(2, 2))),
    ),
    "conv-depthwise": (
        {"x": (1, 4, 7, 7)},
        lambda b, v: b.conv(v["x"], weights(8, 1, 3, 3), group=4, pads=(0, 1, 2, 1)),
    ),
    "conv-grouped": (
        {"x": (1, 4, 7, 7)},
        lambda b, v: b.conv(v["x"], weights(6, 2, 3, 3), group=2, dilations=(2, 2)),
    ),
    "conv-1d": (
        {"x": (2, 3, 11)},
        lambda b, v: b.conv(v["x"], weights(4, 3, 4), weights(4), pads=(2, 1), strides=(2,)),
    ),
    "conv-3d": (
        {"x": (1, 2, 5, 6, 7)},
        lambda b, v: b.conv(v["x"], weights(3, 2, 3, 3, 3), weights(3), pads=(1, 1, 1, 1, 1, 1)),
    ),
    "conv-transpose": (
        {"x": (1, 3, 5, 5)},
        lambda b, v: b.conv_transpose(
            v["x"], weights(3, 4, 3, 3), weights(4), pads=(1, 1, 0, 1), strides=(2, 2)
        ),
    ),
    "conv-transpose-grouped": (
        {"x": (1, 4, 5, 5)},
        lambda b, v: b.conv_transpose(
            v["x"], weights(4, 3, 2, 2), weights(6), group=2, strides=(2, 2), output_padding=(1, 0)
        ),
    ),
    "max-pool-padded": (
        {"x": (1, 3, 8, 8)},
        lambda b, v: b.max_pool(v["x"], kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
    ),
    "max-pool-ceil": (
        {"x": (1, 3, 8, 8)},
        lambda b, v: b.max_pool(v["x"], kernel_shape=(3, 3), strides=(2, 2), ceil_mode=True),
    ),
    "average-pool": (
        {"x": (1, 3, 8, 8)},
        lambda b, v: (
            b.average_pool(v["x"], kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
            b.average_pool(v["x"], kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=True),
            b.average_pool(v["x"], kernel_shape=(3, 2), strides=(3, 2), ceil_mode=True),
            b.average_pool(v["x"], kernel_shape=(3, 3), pads=(1, 0, 2, 1), strides=(2, 2)),
        ),
    ),
    "products": (
        {"x": (2, 3, 4), "y": (2, 4, 5), "v": (4,)},
        lambda b, v: (
            b.matmul(v["x"], v["y"]),
            b.relu(b.matmul(v["x"], weights(4, 6))),
            b.matmul(v["x"], v["v"]),
            b.matmul(v["v"], v["y"]),
        ),
    ),
    "gemm": (
        {"x": (3, 4), "y": (4, 5), "c": (3, 1)},
        lambda b, v: (
            b.gemm(v["x"], v["y"], v["c"], alpha=0.5, beta=2.0),
            b.gemm(v["x"], weights(6, 4), weights(6), transB=True),
            b.gemm(v["y"], weights(4, 2), transA=True),
        ),
    ),
    "softmaxes": (
        {"x": (2, 3, 4)},
        lambda b, v: (b.softmax(v["x"]), b.softmax(v["x"], axis=1), b.log_softmax(v["x"], axis=0)),
    ),
    "reductions": (
        {"x": (2, 3, 4)},
        lambda b, v: (
            b.reduce_mean(v["x"], np.array([1, -1])),
            b.reduce_sum(v["x"], keepdims=False),
            b.reduce_max(v["x"], np.array([0]), keepdims=False),
        ),
    ),
    "an input and a constant are outputs": (
        {"x": (2, 3)},
        lambda b, v: (b.identity(v["x"]), b.const(weights(2)), b.add(v["x"], 1.0)),
    ),
}


def saved(folder: Path, name: str, module: Module, feeds: list[dict[str, Any]]) -> None:
    lepton_ir.save(module, folder / f"{name}.tflite")
    for i, given in enumerate(feeds):
        np.savez(folder / f"{name}.in{i}.npz", **given)


def test_nets_run_in_litert(tmp_path: Path) -> None:
    expected = {}
    for number, (name, (inputs, build)) in enumerate(NETS.items()):
        module = module_of(inputs, build)
        feeds = [{n: draw(s, seed) for n, s in inputs.items()} for seed in (0, 1, 0)]
        expected[str(number)] = (name, [run_list(module, f) for f in feeds])
        saved(tmp_path, str(number), lowered(module), feeds)
    found = run_files(tmp_path, list(expected), runs=3)
    for number, (name, wanted) in expected.items():
        assert not isinstance(found[number], str), f"{name}: {found[number]}"
        for outputs, given in zip(found[number], wanted, strict=True):
            for a, c in zip(given, outputs, strict=True):
                np.testing.assert_allclose(c, a, rtol=2e-5, atol=2e-5, err_msg=name)


def _builtins(path: Path) -> list[str]:
    model = read_file(str(path))
    codes = [builtin_name(c) or "" for c in model.operator_codes]
    return [codes[op.opcode_index] for op in model.subgraphs[0].operators]


def test_activations_are_fused_and_weights_rewritten(tmp_path: Path) -> None:
    def build(b: Builder, v: dict[str, Value]) -> Value:
        y = b.conv_nhwc(v["x"], weights(4, 3, 3, 1), group=4, pads=(1, 1, 1, 1))
        return b.clip(b.add(b.relu(y), y), np.float32(0), np.float32(6))

    path = tmp_path / "net.tflite"
    lepton_ir.save(lowered(module_of({"x": (1, 5, 5, 4)}, build)), path)
    assert _builtins(path) == ["DEPTHWISE_CONV_2D", "RELU", "ADD"]


def test_names_signature_and_provenance(tmp_path: Path) -> None:
    inputs, build = NETS["products"]
    path = tmp_path / "net.tflite"
    module = module_of(inputs, build)
    lepton_ir.save(lowered(module), path)
    model = read_file(str(path))
    validate(model)
    signature = model.signature_defs[0]
    assert [m.name for m in signature.inputs] == ["x", "y", "v"]
    assert [m.name for m in signature.outputs] == ["y0", "y1", "y2", "y3"]
    graph = model.subgraphs[0]
    assert [graph.tensors[i].name for i in graph.outputs] == ["y0", "y1", "y2", "y3"]
    entries = {m.name: bytes(model.buffers[m.buffer].data) for m in model.metadata}
    assert entries["min_runtime_version"].rstrip(b"\0") == b"2.3.0"
    assert len(entries["min_runtime_version"]) == 16
    lepton_ir.save(module, tmp_path / "again.tflite")
    assert path.read_bytes() == (tmp_path / "again.tflite").read_bytes()


def test_dynamic_sizes_are_in_the_signature_of_shapes(tmp_path: Path) -> None:
    n = dims.sym("N")
    module = module_of({"x": (n, 4)}, lambda b, v: b.relu(b.matmul(v["x"], weights(4, 3))))
    reference = module_of({"x": (n, 4)}, lambda b, v: b.relu(b.matmul(v["x"], weights(4, 3))))
    feeds = [{"x": draw((size, 4), size)} for size in (1, 5, 2)]
    saved(tmp_path, "net", lowered(module), feeds)
    tensor = read_file(str(tmp_path / "net.tflite")).subgraphs[0].tensors[0]
    assert (list(tensor.shape), list(tensor.shape_signature)) == ([1, 4], [-1, 4])
    found = run_files(tmp_path, ["net"], runs=3)["net"]
    for given, outputs in zip(feeds, found, strict=True):
        np.testing.assert_allclose(outputs[0], run_list(reference, given)[0], rtol=1e-5)


def test_what_cannot_be_expressed_is_named(tmp_path: Path) -> None:
    module = module_of({"x": (2, 5, 5)}, lambda b, v: b.add(b.det(v["x"]), b.det(b.neg(v["x"]))))
    with pytest.raises(UnsupportedError, match="det") as caught:
        lowered(module)
    assert "TFLite has no such operator" in str(caught.value)
    assert "only determinants of up to three rows" in caught.value.notes[0]
    assert caught.value.notes[1] == "det: TFLite has no such operator"


def test_lepton_opt_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "net.onnx", tmp_path / "net.tflite"
    inputs, build = NETS["conv-depthwise"]
    lepton_ir.save(module_of(inputs, build), source)
    assert lepton_opt.main([str(source), "-o", str(target), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["check"]["status"] == "equal"
    assert "DEPTHWISE_CONV_2D" in _builtins(target)


def test_lepton_opt_leaves_nothing_where_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "net.onnx", tmp_path / "net.tflite"
    lepton_ir.save(module_of({"x": (2, 5, 5)}, lambda b, v: b.det(v["x"])), source)
    assert lepton_opt.main([str(source), "-o", str(target)]) == 1
    assert "det" in capsys.readouterr().err
    assert not target.exists()


def test_tables_speak_of_operators_that_exist() -> None:
    operators = enums()["BuiltinOperator"].members
    known = {*kernels(), *versions._versions(), *versions._runtimes()}
    assert known <= set(operators)
    assert {r.builtin for r in rows().values() if isinstance(r.builtin, str)} <= set(kernels())


def test_versions_are_minimal() -> None:
    def version(builtin: str, *inputs: str, ranks: tuple[int, ...] = (4, 4), **more: Any) -> int:
        return versions.version_of(versions.Signature(builtin, inputs, ("f32",), ranks, **more))

    assert version("ADD", "f32", "f32") == 1
    assert version("ADD", "i64", "i64") == 4
    assert version("TRANSPOSE", "f32", "i32", ranks=(6, 1)) == 6
    assert version("FULLY_CONNECTED", "f32", "f32") == 6
    assert version("FULLY_CONNECTED", "f32", "f32", "f32") == 1
    assert version("BROADCAST_TO", "f32", "i32") == 2
    assert version("CONV_2D", "i8", "i8", "i32") == 3
    assert versions.runtime_of("GELU", 1) == "2.9.0"
    assert versions.newest(["1.5.0", "2.10.0", "2.9.0"]) == "2.10.0"


def _recurrent(b: Builder, v: dict[str, Value]) -> tuple[Value, ...]:
    lengths = np.array([3, 5], np.int32)
    y, h, c = b.lstm(
        v["x"],
        weights(2, 12, 4),
        weights(2, 12, 3),
        weights(2, 24),
        lengths,
        direction="bidirectional",
        hidden_size=3,
        results=3,
    )
    z, _ = b.gru(v["x"], weights(1, 9, 4), weights(1, 9, 3), hidden_size=3, results=2)
    return y, h, c, z


def test_recurrent_layers_keep_no_state(tmp_path: Path) -> None:
    module = module_of({"x": (5, 2, 4)}, _recurrent)
    reference = module_of({"x": (5, 2, 4)}, _recurrent)
    feeds = [{"x": draw((5, 2, 4), seed)} for seed in (0, 0, 1)]
    saved(tmp_path, "net", lowered(module), feeds)
    assert "WHILE" in _builtins(tmp_path / "net.tflite")
    found = run_files(tmp_path, ["net"], runs=3)["net"]
    assert not isinstance(found, str), found
    for given, outputs in zip(feeds, found, strict=True):
        for a, c in zip(run_list(reference, given), outputs, strict=True):
            np.testing.assert_allclose(c, a, rtol=1e-5, atol=1e-5)


LOOP = """// lepton-ir 1
module @m {opset=21} {
  func @main(%x: f32[3], %n: i64[], %up: bool[]) -> (f32[3], f32[?,3], f32[3]) {
    %t = const() {value=true} : bool[]
    %limit = const() {value=3.0} : f32[]
    %h, %rows = loop(%n, %t, %x) (%i: i64[], %c: bool[], %hp: f32[3]) {
      %s = add(%hp, %x)
      %f = reduce_max(%s) {keepdims=false}
      %more = less(%f, %limit)
      %e = exp(%hp)
      yield(%more, %s, %e)
    }
    %y = if(%up) {
      %a = softmax(%h)
      yield(%a)
    } {
      yield(%x)
    }
    return(%h, %rows, %y)
  }
}
"""
"""A loop that ends early, with rows of as many as ran, and a branch that gives what it read."""


def test_branches_and_loops_are_given_what_they_read(tmp_path: Path) -> None:
    source = tmp_path / "source.lir"
    source.write_text(LOOP)
    module, reference = lepton_ir.load(source), lepton_ir.load(source)
    feeds = [
        {"x": draw((3,), seed), "n": np.asarray(count), "up": np.asarray(up)}
        for seed, count, up in ((0, 4, True), (1, 0, False), (2, 3, False))
    ]
    saved(tmp_path, "net", lowered(module), feeds)
    assert {"IF", "WHILE"} <= set(_builtins(tmp_path / "net.tflite"))
    found = run_files(tmp_path, ["net"], runs=3)["net"]
    assert not isinstance(found, str), found
    for given, outputs in zip(feeds, found, strict=True):
        for a, c in zip(run_list(reference, given), outputs, strict=True):
            np.testing.assert_allclose(c, a, rtol=1e-5)


def test_views_are_not_overwritten(tmp_path: Path) -> None:
    def build(b: Builder, v: dict[str, Value]) -> tuple[Value, ...]:
        one = np.ones(1, np.int64)
        a = b.add(b.add(v["x"], one), one)
        views = b.reshape(a, [-1]), b.unsqueeze(a, [0]), b.squeeze(b.unsqueeze(a, [0]), [0])
        used = (b.concat(b.mul(s, 3), b.sub(s, 2), axis=0) for s in views)
        return (*used, b.neg(a))

    module = module_of({"x": (2, 3)}, build, dtypes.I64)
    feeds = [{"x": np.arange(6).reshape(2, 3)}]
    expected = run_list(module, feeds[0])
    saved(tmp_path, "net", lowered(module), feeds)
    found = run_files(tmp_path, ["net"])["net"]
    assert not isinstance(found, str), found
    for a, c in zip(expected, found[0], strict=True):
        np.testing.assert_array_equal(c, a)


def test_loops_over_cells_may_become_layers() -> None:
    """Layers are written as loops that state their lengths."""
    from lepton_ir import api
    from lepton_ir.ir import Module

    target = api.target("tflite")
    assert all(target.has(n, Module(), {}) for n in ("lstm", "gru", "rnn"))
