"""Symbolic dimensions: exact integer algebra over named symbols that are >= 0.

A dimension is an `int` or a `DimExpr`, a polynomial with integer coefficients over symbols and the
non-polynomial nodes `a//b`, `a%b`, `min`, `max` and `broadcast`.  Expressions are kept in a normal
form and interned, so equal normal forms are the same object and `==` is identity; what identity
cannot decide, `prove_eq`, `prove_ge`, `divides` and `bounds` may.  An unknown dimension is `None`
and no concern of this module.

>>> n = sym("N")
>>> str((4 * n + 6) // 4), str(ceildiv(n, 2)), (n + 1) - n
('N+1', '(N+1)//2', 1)
>>> parse("(2*N+2)//2") is n + 1
True

Statements "for all symbol values" mean all values >= 0 for which the expressions are defined: no
divisor is 0, and the operands of every `broadcast` do broadcast.  Operations whose result would
exceed `MAX_NODES` or `MAX_DEPTH` raise `DimTooComplex`; treat such a dimension as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import gcd

from lepton_ir._dims_arith import broadcast, ceildiv, floordiv, maximum, minimum, mod
from lepton_ir._dims_expr import (
    MAX_DEPTH,
    MAX_EXPANSION,
    MAX_NODES,
    Atom,
    Dim,
    DimExpr,
    DimTooComplex,
    add,
    as_dim,
    from_dict,
    interval,
    mul,
    poly_div,
    quote_name,
    sub,
    sym,
    union_symbols,
)
from lepton_ir._dims_parse import parse

__all__ = [
    "MAX_DEPTH",
    "MAX_EXPANSION",
    "MAX_NODES",
    "Dim",
    "DimExpr",
    "DimTooComplex",
    "add",
    "as_dim",
    "bounds",
    "broadcast",
    "ceildiv",
    "divides",
    "evaluate",
    "exact_div",
    "floordiv",
    "maximum",
    "minimum",
    "mod",
    "mul",
    "parse",
    "product",
    "prove_eq",
    "prove_ge",
    "quote_name",
    "same_dim",
    "same_dims",
    "sub",
    "substitute",
    "sym",
    "symbols",
    "to_str",
]

# Linear estimates tried for one bound; keeps proofs cheap on large expressions.
_ESTIMATE_BUDGET = 24


def product(dims: Iterable[Dim]) -> Dim:
    """Returns the product of `dims`; of none, 1."""
    result: Dim = 1
    for dim in dims:
        result = mul(result, dim)
    return result


def to_str(d: Dim) -> str:
    """Returns the text of a dimension, which `parse` reads back to the same object."""
    return str(d)


def symbols(d: Dim) -> frozenset[str]:
    """Returns the names of the symbols that occur in `d`."""
    return union_symbols((d,)) if isinstance(d, DimExpr) else frozenset()


# -- bounds and proofs -----------------------------------------------------------------------------


def bounds(d: Dim) -> tuple[int | None, int | None]:
    """Returns inclusive bounds of `d` over all symbol values (None: no bound known)."""
    if not isinstance(d, DimExpr):
        return d, d
    low, high = interval(d)
    if all(atom.kind == "sym" for mono, _ in d.terms for atom in mono):
        return low, high
    try:
        low = _estimated_lower(d, [_ESTIMATE_BUDGET])
        negated = _estimated_lower(mul(-1, d), [_ESTIMATE_BUDGET])
    except DimTooComplex:
        return low, high
    return low, (None if negated is None else -negated)


def _estimated_lower(d: Dim, budget: list[int]) -> int | None:
    """Returns a lower bound, relating nodes to what they contain (`N//2 <= N/2`)."""
    best = interval(d)[0]
    if not isinstance(d, DimExpr):
        return best
    for mono, coefficient in d.terms:
        if len(mono) != 1 or mono[0].kind == "sym":
            continue
        rest = sub(d, from_dict({mono: coefficient}))
        for numerator, denominator in _estimates(mono[0], upper=coefficient < 0):
            if budget[0] <= 0:
                return best
            budget[0] -= 1
            scaled = add(mul(rest, denominator), mul(numerator, coefficient))
            low = _estimated_lower(scaled, budget)
            if low is not None and (best is None or -(-low // denominator) > best):
                best = -(-low // denominator)
    return best


def _estimates(atom: Atom, *, upper: bool) -> Iterator[tuple[Dim, int]]:
    """Yields (n, d) with atom <= n/d if `upper`, else atom >= n/d; d > 0."""
    divisor = atom.args[1]
    if atom.kind == "//" and isinstance(divisor, int):
        p = atom.args[0]
        yield (p if upper else sub(p, divisor - 1)), divisor
    elif atom.kind == "%" and upper:
        p_low, q_low = interval(atom.args[0])[0], interval(divisor)[0]
        if q_low is not None and q_low >= 0:
            yield sub(divisor, 1), 1
            if p_low is not None and p_low >= 0:
                yield atom.args[0], 1
    elif atom.kind == ("min" if upper else "max"):
        for arg in atom.args:
            yield arg, 1


def prove_eq(a: Dim, b: Dim) -> bool | None:
    """Returns True if `a == b` for all symbol values, False if for none, None if not known."""
    if a is b:
        return True
    if type(a) is int and type(b) is int:
        return a == b
    try:
        for difference in _differences(a, b):
            if not isinstance(difference, DimExpr):
                return difference == 0
            low, high = bounds(difference)
            if (low is not None and low > 0) or (high is not None and high < 0):
                return False
            mono, constant = difference.terms[-1]
            if not mono and constant % gcd(*(c for m, c in difference.terms if m)):
                return False
    except DimTooComplex:
        return None
    return None


def same_dim(a: Dim | None, b: Dim | None) -> bool:
    """Returns whether two dims are known and proven equal."""
    return a is not None and b is not None and (a is b or prove_eq(a, b) is True)


def same_dims(a: Sequence[Dim | None], b: Sequence[Dim | None]) -> bool:
    """Returns whether two shapes have the same rank and dims that are known and proven equal."""
    return len(a) == len(b) and all(same_dim(p, q) for p, q in zip(a, b, strict=True))


def prove_ge(a: Dim, b: Dim) -> bool | None:
    """Returns True if `a >= b` for all symbol values, False if for none, None if not known."""
    if type(a) is int and type(b) is int:
        return a >= b
    try:
        for difference in _differences(a, b):
            low, high = bounds(difference)
            if low is not None and low >= 0:
                return True
            if high is not None and high < 0:
                return False
    except DimTooComplex:
        return None
    return None


def _differences(a: Dim, b: Dim) -> Iterator[Dim]:
    """Yields `a - b` as it stands, then without remainders if it has any."""
    difference = sub(a, b)
    yield difference
    expanded = _without_mod(difference)
    if expanded is not difference:
        yield expanded


def _without_mod(d: Dim) -> Dim:
    """Spells `p % q` as `p - q*(p//q)`, so that sums of quotient and remainder meet."""
    return _rebuild(d, {}, {}, expand_mod=True) if isinstance(d, DimExpr) else d


def divides(a: Dim, b: Dim) -> bool:
    """Whether `b` is provably an integer multiple of `a` for all symbol values."""
    if isinstance(a, int):
        if a == 0:
            return isinstance(b, int) and b == 0
        try:
            remainder = mod(b, a)
        except DimTooComplex:
            return False
        return isinstance(remainder, int) and remainder == 0
    try:
        return poly_div(b, a) is not None
    except DimTooComplex:
        return False


def exact_div(a: Dim, b: Dim, nonzero: bool = False) -> Dim | None:
    """Returns `a / b` if it is provably an integer (a polynomial quotient), else None.

    Args:
        a: Dividend.
        b: Divisor.
        nonzero: The caller asserts `b != 0`; else a symbolic `b` must be provably nonzero.
    """
    if not isinstance(b, int) and not nonzero:
        low, high = bounds(b)
        if not ((low is not None and low > 0) or (high is not None and high < 0)):
            return None
    try:
        quotient = poly_div(a, b)
        if quotient is None and isinstance(b, int) and b and divides(b, a):
            quotient = floordiv(a, b)
    except DimTooComplex:
        return None
    return quotient


# -- substitution and evaluation -------------------------------------------------------------------


def substitute(d: Dim, mapping: Mapping[str, Dim]) -> Dim:
    """Returns `d` with symbols replaced, all at once, and normalised again.

    Raises:
        ZeroDivisionError: if a divisor becomes the constant 0.
        ValueError: if operands of `broadcast` become ints that do not broadcast.
        DimTooComplex: if the result is too large.
    """
    if not isinstance(d, DimExpr) or symbols(d).isdisjoint(mapping):
        return d
    return _rebuild(d, mapping, {}, expand_mod=False)


def _rebuild(d: Dim, mapping: Mapping[str, Dim], memo: dict[Atom, Dim], *, expand_mod: bool) -> Dim:
    if not isinstance(d, DimExpr):
        return d
    total: Dim = 0
    for mono, coefficient in d.terms:
        term: Dim = coefficient
        for atom in mono:
            value = memo.get(atom)
            if value is None:
                value = memo[atom] = _rebuild_atom(atom, mapping, memo, expand_mod=expand_mod)
            term = mul(term, value)
        total = add(total, term)
    return total


def _rebuild_atom(
    atom: Atom, mapping: Mapping[str, Dim], memo: dict[Atom, Dim], *, expand_mod: bool
) -> Dim:
    if atom.kind == "sym":
        return as_dim(mapping[atom.name]) if atom.name in mapping else sym(atom.name)
    args = [_rebuild(arg, mapping, memo, expand_mod=expand_mod) for arg in atom.args]
    if atom.kind == "%":
        if expand_mod:
            return sub(args[0], mul(args[1], floordiv(*args)))
        return mod(*args)
    if atom.kind == "//":
        return floordiv(*args)
    if atom.kind == "*":
        return mul(*args)
    if atom.kind == "min":
        return minimum(*args)
    return maximum(*args) if atom.kind == "max" else broadcast(*args)


def evaluate(d: Dim, env: Mapping[str, int]) -> int:
    """Returns the value of `d` for the symbol values in `env`.

    Raises:
        KeyError: naming a symbol that `env` lacks.
        ZeroDivisionError: if a divisor is 0.
        ValueError: if operands of `broadcast` do not broadcast.
    """
    if not isinstance(d, DimExpr):
        return d
    total = 0
    for mono, coefficient in d.terms:
        term = coefficient
        for atom in mono:
            term *= _evaluate_atom(atom, env)
        total += term
    return total


def _evaluate_atom(atom: Atom, env: Mapping[str, int]) -> int:
    if atom.kind == "sym":
        return int(env[atom.name])
    values = [evaluate(arg, env) for arg in atom.args]
    if atom.kind == "//":
        return values[0] // values[1]
    if atom.kind == "%":
        return values[0] % values[1]
    if atom.kind == "*":
        return values[0] * values[1]
    if atom.kind == "min":
        return min(values)
    if atom.kind == "max":
        return max(values)
    sizes = set(values) - {1}
    if len(sizes) > 1:
        raise ValueError(f"dimensions {sorted(sizes)} do not broadcast")
    return sizes.pop() if sizes else 1
