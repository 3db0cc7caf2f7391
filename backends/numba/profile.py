"""Where the time of a run goes: by operation, with the road it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_ir.diagnostics import shorten
from lepton_ir.infer import describe

if TYPE_CHECKING:
    from lepton_ir.backends.numba.plan import PyStep, Row
    from lepton_ir.ir import Op


@dataclass
class Entry:
    """What one operation took on one road.

    Attributes:
        where: the operation, as messages name it.
        op: its name.
        road: ``a`` emitted kernel, ``b`` numba, ``c`` NumPy meaning, ``control``.
        kernel: the kernel, or why there is none.
        seconds: sum over all calls.
        calls: number of calls.
    """

    where: str
    op: str
    road: str
    kernel: str
    seconds: float = 0.0
    calls: int = 0


@dataclass
class Profile:
    """Times of all operations, in the order in which they first ran."""

    entries: dict[tuple[Op, str], Entry] = field(default_factory=dict)

    def add_row(self, row: Row, seconds: float) -> None:
        """Add one kernel call."""
        kernel = str(row.kernel)
        key = (row.op, kernel)
        if key not in self.entries:
            name = _kinds(row.op)
            self.entries[key] = Entry(describe(row.op), name, "a", shorten(kernel, 80))
        self._count(key, seconds)

    def add_python(self, step: PyStep, seconds: float) -> None:
        """Add one operation that Python evaluated."""
        key = (step.op, step.road)
        if key not in self.entries:
            self.entries[key] = Entry(describe(step.op), step.op.name, step.road, step.reason)
        self._count(key, seconds)

    def _count(self, key: tuple[Op, str], seconds: float) -> None:
        entry = self.entries[key]
        entry.seconds += seconds
        entry.calls += 1

    def by_road(self) -> dict[str, float]:
        """Return seconds by road."""
        found: dict[str, float] = {}
        for entry in self.entries.values():
            found[entry.road] = found.get(entry.road, 0.0) + entry.seconds
        return found

    def render(self, limit: int = 40) -> str:
        """Return a table, slowest first."""
        entries = sorted(self.entries.values(), key=lambda e: -e.seconds)
        total = sum(e.seconds for e in entries) or 1e-12
        lines = [f"{'ms':>9} {'share':>6} {'calls':>6} road     op                   where, kernel"]
        for e in entries[:limit]:
            share = 100 * e.seconds / total
            lines.append(
                f"{1e3 * e.seconds:9.3f} {share:5.1f}% {e.calls:6} {e.road:8} "
                f"{shorten(e.op, 20):20} {e.where}  {e.kernel}"
            )
        if len(entries) > limit:
            lines.append(f"... and {len(entries) - limit} more")
        roads = ", ".join(f"{r}: {1e3 * s:.3f} ms" for r, s in sorted(self.by_road().items()))
        lines.append(f"by road: {roads}")
        return "\n".join(lines)


def _kinds(op: Op) -> str:
    if op.name != "fused":
        return op.name
    names = [
        inner.name for inner in op.regions[0].block.ops if inner.name not in ("yield", "const")
    ]
    return "+".join(names)
