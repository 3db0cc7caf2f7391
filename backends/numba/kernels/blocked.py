"""The blocked layout of images: channels in blocks of a vector, planes with room for zeros around.

A tensor ``[N, C, spatial...]`` lies as ``[N, C/block, spatial..., block]``. Around each plane there
may be a halo of zeros (of bytes: of their zero point), so that a padded convolution reads it like
any other pixel. Elements are f32, i32 or bytes. What stands in
the lanes behind the last channel is never read across lanes, so it may be anything.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from lepton_ir import dtypes
from lepton_ir.backends.numba.codegen.emitter import F32, I8, Emitter, Val, i64
from lepton_ir.backends.numba.codegen.expression import Expression
from lepton_ir.backends.numba.codegen.library import Kernel, emits
from lepton_ir.backends.numba.kernels.elementwise import call_loops
from lepton_ir.backends.numba.kernels.transposing import transpose_block
from lepton_ir.backends.numba.plan import Blocked, Ref, Tensor, row_major

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from lepton_ir.backends.numba.lowering import Lowering
    from lepton_ir.dtypes import DType

Halo = tuple[tuple[int, int], ...]

BYTES = (dtypes.U8, dtypes.I8)
TYPES = (dtypes.F32, dtypes.I32, *BYTES)
"""Element types that may be blocked."""


def blocks_of(channels: int, block: int) -> int:
    """Return the number of blocks that hold so many channels."""
    return -(-channels // block)


def new_blocked(
    lo: Lowering,
    shape: tuple[int, ...],
    halo: Halo,
    dtype: DType = dtypes.F32,
    fill: int | Ref = 0,
    block: int = 0,
) -> Tensor:
    """Return a new blocked tensor whose halo is filled.

    Args:
        lo: what it is for.
        shape: its shape.
        halo: rows and columns around its planes.
        dtype: its element type.
        fill: what the halo of bytes holds, or where it stands when known; others have zeros.
        block: channels of a block, by default as many as a vector has lanes.
    """
    block = block or lo.machine.lanes
    itemsize = dtype.numpy.itemsize
    count, channels, *sizes = shape
    padded = [n + a + b for n, (a, b) in zip(sizes, halo, strict=True)]
    strides = [1, block]
    for size in reversed(padded):
        strides.append(strides[-1] * size)
    strides.append(strides[-1] * blocks_of(channels, block))
    strides.reverse()  # N, C/block, spatial, block
    base = lo.scratch(itemsize * strides[0] * count)
    start = sum(before * s for (before, _), s in zip(halo, strides[2:], strict=False))
    if any(a or b for a, b in halo):
        planes = count * blocks_of(channels, block)
        rows, columns = _plane(padded)
        top, left = (halo[0], halo[1]) if len(halo) == 2 else ((0, 0), halo[0])
        kernel = Kernel("halo", (itemsize, block, *([True] if isinstance(fill, Ref) else [])))
        lo.call(kernel, base, planes, rows, columns, *top, *left, fill)
    ref = Ref(base.buffer, itemsize * start)
    return Tensor(dtype, shape, ref, tuple(strides), Blocked(block, halo, fill))


def _plane(sizes: Sequence[int]) -> tuple[int, int]:
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def plane_strides(t: Tensor) -> tuple[int, int, int, int]:
    """Return the strides of a blocked tensor along N, C/block, rows and columns, in bytes."""
    n, c, *spatial, _ = (t.itemsize * s for s in t.strides)
    row, column = (0, spatial[0]) if len(spatial) == 1 else spatial
    return n, c, row, column


def plane_sizes(t: Tensor) -> tuple[int, int]:
    """Return rows and columns of the planes of a tensor."""
    return _plane(t.shape[2:])


def loops_of(t: Tensor) -> tuple[int, ...]:
    """Return the sizes of the loops over a blocked tensor: N, C/block, spatial, block."""
    assert t.blocked is not None
    block = t.blocked.block
    return (t.shape[0], blocks_of(t.shape[1], block), *t.shape[2:], block)


def is_blocked(lo: Lowering, t: Tensor) -> bool:
    """Return whether ``t`` is blocked in this machine's way."""
    return t.blocked is not None and t.blocked.block == lo.machine.lanes


def covers(t: Tensor, halo: Halo, fill: int | Ref = 0) -> bool:
    """Return whether the halo of a blocked tensor is at least ``halo``."""
    assert t.blocked is not None
    if t.blocked.fill != fill and any(a or b for a, b in halo):
        return False
    return all(
        have[0] >= want[0] and have[1] >= want[1]
        for have, want in zip(t.blocked.halo, halo, strict=True)
    )


def to_blocked(lo: Lowering, t: Tensor, halo: Halo, fill: int | Ref = 0) -> Tensor:
    """Return ``t`` blocked, with at least this halo, converted if need be."""
    if is_blocked(lo, t) and covers(t, halo, fill):
        return t
    if t.dtype is not dtypes.F32 and t.dtype not in BYTES:
        lo.decline(f"blocked layout of {t.dtype}")
    return lo.form(t, ("blocked", halo, fill), lambda: _converted(lo, t, halo, fill))


def _converted(lo: Lowering, t: Tensor, halo: Halo, fill: int | Ref) -> Tensor:
    if is_blocked(lo, t):
        made = new_blocked(lo, t.shape, halo, t.dtype, fill)
        pair = [t.strides, made.strides]
        call_loops(lo, _copy(t.dtype), [t.ref, made.ref], loops_of(t), pair)
        return made
    block = lo.machine.lanes
    if t.strides[-1] != 1 and t.shape[-1] != 1:
        t = lo.plain(t)
    if t.is_plain and _same_either_way(t, block) and not any(a or b for a, b in halo):
        strides = (t.shape[1], block, *(block for _ in t.shape[2:]), 1)
        return Tensor(t.dtype, t.shape, t.ref, strides, Blocked(block, halo))
    if t.dtype in BYTES:
        from lepton_ir.backends.numba.kernels.pixels import pack_bytes

        return pack_bytes(lo, t, halo, fill, block)
    made = new_blocked(lo, t.shape, halo)
    n, c, row = _plain_strides(t)
    sizes = (t.shape[0], t.shape[1], *_joined_rows(lo, made, row))
    lo.call(Kernel("to_blocked"), t.ref, made.ref, *sizes, n, c, row, *plane_strides(made)[:3])
    return made


def unblock(lo: Lowering, t: Tensor) -> Tensor:
    """Return a plain form of a blocked tensor; a view where it is one already."""
    if _same_either_way(t, t.blocked.block if t.blocked else 1):
        return Tensor(t.dtype, t.shape, t.ref, row_major(t.shape))
    if t.itemsize != 4 or not is_blocked(lo, t):
        from lepton_ir.backends.numba.kernels.pixels import unpack_bytes

        return unpack_bytes(lo, t)
    made = lo.new(t.dtype, t.shape)
    n, c, row = _plain_strides(made)
    sizes = (t.shape[0], t.shape[1], *_joined_rows(lo, t, row))
    lo.call(Kernel("from_blocked"), t.ref, made.ref, *sizes, *plane_strides(t)[:3], n, c, row)
    return made


def _plain_strides(t: Tensor) -> tuple[int, int, int]:
    """Return the strides of a plain image of 32-bit elements along N, C and rows, in bytes."""
    n, c, *spatial = (4 * s for s in t.strides)
    return n, c, spatial[0] if len(spatial) == 2 else 0


def _joined_rows(lo: Lowering, blocked: Tensor, plain_row: int) -> tuple[int, int]:
    """Return rows and columns of a plane; one long row if no row is longer than its pixels.

    Where there are fewer planes than threads, these share the rows.
    """
    rows, columns = plane_sizes(blocked)
    count, blocks = loops_of(blocked)[:2]
    _, _, row, pixel = plane_strides(blocked)
    if row == columns * pixel and plain_row == 4 * columns and count * blocks >= lo.threads:
        return 1, rows * columns
    return rows, columns


def _same_either_way(t: Tensor, block: int) -> bool:
    """Return whether plain and blocked form are the same: one pixel, whole blocks."""
    return all(n == 1 for n in t.shape[2:]) and t.shape[1] % block == 0 and len(t.shape) > 2


def lower_blocked(
    lo: Lowering,
    expression: Expression,
    tensors: Sequence[Tensor],
    dtype: DType,
    shape: tuple[int, ...],
) -> bool:
    """Compute an elementwise result in blocked form; return whether that was done.

    Operands are blocked tensors of the result's shape, plain ones of that shape (which are
    converted), one value a channel, or one for all.
    """
    from lepton_ir.backends.numba.kernels.window import fill_for, halo_for

    rank = len(shape)
    if dtype not in TYPES or any(t.dtype not in TYPES and t.size > 1 for t in tensors):
        return False
    if rank not in (3, 4) or not any(t.shape == shape and t.blocked for t in tensors):
        return False
    if not all(_fits(lo, t, shape) for t in tensors):
        return False
    none = ((0, 0),) * (rank - 2)
    read = [to_blocked(lo, t, none) if t.shape == shape else t for t in tensors]
    value = lo.op.results[0]
    y = new_blocked(lo, shape, halo_for(value, shape), dtype, fill_for(value))
    strides = [_loop_strides(t, shape, lo.machine.lanes) for t in read]
    call_loops(lo, expression, [*(t.ref for t in read), y.ref], loops_of(y), [*strides, y.strides])
    lo.set(y)
    return True


def _fits(lo: Lowering, t: Tensor, shape: tuple[int, ...]) -> bool:
    if t.shape == shape or t.size == 1:
        return True
    aligned = (1,) * (len(shape) - len(t.shape)) + t.shape
    if aligned[1] != shape[1] or any(n != 1 for n in aligned[2:]):
        return False
    if aligned[0] not in (1, shape[0]):
        return False
    return is_blocked(lo, t) or (t.is_plain and shape[1] % lo.machine.lanes == 0)


def _loop_strides(t: Tensor, shape: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Return the strides of an operand over the loops of a blocked result."""
    spatial = len(shape) - 2
    if t.shape == shape:
        return t.strides
    if t.size == 1:
        return (0,) * (spatial + 3)
    images = t.shape[0] if len(t.shape) == len(shape) else 1
    if t.blocked is not None:
        n, c = t.strides[0], t.strides[1]
    else:
        n, c = shape[1], block
    return (n if images > 1 else 0, c, *(0,) * spatial, 1)


def concat_channels(lo: Lowering, tensors: Sequence[Tensor], shape: tuple[int, ...]) -> bool:
    """Concatenate blocked tensors of whole blocks; return whether that was done."""
    from lepton_ir.backends.numba.kernels.window import fill_for, halo_for

    block, dtype = lo.machine.lanes, tensors[0].dtype
    if any(not is_blocked(lo, t) or t.shape[1] % block for t in tensors):
        return False
    value = lo.op.results[0]
    y = new_blocked(lo, shape, halo_for(value, shape), dtype, fill_for(value))
    start = 0
    for t in tensors:
        place = Ref(y.ref.buffer, y.ref.offset + y.itemsize * start * y.strides[1])
        call_loops(lo, _copy(dtype), [t.ref, place], loops_of(t), [t.strides, y.strides])
        start += t.shape[1] // block
    lo.set(y)
    return True


def _copy(dtype: DType) -> Expression:
    return Expression((dtype.name,), (), (0,))


# -- kernels ---------------------------------------------------------------------------------------


@emits("halo")
def emit_halo(e: Emitter, itemsize: int, block: int, stored: bool = False) -> None:
    """Emit what stands around each plane: zeros, or one byte again and again.

    Args:
        e: the emitter.
        itemsize: bytes of an element.
        block: elements of a block.
        stored: whether the last argument is the address of the byte.
    """
    base, planes, rows, columns, top, bottom, left, right, fill = e.args(9)
    b, size = e.b, itemsize * block
    value = e.zero(e.vec(F32))
    if itemsize == 1:
        value = e.splat(e.load(e.ptr(fill), I8) if stored else e.b.trunc(fill, I8), block)
    first, last = e.share(planes)
    stride = b.mul(columns, i64(size))
    plane_bytes = b.mul(rows, stride)

    def clear(place: Val, count: Val) -> None:
        pointer = e.ptr(place)
        e.each(count, lambda i: e.store(value, e.off(pointer, b.mul(i, i64(size)))))

    def plane(p: Val) -> None:
        start = b.add(base, b.mul(p, plane_bytes))
        clear(start, b.mul(top, columns))
        below = b.sub(rows, bottom)
        clear(b.add(start, b.mul(below, stride)), b.mul(bottom, columns))

        def row(r: Val) -> None:
            place = b.add(start, b.mul(r, stride))
            clear(place, left)
            clear(b.add(place, b.mul(b.sub(columns, right), i64(size))), right)

        e.each(below, row, start=top)

    e.each(last, plane, start=first)


def _each_row(e: Emitter, count: Val, channels: Val, rows: Val, body: object) -> None:
    """Call ``body(n, block, row, channels left)`` for this thread's rows."""
    b = e.b
    blocks = e.ceil_div(channels, e.lanes)
    first, last = e.share(b.mul(b.mul(count, blocks), rows))

    def one(number: Val) -> None:
        rest, row = e.divmod(number, rows)
        n, block = e.divmod(rest, blocks)
        left = b.sub(channels, b.mul(block, i64(e.lanes)))
        body(n, block, row, left)  # type: ignore[operator]

    e.each(last, one, start=first)


@emits("to_blocked")
def emit_to_blocked(e: Emitter) -> None:
    """Emit the conversion of a plain image, square blocks of channels and columns at a time."""
    x, y, count, channels, rows, columns, xn, xc, xr, yn, yc, yr = e.args(12)
    b, lanes = e.b, e.lanes
    size = 4 * lanes

    def row(n: Val, block: Val, r: Val, left: Val) -> None:
        source = b.add(
            b.add(x, b.mul(n, xn)), b.add(b.mul(block, b.mul(xc, i64(lanes))), b.mul(r, xr))
        )
        target = e.ptr(b.add(b.add(y, b.mul(n, yn)), b.add(b.mul(block, yc), b.mul(r, yr))))

        def square(w: Val, pixels: Val | None) -> None:
            place = e.ptr(b.add(source, b.shl(w, i64(2))))
            goal = e.off(target, b.mul(w, i64(size)))
            mask = None if pixels is None else e.lane_mask(pixels)
            for i, found in enumerate(_transposed(e, place, xc, left, mask)):
                with _guarded(e, i, pixels):
                    e.store(found, goal, size * i)

        _squares(e, columns, left, square)

    _each_row(e, count, channels, rows, row)


@emits("from_blocked")
def emit_from_blocked(e: Emitter) -> None:
    """Emit the conversion back to a plain image."""
    x, y, count, channels, rows, columns, xn, xc, xr, yn, yc, yr = e.args(12)
    b, lanes = e.b, e.lanes
    size = 4 * lanes

    def row(n: Val, block: Val, r: Val, left: Val) -> None:
        source = e.ptr(b.add(b.add(x, b.mul(n, xn)), b.add(b.mul(block, xc), b.mul(r, xr))))
        target = b.add(
            b.add(y, b.mul(n, yn)), b.add(b.mul(block, b.mul(yc, i64(lanes))), b.mul(r, yr))
        )

        def square(w: Val, pixels: Val | None) -> None:
            place = e.off(source, b.mul(w, i64(size)))
            goal = e.ptr(b.add(target, b.shl(w, i64(2))))
            channels_here = None if pixels is None else left
            mask = None if pixels is None else e.lane_mask(pixels)
            for i, found in enumerate(_transposed(e, place, i64(size), pixels, None)):
                with _guarded(e, i, channels_here):
                    if mask is None:
                        e.store(found, goal)
                    else:
                        e.store_masked(found, goal, mask)
                if i + 1 < lanes:
                    goal = e.off(goal, yc)

        _squares(e, columns, left, square)

    _each_row(e, count, channels, rows, row)


def _squares(
    e: Emitter, columns: Val, left: Val, square: Callable[[Val, Val | None], None]
) -> None:
    """Call ``square(first column, None)`` for whole squares, then with how many columns are left.

    Squares of a block with fewer channels than lanes count as the latter.
    """
    full = e.b.icmp_signed(">=", left, i64(e.lanes))
    whole = e.b.select(full, e.b.and_(columns, i64(-e.lanes)), i64(0))
    e.each(whole, lambda w: square(w, None), step=e.lanes)
    e.each(columns, lambda w: square(w, e.b.sub(columns, w)), start=whole, step=e.lanes)


def _transposed(
    e: Emitter, place: Val, step: Val, count: Val | None, mask: Val | None
) -> list[Val]:
    """Load a square of vectors and transpose it.

    Args:
        e: the emitter.
        place: the first vector.
        step: bytes from one to the next.
        count: how many there are, at least one; the last one stands for those that are missing.
            ``None`` for all.
        mask: lanes that exist, when not all do.
    """
    loaded, type_ = [], e.vec(F32)
    for i in range(e.lanes):
        loaded.append(e.load(place, type_) if mask is None else e.load_masked(place, type_, mask))
        more = step
        if count is not None:
            more = e.b.select(e.b.icmp_signed("<", i64(i + 1), count), step, i64(0))
        if i + 1 < e.lanes:
            place = e.off(place, more)
    return transpose_block(e, loaded)


def _guarded(e: Emitter, index: int, count: Val | None) -> AbstractContextManager[object]:
    """Return the context of what is done where ``index`` is below ``count``; always if ``None``."""
    if count is None:
        return contextlib.nullcontext()
    found: AbstractContextManager[object] = e.b.if_then(
        e.b.icmp_signed("<", i64(index), count), likely=True
    )
    return found
