"""Pairs become integer operators: LiteRT answers as the reference interpreter, within a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lepton_ir
from lepton_ir import dtypes
from lepton_ir.builder import Builder
from lepton_ir.diagnostics import InvalidModelError
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.reader import read_file
from lepton_ir.formats.tflite.schema import enums
from lepton_ir.formats.tflite.validate import builtin_name, validate
from lepton_ir.interp import run_list
from lepton_ir.ir import Module, Value
from lepton_ir.tensors import DenseTensor
from lepton_ir.tools import lepton_opt
from tests.litert import run_files
from tests.test_tflite_out import Build, draw, lowered, module_of

Array = np.ndarray[Any, Any]

BORDER = Counter({"QUANTIZE": 1, "DEQUANTIZE": 1})
"""What stands where floats come in and go out."""


class Pairs:
    """Builds pairs of one element type."""

    def __init__(self, b: Builder, dtype: Any = np.int8) -> None:
        self.b = b
        self.dtype = dtype

    def point(self, zero: int) -> Array:
        shift = 128 if self.dtype == np.uint8 else 0
        return np.asarray(zero + shift, self.dtype)

    def pair(self, x: Value, scale: float, zero: int = 0) -> Value:
        s, z = np.float32(scale), self.point(zero)
        found: Value = self.b.dequantize_linear(self.b.quantize_linear(x, s, z), s, z)
        return found

    def weight(self, *shape: int, axis: int | None = 0, seed: int = 3) -> Value:
        """Return dequantized weights of i8 with a scale for each index of an axis."""
        codes = np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)
        if axis is None:
            found: Value = self.b.dequantize_linear(codes, np.float32(0.004), np.int8(0))
            return found
        scale = np.linspace(0.002, 0.006, shape[axis], dtype=np.float32)
        zero = np.zeros(shape[axis], np.int8)
        found = self.b.dequantize_linear(codes, scale, zero, axis=axis)
        return found

    def bias(self, count: int, x_scale: float, axis: bool = True) -> Value:
        """Return a bias in units of the scales of `weight`."""
        codes = np.random.default_rng(4).integers(-4000, 4000, count).astype(np.int32)
        scale = np.linspace(0.002, 0.006, count, dtype=np.float32) if axis else np.float32(0.004)
        units = np.float32(x_scale) * scale
        how = {"axis": 0} if axis else {}
        found: Value = self.b.dequantize_linear(codes, units, **how)
        return found


def _conv(p: Pairs, x: Value) -> Value:
    return p.b.conv_nhwc(x, p.weight(6, 3, 3, 4), p.bias(6, 0.03), pads=(1, 1, 1, 1))


def _depthwise(p: Pairs, x: Value) -> Value:
    return p.b.conv_nhwc(x, p.weight(4, 3, 3, 1), p.bias(4, 0.03), group=4, pads=(1, 1, 1, 1))


Net = Callable[[Pairs, Value], Value]

NETS: dict[str, tuple[Net, float, int, Counter[str]]] = {
    "conv": (_conv, 0.05, 3, Counter(CONV_2D=1)),
    "conv-relu6": (
        lambda p, x: p.b.clip(_conv(p, x), np.float32(0), np.float32(6)),
        *(0.05, -100, Counter(CONV_2D=1)),
    ),
    "conv-no-bias": (
        lambda p, x: p.b.conv_nhwc(x, p.weight(6, 3, 3, 4, axis=None)),
        *(0.05, 3, Counter(CONV_2D=1)),
    ),
    "conv-float-bias": (
        lambda p, x: p.b.conv_nhwc(x, p.weight(6, 3, 3, 4), draw((6,), 1)),
        *(0.05, 3, Counter(CONV_2D=1)),
    ),
    "depthwise": (_depthwise, 0.03, 0, Counter(DEPTHWISE_CONV_2D=1)),
    "conv-transpose": (
        lambda p, x: p.b.conv_transpose_nhwc(
            x, p.weight(6, 2, 2, 4), p.bias(6, 0.03), strides=(2, 2)
        ),
        *(0.02, 0, Counter(TRANSPOSE_CONV=1)),
    ),
    "matmul": (
        lambda p, x: p.b.matmul(x, p.weight(4, 5, axis=1)),
        0.02,
        0,
        Counter(FULLY_CONNECTED=1),
    ),
    "add-same": (lambda p, x: p.b.add(x, x), 0.06, 1, Counter(ADD=1)),
    "add-splat": (lambda p, x: p.b.add(x, np.float32(0.75)), 0.04, -20, Counter(ADD=1)),
    "mul-constant": (
        lambda p, x: p.b.mul(x, p.weight(1, 1, 1, 4, axis=None)),
        *(0.02, 0, Counter(MUL=1)),
    ),
    "concat-of-two-scales": (
        lambda p, x: p.b.concat(x, p.pair(p.b.add(x, x), 0.06), axis=3),
        *(0.06, 0, Counter(CONCATENATION=1, ADD=1, QUANTIZE=1)),
    ),
    "max-pool": (
        lambda p, x: p.b.max_pool_nhwc(x, kernel_shape=(2, 2), strides=(2, 2)),
        *(0.03, 5, Counter(MAX_POOL_2D=1)),
    ),
    "average-pool-of-another-scale": (
        lambda p, x: p.b.average_pool_nhwc(x, kernel_shape=(2, 2), strides=(2, 2)),
        *(0.04, 0, Counter(AVERAGE_POOL_2D=1, QUANTIZE=1)),
    ),
    "softmax-of-a-finer-scale": (
        lambda p, x: p.b.softmax(x),
        *(1 / 400, -128, Counter(SOFTMAX=1, QUANTIZE=1, DEQUANTIZE=1)),
    ),
    "maximum-with-a-constant": (
        lambda p, x: p.b.max(x, np.full((1, 1, 1, 4), -0.5, np.float32)),
        *(0.03, 5, Counter(MAXIMUM=1)),
    ),
    "pad": (
        lambda p, x: p.b.pad(x, np.array([0, 1, 1, 0, 0, 2, 2, 0]), np.float32(0)),
        *(0.03, 5, Counter(PAD=1)),
    ),
    "softmax": (lambda p, x: p.b.softmax(x), 1 / 256, -128, Counter(SOFTMAX=1)),
    "softmax-of-another-scale": (
        lambda p, x: p.b.softmax(x),
        *(1 / 200, -128, Counter(SOFTMAX=1, QUANTIZE=1)),
    ),
    "sigmoid": (lambda p, x: p.b.sigmoid(x), 1 / 256, -128, Counter(LOGISTIC=1)),
    "tanh": (lambda p, x: p.b.tanh(x), 1 / 128, 0, Counter(TANH=1)),
    "mean": (
        lambda p, x: p.b.reduce_mean(x, np.array([1, 2]), keepdims=True),
        *(0.02, 2, Counter(MEAN=1)),
    ),
    "transpose": (lambda p, x: p.b.transpose(x, perm=(0, 3, 1, 2)), 0.03, 5, Counter(TRANSPOSE=1)),
    "hard-swish": (lambda p, x: p.b.hard_swish(x), 0.03, -100, Counter(HARD_SWISH=1)),
    "leaky-relu": (lambda p, x: p.b.leaky_relu(x, alpha=0.1), 0.03, -80, Counter(LEAKY_RELU=1)),
}
"""What stands between pairs, scale and zero point of its result, and the operators it becomes."""

KINDS = {"i8": np.int8, "u8": np.uint8}


def _module(name: str, kind: str) -> Module:
    build, scale, zero, _ = NETS[name]

    def net(b: Builder, v: dict[str, Value]) -> Value:
        p = Pairs(b, KINDS[kind])
        y = build(p, p.pair(v["x"], 0.03, 5))
        return p.pair(y, scale, zero)

    return module_of({"x": (1, 6, 6, 4)}, net)


def operators(path: Path) -> Counter[str]:
    model: Node = read_file(str(path))
    codes = model.operator_codes
    ops = model.subgraphs[0].operators
    return Counter(builtin_name(codes[op.opcode_index]) or "" for op in ops)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_become_integer_operators(kind: str, tmp_path: Path) -> None:
    expected: dict[str, tuple[Array, float]] = {}
    x = draw((1, 6, 6, 4), 1) * np.float32(1.2)
    for name, (_, scale, _, _) in NETS.items():
        module = _module(name, kind)
        expected[name] = (run_list(module, {"x": x})[0], scale)
        lepton_ir.save(lowered(module), tmp_path / f"{name}.tflite", format="tflite")
        np.savez(tmp_path / f"{name}.in0.npz", x=x)
    found = run_files(tmp_path, list(NETS))
    wrong = {}
    for name, (y, scale) in expected.items():
        counts = operators(tmp_path / f"{name}.tflite")
        if counts != BORDER + NETS[name][3]:
            wrong[name] = dict(counts)
        elif isinstance(found[name], str):
            wrong[name] = found[name]
        else:
            steps = np.abs(found[name][0][0].astype(np.float64) - y) / scale
            limit = 0.35 if NETS[name][3]["QUANTIZE"] else 0.1  # which rounds twice
            if steps.max() > 1.01 or (steps > 0.5).mean() > limit:
                wrong[name] = f"{steps.max():.2f} steps, {(steps > 0.5).mean():.1%} of them one"
    assert not wrong


def _saved(build: Build, shape: tuple[Any, ...], path: Path) -> Module:
    """Write a net with one input; return the module that was written."""
    module = lowered(module_of({"x": shape}, build))
    lepton_ir.save(module, path, format="tflite")
    return module


def _answers(folder: Path, x: Array, name: str = "net") -> list[Array]:
    np.savez(folder / f"{name}.in0.npz", x=x)
    (found,) = run_files(folder, [name]).values()
    assert not isinstance(found, str), found
    return list(found[0])


def test_16_bits_with_a_bias_of_64(tmp_path: Path) -> None:
    def net(b: Builder, v: dict[str, Value]) -> Value:
        p = Pairs(b, np.int16)
        x = p.pair(v["x"], 0.001)
        y = p.b.conv_nhwc(x, p.weight(6, 3, 3, 4), p.bias(6, 0.001), pads=(1, 1, 1, 1))
        return p.pair(p.b.relu(y), 0.002)

    x = draw((1, 6, 6, 4), 1)
    expected = run_list(module_of({"x": (1, 6, 6, 4)}, net), {"x": x})[0]
    _saved(net, (1, 6, 6, 4), tmp_path / "net.tflite")
    assert operators(tmp_path / "net.tflite") == BORDER + Counter(CONV_2D=1)
    assert np.abs(_answers(tmp_path, x)[0] - expected).max() < 0.0021


def test_asymmetric_weights_keep_u8(tmp_path: Path) -> None:
    def net(b: Builder, v: dict[str, Value]) -> Value:
        p = Pairs(b, np.uint8)
        codes = np.random.default_rng(3).integers(0, 256, (6, 3, 3, 4)).astype(np.uint8)
        w = b.dequantize_linear(codes, np.float32(0.004), np.uint8(117))
        return p.pair(b.conv_nhwc(p.pair(v["x"], 0.03), w), 0.05)

    x = draw((1, 6, 6, 4), 1)
    expected = run_list(module_of({"x": (1, 6, 6, 4)}, net), {"x": x})[0]
    _saved(net, (1, 6, 6, 4), tmp_path / "net.tflite")
    assert operators(tmp_path / "net.tflite") == BORDER + Counter(CONV_2D=1)
    assert np.abs(_answers(tmp_path, x)[0] - expected).max() < 0.051


def test_weights_of_4_bits(tmp_path: Path) -> None:
    def net(b: Builder, v: dict[str, Value]) -> Value:
        p = Pairs(b)
        codes = np.random.default_rng(3).integers(-7, 8, (5, 16)).astype(np.int8)
        held = b.const(DenseTensor(codes.astype(ml_dtypes.int4), dtypes.I4))
        zero = b.const(DenseTensor(np.zeros(5, ml_dtypes.int4), dtypes.I4))
        w = b.dequantize_linear(held, np.full(5, 0.05, np.float32), zero, axis=0)
        return p.pair(b.gemm(p.pair(v["x"], 0.03), w, transB=True), 0.06)

    x = draw((3, 16), 1)
    expected = run_list(module_of({"x": (3, 16)}, net), {"x": x})[0]
    _saved(net, (3, 16), tmp_path / "net.tflite")
    assert operators(tmp_path / "net.tflite") == BORDER + Counter(FULLY_CONNECTED=1)
    assert np.abs(_answers(tmp_path, x)[0] - expected).max() < 0.061


def test_weights_alone_are_dequantized_and_not_rounded_with(tmp_path: Path) -> None:
    """A product of floats stays one, unless it was read as a kernel that rounds its operand."""
    x = draw((3, 16), 1)

    def net(b: Builder, v: dict[str, Value]) -> Value:
        return b.gemm(v["x"], Pairs(b).weight(5, 16), transB=True)

    expected = run_list(module_of({"x": (3, 16)}, net), {"x": x})[0]
    _saved(net, (3, 16), tmp_path / "net.tflite")
    assert operators(tmp_path / "net.tflite") == Counter(DEQUANTIZE=1, FULLY_CONNECTED=1)
    np.testing.assert_allclose(_answers(tmp_path, x)[0], expected, rtol=1e-5, atol=1e-6)

    def hybrid(b: Builder, v: dict[str, Value]) -> Value:
        w = Pairs(b).weight(5, 16)
        assert w.op is not None
        w.op.meta = {"metadata": {"tflite.hybrid": "symmetric"}}
        return b.gemm(v["x"], w, transB=True)

    _saved(hybrid, (3, 16), tmp_path / "net.tflite")
    assert operators(tmp_path / "net.tflite") == Counter(FULLY_CONNECTED=1)
    rounded = _answers(tmp_path, x)[0]
    again = lepton_ir.load(tmp_path / "net.tflite")
    lepton_ir.save(lowered(again), tmp_path / "again.tflite", format="tflite")
    assert np.array_equal(_answers(tmp_path, x, "again")[0], rounded)


def test_a_dense_layer_reads_an_image(tmp_path: Path) -> None:
    def net(b: Builder, v: dict[str, Value]) -> Value:
        p = Pairs(b)
        x = b.reshape(p.pair(v["x"], 0.03), np.array([-1, 36]))
        return p.pair(b.gemm(x, p.weight(5, 36), transB=True), 0.06)

    x = draw((2, 3, 3, 4), 1)
    expected = run_list(module_of({"x": (2, 3, 3, 4)}, net), {"x": x})[0]
    _saved(net, (2, 3, 3, 4), tmp_path / "net.tflite")
    assert operators(tmp_path / "net.tflite") == BORDER + Counter(FULLY_CONNECTED=1)
    assert np.abs(_answers(tmp_path, x)[0] - expected).max() < 0.061


def test_moves_take_codes_along_although_floats_are_read(tmp_path: Path) -> None:
    """The padding, whose result is no pair, becomes one on codes; the exponential stays."""

    def net(b: Builder, v: dict[str, Value]) -> tuple[Value, ...]:
        p = Pairs(b)
        x = b.pad(p.pair(v["x"], 0.03, 5), np.array([0, 1, 1, 0, 0, 1, 1, 0]), np.float32(0))
        y = p.pair(b.conv_nhwc(x, p.weight(6, 3, 3, 4), p.bias(6, 0.03)), 0.05)
        return y, b.sin(x)

    x = draw((1, 6, 6, 4), 1)
    expected = run_list(module_of({"x": (1, 6, 6, 4)}, net), {"x": x})
    _saved(net, (1, 6, 6, 4), tmp_path / "net.tflite")
    counts = BORDER + Counter(PAD=1, CONV_2D=1, SIN=1, DEQUANTIZE=1)
    assert operators(tmp_path / "net.tflite") == counts
    found = _answers(tmp_path, x)
    assert np.abs(found[0] - expected[0]).max() < 0.051
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


def test_what_stays_in_float_is_noted(tmp_path: Path) -> None:
    def net(b: Builder, v: dict[str, Value]) -> Value:
        p = Pairs(b)
        x = p.pair(v["x"], 0.03)
        y = p.pair(b.sin(x), 0.01)
        return p.pair(b.average_pool_nhwc(y, kernel_shape=(2, 2)), 0.03)

    module = lowered(module_of({"x": (1, 6, 6, 4)}, net))
    notes: list[tuple[str, str]] = []
    lepton_ir.save(module, tmp_path / "net.tflite", format="tflite", notes=notes)
    texts = [text for _, text in notes]
    assert "sin between pairs stays in float: SIN has no integer kernel" in texts
    assert any("rounds once more" in text for text in texts)


def _net(folder: Path) -> tuple[str, str]:
    """Return a float net and samples for it."""

    def net(b: Builder, v: dict[str, Value]) -> Value:
        y = b.relu(b.conv(v["x"], draw((4, 3, 3, 3), 7), pads=(1, 1, 1, 1)))
        y = b.softmax(b.flatten(b.global_average_pool(y)))
        return y

    source, samples = folder / "net.lir", folder / "calib.npz"
    lepton_ir.save(module_of({"x": (1, 3, 8, 8)}, net), source)
    np.savez(samples, x=np.stack([draw((1, 3, 8, 8), i) for i in range(8)]))
    return str(source), str(samples)


@pytest.mark.parametrize("kind", ["", "float32", "int8", "uint8"])
def test_static_quantization_leaves_no_floats(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    source, samples = _net(tmp_path)
    result = tmp_path / "result.tflite"
    options = [f"--io-type={kind}"] if kind else []
    argv = [source, "-o", str(result), "--passes=O2,quant{mode=static}", "--calib", samples]
    assert lepton_opt.main([*argv, *options]) == 0
    shown = capsys.readouterr().out
    counts = operators(result)
    floats = kind in ("", "float32")
    assert counts["DEQUANTIZE"] == floats
    assert counts["QUANTIZE"] == {"int8": 0, "uint8": 2}.get(kind, 1)
    assert counts["CONV_2D"] == counts["MEAN"] == counts["SOFTMAX"] == 1
    assert floats or f"is {'u8' if kind == 'uint8' else 'i8'} now" in shown
    model = read_file(str(result))
    types = {int(model.subgraphs[0].tensors[i].type) for i in model.subgraphs[0].inputs}
    assert types == {enums()["TensorType"].members[(kind or "float32").upper()]}


def test_io_type_is_of_tflite_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, _ = _net(tmp_path)
    assert lepton_opt.main([source, "--io-type=int8"]) == 1
    assert "only a TFLite file has one" in capsys.readouterr().err


def test_scales_are_wanted_where_kernels_compute_with_them(tmp_path: Path) -> None:
    def net(b: Builder, v: dict[str, Value]) -> Value:
        x = Pairs(b).pair(v["x"], 0.03)
        return Pairs(b).pair(b.add(x, x), 0.06)

    _saved(net, (1, 6), tmp_path / "net.tflite")
    model = read_file(str(tmp_path / "net.tflite"))
    graph = model.subgraphs[0]
    plain = tuple(t.replace(quantization=None) for t in graph.tensors)
    bad = model.replace(subgraphs=(graph.replace(tensors=plain),))
    with pytest.raises(InvalidModelError, match=r"takes tensor \d+ of 8 bits, which has no scale"):
        validate(bad)


def test_sparse_weights_are_sparse_again(tmp_path: Path) -> None:
    """Only for files that had some: the operator that makes them dense takes time and a version."""
    array = draw((16, 48), 1)
    array[np.abs(array) < 1.2] = 0
    x = draw((3, 48), 2)

    def net(b: Builder, v: dict[str, Value]) -> Value:
        return b.gemm(v["x"], array, transB=True)

    module = lowered(module_of({"x": (3, 48)}, net))
    for sparse, name in ((False, "dense"), (True, "net")):
        module.meta["tflite"] = {"sparse": sparse}
        lepton_ir.save(module, tmp_path / f"{name}.tflite", format="tflite")
    assert operators(tmp_path / "dense.tflite") == Counter(FULLY_CONNECTED=1)
    assert operators(tmp_path / "net.tflite") == Counter(DENSIFY=1, FULLY_CONNECTED=1)
    sizes = [(tmp_path / f"{n}.tflite").stat().st_size for n in ("net", "dense")]
    assert sizes[0] < sizes[1]
    np.testing.assert_allclose(_answers(tmp_path, x)[0], x @ array.T, rtol=1e-5, atol=1e-5)
    again = lepton_ir.load(tmp_path / "net.tflite")
    held = [op.attr("value") for op in again.main.walk() if op.name == "const"]
    assert any(t.shape == array.shape and np.array_equal(t.numpy(), array) for t in held)
    assert again.meta["tflite"]["sparse"]
