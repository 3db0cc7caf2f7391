"""How an operation becomes kernel calls: the registry, and what a lowering may ask and do.

A lowering is a function of one argument, registered for operation names::

    @lowers("softmax")
    def softmax(lo: Lowering) -> None:
        x = lo.plain(lo.operand(0))
        if x.dtype is not F32:
            lo.decline("only f32")
        y = lo.result(0)
        lo.call(Kernel("softmax", ("f32",)), x.ref, y.ref, rows, columns)

It runs while a plan is made, with concrete shapes. :meth:`Lowering.decline` undoes what it did: the
next lowering of the operation is tried, and in the end the operation's NumPy meaning.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from lepton_ir.backends.numba import kernels
from lepton_ir.backends.numba.plan import (
    Array,
    Boxed,
    Buffer,
    Ref,
    Row,
    Tensor,
    row_major,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from lepton_ir.backends.numba.codegen.library import Kernel
    from lepton_ir.backends.numba.machine import Machine
    from lepton_ir.backends.numba.planner import Planner
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value

_LOWERINGS: dict[str, list[Candidate]] = {}


class Declined(Exception):
    """A lowering does not take this operation; the message says why."""


class Candidate(NamedTuple):
    """A registered lowering.

    Attributes:
        lower: the function.
        tail: whether it takes elementwise operations behind its own.
        empty: whether it is asked for tensors without elements too.
    """

    lower: Callable[[Lowering], None]
    tail: bool
    empty: bool


def lowers(
    *names: str, tail: bool = False, empty: bool = False
) -> Callable[[Callable[[Lowering], None]], Callable[[Lowering], None]]:
    """Register a lowering for operations; the latest one registered is tried first.

    Args:
        names: names of operations.
        tail: whether it takes a group, its operation with elementwise ones behind it.
        empty: whether it is asked for tensors without elements too.
    """

    def register(lower: Callable[[Lowering], None]) -> Callable[[Lowering], None]:
        for name in names:
            _LOWERINGS.setdefault(name, []).insert(0, Candidate(lower, tail, empty))
        return lower

    return register


def lowerings(name: str) -> list[Candidate]:
    """Return the lowerings of an operation, in the order in which they are tried."""
    _load(name)
    return _LOWERINGS.get(name, [])


def takes_tail(name: str) -> bool:
    """Return whether an operation may be followed by elementwise ones in one kernel."""
    return any(c.tail for c in lowerings(name))


@functools.cache
def _load(name: str) -> None:
    """Import what lowers an operation, and nothing else: a model has few of all families."""
    for module in kernels.lowered_by(name):
        importlib.import_module(module)


class Lowering:
    """One operation being lowered.

    Attributes:
        op: the operation, or the group.
        anchor: the operation itself; of a group the one that is not elementwise, whose operands
            the methods mean.
        tail: the elementwise operations of a group, in order.
        machine: what the kernels are made for.
        threads: how many may share a call; each has a number below this.
        precision: what the session was asked for: ``fast``, ``standard`` or ``high``.
    """

    def __init__(
        self, planner: Planner, op: Op, anchor: Op | None = None, tail: Sequence[Op] = ()
    ) -> None:
        self._planner = planner
        self.op = op
        self.anchor = anchor or op
        self.tail = tail
        self.machine: Machine = planner.machine
        self.threads: int = planner.plans.session.threads
        self.precision: str = planner.plans.session.precision

    # -- asking ------------------------------------------------------------------------------------

    def decline(self, reason: str) -> NoReturn:
        """Give the operation up; what was added for it is undone.

        Raises:
            Declined: always.
        """
        raise Declined(reason)

    def has(self, index: int) -> bool:
        """Return whether operand ``index`` is present."""
        return index < len(self.anchor.operands) and self.anchor.operands[index] is not None

    def operand(self, index: int) -> Tensor:
        """Return where operand ``index`` lies, in whatever layout."""
        value = self.anchor.operands[index] if index < len(self.anchor.operands) else None
        if value is None:
            self.decline(f"operand {index} is absent")
        return self.tensor(value)

    def tensor(self, value: Value) -> Tensor:
        """Return where ``value`` lies, in whatever layout."""
        place = self._planner.place(value)
        if place is None or isinstance(place, Boxed):
            self.decline("an operand is no tensor of known shape")
        return place

    def known(self, index: int) -> Array | None:
        """Return operand ``index`` when its data is known now (constants, shapes)."""
        value = self.anchor.operands[index] if index < len(self.anchor.operands) else None
        return None if value is None else self._planner.known(value)

    def is_known(self, index: int) -> bool:
        """Return whether operand ``index`` is known now; reads no data."""
        value = self.anchor.operands[index] if index < len(self.anchor.operands) else None
        return value is not None and self._planner.is_known(value)

    def known_value(self, value: Value) -> Array | None:
        """Return the data of ``value`` when it is known now and small."""
        return self._planner.small(value)

    def ints(self, index: int) -> tuple[int, ...] | None:
        """Return operand ``index`` as integers when it is known now."""
        array = self.known(index)
        return None if array is None else tuple(int(v) for v in array.reshape(-1))

    def type(self, index: int = 0) -> tuple[DType, tuple[int, ...]]:
        """Return element type and shape of result ``index``."""
        found = self._planner.result_types(self.op)[index]
        if found is None:
            self.decline("the shape of a result depends on data")
        return found

    # -- making ------------------------------------------------------------------------------------

    def plain(self, t: Tensor) -> Tensor:
        """Return ``t`` row by row in memory, copied if it is not."""
        return self._planner.plain(t, self.op)

    def form(self, t: Tensor, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return another form of ``t`` (a layout, say), made once for all who ask for ``key``."""
        return self._planner.form(t, key, make)

    def new(self, dtype: DType, shape: tuple[int, ...], nbytes: int = 0) -> Tensor:
        """Return a new plain tensor; of ``nbytes`` when kernels may write behind its end."""
        strides = row_major(shape)
        t = Tensor(dtype, shape, Ref(Buffer(0)), strides)
        return replace(t, ref=Ref(self._planner.buffer(max(nbytes, t.size * t.itemsize))))

    def result(self, index: int = 0) -> Tensor:
        """Return a new plain tensor for result ``index``, and set it."""
        return self.set(self.new(*self.type(index)), index)

    def set(self, t: Tensor, index: int = 0) -> Tensor:
        """Say where result ``index`` lies: a new tensor, or a view of an operand."""
        self._planner.set(self.op.results[index], t)
        return t

    def scratch(self, nbytes: int) -> Ref:
        """Return memory that lives for the next call only."""
        return Ref(self._planner.buffer(nbytes))

    def constant(self, key: Hashable, make: Callable[[], Array]) -> Ref:
        """Return the address of a constant, made once a session for ``key``."""
        return Ref(self._planner.constant(key, make))

    def packed(self, index: int, form: Hashable, pack: Callable[[Array], Array]) -> Ref | None:
        """Return the address of a constant operand in another form, ``None`` if it is not constant.

        Args:
            index: the operand.
            form: says what ``pack`` does; one form of a constant is made once a session.
            pack: makes the form from the operand's data.
        """
        value = self.anchor.operands[index]
        return None if value is None else self.packed_value(value, form, pack)

    def packed_value(
        self, value: Value, form: Hashable, pack: Callable[[Array], Array]
    ) -> Ref | None:
        """Like :meth:`packed`, for any value."""
        key = self._planner.constant_key(value)
        if key is None:
            return None

        def make() -> Array:
            data = self._planner.known(value)
            assert data is not None
            return pack(data)

        return self.constant((key, form), make)

    def call(self, kernel: Kernel, *args: int | Ref, checks: bool = False) -> None:
        """Add a call of ``kernel``.

        Args:
            kernel: what to call.
            args: integers and addresses.
            checks: the kernel may meet an index out of range. Two arguments are added: the number
                of the call, and where to report it, the index and the bound
                (:func:`~lepton_ir.backends.numba.kernels.gather.report`).
        """
        found = list(args)
        if checks:
            found += [self._planner.row_number(), self._planner.status()]
        self._planner.add(Row(kernel, found, self.op, checks))

    def in_place(self, result: Tensor, operand: Tensor) -> None:
        """Say that the last call may write ``result`` over ``operand``, element by element."""
        self._planner.hint_in_place(result, operand)
