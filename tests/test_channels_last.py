"""Channels last and back on random nets of odd shapes: the numbers stay, the transposes go."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_ir
from lepton_ir import dtypes
from lepton_ir.formats.tflite.reader import read_file
from lepton_ir.formats.tflite.validate import builtin_name
from lepton_ir.interp import run_list
from lepton_ir.tensors import DenseTensor, PermutedTensor, same_content
from lepton_ir.testing.golden import draw_feeds
from lepton_ir.text.parse import parse_module
from lepton_ir.tools import lepton_opt
from tests.litert import run_files

SEEDS = 48
LITERT_SEEDS = 16


class Net:
    """A random net as text: a value at a time, its channels and sizes known."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rank = self.random.choice((3, 4, 4, 4, 5))
        self.channels = self.random.choice((2, 4, 6))
        self.sizes = [self.random.choice((7, 9, 10)) for _ in range(self.rank - 2)]
        batch = self.random.choice(("N", "1", "2"))
        self.lines: list[str] = []
        self.count = 0
        self.value = "%x"
        dims = ",".join(map(str, (batch, self.channels, *self.sizes)))
        self.head = f"func @main(%x: f32[{dims}]) {{"

    def emit(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %v{self.count} = {text}")
        return f"%v{self.count}"

    def const(self, shape: list[int]) -> str:
        return self.emit(f"const() {{value=rand({self.count})}} : f32{shape}".replace(" ", ""))

    def ints(self, numbers: list[int]) -> str:
        return self.emit(f"const() {{value={numbers}}} : i64[{len(numbers)}]")

    def conv(self) -> None:
        out = self.random.choice((2, 4, 6))
        group = self.random.choice((1, 1, 2))
        kernel = [self.random.choice((1, 3)) for _ in self.sizes]
        pads = [k // 2 for k in kernel] * 2
        w = self.const([out, self.channels // group, *kernel])
        self.value = self.emit(f"conv({self.value}, {w}) {{pads={pads}, group={group}}}")
        self.channels = out

    def pool(self) -> None:
        kind = self.random.choice(("max_pool", "average_pool"))
        spatial = len(self.sizes)
        ones = [1] * spatial
        self.value = self.emit(
            f"{kind}({self.value}) {{kernel_shape={[3] * spatial}, pads={ones * 2}}}"
        )

    def affine(self) -> None:
        column = self.const([self.channels, *([1] * len(self.sizes))])
        self.value = self.emit(f"{self.random.choice(('add', 'mul'))}({self.value}, {column})")

    def gate(self) -> None:
        axes = self.ints(list(range(2, self.rank)))
        mean = self.emit(f"reduce_mean({self.value}, {axes}) {{keepdims=false}}")
        w = self.const([self.channels, self.channels])
        dense = self.emit(f"sigmoid({self.emit(f'matmul({mean}, {w})')})")
        back = self.ints([-1, self.channels, *([1] * len(self.sizes))])
        wide = self.emit(f"reshape({dense}, {back})")
        self.value = self.emit(f"mul({self.value}, {wide})")

    def shuffle(self) -> None:
        forth = self.ints([-1, 2, self.channels // 2, *self.sizes])
        back = self.ints([-1, self.channels, *self.sizes])
        split = self.emit(f"reshape({self.value}, {forth})")
        perm = [0, 2, 1, *range(3, self.rank + 1)]
        turned = self.emit(f"transpose({split}) {{perm={perm}}}")
        self.value = self.emit(f"reshape({turned}, {back})")

    def branches(self) -> None:
        other = self.emit(f"tanh({self.value})")
        self.value = self.emit(f"concat({self.value}, {other}) {{axis=1}}")
        self.channels *= 2
        ends = self.ints([self.channels - 1])
        begins = self.ints([1])
        self.value = self.emit(f"slice({self.value}, {begins}, {ends}, {begins})")
        self.channels -= 2

    def soft(self) -> None:
        axis = self.random.choice((1, -1))
        self.value = self.emit(f"softmax({self.value}) {{axis={axis}}}")

    def normalize(self) -> None:
        scale, bias = self.const([self.channels]), self.const([self.channels])
        self.value = self.emit(f"instance_normalization({self.value}, {scale}, {bias})")

    def flatten(self) -> str:
        size = self.channels * int(np.prod(self.sizes))
        flat = self.emit(f"flatten({self.value})")
        return self.emit(f"matmul({flat}, {self.const([size, 3])})")

    def text(self) -> str:
        steps = (self.conv, self.conv, self.pool, self.affine, self.gate, self.shuffle)
        steps += (self.branches, self.soft, self.normalize)
        for _ in range(self.random.randint(3, 7)):
            self.random.choice(steps)()
        self.conv()
        results = [self.value]
        if self.random.random() < 0.5:
            results.append(self.flatten())
        return "\n".join([self.head, *self.lines, f"  return({', '.join(results)})", "}"])


def assert_same(text: str, module: Any) -> None:
    """Compare with the source; wrong elements would differ by their size."""
    source = parse_module(text)
    for draw in range(3):
        feeds = draw_feeds(source, draw)
        pairs = zip(run_list(source, feeds), run_list(module, feeds), strict=True)
        for expected, found in pairs:
            assert expected.shape == found.shape
            most = np.abs(expected).max(initial=1.0)
            assert np.abs(expected - found).max(initial=0.0) <= 1e-3 * most


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_nets_keep_their_numbers(seed: int) -> None:
    text = Net(seed).text()
    module = parse_module(text)
    lepton_ir.run_passes(module, "channels_last,layout{deep},canonicalize,cse,dce")
    names = [op.name for op in module.main.walk()]
    assert "conv" not in names
    assert "max_pool" not in names
    assert_same(text, module)
    lepton_ir.run_passes(module, "channels_first,canonicalize,cse,dce")
    assert not any(op.name.endswith("_nhwc") for op in module.main.walk())
    assert_same(text, module)


def test_random_nets_run_in_litert(tmp_path: Path) -> None:
    expected = {}
    for seed in range(LITERT_SEEDS):
        source, name = parse_module(Net(seed).text()), f"net{seed}"
        module = parse_module(Net(seed).text())
        lepton_ir.run_passes(module, "O2,tflite,legalize", target="tflite")
        lepton_ir.save(module, tmp_path / f"{name}.tflite", format="tflite")
        draws: list[dict[str, Any]] = [draw_feeds(source, draw) for draw in range(2)]
        for i, feeds in enumerate(draws):
            np.savez(tmp_path / f"{name}.in{i}.npz", **feeds)
        expected[name] = [run_list(source, feeds) for feeds in draws]
    found = run_files(tmp_path, list(expected), runs=2)
    for name, draws_of in expected.items():
        assert not isinstance(found[name], str), f"{name}: {found[name]}"
        for wanted, given in zip(draws_of, found[name], strict=True):
            for a, b in zip(wanted, given, strict=True):
                assert a.shape == b.shape
                assert np.abs(a - b).max(initial=0.0) <= 1e-3 * np.abs(a).max(initial=1.0)


_UPSAMPLED = """
func @main(%x: f32[N,3,H,W]) {
  %w = const() {value=rand(1)} : f32[4,3,1,1]
  %v = const() {value=rand(2)} : f32[4,4,1,1]
  %scales = const() {value=[1.0, 1.0, 2.0, 2.0]} : f32[4]
  %a = conv(%x, %w)
  %g = global_average_pool(%a)
  %h = conv(%g, %v)
  %s = hard_swish(%h)
  %m = mul(%a, %s)
  %r = resize(%m, _, %scales) {mode="linear"}
  %y = conv(%r, %v)
  return(%y)
}
"""


def test_only_the_ends_are_transposed() -> None:
    """Symbolic batch, height and width: gates, resizes and pools let transposes pass."""
    module = parse_module(_UPSAMPLED)
    lepton_ir.run_passes(module, "channels_last,layout{deep},dce")
    turned = [op for op in module.main.walk() if op.name == "transpose"]
    assert [op.operands[0] is module.main.inputs[0] for op in turned] == [True, False]
    assert_same(_UPSAMPLED, module)


def test_permuted_tensors_compose_and_read_as_their_arrays() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    source = DenseTensor(array)
    once = PermutedTensor(source, (2, 0, 1))
    twice = PermutedTensor(once, (1, 2, 0))
    assert twice.source is source
    assert (twice.shape, twice.dtype) == ((2, 3, 4), dtypes.F32)
    assert same_content(twice, source)
    assert np.array_equal(once.numpy(), array.transpose(2, 0, 1))
    rows = PermutedTensor(source, (1, 0), (6, 4), (4, 6))
    assert np.array_equal(rows.numpy(), array.reshape(6, 4).T)
    turned = PermutedTensor(PermutedTensor(source, (1, 0), (6, 4), (2, 12)), (1, 0))
    assert np.array_equal(turned.numpy(), array.reshape(6, 4).T.reshape(2, 12).T)


def test_weights_are_not_held_by_the_module() -> None:
    module = parse_module(_UPSAMPLED)
    lepton_ir.run_passes(module, "channels_last")
    held = [op.attr("value") for op in module.main.walk() if op.name == "const"]
    assert sum(isinstance(t, PermutedTensor) for t in held) == 2  # equal ones are merged
    feeds = {"x": np.ones((1, 3, 2, 2), np.float32)}
    assert run_list(module, feeds)[0].shape == (1, 4, 4, 4)


def _ends(path: Path) -> tuple[list[list[int]], list[list[int]], int]:
    """Return the shapes of a file's inputs and outputs, and how many transposes it has."""
    model = read_file(str(path))
    graph = model.subgraphs[0]
    shapes = [
        [graph.tensors[i].shape.tolist() for i in side] for side in (graph.inputs, graph.outputs)
    ]
    names = [builtin_name(code) for code in model.operator_codes]
    turned = sum(names[op.opcode_index] == "TRANSPOSE" for op in graph.operators)
    return shapes[0], shapes[1], turned


def test_io_layout_takes_the_last_transposes_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, result = tmp_path / "net.lir", tmp_path / "net.tflite"
    source.write_text(_UPSAMPLED.replace("N,3,H,W", "2,3,5,7"), encoding="utf-8")
    assert lepton_opt.main([str(source), "-o", str(result)]) == 0
    assert _ends(result) == ([[2, 3, 5, 7]], [[2, 4, 10, 14]], 2)
    assert lepton_opt.main([str(source), "-o", str(result), "--io-layout=nhwc"]) == 0
    assert _ends(result) == ([[2, 5, 7, 3]], [[2, 10, 14, 4]], 0)
    shown = capsys.readouterr().out
    assert "its channels go last now: f32[2,5,7,3]" in shown
    assert "check: equal" in shown


def test_io_layout_is_of_tflite_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "net.lir"
    source.write_text(_UPSAMPLED, encoding="utf-8")
    assert lepton_opt.main([str(source), "--io-layout=nhwc"]) == 1
    assert "only a TFLite file has one" in capsys.readouterr().err
