"""What outputs need, before anything is built: operators without a row are refused all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.tensorflow import table
from lepton_ir.frontends.tensorflow.functions import ASSIGN
from lepton_ir.frontends.tensorflow.graph import CALLS, reason
from lepton_ir.frontends.tensorflow.nodes import FunctionRef, Node

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from lepton_ir.frontends.tensorflow.functions import Body, Ref

_SHOWN = 8


MAX_NODES = 300_000
"""Nodes, functions inlined: some that call each other twice could be endless."""


def require_size(body: Body) -> None:
    """Refuse graphs whose functions call each other without end, or nearly so.

    Raises:
        InvalidModelError: a function calls itself.
        UnsupportedError: there are too many nodes.
    """
    sizes: dict[str, int] = {}
    active: set[str] = set()
    stack = [("", _called(body.nodes.values(), body))]
    while stack:
        name, calls = stack[-1]
        wanted = next((c for c in calls if c not in sizes), None)
        if wanted is None:
            nodes = body if not name else body.library.body(name)
            sizes[name] = len(nodes.nodes) + sum(sizes[c] for c in calls)
            active.discard(name)
            stack.pop()
        elif wanted in active:
            raise InvalidModelError(f"function {shorten(wanted)} calls itself", code="tf-cycle")
        else:
            active.add(wanted)
            stack.append((wanted, _called(body.library.body(wanted).nodes.values(), body)))
    if sizes[""] > MAX_NODES:
        raise UnsupportedError(f"more than {MAX_NODES} nodes, functions inlined", code="tf-size")


def _called(nodes: Iterable[Node], body: Body) -> list[str]:
    found = [f for n in nodes for f in _functions(n, body)]
    return [f for f in found if f in body.library]


def require_rows(body: Body, outputs: Sequence[Ref], bound: Collection[str]) -> None:
    """Refuse operators that cannot be read.

    Args:
        body: the graph.
        outputs: what is read of it.
        bound: nodes that are inputs.

    Raises:
        UnsupportedError: there are some; names them.
    """
    known = {*table.load(), *table.structures(), *CALLS, ASSIGN}
    missing: dict[str, Node] = {}
    for node in _reachable(body, outputs, bound):
        if node.op not in known and node.op not in body.library:
            missing.setdefault(node.op, node)
    if not missing:
        return
    first, *others = missing.values()
    notes = [f"{n.describe()}{reason(n.op)}" for n in others[:_SHOWN]]
    if len(others) > _SHOWN:
        notes.append(f"and {len(others) - _SHOWN} more operators")
    raise UnsupportedError(
        f"operator {shorten(first.op)} is not supported{reason(first.op)}",
        code="tf-op",
        where=first.describe(),
        notes=tuple(notes),
    )


def _reachable(body: Body, outputs: Sequence[Ref], bound: Collection[str]) -> Iterator[Node]:
    """Yield the nodes that outputs need, those of functions as well."""
    functions: set[str] = set()
    work: list[tuple[Body, list[str], bool]] = [(body, [r.node for r in outputs], True)]
    while work:
        where, names, outermost = work.pop()
        seen = set(bound) if outermost else set(where.args)
        while names:
            name = names.pop()
            if name in seen:
                continue
            seen.add(name)
            node = where.nodes[name]
            yield node
            names += [r.node for r in where.operands(node)]
            for function in _functions(node, body):
                if function not in functions:
                    functions.add(function)
                    inner = body.library.body(function)
                    yield from (n for n in inner.nodes.values() if writes(n))
                    work.append((inner, [r.node for r in inner.returns], False))


def _functions(node: Node, body: Body) -> Iterator[str]:
    if node.op in body.library:
        yield node.op
    for name in node.message.attr:
        value = node.message.attr[name]
        if value.HasField("func") or value.list.func:
            found = node.attr(name)
            for item in found if isinstance(found, list) else [found]:
                if isinstance(item, FunctionRef) and not name.startswith("_"):
                    yield item.name


def writes(node: Node) -> bool:
    """Return whether a node writes a variable, a table or a file."""
    return node.op not in ("ResourceGather", "ResourceGatherNd") and (
        node.op.startswith(("Assign", "ResourceScatter", "ResourceApply", "ResourceStrided"))
        or node.op in ("ScatterUpdate", "ScatterAdd", "ScatterNdUpdate", "ScatterNdAdd")
    )
