"""Interned polynomials of symbolic dimensions: text, bounds, + - * (behind `lepton_ir.dims`).

A `DimExpr` is a polynomial with integer coefficients over *atoms*: symbols, and the nodes that are
not polynomial (`//`, `%`, `min`, `max`, `broadcast`, and products too large to expand).  Atoms and
polynomials are interned, so two dimensions with the same normal form are the same object.

Every rewrite here is exact in floor semantics for all symbol values >= 0 for which the source is
defined (no division by zero, and operands of `broadcast` that do broadcast).
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterable
from math import gcd
from operator import index
from typing import Any, Final, SupportsIndex, TypeAlias
from weakref import WeakValueDictionary

MAX_NODES: Final = 256
"""Largest weight of an expression: atoms, terms, and long names and coefficients counted extra."""

MAX_DEPTH: Final = 32
"""Deepest nesting of non-polynomial nodes."""

MAX_EXPANSION: Final = 64
"""Products of sums with more term pairs than this are kept as one atom."""

NAME_CHARS_PER_NODE: Final = 256
COEFFICIENT_BITS_PER_NODE: Final = 32

RESERVED: Final = frozenset({"min", "max", "broadcast", "inf", "None"})

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Control characters, and what cannot stand in a line of UTF-8 text (separators, lone surrogates).
_ESCAPED = re.compile('["\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}

Interval: TypeAlias = tuple[int | None, int | None]
Mono: TypeAlias = "tuple[Atom, ...]"
Terms: TypeAlias = "tuple[tuple[Mono, int], ...]"


class DimTooComplex(ValueError):
    """An operation would exceed `MAX_NODES` or `MAX_DEPTH`; treat the dimension as unknown."""


class Atom:
    """An interned indeterminate of a polynomial: a symbol or a non-polynomial node."""

    __slots__ = (
        "__weakref__",
        "args",
        "depth",
        "interval",
        "key",
        "kind",
        "name",
        "size",
        "symbols",
        "text",
    )

    kind: str
    name: str
    args: tuple[Dim, ...]
    text: str
    key: str
    size: int
    depth: int
    interval: Interval
    symbols: frozenset[str]


class DimExpr:
    """An immutable, interned symbolic dimension; equal normal forms are the same object.

    Terms are in graded lexicographic order, which is an admissible monomial order: the first term
    is the leading one of polynomial division.  A constant is always a plain `int`, never a
    `DimExpr`, and `==` is identity.
    """

    __slots__ = ("__weakref__", "_interval", "_text", "depth", "size", "terms")
    __array_ufunc__ = None  # a NumPy scalar on the left defers to the reflected operators

    terms: Terms
    size: int
    depth: int
    _interval: Interval | None
    _text: str | None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"DimExpr is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"DimExpr is immutable: cannot delete {name!r}")

    def __copy__(self) -> DimExpr:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> DimExpr:
        return self

    def __reduce__(self) -> tuple[Callable[[str], Dim], tuple[str]]:
        from lepton_ir.dims import parse

        return parse, (str(self),)

    def __str__(self) -> str:
        text = self._text
        if text is None:
            text = _expr_text(self.terms)
            _set(self, "_text", text)
        return text

    def __repr__(self) -> str:
        return f"DimExpr({str(self)!r})"

    def __neg__(self) -> Dim:
        return scale(self, -1)

    def __add__(self, other: Dim) -> Dim:
        return add(self, other) if _is_dim(other) else NotImplemented

    def __radd__(self, other: int) -> Dim:
        return add(other, self) if _is_dim(other) else NotImplemented

    def __sub__(self, other: Dim) -> Dim:
        return sub(self, other) if _is_dim(other) else NotImplemented

    def __rsub__(self, other: int) -> Dim:
        return sub(other, self) if _is_dim(other) else NotImplemented

    def __mul__(self, other: Dim) -> Dim:
        return mul(self, other) if _is_dim(other) else NotImplemented

    def __rmul__(self, other: int) -> Dim:
        return mul(other, self) if _is_dim(other) else NotImplemented

    def __floordiv__(self, other: Dim) -> Dim:
        from lepton_ir._dims_arith import floordiv

        return floordiv(self, other) if _is_dim(other) else NotImplemented

    def __rfloordiv__(self, other: int) -> Dim:
        from lepton_ir._dims_arith import floordiv

        return floordiv(other, self) if _is_dim(other) else NotImplemented

    def __mod__(self, other: Dim) -> Dim:
        from lepton_ir._dims_arith import mod

        return mod(self, other) if _is_dim(other) else NotImplemented

    def __rmod__(self, other: int) -> Dim:
        from lepton_ir._dims_arith import mod

        return mod(other, self) if _is_dim(other) else NotImplemented


Dim: TypeAlias = int | DimExpr

_set = object.__setattr__
_LOCK = threading.RLock()
# Weak, so that a loop that makes ever new expressions does not keep them.
_EXPRS: WeakValueDictionary[Terms, DimExpr] = WeakValueDictionary()
_ATOMS: WeakValueDictionary[tuple[str, str, tuple[Dim, ...]], Atom] = WeakValueDictionary()
# Small recent expressions stay alive, so that making one again is a look-up.
_RECENT: deque[DimExpr] = deque(maxlen=1024)
_RECENT_NODES: Final = 32


def _is_dim(value: object) -> bool:
    return isinstance(value, (int, DimExpr)) or hasattr(value, "__index__")


def as_dim(value: Dim | SupportsIndex) -> Dim:
    """Returns `value` as a `DimExpr` or a plain `int` (also from bool and NumPy integers)."""
    return value if isinstance(value, DimExpr) else index(value)


# -- text ------------------------------------------------------------------------------------------


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    short = _SHORT_ESCAPES.get(char)
    if short is not None:
        return short
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


def quote_name(name: str) -> str:
    """Returns a symbol's name as printed: bare if it is an identifier, else in double quotes."""
    if name not in RESERVED and _IDENTIFIER.fullmatch(name):
        return name
    return f'"{_ESCAPED.sub(_escape, name)}"'


def _is_tight(atom: Atom) -> bool:
    return atom.kind not in ("//", "%", "*")


def _expr_text(terms: Terms) -> str:
    parts: list[str] = []
    for mono, coefficient in terms:
        negative = coefficient < 0
        if parts:
            parts.append("-" if negative else "+")
        elif negative:
            parts.append("-")
        size = abs(coefficient)
        if not mono:
            parts.append(str(size))
            continue
        # `-N//2` reads (-N)//2, so a leading minus needs the parentheses that `M-N//2` does not.
        bare = size == 1 and not (negative and len(parts) == 1)
        factors = [] if size == 1 else [str(size)]
        for position, atom in enumerate(mono):
            loose = _is_tight(atom) or (bare and position == 0)
            factors.append(atom.text if loose else f"({atom.text})")
        parts.append("*".join(factors))
    return "".join(parts)


def _left_text(dim: Dim) -> str:
    return f"({dim})" if isinstance(dim, DimExpr) and len(dim.terms) > 1 else str(dim)


def _right_text(dim: Dim) -> str:
    if isinstance(dim, int):
        return str(dim)
    atom = single_atom(dim)
    return atom.text if atom is not None and _is_tight(atom) else f"({dim})"


def _atom_text(kind: str, name: str, args: tuple[Dim, ...]) -> str:
    if kind == "sym":
        return quote_name(name)
    if kind == "*":
        return "*".join(f"({arg})" for arg in args)
    if kind in ("//", "%"):
        return f"{_left_text(args[0])}{kind}{_right_text(args[1])}"
    return f"{kind}({','.join(map(str, args))})"


# -- interning -------------------------------------------------------------------------------------


def _make_atom(kind: str, name: str, args: tuple[Dim, ...]) -> Atom:
    found = _ATOMS.get((kind, name, args))
    if found is not None:
        return found
    atom = Atom()
    atom.kind, atom.name, atom.args = kind, name, args
    inner = [arg for arg in args if isinstance(arg, DimExpr)]
    atom.depth = 1 + max((arg.depth for arg in inner), default=-1)
    atom.size = 1 + sum(map(_weight, args)) + len(name) // NAME_CHARS_PER_NODE
    if atom.depth > MAX_DEPTH or (atom.size > MAX_NODES and kind != "sym"):
        raise DimTooComplex(f"symbolic dimension exceeds {MAX_NODES} nodes or depth {MAX_DEPTH}")
    atom.text = _atom_text(kind, name, args)
    # Symbols sort before other atoms: `M*((N+1)//2)`.
    atom.key = ("0" if kind == "sym" else "1") + atom.text
    atom.interval = _atom_interval(kind, args)
    atom.symbols = frozenset((name,)) if kind == "sym" else union_symbols(inner)
    with _LOCK:
        return _ATOMS.setdefault((kind, name, args), atom)


def _weight(dim: Dim) -> int:
    return (
        dim.size if isinstance(dim, DimExpr) else 1 + dim.bit_length() // COEFFICIENT_BITS_PER_NODE
    )


def union_symbols(dims: Iterable[DimExpr]) -> frozenset[str]:
    """Returns the names of all symbols in `dims`."""
    sets = [atom.symbols for dim in dims for mono, _ in dim.terms for atom in mono]
    return sets[0] if len(sets) == 1 else frozenset().union(*sets)


def make(terms: Terms) -> DimExpr:
    """Returns the interned expression with these terms (sorted, not a constant)."""
    found = _EXPRS.get(terms)
    if found is not None:
        return found
    size = depth = 0
    for mono, coefficient in terms:
        size += 1 + coefficient.bit_length() // COEFFICIENT_BITS_PER_NODE
        for atom in mono:
            size += atom.size
            if atom.depth > depth:
                depth = atom.depth
    # A bare symbol may have a name of any length.
    bare = len(terms) == 1 and terms[0][1] == 1 and terms[0][0][0].kind == "sym"
    if size > MAX_NODES and not (bare and len(terms[0][0]) == 1):
        raise DimTooComplex(f"symbolic dimension exceeds {MAX_NODES} nodes")
    expr = object.__new__(DimExpr)
    _set(expr, "terms", terms)
    _set(expr, "size", size)
    _set(expr, "depth", depth)
    _set(expr, "_interval", None)
    _set(expr, "_text", None)
    if size <= _RECENT_NODES:
        _RECENT.append(expr)
    with _LOCK:
        return _EXPRS.setdefault(terms, expr)


def mono_key(mono: Mono) -> tuple[int, list[str]]:
    """Orders monomials: higher degree first, then by text."""
    return -len(mono), [atom.key for atom in mono]


def _term_key(term: tuple[Mono, int]) -> tuple[int, list[str]]:
    return mono_key(term[0])


def from_dict(terms: dict[Mono, int]) -> Dim:
    """Returns the dimension with these terms (zero coefficients are dropped)."""
    items = [item for item in terms.items() if item[1]]
    if not items:
        return 0
    if len(items) == 1:
        return make((items[0],)) if items[0][0] else items[0][1]
    items.sort(key=_term_key)
    return make(tuple(items))


def terms_of(dim: Dim) -> Terms:
    """Returns the terms of a dimension; the terms of an int are at most one."""
    if isinstance(dim, DimExpr):
        return dim.terms
    return (((), dim),) if dim else ()


def single_atom(dim: Dim) -> Atom | None:
    """Returns the atom if `dim` is exactly one atom."""
    if isinstance(dim, DimExpr) and len(dim.terms) == 1:
        mono, coefficient = dim.terms[0]
        if coefficient == 1 and len(mono) == 1:
            return mono[0]
    return None


def atom_expr(kind: str, name: str, args: tuple[Dim, ...]) -> DimExpr:
    """Returns the expression that is exactly one atom."""
    return make((((_make_atom(kind, name, args),), 1),))


def sym(name: str) -> DimExpr:
    """Returns the symbol called `name` (any text); symbols stand for integers >= 0."""
    return atom_expr("sym", name, ())


# -- intervals -------------------------------------------------------------------------------------


def _interval_mul(a: Interval, b: Interval) -> Interval:
    (a_low, a_high), (b_low, b_high) = a, b
    if a_low is not None and b_low is not None and a_low >= 0 and b_low >= 0:
        if a_high is not None and b_high is not None:
            return a_low * b_low, a_high * b_high
        return a_low * b_low, 0 if a_high == 0 or b_high == 0 else None
    # Ends as (sign of infinity, value), which order like extended integers.
    left = [(-1, 0) if a_low is None else (0, a_low), (1, 0) if a_high is None else (0, a_high)]
    right = [(-1, 0) if b_low is None else (0, b_low), (1, 0) if b_high is None else (0, b_high)]
    corners = [_corner(x, y) for x in left for y in right]
    low, high = min(corners), max(corners)
    return (None if low[0] else low[1]), (None if high[0] else high[1])


def _corner(x: tuple[int, int], y: tuple[int, int]) -> tuple[int, int]:
    if not x[0] and not y[0]:
        return 0, x[1] * y[1]
    if x == (0, 0) or y == (0, 0):
        return 0, 0
    return (1 if (x[0] or x[1]) * (y[0] or y[1]) > 0 else -1), 0


def _mono_interval(mono: Mono) -> Interval:
    result: Interval = (1, 1)
    position = 0
    while position < len(mono):
        atom = mono[position]
        factor = atom.interval
        position += 1
        if position < len(mono) and mono[position] is atom:
            low, high = _interval_mul(factor, factor)
            factor = (max(low, 0) if low is not None else 0), high
            position += 1
        result = _interval_mul(result, factor)
    return result


def interval(dim: Dim) -> Interval:
    """Returns sound inclusive bounds by interval arithmetic (None: unbounded on that side)."""
    if isinstance(dim, int):
        return dim, dim
    if dim._interval is not None:
        return dim._interval
    low: int | None = 0
    high: int | None = 0
    for mono, coefficient in dim.terms:
        term_low, term_high = _mono_interval(mono) if len(mono) != 1 else mono[0].interval
        if coefficient < 0:
            term_low, term_high = term_high, term_low
        low = None if low is None or term_low is None else low + coefficient * term_low
        high = None if high is None or term_high is None else high + coefficient * term_high
    _set(dim, "_interval", (low, high))
    return low, high


def _atom_interval(kind: str, args: tuple[Dim, ...]) -> Interval:
    if kind == "sym":
        return 0, None
    bounds = [interval(arg) for arg in args]
    if kind == "*":
        return _interval_mul(*bounds)
    if kind == "//":
        return _floordiv_interval(*bounds)
    if kind == "%":
        return _mod_interval(*bounds)
    lows = [low for low, _ in bounds if low is not None]
    highs = [high for _, high in bounds if high is not None]
    whole_low, whole_high = len(lows) == len(args), len(highs) == len(args)
    if kind == "min":
        return (min(lows) if whole_low else None), min(highs, default=None)
    if kind == "max":
        return max(lows, default=None), (max(highs) if whole_high else None)
    return (min(lows) if whole_low else None), (max(highs) if whole_high else None)


def _floordiv_interval(p: Interval, q: Interval) -> Interval:
    (p_low, p_high), (q_low, q_high) = p, q
    if q_low is None or q_low < 0:
        return None, None
    least = max(q_low, 1)
    low = high = None
    if p_low is not None:
        # A negative dividend is least over the smallest divisor, another over the largest.
        nearest = least if p_low < 0 else q_high
        low = 0 if nearest is None else p_low // max(nearest, 1)
    if p_high is not None:
        if p_high >= 0:
            high = p_high // least
        else:
            high = -1 if q_high is None else p_high // max(q_high, 1)
    return low, high


def _mod_interval(p: Interval, q: Interval) -> Interval:
    (p_low, p_high), (q_low, q_high) = p, q
    if q_low is None or q_low < 0:
        return None, None
    limits = [] if q_high is None else [max(q_high, 1) - 1]
    if p_low is not None and p_low >= 0 and p_high is not None:
        limits.append(p_high)
    return 0, min(limits, default=None)


# -- ring operations -------------------------------------------------------------------------------


def _add_int(expr: DimExpr, value: int) -> DimExpr:
    if not value:
        return expr
    terms = expr.terms
    mono, coefficient = terms[-1]
    if mono:
        return make((*terms, ((), value)))
    total = coefficient + value
    return make((*terms[:-1], ((), total)) if total else terms[:-1])


def scale(expr: DimExpr, factor: int) -> Dim:
    """Returns `expr * factor`."""
    if factor == 0:
        return 0
    if factor == 1:
        return expr
    return make(tuple([(mono, coefficient * factor) for mono, coefficient in expr.terms]))


def divide_terms(dim: Dim, divisor: int) -> Dim:
    """Divides every coefficient by an int that divides all of them."""
    if isinstance(dim, int):
        return dim // divisor
    return make(tuple([(mono, coefficient // divisor) for mono, coefficient in dim.terms]))


def add(a: Dim, b: Dim) -> Dim:
    """Returns `a + b`."""
    if type(a) is int and type(b) is int:
        return a + b
    a, b = as_dim(a), as_dim(b)
    if isinstance(a, int):
        return a + b if isinstance(b, int) else _add_int(b, a)
    if isinstance(b, int):
        return _add_int(a, b)
    total = dict(a.terms)
    for mono, coefficient in b.terms:
        total[mono] = total.get(mono, 0) + coefficient
    return from_dict(total)


def sub(a: Dim, b: Dim) -> Dim:
    """Returns `a - b`."""
    if type(a) is int and type(b) is int:
        return a - b
    a, b = as_dim(a), as_dim(b)
    if a is b:
        return 0
    if isinstance(b, int):
        return add(a, -b)
    total = dict(terms_of(a))
    for mono, coefficient in b.terms:
        total[mono] = total.get(mono, 0) - coefficient
    return from_dict(total)


def _atom_key(atom: Atom) -> str:
    return atom.key


def _join_monos(a: Mono, b: Mono) -> Mono:
    if not a or not b:
        return a or b
    return tuple(sorted(a + b, key=_atom_key))


def content_of(dim: Dim) -> int:
    """Returns the greatest common divisor of the coefficients."""
    return gcd(*(coefficient for _, coefficient in terms_of(dim)))


def mul(a: Dim, b: Dim) -> Dim:
    """Returns `a * b`, expanded unless it would exceed `MAX_EXPANSION` term pairs."""
    if type(a) is int and type(b) is int:
        return a * b
    a, b = as_dim(a), as_dim(b)
    if isinstance(a, int):
        return a * b if isinstance(b, int) else scale(b, a)
    if isinstance(b, int):
        return scale(a, b)
    left, right = a.terms, b.terms
    if len(left) > 1 and len(right) > 1 and len(left) * len(right) > MAX_EXPANSION:
        factor = 1
        parts: list[Dim] = []
        for part in (a, b):
            content = content_of(part) * (-1 if part.terms[0][1] < 0 else 1)
            factor *= content
            parts.append(divide_terms(part, content))
        return scale(atom_expr("*", "", tuple(sorted(parts, key=str))), factor)
    total: dict[Mono, int] = {}
    for a_mono, a_coefficient in left:
        for b_mono, b_coefficient in right:
            mono = _join_monos(a_mono, b_mono)
            total[mono] = total.get(mono, 0) + a_coefficient * b_coefficient
    return from_dict(total)


def poly_div(a: Dim, b: Dim) -> Dim | None:
    """Returns the polynomial `q` with integer coefficients and `a == b * q`, if there is one."""
    if not isinstance(b, DimExpr):
        if b == 0 or any(coefficient % b for _, coefficient in terms_of(a)):
            return None
        return divide_terms(a, b)
    lead_mono, lead_coefficient = b.terms[0]
    rest = dict(terms_of(a))
    quotient: dict[Mono, int] = {}
    while rest:
        if len(quotient) > MAX_NODES or len(rest) > MAX_NODES:
            return None
        mono = min(rest, key=mono_key)
        factor, remainder = divmod(rest[mono], lead_coefficient)
        step = _mono_quotient(mono, lead_mono)
        if remainder or step is None:
            return None
        quotient[step] = factor
        for b_mono, coefficient in b.terms:
            target = _join_monos(step, b_mono)
            value = rest.get(target, 0) - factor * coefficient
            if value:
                rest[target] = value
            else:
                rest.pop(target, None)
    return from_dict(quotient)


def _mono_quotient(a: Mono, b: Mono) -> Mono | None:
    remaining = list(a)
    for atom in b:
        if atom not in remaining:
            return None
        remaining.remove(atom)
    return tuple(remaining)
