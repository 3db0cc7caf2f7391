"""Attribution of latency and numeric difference, ``--attribute``: by pass, and by rule.

The child process of the check runs what there was before and behind each pass that changed
something: onnxruntime times both in pairs, and their outputs are compared. A rule is judged by a
run without it, against the result.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import LeptonError
from lepton_ir.pipeline import Instrument, PassManager

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Module
    from lepton_ir.pipeline import PassRecord, Step
    from lepton_ir.tools.optimize import Run

KINDS = ("latency", "difference", "rules")
"""What ``--attribute`` takes; ``rules`` says by rule what the others say by pass."""

SECONDS = 60.0
"""Time for measuring passes, and again for rules; what is not measured by then says so."""

LATENCY_SECONDS = 1.0
"""Time for one comparison of latencies."""

ANSWER_SECONDS = 60.0
"""Time for the child to answer, loading both models included, for each GB of the source."""


@dataclass
class Row:
    """What changed between two models.

    Attributes:
        name: the pass, or the rule.
        latency: ``ratio`` of the second to the first, ``noise``, ``first`` (seconds), ``cycles``;
            or the ``problem`` of measuring it.
        difference: ``relative`` and ``largest`` of the worst ``output``, and its ``sqnr`` in dB;
            or the ``problem``.
    """

    name: str
    latency: dict[str, Any] | None = None
    difference: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row, ready for JSON."""
        return vars(self)


@dataclass
class Attribution:
    """What ``--attribute`` found.

    Attributes:
        kinds: what was asked for.
        passes: a row for each pass that changed something.
        total: the result against the source.
        rules: a row for each rule: the result against that of a run without the rule.
        problem: why nothing could be measured.
    """

    kinds: tuple[str, ...]
    passes: list[Row] = field(default_factory=list)
    total: Row | None = None
    rules: list[Row] = field(default_factory=list)
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "passes": [row.as_json() for row in self.passes],
            "total": None if self.total is None else self.total.as_json(),
            "rules": [row.as_json() for row in self.rules],
            "problem": self.problem,
        }


def require(kinds: tuple[str, ...]) -> None:
    """Refuse what ``--attribute`` does not know, or what needs a missing onnxruntime.

    Raises:
        LeptonError: names the value.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise LeptonError(
                f"nothing to attribute is called {kind!r}",
                code="option",
                where="--attribute",
                hint=f"there are {', '.join(KINDS)}",
            )
    if not {"latency", "difference"} & set(kinds):
        raise LeptonError(
            "rules are a refinement of what is measured",
            code="option",
            where="--attribute",
            hint="--attribute=latency,difference,rules",
        )
    if "latency" in kinds and importlib.util.find_spec("onnxruntime") is None:
        raise LeptonError(
            "latency needs onnxruntime, which is not installed",
            code="option",
            where="--attribute",
            hint="pip install onnxruntime, or --attribute=difference",
        )


class Attribute(Instrument):
    """Measures what each pass of a run changes.

    Two models are on disk at a time: that before a pass and that behind it.

    Args:
        run: the run; its checker's child measures.
        source: the file that the child reads as the source.
        kinds: what to measure.
        folder: for the models; the caller removes it.
    """

    def __init__(self, run: Run, source: str, kinds: tuple[str, ...], folder: str) -> None:
        self.run = run
        self.source = source
        self.found = Attribution(kinds)
        self._folder = folder
        self._before = source
        self._until = 0.0

    def after_pass(self, step: Step, module: Module, record: PassRecord) -> None:
        """Measure the pass if it changed the module."""
        if not record.changed:
            return
        self._until = self._until or time.monotonic() + SECONDS
        path = self._write(module)
        row = self._measured(record.text, self._before, path)
        self.found.passes.append(row)
        if self._before != self.source:
            shutil.rmtree(os.path.dirname(self._before))
        self._before = path

    def finish(self, ctx: PassContext) -> Attribution:
        """Measure the result against the source, and the rules if asked to.

        Args:
            ctx: of the run.
        """
        found = self.found
        if not found.passes:
            found.problem = "no pass changed anything"
            return found
        self._until = time.monotonic() + SECONDS
        found.total = self._measured("all", self.source, self._before)
        if "rules" in found.kinds:
            rules = dict.fromkeys(key.partition("@")[0] for key in ctx.rewrites)
            self._until = time.monotonic() + SECONDS
            found.rules = [self._without(rule) for rule in rules]
        return found

    def _write(self, module: Module) -> str:
        path = os.path.join(tempfile.mkdtemp(dir=self._folder), "model.onnx")
        self.run.save_onnx(module, path)
        return path

    def _without(self, rule: str) -> Row:
        """Run everything but one rule, and measure the result against that."""
        if time.monotonic() > self._until:
            return self._unmeasured(rule, "out of time")
        run = self.run
        module = run.load()
        ctx = run.context()
        ctx.target = run.target
        ctx.exclude_rules |= {rule}
        try:
            PassManager(ctx).run_steps((*run.exact, *run.rest), module)
            path = self._write(module)
        except LeptonError as error:
            return self._unmeasured(rule, f"it does not run without: {error.message}")
        row = self._measured(rule, path, self._before)
        shutil.rmtree(os.path.dirname(path))
        return row

    def _unmeasured(self, name: str, problem: str) -> Row:
        kinds = self.found.kinds
        said = {"problem": problem}
        return Row(
            name,
            said if "latency" in kinds else None,
            said if "difference" in kinds else None,
        )

    def _measured(self, name: str, first: str, second: str) -> Row:
        """Compare two models in the child."""
        if time.monotonic() > self._until:
            return self._unmeasured(name, "out of time")
        row = Row(name)
        request: dict[str, Any] = {"paths": [os.path.abspath(p) for p in (first, second)]}
        if "difference" in self.found.kinds:
            row.difference = self._ask({**request, "ask": "difference"})
        if "latency" in self.found.kinds:
            seconds = LATENCY_SECONDS
            row.latency = self._ask({**request, "ask": "latency", "seconds": seconds})
        return row

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        checker = self.run.checker
        assert checker is not None
        size = os.path.getsize(self.source) / 1e9
        return checker.ask(request, ANSWER_SECONDS * max(1.0, size))


# -- the report -----------------------------------------------------------------------------------


def render(found: dict[str, Any], width: int) -> list[str]:
    """Return the lines of the report: a table of passes, and one of rules.

    Args:
        found: an attribution as JSON.
        width: columns of names.
    """
    if found["problem"]:
        return [f"  attribution: {found['problem']}"]
    head = f"  {'attribution by pass':<{width}} {'latency':>9} {'noise':>7} {'difference':>11}"
    lines = [head, *(_line(row, width) for row in found["passes"])]
    if found["total"] is not None:
        lines.append(_line(found["total"], width))
    if found["rules"]:
        lines.append(f"  {'by rule, against a run without it':<{width}}")
        lines += [_line(row, width) for row in found["rules"]]
    return lines


def _line(row: dict[str, Any], width: int) -> str:
    name = row["name"] if len(row["name"]) <= width - 2 else row["name"][: width - 5] + "..."
    latency, difference = row["latency"] or {}, row["difference"] or {}
    problems = dict.fromkeys(d["problem"] for d in (latency, difference) if d.get("problem"))
    ratio = f"{latency['ratio']:.3f}" if "ratio" in latency else "-"
    noise = f"{latency['noise']:.3f}" if "noise" in latency else "-"
    relative = f"{difference['relative']:.2g}" if "relative" in difference else "-"
    line = f"    {name:<{width - 2}} {ratio:>9} {noise:>7} {relative:>11}"
    return f"{line}  {'; '.join(problems)}".rstrip()
