"""Golden tests: one ``.lir`` file holds pipelines, inputs and expected results.

::

    // RUN: canonicalize,dce
    // ===== two transposes cancel
    func @main(%x: f32[2,3]) {
      ...
    }
    // ----- expected
    func @main(%x: f32[2,3]) -> (f32[2,3]) {
      ...
    }
    // ===== next case

Cases are separated by ``// ===== name``; a file without such a line is one case. Directives before
the first case hold for all, those inside a case for it alone:

* ``// RUN: pipeline``: runs exactly as written, nothing implied is added;
* ``// EXPECT-ERROR: text``: reading or running fails with this in its message;
* ``// EXPECT-REMARK: text``: some remark of the run contains this;
* ``// CHECK-NUMERIC: rtol=1e-5 atol=0 ints=2 draws=3``: the interpreter gives the same on source
  and result, for seeded inputs (integers below ``ints``) and several sizes of each symbol; with
  no ``rtol``, bit for bit;
* ``// TARGET: name``: the backend that passes may ask;
* ``// PLAN: machine NAME=SIZE ...``: what is expected is the target's plan of the result, as text;
* ``// KEEP-NODE: name``: no rewrite may match this node, as with ``--keep-node``;
* ``// RULE: name, ...``: these rules (``rule`` or ``pass/rule``) are applied: the case is their
  positive one;
* ``// NOT: name, ...`` or ``// NOT: name: reason``: the rule is tried and not applied, and says
  this reason: the case is its negative one;
* ``// PUBLISHED: source``: who writes the pattern that the rules of ``RULE`` find here.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, plugins
from lepton_ir.context import PassContext
from lepton_ir.diagnostics import LeptonError
from lepton_ir.interp import run_list
from lepton_ir.pipeline import PassManager, Pipeline, find_pass
from lepton_ir.text.generators import rand
from lepton_ir.text.parse import parse_module
from lepton_ir.text.print import print_bare
from lepton_ir.types import TensorType
from lepton_ir.verify import verify_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from lepton_ir.ir import Module

_KINDS = "RUN|EXPECT-ERROR|EXPECT-REMARK|CHECK-NUMERIC|TARGET|PLAN|KEEP-NODE|RULE|NOT|PUBLISHED"
_DIRECTIVE = re.compile(rf"^// ({_KINDS}):[ \t]*(.*)$")
_CASE = re.compile(r"^// =====[ \t]*(.*)$")
_EXPECTED = "// ----- expected"
_SIZES = (2, 3, 1, 5, 4)
"""Sizes that symbols take; draw by draw, each symbol starts at another one."""


class GoldenFailure(Exception):
    """A case did not end as its file says."""


@dataclass
class GoldenCase:
    """One case of a golden file.

    Attributes:
        name: as in ``// ===== name``; empty in a file of one case.
        line: number of its first line.
        head: its lines before the expected result, directives included.
        expected: the lines of the expected result, ``None`` if there is none.
        directives: by kind, the file's own first.
    """

    name: str
    line: int
    head: list[str] = field(default_factory=list)
    expected: list[str] | None = None
    directives: dict[str, list[str]] = field(default_factory=dict)

    def single(self, kind: str) -> str | None:
        """Return the directive of a kind that counts: the last one."""
        found = self.directives.get(kind)
        return found[-1] if found else None

    def rules(self) -> list[str]:
        """Return the rules that the case says are applied."""
        return [name for text in self.directives.get("RULE", []) for name in _names(text)]

    def nots(self) -> list[tuple[str, str]]:
        """Return the rules that the case says are tried and not applied, each with its reason."""
        found = []
        for text in self.directives.get("NOT", []):
            names, _, reason = text.partition(":")
            found += [(name, reason.strip()) for name in _names(names)]
        return found


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


@dataclass
class Outcome:
    """What came of a case: the result's text, or the error; and the remarks.

    Attributes:
        tried: rules that looked at an operation, as ``pass/rule``.
        applied: those that changed something.
    """

    text: str = ""
    error: LeptonError | None = None
    remarks: list[str] = field(default_factory=list)
    tried: frozenset[str] = frozenset()
    applied: frozenset[str] = frozenset()


def read_golden(path: str | os.PathLike[str]) -> tuple[list[str], list[GoldenCase]]:
    """Return the lines before the first case, and the cases."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    named = any(_CASE.match(line) for line in lines)
    preamble: list[str] = []
    cases: list[GoldenCase] = [] if named else [GoldenCase("", 1)]
    common: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        found = _CASE.match(line)
        if found:
            directives = {k: list(v) for k, v in common.items()}
            cases.append(GoldenCase(found[1].strip(), number, [], None, directives))
            continue
        directive = _DIRECTIVE.match(line)
        if directive:
            target = cases[-1].directives if cases else common
            target.setdefault(directive[1], []).append(directive[2].strip())
        if not cases:
            preamble.append(line)
        elif cases[-1].expected is not None:
            cases[-1].expected.append(line)
        elif line.rstrip() == _EXPECTED:
            cases[-1].expected = []
        else:
            cases[-1].head.append(line)
    return preamble, cases


def run_case(case: GoldenCase, path: str = "<golden>") -> Outcome:
    """Run a case and return what came of it.

    Raises:
        GoldenFailure: the numbers of source and result differ, or there is no RUN line.
    """
    pipeline = case.single("RUN")
    if pipeline is None:
        raise GoldenFailure("there is no // RUN: line")
    padding = "\n" * (case.line if case.name else 0)
    text = padding + "\n".join(case.head)
    folder = os.path.dirname(os.path.abspath(path))
    chosen: Any = None
    if case.single("TARGET"):
        chosen = plugins.load("backends", str(case.single("TARGET")))
    kept = frozenset(case.directives.get("KEEP-NODE", []))
    ctx = PassContext(target=chosen, want_remarks=frozenset(), keep_nodes=kept, tried=set())
    try:
        module = parse_module(text, folder=folder, filename=path)
        verify_module(module)
        ran = PassManager(ctx).run(Pipeline.parse(pipeline), module)
        verify_module(module)
    except LeptonError as error:
        return Outcome(error=error, remarks=list(map(str, ctx.remarks)))
    numeric = case.single("CHECK-NUMERIC")
    if numeric is not None:
        source = parse_module(text, folder=folder, filename=path)
        check_numeric(source, module, _options(numeric))
    applied = frozenset(rule for rule, hits in ctx.rule_hits.items() if hits > 0)
    tried = frozenset(ctx.tried or ()).union(_named_by({r.text for r in ran}))
    plan = case.single("PLAN")
    shown = print_bare(module) if plan is None else _plan(chosen, module, plan)
    return Outcome(shown, None, list(map(str, ctx.remarks)), tried, applied)


def _plan(target: Any, module: Module, text: str) -> str:
    """Return the target's plan of a module for the machine and the sizes of a directive."""
    machine, *dims_ = text.split()
    sizes = {name: int(size) for name, _, size in (d.partition("=") for d in dims_)}
    found: str = target.outline(module, machine, sizes)
    return found


def _named_by(passes: Iterable[str]) -> set[str]:
    """Return the rewrites of passes that are not made of rules: whatever runs them tries them."""
    names = {text.partition("{")[0] for text in passes}
    kinds = {name: find_pass(name) for name in names}
    return {
        f"{name}/{rule}"
        for name, kind in kinds.items()
        if not isinstance(kind, str)
        for rule in kind.rule_names
    }


def check_case(case: GoldenCase, path: str = "<golden>") -> Outcome:
    """Run a case and compare with what the file expects.

    Raises:
        GoldenFailure: with a diff, or the error that should not have been.
    """
    outcome = run_case(case, path)
    errors = case.directives.get("EXPECT-ERROR", [])
    if outcome.error is not None:
        message = outcome.error.render()
        missing = [e for e in errors if e not in message]
        if missing or not errors:
            wanted = f"\nexpected: {missing[0]}" if missing else ""
            raise GoldenFailure(f"{message}{wanted}")
        return outcome
    if errors:
        raise GoldenFailure(f"no error, expected: {errors[0]}\n{outcome.text}")
    for remark in case.directives.get("EXPECT-REMARK", []):
        if not any(remark in found for found in outcome.remarks):
            shown = "\n".join(outcome.remarks) or "there were none"
            raise GoldenFailure(f"no remark contains: {remark}\n{shown}")
    _check_rules(case, outcome)
    expected = "\n".join(case.expected or []).strip()
    if case.expected is None:
        raise GoldenFailure("there is no expected result; write it with --update-golden")
    if expected != outcome.text.strip():
        diff = difflib.unified_diff(
            expected.split("\n"), outcome.text.strip().split("\n"), "expected", "found", lineterm=""
        )
        raise GoldenFailure("\n".join(diff))
    return outcome


def _check_rules(case: GoldenCase, outcome: Outcome) -> None:
    """Compare what was tried and applied with ``RULE``, ``NOT`` and ``PUBLISHED``."""
    applied = ", ".join(sorted(outcome.applied)) or "none were"
    for name in case.rules():
        if not any(names_rule(name, rule) for rule in outcome.applied):
            raise GoldenFailure(f"the rule {name} is not applied, these are: {applied}")
    for name, reason in case.nots():
        if any(names_rule(name, rule) for rule in outcome.applied):
            raise GoldenFailure(f"the rule {name} is applied")
        if not any(names_rule(name, rule) for rule in outcome.tried):
            raise GoldenFailure(f"the rule {name} is never tried: no operation is of its kind")
        own = f"{name.rpartition('/')[2]}: "
        said = [r for r in outcome.remarks if own in r]
        if reason and not any(reason in r.partition(own)[2] for r in said):
            shown = "\n".join(said) or "it gave no reason"
            raise GoldenFailure(f"the rule {name} did not say: {reason}\n{shown}")
    if case.directives.get("PUBLISHED") and not case.rules():
        raise GoldenFailure("// PUBLISHED: says where the pattern of a // RULE: is from")


def names_rule(name: str, rule: str) -> bool:
    """Return whether ``name`` (``rule`` or ``pass/rule``) is that of a rule in full."""
    return name == rule or rule.endswith(f"/{name}")


def updated(path: str | os.PathLike[str]) -> str:
    """Return the file's text with every expected result as it comes out now.

    Raises:
        GoldenFailure: a case fails with an error it does not expect.
    """
    preamble, cases = read_golden(path)
    out = list(preamble)
    for i, case in enumerate(cases):
        if case.name or preamble or len(cases) > 1:
            out.append(f"// ===== {case.name}".rstrip())
        out += _trimmed(case.head)
        outcome = run_case(case, os.fspath(path))
        if outcome.error is None:
            out += [_EXPECTED, *outcome.text.strip().split("\n")]
        elif not case.directives.get("EXPECT-ERROR"):
            raise GoldenFailure(f"{case.name}: {outcome.error.render()}")
        if i + 1 < len(cases):
            out.append("")
    return "\n".join(out).rstrip("\n") + "\n"


def update_file(path: Path) -> bool:
    """Rewrite the expected results of a file; return whether that changed it."""
    new = updated(path)
    if new == path.read_text("utf-8"):
        return False
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(new, encoding="utf-8", newline="\n")
    temporary.replace(path)
    return True


def _trimmed(lines: list[str]) -> list[str]:
    end = len(lines)
    while end and not lines[end - 1].strip():
        end -= 1
    return lines[:end]


# -- numbers -------------------------------------------------------------------------------------


def _options(text: str) -> dict[str, float]:
    found = {"atol": 0.0, "ints": 2.0, "draws": 3.0}
    for part in text.split():
        key, _, value = part.partition("=")
        if key not in ("rtol", "atol", "ints", "draws") or not value:
            raise GoldenFailure(f"CHECK-NUMERIC knows rtol, atol, ints and draws, not {part!r}")
        found[key] = float(value)
    return found


def check_numeric(source: Module, result: Module, options: Mapping[str, float]) -> None:
    """Evaluate both modules on seeded inputs and compare.

    Args:
        source: module as it was.
        result: module as it became; its inputs may have lost some.
        options: ``rtol`` (absent: bit for bit), ``atol``, ``ints``, ``draws``.

    Raises:
        GoldenFailure: outputs differ.
    """
    for number in range(int(options.get("draws", 3))):
        feeds = draw_feeds(source, number, int(options.get("ints", 2)))
        kept = {v.name or "" for v in result.main.inputs}
        expected = run_list(source, feeds)
        found = run_list(result, {k: v for k, v in feeds.items() if k in kept})
        for name, a, b in zip(source.main.output_names, expected, found, strict=True):
            problem = _difference(a, b, options.get("rtol"), options.get("atol", 0.0))
            if problem:
                raise GoldenFailure(f"draw {number}: output {name!r}: {problem}")


def draw_feeds(module: Module, seed: int, ints: int = 2) -> dict[str, Any]:
    """Return seeded inputs of ``main``; symbols take other sizes for each seed.

    Raises:
        GoldenFailure: an input that is not a tensor of known rank and element type.
    """
    types = [v.type for v in module.main.inputs]
    shapes = [t.shape or () for t in types if isinstance(t, TensorType)]
    names = sorted({s for shape in shapes for d in shape if d is not None for s in dims.symbols(d)})
    env = {name: _SIZES[(seed + i) % len(_SIZES)] for i, name in enumerate(names)}
    feeds = {}
    for i, value in enumerate(module.main.inputs):
        t = value.type
        if not isinstance(t, TensorType) or t.dtype is None or t.shape is None:
            raise GoldenFailure(f"cannot draw input {value}")
        shape = tuple(2 if d is None else dims.evaluate(d, env) for d in t.shape)
        limit = min(ints, 1 << (t.dtype.bits - 1)) if t.dtype.is_integer else None
        feeds[value.name or ""] = rand(t.dtype, shape, seed * 1000 + i, limit).numpy()
    return feeds


def _difference(a: Any, b: Any, rtol: float | None, atol: float) -> str:
    if isinstance(a, list) or isinstance(b, list):
        if not (isinstance(a, list) and isinstance(b, list)) or len(a) != len(b):
            return "the sequences differ in length"
        problems = (_difference(x, y, rtol, atol) for x, y in zip(a, b, strict=True))
        return next((p for p in problems if p), "")
    if a is None or b is None:
        return "" if a is b else "one of the optional values is absent"
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}"
    if rtol is None or a.dtype.kind in "OSUbiu":
        same = a.tobytes() == b.tobytes() if a.dtype.kind != "O" else bool((a == b).all())
        return "" if same else f"not bit-identical: {a.reshape(-1)[:4]} and {b.reshape(-1)[:4]}"
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    if np.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    return f"largest difference {np.nanmax(np.abs(x - y)):.3g}"
