"""Plans: what is run for one binding of the symbolic dims. Data only: kernel calls and steps.

A plan is a chain of segments. A segment ends where the shape of a result depends on data; the rest
is planned when the shape is known, once for each shape that occurs.

Memory is named by buffers. While a segment is planned a buffer is only a size; when it is finished
each buffer becomes an offset in the arena, the address of a constant, or a slot of the frame, which
holds arrays that come and go with a run (inputs, outputs, results of NumPy).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.backends.numba.codegen.library import Kernel
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value

Array = np.ndarray[Any, Any]


@dataclass(eq=False)
class Buffer:
    """A piece of memory.

    Attributes:
        nbytes: size; 0 for slots whose array tells.
        array: the data of a constant that is in memory.
        make: gets the data of a constant when a call reads it.
        slot: place in the frame, -1 for the arena and constants.
        made: whether the frame must allocate the slot before the segment runs.
        offset: place in the arena, set when the segment is finished.
        first: index of the first row that touches it.
        last: index of the last row that touches it.
        parent: the buffer whose memory this one takes over in place.
    """

    nbytes: int
    array: Array | None = None
    make: Callable[[], Array] | None = None
    slot: int = -1
    made: bool = False
    offset: int = -1
    first: int = -1
    last: int = -1
    parent: Buffer | None = None

    @property
    def is_const(self) -> bool:
        """Whether the memory holds a constant."""
        return self.array is not None or self.make is not None

    @property
    def in_arena(self) -> bool:
        """Whether the memory is part of the arena."""
        return self.slot < 0 and not self.is_const

    def data(self) -> Array:
        """Return the data of a constant, which stays in memory from now on."""
        if self.array is None:
            assert self.make is not None
            self.array = self.make()
        return self.array


@dataclass(frozen=True)
class Ref:
    """An address: a buffer and a byte offset."""

    buffer: Buffer
    offset: int = 0


@dataclass(frozen=True)
class Blocked:
    """The layout of a tensor whose channels stand in blocks: ``[N, C/block, H, W, block]``.

    Attributes:
        block: channels of a block; the last block is filled up.
        halo: rows and columns around each plane (before, and after), per spatial axis.
        fill: what the halo holds: zero, or the zero point of bytes, or where that will stand.
    """

    block: int
    halo: tuple[tuple[int, int], ...]
    fill: int | Ref = 0


@dataclass(frozen=True)
class Tensor:
    """Where and how a value lies in memory.

    Attributes:
        dtype: element type.
        shape: concrete shape.
        ref: address of the first element.
        strides: elements from one index to the next, per axis; of a blocked tensor those of the
            axes ``[N, C/block, spatial..., block]``.
        blocked: the layout when it is not a plain strided one.
    """

    dtype: DType
    shape: tuple[int, ...]
    ref: Ref
    strides: tuple[int, ...]
    blocked: Blocked | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def itemsize(self) -> int:
        """Bytes of an element in memory."""
        return self.dtype.numpy.itemsize

    @property
    def is_plain(self) -> bool:
        """Whether the elements lie row by row without gaps."""
        if self.blocked is not None:
            return False
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return self.size == 0
            expected *= size
        return True


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides (in elements) of a plain tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Boxed:
    """A value that is a Python object: a sequence, an optional, strings, or of unknown shape."""

    slot: int


Place = Tensor | Boxed


@dataclass
class Row:
    """One call of a kernel.

    Attributes:
        kernel: what to call.
        args: integers and addresses.
        op: the operation it is for, in profiles and messages.
        checks: whether the kernel reports indices out of range.
    """

    kernel: Kernel
    args: list[int | Ref]
    op: Op
    checks: bool = False


@dataclass
class PyStep:
    """One operation evaluated by Python.

    Attributes:
        op: the operation.
        inputs: its operands and, behind them, what its regions read from outside.
        outputs: the slots of its results.
        run: ``run(arrays) -> results``.
        expected: types of results with a static shape, ``None`` for the others.
        road: ``c`` (the op's NumPy meaning), ``b`` (numba) or ``control``.
        reason: why no kernel does it.
    """

    op: Op
    inputs: list[Place | None]
    outputs: list[int]
    run: Callable[[list[Any]], list[Any]]
    expected: list[tuple[DType, tuple[int, ...]] | None]
    road: str
    reason: str = ""


Step = Row | PyStep


@dataclass
class Segment:
    """Steps whose shapes are all known.

    Attributes:
        steps: kernel calls and Python calls in order.
        makes: (slot, shape, dtype) of arrays that the frame allocates first.
        drops: for each step, the slots that nothing reads after it.
        arena_bytes: size of the arena.
        sum_bytes: what all intermediates would take without reuse.
        shapes: of the block's inputs where they are arrays, when this is the first segment.
        outputs: places of the block's results, when this is the last segment.
        cut: the values that are boxed at the end and whose shapes decide how it goes on.
        following: the next segments, by those shapes.
    """

    steps: list[Step]
    makes: list[tuple[int, tuple[int, ...], Any]] = field(default_factory=list)
    drops: dict[int, list[int]] = field(default_factory=dict)
    arena_bytes: int = 0
    sum_bytes: int = 0
    shapes: list[tuple[int, ...] | None] = field(default_factory=list)
    outputs: list[Place | None] | None = None
    cut: list[tuple[Value, int]] = field(default_factory=list)
    following: dict[Any, Segment] = field(default_factory=dict)
    state: Any = None
    program: Any = None
