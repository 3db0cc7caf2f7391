"""Dynamically quantized products of onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.passes.fuse._match import made_by, settle, sole_user
from lepton_ir.passes.fuse.ort_common import contrib, is_f32, row_vector
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_FLOAT_PRODUCTS = ("ms_matmul_integer_to_float", "ms_dynamic_quantize_matmul")


def _is_one(value: Value) -> bool:
    """Whether a scale is proven to be one number."""
    return value.shape is not None and all(d == 1 for d in value.shape) and len(value.shape) <= 1


def _scales(op: Op, product: Op) -> tuple[Value, Value] | None:
    """Return the scales of the two operands where ``op`` is their product."""
    a, b = op.operands
    right = product.operands[1]
    if a is None or b is None or right is None:
        return None
    for left, columns in ((a, b), (b, a)):
        if not _is_one(left):
            continue
        if _is_one(columns) or (right.rank == 2 and row_vector(columns, right)):
            if left.op is not None and left.op.name == "const" and left is a:
                continue  # two numbers: the weight's is the constant one
            return left, columns
    return None


@rewrite("mul")
def scale_integer_matmul(m: Match, rw: Rewriter) -> bool:
    """cast(matmul_integer(a, b, p, q)) * (s * t) => ms_matmul_integer_to_float(a, b, s, t, p, q).

    s is one number, t one or one per column. Where a, s and p quantize an x dynamically for this
    product alone: ms_dynamic_quantize_matmul(x, b, t, q).
    """
    for i in (0, 1):
        cast = made_by(m.root.operands[i], "cast")
        product = None if cast is None else made_by(cast.operands[0], "matmul_integer")
        scale = made_by(m.root.operands[1 - i], "mul")
        if cast is None or product is None or scale is None:
            continue
        if not sole_user(cast.result) or not sole_user(product.result):
            return rw.fail("the integer product has other users")
        scales = _scales(scale, product)
        if scales is None or cast.attr("to") is not dtypes.F32 or not is_f32(*scales):
            return rw.fail("the scales are not proven to be one number and one per column")
        if not contrib(rw, "ms_matmul_integer_to_float"):
            return False
        rw.also(cast, product, scale)
        return settle(rw, m.root, _float_product(rw, product, *scales))
    return False


def _float_product(rw: Rewriter, product: Op, left: Value, right: Value) -> Value:
    a, b, zero, b_zero = (*product.operands, None, None)[:4]
    quantize = made_by(a, "dynamic_quantize_linear")
    if quantize is not None and a is not None and sole_user(a):
        codes, scale, point = quantize.results
        if left is scale and zero is point and right.rank is not None:
            rw.also(quantize)
            made: Value = rw.ms_dynamic_quantize_matmul(quantize.operands[0], b, right, b_zero)
            assert codes is a
            return made
    found: Value = rw.ms_matmul_integer_to_float(a, b, left, right, zero, b_zero)
    return found


@rewrite("add")
def bias_into_float_product(m: Match, rw: Rewriter) -> bool:
    """ms_matmul_integer_to_float(...) + c => the same with bias=c, c a constant one per column."""
    for i in (0, 1):
        product = made_by(m.root.operands[i], *_FLOAT_PRODUCTS)
        bias = m.root.operands[1 - i]
        if product is None or bias is None or product.operand("bias") is not None:
            continue
        if not sole_user(product.result):
            return rw.fail("{} has other users", product)
        rank = product.result.rank
        if not row_vector(bias, product.result) or not is_f32(bias) or rank is None or rank < 2:
            return rw.fail("{} is not proven to be one number per column", bias)
        assert product.definition is not None
        operands: list[Any] = list(product.operands)
        place = product.definition.operand_index["bias"]
        operands += [None] * (place - len(operands))
        rw.also(product)
        made = rw.build(product.name, *operands[:place], bias, **product.all_attrs())
        return settle(rw, m.root, made.result)
    return False
