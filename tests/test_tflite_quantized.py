"""Pairs become integer operators: LiteRT answers as the reference interpreter, within a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir.builder import Builder
from lepton_ir.formats.tflite.node import Node
from lepton_ir.formats.tflite.reader import read_file
from lepton_ir.formats.tflite.validate import builtin_name
from lepton_ir.interp import run_list
from lepton_ir.ir import Module, Value
from tests.litert import run_files
from tests.test_tflite_out import draw, lowered, module_of

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
        *(0.02, 0, Counter(AVERAGE_POOL_2D=1, QUANTIZE=1)),
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
