"""Comparing two models, structure and numbers: ``lepton-opt diff A B [--run]``."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import LeptonError, shorten
from lepton_ir.ir import Module, Op, Value
from lepton_ir.provenance import SOURCES_KEY, names_in
from lepton_ir.tensors import Tensor, same_content
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FETCHED_BYTES = 256 << 20
"""Estimated bytes of the tensors that one run hands out; more take several runs."""

_SYMBOL_SIZE = 8
_WIDTH = 80
_FETCHED = frozenset(
    {"f16", "f32", "f64", "bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "str"}
)
"""Element types that every runner can hand out as arrays."""


@dataclass
class Difference:
    """What differs between two models; lists are in the order of the models.

    Attributes:
        paths: of both.
        nodes: operations of both, constants not counted.
        bytes: payload bytes of the constants of both.
        interface: inputs and outputs that differ, one line each.
        opsets: imports that differ, domain to both versions (``None``: not imported).
        ops: operations with other counts, name to both counts.
        constants: how many there are by ``equal``, ``changed``, ``removed``, ``added``; content
            decides, not the name.
        changed_constants: constants of one name with other content.
        same: nodes that are the same.
        changed: name to what is different.
        merged: nodes of A that nodes of B were made from, as their provenance says.
        removed: other nodes of A that B lacks.
        added: nodes of B that are in A neither by name nor by provenance.
        verdict: of running both (``None``: not run).
        tensors: one row per tensor that both models have, in topological order of A.
    """

    paths: tuple[str, str]
    nodes: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    interface: list[str] = field(default_factory=list)
    opsets: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    ops: dict[str, tuple[int, int]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    changed_constants: list[str] = field(default_factory=list)
    same: int = 0
    changed: dict[str, str] = field(default_factory=dict)
    merged: dict[str, list[str]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    verdict: dict[str, Any] | None = None
    tensors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing differs, in structure and in the numbers as far as they were compared."""
        structure = (self.interface, self.opsets, self.ops, self.changed_constants)
        nodes = (self.changed, self.merged, self.removed, self.added)
        consts = self.constants.get("removed", 0) + self.constants.get("added", 0)
        numbers = self.verdict is None or self.verdict["status"] == "equal"
        return not any((*structure, *nodes, consts)) and numbers

    @property
    def divergence(self) -> dict[str, Any] | None:
        """The row of the first tensor that differs."""
        return next((row for row in self.tensors if row["status"] != "equal"), None)


# ----- structure


def compare_structure(a: Module, b: Module, paths: tuple[str, str]) -> Difference:
    """Compare two modules without running them."""
    found = Difference(paths)
    nodes = (list(_nodes(a)), list(_nodes(b)))
    found.nodes = (len(nodes[0]), len(nodes[1]))
    counts = [Counter(op.name for op in ops) for ops in nodes]
    names = sorted(counts[0].keys() | counts[1].keys())
    found.ops = {n: (counts[0][n], counts[1][n]) for n in names if counts[0][n] != counts[1][n]}
    domains = sorted(a.opsets.keys() | b.opsets.keys())
    versions = {d or "onnx": (a.opsets.get(d), b.opsets.get(d)) for d in domains}
    found.opsets = {d: v for d, v in versions.items() if v[0] != v[1]}
    found.interface = _interface(a, b)
    _compare_constants(a, b, found)
    _match_nodes(nodes[0], nodes[1], found)
    return found


def _nodes(module: Module) -> Iterator[Op]:
    for op in module.walk():
        if op.name != "const" and not (op.definition and "terminator" in op.definition.traits):
            yield op


def _interface(a: Module, b: Module) -> list[str]:
    lines = []
    sides = [
        ("input", _types(a.main.inputs), _types(b.main.inputs)),
        ("output", _output_types(a), _output_types(b)),
    ]
    for kind, before, after in sides:
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                first, second = before.get(name, "none"), after.get(name, "none")
                lines.append(f"{kind} {shorten(name, 40)}: {first} -> {second}")
        if list(before) != list(after) and before.keys() == after.keys():
            lines.append(f"{kind}s come in another order")
    return lines


def _types(values: list[Value]) -> dict[str, str]:
    return {v.name or "": str(v.type) for v in values}


def _output_types(module: Module) -> dict[str, str]:
    main = module.main
    named = zip(main.output_names, main.outputs, strict=True)
    return {name: "" if v is None else str(v.type) for name, v in named}


def _constants(module: Module) -> list[tuple[str, Tensor]]:
    return [
        (op.result.name or "", op.attrs["value"])
        for op in module.walk()
        if op.name == "const" and isinstance(op.attrs.get("value"), Tensor)
    ]


def _compare_constants(a: Module, b: Module, found: Difference) -> None:
    sides = (_constants(a), _constants(b))
    found.bytes = (sum(t.nbytes for _, t in sides[0]), sum(t.nbytes for _, t in sides[1]))
    before, after = (Counter(t.digest() for _, t in side) for side in sides)
    equal = (before & after).total()
    named = dict(sides[0])
    found.changed_constants = [
        name
        for name, tensor in sides[1]
        if name and name in named and named[name].digest() != tensor.digest()
    ]
    changed = len(found.changed_constants)
    found.constants = {
        "equal": equal,
        "changed": changed,
        "removed": max(len(sides[0]) - equal - changed, 0),
        "added": max(len(sides[1]) - equal - changed, 0),
    }


def node_key(op: Op) -> str:
    """Return what a node is known by: its name, else its first result's."""
    return op.node_name or next((r.name for r in op.results if r.name), op.name)


def sources_of(op: Op) -> list[str]:
    """Return the names of the nodes that a node was made from; empty for one of the source."""
    if not op.loc.is_source:
        return list(op.loc.flatten()[0])
    return list(names_in((op.meta or {}).get("metadata", {}), SOURCES_KEY))


def _match_nodes(before: list[Op], after: list[Op], found: Difference) -> None:
    waiting: dict[str, list[Op]] = {}
    for op in before:
        waiting.setdefault(node_key(op), []).append(op)
    made: dict[str, list[str]] = {}
    unmatched: list[Op] = []
    for op in after:
        key = node_key(op)
        for source in sources_of(op):
            made.setdefault(source, []).append(key)
        if not waiting.get(key):
            unmatched.append(op)
            continue
        partner = waiting[key].pop(0)
        what = _node_difference(partner, op)
        if what:
            found.changed[key] = what
        else:
            found.same += 1
    left = [node_key(op) for op in before if op in set(waiting.get(node_key(op), ()))]
    found.merged = {key: list(dict.fromkeys(made[key])) for key in left if key in made}
    found.removed = [key for key in left if key not in made]
    known = {node_key(op) for op in before}
    found.added = [node_key(op) for op in unmatched if not known.intersection(sources_of(op))]


def _node_difference(a: Op, b: Op) -> str:
    if a.name != b.name:
        return f"{a.name} -> {b.name}"
    parts = []
    if len(a.operands) != len(b.operands):
        parts.append(f"{len(a.operands)} -> {len(b.operands)} inputs")
    else:
        changes = (_operand_difference(x, y) for x, y in zip(a.operands, b.operands, strict=True))
        parts += [c for c in changes if c]
    first, second = a.all_attrs(), b.all_attrs()
    parts += [
        f"{key}: {_shown(first.get(key))} -> {_shown(second.get(key))}"
        for key in dict.fromkeys([*first, *second])
        if not _same_attr(first.get(key), second.get(key))
    ]
    return "; ".join(parts)


def _operand_difference(a: Value | None, b: Value | None) -> str:
    if a is None or b is None:
        return "" if a is b else f"reads {_name(b)} instead of {_name(a)}"
    first, second = (
        v.op.attrs.get("value") if v.op and v.op.name == "const" else None for v in (a, b)
    )
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return "" if same_content(first, second) else f"other constant {_name(b)}"
    return "" if a.name == b.name else f"reads {_name(b)} instead of {_name(a)}"


def _name(value: Value | None) -> str:
    return "nothing" if value is None else shorten(value.name or "a constant", 40)


def _same_attr(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_content(a, b)
    return bool(a == b) or (a != a and b != b)


def _shown(value: Any) -> str:
    return "none" if value is None else shorten(str(value), 30)


# ----- numbers


def compare_numbers(
    a: Module,
    b: Module,
    found: Difference,
    *,
    feeds: list[str] | None = None,
    timeout: float | None = None,
    draws: int = 2,
) -> None:
    """Run both on the same inputs and judge every tensor that both name; fills ``found``.

    Args:
        a: the model whose results count as right.
        b: the other one.
        found: gets ``tensors`` and ``verdict``.
        feeds: files of real inputs instead of drawn ones.
        timeout: seconds of one step.
        draws: sets of inputs.
    """
    from lepton_ir import check

    names = _common(a, b)
    outputs = [n for n in a.main.output_names if n in b.main.output_names]
    verdicts = []
    for part in _portions(a, names):
        with check.Checker(None, timeout) as checker:
            verdict = _run_portion(checker, (a, b), part, feeds or [], draws)
        found.tensors += verdict.pop("tensors", [])
        verdicts.append(verdict)
    if not verdicts:
        found.verdict = {"status": "inconclusive", "reason": "no tensor has the same name in both"}
        return
    bad = [v for v in verdicts if v["status"] != "equal"]
    found.verdict = bad[0] if bad else max(verdicts, key=lambda v: v["relative"])
    found.verdict["outputs"] = outputs


def _common(a: Module, b: Module) -> list[str]:
    """Return the tensors that both compute under one name, in topological order of ``a``."""
    from lepton_ir.tools.extract import tensors

    first, second = tensors(a), tensors(b)
    place = {op: i for i, op in enumerate(a.main.block.ops)}
    names = [n for n in first if n in second and _fetchable(first[n]) and _fetchable(second[n])]
    return sorted(names, key=lambda n: place.get(first[n].op, -1))  # type: ignore[arg-type]


def _fetchable(value: Value) -> bool:
    type_ = value.type
    if value.op is None or value.op.name == "const" or not isinstance(type_, TensorType):
        return False
    return type_.dtype is not None and type_.dtype.name in _FETCHED


def _portions(module: Module, names: list[str]) -> Iterator[list[str]]:
    """Split names so that the tensors of each part take about ``MAX_FETCHED_BYTES`` at most."""
    from lepton_ir.tools.extract import tensors

    known = tensors(module)
    part: list[str] = []
    size = 0
    for name in names:
        count = 1
        for dim in known[name].shape or ():
            count *= dim if isinstance(dim, int) else _SYMBOL_SIZE
        dtype = known[name].dtype
        size += count * (dtype.bits // 8 or 1 if dtype else 1)
        if part and size > MAX_FETCHED_BYTES:
            yield part
            part, size = [], 0
        part.append(name)
    if part:
        yield part


def _run_portion(
    checker: Any, models: tuple[Module, Module], names: list[str], feeds: list[str], draws: int
) -> dict[str, Any]:
    from lepton_ir import api, check
    from lepton_ir.pipeline import count_ops
    from lepton_ir.tools.extract import extract

    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        paths = []
        for label, module in zip("ab", models, strict=True):
            path = os.path.join(folder, f"{label}.onnx")
            inputs = [v.name or "" for v in module.main.inputs]
            api.save(extract(module, inputs, names), path)
            paths.append(path)
        size = sum(t.nbytes for _, t in _constants(models[0]))
        checker.open(paths[0], draws=draws, feeds=feeds, size=size, nodes=count_ops(models[0]))
        facts = check.facts_of(models[0])
        verdict: dict[str, Any] = checker.compare(paths[1], facts=facts, detail=True)
    return {"relative": 0.0, **verdict}


# ----- what people see


def render(found: Difference, limit: int = 12) -> str:
    """Return the comparison as a text of at most 80 columns; ``limit`` rows of each kind."""
    from lepton_ir.tools.report import clip, human_bytes

    lines = [clip(f"A  {found.paths[0]}", _WIDTH), clip(f"B  {found.paths[1]}", _WIDTH)]
    lines.append(f"  {'':<34} {'A':>12} {'B':>12} {'change':>10}")
    lines.append(_row("nodes", found.nodes))
    a, b = found.bytes
    lines.append(f"  {'constants':<34} {human_bytes(a):>12} {human_bytes(b):>12}")
    for domain, (first, second) in found.opsets.items():
        lines.append(f"  {clip(f'opset {domain}', 34):<34} {first or '-':>12} {second or '-':>12}")
    ranked = sorted(found.ops.items(), key=lambda kv: (-abs(kv[1][0] - kv[1][1]), kv[0]))
    lines += [_row(f"  {name}", pair) for name, pair in ranked[:limit]]
    lines += _rest(ranked, limit)
    lines += [f"  {line}" for line in found.interface]
    consts = ", ".join(f"{count:,} {kind}" for kind, count in found.constants.items() if count)
    lines.append(f"  constants: {consts or 'none'}")
    counts = {
        "the same": found.same,
        "changed": len(found.changed),
        "merged": len(found.merged),
        "removed": len(found.removed),
        "added": len(found.added),
    }
    lines.append("  nodes: " + ", ".join(f"{c:,} {k}" for k, c in counts.items() if c))
    details = [f"    ~ {shorten(n, 40)}: {what}" for n, what in found.changed.items()]
    details += [f"    > {shorten(n, 40)} into {', '.join(to)}" for n, to in found.merged.items()]
    details += [f"    - {shorten(n, 70)}" for n in found.removed]
    details += [f"    + {shorten(n, 70)}" for n in found.added]
    lines += details[: 2 * limit] + _rest(details, 2 * limit)
    lines += _number_lines(found, limit)
    if found.equal:
        lines.append("  the models are equal")
    return "\n".join(clip(line, _WIDTH) for line in lines)


def _row(label: str, pair: tuple[int, int]) -> str:
    from lepton_ir.tools.report import clip

    return f"  {clip(label, 34):<34} {pair[0]:>12,} {pair[1]:>12,} {pair[1] - pair[0]:>+10,}"


def _rest(items: list[Any], limit: int) -> list[str]:
    return [f"    ... and {len(items) - limit:,} more (--json)"] if len(items) > limit else []


def _number_lines(found: Difference, limit: int) -> list[str]:
    from lepton_ir.tools.report import clip

    if found.verdict is None:
        return []
    if not found.tensors:
        verdict = found.verdict
        return [f"  numbers: {verdict['status']}: {verdict.get('reason') or ''}"]
    differing = [row for row in found.tensors if row["status"] != "equal"]
    head = f"  numbers: {len(found.tensors):,} tensors of one name, {len(differing):,} differ"
    lines = [head, f"    {'tensor':<34} {'shape':<16} {'largest':>10} {'relative':>10}"]
    shown = differing[:limit]
    if not differing:
        shown = sorted(found.tensors, key=lambda r: -r["relative"])[: min(limit, 5)]
    for row in shown:
        name = clip(row["name"], 34)
        shape = clip("x".join(map(str, row["shape"])), 16)
        lines.append(f"    {name:<34} {shape:<16} {row['largest']:>10.3g} {row['relative']:>10.2e}")
    lines += _rest(differing, limit)
    first = found.divergence
    if first is not None:
        lines.append(f"  they first differ in {shorten(first['name'], 40)}: {first['reason']}")
    return lines


def as_json(found: Difference) -> dict[str, Any]:
    """Return the comparison as a JSON-ready dict; numbers that JSON lacks are text."""
    from lepton_ir.tools.report import finite

    data = {**asdict(found), "equal": found.equal, "divergence": found.divergence}
    done = finite(data)
    assert isinstance(done, dict)
    return done


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of the subcommand."""
    p = argparse.ArgumentParser(
        prog="lepton-opt diff",
        description="Compare two models: structure and, with --run, the numbers of each tensor.",
        allow_abbrev=False,
    )
    p.add_argument("model", metavar="A", help="a model (.onnx, .lir)")
    p.add_argument("other", metavar="B", help="another one, such as A after optimization")
    p.add_argument("--run", action="store_true", help="run both, compare tensors of equal names")
    p.add_argument(
        "--check-inputs",
        action="append",
        default=[],
        metavar="FEEDS",
        help="real inputs instead of drawn ones: .npz or a folder",
    )
    p.add_argument("--check-timeout", type=float, metavar="SECONDS", help="time for one step")
    p.add_argument("--json", action="store_true", help="JSON on standard output")
    p.add_argument("--limit", type=int, default=12, metavar="N", help="rows of each kind (12)")
    p.add_argument("--exit-code", action="store_true", help="exit with 1 when they differ")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load operations")
    return p


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from lepton_ir import api

    if args.limit < 0:
        raise LeptonError("expected a number from 0 on", code="option", where="--limit")
    a, b = api.load(args.model), api.load(args.other)
    found = compare_structure(a, b, (args.model, args.other))
    if args.run:
        compare_numbers(a, b, found, feeds=args.check_inputs, timeout=args.check_timeout)
    if args.json:
        print(json.dumps(as_json(found), indent=1, default=str))
    else:
        print(render(found, args.limit))
    return int(args.exit_code and not found.equal)
