"""Einsum of one or two operands: transpositions around a product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.expression import Expression
from lepton_ir.backends.numba.kernels.gemm import lower_product
from lepton_ir.backends.numba.kernels.panels import pack_panels, width_of
from lepton_ir.backends.numba.kernels.views import permuted, reshaped
from lepton_ir.backends.numba.lowering import Lowering, lowers
from lepton_ir.backends.numba.plan import Tensor, row_major
from lepton_ir.ops.linalg import parse_einsum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.backends.numba.plan import Array, Ref

_PLAIN = Expression(("f32",), (), (0,))


@lowers("einsum")
def lower_einsum(lo: Lowering) -> None:
    """Lower Einsum where every label is in the result or in both operands, each once."""
    given = [lo.operand(i) for i in range(len(lo.anchor.operands))]
    given = [lo.plain(t) if t.blocked is not None else t for t in given]
    terms, result = parse_einsum(lo.anchor.attr("equation"), len(given))
    if any(len(set(t)) != len(t) or "..." in t for t in terms):
        lo.decline("an ellipsis, or a label twice in a term")
    if len(given) == 1 and set(terms[0]) == set(result):
        lo.set(permuted(given[0], [terms[0].index(n) for n in result]))
    elif len(given) == 2:
        _product(lo, given, terms, result)
    else:
        lo.decline("more than two operands, or a sum over one")


class _Labels:
    """What the labels of a product of two operands are for."""

    def __init__(self, lo: Lowering, terms: Sequence[list[str]], result: list[str]) -> None:
        left, right = terms
        self.batch = [n for n in result if n in left and n in right]
        self.rows = [n for n in left if n not in right]
        self.columns = [n for n in right if n not in left]
        self.inner = [n for n in left if n in right and n not in result]
        if not {*self.rows, *self.columns} <= set(result):
            lo.decline("a label of one operand that is not in the result")


def _product(
    lo: Lowering, given: Sequence[Tensor], terms: Sequence[list[str]], result: list[str]
) -> None:
    """Add a product of matrices over the labels that both operands have in the result."""
    labels = _Labels(lo, terms, result)
    if any(t.dtype is not dtypes.F32 for t in given):
        lo.decline("products of other types than f32")
    sizes: dict[str, int] = {}
    for t, term in zip(given, terms, strict=True):
        for name, size in zip(term, t.shape, strict=True):
            if sizes.setdefault(name, size) != size:
                lo.decline("sizes that are broadcast")
    (dtype, shape), sides = lo.type(), ((labels.rows, labels.inner), (labels.inner, labels.columns))
    batch = [sizes[n] for n in labels.batch]
    a, b = (
        _matrix(lo, t, term, labels.batch, side)
        for t, term, side in zip(given, terms, sides, strict=True)
    )
    c = lo.new(dtype, (*batch, a.shape[-2], b.shape[-1]))
    order = [terms[1].index(n) for n in (*labels.batch, *labels.inner, *labels.columns)]
    panels = _panels(lo, order, b.shape)
    if panels is not None:
        b = Tensor(b.dtype, b.shape, b.ref, row_major(b.shape))  # as its panels lie
    lower_product(lo, a, b, lambda _: panels, c, _PLAIN, [])
    made = [*labels.batch, *labels.rows, *labels.columns]
    spread = tuple(sizes[n] for n in made)
    whole_c = Tensor(dtype, spread, c.ref, row_major(spread))
    lo.set(permuted(whole_c, [made.index(n) for n in result]))
    assert tuple(sizes[n] for n in result) == shape


def _panels(lo: Lowering, order: Sequence[int], shape: tuple[int, ...]) -> Ref | None:
    """Return the panels of a constant second operand, its axes in another order."""
    width = width_of(lo.machine)

    def pack(data: Array) -> Array:
        moved = np.ascontiguousarray(data.transpose(order)).reshape(shape)
        return pack_panels(moved.astype(np.float32, copy=False), width)

    return lo.packed(1, ("einsum", tuple(order), shape, width), pack)


def _matrix(
    lo: Lowering,
    t: Tensor,
    term: list[str],
    batch: Sequence[str],
    side: tuple[Sequence[str], Sequence[str]],
) -> Tensor:
    """Return an operand as matrices: its axes in order, those of each side as one."""
    t = permuted(t, [term.index(n) for n in (*batch, *side[0], *side[1])])
    first = len(batch) + len(side[0])
    sizes = [int(np.prod(t.shape[a:b])) for a, b in ((len(batch), first), (first, None))]
    shape = (*t.shape[: len(batch)], *sizes)
    strides = reshaped(t, shape)
    if strides is None:
        t, strides = lo.plain(t), row_major(shape)
    return Tensor(t.dtype, shape, t.ref, strides)
