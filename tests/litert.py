"""Running TFLite files in LiteRT, in a process of its own that an illegal one may end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_CODE = """
import pathlib, sys, traceback
import numpy as np
from lepton_ir.backends.tflite.runner import LiteRtRunner
folder = pathlib.Path(sys.argv[1])
for name in sys.argv[2].split(","):
    try:
        runner = LiteRtRunner(str(folder / f"{name}.tflite"), threads=1)
        found = {}
        for i in range(int(sys.argv[3])):
            feeds = dict(np.load(folder / f"{name}.in{i}.npz"))
            outputs = runner.run(feeds)
            found |= {f"{i}.{k}": v for k, v in enumerate(outputs)}
        np.savez(folder / f"{name}.out.npz", **found)
    except Exception as error:
        (folder / f"{name}.error").write_text(str(error)[:300])
    print(name, flush=True)
"""


def run_files(
    folder: Path, names: Sequence[str], runs: int = 1, timeout: float = 300.0
) -> dict[str, Any]:
    """Run ``NAME.tflite`` on ``NAME.in0.npz`` and so on.

    Returns by name the outputs of each run, or why there are none. A file that ends the
    process costs only itself.
    """
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    waiting = list(names)
    found: dict[str, Any] = {}
    while waiting:
        command = [sys.executable, "-c", _CODE, str(folder), ",".join(waiting), str(runs)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        finished = done.stdout.split()
        for name in finished:
            found[name] = _outcome(folder, name, runs)
        waiting = waiting[len(finished) :]
        if waiting and done.returncode:
            found[waiting.pop(0)] = f"ended the process: {done.returncode}: {done.stderr[-300:]}"
        elif waiting:
            raise AssertionError(done.stderr)
    return found


def _outcome(folder: Path, name: str, runs: int) -> Any:
    error = folder / f"{name}.error"
    if error.exists():
        return error.read_text()
    with np.load(folder / f"{name}.out.npz") as data:
        counts = [sum(k.startswith(f"{i}.") for k in data) for i in range(runs)]
        return [[data[f"{i}.{k}"] for k in range(counts[i])] for i in range(runs)]
