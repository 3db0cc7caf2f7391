"""Loops over time, spelled in many ways, become recurrent layers that give the same numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_ir import api
from lepton_ir.clone import clone_module
from lepton_ir.interp import run_list
from lepton_ir.ir import Module
from lepton_ir.text.parse import parse_module

INPUT, HIDDEN = 3, 4


class Speller:
    """Spells a cell, and the loop around it, in one of many ways."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.consts: list[str] = []
        self.body: list[str] = []
        self.count = 0

    def const(self, *shape: int) -> str:
        name = f"%k{len(self.consts)}"
        sizes = ",".join(map(str, shape))
        self.consts.append(
            f"{name} = const() {{value=rand({len(self.consts) + 1})}} : f32[{sizes}]"
        )
        return name

    def ints(self, values: Sequence[int]) -> str:
        name = f"%k{len(self.consts)}"
        self.consts.append(f"{name} = const() {{value={list(values)}}} : i64[{len(values)}]")
        return name

    def one(self) -> str:
        name = f"%k{len(self.consts)}"
        self.consts.append(f"{name} = const() {{value=1.0}} : f32[]")
        return name

    def op(self, text: str) -> str:
        self.count += 1
        self.body.append(f"%v{self.count} = {text}")
        return f"%v{self.count}"

    def either(self, *options: Any) -> Any:
        return self.rng.choice(options)

    def swap(self, name: str, a: str, b: str) -> str:
        a, b = self.either((a, b), (b, a))
        return self.op(f"{name}({a}, {b})")

    def linear(self, width: int, x: str, h: str) -> str:
        """x A + h B + b of ``width`` columns."""
        form = self.either("joined", "apart", "gemm", "transposed")
        if form == "joined":
            first, second = self.either((x, h), (h, x))
            joined = self.op(f"concat({first}, {second}) {{axis={self.either(1, -1)}}}")
            out = self.op(f"matmul({joined}, {self.const(INPUT + HIDDEN, width)})")
        elif form == "apart":
            a = self.op(f"matmul({x}, {self.const(INPUT, width)})")
            b = self.op(f"matmul({h}, {self.const(HIDDEN, width)})")
            out = self.swap("add", a, b)
        elif form == "gemm":
            a = self.op(f"gemm({x}, {self.const(INPUT, width)}, {self.const(width)})")
            b = self.op(f"gemm({h}, {self.const(HIDDEN, width)}) {{alpha=0.5}}")
            out = self.swap("add", a, b)
        else:
            a = self.op(
                f"gemm({x}, {self.const(width, INPUT)}, {self.const(1, width)}) "
                "{transB=true, beta=2.0}"
            )
            b = self.op(f"gemm({h}, {self.const(width, HIDDEN)}) {{transB=true}}")
            out = self.swap("add", a, b)
        if self.either(True, False):
            out = self.swap("add", out, self.const(*self.either((width,), (1, width), (1,))))
        return out

    def split(self, value: str, parts: int) -> list[str]:
        """Return ``value`` in equal parts."""
        if self.either(True, False):
            names = [f"%s{self.count}_{i}" for i in range(parts)]
            sizes = self.ints([HIDDEN] * parts)
            self.body.append(f"{', '.join(names)} = split({value}, {sizes}) {{axis=-1}}")
            self.count += 1
            return names
        found = []
        for i in range(parts):
            start, end = self.ints([HIDDEN * i]), self.ints([HIDDEN * (i + 1)])
            found.append(self.op(f"slice({value}, {start}, {end}, {self.ints([1])})"))
        return found

    def gates(self, count: int, x: str, h: str) -> list[str]:
        """Return sigmoids of ``count`` gates, in any order and grouping."""
        if self.either(True, False):
            return [self.op(f"sigmoid({self.linear(HIDDEN, x, h)})") for _ in range(count)]
        whole = self.linear(HIDDEN * count, x, h)
        if self.either(True, False):
            parts = self.split(self.op(f"sigmoid({whole})"), count)
        else:
            parts = [self.op(f"sigmoid({part})") for part in self.split(whole, count)]
        self.rng.shuffle(parts)
        return parts

    def peephole(self) -> tuple[str, ...]:
        """An LSTM whose gates read the cell state, some of them."""
        i, f, o = (self.linear(HIDDEN, "%x", "%h") for _ in range(3))
        if self.either(True, False):
            i = self.swap("add", i, self.swap("mul", "%c", self.const(HIDDEN)))
        f = self.swap("add", f, self.swap("mul", "%c", self.const(*self.either((HIDDEN,), (1,)))))
        g = self.op(f"tanh({self.linear(HIDDEN, '%x', '%h')})")
        kept = self.swap("mul", self.op(f"sigmoid({f})"), "%c")
        c = self.swap("add", kept, self.swap("mul", self.op(f"sigmoid({i})"), g))
        if self.either(True, False):
            o = self.swap("add", o, self.swap("mul", c, self.const(HIDDEN)))
        return self.swap("mul", self.op(f"sigmoid({o})"), self.op(f"tanh({c})")), c

    def lstm(self) -> tuple[str, ...]:
        i, f, o = self.gates(3, "%x", "%h")
        g = self.op(f"{self.either('tanh', 'relu')}({self.linear(HIDDEN, '%x', '%h')})")
        c = self.swap("add", self.swap("mul", f, "%c"), self.swap("mul", i, g))
        curve = self.op(f"{self.either('tanh', 'relu', 'sigmoid')}({c})")
        return self.swap("mul", o, curve), c

    def gru(self) -> tuple[str, ...]:
        z, r = self.gates(2, "%x", "%h")
        if self.either(True, False):
            n = self.op(f"tanh({self.linear(HIDDEN, '%x', self.swap('mul', r, '%h'))})")
        else:
            a = self.op(f"gemm(%x, {self.const(INPUT, HIDDEN)}, {self.const(HIDDEN)})")
            b = self.op(f"gemm(%h, {self.const(HIDDEN, HIDDEN)}, {self.const(HIDDEN)})")
            n = self.op(f"tanh({self.swap('add', a, self.swap('mul', r, b))})")
        form = self.either("both", "complement", "difference", "from h")
        if form == "difference":
            return (self.swap("add", n, self.swap("mul", z, self.op(f"sub(%h, {n})"))),)
        if form == "from h":
            return (self.swap("add", "%h", self.swap("mul", z, self.op(f"sub({n}, %h)"))),)
        rest = self.op(f"sub({self.one()}, {z})")
        kept, taken = (z, rest) if form == "both" else (rest, z)
        return (self.swap("add", self.swap("mul", kept, "%h"), self.swap("mul", taken, n)),)

    def rnn(self) -> tuple[str, ...]:
        return (self.op(f"{self.either('tanh', 'relu')}({self.linear(HIDDEN, '%x', '%h')})"),)

    def module(self, kind: str) -> str:
        """Return the whole module as text."""
        states = getattr(self, kind)()
        steps, batch = self.either(("T", "B"), ("5", "B"), ("5", "2"), ("T", "2"))
        scan = self.either(True, False)
        axis = self.either(0, 1)
        shape = f"{steps},{batch},{INPUT}" if axis == 0 else f"{batch},{steps},{INPUT}"
        names = ["h", "c"][: len(states)]
        state = f"f32[{batch},{HIDDEN}]"
        inputs = ", ".join(f"%{n}0: {state}" for n in names)
        initial = ", ".join(f"%{n}0" for n in names)
        args = ", ".join(f"%{n}: {state}" for n in names)
        results = ", ".join(f"%{n}n" for n in names)
        yields = ", ".join([*states, states[0]])
        lines = list(self.consts)
        if scan:
            back, turned = self.either(0, 1), self.either(0, 1)
            out_axis = self.either(0, 1, 2)
            attrs = (
                f"num_scan_inputs=1, scan_input_axes=[{axis}], scan_input_directions=[{back}], "
                f"scan_output_axes=[{out_axis}], scan_output_directions=[{turned}]"
            )
            head = f"{results}, %y = scan({initial}, %xs) {{{attrs}}}"
            lines.append(f"{head} ({args}, %x: f32[{batch},{INPUT}]) {{")
            lines += [*self.body, f"yield({yields})", "}"]
        else:
            lines += [
                "%shape = shape(%xs)",
                f"%axis = const() {{value={axis}}} : i64[]",
                "%n = gather(%shape, %axis)",
                "%true = const() {value=true}",
            ]
            head = f"{results}, %y = loop(%n, {self.either('_', '%true')}, {initial})"
            lines.append(f"{head} (%i: i64[], %go: bool[], {args}) {{")
            lines += [f"%x = gather(%xs, %i) {{axis={axis}}}", *self.body]
            lines += [f"yield({self.either('%go', '%true')}, {yields})", "}"]
        text = "\n  ".join(lines)
        return f"func @main(%xs: f32[{shape}], {inputs}) {{\n  {text}\n  return({results}, %y)\n}}"


def feeds_of(module: Module, steps: int, batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(steps * 10 + batch)
    env = {"T": steps, "B": batch}
    return {
        v.name or "": rng.standard_normal(
            [d if isinstance(d, int) else env[str(d)] for d in v.shape or ()]
        ).astype(np.float32)
        for v in module.main.inputs
    }


def sizes_of(module: Module) -> list[tuple[int, int]]:
    found = {str(d) for v in module.main.inputs for d in v.shape or () if not isinstance(d, int)}
    steps = (0, 1, 5) if "T" in found else (5,)
    batches = (0, 1, 3) if "B" in found else (2,)
    return [(t, b) for t in steps for b in batches]


def recognised(text: str) -> tuple[Module, Module]:
    source = parse_module(text)
    result = clone_module(source)
    report = api.run_passes(result, "fuse", target="onnx")
    assert report.context.rule_hits["fuse/loop_to_recurrent"] == 1, text
    assert not {op.name for op in result.walk()} & {"loop", "scan"}
    return source, result


def same_numbers(expected: list[Any], found: list[Any], steps: int) -> None:
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if i == len(expected) - 1 and not steps:
            assert a.size == b.size == 0  # of a loop without a step, the other sizes are not said
            continue
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "peephole"])
@pytest.mark.parametrize("seed", range(24))
def test_spellings_become_layers_with_the_same_numbers(kind: str, seed: int) -> None:
    source, result = recognised(Speller(seed).module(kind))
    assert {"peephole": "lstm"}.get(kind, kind) in {op.name for op in result.walk()}
    for steps, batch in sizes_of(source):
        feeds = feeds_of(source, steps, batch)
        same_numbers(run_list(source, feeds), run_list(result, feeds), steps)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "peephole"])
@pytest.mark.parametrize("seed", range(24, 32))
def test_onnxruntime_agrees(kind: str, seed: int, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    modules = recognised(Speller(seed).module(kind))
    sessions = []
    for name, module in zip(("source", "result"), modules, strict=True):
        module.opsets[""] = 17
        api.save(module, tmp_path / f"{name}.onnx")
        sessions.append(
            ort.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        )
    for steps, batch in sizes_of(modules[0]):
        feeds = feeds_of(modules[0], steps, batch)
        # onnxruntime fails, or dies, in some loops over nothing; the interpreter does not.
        some = steps and batch
        expected = sessions[0].run(None, feeds) if some else run_list(modules[0], feeds)
        same_numbers(expected, sessions[1].run(None, feeds), steps)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "peephole"])
@pytest.mark.parametrize("seed", range(40, 44))
def test_half_floats(kind: str, seed: int, tmp_path: Path) -> None:
    """The layer rounds less often than the steps, whose own error is the measure."""
    ort = pytest.importorskip("onnxruntime")
    text = Speller(seed).module(kind)
    wide = parse_module(text)
    source, result = recognised(text.replace("f32[", "f16["))
    result.opsets[""] = 17
    api.save(result, tmp_path / "m.onnx")
    session = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    steps, batch = sizes_of(source)[-1]
    feeds = feeds_of(wide, steps, batch)
    halves = {name: value.astype(np.float16) for name, value in feeds.items()}
    for exact, found in zip(run_list(wide, feeds), session.run(None, halves), strict=True):
        assert found.dtype == np.float16
        np.testing.assert_allclose(found.astype(np.float32), exact, atol=0.03)
