"""Calibrators, regions, blocks, recipes, sensitivity and mixed precision."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lepton_ir
from lepton_ir import api, dtypes
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.passes.quant import distance, nbits, parts, recipe, spool
from lepton_ir.passes.quant.histogram import HALF, Histogram, entropy, percentile, squared_error
from lepton_ir.passes.quant.nbits import Scheme, pack_blocked, pack_nbits
from lepton_ir.passes.quant.parts import rows
from lepton_ir.passes.quant.regions import gain
from lepton_ir.passes.quant.spool import KEPT, Spool, SpooledTensor
from lepton_ir.passes.quant.static import Plan, slow_groups
from lepton_ir.pipeline import PipelineError
from lepton_ir.tensors import DenseTensor, ExternalTensor
from lepton_ir.tools.bench.quant_peers import census

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(
    nodes: list[Any], weights: dict[str, np.ndarray], shape: list[Any], opset: int = 17
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets).SerializeToString()


def quantized(
    source: bytes, options: str, path: Path, feeds: Any = None, target: str = "onnx"
) -> Any:
    module = lepton_ir.load(source)
    text = f"fuse,quant{{{options}}}"
    report = lepton_ir.run_passes(module, text, target=api.target(target), feeds=feeds)
    lepton_ir.save(module, path)
    return report.context


def run(path: Path | str | bytes, x: np.ndarray) -> np.ndarray:
    source = path if isinstance(path, bytes) else str(path)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(source, options).run(None, {"x": x})[0]


def decibels(x: np.ndarray, y: np.ndarray) -> float:
    wide = x.astype(np.float64)
    noise = np.square(wide - y).sum()
    return float(10 * np.log10(np.square(wide).sum() / noise)) if noise else np.inf


# -- calibrators ---------------------------------------------------------------------------------


def test_histograms_do_not_depend_on_the_order_of_the_data():
    parts = [draw(500, seed=i) * 3.0**i for i in range(6)]
    forward, backward, merged = Histogram(), Histogram(), Histogram()
    for part in parts:
        forward.add(part)
        alone = Histogram()
        alone.add(part)
        merged.merge(alone)
    for part in reversed(parts):
        backward.add(part)
    for other in (backward, merged):
        assert other.exponent == forward.exponent
        assert np.array_equal(other.counts, forward.counts)
        assert (other.low, other.high) == (forward.low, forward.high)
    assert forward.counts.sum() == 3000
    assert forward.counts.size == 2 * HALF


def test_histograms_leave_out_what_is_not_finite_and_count_zeros():
    h = Histogram()
    h.add(np.array([0, 0, 1, np.nan, np.inf, -2], np.float32))
    assert (h.zeros, int(h.counts.sum()), h.low, h.high) == (2, 2, -2.0, 1.0)


@pytest.mark.parametrize("choose", [squared_error, entropy, lambda h: percentile(h, 99.9)])
def test_calibrators_cut_outliers_and_stay_inside_the_range(choose):
    h = Histogram()
    data = draw(100_000)
    h.add(data)
    low, high = choose(h)
    assert h.low <= low < -1.5
    assert 1.5 < high <= h.high
    h.add(np.array([60.0], np.float32))
    low, high = choose(h)
    assert 1.5 < high < 59
    relu = Histogram()
    relu.add(np.maximum(data, 0))
    assert choose(relu)[0] == 0


def test_the_squared_error_is_lower_than_with_the_whole_range():
    data = np.concatenate([draw(20_000), [40.0]]).astype(np.float32)
    h = Histogram()
    h.add(data)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        return float(np.square(data - np.rint(data.clip(low, high) / step) * step).sum())

    assert error(*squared_error(h)) < error(h.low, h.high)


@pytest.mark.parametrize("how", ["minmax", "average", "percentile", "entropy", "mse"])
def test_every_calibrator_gives_a_model_and_is_cached(tmp_path, how, monkeypatch):
    source = model(
        [helper.make_node("Conv", ["x", "w"], ["y"])], {"w": draw(4, 3, 3, 3)}, [1, 3, 8, 8]
    )
    x = draw(1, 3, 8, 8)
    path = tmp_path / "q.onnx"
    quantized(source, f"mode=static calibrate={how}", path, {"x": x})
    assert decibels(run(source, x), run(path, x)) > 25
    first = path.read_bytes()
    from lepton_ir.passes.quant import calibrate

    monkeypatch.setattr(calibrate, "_measure", None)  # what is cached is not measured
    quantized(source, f"mode=static calibrate={how}", path, {"x": x})
    assert path.read_bytes() == first
    with pytest.raises(TypeError):
        quantized(source, f"mode=static calibrate={how}", path, {"x": x + 1})


# -- regions and integers ------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 17])
def test_hard_activations_and_scales_run_on_integers(tmp_path, opset):
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv1"),
        helper.make_node("HardSigmoid", ["a"], ["h"], alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", ["a", "h"], ["s"]),
        helper.make_node("Mul", ["s", "two"], ["t"], "double"),
        helper.make_node("Add", ["t", "shift"], ["u"], "shifted"),
        helper.make_node("Conv", ["u", "w2"], ["y"], "conv2", pads=[1] * 4),
    ]
    weights = {"w1": draw(32, 16, 3, 3), "w2": draw(32, 32, 3, 3, seed=1)}
    weights |= {"two": np.float32([2]).reshape(1, 1, 1, 1), "shift": draw(1, 32, 1, 1)}
    weights["w1"][3] *= 50  # one scale for all channels would lose the others
    source = model(nodes, weights, [1, 16, 16, 16], opset)
    x = draw(1, 16, 16, 16)
    path = tmp_path / "q.onnx"
    ctx = quantized(source, "mode=static", path, {"x": x})
    counts = census(str(path))
    assert counts["QLinearConv"] == 2
    assert counts["QLinearAdd"] == 2
    assert counts["QLinearMul"] == 1
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 1
    assert decibels(run(source, x), run(path, x)) > 22
    assert [r["name"] for r in ctx.data["layers"]] == ["conv1", "conv2"]
    assert all(r["output_sqnr"] > 20 for r in ctx.data["layers"])


def test_islands_stay_in_float_unless_asked_for(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "thin", group=4),
        helper.make_node("Tanh", ["a"], ["y"]),
    ]
    x = draw(1, 4, 64, 64)
    nodes.insert(0, helper.make_node("Tanh", ["x"], ["x1"]))
    nodes[1].input[0] = "x1"
    source = model(nodes, {"w1": draw(4, 1, 3, 3)}, [1, 4, 64, 64])
    assert quantized(source, "mode=static", tmp_path / "q.onnx", {"x": x}).data["layers"] == []
    rows_ = quantized(source, "mode=static islands", tmp_path / "q.onnx", {"x": x}).data["layers"]
    assert [r["name"] for r in rows_] == ["thin"]
    assert gain(Plan(), []) == 0.0


def test_groups_that_are_slow_in_integers():
    assert slow_groups(8, (32, 1, 3, 3))
    assert not slow_groups(8, (8, 1, 3, 3))
    assert not slow_groups(1, (8, 8, 3, 3))
    assert not slow_groups(2, (64, 32, 3, 3))


# -- weights in blocks ---------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("target", ["onnx", "ort"])
@pytest.mark.parametrize("transposed", [False, True])
def test_blocks_of_odd_matrices(tmp_path, bits, asymmetric, target, transposed):
    w = draw(37, 100) if transposed else draw(100, 37)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=int(transposed), alpha=0.5)
    source = model([node], {"w": w, "b": draw(37)}, [4, 100], opset=21)
    options = f"mode=weights bits={bits} block=32 min_bytes=0" + " asymmetric" * asymmetric
    path = tmp_path / "q.onnx"
    ctx = quantized(source, options, path, target=target)
    x = draw(4, 100, seed=5)
    assert decibels(run(source, x), run(path, x)) > (18 if bits == 4 else 40)
    (row,) = ctx.data["layers"]
    assert row["weight_sqnr"] > (20 if bits == 4 else 44)
    found = onnx.load(str(path))
    assert ("MatMulNBits" in {n.op_type for n in found.graph.node}) == (target == "ort")
    stored = sum(len(t.raw_data) for t in found.graph.initializer)
    factor = 4 if target == "ort" else 0  # alpha, a constant of its own there
    assert stored - 37 * 4 - factor == row["bytes_after"]


def test_a_search_of_scales_lowers_the_error():
    tensor = DenseTensor(draw(256, 16) ** 3)
    plain = pack_nbits(tensor, False, Scheme(4, 32, False, False))
    better = pack_nbits(tensor, False, Scheme(4, 32, False, True))
    assert better.noise < plain.noise
    assert pack_blocked(tensor, False, Scheme(4, 32, False, True)).noise == better.noise


@pytest.mark.parametrize("target", ["onnx", "ort"])
def test_gptq_lowers_the_error_of_outputs_on_inputs_with_structure(tmp_path, target):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"], "two", transB=1),
    ]
    source = model(nodes, {"w": draw(90, 64), "v": draw(32, 64, seed=4)}, ["N", 90], opset=21)
    x = draw(256, 8, seed=1) @ draw(8, 90, seed=2) + 0.1 * draw(256, 90, seed=3)
    path, found = tmp_path / "q.onnx", []
    for option in ("", " weights=gptq"):
        quantized(source, "mode=weights bits=4 min_bytes=0" + option, path, {"x": x}, target)
        found.append(decibels(run(source, x), run(path, x)))
    assert found[1] > found[0] + 4
    with pytest.raises(LeptonError, match="calibration data"):
        quantized(source, "mode=weights bits=4 weights=gptq", path, target=target)


def test_blocks_need_an_operation(tmp_path):
    source = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": draw(64, 64)}, [4, 64])
    with pytest.raises(UnsupportedError, match="--target=ort"):
        quantized(source, "mode=weights bits=4", tmp_path / "q.onnx")


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ("mode=weights bits=4", "ort"),
        ("mode=weights bits=4 asymmetric", "onnx"),
        ("mode=weights block=32", "onnx"),
        ("mode=weights", "onnx"),
        ("mode=weights scales=mse", "onnx"),
        ("mode=dynamic", "onnx"),
        ("mode=dynamic rows=false", "onnx"),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_are_read_and_written_in_pieces(tmp_path, monkeypatch, options, target, transposed):
    count, size = 5, 1536
    monkeypatch.setattr(spool, "KEPT", 1 << 20)
    monkeypatch.setattr(parts, "BLOCK", 1 << 18)
    monkeypatch.setattr(nbits, "CHUNK", 1 << 18)
    kind = {"transB": 1} if transposed else {}
    nodes = [
        helper.make_node("Gemm", ["xabcde"[i], f"w{i}"], ["abcdey"[i + (i == count - 1)]], **kind)
        for i in range(count)
    ]
    weights = {f"w{i}": draw(size, size, seed=i) for i in range(count)}
    proto = onnx.load_from_string(model(nodes, weights, [4, size], opset=21))
    source, result = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(proto, str(source), save_as_external_data=True, location="m.data")
    tracemalloc.start()
    module = lepton_ir.load(source)
    report = lepton_ir.run_passes(module, f"quant{{{options}}}", target=api.target(target))
    lepton_ir.save(module, result)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(report.context.data["layers"]) == count
    # Weights are 9 MiB each; 2.25 MiB of integers may be here twice, to be transposed.
    assert peak < 16 << 20, peak >> 20
    x = draw(4, size, seed=9)
    assert decibels(run(source.as_posix(), x), run(result, x)) > (10 if "bits=4" in options else 30)


def test_large_results_go_to_a_file_that_vanishes(tmp_path):
    spool = Spool()
    data = np.arange(KEPT + 8, dtype=np.uint8)
    tensor = spool.keep(data, dtypes.U8, data.shape)
    assert isinstance(tensor, SpooledTensor)
    path = Path(tensor.path)
    assert np.array_equal(tensor.numpy(), data)
    del spool
    assert path.exists()
    del tensor
    assert not path.exists()
    raw = tmp_path / "w.bin"
    w = draw(10, 6)
    raw.write_bytes(b"1234" + w.tobytes())
    outside = ExternalTensor(str(raw), 4, dtypes.F32, (10, 6))
    assert np.array_equal(rows(outside, 3, 7), w[3:7])


# -- choices -------------------------------------------------------------------------------------


def chain() -> bytes:
    """Three products; the middle one has a weight that 8 bits hold badly."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node("MatMul", ["ar", "w2"], ["b"], "middle"),
        helper.make_node("Relu", ["b"], ["br"]),
        helper.make_node("MatMul", ["br", "w3"], ["y"], "last"),
    ]
    weights = {f"w{i}": draw(32, 32, seed=i) for i in (1, 2, 3)}
    weights["w2"][0] = 3000.0
    weights["w1"][:, 0] = -np.abs(weights["w1"][:, 0])  # so that this row meets zeros only
    return model(nodes, weights, ["N", 32])


def test_recipes_choose_per_layer(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('[layers.middle]\nexclude = true\n[layers."l*"]\nbits = 4\nblock = 16\n')
    options = f'mode=weights min_bytes=0 recipe="{path}"'
    ctx = quantized(chain(), options, tmp_path / "q.onnx", target="ort")
    kinds = {r["name"]: r["kind"] for r in ctx.data["layers"]}
    assert kinds == {"first": "matmul weights", "last": "matmul weights4"}
    for bad in (
        "x = 1",
        "[layers.a]\nbits = 3",
        "[layers.a]\nodd = 1",
        "[layers",
        "[layers]\na = 1",
    ):
        path.write_text(bad)
        with pytest.raises(LeptonError):
            recipe.read(str(path))
    with pytest.raises(LeptonError, match="cannot read"):
        recipe.read(str(tmp_path / "absent.toml"))


def test_sensitivity_and_mixed_precision_name_the_layer(tmp_path):
    x = np.abs(draw(64, 32, seed=9))
    path = tmp_path / "q.onnx"
    ctx = quantized(chain(), "mode=static islands sensitivity", path, {"x": x})
    found = {r["name"]: r["sensitivity"] for r in ctx.data["layers"]}
    assert max(found, key=lambda n: found[n]) == "middle"
    ctx = quantized(chain(), "mode=static islands max_drop=0.03", path, {"x": x})
    kinds = {r["name"]: r["kind"] for r in ctx.data["layers"]}
    assert kinds["middle"] == "float"
    assert kinds["first"] == "matmul static"
    y = run(chain(), x)
    assert np.linalg.norm(run(path, x) - y) <= 0.035 * np.linalg.norm(y)
    assert all(r["cause"] for r in ctx.data["layers"])
    assert any(r.message.startswith("stays in float: ") for r in ctx.remarks)


def test_a_layer_alone_is_measured_as_the_model_that_it_gives(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "one", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["b"], "two", pads=[1] * 4),
        helper.make_node("Add", ["b", "r"], ["s"]),
        helper.make_node("Conv", ["s", "w3"], ["y"], "three", pads=[1] * 4),
    ]
    weights = {f"w{i}": draw(8, 8, 3, 3, seed=i) for i in (1, 2, 3)}
    source = model(nodes, weights, ["N", 8, 12, 12])
    data = {"x": draw(6, 8, 12, 12, seed=7)}
    path = tmp_path / "q.onnx"
    ctx = quantized(source, "mode=static islands sensitivity", path, data)
    found = {r["name"]: r["sensitivity"] for r in ctx.data["layers"]}
    want = run(source, data["x"])
    for name, sensitivity in found.items():
        others = ":".join(n for n in found if n != name)
        quantized(source, f"mode=static islands exclude={others}", path, data)
        real = np.linalg.norm(run(path, data["x"]) - want) / np.linalg.norm(want)
        assert sensitivity == pytest.approx(real, rel=0.02), name


def test_what_stays_in_float_has_a_cause(tmp_path):
    names = ("dead", "bias", "outlier", "plain")
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["a"], "dead")]
    nodes += [helper.make_node("Relu", ["a"], ["ar"])]
    nodes += [helper.make_node("Gemm", ["ar", "w1", "b1"], ["b"], "bias")]
    nodes += [helper.make_node("Relu", ["b"], ["br"])]
    nodes += [helper.make_node("Gemm", ["br", "w2"], ["c"], "outlier")]
    nodes += [helper.make_node("Gemm", ["x", "w3"], ["d"], "plain")]
    nodes += [helper.make_node("Mul", ["c", "d"], ["y"])]
    weights = {f"w{i}": draw(16, 16, seed=i) for i in range(4)}
    weights["w0"][:, 3] *= 1e-9
    weights |= {"w1": draw(16, 512, seed=1), "w2": draw(512, 16, seed=2)}
    weights["w1"][:, 4] *= 1e-4
    weights["b1"] = np.zeros(512, np.float32)
    weights["b1"][4] = 1e5
    source = model(nodes, weights, ["N", 16])
    data = {"x": draw(32, 16, seed=7)}
    options = "mode=static islands equalize=false max_drop=1e-9"
    ctx = quantized(source, options, tmp_path / "q.onnx", data)
    found = {r["name"]: r["cause"].split(":")[0] for r in ctx.data["layers"]}
    assert set(found) == set(names)
    assert found["dead"] == "dead channel"
    assert found["bias"] == "bias overflow"
    assert found["outlier"] == "range outlier"
    assert found["plain"] == "what follows amplifies its rounding"


def test_layers_that_the_runtime_would_not_gain_from_have_a_cause(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "groups", group=4, pads=[1] * 4),
        helper.make_node("Conv", ["a", "w2"], ["y"], "dense", pads=[1] * 4),
    ]
    weights = {"w1": draw(16, 4, 3, 3), "w2": draw(32, 16, 3, 3, seed=1)}
    source = model(nodes, weights, [1, 16, 24, 24])
    data = {"x": draw(2, 16, 24, 24)}
    ctx = quantized(source, "mode=static sensitivity", tmp_path / "q.onnx", data)
    found = {r["name"]: (r["kind"], r["cause"]) for r in ctx.data["layers"]}
    assert found["groups"][0] == "float"
    assert "the runtime" in found["groups"][1]


def test_batches_of_open_length_are_taken_apart():
    module = lepton_ir.load(model([helper.make_node("Relu", ["x"], ["y"])], {}, ["N", 3]))
    feeds = [{"x": draw(10, 3)}, {"x": draw(4, 3)}]
    few, together = distance.samples(feeds, module.main, 100)
    assert len(few) == 1
    assert few[0]["x"].shape == (1, 3)
    assert together == 3
    few, together = distance.samples(feeds, module.main, 2)
    assert len(few) == 14
    assert together == 1


def test_a_metric_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(
        "import numpy as np\n"
        "def close(feeds, outputs):\n"
        "    assert len(feeds) == len(outputs)\n"
        "    return -float(np.mean([np.abs(o['y']).mean() for o in outputs]))\n"
        "def wrong(feeds, outputs):\n"
        "    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    x = draw(64, 32, seed=9)
    options = "mode=static islands max_drop=1e9 metric=own_metric:"
    ctx = quantized(chain(), options + "close", tmp_path / "q.onnx", {"x": x})
    assert len([r for r in ctx.data["layers"] if r["kind"] != "float"]) == 3
    for name in ("wrong", "absent"):
        with pytest.raises(LeptonError):
            quantized(chain(), options + name, tmp_path / "q.onnx", {"x": x})


@pytest.mark.parametrize(
    "text",
    ["calibrate=best", "percentile=10", "block=24", "scales=odd", "max_drop=-1", "bits=4"],
)
def test_bad_values_are_refused(text):
    with pytest.raises(PipelineError):
        lepton_ir.Pipeline.parse(f"quant{{{text}}}")


def test_dynamic_products_by_rows_hold_rows_of_different_size(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"], "two", transB=1),
    ]
    weights = {"w": draw(32, 64), "v": draw(16, 64, seed=1), "c": np.zeros(16, np.float32)}
    source = model(nodes, weights, ["N", 32])
    x = draw(8, 32) * 10.0 ** np.arange(-4, 4, dtype=np.float32).reshape(-1, 1)
    x = x.astype(np.float32)
    x[3] = 0
    path = tmp_path / "q.onnx"
    quantized(source, "mode=dynamic", path)
    assert census(str(path))["MatMulIntegerToFloat"] == 2
    y, z = run(source, x), run(path, x)
    for expected, found in zip(y, z, strict=True):
        assert decibels(expected, found) > 30
    quantized(source, "mode=dynamic rows=false", path)
    assert decibels(y[0], run(path, x)[0]) < 30


def test_value_projections_stay_in_float_and_layer_norms_are_smoothed(tmp_path):
    nodes = [helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n"])]
    nodes += [helper.make_node("MatMul", ["n", f"w{k}"], [k], k) for k in "qkv"]
    nodes += [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    size = np.ones(32, np.float32)
    size[5] = 40
    weights = {f"w{k}": draw(32, 32, seed=i) * 0.1 for i, k in enumerate("qkv")}
    for k in "qkv":
        weights[f"w{k}"][5] *= 0.02
    source = model(nodes, weights | {"scale": size, "shift": draw(32)}, [2, 7, 32])
    x, path = draw(2, 7, 32), tmp_path / "q.onnx"
    ctx = quantized(source, "mode=dynamic", path)
    assert [r["name"] for r in ctx.data["layers"]] == ["q", "k"]
    smooth = decibels(run(source, x), run(path, x))
    quantized(source, "mode=dynamic smooth=0", path)
    assert smooth > decibels(run(source, x), run(path, x)) + 3
    ctx = quantized(source, "mode=dynamic attention_values", path)
    assert [r["name"] for r in ctx.data["layers"]] == ["q", "k", "v"]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("group", [1, 4])
def test_bias_correction_restores_the_mean(tmp_path, opset, group):
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", group=group)
    w = draw(64, 64 // group, 1, 1)
    w[:, 0] *= 60  # coarse steps for the others
    source = model([node], {"w": w, "b": draw(64)}, [8, 64, 6, 6], opset)
    x, path = draw(8, 64, 6, 6, seed=2) * 0.1 + 3, tmp_path / "q.onnx"
    x[:, :: 64 // group] = 0
    x = x.astype(np.float32)
    y = run(source, x).mean((0, 2, 3))
    errors = []
    for option in (" bias_correction=false", ""):
        quantized(source, "mode=static islands" + option, path, {"x": x})
        errors.append(np.abs(run(path, x).mean((0, 2, 3)) - y).mean())
    assert errors[1] < 0.5 * errors[0]


def test_a_distance_takes_nan_and_infinities_for_far_away():
    x = np.array([1.0, np.nan, np.inf], np.float32)
    assert distance.distance([[x]], [[x.copy()]]) == 0
    for changed in ([np.nan, np.nan, np.inf], [1, 1, np.inf], [1, np.nan, -np.inf]):
        assert distance.distance([[x]], [[np.array(changed, np.float32)]]) == np.inf
