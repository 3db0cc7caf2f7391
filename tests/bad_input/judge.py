"""Source against result in onnxruntime, each pair in a child with limits."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

MAX_ELEMENTS = 10_000_000
ADDRESS_SPACE = 6 << 30
_NUMPY = {
    "float": "f4",
    "double": "f8",
    "float16": "f2",
    "int8": "i1",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "bool": "?",
}


class Unjudged(Exception):
    """The source cannot be fed."""


def _session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(session: Any, seed: int = 11) -> dict[str, Any]:
    """Seeded inputs for a session, symbols drawn once each.

    Raises:
        Unjudged: An input is too large, or no tensor.
    """
    rng = np.random.default_rng(seed)
    symbols: dict[str, int] = {}
    result: dict[str, Any] = {}
    for arg in session.get_inputs():
        kind = arg.type.removeprefix("tensor(").removesuffix(")")
        dims = [
            d if isinstance(d, int) else symbols.setdefault(d or "?", 2 + len(symbols) % 3)
            for d in arg.shape
        ]
        size = 1
        for dim in dims:
            size *= dim
        if size > MAX_ELEMENTS or any(d < 0 for d in dims):
            raise Unjudged(f"input of shape {dims[:8]}")
        if kind == "string":
            result[arg.name] = np.array([f"Text {i}" for i in range(size)], object).reshape(dims)
        elif kind not in _NUMPY:
            raise Unjudged(f"input of type {arg.type}")
        else:
            draw = rng.standard_normal(dims) * 2
            draw = np.abs(draw) if _NUMPY[kind][0] in "iu" else draw
            result[arg.name] = np.asarray(draw > 0 if kind == "bool" else draw, _NUMPY[kind])
    return result


def difference(want: Any, got: Any, values: bool) -> str:
    """What differs between two outputs, or an empty string."""
    if isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            return f"{len(got)} elements for {len(want)}"
        return next(
            (d for a, b in zip(want, got, strict=True) if (d := difference(a, b, values))), ""
        )
    if want is None or got is None:
        return "" if want is got else f"{got!r:.60} for {want!r:.60}"
    a, b = np.asarray(want), np.asarray(got)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{b.dtype}{list(b.shape)} for {a.dtype}{list(a.shape)}"
    if not values:
        return ""
    if a.dtype.kind in "fc" and a.size:
        with np.errstate(all="ignore"):
            close = np.isclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
        return "" if close.all() else f"values differ: {b[~close][:4]} for {a[~close][:4]}"
    return "" if np.array_equal(a, b) else "values differ"


def _compare(source: Path, result: Path, values: bool, stage: int) -> str:
    os.write(stage, b"source\n")
    before = _session(source)
    inputs = feeds(before)
    want = before.run(None, inputs)
    os.write(stage, b"result\n")
    after = _session(result)
    for side in ("inputs", "outputs"):
        pair = [[arg.name for arg in getattr(s, f"get_{side}")()] for s in (before, after)]
        if pair[0] != pair[1]:
            return f"mismatch: {side} {pair[1]!r:.80} for {pair[0]!r:.80}"
    got = after.run(None, inputs)
    for arg, a, b in zip(before.get_outputs(), want, got, strict=True):
        if text := difference(a, b, values):
            return f"mismatch: {arg.name[:40]!r}: {text}"
    return "equal"


def _child(source: Path, result: Path, values: bool, pipe: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        verdict = _compare(source, result, values, pipe)
    except BaseException as error:
        verdict = f"raised: {type(error).__name__}: {error}"
    os.write(pipe, f"{verdict[:600]}\n".replace("\n", " ").encode(errors="replace") + b"\n")
    os._exit(0)


def compare(source: Path, result: Path, values: bool = True, seconds: float = 20.0) -> str:
    """Run both models on the same inputs.

    Returns:
        `equal`; `mismatch: ...`; `result: ...` when only the result fails; or `source: ...` when
        the source itself does not run, so that nothing can be said.
    """
    import onnxruntime  # noqa: F401 - loaded before the fork, once for all children

    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(source, result, values, writer)
    os.close(writer)
    chunks = []
    with open(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], seconds)[0]:
            if not (chunk := pipe.read(65536)):
                break
            chunks.append(chunk)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    lines = b"".join(chunks).decode(errors="replace").split("\n")
    stages = [line for line in lines if line in ("source", "result")]
    verdict = next((line for line in lines if line and line not in ("source", "result")), "")
    if verdict and not verdict.startswith("raised: "):
        return verdict.strip()
    return f"{stages[-1] if stages else 'source'}: {verdict or f'ended with status {status}'}"
