"""What the user should know of integers in a file: what stays in float, and what rounds twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.infer import describe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.backends.tflite.quantized import Integers
    from lepton_ir.ir import Op


def notes_on(integers: Iterable[Integers]) -> list[tuple[str, str]]:
    """Return what did not become integer operators with the pairs' own parameters, by reason.

    Returns:
        The first operation's description, and a text for all with the same reason.
    """
    floats: dict[str, list[Op]] = {}
    rounded: list[Op] = []
    for found in integers:
        for op, reason in found.notes:
            floats.setdefault(reason, []).append(op)
        for operator in found.operators.values():
            reads = operator.reads.values()
            twice = any(m.made for m in operator.results) or any(r.wanted for r in reads)
            if twice and not operator.requantizes:
                rounded.append(operator.op)
    lines = [
        (describe(ops[0]), f"{_count(ops)} between pairs stays in float: {reason}")
        for reason, ops in floats.items()
    ]
    if rounded:
        text = f"{_count(rounded)} with other scales than its kernel's: a QUANTIZE rounds once more"
        lines.append((describe(rounded[0]), text))
    return lines


def _count(ops: list[Op]) -> str:
    return f"{ops[0].name}" if len(ops) == 1 else f"{ops[0].name} and {len(ops) - 1} more"
