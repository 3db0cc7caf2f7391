"""While loops as ``loop``: which state is carried, which is fixed, and how often they run.

Where a loop only counts to a limit, the number of its rounds is computed before it, and lists
that each round writes one element of become stacked results: passes know loops in this form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_ir import dims, dtypes
from lepton_ir.builder import create
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError
from lepton_ir.frontends.sized import Sym
from lepton_ir.frontends.tensorflow.functions import Body, Ref
from lepton_ir.frontends.tensorflow.graph import Scope, described
from lepton_ir.frontends.tensorflow.lists import GROWS, TensorList, dense
from lepton_ir.frontends.tensorflow.lowering import TfBuilder
from lepton_ir.infer import const_array, content_of, infer_op
from lepton_ir.ir import Value
from lepton_ir.tensors import Tensor
from lepton_ir.types import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.frontends.tensorflow.graph import GraphReader, Slot
    from lepton_ir.frontends.tensorflow.lowering import TfBuilder
    from lepton_ir.ir import Block, Op
    from lepton_ir.types import Type

_TRIES = 4
"""Rounds in which the types of what a loop carries are widened."""

_ADDS = frozenset(("Add", "AddV2"))
_WRITES = {"TensorListSetItem": (0, 1, 2), "TensorArrayWriteV3": (3, 1, 2)}
"""Operators that write an element: operands that are the list, the index, the element."""


@dataclass
class View:
    """Nodes that compute results from the states of a loop.

    Attributes:
        body: the nodes.
        keys: what stands for the states in there.
        returns: the results.
        chain: functions that are being inlined.
        prefix: in front of the names of nodes.
        nested: the nodes are among those around the loop, as in TensorFlow 1.
        bound: what else is known in there.
    """

    body: Body
    keys: list[Ref]
    returns: list[Ref]
    chain: tuple[str, ...]
    prefix: str
    nested: bool = False
    bound: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def of_function(cls, body: Body, chain: tuple[str, ...], prefix: str) -> View:
        """Return the view of a function whose operands are the states."""
        return cls(body, [Ref(a, 0) for a in body.args], body.returns, chain, prefix)

    def scope(self, outer: Scope, block: Block, states: Sequence[Slot]) -> Scope:
        """Return a scope in a block, its states bound."""
        scope = outer.inside(block, None if self.nested else self.body)
        scope.chain, scope.prefix = self.chain, self.prefix
        scope.slots.update(self.bound)
        for key, slot in zip(self.keys, states, strict=True):
            scope.slots[key.node] = [None] * key.port + [slot]
        return scope

    def depends(self, ref: Ref, keys: set[str]) -> bool:
        """Return whether a result needs one of some nodes, not counting what the others need."""
        work, seen = [ref.node], {k.node for k in self.keys} - keys
        while work:
            name = work.pop()
            if name in keys:
                return True
            if name in seen or name in self.bound:
                continue
            seen.add(name)
            node = self.body.nodes.get(name)
            if node is not None:
                work += [r.node for r in self.body.operands(node)]
        return False


@dataclass
class _Plan:
    """How the states of a loop are treated, by number.

    Attributes:
        trips: how often it runs; ``None`` where a condition says it.
        length: the same as a dim.
        counters: first values of states that count the rounds.
        stacked: lists that every round writes its own element of.
        last: lists of one element that is another state's.
    """

    trips: Value | None = None
    length: Dim | None = None
    counters: dict[int, int] = field(default_factory=dict)
    stacked: dict[int, Ref] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)


class Loop:
    """A while loop that is being built.

    Args:
        reader: reads the nodes.
        scope: around the loop.
        cond: computes whether another round follows.
        body: computes the next states.
        initial: the first states.
    """

    def __init__(
        self, reader: GraphReader, scope: Scope, cond: View, body: View, initial: Sequence[Slot]
    ) -> None:
        self.reader = reader
        self.scope = scope
        self.cond = cond
        self.body = body
        self.initial = list(initial)
        if len(body.returns) != len(initial) or len(cond.returns) != 1:
            raise InvalidModelError(
                f"a loop of {len(initial)} states computes {len(body.returns)}", code="tf-loop"
            )
        self.loc = scope.b.loc
        self.sources = [body.body.source(r) for r in body.returns]
        self.fixed = {i for i, s in enumerate(self.sources) if s == body.keys[i]}
        self.plan = _Plan()
        self.carried: list[int] = []

    def build(self) -> list[Slot]:
        """Build the loop; return the last states."""
        self._count()
        others = {*self.fixed, *self.plan.counters, *self.plan.stacked, *self.plan.last}
        self.carried = [i for i in range(len(self.initial)) if i not in others]
        self._start()
        types: list[Type] = [self._flat(i).type for i in self.carried]
        for attempt in range(_TRIES + 1):
            if attempt == _TRIES:
                types = [UNKNOWN] * len(types)
            taken = set(self.reader.shared.taken)
            op, slots = self._loop(types)
            found = [a.type for a in op.regions[0].block.args[2:]]
            if attempt == _TRIES or all(a is b for a, b in zip(found, types, strict=True)):
                self.scope.b.loc = self.loc
                return self._results(op, slots)
            op.erase()  # what was built may rest on more than holds in every round
            self.reader.shared.taken = taken
            types = found
        raise AssertionError

    # -- counting ----------------------------------------------------------------------------------

    def _count(self) -> None:
        """Plan a loop that only counts to limits."""
        limits: list[tuple[Dim | None, Value]] = []
        counters = {i: n for i in range(len(self.initial)) if (n := self._start_of(i)) is not None}
        moving = {k.node for i, k in enumerate(self.cond.keys) if i not in self.fixed}
        work = [self.cond.returns[0]]
        while work:
            ref = self.cond.body.source(work.pop())
            node = self.cond.body.nodes.get(ref.node)
            if node is None or ref in self.cond.keys:
                return
            operands = self.cond.body.operands(node)
            if node.op == "LogicalAnd":
                work += operands
                continue
            if node.op != "Less" or len(operands) != 2:
                return
            number = self._key(self.cond, operands[0])
            if number not in counters or self.cond.depends(operands[1], moving):
                return
            limits.append(self._trips(operands[1], counters[number]))
        self.plan.length, self.plan.trips = _least(self.scope.b, limits)
        self.plan.counters = counters
        self._lists()

    def _key(self, view: View, ref: Ref) -> int:
        source = view.body.source(ref)
        return view.keys.index(source) if source in view.keys else -1

    def _start_of(self, number: int) -> int | None:
        """Return the first value of a state that counts rounds, ``None`` for other states."""
        node = self.body.body.nodes.get(self.sources[number].node)
        start = self.initial[number]
        if node is None or node.op not in _ADDS or not isinstance(start, Value):
            return None
        known = const_array(start)
        if known is None or known.shape != () or start.dtype not in (dtypes.I32, dtypes.I64):
            return None
        operands = [self.body.body.source(r) for r in self.body.body.operands(node)]
        if self.body.keys[number] not in operands:
            return None
        operands.remove(self.body.keys[number])
        return int(known) if len(operands) == 1 and self._is(operands[0], 1) else None

    def _is(self, ref: Ref, number: int) -> bool:
        node = self.body.body.nodes.get(ref.node)
        if node is None or node.op != "Const":
            return False
        tensor = node.attr("value")
        return isinstance(tensor, Tensor) and tensor.size == 1 and bool(tensor.numpy() == number)

    def _trips(self, limit: Ref, start: int) -> tuple[Dim | None, Value]:
        b = self.scope.b
        states = [s if i in self.fixed else None for i, s in enumerate(self.initial)]
        scope = self.cond.scope(self.scope, b.block, states)
        (found,) = self.reader.evaluate(scope, [limit])
        b.loc = self.loc
        if not isinstance(found, Value):
            raise UnsupportedError(f"the limit is {described(found)}", code="tf-loop")
        wide = b.cast_to(b.resized(found, []), dtypes.I64)
        if start:
            wide = b.sub(wide, b.full((), start, dtypes.I64))
        known = content_of(wide)
        if known is not None and isinstance(known[0], int):
            return known[0], b.full((), known[0], dtypes.I64)
        return (known[0] if known else None), wide

    # -- lists -------------------------------------------------------------------------------------

    def _lists(self) -> None:
        """Find lists that need not be carried."""
        nodes = self.body.body.nodes
        for number, source in enumerate(self.sources):
            items, node = self.initial[number], nodes.get(source.node)
            if not isinstance(items, TensorList) or node is None or node.op not in _WRITES:
                continue
            operands = self.body.body.operands(node)
            where, index, item = (operands[i] for i in _WRITES[node.op])
            if self._key(self.body, where) != number or self._readers(number) != 1:
                continue
            if items.value is not None or items.size is None:
                continue
            size = content_of(items.size)
            counter = self._key(self.body, index)
            grows = items.grows or node.attr(GROWS, False)
            fits = size is not None and dims.same_dim(size[0], self.plan.length)
            fits = fits or (size == (0,) and bool(grows))
            if fits and self.plan.counters.get(counter) == 0:
                self.plan.stacked[number] = item
            elif size == (1,) and self._is(self.body.body.source(index), 0):
                self._last(number, item)

    def _readers(self, number: int) -> int:
        """Return how many nodes read a state, behind nodes that pass it on."""
        body, key = self.body.body, self.body.keys[number]
        count = 0
        for node in body.nodes.values():
            refs = [r for r in body.operands(node) if body.source(r) == key]
            count += len(refs) if body.source(Ref(node.name, 0)) != key else 0
        return count

    def _last(self, number: int, item: Ref) -> None:
        """Plan a list whose only element is what another state becomes."""
        source = self.body.body.source(item)
        for other, found in enumerate(self.sources):
            start = self.initial[other]
            if found != source or other == number or not isinstance(start, Value):
                continue
            length = self.plan.length
            low = None if length is None else dims.bounds(length)[0]
            if (low is not None and low >= 1) or _is_zero(start):
                self.plan.last[number] = other
                return

    # -- the loop ----------------------------------------------------------------------------------

    def _flat(self, number: int) -> Value:
        slot = self.initial[number]
        if isinstance(slot, TensorList) and slot.value is not None:
            return slot.value
        if not isinstance(slot, Value):
            raise UnsupportedError(f"a loop carries {described(slot)}", code="tf-loop")
        return slot

    def _start(self) -> None:
        """Give every list that is carried a buffer: a trial round says the shape of elements."""
        unknown = [i for i in self.carried if isinstance(self.initial[i], TensorList)]
        unknown = [i for i in unknown if self.initial[i].value is None]
        if not unknown:
            return
        b = self.scope.b
        op = create("loop", [None, None], {}, 0, self.loc)
        b.block.append(op)
        block = op.regions[0].block
        index, _ = block.add_arg(b.full((), 0, dtypes.I64).type), block.add_arg(UNKNOWN)
        states = [self._counter(TfBuilder(block), i, index) for i in range(len(self.initial))]
        taken = set(self.reader.shared.taken)
        inner = self.body.scope(self.scope, block, states)
        found = self.reader.evaluate(inner, [self.body.returns[i] for i in unknown])
        shapes = [s.value.shape if isinstance(s, TensorList) and s.value else None for s in found]
        op.erase()
        self.reader.shared.taken = taken
        b.loc = self.loc
        for number, shape in zip(unknown, shapes, strict=True):
            items = self.initial[number]
            sizes = None if shape is None else [self._size(d) for d in shape[1:]]
            self.initial[number] = items.of(dense(b, items, sizes))

    def _size(self, dim: Dim | None) -> int | Sym:
        """Return a size as a value around the loop."""
        if isinstance(dim, int):
            return dim
        slots = [s.value if isinstance(s, TensorList) else s for s in self.initial]
        inputs = self.reader.shared.function.inputs
        for value in (*slots, *inputs):
            if not isinstance(value, Value) or value.shape is None:
                continue
            for axis, size in enumerate(value.shape):
                if dims.same_dim(size, dim):
                    return self.scope.b.size_of(value, axis)
        raise UnsupportedError("the shape of a list's elements is not known", code="tf-list")

    def _counter(self, b: TfBuilder, number: int, index: Value) -> Slot:
        start = self.plan.counters.get(number)
        slot = self.initial[number]
        if start is None:
            return slot
        wide = b.add(index, b.full((), start, dtypes.I64)) if start else index
        return b.cast_to(wide, slot.dtype)

    def _loop(self, types: Sequence[Type]) -> tuple[Op, dict[int, Slot]]:
        b, plan = self.scope.b, self.plan
        counted = plan.trips is not None
        first = b.full((), True, dtypes.BOOL) if counted else self._again(b, self.initial)
        b.loc = self.loc
        start = [self._flat(i) for i in self.carried]
        count = len(self.carried) + len(plan.stacked)
        op = create("loop", [plan.trips, first, *start], {}, count, self.loc)
        b.block.append(op)
        block = op.regions[0].block
        index = block.add_arg(b.full((), 0, dtypes.I64).type)
        alive = block.add_arg(b.full((), True, dtypes.BOOL).type)
        try:
            states = self._states(block, index, types)
            inner = self.body.scope(self.scope, block, states)
            wanted = [self.body.returns[i] for i in self.carried]
            found = self.reader.evaluate(inner, [*wanted, *plan.stacked.values()])
            after = dict(zip(self.carried, found, strict=False))
            values = [self._carried(i, after[i]) for i in self.carried]
            rows = found[len(wanted) :]
            if not all(isinstance(r, Value) for r in rows):
                raise UnsupportedError("a list holds no tensors", code="tf-list")
            following = [after.get(i, s) for i, s in enumerate(states)]
            inner.b.loc = self.loc
            again = alive if counted else self._again(inner.b, following)
        except Exception:
            op.erase()
            raise
        block.append(create("yield", [again, *values, *rows]))
        infer_op(op)
        return op, after

    def _states(self, block: Block, index: Value, types: Sequence[Type]) -> list[Slot]:
        """Add arguments to the body; return all states in there."""
        b = TfBuilder(block, loc=self.loc)
        states = list(self.initial)
        for number, type_ in zip(self.carried, types, strict=True):
            value = block.add_arg(type_)
            old = states[number]
            states[number] = old.of(value) if isinstance(old, TensorList) else value
        for number in self.plan.counters:
            states[number] = self._counter(b, number, index)
        return states

    def _carried(self, number: int, slot: Slot) -> Value:
        before = self.initial[number]
        if isinstance(before, TensorList) and isinstance(slot, TensorList) and slot.value:
            return slot.value
        if isinstance(before, Value) and isinstance(slot, Value):
            return slot
        raise UnsupportedError(
            f"a state that is {described(before)} becomes {described(slot)}", code="tf-loop"
        )

    def _again(self, b: TfBuilder, states: Sequence[Slot]) -> Value:
        from lepton_ir.frontends.tensorflow.control import truth

        scope = self.cond.scope(self.scope, b.block, states)
        (found,) = self.reader.evaluate(scope, self.cond.returns)
        return truth(scope.b, found)

    def _results(self, op: Op, after: dict[int, Slot]) -> list[Slot]:
        b = self.scope.b
        found = list(self.initial)
        for number, value in zip(self.carried, op.results, strict=False):
            slot = after[number]
            found[number] = slot.of(value) if isinstance(slot, TensorList) else value
        rows = op.results[len(self.carried) :]
        for number, value in zip(self.plan.stacked, rows, strict=True):
            found[number] = self.initial[number].of(value)
        for number, other in self.plan.last.items():
            one = b.unsqueeze(found[other], b.ints([0]))
            found[number] = self.initial[number].of(one)
        for number, start in self.plan.counters.items():
            found[number] = self._end(start, self.initial[number])
        return found

    def _end(self, start: int, like: Value) -> Value:
        b, trips = self.scope.b, self.plan.trips
        assert trips is not None
        assert like.dtype is not None
        rounds = b.max(trips, b.full((), 0, dtypes.I64))
        wide = b.add(rounds, b.full((), start, dtypes.I64)) if start else rounds
        return b.cast_to(wide, like.dtype)


def _least(b: TfBuilder, limits: list[tuple[Dim | None, Value]]) -> tuple[Dim | None, Value]:
    """Return the least of some numbers, as a dim where it is known, and as a value."""
    kept: list[tuple[Dim | None, Value]] = []
    fixed = [(d, v) for d, v in limits if isinstance(d, int)]
    if fixed:
        kept.append(min(fixed, key=lambda i: i[0]))
    for dim, value in limits:
        if not isinstance(dim, int) and not any(
            value is v or dims.same_dim(dim, d) for d, v in kept
        ):
            kept.append((dim, value))
    if len(kept) == 1:
        return kept[0]
    return None, b.min(*(v for _, v in kept))


def _is_zero(value: Value) -> bool:
    """Return whether a value is known to be zeros only."""
    op = value.op
    if op is not None and op.name == "expand" and op.operands[0] is not None:
        value = op.operands[0]
    known = const_array(value)
    return known is not None and not known.any()
