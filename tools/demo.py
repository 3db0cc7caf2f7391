"""A tour in half a minute: ``make demo``, or ``python -m lepton_ir.tools.demo [FOLDER]``.

Trains a small convolutional net in NumPy, exports it to ONNX the way exporters do, optimizes it,
quantizes it to int8, and compares accuracy. Nothing is downloaded.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lepton_ir.check import best_runner
from lepton_ir.check_worker import make_runner
from lepton_ir.tools import lepton_opt
from lepton_ir.tools.demo_net import (
    CLASSES,
    DEVIATION,
    EPSILON,
    MEAN,
    SIZE,
    Net,
    draw_pictures,
    train,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path("build", "demo")
OPSET = 17
_TEST_PICTURES = 1000
_CALIBRATION_PICTURES = 128


class _Graph:
    """Collects nodes and initializers under the names that an exporter gives them."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, op_type: str, inputs: Sequence[str], name: str, **attrs: Any) -> str:
        """Add a node with one result, return the result's name."""
        result = f"{name}_output_0"
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=name, **attrs))
        return result

    def constant(self, value: Any, name: str) -> str:
        """Add a Constant node."""
        tensor = numpy_helper.from_array(np.asarray(value))
        return self.node("Constant", [], name, value=tensor)

    def weight(self, value: Any, name: str) -> str:
        """Add an initializer."""
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def export(net: Net) -> onnx.ModelProto:
    """Return the net as exporters write it: batch normalization apart, shapes computed, leftovers.

    Input ``picture`` f32[batch,1,16,16] in 0..255, output ``scores`` f32[batch,4].
    """
    g = _Graph()
    x = g.node("Sub", ["picture", g.constant(np.float32(MEAN), "/Constant")], "/Sub")
    x = g.node("Div", [x, g.constant(np.float32(DEVIATION), "/Constant_1")], "/Div")
    for i, block in enumerate(net.blocks):
        at = f"/features.{i}"
        w = g.weight(block.weight, f"features.{i}.conv.weight")
        x = g.node("Conv", [x, w], f"{at}/conv/Conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
        parts = {"weight": block.scale, "bias": block.bias}
        parts |= {"running_mean": block.mean, "running_var": block.variance}
        names = [g.weight(v.astype(np.float32), f"features.{i}.bn.{k}") for k, v in parts.items()]
        bn = f"{at}/bn/BatchNormalization"
        x = g.node("BatchNormalization", [x, *names], bn, epsilon=EPSILON)
        x = g.node("Relu", [x], f"{at}/relu/Relu")
        x = g.node("MaxPool", [x], f"{at}/pool/MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        x = g.node("Identity", [x], f"{at}/Identity")
    ratio = g.constant(np.float32(0.5), "/Constant_2")
    x = g.node("Dropout", [x, ratio], "/dropout/Dropout")
    batch = g.node("Shape", [x], "/Shape")
    batch = g.node("Gather", [batch, g.constant(np.int64(0), "/Constant_3")], "/Gather", axis=0)
    zero = g.constant(np.array([0], np.int64), "/Constant_4")
    batch = g.node("Unsqueeze", [batch, zero], "/Unsqueeze")
    rest = g.constant(np.array([-1], np.int64), "/Constant_5")
    shape = g.node("Concat", [batch, rest], "/Concat", axis=0)
    x = g.node("Reshape", [x, shape], "/Reshape")
    weights = [
        g.weight(net.hidden.weight, "hidden.weight"),
        g.weight(net.hidden.bias, "hidden.bias"),
    ]
    x = g.node("Gemm", [x, *weights], "/hidden/Gemm")
    x = g.node("Relu", [x], "/relu/Relu")
    x = g.node("MatMul", [x, g.weight(net.head.weight, "head.weight")], "/head/MatMul")
    bias = g.weight(net.head.bias, "head.bias")
    g.nodes.append(helper.make_node("Add", [x, bias], ["scores"], name="/head/Add"))
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(CLASSES)])
    graph = helper.make_graph(g.nodes, "strokes", [picture], [scores], g.weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="lepton demo"
    )
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def accuracy(path: Path, runner: str) -> float:
    """Return the share of test pictures, in percent, that the model at ``path`` gets right."""
    pictures, labels = draw_pictures(_TEST_PICTURES, seed=1)
    (scores,) = make_runner(runner, str(path)).run({"picture": pictures})
    return float(100 * np.mean(scores.argmax(1) == labels))


def _show(*arguments: str) -> None:
    print(f"\n$ lepton-opt {shlex.join(arguments)}", flush=True)
    code = lepton_opt.main(arguments)
    if code:
        raise SystemExit(code)


def _command() -> str:
    """Return how to call lepton-opt here: its path where it is not on the search path."""
    beside = Path(sys.executable).with_name("lepton-opt")
    if shutil.which("lepton-opt") or not beside.exists():
        return "lepton-opt"
    return os.path.relpath(beside)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tour; return the exit code."""
    given = sys.argv[1:] if argv is None else argv
    folder = Path(given[0]) if given else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    source, small = folder / "strokes.onnx", folder / "strokes.opt.onnx"
    int8, calibration = folder / "strokes.int8.onnx", folder / "calibration.npz"

    started = time.perf_counter()
    print("Training a small convolutional net on pictures of strokes, in NumPy ...", flush=True)
    onnx.save(export(train()), source)
    np.savez(calibration, picture=draw_pictures(_CALIBRATION_PICTURES, seed=2)[0])
    print(f"wrote {source} in {time.perf_counter() - started:.1f} s")

    _show(str(source))
    quantize = "--passes=fuse,quant{mode=static}"
    _show(str(source), quantize, f"--calib={calibration}", "-o", str(int8))

    runner = best_runner()
    print(f"\nAccuracy on {_TEST_PICTURES:,} new pictures, through {runner}:")
    for what, path in (("as exported", source), ("optimized", small), ("int8", int8)):
        size = path.stat().st_size
        print(f"  {what:<12} {accuracy(path, runner):5.1f} %   {size:>7,} bytes   {path}")
    print(f"\nNext: {_command()} {small} --emit=lir -o model.lir, and docs/tutorial.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
