"""Names that options may give: rules, nodes, passes; others are refused with the closest ones."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lepton_ir.context import source_key
from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.pipeline import Combinator, find_pass, pass_names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lepton_ir.ir import Module
    from lepton_ir.tools.options import Options

KINDS = ("applied", "missed")
"""Kinds of remarks that ``--remarks`` chooses, beside passes."""


def check_options(options: Options) -> None:
    """Refuse names that no rule and no pass has.

    Raises:
        LeptonError: names the option, the name, and the closest known ones.
    """
    if options.exclude_rules:
        rules, patterns = rule_names()
        for name in sorted(options.exclude_rules):
            if name not in rules and not any(fnmatchcase(name, p) for p in patterns):
                raise _unknown("--exclude-rule", "rule", name, rules)
    if options.remarks:
        known = [*KINDS, *(n for n in pass_names() if _is_pass(n))]
        for name in sorted(options.remarks):
            if name not in known:
                raise _unknown("--remarks", "pass", name, known)


def check_nodes(names: Iterable[str], module: Module) -> None:
    """Refuse names that no node of the source has.

    Raises:
        LeptonError: names the closest ones.
    """
    wanted = sorted(names)
    if not wanted:
        return
    known = node_names(module)
    for name in wanted:
        if name not in known:
            raise _unknown("--keep-node", "node", name, known)


def node_names(module: Module) -> set[str]:
    """Return the names by which nodes can be kept: their own, else that of their first result."""
    names = {source_key(op) for op in module.walk()}
    return names.union(op.node_name for op in module.walk() if op.node_name)


def rule_names() -> tuple[set[str], list[str]]:
    """Return the names of all rules as ``rule`` and ``pass/rule``, and shell patterns of others.

    A pass that makes rewrites by itself and says nothing of their names may have any.
    """
    from lepton_ir.rewrite import RewritePass

    names: set[str] = set()
    patterns: list[str] = []
    for pass_name in pass_names():
        try:
            found = find_pass(pass_name)
        except LeptonError:  # one broken plugin must not hide the others
            continue
        if isinstance(found, str) or issubclass(found, Combinator):
            continue
        if issubclass(found, RewritePass):
            rules = {rule.name for rule in found().rules().rules}
            names |= rules | {f"{pass_name}/{rule}" for rule in rules}
        elif not found.rule_names:
            patterns.append(f"{pass_name}/*")
        for pattern in found.rule_names:
            patterns += [pattern, f"{pass_name}/{pattern}"]
            names |= {pattern, f"{pass_name}/{pattern}"}
    return names, patterns


def _is_pass(name: str) -> bool:
    try:
        found = find_pass(name)
    except LeptonError:
        return True
    return not isinstance(found, str) and not issubclass(found, Combinator)


def _unknown(option: str, kind: str, name: str, known: Iterable[str]) -> LeptonError:
    close = difflib.get_close_matches(name, sorted(known), n=3)
    hints = {
        "rule": "docs/rules.md lists the rules; --stats shows those that were applied",
        "pass": "--list-passes lists them; applied and missed choose a kind of remarks",
        "node": "lepton-opt MODEL --passes= --emit=lir shows the nodes and their names",
    }
    shown = " or ".join(shorten(c, 80) for c in close)
    return LeptonError(
        f"no {kind} is called {shorten(name)!r}",
        code="option",
        where=option,
        hint=f"did you mean {shown}?" if close else hints[kind],
    )
