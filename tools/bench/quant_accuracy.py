"""What quantization costs in accuracy: small nets trained here, on real digits.

Run as ``python -m lepton_ir.tools.bench.quant_accuracy DIGITS.npz [--seeds 5] [--folds 5]``. The
archive holds ``x`` (samples of 64 numbers) and ``y`` (labels). A convolutional net and a perceptron
are trained in NumPy for each seed and fold, exported with ``onnx.helper``, quantized in several
ways with the training part as calibration data, and run in onnxruntime on the part left out.
The ratios that the report of static mode gives are computed again from the two files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Params = dict[str, Array]

OPSET = 17
CLASSES = 10
SIDE = 8
BATCH = 64
EPOCHS = 20
RATE = 3e-3

VARIANTS: dict[str, tuple[str, str, float]] = {
    "static": ("quant{mode=static}", "onnx", 0.3),
    "dynamic": ("quant{mode=dynamic}", "onnx", 0.3),
    "weights8": ("quant{mode=weights}", "onnx", 0.3),
    "weights4": ("quant{mode=weights bits=4}", "ort", 1.0),
    "weights4-asymmetric": ("quant{mode=weights bits=4 asymmetric}", "ort", 1.0),
}
"""Pass, target, and how many points may be lost in the mean."""

__all__ = ["VARIANTS", "Row", "digits", "evaluate", "main", "outside_ratios", "summary"]


@dataclass
class Row:
    """One net, seed, fold and way to quantize.

    Attributes:
        net: ``cnn`` or ``mlp``.
        variant: of ``VARIANTS``.
        seed: of weights and order.
        fold: which part was left out.
        float_accuracy: percent.
        accuracy: percent, quantized.
        bytes_float: of the file.
        bytes_after: of the quantized file.
        ratio_gap: largest difference, in dB, of a reported ratio from one computed outside; static
            mode only.
    """

    net: str
    variant: str
    seed: int
    fold: int
    float_accuracy: float
    accuracy: float
    bytes_float: int
    bytes_after: int
    ratio_gap: float


def digits(path: str) -> tuple[Array, Array]:
    """Return images ``[N, 1, 8, 8]`` in [0, 1] and labels."""
    with np.load(path) as archive:
        raw, labels = archive["x"], archive["y"].astype(np.int64)
    images = raw.reshape(len(raw), 1, SIDE, SIDE).astype(np.float32)
    return images / max(float(images.max()), 1.0), labels


# -- training: forward and backward by hand ------------------------------------------------------


def _columns(x: Array) -> Array:
    """Return the 3x3 neighbourhoods of ``x[N, C, H, W]``, zero padded, as ``[N, H, W, C * 9]``."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    n, c, h, w = x.shape
    return np.ascontiguousarray(windows.transpose(0, 2, 3, 1, 4, 5)).reshape(n, h, w, c * 9)


def _conv(x: Array, w: Array, b: Array) -> tuple[Array, Array]:
    columns = _columns(x)
    y = columns @ w.reshape(len(w), -1).T + b
    return y.transpose(0, 3, 1, 2), columns


def _conv_back(dy: Array, columns: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of input, weight and bias."""
    flat = dy.transpose(0, 2, 3, 1).reshape(-1, len(w))
    dw = (flat.T @ columns.reshape(len(flat), -1)).reshape(w.shape)
    turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    dx, _ = _conv(dy, np.ascontiguousarray(turned), np.zeros(w.shape[1], np.float32))
    return dx, dw, flat.sum(0)


def _pool(x: Array) -> tuple[Array, Array]:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5)
    blocks = blocks.reshape(n, c, h // 2, w // 2, 4)
    return blocks.max(-1), blocks.argmax(-1)


def _pool_back(dy: Array, chosen: Array) -> Array:
    n, c, h, w = dy.shape
    blocks = np.zeros((*dy.shape, 4), dy.dtype)
    np.put_along_axis(blocks, chosen[..., None], dy[..., None], -1)
    return blocks.reshape(n, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * h, 2 * w)


def _cnn_step(p: Params, x: Array, grad: Callable[[Array], Array]) -> Params:
    a, columns_a = _conv(x, p["w1"], p["b1"])
    pooled, chosen = _pool(np.maximum(a, 0))
    c, columns_c = _conv(pooled, p["w2"], p["b2"])
    flat = np.maximum(c, 0).reshape(len(x), -1)
    dy = grad(flat @ p["w3"] + p["b3"])
    dc = (dy @ p["w3"].T).reshape(c.shape) * (c > 0)
    dpooled, dw2, db2 = _conv_back(dc, columns_c, p["w2"])
    _, dw1, db1 = _conv_back(_pool_back(dpooled, chosen) * (a > 0), columns_a, p["w1"])
    return {"w1": dw1, "b1": db1, "w2": dw2, "b2": db2, "w3": flat.T @ dy, "b3": dy.sum(0)}


def _mlp_step(p: Params, x: Array, grad: Callable[[Array], Array]) -> Params:
    flat = x.reshape(len(x), -1)
    a = np.maximum(flat @ p["w1"] + p["b1"], 0)
    b = np.maximum(a @ p["w2"] + p["b2"], 0)
    dy = grad(b @ p["w3"] + p["b3"])
    db = (dy @ p["w3"].T) * (b > 0)
    da = (db @ p["w2"].T) * (a > 0)
    first, second = (flat.T @ da, da.sum(0)), (a.T @ db, db.sum(0))
    third = (b.T @ dy, dy.sum(0))
    names = ("w1", "b1", "w2", "b2", "w3", "b3")
    return dict(zip(names, (*first, *second, *third), strict=True))


_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "cnn": ((16, 1, 3, 3), (32, 16, 3, 3), (512, CLASSES)),
    "mlp": ((64, 64), (64, 32), (32, CLASSES)),
}


def _initial(net: str, rng: np.random.Generator) -> Params:
    p: Params = {}
    for i, shape in enumerate(_SHAPES[net], 1):
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        p[f"w{i}"] = (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        p[f"b{i}"] = np.zeros(shape[0] if len(shape) == 4 else shape[1], np.float32)
    return p


def train(net: str, images: Array, labels: Array, seed: int, epochs: int = EPOCHS) -> Params:
    """Train with Adam on the cross-entropy; the same seed gives the same net."""
    rng = np.random.default_rng(seed)
    p = _initial(net, rng)
    first = {k: np.zeros_like(v) for k, v in p.items()}
    second = {k: np.zeros_like(v) for k, v in p.items()}
    step = _cnn_step if net == "cnn" else _mlp_step
    t = 0
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images), BATCH):
            chosen = order[start : start + BATCH]
            grads = step(p, images[chosen], _softmax_gradient(labels[chosen]))
            t += 1
            for k, g in grads.items():
                first[k] += 0.1 * (g - first[k])
                second[k] += 0.001 * (g * g - second[k])
                mean, square = first[k] / (1 - 0.9**t), second[k] / (1 - 0.999**t)
                p[k] = (p[k] - RATE * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
    return p


def _softmax_gradient(labels: Array) -> Callable[[Array], Array]:
    def gradient(logits: Array) -> Array:
        e = np.exp(logits - logits.max(1, keepdims=True))
        e /= e.sum(1, keepdims=True)
        e[np.arange(len(labels)), labels] -= 1
        return np.asarray(e / len(labels), np.float32)

    return gradient


# -- models --------------------------------------------------------------------------------------


def to_onnx(net: str, p: Params) -> onnx.ModelProto:
    """Return the net with a symbolic batch, input ``x`` and output ``logits``."""
    if net == "cnn":
        nodes = [
            helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "conv1", pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["ar"], "relu1"),
            helper.make_node("MaxPool", ["ar"], ["m"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["m", "w2", "b2"], ["c"], "conv2", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["cr"], "relu2"),
            helper.make_node("Flatten", ["cr"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], "fc"),
        ]
    else:
        nodes = [
            helper.make_node("Flatten", ["x"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "w1", "b1"], ["a"], "fc1"),
            helper.make_node("Relu", ["a"], ["ar"], "relu1"),
            helper.make_node("Gemm", ["ar", "w2", "b2"], ["c"], "fc2"),
            helper.make_node("Relu", ["c"], ["cr"], "relu2"),
            helper.make_node("Gemm", ["cr", "w3", "b3"], ["logits"], "fc3"),
        ]
    graph = helper.make_graph(
        nodes,
        net,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(v, k) for k, v in p.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", OPSET)])


def quantize(
    source: str, target: str, calibration: Array, variant: str = "static"
) -> list[dict[str, Any]]:
    """Quantize a file through the Python API; return the report's rows."""
    import lepton_ir
    from lepton_ir import api

    module = lepton_ir.load(source)
    feeds = ({"x": calibration},) if variant == "static" else None
    text, kind, _ = VARIANTS[variant]
    report = lepton_ir.run_passes(module, f"fuse,{text}", target=api.target(kind), feeds=feeds)
    lepton_ir.save(module, target)
    rows: list[dict[str, Any]] = report.context.data["layers"]
    return rows


def _session(model: str | bytes, optimized: bool = True) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def accuracy(path: str, images: Array, labels: Array) -> float:
    """Return the percentage of labels that onnxruntime gets right, optimizing as it likes."""
    (logits,) = _session(path).run(None, {"x": images})
    return float(100 * np.mean(logits.argmax(1) == labels))


# -- ratios from outside -------------------------------------------------------------------------


def _decibels(x: Array, y: Array) -> float:
    wide = x.astype(np.float64)
    error = wide - y.astype(np.float64)
    return float(10 * np.log10(np.square(wide).sum() / np.square(error).sum()))


def _weight(model: onnx.ModelProto, layer: str) -> Array:
    """Return what a layer reads as weight: an initializer, or one that is dequantized."""
    node = next(n for n in model.graph.node if n.name == layer)
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    if node.input[1] in held:
        return held[node.input[1]]
    made = next(n for n in model.graph.node if node.input[1] in n.output)
    q, scale = held[made.input[0]], held[made.input[1]]
    axis = next((a.i for a in made.attribute if a.name == "axis"), 1)
    shape = [-1 if i == axis % q.ndim else 1 for i in range(q.ndim)]
    back = q.astype(np.float32) * (scale.reshape(shape) if scale.size > 1 else scale.reshape(()))
    return np.asarray(back)


def _tensors(path: str, names: list[str], images: Array) -> list[Array]:
    model = onnx.load(path)
    have = {o.name for o in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n not in have
    )
    found: list[Array] = _session(model.SerializeToString(), False).run(names, {"x": images})
    return found


def outside_ratios(
    source: str, target: str, rows: list[dict[str, Any]], images: Array
) -> Iterator[tuple[str, float, float]]:
    """Yield (what, reported, computed from the two files) for each ratio of the report."""
    before, after = onnx.load(source), onnx.load(target)
    names = [row["output"] for row in rows]
    pairs = zip(_tensors(source, names, images), _tensors(target, names, images), strict=True)
    for row, (x, y) in zip(rows, pairs, strict=True):
        name = row["name"]
        computed = _decibels(_weight(before, name), _weight(after, name))
        yield f"weight of {name}", row["weight_sqnr"], computed
        yield f"output of {name}", row["output_sqnr"], _decibels(x, y)


# -- the measurement -----------------------------------------------------------------------------


def evaluate(
    images: Array,
    labels: Array,
    seeds: int,
    folds: int,
    epochs: int = EPOCHS,
    run_folds: int = 0,
    variants: Sequence[str] = ("static",),
) -> Iterator[Row]:
    """Train, quantize and test; yields one row per net, seed, fold and variant.

    Args:
        images: ``[N, 1, 8, 8]``.
        labels: ``[N]``.
        seeds: training seeds.
        folds: parts; each is left out once.
        epochs: of training.
        run_folds: use only the first so many folds; all when 0.
        variants: ways to quantize.
    """
    for seed in range(seeds):
        parts = np.array_split(np.random.default_rng(1000 + seed).permutation(len(images)), folds)
        for fold in range(run_folds or folds):
            test = parts[fold]
            rest = np.concatenate([p for i, p in enumerate(parts) if i != fold])
            for net in ("cnn", "mlp"):
                params = train(net, images[rest], labels[rest], seed, epochs)
                held = images[rest], images[test], labels[test]
                yield from _rows(Row(net, "", seed, fold, 0, 0, 0, 0, 0), params, variants, *held)


def _rows(
    row: Row, params: Params, variants: Sequence[str], rest: Array, test: Array, labels: Array
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = os.path.join(folder, "float.onnx"), os.path.join(folder, "quantized.onnx")
        onnx.save(to_onnx(row.net, params), source)
        before = accuracy(source, test, labels)
        for variant in variants:
            found = quantize(source, target, rest, variant)
            gap = 0.0
            if variant == "static":
                ratios = outside_ratios(source, target, found, rest)
                gap = max(abs(reported - computed) for _, reported, computed in ratios)
            yield replace(
                row,
                variant=variant,
                float_accuracy=before,
                accuracy=accuracy(target, test, labels),
                bytes_float=os.path.getsize(source),
                bytes_after=os.path.getsize(target),
                ratio_gap=gap,
            )


def summary(rows: list[Row]) -> dict[tuple[str, str], dict[str, float]]:
    """Return by net and variant: mean accuracies, mean and worst loss in points, worst gap."""
    out: dict[tuple[str, str], dict[str, float]] = {}
    for key in dict.fromkeys((r.net, r.variant) for r in sorted(rows, key=lambda r: r.net)):
        mine = [r for r in rows if (r.net, r.variant) == key]
        loss = [r.float_accuracy - r.accuracy for r in mine]
        out[key] = {
            "runs": len(mine),
            "float": float(np.mean([r.float_accuracy for r in mine])),
            "quantized": float(np.mean([r.accuracy for r in mine])),
            "mean_loss": float(np.mean(loss)),
            "worst_loss": float(np.max(loss)),
            "bytes_ratio": float(np.mean([r.bytes_after / r.bytes_float for r in mine])),
            "ratio_gap": float(np.max([r.ratio_gap for r in mine])),
        }
    return out


def main(argv: list[str] | None = None) -> int:
    """Measure; exit status 1 when the mean loss of a net is over the variant's limit."""
    parser = argparse.ArgumentParser(prog="quant_accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("digits", help="digits.npz with x and y")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="of: %(default)s")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    images, labels = digits(options.digits)
    variants = options.variants.split(",")
    counts = options.seeds, options.folds, options.epochs
    rows = []
    for row in evaluate(images, labels, *counts, variants=variants):
        rows.append(row)
        if not options.json:
            print(
                f"{row.net} {row.variant:<20} seed {row.seed} fold {row.fold}: "
                f"{row.float_accuracy:6.2f} % -> {row.accuracy:6.2f} %",
                flush=True,
            )
    found = summary(rows)
    if options.json:
        table = [{"net": n, "variant": v, **s} for (n, v), s in found.items()]
        print(json.dumps({"rows": [asdict(r) for r in rows], "summary": table}, indent=2))
    else:
        _print(found)
    return int(any(s["mean_loss"] > VARIANTS[v][2] for (_, v), s in found.items()))


def _print(found: dict[tuple[str, str], dict[str, float]]) -> None:
    print(
        f"{'net':<5}{'variant':<21}{'runs':>5}{'float %':>9}{'then %':>9}"
        f"{'loss':>8}{'worst':>8}{'gap dB':>9}"
    )
    for (net, variant), s in found.items():
        print(
            f"{net:<5}{variant:<21}{s['runs']:>5.0f}{s['float']:>9.2f}{s['quantized']:>9.2f}"
            f"{s['mean_loss']:>8.3f}{s['worst_loss']:>8.2f}{s['ratio_gap']:>9.4f}"
        )


if __name__ == "__main__":
    sys.exit(main())
