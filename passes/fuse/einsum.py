"""Einsum that a matrix product, a transpose, a reduction or a product says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.dims import same_dim
from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import available, settle
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_PRODUCT_DTYPES = ("f16", "f32", "f64", "i32", "i64")


@dataclass(frozen=True)
class Equation:
    """A parsed equation without repeated labels or ellipses."""

    inputs: tuple[str, ...]
    output: str


def equation_of(op: Op) -> Equation | None:
    """Return the equation of an einsum, ``None`` where a label repeats in a term or one is open."""
    text = str(op.attr("equation")).replace(" ", "")
    if "." in text:
        return None
    left, arrow, output = text.partition("->")
    inputs = tuple(left.split(","))
    if not arrow:
        joined = "".join(inputs)
        output = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    known = set("".join(inputs))
    terms = (*inputs, output)
    if any(len(set(t)) != len(t) for t in terms) or not set(output) <= known:
        return None
    ranks = [None if v is None else v.rank for v in op.operands]
    if len(inputs) != len(ranks) or any(len(t) != r for t, r in zip(inputs, ranks, strict=True)):
        return None
    return Equation(inputs, output)


@rewrite("einsum")
def einsum_of_one(m: Match, rw: Rewriter) -> bool:
    """einsum("ij->ji", x) => transpose(x); einsum("ij->i", x) => reduce_sum(x); "ij->ij" => x."""
    found, x = equation_of(m.root), m.root.operands[0]
    if found is None or len(found.inputs) != 1 or x is None:
        return False
    term, output = found.inputs[0], found.output
    gone = [i for i, c in enumerate(term) if c not in output]
    kept = "".join(c for c in term if c in output)
    if not gone:
        if kept == output:
            return rw.replace(m.root, x, same=True)
        return rw.replace(m.root, rw.transpose(x, perm=tuple(term.index(c) for c in output)))
    if kept != output:
        return rw.fail("it sums and transposes")
    if x.dtype is None or x.dtype.name not in _PRODUCT_DTYPES:
        return rw.fail("runtimes have no sum of {}", x.dtype)
    axes = rw.const(np.asarray(gone, np.int64))
    return settle(rw, m.root, rw.reduce_sum(x, axes, keepdims=False))


def _same_size(a: Value, i: int, b: Value, j: int) -> bool:
    return a.shape is not None and b.shape is not None and same_dim(a.shape[i], b.shape[j])


@rewrite("einsum")
def einsum_to_matmul(m: Match, rw: Rewriter) -> bool:
    """einsum("bij,bjk->bik", x, y) => matmul(x, y), einsum("ij,ij->ij", x, y) => x * y.

    The labels must stand as matmul wants them, batches first; a constant operand is transposed to
    fit, and Gemm takes matrices transposed. The summed sizes are proven equal.
    """
    found = equation_of(m.root)
    if found is None or len(found.inputs) != 2:
        return False
    a, b = m.root.operands
    if a is None or b is None or a.dtype is None or a.dtype.name not in _PRODUCT_DTYPES:
        return rw.fail("elements are {}", None if a is None else a.dtype)
    if found.inputs[0] == found.inputs[1] == found.output:
        return rw.replace(m.root, rw.mul(a, b))
    pairs = ((a, found.inputs[0], b, found.inputs[1]), (b, found.inputs[1], a, found.inputs[0]))
    for left, first, right, second in pairs:
        made = _product(left, first, right, second, found.output, rw)
        if made is not None:
            return settle(rw, m.root, made)
    return rw.fail("the labels are not in the order of a matrix product")


def _product(
    a: Value, first: str, b: Value, second: str, output: str, rw: Rewriter
) -> Value | None:
    """Return the matrix product of ``a`` and ``b`` that has the equation, if one has."""
    summed = [c for c in first if c in second and c not in output]
    columns = [c for c in second if c not in first]
    if len(summed) != 1 or len(columns) != 1 or output[-1:] != columns[0]:
        return None
    k, n = summed[0], columns[0]
    if not _same_size(a, first.index(k), b, second.index(k)):
        return None
    batch = [c for c in output if c in first and c in second]
    # x[..., m, k] @ y[k, n] takes any number of rows; beside batches there is exactly one.
    wanted_b = "".join(batch) + k + n
    wanted_a = output[:-1] + k
    rows = [c for c in output[:-1] if c not in second]
    if batch and (len(rows) != 1 or output != "".join(batch) + rows[0] + n):
        return None
    if not rows or sorted(wanted_a) != sorted(first) or sorted(wanted_b) != sorted(second):
        return None
    if any(not _same_size(a, first.index(c), b, second.index(c)) for c in batch):
        return None
    if first == wanted_a and second == wanted_b:
        return rw.matmul(a, b)  # type: ignore[no-any-return]
    if len(first) == len(second) == 2 and a.dtype is not None and a.dtype.is_float:
        if not available(rw, "gemm"):
            return None
        turned = {"transA": first != wanted_a, "transB": second != wanted_b}
        return rw.gemm(a, b, **turned)  # type: ignore[no-any-return]
    if first != wanted_a and const_tensor(a) is None:
        return None
    if second != wanted_b and const_tensor(b) is None:
        return None
    if first != wanted_a:
        a = rw.transpose(a, perm=tuple(first.index(c) for c in wanted_a))
    if second != wanted_b:
        b = rw.transpose(b, perm=tuple(second.index(c) for c in wanted_b))
    return rw.matmul(a, b)  # type: ignore[no-any-return]
