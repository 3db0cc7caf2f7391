"""The op table, one module a family."""

# Op family -> "module" that defines its ops when imported. Strings, so that listing them imports nothing.
TABLE: dict[str, str] = {}
