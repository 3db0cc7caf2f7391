"""Rows of convolutions, pools, products, reductions and what else belongs to layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.graph import enum, type_number
from lepton_ir.backends.tflite.resizing import resize_options, resized
from lepton_ir.backends.tflite.row import Row, constant_ints, is_constant, is_weight
from lepton_ir.backends.tflite.windows import padding_of, spatial
from lepton_ir.infer import const_array

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.graph import Graph
    from lepton_ir.ir import Op, Value


# -- convolution -----------------------------------------------------------------------------------


def _channels(op: Op) -> int | None:
    x = op.operands[0]
    assert x is not None
    last = (x.shape or (None,))[-1]
    return last if isinstance(last, int) else None


def _conv_kind(op: Op) -> str:
    if len(spatial(op)) == 3:
        return "CONV_3D"
    group = op.attr("group")
    return "DEPTHWISE_CONV_2D" if group > 1 and group == _channels(op) else "CONV_2D"


def _conv(g: Graph, op: Op) -> None:
    x, w = op.operands[:2]
    assert w is not None
    kind = _conv_kind(op)
    letters = "dhw"[-len(spatial(op)) :]
    fields: dict[str, int] = {
        "padding": enum("Padding", padding_of(op) or "VALID"),
        "fused_activation_function": g.activation(op),
    }
    for letter, axis in zip(letters, spatial(op), strict=True):
        fields[f"stride_{letter}"] = axis.stride
        fields[f"dilation_{letter}_factor"] = axis.dilation
    words = []
    if kind == "CONV_3D":
        weights = g.permuted(w, (1, 2, 3, 4, 0))
    elif kind == "DEPTHWISE_CONV_2D":
        weights = g.permuted(w, (3, 1, 2, 0))
        assert w.shape is not None
        fields["depth_multiplier"] = int(w.shape[0]) // op.attr("group")  # type: ignore[arg-type]
        if any(axis.dilation > 1 for axis in spatial(op)):
            words.append("dilated")
    else:
        weights = g.value(w)
        if op.attr("group") > 1:
            words.append("grouped")
    inputs = [g.value(x), weights]
    if len(op.operands) > 2:
        inputs.append(g.value(op.operands[2]))
    elif kind != "CONV_3D":  # the kernels want a bias
        assert w.shape is not None
        inputs.append(g.no_bias(int(w.shape[0])))  # type: ignore[arg-type]
    g.add(kind, inputs, [g.result(op)], *words, **fields)


def _conv_fits(op: Op) -> str:
    axes = spatial(op)
    if len(axes) not in (2, 3):
        return f"there are convolutions over 2 or 3 axes, not {len(axes)}"
    if len(axes) == 3 and op.attr("group") != 1:
        return "CONV_3D has no groups"
    w = op.operands[1]
    assert w is not None
    if not all(isinstance(d, int) for d in w.shape or ()):
        return "the weights' shape is not known"
    moved = any(a.dilation > 1 for a in axes) and any(a.stride > 1 for a in axes)
    if moved and _conv_kind(op) == "DEPTHWISE_CONV_2D":
        return "DEPTHWISE_CONV_2D is dilated or has a stride, not both"
    return "" if padding_of(op) else "its padding is neither SAME nor VALID"


def _conv_transpose(g: Graph, op: Op) -> None:
    x, w = op.operands[:2]
    fields = {"padding": enum("Padding", padding_of(op, transposed=True) or "VALID")}
    for letter, axis in zip("hw", spatial(op), strict=True):
        fields[f"stride_{letter}"] = axis.stride
    inputs = [_transposed_sizes(g, op), g.value(w), g.value(x)]
    if len(op.operands) > 2:
        inputs.append(g.value(op.operands[2]))
    activation = g.activation(op)
    g.add("TRANSPOSE_CONV", inputs, [g.result(op)], fused_activation_function=activation, **fields)


def _transposed_sizes(g: Graph, op: Op) -> int:
    """Return the sizes of a transposed convolution's result."""
    x, shape = op.operands[0], op.results[0].shape or ()
    if all(isinstance(d, int) for d in shape):
        return g.ints([int(d) for d in shape])  # type: ignore[arg-type]
    assert x is not None
    axes = spatial(op)
    same = padding_of(op, transposed=True) == "SAME"
    extra = op.attr("output_padding") or (0,) * len(axes)
    more = [0 if same else a.kernel - a.stride + e for a, e in zip(axes, extra, strict=True)]
    names = ("sizes", "batch_and_plane", "strided", "lengthened", "output_shape")
    counts = (4, 3, 3, 3, 4)
    steps = [g.temporary(dtypes.I32, (c,), n) for n, c in zip(names, counts, strict=True)]
    g.add("SHAPE", [g.value(x)], [steps[0]], out_type=type_number(dtypes.I32))
    g.add("STRIDED_SLICE", [steps[0], g.ints([0]), g.ints([3]), g.ints([1])], [steps[1]])
    g.add("MUL", [steps[1], g.ints([1, *(a.stride for a in axes)])], [steps[2]])
    g.add("ADD", [steps[2], g.ints([0, *more])], [steps[3]])
    channels = g.ints([int(shape[-1])])  # type: ignore[arg-type]
    g.add("CONCATENATION", [steps[3], channels], [steps[4]], axis=0)
    return steps[4]


def _conv_transpose_fits(op: Op) -> str:
    axes = spatial(op)
    if len(axes) != 2:
        return "TRANSPOSE_CONV has two spatial axes"
    if op.attr("group") != 1:
        return "TRANSPOSE_CONV has no groups"
    if any(a.dilation > 1 for a in axes):
        return "TRANSPOSE_CONV is not dilated"
    if not isinstance((op.results[0].shape or (None,))[-1], int):
        return "the channels are not known"
    return "" if padding_of(op, transposed=True) else "its padding is neither SAME nor VALID"


# -- pools -----------------------------------------------------------------------------------------


def _pool_kind(op: Op) -> str:
    return {
        "max_pool_nhwc": "MAX_POOL_2D",
        "average_pool_nhwc": "AVERAGE_POOL_2D",
        "l2_pool_nhwc": "L2_POOL_2D",
    }[op.name]


def _pool(g: Graph, op: Op) -> None:
    fields = {"padding": enum("Padding", padding_of(op) or "VALID")}
    for letter, axis in zip("hw", spatial(op), strict=True):
        fields[f"stride_{letter}"] = axis.stride
        fields["filter_height" if letter == "h" else "filter_width"] = axis.kernel
    activation = g.activation(op)
    g.add(
        _pool_kind(op),
        [g.value(op.operands[0])],
        [g.result(op)],
        fused_activation_function=activation,
        **fields,
    )


def _pool_fits(op: Op) -> str:
    axes = spatial(op)
    if len(axes) != 2:
        return "there are pools over two axes only"
    if any(a.dilation > 1 for a in axes):
        return "pools are not dilated"
    padding = padding_of(op)
    if padding == "SAME" and op.name != "max_pool_nhwc" and op.attr("count_include_pad"):
        return "the operator does not count the padding"
    return "" if padding else "its padding is neither SAME nor VALID"


# -- products --------------------------------------------------------------------------------------


def _matmul_kind(op: Op) -> str:
    a, b = op.operands
    assert a is not None
    assert b is not None
    dense = is_weight(b) and b.rank == 2 and 2 <= (a.rank or 0) <= 5
    return "FULLY_CONNECTED" if dense else "BATCH_MATMUL"


def _matmul(g: Graph, op: Op) -> None:
    a, b = op.operands
    assert a is not None
    assert b is not None
    if _matmul_kind(op) == "BATCH_MATMUL":
        g.add("BATCH_MATMUL", [g.value(a), g.value(b)], [g.result(op)])
        return
    weights = g.permuted(b, (1, 0))
    g.add(
        "FULLY_CONNECTED",
        [g.value(a), weights],
        [g.result(op)],
        fused_activation_function=g.activation(op),
        keep_num_dims=(a.rank or 0) > 2,
    )


def _matmul_fits(op: Op) -> str:
    a, b = op.operands
    assert a is not None
    assert b is not None
    return "" if min(a.rank or 0, b.rank or 0) >= 2 else "BATCH_MATMUL takes matrices"


def _gemm(g: Graph, op: Op) -> None:
    a, b = op.operands[:2]
    assert b is not None
    weights = g.value(b) if op.attr("transB") else g.permuted(b, (1, 0))
    inputs = [g.value(a), weights]
    if len(op.operands) > 2 and op.operands[2] is not None:
        c = op.operands[2]
        flat = c.rank == 1 or not is_constant(c) or c in g.alias
        inputs.append(g.value(c) if flat else g.changed(c, "flat", lambda x: x.reshape(-1))[0])
    g.add("FULLY_CONNECTED", inputs, [g.result(op)], fused_activation_function=g.activation(op))


def _gemm_fits(op: Op) -> str:
    if op.attr("transA") or op.attr("alpha") != 1.0:
        return "FULLY_CONNECTED neither transposes nor scales x"
    if not op.attr("transB") and not is_weight(op.operands[1]):
        return "the weights are neither constant nor transposed"
    c = op.operands[2] if len(op.operands) > 2 else None
    if c is None:
        return ""
    if op.attr("beta") != 1.0:
        return "FULLY_CONNECTED does not scale the bias"
    columns = (op.results[0].shape or (None, None))[1]
    shape = c.shape or ()
    if shape == (columns,) or (shape == (1, columns) and is_constant(c)):
        return "" if isinstance(columns, int) else "the columns are not known"
    return "the bias is not one number a column"


# -- reductions and the like -----------------------------------------------------------------------

_REDUCTIONS = {
    "reduce_sum": "SUM",
    "reduce_mean": "MEAN",
    "reduce_max": "REDUCE_MAX",
    "reduce_min": "REDUCE_MIN",
    "reduce_prod": "REDUCE_PROD",
}


def _given_axes(op: Op) -> Value | None:
    """Return the axes unless they are absent or none."""
    axes = op.operands[1] if len(op.operands) > 1 else None
    return None if axes is None or axes.shape == (0,) else axes


def _reduce_kind(op: Op) -> str:
    x = op.operands[0]
    if x is not None and x.dtype is dtypes.BOOL:
        return {"reduce_max": "REDUCE_ANY", "reduce_min": "REDUCE_ALL"}[op.name]
    return _REDUCTIONS[op.name]


def _reduce(g: Graph, op: Op) -> None:
    x, axes = op.operands[0], _given_axes(op)
    assert x is not None
    known = constant_ints(axes)
    rank = x.rank or 0
    if axes is not None and known is None:
        chosen = g.narrow(axes)
    else:
        chosen = g.ints(sorted({a % rank for a in known}) if known else range(rank))
    keep = bool(op.attr("keepdims"))
    g.add(_reduce_kind(op), [g.value(x), chosen], [g.result(op)], keep_dims=keep)


def _reduce_fits(op: Op) -> str:
    axes = _given_axes(op)
    if axes is not None and constant_ints(axes) is None and axes.shape != (1,):
        return "there are several axes, which are not constants"
    if axes is None and op.attr("noop_with_empty_axes"):
        return "no axis is reduced"
    x = op.operands[0]
    assert x is not None
    if x.dtype is dtypes.BOOL and op.name not in ("reduce_max", "reduce_min"):
        return "there is no such reduction of truth values"
    return "" if x.rank else "x is a scalar"


def _softmax(g: Graph, op: Op) -> None:
    if op.name == "softmax":
        g.add("SOFTMAX", [g.value(op.operands[0])], [g.result(op)], beta=1.0)
    else:
        g.add("LOG_SOFTMAX", [g.value(op.operands[0])], [g.result(op)])


def _softmax_fits(op: Op) -> str:
    x = op.operands[0]
    assert x is not None
    rank = x.rank or 0
    if not rank:
        return "x is a scalar"
    axis = op.attr("axis") % rank
    if axis != rank - 1:
        return "the operator works along the last axis"
    return ""


def _lrn(g: Graph, op: Op) -> None:
    size = op.attr("size")
    g.add(
        "LOCAL_RESPONSE_NORMALIZATION",
        [g.value(op.operands[0])],
        [g.result(op)],
        radius=(size - 1) // 2,
        bias=float(op.attr("bias")),
        alpha=float(np.float32(op.attr("alpha") / size)),
        beta=float(op.attr("beta")),
    )


def _lrn_fits(op: Op) -> str:
    x = op.operands[0]
    if x is None or x.rank != 4:
        return "LOCAL_RESPONSE_NORMALIZATION takes four axes"
    return "" if op.attr("size") % 2 else "an even number of channels has no middle"


def _depth(g: Graph, op: Op) -> None:
    builtin = op.name.removesuffix("_nhwc").upper()
    g.add(builtin, [g.value(op.operands[0])], [g.result(op)], block_size=int(op.attr("blocksize")))


def _depth_fits(op: Op) -> str:
    return "" if op.attr("mode") == "DCR" else "the operator orders channels as DCR"


def _resize(g: Graph, op: Op) -> None:
    builtin, flags = resize_options(op)
    shape = op.results[0].shape or ()
    if all(isinstance(d, int) for d in shape[1:3]):
        sizes = g.ints([int(d) for d in shape[1:3]])  # type: ignore[arg-type]
    else:
        sizes = _new_sizes(g, op)
    g.add(builtin, [g.value(op.operands[0]), sizes], [g.result(op)], **flags)


def _new_sizes(g: Graph, op: Op) -> int:
    """Return the two sizes that only the runtime knows: given, or by whole scales."""
    x, scales, given = (op.operands[i] if i < len(op.operands) else None for i in (0, 2, 3))
    assert x is not None
    axes = range(4) if op.attr("axes") is None else [a % 4 for a in op.attr("axes")]
    sizes = g.temporary(dtypes.I32, (2,), "sizes")
    bounds = [g.ints([1]), g.ints([3]), g.ints([1])]
    everything = g.temporary(dtypes.I32, (4,), "all_sizes")
    factors = const_array(scales)
    if given is not None and (factors is None or not factors.size):
        first = list(axes).index(1)
        picked = [g.ints([first]), g.ints([first + 2]), g.ints([1])]
        g.add("STRIDED_SLICE", [g.narrow(given), *picked], [sizes])
        return sizes
    assert factors is not None
    old = g.temporary(dtypes.I32, (2,), "old_sizes")
    g.add("SHAPE", [g.value(x)], [everything], out_type=type_number(dtypes.I32))
    g.add("STRIDED_SLICE", [everything, *bounds], [old])
    by_axis = dict(zip(axes, factors.reshape(-1).tolist(), strict=True))
    factor = g.ints([int(by_axis.get(1, 1)), int(by_axis.get(2, 1))])
    g.add("MUL", [old, factor], [sizes])
    return sizes


ROWS = {
    "conv_nhwc": Row(_conv_kind, _conv, _conv_fits),
    "conv_transpose_nhwc": Row("TRANSPOSE_CONV", _conv_transpose, _conv_transpose_fits),
    **{
        name: Row(_pool_kind, _pool, _pool_fits)
        for name in ("max_pool_nhwc", "average_pool_nhwc", "l2_pool_nhwc")
    },
    "matmul": Row(_matmul_kind, _matmul, _matmul_fits),
    "gemm": Row("FULLY_CONNECTED", _gemm, _gemm_fits),
    **{name: Row(_reduce_kind, _reduce, _reduce_fits) for name in _REDUCTIONS},
    "softmax": Row("SOFTMAX", _softmax, _softmax_fits),
    "log_softmax": Row("LOG_SOFTMAX", _softmax, _softmax_fits),
    "lrn_nhwc": Row("LOCAL_RESPONSE_NORMALIZATION", _lrn, _lrn_fits),
    "depth_to_space_nhwc": Row("DEPTH_TO_SPACE", _depth, _depth_fits),
    "space_to_depth_nhwc": Row("SPACE_TO_DEPTH", _depth, _depth_fits),
    "resize": Row(lambda op: resize_options(op)[0], _resize, resized),
}
