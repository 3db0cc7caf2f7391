"""Normalizations of a sum, as transformers have them after every block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.dims import same_dim
from lepton_ir.passes.fuse._match import made_by, sole_user
from lepton_ir.passes.fuse.ort_common import (
    biased,
    contrib,
    is_f32,
    only_used_after,
    row_vector,
    same_shape,
)
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_NAMES = {
    "layer_normalization": "ms_skip_layer_normalization",
    "rms_normalization": "ms_skip_simplified_layer_normalization",
    "ms_simplified_layer_normalization": "ms_skip_simplified_layer_normalization",
}


def _skips(skip: Value, x: Value) -> bool:
    """Whether ``skip`` has the shape of ``x``, or that of one sample of it, proven."""
    if same_shape(skip, x):
        return True
    if skip.shape is None or x.shape is None or len(x.shape) != 3 or len(skip.shape) not in (2, 3):
        return False
    if len(skip.shape) == 3 and skip.shape[0] != 1:
        return False
    return all(same_dim(a, b) for a, b in zip(skip.shape[-2:], x.shape[-2:], strict=True))


def _normalizes_rows(op: Op) -> bool:
    x = op.operands[0]
    if x is None or x.rank not in (2, 3) or len(op.results) != 1:
        return False
    return op.attr("axis") in (-1, x.rank - 1) and row_vector(op.operands[1], x)


def _addends(add: Op) -> tuple[Value, Value] | None:
    """Return x and skip of their sum, whose shape is that of x."""
    a, b = add.operands
    if a is None or b is None:
        return None
    for x, skip in ((a, b), (b, a)):
        if same_shape(x, add.result) and _skips(skip, x):
            return x, skip
    return None


@rewrite(*_NAMES)
def fuse_skip_norm(m: Match, rw: Rewriter) -> bool:
    """layer_normalization(x + skip, g, b) => ms_skip_layer_normalization(x, skip, g, b).

    The same for root mean square normalization. Other readers of the sum get it as a result.
    """
    norm = m.root
    add = made_by(norm.operands[0], "add")
    if add is None or not _normalizes_rows(norm):
        return False
    pair = _addends(add)
    if pair is None:
        return rw.fail("the operands of {} are not proven to have the same shape", add)
    name = _NAMES[norm.name]
    if not is_f32(*pair, *norm.operands) or not contrib(rw, name):
        return rw.fail("elements are {}", pair[0].dtype)
    wanted = not sole_user(add.result)
    if wanted and not only_used_after(add.result, norm):
        return rw.fail("the sum is read before {}", norm)
    rw.also(add)
    made = rw.build(
        name, *pair, *norm.operands[1:], results=4 if wanted else 1, epsilon=norm.attr("epsilon")
    )
    answer = rw.ctx.legal(made)
    if answer is not True:
        return rw.fail("{} cannot be written: {}", name, answer)
    rw.replace(norm, made.results[0])
    return rw.replace(add, made.results[3]) if wanted else True


@rewrite("ms_skip_layer_normalization", "ms_skip_simplified_layer_normalization")
def bias_into_skip_norm(m: Match, rw: Rewriter) -> bool:
    """ms_skip_layer_normalization(x + c, skip, g, b) => ... with bias=c, c one per column.

    Only x + c may have no other users, and it has the shape of x.
    """
    norm = m.root
    if norm.operand("bias") is not None:
        return False
    for i in (0, 1):
        found = biased(norm.operands[i])
        if found is None or not sole_user(found[0].result):
            continue
        add, x, bias = found
        first, second = (x, norm.operands[1]) if i == 0 else (norm.operands[0], x)
        if not is_f32(bias) or not same_shape(x, add.result):
            continue
        if norm.name == "ms_skip_layer_normalization":
            rest = [norm.operands[2], norm.operand("beta"), bias]
        else:
            rest = [norm.operands[2], bias]
        rw.also(add)
        made = rw.build(
            norm.name, first, second, *rest, results=len(norm.results), **norm.all_attrs()
        )
        return rw.replace(norm, list(made.results))
    return False
