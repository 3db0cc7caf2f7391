"""Runs TFLite files in LiteRT, in turns on one thread: outputs as `.npz`, milliseconds as JSON.

    python litert_times.py feeds.npz FOLDER a.tflite b.tflite --pairs 25

A file that LiteRT refuses gets the error's text instead. Needs nothing but `ai_edge_litert`, so
that an environment of its own can run it as a plain script. Feeds go to the inputs of their names,
or in order; one whose shape fits an input only with its channels last is transposed for it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def fitted(array: Array, detail: dict[str, Any]) -> Array:
    """Return ``array`` in an input's dtype, with its second axis last when only that fits."""
    signature = detail["shape_signature"]
    wanted = signature if len(signature) else detail["shape"]
    moved = np.moveaxis(array, 1, -1) if array.ndim > 2 else array
    chosen = moved if not _fits(array, wanted) and _fits(moved, wanted) else array
    return np.ascontiguousarray(chosen, detail["dtype"])


def _fits(array: Array, wanted: Sequence[int]) -> bool:
    return array.ndim == len(wanted) and all(
        w in (-1, d) for d, w in zip(array.shape, wanted, strict=True)
    )


class Runner:
    """One interpreter with its default delegate, XNNPACK."""

    def __init__(self, path: str, feeds: dict[str, Array]) -> None:
        module = importlib.import_module("ai_edge_litert.interpreter")
        self.interpreter = module.Interpreter(model_path=path, num_threads=1)
        details = self.interpreter.get_input_details()
        named = all(d["name"] in feeds for d in details)
        given = [feeds[d["name"]] for d in details] if named else feeds.values()
        self.inputs = {d["index"]: fitted(x, d) for x, d in zip(given, details, strict=True)}
        for index, x in self.inputs.items():
            self.interpreter.resize_tensor_input(index, x.shape)
        self.interpreter.allocate_tensors()

    def run(self) -> dict[str, Array]:
        """Run once; returns the outputs by name, in order."""
        for index, x in self.inputs.items():
            self.interpreter.set_tensor(index, x)
        self.interpreter.invoke()
        found = self.interpreter.get_output_details()
        return {d["name"]: self.interpreter.get_tensor(d["index"]) for d in found}

    def timed(self) -> float:
        """Run without reading anything; returns milliseconds of processor time."""
        start = time.process_time()
        self.interpreter.invoke()
        return 1e3 * (time.process_time() - start)


def interleaved(runners: Sequence[Runner], pairs: int) -> list[list[float]]:
    """Return milliseconds of runs in turns, whose order changes from round to round.

    Of processor time: with one thread it is the latency on a machine that does nothing else.
    """
    times: list[list[float]] = [[] for _ in runners]
    for i in range(pairs):
        order = range(len(runners)) if i % 2 else reversed(range(len(runners)))
        for k in order:
            times[k].append(runners[k].timed())
    return times


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("feeds")
    parser.add_argument("folder", help="gets the outputs, as 0.npz, 1.npz, ...")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--pairs", type=int, default=25)
    args = parser.parse_args(argv)
    with np.load(args.feeds) as loaded:
        feeds = dict(loaded)
    found: list[Any] = []
    runners: dict[int, Runner] = {}
    for i, path in enumerate(args.files):
        try:
            runners[i] = Runner(path, feeds)
            outputs = runners[i].run()
        except (RuntimeError, ValueError) as error:
            runners.pop(i, None)
            found.append(str(error))
            continue
        found.append(None)
        arrays: dict[str, Any] = {f"output{k}": x for k, x in enumerate(outputs.values())}
        np.savez(os.path.join(args.folder, f"{i}.npz"), names=np.array(list(outputs)), **arrays)
    for i, times in zip(runners, interleaved(list(runners.values()), args.pairs), strict=True):
        found[i] = times
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
