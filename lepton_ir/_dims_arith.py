"""Non-polynomial operations of symbolic dimensions: // % min max broadcast, and their rewrites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import gcd
from operator import index

from lepton_ir._dims_expr import (
    Dim,
    DimExpr,
    DimTooComplex,
    Mono,
    add,
    as_dim,
    atom_expr,
    content_of,
    divide_terms,
    from_dict,
    interval,
    make,
    mono_key,
    mul,
    poly_div,
    scale,
    single_atom,
    sub,
    terms_of,
)


def floordiv(a: Dim, b: Dim) -> Dim:
    """Returns `a // b` with Python's floor semantics.

    Raises:
        ZeroDivisionError: if `b` is the constant 0.
    """
    if type(a) is int and type(b) is int:
        return a // b
    a, b = as_dim(a), as_dim(b)
    if isinstance(b, int):
        if isinstance(a, int) or b == 0:
            return index(a if isinstance(a, int) else 1) // b
        if b < 0:
            a, b = scale(a, -1), -b
        return a if b == 1 or isinstance(a, int) else _floordiv_int(a, b)
    p, q, _ = _cancel_content(a, b)
    low = interval(q)[0]
    if low is not None and low >= 1:
        quotient = poly_div(p, q)
        if quotient is not None:
            return quotient
        if _is_proper_fraction(p, q):
            return 0
    return atom_expr("//", "", (p, q))


def _cancel_content(p: Dim, q: DimExpr) -> tuple[Dim, DimExpr, int]:
    """Divides both by their common integer factor, signed so that q's leading term is positive."""
    common = gcd(content_of(p), content_of(q)) * (-1 if q.terms[0][1] < 0 else 1)
    if common == 1:
        return p, q, 1
    divisor = divide_terms(q, common)
    assert isinstance(divisor, DimExpr)
    return divide_terms(p, common), divisor, common


def _is_proper_fraction(p: Dim, q: Dim) -> bool:
    low = interval(p)[0]
    if low is None or low < 0:
        return False
    slack = interval(sub(q, p))[0]
    return slack is not None and slack >= 1


@lru_cache(maxsize=1024)
def _floordiv_int(p: DimExpr, q: int) -> Dim:
    """Floor division by an int >= 2: splits out multiples of q, then reduces what is left.

    In the atom that remains, coefficients are smaller than q in size and coprime with it, the
    constant lies in [0, q), and the leading coefficient is positive: p//q == -((-p+q-1)//q).
    """
    whole: dict[Mono, int] = {}
    rest: dict[Mono, int] = {}
    constant = 0
    for mono, coefficient in p.terms:
        if not mono:
            whole[mono], constant = divmod(coefficient, q)
            continue
        part = coefficient // q if coefficient >= 0 else -(-coefficient // q)
        whole[mono] = part
        if coefficient - part * q:
            rest[mono] = coefficient - part * q
    if not rest:
        return from_dict(whole)
    common = gcd(q, *rest.values())
    sign = -1 if rest[min(rest, key=mono_key)] < 0 else 1
    q //= common
    constant //= common
    inner = {mono: sign * coefficient // common for mono, coefficient in rest.items()}
    inner[()] = constant if sign > 0 else q - 1 - constant
    return add(from_dict(whole), mul(sign, _reduced_floordiv(from_dict(inner), q)))


def _reduced_floordiv(p: Dim, q: int) -> Dim:
    low, high = interval(p)
    if low is not None and high is not None and low // q == high // q:
        return low // q
    nested = [
        mono[0]
        for mono, coefficient in terms_of(p)
        if coefficient == 1 and len(mono) == 1 and mono[0].kind == "//"
    ]
    nested = [atom for atom in nested if isinstance(atom.args[1], int)]
    if len(nested) == 1:
        # floor((floor(x/k) + r) / q) == floor((x + k*r) / (k*q)) for any integer r and k, q > 0.
        numerator, divisor = nested[0].args
        rest = sub(p, make((((nested[0],), 1),)))
        return floordiv(add(numerator, mul(rest, divisor)), mul(divisor, q))
    return atom_expr("//", "", (p, q))


def ceildiv(a: Dim, b: Dim) -> Dim:
    """Returns `a / b` rounded towards plus infinity, `-((-a) // b)`.

    Raises:
        ZeroDivisionError: if `b` is the constant 0.
    """
    if type(a) is int and type(b) is int:
        return -(-a // b)
    if isinstance(b, int) and b > 0:
        return floordiv(add(a, b - 1), b)
    return mul(-1, floordiv(mul(-1, a), b))


def mod(a: Dim, b: Dim) -> Dim:
    """Returns `a % b` with Python's semantics: the result has the sign of `b`.

    Raises:
        ZeroDivisionError: if `b` is the constant 0.
    """
    if type(a) is int and type(b) is int:
        return a % b
    a, b = as_dim(a), as_dim(b)
    if isinstance(b, int):
        if isinstance(a, int) or b == 0:
            return index(a if isinstance(a, int) else 1) % b
        return _mod_int(a, b) if b > 0 else mul(-1, mod(scale(a, -1), -b))
    p, q, common = _cancel_content(a, b)
    low = interval(q)[0]
    if low is not None and low >= 1:
        if poly_div(p, q) is not None:
            return 0
        if _is_proper_fraction(p, q):
            return mul(p, common)
    return scale(atom_expr("%", "", (p, q)), common)


@lru_cache(maxsize=1024)
def _mod_int(p: DimExpr, q: int) -> Dim:
    """Remainder by an int >= 1; coefficients are reduced to (-q/2, q/2], the constant to [0, q)."""
    unwrapped = _unwrap_mod(p, q)
    if not isinstance(unwrapped, DimExpr):
        return unwrapped % q
    rest: dict[Mono, int] = {}
    constant = 0
    for mono, coefficient in unwrapped.terms:
        residue = coefficient % q
        if not mono:
            constant = residue
        elif residue:
            rest[mono] = residue - q if 2 * residue > q else residue
    if not rest:
        return constant
    common = gcd(q, *rest.values())
    constant, extra = divmod(constant, common)
    q //= common
    inner = {mono: coefficient // common for mono, coefficient in rest.items()}
    inner[()] = constant
    reduced = from_dict(inner)
    low, high = interval(reduced)
    if low is not None and high is not None and low // q == high // q:
        result = sub(reduced, low // q * q)
    else:
        result = atom_expr("%", "", (reduced, q))
    return add(mul(result, common), extra)


def _unwrap_mod(p: DimExpr, q: int) -> Dim:
    """Replaces c*(x % k) by c*x where q divides c*k, which does not change the remainder by q."""
    result: Dim = p
    changed = True
    while changed:
        changed = False
        for mono, coefficient in terms_of(result):
            if len(mono) != 1 or mono[0].kind != "%":
                continue
            inner, modulus = mono[0].args
            if isinstance(modulus, int) and coefficient * modulus % q == 0:
                change = sub(inner, make(((mono, 1),)))
                result = add(result, mul(change, coefficient))
                changed = True
                break
    return result


# -- min, max, broadcast ---------------------------------------------------------------------------


def _flatten(kind: str, dims: Iterable[Dim]) -> Iterator[Dim]:
    for dim in dims:
        value = as_dim(dim)
        atom = single_atom(value)
        if atom is not None and atom.kind == kind:
            yield from atom.args
        else:
            yield value


def _at_least(a: Dim, b: Dim) -> bool:
    try:
        low = interval(sub(a, b))[0]
    except DimTooComplex:
        return False
    return low is not None and low >= 0


def _sorted_args(args: Iterable[DimExpr]) -> list[Dim]:
    return list(sorted(args, key=str))


def _extremum(kind: str, dims: Iterable[Dim]) -> Dim:
    flat = dict.fromkeys(_flatten(kind, dims))
    args = _sorted_args(dim for dim in flat if isinstance(dim, DimExpr))
    ints = [dim for dim in flat if isinstance(dim, int)]
    if ints:
        args.append(min(ints) if kind == "min" else max(ints))
    kept: list[Dim] = []
    for position, arg in enumerate(args):
        others = kept + args[position + 1 :]
        if kind == "min":
            redundant = any(_at_least(arg, other) for other in others)
        else:
            redundant = any(_at_least(other, arg) for other in others)
        if not redundant:
            kept.append(arg)
    return kept[0] if len(kept) == 1 else atom_expr(kind, "", tuple(kept))


def minimum(a: Dim, b: Dim, *more: Dim) -> Dim:
    """Returns the smallest of its arguments."""
    if type(a) is int and type(b) is int and not more:
        return min(a, b)
    return _extremum("min", (a, b, *more))


def maximum(a: Dim, b: Dim, *more: Dim) -> Dim:
    """Returns the largest of its arguments."""
    if type(a) is int and type(b) is int and not more:
        return max(a, b)
    return _extremum("max", (a, b, *more))


def _is_capped(dim: DimExpr, others: list[DimExpr]) -> bool:
    """Whether `dim` is `min(x, c)` with a positive int c, for an x among `others`.

    Where it is not x, x exceeds c and is at least 2: both broadcast only if `dim` is 1.
    """
    atom = single_atom(dim)
    if atom is None or atom.kind != "min" or len(atom.args) != 2:
        return False
    caps = [arg for arg in atom.args if isinstance(arg, int)]
    return len(caps) == 1 and caps[0] >= 1 and any(arg in others for arg in atom.args)


def broadcast(a: Dim, b: Dim, *more: Dim) -> Dim:
    """Returns the dimension that NumPy broadcasting gives.

    The program asserts that its operands broadcast, so a dimension that is known not to be 1 (an
    int, or an expression whose lower bound is at least 2) is the result whatever symbols it meets.

    Raises:
        ValueError: if two int dimensions differ and neither is 1.
    """
    if a is b and not more:
        return a
    flat = [dim for dim in dict.fromkeys(_flatten("broadcast", (a, b, *more))) if dim != 1]
    if not flat:
        return 1
    ints = [dim for dim in flat if isinstance(dim, int)]
    if len(ints) > 1:
        raise ValueError(f"dimensions {ints[0]} and {ints[1]} do not broadcast")
    if ints:
        return ints[0]
    exprs = [dim for dim in flat if isinstance(dim, DimExpr)]
    exprs = [dim for dim in exprs if (interval(dim)[0] or 0) >= 2] or exprs
    exprs = [dim for dim in exprs if not _is_capped(dim, exprs)]
    return exprs[0] if len(exprs) == 1 else atom_expr("broadcast", "", tuple(_sorted_args(exprs)))
