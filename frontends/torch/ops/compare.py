"""Rows of comparisons, logic and choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.frontends import formulas
from lepton_ir.frontends.torch.lowering import Lowering
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable


def _comparison(name: str) -> Callable[..., Value]:
    def row(b: Lowering, self: Any, other: Any) -> Value:
        x, y = b.operands(self, other)
        if x.dtype is dtypes.BOOL and name != "equal":
            x, y = b.cast_to(x, dtypes.I32), b.cast_to(y, dtypes.I32)
        return b.build(name, x, y).result

    return row


for _name, _op in (
    ("eq", "equal"),
    ("lt", "less"),
    ("gt", "greater"),
    ("le", "less_or_equal"),
    ("ge", "greater_or_equal"),
):
    torch_op(_name)(_comparison(_op))
for _name, _op in (("less", "less"), ("greater", "greater"), ("less_equal", "less_or_equal")):
    torch_op(_name)(_comparison(_op))


@torch_op("ne", "not_equal")
def ne(b: Lowering, self: Any, other: Any) -> Any:
    return b.not_(b.equal(*b.operands(self, other)))


def truth(b: Lowering, x: Any) -> Value:
    """Return whether each element is not 0 (NaN is true)."""
    if isinstance(x, Value) and x.dtype is dtypes.BOOL:
        return x
    x = b.operand(x, b.common(x))
    result: Value = b.cast_to(x, dtypes.BOOL)
    return result


@torch_op("logical_not")
def logical_not(b: Lowering, self: Value) -> Any:
    return b.not_(truth(b, self))


@torch_op("logical_and")
def logical_and(b: Lowering, self: Value, other: Value) -> Any:
    return b.and_(truth(b, self), truth(b, other))


@torch_op("logical_or")
def logical_or(b: Lowering, self: Value, other: Value) -> Any:
    return b.or_(truth(b, self), truth(b, other))


@torch_op("logical_xor")
def logical_xor(b: Lowering, self: Value, other: Value) -> Any:
    return b.xor(truth(b, self), truth(b, other))


def _bitwise(logical: str, bits: str) -> Callable[..., Value]:
    def row(b: Lowering, self: Any, other: Any) -> Value:
        x, y = b.operands(self, other)
        return b.build(logical if x.dtype is dtypes.BOOL else bits, x, y).result

    return row


for _name in ("and", "or", "xor"):
    _row = _bitwise(_name, f"bitwise_{_name}")
    torch_op(f"bitwise_{_name}", f"__{_name}__")(_row)


@torch_op("bitwise_not")
def bitwise_not(b: Lowering, self: Value) -> Any:
    return b.not_(self) if self.dtype is dtypes.BOOL else b.bitwise_not(self)


def _shift(direction: str) -> Callable[..., Any]:
    def row(b: Lowering, self: Any, other: Any) -> Any:
        x, y = b.operands(self, other)
        return formulas.shifted(b, x, y, direction)

    return row


torch_op("bitwise_left_shift", "__lshift__")(_shift("LEFT"))
torch_op("bitwise_right_shift", "__rshift__")(_shift("RIGHT"))


@torch_op("isnan")
def isnan(b: Lowering, self: Value) -> Any:
    if self.dtype is not None and self.dtype.is_float:
        return b.is_nan(self)
    return b.expand(b.full((), False, dtypes.BOOL), b.shape_of(self))


@torch_op("isinf")
def isinf(b: Lowering, self: Value) -> Any:
    if self.dtype is not None and self.dtype.is_float:
        return b.is_inf(self)
    return b.expand(b.full((), False, dtypes.BOOL), b.shape_of(self))


@torch_op("isfinite")
def isfinite(b: Lowering, self: Value) -> Any:
    if self.dtype is not None and self.dtype.is_float:
        return b.not_(b.or_(b.is_nan(self), b.is_inf(self)))
    return b.expand(b.full((), True, dtypes.BOOL), b.shape_of(self))


@torch_op("isclose")
def isclose(
    b: Lowering, self: Value, other: Value, rtol: float = 1e-05, atol: float = 1e-08
) -> Any:
    x, y = b.floats(self, other)
    limit = b.add(b.like(x, atol), b.mul(b.like(x, rtol), b.abs(y)))
    return b.or_(b.equal(x, y), b.less_or_equal(b.abs(b.sub(x, y)), limit))


@torch_op("where")
def where(b: Lowering, condition: Value, self: Any = None, other: Any = None) -> Any:
    if self is None:
        from lepton_ir.frontends.torch.ops.index import coordinates

        return coordinates(b, condition)
    x, y = b.operands(self, other)
    return b.where(truth(b, condition), x, y)


@torch_op("masked_fill")
def masked_fill(b: Lowering, self: Value, mask: Value, value: Any) -> Any:
    return b.where(truth(b, mask), b.like(self, value), self)


@torch_op("heaviside")
def heaviside(b: Lowering, self: Value, values: Value) -> Any:
    zero = b.like(self, 0)
    step = b.where(b.less(self, zero), zero, b.like(self, 1))
    return b.where(b.equal(self, zero), values, step)
