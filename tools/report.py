"""What people see: the result table, remarks, listings; everything also as JSON."""

from __future__ import annotations

import math
import re
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import LeptonError
from lepton_ir.tools.optimize import describe_verdict, rule_table

if TYPE_CHECKING:
    from lepton_ir.tools.options import Outcome

WIDTH = 80
_PROGRESS_AFTER = 1.0


def human_bytes(count: float) -> str:
    """Return a size for people: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def clip(text: str, width: int) -> str:
    """Return ``text`` cut to ``width`` columns."""
    return text if len(text) <= width else text[: width - 3] + "..."


def _change(before: float, after: float) -> str:
    return f"{100 * (after - before) / before:+.0f} %" if before else ""


def render(outcome: Outcome, *, timing: bool, stats: bool) -> str:
    """Return the result table."""
    lines = [clip(outcome.source, WIDTH)]
    before, after = outcome.nodes
    lines.append(f"  nodes   {before:>10,} -> {after:>10,}   {_change(before, after)}")
    if outcome.output:
        a, b = outcome.size
        lines.append(f"  bytes   {human_bytes(a):>10} -> {human_bytes(b):>10}   {_change(a, b)}")
    lines.append(
        f"  {'pass':<28} {'rewrites':>8} {'nodes':>8} {'':>7} {'constants':>11} {'seconds':>8}"
    )
    for r in outcome.records:
        if r.changed or timing:
            name = ("+ " if r.implied else "  ") + r.text
            delta, size = _signed(r.nodes_delta), _signed_bytes(r.bytes_delta)
            lines.append(
                f"  {clip(name, 28):<28} {r.rewrites:>8,} {r.ops:>8,} {delta:>7} {size:>11} "
                f"{r.seconds:>8.3f}"
            )
    if stats:
        lines += _rule_lines(outcome)
    lines += _layer_lines(outcome.layers)
    lines += _check_lines(outcome)
    if outcome.guard is not None:
        from lepton_ir.tools.guard import render as render_guard

        lines += render_guard(outcome.guard)
    if outcome.attributed is not None:
        from lepton_ir.tools.attribute import render as render_attribution

        lines += render_attribution(outcome.attributed, 46)
    lines += [f"  left out, because it made the result wrong: {key}" for key in outcome.excluded]
    notes = [r for r in outcome.remarks if r.kind == "note"]
    lines += [clip(f"  note: {r.message}{_place(r.where)}", 3 * WIDTH) for r in notes[:10]]
    if len(notes) > 10:
        lines.append(f"  ... and {len(notes) - 10} more notes (--remarks shows all)")
    if outcome.output:
        lines.append(f"  wrote {outcome.output} in {outcome.seconds:.1f} s")
    return "\n".join(part for line in lines for part in _wrap(line))


def _signed(count: int) -> str:
    return f"{count:+,}" if count else ""


def _signed_bytes(count: int) -> str:
    return ("+" if count > 0 else "") + human_bytes(count) if count else ""


def _rule_lines(outcome: Outcome) -> list[str]:
    """Return a line per rule: applications, operations and bytes of constants that came or went."""
    applied = dict(rule_table(outcome, 1000))
    names = [*applied, *sorted(n for n in outcome.deltas if n not in applied)]
    lines = [f"    {'rule':<46} {'applied':>9} {'nodes':>7} {'constants':>11}"]
    for name in names:
        nodes, size = outcome.deltas.get(name, (0, 0))
        if name in applied or nodes or size:
            count = f"{applied[name]:,}" if name in applied else ""
            row = f"{count:>9} {_signed(nodes):>7} {_signed_bytes(size):>11}"
            lines.append(f"    {clip(name, 46):<46} {row}")
    return lines


def missed_groups(outcome: Outcome) -> list[tuple[int, str, str, str]]:
    """Return near misses by reason: (how many, pass, reason, one place); the most frequent first.

    Reasons that differ only in names and numbers are one.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    unique = {str(r): r for r in outcome.remarks if r.kind == "missed"}
    for remark in unique.values():
        reason = re.sub(r"\"[^\"]*\"|'[^']*'|%\S+|(?<![\w-])-?\d[\d.]*", "_", remark.message)
        groups.setdefault((remark.pass_name, reason), []).append(remark.where)
    found = [(len(places), name, reason, places[0]) for (name, reason), places in groups.items()]
    return sorted(found, key=lambda g: (-g[0], g[1], g[2]))


def render_missed(outcome: Outcome, limit: int = 20) -> str:
    """Return the most frequent reasons why rules did not apply, as a table."""
    groups = missed_groups(outcome)
    lines = [f"  {'missed':>7}  why"]
    for count, pass_name, reason, place in groups[:limit]:
        lines.append(f"  {count:>7,}  {pass_name}: {reason}{_place(place)}")
    if len(groups) > limit:
        lines.append(f"  ... and {len(groups) - limit} more reasons (--report=json)")
    return "\n".join(part for line in lines for part in _wrap(line)) if groups else ""


def _wrap(line: str) -> list[str]:
    """Fold a line at spaces to the width of the table; names that are longer stay whole."""
    if len(line) <= WIDTH:
        return [line]
    return textwrap.wrap(
        line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _place(where: str) -> str:
    return f" [{where}]" if where else ""


def _check_lines(outcome: Outcome) -> list[str]:
    lines = []
    if outcome.verdict is not None:
        kind = " before the lossy pass" if outcome.lossy is not None else ""
        status = outcome.verdict["status"]
        text = describe_verdict(outcome.verdict)
        lines.append(f"  check{kind}: {text if status == 'equal' else f'{status}: {text}'}")
    if outcome.lossy is not None:
        ratios = outcome.lossy.get("sqnr", {})
        shown = ", ".join(f"{clip(n, 24)} {v:.1f} dB" for n, v in list(ratios.items())[:4])
        lines.append(f"  after it, signal to noise: {shown or describe_verdict(outcome.lossy)}")
    return lines


def _layer_lines(layers: list[dict[str, Any]]) -> list[str]:
    if not layers:
        return []
    head = f"  {'quantized layer':<27} {'kind':<14} {'SQNR dB':>7} {'bytes':>9}    {'after':>9}"
    lines = [head]
    shown = sorted(layers, key=lambda row: row.get("sqnr") or 0.0)[:20]
    for row in shown:
        before, after = human_bytes(row["bytes_before"]), human_bytes(row["bytes_after"])
        ratio = f"{row['sqnr']:.1f}" if row.get("sqnr") is not None else "-"
        kind = clip(str(row.get("kind", "")), 14)
        name = clip(row["name"], 27)
        lines.append(f"  {name:<27} {kind:<14} {ratio:>7} {before:>9} -> {after:>9}")
    if len(layers) > len(shown):
        lines.append(f"  ... the {len(layers) - len(shown)} others are better (--report=json)")
    return lines


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as a JSON-ready dict; numbers that JSON lacks are text, ``"inf"``."""
    found = finite(_as_json(outcome))
    assert isinstance(found, dict)
    return found


def finite(item: Any) -> Any:
    """Return JSON-ready data with infinities and NaN as text."""
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)
    if isinstance(item, dict):
        return {key: finite(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [finite(value) for value in item]
    return item


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "source": {
            "path": outcome.source,
            "nodes": outcome.nodes[0],
            "bytes": outcome.size[0],
        },
        "result": {
            "path": outcome.output,
            "nodes": outcome.nodes[1],
            "bytes": outcome.size[1],
        },
        "passes": [vars(r) for r in outcome.records],
        "rules": {k: v for k, v in outcome.rules.items() if v > 0},
        "attribution": {
            name: {
                "applied": outcome.rules.get(name, 0),
                "nodes": outcome.deltas.get(name, (0, 0))[0],
                "bytes": outcome.deltas.get(name, (0, 0))[1],
            }
            for name in dict.fromkeys([*outcome.rules, *outcome.deltas])
        },
        "missed": [
            {"count": count, "pass": name, "reason": reason, "where": place}
            for count, name, reason, place in missed_groups(outcome)
        ],
        "check": outcome.verdict,
        "lossy": outcome.lossy,
        "layers": outcome.layers,
        "excluded": outcome.excluded,
        "guard": outcome.guard,
        "attributed": outcome.attributed,
        "remarks": [
            {"kind": r.kind, "pass": r.pass_name, "where": r.where, "message": r.message}
            for r in outcome.remarks
        ],
        "seconds": outcome.seconds,
    }


class Progress:
    """A line on a terminal that says what long work is at; silent elsewhere."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.shown = False
        self.enabled = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show that ``done`` of about ``total`` steps of ``what`` are done."""
        if not self.enabled or time.monotonic() - self.started < _PROGRESS_AFTER:
            return
        self.shown = True
        share = f"{min(100 * done // max(total, 1), 100)} %" if total else f"{done:,}"
        sys.stderr.write(f"\r{clip(f'{what}: {share}', WIDTH - 1):<{WIDTH - 1}}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self.shown:
            sys.stderr.write("\r" + " " * (WIDTH - 1) + "\r")
            sys.stderr.flush()


def list_passes() -> str:
    """Return all passes with the first line of their help and their options."""
    import dataclasses

    from lepton_ir.pipeline import find_pass, pass_names

    lines = []
    for name in pass_names():
        try:
            found = find_pass(name)
        except LeptonError as error:  # one broken plugin must not hide the others
            lines.append(f"{name:<14} ({error.message})")
            continue
        if isinstance(found, str):
            lines.append(f"{name:<14} = {found}")
            continue
        summary = (found.__doc__ or "").strip().splitlines()[0]
        lines.append(f"{name:<14} {summary}")
        options = [f for f in dataclasses.fields(found) if f.name != "body"]
        lines += [f"{'':<14}   {f.name}={f.default!r}" for f in options]
    return "\n".join(lines)


def list_ops() -> str:
    """Return all operations with signature, attributes and the first line of their help."""
    from lepton_ir.opdef import load_all

    lines = []
    for name, definition in sorted(load_all().items()):
        summary = definition.doc.strip().splitlines()[0] if definition.doc else ""
        lines.append(f"{definition.signature()}")
        if definition.attrs:
            lines.append("    {" + ", ".join(map(repr, definition.attrs.values())) + "}")
        if summary and name:
            lines.append(f"    {summary}")
    return "\n".join(lines)
