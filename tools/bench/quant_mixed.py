"""Mixed precision against leaving layers in float by hand, in the order of their sensitivity.

``python -m lepton_ir.tools.bench.quant_mixed MODEL --calib FILE.npz --targets 0.1 0.05``. By hand
means: quantize every layer alone, all others excluded by name, measure the distance of the outputs
over all samples, and exclude the worst ones, as few as are enough. Printed are, for each target and
both ways, the distance reached, the operations that onnxruntime still computes in float, and the
seconds over those that the float model takes for all samples.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_ir.tools.bench.quant_peers import census, session

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]

LIMIT = 60.0
"""Runs over the calibration data that a search may take the time of."""

MOVES = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "Reshape", "Transpose", "Flatten", "Squeeze"),
        *(
            "Unsqueeze",
            "Concat",
            "Slice",
            "Split",
            "Gather",
            "Identity",
            "MaxPool",
            "Cast",
            "Shape",
        ),
        *("com.microsoft.nchwc:ReorderInput", "com.microsoft.nchwc:ReorderOutput"),
        *("ReorderInput", "ReorderOutput", "NhwcMaxPool", "Constant", "Shape"),
    }
)
"""Operations that do not compute."""


def float_operations(path: str) -> int:
    """Return how many operations onnxruntime computes in float."""
    found = census(path)
    integer = ("QLinear", "QGemm", "Integer", "QAttention", "DynamicQuantize")
    kept = {k: n for k, n in found.items() if k not in MOVES and not any(i in k for i in integer)}
    return sum(kept.values())


@dataclass
class Bench:
    """A model and its data.

    Attributes:
        path: the model.
        feeds: all samples.
        options: of the quant pass.
        folder: for results.
    """

    path: str
    feeds: list[Feed]
    options: str
    folder: str

    def __post_init__(self) -> None:
        model = session(self.path)
        self.expected = [model.run(None, feed) for feed in self.feeds]
        times = []
        for _ in range(3):
            start = time.process_time()
            for feed in self.feeds:
                model.run(None, feed)
            times.append(time.process_time() - start)
        self.seconds = min(times)

    def quantize(self, more: str) -> tuple[str, list[dict[str, Any]]]:
        """Return the file and the rows of the report."""
        import lepton_ir

        module = lepton_ir.load(self.path)
        text = f"fuse,quant{{mode=static {self.options} {more}}}"
        report = lepton_ir.run_passes(module, text, feeds=lambda: iter(self.feeds))
        target = os.path.join(self.folder, "quantized.onnx")
        lepton_ir.save(module, target)
        rows: list[dict[str, Any]] = report.context.data.get("layers", [])
        return target, rows

    def distance(self, path: str) -> float:
        """Return ``sqrt(sum (x - y)^2 / sum x^2)`` of the worst output."""
        from lepton_ir.passes.quant.distance import distance

        model = session(path)
        return distance(self.expected, (model.run(None, feed) for feed in self.feeds))

    def by_search(self, target: float) -> dict[str, float]:
        """Let the pass choose."""
        start = time.process_time()
        path, rows = self.quantize(f"max_drop={target}")
        seconds = time.process_time() - start
        return {
            "distance": self.distance(path),
            "operations": float_operations(path),
            "layers": sum(r["kind"] == "float" for r in rows),
            "runs": seconds / self.seconds,
        }

    def sensitivities(self) -> dict[str, float]:
        """Return the distance with each layer alone quantized."""
        _, rows = self.quantize("measure=false")
        names = [r["name"] for r in rows]
        found = {}
        for name in names:
            others = ":".join(n for n in names if n != name)
            path, _ = self.quantize(f"measure=false islands exclude={others}")
            found[name] = self.distance(path)
        return found

    def by_hand(self, target: float, order: list[str]) -> dict[str, float]:
        """Exclude the first layers of ``order``, as few as a bisection shows to be enough."""
        low, high = -1, len(order)
        best: dict[str, float] = {}
        while high - low > 1:
            count = (low + high) // 2 if low >= 0 else 0
            more = "measure=false" + (f" exclude={':'.join(order[:count])}" if count else "")
            path, _ = self.quantize(more)
            reached = self.distance(path)
            if reached <= target:
                high = count
                operations = float_operations(path)
                best = {"distance": reached, "operations": operations, "layers": count}
            else:
                low = count
        return best


def main(argv: list[str] | None = None) -> int:
    """Measure; exit status 1 if a search misses its target, takes too long or leaves more."""
    parser = argparse.ArgumentParser(prog="quant_mixed", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--calib", required=True, help=".npz with an array for the only input")
    parser.add_argument("--targets", type=float, nargs="+", required=True)
    parser.add_argument("--options", default="", help="of the quant pass, both ways")
    parser.add_argument("--alone", action="store_true", help="without the way by hand")
    options = parser.parse_args(argv)
    with np.load(options.calib) as archive:
        data = archive[archive.files[0]]
    name = session(options.model).get_inputs()[0].name
    feeds = [{name: data[i : i + 1]} for i in range(len(data))]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.model, feeds, options.options, folder)
        print(f"{len(feeds)} samples, {bench.seconds:.2f} s for all in float", flush=True)
        order: list[str] = []
        if not options.alone:
            found = bench.sensitivities()
            order = sorted(found, key=lambda n: -found[n])
        for target in options.targets:
            ways = {"search": bench.by_search(target)}
            if order:
                ways["by hand"] = bench.by_hand(target, order)
            for way, row in ways.items():
                text = ", ".join(f"{k} {v:.4g}" for k, v in row.items())
                print(f"{target:g} {way:<8} {text}", flush=True)
            mine, hand = ways["search"], ways.get("by hand", {})
            failed |= mine["distance"] > target * 1.001 or mine["runs"] > LIMIT
            failed |= mine["operations"] > hand.get("operations", np.inf)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
