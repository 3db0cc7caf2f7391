"""Rounding that keeps the means of results: biases take what weights lose, a few weights the rest.

``y = W x + b`` with ``W' = W + e`` has the mean ``E[y] + e E[x]``. The bias becomes the 16-bit
number nearest to ``b - e E[x]``. What is left of each result's mean goes to weights that were close
to halfway between two numbers: they take the other one, in order of the noise that this adds for
what it moves the mean, until the least is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.clone import clone_module
from lepton_ir.infer import const_tensor
from lepton_ir.passes.convert.payload import convert_array
from lepton_ir.passes.quant.correct import channel_means, coverage
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.convert.plan import Planner
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.tensors import Tensor

Array = np.ndarray[Any, Any]

LARGEST = 64 << 20
"""Bytes of the largest weight that is corrected; larger ones are converted in pieces."""

BLOCK = 1 << 20
"""Weights that are looked at together."""


FINER = 2
"""Single weights that take what is left of a result's mean."""


def corrections(planner: Planner, feeds: Feeds) -> dict[Value, Tensor]:
    """Return 16-bit forms of the weights and biases of layers to convert."""
    layers = [op for op in planner.plan.ops if op in planner.plan.low and _is_layer(planner, op)]
    if not layers:
        return {}
    made = clone_module(planner.module)
    old, new = planner.module.main, made.main
    moved: dict[Value, Value] = dict(zip(old.inputs, new.inputs, strict=True))
    for a, b in zip(old.block.ops, new.block.ops, strict=True):
        moved.update(zip(a.results, b.results, strict=True))
    inputs = {op: moved[x] for op in layers if (x := op.operands[0]) is not None}
    found: dict[Value, Tensor] = {}
    for op, mean in channel_means(made, inputs, feeds, planner.ctx).items():
        found.update(_corrected(op, mean, planner.plan.dtype))
    return found


def _is_layer(planner: Planner, op: Op) -> bool:
    """Return whether ``op`` is of ``main``'s own block, with a weight that it alone reads."""
    if op.block is not planner.module.main.block or op.name not in ("conv", "gemm", "matmul"):
        return False
    x, weight = op.operands[:2]
    plain = op.name != "gemm" or (op.attr("alpha") == 1 and op.attr("beta") == 1)
    plain = plain and not (op.name == "gemm" and op.attr("transA"))
    if not plain or x is None or not x.rank or weight is None:
        return False
    held = planner.stats(weight)
    tensor = const_tensor(weight)
    return (
        held is not None
        and tensor is not None
        and not held.overflowing
        and tensor.nbytes <= LARGEST
        and weight.use_count == 1
        and (op.name == "conv" or len(tensor.shape) == 2)
    )


def _corrected(op: Op, mean: Array, dtype: DType) -> dict[Value, Tensor]:
    """Return the layer's weight and bias in 16 bits; ``mean`` is of its input's channels."""
    weight = op.operands[1]
    tensor = const_tensor(weight)
    assert weight is not None
    assert tensor is not None
    data = tensor.numpy()
    turned = op.name == "matmul" or (op.name == "gemm" and not op.attr("transB"))
    rows = (data.T if turned else data).reshape(data.shape[1] if turned else data.shape[0], -1)
    means = _means(op, data, mean)
    error = convert_array(rows, dtype).astype(np.float64) - rows
    shift = np.einsum("oi,oi->o", error, np.broadcast_to(means, rows.shape))
    found: dict[Value, Tensor] = {}
    bias = op.operands[2] if len(op.operands) > 2 else None
    held = const_tensor(bias)
    if bias is not None and held is not None and held.size == len(rows):
        plain = held.numpy().reshape(-1).astype(np.float64)
        wanted = plain - shift if bias.use_count == 1 else plain
        rounded = convert_array(wanted.astype(held.dtype.numpy), dtype)
        shift = shift + rounded.astype(np.float64) - plain
        found[bias] = DenseTensor(rounded.reshape(held.shape), dtype)
    if not np.isfinite(shift).all():
        return {}
    codes = np.empty(rows.shape, dtype.numpy)
    step = max(BLOCK // max(rows.shape[1], 1), 1)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        some = means[part] if len(means) > 1 else means
        codes[part] = settled(rows[part], shift[part], some, dtype)
    back = codes.T if turned else codes
    found[weight] = DenseTensor(np.ascontiguousarray(back).reshape(data.shape), dtype)
    return found


def _means(op: Op, data: Array, mean: Array) -> Array:
    """Return what each weight of each result, or of all, is multiplied with on average."""
    if op.name != "conv":
        return mean.reshape(1, -1)
    group = int(op.attr("group"))
    parts = mean.reshape(group, -1)[np.arange(len(data)) // max(len(data) // group, 1)]
    taps = parts.reshape(*parts.shape, *(1,) * (data.ndim - 2)) * coverage(op, data.shape)
    return np.asarray(taps.reshape(len(data), -1))


def settled(rows: Array, shift: Array, means: Array, dtype: DType) -> Array:
    """Round weights so that the means of results come closest to where they were.

    Args:
        rows: weights of one result each.
        shift: how far rounding each to the nearest moves the means.
        means: of what weights are multiplied with, one row for all or one for each.
        dtype: 16-bit type.
    """
    codes = convert_array(rows, dtype)
    shift = shift + _turn(codes, rows, shift, means, _cheapest)
    for _ in range(FINER):
        shift = shift + _turn(codes, rows, shift, means, _closest)
    return codes


def _turn(
    codes: Array,
    rows: Array,
    shift: Array,
    means: Array,
    choose: Callable[[Array, Array, Array], Array],
) -> Array:
    """Give some weights the other of their two numbers; return how far this moves the means."""
    bits = codes.view(np.uint16)
    # Of 16-bit floats of one sign, the next larger magnitude has the next number.
    away = np.abs(codes.astype(np.float64)) > np.abs(rows)
    other = np.where(away, bits - np.uint16(1), bits + np.uint16(1)).astype(np.uint16)
    with np.errstate(all="ignore"):
        error = codes.astype(np.float64) - rows
        moved = other.view(codes.dtype).astype(np.float64) - rows
        effect = (moved - error) * means
        wanted = np.isfinite(effect) & (error != 0) & (effect * shift[:, None] < 0)
        effect = np.where(wanted, effect, 0.0)
        price = (moved**2 - error**2) * (means**2 + np.mean(means**2)) / np.abs(effect)
    turned = choose(shift, effect, np.where(wanted, price, np.inf)) & wanted
    bits[...] = np.where(turned, other, bits)
    return np.asarray(np.where(turned, effect, 0.0).sum(axis=1))


def _cheapest(shift: Array, effect: Array, price: Array) -> Array:
    """Choose as many of each row, in order of their price, as leave the least."""
    order = np.argsort(price, axis=1, kind="stable")
    left = shift[:, None] + np.cumsum(np.take_along_axis(effect, order, 1), axis=1)
    left = np.abs(np.concatenate([shift[:, None], left], axis=1))
    chosen = np.zeros(effect.shape, bool)
    first = np.arange(effect.shape[1])[None, :] < np.argmin(left, axis=1)[:, None]
    np.put_along_axis(chosen, order, first, axis=1)
    return chosen


def _closest(shift: Array, effect: Array, price: Array) -> Array:
    """Choose the one of each row that leaves the least, if it leaves less than there is."""
    del price
    left = np.abs(shift[:, None] + effect)
    best = np.argmin(left, axis=1)[:, None]
    better = np.take_along_axis(left, best, 1) < np.abs(shift)[:, None]
    chosen = np.zeros(effect.shape, bool)
    np.put_along_axis(chosen, best, better, axis=1)
    return chosen
