"""A segment made ready to run: addresses filled in, kernel calls gathered into stretches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.backends.numba import memory
from lepton_ir.backends.numba.codegen.library import kernel_function
from lepton_ir.backends.numba.constants import address_of, aligned, with_slack
from lepton_ir.backends.numba.plan import Array, Boxed, Place, PyStep, Ref, Row, Segment, Tensor
from lepton_ir.backends.numba.runtime.vm import VM
from lepton_ir.diagnostics import LeptonError, UnsupportedError
from lepton_ir.infer import describe

if TYPE_CHECKING:
    from lepton_ir.backends.numba.codegen.library import Library
    from lepton_ir.backends.numba.session import Session


class Frame:
    """The arrays and objects of one run, by slot; inputs first.

    Attributes:
        objects: by slot.
        arena: memory of the intermediates.
    """

    def __init__(self, inputs: list[Any]) -> None:
        self.objects = inputs
        self.arena: Array = np.empty(0, np.uint8)

    def read(self, place: Place) -> Any:
        """Return a value as an array (a view where possible) or an object."""
        if isinstance(place, Boxed):
            return self.objects[place.slot]
        buffer = place.ref.buffer
        if buffer.is_const:
            held = buffer.data()
        elif buffer.slot >= 0:
            held = self.objects[buffer.slot]
        else:
            held = self.arena
        offset = place.ref.offset + (buffer.offset if buffer.in_arena else 0)
        as_is = held.shape == place.shape and held.dtype == place.dtype.numpy
        if as_is and offset == 0 and place.is_plain:
            return held
        return _view(held, place, offset)


def _view(held: Array, place: Tensor, offset: int) -> Array:
    size = place.itemsize
    if place.size == 0:
        return np.empty(place.shape, place.dtype.numpy)
    flat = held if held.dtype == np.uint8 and held.ndim == 1 else _as_bytes(held)
    strides = [s * size for s in place.strides]
    return np.ndarray(place.shape, place.dtype.numpy, flat, offset, strides)


def _as_bytes(held: Array) -> Array:
    return held.reshape(-1).view(np.uint8)


Patches = tuple[tuple[int, int], ...]
"""Positions among the arguments of a stretch, and what is added to the address there."""


@dataclass
class Stretch:
    """Kernel calls without a Python call between them.

    Attributes:
        rows: the calls.
        first: index of the first call among the segment's steps.
        table: (kernel, address of arguments) pairs.
        args: all arguments.
        arena_at: positions of arena addresses in ``args``.
        arena_offsets: their offsets.
        slots: by slot, the positions of its addresses in ``args`` and what is added there.
        checked: whether a kernel may report an index out of range.
        large: whether it is worth waking other threads.
    """

    rows: list[Row]
    first: int
    table: Array
    args: Array
    arena_at: Array
    arena_offsets: Array
    slots: dict[int, Patches]
    checked: bool
    large: bool
    arena_base: int = -1

    def __post_init__(self) -> None:
        # Made once: runs of small models are mostly Python.
        self.view = memoryview(self.args.data)
        self._call = np.array([self.table.ctypes.data, len(self.rows), 0, 0], np.int64)
        self.table_address: int = self.table.ctypes.data
        self.call_address: int = self._call.ctypes.data
        """Arguments of the loop for a thread that runs alone."""

    def place(self, address: int, patches: Patches) -> None:
        """Write the address of a slot wherever it belongs."""
        view = self.view
        for position, offset in patches:
            view[position] = address + offset

    def place_arena(self, base: int) -> None:
        """Write the addresses in the arena, unless they are there already."""
        if base != self.arena_base:
            self.args[self.arena_at] = base + self.arena_offsets
            self.arena_base = base


_WORTH_THREADS = 256 << 10
"""Bytes that the calls between two Python calls touch, from which on threads share them."""


def _touched(rows: list[Row]) -> int:
    return sum(a.buffer.nbytes for row in rows for a in row.args if isinstance(a, Ref))


def _ints(values: list[int]) -> Array:
    return np.array(values, np.int64)


def _stretch(rows: list[Row], first: int, library: Library) -> Stretch:
    args: list[int] = []
    starts: list[int] = []
    arena: list[tuple[int, int]] = []
    slots: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        starts.append(len(args))
        for arg in row.args:
            if not isinstance(arg, Ref):
                args.append(int(arg))
                continue
            buffer = arg.buffer
            if buffer.is_const:
                args.append(buffer.data().ctypes.data + arg.offset)
            elif buffer.slot >= 0:
                slots.setdefault(buffer.slot, []).append((len(args), arg.offset))
                args.append(0)
            else:
                arena.append((len(args), buffer.offset + arg.offset))
                args.append(0)
    flat = _ints(args or [0])
    table = np.empty((len(rows), 2), np.int64)
    table[:, 0] = library.addresses(row.kernel for row in rows)
    table[:, 1] = flat.ctypes.data + 8 * _ints(starts)
    return Stretch(
        rows,
        first,
        table,
        flat,
        _ints([p for p, _ in arena]),
        _ints([o for _, o in arena]),
        {slot: tuple(patches) for slot, patches in slots.items()},
        any(row.checks for row in rows),
        _touched(rows) >= _WORTH_THREADS,
    )


class Program:
    """Runs one segment.

    Args:
        segment: what to run, its buffers placed.
        library: where its kernels come from.
        status: where kernels report indices out of range.
    """

    def __init__(self, segment: Segment, library: Library, status: Array) -> None:
        self.segment = segment
        self.status = status
        self.items: list[Stretch | tuple[int, PyStep]] = []
        self.vm = kernel_function(library.address(VM))
        rows: list[Row] = []
        for index, step in enumerate([*segment.steps, None]):
            if isinstance(step, Row):
                rows.append(step)
                continue
            if rows:
                self.items.append(_stretch(rows, index - len(rows), library))
                rows = []
            if step is not None:
                self.items.append((index, step))

    def run(self, frame: Frame, arena: Array, session: Session) -> None:
        """Run all steps on the values of ``frame``."""
        frame.arena = arena
        objects = frame.objects
        objects += [None] * (self.segment.state.slots - len(objects))
        for slot, shape, _ in self.segment.makes:
            objects[slot] = aligned(shape[0])
        profile = session.profile
        for item in self.items:
            if isinstance(item, Stretch):
                self._run_stretch(item, frame, session)
            else:
                index, step = item
                started = time.perf_counter() if profile is not None else 0.0
                _run_python(step, frame)
                if profile is not None:
                    profile.add_python(step, time.perf_counter() - started)
                for slot in self.segment.drops.get(index, ()):
                    objects[slot] = None

    def _run_stretch(self, stretch: Stretch, frame: Frame, session: Session) -> None:
        stretch.place_arena(frame.arena.ctypes.data)
        for slot, patches in stretch.slots.items():
            stretch.place(_address(frame.objects, slot), patches)
        if session.profile is not None:
            self._run_profiled(stretch, session)
        else:
            self.call(stretch, session)
        if stretch.checked:
            self.check(stretch)

    def call(self, stretch: Stretch, session: Session) -> None:
        """Run the calls of a stretch whose addresses are in place."""
        shared = stretch.large and session.threads > 1
        if not shared or not session.share(stretch.table_address, len(stretch.rows)):
            self.vm(stretch.call_address, 0, 1)

    def _run_profiled(self, stretch: Stretch, session: Session) -> None:
        assert session.profile is not None
        for i, row in enumerate(stretch.rows):
            started = time.perf_counter()
            address = stretch.table_address + 16 * i
            if session.threads == 1 or not session.share(address, 1):
                alone = _ints([address, 1, 0, 0])
                self.vm(alone.ctypes.data, 0, 1)
            session.profile.add_row(row, time.perf_counter() - started)

    def check(self, stretch: Stretch) -> None:
        """Raise the error that a kernel noted, if any: which row, which index, which bound."""
        if not self.status[0]:
            return
        number, index, size = (int(v) for v in self.status[:3])
        self.status[:] = 0
        row = stretch.rows[number - 1 - stretch.first]
        raise LeptonError(
            f"index {index} is out of range for an axis of {size}",
            code="index",
            where=describe(row.op),
        )


def _address(objects: list[Any], slot: int) -> int:
    """Return the address of an array, which is copied if a vector must not be read behind it."""
    array = objects[slot]
    found = address_of(array)
    if memory.is_readable(found + array.nbytes):
        return found
    objects[slot] = array = with_slack(array)
    return address_of(array)


def _run_python(step: PyStep, frame: Frame) -> None:
    arrays = [None if p is None else frame.read(p) for p in step.inputs]
    results = step.run(arrays)
    for slot, found, expected in zip(step.outputs, results, step.expected, strict=False):
        frame.objects[slot] = _checked(found, expected, step)


def _checked(found: Any, expected: Any, step: PyStep) -> Any:
    """Return a result row by row in memory that is its own; it must be what was planned."""
    if not isinstance(found, np.ndarray):
        if expected is not None:
            raise UnsupportedError("the result is no tensor", code="plan", where=describe(step.op))
        # A sequence holds on to its elements, which may be views of memory that is used again.
        return [_own(x) for x in found] if isinstance(found, list) else found
    if expected is not None and (found.shape != expected[1] or found.dtype != expected[0].numpy):
        raise LeptonError(
            f"planned {expected[0]}{list(expected[1])}, got {found.dtype}{list(found.shape)}",
            code="plan",
            where=describe(step.op),
        )
    return _own(found)


def _own(found: Any) -> Any:
    """Return an array row by row in memory that is its own."""
    if not isinstance(found, np.ndarray) or (found.flags.owndata and found.flags.c_contiguous):
        return found
    return np.array(found, order="C")
