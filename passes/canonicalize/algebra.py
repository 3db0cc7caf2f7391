"""Algebra: neutral elements, idempotent and self-inverse operations, merged constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ir.infer import const_array, const_tensor
from lepton_ir.ir import Op, Value
from lepton_ir.passes.fuse._match import available, is_centred, norm_before
from lepton_ir.pattern import Const, Match, P, const, var
from lepton_ir.rewrite import Rewriter, rewrite

_MERGE_LIMIT = 1 << 20
"""Bytes of constants that merging two operations into one may compute on."""


def _is_negative_zero(found: Const) -> bool:
    return bool(np.signbit(np.asarray(found.scalar(), np.float64)))


def _is_integer(value: Any) -> bool:
    return value.dtype is not None and value.dtype.is_integer


def _in_norm(rw: Rewriter, d: Value | None, *, bias: bool = False) -> bool:
    """Return whether a norm of ``d`` can only be recognised by the runtime, with all its parts."""
    if d is None:
        return False
    if is_centred(d):
        return not available(rw, "layer_normalization")
    return not bias and not available(rw, "rms_normalization")


@rewrite("identity", exact=True)
def drop_identity(m: Match, rw: Rewriter) -> bool:
    """identity(x) => x."""
    return rw.replace(m.root, m.root.operands[0], same=True)  # type: ignore[arg-type]


@rewrite("dropout", exact=True)
def drop_dropout(m: Match, rw: Rewriter) -> bool:
    """dropout(x) outside training => x; its mask must be unused."""
    mode = m.root.operand("training_mode")
    if mode is not None:
        known = const_array(mode)
        if known is None:
            return rw.fail("whether it trains is decided at run time")
        if known.size != 1 or bool(known.reshape(-1)[0]):
            return rw.fail("it trains")
    if len(m.root.results) > 1 and m.root.results[1].first_use is not None:
        return rw.fail("its mask is used")
    return rw.replace(m.root.result, m.root.operands[0], same=True)  # type: ignore[arg-type]


@rewrite(P.add(var("x"), const("c", equals=0)), exact=True)
def add_zero(m: Match, rw: Rewriter) -> bool:
    """X + 0 => x; bit-exact for integers and for -0.0, up to the sign of zero for +0.0.

    Not the bias of a normalization that the target has no operation for, but runtimes have.
    """
    if rw.ctx.exact and not _is_integer(m.x) and not _is_negative_zero(m.c):
        return rw.fail("-0.0 + 0.0 is 0.0")
    if m.c.shape and _in_norm(rw, norm_before(m.x, scaled=True), bias=True):
        return rw.fail("it is the bias of a normalization, which runtimes look for")
    return rw.replace(m.root, m.x)


@rewrite(P.sub(var("x"), const("c", equals=0)), exact=True)
def sub_zero(m: Match, rw: Rewriter) -> bool:
    """X - 0 => x; bit-exact for integers and for +0.0."""
    if rw.ctx.exact and not _is_integer(m.x) and _is_negative_zero(m.c):
        return rw.fail("-0.0 - -0.0 is 0.0")
    return rw.replace(m.root, m.x)


@rewrite(
    P.mul(var("x"), const("c", equals=1)),
    P.div(var("x"), const("c", equals=1)),
    P.pow(var("x"), const("c", equals=1)),
    exact=True,
)
def times_one(m: Match, rw: Rewriter) -> bool:
    """X * 1, x / 1, x ** 1 => x.

    Not the scale of a normalization that the target has no operation for, but runtimes have.
    """
    if m.root.name == "mul" and m.c.shape and _in_norm(rw, norm_before(m.x)):
        return rw.fail("it is the scale of a normalization, which runtimes look for")
    return rw.replace(m.root, m.x)


@rewrite("and", "or", exact=True)
def boolean_neutral(m: Match, rw: Rewriter) -> bool:
    """X and true => x; x or false => x."""
    neutral = m.root.name == "and"
    for i in (0, 1):
        known = const_tensor(m.root.operands[i])
        if known is None or known.size == 0:
            continue
        array = const_array(m.root.operands[i])
        if array is not None and bool((array == neutral).all()):
            return rw.replace(m.root, m.root.operands[1 - i])  # type: ignore[arg-type]
    return rw.fail("no operand is all {}", neutral)


@rewrite(P.where(const("c"), var("x"), var("y")), exact=True)
def where_constant(m: Match, rw: Rewriter) -> bool:
    """where(true, x, y) => x, where(false, x, y) => y."""
    known = m.c.scalar()
    if known is None:
        return rw.fail("the condition is not the same everywhere")
    return rw.replace(m.root, m.x if bool(known) else m.y)


@rewrite("where", exact=True)
def where_equal(m: Match, rw: Rewriter) -> bool:
    """where(c, x, x) => x."""
    _, x, y = m.root.operands
    if x is not y or x is None:
        return rw.fail("the alternatives differ")
    return rw.replace(m.root, x)


_IDEMPOTENT = ("relu", "abs", "ceil", "floor", "round", "sign")
_INVOLUTIONS = ("neg", "not", "bitwise_not")


@rewrite(*_IDEMPOTENT, exact=True)
def idempotent(m: Match, rw: Rewriter) -> bool:
    """f(f(x)) => f(x)."""
    x = m.root.operands[0]
    if x is None or not isinstance(x.op, Op) or x.op.name != m.root.name:
        return False
    return rw.replace(m.root, x, same=True)


@rewrite(*_INVOLUTIONS, exact=True)
def involution(m: Match, rw: Rewriter) -> bool:
    """f(f(x)) => x."""
    x = m.root.operands[0]
    if x is None or not isinstance(x.op, Op) or x.op.name != m.root.name:
        return False
    inner = x.op.operands[0]
    assert inner is not None
    return rw.replace(m.root, inner, same=True)


def _merged(root: Op, a: Const, b: Const) -> np.ndarray[Any, Any] | None:
    """Combine the constants of two equal operations; ``None`` where rounding could overflow."""
    if a.tensor.nbytes + b.tensor.nbytes > _MERGE_LIMIT or a.tensor.dtype is not b.tensor.dtype:
        return None
    with np.errstate(all="ignore"):
        merged = np.add(a.array, b.array) if root.name == "add" else np.multiply(a.array, b.array)
    if max(a.tensor.size, b.tensor.size) < merged.size:
        return None
    if a.tensor.dtype.is_float:
        wide = merged.astype(np.float64)
        if not np.isfinite(wide).all():
            return None
        if root.name == "mul":
            tiny = float(np.finfo(np.float16 if a.tensor.dtype.bits == 16 else np.float32).tiny)
            zero = (a.array == 0) | (b.array == 0)
            if not (zero | (np.abs(wide) >= tiny)).all():
                return None
    return np.asarray(merged, dtype=a.array.dtype)


@rewrite(
    P.add(P.add(var("x"), const("a")), const("b")),
    P.mul(P.mul(var("x"), const("a")), const("b")),
)
def merge_constants(m: Match, rw: Rewriter) -> bool:
    """(x + a) + b => x + (a + b), (x * a) * b => x * (a * b) within rounding.

    Not where a + b or a * b overflows or underflows though x kept it in range.
    """
    if m.x.dtype is None or not (m.x.dtype.is_float or m.x.dtype.is_integer):
        return rw.fail("elements are {}", m.x.dtype)
    merged = _merged(m.root, m.a, m.b)
    if merged is None:
        return rw.fail("the merged constant is too large or out of range")
    if not any(c.gives_way(merged.nbytes) for c in (m.a, m.b)):
        return rw.fail("other readers keep the constants: the file would grow")
    c = rw.const(merged, m.a.tensor.dtype)
    return rw.replace(m.root, rw.build(m.root.name, m.x, c).result)
