"""Plans as text, for people and golden tests: no addresses, no machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.backends.numba.plan import Boxed, Place, PyStep, Ref, Row, Segment
from lepton_ir.infer import describe

if TYPE_CHECKING:
    from lepton_ir.backends.numba.session import Session


def plan_text(session: Session) -> str:
    """Return all plans of the main block that have been made."""
    parts = [segment_text(s) for s in session.segments()]
    return "\n".join(parts)


def segment_text(segment: Segment) -> str:
    """Return one segment: a line a step, and its memory."""
    lines = [f"segment: arena {segment.arena_bytes} of {segment.sum_bytes} bytes"]
    lines += ["  " + (_row(s) if isinstance(s, Row) else _python(s)) for s in segment.steps]
    if segment.outputs is None:
        slots = ", ".join(f"slot{slot}" for _, slot in segment.cut)
        lines.append(f"  continues with the shapes of {slots}")
    else:
        places = [_place(p) for p in segment.outputs]
        lines.append(f"  returns {', '.join(places)}")
    return "\n".join(lines)


def _row(row: Row) -> str:
    args = ", ".join(_ref(a) if isinstance(a, Ref) else str(a) for a in row.args)
    return f"a {row.kernel} ({args})  {describe(row.op)}"


def _python(step: PyStep) -> str:
    inputs = ", ".join(_place(p) for p in step.inputs)
    outputs = ", ".join(f"slot{s}" for s in step.outputs)
    return f"{step.road} {step.op.name}({inputs}) -> {outputs}  {describe(step.op)}: {step.reason}"


def _ref(ref: Ref) -> str:
    buffer = ref.buffer
    if buffer.is_const:
        return "const" + (f"+{ref.offset}" if ref.offset else "")
    if buffer.slot >= 0:
        return f"slot{buffer.slot}" + (f"+{ref.offset}" if ref.offset else "")
    return f"@{buffer.offset + ref.offset}"


def _place(place: Place | None) -> str:
    if place is None:
        return "-"
    if isinstance(place, Boxed):
        return f"slot{place.slot}"
    return f"{place.dtype.name}{list(place.shape)}{_ref(place.ref)}"
