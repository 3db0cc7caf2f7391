"""Whole-process measurement of a command: wall and CPU seconds, peak resident memory.

The measuring process must stay small: `ru_maxrss` of a child starts at the resident size of the
process that spawned it, so this module imports neither numpy nor onnx, and its users should not.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

POLL_SECONDS = 0.01
OUTPUT_TAIL = 400

PEERS: Mapping[str, str] = {
    "onnxsim": (
        "import sys, onnx, onnxsim\n"
        "model, _ = onnxsim.simplify(onnx.load(sys.argv[1]))\n"
        "onnx.save(model, sys.argv[2])"
    ),
    "onnxslim": "import sys, onnxslim; onnxslim.slim(sys.argv[1], sys.argv[2])",
    "onnxoptimizer": (
        "import sys, onnx, onnxoptimizer\n"
        "onnx.save(onnxoptimizer.optimize(onnx.load(sys.argv[1])), sys.argv[2])"
    ),
    "onnxscript": (
        "import sys, onnx, onnxscript.optimizer\n"
        "onnx.save(onnxscript.optimizer.optimize(onnx.load(sys.argv[1])), sys.argv[2])"
    ),
    "onnxruntime": (
        "import sys, onnxruntime as ort\n"
        "options = ort.SessionOptions()\n"
        "options.optimized_model_filepath = sys.argv[2]\n"
        "options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED\n"
        "ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])"
    ),
}
"""What each peer runs; `sys.argv[1]` is the model, `sys.argv[2]` the file to write.

Above 2 GiB a peer that serializes to one protobuf needs external data on the way out as well:
see `EXTERNAL_PEERS`.
"""

EXTERNAL_PEERS: Mapping[str, str] = {
    "onnxsim": (
        "import sys, onnx, onnxsim\n"
        "model, _ = onnxsim.simplify(sys.argv[1])\n"
        "onnx.save(model, sys.argv[2], save_as_external_data=True,\n"
        "          location='out.data', size_threshold=1024)"
    ),
    "onnxslim": (
        "import sys, onnxslim; onnxslim.slim(sys.argv[1], sys.argv[2], save_as_external_data=True)"
    ),
    "onnxscript": (
        "import sys, onnx_ir, onnxscript.optimizer\n"
        "model = onnx_ir.load(sys.argv[1])\n"
        "onnxscript.optimizer.optimize_ir(model)\n"
        "onnx_ir.save(model, sys.argv[2], external_data='out.data')"
    ),
    "onnxruntime-4bit": (
        "import sys, onnx\n"
        "from onnxruntime.quantization import matmul_nbits_quantizer as q\n"
        "how = q.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, bits=4)\n"
        "found = q.MatMulNBitsQuantizer(onnx.load(sys.argv[1]), algo_config=how)\n"
        "found.process()\n"
        "found.model.save_model_to_file(sys.argv[2], True)"
    ),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process.

    Attributes:
        status: exit status; negative for a signal, None when it ran out of time.
        wall: seconds from spawn to exit.
        user: user CPU seconds, waited-for descendants included.
        system: system CPU seconds, waited-for descendants included.
        hwm_mb: `VmHWM` of the process itself as last polled (mapped file pages count).
        maxrss_mb: `ru_maxrss`: the largest of the process, its waited-for descendants and the
            resident size of the measuring process at spawn.
        floor_mb: that resident size; a `maxrss_mb` above it belongs to the command.
        output: the last characters of stdout and stderr.
    """

    status: int | None
    wall: float
    user: float
    system: float
    hwm_mb: float
    maxrss_mb: float
    floor_mb: float
    output: str

    @property
    def ok(self) -> bool:
        """Whether the process exited with status 0."""
        return self.status == 0

    @property
    def peak_mb(self) -> float:
        """The peak resident size in MB: exact where `ru_maxrss` can tell, else as polled."""
        return self.maxrss_mb if self.maxrss_mb > self.floor_mb else self.hwm_mb

    def as_json(self) -> dict[str, object]:
        """The fields and the peak as a JSON-ready dictionary; output only of a failed run."""
        row = {key: _rounded(value) for key, value in asdict(self).items()}
        if self.ok:
            del row["output"]
        return row | {"peak_mb": round(self.peak_mb, 1)}


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def _poll_high_water(pid: int, done: threading.Event, into: list[float]) -> None:
    """Keep the largest `VmHWM` of `pid` in `into[0]` (MB) until `done` is set."""
    status = Path(f"/proc/{pid}/status")
    while True:
        with contextlib.suppress(OSError, IndexError, ValueError):
            kilobytes = int(status.read_text().split("VmHWM:")[1].split()[0])
            into[0] = max(into[0], kilobytes / 1024)
        if done.wait(POLL_SECONDS):
            return


def _wait(
    child: subprocess.Popen[bytes], timeout: float
) -> tuple[int | None, resource.struct_rusage]:
    """Exit status (None after `timeout` seconds) and resource usage of a started child."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    timer = threading.Timer(timeout, expire)
    timer.start()
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:
        expire()
        raise
    finally:
        timer.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    return None if expired.is_set() else child.returncode, usage


def run(
    command: Sequence[str], *, timeout: float = 600.0, env: Mapping[str, str] | None = None
) -> Run:
    """Run `command` to its end and measure it.

    Args:
        command: program and arguments; no shell.
        timeout: seconds after which its whole process group is killed.
        env: variables added to this process's environment.

    Returns:
        The measured run; a command that fails is a result, not an exception.

    Raises:
        OSError: the program cannot be started.
    """
    high_water, done = [0.0], threading.Event()
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        poller = threading.Thread(target=_poll_high_water, args=(child.pid, done, high_water))
        poller.start()
        try:
            status, usage = _wait(child, timeout)
            wall = time.perf_counter() - started
        finally:
            done.set()
            poller.join()
        log.seek(0)
        output = log.read().decode(errors="replace")
    return Run(
        status=status,
        wall=wall,
        user=usage.ru_utime,
        system=usage.ru_stime,
        hwm_mb=high_water[0],
        maxrss_mb=usage.ru_maxrss / 1024,
        floor_mb=floor,
        output=output[-OUTPUT_TAIL:],
    )


def abba(
    first: Sequence[str], second: Sequence[str], *, timeout: float = 600.0
) -> tuple[list[Run], list[Run]]:
    """Run two commands in the order first, second, second, first, which cancels a steady drift."""
    a1, b1, b2, a2 = (run(c, timeout=timeout) for c in (first, second, second, first))
    return [a1, a2], [b1, b2]


def wall_ratio(first: Sequence[Run], second: Sequence[Run]) -> float:
    """Summed wall seconds of `first` over those of `second`."""
    return sum(r.wall for r in first) / sum(r.wall for r in second)


def median(values: Sequence[float]) -> float:
    """The median, or NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def lepton_command() -> list[str]:
    """`lepton-opt` beside this interpreter, else the module run by this interpreter."""
    script = Path(sys.executable).with_name("lepton-opt")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-m", "lepton_ir.tools.lepton_opt"]


def lepton_template(command: str | None, options: str) -> list[str]:
    """The `lepton-opt` invocation with `{in}` and `{out}` for the two files.

    Args:
        command: replaces the program, as one shell-quoted string; None takes `lepton_command`.
        options: shell-quoted options, e.g. `--passes=O2 --check=off`.
    """
    program = shlex.split(command) if command else lepton_command()
    return [*program, *shlex.split(options), "{in}", "-o", "{out}"]


def peer_template(name: str, python: str, scripts: Mapping[str, str] = PEERS) -> list[str]:
    """The command of the peer `name` as run by the interpreter `python`.

    Raises:
        KeyError: no such peer.
    """
    return [python, "-c", scripts[name], "{in}", "{out}"]


def fill(template: Sequence[str], source: Path, target: Path) -> list[str]:
    """Put the two file names into the `{in}` and `{out}` of a command."""
    return [part.replace("{in}", str(source)).replace("{out}", str(target)) for part in template]


def environment() -> dict[str, object]:
    """What a stored result needs to be read later: interpreter, machine, load."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
    }


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Plain text columns: the first flush left, the others flush right."""
    cells = [[str(c) for c in header], *([str(c) for c in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


class Wanted(Protocol):
    """A model of a table: its name there, and the pattern of its file's name."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    @property
    def pattern(self) -> str:
        """Pattern of its file's name."""


M = TypeVar("M", bound=Wanted)


def found_models(
    models: Sequence[M], folders: Sequence[Path], only: Sequence[str]
) -> dict[M, Path]:
    """Return the models that are there, with their files."""
    paths = {}
    for model in models:
        if only and model.name not in only:
            continue
        files = [f for folder in folders for f in sorted(folder.rglob(model.pattern))]
        if files:
            paths[model] = files[0]
        else:
            print(f"{model.name}: no file {model.pattern}", file=sys.stderr)
    return paths
