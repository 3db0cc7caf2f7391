"""Rules that compute on a plane of one row what a target has no kernel for on a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_tensor
from lepton_ir.rewrite import rewrite
from lepton_ir.tensors import ElidedTensor, PermutedTensor

if TYPE_CHECKING:
    from lepton_ir.ir import Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_LINE = 3

_FIRST = {"strides": 1, "dilations": 1, "kernel_shape": 1, "output_padding": 0, "output_shape": 1}


def _row(rw: Rewriter, value: Value) -> Value:
    """Return ``value`` with an axis of size 1 in front of its spatial axis."""
    tensor = const_tensor(value)
    if tensor is not None and not isinstance(tensor, ElidedTensor):
        shape = (tensor.shape[0], 1, *tensor.shape[1:])
        order = tuple(range(len(tensor.shape)))
        return rw.const(PermutedTensor(tensor, order, tensor.shape, shape), name=value.name)
    made: Value = rw.unsqueeze(value, rw.const(np.asarray([1], np.int64)))
    return made


@rewrite(
    *("conv_nhwc", "conv_transpose_nhwc", "max_pool_nhwc", "average_pool_nhwc", "l2_pool_nhwc"),
    exact=True,
)
def line_to_plane(m: Match, rw: Rewriter) -> bool:
    """conv_nhwc(x [N, W, C], w) => squeeze(conv_nhwc(unsqueeze(x, 1), w), 1), pools alike.

    Only where the target has no kernel for lines.
    """
    op = m.root
    x = op.operands[0]
    if x is None or x.rank != _LINE:
        return rw.fail("x is no batch of lines")
    if rw.ctx.legal(op) is True:
        return rw.fail("the target computes on lines")
    attrs: dict[str, Any] = {
        k: (_FIRST[k], *v) if k in _FIRST and v else v for k, v in op.attrs.items()
    }
    if attrs.get("pads"):
        begin, end = attrs["pads"]
        attrs["pads"] = (0, begin, 0, end)
    rw.permit()
    values = [_row(rw, x), *op.operands[1:]]
    if len(values) > 1 and values[1] is not None:
        values[1] = _row(rw, values[1])
    made = rw.build(op.name, *values, **attrs).result
    return rw.replace(op, rw.squeeze(made, rw.const(np.asarray([1], np.int64))))
