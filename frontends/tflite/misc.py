"""Rows of random numbers, and of paddings between elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.frontends.tflite.table import row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.ir import Value

_RANDOM = {"RANDOM_UNIFORM": "random_uniform", "RANDOM_STANDARD_NORMAL": "random_normal"}


@row(*_RANDOM, ir=tuple(_RANDOM.values()))
def _random(call: Call) -> Value:
    name, o = _RANDOM[call.name], call.options
    how: dict[str, Any] = {"seed": float(o.seed or o.seed2)} if o.seed or o.seed2 else {}
    shape = call.ints(0)
    if shape is not None:
        return call.b.build(name, shape=shape, dtype=dtypes.F32, **how).result
    like = call.b.expand(call.b.const(np.float32(0)), call.vector(0))
    return call.b.build(f"{name}_like", like, **how).result


@row("MULTINOMIAL", ir="multinomial")
def _multinomial(call: Call) -> Value:
    count = call.need_ints(1, "the number of samples")[0]
    dtype = call.result().dtype
    if dtype not in (dtypes.I32, dtypes.I64):
        call.opaque(f"its results are {dtype}")
    return call.b.build("multinomial", call.real(0), sample_size=count, dtype=dtype).result


def _spread(call: Call, x: Value, steps: Sequence[int], value: Value) -> Value:
    """Put ``steps - 1`` elements of ``value`` between neighbours along each axis."""
    b = call.b
    for axis, step in enumerate(steps):
        size = (x.shape or ())[axis] if x.shape is not None else None
        if step == 1:
            continue
        if not isinstance(size, int) or x.shape is None or not size:
            call.opaque("the shape of what is spread is not known")
        split = b.unsqueeze(x, [axis + 1])
        ends = [0] * (2 * split.rank)
        ends[split.rank + axis + 1] = step - 1
        wide = b.pad(split, ends, value)
        shape = [d if isinstance(d, int) else None for d in x.shape]
        if any(d is None for d in shape):
            call.opaque("the shape of what is spread is not known")
        shape[axis] = size * step
        x = b.slice(b.reshape(wide, shape), [0], [(size - 1) * step + 1], [axis])
    return x


def _scalar(call: Call, index: int) -> Value:
    value = call.real(index)
    if value.rank == 0:
        return value
    found: Value = call.b.reshape(value, call.b.const(np.zeros(0, np.int64)))
    return found


@row("DILATE", ir="unsqueeze, pad, reshape, slice")
def _dilate(call: Call) -> Value:
    steps = call.need_ints(1, "the distances")
    if min(steps, default=1) < 1 or len(steps) != call.rank(0):
        call.opaque(f"the distances are {steps}")
    return _spread(call, call.real(0), steps, _scalar(call, 2))


@row("STABLEHLO_PAD", ir="unsqueeze, pad, reshape, slice")
def _stablehlo_pad(call: Call) -> Value:
    o, rank = call.options, call.rank(0)
    fields = (o.edge_padding_low, o.edge_padding_high, o.interior_padding)
    low, high, between = ([0] * rank if f is None else [int(v) for v in f] for f in fields)
    if min(between, default=0) < 0 or {len(low), len(high), len(between)} != {rank}:
        call.opaque("the paddings do not fit")
    value = _scalar(call, 1)
    x = _spread(call, call.real(0), [n + 1 for n in between], value)
    if not any((*low, *high)):
        return x
    found: Value = call.b.pad(x, [*low, *high], value)
    return found
