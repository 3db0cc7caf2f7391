"""Where every rewrite rule is shown to work: ``python -m lepton_ir.tools.rules [--models DIR]``.

For each rule of the built-in passes: the golden cases in which it is applied (``// RULE:``) and in
which it must not be (``// NOT:``), and the models on which it is applied, or else the golden case
made from the pattern that others publish (``// PUBLISHED:``). The exit code is 1 when a rule lacks
one of the three.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_ir.testing.golden import GoldenCase, names_rule, read_golden
from lepton_ir.tools.docgen import own_passes, rules_of
from lepton_ir.tools.report import WIDTH, clip
from lepton_ir.tools.worker_pool import run_isolated

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
MODELS = Path(os.environ.get("LEPTON_SHARED", ROOT.parent / "shared")) / "models"

SETTINGS: dict[str, dict[str, Any]] = {
    "O2": {"passes": "O2"},
    "O3 for ort": {"passes": "O3", "target": "ort"},
    "O3 at opset 24": {"passes": "O3", "opset": 24},
    "O2, then 8 bits, then O3 for ort": {"passes": "O2,quant{mode=dynamic},O3", "target": "ort"},
}
"""Runs that show rules on a model, by name."""

MODEL_SECONDS = 300.0
"""Time for all runs over one model."""


@dataclass
class RuleReport:
    """What shows that a rule works.

    Attributes:
        name: the rule's own name.
        keys: ``pass/rule`` for every pass that has it.
        positive: golden cases in which it is applied, as ``file:line``.
        negative: golden cases in which it is tried and must not be applied.
        published: who writes its pattern, by golden case.
        models: how often it was applied, by model and setting.
    """

    name: str
    keys: tuple[str, ...]
    positive: list[str] = field(default_factory=list)
    negative: list[str] = field(default_factory=list)
    published: dict[str, str] = field(default_factory=dict)
    models: dict[str, Counter[str]] = field(default_factory=dict)

    def lacks(self) -> list[str]:
        """Return what is missing, in words."""
        shown = {
            "a positive case (RULE)": self.positive,
            "a negative case (NOT)": self.negative,
            "a model or a published pattern (PUBLISHED)": self.models or self.published,
        }
        return [what for what, places in shown.items() if not places]

    def as_json(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "rule": self.name,
            "keys": list(self.keys),
            "positive": self.positive,
            "negative": self.negative,
            "published": self.published,
            "models": {model: dict(runs) for model, runs in sorted(self.models.items())},
            "lacks": self.lacks(),
        }


def catalogue() -> list[RuleReport]:
    """Return all rules of Lepton's own passes; one that several passes share is one."""
    keys: dict[tuple[str, Any], list[str]] = {}
    for pass_name, cls in own_passes()[0].items():
        for rule in rules_of(cls):
            body: Any = rule.body.func if isinstance(rule.body, functools.partial) else rule.body
            key = f"{pass_name}/{rule.name}"
            known = keys.setdefault((rule.name, body), [])
            if key not in known:
                known.append(key)
    return [RuleReport(name, tuple(found)) for (name, _), found in keys.items()]


def golden_cases(folder: Path = GOLDEN) -> list[tuple[str, GoldenCase]]:
    """Return all golden cases, each with its place."""
    return [
        (f"{path.relative_to(folder).as_posix()}:{case.line}", case)
        for path in sorted(folder.rglob("*.lir"))
        for case in read_golden(path)[1]
    ]


def attach_cases(reports: Sequence[RuleReport], cases: Iterable[tuple[str, GoldenCase]]) -> None:
    """Add the golden cases that say they are about a rule; the golden tests hold them to it."""
    for place, case in cases:
        passes = case.single("RUN") or ""
        source = "; ".join(case.directives.get("PUBLISHED", []))
        for report in (r for name in case.rules() for r in _named(reports, name, passes)):
            report.positive.append(place)
            if source:
                report.published[place] = source
        for report in (r for name, _ in case.nots() for r in _named(reports, name, passes)):
            report.negative.append(place)


def _named(reports: Sequence[RuleReport], name: str, passes: str) -> list[RuleReport]:
    """Return the rules that a case means by a name: those of the passes that it runs."""
    found = [r for r in reports if any(names_rule(name, key) for key in r.keys)]
    ran = [r for r in found if any(key.partition("/")[0] in passes for key in r.keys)]
    return ran or found


def model_files(folders: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the ONNX files below some folders."""
    return [str(path) for folder in folders for path in sorted(Path(folder).rglob("*.onnx"))]


def applied_on(path: str) -> dict[str, dict[str, int]]:
    """Return how often each rule is applied to a model, by setting that runs on it."""
    from lepton_ir.diagnostics import LeptonError
    from lepton_ir.tools.optimize import optimize
    from lepton_ir.tools.options import Options

    found = {}
    for setting, chosen in SETTINGS.items():
        try:
            outcome = optimize(Options(model=path, emit="none", check="off", **chosen))
        except LeptonError:
            continue
        found[setting] = {rule: count for rule, count in outcome.rules.items() if count > 0}
    return found


def attach_models(reports: Sequence[RuleReport], paths: Sequence[str], jobs: int) -> None:
    """Run every setting over every model, each model in a process of its own."""
    owner = {key: report for report in reports for key in report.keys}
    for outcome in run_isolated(applied_on, paths, jobs=jobs, timeout=MODEL_SECONDS):
        model = _short(paths[outcome.index])
        if outcome.status != "done" or not isinstance(outcome.value, dict):
            print(f"{model}: {outcome.status}: {outcome.value}", file=sys.stderr)
            continue
        for setting, rules in outcome.value.items():
            for key, count in rules.items():
                if key in owner:
                    owner[key].models.setdefault(model, Counter())[setting] += count


def _short(path: str) -> str:
    folder, name = os.path.split(path)
    return f"{os.path.basename(folder)}/{name.removesuffix('.onnx')}"


def render(reports: Sequence[RuleReport]) -> str:
    """Return the table, a line per rule, under the first pass that has it."""
    lines = [f"  {'rule':<32} {'+':>2} {'-':>2} {'models':>6}  applied on, or pattern of"]
    heading = ""
    for report in sorted(reports, key=lambda r: (r.keys[0].partition("/")[0], r.name)):
        pass_name = report.keys[0].partition("/")[0]
        if pass_name != heading:
            heading = pass_name
            lines.append(heading)
        counts = f"{len(report.positive):>2} {len(report.negative):>2} {len(report.models):>6}"
        lines.append(clip(f"  {report.name:<32} {counts}  {_evidence(report)}", WIDTH))
    lacking = [r for r in reports if r.lacks()]
    seen = sum(1 for r in reports if r.models)
    lines.append(f"{len(reports)} rules, {seen} applied on models, {len(lacking)} lack something")
    for r in lacking:
        said = f"  {r.keys[0]} lacks {', '.join(r.lacks())}"
        lines += textwrap.wrap(said, WIDTH, subsequent_indent="    ", break_long_words=False)
    return "\n".join(lines)


def _evidence(report: RuleReport) -> str:
    if report.models:
        model, runs = max(report.models.items(), key=lambda item: sum(item[1].values()))
        return f"{model} ({max(runs, key=lambda s: runs[s])})"
    return next(iter(report.published.values()), "nothing")


def main(argv: list[str] | None = None) -> int:
    """Print the report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="*", metavar="DIR", help="folders with .onnx files")
    parser.add_argument("--golden", type=Path, default=GOLDEN, help="folder of golden cases")
    parser.add_argument("--json", action="store_true", help="everything, as one list")
    parser.add_argument("--jobs", type=int, default=2, help="models at once")
    args = parser.parse_args(argv)
    folders = args.models
    if folders is None:
        folders = [MODELS]
    reports = catalogue()
    attach_cases(reports, golden_cases(args.golden))
    attach_models(reports, model_files(folders), args.jobs)
    print(json.dumps([r.as_json() for r in reports], indent=1) if args.json else render(reports))
    return 1 if any(r.lacks() for r in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
