"""The table of the target: for each operation of the IR the operator that it becomes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from lepton_ir.backends.tflite import (
    control,
    recurrent,
    table_elementwise,
    table_nn,
    table_products,
    table_quant,
    table_shape,
    table_tensorflow,
)
from lepton_ir.backends.tflite.opaque import is_foreign

if TYPE_CHECKING:
    from lepton_ir.backends.tflite.row import Row
    from lepton_ir.ir import Op

STRUCTURE = frozenset({"const", "return", "yield", "identity"})
"""Operations that are no operators: constants, ends, and other names for a value."""


@functools.cache
def rows() -> dict[str, Row]:
    """Return the row of each operation that has one."""
    layers = (table_nn, table_products, table_quant, table_tensorflow)
    families = (table_elementwise, table_shape, *layers, recurrent, control)
    return {name: row for family in families for name, row in family.ROWS.items()}


def reason_against(op: Op) -> str:
    """Return why an operation cannot be written; ``""`` when it can."""
    if op.name in STRUCTURE:
        return ""
    if is_foreign(op):
        return ""
    if op.definition is None:
        return f"TFLite has no operator {op.name}"
    row = rows().get(op.name)
    return "TFLite has no such operator" if row is None else row.against(op)
