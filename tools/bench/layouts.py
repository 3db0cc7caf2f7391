"""Conversions between layouts: those of the planner's choice, and the fewest possible.

    python -m lepton_ir.tools.bench.layouts MODEL... [--dim NAME=SIZE] [--symbol 1]

The planner decides operation by operation: an elementwise one is computed in blocks when an operand
lies in blocks. Here all such choices are made at once, by a minimum cut between the operations that
have to be blocked and those that have to be plain; an edge weighs the bytes of the tensor that is
converted, once for all its readers. Convolutions, pools, concatenations and everything that is no
elementwise operation keep the form that their kernels have.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import networkx as nx

from lepton_ir.backends.numba.kernels.roles import role
from lepton_ir.backends.numba.machine import machine
from lepton_ir.backends.numba.outline import plan_on_paper
from lepton_ir.backends.numba.plan import Segment, Tensor
from lepton_ir.backends.numba.prepare import prepared
from lepton_ir.ir import Block, Module, Op, Value
from lepton_ir.tools.bench import measure

BLOCKED, PLAIN = "blocked", "plain"

_IN_BLOCKS = frozenset({"conv", "conv_transpose", "max_pool", "average_pool", "concat"})
"""Operations that read blocks when they make blocks."""

_EITHER = "reduce_"
"""Reductions read planes in either form."""

FEW_CHANNELS = 4
"""Convolutions with so few input channels read whole planes."""


class Layouts:
    """The layouts of one plan.

    Attributes:
        bytes: converted by the plan.
        fewest: converted by the best choice.
        count: tensors converted by the plan.
    """

    def __init__(self, module: Module, segment: Segment) -> None:
        self._places = segment.state.places
        self._graph = nx.DiGraph()
        self._graph.add_nodes_from([BLOCKED, PLAIN])
        block = module.main.block
        self.bytes = self.count = 0
        for op in block.ops:
            if op.results and op.name != "const" and not _is_free(op, self._place(op.results[0])):
                self._fix(op)
        for value, readers in _readers(block).items():
            self._add(value, readers)
        self.fewest = int(nx.minimum_cut_value(self._graph, BLOCKED, PLAIN))

    def _place(self, value: Value) -> Tensor | None:
        place = self._places.get(value)
        return place if isinstance(place, Tensor) else None

    def _is_blocked(self, value: Value) -> bool:
        place = self._place(value)
        return place is not None and place.blocked is not None

    def _fix(self, op: Op) -> None:
        pair = (BLOCKED, id(op)) if self._is_blocked(op.results[0]) else (id(op), PLAIN)
        self._graph.add_edge(*pair, capacity=math.inf)

    def _add(self, value: Value, readers: list[Op]) -> None:
        """Add a tensor: two edges that are cut when some reader wants the other form."""
        place = self._place(value)
        producer = value.producer
        if place is None or len(place.shape) < 3 or getattr(producer, "name", "") == "const":
            return
        source: Any = id(producer) if isinstance(producer, Op) else PLAIN
        weight = place.size * place.itemsize
        self._graph.add_edge(source, ("plain form of", value), capacity=weight)
        self._graph.add_edge(("blocked form of", value), source, capacity=weight)
        converted = set()
        for op in readers:
            form = self._wanted(op, value, place)
            if form is None:
                continue
            target: Any = form if form in (BLOCKED, PLAIN) else id(op)
            self._graph.add_edge(("plain form of", value), target, capacity=math.inf)
            self._graph.add_edge(target, ("blocked form of", value), capacity=math.inf)
            has = form == BLOCKED or (form == "own" and self._is_blocked(op.results[0]))
            if has != self._is_blocked(value):
                converted.add(has)
        self.bytes += weight * len(converted)
        self.count += len(converted)

    def _wanted(self, op: Op, value: Value, place: Tensor) -> str | None:
        """Return the form in which an operation reads: its ``own``, or ``None`` for any."""
        made = self._place(op.results[0]) if op.results else None
        if _is_elementwise(op):
            # What is spread over the result is read as it lies.
            return "own" if made is not None and made.shape == place.shape else None
        anchor = _anchor(op)
        if anchor.startswith(_EITHER):
            return None
        if anchor not in _IN_BLOCKS or made is None or made.blocked is None:
            return PLAIN if anchor not in ("conv", "conv_transpose") else None
        few = anchor == "conv" and value is op.operands[0] if op.operands else False
        return None if few and place.shape[1] <= FEW_CHANNELS else BLOCKED


def _anchor(op: Op) -> str:
    """Return the name of an operation; of a group that of the one that is no elementwise one."""
    if op.name != "fused":
        return op.name
    inner = [o for o in op.regions[0].block.ops if o.name not in ("const", "yield")]
    return next((o.name for o in inner if role(o) != "elementwise"), "elementwise")


def _is_elementwise(op: Op) -> bool:
    if op.name == "fused":
        return _anchor(op) == "elementwise"
    return bool(op.results) and role(op) == "elementwise"


def _is_free(op: Op, place: Tensor | None) -> bool:
    """Return whether an operation could be computed in either form."""
    return _is_elementwise(op) and place is not None and len(place.shape) >= 3


def _readers(block: Block) -> dict[Value, list[Op]]:
    found: dict[Value, list[Op]] = {}
    for op in block.ops:
        for value in dict.fromkeys(_read(op)):
            found.setdefault(value, []).append(op)
    return found


def _read(op: Op) -> Iterator[Value]:
    inside = {r for inner in op.walk() for r in inner.results} if op.regions else set()
    for inner in op.walk() if op.regions else (op,):
        yield from (v for v in inner.operands if v is not None and v not in inside)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--symbol", type=int, default=1, help="size of other symbolic dims")
    parser.add_argument("--target", default="host")
    args = parser.parse_args(argv)
    given = {name: int(size) for name, _, size in (d.partition("=") for d in args.dim)}
    rows: list[list[object]] = []
    for path in args.models:
        module = prepared(path, "O2,integers")
        symbols = module.main.used_symbols | {"?"}
        sizes = {**dict.fromkeys(symbols, args.symbol), **given}
        segment = plan_on_paper(module, machine(args.target), sizes)
        found = Layouts(module, segment)
        excess = f"{found.bytes / found.fewest - 1:+.1%}" if found.fewest else ""
        kilobytes = [f"{n / 1e3:.0f}" for n in (found.bytes, found.fewest)]
        rows.append([path.rpartition("/")[2], found.count, *kilobytes, excess])
    print(measure.table(["model", "conversions", "kB", "fewest kB", "excess"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
