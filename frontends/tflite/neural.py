"""Rows of convolutions, products, pooling, normalization and resampling."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.formats.tflite.schema import enums
from lepton_ir.frontends.tflite.table import row
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.ir import Value

_INT32 = (np.iinfo(np.int32).min, np.iinfo(np.int32).max)


def _is_same(call: Call) -> bool:
    return enums()["Padding"].name_of(int(call.options.padding)) == "SAME"


def padding(
    call: Call,
    sizes: Sequence[Any],
    kernel: Sequence[Any],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> dict[str, Any]:
    """Return the attributes that say how a window pads.

    SAME padding is spelled out where sizes are known: the odd element comes at the end.
    """
    if not _is_same(call):
        return {}
    begins, ends = [], []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        if not isinstance(size, int) or not isinstance(taps, int):
            return {"auto_pad": "SAME_UPPER"}
        extent = (taps - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        begins.append(total // 2)
        ends.append(total - total // 2)
    return {"pads": (*begins, *ends)} if any((*begins, *ends)) else {}


def _axes(call: Call, name: str, rank: int) -> tuple[int, ...]:
    """Return an option that there is for each spatial axis, such as strides."""
    letters = "dhw"[3 - rank :]
    suffix = "_factor" if name == "dilation" else ""
    found = tuple(int(getattr(call.options, f"{name}_{c}{suffix}")) for c in letters)
    if min(found) < 1:
        call.opaque(f"{name} is {found}")
    return found


def bias(call: Call, index: int) -> Value | None:
    """Return the bias; integers stand for multiples of the scales of operand and weights.

    Those of 64 bits are narrowed where they fit, so that a scale may apply to them.
    """
    if not call.has(index):
        return None
    info = call.info(index)
    if info.dtype is None or info.dtype.is_float:
        return call.real(index)
    x, w = call.info(index - 2).quantization, call.info(index - 1).quantization
    if call.name in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):
        x, w = call.info(2).quantization, call.info(1).quantization
    value = call.raw(index)
    if x is None or w is None or x.per_axis:
        return value
    if value.dtype is dtypes.I64:
        known = call.const(index)
        if known is None or np.any(known < _INT32[0]) or np.any(known > _INT32[1]):
            step = call.b.const(DenseTensor(x.scale * w.scale))
            wide: Value = call.b.mul(call.b.cast(value, to=dtypes.F32), step)
            return wide
        value = call.b.const(known.astype(np.int32), name=info.name)
    scale = np.asarray(x.scale * w.scale, np.float32)
    if scale.size == 1:
        found: Value = call.b.dequantize_linear(value, call.b.const(scale.reshape(())))
        return found
    found = call.b.dequantize_linear(value, call.b.const(scale), axis=0)
    return found


def _groups(call: Call, channels: Any, per_group: Any) -> int:
    if not isinstance(channels, int) or not isinstance(per_group, int) or per_group < 1:
        if channels is not None and channels == per_group:
            return 1
        call.opaque("the channels are not known")
    if channels % per_group:
        call.opaque(f"{channels} channels, {per_group} in the filter")
    return channels // per_group


@row("CONV_2D", "CONV_3D", ir="conv_nhwc")
def _conv(call: Call) -> Value:
    rank = 2 if call.name == "CONV_2D" else 3
    x = call.real(0)
    w = call.weights(1) if rank == 2 else call.permuted(1, (4, 0, 1, 2, 3))
    shape = w.shape or (None,) * (rank + 2)
    strides, dilations = _axes(call, "stride", rank), _axes(call, "dilation", rank)
    sizes = [call.dim(0, a) for a in range(1, rank + 1)]
    made = call.b.conv_nhwc(
        x,
        w,
        bias(call, 2),
        strides=strides,
        dilations=dilations,
        group=_groups(call, call.dim(0, -1), shape[-1]),
        **padding(call, sizes, shape[1:-1], strides, dilations),
    )
    return call.activate(made)


@row("DEPTHWISE_CONV_2D", ir="conv_nhwc")
def _depthwise(call: Call) -> Value:
    x, w = call.real(0), call.weights(1, (3, 1, 2, 0))
    shape = w.shape or (None,) * 4
    channels = call.dim(0, -1)
    if not isinstance(channels, int) or not isinstance(shape[0], int) or channels < 1:
        call.opaque("the channels are not known")
    strides, dilations = _axes(call, "stride", 2), _axes(call, "dilation", 2)
    sizes = [call.dim(0, 1), call.dim(0, 2)]
    made = call.b.conv_nhwc(
        x,
        w,
        bias(call, 2),
        strides=strides,
        dilations=dilations,
        group=channels,
        **padding(call, sizes, shape[1:3], strides, dilations),
    )
    return call.activate(made)


@row("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE", ir="conv_transpose_nhwc")
def _transpose_conv(call: Call) -> Value:
    rank = 2 if call.name == "TRANSPOSE_CONV" else 3
    x = call.real(2)
    w = call.real(1) if rank == 2 else call.permuted(1, (3, 0, 1, 2, 4))
    kernel = (w.shape or (None,) * (rank + 2))[1:-1]
    strides = _axes(call, "stride", rank)
    wanted = call.content(0)
    if wanted is None or len(wanted) != rank + 2:
        call.opaque("the shape of the result is not known")
    sizes = [call.dim(2, a) for a in range(1, rank + 1)]
    made = call.b.conv_transpose_nhwc(
        x,
        w,
        bias(call, 3),
        strides=strides,
        **_transposed_padding(call, sizes, kernel, strides, wanted[1:-1], _is_same(call)),
    )
    return call.activate(made)


def _transposed_padding(
    call: Call,
    sizes: Sequence[Any],
    kernel: Sequence[Any],
    strides: Sequence[int],
    wanted: Sequence[Any],
    same: bool,
) -> dict[str, Any]:
    """Return pads that cut the full product to the shape that the file asks for.

    The runtime pads as the convolution would that goes the other way.
    """
    begins, ends, extra = [], [], []
    for size, taps, stride, out in zip(sizes, kernel, strides, wanted, strict=True):
        known = all(isinstance(d, int) for d in (size, taps, out))
        if not known:
            return _symbolic_padding(call, sizes, kernel, strides, wanted, same)
        total = max((-(-out // stride) - 1) * stride + taps - out, 0) if same else 0
        rest = (size - 1) * stride + taps - total // 2 - out
        begins.append(total // 2)
        ends.append(max(rest, 0))
        extra.append(max(-rest, 0))
    if any(e >= s for e, s in zip(extra, strides, strict=True)):
        call.opaque("the result is larger than the windows reach")
    found: dict[str, Any] = {"pads": (*begins, *ends)} if any((*begins, *ends)) else {}
    return found | ({"output_padding": tuple(extra)} if any(extra) else {})


def _symbolic_padding(
    call: Call,
    sizes: Sequence[Any],
    kernel: Sequence[Any],
    strides: Sequence[int],
    wanted: Sequence[Any],
    same: bool,
) -> dict[str, Any]:
    for size, taps, stride, out in zip(sizes, kernel, strides, wanted, strict=True):
        if size is None or out is None or not isinstance(taps, int):
            call.opaque("the shape of the result is not known")
        full = dims.add(dims.mul(dims.sub(size, 1), stride), taps)
        if dims.prove_eq(out, dims.mul(size, stride) if same else full) is not True:
            call.opaque("the shape of the result is not that of the windows")
        if same and taps < stride:
            call.opaque("the windows leave gaps")
    return {"auto_pad": "SAME_UPPER"} if same else {}


_CUSTOM_PADDING = ("", "SAME", "VALID")


@row("custom:Convolution2DTransposeBias", ir="conv_transpose_nhwc")
def _mediapipe_transpose_conv(call: Call) -> Value:
    """MediaPipe's own operator, which LiteRT knows; its options are three numbers of 32 bits."""
    data = call.op.custom_options
    if data is None or len(data) < 12:
        call.opaque("the options are not those of MediaPipe")
    kind, width, height = struct.unpack_from("<3i", data)
    name = _CUSTOM_PADDING[kind] if 0 <= kind < 3 else ""
    if not name or min(width, height) < 1:
        call.opaque("the options are not those of MediaPipe")
    w = call.real(1)
    kernel = (w.shape or (None,) * 4)[1:3]
    strides = (height, width)
    wanted = [
        None
        if size is None or taps is None
        else dims.mul(size, stride)
        if name == "SAME"
        else dims.add(dims.mul(dims.sub(size, 1), stride), taps)
        for size, taps, stride in zip(
            (call.dim(0, 1), call.dim(0, 2)), kernel, strides, strict=True
        )
    ]
    sizes = [call.dim(0, 1), call.dim(0, 2)]
    how = _transposed_padding(call, sizes, kernel, strides, wanted, name == "SAME")
    added = call.real(2) if call.has(2) else None
    found: Value = call.b.conv_transpose_nhwc(call.real(0), w, added, strides=strides, **how)
    return found


# -- products --------------------------------------------------------------------------------------


@row("FULLY_CONNECTED", ir="gemm, matmul, add")
def _fully_connected(call: Call) -> Value:
    o = call.options
    if enums()["FullyConnectedOptionsWeightsFormat"].name_of(int(o.weights_format)) != "DEFAULT":
        call.opaque("the weights are shuffled")
    x, rank = call.real(0), call.raw(0).rank
    added = bias(call, 2)
    if o.keep_num_dims and rank != 2:
        made = call.b.matmul(x, call.weights(1, (1, 0)))
        return call.activate(made if added is None else call.b.add(made, added))
    w = call.weights(1)
    depth = (w.shape or (None, None))[-1]
    if rank != 2 or call.dim(0, -1) != depth:
        if not isinstance(depth, int):
            call.opaque("the shape of the weights is not known")
        x = call.b.reshape(x, [-1, depth])
    return call.activate(call.b.gemm(x, w, added, transB=True))


@row("BATCH_MATMUL", ir="matmul, transpose")
def _batch_matmul(call: Call) -> Value:
    values = []
    for i, flag in enumerate((call.options.adj_x, call.options.adj_y)):
        if not flag:
            values.append(call.real(i))
            continue
        rank = call.rank(i)
        values.append(call.permuted(i, (*range(rank - 2), rank - 1, rank - 2)))
    found: Value = call.b.matmul(*values)
    return found


@row("EMBEDDING_LOOKUP", ir="gather")
def _embedding(call: Call) -> Value:
    found: Value = call.b.gather(call.real(1), call.raw(0), axis=0)
    return found


# -- pooling ---------------------------------------------------------------------------------------


@row(
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "L2_POOL_2D",
    ir=("average_pool_nhwc", "max_pool_nhwc", "l2_pool_nhwc"),
)
def _pool(call: Call) -> Value:
    strides = _axes(call, "stride", 2)
    kernel = (int(call.options.filter_height), int(call.options.filter_width))
    if min(kernel) < 1:
        call.opaque(f"the window is {kernel}")
    sizes = [call.dim(0, 1), call.dim(0, 2)]
    name = call.name.removesuffix("_2D").lower() + "_nhwc"
    made = call.b.build(
        name,
        call.real(0),
        kernel_shape=kernel,
        strides=strides,
        **padding(call, sizes, kernel, strides, (1, 1)),
    )
    return call.activate(made.result)


# -- normalization ---------------------------------------------------------------------------------


@row("SOFTMAX", ir="softmax")
def _softmax(call: Call) -> Value:
    x = call.real(0)
    beta = call.options.beta
    if beta != 1:
        x = call.b.mul(x, call.scalar(beta, x))
    found: Value = call.b.softmax(x, axis=-1)
    return found


@row("LOG_SOFTMAX", ir="log_softmax")
def _log_softmax(call: Call) -> Value:
    found: Value = call.b.log_softmax(call.real(0), axis=-1)
    return found


@row("L2_NORMALIZATION", ir="l2_normalization")
def _l2_normalization(call: Call) -> Value:
    return call.activate(call.b.l2_normalization(call.real(0)))


@row("LOCAL_RESPONSE_NORMALIZATION", ir="lrn_nhwc")
def _lrn(call: Call) -> Value:
    o = call.options
    size = 2 * int(o.radius) + 1
    if size < 1:
        call.opaque(f"the radius is {o.radius}")
    found: Value = call.b.lrn_nhwc(
        call.real(0), size=size, bias=o.bias, alpha=o.alpha * size, beta=o.beta
    )
    return found


# -- resampling ------------------------------------------------------------------------------------


@row("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", ir="resize")
def _resize(call: Call) -> Value:
    o = call.options
    how: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric"}
    if o.align_corners:
        how["coordinate_transformation_mode"] = "align_corners"
    elif o.half_pixel_centers:
        how["coordinate_transformation_mode"] = "half_pixel"
    if o.align_corners and o.half_pixel_centers:
        call.opaque("it aligns both corners and centers")
    if call.name == "RESIZE_BILINEAR":
        how["mode"] = "linear"
    else:
        plain = not (o.align_corners or o.half_pixel_centers)
        how |= {"mode": "nearest", "nearest_mode": "floor" if plain else "round_prefer_ceil"}
    x = call.real(0)
    found: Value = call.b.resize(x, None, None, _all_sizes(call, x), **how)
    return found


def _all_sizes(call: Call, x: Value) -> Value:
    """Return the sizes of all four axes: onnxruntime loses them where axes are left out."""
    b, given = call.b, call.ints(1)
    batch, channels = (x.shape or (None,) * 4)[::3]
    if given is not None and isinstance(batch, int) and isinstance(channels, int):
        found: Value = b.const(np.asarray([batch, *given, channels], np.int64))
        return found
    shape = b.shape(x)
    ends = [b.slice(shape, [i], [i + 1], [0]) for i in (0, 3)]
    found = b.concat(ends[0], call.vector(1), ends[1], axis=0)
    return found


@row("DEPTH_TO_SPACE", "SPACE_TO_DEPTH", ir=("depth_to_space_nhwc", "space_to_depth_nhwc"))
def _blocks(call: Call) -> Value:
    name = f"{call.name.lower()}_nhwc"
    size = int(call.options.block_size)
    found: Value = call.b.build(name, call.real(0), blocksize=size).result
    return found


@row("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", ir=("space_to_batch_nd", "batch_to_space_nd"))
def _batches(call: Call) -> Value:
    found: Value = call.b.build(
        call.name.lower(), call.real(0), call.vector(1), call.index(2)
    ).result
    return found
