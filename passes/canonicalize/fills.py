"""Tensors filled with one number at run time: their shapes, and sums with zeros."""

from __future__ import annotations

from lepton_ir.infer import const_tensor
from lepton_ir.passes.canonicalize.states import is_zeros
from lepton_ir.pattern import Match
from lepton_ir.rewrite import Rewriter, rewrite


@rewrite("shape", exact=True)
def shape_of_fill(m: Match, rw: Rewriter) -> bool:
    """shape(constant_of_shape(s)) => s."""
    x = m.root.operands[0]
    fill = None if x is None else x.op
    if fill is None or fill.name != "constant_of_shape" or fill.has_attr_refs:
        return False
    if m.root.attr("start") != 0 or m.root.attr("end") is not None:
        return rw.fail("it asks for a part of the shape")
    rw.also(fill)
    assert fill.operands[0] is not None
    return rw.replace(m.root, fill.operands[0])


@rewrite("add", "sub")
def add_zeros(m: Match, rw: Rewriter) -> bool:
    """X + constant_of_shape(s){0} => x, x - 0 => x where x has the shape of the result.

    Up to the sign of zero.
    """
    x, y = m.root.operands
    for value, zeros in ((x, y), (y, x)):
        if value is None or const_tensor(zeros) is not None or not is_zeros(zeros):
            continue
        if m.root.name == "sub" and zeros is x:
            return rw.fail("the zeros are on the left")
        return rw.replace(m.root, value)
    return False
