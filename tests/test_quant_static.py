"""Static mode: types of activations, ranges that readers cut, cross-layer equalization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import lepton_ir
from lepton_ir.context import PassContext
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.passes.quant import Quant, adaround, recipe
from lepton_ir.passes.quant.common import Run
from lepton_ir.passes.quant.equalize import equalize
from lepton_ir.passes.quant.feeds import open_feeds
from lepton_ir.passes.quant.histogram import Histogram, entropy, squared_error
from lepton_ir.passes.quant.static import make_plan
from lepton_ir.tools.bench.quant_peers import census
from tests.test_quant_choices import decibels, draw, model, quantized, run

KINDS = {
    "u8": onnx.TensorProto.UINT8,
    "i8": onnx.TensorProto.INT8,
    "u16": onnx.TensorProto.UINT16,
    "i16": onnx.TensorProto.INT16,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def node(kind: str, inputs: str, output: str, name: str = "", **attrs: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], name or None, **attrs)


def pair_types(path: Path) -> set[int]:
    """Types of the zero points of all that is quantized."""
    graph = onnx.load(str(path)).graph
    held = {t.name: t.data_type for t in graph.initializer}
    return {held[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"}


# -- types of activations ------------------------------------------------------------------------


def net(opset: int) -> bytes:
    nodes = [
        node("Conv", "x w1 b1", "a", "first", pads=[1] * 4),
        node("Relu", "a", "r"),
        node("Conv", "r w2", "c", "second"),
        node("Add", "c r", "s", "sum"),
        node("HardSwish", "s", "h", "act") if opset > 13 else node("Sigmoid", "s", "h", "act"),
        node("Conv", "h w3", "y", "third"),
    ]
    weights = {"w1": draw(16, 3, 3, 3), "b1": draw(16), "w2": draw(16, 16, 1, 1, seed=1) * 0.2}
    return model(nodes, weights | {"w3": draw(4, 16, 1, 1, seed=2)}, ["N", 3, 8, 8], opset)


@pytest.mark.parametrize(("opset", "target"), [(21, "onnx"), (17, "ort"), (12, "ort")])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", list(KINDS))
def test_all_types_of_activations(tmp_path, kind, per_channel, symmetric, opset, target):
    options = f"mode=static islands activations={kind} per_channel={str(per_channel).lower()}"
    x, path = draw(8, 3, 8, 8, seed=3), tmp_path / "q.onnx"
    source = net(opset)
    quantized(source, options + " symmetric" * symmetric, path, {"x": x}, target)
    assert pair_types(path) == {KINDS[kind]}
    assert decibels(run(source, x), run(path, x)) > (30 if kind.endswith("16") else 20)


def test_16_bits_need_an_operator(tmp_path):
    options = "mode=static activations=u16"
    for opset in (17, 12):
        with pytest.raises(UnsupportedError, match="--opset 21"):
            quantized(net(opset), options, tmp_path / "q.onnx", {"x": draw(1, 3, 8, 8)})


def test_more_codes_leave_ranges_whole():
    h = Histogram()
    h.add(np.append(draw(200_000), 30).astype(np.float32))
    assert squared_error(h)[1] < 25
    assert squared_error(h, 1 << 16)[1] == h.high
    assert entropy(h, 1 << 16) == (h.low, h.high)


def test_recipes_choose_types(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        '[layers.second]\nactivations = "i16"\nsymmetric = true\n'
        "[layers.first]\nper_channel = false\n"
    )
    x, target = draw(8, 3, 8, 8, seed=3), tmp_path / "q.onnx"
    quantized(net(21), f'mode=static islands recipe="{path}"', target, {"x": x})
    assert pair_types(target) == {KINDS["u8"], KINDS["i16"]}
    graph = onnx.load(str(target)).graph
    scales = {n.name: n.input[1] for n in graph.node if n.op_type == "DequantizeLinear"}
    ranks = {t.name: len(t.dims) for t in graph.initializer}
    assert ranks["w1_scale"] == 0
    assert ranks["w2_scale"] == 1
    assert scales
    assert decibels(run(net(21), x), run(target, x)) > 25
    path.write_text('[layers.second]\nactivations = "f8"\n')
    with pytest.raises(LeptonError, match="u16"):
        recipe.read(str(path))


# -- ranges that readers cut ---------------------------------------------------------------------


@pytest.mark.parametrize("act", ["hardswish", "hardsigmoid", "gate", "sigmoid", "silu"])
def test_ranges_end_where_readers_saturate(tmp_path, act):
    """What lies beyond is far, so that whole ranges would leave few steps for the rest."""
    between = {
        "hardswish": [node("HardSwish", "a", "h", "act")],
        "hardsigmoid": [node("HardSigmoid", "a", "h", "act")],
        "gate": [
            node("HardSigmoid", "a", "g", "gate", alpha=1 / 6, beta=0.5),
            node("Mul", "a g", "h"),
        ],
        "sigmoid": [node("Sigmoid", "a", "h", "act")],
        "silu": [node("Sigmoid", "a", "g", "act"), node("Mul", "g a", "h")],
    }[act]
    nodes = [node("Conv", "x w1", "a", "one"), *between, node("Conv", "h w2", "y", "two")]
    weights = {"w1": np.eye(8, dtype=np.float32)[..., None, None], "w2": draw(8, 8, 1, 1)}
    source = model(nodes, weights, [4, 8, 6, 6])
    x, path = 2 * draw(4, 8, 6, 6), tmp_path / "q.onnx"
    x[0, 0, 0, 0] = -3000
    quantized(source, "mode=static islands", path, {"x": x})
    y, z = run(source, x), run(path, x)
    # The input is quantized coarsely all the same, so only the pair behind the layer counts.
    graph = onnx.load(str(path)).graph
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    (scale,) = [held[n.input[1]] for n in graph.node if n.input[0] == "a"]
    assert scale < 16 / 255
    assert y.shape == z.shape


def test_ranges_stay_where_another_reader_sees_all(tmp_path):
    nodes = [
        node("Conv", "x w1", "a", "one"),
        node("HardSwish", "a", "h", "act"),
        node("Add", "a h", "s", "sum"),
        node("Conv", "s w2", "y", "two"),
    ]
    weights = {"w1": np.eye(8, dtype=np.float32)[..., None, None], "w2": draw(8, 8, 1, 1)}
    source = model(nodes, weights, [4, 8, 6, 6])
    x, path = draw(4, 8, 6, 6), tmp_path / "q.onnx"
    x[0, 0, 0, 0] = -50
    quantized(source, "mode=static islands", path, {"x": x})
    assert decibels(run(source, x)[0], run(path, x)[0]) > 20


# -- equalization --------------------------------------------------------------------------------


def uneven(act: str = "Relu", middle_group: int = 32) -> bytes:
    """Pointwise, depthwise, pointwise, with channels of very different size between."""
    size = np.exp2(np.linspace(-6, 6, 32)).astype(np.float32).reshape(-1, 1, 1, 1)
    attrs = {"alpha": 0.1} if act == "LeakyRelu" else {}
    nodes = [node("Conv", "x w1 b1", "a", "one"), node(act, "a", "ar", **attrs)]
    if act == "Clip":
        nodes[1] = node("Clip", "a zero six", "ar")
    nodes += [
        node("Conv", "ar w2 b2", "c", "two", pads=[1] * 4, group=middle_group),
        node("Conv", "c w3", "y", "three"),
    ]
    weights = {"w1": draw(32, 8, 1, 1) * size, "b1": draw(32) * size.reshape(-1)}
    inner = 32 // middle_group
    weights["w2"] = draw(32, inner, 3, 3, seed=1) / (
        size if inner == 1 else size.reshape(1, -1)[:, :inner].reshape(1, inner, 1, 1)
    )
    weights |= {"b2": draw(32, seed=2), "w3": draw(4, 32, 1, 1, seed=3)}
    weights |= {"zero": np.float32(0), "six": np.float32(6)}
    return model(nodes, weights, ["N", 8, 8, 8])


@pytest.mark.parametrize("act", ["Relu", "LeakyRelu"])
@pytest.mark.parametrize("group", [32, 1])
def test_equalization_lowers_noise_and_changes_no_float(tmp_path, act, group):
    source = uneven(act, group)
    x, path = draw(4, 8, 8, 8, seed=5), tmp_path / "q.onnx"
    found = []
    for option in ("equalize=false", "equalize"):
        quantized(source, f"mode=static islands {option}", path, {"x": x})
        found.append(decibels(run(source, x), run(path, x)))
    assert found[1] > found[0] + 6, found
    module = lepton_ir.load(source)
    lepton_ir.run_passes(module, "fuse")
    lepton_ir.save(module, path)
    before = run(path, x)
    options = Quant(mode="static", islands=True)
    state = Run(options, module, PassContext(), "static")
    feeds = open_feeds({"x": x}, module)
    assert feeds is not None
    equalize(state, make_plan(state), feeds)
    lepton_ir.save(module, path)
    assert np.array_equal(run(path, x), before)


@pytest.mark.parametrize("why", ["clip", "output", "shared"])
def test_equalization_leaves_what_it_would_change(tmp_path, why):
    source = uneven("Clip" if why == "clip" else "Relu")
    proto = onnx.load_from_string(source)
    if why == "output":
        proto.graph.output.append(helper.make_tensor_value_info("ar", 1, None))
    if why == "shared":
        proto.graph.node.append(node("ReduceMax", "w2", "top", keepdims=0))
        proto.graph.output.append(helper.make_tensor_value_info("top", 1, None))
    module = lepton_ir.load(proto.SerializeToString())
    state = Run(Quant(mode="static", islands=True), module, PassContext(), "static")
    feeds = open_feeds({"x": draw(4, 8, 8, 8)}, module)
    assert feeds is not None
    weights = {
        v.name: v.op.attrs["value"].numpy().copy()
        for v in (o.results[0] for o in module.main.block.ops if o.name == "const")
    }
    equalize(state, make_plan(state), feeds)
    for op in module.main.block.ops:
        if op.name == "const" and op.result.name == "w1":
            assert np.array_equal(op.attrs["value"].numpy(), weights["w1"])


def test_normalizations_pass_large_channels_on_to_weights(tmp_path):
    """SmoothQuant: channels that a normalization makes large have small rows."""
    size = np.exp2(np.linspace(-4, 4, 32)).astype(np.float32)
    nodes = [
        node("LayerNormalization", "x scale shift", "n", "norm"),
        node("MatMul", "n w", "a", "product"),
        node("MatMul", "n v", "y", "other"),
        node("Relu", "a", "z"),
    ]
    weights = {"scale": size, "shift": draw(32) * size}
    weights |= {k: draw(32, 32, seed=i) / size[:, None] for i, k in enumerate("wv")}
    source = model(nodes, weights, [2, 9, 32])
    x, path, found = draw(2, 9, 32, seed=5), tmp_path / "q.onnx", []
    for option in ("equalize=false", "equalize"):
        quantized(source, f"mode=static islands {option}", path, {"x": x})
        found.append(decibels(run(source, x), run(path, x)))
    assert found[1] > found[0] + 6, found


# -- adaptive rounding ---------------------------------------------------------------------------


def test_coordinate_descent_never_loses():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        taps = 200
        x = rng.standard_normal((64, 9)) @ rng.standard_normal((9, taps))
        gram = (x.T @ x / 64).astype(np.float32)
        w = rng.standard_normal((5, taps)).astype(np.float32)
        s = np.full_like(w, 0.1)
        nearest = np.clip(np.rint(w / s), -25, 25)
        chosen = adaround.descend(w, s, nearest.copy(), gram.copy(), 25)
        errors = [(((q * s - w) @ gram) * (q * s - w)).sum(1) for q in (nearest, chosen)]
        assert (errors[1] <= errors[0] * 1.0001).all()
        assert errors[1].sum() < 0.1 * errors[0].sum()
        assert (np.abs(chosen) <= 25).all()
        inside = np.abs(w / s) < 25
        assert (np.abs(chosen - w / s) < 1)[inside].all()


@pytest.mark.parametrize(
    "attrs",
    [
        {"pads": [1, 0, 0, 2], "strides": [2, 1]},
        {"dilations": [2, 1], "group": 2},
        {"group": 8},
    ],
)
def test_adaptive_rounding_lowers_the_noise_of_convolutions(tmp_path, attrs):
    inner = 8 // attrs.get("group", 1)
    weights = {"w": draw(16, inner, 3, 3), "b": draw(16)}
    source = model([node("Conv", "x w b", "y", "conv", **attrs)], weights, [4, 8, 9, 9])
    x, path, found = draw(4, 8, 9, 9, seed=4), tmp_path / "q.onnx", []
    x = np.cumsum(np.cumsum(x, 2), 3).astype(np.float32)  # neighbours have much in common
    for option in ("nearest", "adaround"):
        options = f"mode=static islands activations=u16 weights={option}"
        quantized(source, options, path, {"x": x}, "ort")
        found.append(decibels(run(source, x), run(path, x)))
    assert found[1] > found[0] + 2, found


def test_adaptive_rounding_of_products(tmp_path):
    nodes = [
        node("MatMul", "x w", "a", "one"),
        node("Relu", "a", "r"),
        node("Gemm", "r v c", "y", "two", transB=1),
    ]
    weights = {"w": draw(48, 32), "v": draw(10, 32, seed=1), "c": draw(10)}
    source = model(nodes, weights, ["N", 48])
    x, path, found = draw(64, 6) @ draw(6, 48, seed=2), tmp_path / "q.onnx", []
    for option in ("nearest", "adaround", "adaround per_channel=false"):
        options = f"mode=static islands activations=u16 weights={option}"
        quantized(source, options, path, {"x": x}, "ort")
        found.append(decibels(run(source, x), run(path, x)))
    assert min(found[1:]) > found[0] + 2, found


@pytest.mark.parametrize("options", ["mode=dynamic weights=adaround", "mode=static weights=gptq"])
def test_roundings_belong_to_a_mode(tmp_path, options):
    with pytest.raises(LeptonError, match="mode"):
        quantized(net(17), options, tmp_path / "q.onnx", {"x": draw(1, 3, 8, 8)})


# -- products of activations ---------------------------------------------------------------------


def attention(where: str) -> bytes:
    """One head of attention; the number that scales it stands before or behind the product."""
    nodes = [node("MatMul", f"x w{k}", k, k) for k in "qkv"]
    nodes += [node("Transpose", "k", "kt", perm=[0, 2, 1])]
    if where == "before":
        nodes += [node("Mul", "q eighth", "qs"), node("MatMul", "qs kt", "s", "scores")]
    else:
        nodes += [node("MatMul", "q kt", "t", "scores"), node("Mul", "t eighth", "s")]
    nodes += [
        node("Softmax", "s", "p", axis=-1),
        node("MatMul", "p v", "o", "mix"),
        node("MatMul", "o wo", "y", "out"),
    ]
    weights = {f"w{k}": draw(64, 64, seed=i) * 0.2 for i, k in enumerate("qkvo")}
    return model(nodes, weights | {"eighth": np.float32(0.125)}, [2, 40, 64])


@pytest.mark.parametrize("where", ["before", "behind"])
def test_attention_runs_on_integers(tmp_path, where):
    source = attention(where)
    x, path = draw(2, 40, 64, seed=7), tmp_path / "q.onnx"
    ctx = quantized(source, "mode=static islands", path, {"x": x})
    counts = census(str(path))
    assert counts["MatMulIntegerToFloat"] + counts.get("QLinearMatMul", 0) == 6
    assert not {"MatMul", "FusedMatMul", "Mul"} & counts.keys()
    assert decibels(run(source, x), run(path, x)) > 20
    rows = {r["name"]: r for r in ctx.data["layers"]}
    assert set(rows) == {"q", "k", "v", "scores", "mix", "out"}
    assert rows["scores"]["weight"] == ""
    quantized(source, "mode=static islands products=false", path, {"x": x})
    counts = census(str(path))
    assert counts["MatMulIntegerToFloat"] + counts.get("QLinearMatMul", 0) == 4


# -- shared scales -------------------------------------------------------------------------------


def test_operands_of_a_concat_share_its_scale(tmp_path):
    nodes = [
        node("Conv", "x w1", "a", "one"),
        node("Conv", "x w2", "b", "two"),
        node("MaxPool", "b", "p", kernel_shape=[3, 3], pads=[1] * 4),
        node("Conv", "x w3", "c", "three"),
        node("Concat", "a p c", "s", "cat", axis=1),
        node("Conv", "s w4", "t", "four"),
        node("Conv", "c w5", "u", "five"),
        node("Add", "t u", "y"),
    ]
    weights = {f"w{i}": draw(4 * i, 8, 1, 1, seed=i) * (4 - i) for i in (1, 2, 3)}
    source = model(
        nodes, weights | {"w4": draw(4, 24, 1, 1), "w5": draw(4, 12, 1, 1)}, [2, 8, 6, 6]
    )
    x, path = draw(2, 8, 6, 6), tmp_path / "q.onnx"
    quantized(source, "mode=static islands", path, {"x": x})
    graph = onnx.load(str(path)).graph
    scale = {n.input[0]: n.input[1] for n in graph.node if n.op_type == "QuantizeLinear"}
    assert scale["a"] == scale["s"]
    assert scale["c"] != scale["s"]  # two read it
    assert scale["b"] == scale["p"] == scale["s"]
    assert decibels(run(source, x), run(path, x)) > 30
    assert census(str(path))["QLinearConcat"] == 1


# -- causes --------------------------------------------------------------------------------------


def test_poor_outputs_name_their_cause(tmp_path):
    nodes = [
        node("Conv", "x w1", "a", "one"),
        node("Conv", "a w2", "b", "two"),
        node("Conv", "b w3", "y", "three"),
    ]
    weights = {f"w{i}": draw(8, 8, 1, 1, seed=i) for i in (1, 2, 3)}
    weights["w1"] = np.eye(8, dtype=np.float32)[..., None, None]
    source = model(nodes, weights, [4, 8, 9, 9])
    x = draw(4, 8, 9, 9)
    x[0, :, 0, 0] = 0
    x[0, 0, 0, 0] = 4000
    weights["w2"][:, 0] = 0  # nothing behind sees what takes all the steps
    source = model(nodes, weights, [4, 8, 9, 9])
    ctx = quantized(source, "mode=static islands equalize=false", tmp_path / "q.onnx", {"x": x})
    causes = {r["name"]: r["cause"] for r in ctx.data["layers"]}
    assert causes["one"] == ""
    assert causes["two"].startswith("range outlier: ")
    assert causes["three"] == "inherits the noise of two"
    assert any("range outlier" in r.message and "dB" in r.message for r in ctx.remarks)
