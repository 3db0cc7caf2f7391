"""Geometry of sliding windows (convolution and pooling), in numbers and in symbolic dims.

Attribute ``pads`` is ``(begin of each axis..., end of each axis...)``; ``auto_pad`` follows ONNX:
``NOTSET`` takes ``pads``, ``VALID`` none, ``SAME_UPPER`` and ``SAME_LOWER`` make the output
``ceil(size / stride)`` with the odd element of padding at the end or at the beginning.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lepton_ir import dims
from lepton_ir.ops._nn import Array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.infer import InferContext

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


class Window(NamedTuple):
    """A sliding window along one axis of a concrete tensor.

    Attributes:
        size: elements of the input along the axis.
        kernel: taps of the window.
        stride: distance of neighbouring windows.
        dilation: distance of neighbouring taps.
        begin: padding in front.
        end: padding behind.
        out: number of windows.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    out: int

    @property
    def extent(self) -> int:
        """Elements from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    def tap(self, index: int) -> slice:
        """Where tap ``index`` of every window lies in the padded axis."""
        if self.out <= 0:
            return slice(0, 0)
        start = index * self.dilation
        return slice(start, start + (self.out - 1) * self.stride + 1, self.stride)


class Spec(NamedTuple):
    """The window attributes of an operation, completed for ``rank`` spatial axes.

    With ``pooling``, ``SAME_*`` with dilated windows has no result: runtimes pad for the window
    without its dilation, which the specification does not.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str
    ceil_mode: bool = False
    pooling: bool = False


def complete(
    rank: int,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str = "NOTSET",
    ceil_mode: bool = False,
    pooling: bool = False,
) -> Spec:
    """Return the attributes with absent ones filled in (strides and dilations 1, pads 0).

    Raises:
        ValueError: wrong lengths, strides or dilations below 1, an unknown ``auto_pad``.
    """
    ones, zeros = (1,) * rank, (0,) * (2 * rank)
    spec = Spec(
        ones if strides is None else tuple(strides),
        ones if dilations is None else tuple(dilations),
        zeros if pads is None else tuple(pads),
        auto_pad or "NOTSET",
        ceil_mode,
        pooling,
    )
    for name, values, length in (
        ("strides", spec.strides, rank),
        ("dilations", spec.dilations, rank),
        ("pads", spec.pads, 2 * rank),
    ):
        if len(values) != length:
            raise ValueError(f"{name} has {len(values)} elements but should have {length}")
    if min((*spec.strides, *spec.dilations), default=1) < 1:
        raise ValueError("strides and dilations should be at least 1")
    if spec.auto_pad not in AUTO_PADS:
        raise ValueError(f"auto_pad should be one of {', '.join(AUTO_PADS)}, got {auto_pad!r}")
    return spec


def windows(sizes: Sequence[int], kernel: Sequence[int], spec: Spec) -> list[Window]:
    """Return the windows over concrete spatial ``sizes``.

    Raises:
        ValueError: negative pads, a kernel larger than the padded input, or an ``auto_pad`` of
            which the specification's formula and its runtimes disagree.
    """
    found = []
    rank = len(sizes)
    if len(kernel) != rank:
        raise ValueError(f"the kernel has {len(kernel)} axes but x has {rank} spatial axes")
    for i, (size, taps) in enumerate(zip(sizes, kernel, strict=True)):
        stride, dilation = spec.strides[i], spec.dilations[i]
        extent = (taps - 1) * dilation + 1
        begin, end = spec.pads[i], spec.pads[rank + i]
        if spec.auto_pad == "VALID":
            begin = end = 0
        elif spec.auto_pad != "NOTSET":
            total = (-(-size // stride) - 1) * stride + extent - size
            # One element too many is left out at the end by all; more, runtimes cut in front too.
            if total < -1 or (spec.pooling and _dilated(taps, dilation)):
                raise ValueError(f"there is no agreed padding of auto_pad {spec.auto_pad}")
            total = max(total, 0)
            half = total // 2
            begin, end = (
                (half, total - half)
                if spec.auto_pad == "SAME_UPPER"
                else (
                    total - half,
                    half,
                )
            )
        if begin < 0 or end < 0:
            raise ValueError(f"pads of spatial axis {i} are negative: {begin}, {end}")
        if taps < 1 or size + begin + end < extent:
            raise ValueError(
                f"a window of {extent} does not fit spatial axis {i} of {size + begin + end}"
            )
        out = output_dim(size, taps, stride, dilation, (begin, end), spec)
        if not isinstance(out, int):
            raise ValueError(f"auto_pad {spec.auto_pad} has no agreed number of windows here")
        found.append(Window(size, taps, stride, dilation, begin, end, out))
    return found


def _dilated(kernel: Dim | None, dilation: int) -> bool:
    """Whether dilation makes the window longer (or may do so)."""
    return dilation > 1 and kernel != 1


def output_dim(
    size: Dim | None,
    kernel: Dim | None,
    stride: int,
    dilation: int,
    pads: tuple[int, int],
    spec: Spec,
) -> Dim | None:
    """Return the number of windows along one axis, ``None`` when it cannot be told.

    ``floor((size + pads - extent) / stride) + 1``; with ``ceil_mode`` the quotient is rounded up
    and a window that would start in the padding behind is dropped. A symbolic size is taken to be
    large enough for one window, as the operation requires.
    """
    if size is None:
        return None
    if spec.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        agreed = not (spec.pooling and _dilated(kernel, dilation))
        return dims.ceildiv(size, stride) if agreed else None
    if kernel is None:
        return None
    begin, end = (0, 0) if spec.auto_pad == "VALID" else pads
    extent = dims.add(dims.mul(dims.sub(kernel, 1), dilation), 1)
    room = dims.sub(dims.add(size, begin + end), extent)
    if dims.prove_ge(room, 0) is False:
        return None
    floor = dims.add(dims.floordiv(room, stride), 1)
    if not spec.ceil_mode or dims.divides(stride, room):
        return floor
    ceil = dims.add(dims.ceildiv(room, stride), 1)
    starts = dims.add(dims.floordiv(dims.sub(dims.add(size, begin), 1), stride), 1)
    rounded = dims.minimum(ceil, starts)
    if spec.auto_pad == "VALID" and dims.prove_eq(rounded, floor) is not True:
        return None
    return rounded


def output_dims(
    ctx: InferContext,
    sizes: Sequence[Dim | None],
    kernel: Sequence[Dim | None],
    constraint: str,
) -> list[Dim | None]:
    """Return the inferred spatial dims from the operation's window attributes.

    Raises:
        VerifyError: attribute lengths or values break ``constraint``.
    """
    get = ctx.attrs.get
    try:
        spec = complete(
            len(sizes),
            get("strides"),
            get("dilations"),
            get("pads"),
            get("auto_pad", "NOTSET"),
            bool(get("ceil_mode")),
            "ceil_mode" in ctx.attrs,
        )
    except ValueError as error:
        ctx.fail(constraint, str(error))
    if len(kernel) != len(sizes):
        ctx.fail(constraint, f"a kernel of {len(kernel)} axes over {len(sizes)} spatial axes")
    found = []
    for i, (size, taps_) in enumerate(zip(sizes, kernel, strict=True)):
        stride, dilation = spec.strides[i], spec.dilations[i]
        pads = (spec.pads[i], spec.pads[len(sizes) + i])
        if (
            isinstance(size, int)
            and isinstance(taps_, int)
            and not spec.auto_pad.startswith("SAME")
        ):
            room = size + (0 if spec.auto_pad == "VALID" else sum(pads))
            extent = (taps_ - 1) * dilation + 1
            # Less than this, runtimes may still round to one window or none.
            if room - extent < -stride:
                ctx.fail(
                    constraint, f"a window of {extent} does not fit spatial axis {i} of {room}"
                )
        found.append(output_dim(size, taps_, stride, dilation, pads, spec))
    return found


def pad_spatial(x: Array, axes: Sequence[Window], value: Any = 0) -> Array:
    """Return ``x`` (batch, channel, spatial...) padded so that every window lies inside."""
    widths = [(0, 0)] * (x.ndim - len(axes))
    for a in axes:
        needed = (a.out - 1) * a.stride + a.extent - a.begin - a.size
        widths.append((a.begin, max(a.end, needed, 0)))
    if not any(any(w) for w in widths):
        return x
    shape = tuple(n + b + e for n, (b, e) in zip(x.shape, widths, strict=True))
    out = np.full(shape, value, x.dtype)
    out[tuple(slice(b, b + n) for n, (b, _) in zip(x.shape, widths, strict=True))] = x
    return out


def taps(axes: Sequence[Window]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield every tap of the kernel in row-major order, with its slices of the padded input."""
    for tap in itertools.product(*(range(a.kernel) for a in axes)):
        yield tap, tuple(a.tap(t) for a, t in zip(axes, tap, strict=True))
