"""Plans as text, for people and golden tests: no addresses, no machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.backends.numba.plan import Boxed, Place, PyStep, Ref, Row, Segment, Tensor
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
        places = [place_text(p) for p in segment.outputs]
        lines.append(f"  returns {', '.join(places)}")
    return "\n".join(lines)


def _row(row: Row) -> str:
    args = ", ".join(ref_text(a) if isinstance(a, Ref) else str(a) for a in row.args)
    return f"a {row.kernel} ({args})  {describe(row.op)}"


def _python(step: PyStep) -> str:
    inputs = ", ".join(place_text(p) for p in step.inputs)
    outputs = ", ".join(f"slot{s}" for s in step.outputs)
    return f"{step.road} {step.op.name}({inputs}) -> {outputs}  {describe(step.op)}: {step.reason}"


def ref_text(ref: Ref) -> str:
    """Return an address: a constant, a slot or a place in the arena."""
    buffer = ref.buffer
    if buffer.is_const:
        return "const" + (f"+{ref.offset}" if ref.offset else "")
    if buffer.slot >= 0:
        return f"slot{buffer.slot}" + (f"+{ref.offset}" if ref.offset else "")
    return f"@{buffer.offset + ref.offset}"


def place_text(place: Place | None) -> str:
    """Return where and how a value lies."""
    if place is None:
        return "-"
    if isinstance(place, Boxed):
        return f"slot{place.slot}"
    return f"{place.dtype.name}{list(place.shape)}{_layout(place)} {ref_text(place.ref)}"


def _layout(t: Tensor) -> str:
    """Return how a tensor lies, nothing for row by row."""
    if t.blocked is not None:
        halo = " ".join(f"{before},{after}" for before, after in t.blocked.halo)
        return f" blocked {t.blocked.block} halo {halo}"
    return "" if t.is_plain else f" strides {list(t.strides)}"
