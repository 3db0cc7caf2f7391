"""Linear algebra: matrix products, Einstein sums, determinants."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Bool, Float, Str, op
from lepton_ir.ops._support import (
    Array,
    Shape,
    broadcast_dim,
    broadcast_shapes,
    first_dtype,
    widen,
)
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value


def matmul_shape(
    ctx: InferContext, a: Shape | None, b: Shape | None, names: tuple[str, str] = ("a", "b")
) -> Shape | None:
    """Return the shape of ``numpy.matmul`` of two shapes, constraints C1 and C2 checked."""
    for shape, name in zip((a, b), names, strict=True):
        if shape == ():
            ctx.fail("C1", f"{name} is a scalar")
    if a is None or b is None:
        return None
    inner, other = a[-1], b[-2] if len(b) > 1 else b[0]
    if inner is not None and other is not None and dims.prove_eq(inner, other) is False:
        ctx.fail("C2", f"{names[0]} has {inner} columns but {names[1]} has {other} rows")
    batch = broadcast_shapes(a[:-2], b[:-2])
    assert batch is not None
    return batch + a[-2:-1] + (b[-1:] if len(b) > 1 else ())


def _infer_matmul(ctx: InferContext) -> TensorType:
    shape = matmul_shape(ctx, ctx.shape("a"), ctx.shape("b"))
    return TensorType(first_dtype(ctx, "a", "b"), shape)


@op("matmul(a, b)", infer=_infer_matmul)
def matmul(a: Array, b: Array) -> Array:
    """Matrix product as ``numpy.matmul``, batch dims broadcast (ONNX MatMul-13).

    C1  rank(a) >= 1 and rank(b) >= 1
    C2  a.shape[-1] == b.shape[-2] (b.shape[0] when b is a vector)
    """
    return np.asarray(np.matmul(widen(a), widen(b))).astype(a.dtype, copy=False)


def _infer_gemm(ctx: InferContext) -> TensorType:
    shapes = []
    for name, flag in (("a", "transA"), ("b", "transB")):
        shape = ctx.shape(name)
        if shape is not None and len(shape) != 2:
            ctx.fail("C1", f"{name} has rank {len(shape)}")
        shapes.append(shape[::-1] if shape is not None and ctx.attrs[flag] else shape)
    a, b = (shape or (None, None) for shape in shapes)
    if a[1] is not None and b[0] is not None and dims.prove_eq(a[1], b[0]) is False:
        ctx.fail("C2", f"a has {a[1]} columns but b has {b[0]} rows")
    c = ctx.shape("c")
    if c is not None and len(c) > 2:
        ctx.fail("C3", f"c has rank {len(c)}")
    for have, want in zip(reversed(c or ()), (b[1], a[0]), strict=False):
        if isinstance(have, int) and isinstance(want, int) and have not in (1, want):
            ctx.fail("C3", f"c has shape {c} but the product is {a[0]} x {b[1]}")
    return TensorType(first_dtype(ctx, "a", "b", "c"), (a[0], b[1]))


def _scaled(x: Array, factor: float) -> Array:
    if factor == 1.0:
        return x
    if x.dtype.kind in "iu":
        return np.asarray((x * np.float64(factor)).astype(x.dtype))
    return np.asarray(x * x.dtype.type(factor))


def _scale(b: Builder, x: Value, factor: float) -> Value:
    if factor == 1.0:
        return x
    if x.dtype is None:
        raise ValueError("the element type is unknown, so alpha and beta have no constant")
    if not x.dtype.is_float and not float(factor).is_integer():
        raise ValueError(f"an integer product cannot be multiplied by {factor}")
    result: Value = b.mul(x, b.const(np.array(factor), x.dtype))
    return result


def _decompose_gemm(b: Builder, op: Op) -> list[Value]:
    x, y, c = op.operand("a"), op.operand("b"), op.operand("c")
    assert x is not None
    assert y is not None
    if op.attr("transA"):
        x = b.transpose(x, perm=(1, 0))
    if op.attr("transB"):
        y = b.transpose(y, perm=(1, 0))
    result = _scale(b, b.matmul(x, y), op.attr("alpha"))
    if c is not None and op.attr("beta") != 0.0:
        result = b.add(result, _scale(b, c, op.attr("beta")))
    return [result]


@op("gemm(a, b, c?)", infer=_infer_gemm, traits="composite", decompose=_decompose_gemm)
def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: Float = 1.0,
    beta: Float = 1.0,
    transA: Bool = False,
    transB: Bool = False,
) -> Array:
    """``alpha * A' @ B' + beta * C`` on matrices (ONNX Gemm-13).

    C1  rank(a) == rank(b) == 2
    C2  columns of A' == rows of B'
    C3  c broadcasts to the product's shape
    """
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"gemm needs matrices, got ranks {a.ndim} and {b.ndim}")
    x, y = widen(a), widen(b)
    product = _scaled(np.matmul(x.T if transA else x, y.T if transB else y), alpha)
    if c is not None and beta != 0.0:
        bias = _scaled(widen(c), beta)
        product = product + np.broadcast_to(bias, product.shape)
    return np.asarray(product).astype(a.dtype, copy=False)


_TERM = re.compile(r"\.\.\.|[A-Za-z]")


def _labels(term: str) -> list[str]:
    labels = _TERM.findall(term)
    if "".join(labels) != term or labels.count("...") > 1:
        raise ValueError(f"bad einsum term {term!r}")
    return labels


def parse_einsum(equation: str, count: int) -> tuple[list[list[str]], list[str]]:
    """Return the labels of each operand and of the result; ``...`` is one label.

    Raises:
        ValueError: a malformed equation, or one for another number of operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_labels(term) for term in left.split(",")]
    if len(terms) != count:
        raise ValueError(f"equation {equation!r:.100} is for {len(terms)} operands, got {count}")
    seen = [label for term in terms for label in term]
    if not arrow:
        once = sorted(v for v in set(seen) if v != "..." and seen.count(v) == 1)
        return terms, (["..."] if "..." in seen else []) + once
    result = _labels(right)
    if len(set(result)) != len(result) or not set(result) <= {*seen, "..."}:
        raise ValueError(f"bad result term in equation {equation!r:.100}")
    return terms, result


def _infer_einsum(ctx: InferContext) -> TensorType:
    operands = ctx.op.variadic("xs")
    try:
        terms, result = parse_einsum(ctx.attrs["equation"], len(operands))
    except ValueError as error:
        ctx.fail("C1", str(error))
    dtype = next((v.dtype for v in operands if v is not None and v.dtype is not None), None)
    sizes: dict[str, Any] = {}
    ellipsis: Shape | None = ()
    for value, labels in zip(operands, terms, strict=True):
        shape = None if value is None else value.shape
        rest = len(labels) - labels.count("...")
        if shape is None:
            ellipsis = None if "..." in labels else ellipsis
            for label in labels:
                sizes[label] = _merged(sizes, label, None)
            continue
        if len(shape) < rest or ("..." not in labels and len(shape) != rest):
            ctx.fail("C2", f"an operand has rank {len(shape)} but its term {''.join(labels)!r}")
        at = labels.index("...") if "..." in labels else len(labels)
        skip = len(shape) - rest
        ellipsis = broadcast_shapes(ellipsis, shape[at : at + skip])
        for label, dim in zip(labels[:at], shape[:at], strict=True):
            sizes[label] = _merged(sizes, label, dim)
        for label, dim in zip(labels[at + 1 :], shape[at + skip :], strict=True):
            sizes[label] = _merged(sizes, label, dim)
    if "..." in result and ellipsis is None:
        return TensorType(dtype, None)
    shape = ()
    for label in result:
        shape += (ellipsis or ()) if label == "..." else (sizes[label],)
    return TensorType(dtype, shape)


def _merged(sizes: dict[str, Any], label: str, dim: Any) -> Any:
    return broadcast_dim(sizes[label], dim) if label in sizes else dim


@op("einsum(xs*)", infer=_infer_einsum)
def einsum(*xs: Array, equation: Str) -> Array:
    """Einstein sum; letters name dims, ``...`` broadcasts (ONNX Einsum-28).

    C1  the equation is well-formed and has one term per operand
    C2  each operand has as many dims as its term
    """
    terms, result = parse_einsum(equation, len(xs))
    text = ",".join("".join(t) for t in terms) + "->" + "".join(result)
    found = np.einsum(text, *map(widen, xs), optimize="greedy" if len(xs) > 1 else False)
    return np.array(found, dtype=xs[0].dtype)


def _infer_det(ctx: InferContext) -> TensorType:
    shape = ctx.shape("x")
    if shape is None:
        return TensorType(ctx.dtype("x"), None)
    if len(shape) < 2:
        ctx.fail("C1", f"x has rank {len(shape)}")
    rows, columns = shape[-2:]
    if rows is not None and columns is not None and dims.prove_eq(rows, columns) is False:
        ctx.fail("C1", f"the matrices are {rows} x {columns}")
    return TensorType(ctx.dtype("x"), shape[:-2])


@op("det(x)", infer=_infer_det)
def det(x: Array) -> Array:
    """Determinants of the square matrices in the last two dims (ONNX Det-22).

    C1  rank(x) >= 2 and x.shape[-1] == x.shape[-2]
    """
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"det needs square matrices, got shape {x.shape}")
    return np.asarray(np.linalg.det(widen(x))).astype(x.dtype, copy=False)
