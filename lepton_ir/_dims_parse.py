"""Reader of symbolic dimensions: operator precedence with explicit stacks, so never recursive."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from lepton_ir._dims_arith import broadcast, floordiv, maximum, minimum, mod
from lepton_ir._dims_expr import RESERVED, Dim, add, mul, sub, sym

MAX_PAREN_DEPTH: Final = 200
"""Deepest nesting of parentheses, calls and signs; every printed dimension stays far below."""

MAX_INT_DIGITS: Final = 4300
"""Longest int literal, and about the largest int an expression may reach."""

_MAX_INT_BITS: Final = 14400
_TOKEN = re.compile(
    r"\s*(?:([0-9]+)|([A-Za-z_][A-Za-z0-9_]*)|(\"[^\"\\]*(?:\\.[^\"\\]*)*\")|(//|[-+*%(),]))",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:([\"\\nt])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|)", re.DOTALL)
_PLAIN_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}

_BINARY: dict[str, tuple[int, Callable[[Dim, Dim], Dim]]] = {
    "+": (1, add),
    "-": (1, sub),
    "*": (2, mul),
    "//": (2, floordiv),
    "%": (2, mod),
}
_NEGATE_PRECEDENCE: Final = 3
_CALLS: dict[str, Callable[..., Dim]] = {"min": minimum, "max": maximum, "broadcast": broadcast}


class _Pending(NamedTuple):
    """An operator waiting for its right operand, or an open parenthesis (precedence 0)."""

    what: str
    precedence: int
    column: int
    first_value: int


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.column = 1
        self.values: list[Dim] = []
        self.pending: list[_Pending] = []

    def fail(self, problem: str, column: int | None = None) -> NoReturn:
        raise ValueError(
            f"dimension, column {self.column if column is None else column}: {problem}"
        )

    def push(self, what: str, precedence: int) -> None:
        if precedence in (0, _NEGATE_PRECEDENCE) and len(self.pending) >= 2 * MAX_PAREN_DEPTH:
            self.fail(f"nested deeper than {MAX_PAREN_DEPTH} levels")
        self.pending.append(_Pending(what, precedence, self.column, len(self.values)))

    def operand(self, number: str | None, name: str | None, quoted: str | None, mark: str) -> bool:
        """Takes a token where an operand must start; returns whether the operand is complete."""
        if number is not None:
            if len(number) > MAX_INT_DIGITS:
                self.fail(f"an int of more than {MAX_INT_DIGITS} digits")
            self.values.append(int(number))
        elif quoted is not None:
            self.values.append(sym(_ESCAPE.sub(self.unescape, quoted[1:-1])))
        elif name in _CALLS:
            if not self.text.startswith("(", self.position):
                self.fail(f"expected '(' after {name!r} (a symbol of this name needs quotes)")
            self.position += 1
            self.push(name, 0)
            return False
        elif name is not None:
            if name in RESERVED:
                self.fail(f"{name!r} is reserved (a symbol of this name needs quotes)")
            self.values.append(sym(name))
        elif mark == "(":
            self.push(mark, 0)
            return False
        elif mark == "-":
            self.push(mark, _NEGATE_PRECEDENCE)
            return False
        else:
            self.fail(f"expected a number, a symbol or '(', got {mark!r}")
        return True

    def unescape(self, match: re.Match[str]) -> str:
        plain, byte, unit = match.groups()
        if plain:
            return _PLAIN_ESCAPES[plain]
        if not byte and not unit:
            self.fail('unknown escape in a quoted name (known: \\" \\\\ \\n \\t \\xNN \\uNNNN)')
        return chr(int(byte or unit, 16))

    def operator(self, mark: str) -> bool:
        """Takes a token after an operand; returns whether an operand is complete after it."""
        if mark in _BINARY:
            precedence = _BINARY[mark][0]
            self.reduce(precedence)
            self.push(mark, precedence)
            return False
        if mark not in (",", ")"):
            self.fail(
                "expected an operator, ',' or ')'" if self.pending else "expected an operator"
            )
        self.reduce(1)
        if not self.pending or (mark == "," and self.pending[-1].what == "("):
            self.fail(f"unexpected {mark!r}")
        if mark == ",":
            return False
        opened = self.pending.pop()
        if opened.what != "(":
            args = self.values[opened.first_value :]
            if len(args) < 2:
                self.fail(f"{opened.what} needs at least two arguments", opened.column)
            del self.values[opened.first_value :]
            self.apply(_CALLS[opened.what], args, opened.column)
        return True

    def reduce(self, precedence: int) -> None:
        """Applies the waiting operators that bind at least as strongly as `precedence`."""
        while self.pending and self.pending[-1].precedence >= precedence:
            top = self.pending.pop()
            right = self.values.pop()
            if top.precedence == _NEGATE_PRECEDENCE:
                self.apply(mul, [-1, right], top.column)
            else:
                self.apply(_BINARY[top.what][1], [self.values.pop(), right], top.column)

    def apply(self, function: Callable[..., Dim], args: list[Dim], column: int) -> None:
        try:
            result = function(*args)
        except ZeroDivisionError:
            self.fail("division by zero", column)
        except ValueError as error:
            self.fail(str(error), column)
        if isinstance(result, int) and result.bit_length() > _MAX_INT_BITS:
            self.fail(f"an int of more than {MAX_INT_DIGITS} digits", column)
        self.values.append(result)

    def run(self) -> Dim:
        complete = False
        end = len(self.text.rstrip())
        while self.position < end:
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                rest = self.text[self.position : end]
                self.column = end - len(rest.lstrip()) + 1
                char = rest.lstrip()[0]
                self.fail("unterminated quoted name" if char == '"' else f"unexpected {char!r}")
            number, name, quoted, mark = match.groups()
            assert match.lastindex is not None
            self.column = match.start(match.lastindex) + 1
            self.position = match.end()
            if complete:
                complete = self.operator(mark or "")
            else:
                complete = self.operand(number, name, quoted, mark or "")
        self.column = end + 1
        if not complete:
            self.fail("expected a number, a symbol or '(', got the end")
        self.reduce(1)
        if self.pending:
            self.fail("this '(' is never closed", self.pending[-1].column)
        return self.values[0]


def parse(text: str) -> Dim:
    """Returns the dimension that `text` spells; the inverse of `to_str`.

    Raises:
        ValueError: on a syntax error, naming the column, or if the expression is too complex.
    """
    return _Parser(text).run()
