"""The Numba backend beside its peers: tables of speed, threads, start-up, memory, busy machines.

    python -m lepton_ir.tools.bench.engine DIR... [--peers onnxruntime,openvino] [--manifest FILE]
        [--seconds 2] [--only NAME,...] [--tables speed,threads,sessions,busy]

Looks for the models of `MODELS` in the folders and leaves out what is not there. Every model is
measured in a process of its own, one at a time; the times of threads mean something only on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lepton_ir.tools.bench import measure


class Model(NamedTuple):
    """A model that is measured.

    Attributes:
        name: in the tables.
        pattern: of its file's name.
        dims: sizes of its symbolic dims.
        fill: inputs that are constants.
    """

    name: str
    pattern: str
    dims: tuple[str, ...] = ()
    fill: tuple[str, ...] = ()


_PAST = ("batch=1", "sequence=1", "past_sequence=64", "total_sequence=65")

MODELS = (
    Model("resnet18", "resnet18.legacy.onnx"),
    Model("resnet50", "resnet50.legacy.onnx"),
    Model("mobilenetv2", "mobilenetv2*.legacy.onnx"),
    Model("mobilenetv3", "mobilenetv3*.legacy.onnx"),
    Model("efficientnet-b0", "efficientnet_b0.legacy.onnx"),
    Model("vit-tiny", "vit_tiny*.legacy.onnx"),
    Model("bert-base, 128 tokens", "bert_base.legacy.onnx", ("batch=1", "sequence=128")),
    Model("gpt2 with past, 1 token", "gpt2_small_past.legacy.onnx", _PAST),
    Model("lstm_kws", "lstm_kws.legacy.onnx", ("batch=1", "time=100")),
    Model("unet", "unet*.legacy.onnx"),
    Model("yolo-like", "yolo*.legacy.onnx"),
    Model("PP-OCR det", "*PP-OCR*det*.onnx"),
    Model("PP-OCR rec", "*PP-OCR*rec*.onnx"),
    Model("silero-vad", "silero_vad.onnx", fill=("sr=16000",)),
    Model("DTLN 1", "dtln/model_1.onnx"),
    Model("DTLN 2", "dtln/model_2.onnx"),
)
"""What the peers are measured on; exports of timm and transformers, and published files."""

_SESSIONS = ("resnet50", "bert-base, 128 tokens")
_THREADS = ("resnet50", "bert-base, 128 tokens")
_BUSY = "resnet18"


def _run(model: Model, path: Path, args: argparse.Namespace, *options: str) -> dict[str, Any]:
    """Return what `run_peers` says of a model."""
    command = [sys.executable, "-m", "lepton_ir.tools.bench.run_peers", str(path), *options]
    command += [f"--peers={args.peers}", f"--seconds={args.seconds}"]
    command += [f"--dim={dim}" for dim in model.dims] + [f"--fill={fill}" for fill in model.fill]
    if args.manifest:
        command.append(f"--manifest={args.manifest}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    row: dict[str, Any] = json.loads(lines[-1]) if lines else {"crash": done.stderr[-300:]}
    return row


def speed(paths: dict[Model, Path], args: argparse.Namespace) -> Iterator[list[object]]:
    """Yield a row a model, one thread, and their geometric mean."""
    ratios = []
    for model, path in paths.items():
        row = _run(model, path, args)
        if "ratio" not in row:
            yield [model.name, str(row.get("crash") or row.get("error") or row.get("skipped"))[:90]]
            continue
        ratios.append(row["ratio"])
        peers = [f"{row['ratios'].get(name, math.nan):.2f}" for name in args.peers.split(",")]
        yield [model.name, f"{row['ours_ms']:.2f}", *peers, f"{row['ratio']:.2f}", row["share"]]
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        blank = [""] * len(args.peers.split(","))
        yield ["geometric mean", "", *blank, f"{mean:.2f}", ""]


def threads(paths: dict[Model, Path], args: argparse.Namespace) -> Iterator[list[object]]:
    """Yield wall-clock times with one and two threads."""
    for model, path in paths.items():
        if model.name in _THREADS:
            one, two = (_run(model, path, args, "--wall", f"--threads={n}") for n in (1, 2))
            gain = one.get("ours_ms", math.nan) / two.get("ours_ms", math.nan)
            times = [f"{row.get('ours_ms', math.nan):.2f}" for row in (one, two)]
            ratios = [f"{row.get('ratio', math.nan):.2f}" for row in (one, two)]
            yield [model.name, *times, f"{gain:.2f}", *ratios]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--peers", default="onnxruntime", help="onnxruntime,openvino")
    parser.add_argument("--manifest", type=Path, help="input shapes by model, as `run_inputs`")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default="", help="names of models, separated by ;")
    parser.add_argument("--tables", default="speed,threads,sessions,busy")
    args = parser.parse_args(argv)
    paths = measure.found_models(MODELS, args.folders, [n for n in args.only.split(";") if n])
    wanted = args.tables.split(",")
    peers = args.peers.split(",")
    if "speed" in wanted:
        print("one thread; the peer's time by ours, and the share of the peak (direct sums)")
        header = ["model", "ours ms", *peers, "fastest", "share"]
        _print(header, list(speed(paths, args)))
    if "threads" in wanted:
        print("two threads; speed-up, and the fastest peer's time by ours")
        header = ["model", "1 thread ms", "2 threads ms", "speed-up", "ratio 1", "ratio 2"]
        _print(header, list(threads(paths, args)))
    if "sessions" in wanted:
        for model, path in paths.items():
            if model.name in _SESSIONS:
                _tool("sessions", str(path), *(f"--dim={d}" for d in model.dims))
    if "busy" in wanted:
        for model, path in paths.items():
            if model.name == _BUSY:
                _tool("contention", str(path))
    return 0


def _print(header: list[str], rows: list[list[object]]) -> None:
    width = len(header)
    print(measure.table(header, [[*row, *[""] * (width - len(row))] for row in rows]) + "\n")


def _tool(name: str, *options: str) -> None:
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", f"lepton_ir.tools.bench.{name}", *options], check=False)


if __name__ == "__main__":
    sys.exit(main())
