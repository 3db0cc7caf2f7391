"""A rule for convolutions whose dilation TensorFlow spells with blocks moved to batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import made_by, sole_user
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter


def _ints(op: Op, name: str) -> list[int] | None:
    array = const_array(op.operand(name))
    return None if array is None else [int(i) for i in array.reshape(-1)]


def _plain(conv: Op, spatial: int) -> bool:
    """Whether a convolution neither pads nor strides nor dilates."""
    ones = (1,) * spatial
    for name in ("strides", "dilations"):
        if tuple(conv.attr(name) or ones) != ones:
            return False
    return conv.attr("auto_pad") in ("NOTSET", "VALID") and not any(conv.attr("pads") or ())


@rewrite("conv_nhwc", benefit=1)
def dilated_by_batches(m: Match, rw: Rewriter) -> bool:
    """batch_to_space_nd(conv_nhwc(space_to_batch_nd(x, d), w), d) => conv_nhwc(x, w) dilated by d.

    Each batch holds the pixels of one phase; the pads of the one and the crops of the other make
    those of the convolution.
    """
    conv = m.root
    apart = made_by(conv.operands[0], "space_to_batch_nd")
    users = conv.result.users
    if apart is None or conv.operands[0] is None:
        return False
    joined = users[0] if len(users) == 1 and conv.result.use_count == 1 else None
    if joined is None or joined.name != "batch_to_space_nd" or not sole_user(conv.operands[0]):
        return rw.fail("what is moved to batches has other readers")
    rank = conv.result.rank
    blocks, back = _ints(apart, "block_shape"), _ints(joined, "block_shape")
    pads, crops = _ints(apart, "paddings"), _ints(joined, "crops")
    if rank is None or blocks is None or pads is None or crops is None or blocks != back:
        return rw.fail("blocks, pads or crops are not known, or differ")
    if len(blocks) != rank - 2 or not _plain(conv, rank - 2):
        return rw.fail("the convolution pads, strides or dilates by itself")
    left = [p - c for p, c in zip(pads, crops, strict=True)]
    if min(left) < 0:
        return rw.fail("more is cropped than was padded")
    attrs = {
        **conv.attrs,
        "auto_pad": "NOTSET",
        "dilations": tuple(blocks),
        "pads": (*left[::2], *left[1::2]),
    }
    rw.also(apart, joined)
    made = rw.build("conv_nhwc", apart.operands[0], *conv.operands[1:], **attrs)
    return rw.replace(joined.result, made.result)
