"""The machine's peak in f32, measured by a kernel of our own, and the operations a model needs.

python -m lepton_ir.tools.bench.peak
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_ir import dims
from lepton_ir.backends.numba.codegen.emitter import Emitter, Val
from lepton_ir.backends.numba.codegen.library import Kernel, emits, kernel_function, library
from lepton_ir.backends.numba.machine import machine
from lepton_ir.ir import Op
from lepton_ir.types import TensorType

CHAINS = 12
"""Sums that do not wait for each other: more than latency times units of any machine."""

VERSION = 1
"""To be raised with every change of the emitter, which the key of the cache does not see."""

STEPS = 2_000_000


@emits("bench_fma")
def emit_fma(e: Emitter, version: int) -> None:
    """Multiply and add in registers alone."""
    steps, factors, out = e.args(3)
    place = e.ptr(factors)
    x, y = (e.load(place, e.vec(), offset) for offset in (0, 64))

    def body(_: Val, sums: list[Val]) -> list[Val]:
        return [e.fma(s, x, y) for s in sums]

    sums = e.loop(steps, [e.b.fadd(x, e.const(i, e.vec())) for i in range(CHAINS)], body)
    target = e.ptr(out)
    for i, s in enumerate(sums):
        e.store(s, target, 64 * i)


def peak(name: str = "host", seconds: float = 0.5) -> float:
    """Return the f32 operations a second of one thread: the best of many short runs."""
    target = machine(name)
    run = kernel_function(library(target).address(Kernel("bench_fma", (VERSION,))))
    factors = np.full(32, 0.5, np.float32)
    out = np.empty(16 * CHAINS, np.float32)
    steps = STEPS // 10
    table = np.array([steps, factors.ctypes.data, out.ctypes.data], np.int64)
    best = math.inf
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        run(table.ctypes.data, 0, 1)
        best = min(best, time.perf_counter() - started)
    return 2 * CHAINS * target.lanes * steps / best


def operations(session: Any) -> int:
    """Return the multiplications and additions of the products of a session's last plan."""
    segments = session.segments()
    env = segments[-1].state.env if segments else {}
    return sum(_operations(op, env) for op in session.module.main.walk())


def _operations(op: Op, env: dict[str, int]) -> int:
    """Return twice the multiplications of one operation, 0 where they are no products."""
    if op.name not in ("conv", "conv_transpose", "matmul", "gemm", "lstm", "gru"):
        return 0
    shapes = [_shape(v.type, env) if v is not None else None for v in op.operands[:3]]
    result = _shape(op.results[0].type, env)
    x, w = shapes[:2]
    if x is None or w is None:
        return 0
    if op.name in ("lstm", "gru"):
        recurrent = shapes[2] or (0,)
        return 2 * x[0] * x[1] * (math.prod(w) + math.prod(recurrent))
    if op.name == "conv_transpose":
        return 2 * math.prod(x) * math.prod(w[1:])
    if result is None:
        return 0
    if op.name == "conv":
        return 2 * math.prod(result) * math.prod(w[1:])
    depth = x[0] if op.name == "gemm" and op.attr("transA") else x[-1]
    return 2 * math.prod(result) * depth


def _shape(type_: Any, env: dict[str, int]) -> tuple[int, ...] | None:
    if not isinstance(type_, TensorType) or type_.shape is None or None in type_.shape:
        return None
    try:
        return tuple(dims.evaluate(d, env) for d in type_.shape if d is not None)
    except KeyError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", default="host")
    args = parser.parse_args(argv)
    print(f"{peak(args.target) / 1e9:.1f} GFLOP/s in one thread ({args.target})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
