"""GPTQ: rows of a matrix are rounded one after the other, the rest makes up for the error.

With ``H = sum x^T x`` over the calibration data, the error of a rounded row is spread over the
rows that are not rounded yet, so that ``sum |x W - x W'|^2`` stays small (Frantar et al. 2022).
Rows with the same scale are a block, whose scale is taken when its first row is reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.builder import Builder
from lepton_ir.passes.quant.probe import add_outputs, run_probe

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.nbits import Scheme

Array = np.ndarray[Any, Any]

DAMPING = 0.01
"""Share of the mean diagonal that is added to the Hessian."""

MAX_ROWS = 8192
"""Rows of a matrix beyond which its Hessian is too large."""


def hessians(run: Run, ops: list[Op], feeds: Feeds) -> dict[Value, Array]:
    """Return ``sum x^T x``, f64, for the inputs ``x`` of products, one pass over the data."""
    inputs = list(dict.fromkeys(x for op in ops if (x := op.operands[0]) is not None))
    inputs = [x for x in inputs if x.shape and isinstance(x.shape[-1], int)]
    inputs = [x for x in inputs if x.shape[-1] <= MAX_ROWS]  # type: ignore[index, operator]
    if not inputs:
        return {}
    snapshot = run.snapshot()
    main = snapshot.module.main
    copies = dict(zip(run.module.main.inputs, main.inputs, strict=True))
    build = Builder(main.block, main.block.terminator)
    outputs = []
    for x in inputs:
        assert x.shape is not None
        copy = copies.get(x) or snapshot.values[x]
        flat = build.reshape(copy, build.const(np.array([-1, x.shape[-1]], np.int64)))
        outputs.append(build.matmul(build.transpose(flat, perm=(1, 0)), flat))
    add_outputs(snapshot.module, outputs)
    found: dict[Value, Array] = {}
    for results in run_probe(snapshot.module, feeds, run.ctx, "calibrate"):
        for x, h in zip(inputs, results, strict=True):
            if np.isfinite(h).all():
                found[x] = found[x] + h if x in found else h.astype(np.float64)
    return found


def error_shares(hessian: Array, rows: int) -> Array:
    """Return how the error of a row goes to those behind it: upper triangular, ``rows`` square.

    Rows beyond the Hessian fill up the last block.
    """
    h = np.zeros((rows, rows))
    h[: len(hessian), : len(hessian)] = hessian
    diagonal = np.arange(rows)
    h[diagonal, diagonal] += DAMPING * max(float(np.mean(np.diag(hessian))), 1e-12)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(h)).T)


def spread_errors(w: Array, upper: Array, scheme: Scheme) -> tuple[Array, Array, Array]:
    """Round ``w[K, N]``, whole blocks of rows, as GPTQ does.

    Args:
        w: some columns of a matrix.
        upper: ``error_shares``.
        scheme: how to round.

    Returns:
        Codes ``[blocks, block, N]`` u8, scales and zero points ``[blocks, N]`` f32.
    """
    from lepton_ir.passes.quant.nbits import best_parameters

    k, n = w.shape
    rest = np.asarray(w, np.float64).copy()
    codes = np.empty((k // scheme.block, scheme.block, n), np.uint8)
    scales = np.empty((k // scheme.block, n), np.float32)
    zeros = np.empty_like(scales)
    for b in range(len(codes)):
        start, stop = b * scheme.block, (b + 1) * scheme.block
        scales[b], zeros[b] = (
            p[0] for p in best_parameters(rest[None, start:stop].astype(np.float32), scheme)
        )
        errors = np.empty((scheme.block, n))
        for i in range(start, stop):
            q = np.clip(np.rint(rest[i] / scales[b] + zeros[b]), 0, scheme.top)
            codes[b, i - start] = q
            error = (rest[i] - (q - zeros[b]) * scales[b]) / upper[i, i]
            errors[i - start] = error
            rest[i + 1 : stop] -= np.outer(upper[i, i + 1 : stop], error)
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return codes, scales, zeros
