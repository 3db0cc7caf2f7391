"""Adaptive rounding: each weight goes up or down so that a layer's results come out right.

Rounding all to the nearest is best for the weights, not for ``W x``. With ``H = E[x x^T]`` over the
calibration data, the squared error of a row of results is ``d H d^T`` for the row's rounding errors
``d``, each of which is one of two: the binary problem of Nagel et al. 2020 (AdaRound). It is solved
by coordinate descent, which starts from the nearest, changes one rounding of each row at a time
where that lowers the error, and so can only win. Inputs are taken from the float model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.passes.quant.calibrate import groups
from lepton_ir.passes.quant.common import LAYERS, float_constant, weight_axis
from lepton_ir.passes.quant.numbers import Weight, decibels, spread
from lepton_ir.passes.quant.probe import add_outputs, run_probe
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.static import Plan

Array = np.ndarray[Any, Any]

MAX_TAPS = 4608
"""Weights of one result beyond which the matrix of a layer is too large (85 MB)."""

POSITIONS = 4096
"""Columns of one sample's input that are looked at, evenly spread."""

SWEEPS = 3
"""Times that every weight is looked at."""

PIECE = 128
"""Weights of a row after whose decisions the rest is brought up to date."""

DAMPING = 1e-3
"""Share of the mean diagonal that is added to it."""


def adapt(run: Run, plan: Plan, feeds: Feeds) -> dict[Op, Weight]:
    """Return adaptively rounded weights of planned layers; the others stay at the nearest."""
    layers = [op for op in plan.ops if _fits(run, op)]
    found: dict[Op, Weight] = {}
    inputs = dict.fromkeys(x for op in layers if (x := op.operands[0]) is not None)
    for group in groups(list(inputs)):
        chosen = [op for op in layers if op.operands[0] in group]
        for op, gram in _grams(run, chosen, group, feeds).items():
            source = op.operands[1]
            assert source is not None
            forced = run.merges and op.name == "conv"
            weight = run.weight(source, run.axis(op), forced=forced)
            if weight is not None and np.isfinite(gram).all():
                found[op] = rounded(op, weight, gram, run.limit)
    return found


def _fits(run: Run, op: Op) -> bool:
    source, tensor = op.operands[1] if op.name in LAYERS else None, float_constant(op, 1)
    if source is None or tensor is None or source.use_count != 1:
        return False
    taps = tensor.size // max(tensor.shape[weight_axis(op)], 1)
    if taps > MAX_TAPS:
        run.ctx.remark("missed", op, "rounded to the nearest: {} weights a result", taps)
    plain = op.name != "conv" or str(op.attr("auto_pad")) in ("NOTSET", "VALID")
    return taps <= MAX_TAPS and plain


def _grams(run: Run, layers: list[Op], values: list[Value], feeds: Feeds) -> dict[Op, Array]:
    """Return ``E[x x^T]`` of each layer's inputs, ``[group, taps, taps]``."""
    snapshot = run.snapshot()
    inputs = dict(zip(run.module.main.inputs, snapshot.module.main.inputs, strict=True))
    add_outputs(snapshot.module, [inputs.get(v) or snapshot.values[v] for v in values])
    found: dict[Op, Array] = {}
    count: dict[Op, int] = dict.fromkeys(layers, 0)
    for results in run_probe(snapshot.module, feeds, run.ctx, "calibrate"):
        held = dict(zip(values, results, strict=True))
        for op in layers:
            x = held[op.operands[0]]  # type: ignore[index]
            columns = _columns(op, np.asarray(x, np.float32))
            if not columns.size:
                continue
            gram = columns.transpose(0, 2, 1) @ columns
            found[op] = found[op] + gram if op in found else gram
            count[op] += columns.shape[1]
    return {op: gram / count[op] for op, gram in found.items()}


def _columns(op: Op, x: Array) -> Array:
    """Return what is multiplied with a row of the weight, ``[group, positions, taps]``."""
    if op.name != "conv":
        flat = x.reshape(-1, x.shape[-1])
        return flat[None, _some(len(flat))]
    tensor = float_constant(op, 1)
    assert tensor is not None
    spatial = tensor.shape[2:]
    rank = len(spatial)
    ones, zeros = [1] * rank, [0] * 2 * rank
    pads = list(op.attrs.get("pads") or zeros)
    strides = list(op.attrs.get("strides") or ones)
    dilations = list(op.attrs.get("dilations") or ones)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = tuple((k - 1) * d + 1 for k, d in zip(spatial, dilations, strict=True))
    if any(n < r for n, r in zip(x.shape[2:], reach, strict=True)):
        return np.empty((1, 0, 0), np.float32)
    axes = tuple(range(2, 2 + rank))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    steps = tuple(slice(None, None, s) for s in strides)
    dense = tuple(slice(None, None, d) for d in dilations)
    view = view[(slice(None), slice(None), *steps, *dense)]
    group = int(op.attr("group"))
    # [N, C, positions..., taps...] -> [group, N * positions, C / group * taps]
    n, places = view.shape[0], view.shape[2 : 2 + rank]
    at = np.unravel_index(_some(n * int(np.prod(places))), (n, *places))
    picked = np.moveaxis(view, 1, 1 + rank)[at]  # [positions, C, taps...]
    return np.ascontiguousarray(picked.reshape(len(at[0]), group, -1).transpose(1, 0, 2))


def _some(count: int) -> Array:
    """Return indices, evenly spread, of at most ``POSITIONS`` of ``count`` places."""
    if count <= POSITIONS:
        return np.arange(count)
    return np.linspace(0, count - 1, POSITIONS).astype(np.int64)


def rounded(op: Op, weight: Weight, gram: Array, limit: int) -> Weight:
    """Return the weight with the roundings that coordinate descent finds.

    Args:
        op: the layer.
        weight: its weight, rounded to the nearest.
        gram: what ``_grams`` gives for it.
        limit: largest code.
    """
    tensor = float_constant(op, 1)
    assert tensor is not None
    data, axis = tensor.numpy(), weight_axis(op)
    wide = np.broadcast_to(spread(weight.scale, weight.axis, data.ndim), data.shape)
    shape = np.moveaxis(data, axis, 0).shape
    groups_, taps = gram.shape[0], gram.shape[1]

    def rows(x: Array) -> Array:
        return np.ascontiguousarray(
            np.moveaxis(x, axis, 0).reshape(groups_, shape[0] // groups_, taps), np.float32
        )

    w, s, q = rows(data), rows(wide), rows(weight.tensor.numpy())
    for g in range(groups_):
        q[g] = descend(w[g], s[g], q[g], gram[g].astype(np.float32), limit)
    codes = np.moveaxis(q.reshape(shape), 0, axis).astype(np.int8)
    codes = np.ascontiguousarray(codes)
    error = data.astype(np.float64) - codes * wide
    ratio = decibels(float(np.square(data, dtype=np.float64).sum()), float(np.square(error).sum()))
    return Weight(DenseTensor(codes, dtypes.I8), weight.scale, weight.axis, ratio)


def descend(w: Array, s: Array, q: Array, gram: Array, limit: int) -> Array:
    """Return codes ``[rows, taps]`` near ``w / s`` with a small ``sum d gram d^T``."""
    exact = w / s
    low = np.clip(np.floor(exact), -limit, limit)
    high = np.clip(low + 1, -limit, limit)
    taps = gram.shape[0]
    diagonal = np.arange(taps)
    gram[diagonal, diagonal] += DAMPING * float(np.mean(np.diag(gram)))
    curve = np.diag(gram)
    for _ in range(SWEEPS):
        slope = (q * s - w) @ gram  # half of the derivative by each error
        moved = False
        for start in range(0, taps, PIECE):
            stop = min(start + PIECE, taps)
            steps = np.zeros((len(w), stop - start), np.float32)
            local = slope[:, start:stop].copy()
            for k in range(start, stop):
                other = np.where(q[:, k] == low[:, k], high[:, k], low[:, k])
                step = (other - q[:, k]) * s[:, k]
                gain = step * (2 * local[:, k - start] + step * curve[k])
                step = np.where(gain < 0, step, np.float32(0))
                if not step.any():
                    continue
                q[:, k] = np.where(step != 0, other, q[:, k])
                steps[:, k - start] = step
                local += np.outer(step, gram[k, start:stop])
            if steps.any():
                moved = True
                slope += steps @ gram[start:stop]
        if not moved:
            break
    return q
