"""Checks that every node of a result names source nodes that exist and lie among its ancestors."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from lepton_ir.provenance import NODE_KEY, TABLE_KEY, ProvenanceTable


def _walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for sub in [attribute.g, *attribute.graphs]:
                yield from _walk(sub)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names a node reads, in its subgraphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for sub in [attribute.g, *attribute.graphs]:
            for inner in sub.node:
                names |= _reads(inner)
            names |= {o.name for o in sub.output}
    return names - {""}


def _key(node: onnx.NodeProto) -> str:
    return node.name or next((o for o in node.output if o), "")


class Source:
    """The source graph: which nodes compute a tensor, directly or not."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.names: set[str] = set()
        self.producer: dict[str, onnx.NodeProto] = {}
        self.inner: dict[int, list[onnx.NodeProto]] = {}
        for node in _walk(model.graph):
            self.names |= {node.name, *(o for o in node.output if o)}
            for output in node.output:
                self.producer[output] = node
        for node in _walk(model.graph):
            # What a subgraph computes belongs to the node that holds it.
            for attribute in node.attribute:
                for sub in [attribute.g, *attribute.graphs]:
                    for inner in _walk(sub):
                        self.inner.setdefault(id(node), []).append(inner)
        self._memo: dict[str, frozenset[str]] = {}

    def ancestors(self, tensor: str) -> set[str]:
        """Names of all nodes that contribute to ``tensor``."""
        found: set[str] = set()
        seen: set[str] = set()
        stack = [tensor]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self.producer.get(name)
            if node is None:
                continue
            for part in (node, *self.inner.get(id(node), ())):
                found |= {part.name, *part.output}
                stack.extend(_reads(part))
        return found - {""}


def violations(source: onnx.ModelProto, result: onnx.ModelProto) -> list[str]:
    """Return one line for each node whose provenance is missing or wrong."""
    known = Source(source)
    table = ProvenanceTable(
        next((p.value for p in result.metadata_props if p.key == TABLE_KEY), "{}")
    )
    readers: dict[str, list[onnx.NodeProto]] = {}
    nodes = list(_walk(result.graph))
    for node in nodes:
        for name in _reads(node):
            readers.setdefault(name, []).append(node)
    bad = []
    for node in nodes:
        if node.op_type == "Constant":
            continue
        reference = next((p.value for p in node.metadata_props if p.key == NODE_KEY), None)
        made = None if reference is None else table.look_up(reference)
        if reference is not None and made is None:
            bad.append(f"{node.op_type} {_key(node)}: the table has no {reference}")
        sources = [_key(node)] if made is None else list(made[0])
        if not sources:
            bad.append(f"{node.op_type} {_key(node)} names no source")
        missing = [s for s in sources if s not in known.names]
        if missing:
            bad.append(f"{node.op_type} {_key(node)}: not in the source: {missing[:3]}")
            continue
        reached = _known_below(node, known, readers)
        if not reached:
            continue
        allowed = set().union(*map(known.ancestors, reached))
        strangers = [s for s in sources if s not in allowed]
        if strangers:
            bad.append(f"{node.op_type} {_key(node)}: not among its ancestors: {strangers[:3]}")
    return bad


def _known_below(
    node: onnx.NodeProto, known: Source, readers: dict[str, list[onnx.NodeProto]]
) -> list[str]:
    """Tensors of the source that ``node`` computes; for new ones, the next known ones after it."""
    found = [o for o in node.output if o in known.producer]
    seen: set[int] = set()
    stack = [o for o in node.output if o and o not in known.producer]
    while stack:
        for reader in readers.get(stack.pop(), ()):
            if id(reader) in seen:
                continue
            seen.add(id(reader))
            hits = [o for o in reader.output if o in known.producer]
            found += hits
            if not hits:
                stack.extend(o for o in reader.output if o)
    return found
