"""What every pass is given: options of the run, remarks, statistics, and the permit to rewrite.

Every single rewrite, whichever pass makes it, asks :meth:`PassContext.allow` first. That one gate
counts it, names it with a stable key, and can refuse it: this is what makes a pipeline bisectable
(``--stop-after=N``), a rule excludable (``--exclude-rule``), and a node untouchable
(``--keep-node``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import Remark
from lepton_ir.infer import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.ir import Module, Op
    from lepton_ir.target import Target

FOLD_OUTPUT_BYTES = 4 << 20
"""Folding budget per operation: a result may be as large as its inputs together, or this."""

FOLD_TOTAL_BYTES = 64 << 20
"""Folding budget per module: bytes that folding may add over what it removes."""

UNUSED = "(unused)"
"""Stands for a rule where operations went because nothing used them, whatever came before."""

OTHER = "(other)"
"""Stands for the rules of a pass that does not say which of them changed what."""

MAX_REMARKS = 10_000


def source_key(op: Op) -> str:
    """Return the stable name of an operation: its first source node, else its result's name."""
    names, _ = op.loc.flatten(1)
    if names:
        return names[0]
    return op.node_name or next((r.name for r in op.results if r.name), op.name)


@dataclass
class PassContext:
    """State of one run of a pipeline.

    Attributes:
        exact: only rewrites that give bit-identical results on proven facts (O1).
        target: what the output will run on; passes ask ``target.legal(op)``.
        want_remarks: collect missed remarks too (``--remarks``): all when empty, else of these
            passes; ``None`` collects none.
        exclude_rules: rule names (or ``pass/rule``) not to apply.
        exclude_rewrites: keys of single rewrites not to apply.
        keep_nodes: source node names that no rewrite may match.
        stop_after: number of rewrites after which everything is refused.
        progress: called now and then with (done, total, what).
        feeds: calibration data, see the quant pass.
        rule_hits: how often each rule (``pass/rule``) was applied.
        rule_nodes: operations that each rule added less those that it removed, and what died of
            it; over a pass they add up to what the pass did.
        rule_bytes: the same of the bytes of constants.
        legal_only: make nothing that the target cannot write: ``legalize{keep}`` has run.
        tried: collects the rules (``pass/rule``) that looked at an operation, if asked to.
    """

    exact: bool = False
    target: Target | None = None
    want_remarks: frozenset[str] | None = None
    exclude_rules: frozenset[str] = frozenset()
    exclude_rewrites: frozenset[str] = frozenset()
    keep_nodes: frozenset[str] = frozenset()
    stop_after: int | None = None
    progress: Callable[[int, int, str], None] | None = None
    feeds: Any = None
    remarks: list[Remark] = field(default_factory=list)
    rewrites: list[str] = field(default_factory=list)
    rule_hits: Counter[str] = field(default_factory=Counter)
    rule_nodes: Counter[str] = field(default_factory=Counter)
    rule_bytes: Counter[str] = field(default_factory=Counter)
    legal_only: bool = False
    tried: set[str] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    pass_name: str = ""
    fold_bytes: int = 0
    _about: list[tuple[Remark, Op]] = field(default_factory=list, init=False, repr=False)

    def allow(self, rule: str, op: Op) -> bool:
        """Return whether the rewrite ``rule`` anchored at ``op`` may happen; counts it if so.

        Call it right before mutating, after everything else has matched.
        """
        if self.stop_after is not None and len(self.rewrites) >= self.stop_after:
            return False
        full = f"{self.pass_name}/{rule}"
        if self.exclude_rules and (rule in self.exclude_rules or full in self.exclude_rules):
            return False
        source = source_key(op)
        if source in self.keep_nodes or (op.node_name and op.node_name in self.keep_nodes):
            return False
        key = f"{full}@{source}"
        if key in self.exclude_rewrites:
            return False
        self.rewrites.append(key)
        self.rule_hits[full] += 1
        return True

    def tally(self, rule: str, nodes: int, size: int) -> None:
        """Attribute a change in operations and in bytes of constants to a rule of this pass."""
        full = f"{self.pass_name}/{rule or UNUSED}"
        self.rule_nodes[full] += nodes
        self.rule_bytes[full] += size

    def tallied(self, pass_name: str) -> tuple[int, int]:
        """Return what is attributed to the rules of a pass so far."""
        head = pass_name + "/"
        nodes = sum(n for rule, n in self.rule_nodes.items() if rule.startswith(head))
        size = sum(n for rule, n in self.rule_bytes.items() if rule.startswith(head))
        return nodes, size

    def attribute_rest(
        self,
        pass_name: str,
        keys: Sequence[str],
        before: tuple[int, int],
        deltas: tuple[int, int],
    ) -> None:
        """Attribute what no rule claimed: to the pass's only rule, else to its ``other`` ones.

        Args:
            pass_name: the pass that ran.
            keys: the rewrites it made.
            before: what :meth:`tallied` said before it ran.
            deltas: operations and bytes of constants after it less those before it.
        """
        after = self.tallied(pass_name)
        nodes, size = (d - (b - a) for d, a, b in zip(deltas, before, after, strict=True))
        if nodes or size:
            rules = {key.partition("@")[0] for key in keys}
            rest = UNUSED if not rules else OTHER
            full = next(iter(rules)) if len(rules) == 1 else f"{pass_name}/{rest}"
            self.rule_nodes[full] += nodes
            self.rule_bytes[full] += size

    def kept(self, op: Op) -> bool:
        """Return whether the user asked to leave this operation alone."""
        return bool(self.keep_nodes) and (
            source_key(op) in self.keep_nodes or (op.node_name or "") in self.keep_nodes
        )

    def wants(self, kind: str = "missed") -> bool:
        """Return whether remarks of this pass are collected (build messages only then)."""
        if self.want_remarks is None:
            return False
        return (
            not self.want_remarks
            or self.pass_name in self.want_remarks
            or (kind in self.want_remarks)
        )

    def remark(self, kind: str, where: Op | str, message: str, *args: object) -> None:
        """Record a remark; ``applied`` and ``missed`` ones only when asked for.

        Args:
            kind: ``applied``, ``missed``, or ``note`` (always kept: the user should know).
            where: an operation or a place.
            message: a ``str.format`` template for ``args``, formatted only if it is kept.
            args: values for the template.
        """
        if kind != "note" and not self.wants(kind):
            return
        if len(self.remarks) < MAX_REMARKS:
            place = where if isinstance(where, str) else describe(where)
            text = message.format(*args) if args else message
            self.remarks.append(Remark(kind, self.pass_name, place, text))
            if kind == "missed" and not isinstance(where, str):
                self._about.append((self.remarks[-1], where))

    def drop_stale(self) -> None:
        """Drop remarks on what was missed at operations that are gone: something took them."""
        gone = {id(remark) for remark, op in self._about if op.block is None}
        if gone:
            self.remarks = [r for r in self.remarks if id(r) not in gone]
        self._about.clear()

    def note_once(self, key: str, where: Op | str, message: str, *args: object) -> None:
        """Record a note the first time ``key`` is seen."""
        if key not in self.data:
            self.data[key] = True
            self.remark("note", where, message, *args)

    def legal(self, op: Op) -> bool | str:
        """Ask the target whether ``op`` can be written: ``True`` or the reason why not."""
        return True if self.target is None else self.target.legal(op)

    def legal_name(self, name: str, module: Module, **attrs: Any) -> bool:
        """Return whether the target can write an operation called ``name`` for this module."""
        return self.target is None or self.target.has(name, module, attrs)
