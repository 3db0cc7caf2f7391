"""Pads that a convolution or a pooling window can do by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.infer import const_array, const_tensor
from lepton_ir.passes.fuse._match import made_by, sole_user
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_NOT_NEGATIVE = ("relu", "sigmoid", "abs", "exp", "hard_sigmoid", "softmax", "softplus")


def spatial_pads(pad: Op, rank: int) -> tuple[list[int], list[int]] | str:
    """Return begins and ends of the spatial axes, or why the pad is not such a one.

    Args:
        pad: a pad operation.
        rank: rank of its operand.
    """
    if pad.attr("mode") != "constant":
        return f"its mode is {pad.attr('mode')}"
    amounts = const_array(pad.operand("pads"))
    if amounts is None:
        return "its amounts are not constant"
    axes = list(range(rank))
    if pad.operand("axes") is not None:
        found = const_array(pad.operand("axes"))
        if found is None:
            return "its axes are not constant"
        axes = [int(a) % rank for a in found.reshape(-1)]
    flat = [int(p) for p in amounts.reshape(-1)]
    if len(flat) != 2 * len(axes) or len(set(axes)) != len(axes):
        return "its amounts do not fit its axes"
    begins, ends = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        begins[axis], ends[axis] = flat[i], flat[len(axes) + i]
    if min((*begins, *ends)) < 0:
        return "it cuts"
    if any((*begins[:2], *ends[:2])):
        return "it pads the batch or the channels"
    return begins[2:], ends[2:]


def _fill(pad: Op) -> float | None:
    value = pad.operand("constant_value")
    if value is None:
        return 0.0
    array = const_array(value)
    if array is None or array.size != 1:
        return None
    return float(array.reshape(-1)[0])


def _pad_before(m: Match, rw: Rewriter) -> Op | None:
    pad = made_by(m.root.operands[0], "pad")
    if pad is None:
        return None
    if not sole_user(pad.result):
        rw.fail("the pad has other users")
        return None
    return pad


def _absorbed(m: Match, rw: Rewriter, pad: Op, rank: int) -> tuple[int, ...] | None:
    """Return the pads of window operation and pad together; says why not."""
    found = spatial_pads(pad, rank)
    if isinstance(found, str):
        rw.fail("{}", found)
        return None
    if m.root.attr("auto_pad") in ("SAME_UPPER", "SAME_LOWER"):
        rw.fail("the window chooses its pads by the padded size")
        return None
    own = m.root.attr("pads") if m.root.attr("auto_pad") == "NOTSET" else None
    own = own or (0,) * (2 * (rank - 2))
    return tuple(a + b for a, b in zip(own, (*found[0], *found[1]), strict=True))


def _with_pads(m: Match, rw: Rewriter, pad: Op, pads: tuple[int, ...], **more: object) -> bool:
    root = m.root
    rw.also(pad)
    attrs = {**root.all_attrs(), **more, "pads": pads, "auto_pad": "NOTSET"}
    operands: list[Value | None] = [pad.operands[0], *root.operands[1:]]
    made = rw.build(root.name, *operands, results=len(root.results), **attrs)
    return rw.replace(root, list(made.results))


@rewrite("conv", "conv_integer", "qlinear_conv")
def pad_into_conv(m: Match, rw: Rewriter) -> bool:
    """conv(pad(x, p, zero), pads=q) => conv(x, pads=p + q) for constant p of spatial axes.

    Integer convolutions pad with their zero point.
    """
    pad = _pad_before(m, rw)
    if pad is None:
        return False
    rank = m.root.operands[0].rank if m.root.operands[0] is not None else None
    if rank is None:
        return rw.fail("the rank is not known")
    fill = _fill(pad)
    zero = 0.0
    if m.root.name != "conv":
        point = m.root.operand("x_zero_point")
        known = const_array(point)
        if point is not None and (known is None or known.size != 1):
            return rw.fail("the zero point is not a constant")
        zero = 0.0 if known is None else float(known.reshape(-1)[0])
    if fill is None or fill != zero:
        return rw.fail("it pads with {}, not {}", fill, zero)
    pads = _absorbed(m, rw, pad, rank)
    return False if pads is None else _with_pads(m, rw, pad, pads)


def _smaller_than_kernel(root: Op, pads: tuple[int, ...]) -> bool:
    """Runtimes refuse pooling windows that may lie in the padding altogether."""
    kernel = root.attr("kernel_shape")
    return all(p < k for p, k in zip(pads, (*kernel, *kernel), strict=True))


def _pool_rank(root: Op) -> int:
    return len(root.attr("kernel_shape")) + 2


@rewrite("average_pool")
def pad_into_average_pool(m: Match, rw: Rewriter) -> bool:
    """average_pool(pad(x, p, 0)) => average_pool(x, pads=p, count_include_pad=true)."""
    pad = _pad_before(m, rw)
    if pad is None:
        return False
    root = m.root
    if root.attr("ceil_mode"):
        return rw.fail("windows beyond the end count differently")
    if any(root.attr("pads") or ()) and not root.attr("count_include_pad"):
        return rw.fail("the pool leaves its own padding out of the mean")
    if _fill(pad) != 0:
        return rw.fail("it does not pad with zeros")
    pads = _absorbed(m, rw, pad, _pool_rank(root))
    if pads is None:
        return False
    if not _smaller_than_kernel(root, pads):
        return rw.fail("the pads are not smaller than the kernel")
    return _with_pads(m, rw, pad, pads, count_include_pad=True)


def _sees_elements(root: Op, x: Value, pads: tuple[int, ...]) -> bool:
    """Whether each window covers an element of x; padding alone gives the lowest value."""
    if any(d != 1 for d in root.attr("dilations") or ()):
        return False
    kernel = root.attr("kernel_shape")
    rank = len(kernel)
    sizes = (None,) * rank if x.shape is None else x.shape[2:]
    return all(
        pads[i] + pads[rank + i] < kernel[i] or (isinstance(size, int) and size > 0)
        for i, size in enumerate(sizes)
    )


def _lowest(value: Value) -> float | None:
    if value.dtype is None:
        return None
    if value.dtype.is_float:
        return -np.inf
    return float(np.iinfo(value.dtype.numpy).min) if value.dtype.bits >= 8 else None


def _is_not_negative(value: Value | None) -> bool:
    if made_by(value, *_NOT_NEGATIVE) is not None:
        return True
    clip = made_by(value, "clip")
    low = None if clip is None else const_array(clip.operand("min"))
    return low is not None and low.size == 1 and bool(low.reshape(-1)[0] >= 0)


@rewrite("max_pool")
def pad_into_max_pool(m: Match, rw: Rewriter) -> bool:
    """max_pool(pad(x, p, lowest)) => max_pool(x, pads=p); 0 is lowest enough where x >= 0."""
    pad = _pad_before(m, rw)
    if pad is None:
        return False
    root, x = m.root, pad.operands[0]
    if len(root.results) > 1 or root.attr("ceil_mode"):
        return rw.fail("positions or windows beyond the end would change")
    fill = _fill(pad)
    assert x is not None
    lowest = _lowest(x)
    if fill is None or not (fill == lowest or (fill <= 0 and _is_not_negative(x))):
        return rw.fail("it pads with {}, not with {}", fill, lowest)
    if const_tensor(pad.operand("pads")) is None:
        return rw.fail("its amounts are not constant")
    pads = _absorbed(m, rw, pad, _pool_rank(root))
    if pads is None:
        return False
    if not _smaller_than_kernel(root, pads) or not _sees_elements(root, x, pads):
        return rw.fail("a window may lie in the padding altogether")
    return _with_pads(m, rw, pad, pads)
