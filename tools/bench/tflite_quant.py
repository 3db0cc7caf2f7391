"""Statically quantized models as TFLite and as ONNX, of one quantization: are they the same?

    python -m lepton_ir.tools.bench.tflite_quant MODEL.onnx... --calib X.npz [--held-out 8]
    python -m lepton_ir.tools.bench.tflite_quant --digits DIGITS.npz [--seeds 3]

The first form quantizes for the target ``tflite``, writes the result both ways, and says which
float operators stand between quantized input and output (none should), and how many elements
of the outputs LiteRT and onnxruntime agree on within a step of their scale. The second one trains
the convolutional net of ``quant_accuracy``, and compares accuracies in addition.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import lepton_ir
from lepton_ir.clone import clone_module
from lepton_ir.formats.tflite.reader import read_file
from lepton_ir.formats.tflite.schema import enums
from lepton_ir.formats.tflite.validate import builtin_name
from lepton_ir.tools.bench import tflite_again

Array = np.ndarray[Any, Any]

PASSES = "O2,quant{mode=static}"


def write_both(
    source: str, calib: str, folder: Path, passes: str = PASSES, dims: tuple[str, ...] = ()
) -> tuple[Path, Path]:
    """Quantize once; return the TFLite file and the ONNX file."""
    module = lepton_ir.load(source)
    given = f"shapes{{dim={':'.join(dims)}}},{passes}" if dims else passes
    lepton_ir.run_passes(module, given, target="tflite", feeds=[calib])
    twin = clone_module(module)
    lepton_ir.run_passes(twin, "legalize", target="onnx")
    lepton_ir.save(twin, folder / "both.onnx", format="onnx")
    lepton_ir.run_passes(module, "tflite,legalize", target="tflite")
    lepton_ir.save(module, folder / "both.tflite", format="tflite")
    return folder / "both.tflite", folder / "both.onnx"


def float_operators(path: Path) -> tuple[Counter[str], Counter[str]]:
    """Return the operators with a result of floats, but for DEQUANTIZE at the outputs, and all."""
    model = read_file(str(path))
    graph, floats, every = model.subgraphs[0], Counter[str](), Counter[str]()
    number = enums()["TensorType"].members["FLOAT32"]
    outputs = {int(i) for i in graph.outputs}
    first = {int(i) for i in graph.inputs}
    for op in graph.operators:
        name = builtin_name(model.operator_codes[op.opcode_index]) or ""
        every[name] += 1
        made = [int(i) for i in op.outputs if graph.tensors[i].type == number]
        if made and all(int(i) in first for i in op.inputs[:1]):
            first.update(made)  # what prepares an input for its QUANTIZE
        elif made and not (name == "DEQUANTIZE" and outputs.issuperset(made)):
            floats[name] += 1
    return floats, every


def output_scales(path: Path) -> list[float]:
    """Return the scale of each output: of what it is dequantized from, or its own."""
    model = read_file(str(path))
    graph = model.subgraphs[0]
    maker = {int(i): op for op in graph.operators for i in op.outputs}
    found = []
    for i in graph.outputs:
        op = maker[int(i)]
        tensor = graph.tensors[op.inputs[0] if graph.tensors[i].quantization is None else i]
        known = tensor.quantization is not None and tensor.quantization.scale is not None
        found.append(float(tensor.quantization.scale[0]) if known else float("nan"))
    return found


def run_tflite(path: Path, folder: Path, feeds: Array) -> list[Array]:
    """Return the outputs of many feeds, of one process."""
    np.save(folder / "feeds.npy", feeds)
    made = tflite_again.run(path, folder, "run", feeds=str(folder / "feeds.npy"))
    if isinstance(made, str):
        raise SystemExit(f"LiteRT: {made}")
    return [made[f"{i}.1.0"] for i in range(len(feeds))]


def run_onnx(path: Path, feeds: Array) -> list[Array]:
    """Return the same of onnxruntime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [np.asarray(session.run(None, {name: x})[0]) for x in feeds]


def agreement(ours: list[Array], theirs: list[Array], scale: float) -> tuple[float, float]:
    """Return the share of elements within a step, and the largest difference in steps."""
    a = np.concatenate([x.reshape(-1) for x in ours]).astype(np.float64)
    b = np.concatenate([x.reshape(-1) for x in theirs]).astype(np.float64)
    steps = np.abs(a - b) / scale
    return float((steps < 1.01).mean()), float(steps.max())


def compare(source: str, calib: str, held_out: int, dims: tuple[str, ...], passes: str) -> bool:
    """Print a line about one model; returns whether it is as it should be."""
    with np.load(calib) as data:
        samples = data[data.files[0]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.savez(folder / "calib.npz", **{data.files[0]: samples[:-held_out]})
        ours, onnx_file = write_both(source, str(folder / "calib.npz"), folder, passes, dims)
        floats, every = float_operators(ours)
        feeds = samples[-held_out:]
        scale = output_scales(ours)[0]
        within, worst = agreement(
            run_tflite(ours, folder, feeds), run_onnx(onnx_file, feeds), scale
        )
    print(
        f"{Path(source).name}: {sum(every.values())} operators, in floats {dict(floats) or 'none'};"
        f" within a step {within:.2%}, at most {worst:.1f} steps",
        flush=True,
    )
    return not floats and within >= 0.99


def digits(path: str, seeds: int) -> bool:
    """Print accuracies of the net on digits, as ONNX and as TFLite."""
    import onnx

    from lepton_ir.tools.bench import quant_accuracy as qa

    images, labels = qa.digits(path)
    cut, good = len(images) * 4 // 5, True
    for seed in range(seeds):
        net = qa.train("cnn", images[:cut], labels[:cut], seed)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            source = str(folder / "float.onnx")
            onnx.save(qa.to_onnx("cnn", net), source)
            np.savez(folder / "calib.npz", x=images[:cut][:, None][:256])
            feeds, truth = images[cut:][:, None], labels[cut:]
            ours, twin = write_both(source, str(folder / "calib.npz"), folder, dims=("N=1",))
            floats, _ = float_operators(ours)
            theirs = run_onnx(twin, feeds)
            own = run_tflite(ours, folder, feeds)
            usual = run_onnx(usual_int8(source, folder), feeds)
            scale = output_scales(ours)[0]
        hits = [
            100 * float(np.mean([y.argmax() == t for y, t in zip(found, truth, strict=True)]))
            for found in (usual, theirs, own)
        ]
        within, worst = agreement(own, theirs, scale)
        print(
            f"digits, seed {seed}: ONNX int8 {hits[0]:.2f} %, the same as TFLite {hits[1]:.2f} %,"
            f" TFLite {hits[2]:.2f} %; floats {dict(floats) or 'none'};"
            f" within a step {within:.2%}, at most {worst:.1f}",
            flush=True,
        )
        good &= not floats and within >= 0.99 and abs(hits[2] - hits[0]) <= 0.3
    return good


def usual_int8(source: str, folder: Path) -> Path:
    """Return the file that `quant` makes for ONNX."""
    module = lepton_ir.load(source)
    calib = [str(folder / "calib.npz")]
    lepton_ir.run_passes(module, PASSES, target="onnx", feeds=calib)
    lepton_ir.save(module, folder / "usual.onnx")
    return folder / "usual.onnx"


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="*", metavar="MODEL.onnx")
    parser.add_argument("--calib", help="samples; the last ones are held out")
    parser.add_argument("--held-out", type=int, default=4, metavar="N")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--passes", default=PASSES)
    parser.add_argument("--digits", help="archive of x and y")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    good = True
    for model in args.models:
        good &= compare(model, args.calib, args.held_out, tuple(args.dim), args.passes)
    if args.digits:
        good &= digits(args.digits, args.seeds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
