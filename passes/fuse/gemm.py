"""Matrix products: biases, scales and transposes that Gemm or the weights take in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.dims import same_dim
from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import (
    Scan,
    available,
    ends_gelu,
    f32,
    f32_exact,
    made_by,
    readable,
    settle,
    sole_user,
)
from lepton_ir.passes.fuse._weights import (
    Affine,
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
    from lepton_ir.dims import Dim
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_PRODUCTS = ("gemm", "matmul")
_GEMM_DTYPES = ("f16", "f32", "f64")
_BIAS_LIMIT = 1 << 20


def _columns(op: Op) -> int | None:
    """Return the proven number of columns of a matrix product whose right side is a matrix."""
    right = op.operands[1]
    if right is None or right.shape is None or len(right.shape) != 2:
        return None
    size = right.shape[0 if op.name == "gemm" and op.attr("transB") else 1]
    return size if isinstance(size, int) else None


def _product_operand(root: Op) -> tuple[Op, Value] | None:
    """Return a product that only ``root`` reads, and the other operand."""
    for i, value in enumerate(root.operands[:2]):
        op = made_by(value, *_PRODUCTS)
        other = root.operands[1 - i]
        if op is not None and value is not None and other is not None and sole_user(value):
            return op, other
    return None


def _fits(bias: Value, rows: Dim | None, columns: Dim | None) -> bool:
    """Whether ``bias`` provably broadcasts to rows x columns without enlarging it."""
    shape = bias.shape
    if shape is None or len(shape) > 2:
        return False
    pairs = zip(reversed(shape), (columns, rows), strict=False)
    return all(d == 1 or same_dim(d, target) for d, target in pairs)


@rewrite("add")
def matmul_add_to_gemm(m: Match, rw: Rewriter) -> bool:
    """matmul(a, b) + c => gemm(a, b, c) for matrices a and b and a c that fits the result."""
    found = _product_operand(m.root)
    if found is None or found[0].name != "matmul":
        return False
    product, c = found
    a, b = product.operands
    if a is None or b is None or a.rank != 2 or b.rank != 2:
        return rw.fail("the operands of {} are not proven to be matrices", product)
    if a.dtype is None or a.dtype.name not in _GEMM_DTYPES:
        return rw.fail("elements are {}", a.dtype)
    assert a.shape is not None
    assert b.shape is not None
    if not _fits(c, a.shape[0], b.shape[1]):
        return rw.fail("{} is not proven to fit a result of {}", c, product.result.type)
    if not available(rw, "gemm"):
        return rw.fail("the opset has no such Gemm")
    rw.also(product)
    return settle(rw, m.root, rw.gemm(a, b, c))


@rewrite("add")
def add_into_gemm(m: Match, rw: Rewriter) -> bool:
    """gemm(a, b) + c => gemm(a, b, c) for a c that fits the result."""
    found = _product_operand(m.root)
    if found is None or found[0].name != "gemm":
        return False
    gemm, c = found
    if gemm.operand("c") is not None:
        return False
    shape = gemm.result.shape
    if shape is None or not _fits(c, *shape):
        return rw.fail("{} is not proven to fit a result of {}", c, gemm.result.type)
    rw.also(gemm)
    attrs = {**gemm.all_attrs(), "beta": 1.0}
    return rw.replace(m.root, rw.gemm(*gemm.operands[:2], c, **attrs))


@rewrite("add", "sub", "mul", "div", "batch_normalization")
def affine_into_gemm(m: Match, rw: Rewriter) -> bool:
    """gemm(a, b, c) * s + t => gemm(a, b * s, c * s + t), s and t constants a column."""
    found = _product_operand(m.root)
    if found is None or found[0].name != "gemm":
        return False
    gemm = found[0]
    affine = affine_of(m.root, gemm.result, 2, _columns(gemm))
    if isinstance(affine, str):
        return rw.fail("{}", affine)
    return _affine_gemm(m, rw, gemm, affine)


def _affine_gemm(m: Match, rw: Rewriter, gemm: Op, affine: Affine) -> bool:
    a, b, *rest = gemm.operands
    assert b is not None
    if b.dtype is None:
        return rw.fail("the element type is not known")
    attrs = gemm.all_attrs()
    new_bias = _affine_bias(rw, gemm, rest[0] if rest else None, affine)
    if new_bias is False:
        return False
    weight: Any = b
    if affine.scales and readable(b):
        if not affordable(rw, b):
            return False
        column = spread(affine.scale, (-1, 1) if attrs["transB"] else (1, -1))
        weight = scaled(constant(b), column, b.dtype)
        if weight is None:
            return rw.fail("the folded weights leave the range of {}", b.dtype)
    elif affine.scales:
        alpha = float(attrs["alpha"]) * float(affine.scale) if affine.scale.ndim == 0 else 0.0
        if affine.scale.ndim or not f32_exact(b.dtype, alpha) or not np.isfinite(alpha):
            return rw.fail("the weight is not a constant")
        attrs["alpha"] = f32(alpha)
    rw.also(gemm)
    if not hasattr(weight, "producer"):
        weight = new_weight(rw, weight, b)
    if new_bias is not None:
        attrs["beta"] = 1.0
        new_bias = rw.const(new_bias, b.dtype, rest[0].name if rest and rest[0] else None)
    return rw.replace(m.root.result, rw.gemm(a, weight, new_bias, **attrs))


def _affine_bias(rw: Rewriter, gemm: Op, c: Value | None, affine: Affine) -> Any:
    """Return the new bias as an array, ``None`` when there is none, ``False`` if not possible."""
    if c is None and not affine.shifts:
        return None
    wide = wide_bias(rw, c)
    assert gemm.operands[1] is not None
    dtype = gemm.operands[1].dtype
    if wide is None or dtype is None:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        total = wide * float(gemm.attr("beta")) * affine.scale + affine.shift
    if total.size * 8 > _BIAS_LIMIT and total.size > wide.size:
        return rw.fail("the bias would grow to {} elements", total.size)
    narrow = rounded(np.asarray(total), dtype)
    return rw.fail("the bias leaves the range of {}", dtype) if narrow is None else narrow


@rewrite("batch_normalization")
def bn_into_matmul(m: Match, rw: Rewriter) -> bool:
    """bn(matmul(a, w)) => gemm(a, w * s, t) for matrices, s and t as for a convolution."""
    product = made_by(m.root.operands[0], "matmul")
    if product is None:
        return False
    if not sole_user(product.result):
        return rw.fail("the product has other users")
    a, w = product.operands
    if a is None or w is None or a.rank != 2 or w.rank != 2 or w.dtype is None:
        return rw.fail("the operands are not proven to be matrices")
    affine = affine_of(m.root, product.result, 2, _columns(product))
    if isinstance(affine, str):
        return rw.fail("{}", affine)
    if w.dtype.name not in _GEMM_DTYPES or not affordable(rw, w):
        return False
    weight = scaled(constant(w), spread(affine.scale, (1, -1)), w.dtype)
    bias = rounded(np.atleast_1d(affine.shift), w.dtype)
    if weight is None or bias is None:
        return rw.fail("the folded weights leave the range of {}", w.dtype)
    rw.also(product)
    return rw.replace(m.root.result, rw.gemm(a, new_weight(rw, weight, w), rw.const(bias, w.dtype)))


@rewrite("mul", "div")
def scale_into_matmul(m: Match, rw: Rewriter) -> bool:
    """matmul(a, w) * s => matmul(a, w * s), s a constant a column (or scalar), w a constant."""
    found = _product_operand(m.root)
    if found is None or found[0].name != "matmul":
        return False
    product = found[0]
    a, w = product.operands
    rank = product.result.rank
    if a is None or w is None or rank is None or w.rank is None or w.rank < 2:
        return rw.fail("the rank is not known")
    if a.rank is None or a.rank < 2 or not readable(w) or w.dtype is None:
        return rw.fail("the weight is not a constant")
    assert w.shape is not None
    size = w.shape[-1]
    affine = affine_of(
        m.root, product.result, rank, size if isinstance(size, int) else None, rank - 1
    )
    if isinstance(affine, str):
        return rw.fail("{}", affine)
    if not affordable(rw, w):
        return False
    weight = scaled(constant(w), affine.scale, w.dtype)
    if weight is None:
        return rw.fail("the folded weights leave the range of {}", w.dtype)
    rw.also(product)
    return rw.replace(m.root, rw.matmul(a, new_weight(rw, weight, w)))


@rewrite("matmul", "gemm")
def scale_before_matmul(m: Match, rw: Rewriter) -> bool:
    """matmul(x * s, w) => matmul(x, w * s) for a scalar constant s and a constant w."""
    inner = made_by(m.root.operands[0], "mul", "div")
    w = m.root.operands[1]
    if inner is None or w is None or not readable(w) or w.dtype is None:
        return False
    if not sole_user(inner.result):
        return rw.fail("{} has other users", inner)
    scan = Scan(m.root)
    found = scan.with_number(inner.result, inner.name)
    if found is None or const_tensor(found[0]) is not None:
        return rw.fail("the factor is not a scalar constant")
    x, number = found
    if not np.isfinite(number) or number == 0 or not scan.settles_on(x, rw):
        return False
    if ends_gelu(x):
        return rw.fail("the factor belongs to a gelu, which runtimes recognise whole")
    if not affordable(rw, w):
        return False
    factor = np.asarray(number if inner.name == "mul" else 1 / number, np.float64)
    weight = scaled(constant(w), factor, w.dtype)
    if weight is None:
        return rw.fail("the folded weights leave the range of {}", w.dtype)
    operands = [x, new_weight(rw, weight, w), *m.root.operands[2:]]
    made = rw.build(m.root.name, *operands, **m.root.all_attrs())
    return rw.replace(m.root, made.result)


def _is_swap(op: Op) -> bool:
    perm = op.attr("perm")
    value = op.operands[0]
    if perm is None:
        return value is not None and value.rank == 2
    return tuple(perm) == (1, 0)


@rewrite("gemm")
def transpose_into_gemm(m: Match, rw: Rewriter) -> bool:
    """gemm(transpose(a), b) => gemm(a, b, transA=true), and the same for b."""
    operands, attrs = list(m.root.operands), m.root.all_attrs()
    for i, name in ((0, "transA"), (1, "transB")):
        inner = made_by(operands[i], "transpose")
        if inner is not None and _is_swap(inner):
            operands[i] = inner.operands[0]
            attrs[name] = not attrs[name]
            rw.also(inner)
            return rw.replace(m.root, rw.gemm(*operands, **attrs))
    return False
