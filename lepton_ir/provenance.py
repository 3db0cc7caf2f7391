"""Where the nodes of a file came from: one table in the model, a number in each node.

A node that passes made has the metadata ``lepton``, the number of an entry of the table. The table
is the metadata ``lepton.provenance`` of the model, an object in JSON:

* ``sources``: names of nodes of the source;
* ``rules``: names of rules;
* ``made``: entries with a space between them, each ``sources:rules``. Both are numbers with commas
  between them, ``3-5`` stands for ``3,4,5``.

In the IR, and in files written before there was a table, a node that was not made in this run
has lists of names instead: ``lepton.sources`` and ``lepton.rules``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import MAX_SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NODE_KEY = "lepton"
TABLE_KEY = "lepton.provenance"
SOURCES_KEY = "lepton.sources"
RULES_KEY = "lepton.rules"

_RANGES = re.compile(r"(\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*)?", re.ASCII)

Names = tuple[str, ...]


class Provenance:
    """The table of one model; entries get their numbers in the order they are asked for."""

    def __init__(self) -> None:
        self._sources: dict[str, int] = {}
        self._rules: dict[str, int] = {}
        self._made: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._made)

    def refer(self, sources: Iterable[str], rules: Iterable[str]) -> str:
        """Return what a node made from ``sources`` by ``rules`` has under ``NODE_KEY``."""
        numbers = [self._sources.setdefault(name, len(self._sources)) for name in sources]
        ways = [self._rules.setdefault(name, len(self._rules)) for name in rules]
        return str(self._made.setdefault(f"{_runs(numbers)}:{_runs(ways)}", len(self._made)))

    def text(self) -> str:
        """Return what the model has under ``TABLE_KEY``."""
        table = {
            "sources": list(self._sources),
            "rules": list(self._rules),
            "made": " ".join(self._made),
        }
        return json.dumps(table, ensure_ascii=False, separators=(",", ":"))


class ProvenanceTable:
    """A table that was read; broken parts of it are unknown rather than errors.

    Args:
        text: what ``Provenance.text`` gave.
    """

    def __init__(self, text: str) -> None:
        try:
            table = json.loads(text)
        except (ValueError, RecursionError):
            table = None
        table = table if isinstance(table, dict) else {}
        self._sources = _names(table.get("sources"))
        self._rules = _names(table.get("rules"))
        made = table.get("made")
        self._made = made.split(" ") if isinstance(made, str) else []

    def look_up(self, reference: str) -> tuple[Names, Names] | None:
        """Return the sources and rules of a node; None where the table does not have them."""
        if not reference.isascii() or not reference.isdigit() or len(reference) > 9:
            return None
        number = int(reference)
        if number >= len(self._made):
            return None
        sources, _, rules = self._made[number].partition(":")
        found = _picked(sources, self._sources), _picked(rules, self._rules)
        return None if found[0] is None or found[1] is None else (found[0], found[1])

    def resolve(self, metadata: dict[str, str]) -> None:
        """Replace the number in the metadata of a node by the names it stands for."""
        found = self.look_up(metadata.get(NODE_KEY, ""))
        if found is not None:
            del metadata[NODE_KEY]
            for key, names in zip((SOURCES_KEY, RULES_KEY), found, strict=True):
                if names:
                    metadata[key] = json.dumps(names, ensure_ascii=False)


def names_in(metadata: dict[str, str], key: str) -> Names:
    """Return the names in the metadata of a node; none where they are missing or broken."""
    text = metadata.get(key)
    try:
        return _names(json.loads(text)) if text else ()
    except (ValueError, RecursionError):
        return ()


def _names(found: Any) -> Names:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return ()
    return tuple(found)


def _runs(numbers: Sequence[int]) -> str:
    """Write numbers in their order, each three or more that count upwards as a range."""
    parts: list[str] = []
    at = 0
    while at < len(numbers):
        stop = at + 1
        while stop < len(numbers) and numbers[stop] == numbers[stop - 1] + 1:
            stop += 1
        if stop - at > 2:
            parts.append(f"{numbers[at]}-{numbers[stop - 1]}")
        else:
            parts += map(str, numbers[at:stop])
        at = stop
    return ",".join(parts)


def _picked(text: str, names: Names) -> Names | None:
    """Return the names that ``_runs`` counted, at most as many as a node is written with."""
    if not _RANGES.fullmatch(text):
        return None
    picked: list[str] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        start, stop = int(first), int(last or first) + 1
        if stop > len(names) or stop - start > MAX_SOURCES or len(picked) > MAX_SOURCES:
            return None
        picked += names[start:stop]
    return tuple(picked)
