"""Symbolic sizes of an archive: SymPy's ``srepr`` text, as dims.

``Mul(Integer(16), Symbol('s77', positive=True, integer=True))`` is ``16*s77``. The text is parsed
as a Python expression and walked; nothing is evaluated.
"""

from __future__ import annotations

import ast
from typing import Any

from lepton_ir import dims
from lepton_ir.diagnostics import InvalidModelError
from lepton_ir.dims import Dim

_MAX_TEXT = 20_000

_FOLDS: dict[str, Any] = {
    "Add": lambda a, b: a + b,
    "Mul": lambda a, b: a * b,
    "Max": dims.maximum,
    "Min": dims.minimum,
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "PythonMod": lambda a, b: a % b,
    "Mod": lambda a, b: a % b,
}


def parse_size(text: Any) -> Dim | None:
    """Return the dim of an expression; ``None`` for one that dims cannot say.

    Raises:
        InvalidModelError: no expression at all.
    """
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise InvalidModelError(f"no symbolic size: {text!r:.60}", code="pt2-symbol")
    try:
        tree = ast.parse(text, mode="eval").body
        return _dim(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidModelError(f"no symbolic size: {text!r:.60}", code="pt2-symbol") from error


def _dim(node: ast.expr) -> Dim | None:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError("no call of a function")
    name, args = node.func.id, node.args
    if name == "Symbol" and args:
        return dims.sym(_literal(args[0], str))
    if name == "Integer" and args:
        return int(_literal(args[0], int))
    fold = _FOLDS.get(name)
    if fold is None or not args:
        return None
    parts = [_dim(a) for a in args]
    total = parts[0]
    for part in parts[1:]:
        if total is None or part is None:
            return None
        try:
            total = fold(total, part)
        except (ZeroDivisionError, ValueError):
            return None
    return total


def _literal(node: ast.expr, kind: type) -> Any:
    value = ast.literal_eval(node)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"expected {kind.__name__}")
    return value
