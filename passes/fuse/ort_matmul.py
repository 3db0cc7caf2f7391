"""Matrix products of onnxruntime: transposes and a factor taken in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_ir.infer import const_tensor
from lepton_ir.passes.fuse._match import Scan, f32, f32_exact, made_by, settle, sole_user
from lepton_ir.passes.fuse.ort_common import contrib, is_f32
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

_PRODUCTS = ("matmul", "ms_fused_matmul")


def _attrs(op: Op) -> dict[str, Any]:
    return op.all_attrs() if op.name == "ms_fused_matmul" else {}


def _swaps_matrices(op: Op) -> bool:
    """Whether a transpose exchanges the last two axes and leaves the others."""
    x, perm = op.operands[0], op.attr("perm")
    rank = None if x is None else x.rank
    if rank is None or rank < 2:
        return False
    wanted = [*range(rank - 2), rank - 1, rank - 2]
    return list(perm if perm is not None else reversed(range(rank))) == wanted


@rewrite(*_PRODUCTS)
def transpose_into_matmul(m: Match, rw: Rewriter) -> bool:
    """matmul(transpose(a), b) => ms_fused_matmul(a, b, transA=true), and the same for b.

    The transpose exchanges the last two axes and has no other user.
    """
    operands, attrs = list(m.root.operands), _attrs(m.root)
    for i, name in ((0, "transA"), (1, "transB")):
        inner = made_by(operands[i], "transpose")
        if inner is None or not _swaps_matrices(inner):
            continue
        other = operands[1 - i]
        if other is None or other.rank is None or other.rank < 2 or not sole_user(inner.result):
            continue
        if attrs.get("transBatchA") or attrs.get("transBatchB"):
            return rw.fail("its batch axes are permuted")
        if not is_f32(m.root.result) or not contrib(rw, "ms_fused_matmul"):
            return rw.fail("elements are {}", m.root.result.dtype)
        operands[i] = inner.operands[0]
        attrs[name] = not attrs.get(name, False)
        rw.also(inner)
        return settle(rw, m.root, rw.ms_fused_matmul(*operands, **attrs))
    return False


def _scaled(value: Value | None, scan: Scan) -> tuple[Value, float] | None:
    """Return x and c where ``value`` is ``x * c``, made for one user."""
    op = made_by(value, "mul", "div")
    if op is None or value is None or not sole_user(value):
        return None
    found = scan.with_number(value, op.name)
    if found is None or const_tensor(found[0]) is not None:
        return None
    x, number = found
    if number == 0 or not math.isfinite(number):
        return None
    return x, number if op.name == "mul" else 1 / number


@rewrite("mul", "div")
def factor_into_matmul(m: Match, rw: Rewriter) -> bool:
    """matmul(a, b) * c => ms_fused_matmul(a, b, alpha=c), c a scalar constant."""
    scan = Scan(m.root)
    found = scan.with_number(m.root.result, m.root.name)
    if found is None:
        return False
    product = made_by(found[0], *_PRODUCTS)
    if product is None or found[1] == 0 or not math.isfinite(found[1]):
        return False
    if not sole_user(product.result):
        return rw.fail("{} has other users", product)
    factor = found[1] if m.root.name == "mul" else 1 / found[1]
    attrs = _attrs(product)
    alpha = attrs.get("alpha", 1.0) * factor
    if not f32_exact(product.result.dtype, alpha) or not is_f32(product.result):
        return rw.fail("elements are {}", product.result.dtype)
    if not scan.settles_on(product.result, rw) or not contrib(rw, "ms_fused_matmul"):
        return False
    rw.also(product)
    attrs["alpha"] = f32(alpha)
    return settle(rw, m.root, rw.ms_fused_matmul(*product.operands, **attrs))


@rewrite(*_PRODUCTS)
def factor_before_matmul(m: Match, rw: Rewriter) -> bool:
    """matmul(a * c, b) => ms_fused_matmul(a, b, alpha=c), c a scalar constant; also for b."""
    operands, attrs = list(m.root.operands), _attrs(m.root)
    for i in (0, 1):
        scan = Scan(m.root)
        found = _scaled(operands[i], scan)
        if found is None:
            continue
        if not is_f32(m.root.result) or not contrib(rw, "ms_fused_matmul"):
            return rw.fail("elements are {}", m.root.result.dtype)
        if not scan.settles_on(found[0], rw):
            return False
        operands[i] = found[0]
        attrs["alpha"] = f32(attrs.get("alpha", 1.0) * found[1])
        return settle(rw, m.root, rw.ms_fused_matmul(*operands, **attrs))
    return False
