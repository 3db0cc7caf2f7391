"""Rows of reductions, sorting, and sums by segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.frontends.tflite.table import row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.ir import Value

_REDUCTIONS = {
    "MEAN": "reduce_mean",
    "SUM": "reduce_sum",
    "REDUCE_PROD": "reduce_prod",
    "REDUCE_MAX": "reduce_max",
    "REDUCE_MIN": "reduce_min",
}


@row(*_REDUCTIONS, ir=tuple(_REDUCTIONS.values()))
def _reduce(call: Call) -> Value:
    x = call.real(0)
    if call.ints(1) == ():
        return call.b.identity(x)  # type: ignore[no-any-return]
    op = call.b.build(_REDUCTIONS[call.name], x, _axes(call), keepdims=bool(call.options.keep_dims))
    return op.result


def _axes(call: Call) -> Value:
    """Return the axes; the runtime takes one that is named twice once."""
    known = call.ints(1)
    if known is None or len({a % call.rank(0) for a in known}) == len(known):
        return call.vector(1)
    once = sorted({a % call.rank(0) for a in known})
    found: Value = call.b.const(np.asarray(once, np.int64))
    return found


@row("REDUCE_ANY", "REDUCE_ALL", ir=("cast, reduce_max", "cast, reduce_min"))
def _reduce_bool(call: Call) -> Value:
    x = call.raw(0)
    if call.ints(1) == ():
        return call.b.identity(x)  # type: ignore[no-any-return]
    name = "reduce_max" if call.name == "REDUCE_ANY" else "reduce_min"
    counted = call.b.cast(x, to=dtypes.I32)
    made = call.b.build(name, counted, _axes(call), keepdims=bool(call.options.keep_dims))
    found: Value = call.b.cast(made.result, to=dtypes.BOOL)
    return found


@row("ARG_MAX", "ARG_MIN", ir=("arg_max, cast", "arg_min, cast"), stored=True)
def _arg(call: Call) -> Value:
    axis = call.need_ints(1, "the axis")[0]
    name = call.name.lower()
    made = call.b.build(name, call.raw(0), axis=axis, keepdims=False)
    return call.cast(made.result, call.result().dtype)


@row("TOPK_V2", ir="top_k, cast")
def _top_k(call: Call) -> Sequence[Value]:
    values, indices = call.b.build("top_k", call.real(0), call.vector(1), axis=-1).results
    return [values, call.cast(indices, call.result(1).dtype)]


@row("CUMSUM", ir="cum_sum")
def _cumsum(call: Call) -> Value:
    o = call.options
    axis = call.index(1)
    found: Value = call.b.cum_sum(call.real(0), axis, exclusive=o.exclusive, reverse=o.reverse)
    return found


@row("UNIQUE", ir="unique, cast", stored=True)
def _unique(call: Call) -> Sequence[Value]:
    x = call.raw(0)
    wide = x if x.dtype is None or x.dtype.is_float else call.cast(x, dtypes.I64)
    op = call.b.build("unique", wide, sorted=False, results=3)
    places = call.cast(op.results[2], call.result(1).dtype)
    return [call.cast(op.results[0], x.dtype), places]


_SEGMENTS = {
    "UNSORTED_SEGMENT_SUM": "add",
    "UNSORTED_SEGMENT_PROD": "mul",
    "UNSORTED_SEGMENT_MAX": "max",
    "UNSORTED_SEGMENT_MIN": "min",
}


@row("SEGMENT_SUM", *_SEGMENTS, ir="scatter_nd, slice")
def _segments(call: Call) -> Value:
    """Rows with a negative segment go to one more row, which is cut off."""
    b, x, ids = call.b, call.real(0), call.index(1)
    rank, id_rank = call.rank(0), call.rank(1)
    if x.dtype is None:
        call.opaque("the element type is not known")
    reduction = _SEGMENTS.get(call.name, "add")
    one = b.const(np.ones(1, np.int64))
    if call.name == "SEGMENT_SUM":
        last = b.slice(ids, [-1], [np.iinfo(np.int64).max], [0])
        count = b.add(last, one)
    else:
        count = call.vector(2)
        ids = b.where(b.less(ids, b.const(np.int64(0))), count, ids)
    shape = b.shape(x)
    rest = b.slice(shape, [id_rank], [rank], [0])
    info = np.iinfo if x.dtype.is_integer else np.finfo
    limits = info(x.dtype.numpy)
    start = {"add": 0, "mul": 1, "max": limits.min, "min": limits.max}[reduction]
    initial = b.expand(call.scalar(start, x), b.concat(b.add(count, one), rest, axis=0))
    made = b.scatter_nd(initial, b.unsqueeze(ids, [-1]), x, reduction=reduction)
    found: Value = b.slice(made, [0], count, [0])
    return found
