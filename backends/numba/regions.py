"""Blocks that are run again and again: the main block, and the bodies of control flow.

A block is planned once for each combination of the shapes of its inputs. The inputs of a body are
its arguments and what it reads from outside; so If, Loop, Scan and SequenceMap are their own
NumPy meaning, whose bodies are planned blocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.backends.numba.constants import aligned
from lepton_ir.backends.numba.plan import Boxed, Buffer, PyStep, Ref, Segment, Tensor, row_major
from lepton_ir.backends.numba.runtime.program import Frame, Program
from lepton_ir.diagnostics import LeptonError
from lepton_ir.infer import const_tensor, describe
from lepton_ir.interp import call_meaning
from lepton_ir.pauses import collector_paused
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.backends.numba.planner import State
    from lepton_ir.backends.numba.session import Session
    from lepton_ir.dims import Dim
    from lepton_ir.ir import Block, Op, Value
    from lepton_ir.types import Type

MAX_PLANS = 64
"""Plans of one block that are kept; the oldest one goes first."""


class BlockPlans:
    """A block, its plans by the shapes of its inputs, and its arena.

    Args:
        session: whose block it is.
        block: the block.
        inputs: its arguments and the outer values that it reads.
    """

    def __init__(self, session: Session, block: Block, inputs: Sequence[Value]) -> None:
        self.session = session
        self.block = block
        self.inputs = list(inputs)
        self.ops = list(block.ops)
        self.last_use = _last_uses(self.ops)
        self.status = np.zeros(4, np.int64)
        self.arena = aligned(0)
        self.arena_address = 0
        self.latest: Segment | None = None
        self.children: dict[Op, tuple[list[BlockPlans], list[Value]]] = {}
        self.plans: dict[Any, Segment] = {}
        self.constants: dict[Value, Tensor] = {}  # the same places in all plans

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Run the block on its inputs; return the operands of its terminator."""
        frame = Frame(list(arrays))
        segment = self._first(arrays)
        while True:
            self._grow(segment.arena_bytes)
            segment.program.run(frame, self.arena, self.session)
            if segment.outputs is not None:
                return [None if p is None else frame.read(p) for p in segment.outputs]
            segment = self._next(segment, frame)

    def _grow(self, nbytes: int) -> None:
        if len(self.arena) < nbytes:
            self.arena = aligned(nbytes)
            self.arena_address = self.arena.ctypes.data

    def _first(self, arrays: Sequence[Any]) -> Segment:
        key = tuple(map(_shape_key, arrays))
        segment = self.plans.get(key)
        if segment is None:
            if len(self.plans) >= MAX_PLANS:
                del self.plans[next(iter(self.plans))]
            segment = self.plans[key] = self._plan(self.start(arrays))
            segment.shapes = [k if isinstance(k, tuple) else None for k in key]
        self.latest = segment
        return segment

    def start(self, arrays: Sequence[Any]) -> State:
        """Return what is known when the block begins: places and shapes of its inputs."""
        from lepton_ir.backends.numba.planner import State

        state = State(slots=len(self.inputs))
        for slot, (value, array) in enumerate(zip(self.inputs, arrays, strict=True)):
            self._enter(state, value, slot, array)
        return state

    def _enter(self, state: State, value: Value, slot: int, array: Any) -> None:
        """Note that ``value`` is the array in ``slot``, and what its shape says of symbols."""
        if isinstance(array, np.ndarray) and array.dtype != object:
            bind(value.type, array.shape, state.env)
            dtype = value.dtype or dtypes.from_numpy(array.dtype)
            ref = Ref(Buffer(0, slot=slot))
            state.places[value] = Tensor(dtype, array.shape, ref, row_major(array.shape))
        else:
            state.places[value] = Boxed(slot)

    def _next(self, segment: Segment, frame: Frame) -> Segment:
        key = tuple(_shape_key(frame.objects[slot]) for _, slot in segment.cut)
        found = segment.following.get(key)
        if found is None:
            if len(segment.following) >= MAX_PLANS:
                del segment.following[next(iter(segment.following))]
            state = segment.state.copy()
            for value, slot in segment.cut:
                self._enter(state, value, slot, frame.objects[slot])
            found = segment.following[key] = self._plan(state)
        return found

    def _plan(self, state: State) -> Segment:
        from lepton_ir.backends.numba.planner import Planner

        with collector_paused():
            segment = Planner(self, state).plan()
            segment.program = Program(segment, self.session.library, self.status)
        return segment

    def child(self, op: Op) -> tuple[list[BlockPlans], list[Value]]:
        """Return the plans of the regions of ``op``, and the outer values that they read."""
        found = self.children.get(op)
        if found is None:
            plans, captured = [], []
            for region in op.regions:
                # Constants are placed by the body's own plans.
                outer = [v for v in captures(region.block) if const_tensor(v) is None]
                plans.append(BlockPlans(self.session, region.block, [*region.block.args, *outer]))
                captured += outer
            found = self.children[op] = (plans, captured)
        return found


def _last_uses(ops: Sequence[Op]) -> dict[Value, int]:
    """Map values to the index of the last operation that reads them, in its regions or itself."""
    last: dict[Value, int] = {}
    for index, op in enumerate(ops):
        for inner in op.walk() if op.regions else (op,):
            for value in inner.operands:
                if value is not None:
                    last[value] = index
    return last


def captures(block: Block) -> list[Value]:
    """Return the values that a block reads from outside, each once, first read first.

    Constants are not among them: a plan knows their data wherever they stand.
    """
    inside: set[Value] = set(block.args)
    found: dict[Value, None] = {}
    for op in block.ops:
        for inner in op.walk():
            for region in inner.regions:
                inside.update(region.block.args)
            inside.update(inner.results)
    for op in block.ops:
        for inner in op.walk():
            for value in inner.operands:
                if value is None or value in inside or const_tensor(value) is not None:
                    continue
                found[value] = None
    return list(found)


def bind(type_: Type, shape: tuple[int, ...], env: dict[str, int]) -> None:
    """Give the symbols that stand alone in a shape their sizes.

    Raises:
        LeptonError: a size contradicts what is known.
    """
    if not isinstance(type_, TensorType) or type_.shape is None:
        return
    if len(type_.shape) != len(shape):
        raise LeptonError(f"a value of type {type_} has shape {list(shape)}", code="shape")
    for dim, size in zip(type_.shape, shape, strict=True):
        if dim is None:
            continue
        name = symbol_of(dim)
        if name is not None and name not in env:
            env[name] = size
            continue
        try:
            expected = dims.evaluate(dim, env)
        except KeyError:
            continue
        if expected != size:
            raise LeptonError(
                f"a value of type {type_} has shape {list(shape)}, where {dim} is {expected}",
                code="shape",
            )


def symbol_of(dim: Dim) -> str | None:
    """Return the symbol that a dim is, ``None`` for sizes and expressions."""
    if isinstance(dim, int):
        return None
    names = dims.symbols(dim)
    return next(iter(names)) if len(names) == 1 and dim == dims.sym(*names) else None


def _shape_key(array: Any) -> Any:
    return array.shape if isinstance(array, np.ndarray) else type(array)


class _Body:
    """A region as a callable on arrays, as the meanings of control flow want it."""

    def __init__(self, plans: BlockPlans, outer: Sequence[Any]) -> None:
        self.plans = plans
        self.outer = outer
        last = plans.block.terminator
        self.result_count = 0 if last is None else len(last.operands)

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        expected = len(self.plans.block.args)
        if len(args) != expected:
            raise LeptonError(f"a region takes {expected} values, got {len(args)}", code="region")
        return tuple(self.plans.run([*map(_owned, args), *self.outer]))


def _owned(array: Any) -> Any:
    """Return an array row by row in memory; scalars and lists as they are."""
    if isinstance(array, np.ndarray):
        return np.asarray(array, order="C")
    return np.asarray(array) if isinstance(array, np.generic) else array


def runner(plans: BlockPlans, op: Op) -> tuple[Callable[[list[Any]], list[Any]], list[Value]]:
    """Return how to evaluate ``op`` on arrays, and the outer values that follow its operands."""
    attrs = op.all_attrs()
    if not op.regions:
        return (lambda arrays: call_meaning(op, arrays, attrs)), []
    assert op.definition is not None
    names = op.definition.regions
    children, captured = plans.child(op)
    count = len(op.operands)
    parts, start = [], count
    for name, child in zip(names, children, strict=True):
        size = len(child.inputs) - len(child.block.args)
        parts.append((name, child, start, start + size))
        start += size

    def run(arrays: list[Any]) -> list[Any]:
        outer = [_owned(a) for a in arrays]
        bodies = {name: _Body(child, outer[first:end]) for name, child, first, end in parts}
        return call_meaning(op, arrays[:count], {**attrs, **bodies})

    def choose(arrays: list[Any]) -> list[Any]:
        condition = np.asarray(arrays[0])
        if condition.size != 1:
            return run(arrays)  # says what is wrong
        _, child, first, end = parts[0 if condition.reshape(()) else 1]
        return child.run([_owned(a) for a in arrays[first:end]])

    return (choose if op.name == "if" else run), captured


def label(step: PyStep) -> str:
    """Return how profiles name the operation of a step."""
    return describe(step.op)
