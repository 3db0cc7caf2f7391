"""Lowerings that need several steps: running products, Einsum, resizes, windows."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lowering import (
    cut,
    dtype_of,
    full,
    i64,
    inverse,
    operand,
    optional,
    rank_of,
    shape_of,
    static_shape,
)
from lepton_ir.backends.tflite.row import constant_ints
from lepton_ir.infer import const_array
from lepton_ir.ops.image import resamplings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value


def reversed_along(b: Builder, x: Value, axis: int) -> Value:
    """Build x with one axis turned around."""
    low = np.iinfo(np.int32).min
    found: Value = b.slice(x, i64(b, -1), i64(b, low), i64(b, axis), i64(b, -1))
    return found


def _cum_prod(b: Builder, op: Op) -> list[Value]:
    """Multiply by what lies 1, 2, 4, ... elements before, with ones in front."""
    x, axes = operand(op, 0), constant_ints(operand(op, 1))
    if axes is None:
        raise ValueError("the axis is not a constant")
    rank = rank_of(x)
    axis = axes[0] % rank
    size = shape_of(x)[axis]
    if not isinstance(size, int):
        raise ValueError("the size of the axis is not known")
    if op.attr("reverse"):
        x = reversed_along(b, x, axis)
    if op.attr("exclusive"):
        x = _shifted(b, x, axis, size, 1)
    step = 1
    while step < size:
        x = b.mul(x, _shifted(b, x, axis, size, step))
        step *= 2
    return [reversed_along(b, x, axis) if op.attr("reverse") else x]


def _shifted(b: Builder, x: Value, axis: int, size: int, step: int) -> Value:
    """Build x moved along an axis, with ones in front."""
    pads = [0] * (2 * rank_of(x))
    pads[axis] = step
    found: Value = b.pad(cut(b, x, axis, 0, size - step), i64(b, *pads), full(b, 1, x))
    return found


# -- Einsum ----------------------------------------------------------------------------------------


def _einsum(b: Builder, op: Op) -> list[Value]:
    """Operands one after the other, each joined to the rest by a product of matrices."""
    left, _, right = op.attr("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    values = [operand(op, i) for i in range(len(terms))]
    labels = [_expand_dots(t, rank_of(v)) for t, v in zip(terms, values, strict=True)]
    width = max((sum(c.isdigit() for c in t) for t in labels), default=0)
    dots = "".join(str(i) for i in range(width))
    if "->" in op.attr("equation"):
        result = right.replace("...", dots)
    else:
        letters = sorted(c for c in "".join(terms) if c.isalpha())
        result = dots + "".join(c for c in letters if letters.count(c) == 1)
    parts = [_diagonal(b, v, t) for v, t in zip(values, labels, strict=True)]
    value, term = parts[0]
    for i, (other, text) in enumerate(parts[1:], 1):
        later = set(result).union(*(t for _, t in parts[i + 1 :]))
        value, term = _joined(b, value, term, other, text, later)
    value, term = _summed(b, value, term, set(result))
    if term != result:
        value = b.transpose(value, perm=[term.index(c) for c in result])
    return [value]


def _expand_dots(term: str, rank: int) -> str:
    """Write the axes of an ellipsis as digits, those at the right the same for all operands."""
    if "..." not in term:
        return term
    count = rank - len(term.replace("...", ""))
    if count > 9:
        raise ValueError("there are too many axes")
    return term.replace("...", "".join(str(i) for i in range(count)))


def _diagonal(b: Builder, value: Value, term: str) -> tuple[Value, str]:
    """Keep the diagonal of axes with one label."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            size = static_shape(value)[first]
            shape = [1] * len(term)
            shape[first] = shape[second] = size
            eye = np.eye(size, dtype=dtype_of(value).numpy).reshape(shape)
            value = b.reduce_sum(b.mul(value, b.const(eye)), i64(b, second), keepdims=False)
            term = term[:second] + term[second + 1 :]
    return value, term


def _summed(b: Builder, value: Value, term: str, kept: set[str]) -> tuple[Value, str]:
    """Add up the axes that nothing reads any more."""
    gone = [i for i, c in enumerate(term) if c not in kept]
    if not gone:
        return value, term
    found = b.reduce_sum(value, i64(b, *gone), keepdims=False)
    return found, "".join(c for c in term if c in kept)


def _joined(
    b: Builder, x: Value, left: str, y: Value, right: str, later: set[str]
) -> tuple[Value, str]:
    """Multiply two operands and add up what only they have."""
    x, left = _summed(b, x, left, later | set(right))
    y, right = _summed(b, y, right, later | set(left))
    shared = [c for c in left if c in right]
    if any(c.isdigit() for c in left + right):
        return _broadcast(b, x, left, y, right, later)
    batch = [c for c in shared if c in later]
    inner = [c for c in shared if c not in later]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    if not inner:
        return _broadcast(b, x, left, y, right, later)
    dims = dict(zip(left, shape_of(x), strict=True)) | dict(zip(right, shape_of(y), strict=True))
    a = _grouped(b, x, left, [batch, rows, inner], dims)
    c = _grouped(b, y, right, [batch, inner, columns], dims)
    product = b.matmul(a, c)
    order = [*batch, *rows, *columns]
    wanted = [dims[k] for k in order]
    if sum(not isinstance(d, int) for d in wanted) <= 1:
        return _unfolded(b, product, wanted), "".join(order)
    vector = [_size_of(b, c, (x, left), (y, right)) for c in order]
    return b.reshape(product, b.concat(*vector, axis=0)), "".join(order)


def _size_of(b: Builder, label: str, *terms: tuple[Value, str]) -> Value:
    """Build the size of a label as a vector of one element."""
    value, term = next(t for t in terms if label in t[1])
    axis = term.index(label)
    found: Value = b.slice(b.shape(value), i64(b, axis), i64(b, axis + 1))
    return found


def _count(labels: Sequence[str], dims: dict[str, Any]) -> int:
    found = 1
    for label in labels:
        if not isinstance(dims[label], int):
            return -1
        found *= dims[label]
    return found


def _grouped(
    b: Builder, value: Value, term: str, groups: list[list[str]], dims: dict[str, Any]
) -> Value:
    order = [c for group in groups for c in group]
    if list(term) != order:
        value = b.transpose(value, perm=[term.index(c) for c in order])
    counts = [_count(group, dims) for group in groups]
    if counts.count(-1) <= 1:
        return _unfolded(b, value, counts)
    vector = b.shape(value)
    parts, at = [], 0
    for group in groups:
        own = b.slice(vector, i64(b, at), i64(b, at + len(group)))
        parts.append(b.reduce_prod(own, i64(b, 0), keepdims=True) if group else i64(b, 1))
        at += len(group)
    found: Value = b.reshape(value, b.concat(*parts, axis=0))
    return found


def _unfolded(b: Builder, value: Value, wanted: Sequence[Any]) -> Value:
    target = [d if isinstance(d, int) and d >= 0 else -1 for d in wanted]
    if target.count(-1) > 1:
        raise ValueError("too many sizes are not known")
    found: Value = b.reshape(value, i64(b, *target))
    return found


def _broadcast(
    b: Builder, x: Value, left: str, y: Value, right: str, later: set[str]
) -> tuple[Value, str]:
    """Multiply with all labels as axes, then add up."""
    dots = sorted({c for c in left + right if c.isdigit()}, key=int)
    width = len(dots)
    # An ellipsis of fewer axes is one of the last axes of the longer.
    names = {}
    for term in (left, right):
        own = [c for c in term if c.isdigit()]
        names[term] = {c: dots[width - len(own) + i] for i, c in enumerate(own)}
    left_ = "".join(names[left].get(c, c) for c in left)
    right_ = "".join(names[right].get(c, c) for c in right)
    order = [*dots, *dict.fromkeys(c for c in left_ + right_ if c.isalpha())]
    parts = []
    for value, term in ((x, left_), (y, right_)):
        sorted_term = [c for c in order if c in term]
        moved = value
        if list(term) != sorted_term:
            moved = b.transpose(value, perm=[term.index(c) for c in sorted_term])
        for i, c in enumerate(order):
            if c not in term:
                moved = b.unsqueeze(moved, i64(b, i))
        parts.append(moved)
    return _summed(b, b.mul(*parts), "".join(order), later)


# -- resizes ---------------------------------------------------------------------------------------


def _resize(b: Builder, op: Op) -> list[Value]:
    """The plane of (N, C, H, W) goes into the middle; else axis by axis."""
    x = operand(op, 0)
    found = _plane(b, op, x)
    if found is not None:
        return [found]
    known = [None if v is None else const_array(v) for v in op.operands[1:]]
    roi, scales, sizes = (known + [None] * 3)[:3]
    given = optional(op, 3)
    shape = [d if isinstance(d, int) else 1 for d in shape_of(x)]
    if given is not None and sizes is None:
        sizes = _stated_sizes(op)
    if any(
        v is not None and k is None
        for v, k in zip(
            (optional(op, 1), optional(op, 2), given), (roi, scales, sizes), strict=True
        )
    ):
        raise ValueError("scales, sizes or the region are not constants")
    if any(
        not isinstance(old, int) and old != new
        for old, new in zip(shape_of(x), shape_of(op.results[0]), strict=True)
    ):
        raise ValueError("a size that changes is not known")
    dtype = dtype_of(x)
    value = x
    outside: list[tuple[int, Any]] = []
    steps = resamplings(shape, roi, scales, sizes, op.all_attrs())
    if dtype is not dtypes.F32 and any(s.weights is not None for s in steps):
        value = b.cast(value, to=dtypes.F32)
    for step in steps:
        if step.weights is None:
            value = b.gather(value, b.const(step.indexes[:, 0]), axis=step.axis)
        else:
            value = _mixed(b, value, step.axis, shape[step.axis], step.indexes, step.weights)
        if step.outside is not None and step.outside.any():
            outside.append((step.axis, step.outside))
    for axis, mask in outside:
        where = mask.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        value = b.where(b.const(where), full(b, op.attr("extrapolation_value"), value), value)
    if value.dtype is not dtype:
        if not dtype.is_float:
            raise ValueError("integers are rounded in an unknown way")
        value = b.cast(value, to=dtype)
    return [value if value is not x else b.identity(x)]


def _stated_sizes(op: Op) -> Any:
    """Return the new sizes where only those that stay are unknown, which count as 1."""
    old, new = shape_of(operand(op, 0)), shape_of(op.results[0])
    axes = range(len(old)) if op.attr("axes") is None else op.attr("axes")
    if any(not isinstance(new[a], int) and new[a] != old[a] for a in axes):
        return None
    if any(new[a] is None for a in axes):
        return None
    return np.asarray([d if isinstance(d := new[a], int) else 1 for a in axes], np.int64)


def _mixed(b: Builder, x: Value, axis: int, size: int, indexes: Any, weights: Any) -> Value:
    """Multiply one axis by the matrix of weights."""
    matrix = np.zeros((size, len(indexes)), np.float64)
    for k in range(indexes.shape[1]):
        np.add.at(matrix, (indexes[:, k], np.arange(len(indexes))), weights[:, k])
    rank = rank_of(x)
    perm = [*(i for i in range(rank) if i != axis), axis]
    moved = x if axis == rank - 1 else b.transpose(x, perm=perm)
    lead = static_shape(moved)[:-1] if rank > 4 else ()
    flat = b.reshape(moved, i64(b, -1, size)) if rank > 4 else moved
    flat = b.unsqueeze(flat, i64(b, 0)) if rank == 1 else flat
    y = b.matmul(flat, b.const(matrix.astype(np.float32)))
    y = b.reshape(y, i64(b, *lead, len(indexes))) if rank > 4 or rank == 1 else y
    found: Value = y if axis == rank - 1 else b.transpose(y, perm=inverse(perm))
    return found


def _plane(b: Builder, op: Op, x: Value) -> Value | None:
    """Build the resize of channels-last tensors where TFLite does that one."""
    from lepton_ir.backends.tflite.resizing import fits_plane

    if not fits_plane(op):
        return None
    rest = [optional(op, i) for i in range(1, 4)]
    attrs = {k: v for k, v in op.attrs.items() if k != "axes"}
    axes = op.attr("axes")
    for i, value in enumerate(rest):
        if value is None or i == 0:
            rest[i] = None
            continue
        if axes is None:
            rest[i] = b.gather(value, i64(b, 0, 2, 3, 1))
        else:
            attrs["axes"] = tuple({2: 1, 3: 2}[a % 4] for a in axes)
    moved = b.transpose(x, perm=(0, 2, 3, 1))
    found: Value = b.transpose(b.build("resize", moved, *rest, **attrs).result, perm=(0, 3, 1, 2))
    return found


# -- windows ---------------------------------------------------------------------------------------


def window_parts(b: Builder, x: Value, axis: int, plan: tuple[int, int, int, int]) -> list[Value]:
    """Build, for each tap of a window along an axis, the elements that lie under it.

    Args:
        b: the builder.
        x: the padded tensor.
        axis: which axis.
        plan: taps, stride, dilation and number of windows.
    """
    taps, stride, dilation, count = plan
    found = []
    for tap in range(taps):
        start = tap * dilation
        stop = start + (count - 1) * stride + 1
        found.append(b.slice(x, i64(b, start), i64(b, stop), i64(b, axis), i64(b, stride)))
    return found


def reduced(b: Builder, name: str, parts: Sequence[Value]) -> Value:
    """Build a chain of a commutative operation."""
    found = parts[0]
    for part in parts[1:]:
        found = b.build(name, found, part).result
    return found


def _lrn(b: Builder, op: Op) -> list[Value]:
    """Add up squares of neighbour channels by slices."""
    x = operand(op, 0)
    size = op.attr("size")
    channels = shape_of(x)[-1]
    rank = rank_of(x)
    if not isinstance(channels, int):
        raise ValueError("the channels are not known")
    if dtype_of(x) is not dtypes.F32:
        raise ValueError(f"there is no normalization of {x.dtype}")
    before = (size - 1) // 2
    pads = [0] * (2 * rank)
    pads[rank - 1], pads[2 * rank - 1] = before, size - 1 - before
    squares = b.pad(b.mul(x, x), i64(b, *pads), full(b, 0, x))
    total = reduced(b, "add", window_parts(b, squares, rank - 1, (size, 1, 1, channels)))
    scaled = b.mul(total, full(b, op.attr("alpha") / size, x))
    base = b.add(scaled, full(b, op.attr("bias"), x))
    return [b.div(x, b.pow(base, full(b, op.attr("beta"), x)))]


def _softmax(b: Builder, op: Op) -> list[Value]:
    """The axis goes last; before opset 13 all axes from it on are one."""
    x = operand(op, 0)
    rank = rank_of(x)
    axis = op.attr("axis") % max(rank, 1)
    if not rank:
        raise ValueError("x is a scalar")
    if op.attr("coerce_2d") and axis != rank - 1:
        assert op.definition is not None
        assert op.definition.decompose is not None
        found: list[Value] = op.definition.decompose(b, op)
        return found
    if axis == rank - 1:
        return [_flat_softmax(b, op, x)]
    perm = [*(i for i in range(rank) if i != axis), axis]
    y = b.build(op.name, b.transpose(x, perm=perm)).result
    return [b.transpose(y, perm=inverse(perm))]


def _flat_softmax(b: Builder, op: Op, x: Value) -> Value:
    """More axes than the operator takes become one."""
    shape = static_shape(x)
    if len(shape) <= 4:
        raise ValueError("no operator does this softmax")
    y = b.build(op.name, b.reshape(x, i64(b, -1, shape[-1]))).result
    found: Value = b.reshape(y, i64(b, *shape))
    return found


def _center_crop_pad(b: Builder, op: Op) -> list[Value]:
    x, wanted = operand(op, 0), constant_ints(operand(op, 1))
    if wanted is None:
        raise ValueError("the new shape is not a constant")
    shape = static_shape(x)
    axes = op.attr("axes") if op.attr("axes") is not None else range(len(shape))
    pads = [0] * (2 * len(shape))
    for axis, size in zip(axes, wanted, strict=True):
        axis %= len(shape)
        old = shape[axis]
        if size < old:
            start = (old - size) // 2
            x = cut(b, x, axis, start, start + size)
        else:
            pads[axis] = (size - old) // 2
            pads[axis + len(shape)] = size - old - pads[axis]
    return [b.pad(x, i64(b, *pads)) if any(pads) else b.identity(x)]


def _lp_pool(b: Builder, op: Op) -> list[Value]:
    """Mean of the powers times the window, and the root."""
    x, p = operand(op, 0), op.attr("p")
    attrs = {k: v for k, v in op.attrs.items() if k != "p"}
    power = b.mul(x, x) if p == 2 else b.pow(b.abs(x), full(b, p, x))
    mean = b.build("average_pool", power, count_include_pad=True, **attrs).result
    if op.attr("ceil_mode"):
        raise ValueError("windows that reach over the border have fewer elements")
    count = int(np.prod(op.attr("kernel_shape")))
    total = b.mul(mean, full(b, count, x))
    return [b.sqrt(total) if p == 2 else b.pow(total, full(b, 1 / p, x))]


def _det(b: Builder, op: Op) -> list[Value]:
    """Leibniz's formula for matrices of up to 3 rows."""
    x = operand(op, 0)
    size = shape_of(x)[-1]
    if size not in (1, 2, 3):
        raise ValueError("only determinants of up to three rows are written out")
    rank = rank_of(x)

    def element(i: int, j: int) -> Value:
        row = cut(b, cut(b, x, rank - 2, i, i + 1), rank - 1, j, j + 1)
        found: Value = b.squeeze(row, i64(b, rank - 2, rank - 1))
        return found

    total: Value | None = None
    for order in itertools.permutations(range(int(size))):
        term = reduced(b, "mul", [element(i, j) for i, j in enumerate(order)])
        odd = sum(p > q for p, q in itertools.combinations(order, 2)) % 2
        total = term if total is None else b.sub(total, term) if odd else b.add(total, term)
    assert total is not None
    return [total]


_EXACT_TERMS = (1 << 24) // (255 * 255) - 1
"""Products of 8-bit integers whose sum floats of 32 bits hold exactly."""


def _integer_chunks(b: Builder, op: Op, x: Value, w: Value, terms: int) -> list[Value]:
    """Add up products of parts of the inner axis, each of which floats hold exactly."""
    first, second = rank_of(x) - 1, max(rank_of(w) - 2, 0)
    total: Value | None = None
    zeros = op.operands[2:]
    for start in range(0, terms, _EXACT_TERMS):
        stop = min(start + _EXACT_TERMS, terms)
        parts = cut(b, x, first, start, stop), cut(b, w, second, start, stop)
        product = b.matmul_integer(*parts, *zeros)
        total = product if total is None else b.add(total, product)
    assert total is not None
    return [total]


def _integer_product(name: str) -> Callable[[Any, Op], list[Value]]:
    """Return the lowering of a product of 8-bit integers to one of floats, where that is exact."""

    def lower(b: Builder, op: Op) -> list[Value]:
        x, w = operand(op, 0), operand(op, 1)
        shape = static_shape(w)
        terms = shape[-2] if name == "matmul" and len(shape) > 1 else int(np.prod(shape[1:]))
        terms = shape[0] if len(shape) == 1 else terms
        if terms > _EXACT_TERMS:
            if name == "conv":
                raise ValueError("the sums may be larger than floats count exactly")
            return _integer_chunks(b, op, x, w, terms)
        parts = []
        for i, value in enumerate((x, w)):
            wide = b.cast(value, to=dtypes.F32)
            zero = optional(op, 2 + i)
            if zero is not None:
                point = b.cast(zero, to=dtypes.F32)
                if (zero.rank or 0) == 1 and i == 0 and name == "matmul":
                    point = b.unsqueeze(point, i64(b, 1))
                elif (zero.rank or 0) == 1 and i == 1 and name == "conv":
                    point = b.reshape(point, i64(b, -1, *[1] * (rank_of(w) - 1)))
                wide = b.sub(wide, point)
            parts.append(wide)
        attrs = op.attrs if name == "conv" else {}
        return [b.cast(b.build(name, *parts, **attrs).result, to=dtypes.I32)]

    return lower


LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {
    "cum_prod": _cum_prod,
    "einsum": _einsum,
    "resize": _resize,
    "lrn_nhwc": _lrn,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "center_crop_pad": _center_crop_pad,
    "lp_pool": _lp_pool,
    "det": _det,
    "conv_integer": _integer_product("conv"),
    "matmul_integer": _integer_product("matmul"),
}
