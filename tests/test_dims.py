"""Symbolic dimensions: normal forms, proofs and bounds are compared with plain Python integers."""

from __future__ import annotations

import copy
import math
import operator
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lepton_ir import dims
from lepton_ir.dims import (
    Dim,
    DimExpr,
    DimTooComplex,
    bounds,
    broadcast,
    ceildiv,
    divides,
    evaluate,
    exact_div,
    floordiv,
    maximum,
    minimum,
    mod,
    parse,
    product,
    prove_eq,
    prove_ge,
    substitute,
    sym,
    symbols,
    to_str,
)

SETTINGS = settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

N, M, H, K = (sym(name) for name in "NMHK")
NAMES = ("N", "M", "H", "batch size", 'q"\\\n')
ENVS = st.fixed_dictionaries({name: st.integers(0, 12) for name in NAMES})
Env = dict[str, int]
# An expression twice over: the normal form, and the plain Python computation of the same thing.
Pair = tuple[Dim, Callable[[Env], int]]

BINARY: dict[str, tuple[Callable[[Any, Any], Any], Callable[[int, int], int]]] = {
    "+": (dims.add, operator.add),
    "-": (dims.sub, operator.sub),
    "*": (dims.mul, operator.mul),
    "//": (floordiv, operator.floordiv),
    "%": (mod, operator.mod),
    "ceil": (ceildiv, lambda a, b: -(-a // b)),
    "min": (minimum, min),
    "max": (maximum, max),
}


def _constant(value: int) -> Pair:
    return value, lambda env: value


def _leaf() -> st.SearchStrategy[Pair]:
    def symbol(name: str) -> Pair:
        return sym(name), lambda env: env[name]

    names = st.sampled_from(NAMES).map(symbol)
    return st.one_of(names, names, st.integers(-9, 9).map(_constant))


def _combine(children: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    divisors = st.integers(-8, 8).filter(bool).map(_constant)

    @st.composite
    def node(draw: st.DrawFn) -> Pair:
        name = draw(st.sampled_from(sorted(BINARY)))
        symbolic, plain = BINARY[name]
        left, left_plain = draw(children)
        if name in ("//", "%", "ceil") and draw(st.booleans()):
            right, right_plain = draw(divisors)
        else:
            right, right_plain = draw(children)
        try:
            value = symbolic(left, right)
        except (DimTooComplex, ZeroDivisionError):
            return left, left_plain
        return value, lambda env: plain(left_plain(env), right_plain(env))

    return node()


PAIRS = st.recursive(_leaf(), _combine, max_leaves=10)


def _value(function: Callable[[Env], int], env: Env) -> int:
    try:
        return function(env)
    except ZeroDivisionError:
        assume(False)
        raise


@SETTINGS
@given(PAIRS, ENVS)
def test_normal_form_keeps_the_value(pair: Pair, env: Env) -> None:
    expr, plain = pair
    expected = _value(plain, env)
    assert evaluate(expr, env) == expected


@SETTINGS
@given(PAIRS)
def test_text_round_trip(pair: Pair) -> None:
    expr = pair[0]
    assert parse(to_str(expr)) == expr
    if isinstance(expr, DimExpr):
        assert parse(str(expr)) is expr
        assert " " not in str(expr).replace("batch size", "")


@SETTINGS
@given(PAIRS, ENVS)
def test_bounds_are_sound(pair: Pair, env: Env) -> None:
    expr, plain = pair
    value = _value(plain, env)
    low, high = bounds(expr)
    assert low is None or low <= value
    assert high is None or value <= high


@SETTINGS
@given(PAIRS, PAIRS, ENVS)
def test_proofs_are_sound(a: Pair, b: Pair, env: Env) -> None:
    left, right = _value(a[1], env), _value(b[1], env)
    equal, at_least = prove_eq(a[0], b[0]), prove_ge(a[0], b[0])
    assert equal is None or equal == (left == right)
    assert at_least is None or at_least == (left >= right)


@SETTINGS
@given(PAIRS, PAIRS, ENVS)
def test_division_proofs_are_sound(a: Pair, b: Pair, env: Env) -> None:
    left, right = _value(a[1], env), _value(b[1], env)
    if divides(a[0], b[0]):
        assert (right == 0) if left == 0 else right % left == 0
    quotient = exact_div(a[0], b[0])
    if quotient is not None:
        assert right != 0
        assert evaluate(quotient, env) * right == left
    asserted = exact_div(a[0], b[0], nonzero=True)
    if asserted is not None and right:
        assert evaluate(asserted, env) * right == left


@SETTINGS
@given(PAIRS, PAIRS, ENVS)
def test_exact_div_undoes_a_product(a: Pair, b: Pair, env: Env) -> None:
    assume(not isinstance(b[0], int) or b[0])
    try:
        whole = dims.mul(a[0], b[0])
    except DimTooComplex:
        assume(False)
    quotient = exact_div(whole, b[0], nonzero=True)
    if quotient is not None:
        assert prove_eq(quotient, a[0]) is not False


@SETTINGS
@given(PAIRS, PAIRS, ENVS)
def test_substitution_commutes_with_evaluation(a: Pair, b: Pair, env: Env) -> None:
    inner = _value(b[1], env)
    assume(inner >= 0)
    expected = _value(a[1], {**env, "N": inner})
    try:
        replaced = substitute(a[0], {"N": b[0]})
    except (DimTooComplex, ZeroDivisionError):
        return
    assert evaluate(replaced, env) == expected


@SETTINGS
@given(PAIRS, ENVS)
def test_full_substitution_is_evaluation(pair: Pair, env: Env) -> None:
    expr, plain = pair
    expected = _value(plain, env)
    assert substitute(expr, env) == expected
    assert symbols(expr) <= set(NAMES)


@SETTINGS
@given(PAIRS, PAIRS)
def test_ring_laws_are_identity(a: Pair, b: Pair) -> None:
    x, y = a[0], b[0]
    try:
        assert dims.add(x, y) is dims.add(y, x) or isinstance(dims.add(x, y), int)
        assert dims.mul(x, y) is dims.mul(y, x) or isinstance(dims.mul(x, y), int)
        assert dims.sub(dims.add(x, y), y) == x
        assert minimum(x, y) == minimum(y, x)
    except DimTooComplex:
        assume(False)


def _numpy_broadcast(sizes: set[int]) -> int | None:
    sizes = sizes - {1}
    return None if len(sizes) > 1 else max(sizes, default=1)


@SETTINGS
@given(st.lists(st.sampled_from([0, 1, 1, 6, N, M, N + 2, H, 6 * K]), min_size=2), st.data())
def test_broadcast_is_that_of_numpy(operands: list[Dim], data: st.DataObject) -> None:
    env = {name: data.draw(st.sampled_from([0, 1, 4, 6])) for name in "NMHK"}
    expected = _numpy_broadcast({evaluate(dim, env) for dim in operands})
    assume(expected is not None)
    result = broadcast(operands[0], operands[1], *operands[2:])
    nested: Dim = 1
    for dim in reversed(operands):
        nested = broadcast(dim, nested)
    assert evaluate(result, env) == evaluate(nested, env) == expected
    assert parse(to_str(result)) == result


@SETTINGS
@given(st.text(), st.integers(-3, 3).filter(bool), st.integers(-3, 3))
def test_any_name_round_trips(name: str, scale: int, offset: int) -> None:
    expr = (sym(name) * scale + offset) // 7 + sym(name) * 3
    text = to_str(expr)
    assert parse(text) is expr
    assert symbols(expr) == {name}
    assert len(text.splitlines()) == 1
    text.encode()


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "min", "max", "broadcast", "inf", "None", "a-b", "1", "é", "input:0", '"'),
        *("\\", "\\n", "\n", "\t", "\0", "\x7f", "\x85", "\u2028", "\ud800", "\U0001f40d"),
        pytest.param("x" * 1_000_000, id="megabyte"),
    ],
)
def test_odd_names(name: str) -> None:
    assert parse(to_str(sym(name))) is sym(name)
    assert symbols(sym(name)) == {name}


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        ((4 * N) // 4, "N"),
        ((4 * N + 6) // 4, "N+1"),
        ((4 * N + 2) // 2, "2*N+1"),
        ((N // 2) // 3, "N//6"),
        ((6 * N) // 4, "N+N//2"),
        ((N // 2 + M) // 3, "(2*M+N)//6"),
        ((H - 1) // 2 + 1, "(H+1)//2"),
        (-((-N) // 2), "(N+1)//2"),
        (ceildiv(N, 4), "(N+3)//4"),
        (N // 1, "N"),
        (N % 1, "0"),
        ((8 * N) % 4, "0"),
        ((8 * N + 3) % 4, "3"),
        ((N % 8) % 4, "N%4"),
        ((N % 4) // 4, "0"),
        ((N % 4) % 7, "N%4"),
        ((6 * N) % 4, "2*(N%2)"),
        (N // -2, "-((N+1)//2)"),
        (maximum(0, N), "N"),
        (minimum(N, 8), "min(N,8)"),
        (minimum(minimum(N, 8), minimum(M, 4)), "min(M,N,4)"),
        (maximum(N, N + 1), "N+1"),
        (minimum(N, -1), "-1"),
        (minimum(N % 4, 9), "N%4"),
        (N - 1, "N-1"),
        (3 - N, "-N+3"),
        (N * (M + 1) - M * N, "N"),
        ((N + 1) // (N + 1), "1"),
        ((N + 1) * (M + 2) // (N + 1), "M+2"),
        (N // N, "N//N"),
        (N // (N + 1), "0"),
        (N % (N + 1), "N"),
        (4 * N // (2 * M), "2*N//M"),
        (8 * (N // 2), "8*(N//2)"),
        (-(N // 2), "-(N//2)"),
        (M - N // 2, "M-N//2"),
        ((N // 2) * M, "M*(N//2)"),
        (7 // N, "7//N"),
        ((N + 1) // (2 * M), "(N+1)//(2*M)"),
        (broadcast(N, M), "broadcast(M,N)"),
        (broadcast(broadcast(N, M), broadcast(H, N)), "broadcast(H,M,N)"),
        (broadcast(N, 8), "8"),
        (broadcast(minimum(N, 5), N), "N"),
        (broadcast(minimum(N, 5), M), "broadcast(M,min(N,5))"),
        (broadcast(1, N), "N"),
        (broadcast(N, N), "N"),
        (broadcast(N, M + 2), "M+2"),
        (broadcast(broadcast(N, M), 5), "5"),
        (broadcast(N, 0), "0"),
        (sym("a b") + 1, '"a b"+1'),
        (product([N, 3, M, 2]), "6*M*N"),
        (product([]), "1"),
    ],
)
def test_normal_forms(expr: Dim, text: str) -> None:
    assert to_str(expr) == text
    assert parse(text) == expr


def test_constants_become_ints() -> None:
    for value in (N - N, N * 0, (N + 3) - N, (N * 4) % 2, minimum(N, N) - N):
        assert type(value) is int
    assert type(dims.add(True, 1)) is int
    three: Dim = 3
    assert three != N
    assert (N + 1) is (1 + N)
    assert hash(N + 1) == hash(1 + N)


def test_broadcast_of_ints() -> None:
    assert broadcast(1, 7) == broadcast(7, 1) == broadcast(7, 7) == 7
    assert broadcast(0, 1) == 0
    with pytest.raises(ValueError, match="2 and 3"):
        broadcast(2, 3)
    with pytest.raises(ValueError, match="do not broadcast"):
        evaluate(broadcast(N, M), {"N": 2, "M": 3})
    assert evaluate(broadcast(N, M), {"N": 1, "M": 3}) == 3
    assert evaluate(broadcast(N, M), {"N": 1, "M": 1}) == 1
    with pytest.raises(ValueError, match="do not broadcast"):
        substitute(broadcast(N, M), {"N": 2, "M": 3})


@pytest.mark.parametrize(
    ("a", "b", "equal", "at_least"),
    [
        (N, N, True, True),
        (N + 1, N, False, True),
        (N, N + 1, False, False),
        (N, M, None, None),
        (2 * N, 2 * M + 1, False, None),
        (N, N // 2, None, True),
        (N, minimum(N, M), None, True),
        (maximum(N, M), M, None, True),
        (N, N % 4, None, True),
        (N, 4 * (N // 4) + N % 4, True, True),
        (N + 1, 2 * (N // 2), False, True),
        (N // 2 + (N + 1) // 2, N, None, None),
        (N, 0, None, True),
        (N, -1, False, True),
        (-N, 1, False, False),
        (N * N, 0, None, True),
        (N % 4, 4, False, False),
        (5, 5, True, True),
        (4, 5, False, False),
    ],
)
def test_proofs(a: Dim, b: Dim, equal: bool | None, at_least: bool | None) -> None:
    assert prove_eq(a, b) is equal
    if at_least is not None:
        assert prove_ge(a, b) is at_least


def test_bounds() -> None:
    assert bounds(7) == (7, 7)
    assert bounds(N) == (0, None)
    assert bounds(N % 4 + 1) == (1, 4)
    assert bounds(minimum(N, 8)) == (0, 8)
    assert bounds(3 - N) == (None, 3)
    assert bounds(N - N // 2) == (0, None)
    assert bounds((N - M) * (N - M)) == (None, None)


def test_divisibility() -> None:
    assert divides(4, 8 * N)
    assert divides(4, 8 * N + 12)
    assert not divides(4, 6 * N)
    assert divides(N, N * M + 3 * N)
    assert not divides(N, M)
    assert divides(0, 0)
    assert not divides(0, N)
    assert exact_div(64 * N, N) is None
    assert exact_div(64 * N, N, nonzero=True) == 64
    assert exact_div(8 * N + 4, 4) is 2 * N + 1
    assert exact_div(8 * N + 4, 8) is None
    assert exact_div((N + 1) * (M + 2), N + 1) is M + 2
    assert exact_div(N * N - M * M, N - M, nonzero=True) is N + M
    assert exact_div(12, 4) == 3
    assert exact_div(12, 5) is None
    assert exact_div(12, 0) is None
    assert exact_div(N, 0) is None


def test_evaluate_errors() -> None:
    with pytest.raises(KeyError, match="'M'"):
        evaluate(N + M, {"N": 1})
    with pytest.raises(ZeroDivisionError):
        evaluate(M // N, {"N": 0, "M": 3})
    for operation in (floordiv, mod, ceildiv):
        with pytest.raises(ZeroDivisionError):
            operation(N, 0)
        with pytest.raises(ZeroDivisionError):
            operation(3, 0)


def test_substitution_is_simultaneous() -> None:
    assert substitute(N + 2 * M, {"N": M, "M": N}) is 2 * N + M
    assert substitute((N + 1) // 2, {"N": 7}) == 4
    assert substitute(N, {"M": 3}) is N
    assert substitute(5, {"M": 3}) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1"),
        ("N N", "column 3"),
        ("N+", "column 3"),
        ("(N", "column 1: this '\\('"),
        ("N)", "column 2"),
        ("N+)", "column 3"),
        ("N//0", "column 2: division by zero"),
        ("min(N)", "at least two"),
        ("min", "after 'min'"),
        ("None+1", "reserved"),
        ("N,M", "column 2"),
        ("(N,M)", "column 3"),
        ("foo(N)", "column 4"),
        ('"abc', "unterminated"),
        ('"a\\qb"', "escape"),
        ("N @ M", "column 3: unexpected '@'"),
        ("2 3", "column 3"),
        ("N/2", "column 2"),
        ("broadcast(2,3)", "column 1: dimensions 2 and 3"),
        ("9" * 5000, "digits"),
        ("9999*" * 3000 + "9", "digits"),
        ("(" * 100_000, "nested"),
        ("-" * 100_000 + "N", "nested"),
        ("min(N," * 100_000, "nested"),
        ("+".join(f"n{i}" for i in range(5000)), "nodes"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert len(str(caught.value)) < 200


def test_parse_accepts_spaces_and_python_precedence() -> None:
    assert parse(" 2 * N + 1 ") is 2 * N + 1
    assert parse("-N//2") is (-N) // 2
    assert parse("N*M//2%3") is ((N * M) // 2) % 3
    assert parse("N - -3") is N + 3
    assert parse('"N"') is N
    assert parse('"\\x41\\u0042"') is sym("AB")
    assert parse("((((N))))") is N
    assert parse("-7 // 2") == -4


def test_large_products_stay_one_node() -> None:
    left, right = (sum((sym(f"{c}{i}") for i in range(9)), start=0) for c in "ab")
    whole = left * right
    assert isinstance(whole, DimExpr)
    assert len(whole.terms) == 1
    assert (-2 * left) * (3 * right) is -6 * whole
    assert left * right is right * left
    for expr in (whole, N * whole, whole // 2, -whole, 2 * whole * whole - 1, (whole + 1) // N):
        assert parse(str(expr)) is expr
    env = {f"{c}{i}": i for c in "ab" for i in range(9)}
    assert evaluate(whole, env) == 36 * 36
    assert substitute(whole, env) == 36 * 36
    assert bounds(whole) == (0, None)


def _grow(step: Callable[[Dim, int], Dim]) -> None:
    expr: Dim = N
    for i in range(2000):
        try:
            expr = step(expr, i)
        except DimTooComplex:
            break
    else:
        pytest.fail("an expression grew without bound")
    assert len(to_str(expr)) < 200_000
    assert parse(to_str(expr)) is expr
    copied: Any = copy.deepcopy(expr)
    assert copied is expr


def test_growth_is_capped() -> None:
    _grow(lambda e, i: e + sym(f"s{i}"))
    _grow(lambda e, i: e * sym(f"s{i}"))
    _grow(lambda e, i: e * e + sym(f"s{i}"))
    _grow(lambda e, i: (e + 1) // sym(f"s{i}"))
    _grow(lambda e, i: maximum(minimum(e, sym(f"s{i}")), sym(f"t{i}") + 1))
    _grow(lambda e, i: e * 1_000_003)
    _grow(lambda e, i: e + sym("x" * 1000 + str(i)))
    _grow(lambda e, i: sym(f"s{i}") // (e + 1))


def test_interning_does_not_leak() -> None:
    from lepton_ir import _dims_expr

    before = len(_dims_expr._EXPRS) + len(_dims_expr._ATOMS)
    for i in range(20_000):
        assert isinstance((sym(f"tmp{i}") + 1) // 2, DimExpr)
    assert len(_dims_expr._EXPRS) + len(_dims_expr._ATOMS) <= before + 10_000


def test_pickle_and_copy_keep_identity() -> None:
    expr = (N + 1) // 2 + broadcast(M, H)
    assert pickle.loads(pickle.dumps(expr)) is expr
    assert copy.copy(expr) is expr
    assert copy.deepcopy([expr])[0] is expr
    with pytest.raises(AttributeError):
        setattr(expr, "terms", ())  # noqa: B010


def test_numpy_integers_mix() -> None:
    np = pytest.importorskip("numpy")
    assert N + np.int64(3) is N + 3
    assert np.int64(3) * N is 3 * N
    assert np.int32(7) // N is 7 // N
    with pytest.raises(TypeError):
        N + "a"  # type: ignore[operator]
    with pytest.raises(TypeError):
        N * 1.5  # type: ignore[operator]


def test_text_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from lepton_ir.dims import *\n"
        "from itertools import permutations\n"
        "s = [sym(n) for n in ('N', 'M', 'a b', 'z')]\n"
        "for p in permutations(s):\n"
        "    a, b, c, d = p\n"
        "    e = (a*b + c//3)*(d - a % 4) // 5\n"
        "    print(e + minimum(a, b, maximum(c, d)) + broadcast(a, b))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1
    assert math.factorial(4) == len(outputs.pop().splitlines())
