"""Rows of the operations that move elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.backends.tflite.graph import enum, type_number
from lepton_ir.backends.tflite.ranges import never_negative
from lepton_ir.backends.tflite.row import Row, constant_ints, plain
from lepton_ir.infer import const_array, const_tensor, content_of

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.ir import Op, Value

_INT_MAX, _INT_MIN = np.iinfo(np.int32).max, np.iinfo(np.int32).min


def _reshape(g: Graph, op: Op) -> None:
    x, shape = op.operands
    assert shape is not None
    wanted = op.results[0].shape
    assert wanted is not None
    assert x is not None
    if not wanted:
        rank = x.rank or 0
        g.add("SQUEEZE", [g.value(x)], [g.result(op)], squeeze_dims=list(range(rank)))
    elif sum(not isinstance(d, int) for d in wanted) <= 1 and 0 not in wanted:
        sizes = [d if isinstance(d, int) else -1 for d in wanted]
        g.add("RESHAPE", [g.value(x), g.ints(sizes)], [g.result(op)], new_shape=sizes)
    elif all(isinstance(d, int) for d in wanted):
        static = [int(d) for d in wanted]  # type: ignore[arg-type]
        g.add("RESHAPE", [g.value(x), g.ints(static)], [g.result(op)], new_shape=static)
    else:
        g.add("RESHAPE", [g.value(x), g.narrow(shape)], [g.result(op)])


def _reshape_fits(op: Op) -> str:
    wanted, x = op.results[0].shape, op.operands[0]
    assert wanted is not None
    assert x is not None
    if not wanted and not x.rank:
        return "a scalar stays one"
    if sum(not isinstance(d, int) for d in wanted) <= (0 if 0 in wanted else 1):
        return ""
    sizes = content_of(op.operands[1])
    known = None if sizes is None else [d for d in sizes if isinstance(d, int)]
    if not op.attr("allowzero") and (known is None or 0 in known):
        return "RESHAPE cannot keep a size of x where the new shape says 0"
    return ""


def _squeeze(g: Graph, op: Op) -> None:
    x = op.operands[0]
    axes = constant_ints(op.operands[1]) if len(op.operands) > 1 else None
    assert x is not None
    assert x.shape is not None
    rank = len(x.shape)
    chosen = [i for i, d in enumerate(x.shape) if d == 1] if axes is None else axes
    dims = sorted(a % rank for a in chosen)
    g.add("SQUEEZE", [g.value(x)], [g.result(op)], squeeze_dims=dims)


def _squeeze_fits(op: Op) -> str:
    if len(op.operands) > 1 and op.operands[1] is not None:
        return "" if constant_ints(op.operands[1]) else "the axes are not constants"
    x = op.operands[0]
    assert x is not None
    assert x.shape is not None
    if not all(isinstance(d, int) for d in x.shape):
        return "which axes go is not known"
    return "" if 1 in x.shape else "no axis goes"


def _unsqueeze(g: Graph, op: Op) -> None:
    assert op.operands[1] is not None
    axes = constant_ints(op.operands[1])
    chosen = g.ints(axes[0]) if axes else g.narrow(op.operands[1])
    g.add("EXPAND_DIMS", [g.value(op.operands[0]), chosen], [g.result(op)])


def _unsqueeze_fits(op: Op) -> str:
    assert op.operands[1] is not None
    one = op.operands[1].shape in ((), (1,))
    return "" if one else "EXPAND_DIMS adds one axis"


def _transpose(g: Graph, op: Op) -> None:
    x = op.operands[0]
    assert x is not None
    rank = x.rank or 0
    perm = op.attr("perm") or tuple(reversed(range(rank)))
    g.add("TRANSPOSE", [g.value(x), g.ints(perm)], [g.result(op)])


def _concat(g: Graph, op: Op) -> None:
    axis = op.attr("axis") % max(op.results[0].rank or 1, 1)
    g.add("CONCATENATION", [g.value(v) for v in op.operands], [g.result(op)], axis=axis)


def _split(g: Graph, op: Op) -> None:
    x = op.operands[0]
    assert x is not None
    axis = op.attr("axis") % max(x.rank or 1, 1)
    sizes = [(r.shape or ())[axis] for r in op.results]
    outputs = [g.result(op, i) for i in range(len(op.results))]
    if all(isinstance(s, int) for s in sizes):
        parts = g.ints([int(s) for s in sizes])
    else:
        assert op.operands[1] is not None
        parts = g.narrow(op.operands[1])
    inputs = [g.value(x), parts, g.ints(axis)]
    g.add("SPLIT_V", inputs, outputs, num_splits=len(outputs))


def _split_fits(op: Op) -> str:
    x = op.operands[0]
    assert x is not None
    axis = op.attr("axis") % max(x.rank or 1, 1)
    static = all(isinstance((r.shape or ())[axis], int) for r in op.results)
    given = len(op.operands) > 1 and op.operands[1] is not None
    return "" if static or given else "the sizes of the parts are not known"


def _bounds(start: int, stop: int, step: int, size: int) -> tuple[int, int]:
    """Return where a slice begins and ends, as ONNX clamps them: not quite as Python does."""
    start += size if start < 0 else 0
    stop += size if stop < 0 else 0
    if step > 0:
        low, high = min(max(start, 0), size), min(max(stop, 0), size)
        return (low, high) if low < high else (0, 0)
    low, high = min(max(start, 0), size - 1), min(max(stop, -1), size - 1)
    return (low, high) if low > high else (0, 0)


def _slice_plan(op: Op) -> tuple[list[int], list[int], list[int], int] | None:
    """Return begins, ends and steps by axis, and the mask of ends that lie behind the border."""
    x = op.operands[0]
    assert x is not None
    rank = x.rank or 0
    given = [constant_ints(v) for v in op.operands[1:]]
    if any(g is None for g in given[:2]) or any(
        v is not None and g is None for v, g in zip(op.operands[1:], given, strict=True)
    ):
        return None
    starts, ends = given[0] or [], given[1] or []
    axes = (given[2] if len(given) > 2 else None) or list(range(len(starts)))
    steps = (given[3] if len(given) > 3 else None) or [1] * len(starts)
    begin, end, stride, mask = [0] * rank, [0] * rank, [1] * rank, (1 << rank) - 1
    shape = x.shape or ()
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= rank
        size = shape[axis]
        begin[axis] = max(min(start, _INT_MAX), _INT_MIN)
        end[axis] = max(min(stop, _INT_MAX), _INT_MIN)
        stride[axis] = max(min(step, _INT_MAX), _INT_MIN)
        mask &= ~(1 << axis)
        if isinstance(size, int):
            low, high = _bounds(start, stop, step, size)
            begin[axis], end[axis] = low, high
            if low == high:  # XNNPACK takes a length of 0 for all there is, but no step backwards
                stride[axis] = -1
            if step < 0 and high < 0:
                end[axis], mask = 0, mask | 1 << axis
        elif step < 0 and (stop <= _INT_MIN):
            mask |= 1 << axis
    return begin, end, stride, mask


def _slice(g: Graph, op: Op) -> None:
    plan = _slice_plan(op)
    if plan is None:
        _dynamic_slice(g, op)
        return
    begin, end, stride, mask = plan
    inputs = [g.value(op.operands[0]), g.ints(begin), g.ints(end), g.ints(stride)]
    shrunk = g.shrunk(op)
    if shrunk:
        g.add("STRIDED_SLICE", inputs, [g.result(op)], end_mask=mask, shrink_axis_mask=shrunk)
    else:
        g.add("STRIDED_SLICE", inputs, [g.result(op)], end_mask=mask)


def _dynamic_slice(g: Graph, op: Op) -> None:
    """Put together bounds that are not constants, axis by axis."""
    x, starts, ends = op.operands[:3]
    assert x is not None
    assert starts is not None
    assert ends is not None
    rank = x.rank or 0
    axes = [a % rank for a in _slice_axes(op) or ()]
    steps = op.operands[4] if len(op.operands) > 4 else None
    mask = (1 << rank) - 1
    for axis in axes:
        mask &= ~(1 << axis)
    begin = _by_axis(g, starts, axes, rank, 0)
    end = _by_axis(g, ends, axes, rank, 0)
    stride = g.ints([1] * rank) if steps is None else _by_axis(g, steps, axes, rank, 1)
    g.add("STRIDED_SLICE", [g.value(x), begin, end, stride], [g.result(op)], end_mask=mask)


def _slice_axes(op: Op) -> list[int] | None:
    axes = op.operands[3] if len(op.operands) > 3 else None
    if axes is not None:
        return constant_ints(axes)
    starts = op.operands[1]
    count = None if starts is None or not starts.shape else starts.shape[0]
    return list(range(count)) if isinstance(count, int) else None


def _by_axis(g: Graph, value: Value, axes: list[int], rank: int, rest: int) -> int:
    """Return a vector with an element for each axis of x from one for the axes that are cut."""
    vector = g.narrow(value, clamped=True)
    if axes == list(range(rank)):
        return vector
    parts = []
    for axis in range(rank):
        if axis not in axes:
            parts.append(g.ints([rest]))
            continue
        at = axes.index(axis)
        part = g.temporary(dtypes.I32, (1,), "bound")
        g.add("STRIDED_SLICE", [vector, g.ints([at]), g.ints([at + 1]), g.ints([1])], [part])
        parts.append(part)
    made = g.temporary(dtypes.I32, (rank,), "bounds")
    g.add("CONCATENATION", parts, [made], axis=0)
    return made


def _slice_fits(op: Op) -> str:
    if _slice_plan(op) is not None:
        return ""
    axes = _slice_axes(op)
    if axes is None:
        return "the axes are not constants"
    if len(set(axes)) < len(axes):
        return "an axis is cut twice"
    steps = op.operands[4] if len(op.operands) > 4 else None
    known = None if steps is None else constant_ints(steps)
    forward = steps is None or (known is not None and all(s > 0 for s in known))
    return "" if forward else "steps backwards between bounds that are not constants"


def _pad(g: Graph, op: Op) -> None:
    x = op.operands[0]
    assert x is not None
    pairs = _pad_pairs(g, op.operands[1], x.rank or 0)
    if op.attr("mode") == "reflect":
        mode = enum("MirrorPadMode", "REFLECT")
        g.add("MIRROR_PAD", [g.value(x), pairs], [g.result(op)], mode=mode)
        return
    value = op.operands[2] if len(op.operands) > 2 else None
    known = None if value is None else const_array(value)
    if value is None or (known is not None and not known.any()):
        g.add("PAD", [g.value(x), pairs], [g.result(op)])
    else:
        g.add("PADV2", [g.value(x), pairs, g.value(value)], [g.result(op)])


def _pad_pairs(g: Graph, pads: Value | None, rank: int) -> int:
    """Return the pads as pairs, one for each axis."""
    assert pads is not None
    known = constant_ints(pads)
    if known is not None:
        return g.array(np.asarray(known, np.int32).reshape(2, rank).T.copy())
    rows = g.temporary(dtypes.I32, (2, rank), "pads")
    pairs = g.temporary(dtypes.I32, (rank, 2), "pads")
    g.add("RESHAPE", [g.narrow(pads), g.ints([2, rank])], [rows], new_shape=[2, rank])
    g.add("TRANSPOSE", [rows, g.ints([1, 0])], [pairs])
    return pairs


def _pad_kind(op: Op) -> str:
    return "MIRROR_PAD" if op.attr("mode") == "reflect" else "PADV2"


def _pad_fits(op: Op) -> str:
    if op.attr("mode") not in ("constant", "reflect"):
        return f"no operator pads in mode {op.attr('mode')}"
    if len(op.operands) > 3 and op.operands[3] is not None:
        return "the axes are an operand"
    pads = constant_ints(op.operands[1])
    if pads is None:
        return "" if op.attr("mode") == "constant" else "the pads are not constants"
    if min(pads, default=0) < 0:
        return "a pad is negative"
    x = op.operands[0]
    assert x is not None
    if op.attr("mode") == "reflect":
        sizes = [*(x.shape or ())] * 2
        for p, d in zip(pads, sizes, strict=True):
            if p and (d is None or dims.prove_ge(d, p + 1) is not True):
                return "a pad may be larger than what it reflects"
    return ""


def _tile(g: Graph, op: Op) -> None:
    x, repeats = op.operands
    assert repeats is not None
    g.add("TILE", [g.value(x), g.narrow(repeats)], [g.result(op)])


def _expand(g: Graph, op: Op) -> None:
    shape = op.results[0].shape
    assert shape is not None
    assert op.operands[1] is not None
    static = [d for d in shape if isinstance(d, int)]
    sizes = g.ints(static) if len(static) == len(shape) else g.narrow(op.operands[1])
    g.add("BROADCAST_TO", [g.value(op.operands[0]), sizes], [g.result(op)])


def _expand_fits(op: Op) -> str:
    """A size of 1 in the shape keeps that of x, which BROADCAST_TO refuses."""
    shape = op.results[0].shape
    assert shape is not None
    if all(isinstance(d, int) for d in shape):
        return ""
    wanted = content_of(op.operands[1])
    if wanted is not None and len(wanted) == len(shape) and wanted == shape:
        return ""
    return "the shape may keep sizes of x"


def _constant_of_shape(g: Graph, op: Op) -> None:
    payload = op.attr("value")
    dtype = op.results[0].dtype
    assert dtype is not None
    number = np.zeros((), dtype.numpy) if payload is None else payload.numpy().reshape(())
    assert op.operands[0] is not None
    g.add("FILL", [g.narrow(op.operands[0]), g.array(number)], [g.result(op)])


def _constant_of_shape_fits(op: Op) -> str:
    dtype = op.results[0].dtype
    assert dtype is not None
    known = ("f32", "f16", "i32", "i64", "i8", "i16", "bool")
    return "" if dtype.name in known else f"LiteRT's FILL does not give {dtype}"


def _shape(g: Graph, op: Op) -> None:
    g.add(
        "SHAPE",
        [g.value(op.operands[0])],
        [g.result(op)],
        out_type=type_number(op.results[0].dtype or dtypes.I64),
    )


def _shape_fits(op: Op) -> str:
    whole = op.attr("start") == 0 and op.attr("end") is None
    return "" if whole else "SHAPE gives all sizes"


def _gather(g: Graph, op: Op) -> None:
    x, indices = op.operands
    assert x is not None
    axis = op.attr("axis") % max(x.rank or 1, 1)
    g.add("GATHER", [g.value(x), g.value(indices)], [g.result(op)], axis=axis)


def _safe(value: Value | None) -> str:
    """Return ``""`` when no index is negative: runtimes refuse such ones."""
    return "" if never_negative(value) else "indices may be negative"


def _gather_fits(op: Op) -> str:
    return _safe(op.operands[1])


def _range(g: Graph, op: Op) -> None:
    g.add("RANGE", [g.value(v) for v in op.operands], [g.result(op)])


def _top_k(g: Graph, op: Op) -> None:
    x, k = op.operands
    assert k is not None
    count = constant_ints(k)
    if count:
        number = g.ints(count[0])
    else:
        number = g.temporary(dtypes.I32, (), "k")
        g.add("SQUEEZE", [g.narrow(k)], [number], squeeze_dims=[0])
    indices = op.results[1]
    assert indices.shape is not None
    small = g.temporary(dtypes.I32, indices.shape, f"{indices.name or 'indices'}_i32")
    g.add("TOPK_V2", [g.value(x), number], [g.result(op), small])
    if indices.first_use is not None:
        kinds = {"in_data_type": type_number(dtypes.I32), "out_data_type": type_number(dtypes.I64)}
        g.add("CAST", [small], [g.result(op, 1)], **kinds)


def _top_k_fits(op: Op) -> str:
    x = op.operands[0]
    assert x is not None
    if op.attr("axis") % max(x.rank or 1, 1) != (x.rank or 1) - 1:
        return "TOPK_V2 works along the last axis"
    if not op.attr("largest"):
        return "TOPK_V2 gives the largest elements"
    return ""


def _arg_fits(op: Op) -> str:
    if op.attr("keepdims"):
        return "the operator does not keep the axis"
    return "the operator takes the first of equals" if op.attr("select_last_index") else ""


def _arg(g: Graph, op: Op) -> None:
    builtin = op.name.upper()
    x = op.operands[0]
    assert x is not None
    axis = op.attr("axis") % max(x.rank or 1, 1)
    kind = {"output_type": type_number(dtypes.I64)}
    g.add(builtin, [g.value(x), g.ints(axis)], [g.result(op)], **kind)


def _cum_sum(g: Graph, op: Op) -> None:
    assert op.operands[1] is not None
    axis = constant_ints(op.operands[1])
    chosen = g.ints(axis[0]) if axis else g.narrow(op.operands[1])
    flags = {"exclusive": op.attr("exclusive"), "reverse": op.attr("reverse")}
    g.add("CUMSUM", [g.value(op.operands[0]), chosen], [g.result(op)], **flags)


def _non_zero(g: Graph, op: Op) -> None:
    x, y = op.operands[0], op.results[0]
    assert x is not None
    assert y.shape is not None
    rows = g.temporary(dtypes.I64, (y.shape[1], x.rank), "places")
    g.add("WHERE", [g.value(x)], [rows])
    g.add("TRANSPOSE", [rows, g.ints([1, 0])], [g.result(op)])


def _non_zero_fits(op: Op) -> str:
    x = op.operands[0]
    assert x is not None
    return "" if x.rank else "x is a scalar"


def _reverse_sequence(g: Graph, op: Op) -> None:
    axes = {"seq_dim": op.attr("time_axis"), "batch_dim": op.attr("batch_axis")}
    g.add("REVERSE_SEQUENCE", [g.value(v) for v in op.operands], [g.result(op)], **axes)


def _gather_nd(g: Graph, op: Op) -> None:
    g.add("GATHER_ND", [g.value(v) for v in op.operands], [g.result(op)])


def _gather_nd_fits(op: Op) -> str:
    if op.attr("batch_dims"):
        return "GATHER_ND has no batch axes"
    return _safe(op.operands[1])


_COMPUTED = {
    "none": "",
    "add": "STABLEHLO_ADD",
    "mul": "STABLEHLO_MULTIPLY",
    "max": "STABLEHLO_MAXIMUM",
    "min": "STABLEHLO_MINIMUM",
}


def _scatters(op: Op) -> bool:
    """Return whether a scatter is STABLEHLO_SCATTER: all but sums on zeros of a known shape."""
    x = op.operands[0]
    assert x is not None
    static = all(isinstance(d, int) for d in x.shape or ())
    return op.attr("reduction") not in ("none", "add") or not static


def _scatter_kind(op: Op) -> str:
    return "STABLEHLO_SCATTER" if _scatters(op) else "SCATTER_ND"


def _stablehlo_scatter(g: Graph, op: Op) -> None:
    x, indices, updates = op.operands
    assert x is not None
    assert x.dtype is not None
    assert indices is not None
    assert indices.shape is not None
    inner = g.nested(f"{op.node_name or 'scatter'}_{op.attr('reduction')}")
    old, new, made = (inner.temporary(x.dtype, (), n) for n in ("old", "new", "kept"))
    builtin = _COMPUTED[op.attr("reduction")]
    if builtin:
        inner.add(builtin, [old, new], [made])
    computation = inner.finish([old, new], [made if builtin else new])
    depth, batch = int(indices.shape[-1]), len(indices.shape) - 1  # type: ignore[arg-type]
    g.add(
        "STABLEHLO_SCATTER",
        [g.value(x), g.value(indices), g.value(updates)],
        [g.result(op)],
        update_window_dims=range(batch, batch + (x.rank or 0) - depth),
        inserted_window_dims=range(depth),
        scatter_dims_to_operand_dims=range(depth),
        index_vector_dim=batch,
        update_computation_subgraph_index=computation,
    )


def _scatter_nd(g: Graph, op: Op) -> None:
    x, indices, updates = op.operands
    assert x is not None
    assert indices is not None
    if _scatters(op):
        _stablehlo_scatter(g, op)
        return
    shape = g.ints([int(d) for d in x.shape or ()])  # type: ignore[arg-type]
    g.add("SCATTER_ND", [g.narrow(indices), g.value(updates), shape], [g.result(op)])


def _scatter_nd_fits(op: Op) -> str:
    x, indices = op.operands[:2]
    if _scatters(op):
        depth = (indices.shape or (None,))[-1] if indices is not None else None
        known = isinstance(depth, int)
        return _safe(indices) if known else "the length of the index tuples is not known"
    payload = const_tensor(x)
    if op.attr("reduction") != "add" or payload is None:
        return "SCATTER_ND adds to zeros"
    splat = payload.splat_value()
    zeros = splat == 0 if splat is not None else not payload.numpy().any()
    return _safe(op.operands[1]) if zeros else "SCATTER_ND adds to zeros"


def _one_hot(g: Graph, op: Op) -> None:
    indices, depth, values = op.operands
    assert indices is not None
    payload = const_array(values)
    count = constant_ints(depth)
    assert payload is not None
    assert count is not None
    off, on = payload.reshape(-1)
    axis = op.attr("axis")
    inputs = [
        g.value(indices),
        g.ints(count[0]),
        g.array(np.asarray(on)),
        g.array(np.asarray(off)),
    ]
    rank = op.results[0].rank or 1
    g.add("ONE_HOT", inputs, [g.result(op)], axis=-1 if axis % rank == rank - 1 else axis % rank)


def _one_hot_fits(op: Op) -> str:
    _indices, depth, values = op.operands
    if const_array(values) is None or constant_ints(depth) is None:
        return "depth and values are not constants"
    return _safe(op.operands[0])


def _suppression(g: Graph, op: Op) -> None:
    inputs = [g.value(v) for v in op.operands]
    outputs = [g.result(op, i) for i in range(len(op.results))]
    if len(op.operands) > 5:
        g.add("NON_MAX_SUPPRESSION_V5", inputs, outputs)
    else:
        g.add("NON_MAX_SUPPRESSION_V4", inputs, [outputs[0], outputs[2]])


def _suppression_kind(op: Op) -> str:
    return f"NON_MAX_SUPPRESSION_V{5 if len(op.operands) > 5 else 4}"


def _suppression_fits(op: Op) -> str:
    unused = op.results[1].first_use is None
    if len(op.results) < 3 or (len(op.operands) < 6 and not unused):
        return "NON_MAX_SUPPRESSION_V4 does not give the scores"
    return "" if all(v is None or v.rank == 0 for v in op.operands[2:]) else "no scalars"


ROWS = {
    "reshape": Row("RESHAPE", _reshape, _reshape_fits, empty=True),
    "squeeze": Row("SQUEEZE", _squeeze, _squeeze_fits, empty=True),
    "unsqueeze": Row("EXPAND_DIMS", _unsqueeze, _unsqueeze_fits, empty=True),
    "transpose": Row("TRANSPOSE", _transpose, empty=True),
    "concat": Row("CONCATENATION", _concat, empty=True),
    "split": Row("SPLIT_V", _split, _split_fits),
    "slice": Row("STRIDED_SLICE", _slice, _slice_fits, empty=True),
    "pad": Row(_pad_kind, _pad, _pad_fits, empty=True),
    "tile": Row("TILE", _tile, empty=True),
    "expand": Row("BROADCAST_TO", _expand, _expand_fits, empty=True),
    "constant_of_shape": Row("FILL", _constant_of_shape, _constant_of_shape_fits, judged=0),
    "range": Row("RANGE", _range),
    "shape": Row("SHAPE", _shape, _shape_fits, empty=True),
    "gather": Row("GATHER", _gather, _gather_fits, empty=True),
    "gather_nd": Row("GATHER_ND", _gather_nd, _gather_nd_fits),
    "scatter_nd": Row(_scatter_kind, _scatter_nd, _scatter_nd_fits),
    "one_hot": Row("ONE_HOT", _one_hot, _one_hot_fits, judged=2),
    "top_k": Row("TOPK_V2", _top_k, _top_k_fits),
    "soft_non_max_suppression": Row(_suppression_kind, _suppression, _suppression_fits),
    "arg_max": Row("ARG_MAX", _arg, _arg_fits),
    "arg_min": Row("ARG_MIN", _arg, _arg_fits),
    "cum_sum": Row("CUMSUM", _cum_sum),
    "non_zero": Row("WHERE", _non_zero, _non_zero_fits),
    "dynamic_update_slice": plain("DYNAMIC_UPDATE_SLICE"),
    "reverse_sequence": Row("REVERSE_SEQUENCE", _reverse_sequence),
}
