"""Running the same plan again: what a run looks up, checks and allocates is prepared once.

Only for plans that are one stretch of kernel calls and whose results have memory of their own; all
others, and feeds that need a closer look, take the general way through :mod:`.program`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lepton_ir.backends.numba.constants import address_of
from lepton_ir.backends.numba.memory import is_readable, placement
from lepton_ir.backends.numba.plan import Tensor
from lepton_ir.backends.numba.runtime.program import Patches, Stretch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_ir.backends.numba.plan import Segment
    from lepton_ir.backends.numba.session import Session


class Feed(NamedTuple):
    """An input as the plan expects it."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    patches: Patches


class Result(NamedTuple):
    """An output, the bytes to allocate for it, where it starts there, and where that goes.

    Its address leaves ``rest`` when it is divided by ``unit``.
    """

    nbytes: int
    rest: int
    unit: int
    shape: tuple[int, ...]
    dtype: Any
    patches: Patches


class Quick:
    """Runs one plan of a session.

    Args:
        session: whose plan it is.
        segment: the plan.
        stretch: its kernel calls.
        feeds: the inputs.
        results: the outputs.
    """

    def __init__(
        self,
        session: Session,
        segment: Segment,
        stretch: Stretch,
        feeds: list[Feed],
        results: list[Result],
    ) -> None:
        self.segment = segment
        self._session = session
        self._stretch = stretch
        self._feeds = feeds
        self._results = results
        self._view = stretch.view
        self._vm = segment.program.vm
        self._alone = session.threads == 1 or not stretch.large

    def run(self, given: Mapping[str, Any]) -> list[Any] | None:
        """Run the plan; return the outputs, ``None`` if the feeds are not exactly what it takes.

        All in one place: behind a kernel that has emptied the caches every call is slow.
        """
        if len(given) != len(self._feeds):
            return None
        addresses = []
        for name, shape, dtype, patches in self._feeds:
            array: Any = given.get(name)
            fits = array.__class__ is np.ndarray and array.shape == shape and array.dtype == dtype
            if not fits or not array.flags.c_contiguous:
                return None
            address = address_of(array)
            if not is_readable(address + array.nbytes):
                return None
            addresses.append((address, patches))
        results = []
        for nbytes, rest, unit, shape, dtype, patches in self._results:
            memory = np.empty(nbytes, np.uint8)
            start = address_of(memory)
            skipped = (rest - start) % unit
            addresses.append((start + skipped, patches))
            results.append(np.ndarray(shape, dtype, memory, skipped))
        session, stretch, view = self._session, self._stretch, self._view
        with session.lock:
            stretch.place_arena(session.arena_address)
            for address, patches in addresses:
                for position, offset in patches:
                    view[position] = address + offset
            if self._alone:
                self._vm(stretch.call_address, 0, 1)
            else:
                self.segment.program.call(stretch, session)
            if stretch.checked:
                self.segment.program.check(stretch)
        return results


def quick(session: Session, segment: Segment) -> Quick | None:
    """Return the short way to run a plan, ``None`` if it has none."""
    items = segment.program.items
    main = session.module.main
    if len(items) != 1 or not isinstance(items[0], Stretch) or main.overridable:
        return None
    stretch = items[0]
    patches = stretch.slots
    sizes = {slot: shape[0] for slot, shape, _ in segment.makes}
    results = []
    for place in segment.outputs or ():
        slot = place.ref.buffer.slot if isinstance(place, Tensor) else -1
        # Results that share memory with others, with inputs or constants are copied elsewhere.
        if slot not in sizes or not isinstance(place, Tensor) or place.ref.offset:
            return None
        if not place.is_plain or not place.size:
            return None
        nbytes = sizes.pop(slot)
        rest, unit = placement(nbytes)
        taken = patches.get(slot, ())
        results.append(Result(nbytes + unit, rest, unit, place.shape, place.dtype.numpy, taken))
    if sizes:
        return None
    feeds = []
    for slot, (value, shape) in enumerate(zip(main.inputs, segment.shapes, strict=True)):
        if shape is None or value.dtype is None:
            return None
        taken = patches.get(slot, ())
        feeds.append(Feed(value.name or "", shape, value.dtype.numpy, taken))
    return Quick(session, segment, stretch, feeds, results)
