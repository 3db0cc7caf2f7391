"""Rows of sizes and other scalars that the graph computes with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends import formulas
from lepton_ir.frontends.torch.lowering import Lowering, Sym, promote
from lepton_ir.frontends.torch.ops.elementwise import dtype_of
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.dtypes import DType

_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "truediv": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "and_": lambda a, b: a and b,
    "or_": lambda a, b: a or b,
    "sym_max": max,
    "sym_min": min,
}

_OPS = {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "truediv": "div",
    "pow": "pow",
    "eq": "equal",
    "lt": "less",
    "le": "less_or_equal",
    "gt": "greater",
    "ge": "greater_or_equal",
    "and_": "and",
    "or_": "or",
    "sym_max": "max",
    "sym_min": "min",
    "mod": "mod",
}


def _scalar_type(x: Any) -> DType:
    """Python's types: int is i64, float is f64."""
    if isinstance(x, Sym):
        return dtype_of(x.value)
    kinds = {bool: dtypes.BOOL, float: dtypes.F64}
    return kinds.get(type(x), dtypes.I64)


def _binary(name: str) -> Callable[..., Any]:
    def row(b: Lowering, /, a: Any = None, **other: Any) -> Any:
        x, y = (a, other["b"]) if "b" in other else (a, next(iter(other.values())))
        if not isinstance(x, Sym) and not isinstance(y, Sym):
            return _NUMBERS[name](x, y)
        dtype = promote(_scalar_type(x), _scalar_type(y))
        if name == "truediv":
            dtype = dtypes.F64
        left, right = b.operand(x, dtype), b.operand(y, dtype)
        if name == "floordiv":
            return Sym(_floored(b, left, right))
        if name == "ne":
            return Sym(b.not_(b.equal(left, right)))
        if name == "mod" and dtype.is_float:
            raise UnsupportedError("the remainder of computed floats", code="torch-op")
        return Sym(b.build(_OPS[name], left, right).result)

    return row


def _floored(b: Lowering, x: Value, y: Value) -> Value:
    """Sizes are never negative, so that truncating is flooring; shapes see through a plain div."""
    if not dtype_of(x).is_float and _is_size(x) and _is_size(y):
        result: Value = b.div(x, y)
        return result
    found: Value = formulas.floor_div(b, x, y)
    return found


def _is_size(x: Value) -> bool:
    from lepton_ir import dims
    from lepton_ir.infer import content_of

    content = content_of(x)
    return bool(content) and all(
        c is not None and dims.prove_ge(c, 0) is True for c in content or ()
    )


for _name in _NUMBERS:
    _row = _binary(_name)
    if _name.startswith("sym_"):
        torch_op(_name, namespace="torch")(_row)
    else:
        torch_op(_name, namespace="_operator")(_row)


@torch_op("neg", namespace="_operator")
def neg(b: Lowering, /, a: Any) -> Any:
    return Sym(b.neg(a.value)) if isinstance(a, Sym) else -a


@torch_op("sym_not", namespace="torch")
def sym_not(b: Lowering, /, a: Any) -> Any:
    return Sym(b.not_(a.value)) if isinstance(a, Sym) else not a


@torch_op("sym_float", namespace="torch")
def sym_float(b: Lowering, /, a: Any) -> Any:
    return Sym(b.cast_to(a.value, dtypes.F64)) if isinstance(a, Sym) else float(a)


@torch_op("sym_int", namespace="torch")
def sym_int(b: Lowering, /, a: Any) -> Any:
    return Sym(b.cast_to(a.value, dtypes.I64)) if isinstance(a, Sym) else int(a)


@torch_op("trunc", namespace="math")
def trunc(b: Lowering, /, a: Any = None, **other: Any) -> Any:
    x = next(iter(other.values())) if other else a
    return Sym(b.cast_to(x.value, dtypes.I64)) if isinstance(x, Sym) else math.trunc(x)


def _to_int(name: str) -> Callable[..., Any]:
    def row(b: Lowering, /, a: Any = None, **other: Any) -> Any:
        x = next(iter(other.values())) if other else a
        if not isinstance(x, Sym):
            return getattr(math, name)(x)
        value = x.value if x.kind != "float" else b.build(name, x.value).result
        return Sym(b.cast_to(value, dtypes.I64))

    return row


for _name in ("floor", "ceil"):
    torch_op(_name, namespace="math")(_to_int(_name))


@torch_op("sym_sqrt", "_sym_sqrt", namespace="torch")
def sym_sqrt(b: Lowering, /, a: Any) -> Any:
    return Sym(b.sqrt(b.cast_to(a.value, dtypes.F64))) if isinstance(a, Sym) else math.sqrt(a)


@torch_op("sym_ite", namespace="torch")
def sym_ite(b: Lowering, /, **args: Any) -> Any:
    condition, yes, no = args.values()
    if not isinstance(condition, Sym):
        return yes if condition else no
    dtype = promote(_scalar_type(yes), _scalar_type(no))
    return Sym(b.where(condition.value, b.operand(yes, dtype), b.operand(no, dtype)))


# -- from tensors ----------------------------------------------------------------------------------


@torch_op("sym_size", "size")
def sym_size(b: Lowering, self: Value, dim: int | None = None) -> Any:
    return b.sizes_of(self) if dim is None else b.size_of(self, dim)


@torch_op("sym_numel", "numel")
def sym_numel(b: Lowering, self: Value) -> Any:
    sizes = b.sizes_of(self)
    if not any(isinstance(s, Sym) for s in sizes):
        return math.prod(s for s in sizes if isinstance(s, int))
    return Sym(b.size(self))


@torch_op("item", "_local_scalar_dense")
def item(b: Lowering, self: Value) -> Any:
    kind = dtype_of(self)
    wide = dtypes.F64 if kind.is_float else kind if kind is dtypes.BOOL else dtypes.I64
    return Sym(b.cast_to(b.reshape(self, b.ints([])), wide))


@torch_op("is_nonzero")
def is_nonzero(b: Lowering, self: Value) -> Any:
    return Sym(b.cast_to(b.reshape(self, b.ints([])), dtypes.BOOL))
