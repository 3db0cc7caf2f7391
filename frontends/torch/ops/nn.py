"""Rows of products, convolutions, pooling, resampling and attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.torch.lowering import Lowering, Sym
from lepton_ir.frontends.torch.ops.elementwise import dtype_of
from lepton_ir.frontends.torch.ops.shape import transposed
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# -- products --------------------------------------------------------------------------------------


@torch_op("linear")
def linear(b: Lowering, input: Value, weight: Value, bias: Value | None = None) -> Any:
    if b.rank(input) == 2 and b.rank(weight) == 2 and dtype_of(input).is_float:
        return (
            b.gemm(input, weight, bias, transB=True)
            if bias is not None
            else b.matmul(input, _t(b, weight))
        )
    product = b.matmul(input, _t(b, weight))
    return product if bias is None else b.add(product, bias)


def _t(b: Lowering, weight: Value) -> Value:
    return transposed(b, weight, [1, 0]) if b.rank(weight) == 2 else weight


@torch_op("mm", "bmm", "matmul", "mv", "dot", "vdot", "inner")
def matmul(
    b: Lowering,
    self: Value,
    other: Value | None = None,
    mat2: Value | None = None,
    vec: Value | None = None,
    tensor: Value | None = None,
    out_dtype: Any = None,
) -> Any:
    right = next(v for v in (other, mat2, vec, tensor) if v is not None)
    return b.matmul(self, right)


@torch_op("linalg_matmul", "chain_matmul")
def linalg_matmul(b: Lowering, self: Value, other: Value) -> Any:
    return b.matmul(self, other)


def _plus(b: Lowering, product: Value, addend: Value, beta: Any, alpha: Any) -> Any:
    product = product if alpha == 1 else b.mul(product, b.like(product, alpha))
    if beta == 0:
        return product
    return b.add(product, addend if beta == 1 else b.mul(addend, b.like(addend, beta)))


@torch_op("addmm")
def addmm(b: Lowering, self: Value, mat1: Value, mat2: Value, beta: Any = 1, alpha: Any = 1) -> Any:
    if dtype_of(self).is_float and not isinstance(beta, Sym) and not isinstance(alpha, Sym):
        return b.gemm(mat1, mat2, self, alpha=alpha, beta=beta)
    return _plus(b, b.matmul(mat1, mat2), self, beta, alpha)


@torch_op("baddbmm")
def baddbmm(
    b: Lowering, self: Value, batch1: Value, batch2: Value, beta: Any = 1, alpha: Any = 1
) -> Any:
    return _plus(b, b.matmul(batch1, batch2), self, beta, alpha)


@torch_op("addmv")
def addmv(b: Lowering, self: Value, mat: Value, vec: Value, beta: Any = 1, alpha: Any = 1) -> Any:
    return _plus(b, b.matmul(mat, vec), self, beta, alpha)


@torch_op("outer", "ger")
def outer(b: Lowering, self: Value, vec2: Value) -> Any:
    x, y = b.operands(self, vec2)
    return b.mul(b.unsqueeze(x, b.ints([1])), y)


@torch_op("einsum")
def einsum(b: Lowering, equation: str, tensors: Sequence[Value], path: Any = None) -> Any:
    return b.einsum(*b.operands(*tensors), equation=equation)


@torch_op("bilinear")
def bilinear(
    b: Lowering, input1: Value, input2: Value, weight: Value, bias: Value | None = None
) -> Any:
    found = b.einsum(input1, weight, input2, equation="...i,oij,...j->...o")
    return found if bias is None else b.add(found, bias)


@torch_op("_trilinear")
def trilinear(
    b: Lowering,
    i1: Value,
    i2: Value,
    i3: Value,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Any:
    """The product of three operands with new axes, summed over axes."""
    wide = [
        b.unsqueeze(x, b.ints(list(axes))) if axes else x
        for x, axes in ((i1, expand1), (i2, expand2), (i3, expand3))
    ]
    return b.reduce_sum(b.mul(b.mul(wide[0], wide[1]), wide[2]), b.ints(sumdim), keepdims=False)


# -- convolutions ----------------------------------------------------------------------------------


def spread(items: Any, count: int) -> list[int]:
    """Return one number an axis; a single one serves all."""
    found = [items] if isinstance(items, int) else list(items)
    return found * count if len(found) == 1 else found


def _batched(b: Lowering, x: Value, count: int, f: Callable[[Value], Any]) -> Any:
    """Apply ``f`` to a batch; an operand without a batch axis gets one for it."""
    if b.rank(x) == count + 2:
        return f(x)
    found = f(b.unsqueeze(x, b.ints([0])))
    if isinstance(found, tuple):
        return tuple(b.squeeze(v, b.ints([0])) for v in found)
    return b.squeeze(found, b.ints([0]))


def convolve(
    b: Lowering,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    """Return a convolution; ``padding`` is numbers, ``valid`` or ``same``."""
    count = b.rank(w) - 2
    steps, holes = spread(stride, count), spread(dilation, count)
    if padding == "same":
        kernel = [b.static_size(w, i + 2, "same") for i in range(count)]
        total = [d * (k - 1) for d, k in zip(holes, kernel, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    else:
        pads = spread(0 if padding == "valid" else padding, count) * 2

    def f(x: Value) -> Any:
        return b.conv(x, w, bias, strides=steps, pads=pads, dilations=holes, group=groups)

    return _batched(b, x, count, f)


def _conv(
    b: Lowering,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    return convolve(b, input, weight, bias, stride, padding, dilation, groups)


def convolve_back(
    b: Lowering,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    """Return a transposed convolution."""
    count = b.rank(w) - 2

    def f(x: Value) -> Any:
        return b.conv_transpose(
            x,
            w,
            bias,
            strides=spread(stride, count),
            pads=spread(padding, count) * 2,
            dilations=spread(dilation, count),
            output_padding=spread(output_padding, count),
            group=groups,
        )

    return _batched(b, x, count, f)


def _conv_transpose(
    b: Lowering,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    return convolve_back(b, input, weight, bias, stride, padding, output_padding, groups, dilation)


torch_op("conv1d", "conv2d", "conv3d")(_conv)
torch_op("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")(_conv_transpose)


@torch_op("convolution", "_convolution")
def convolution(
    b: Lowering,
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    **_: Any,
) -> Any:
    if transposed:
        return convolve_back(
            b, input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return convolve(b, input, weight, bias, stride, padding, dilation, groups)


@torch_op("im2col")
def im2col(
    b: Lowering, self: Value, kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> Any:
    """Patches as columns: a convolution with one-hot kernels, (N, C * taps, places)."""
    channels = b.static_size(self, 1, "im2col")
    kh, kw = spread(kernel_size, 2)
    taps = np.eye(kh * kw).reshape(kh * kw, 1, kh, kw)
    kernels = np.tile(taps, (channels, 1, 1, 1)).astype(dtype_of(self).numpy)
    found = convolve(b, self, b.const(kernels), None, stride, padding, dilation, channels)
    return b.resized(found, [b.size_of(self, 0), channels * kh * kw, -1])


@torch_op("col2im")
def col2im(
    b: Lowering,
    self: Value,
    output_size: Any,
    kernel_size: Any,
    dilation: Any,
    padding: Any,
    stride: Any,
) -> Any:
    return b.col2im(
        self,
        b.ints(spread(output_size, 2)),
        b.ints(spread(kernel_size, 2)),
        dilations=spread(dilation, 2),
        pads=spread(padding, 2) * 2,
        strides=spread(stride, 2),
    )


# -- pooling ---------------------------------------------------------------------------------------


def _window(kernel: Any, stride: Any, padding: Any, count: int) -> dict[str, Any]:
    size = spread(kernel, count)
    steps = spread(stride, count) if stride else size
    return {"kernel_shape": size, "strides": steps, "pads": spread(padding, count) * 2}


def _max_pool(count: int, indices: bool) -> Callable[..., Any]:
    def row(
        b: Lowering,
        self: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Any:
        window = _window(kernel_size, stride, padding, count)

        def f(x: Value) -> Any:
            return b.max_pool(
                x,
                **window,
                dilations=spread(dilation, count),
                ceil_mode=ceil_mode,
                results=2 if indices else 1,
            )

        found = _batched(b, self, count, f)
        if not indices:
            return found
        # ONNX counts through the whole tensor, PyTorch through each image.
        values, places = found
        sizes = [b.size_of(self, -1 - i) for i in range(count)]
        area: Any = sizes[0]
        for size in sizes[1:]:
            plain = isinstance(area, int) and isinstance(size, int)
            area = area * size if plain else b.arith("mul", area, size)
        return values, b.mod(places, b.operand(area, dtypes.I64))

    return row


def _avg_pool(count: int) -> Callable[..., Any]:
    def row(
        b: Lowering,
        self: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        window = _window(kernel_size, stride, padding, count)

        def f(x: Value) -> Any:
            include = count_include_pad or divisor_override is not None
            if include and not ceil_mode and not any(window["pads"]):
                include = False
            return b.average_pool(x, **window, ceil_mode=ceil_mode, count_include_pad=include)

        if divisor_override is not None and ceil_mode:
            raise UnsupportedError("divisor_override with ceil_mode", code="torch-op")
        found = _batched(b, self, count, f)
        if divisor_override is None:
            return found
        area = math.prod(window["kernel_shape"])
        return b.mul(found, b.like(found, area / divisor_override))

    return row


for _n in (1, 2, 3):
    torch_op(f"max_pool{_n}d")(_max_pool(_n, False))
    torch_op(f"max_pool{_n}d_with_indices")(_max_pool(_n, True))
    torch_op(f"avg_pool{_n}d")(_avg_pool(_n))


def _adaptive(count: int, average: bool) -> Callable[..., Any]:
    def row(b: Lowering, self: Value, output_size: Any) -> Any:
        size = spread(output_size, count)
        axes = list(range(b.rank(self) - count, b.rank(self)))
        if size == [1] * count and b.rank(self) == count + 2:
            pool = "global_average_pool" if average else "global_max_pool"
            return b.build(pool, self).result
        if size == [1] * count:
            name = "reduce_mean" if average else "reduce_max"
            return b.build(name, self, b.ints(axes), keepdims=True).result
        found = self
        for axis, wanted in zip(axes, size, strict=True):
            found = _adapted(b, found, axis, wanted, average)
        return found

    return row


def _adapted(b: Lowering, x: Value, axis: int, wanted: int, average: bool) -> Value:
    """Return one axis pooled to ``wanted`` cells: cell i ends at ceil((i+1) n / k)."""
    total = b.static_size(x, axis, "adaptive pooling")
    if total == wanted:
        return x
    starts = np.arange(wanted) * total // wanted
    ends = -(-(np.arange(wanted) + 1) * total // wanted)
    width = int((ends - starts).max())
    places = np.minimum(starts[:, None] + np.arange(width), (ends - 1)[:, None])
    windows = b.gather(x, b.const(places.astype(np.int64)), axis=axis)
    if not average:
        result: Value = b.reduce_max(windows, b.ints([axis + 1]), keepdims=False)
        return result
    inside = (starts[:, None] + np.arange(width)) < ends[:, None]
    shares = inside / (ends - starts)[:, None]
    shape = (wanted, width, *[1] * (b.rank(x) - axis - 1))
    weights = b.const(shares.reshape(shape).astype(dtype_of(x).numpy), x.dtype)
    mean: Value = b.reduce_sum(b.mul(windows, weights), b.ints([axis + 1]), keepdims=False)
    return mean


for _n in (1, 2, 3):
    torch_op(f"adaptive_avg_pool{_n}d")(_adaptive(_n, True))


torch_op("_adaptive_avg_pool2d")(_adaptive(2, True))
torch_op("_adaptive_avg_pool3d")(_adaptive(3, True))


def _adaptive_max(count: int) -> Callable[..., Any]:
    def row(b: Lowering, self: Value, output_size: Any) -> Any:
        if spread(output_size, count) != [1] * count:
            return _adaptive(count, False)(b, self, output_size), None
        axes = list(range(b.rank(self) - count, b.rank(self)))
        values = b.reduce_max(self, b.ints(axes), keepdims=True)
        lead = b.sizes_of(self)[: axes[0]]
        flat = b.arg_max(b.resized(self, [*lead, -1]), axis=axes[0], keepdims=True)
        return values, b.resized(flat, [*lead, *[1] * count])

    return row


for _n in (1, 2, 3):
    torch_op(f"adaptive_max_pool{_n}d")(_adaptive_max(_n))


# -- attention and distances -----------------------------------------------------------------------


@torch_op("scaled_dot_product_attention")
def attention(
    b: Lowering,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Any:
    """``softmax(q k^T * scale + mask) v``, spelled out; fusion finds attention again."""
    if dropout_p:
        raise UnsupportedError("dropout in training mode", code="torch-train")
    if enable_gqa:
        key, value = (_repeated_heads(b, query, v) for v in (key, value))
    width = b.static_size(query, -1, "attention")
    factor = 1 / math.sqrt(width) if scale is None else scale
    order = list(range(b.rank(key)))
    order[-2:] = order[-1], order[-2]
    scores = b.matmul(query, transposed(b, key, order))
    scores = b.mul(scores, b.like(scores, factor))
    if is_causal:
        lengths = [b.size_of(query, -2), b.size_of(key, -2)]
        ones = b.expand(b.full((), True, dtypes.BOOL), b.ints(lengths))
        visible = b.trilu(ones, b.full((), 0, dtypes.I64), upper=False)
        scores = b.where(visible, scores, b.like(scores, -math.inf))
    if attn_mask is not None and attn_mask.dtype is dtypes.BOOL:
        lowest = b.like(scores, -math.inf)
        scores = b.add(scores, b.where(attn_mask, b.like(scores, 0), lowest))
    elif attn_mask is not None:
        scores = b.add(scores, b.cast_to(attn_mask, dtype_of(scores)))
    weights = b.softmax(scores, axis=-1)
    if attn_mask is not None and attn_mask.dtype is dtypes.BOOL:
        # PyTorch gives 0 where nothing is visible.
        weights = b.where(b.is_nan(weights), b.like(weights, 0), weights)
    return b.matmul(weights, value)


def _repeated_heads(b: Lowering, query: Value, x: Value) -> Value:
    heads, groups = b.static_size(query, -3, "attention"), b.static_size(x, -3, "attention")
    if heads == groups:
        return x
    sizes = b.sizes_of(x)
    wide = b.unsqueeze(x, b.ints([b.rank(x) - 2]))
    wide = b.expand(wide, b.ints([*sizes[:-2], heads // groups, *sizes[-2:]]))
    return b.resized(wide, [*sizes[:-3], heads, *sizes[-2:]])


@torch_op("cdist", "_cdist_forward")
def cdist(b: Lowering, x1: Value, x2: Value, p: float = 2, compute_mode: int | None = None) -> Any:
    rank = b.rank(x1)
    away = b.sub(b.unsqueeze(x1, b.ints([rank - 1])), b.unsqueeze(x2, b.ints([rank - 2])))
    if p == 1:
        return b.reduce_l1(away, b.ints([rank]), keepdims=False)
    if p != 2:
        raise UnsupportedError(f"cdist of order {p}", code="torch-op")
    return b.reduce_l2(away, b.ints([rank]), keepdims=False)


@torch_op("cosine_similarity")
def cosine_similarity(b: Lowering, x1: Value, x2: Value, dim: int = 1, eps: float = 1e-8) -> Any:
    x, y = b.floats(x1, x2)
    axes = b.ints([b.axis(x, dim)])
    unit = [b.div(v, b.max(b.reduce_l2(v, axes, keepdims=True), b.like(v, eps))) for v in (x, y)]
    return b.reduce_sum(b.mul(*unit), axes, keepdims=False)


@torch_op("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    b: Lowering,
    weight: Value,
    indices: Value,
    offsets: Value,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Value | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Sums (mode 0) of rows; bags are cut at ``offsets``."""
    if mode != 0 or padding_idx not in (None, -1):
        raise UnsupportedError("embedding_bag of means, maxima or padding", code="torch-op")
    rows = b.gather(weight, b.resized(indices, [-1]), axis=0)
    if per_sample_weights is not None:
        rows = b.mul(rows, b.unsqueeze(b.resized(per_sample_weights, [-1]), b.ints([1])))
    total = b.cum_sum(
        b.pad(rows, b.ints([1, 0]), b.like(rows, 0), b.ints([0])), b.full((), 0, dtypes.I64)
    )
    starts = b.cast_to(offsets, dtypes.I64)
    count = b.shape(b.resized(indices, [-1]))
    ends = starts if include_last_offset else b.concat(starts, count, axis=0)
    places = b.gather(total, ends, axis=0)
    one, top = b.ints([1]), b.ints([1 << 62])
    after = b.slice(places, one, top, b.ints([0]))
    before = b.slice(places, b.ints([0]), b.ints([-1]), b.ints([0]))
    return b.sub(after, before), None, None, None
