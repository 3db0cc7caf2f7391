"""Which integers must stay what they are, and may not be shifted to another element type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.backends.tflite.table_quant import KINDS

if TYPE_CHECKING:
    from lepton_ir.ir import Block, Value

MOVES = frozenset(
    {
        *("reshape", "flatten", "transpose", "squeeze", "unsqueeze", "slice", "split", "expand"),
        *("gather", "tile", "reverse", "depth_to_space_nhwc", "space_to_depth_nhwc"),
    }
)
"""Operations on integers that only move their first operand's elements."""


def pinned_values(block: Block) -> set[Value]:
    """Return integers that something but pairs, and what moves elements, reads or makes.

    Their codes must stay what they are.
    """
    pinned: set[Value] = set()
    values = [*block.args, *(v for op in block.ops for v in op.results)]
    for value in values:
        made, users = value.op, value.users
        free = made is not None and made.name in ("quantize_linear", *MOVES)
        kept = all(
            u.block is block
            and (u.name == "dequantize_linear" or (u.name in MOVES and u.operands[0] is value))
            for u in users
        )
        if value.dtype in KINDS and not (free and kept):
            pinned.add(value)
    waiting = list(pinned)
    while waiting:
        value = waiting.pop()
        made = value.op
        near = [made] if made is not None and made.name in MOVES else []
        for op in [*near, *(u for u in value.users if u.name in MOVES)]:
            for other in (op.operands[0], *op.results):
                if other is not None and other.dtype in KINDS and other not in pinned:
                    pinned.add(other)
                    waiting.append(other)
    return pinned
