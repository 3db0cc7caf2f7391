"""What went wrong, where, and what to do: the one error type users see, and source locations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAME = 120
"""Characters of a foreign name that a message shows; a hostile name may be megabytes long."""

MAX_SOURCES = 64
"""Source names one operation carries out of the IR; a collapsed chain may have thousands."""


MAX_MESSAGE = 260
MAX_WHERE = 220
MAX_NOTES = 12


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shorten(text: str | bytes, limit: int = MAX_NAME) -> str:
    """Return ``text`` fit for one line of a message: control characters escaped, middle elided.

    Names that are not UTF-8 come as bytes; those that do not decode are escaped.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "backslashreplace")
    if len(text) <= limit:
        text = _printable(text)
        if len(text) <= limit:
            return text
    head, tail = _printable(text[:limit]), _printable(text[-limit:])
    return f"{head[: limit // 2]}...{tail[-limit // 4 :]}"


class Location:
    """Where an operation came from: a source node, or the operations a rewrite merged.

    Locations form a DAG; a leaf has ``name`` (the source node), an inner one has ``parents`` and
    the ``rule`` that made it.
    """

    __slots__ = ("name", "parents", "rule")

    def __init__(
        self, name: str = "", parents: tuple[Location, ...] = (), rule: str | None = None
    ) -> None:
        self.name = name
        self.parents = parents
        self.rule = rule

    @property
    def is_source(self) -> bool:
        """Whether this is a source node itself, untouched by any rewrite."""
        return not self.parents and self.rule is None

    def flatten(self, limit: int = MAX_SOURCES) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return (source names, rules): unique, first seen first, at most ``limit`` each."""
        names: dict[str, None] = {}
        rules: dict[str, None] = {}
        seen: set[int] = set()
        stack = [self]
        while stack:
            loc = stack.pop()
            if id(loc) in seen:
                continue
            seen.add(id(loc))
            if loc.rule and len(rules) < limit:
                rules[loc.rule] = None
            if loc.name and len(names) < limit:
                names[loc.name] = None
            if len(names) >= limit and len(rules) >= limit:
                break
            stack.extend(reversed(loc.parents))
        return tuple(names), tuple(rules)

    def __repr__(self) -> str:
        names, rules = self.flatten(4)
        return f"loc({', '.join(names)}{' via ' + ', '.join(rules) if rules else ''})"


NOWHERE = Location()


def merge_locations(locs: Iterable[Location], rule: str | None) -> Location:
    """Return the location of an operation that ``rule`` made from the operations at ``locs``."""
    unique = {id(loc): loc for loc in locs if loc is not NOWHERE}
    return Location("", tuple(unique.values()), rule)


class LeptonError(Exception):
    """An error that a user can act on.

    Args:
        message: what is wrong, one sentence without a final full stop.
        code: short stable identifier, such as ``conv-C2`` or ``onnx-import``.
        where: the place: a file, a node, an operation.
        hint: what to do about it.
        notes: further lines (neighbourhood of the operation, the pass that ran).
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        where: str = "",
        hint: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.where = where
        self.hint = hint
        self.notes = notes

    def __str__(self) -> str:
        return self.render()

    def render(self, most: int = MAX_NOTES) -> str:
        """Return the text for a terminal: ``error[code]: where: message`` and one line a note.

        At most ``most`` notes are shown. Whatever a hostile file put into the parts, no line is
        long and none has control characters.
        """
        head = f"error[{shorten(self.code, 40)}]: " if self.code else "error: "
        place = f"{shorten(self.where, MAX_WHERE)}: " if self.where else ""
        lines = [f"{head}{place}{shorten(self.message, MAX_MESSAGE)}"]
        notes = [line for note in self.notes for line in note.splitlines()]
        if len(notes) > most:
            notes = [*notes[: most - 1], f"... and {len(notes) - most + 1} more lines"]
        lines += [f"  note: {shorten(line, MAX_MESSAGE)}" for line in notes]
        if self.hint:
            lines.append(f"  help: {shorten(self.hint, MAX_MESSAGE)}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the same as a JSON-ready dict."""
        return {
            "severity": "error",
            "code": self.code,
            "where": self.where,
            "message": self.message,
            "hint": self.hint,
            "notes": list(self.notes),
        }


class VerifyError(LeptonError):
    """The IR breaks one of its numbered constraints."""


class UnsupportedError(LeptonError):
    """The input is valid, but this version cannot do what was asked with it."""


class InvalidModelError(LeptonError):
    """The input file is malformed or contradicts itself."""


class Remark:
    """One thing a pass did or did not do, and why; ``kind`` is applied, missed or note."""

    __slots__ = ("kind", "message", "pass_name", "where")

    def __init__(self, kind: str, pass_name: str, where: str, message: str) -> None:
        self.kind = kind
        self.pass_name = pass_name
        self.where = where
        self.message = message

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        return f"remark[{self.pass_name}]: {self.message}{place}"
