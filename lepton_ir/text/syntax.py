"""From characters to syntax nodes: the lark parser, its actions, and messages with a caret."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NoReturn

from lark import Lark, Token, Transformer
from lark.exceptions import (
    LarkError,
    UnexpectedCharacters,
    UnexpectedEOF,
    UnexpectedInput,
    UnexpectedToken,
    VisitError,
)

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, shorten
from lepton_ir.text.literals import (
    ComplexParts,
    NanBits,
    bytes_value,
    float_value,
    unquoted,
)

MAX_VALUE_DEPTH = 32
"""Deepest nesting of lists and dicts in an attribute."""

_MAX_EXPECTED = 6
_MAX_LINE = 100
_MAX_DIGITS = 400


class ListLiteral(list[Any]):
    """``[a, b]``."""

    __slots__ = ("depth",)
    depth: int


class TupleLiteral(list[Any]):
    """``(a, b)``."""

    __slots__ = ("depth",)
    depth: int


class DictLiteral(dict[str, Any]):
    """``{key=value}``; ``token`` is the first key, for messages."""

    __slots__ = ("depth", "token")
    depth: int
    token: Token | None


class CallLiteral:
    """``name(arguments)``: a formula, a blob's place, a foreign value."""

    __slots__ = ("args", "depth", "name", "token")

    def __init__(self, token: Token, args: list[Any]) -> None:
        self.token = token
        self.name = str(token)
        self.args = args
        self.depth = _depth(args)


class TensorLiteral:
    """``TYPE payload``."""

    __slots__ = ("depth", "payload", "type")

    def __init__(self, type_: Token, payload: Any) -> None:
        self.type = type_
        self.payload = payload
        self.depth = getattr(payload, "depth", 0)


class Types(list[tuple[Token, Any, "DictLiteral | None"]]):
    """Types of results: (type, declared type or True for the same, metadata)."""


class Region:
    """A region: its label (opaque operations), arguments, operations."""

    __slots__ = ("label", "ops", "params")

    def __init__(self, items: list[Any]) -> None:
        self.label: str | None = None
        self.params: list[Any] = []
        self.ops: list[OpNode] = []
        for item in items:
            if item.__class__ is OpNode:
                self.ops.append(item)
            elif item.__class__ is Token:
                self.label = token_text(item)
            else:
                self.params = item


class Loc:
    """A location: names and rules; a leaf has one name and no rules."""

    __slots__ = ("leaf", "names", "rules")

    def __init__(self, names: list[str], rules: list[str], leaf: bool) -> None:
        self.names = names
        self.rules = rules
        self.leaf = leaf


class NodeFacts(dict[str, Any]):
    """The ``node`` clause."""


class Lhs(list[Token]):
    """Names of results."""


class Args(list[Token]):
    """Operands."""


class Outs(list[tuple["str | None", Token]]):
    """Results of a function: a name where it is given, and the type."""


class Blobs(list[tuple[Token, "CallLiteral"]]):
    """The ``blobs`` section."""


class OpNode:
    """One operation as written."""

    __slots__ = ("args", "attrs", "loc", "name", "node", "regions", "results", "types", "version")

    def __init__(self, items: list[Any]) -> None:
        self.results: list[Token] = []
        self.version: int | None = None
        self.attrs: DictLiteral | None = None
        self.types: Types | None = None
        self.regions: list[Region] | None = None
        self.loc: Loc | None = None
        self.node: NodeFacts | None = None
        for item in items:
            kind = item.__class__
            if kind is Args:
                self.args: list[Token] = item
            elif kind is Token:
                if item.type == "VERSION":
                    self.version = int(item[1:20])
                else:
                    self.name: Token = item
            elif kind is Types:
                self.types = item
            elif kind is DictLiteral:
                self.attrs = item
            elif kind is Loc:
                self.loc = item
            elif kind is Lhs:
                self.results = item
            elif kind is Region:
                self.regions = [*(self.regions or ()), item]
            else:
                self.node = item


class FuncNode:
    """One function as written."""

    __slots__ = ("facts", "name", "ops", "outs", "params")

    def __init__(self, items: list[Any]) -> None:
        self.name: Token = items[0]
        self.params: list[Any] = []
        self.outs: list[tuple[str | None, Token]] | None = None
        self.facts: DictLiteral | None = None
        self.ops: list[OpNode] = items[-1]
        for item in items[1:-1]:
            if item.__class__ is DictLiteral:
                self.facts = item
            elif item.__class__ is Outs:
                self.outs = item
            else:
                self.params = item


class ModuleNode:
    """A module as written, or functions without one."""

    __slots__ = ("facts", "functions", "name")

    def __init__(self, items: list[Any]) -> None:
        self.name: Token | None = None
        self.facts: DictLiteral | None = None
        self.functions: list[FuncNode] = []
        for item in items:
            if item.__class__ is Token:
                self.name = item
            elif item.__class__ is DictLiteral:
                self.facts = item
            else:
                self.functions.append(item)


class _Rules(list[str]):
    """Rules of a fused location."""


class Problem(Exception):
    """A mistake in the text at a token."""

    def __init__(self, message: str, token: Token | None) -> None:
        super().__init__(message)
        self.message = message
        self.token = token


def _depth(items: Any) -> int:
    deepest = 0
    for item in items:
        deepest = max(deepest, getattr(item, "depth", 0))
    if deepest >= MAX_VALUE_DEPTH:
        raise Problem(f"values are nested deeper than {MAX_VALUE_DEPTH} levels", None)
    return deepest + 1


def token_text(token: Token) -> str:
    """Return the text of a NAME or a quoted literal."""
    if token.type != "STRING":
        return str(token)
    try:
        return unquoted(token)
    except ValueError as error:
        raise Problem(f"bad escape in a string: {error}", token) from error


def symbol_text(token: Token) -> str:
    """Return the name behind ``@``, ``#`` or ``$``."""
    if token[1] != '"':
        return str(token[1:])
    try:
        return unquoted(token[1:])
    except ValueError as error:
        raise Problem(f"bad escape in a name: {error}", token) from error


_WORDS: dict[str, Any] = {
    **dtypes.BY_NAME,
    "true": True,
    "false": False,
    "none": None,
    "inf": float("inf"),
    "nan": float("nan"),
}


class _Actions(Transformer[Token, Any]):
    """Reductions of the grammar, in lark's inline form: each gets its children as a list."""

    op = staticmethod(OpNode)
    func = staticmethod(FuncNode)
    module = staticmethod(ModuleNode)
    types = staticmethod(Types)
    region = staticmethod(Region)
    lhs = staticmethod(Lhs)
    args = staticmethod(Args)
    outs = staticmethod(Outs)

    def typed(self, c: list[Any]) -> Any:
        meta = c.pop() if c[-1].__class__ is DictLiteral else None
        if len(c) == 1:
            return c[0], None, meta
        return c[0], True if c[1].type == "EXACT" else c[1], meta

    def ops(self, c: list[Any]) -> list[Any]:
        return c

    params = ops
    strings = staticmethod(lambda c: [token_text(t) for t in c])
    document = ops

    def param(self, c: list[Any]) -> Any:
        return c[0], c[1], (c[2],) if len(c) > 2 else ()

    def named_out(self, c: list[Any]) -> Any:
        return token_text(c[0]), c[1]

    def out(self, c: list[Any]) -> Any:
        return None, c[0]

    def first(self, c: list[Any]) -> Any:
        return c[0]

    meta = first
    vars()["with"] = first

    def node(self, c: list[Any]) -> Any:
        return NodeFacts(c[0])

    def loc_leaf(self, c: list[Any]) -> Any:
        return Loc([token_text(c[0])], [], True)

    def loc_fused(self, c: list[Any]) -> Any:
        rules: list[str] = next((i for i in c if i.__class__ is _Rules), [])
        names: list[str] = next((i for i in c if i.__class__ is list), [])
        return Loc(names, list(rules), False)

    def rules(self, c: list[Any]) -> Any:
        return _Rules(c[0])

    def dict(self, c: list[Any]) -> Any:
        out = DictLiteral()
        out.token = c[0][0] if c else None
        for token, value in c:
            name = token_text(token)
            if name in out:
                raise Problem(f"{name!r:.60} is given twice", token)
            out[name] = value
        out.depth = _depth(out.values())
        return out

    def pair(self, c: list[Any]) -> Any:
        return c

    def int_value(self, c: list[Any]) -> Any:
        if len(c[0]) > _MAX_DIGITS:
            raise Problem("an integer of too many digits", c[0])
        return int(c[0], 0) if "x" in c[0] else int(c[0])

    def float_value(self, c: list[Any]) -> Any:
        try:
            return float_value(c[0])
        except ValueError as error:
            raise Problem(str(error), c[0]) from error

    def string_value(self, c: list[Any]) -> Any:
        return token_text(c[0])

    def bytes_value(self, c: list[Any]) -> Any:
        try:
            return bytes_value(c[0])
        except ValueError as error:
            raise Problem(str(error), c[0]) from error

    def word_value(self, c: list[Any]) -> Any:
        return _WORDS.get(c[0], str(c[0]))

    def ints_value(self, c: list[Any]) -> Any:
        try:
            out = ListLiteral(map(int, c[0][1:-1].split(",")))
        except ValueError as error:
            raise Problem("an integer of too many digits", c[0]) from error
        out.depth = 1
        return out

    def type_value(self, c: list[Any]) -> Any:
        return c[0]

    handle_value = ref_value = type_value

    def tensor_value(self, c: list[Any]) -> Any:
        return TensorLiteral(c[0], c[1])

    def list_value(self, c: list[Any]) -> Any:
        out = ListLiteral(c)
        out.depth = _depth(c)
        return out

    def tuple_value(self, c: list[Any]) -> Any:
        out = TupleLiteral(c)
        out.depth = _depth(c)
        return out

    def call(self, c: list[Any]) -> Any:
        made = CallLiteral(c[0], c[1:])
        if made.name == "nan" and len(made.args) == 1 and isinstance(made.args[0], int):
            return NanBits(made.args[0])
        if made.name == "complex" and len(made.args) == 2:
            return ComplexParts(*made.args)
        return made

    def blob(self, c: list[Any]) -> Any:
        return c

    def blobs(self, c: list[Any]) -> Any:
        return Blobs(c)


@cache
def parser() -> Lark:
    """Return the parser; built once in a process."""
    grammar = files("lepton_ir.text").joinpath("ir.lark").read_text("utf-8")
    return Lark(
        grammar,
        start="document",
        parser="lalr",
        lexer="contextual",
        transformer=_Actions(visit_tokens=False),
        maybe_placeholders=False,
        propagate_positions=False,
    )


_NAMES = {
    "$END": "the end of the file",
    "VALUE": "a value such as %x",
    "NAME": "a name",
    "STRING": "a quoted string",
    "TYPE": "a type such as f32[N,3]",
    "SYMBOL": "a symbol such as @main",
    "VERSION": "a version such as @3",
    "ABSENT": "_",
    "HANDLE": "a blob such as #w",
    "INT": "an integer",
    "FLOAT": "a number",
    "BYTES": 'b"bytes"',
    "INTS": "a list",
    "ATTRREF": "$attribute:kind",
    "EXACT": "'!'",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "COMMA": "','",
    "COLON": "':'",
    "EQUAL": "'='",
    "LESSTHAN": "'<'",
    "MORETHAN": "'>'",
    "__ANON_0": "'->'",
}


class Source:
    """A text and where it came from; makes errors with file, line, column and caret."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename

    def error(
        self, message: str, line: int, column: int, *, code: str = "lir", hint: str = ""
    ) -> InvalidModelError:
        """Return an error at a place."""
        rows = self.text.split("\n", line)
        row = rows[line - 1] if 0 < line <= len(rows) else ""
        start = max(0, column - 1 - _MAX_LINE // 2) if len(row) > _MAX_LINE else 0
        shown = "".join(c if c.isprintable() else "." for c in row[start : start + _MAX_LINE])
        caret = " " * max(0, column - 1 - start) + "^"
        where = f"{self.filename}:{line}:{column}"
        return InvalidModelError(message, code=code, where=where, hint=hint, notes=(shown, caret))

    def at(self, message: str, token: Token | None, *, hint: str = "") -> InvalidModelError:
        """Return an error at a token."""
        if token is None or token.line is None:
            return InvalidModelError(message, code="lir", where=self.filename, hint=hint)
        return self.error(message, token.line, token.column or 1, hint=hint)

    def parse(self) -> list[Any]:
        """Return modules, functions and blobs as written.

        Raises:
            InvalidModelError: a syntax error.
        """
        try:
            tree: list[Any] = parser().parse(self.text)  # type: ignore[assignment]
        except Problem as problem:
            raise self.at(problem.message, problem.token) from None
        except VisitError as error:
            if isinstance(error.orig_exc, Problem):
                raise self.at(error.orig_exc.message, error.orig_exc.token) from None
            raise
        except UnexpectedInput as error:
            self._syntax_error(error)
        except LarkError as error:
            raise InvalidModelError(str(error), code="lir", where=self.filename) from None
        return tree

    def _syntax_error(self, error: UnexpectedInput) -> NoReturn:
        expected: set[str] = set()
        if isinstance(error, UnexpectedToken):
            expected = set(error.accepts or error.expected)
            token = error.token
            found = "the end of the file" if token.type == "$END" else repr(shorten(token, 40))
        elif isinstance(error, UnexpectedCharacters):
            expected = set(error.allowed or ())
            found = repr(shorten(self.text[error.pos_in_stream :][:1], 40))
        else:
            found = "the end of the file"
            expected = set(error.expected) if isinstance(error, UnexpectedEOF) else set()
        line, column = error.line, error.column
        if line < 1 or found == "the end of the file":
            line = self.text.count("\n") + 1
            column = len(self.text) - (self.text.rfind("\n") + 1) + 1
        names = sorted(_NAMES.get(e, e.lower()) for e in expected if e != "COMMENT")
        shown = ", ".join(names[:_MAX_EXPECTED]) + (", ..." if len(names) > _MAX_EXPECTED else "")
        wanted = f"; expected {shown}" if names else ""
        raise self.error(f"unexpected {found}{wanted}", line, column) from None
