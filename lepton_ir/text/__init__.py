"""The text form of the IR: grammar, parser and printer."""

from __future__ import annotations

FORMAT_VERSION = 1
"""Version in the first line of a file; a reader refuses later ones."""

RESERVED_WORDS = frozenset(
    {"blobs", "declared", "func", "loc", "meta", "module", "node", "region", "with"}
)
"""Words of the grammar that operations can be called only in quotes."""
