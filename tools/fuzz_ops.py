"""Random elementwise ops for `lepton_ir.tools.fuzz`, and the list of all productions.

A production appends nodes to a scope and returns the newest tensor, or None when nothing visible
suits it. Productions know the signatures of each opset by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lepton_ir.tools.fuzz_graph import (
    Scope,
    Shape,
    Tensor,
    broadcast,
    static,
)

__all__ = ["PRODUCTIONS", "Production", "production"]


@dataclass(frozen=True, slots=True)
class Production:
    """A way to grow a graph: its function, relative weight and the first opset that has its ops."""

    grow: Callable[[Scope], Tensor | None]
    weight: float
    since: int


PRODUCTIONS: list[Production] = []
"""All productions, in the order of their definition."""

_Grow = Callable[[Scope], Tensor | None]


def production(weight: float = 1.0, since: int = 9) -> Callable[[_Grow], _Grow]:
    """Register a production."""

    def register(grow: _Grow) -> _Grow:
        PRODUCTIONS.append(Production(grow, weight, since))
        return grow

    return register


# -- elementwise -------------------------------------------------------------------------------

_BOUNDED = {
    "Tanh": (-1.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "Sin": (-1.0, 1.0),
    "Cos": (-1.0, 1.0),
    "Erf": (-1.0, 1.0),
    "Softsign": (-1.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Atan": (-1.6, 1.6),
}
_GROWING = {
    "Softplus": 9, "Elu": 9, "Selu": 9, "LeakyRelu": 9, "Celu": 12, "HardSwish": 14, "Mish": 18,
    "Gelu": 20,
}  # fmt: skip
_DOUBLE = {"Tanh", "Sigmoid", "Sin", "Cos"}


@production(3.0)
def smooth_unary(g: Scope) -> Tensor | None:
    """A continuous function of one tensor, in its domain."""
    x = g.pick(lambda t: t.floating and not t.special)
    if x is None:
        return None
    op = g.rng.choice([*_BOUNDED, *(op for op, since in _GROWING.items() if g.opset >= since)])
    if x.dtype != "f32" and op not in _DOUBLE:
        op = "Tanh"
    if op in _BOUNDED:
        lo, hi = _BOUNDED[op]
        return g.emit(op, [x], lo=lo, hi=hi)
    size = 2.0 * max(abs(x.lo), abs(x.hi)) + 2.0
    return g.tame(g.emit(op, [x], lo=-size, hi=size))


@production(2.0)
def domain_unary(g: Scope) -> Tensor | None:
    """Exp, Log, Sqrt and Reciprocal where they are well conditioned."""
    op = g.rng.choice(["Exp", "Log", "Sqrt", "Reciprocal"])
    if op == "Exp":
        x = g.pick(lambda t: t.floating and not t.special and t.hi <= 4)
        return x and g.tame(g.emit(op, [x], lo=0.0, hi=float(np.exp(x.hi))))
    x = g.pick(lambda t: t.plain and t.lo >= 0.2)
    if x is None:
        source = g.pick(lambda t: t.plain)
        if source is None:
            return None
        size = max(abs(source.lo), abs(source.hi))
        positive = g.emit("Abs", [source], lo=0.0, hi=size, exact=source.exact)
        x = g.emit("Add", [positive, g.scalar(0.5)], lo=0.5, hi=size + 0.5)
    if op == "Reciprocal":
        return g.emit(op, [x], lo=1 / x.hi, hi=1 / x.lo)
    function = np.log if op == "Log" else np.sqrt
    return g.emit(op, [x], lo=float(function(x.lo)), hi=float(function(x.hi)))


@production(2.5)
def exact_unary(g: Scope) -> Tensor | None:
    """Functions without rounding; those with jumps read exact values only."""
    op = g.rng.choice(["Neg", "Abs", "Relu", "Identity", "Floor", "Ceil", "Round", "Sign"])
    jumps = op in {"Floor", "Ceil", "Round", "Sign"}
    if op == "Identity":
        x = g.pick(lambda t: True)
        return x and g.emit(op, [x], exact=x.exact)
    if op == "Round" and g.opset < 11:
        op = "Floor"
    integers = op in {"Neg", "Abs", "Sign"}
    x = g.pick(
        lambda t: (
            (t.floating or (integers and t.integer))
            and not (t.special and op not in {"Neg", "Abs"})
            and (t.exact or not jumps)
        )
    )
    if x is None:
        return None
    size = max(abs(x.lo), abs(x.hi))
    lo, hi = {"Neg": (-x.hi, -x.lo), "Abs": (0.0, size), "Relu": (0.0, max(x.hi, 0.0))}.get(
        op, (x.lo - 1, x.hi + 1)
    )
    return g.emit(op, [x], lo=lo, hi=hi, exact=x.exact)


def _pair(g: Scope, accept: Callable[[Tensor], bool]) -> tuple[Tensor, Tensor, Shape] | None:
    """Return two tensors of one dtype that broadcast, in either order, and their common shape."""
    x = g.pick(accept)
    if x is None:
        return None
    choice = g.rng.random()
    y: Tensor | None = None
    if choice < 0.6:
        y = g.pick(
            lambda t: accept(t) and t.dtype == x.dtype and broadcast(x.shape, t.shape) is not None
        )
    if y is None and (x.floating or x.integer):
        sizes = [static(dim) or 1 for dim in x.shape[g.rng.randint(0, x.rank) :]]
        if x.integer:
            y = g.constant(np.full(sizes, g.rng.choice([-1, 1, 2, 3])), x.dtype)
        else:
            y = g.weights(*sizes, dtype=x.dtype)
    if y is None:
        return None
    shape = x.shape if x is y else broadcast(x.shape, y.shape)
    if shape is None or g.too_large(shape):
        return None
    return (x, y, shape) if g.rng.random() < 0.5 else (y, x, shape)


@production(6.0)
def arithmetic(g: Scope) -> Tensor | None:
    """Add, Sub or Mul with broadcasting."""
    found = _pair(g, lambda t: t.floating or (t.integer and max(abs(t.lo), abs(t.hi)) < 2**12))
    if found is None:
        return None
    x, y, shape = found
    op = g.rng.choice(["Add", "Sub", "Mul"])
    ends = {
        "Add": (x.lo + y.lo, x.hi + y.hi),
        "Sub": (x.lo - y.hi, x.hi - y.lo),
        "Mul": (x.lo * y.lo, x.lo * y.hi, x.hi * y.lo, x.hi * y.hi),
    }[op]
    exact = x.exact and y.exact and x.integer
    return g.tame(g.emit(op, [x, y], shape=shape, lo=min(ends), hi=max(ends), exact=exact))


@production(1.5)
def divide(g: Scope) -> Tensor | None:
    """Div by something far from zero, Mod by a positive constant."""
    x = g.pick(lambda t: (t.plain or t.integer) and t.known)
    if x is None:
        return None
    if x.integer:
        op = "Mod" if g.opset >= 10 and g.rng.random() < 0.4 else "Div"
        by = g.scalar(g.rng.choice([1, 2, 3, 7]), x.dtype)
        lo, hi = (0, by.hi - 1) if op == "Mod" else (min(x.lo, 0), max(x.hi, 0))
        return g.emit(op, [x, by], lo=lo, hi=hi, exact=x.exact)
    denominator = g.pick(
        lambda t: t.plain and t.lo >= 0.5 and broadcast(x.shape, t.shape) is not None
    )
    y = denominator or g.scalar(g.rng.choice([1.0, 2.0, -3.0, 0.7]))
    shape = broadcast(x.shape, y.shape)
    if shape is None or g.too_large(shape):
        return None
    size = max(abs(x.lo), abs(x.hi)) / min(abs(y.lo), abs(y.hi))
    return g.tame(g.emit("Div", [x, y], shape=shape, lo=-size, hi=size))


@production(1.0)
def power(g: Scope) -> Tensor | None:
    """Pow with a constant exponent."""
    exponent = g.rng.choice([1.0, 2.0, 3.0, 0.5, -1.0, 0.0])
    low = -8.0 if exponent in {0.0, 1.0, 2.0, 3.0} else 0.2
    x = g.pick(lambda t: t.plain and t.lo >= low and t.hi <= 8)
    if x is None:
        return None
    size = max(abs(x.lo), abs(x.hi), 1.0) ** max(exponent, 0.0) if exponent >= 0 else 1 / x.lo
    lo = -size if exponent in {1.0, 3.0} else 0.0
    return g.tame(g.emit("Pow", [x, g.scalar(exponent)], lo=lo, hi=max(size, 1.0)))


@production(1.5)
def variadic(g: Scope) -> Tensor | None:
    """Min, Max, Sum or Mean of one to three tensors."""
    op = g.rng.choice(["Min", "Max", "Sum", "Mean"])
    wide = op in {"Min", "Max"} and g.opset >= 12
    x = g.pick(lambda t: t.plain or (wide and t.integer))
    if x is None:
        return None
    operands, shape = [x], x.shape
    for _ in range(g.rng.randint(0, 2)):
        y = g.pick(lambda t: t.dtype == x.dtype and not t.special and t.known)
        joined = broadcast(shape, y.shape) if y else None
        if y is None or joined is None or g.too_large(joined):
            break
        operands.append(y)
        shape = joined
    exact = op in {"Min", "Max"} and all(t.exact for t in operands)
    lo, hi = min(t.lo for t in operands), max(t.hi for t in operands)
    if op == "Sum":
        lo, hi = sum(t.lo for t in operands), sum(t.hi for t in operands)
    return g.tame(g.emit(op, operands, shape=shape, lo=lo, hi=hi, exact=exact))


@production(1.5)
def clip(g: Scope) -> Tensor | None:
    """Clip with one, two or no bounds; at times after another Clip or Relu."""
    x = g.pick(lambda t: t.plain)
    if x is None:
        return None
    for _ in range(g.rng.randint(1, 2)):
        lo = g.rng.choice([None, 0.0, -1.0, 0.5])
        hi = g.rng.choice([None, 6.0, 1.0, 0.25])
        x = g.clip(x, lo, None if hi is not None and lo is not None and lo > hi else hi)
    return x


@production(2.0)
def compare(g: Scope) -> Tensor | None:
    """A comparison of exact values."""
    ops = ["Less", "Greater", "Equal"] + ["LessOrEqual", "GreaterOrEqual"] * (g.opset >= 12)
    op = g.rng.choice(ops)
    floats = op != "Equal" or g.opset >= 11
    found = _pair(
        g, lambda t: t.exact and (t.integer or (floats and t.dtype == "f32")) and not t.special
    )
    if found is None:
        return None
    x, y, shape = found
    return g.emit(op, [x, y], shape=shape, dtype="bool", lo=0, hi=1, exact=True)


@production(1.0)
def logic(g: Scope) -> Tensor | None:
    """And, Or, Xor or Not."""
    op = g.rng.choice(["And", "Or", "Xor", "Not"])
    x = g.pick(lambda t: t.dtype == "bool")
    if x is None or op == "Not":
        return x and g.emit("Not", [x], exact=True)
    found = _pair(g, lambda t: t.dtype == "bool")
    return found and g.emit(op, found[:2], shape=found[2], exact=True)


@production(1.5)
def where(g: Scope) -> Tensor | None:
    """Where with a bool tensor that broadcasts to the pair, or a constant condition."""
    found = _pair(g, lambda t: t.dtype in {"f32", "i64", "i32"} and t.known)
    if found is None:
        return None
    x, y, shape = found
    condition = g.pick(
        lambda t: t.dtype == "bool" and broadcast(t.shape, shape) is not None and t.exact
    )
    if condition is None or g.rng.random() < 0.2:
        condition = g.constant(np.array(g.rng.random() < 0.5))
    joined = broadcast(condition.shape, shape)
    if joined is None or g.too_large(joined):
        return None
    return g.emit(
        "Where", [condition, x, y], shape=joined, dtype=x.dtype,
        lo=min(x.lo, y.lo), hi=max(x.hi, y.hi), exact=x.exact and y.exact,
    )  # fmt: skip


@production(1.0)
def classify(g: Scope) -> Tensor | None:
    """IsNaN or IsInf, on special values when there are any."""
    op = "IsInf" if g.opset >= 10 and g.rng.random() < 0.5 else "IsNaN"
    x = g.pick(lambda t: t.dtype == "f32" and t.special) or g.pick(lambda t: t.dtype == "f32")
    return x and g.emit(op, [x], dtype="bool", lo=0, hi=1, exact=True)


@production(1.0)
def special_constant(g: Scope) -> Tensor | None:
    """A constant with NaN or infinity, added to something."""
    x = g.pick(lambda t: t.dtype == "f32" and t.known)
    if x is None:
        return None
    value = g.rng.choice([np.nan, np.inf, -np.inf])
    special = g.constant(np.array([value], np.float32))
    shape = broadcast(x.shape, special.shape)
    op = g.rng.choice(["Add", "Mul", "Sub"])
    return g.emit(op, [x, special], shape=shape, special=True)


@production(1.5)
def cast_chain(g: Scope) -> Tensor | None:
    """One to three casts that hold the values."""
    x = g.pick(lambda t: t.known and not t.special)
    if x is None:
        return None
    for _ in range(g.rng.randint(1, 3)):
        size = max(abs(x.lo), abs(x.hi))
        targets = ["f32", "f64"] + ["f16"] * (size < 1000)
        if x.exact:
            targets += ["i64", "i32", "bool"] + ["i8"] * (size <= 100)
            targets += ["u8"] * (x.lo >= 0 and size <= 200)
        target = g.rng.choice(targets)
        x = g.cast(x, target)
    return x
