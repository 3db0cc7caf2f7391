"""Names of values in the file that is written: unique where ONNX asks for it, else kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.ir import Block, Value


MADE = "~"
"""Starts the names of values that passes made: a name of the source, even of a value that is
gone, never comes to stand for something else. A file holds each name several times, and quantized
models have hundreds of them: they are short."""

SHORT = {"const": "c", "quantize_linear": "q", "dequantize_linear": "dq", "qlinear_conv": "qconv"}
"""Names for what quantized models have hundreds of."""


class NameScope:
    """Names taken in one graph; those of the graphs around it may not be taken again."""

    __slots__ = ("_counters", "_parent", "_taken")

    def __init__(self, parent: NameScope | None = None) -> None:
        self._taken: set[str] = set()
        self._counters: dict[str, int] = {}
        self._parent = parent

    def is_free(self, name: str) -> bool:
        """Return whether neither this graph nor one around it has the name."""
        scope: NameScope | None = self
        while scope is not None:
            if name in scope._taken:
                return False
            scope = scope._parent
        return True

    def take(self, name: str, joint: str = "_") -> str:
        """Take a name, with ``joint`` and a number appended if it is not free."""
        result = name
        while not self.is_free(result):
            self._counters[name] = number = self._counters.get(name, 0) + 1
            result = f"{name}{joint}{number}"
        self._taken.add(result)
        return result


def name_block(
    block: Block, scope: NameScope, names: dict[Value, str], fixed: Iterable[Value] = ()
) -> None:
    """Name every value of a block; values in ``names`` already have theirs.

    Arguments come first, then results of untouched operations, then those of new ones.
    """
    for value in block.args:
        if value not in names:
            names[value] = scope.take(value.name or "input")
    later: list[Value] = []
    for op in block.ops:
        untouched = op.loc.is_source
        for result in op.results:
            if result in names:
                continue
            if untouched and result.name and scope.is_free(result.name):
                names[result] = scope.take(result.name)
            else:
                later.append(result)
    for result in later:
        op_name = result.op.name if result.op is not None else "value"
        if result.name and scope.is_free(result.name):
            names[result] = scope.take(result.name)
        elif result.name:
            names[result] = scope.take(MADE + result.name)
        else:
            made = SHORT.get(op_name) or op_name.replace(".", "_")
            names[result] = scope.take(MADE + made, joint="")
