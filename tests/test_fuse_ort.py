"""Fusions for onnxruntime: every golden case is also run by onnxruntime itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_ir import api, dtypes, plugins
from lepton_ir.builder import Builder
from lepton_ir.context import PassContext
from lepton_ir.dims import sym
from lepton_ir.interp import run_list
from lepton_ir.ir import Module, Value
from lepton_ir.pipeline import PassManager, Pipeline
from lepton_ir.testing.golden import GoldenCase, draw_feeds, read_golden
from lepton_ir.text.parse import parse_module
from lepton_ir.types import TensorType

ort = pytest.importorskip("onnxruntime")

NOT_IMPLEMENTED = ort.capi.onnxruntime_pybind11_state.NotImplemented
GOLDEN = sorted((Path(__file__).parent / "golden" / "fuse_ort").glob("*.lir"))
CASES = [(path, case) for path in GOLDEN for case in read_golden(path)[1]]


def run_onnxruntime(module: Module, path: Path, feeds: dict[str, Any]) -> list[Any]:
    api.save(module, path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, {k: np.asarray(v) for k, v in feeds.items()})
    return found


def fuse(module: Module, pipeline: str, target: str) -> PassContext:
    ctx = PassContext(target=plugins.load("backends", target))
    PassManager(ctx).run(Pipeline.parse(pipeline), module)
    return ctx


@pytest.mark.parametrize(("path", "case"), CASES, ids=[f"{p.stem}-{c.name}" for p, c in CASES])
def test_onnxruntime_computes_what_the_interpreter_does(
    path: Path, case: GoldenCase, tmp_path: Path
) -> None:
    text = "\n".join(case.head)
    source, result = parse_module(text), parse_module(text)
    fuse(result, str(case.single("RUN")), str(case.single("TARGET")))
    options = str(case.single("CHECK-NUMERIC"))
    ints = 100 if "ints=100" in options else 2
    for seed in range(2):
        feeds = draw_feeds(source, seed, ints)
        expected = run_list(source, feeds)
        try:
            run_onnxruntime(source, tmp_path / "source.onnx", feeds)
        except NOT_IMPLEMENTED:
            pytest.skip("onnxruntime does not compute the source")
        found = run_onnxruntime(result, tmp_path / "m.onnx", feeds)
        for want, got in zip(expected, found, strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            if want.dtype.kind in "ui":  # quantized: one step
                assert np.abs(want.astype(int) - got.astype(int)).max(initial=0) <= 1
            else:
                bound = 2e-2 if want.dtype.itemsize == 2 else 2e-4
                np.testing.assert_allclose(got, want, rtol=bound, atol=bound)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_other_targets_get_standard_operations_only(path: Path) -> None:
    for case in read_golden(path)[1]:
        module = parse_module("\n".join(case.head))
        before = {op.name for op in module.walk()}
        fuse(module, "fuse_ort{skip_norm=true},dce", "onnx")
        assert {op.name for op in module.walk()} <= before


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_fusing_twice_changes_nothing(path: Path) -> None:
    for case in read_golden(path)[1]:
        module = parse_module("\n".join(case.head))
        fuse(module, str(case.single("RUN")), "ort")
        again = fuse(module, str(case.single("RUN")), "ort")
        assert not any(key.startswith("fuse") for key in again.rule_hits)


def build(make: Any, *types: TensorType) -> Module:
    module = Module("test")
    module.opsets[""] = 17
    function = module.add_function("main")
    args = [function.block.add_arg(t, f"x{i}") for i, t in enumerate(types)]
    b = Builder(function.block)
    outputs: list[Value] = make(b, *args)
    function.output_names = [f"y{i}" for i in range(len(outputs))]
    b.build("return", *outputs)
    return module


def names(module: Module) -> set[str]:
    return {op.name for op in module.walk()} - {"const", "return"}


def test_the_norm_of_onnxruntime_is_written_in_the_default_domain(tmp_path: Path) -> None:
    import onnx

    def make(b: Builder, x: Value) -> list[Value]:
        square = b.reduce_mean(b.mul(x, x), [-1])
        return [b.div(x, b.sqrt(b.add(square, 1e-6)))]

    module = build(make, TensorType(dtypes.F32, (sym("N"), 8)))
    feeds = {"x0": np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)}
    want = run_list(module, feeds)[0]
    fuse(module, "shapes,fuse_ort,dce", "ort")
    assert names(module) == {"ms_simplified_layer_normalization"}
    path = tmp_path / "m.onnx"
    np.testing.assert_allclose(run_onnxruntime(module, path, feeds)[0], want, rtol=1e-5)
    (node,) = onnx.load(path).graph.node
    assert (node.domain, node.op_type) == ("", "SimplifiedLayerNormalization")
    assert names(api.load(path)) == {"ms_simplified_layer_normalization"}


@pytest.mark.parametrize("dtype", [dtypes.F32, dtypes.F16], ids=str)
def test_layer_norm_before_its_opset(dtype: dtypes.DType, tmp_path: Path) -> None:
    """onnxruntime has it in every opset, as its own fusions write it; ONNX from 17 on."""

    def make(b: Builder, x: Value) -> list[Value]:
        centred = b.sub(x, b.reduce_mean(x, [-1]))
        variance = b.reduce_mean(b.mul(centred, centred), [-1])
        return [b.div(centred, b.sqrt(b.add(variance, 1e-3)))]

    def module() -> Module:
        made = build(make, TensorType(dtype, (sym("N"), 8)))
        made.opsets[""] = 13
        return made

    feeds = {"x0": np.random.default_rng(0).normal(size=(3, 8)).astype(dtype.numpy)}
    for target, wanted in (("onnx", False), ("ort", True)):
        result = module()
        fuse(result, "fuse,dce", target)
        assert ("layer_normalization" in names(result)) is wanted
    found = run_onnxruntime(result, tmp_path / "m.onnx", feeds)
    bound = 1e-5 if dtype is dtypes.F32 else 1e-2
    np.testing.assert_allclose(found[0], run_list(module(), feeds)[0], rtol=bound, atol=bound)
    read = api.load(tmp_path / "m.onnx")
    assert (names(read), read.opsets[""]) == ({"layer_normalization"}, 13)
    api.run_passes(read, "O2")
    api.save(read, tmp_path / "again.onnx")
    assert names(api.load(tmp_path / "again.onnx")) == {"layer_normalization"}


def test_the_opset_import_appears_with_the_first_operation(tmp_path: Path) -> None:
    import onnx

    def make(b: Builder, x: Value) -> list[Value]:
        return [b.mul(x, b.sigmoid(x))]

    module = build(make, TensorType(dtypes.F32, (sym("N"), 8)))
    fuse(module, "shapes,fuse_ort,dce", "ort")
    api.save(module, tmp_path / "m.onnx")
    imports = {o.domain: o.version for o in onnx.load(tmp_path / "m.onnx").opset_import}
    assert imports == {"": 17, "com.microsoft": 1}


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("where", ["scores", "queries", "both"])
def test_attention_scales(heads: int, length: int, where: str, tmp_path: Path) -> None:
    size = 4

    def make(b: Builder, x: Value, mask: Value) -> list[Value]:
        def split(value: Value, perm: tuple[int, ...]) -> Value:
            shaped: Value = b.reshape(value, [0, 0, heads, size])
            turned: Value = b.transpose(shaped, perm=perm)
            return turned

        q, k = split(x, (0, 2, 1, 3)), split(x, (0, 2, 3, 1))
        if where != "scores":
            q = b.mul(q, 0.6)
        if where == "both":
            k = b.div(k, 1.7)
        scores = b.matmul(q, k)
        if where == "scores":
            scores = b.mul(scores, 0.3)
        weights = b.softmax(b.add(mask, scores), axis=-1)
        merged = b.transpose(b.matmul(weights, split(x, (0, 2, 1, 3))), perm=(0, 2, 1, 3))
        return [b.reshape(merged, [0, 0, heads * size])]

    n = sym("N")
    module = build(
        make,
        TensorType(dtypes.F32, (2, n, heads * size)),
        TensorType(dtypes.F32, (1, 1, n, n)),
    )
    rng = np.random.default_rng(3)
    feeds = {
        "x0": rng.normal(size=(2, length, heads * size)).astype(np.float32),
        "x1": np.where(rng.random((1, 1, length, length)) < 0.7, 0, -1e9).astype(np.float32),
    }
    want = run_list(module, feeds)[0]
    fuse(module, "shapes,fuse_attention,canonicalize,dce", "ort")
    assert names(module) == {"ms_multi_head_attention"}
    np.testing.assert_allclose(run_list(module, feeds)[0], want, rtol=1e-4, atol=1e-5)
    got = run_onnxruntime(module, tmp_path / "m.onnx", feeds)[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize("target", ["onnx", "ort"])
@pytest.mark.parametrize("hidden", [LOWEST, -1e4, -np.inf])
def test_rows_that_see_no_key(target: str, hidden: float, tmp_path: Path) -> None:
    """A whole row of the lowest float means the mean of the values, in every spelling."""

    def make(b: Builder, x: Value, see: Value) -> list[Value]:
        zero, low = b.const(np.zeros((), np.float32)), b.const(np.array(hidden, np.float32))
        mask = b.where(see, zero, low)
        scores = b.add(b.matmul(x, b.transpose(x, perm=(0, 1, 3, 2))), mask)
        found = b.matmul(b.softmax(scores, axis=-1), x)
        return [b.transpose(found, perm=(0, 2, 1, 3))]

    n = sym("N")
    module = build(
        make,
        TensorType(dtypes.F32, (2, 3, n, 5)),
        TensorType(dtypes.BOOL, (2, 1, n, n)),
    )
    module.opsets[""] = 23
    see = np.ones((2, 1, 4, 4), np.bool_)
    see[0, 0, 1], see[1, 0, 2, 1:] = False, False
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5)).astype(np.float32)
    feeds = {"x0": x, "x1": see}
    want = run_list(module, feeds)[0]
    fuse(module, "shapes,fuse_attention,dce", target)
    assert ("softmax" in names(module)) == (hidden == -np.inf)
    got = run_onnxruntime(module, tmp_path / "m.onnx", feeds)[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("past", [0, 1, 6])
@pytest.mark.parametrize("masked", ["none", "some", "all"])
def test_one_query_of_grouped_heads(batch: int, past: int, masked: str, tmp_path: Path) -> None:
    """Also of a row that sees no key, whose weights are equal, and of an empty past."""
    heads, groups, size = 6, 2, 8

    def make(b: Builder, *args: Value) -> list[Value]:
        q, k, v, past_k, past_v, see = args
        keys, values = b.concat(past_k, k, axis=2), b.concat(past_v, v, axis=2)
        indices = np.repeat(np.arange(groups), heads // groups)
        many = [b.gather(x, b.const(indices), axis=1) for x in (keys, values)]
        scores = b.mul(b.matmul(q, b.transpose(many[0], perm=(0, 1, 3, 2))), 0.4)
        lowest = b.const(np.asarray(np.finfo(np.float32).min))
        scores = b.add(scores, b.where(see, b.const(np.float32(0)), lowest))
        return [b.matmul(b.softmax(scores), many[1]), keys, values]

    before = sym("P")
    fresh = TensorType(dtypes.F32, (batch, groups, 1, size))
    old = TensorType(dtypes.F32, (batch, groups, before, size))
    query = TensorType(dtypes.F32, (batch, heads, 1, size))
    see = TensorType(dtypes.BOOL, (batch, 1, 1, before + 1))
    module = build(make, query, fresh, fresh, old, old, see)
    rng = np.random.default_rng(7)
    shapes = [(batch, heads, 1, size), *[(batch, groups, n, size) for n in (1, 1, past, past)]]
    feeds = {f"x{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(shapes)}
    seen = {"none": 1.0, "some": 0.5, "all": 0.0}[masked]
    feeds["x5"] = rng.random((batch, 1, 1, past + 1)) < seen
    want = run_list(module, feeds)
    fuse(module, "shapes,fuse_attention,canonicalize,dce", "ort")
    assert "ms_group_query_attention" in names(module)
    results = run_onnxruntime(module, tmp_path / "m.onnx", feeds)
    for found, expected in zip(results, want, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch", "length"), [(0, 3), (1, 1), (2, 5), (2, 0)])
@pytest.mark.parametrize("turned", [6, 8])
@pytest.mark.parametrize("one", [False, True])
def test_rotary_embeddings_before_opset_23(
    batch: int, length: int, turned: int, one: bool, tmp_path: Path
) -> None:
    heads, size = 3, 8

    def make(b: Builder, rows: Value, f: Value) -> list[Value]:
        whole = b.transpose(b.reshape(rows, [0, 0, heads, size]), perm=(0, 2, 1, 3))
        x = b.slice(whole, [0], [turned], [3]) if turned < size else whole
        angles = b.concat(f, f, axis=-1)
        cos, sin = (b.unsqueeze(w, [1]) for w in (b.cos(angles), b.sin(angles)))
        low = b.slice(x, [0], [turned // 2], [3])
        high = b.slice(x, [turned // 2], [turned], [3])
        y = b.add(b.mul(x, cos), b.mul(b.concat(b.neg(high), low, axis=3), sin))
        return [b.concat(y, b.slice(whole, [turned], [size], [3]), axis=3) if x is not whole else y]

    b_, n = sym("B"), sym("N")
    module = build(
        make,
        TensorType(dtypes.F32, (b_, n, heads * size)),
        TensorType(dtypes.F32, (1 if one else b_, n, turned // 2)),
    )
    rng = np.random.default_rng(5)
    feeds = {
        "x0": rng.normal(size=(batch, length, heads * size)).astype(np.float32),
        "x1": rng.normal(size=(1 if one else batch, length, turned // 2)).astype(np.float32),
    }
    want = run_list(module, feeds)[0]
    fuse(module, "shapes,fuse_attention,fold,canonicalize,dce", "ort")
    assert "ms_rotary_embedding" in names(module)
    assert "neg" not in names(module)
    found = run_onnxruntime(module, tmp_path / "m.onnx", feeds)[0]
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
