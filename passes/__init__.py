"""Rewrites of the IR, one module a pass."""

if __name__ != "lepton_ir.passes":
    raise ImportError(f"import this package as lepton_ir.passes, not {__name__}")

# Pass name (or named pipeline) -> "module:attribute" of its class (or its text).
# Strings, so that listing them imports nothing.
TABLE: dict[str, str] = {}
