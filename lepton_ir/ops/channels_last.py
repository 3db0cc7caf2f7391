"""Convolution, pooling and kin on tensors whose channels are the last axis (N, spatial..., C).

They are operations of their own, not a layout attribute of the channels-first ones: whoever
matches ``conv`` may rely on axis 1 being the channels. Each has the meaning, the inference and the
constraints of its namesake on permuted axes, and decomposes into it between two transposes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import opdef
from lepton_ir.infer import InferContext
from lepton_ir.opdef import Bool, Float, Int, Ints, Str, op
from lepton_ir.ops._nn import Array, operand, require_rank
from lepton_ir.ops._numeric import widen
from lepton_ir.ops._support import evaluate
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value

Order = tuple[int, ...]


def channels_first(rank: int) -> Order:
    """The permutation from (N, spatial..., C) to (N, C, spatial...); also OHWI to OIHW."""
    return (0, rank - 1, *range(1, rank - 1))


def channels_last(rank: int) -> Order:
    """The permutation from (N, C, spatial...) to (N, spatial..., C)."""
    return (0, *range(2, rank), 1)


def input_first(rank: int) -> Order:
    """The permutation from (M, spatial..., C) to (C, M, spatial...), of transposed weights."""
    return (rank - 1, *range(rank - 1))


_ORDERS: dict[str, Callable[[int], Order]] = {"x": channels_first, "w": channels_first}
_TRANSPOSED = _ORDERS | {"w": input_first}


class _Permuted(InferContext):
    """What the channels-first namesake's inference sees: the same operation, axes permuted."""

    __slots__ = ("_orders",)

    def __init__(self, ctx: InferContext, orders: dict[str, Callable[[int], Order]]) -> None:
        super().__init__(ctx.op)
        self._orders = orders

    def shape(self, name: str) -> Any:
        """The operand's shape, in the order of axes that the namesake has."""
        found = super().shape(name)
        if found is None or name not in self._orders or len(found) < 2:
            return found
        return tuple(found[i] for i in self._orders[name](len(found)))


def _inferred(ctx: InferContext, name: str, orders: dict[str, Callable[[int], Order]]) -> Type:
    definition = opdef.lookup(name)
    assert definition is not None
    found = definition.infer(_Permuted(ctx, orders))
    first = found if isinstance(found, Type) else found[0]
    assert isinstance(first, TensorType)
    shape = first.shape
    if shape is None or len(shape) < 2:
        return first
    return TensorType(first.dtype, [shape[i] for i in channels_last(len(shape))])


def _evaluated(name: str, x: Array, *others: Array | None, **attrs: Any) -> Array:
    """The namesake's meaning on the permuted ``x``; ``others`` are in its order already."""
    if x.ndim < 3:
        raise ValueError(f"x has rank {x.ndim}, which has no spatial axes")
    found = evaluate(name, x.transpose(channels_first(x.ndim)), *others, **attrs)
    y: Array = found[0] if isinstance(found, tuple) else found
    return np.ascontiguousarray(y.transpose(channels_last(y.ndim)))


def _weights_first(w: Array, order: Callable[[int], Order]) -> Array:
    if w.ndim < 3:
        raise ValueError(f"w has rank {w.ndim}, which has no spatial axes")
    return w.transpose(order(w.ndim))


def _between_transposes(
    b: Builder, op: Op, build: Callable[[Value], Value], what: str = "x"
) -> list[Value]:
    x = operand(op, what)
    rank = require_rank(x, what)
    y = build(b.transpose(x, perm=channels_first(rank)))
    return [b.transpose(y, perm=channels_last(rank))]


def _convolution(
    name: str, order: Callable[[int], Order]
) -> Callable[[Builder, Op], Sequence[Value]]:
    """Return the decomposition into ``name`` with weights in ``order``."""

    def decompose(b: Builder, op: Op) -> list[Value]:
        w = operand(op, "w")
        weights = b.transpose(w, perm=order(require_rank(w, "w")))
        bias = op.operand("b")
        return _between_transposes(
            b, op, lambda x: b.build(name, x, weights, bias, **op.attrs).result
        )

    return decompose


def _unary(name: str) -> Callable[[Builder, Op], Sequence[Value]]:
    """Return the decomposition into the one-operand operation ``name``."""

    def decompose(b: Builder, op: Op) -> list[Value]:
        return _between_transposes(b, op, lambda x: b.build(name, x, **op.attrs).result)

    return decompose


# -- convolution -----------------------------------------------------------------------------------


@op(
    "conv_nhwc(x, w, b?)",
    infer=lambda ctx: _inferred(ctx, "conv", _ORDERS),
    traits="composite",
    decompose=_convolution("conv", channels_first),
)
def conv_nhwc(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: Str = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Convolve x (N, spatial..., C) with w (M, kernel..., C/group), add b (M).

    TFLite's CONV_2D and CONV_3D; DEPTHWISE_CONV_2D is ``group`` = C.

    C1  rank(x) == rank(w) >= 3
    C2  channels(x) == channels(w) * group, and group divides w.shape[0]
    C3  b is a vector of w.shape[0] elements
    C5  one stride and dilation >= 1 and two pads for every spatial axis
    """
    weights = _weights_first(w, channels_first)
    attrs = {"auto_pad": auto_pad, "dilations": dilations, "group": group}
    return _evaluated("conv", x, weights, b, pads=pads, strides=strides, **attrs)


@op(
    "conv_transpose_nhwc(x, w, b?)",
    infer=lambda ctx: _inferred(ctx, "conv_transpose", _TRANSPOSED),
    traits="composite",
    decompose=_convolution("conv_transpose", input_first),
)
def conv_transpose_nhwc(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: Str = "NOTSET",
    dilations: Ints | None = None,
    group: Int = 1,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Transposed convolution of x (N, spatial..., C) with w (M/group, kernel..., C), plus b (M).

    TFLite's TRANSPOSE_CONV; the attributes are those of ``conv_transpose``.

    C1  rank(x) == rank(w) >= 3
    C2  channels(x) == channels(w), and group divides them
    C3  b is a vector of w.shape[0] * group elements
    C5  one stride and dilation >= 1 and two pads for every spatial axis
    """
    weights = _weights_first(w, input_first)
    attrs = {"auto_pad": auto_pad, "dilations": dilations, "group": group, "pads": pads}
    return _evaluated(
        "conv_transpose",
        x,
        weights,
        b,
        output_padding=output_padding,
        output_shape=output_shape,
        strides=strides,
        **attrs,
    )


# -- pooling ---------------------------------------------------------------------------------------


@op(
    "max_pool_nhwc(x)",
    infer=lambda ctx: _inferred(ctx, "max_pool", _ORDERS),
    traits="composite",
    decompose=_unary("max_pool"),
)
def max_pool_nhwc(
    x: Array,
    *,
    auto_pad: Str = "NOTSET",
    ceil_mode: Bool = False,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Maximum of every window of x (N, spatial..., C) (TFLite's MAX_POOL_2D).

    C1  rank(x) == len(kernel_shape) + 2
    C2  one stride and dilation >= 1 and two pads for every spatial axis
    """
    attrs = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "dilations": dilations, "pads": pads}
    return _evaluated("max_pool", x, kernel_shape=kernel_shape, strides=strides, **attrs)


@op(
    "average_pool_nhwc(x)",
    infer=lambda ctx: _inferred(ctx, "average_pool", _ORDERS),
    traits="composite",
    decompose=_unary("average_pool"),
)
def average_pool_nhwc(
    x: Array,
    *,
    auto_pad: Str = "NOTSET",
    ceil_mode: Bool = False,
    count_include_pad: Bool = False,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Mean of every window of x (N, spatial..., C) (TFLite's AVERAGE_POOL_2D).

    Padding counts into the divisor with ``count_include_pad`` only.

    C1  rank(x) == len(kernel_shape) + 2
    C2  one stride and dilation >= 1 and two pads for every spatial axis
    """
    attrs = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "dilations": dilations, "pads": pads}
    return _evaluated(
        "average_pool",
        x,
        count_include_pad=count_include_pad,
        kernel_shape=kernel_shape,
        strides=strides,
        **attrs,
    )


def _decompose_l2_pool(b: Builder, op: Op) -> list[Value]:
    x = operand(op, "x")
    return [b.sqrt(b.build("average_pool_nhwc", b.mul(x, x), **op.attrs).result)]


@op(
    "l2_pool_nhwc(x)",
    infer=lambda ctx: _inferred(ctx, "average_pool", _ORDERS),
    traits="composite",
    decompose=_decompose_l2_pool,
)
def l2_pool_nhwc(
    x: Array,
    *,
    auto_pad: Str = "NOTSET",
    ceil_mode: Bool = False,
    count_include_pad: Bool = False,
    dilations: Ints | None = None,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Root of the mean square of every window of x (N, spatial..., C) (TFLite's L2_POOL_2D).

    Unlike ``lp_pool`` it divides by the number of elements, as ``average_pool`` does.

    C1  rank(x) == len(kernel_shape) + 2
    C2  one stride and dilation >= 1 and two pads for every spatial axis
    """
    attrs = {"auto_pad": auto_pad, "ceil_mode": ceil_mode, "dilations": dilations, "pads": pads}
    mean = _evaluated(
        "average_pool",
        np.square(widen(x)),
        count_include_pad=count_include_pad,
        kernel_shape=kernel_shape,
        strides=strides,
        **attrs,
    )
    return np.asarray(np.sqrt(mean)).astype(x.dtype, copy=False)


# -- channels and the plane ------------------------------------------------------------------------


@op(
    "depth_to_space_nhwc(x)",
    infer=lambda ctx: _inferred(ctx, "depth_to_space", _ORDERS),
    traits="composite",
    decompose=_unary("depth_to_space"),
)
def depth_to_space_nhwc(x: Array, *, blocksize: Int, mode: Str = "DCR") -> Array:
    """Move blocks of the channels of x (N, H, W, C) into the plane (TFLite's DEPTH_TO_SPACE).

    C1  rank(x) = 4
    C2  blocksize >= 1; mode is DCR (TFLite's) or CRD
    C3  blocksize * blocksize divides the channels
    """
    return _evaluated("depth_to_space", x, blocksize=blocksize, mode=mode)


@op(
    "space_to_depth_nhwc(x)",
    infer=lambda ctx: _inferred(ctx, "space_to_depth", _ORDERS),
    traits="composite",
    decompose=_unary("space_to_depth"),
)
def space_to_depth_nhwc(x: Array, *, blocksize: Int, mode: Str = "DCR") -> Array:
    """Move blocks of the plane of x (N, H, W, C) into channels (TFLite's SPACE_TO_DEPTH).

    C1  rank(x) = 4
    C2  blocksize >= 1; mode is DCR (TFLite's) or CRD
    C3  blocksize divides height and width
    """
    return _evaluated("space_to_depth", x, blocksize=blocksize, mode=mode)


@op(
    "lrn_nhwc(x)",
    infer=lambda ctx: _inferred(ctx, "lrn", _ORDERS),
    traits="composite",
    decompose=_unary("lrn"),
)
def lrn_nhwc(
    x: Array,
    *,
    alpha: Float = 9.999999747378752e-05,
    beta: Float = 0.75,
    bias: Float = 1.0,
    size: Int,
) -> Array:
    """Divide by ``(bias + alpha / size * sum of squares of size neighbour channels) ** beta``.

    As ``lrn`` for x (N, spatial..., C). TFLite's LOCAL_RESPONSE_NORMALIZATION does not divide
    alpha, and its radius is ``(size - 1) / 2``.

    C1  rank(x) >= 3
    """
    return _evaluated("lrn", x, alpha=alpha, beta=beta, bias=bias, size=size)
