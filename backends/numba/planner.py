"""Making plans: walks a block once, with concrete shapes, and lowers each operation."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.backends.numba import long_tail, memory, regions
from lepton_ir.backends.numba.lowering import Declined, Lowering, lowerings, takes_tail
from lepton_ir.backends.numba.plan import (
    Array,
    Boxed,
    Buffer,
    Place,
    PyStep,
    Ref,
    Row,
    Segment,
    Tensor,
    row_major,
)
from lepton_ir.diagnostics import LeptonError
from lepton_ir.infer import const_tensor, describe, infer_types
from lepton_ir.interp import call_meaning
from lepton_ir.ir import Op, Value
from lepton_ir.tensors import from_array
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from lepton_ir.backends.numba.constants import Constants
    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.regions import BlockPlans
    from lepton_ir.dtypes import DType
    from lepton_ir.tensors import Tensor as Payload

KNOWN_BYTES = 1 << 16
"""Results of at most this size are computed while planning when their operands are known."""

Found = tuple["DType", tuple[int, ...]] | None
"""Element type and concrete shape of a result, ``None`` when that depends on data."""


@dataclass
class State:
    """What is known between two segments."""

    index: int = 0
    env: dict[str, int] = field(default_factory=dict)
    places: dict[Value, Place | None] = field(default_factory=dict)
    known: dict[Value, Array] = field(default_factory=dict)
    slots: int = 0

    def copy(self) -> State:
        """Return an independent copy."""
        return State(self.index, dict(self.env), dict(self.places), dict(self.known), self.slots)


class Planner:
    """Plans one segment.

    Args:
        plans: the block and what it shares with other plans.
        state: where to start; changed while planning.
    """

    def __init__(self, plans: BlockPlans, state: State) -> None:
        self.plans = plans
        self.state = state
        self.machine: Machine = plans.session.machine
        self.constants: Constants = plans.session.constants
        self.segment = Segment([])
        self._buffers: list[Buffer] = []
        self._hints: list[tuple[int, Buffer, Buffer]] = []
        self._types: dict[Op, list[Found]] = {}
        self._status: Buffer | None = None
        self._journal: list[tuple[Value, Place | None]] = []
        # The tensor stays beside its other form: its identity is the key.
        self._forms: dict[tuple[int, Hashable], tuple[Tensor, Tensor]] = {}
        self._new_forms: list[tuple[int, Hashable]] = []

    # -- the walk ----------------------------------------------------------------------------------

    def plan(self) -> Segment:
        """Plan until the end of the block or the first shape that depends on data."""
        ops = self.plans.ops
        while self.state.index < len(ops):
            op = ops[self.state.index]
            self.state.index += 1
            if op.definition is not None and "terminator" in op.definition.traits:
                self.segment.outputs = [self._output(v, op) for v in op.operands]
                break
            if not self.lower(op):
                break
        self._finish()
        return self.segment

    def lower(self, op: Op) -> bool:
        """Add one operation; return whether all that follows can be planned."""
        if op.name == "const" or self._evaluate(op):
            return True
        if op.name == "fused":
            return self._lower_group(op)
        reason = "control flow"
        if not op.regions:
            lowered = self._try(op, op, ())
            if lowered is None:
                return True
            reason = lowered
        return self._call_python(op, reason)

    def _lower_group(self, op: Op) -> bool:
        """Add a group as one kernel; else its operations one by one."""
        inner = [o for o in op.regions[0].block.ops if o.name not in ("const", "yield")]
        anchor = next((o for o in inner if takes_tail(o.name)), None)
        tail = [o for o in inner if o is not anchor]
        if anchor is not None and self._try(op, anchor, tail) is None:
            return True
        if anchor is None and tail and self._try(op, op, tail) is None:
            return True
        for o in op.regions[0].block.ops:
            if o.name == "yield":
                for result, value in zip(op.results, o.operands, strict=True):
                    assert value is not None
                    self.state.places[result] = self.place(value)
            elif not self.lower(o):
                raise LeptonError("a group has a shape that depends on data", code="plan")
        return True

    def _try(self, op: Op, anchor: Op, tail: Sequence[Op]) -> str | None:
        """Try the lowerings; return why none took the operation, ``None`` when one did."""
        reason = "no kernel for this operation"
        candidates = [c for c in lowerings(anchor.name) if c.tail or not tail or anchor is op]
        if candidates and self._is_empty(op, anchor):
            candidates = [c for c in candidates if c.empty]
            reason = "an empty tensor"
        for candidate in candidates:
            mark = (len(self.segment.steps), len(self._buffers), len(self._hints))
            self._journal.clear()
            self._new_forms.clear()
            try:
                candidate.lower(Lowering(self, op, anchor, tail))
            except Declined as declined:
                reason = str(declined)
                del self.segment.steps[mark[0] :]
                del self._buffers[mark[1] :]
                del self._hints[mark[2] :]
                self._undo(mark[0])
            else:
                return None
        return reason

    def _undo(self, row: int) -> None:
        """Forget what a declined lowering touched."""
        for value, before in reversed(self._journal):
            self.state.places[value] = before
        for place in self._new_forms:
            del self._forms[place]
        for buffer in self._buffers:
            buffer.last = min(buffer.last, row - 1)

    def _is_empty(self, op: Op, anchor: Op) -> bool:
        results = self.result_types(op)
        if any(r is not None and 0 in r[1] for r in results):
            return True
        places = [self.place(v) for v in anchor.operands if v is not None]
        return any(isinstance(p, Tensor) and p.size == 0 for p in places)

    # -- values known while planning ---------------------------------------------------------------

    def known(self, value: Value) -> Array | None:
        """Return the data of a constant, or of a value computed while planning."""
        found = self.state.known.get(value)
        if found is not None:
            return found
        tensor = const_tensor(value)
        if tensor is not None:
            return self.constants.data(tensor)
        if value.content is not None and value.dtype is not None and value.rank is not None:
            return self._from_content(value)
        return None

    def small(self, value: Value) -> Array | None:
        """Return the data of ``value`` if it is known and small: large constants are not read."""
        tensor = const_tensor(value)
        if tensor is not None and tensor.nbytes > KNOWN_BYTES:
            return None
        return self.known(value)

    def is_known(self, value: Value) -> bool:
        """Return whether the data of ``value`` is known now, without reading it."""
        return const_tensor(value) is not None or self.known(value) is not None

    def _from_content(self, value: Value) -> Array | None:
        """Return a small integer tensor from its symbolic elements, when all have a size."""
        assert value.content is not None
        assert value.dtype is not None
        try:
            items = [self._size(d) for d in value.content]
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        array = np.array(items, value.dtype.numpy)
        found = _frozen(array.reshape(()) if value.rank == 0 else array)
        self.state.known[value] = found
        return found

    def _size(self, dim: Any) -> int:
        if dim.__class__ is int:
            return int(dim)
        if dim is None:
            raise KeyError
        return dims.evaluate(dim, self.state.env)

    def _evaluate(self, op: Op) -> bool:
        """Compute a small result now when its operands are known; return whether that was done."""
        definition = op.definition
        if definition is None or not definition.foldable or op.regions:
            return False
        if op.name == "shape":
            return self._evaluate_shape(op)
        if op.name == "dequantize_linear" and self._dequantize(op):
            return True
        if not op.operands:
            return False
        operands: list[Array | None] = []
        size = 0
        for value in op.operands:
            array = None if value is None else self.small(value)
            if value is not None and array is None:
                return all(self.small(r) is not None for r in op.results)
            size += 0 if array is None else array.nbytes
            operands.append(array)
        if size > KNOWN_BYTES or not self._is_small(op):
            return False
        results = call_meaning(op, operands, op.all_attrs())
        if not all(isinstance(r, np.ndarray) and r.dtype != object for r in results):
            return False
        for value, found in zip(op.results, results, strict=False):
            self.state.known[value] = _frozen(np.array(found, order="C"))
        return True

    def _dequantize(self, op: Op) -> bool:
        """Make floats of a stored constant, once a session; return whether that was done."""
        keys = tuple(None if v is None else self.constant_key(v) for v in op.operands)
        if any(v is not None and k is None for v, k in zip(op.operands, keys, strict=True)):
            return False

        def make() -> Array:
            operands = [None if v is None else self.known(v) for v in op.operands]
            found: Array = call_meaning(op, operands, op.all_attrs())[0]
            return found

        attrs = tuple(map(str, op.all_attrs().values()))
        self.state.known[op.results[0]] = self.constants.derived(("floats", keys, attrs), make)
        return True

    def _is_small(self, op: Op) -> bool:
        for found in self.result_types(op):
            if found is not None:
                nbytes = int(np.prod(found[1], dtype=np.int64)) * found[0].numpy.itemsize
                if nbytes > KNOWN_BYTES:
                    return False
        return True

    def _evaluate_shape(self, op: Op) -> bool:
        value = op.operands[0]
        place = None if value is None else self.place(value)
        if not isinstance(place, Tensor):
            return False
        start, end = op.attr("start"), op.attr("end")
        shape = place.shape[slice(start, end)]
        self.state.known[op.results[0]] = _frozen(np.array(shape, np.int64))
        return True

    # -- shapes ------------------------------------------------------------------------------------

    def result_types(self, op: Op) -> list[Found]:
        """Return element types and shapes of the results, as far as they are known now."""
        found = self._types.get(op)
        if found is None:
            found = [self.concrete(r.type) for r in op.results]
            if any(f is None for f in found) and not op.regions:
                again = [self.concrete(t) for t in self._infer(op)]
                found = [a if a is not None else b for a, b in zip(found, again, strict=True)]
            self._types[op] = found
        return found

    def concrete(self, type_: Type) -> Found:
        """Return a type with its dims replaced by sizes, ``None`` when one is not known."""
        if not isinstance(type_, TensorType) or type_.dtype is None or type_.shape is None:
            return None
        if type_.dtype is dtypes.STRING:
            return None
        static = type_.static_shape
        if static is not None:
            return type_.dtype, static
        try:
            return type_.dtype, tuple(self._size(d) for d in type_.shape)
        except (KeyError, ValueError, ZeroDivisionError):
            return None

    def _infer(self, op: Op) -> list[Type]:
        """Infer ``op`` again with the concrete types and contents of its operands."""
        operands: list[Value | None] = []
        for value in op.operands:
            if value is None:
                operands.append(None)
                continue
            stand_in = Op("const", None, [], {}, 1)
            known = self.small(value)
            place = self.place(value)
            if known is not None:
                stand_in.attrs["value"] = from_array(known)
            else:
                stand_in.name = "stand_in"
            stand_in.results[0].type = (
                TensorType(place.dtype, place.shape) if isinstance(place, Tensor) else value.type
            )
            operands.append(stand_in.results[0])
        copy = Op(op.name, op.definition, operands, dict(op.attrs), len(op.results))
        copy.loc, copy.node_name = op.loc, op.node_name
        return infer_types(copy)

    # -- memory ------------------------------------------------------------------------------------

    def place(self, value: Value) -> Place | None:
        """Return where ``value`` lies; constants are placed when first asked for."""
        found = self.state.places.get(value)
        if found is None:
            tensor = const_tensor(value)
            if tensor is not None:
                found = self.plans.constants.get(value)
                if found is None:
                    found = self.plans.constants[value] = self._place_constant(tensor)
            else:
                known = self.known(value)
                if known is None:
                    return None
                dtype = dtypes.from_numpy(known.dtype)
                buffer = Buffer(known.nbytes, known)
                found = Tensor(dtype, known.shape, Ref(buffer), row_major(known.shape))
            self.state.places[value] = found
        return found

    def _place_constant(self, tensor: Payload) -> Tensor:
        if tensor.dtype is dtypes.STRING:
            raise LeptonError("constants of strings are not supported", code="numba-strings")
        nbytes = tensor.size * tensor.dtype.numpy.itemsize
        buffer = Buffer(nbytes, make=functools.partial(self.constants.data, tensor))
        return Tensor(tensor.dtype, tensor.shape, Ref(buffer), row_major(tensor.shape))

    def set(self, value: Value, t: Tensor) -> None:
        """Say where ``value`` lies."""
        self._journal.append((value, self.state.places.get(value)))
        self.state.places[value] = t

    def buffer(self, nbytes: int) -> Buffer:
        """Return a new buffer of this segment."""
        made = Buffer(nbytes)
        self._buffers.append(made)
        return made

    def constant(self, key: Hashable, make: Callable[[], Array]) -> Buffer:
        """Return the buffer of a derived constant."""
        array = self.constants.derived(key, make)
        return Buffer(array.nbytes, array)

    def constant_key(self, value: Value) -> Hashable | None:
        """Return what identifies the data of a constant; ``None`` for values that may change."""
        tensor = const_tensor(value)
        if tensor is not None:
            return self.constants.key(tensor)
        known = self.state.known.get(value)
        if known is None:
            return None
        if known.nbytes > KNOWN_BYTES:
            # Derived constants live as long as the session.
            return ("derived", id(known)) if self.constants.owns(known) else None
        return (known.dtype.str, known.shape, known.tobytes())

    def plain(self, t: Tensor, op: Op) -> Tensor:
        """Return ``t`` row by row; a copy that a kernel makes serves later readers too."""
        if t.is_plain:
            return t
        from lepton_ir.backends.numba.kernels.copy import copy_tensor

        return self.form(t, "plain", lambda: copy_tensor(Lowering(self, op), t))

    def form(self, t: Tensor, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return another form of ``t``, made when first asked for."""
        place = (id(t), key)
        found = self._forms.get(place)
        if found is None:
            found = self._forms[place] = (t, make())
            self._new_forms.append(place)
        return found[1]

    def status(self) -> Ref:
        """Return where kernels report indices out of range."""
        if self._status is None:
            self._status = Buffer(32, self.plans.status)
        return Ref(self._status)

    def row_number(self) -> int:
        """Return the number, from 1, by which the next call reports errors."""
        return len(self.segment.steps) + 1

    def add(self, row: Row) -> None:
        """Append a kernel call."""
        self._touch([a.buffer for a in row.args if isinstance(a, Ref)])
        self.segment.steps.append(row)

    def _touch(self, buffers: list[Buffer]) -> None:
        """Extend the lifetimes of buffers to the step that comes next."""
        index = len(self.segment.steps)
        for buffer in buffers:
            if buffer.first < 0:
                buffer.first = index
            buffer.last = index

    def hint_in_place(self, result: Tensor, operand: Tensor) -> None:
        """Note that the last row may write ``result`` over ``operand``."""
        row = len(self.segment.steps) - 1
        self._hints.append((row, result.ref.buffer, operand.ref.buffer))

    # -- calls into Python -------------------------------------------------------------------------

    def _call_python(self, op: Op, reason: str) -> bool:
        """Evaluate ``op`` by its meaning; return whether the shapes of its results are known."""
        found = self.result_types(op)
        inputs = [None if v is None else self._readable(v, op) for v in op.operands]
        compiled = None if op.regions else long_tail.runner(op, inputs)
        run, captured = (compiled, []) if compiled else regions.runner(self.plans, op)
        inputs += [self._readable(v, op) for v in captured]
        self._touch([p.ref.buffer for p in inputs if isinstance(p, Tensor)])
        slots = [self._slot() for _ in op.results]
        road = "control" if op.regions else "b" if compiled else "c"
        self.segment.steps.append(PyStep(op, inputs, slots, run, found, road, reason))
        open_ends = False
        for value, slot, type_ in zip(op.results, slots, found, strict=True):
            if type_ is None:
                self.state.places[value] = Boxed(slot)
                if _may_be_tensor(value.type) and value.first_use is not None:
                    self.segment.cut.append((value, slot))
                    open_ends = True
            else:
                dtype, shape = type_
                ref = Ref(Buffer(0, slot=slot))
                self.state.places[value] = Tensor(dtype, shape, ref, row_major(shape))
        return not open_ends

    def _readable(self, value: Value, op: Op) -> Place:
        place = self.place(value)
        if place is None:
            raise LeptonError(f"{value} has no place", code="plan", where=describe(op))
        if isinstance(place, Tensor) and place.blocked is not None:
            place = self.plain(place, op)
        return place

    def _slot(self) -> int:
        self.state.slots += 1
        return self.state.slots - 1

    # -- the end of a segment ----------------------------------------------------------------------

    def _output(self, value: Value | None, op: Op) -> Place | None:
        if value is None:
            return None
        place = self.place(value)
        if place is None:
            raise LeptonError(f"{value} has no place", code="plan", where=describe(op))
        if isinstance(place, Tensor):
            place = self.plain(place, op)
        return place

    def _finish(self) -> None:
        self._keep_outputs()
        self._keep_escaping()
        self._take_over_in_place()
        inside = [b for b in self._buffers if b.in_arena and b.first >= 0]
        self.segment.sum_bytes = sum(memory.align(b.nbytes) for b in inside)
        self.segment.arena_bytes = memory.assign(inside)
        self._drop_slots()
        self.segment.state = self.state

    def _keep_outputs(self) -> None:
        """Move the buffers of results into slots, whose arrays the caller gets."""
        for i, place in enumerate(self.segment.outputs or ()):
            if isinstance(place, Tensor) and place.ref.buffer.in_arena:
                self._to_slot(place.ref.buffer)
            if isinstance(place, Tensor):
                assert self.segment.outputs is not None
                self.segment.outputs[i] = replace(place)

    def _keep_escaping(self) -> None:
        """Move buffers that later segments read into slots."""
        if self.segment.outputs is not None:
            return
        here = self.state.index
        last_use = self.plans.last_use
        for value, place in self.state.places.items():
            is_here = isinstance(place, Tensor) and place.ref.buffer.in_arena
            if is_here and last_use.get(value, -1) >= here:
                assert isinstance(place, Tensor)
                self._to_slot(place.ref.buffer)

    def _to_slot(self, buffer: Buffer) -> None:
        buffer.slot = self._slot()
        self.segment.makes.append((buffer.slot, (max(buffer.nbytes, 1) + memory.SLACK,), np.uint8))

    def _take_over_in_place(self) -> None:
        """Let results use the memory of operands that die with them."""
        for row, result, operand in self._hints:
            if not (result.in_arena and operand.in_arena) or result is operand:
                continue
            if result.parent is not None or result.first != row:
                continue
            top = memory.root(operand)
            if operand.last == row and top.last <= row and top.nbytes >= result.nbytes:
                result.parent = operand
                top.last = max(top.last, result.last)

    def _drop_slots(self) -> None:
        """Find for each step the slots that nothing reads behind it."""
        if self.segment.outputs is None:
            return
        last: dict[int, int] = {}
        for index, step in enumerate(self.segment.steps):
            if isinstance(step, PyStep):
                for place in step.inputs:
                    if isinstance(place, Boxed):
                        last[place.slot] = index
                    elif isinstance(place, Tensor) and place.ref.buffer.slot >= 0:
                        last[place.ref.buffer.slot] = index
                for slot in step.outputs:
                    last.setdefault(slot, index)
            else:
                for arg in step.args:
                    if isinstance(arg, Ref) and arg.buffer.slot >= 0:
                        last[arg.buffer.slot] = index
        kept = {m[0] for m in self.segment.makes} | set(range(len(self.plans.inputs)))
        for place in self.segment.outputs:
            if isinstance(place, Boxed):
                kept.add(place.slot)
            elif isinstance(place, Tensor) and place.ref.buffer.slot >= 0:
                kept.add(place.ref.buffer.slot)
        for slot, index in last.items():
            if slot not in kept:
                self.segment.drops.setdefault(index, []).append(slot)


def _frozen(array: Array) -> Array:
    """Return an array that nobody may change: results are copied from it."""
    array.flags.writeable = False
    return array


def _may_be_tensor(type_: Type) -> bool:
    """Return whether a value of this type may be a tensor of numbers that kernels could read."""
    if isinstance(type_, TensorType):
        return type_.dtype is not dtypes.STRING
    return not hasattr(type_, "elem")
