"""Reads types: the inverse of ``str(type)``, one parse for each distinct text."""

from __future__ import annotations

import json

from lepton_ir import dims, dtypes
from lepton_ir.dims import Dim
from lepton_ir.types import (
    UNKNOWN,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    StateType,
    TensorType,
    Type,
)

MAX_WRAPPERS = 64
"""Deepest nesting of ``seq<...>`` and its like."""

_CACHE_LIMIT = 1 << 16

_cache: dict[str, Type] = {}
_WRAPPERS = {"seq": SequenceType, "opt": OptionalType, "state": StateType}


def parse_type(text: str) -> Type:
    """Return the type that ``text`` spells; accepts everything ``str(type)`` prints.

    Raises:
        ValueError: a syntax error, an unknown element type, or a shape no type can have.
    """
    found = _cache.get(text)
    if found is None:
        found = _parse(text.strip())
        if len(_cache) >= _CACHE_LIMIT:
            _cache.clear()
        _cache[text] = found
    return found


def _parse(text: str) -> Type:
    wrappers: list[str] = []
    start = 0
    while (opened := text.find("<", start)) >= 0 and _is_wrapper(text[start:opened]):
        word = text[start:opened]
        start = opened + 1
        if word == "map":
            comma = text.find(",", start)
            if comma < 0:
                raise ValueError("map<KEY,VALUE> misses its value type")
            word = f"map {text[start:comma].strip()}"
            start = comma + 1
        wrappers.append(word)
        if len(wrappers) > MAX_WRAPPERS:
            raise ValueError(f"types are nested deeper than {MAX_WRAPPERS} levels")
    end = len(text) - len(wrappers)
    if text[end:] != ">" * len(wrappers):
        raise ValueError(f"expected {len(wrappers)} '>' at the end")
    result = _plain(text[start:end].strip())
    for word in reversed(wrappers):
        if word in _WRAPPERS:
            result = _WRAPPERS[word](result)
        elif word == "sparse":
            if not isinstance(result, TensorType):
                raise ValueError("sparse<...> holds a tensor type")
            result = SparseType(result)
        else:
            result = MapType(dtypes.dtype(word[4:]), result)
    return result


def _is_wrapper(word: str) -> bool:
    return word in _WRAPPERS or word in ("map", "sparse")


def _plain(text: str) -> Type:
    if text == "?":
        return UNKNOWN
    opened = text.find("[")
    if opened < 0:
        raise ValueError(f"expected a type such as f32[N,3], got {text[:40]!r}")
    name = text[:opened].strip()
    dtype = None if name == "?" else dtypes.dtype(name)
    closed = _closing(text, opened + 1)
    inner, rest = text[opened + 1 : closed].strip(), text[closed + 1 :].strip()
    encoding: str | None = None
    if rest:
        if not rest.startswith('@"'):
            raise ValueError(f"unexpected {rest[:20]!r} after the type")
        encoding = json.loads(rest[1:], strict=False)
    if inner == "*":
        return TensorType(dtype, None, encoding)
    shape = tuple(_dim(part.strip()) for part in _split(inner)) if inner else ()
    return TensorType(dtype, shape, encoding)


def _dim(text: str) -> Dim | None:
    if text.isdigit() and len(text) < 20:
        return int(text)
    return None if text == "?" else dims.parse(text)


def _closing(text: str, start: int) -> int:
    """Return the index of the bracket that ends the shape; quoted names may hold brackets."""
    i = start
    while i < len(text):
        c = text[i]
        if c == "]":
            return i
        i = _after_quoted(text, i) if c == '"' else i + 1
    raise ValueError("the shape is never closed, expected ']'")


def _after_quoted(text: str, start: int) -> int:
    i = start + 1
    while i < len(text):
        if text[i] == "\\":
            i += 2
        elif text[i] == '"':
            return i + 1
        else:
            i += 1
    raise ValueError("a quoted name is never closed")


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses and quoted names."""
    if "(" not in text and '"' not in text:
        return text.split(",")
    parts: list[str] = []
    depth = begin = i = 0
    while i < len(text):
        c = text[i]
        if c == '"':
            i = _after_quoted(text, i)
            continue
        if c == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
        depth += (c == "(") - (c == ")")
        i += 1
    return [*parts, text[begin:]]
