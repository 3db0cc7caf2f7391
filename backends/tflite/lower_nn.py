"""Lowerings of layers: channels go last, paddings become pads, vectors matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lower_tensor import reduced, window_parts
from lepton_ir.backends.tflite.lowering import (
    cut,
    dtype_of,
    i64,
    operand,
    rank_of,
    shape_of,
)
from lepton_ir.backends.tflite.row import is_weight
from lepton_ir.backends.tflite.windows import padding_of, spatial
from lepton_ir.ops.channels_last import channels_first, channels_last

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value


def _last(name: str, *, weights: tuple[int, ...] | None = None) -> Callable[[Any, Op], list[Value]]:
    """Return the lowering of a channels-first operation to the one with channels last."""

    def lower(b: Builder, op: Op) -> list[Value]:
        if len(op.results) > 1 and op.results[1].first_use is not None:
            raise ValueError("TFLite's operator has one result")
        x = operand(op, 0)
        rank = rank_of(x)
        rest = list(op.operands[1:])
        if weights is not None:
            w = operand(op, 1)
            order = channels_last(rank) if weights == (0,) else (*range(1, rank), 0)
            rest[0] = b.transpose(w, perm=order)
        known = {k: v for k, v in op.attrs.items() if k in _attributes(name)}
        y = b.build(name, b.transpose(x, perm=channels_last(rank)), *rest, **known).result
        return [b.transpose(y, perm=channels_first(rank))]

    return lower


def _attributes(name: str) -> set[str]:
    from lepton_ir import opdef

    definition = opdef.lookup(name)
    assert definition is not None
    return set(definition.attrs)


def _conv_nhwc(b: Builder, op: Op) -> list[Value]:
    """One axis becomes two; padding that is neither SAME nor VALID becomes a pad."""
    x, w = operand(op, 0), operand(op, 1)
    if rank_of(x) == 3:
        return _as_plane(b, op)
    axes = spatial(op)
    if len(axes) == 3 and op.attr("group") != 1:
        return _conv_groups(b, op)
    if padding_of(op):
        raise ValueError("no operator does this convolution")
    padded = _padded(b, x, axes, 0.0)
    attrs = {k: v for k, v in op.attrs.items() if k not in ("pads", "auto_pad")}
    return [b.build("conv_nhwc", padded, w, *op.operands[2:], **attrs).result]


def _conv_groups(b: Builder, op: Op) -> list[Value]:
    """CONV_3D has no groups: each is a convolution of its own."""
    x, w = operand(op, 0), operand(op, 1)
    group, last = op.attr("group"), rank_of(x) - 1
    channels, filters = shape_of(x)[-1], shape_of(w)[0]
    if not isinstance(channels, int) or not isinstance(filters, int):
        raise ValueError("the channels are not known")
    attrs = {k: v for k, v in op.attrs.items() if k != "group"}
    ins, outs = channels // group, filters // group
    parts = []
    for i in range(group):
        part = cut(b, x, last, i * ins, (i + 1) * ins)
        weights = cut(b, w, 0, i * outs, (i + 1) * outs)
        parts.append(b.build("conv_nhwc", part, weights, **attrs).result)
    y = b.concat(*parts, axis=last)
    bias = op.operands[2] if len(op.operands) > 2 else None
    return [y if bias is None else b.add(y, bias)]


def _padded(b: Builder, x: Value, axes: list[Any], value: float) -> Value:
    if any(a.begin < 0 for a in axes):
        raise ValueError("the padding is not known")
    before = [0, *(a.begin for a in axes), 0]
    after = [0, *(a.end for a in axes), 0]
    if not any((*before, *after)):
        return x
    assert x.dtype is not None
    fill = b.const(np.asarray(value, x.dtype.numpy))
    found: Value = b.pad(x, b.const(np.asarray([*before, *after], np.int64)), fill)
    return found


_PER_AXIS = ("strides", "dilations", "kernel_shape", "output_padding")


def _as_plane(b: Builder, op: Op) -> list[Value]:
    """Work over one spatial axis as over a plane of height 1."""
    x = operand(op, 0)
    attrs = dict(op.attrs)
    for key in _PER_AXIS:
        if attrs.get(key):
            attrs[key] = (1, *attrs[key])
    if attrs.get("pads"):
        begin, end = attrs["pads"]
        attrs["pads"] = (0, begin, 0, end)
    rest = list(op.operands[1:])
    axis = b.const(np.asarray([1], np.int64))
    if rest:
        rest[0] = b.unsqueeze(operand(op, 1), axis)
    y = b.build(op.name, b.unsqueeze(x, axis), *rest, **attrs).result
    return [b.squeeze(y, axis)]


def _pool_nhwc(b: Builder, op: Op) -> list[Value]:
    """One axis becomes two; a padded maximum is one over a tensor with the lowest number around."""
    x = operand(op, 0)
    if rank_of(x) == 3:
        return _as_plane(b, op)
    axes = spatial(op)
    if not all(a.known for a in axes) or any(a.begin < 0 for a in axes):
        raise ValueError("the padding is not known")
    if len(axes) != 2 or any(a.dilation > 1 for a in axes):
        return [_by_slices(b, op, x, axes)]
    if padding_of(op) and not (op.name != "max_pool_nhwc" and op.attr("count_include_pad")):
        raise ValueError("no operator does this pool")
    if op.name == "l2_pool_nhwc":
        raise ValueError("the padding is neither SAME nor VALID")
    if op.name == "max_pool_nhwc":
        return [_max_pool(b, op, x, axes)]
    return [_average_pool(b, op, x, axes)]


def _by_slices(b: Builder, op: Op, x: Value, axes: list[Any]) -> Value:
    """One axis after the other: the taps of a window are slices with its stride."""
    kind = dtype_of(x)
    largest = op.name == "max_pool_nhwc"
    if op.name == "l2_pool_nhwc" or not (largest or kind.is_float):
        raise ValueError("there is no such pool")
    low = 0.0 if not largest else -np.inf if kind.is_float else np.iinfo(kind.numpy).min
    covering = _covering(axes)
    x = _padded(b, x, covering, low)
    for i, a in enumerate(axes):
        parts = window_parts(b, x, 1 + i, (a.kernel, a.stride, a.dilation, int(a.out)))
        x = reduced(b, "max" if largest else "add", parts)
    if largest:
        return x
    factors = _shares(op, axes)
    found: Value = b.mul(x, b.const((1 / factors).astype(kind.numpy)[None, ..., None]))
    return found


def _shares(op: Op, axes: list[Any]) -> Any:
    """Return how many elements of each window count."""
    found: Any = np.ones(())
    for a in axes:
        taps = (np.arange(int(a.out)) * a.stride - a.begin)[:, None]
        taps = taps + np.arange(a.kernel) * a.dilation
        whole = op.attr("count_include_pad")
        low, high = (-a.begin, a.size + a.end) if whole else (0, a.size)
        found = np.multiply.outer(found, ((taps >= low) & (taps < high)).sum(axis=1))
    return found


def _covering(axes: list[Any]) -> list[Any]:
    """Return the axes with as much padding behind as the last window needs."""
    from dataclasses import replace

    return [
        replace(a, end=max((a.out - 1) * a.stride + a.extent - a.size - a.begin, 0)) for a in axes
    ]


def _max_pool(b: Builder, op: Op, x: Value, axes: list[Any]) -> Value:
    assert x.dtype is not None
    kind = x.dtype.numpy
    low = -np.inf if x.dtype.is_float else np.iinfo(kind).min
    attrs = {k: v for k, v in op.attrs.items() if k in ("strides", "kernel_shape")}
    return b.build("max_pool_nhwc", _padded(b, x, _covering(axes), low), **attrs).result


def _average_pool(b: Builder, op: Op, x: Value, axes: list[Any]) -> Value:
    """Average over zeros too, and multiply by the share of the window that counts."""
    assert x.dtype is not None
    covering = _covering(axes)
    attrs = {k: v for k, v in op.attrs.items() if k in ("strides", "kernel_shape")}
    mean = b.build("average_pool_nhwc", _padded(b, x, covering, 0.0), **attrs).result
    share = _shares(op, axes) / np.prod([a.kernel for a in axes])
    if np.all(share == 1):
        return mean
    factor = (1 / share).astype(x.dtype.numpy).reshape(1, *share.shape, 1)
    found: Value = b.mul(mean, b.const(factor))
    return found


def _conv_transpose_nhwc(b: Builder, op: Op) -> list[Value]:
    """One axis becomes two; padding is cut off the result; groups are computed one by one."""
    x, w = operand(op, 0), operand(op, 1)
    if rank_of(x) == 3:
        return _as_plane(b, op)
    if op.attr("dilations") and any(d > 1 for d in op.attr("dilations")):
        raise ValueError("TRANSPOSE_CONV is not dilated")
    if op.attr("group") != 1:
        return _grouped(b, op)
    if padding_of(op, transposed=True):
        raise ValueError("no operator does this transposed convolution")
    axes = spatial(op)
    if not all(a.known for a in axes):
        raise ValueError("the sizes are not known")
    full: list[Any] = [(a.size - 1) * a.stride + a.kernel for a in axes]  # type: ignore[operator]
    begins: list[int] = _begins(op, axes, full)
    more = [max(a.out + begin - f, 0) for a, begin, f in zip(axes, begins, full, strict=True)]  # type: ignore[operator]
    attrs: dict[str, Any] = {"strides": tuple(a.stride for a in axes)}
    bias = op.operands[2] if len(op.operands) > 2 else None
    if any(m >= a.stride for m, a in zip(more, axes, strict=True)):
        # Beyond what any tap reaches there is the bias alone.
        y = b.build("conv_transpose_nhwc", x, w, **attrs).result
        y = b.pad(y, i64(b, *[0] * (len(more) + 3), *more, 0))
        y = y if bias is None else b.add(y, bias)
    else:
        if any(more):
            attrs["output_padding"] = tuple(more)
        y = b.build("conv_transpose_nhwc", x, w, bias, **attrs).result
    ends = [begin + int(a.out) for a, begin in zip(axes, begins, strict=True)]  # type: ignore[arg-type]
    return [
        b.slice(
            y,
            b.const(np.asarray(begins, np.int64)),
            b.const(np.asarray(ends, np.int64)),
            b.const(np.asarray([1, 2], np.int64)),
        )
    ]


def _begins(op: Op, axes: list[Any], full: list[int]) -> list[int]:
    """Return what is cut off in front."""
    way = op.attr("auto_pad")
    if way == "NOTSET" and not op.attr("output_shape"):
        return [a.begin for a in axes]
    found = []
    more = op.attr("output_padding") or (0,) * len(axes)
    for a, size, extra in zip(axes, full, more, strict=True):
        total = max(size + extra - a.out, 0)
        found.append(total // 2 if way == "SAME_UPPER" else total - total // 2)
    return found


def _grouped(b: Builder, op: Op) -> list[Value]:
    x, w = operand(op, 0), operand(op, 1)
    group = op.attr("group")
    channels = (x.shape or (None,))[-1]
    if not isinstance(channels, int):
        raise ValueError("the channels are not known")
    size = channels // group
    attrs = {k: v for k, v in op.attrs.items() if k != "group"}
    parts = []
    for i in range(group):
        bounds = [b.const(np.asarray(n, np.int64)) for n in ([i * size], [(i + 1) * size], [3])]
        weights = b.slice(w, *bounds)
        parts.append(b.build("conv_transpose_nhwc", b.slice(x, *bounds), weights, **attrs).result)
    y = b.concat(*parts, axis=3)
    bias = op.operands[2] if len(op.operands) > 2 else None
    return [y if bias is None else b.add(y, bias)]


def _matmul(b: Builder, op: Op) -> list[Value]:
    """A vector becomes a matrix of one row, or one column."""
    a, c = operand(op, 0), operand(op, 1)
    first, second = rank_of(a), rank_of(c)
    if min(first, second) != 1:
        raise ValueError("no operator does this product")
    gone = []
    if first == 1:
        a = b.unsqueeze(a, b.const(np.asarray([0], np.int64)))
        gone.append(-2)
    if second == 1:
        c = b.unsqueeze(c, b.const(np.asarray([1], np.int64)))
        gone.append(-1)
    y = b.matmul(a, c)
    rank = rank_of(y)
    return [b.squeeze(y, b.const(np.asarray([rank + g for g in gone], np.int64)))]


def _gemm(b: Builder, op: Op) -> list[Value]:
    """Factors, a transposed x and a bias of other shapes are operations of their own.

    Weights stay those of a dense layer, which may be kept in fewer bits.
    """
    a, c = operand(op, 0), operand(op, 1)
    given = op.operands[2] if len(op.operands) > 2 else None
    if given is not None and not op.attr("transA") and op.attr("alpha") == 1.0 and is_weight(c):
        scaled = given if op.attr("beta") == 1.0 else b.mul(given, op.attr("beta"))
        return [b.add(b.gemm(a, c, transB=op.attr("transB")), scaled)]
    if op.attr("transA"):
        a = b.transpose(a, perm=(1, 0))
    if op.attr("transB") and dtype_of(a) is dtypes.F32:
        y = b.gemm(a, c, transB=True)  # which is an operator as it stands
    elif op.attr("transB"):
        y = b.matmul(a, b.transpose(c, perm=(1, 0)))
    else:
        y = b.matmul(a, c)
    if op.attr("alpha") != 1.0:
        y = b.mul(y, op.attr("alpha"))
    bias = op.operands[2] if len(op.operands) > 2 else None
    if bias is None:
        return [y]
    if op.attr("beta") != 1.0:
        bias = b.mul(bias, op.attr("beta"))
    return [b.add(y, bias)]


def _block_order(channels: int, size: int) -> np.ndarray[Any, Any]:
    """Return the channels in the order (block, rest), of those in the order (rest, block)."""
    return np.arange(channels).reshape(-1, size * size).T.reshape(-1)


def _depth_to_space(b: Builder, op: Op) -> list[Value]:
    """Blocks in the order of CRD: channels are put into that of DCR first."""
    x, size = operand(op, 0), op.attr("blocksize")
    channels = shape_of(x)[-1]
    if op.attr("mode") != "CRD" or not isinstance(channels, int):
        raise ValueError("no operator moves these blocks")
    order = b.const(_block_order(channels, size).astype(np.int64))
    return [b.depth_to_space_nhwc(b.gather(x, order, axis=3), blocksize=size)]


def _space_to_depth(b: Builder, op: Op) -> list[Value]:
    """As ``depth_to_space_nhwc``, backwards."""
    x, size = operand(op, 0), op.attr("blocksize")
    channels = shape_of(op.results[0])[-1]
    if op.attr("mode") != "CRD" or not isinstance(channels, int):
        raise ValueError("no operator moves these blocks")
    order = np.argsort(_block_order(channels, size)).astype(np.int64)
    return [b.gather(b.space_to_depth_nhwc(x, blocksize=size), b.const(order), axis=3)]


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "conv": _last("conv_nhwc", weights=(0,)),
    "conv_transpose": _last("conv_transpose_nhwc", weights=(1,)),
    "max_pool": _last("max_pool_nhwc"),
    "average_pool": _last("average_pool_nhwc"),
    "lrn": _last("lrn_nhwc"),
    "depth_to_space": _last("depth_to_space_nhwc"),
    "space_to_depth": _last("space_to_depth_nhwc"),
    "conv_nhwc": _conv_nhwc,
    "conv_transpose_nhwc": _conv_transpose_nhwc,
    "max_pool_nhwc": _pool_nhwc,
    "average_pool_nhwc": _pool_nhwc,
    "depth_to_space_nhwc": _depth_to_space,
    "space_to_depth_nhwc": _space_to_depth,
    "matmul": _matmul,
    "gemm": _gemm,
}
