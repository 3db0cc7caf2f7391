"""Rows of operators that move elements: reshape, slice, pad, concatenate, and shapes themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.formats.tflite.schema import enums
from lepton_ir.frontends.tflite.table import row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.ir import Value

OPEN = int(np.iinfo(np.int64).max)
"""A bound of a slice that is none."""


MAX_RANK = 64
"""Axes of a shape that is computed with."""

MAX_MASK = 1 << 22
"""Elements of a mask that a diagonal becomes."""


def _moved(call: Call, index: int = 0) -> Value:
    """Return the operand of an operator that only moves elements.

    Such kernels copy integers: where the scales of both sides differ, they stand for other numbers
    afterwards, those of the result.
    """
    here, there = call.info(index).quantization, call.result().quantization
    if here is None or there is None or here.per_axis or here.same(there):
        if here is not None and there is None:
            call.opaque("the result has no scale")
        return call.real(index)
    return call.dequantize(call.raw(index), there)


@row("RESHAPE", ir="reshape")
def _reshape(call: Call) -> Value:
    x = _moved(call)
    if call.has(1):
        known = call.ints(1)
        shape = call.vector(1)
    else:
        given = call.options.new_shape
        known = None if given is None else tuple(map(int, given))
        if known is None:
            stated = call.result().shape
            known = tuple(-1 if d is None else d for d in stated)
        shape = call.b.const(np.asarray(known, np.int64).reshape(-1))
    zeros = known is None or 0 in known
    found: Value = call.b.reshape(x, shape, allowzero=zeros and -1 not in (known or ()))
    return found


@row("SQUEEZE", ir="squeeze")
def _squeeze(call: Call) -> Value:
    given = call.options.squeeze_dims
    axes = [] if given is None else [int(a) for a in given]
    x = _moved(call)
    found: Value = call.b.squeeze(x, axes) if axes else call.b.squeeze(x)
    return found


@row("EXPAND_DIMS", ir="unsqueeze")
def _expand_dims(call: Call) -> Value:
    found: Value = call.b.unsqueeze(_moved(call), call.vector(1))
    return found


@row("TRANSPOSE", ir="transpose")
def _transpose(call: Call) -> Value:
    order = call.need_ints(1, "the permutation")
    rank = call.rank(0)
    found: Value = call.b.transpose(_moved(call), perm=[a % rank for a in order])
    return found


@row("CONCATENATION", ir="concat")
def _concat(call: Call) -> Value:
    return call.activate(call.b.concat(*call.reals(), axis=call.options.axis))


@row("PACK", ir="pack")
def _pack(call: Call) -> Value:
    found: Value = call.b.pack(*call.reals(), axis=call.options.axis)
    return found


@row("UNPACK", ir="unpack")
def _unpack(call: Call) -> Sequence[Value]:
    count = len(call.outputs)
    op = call.b.build("unpack", _moved(call), axis=call.options.axis, results=count)
    return op.results


@row("SPLIT", ir="split")
def _split(call: Call) -> Sequence[Value]:
    axis = call.need_ints(0, "the axis")
    count = len(call.outputs)
    op = call.b.build("split", _moved(call, 1), axis=axis[0], num_outputs=count, results=count)
    return op.results


@row("SPLIT_V", ir="split")
def _split_v(call: Call) -> Sequence[Value]:
    axis = call.need_ints(2, "the axis")[0]
    count = len(call.outputs)
    sizes, known = call.vector(1), call.ints(1)
    if known is not None and -1 in known:
        total = call.dim(0, axis)
        if not isinstance(total, int):
            call.opaque("a part takes the rest of a dim that is not known")
        rest = total - sum(s for s in known if s >= 0)
        sizes = call.b.const(np.asarray([rest if s < 0 else s for s in known], np.int64))
    elif known is None:
        call.opaque("the sizes are not constant")
    op = call.b.build("split", _moved(call), sizes, axis=axis, results=count)
    return op.results


@row("TILE", ir="tile")
def _tile(call: Call) -> Value:
    found: Value = call.b.tile(_moved(call), call.vector(1))
    return found


@row("BROADCAST_TO", ir="expand")
def _broadcast_to(call: Call) -> Value:
    found: Value = call.b.expand(_moved(call), call.vector(1))
    return found


@row("BROADCAST_ARGS", ir="concat, equal, where", stored=True)
def _broadcast_args(call: Call) -> Value:
    b, first, second = call.b, call.index(0), call.index(1)
    lengths = [v.shape[0] if v.shape else None for v in (first, second)]
    known = [n for n in lengths if isinstance(n, int) and n <= MAX_RANK]
    if len(known) < len(lengths):
        call.opaque("the ranks are not known")
    shapes = []
    for value, length in zip((first, second), known, strict=True):
        ones = np.ones(max(known) - length, np.int64)
        shapes.append(b.concat(b.const(ones), value, axis=0) if ones.size else value)
    joint = b.where(b.equal(shapes[0], b.const(np.int64(1))), shapes[1], shapes[0])
    return call.cast(joint, call.result().dtype)


@row("REVERSE_V2", ir="slice")
def _reverse(call: Call) -> Value:
    axes = call.need_ints(1, "the axes")
    count = len(axes)
    steps = [-1] * count
    found: Value = call.b.slice(_moved(call), steps, [-OPEN] * count, list(axes), steps)
    return found


@row("REVERSE_SEQUENCE", ir="reverse_sequence, transpose")
def _reverse_sequence(call: Call) -> Value:
    rank = call.rank(0)
    time, batch = int(call.options.seq_dim), int(call.options.batch_dim)
    if not (0 <= time < rank and 0 <= batch < rank) or time == batch:
        call.opaque(f"the axes are {time} and {batch}")
    x, lens = call.real(0), call.index(1)
    if {time, batch} == {0, 1}:
        found: Value = call.b.reverse_sequence(x, lens, batch_axis=batch, time_axis=time)
        return found
    order = [batch, time, *(a for a in range(rank) if a not in (batch, time))]
    turned = call.b.reverse_sequence(
        call.b.transpose(x, perm=order), lens, batch_axis=0, time_axis=1
    )
    found = call.b.transpose(turned, perm=[order.index(a) for a in range(rank)])
    return found


# -- padding ---------------------------------------------------------------------------------------


def _pads(call: Call) -> Value:
    """Return pads as ONNX orders them: all beginnings, then all ends."""
    known = call.ints(1)
    if known is not None:
        return call.b.const(np.asarray(known, np.int64).reshape(-1, 2).T.reshape(-1))
    found: Value = call.b.reshape(call.b.transpose(call.index(1), perm=(1, 0)), [-1])
    return found


@row("PAD", "PADV2", ir="pad")
def _pad(call: Call) -> Value:
    x = _moved(call)
    value = None
    if call.has(2):
        value = call.real(2)
        if value.rank != 0:
            value = call.b.reshape(value, call.b.const(np.zeros(0, np.int64)))
    found: Value = call.b.pad(x, _pads(call), value)
    return found


@row("MIRROR_PAD", ir="pad, slice, concat")
def _mirror_pad(call: Call) -> Value:
    x = _moved(call)
    if enums()["MirrorPadMode"].name_of(int(call.options.mode)) == "REFLECT":
        found: Value = call.b.pad(x, _pads(call), mode="reflect")
        return found
    known = call.need_ints(1, "the padding")
    for axis, (begin, end) in enumerate(np.asarray(known).reshape(-1, 2).tolist()):
        parts = [x]
        if begin:
            parts.insert(0, call.b.slice(x, [begin - 1], [-OPEN], [axis], [-1]))
        if end:
            parts.append(call.b.slice(x, [-1], [-end - 1], [axis], [-1]))
        if end and call.dim(0, axis) == end:
            parts[-1] = call.b.slice(x, [-1], [-OPEN], [axis], [-1])
        x = parts[0] if len(parts) == 1 else call.b.concat(*parts, axis=axis)
    return x


# -- slices ----------------------------------------------------------------------------------------


@row("SLICE", ir="slice")
def _slice(call: Call) -> Value:
    x, begin, size = _moved(call), call.ints(1), call.ints(2)
    b = call.b
    if {len(v) for v in (begin, size) if v is not None} - {call.rank(0)}:
        call.opaque("there is not one bound for each axis")
    if begin is not None and size is not None:
        ends = [OPEN if n < 0 else s + n for s, n in zip(begin, size, strict=True)]
        found: Value = b.slice(x, list(begin), ends)
        return found
    starts, counts = call.vector(1), call.vector(2)
    ends_ = b.add(starts, counts)
    if size is None or min(size, default=0) < 0:
        ends_ = b.where(b.less(counts, b.const(np.int64(0))), b.const(np.int64(OPEN)), ends_)
    found = b.slice(x, starts, ends_)
    return found


class _Bounds:
    """Begin, end and step of a STRIDED_SLICE, entry by entry, with what the masks say of them."""

    def __init__(self, call: Call) -> None:
        self.call = call
        o = call.options
        self.steps = call.need_ints(3, "the strides")
        if 0 in self.steps:
            call.opaque("a stride is 0")
        self.masks = (o.begin_mask, o.end_mask, o.ellipsis_mask, o.new_axis_mask)
        self.shrink = int(o.shrink_axis_mask)
        self.offset = bool(o.offset)
        self.kinds = self._kinds()

    def _kinds(self) -> list[str]:
        found = []
        for i in range(len(self.steps)):
            if self.masks[2] >> i & 1:
                found.append("ellipsis")
            elif self.masks[3] >> i & 1:
                found.append("new")
            else:
                found.append("shrink" if self.shrink >> i & 1 else "slice")
        if found.count("ellipsis") > 1:
            self.call.opaque("there are two ellipses")
        return found

    def axes(self) -> list[int]:
        """Return the axis of the operand that each entry is about (-1 for those about none)."""
        taken = sum(k in ("slice", "shrink") for k in self.kinds)
        axis, found = 0, []
        for kind in self.kinds:
            found.append(-1 if kind in ("ellipsis", "new") else axis)
            if kind == "ellipsis":
                axis += self.call.rank(0) - taken
            elif kind != "new":
                axis += 1
        return found

    def static(self, i: int, begin: int, end: int) -> tuple[int, int]:
        """Return the bounds of entry ``i`` from constants."""
        step = self.steps[i]
        if self.offset:
            end += begin
        if self.kinds[i] == "shrink":
            return begin, OPEN if begin == -1 else begin + 1
        if self.masks[0] >> i & 1:
            begin = 0 if step > 0 else OPEN
        if self.masks[1] >> i & 1:
            end = OPEN if step > 0 else -OPEN
        return begin, end


@row("STRIDED_SLICE", ir="slice, squeeze, unsqueeze")
def _strided_slice(call: Call) -> Value:
    bounds = _Bounds(call)
    axes = bounds.axes()
    begin, end = call.ints(1), call.ints(2)
    x = _moved(call)
    entries = [i for i, a in enumerate(axes) if a >= 0]
    if begin is not None and end is not None:
        pairs = [bounds.static(i, begin[i], end[i]) for i in entries]
        starts: Any = [p[0] for p in pairs]
        ends: Any = [p[1] for p in pairs]
    else:
        starts, ends = _dynamic_bounds(call, bounds, entries)
    steps = [1 if bounds.kinds[i] == "shrink" else bounds.steps[i] for i in entries]
    if entries:
        x = call.b.slice(x, starts, ends, [axes[i] for i in entries], steps)
    gone = [axes[i] for i in entries if bounds.kinds[i] == "shrink"]
    if gone:
        x = call.b.squeeze(x, gone)
    added, position = [], 0
    for i, kind in enumerate(bounds.kinds):
        if kind == "new":
            added.append(position)
        if kind == "ellipsis":
            position += call.rank(0) - len(entries)
        elif kind != "shrink":
            position += 1
        del i
    return call.b.unsqueeze(x, added) if added else x


def _dynamic_bounds(call: Call, bounds: _Bounds, entries: list[int]) -> tuple[Value, Value]:
    b = call.b
    starts, ends = call.vector(1), call.vector(2)
    if bounds.offset:
        ends = b.add(starts, ends)
    if entries != list(range(len(bounds.kinds))):
        chosen = b.const(np.asarray(entries, np.int64))
        starts, ends = b.gather(starts, chosen), b.gather(ends, chosen)
    shrunk = np.array([bounds.kinds[i] == "shrink" for i in entries])
    free = [np.array([bool(m >> i & 1) for i in entries]) & ~shrunk for m in bounds.masks[:2]]
    steps = np.array([bounds.steps[i] for i in entries])
    if shrunk.any():
        last = b.equal(starts, b.const(np.int64(-1)))
        after = b.where(last, b.const(np.int64(OPEN)), b.add(starts, b.const(np.int64(1))))
        ends = b.where(b.const(shrunk), after, ends)
    if free[0].any():
        first = np.where(steps > 0, 0, OPEN).astype(np.int64)
        starts = b.where(b.const(free[0]), b.const(first), starts)
    if free[1].any():
        final = np.where(steps > 0, OPEN, -OPEN).astype(np.int64)
        ends = b.where(b.const(free[1]), b.const(final), ends)
    return starts, ends


@row("DYNAMIC_UPDATE_SLICE", ir="dynamic_update_slice")
def _dynamic_update_slice(call: Call) -> Value:
    found: Value = call.b.dynamic_update_slice(_moved(call), call.real(1), call.vector(2))
    return found


# -- shapes and fills ------------------------------------------------------------------------------


@row("SHAPE", ir="shape, cast", stored=True)
def _shape(call: Call) -> Value:
    return call.cast(call.b.shape(call.raw(0)), call.result().dtype)


@row("RANK", ir="shape, size", stored=True)
def _rank(call: Call) -> Value:
    x = call.raw(0)
    if x.rank is not None:
        found: Value = call.b.const(np.asarray(x.rank, np.int32))
        return found
    return call.cast(call.b.size(call.b.shape(x)), dtypes.I32)


@row("ZEROS_LIKE", ir="shape, expand")
def _zeros_like(call: Call) -> Value:
    x = call.real(0)
    found: Value = call.b.expand(call.scalar(0, x), call.b.shape(x))
    return found


@row("FILL", ir="expand")
def _fill(call: Call) -> Value:
    found: Value = call.b.expand(call.real(1), call.vector(0))
    return found


@row("RANGE", ir="range")
def _range(call: Call) -> Value:
    found: Value = call.b.range(*(call.real(i) for i in range(3)))
    return found


@row("MATRIX_DIAG", ir="unsqueeze, where")
def _matrix_diag(call: Call) -> Value:
    x = call.real(0)
    size = call.dim(0, -1)
    if not isinstance(size, int) or size * size > MAX_MASK:
        call.opaque("the size of the diagonal is not known, or large")
    eye = call.b.const(np.eye(size, dtype=bool))
    found: Value = call.b.where(eye, call.b.unsqueeze(x, [-2]), call.scalar(0, x))
    return found


@row("MATRIX_SET_DIAG", ir="unsqueeze, where")
def _matrix_set_diag(call: Call) -> Value:
    x, diagonal, b = call.real(0), call.real(1), call.b
    rows, columns = call.dim(0, -2), call.dim(0, -1)
    if not isinstance(rows, int) or not isinstance(columns, int) or rows * columns > MAX_MASK:
        call.opaque("the size of the matrices is not known, or large")
    # Along the longer axis the diagonal ends early; a shorter one broadcasts along it.
    axis = -1 if rows <= columns else -2
    found: Value = b.where(
        b.const(np.eye(rows, columns, dtype=bool)), b.unsqueeze(diagonal, [axis]), x
    )
    return found
