"""Higher-order operators: graphs as arguments become regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes
from lepton_ir.builder import create
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.torch.cells import Cell
from lepton_ir.frontends.torch.graph import GraphReader
from lepton_ir.frontends.torch.lowering import Lowering, Sym
from lepton_ir.infer import infer_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.ir import Block, Op


def lower(reader: GraphReader, name: str, args: list[Any]) -> list[Value]:
    """Build a higher-order operator; return its results.

    Raises:
        UnsupportedError: it is none of ``cond``, ``while_loop``, ``scan`` and the wrappers.
    """
    found = _ROWS.get(name)
    if found is None:
        raise UnsupportedError(
            f"operator higher_order.{shorten(name)} is not supported", code="torch-op"
        )
    return found(reader, [reader.argument(a) for a in args])


def _inputs(graph: dict[str, Any]) -> list[str]:
    names = [i.get("as_tensor", i.get("as_sym_int", {})) for i in graph["inputs"]]
    return [n.get("name", n.get("as_name")) for n in names]


def _slot(item: Any) -> Any:
    return Cell(item) if isinstance(item, Value) else item


def _read(
    reader: GraphReader, graph: dict[str, Any], block: Block, items: Sequence[Any]
) -> list[Any]:
    """Read ``graph`` into ``block``, its inputs standing for ``items``."""
    names = _inputs(graph)
    if len(names) != len(items):
        text = f"a graph of {len(names)} inputs is given {len(items)}"
        raise InvalidModelError(text, code="torch-graph")
    slots = dict(zip(names, map(_slot, items), strict=True))
    builder = reader.b if block is reader.b.block else Lowering(block)
    return GraphReader(builder, slots, reader.depth + 1).read(graph)


def _values(items: Sequence[Any]) -> list[Value]:
    found = []
    for item in items:
        value = item.value if isinstance(item, Sym) else item
        if not isinstance(value, Value):
            raise UnsupportedError("a result of a graph that is no tensor", code="torch-graph")
        found.append(value)
    return found


def _insert(reader: GraphReader, op: Op, fill: Callable[[], None]) -> list[Value]:
    op.loc = reader.b.loc
    reader.b.block.append(op)
    fill()
    infer_op(op)
    return list(op.results)


def _cond(reader: GraphReader, args: list[Any]) -> list[Value]:
    predicate, yes, no, operands = args
    b = reader.b
    if isinstance(predicate, bool):
        return _values(_read(reader, yes if predicate else no, b.block, operands))
    condition = predicate.value if isinstance(predicate, Sym) else predicate
    condition = b.reshape(b.cast_to(condition, dtypes.BOOL), b.ints([]))
    op = create("if", [condition], {}, len(yes["outputs"]))

    def fill() -> None:
        for region, graph in zip(op.regions, (yes, no), strict=True):
            found = _values(_read(reader, graph, region.block, operands))
            region.block.append(create("yield", found))

    return _insert(reader, op, fill)


def _while(reader: GraphReader, args: list[Any]) -> list[Value]:
    """``while_loop``: the condition is computed before the loop and at the end of its body."""
    condition, body, carried, more = args
    b = reader.b
    start = [_as_value(b, c) for c in carried]
    first = _values(_read(reader, condition, b.block, [*start, *more]))[0]
    first = b.reshape(first, b.ints([]))
    op = create("loop", [None, first, *start], {}, len(start))

    def fill() -> None:
        block = op.regions[0].block
        block.add_arg(b.full((), 0, dtypes.I64).type, "iteration")
        block.add_arg(first.type, "condition")
        state = [block.add_arg(v.type) for v in start]
        found = _values(_read(reader, body, block, [*state, *more]))
        inner = Lowering(block)
        again = _values(_read_in(reader, inner, condition, [*found, *more]))[0]
        again = inner.reshape(again, inner.ints([]))
        block.append(create("yield", [again, *found]))

    return _insert(reader, op, fill)


def _read_in(
    reader: GraphReader, builder: Lowering, graph: dict[str, Any], items: Sequence[Any]
) -> list[Any]:
    return _read(GraphReader(builder, {}, reader.depth), graph, builder.block, items)


def _scan(reader: GraphReader, args: list[Any]) -> list[Value]:
    """``scan`` along axis 0: carried values first, then what is stacked."""
    graph, initial, scanned, more = args
    b = reader.b
    start = [_as_value(b, c) for c in initial]
    count = len(graph["outputs"])
    op = create("scan", [*start, *scanned], {"num_scan_inputs": len(scanned)}, count)

    def fill() -> None:
        block = op.regions[0].block
        state = [block.add_arg(v.type) for v in start]
        rows = [block.add_arg(_row_type(v)) for v in scanned]
        found = _values(_read(reader, graph, block, [*state, *rows, *more]))
        block.append(create("yield", found))

    return _insert(reader, op, fill)


def _row_type(value: Value) -> Any:
    from lepton_ir.types import TensorType

    assert value.shape is not None
    return TensorType(value.dtype, value.shape[1:])


def _as_value(b: Lowering, item: Any) -> Value:
    if isinstance(item, Sym):
        return item.value
    if isinstance(item, Value):
        return item
    dtype = {bool: dtypes.BOOL, float: dtypes.F64}.get(type(item), dtypes.I64)
    return b.full((), item, dtype)


def _wrapped(reader: GraphReader, args: list[Any]) -> list[Value]:
    """Wrappers that only mark a stretch of the program, such as ``torch.no_grad``."""
    graphs = [i for i, a in enumerate(args) if isinstance(a, dict)]
    if len(graphs) != 1:
        raise UnsupportedError("a wrapper of several graphs", code="torch-graph")
    at = graphs[0]
    return _values(_read(reader, args[at], reader.b.block, args[at + 1 :]))


_ROWS: dict[str, Callable[[GraphReader, list[Any]], list[Value]]] = {
    "cond": _cond,
    "while_loop": _while,
    "scan": _scan,
    "wrap_with_set_grad_enabled": _wrapped,
    "wrap_with_autocast": _wrapped,
}

NAMES = frozenset(_ROWS)
