from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_ir
from lepton_ir import dtypes
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.passes.quant import Quant
from lepton_ir.passes.quant.feeds import open_feeds
from lepton_ir.passes.quant.numbers import (
    affine,
    quantize,
    quantize_weight,
    weight_scale,
)
from lepton_ir.passes.quant.parts import DerivedTensor, Parts
from lepton_ir.pipeline import PipelineError
from lepton_ir.tensors import DenseTensor, ExternalTensor
from lepton_ir.tools.bench import quant_accuracy as accuracy

ort = pytest.importorskip("onnxruntime")

STATIC = "fuse,quant{mode=static}"


def value_info(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[Any],
    weights: dict[str, np.ndarray],
    shapes: dict[str, list[Any]],
    output: str = "y",
    opset: int = 17,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "net",
        [value_info(n, s) for n, s in shapes.items()],
        [value_info(output, None)],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets).SerializeToString()


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def residual(batch: Any = "N", opset: int = 17) -> bytes:
    """Two convolutions with relu and a residual sum, a pool and a classifier."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["ar"], "relu1"),
        helper.make_node("Conv", ["ar", "w2", "b2"], ["c"], "conv2", pads=[1] * 4),
        helper.make_node("Add", ["c", "ar"], ["s"], "sum"),
        helper.make_node("Relu", ["s"], ["sr"], "relu2"),
        helper.make_node("GlobalAveragePool", ["sr"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "fc"),
    ]
    weights = {"w1": draw(16, 3, 3, 3), "b1": draw(16), "w2": draw(16, 16, 3, 3, seed=1)}
    weights |= {"b2": draw(16, seed=2), "w3": draw(16, 10, seed=3), "b3": draw(10, seed=4)}
    return model(nodes, weights, {"x": [batch, 3, 8, 8]}, opset=opset)


def quantized(
    source: bytes, pipeline: str, path: Path, feeds: Any = None, **options: Any
) -> tuple[Path, Any]:
    module = lepton_ir.load(source)
    report = lepton_ir.run_passes(module, pipeline, feeds=feeds, **options)
    lepton_ir.save(module, path)
    return path, report.context


def run(path: Path | bytes, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    source = path if isinstance(path, bytes) else str(path)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(
        None, feed
    )[0]


def fused(path: Path, folder: Path) -> dict[str, int]:
    """Count the operators of onnxruntime's own optimized graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(str(folder / "optimized.onnx"))
    return dict(collections.Counter(n.op_type for n in optimized.graph.node))


def decibels(x: np.ndarray, y: np.ndarray) -> float:
    wide = x.astype(np.float64)
    noise = np.square(wide - y).sum()
    return float(10 * np.log10(np.square(wide).sum() / noise)) if noise else np.inf


# -- arithmetic ----------------------------------------------------------------------------------


def test_symmetric_weights_use_the_whole_range_and_keep_zero():
    data = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], np.float32)
    parts = Parts(DenseTensor(data), 0)
    scale = weight_scale(parts, 127)
    assert scale is not None
    assert scale.tolist() == [np.float32(2 / 127), 1.0]
    ((_, _, q, _),) = quantize(parts, scale, 127)
    assert q.dtype == np.int8
    assert q.tolist() == [[64, -127, 32], [0, 0, 0]]


def test_weights_that_are_not_finite_are_refused():
    for bad in (np.nan, np.inf, -np.inf):
        tensor = DenseTensor(np.array([[1.0, bad]], np.float32))
        assert quantize_weight(tensor, None, 127) is None
        assert quantize_weight(tensor, 1, 127) is None


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0, 6), (-1, 3), (-5, -2), (2, 7), (0, 0), (-1e-30, 0)])
def test_ranges_hold_zero_exactly(signed, symmetric, low, high):
    dtype = dtypes.I8 if signed else dtypes.U8
    p = affine(low, high, dtype, symmetric)
    assert p.scale.dtype == np.float32
    assert p.scale > 0
    assert p.zero.dtype == dtype.numpy
    bottom, top = (-128, 127) if signed else (0, 255)
    reach = [(edge - int(p.zero)) * float(p.scale) for edge in (bottom, top)]
    slack = float(p.scale) * (1.5 if symmetric else 0.51)
    assert reach[0] <= min(low, 0) + slack
    assert reach[1] >= max(high, 0) - slack


def test_weights_in_files_are_not_kept_in_memory(tmp_path):
    data = draw(32, 16)
    path = tmp_path / "weights.bin"
    path.write_bytes(data.tobytes())
    outside = quantize_weight(ExternalTensor(str(path), 0, dtypes.F32, (32, 16)), 1, 127)
    inside = quantize_weight(DenseTensor(data), 1, 127)
    assert outside is not None
    assert inside is not None
    assert isinstance(outside.tensor, DerivedTensor)
    assert np.array_equal(outside.tensor.numpy(), inside.tensor.numpy())
    assert b"".join(map(bytes, outside.tensor.chunks())) == inside.tensor.numpy().tobytes()


# -- static --------------------------------------------------------------------------------------


def test_onnxruntime_fuses_every_pair_of_a_residual_net(tmp_path):
    source = residual()
    images = draw(40, 3, 8, 8, seed=9)
    path, ctx = quantized(source, STATIC, tmp_path / "q.onnx", {"x": images})
    census = fused(path, tmp_path)
    assert census["QLinearConv"] == 2
    assert census["QLinearAdd"] == census["QLinearGlobalAveragePool"] == census["QGemm"] == 1
    assert census["QuantizeLinear"] == 1
    assert "Relu" not in census
    assert census.get("DequantizeLinear", 0) == 0
    assert decibels(run(source, {"x": images}), run(path, {"x": images})) > 25
    assert [row["name"] for row in ctx.data["layers"]] == ["conv1", "conv2", "fc"]
    assert len(path.read_bytes()) < 0.65 * len(source)
    output = onnx.load(str(path)).graph.output[0]
    assert output.name == "y"
    assert output.type.tensor_type.elem_type == TensorProto.FLOAT


def test_the_report_agrees_with_ratios_from_outside(tmp_path):
    images = draw(40, 3, 8, 8, seed=9)
    source = tmp_path / "float.onnx"
    source.write_bytes(residual())
    target, ctx = quantized(source.read_bytes(), STATIC, tmp_path / "q.onnx", {"x": images})
    rows = ctx.data["layers"]
    found = list(accuracy.outside_ratios(str(source), str(target), rows, images))
    assert len(found) == 6
    for what, reported, computed in found:
        assert reported == pytest.approx(computed, abs=0.01), what


def test_a_product_with_a_float_bias_runs_on_integers(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    source = model(nodes, {"w": draw(32, 16), "b": draw(16)}, {"x": [2, 4, 32]})
    x = draw(2, 4, 32, seed=3)
    path, _ = quantized(source, STATIC, tmp_path / "q.onnx", {"x": x})
    census = fused(path, tmp_path)
    assert census.get("QLinearMatMul", 0) + census.get("MatMulIntegerToFloat", 0) == 1
    assert decibels(run(source, {"x": x}), run(path, {"x": x})) > 25


def test_convolutions_that_hold_their_activation_are_split(tmp_path):
    node = helper.make_node(
        "FusedConv", ["x", "w"], ["y"], "fused", domain="com.microsoft", activation="Relu"
    )
    proto = onnx.load_from_string(model([node], {"w": draw(4, 3, 3, 3)}, {"x": [1, 3, 8, 8]}))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    source = proto.SerializeToString()
    x = draw(1, 3, 8, 8)
    path, ctx = quantized(source, STATIC, tmp_path / "q.onnx", {"x": x})
    assert fused(path, tmp_path)["QLinearConv"] == 1
    assert decibels(run(source, {"x": x}), run(path, {"x": x})) > 25
    assert [row["name"] for row in ctx.data["layers"]] == ["fused"]


def test_an_output_of_a_convolution_stays_float_and_keeps_its_name(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    source = model([node], {"w": draw(4, 3, 3, 3)}, {"x": [1, 3, 8, 8]})
    x = draw(1, 3, 8, 8)
    path, ctx = quantized(source, STATIC, tmp_path / "q.onnx", {"x": x})
    assert fused(path, tmp_path)["QLinearConv"] == 1
    assert decibels(run(source, {"x": x}), run(path, {"x": x})) > 30
    assert ctx.data["layers"][0]["output"] == "y"


def test_per_tensor_before_opset_13(tmp_path):
    source = residual(opset=12)
    images = draw(4, 3, 8, 8, seed=9)
    path, ctx = quantized(source, STATIC, tmp_path / "q.onnx", {"x": images})
    assert any("one per channel needs opset 13" in r.message for r in ctx.remarks)
    assert onnx.load(str(path)).opset_import[0].version == 12
    assert decibels(run(source, {"x": images}), run(path, {"x": images})) > 20


@pytest.mark.parametrize("pipeline", ["quant{mode=dynamic}", "quant{mode=weights}", STATIC])
def test_old_opsets_are_refused_with_the_way_out(tmp_path, pipeline):
    with pytest.raises(UnsupportedError, match="--opset 13"):
        quantized(residual(opset=9), pipeline, tmp_path / "q.onnx", {"x": draw(1, 3, 8, 8)})


def test_static_without_data_says_what_to_pass(tmp_path):
    with pytest.raises(LeptonError, match=r"--calib=FILE\.npz"):
        quantized(residual(), STATIC, tmp_path / "q.onnx")


def test_activations_with_nan_zero_and_extremes(tmp_path):
    images = draw(6, 3, 8, 8, seed=9)
    path, ctx = quantized(
        residual(), STATIC, tmp_path / "q.onnx", [{"x": images}, {"x": images * np.inf}]
    )
    assert any("NaN or infinities" in r.message for r in ctx.remarks)
    ratio = decibels(run(residual(), {"x": images}), run(path, {"x": images}))
    assert ratio > 20
    path, _ = quantized(residual(), STATIC, tmp_path / "z.onnx", {"x": images * 0})
    assert np.isfinite(run(path, {"x": images})).all()


def test_empty_samples_do_not_stop_calibration(tmp_path):
    images = draw(6, 3, 8, 8, seed=9)
    feeds = [{"x": images[:0]}, {"x": images}]
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    source = model([node], {"w": draw(4, 3, 3, 3)}, {"x": ["N", 3, 8, 8]})
    path, _ = quantized(source, STATIC, tmp_path / "q.onnx", feeds)
    assert decibels(run(source, {"x": images}), run(path, {"x": images})) > 30


def test_layers_are_excluded_by_name_position_and_rule(tmp_path):
    feeds = {"x": draw(4, 3, 8, 8)}

    def layers(pipeline: str, **options: Any) -> list[str]:
        _, ctx = quantized(residual(), pipeline, tmp_path / "q.onnx", feeds, **options)
        return [row["name"] for row in ctx.data["layers"]]

    assert layers("fuse,quant{exclude=conv1:fc}") == ["conv2"]
    assert layers('fuse,quant{exclude="conv*"}') == ["fc"]
    assert layers("fuse,quant{skip_first skip_last}") == ["conv2"]
    assert layers("fuse,quant", exclude_rules=frozenset({"static-gemm"})) == ["conv1", "conv2"]
    assert layers("fuse,quant", keep_nodes=frozenset({"conv2"})) == ["conv1", "fc"]
    assert layers("fuse,quant", stop_after=0) == []


def test_every_cut_of_the_rewrites_gives_a_model_that_runs(tmp_path):
    images = draw(4, 3, 8, 8)
    expected = run(residual(), {"x": images})
    _, ctx = quantized(residual(), STATIC, tmp_path / "q.onnx", {"x": images})
    for count in range(len(ctx.rewrites)):
        path, _ = quantized(
            residual(), STATIC, tmp_path / "q.onnx", {"x": images}, stop_after=count
        )
        assert decibels(expected, run(path, {"x": images})) > 15


def test_one_weight_of_two_layers_is_stored_once(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"], "second"),
    ]
    source = model(nodes, {"w": draw(32, 32)}, {"x": ["N", 32]})
    x = draw(8, 32, seed=3)
    for mode in ("static", "dynamic", "weights"):
        path, _ = quantized(source, f"quant{{mode={mode}}}", tmp_path / "q.onnx", {"x": x})
        stored = [t for t in onnx.load(str(path)).graph.initializer if list(t.dims) == [32, 32]]
        assert [t.data_type for t in stored] == [TensorProto.INT8]
        assert decibels(run(source, {"x": x}), run(path, {"x": x})) > 25


def test_a_huge_bias_fits_its_integers(tmp_path):
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    w = draw(3, 2, 1, 1) * np.array([1, 1e-12, 0], np.float32).reshape(3, 1, 1, 1)
    bias = np.array([1.0, 1000.0, -5.0], np.float32)
    source = model([node], {"w": w, "b": bias}, {"x": [1, 2, 4, 4]})
    x = draw(1, 2, 4, 4)
    path, _ = quantized(source, STATIC, tmp_path / "q.onnx", {"x": x})
    assert np.abs(run(path, {"x": x}) - run(source, {"x": x})).max() < 1005 / 255


# -- dynamic and weights -------------------------------------------------------------------------


def test_onnxruntime_fuses_dynamic_products(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Gemm", ["a", "v", "c"], ["y"], "fc", transB=1, alpha=0.5),
    ]
    weights = {"w": draw(32, 64), "v": draw(16, 64, seed=1), "c": draw(16)}
    source = model(nodes, weights, {"x": ["N", 32]})
    path, ctx = quantized(source, "quant{rows=false}", tmp_path / "q.onnx")
    census = fused(path, tmp_path)
    assert census.get("DynamicQuantizeMatMul", 0) >= 1
    assert "MatMulInteger" not in census
    x = draw(8, 32, seed=3)
    assert decibels(run(source, {"x": x}), run(path, {"x": x})) > 25
    assert [row["kind"] for row in ctx.data["layers"]] == ["matmul dynamic", "gemm dynamic"]


def test_weights_shrink_the_file_to_a_quarter(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=2)]
    source = model(nodes, {"w": draw(64, 32, 3, 3)}, {"x": ["N", 64, 8, 8]})
    path, ctx = quantized(source, "quant{mode=weights}", tmp_path / "q.onnx")
    assert len(path.read_bytes()) < 0.28 * len(source)
    x = draw(2, 64, 8, 8)
    assert decibels(run(source, {"x": x}), run(path, {"x": x})) > 35
    row = ctx.data["layers"][0]
    assert (row["weight"], row["bytes_before"]) == ("w", 64 * 32 * 9 * 4)
    assert row["bytes_after"] == 64 * 32 * 9 + 64 * 5


def test_a_weight_that_others_read_counts_as_bytes_after(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "w"], ["y"]),
    ]
    source = model(nodes, {"w": draw(32, 32)}, {"x": [32, 32]})
    _, ctx = quantized(source, "quant{mode=dynamic}", tmp_path / "q.onnx")
    assert ctx.data["layers"][0]["bytes_after"] == 32 * 32 * 5 + 32 * 5


# -- options and data ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["quant{mode=fast}", "quant{bits=3}", "quant{activations=f32}"])
def test_bad_options_are_named(text):
    with pytest.raises(PipelineError, match=r"mode|bits|activations"):
        lepton_ir.Pipeline.parse(text)


def feeds_of(given: Any, batch: Any = "N") -> list[dict[str, np.ndarray]]:
    found = open_feeds(given, lepton_ir.load(residual(batch)))
    assert found is not None
    first, again = list(found), list(found)
    assert len(first) == len(again)
    return first


def test_archives_are_cut_into_samples(tmp_path):
    images = draw(70, 3, 8, 8)
    path = tmp_path / "digits.npz"
    np.savez(path, x=images.astype(np.float64), target=np.arange(70))
    assert [len(f["x"]) for f in feeds_of((str(path),))] == [32, 32, 6]
    assert [f["x"].dtype for f in feeds_of((str(path),))] == [np.float32] * 3
    assert [len(f["x"]) for f in feeds_of((str(path),), batch=16)] == [16] * 4
    assert [len(f["x"]) for f in feeds_of((str(path),), batch=70)] == [70]
    np.savez(path, x=images.reshape(35, 2, 3, 8, 8))
    assert [f["x"].shape for f in feeds_of(str(path))] == [(2, 3, 8, 8)] * 35
    np.savez(path, other=images[:2])
    assert np.array_equal(feeds_of(str(path))[0]["x"], images[:2])


def test_folders_and_functions(tmp_path, monkeypatch):
    for k in range(3):
        np.savez(tmp_path / f"{k}.npz", x=draw(1, 3, 8, 8, seed=k))
    assert len(feeds_of((str(tmp_path),))) == 3
    (tmp_path / "my_feeds.py").write_text(
        "import numpy as np\n"
        "def images():\n"
        "    for k in range(4):\n"
        "        yield {'x': np.full((1, 3, 8, 8), k, np.float32)}\n"
        "def wrong():\n"
        "    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(feeds_of("my_feeds:images")) == 4
    with pytest.raises(LeptonError, match="ZeroDivisionError"):
        feeds_of("my_feeds:wrong")
    with pytest.raises(LeptonError, match="cannot import"):
        feeds_of("my_feeds:absent")


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"a": draw(2, 3, 8, 8), "b": draw(1)}, "no array for input 'x'"),
        ({"x": draw(2, 3, 9, 8)}, "the data has shape"),
        ({"x": draw(8, 8)}, "the data has shape"),
        ({"x": np.array(["a"])}, "takes f32"),
    ],
)
def test_data_that_does_not_fit_is_named(arrays, text):
    with pytest.raises(LeptonError, match=text):
        feeds_of((arrays,))


def test_no_data_is_none():
    module = lepton_ir.load(residual())
    assert open_feeds(None, module) is None
    assert open_feeds((), module) is None


def test_the_pass_prints_as_it_is_written():
    for text in ("quant{mode=static exclude=a:b skip_last}", 'quant{exclude="a b:c"}'):
        assert str(lepton_ir.Pipeline.parse(text)) == text
    assert Quant().lossy


# -- accuracy ------------------------------------------------------------------------------------


def glyphs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten fixed random 8x8 patterns, moved and under noise: a small task of our own."""
    rng = np.random.default_rng(5)
    patterns = rng.random((10, 8, 8)) > 0.6
    labels = rng.integers(0, 10, count)
    images = patterns[labels].astype(np.float32)
    shifts = rng.integers(-1, 2, (count, 2))
    images = np.stack([np.roll(i, tuple(s), (0, 1)) for i, s in zip(images, shifts, strict=True)])
    images += 0.2 * rng.standard_normal(images.shape)
    return images[:, None].astype(np.float32), labels


def test_accuracy_survives_on_a_task_of_our_own():
    images, labels = glyphs(800)
    ways = tuple(accuracy.VARIANTS)
    rows = list(accuracy.evaluate(images, labels, 1, 4, epochs=8, run_folds=1, variants=ways))
    assert {(r.net, r.variant) for r in rows} == {(n, v) for n in ("cnn", "mlp") for v in ways}
    for row in rows:
        assert row.float_accuracy > 80
        assert row.accuracy >= row.float_accuracy - 2
        assert row.ratio_gap < 0.01
        assert row.bytes_after < 0.7 * row.bytes_float


def test_accuracy_survives_on_digits(shared_models):
    path = shared_models / "data" / "sklearn" / "digits.npz"
    if not path.is_file():
        pytest.skip("digits.npz is not here")
    images, labels = accuracy.digits(str(path))
    rows = list(accuracy.evaluate(images, labels, 1, 5, epochs=4, run_folds=1))
    found = accuracy.summary(rows)
    assert all(s["mean_loss"] <= 1.0 for s in found.values())
