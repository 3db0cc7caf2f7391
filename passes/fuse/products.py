"""Matrix products and what surrounds them: reshapes, affine operations a row, other products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.dims import same_dim, same_dims
from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import (
    ends_gelu,
    made_by,
    norm_before,
    readable,
    settle,
    sole_user,
)
from lepton_ir.passes.fuse._weights import (
    Affine,
    Array,
    affine_of,
    affordable,
    constant,
    new_weight,
    rounded,
    scaled,
    spread,
    wide_bias,
)
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze")
_FLOATS = ("f16", "f32", "f64")
_WORK_LIMIT = 1 << 30
"""Multiplications that folding two weights into one may take."""


def _plain(product: Op) -> bool:
    """Whether a product is ``a @ b + c`` without factors, ``a`` as it is."""
    if product.name == "matmul":
        return True
    unscaled = product.attr("alpha") == 1 and product.attr("beta") == 1
    return unscaled and not product.attr("transA")


def _is_row(c: Value | None, columns: Any) -> bool:
    """Whether ``c`` is one number or one a column, whatever the rows."""
    if c is None:
        return True
    shape = c.shape
    if shape is None or any(d != 1 for d in shape[:-1]) or len(shape) > 2:
        return False
    return not shape or shape[-1] == 1 or same_dim(shape[-1], columns)


def _with_rows(x: Value, lead: int, k: Any) -> list[int] | None:
    """Return the shape operand that joins all axes of ``x`` behind ``lead`` into one of size k."""
    assert x.shape is not None
    rest = x.shape[lead:]
    if not all(isinstance(d, int) and d > 0 for d in (*rest, k)) or math.prod(rest) != k:  # type: ignore[arg-type]
        return None
    literal = [0 if not isinstance(d, int) else d for d in x.shape[:lead]]
    whole = all(d != 0 for d in x.shape[:lead] if isinstance(d, int))
    return [*literal, k] if whole else None


@rewrite("reshape")
def matmul_between_reshapes(m: Match, rw: Rewriter) -> bool:
    """reshape(gemm(reshape(x, [-1, k]), w, c), [..., n]) => matmul(x, w) + c.

    Where the reshapes are proven to fold and unfold the leading axes of x; axes of x behind them
    are joined first. Runtimes do the same inside a product, and look for matmul and add to fuse
    them further.
    """
    product = made_by(m.root.operands[0], "gemm", "matmul")
    if product is None:
        return False
    rows = made_by(product.operands[0], *_VIEWS)
    w, out = product.operands[1], m.root.result.shape
    if rows is None or w is None or out is None or w.shape is None or len(w.shape) != 2:
        return False
    x, inner = rows.operands[0], rows.result.shape
    if x is None or x.shape is None or inner is None or len(inner) != 2 or len(out) < 3:
        return False
    if not sole_user(product.result):
        return rw.fail("{} has other users", product)
    turned, lead = product.name == "gemm" and bool(product.attr("transB")), len(out) - 1
    columns = w.shape[0 if turned else 1]
    if not same_dims(out, (*x.shape[:lead], columns)) or len(x.shape) <= lead:
        return rw.fail("the reshapes are not proven to fold and unfold leading axes")
    direct = len(x.shape) == len(out) and same_dim(x.shape[-1], inner[1])
    joined = None if direct else _with_rows(x, lead, inner[1])
    if not direct and joined is None:
        return rw.fail("the axes behind the leading ones are not proven to be one row")
    c = product.operand("c") if product.name == "gemm" else None
    if not _plain(product) or not _is_row(c, columns) or x.dtype is None:
        return rw.fail("it has factors, or a bias that differs by row")
    if x.dtype.name not in _FLOATS:
        return rw.fail("elements are {}", x.dtype)
    if turned and not affordable(rw, w):
        return False
    rw.also(product, rows)
    if joined is not None:
        x = rw.reshape(x, rw.const(np.asarray(joined, np.int64)))
    made = rw.matmul(x, rw.transpose(w, perm=(1, 0)) if turned else w)
    return settle(rw, m.root, made if c is None else rw.add(made, c))


def _unfolded(value: Value | None) -> tuple[Value, list[Op], bool] | None:
    """Return x, what was passed, and whether the last axes were swapped.

    ``value`` is x with its leading axes folded into one; its matrices may be transposed after it.
    """
    passed: list[Op] = []
    turn = made_by(value, "transpose")
    if turn is not None:
        if tuple(turn.attr("perm") or ()) != (0, 2, 1):
            return None
        passed.append(turn)
        value = turn.operands[0]
    fold = made_by(value, "reshape")
    x = None if fold is None else fold.operands[0]
    if fold is None or x is None or x.shape is None or fold.result.shape is None:
        return None
    inner = fold.result.shape
    if len(inner) != 3 or len(x.shape) < 4 or not same_dims(x.shape[-2:], inner[1:]):
        return None
    return x, [*passed, fold], turn is not None


@rewrite("reshape")
def batches_between_reshapes(m: Match, rw: Rewriter) -> bool:
    """reshape(matmul(reshape(x, [p, m, k]), reshape(y, [p, k, n])), [..., m, n]) => matmul(x, y).

    Where x, y and the result are proven to have the same leading axes.
    """
    product = made_by(m.root.operands[0], "matmul")
    left = None if product is None else _unfolded(product.operands[0])
    right = None if product is None else _unfolded(product.operands[1])
    out = m.root.result.shape
    if product is None or left is None or right is None or out is None:
        return False
    (x, first, turn_x), (y, second, turn_y) = left, right
    assert x.shape is not None
    assert y.shape is not None
    if not sole_user(product.result):
        return rw.fail("{} has other users", product)
    inner = product.result.shape
    batches = x.shape[:-2]
    same = inner is not None and same_dims(y.shape[:-2], batches)
    if not same or inner is None or not same_dims(out, (*batches, *inner[-2:])):
        return rw.fail("the leading axes are not proven to be the same")
    rw.also(product, *first, *second)
    swap = (*range(len(batches)), len(batches) + 1, len(batches))
    a = rw.transpose(x, perm=swap) if turn_x else x
    b = rw.transpose(y, perm=swap) if turn_y else y
    return settle(rw, m.root, rw.matmul(a, b))


# -- affine operations -----------------------------------------------------------------------------


def _rows_of_weight(product: Op, w: Value) -> int | None:
    """Return the size of the axis of a constant weight that is summed over."""
    if w.rank != 2 or w.shape is None or not readable(w):
        return None
    size = w.shape[1 if product.name == "gemm" and product.attr("transB") else 0]
    return size if isinstance(size, int) else None


@rewrite("gemm", "matmul")
def affine_before_product(m: Match, rw: Rewriter) -> bool:
    """gemm(x * s + t, w, c) => gemm(x, s * w, c + t @ w), s and t constants a column of x.

    Also for a batch normalization of a matrix; a matmul takes the factors alone.
    """
    product, w = m.root, m.root.operands[1]
    names = ("batch_normalization", "add", "sub", "mul", "div")
    inner = made_by(product.operands[0], *names)
    if inner is None or w is None or not _plain(product):
        return False
    k, rank = _rows_of_weight(product, w), inner.result.rank
    if k is None or rank is None or rank < 2 or w.dtype is None:
        return False
    if not sole_user(inner.result):
        return rw.fail("{} has other users", inner)
    x = next((v for v in inner.operands[:2] if v is not None and const_tensor(v) is None), None)
    if x is None or x.rank != rank or x.shape is None or x.shape[-1] != k:
        return rw.fail("the rank or the size of the last axis are not known")
    affine = affine_of(inner, x, rank, k, rank - 1)
    if isinstance(affine, str):
        return rw.fail("{}", affine)
    if ends_gelu(x):
        return rw.fail("the factor belongs to a gelu, which runtimes recognise whole")
    if norm_before(x, scaled=True) is not None:
        return rw.fail("it belongs to a normalization, which runtimes recognise whole")
    if affine.shifts and product.name == "matmul":
        return rw.fail("a matmul has no bias that could take the summand")
    return affordable(rw, w) and _affine_rows(m, rw, inner, affine)


def _affine_rows(m: Match, rw: Rewriter, inner: Op, affine: Affine) -> bool:
    product, w = m.root, m.root.operands[1]
    assert w is not None
    assert w.dtype is not None
    turned = product.name == "gemm" and bool(product.attr("transB"))
    data = constant(w)
    weight = scaled(data, spread(affine.scale, (1, -1) if turned else (-1, 1)), w.dtype)
    operands: list[Value | None] = [affine.x]
    bias: Any = None
    if product.name == "gemm":
        c = product.operand("c")
        wide = wide_bias(rw, c)
        if wide is None:
            return False
        if affine.shifts:
            rows = data.astype(np.float64)
            wide = wide + _vector(affine, data, turned) @ (rows.T if turned else rows)
        bias = rounded(np.asarray(wide), w.dtype) if c is not None or affine.shifts else None
        if bias is None and (c is not None or affine.shifts):
            return rw.fail("the bias leaves the range of {}", w.dtype)
    if weight is None:
        return rw.fail("the folded weights leave the range of {}", w.dtype)
    rw.also(inner)
    operands.append(new_weight(rw, weight, w) if affine.scales else w)
    if bias is not None:
        operands.append(rw.const(bias, w.dtype))
    made = rw.build(product.name, *operands, **product.all_attrs())
    return rw.replace(product, made.result)


def _vector(affine: Affine, data: Array, turned: bool) -> Array:
    """Return the summands, one a row of the weight."""
    size = data.shape[1 if turned else 0]
    return np.ascontiguousarray(np.broadcast_to(affine.shift, (size,)))


@rewrite("mul", "div")
def scale_after_biased_matmul(m: Match, rw: Rewriter) -> bool:
    """(matmul(x, w) + c) * s => matmul(x, w * s) + c * s, s constants a column (layer scale)."""
    for value in m.root.operands[:2]:
        total = made_by(value, "add")
        if total is None or value is None or not sole_user(value) or value.rank is None:
            continue
        for i in (0, 1):
            product, bias = made_by(total.operands[i], "matmul"), total.operands[1 - i]
            if product is None or bias is None or not readable(bias):
                continue
            w, size = product.operands[1], value.shape[-1] if value.shape else None
            if w is None or w.dtype is None or not readable(w) or not isinstance(size, int):
                return rw.fail("the weight is not a constant")
            if not sole_user(product.result) or product.result.rank != value.rank:
                return rw.fail("{} has other users", product)
            affine = affine_of(m.root, value, value.rank, size, value.rank - 1)
            if isinstance(affine, str):
                return rw.fail("{}", affine)
            wide = wide_bias(rw, bias)
            if wide is None or w.rank is None or w.rank < 2 or not affordable(rw, w):
                return False
            weight = scaled(constant(w), affine.scale, w.dtype)
            moved = rounded(np.asarray(wide * affine.scale), w.dtype)
            if weight is None or moved is None or moved.size > max(wide.size, size):
                return rw.fail("the folded constants leave the range of {}", w.dtype)
            rw.also(total, product)
            made = rw.matmul(product.operands[0], new_weight(rw, weight, w))
            return settle(rw, m.root, rw.add(made, rw.const(moved, w.dtype, bias.name)))
    return False


# -- products of products --------------------------------------------------------------------------


def _matrix_shape(product: Op) -> tuple[int, int] | None:
    """Return the shape of the constant weight of a product as it is multiplied."""
    w = const_tensor(product.operands[1])
    if w is None or len(w.shape) != 2 or w.dtype.name not in ("f32", "f64"):
        return None
    first, second = w.shape[::-1] if _turned(product) else w.shape
    return first, second


def _turned(product: Op) -> bool:
    return product.name == "gemm" and bool(product.attr("transB"))


def _matrix(product: Op) -> Array:
    w = product.operands[1]
    assert w is not None
    return constant(w).T if _turned(product) else constant(w)


@rewrite("gemm", "matmul")
def product_of_product(m: Match, rw: Rewriter) -> bool:
    """gemm(gemm(x, v, b), w, c) => gemm(x, v @ w, b @ w + c) where that is less work.

    For constant matrices; the merged one has at most as many elements as both. The same for
    matmul. Results differ by rounding.
    """
    outer, inner = m.root, made_by(m.root.operands[0], m.root.name)
    if inner is None or not (_plain(outer) and _plain(inner)):
        return False
    if not all(readable(op.operands[1]) for op in (outer, inner)):
        return False
    if not sole_user(inner.result):
        return rw.fail("{} has other users", inner)
    # Weights are read only when they are going to be merged: they may be large, and in a file.
    shapes = _matrix_shape(inner), _matrix_shape(outer)
    if shapes[0] is None or shapes[1] is None:
        return rw.fail("the weights are not constant matrices of f32 or f64")
    (k, middle), n = shapes[0], shapes[1][1]
    if k * n > middle * (k + n) or k * middle * n > _WORK_LIMIT:
        return rw.fail("the merged weight would have {} x {} elements", k, n)
    v, w = _matrix(inner), _matrix(outer)
    dtype = outer.result.dtype
    first, second = (
        (wide_bias(rw, op.operand("c")) for op in (inner, outer))
        if (outer.name == "gemm")
        else (np.zeros(()), np.zeros(()))
    )
    if first is None or second is None or dtype is None or first.ndim > 1:
        return rw.fail("a bias differs by row")
    right = w.astype(np.float64)
    moved = np.broadcast_to(first, (v.shape[1],)) @ right + second
    merged, bias = rounded(v.astype(np.float64) @ right, dtype), rounded(moved, dtype)
    if merged is None or bias is None:
        return rw.fail("the merged weights leave the range of {}", dtype)
    rw.also(inner)
    operands = [inner.operands[0], rw.const(merged, dtype)]
    if outer.name == "gemm" and moved.any():
        operands.append(rw.const(bias, dtype))
    return settle(rw, outer, rw.build(outer.name, *operands).result)
