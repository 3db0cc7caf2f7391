"""TFLite files by `lepton-opt` and by onnx2tf: operators, transposes, time, latency, equality.

    python -m lepton_ir.tools.bench.tflite_peers DIR... --onnx2tf PYTHON --litert PYTHON

Looks for the models of `MODELS` in the folders. Conversions are whole processes, timed in the order
lepton, peer, peer, lepton: `cpu` compares processor seconds, `wall` the pairs' seconds. Latencies
are LiteRT's with XNNPACK on one thread, in processor time and in turns, and a ratio is the median
of Lepton's time over the peer's. Both get the same static shapes. The peer changes
the layout of inputs and outputs by default (`--io-layout=nhwc` makes Lepton do so, too); with
`--io-layout=source` it is told to keep the inputs'. `--keep FOLDER` holds the peer's files and
figures, and takes them from there when they are there already.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lepton_ir.tools.bench import measure


class Model(NamedTuple):
    """A model that is measured.

    Attributes:
        name: in the table.
        pattern: of its file's name.
        input: what its input is called.
        shape: of the input.
        dims: the same for Lepton: sizes of symbolic dims.
    """

    name: str
    pattern: str
    input: str
    shape: tuple[int, ...]
    dims: tuple[str, ...] = ()


_PADDLE = ("p2o.DynamicDimension.0=1", "p2o.DynamicDimension.1=640", "p2o.DynamicDimension.2=640")

MODELS = (
    Model("resnet18", "resnet18.legacy.onnx", "input", (1, 3, 224, 224), ("batch=1",)),
    Model("resnet50", "resnet50.legacy.onnx", "input", (1, 3, 224, 224), ("batch=1",)),
    Model("mobilenetv2", "mobilenetv2*.legacy.onnx", "input", (1, 3, 224, 224), ("batch=1",)),
    Model("mobilenetv3", "mobilenetv3*.legacy.onnx", "input", (1, 3, 224, 224), ("batch=1",)),
    Model(
        "efficientnet-b0", "efficientnet_b0.legacy.onnx", "input", (1, 3, 224, 224), ("batch=1",)
    ),
    Model("unet", "unet*.legacy.onnx", "input", (1, 3, 256, 256), ("batch=1",)),
    Model("yolo-like", "yolo*.legacy.onnx", "input", (1, 3, 640, 640)),
    Model("PP-OCR det", "*PP-OCR*det*.onnx", "x", (1, 3, 640, 640), _PADDLE),
    Model(
        *("PP-OCR rec", "*PP-OCR*rec*.onnx", "x", (1, 3, 48, 320)),
        ("p2o.DynamicDimension.0=1", "_x_2=48", "p2o.DynamicDimension.1=320"),
    ),
    Model(
        *("PP-OCR cls", "*ppocr*cls*.onnx", "x", (1, 3, 48, 192)),
        ("_x_0=1", "_x_2=48", "_x_3=192"),
    ),
    Model("ultraface RFB", "version-RFB-320.onnx", "input", (1, 3, 240, 320)),
    Model("ultraface slim", "version-slim-320.onnx", "input", (1, 3, 240, 320)),
)
"""Convolutional networks: exports of timm, and published files."""

_PEER = (
    "import glob, os, shutil, sys, tempfile\n"
    "from onnx2tf import convert\n"
    "folder = tempfile.mkdtemp()\n"
    "name, shape, keep = sys.argv[3], sys.argv[4], sys.argv[5] == 'source'\n"
    "convert(input_onnx_file_path=sys.argv[1], output_folder_path=folder, verbosity='error',\n"
    "        overwrite_input_shape=[name + ':' + shape],\n"
    "        keep_shape_absolutely_input_names=[name] if keep else None)\n"
    "shutil.move(glob.glob(folder + '/*_float32.tflite')[0], sys.argv[2])\n"
    "shutil.rmtree(folder)\n"
)
"""onnx2tf with its defaults and static shapes."""


def convert(model: Model, source: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Convert both ways, in pairs, and return seconds, peaks and the ratio."""
    ours, theirs = folder / "lepton.tflite", folder / "onnx2tf.tflite"
    layout = ["--io-layout=nhwc"] if args.io_layout == "nhwc" else []
    template = measure.lepton_template(args.lepton, args.options)
    lepton = measure.fill(template, source, ours)
    lepton += [*layout, *(f"--dim={d}" for d in model.dims)]
    shape = ",".join(map(str, model.shape))
    peer = [args.onnx2tf or "", "-c", _PEER, str(source), str(theirs), model.input, shape]
    peer.append(args.io_layout)
    kept = args.keep / f"{model.name} {args.io_layout}" if args.keep else None
    row: dict[str, Any] = {"model": model.name, "source_mb": source.stat().st_size / 1e6}
    if kept and kept.with_suffix(".json").exists():
        runs = [measure.run(lepton, timeout=args.timeout) for _ in range(args.runs)]
        row |= json.loads(kept.with_suffix(".json").read_text())
        if row["onnx2tf"]["ok"]:
            shutil.copy(kept.with_suffix(".tflite"), theirs)
        return row | {"lepton": _summary(runs), "reused": True}
    first: list[measure.Run] = []
    second: list[measure.Run] = []
    ratios = []
    for _ in range(args.runs):
        a, b = measure.abba(lepton, peer, timeout=args.timeout)
        first, second = first + a, second + b
        ratios.append(measure.wall_ratio(a, b))
    row |= {"onnx2tf": _summary(second), "lepton": _summary(first)}
    if kept:
        args.keep.mkdir(parents=True, exist_ok=True)
        if theirs.exists():
            shutil.copy(theirs, kept.with_suffix(".tflite"))
        text = json.dumps({"onnx2tf": row["onnx2tf"]})
        kept.with_suffix(".json").write_text(text)
    return row | {"wall": measure.median(ratios)}


def _summary(runs: Sequence[measure.Run]) -> dict[str, Any]:
    failed = next((r.output for r in runs if not r.ok), None)
    return {
        "ok": failed is None,
        "wall": measure.median([r.wall for r in runs]),
        "cpu": measure.median([r.user + r.system for r in runs]),
        "peak_mb": measure.median([r.peak_mb for r in runs]),
        "output": failed,
    }


def census(path: Path) -> dict[str, Any]:
    """Count a file's operators, and its transposes by place."""
    from collections import Counter

    from lepton_ir.formats.tflite.reader import read_file
    from lepton_ir.formats.tflite.validate import builtin_name

    model = read_file(str(path))
    names = [builtin_name(code) or "custom" for code in model.operator_codes]
    counts: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for graph in model.subgraphs:
        given, returned = set(graph.inputs.tolist()), set(graph.outputs.tolist())
        for op in graph.operators:
            name = names[op.opcode_index]
            counts[name] += 1
            if name == "TRANSPOSE":
                edge = op.inputs[0] in given or op.outputs[0] in returned
                places["edge" if edge else "inner"] += 1
    kinds = dict(counts.most_common())
    return {
        "ops": sum(counts.values()),
        **{k: places[k] for k in ("edge", "inner")},
        "kinds": kinds,
    }


def _source_transposes(path: Path) -> int:
    import lepton_ir

    return sum(op.name == "transpose" for op in lepton_ir.load(str(path)).main.walk())


def compare(model: Model, source: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return operators, latencies and distances of the files in ``folder``."""
    import numpy as np

    from lepton_ir.backends.onnx.runner import OrtRunner

    files = {n: folder / f"{n}.tflite" for n in ("lepton", "onnx2tf")}
    files = {name: path for name, path in files.items() if path.exists()}
    row: dict[str, Any] = {"transposes": _source_transposes(source)}
    if not files:
        return row
    row |= {f"{name}_file": census(path) for name, path in files.items()}
    x: Any = np.random.default_rng(0).standard_normal(model.shape).astype(np.float32)
    runner = OrtRunner(str(source), threads=1)
    expected = dict(zip(runner.outputs(), runner.run({model.input: x}), strict=True))
    feeds = folder / "feeds.npz"
    np.savez(feeds, **{model.input: x})
    script = str(Path(__file__).with_name("litert_times.py"))
    command = [args.litert or sys.executable, script, str(feeds), str(folder)]
    command += [*map(str, files.values()), f"--pairs={args.pairs}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return row | {"error": done.stderr.strip()[-300:]}
    times = dict(zip(files, json.loads(done.stdout.splitlines()[-1]), strict=True))
    for i, name in enumerate(files):
        if isinstance(times[name], str):
            row[f"{name}_error"] = times.pop(name)[-300:]
            continue
        row[f"{name}_ms"] = measure.median(times[name])
        with np.load(folder / f"{i}.npz") as loaded:
            row[f"{name}_off"] = distance(expected, dict(loaded))
    if len(times) == 2:
        pairs = zip(times["lepton"], times["onnx2tf"], strict=True)
        row["latency"] = measure.median([a / b for a, b in pairs])
    return row


def distance(expected: dict[str, Any], found: dict[str, Any]) -> float:
    """Return the largest difference of an output as a share of its largest magnitude.

    Outputs are paired by name where all names are known, else by shape; channels may come last.
    """
    import numpy as np

    names = [str(n) for n in found["names"]]
    arrays = {n: found[f"output{i}"] for i, n in enumerate(names)}
    worst = 0.0
    for position, (name, wanted) in enumerate(expected.items()):
        given = arrays[name] if set(names) == set(expected) else arrays[names[position]]
        if given.shape != wanted.shape and wanted.ndim > 2:
            wanted = np.moveaxis(wanted, 1, -1)
        if given.shape != wanted.shape:
            return math.inf
        scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(given - wanted).max(initial=0.0)) / scale)
    return worst


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table and the geometric mean of the latencies' ratios."""
    header = ["model", "ops", "peer's", "own T", "edge/inner T", "peer's T", "latency", "cpu"]
    header += ["wall", "MB", "peer MB", "off", "peer off"]
    lines = []
    for row in rows:
        ours, theirs = row.get("lepton_file"), row.get("onnx2tf_file")
        sides = [f"{s['edge']}/{s['inner']}" if s else "-" for s in (ours, theirs)]
        line = [row["model"], *(s["ops"] if s else "-" for s in (ours, theirs))]
        line += [row["transposes"], *sides]
        row["cpu"] = row["lepton"]["cpu"] / row["onnx2tf"]["cpu"]
        line += [f"{row[k]:.3f}" if k in row else "-" for k in ("latency", "cpu", "wall")]
        for name in ("lepton", "onnx2tf"):
            line.append(f"{row[name]['peak_mb']:.0f}" if row[name]["ok"] else "failed")
        for name in ("lepton", "onnx2tf"):
            off = row.get(f"{name}_off")
            line.append("-" if off is None else f"{off:.1e}")
        lines.append(line)
    ratios = [row["latency"] for row in rows if "latency" in row]
    mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
    text = measure.table(header, lines)
    return f"{text}\nlatency: geometric mean {mean:.3f} over {len(ratios)} of {len(rows)} models"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--onnx2tf", help="the Python that has onnx2tf")
    parser.add_argument("--litert", help="the Python that has ai-edge-litert; default: this one")
    parser.add_argument("--only", default="", help="names of models")
    parser.add_argument("--io-layout", choices=("source", "nhwc"), default="source")
    parser.add_argument("--lepton", help="the program, instead of the installed lepton-opt")
    parser.add_argument("--options", default="--check=off")
    parser.add_argument("--runs", type=int, default=3, help="rounds of conversions")
    parser.add_argument("--pairs", type=int, default=25, help="runs in LiteRT in turns")
    parser.add_argument("--keep", type=Path, help="where the peer's files and figures stay")
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    paths = measure.found_models(MODELS, args.folders, [n for n in args.only.split(",") if n])
    with tempfile.TemporaryDirectory() as top:
        folders = {model: Path(top, str(i)) for i, model in enumerate(paths)}
        rows = {}
        # Children's peaks count from this process's size: nothing heavy is imported before the end.
        for model, source in paths.items():
            folders[model].mkdir()
            rows[model] = convert(model, source, folders[model], args)
            print(f"{model.name}: converted", file=sys.stderr, flush=True)
        for model, source in paths.items():
            rows[model] |= compare(model, source, folders[model], args)
    print(report(list(rows.values())))
    if args.json:
        stored = {"environment": measure.environment(), "rows": list(rows.values())}
        args.json.write_text(json.dumps(stored, indent=1) + "\n")
    return 0 if all(row["lepton"]["ok"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
