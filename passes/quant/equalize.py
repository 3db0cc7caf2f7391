"""Cross-layer equalization: channels of different range come to share a scale well.

``W2 f(W1 x + b1) == (W2 S) f(S^-1 (W1 x + b1))`` for ``S`` diagonal and positive, where
``f(s x) = s f(x)``: nothing, ``relu``, ``leaky_relu`` (Nagel et al. 2019). Before ``W2`` may also
stand a layer normalization, whose scale and bias are divided by ``S`` (SmoothQuant, Xiao et al.
2022). A tensor has one scale
for all channels, so its small ones are rounded as coarsely as its largest; ``S`` makes them alike,
and the next weights take it, which have scales of their own. How far to go is chosen for each
tensor, by the noise that activations and weights are expected to add. ``S`` holds powers of two, so
that the float model computes the same numbers bit by bit. Activations that saturate above
(``clip``) are not homogeneous and are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.builder import Builder
from lepton_ir.passes.quant.common import LAYERS, Editor, float_constant, weight_axis
from lepton_ir.passes.quant.parts import DerivedTensor, Parts
from lepton_ir.passes.quant.probe import add_outputs, run_probe

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.quant.common import Run
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.passes.quant.static import Plan
    from lepton_ir.tensors import Tensor

Array = np.ndarray[Any, Any]

NORMS = frozenset({"layer_normalization", "rms_normalization"})
"""Normalizations that scale each channel of their result."""

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the difference between channels that go to the weights; the rest stays."""

WORTH = 0.5
"""Expected noise, as a part of that without equalization, from which on it is done."""

FARTHEST = 20
"""Largest exponent of a factor: numbers stay far from where floats lose bits."""

TINY = 2.0**-60
"""Range of a channel below which it is taken for one of zeros."""


@dataclass
class Link:
    """A tensor whose channels can be scaled.

    Attributes:
        maker: the layer that gives it.
        value: the tensor, with its activation taken in.
        readers: the layers that read it.
        low: least value of each channel over the data, at most 0.
        high: largest value of each channel, at least 0.
        square: mean square of each channel.
    """

    maker: Op
    value: Value
    readers: list[Op]
    low: Array
    high: Array
    square: Array


def equalize_module(run: Run, feeds: Feeds) -> None:
    """Equalize what is going to be quantized, before anything is chosen."""
    from lepton_ir.passes.quant.common import Run as Trial
    from lepton_ir.passes.quant.judge import trial_context
    from lepton_ir.passes.quant.static import make_plan

    # The plan is made again afterwards, and only then counts and explains itself.
    trial = Trial(run.options, run.module, trial_context(run.ctx), run.mode)
    equalize(run, make_plan(trial), feeds)


def equalize(run: Run, plan: Plan, feeds: Feeds) -> None:
    """Scale the channels of planned tensors between layers where that lowers the noise."""
    makers = [op for op in run.module.main.block.ops if op in plan.inputs or op.name in NORMS]
    links = [link for op in makers if (link := _link(plan, op)) is not None]
    if not links:
        return
    _measure(run, links, feeds)
    for link in links:
        scale = _best(run, link)
        if scale is not None and run.ctx.allow("static-equalize", link.maker):
            _apply(link, scale)


def _link(plan: Plan, op: Op) -> Link | None:
    if op.name not in (*LAYERS, *NORMS) or not _own_constants(op):
        return None
    if op.name in NORMS and not _scales_last(op):
        return None
    value = op.results[0]
    if op in plan.outputs:
        (value,) = plan.outputs[op]
    while value.use_count == 1:
        (user,) = value.users
        if user.name not in ("relu", "leaky_relu") or user.block is not op.block:
            break
        value = user.result
    if op.results[0] is not value and op.results[0].use_count != 1:
        return None
    if value is not op.results[0] and value.op is not None and value.op.name == "clip":
        return None
    readers = list(dict.fromkeys(value.users))
    for reader in readers:
        fits = reader in plan.inputs and reader.name in LAYERS and _own_constants(reader)
        if not fits or reader.operands[0] is not value or value in reader.operands[1:]:
            return None
    channels = _weight(op).size if op.name in NORMS else _rows(op).shape[0]
    if not readers or any(_columns(r, channels) is None for r in readers):
        return None
    zeros = np.zeros(channels)
    return Link(op, value, readers, zeros, zeros.copy(), zeros.copy())


def _scales_last(op: Op) -> bool:
    """Return whether a normalization scales the channels of its last axis."""
    rank = op.operands[0].rank if op.operands[0] is not None else None
    return rank is not None and op.attr("axis") in (-1, rank - 1) and _weight(op).ndim == 1


def _own_constants(op: Op) -> bool:
    """Return whether weight and bias are constants, and nothing else reads the weight.

    Vectors that others read too are written again, scaled; they are small.
    """
    weight = op.operands[1]
    alone = op.name in NORMS or (weight is not None and weight.use_count == 1)
    held = (i for i in range(1, len(op.operands)) if op.operands[i] is not None)
    return alone and all(float_constant(op, i) is not None for i in held)


def _weight(op: Op) -> Array:
    tensor = float_constant(op, 1)
    assert tensor is not None
    return tensor.numpy()


def _rows(op: Op) -> Array:
    """Return the weights of each output channel, magnitudes, ``[out, everything else]``."""
    data = np.abs(_weight(op))
    return np.moveaxis(data, weight_axis(op), 0).reshape(data.shape[weight_axis(op)], -1)


def _columns(op: Op, channels: int) -> Array | None:
    """Return magnitudes ``[group, out of a group, in of a group, taps]`` of a weight.

    ``None`` if its input does not have that many channels.
    """
    data = np.abs(_weight(op))
    if op.name != "conv":
        data = data if op.attrs.get("transB") else data.T
        return data[None, :, :, None] if data.shape[1] == channels else None
    group = int(op.attr("group"))
    if group * data.shape[1] != channels or data.shape[0] % group:
        return None
    return data.reshape(group, data.shape[0] // group, data.shape[1], -1)


# -- measuring -----------------------------------------------------------------------------------


def _measure(run: Run, links: list[Link], feeds: Feeds) -> None:
    """Find the range and the mean square of each channel, in one pass over the data."""
    snapshot = run.snapshot()
    main = snapshot.module.main
    build = Builder(main.block, main.block.terminator)
    outputs: list[Value] = []
    for link in links:
        x = snapshot.values[link.value]
        channel = 1 if link.maker.name == "conv" else (x.rank or 2) - 1
        axes = build.const(np.array([i for i in range(x.rank or 2) if i != channel], np.int64))
        outputs += [
            _flat(build, build.reduce_min(x, axes, keepdims=False)),
            _flat(build, build.reduce_max(x, axes, keepdims=False)),
            _flat(build, build.reduce_mean(build.mul(x, x), axes, keepdims=False)),
        ]
    add_outputs(snapshot.module, outputs)
    seen = [0] * len(links)
    for results in run_probe(snapshot.module, feeds, run.ctx, "calibrate"):
        for i, link in enumerate(links):
            low, high, square = (np.asarray(r, np.float64) for r in results[3 * i : 3 * i + 3])
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                continue
            seen[i] += 1
            link.low, link.high = np.minimum(link.low, low), np.maximum(link.high, high)
            link.square += (square - link.square) / seen[i]


def _flat(build: Builder, x: Value) -> Value:
    y: Value = build.reshape(x, build.const(np.array([-1], np.int64)))
    return y


# -- choosing ------------------------------------------------------------------------------------


def _best(run: Run, link: Link) -> Array | None:
    """Return the factors with the least expected noise, ``None`` to leave them alone."""
    reach = np.maximum(-link.low, link.high)
    live = (reach > TINY) & np.isfinite(link.square)
    if not live.any():
        return None
    columns = [c for r in link.readers if (c := _columns(r, reach.size)) is not None]
    size = np.maximum.reduce([c.max((1, 3)).reshape(-1) for c in columns])
    live &= size > TINY
    best, found = WORTH * _noise(run, link, columns, np.ones_like(reach)), None
    if not live.any() or not np.isfinite(best):
        return None
    for share in SHARES:
        with np.errstate(divide="ignore"):
            s = share * np.log2(reach) - (1 - share) * np.log2(size)
        s = np.where(live, s, s[live].max())
        s -= s.max() if share == 1 else np.median(s)
        scale = np.exp2(np.rint(np.clip(s, -FARTHEST, FARTHEST)))
        noise = _noise(run, link, columns, scale)
        if noise < best:
            best, found = noise, scale
    return found


def _noise(run: Run, link: Link, columns: list[Array], scale: Array) -> float:
    """Return the noise that is expected behind the readers, with channels divided by ``scale``.

    A step ``d`` adds ``d^2 / 12`` to each element that is rounded, but no more than it holds.
    Weights of the maker count only where they have one scale; what its input is like follows from
    its result.
    """
    step = float((link.high / scale).max() - (link.low / scale).min()) / 255
    square = link.square / scale**2
    added = np.minimum(step**2, 12 * square)
    if not run.per_channel and link.maker.name in LAYERS:
        rows = _rows(link.maker) / scale[:, None]
        power = float(square.sum() / max(np.square(rows).sum(), 1e-60))
        added += (rows.max() / 127) ** 2 * rows.shape[1] * power
    total = 0.0
    for data in columns:
        group, _, inner, taps = data.shape
        wide = data * scale.reshape(group, 1, inner, 1)
        total += float((np.square(wide).sum((1, 3)) * added.reshape(group, inner)).sum())
        top = wide.max((2, 3)) if run.per_channel else np.full(data.shape[:2], wide.max())
        power = square.reshape(group, inner).sum(1) * taps
        total += float((np.square(top / 127).sum(1) * power).sum())
    return total


# -- rewriting -----------------------------------------------------------------------------------


def _apply(link: Link, scale: Array) -> None:
    """Divide the maker's channels by ``scale``, and multiply the readers' columns with it."""
    maker = link.maker
    # The tensors are no longer those of the source, so they do not keep their names.
    for value in (maker.results[0], link.value):
        value.name = None
    axis = weight_axis(maker) if maker.name in LAYERS else 0
    factors, rank = np.asarray(scale, np.float32), _weight(maker).ndim
    _replace(maker, 1, 1 / factors.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1)))
    if len(maker.operands) > 2 and maker.operands[2] is not None:
        bias = float_constant(maker, 2)
        _replace(maker, 2, 1 / factors.reshape(bias.shape if bias is not None else (-1,)))
    for reader in link.readers:
        data = _weight(reader)
        if reader.name != "conv":
            shape: tuple[int, ...] = (1, -1) if reader.attrs.get("transB") else (-1, 1)
            _replace(reader, 1, factors.reshape(shape))
            continue
        group = int(reader.attr("group"))
        rows = np.repeat(factors.reshape(group, 1, -1), data.shape[0] // group, 1)
        _replace(reader, 1, rows.reshape(data.shape[:2] + (1,) * (data.ndim - 2)))


def _replace(op: Op, index: int, factor: Array) -> None:
    """Multiply a constant operand; it is computed again whenever it is read."""
    source, tensor = op.operands[index], float_constant(op, index)
    assert source is not None
    assert tensor is not None
    made = _scaled(tensor, factor)
    edit = Editor(op, "static-equalize").at_value(source)
    value = edit.const(made)
    value.name, value.meta = source.name, source.meta
    op.set_operand(index, value)
    if source.first_use is None and source.op is not None:
        source.op.erase()


def _scaled(tensor: Tensor, factor: Array) -> Tensor:
    parts = Parts(tensor, None, factor)
    return DerivedTensor(lambda: (data for *_, data in parts), tensor.dtype, tensor.shape)
