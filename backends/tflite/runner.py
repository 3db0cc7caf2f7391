"""Running a TFLite file in LiteRT, for the numeric check.

LiteRT trusts what it runs: an illegal model ends the process. Use it in a child only.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from lepton_ir.formats.tflite.reader import read_file


class LiteRtRunner:
    """One interpreter with XNNPACK, as a user would run the file.

    Inputs and outputs go by the names that the file's signature states, in the order of the
    subgraph; where there is none, by those of the tensors.

    Args:
        path: model file.
        threads: threads of the kernels.

    Raises:
        Exception: whatever LiteRT raises for a model it refuses.
    """

    def __init__(self, path: str, threads: int = 0) -> None:
        model = read_file(path)
        signatures = model.signature_defs or ()
        self._interpreter = Interpreter(
            model_path=path, num_threads=threads or min(os.cpu_count() or 1, 2)
        )
        self._allocated = False
        graph = model.subgraphs[0]
        names = [t.name for t in graph.tensors]
        given: list[dict[int, str]] = [{}, {}]
        if signatures and signatures[0].subgraph_index == 0:
            sides = (signatures[0].inputs or (), signatures[0].outputs or ())
            given = [{m.tensor_index: m.name for m in maps} for maps in sides]
        self._inputs, self._outputs = (
            [(known.get(int(i)) or names[i], int(i)) for i in indices]
            for known, indices in zip(given, (graph.inputs, graph.outputs), strict=True)
        )

    def inputs(self) -> list[tuple[str, str, list[Any]]]:
        """Return (name, NumPy dtype name, shape) per input."""
        known = {d["index"]: d for d in self._interpreter.get_input_details()}
        found = []
        for name, index in self._inputs:
            shape = [int(d) for d in known[index]["shape_signature"]]
            sizes = [f"{name}.{i}" if d < 0 else d for i, d in enumerate(shape)]
            found.append((name, np.dtype(known[index]["dtype"]).name, sizes))
        return found

    def outputs(self) -> list[str]:
        """Return output names."""
        return [name for name, _ in self._outputs]

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        """Run; returns all outputs in order."""
        known = {d["index"]: d for d in self._interpreter.get_input_details()}
        given = {index: np.asarray(feeds[name]) for name, index in self._inputs}
        for index, array in given.items():
            if tuple(known[index]["shape"]) != array.shape:
                self._interpreter.resize_tensor_input(index, array.shape)
                self._allocated = False
        if not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True
        for index, array in given.items():
            self._interpreter.set_tensor(index, np.asarray(array, order="C"))
        self._interpreter.invoke()
        made = {d["index"]: d for d in self._interpreter.get_output_details()}
        return [self._read(index, made[index]) for _, index in self._outputs]

    def _read(self, index: int, details: dict[str, Any]) -> Any:
        if 0 in details["shape"]:  # the interpreter gives no such tensor
            return np.zeros(details["shape"], details["dtype"])
        return np.asarray(self._interpreter.get_tensor(index))
