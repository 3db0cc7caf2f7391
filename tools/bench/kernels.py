"""Single kernels of the Numba backend beside its peers: products, convolutions, functions, rows.

    python -m lepton_ir.tools.bench.kernels [--seconds 1] [--only PART,...]
        [--peers onnxruntime,openvino]

Each is a model of one operation, or of six equal layers (`x6`) so that layouts are converted once
only. One thread, processor time, in turns; ratios are the peers' times by ours, the copies that
onnxruntime makes of its results included. Peers that cannot run a kernel have none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.tools.bench import measure

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]

LAYERS = 6

PRODUCTS = (
    *((512, 512, 512), (1024, 1024, 1024), (1, 3072, 768), (16, 3072, 768), (32, 3072, 768)),
    (128, 3072, 768),
)
"""Rows, sum, columns."""

INTEGER_PRODUCTS = ((1024, 1024, 1024), (1, 3072, 768), (16, 3072, 768), (128, 3072, 768))
"""The same of bytes, unsigned by signed."""

CONVOLUTIONS = {
    "conv 3x3, 64 of 56x56": (64, 64, 56, 3, 1, 1),
    "conv 3x3, 256 of 14x14": (256, 256, 14, 3, 1, 1),
    "conv 3x3, 512 of 7x7": (512, 512, 7, 3, 1, 1),
    "conv 1x1, 64 to 256 of 56x56": (64, 256, 56, 1, 1, 1),
    "conv 1x1, 256 of 14x14": (256, 256, 14, 1, 1, 1),
    "depthwise 3x3, 32 of 112x112": (32, 32, 112, 3, 1, 32),
    "depthwise 3x3, 512 of 14x14": (512, 512, 14, 3, 1, 512),
    "conv 7x7 by 2, 3 to 64 of 224x224": (3, 64, 224, 7, 2, 1),
}
"""Channels in and out, width, window, stride, groups."""

ROWS = (512, 3072)

FUNCTIONS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "exp": (("Exp", "x", "y"),),
    "erf": (("Erf", "x", "y"),),
    "tanh": (("Tanh", "x", "y"),),
    "sigmoid": (("Sigmoid", "x", "y"),),
    "gelu": (("Gelu", "x", "y"),),
    "x sigmoid(x)": (("Sigmoid", "x", "s"), ("Mul", "x s", "y")),
    "tanh(x) sigmoid(x) + x": (
        *(("Tanh", "x", "a"), ("Sigmoid", "x", "b")),
        *(("Mul", "a b", "c"), ("Add", "c x", "y")),
    ),
    "softmax": (("Softmax", "x", "y"),),
    "layer norm": (("LayerNormalization", "x scale bias", "y"),),
}
"""Operator, inputs, output."""


def _model(
    nodes: Sequence[onnx.NodeProto],
    x: Sequence[int],
    y: Sequence[int],
    constants: dict[str, Array],
    types: tuple[str, str] = ("FLOAT", "FLOAT"),
) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    taken, made = map(TensorProto.DataType.Value, types)
    graph = helper.make_graph(
        list(nodes),
        "kernel",
        [helper.make_tensor_value_info("x", taken, x)],
        [helper.make_tensor_value_info("y", made, y)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def models() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield names and models."""
    from onnx import helper

    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Array:
        return (rng.standard_normal(shape) * 0.05).astype(np.float32)

    for rows, inner, columns in PRODUCTS:
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        weight = {"w": drawn(inner, columns)}
        yield (
            f"product {rows}x{inner}x{columns}",
            _model([node], (rows, inner), (rows, columns), weight),
        )
    for rows, inner, columns in INTEGER_PRODUCTS:
        node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
        bytes_ = {"w": rng.integers(-127, 128, (inner, columns)).astype(np.int8)}
        yield (
            f"integer product {rows}x{inner}x{columns}",
            _model([node], (rows, inner), (rows, columns), bytes_, ("UINT8", "INT32")),
        )
    for name, (given, made, width, window, stride, group) in CONVOLUTIONS.items():
        count = LAYERS if given == made else 1
        constants: dict[str, Array] = {}
        nodes, at = [], "x"
        for i in range(count):
            to = "y" if i == count - 1 else f"y{i}"
            constants |= {
                f"w{i}": drawn(made, given // group, window, window),
                f"b{i}": drawn(made),
            }
            node = helper.make_node("Conv", [at, f"w{i}", f"b{i}"], [f"c{i}"])
            attrs = {"pads": [window // 2] * 4, "strides": [stride] * 2, "group": group}
            node.attribute.extend(helper.make_attribute(k, v) for k, v in attrs.items())
            nodes.append(node)
            nodes.append(helper.make_node("Relu", [f"c{i}"], [to]))
            at = to
        after = (width + 2 * (window // 2) - window) // stride + 1
        shapes = (1, given, width, width), (1, made, after, after)
        yield f"{name}{f' x{count}' if count > 1 else ''}", _model(nodes, *shapes, constants)
    for name, ops in FUNCTIONS.items():
        nodes = [helper.make_node(op, inputs.split(), [output]) for op, inputs, output in ops]
        used = {"scale": drawn(ROWS[1]), "bias": drawn(ROWS[1])} if name == "layer norm" else {}
        yield name, _model(nodes, ROWS, ROWS, used)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    import onnx

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default="", help="parts of names, separated by commas")
    parser.add_argument("--peers", default="onnxruntime", help="onnxruntime,openvino")
    args = parser.parse_args(argv)
    parts = args.only.split(",")
    rows, peers = [], args.peers.split(",")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models():
            if not any(part in name for part in parts):
                continue
            path = Path(folder, "kernel.onnx")
            onnx.save(model, path)
            command = [sys.executable, "-m", "lepton_ir.tools.bench.run_peers", str(path)]
            command += [f"--seconds={args.seconds}", f"--peers={args.peers}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            row = json.loads((done.stdout.strip().splitlines() or ["{}"])[-1])
            found = row.get("ratios", {})
            ratios = [f"{found[p]:.2f}" if p in found else "" for p in peers]
            fastest = f"{row['ratio']:.2f}" if "ratio" in row else str(row or done.stderr)[-80:]
            ours = f"{row.get('ours_ms', np.nan):.3f}"
            rows.append([name, ours, *ratios, fastest, row.get("share", "")])
    print("one thread; the peer's time by ours, and the share of the peak (direct sums)")
    print(measure.table(["kernel", "ours ms", *peers, "fastest", "share"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
