"""Random shape, indexing and reduction ops for `lepton_ir.tools.fuzz`."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from lepton_ir.tools.fuzz_graph import (
    ELEM_TYPES,
    Scope,
    Shape,
    Tensor,
    broadcast,
    product,
    static,
)
from lepton_ir.tools.fuzz_ops import production

__all__: list[str] = []


@production(2.5)
def transpose(g: Scope) -> Tensor | None:
    """One or two transposes, at times with an elementwise op between them."""
    x = g.pick(lambda t: 2 <= t.rank <= 5)
    if x is None:
        return None
    count = g.rng.randint(1, 3)
    for step in range(count):
        order = list(range(x.rank))
        g.rng.shuffle(order)
        default = g.rng.random() < 0.2
        order = list(reversed(range(x.rank))) if default else order
        shape = tuple(x.shape[axis] for axis in order)
        x = g.move("Transpose", [x], shape, perm=None if default else order)
        if step + 1 < count and x.plain and g.rng.random() < 0.4:
            x = g.emit("Relu", [x], lo=max(x.lo, 0), hi=max(x.hi, 0), exact=x.exact)
    return x


@production(2.5)
def reshape(g: Scope) -> Tensor | None:
    """Reshape by a constant that copies leading dims with 0 and infers one with -1."""
    x = g.pick(lambda t: t.nonempty and t.rank >= 1)
    if x is None:
        return None
    for _ in range(g.rng.randint(1, 2)):
        keep = g.rng.randint(0, x.rank)
        target: list[int] = []
        for axis in range(keep):
            size = static(x.shape[axis])
            target.append(size if size is not None and g.rng.random() < 0.5 else 0)
        shape = list(x.shape[:keep])
        rest = x.shape[keep:]
        if rest:
            shape.append(product(rest))
            target.append(-1)
        elif g.rng.random() < 0.5:
            shape.append(g.dim(1))
            target.append(g.rng.choice([1, -1]))
        x = g.move("Reshape", [x, g.ints(*target)], tuple(shape))
        if x.rank == 0:
            break
    return x


@production(1.0)
def split_dim(g: Scope) -> Tensor | None:
    """Reshape one even static dim into two."""
    x = g.pick(
        lambda t: t.known and t.rank <= 4 and any((static(d) or 1) % 2 == 0 for d in t.shape)
    )
    if x is None:
        return None
    axis = g.rng.choice([i for i, d in enumerate(x.shape) if (static(d) or 1) % 2 == 0])
    size = static(x.shape[axis]) or 0
    moving = [i for i, d in enumerate(x.shape) if static(d) is None]
    if any(i > axis for i in moving):
        return None
    target = [0] * axis + [2, size // 2] + [static(d) or 0 for d in x.shape[axis + 1 :]]
    if not size or 0 in target[axis:]:
        return None
    shape = (*x.shape[:axis], g.dim(2), g.dim(size // 2), *x.shape[axis + 1 :])
    return g.move("Reshape", [x, g.ints(*target)], shape)


@production(1.5)
def flatten(g: Scope) -> Tensor | None:
    """Flatten at any axis."""
    x = g.pick(lambda t: t.known and t.rank >= 1 and t.dtype != "f16")
    if x is None:
        return None
    axis = g.rng.randint(0, x.rank)
    one = g.dim(1)
    shape = (product([one, *x.shape[:axis]]), product([one, *x.shape[axis:]]))
    return g.move("Flatten", [x], shape, axis=axis)


@production(1.5)
def squeeze_unsqueeze(g: Scope) -> Tensor | None:
    """Unsqueeze, Squeeze, or both."""
    x = g.pick(lambda t: t.rank <= 4)
    if x is None:
        return None
    ones = [axis for axis, dim in enumerate(x.shape) if static(dim) == 1]
    if ones and g.rng.random() < 0.5:
        return g.squeeze(x, g.rng.sample(ones, g.rng.randint(1, len(ones))))
    axes = sorted(g.rng.sample(range(x.rank + 2), g.rng.randint(1, 2)))
    axes = [axis for i, axis in enumerate(axes) if axis <= x.rank + i]
    x = g.unsqueeze(x, axes) if axes else x
    return g.squeeze(x, axes) if axes and g.rng.random() < 0.3 else x


@production(1.5)
def concat(g: Scope) -> Tensor | None:
    """Concat of one to three tensors; at times split again."""
    x = g.pick(lambda t: t.known and t.rank >= 1)
    if x is None:
        return None
    axis = g.rng.randrange(x.rank)

    def fits(t: Tensor) -> bool:
        same = t.rank == x.rank and t.dtype == x.dtype and t.known
        return same and all(i == axis or t.shape[i] == d for i, d in enumerate(x.shape))

    parts = [x]
    for _ in range(g.rng.randint(0, 2)):
        part = g.pick(fits)
        parts += [part] if part else []
    sizes = [part.shape[axis] for part in parts]
    total = tuple(sum(column) for column in zip(*(s for s in sizes if s), strict=True))
    shape = (*x.shape[:axis], total, *x.shape[axis + 1 :])
    if g.too_large(shape):
        return None
    joined = g.emit(
        "Concat", parts, shape=shape, axis=axis if g.rng.random() < 0.7 else axis - x.rank,
        lo=min(p.lo for p in parts), hi=max(p.hi for p in parts), exact=all(p.exact for p in parts),
    )  # fmt: skip
    known = [static(size) for size in sizes]
    if g.rng.random() < 0.4 and all(size is not None for size in known):
        return _split(g, joined, axis, [size for size in known if size is not None])
    return joined


def _split(g: Scope, x: Tensor, axis: int, sizes: list[int]) -> Tensor:
    inputs: list[Tensor | None] = [x]
    attrs: dict[str, Any] = {"axis": axis}
    if g.opset < 13:
        attrs["split"] = sizes
    elif g.opset >= 18 and len(set(sizes)) == 1 and g.rng.random() < 0.5:
        attrs["num_outputs"] = len(sizes)
    else:
        inputs.append(g.ints(*sizes))
    results = [
        Tensor(
            g.context.fresh("part"), x.dtype, (*x.shape[:axis], g.dim(size), *x.shape[axis + 1 :]),
            x.lo, x.hi, x.exact, x.special,
        )
        for size in sizes
    ]  # fmt: skip
    g.node("Split", inputs, [t.name for t in results], **attrs)
    return [g.add(t) for t in results][-1]


@production(1.0)
def split(g: Scope) -> Tensor | None:
    """Split a static dim in two or three."""
    x = g.pick(lambda t: any((static(d) or 0) >= 2 for d in t.shape))
    if x is None:
        return None
    axis = g.rng.choice([i for i, d in enumerate(x.shape) if (static(d) or 0) >= 2])
    size = static(x.shape[axis]) or 0
    cut = g.rng.randint(1, size - 1)
    return _split(g, x, axis, [cut, size - cut])


@production(2.5)
def slices(g: Scope) -> Tensor | None:
    """One or two slices of a dim, with negative bounds and steps now and then."""
    x = g.pick(lambda t: t.known and t.rank >= 1)
    if x is None:
        return None
    for _ in range(g.rng.randint(1, 2)):
        axis = g.rng.randrange(x.rank)
        step = g.rng.choice([1, 1, 1, 2, -1, -2]) if g.opset >= 10 else 1
        start = g.rng.choice([0, 0, 1, -1, -2, 2])
        end = g.rng.choice([2**31 - 1, 2, -1, 3, 1])
        if step < 0:
            start, end = g.rng.choice([-1, 2**31 - 1, 1]), g.rng.choice([-(2**31) + 1, 0, -3])
        sizes = x.shape[axis]
        assert sizes is not None
        size = tuple(len(range(*slice(start, end, step).indices(s))) for s in sizes)
        if min(size) == 0 and g.rng.random() < 0.8:
            continue
        x = g.slice(x, axis, (start, end), size, step)
    return x


@production(1.5)
def expand_tile(g: Scope) -> Tensor | None:
    """Expand or Tile by constants, also to the same shape."""
    x = g.pick(lambda t: t.known and 1 <= t.rank <= 4 and t.dtype in {"f32", "i64", "i32", "bool"})
    if x is None:
        return None
    if g.rng.random() < 0.5:
        repeats = [g.rng.choice([1, 1, 2]) for _ in x.shape]
        shape = tuple(
            d and tuple(s * r for s in d) for d, r in zip(x.shape, repeats, strict=True)
        )  # fmt: skip
        return None if g.too_large(shape) else g.move("Tile", [x, g.ints(*repeats)], shape)
    target = [g.rng.choice([1, 3]) if static(d) == 1 else 1 for d in x.shape]
    if g.rng.random() < 0.4:
        target.insert(0, 2)
    joined = broadcast(x.shape, g.dims(*target))
    if joined is None or g.too_large(joined):
        return None
    return g.move("Expand", [x, g.ints(*target)], joined)


@production(1.5)
def pad(g: Scope) -> Tensor | None:
    """Pad with zeros, a value, edges or reflections."""
    x = g.pick(lambda t: t.plain and 1 <= t.rank <= 4)
    if x is None:
        return None
    mode = g.rng.choice(["constant", "constant", "edge", "reflect"])
    if mode != "constant" and not all(d is not None and min(d) >= 2 for d in x.shape):
        mode = "constant"
    pads = [g.rng.choice([0, 0, 1]) for _ in range(2 * x.rank)]
    if mode == "constant" and g.rng.random() < 0.3:
        pads = [0] * len(pads)
    shape = tuple(
        d and tuple(s + pads[i] + pads[i + x.rank] for s in d) for i, d in enumerate(x.shape)
    )
    value = g.rng.choice([0.0, 0.0, 1.5])
    ends: dict[str, Any] = {"lo": min(x.lo, value), "hi": max(x.hi, value), "exact": x.exact}
    if g.opset < 11:
        return g.emit("Pad", [x], shape=shape, mode=mode, pads=pads, value=value, **ends)
    inputs = [x, g.ints(*pads)]
    if value or g.rng.random() < 0.3:
        inputs.append(g.scalar(value))
    return g.emit("Pad", inputs, shape=shape, mode=mode, **ends)


@production(1.0)
def shape_ops(g: Scope) -> Tensor | None:
    """Shape, Size, ConstantOfShape and Range of known dims."""
    x = g.pick(lambda t: t.known and 1 <= t.rank <= 4)
    if x is None:
        return None
    op = g.rng.choice(["Shape", "Size", "ConstantOfShape", "Range"])
    if op == "Size":
        return g.emit("Size", [x], shape=(), dtype="i64", lo=0, hi=512, exact=True)
    shape_of = g.emit("Shape", [x], shape=g.dims(x.rank), dtype="i64", lo=0, hi=512, exact=True,
                      special=False)  # fmt: skip
    if op == "ConstantOfShape":
        return _filled(g, shape_of, x.shape)
    if op == "Shape" or g.opset < 11:
        return shape_of
    index = g.rng.randrange(x.rank)
    end = g.move("Gather", [shape_of, g.scalar(index, "i64")], (), axis=0)
    return g.emit(
        "Range", [g.scalar(0, "i64"), end, g.scalar(1, "i64")], shape=(x.shape[index],),
        lo=0, hi=512, exact=True,
    )  # fmt: skip


def _filled(g: Scope, shape_of: Tensor, shape: Shape) -> Tensor:
    value = g.rng.choice([0.0, 1.0, 2.5])
    proto = helper.make_tensor("value", ELEM_TYPES["f32"], [1], [value])
    return g.emit(
        "ConstantOfShape", [shape_of], shape=shape, dtype="f32", lo=value, hi=value, exact=True,
        value=proto,
    )  # fmt: skip


# -- indexing and reduction --------------------------------------------------------------------


@production(2.0)
def gather(g: Scope) -> Tensor | None:
    """Gather with constant indices, negative ones too, or a scalar index."""
    x = g.pick(lambda t: t.nonempty and t.rank >= 1)
    if x is None:
        return None
    axis = g.rng.randrange(x.rank)
    least = min(x.shape[axis] or (1,))
    values = [g.rng.randrange(-least, least) for _ in range(g.rng.choice([1, 2, 3]))]
    if g.rng.random() < 0.4:
        index = g.scalar(values[0], g.rng.choice(["i64", "i32"]))
    else:
        index = g.constant(np.array(values, np.int64))
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return g.move("Gather", [x, index], shape, axis=axis)


@production(0.7, since=11)
def gather_elements(g: Scope) -> Tensor | None:
    """GatherElements or GatherND with constant indices."""
    x = g.pick(lambda t: t.plain and t.nonempty and 1 <= t.rank <= 3)
    if x is None:
        return None
    least = [min(d or (1,)) for d in x.shape]
    if g.rng.random() < 0.5:
        rows = [[g.rng.randrange(size) for size in least] for _ in range(2)]
        return g.move("GatherND", [x, g.constant(np.array(rows, np.int64))], g.dims(2))
    index = np.array([g.rng.randrange(least[0]) for _ in range(int(np.prod(least)))], np.int64)
    constant = g.constant(index.reshape(least))
    return g.move("GatherElements", [x, constant], constant.shape, axis=0)


@production(0.7, since=11)
def scatter(g: Scope) -> Tensor | None:
    """ScatterElements or ScatterND with distinct constant indices."""
    x = g.pick(lambda t: t.plain and t.nonempty and 1 <= t.rank <= 3)
    if x is None:
        return None
    row = g.rng.randrange(min(x.shape[0] or (1,)))
    tail = [static(d) for d in x.shape[1:]]
    if any(size is None for size in tail):
        return None
    sizes = [1, *(size for size in tail if size is not None)]
    updates = g.weights(*sizes)
    ends: dict[str, Any] = {"lo": min(x.lo, -1.0), "hi": max(x.hi, 1.0), "exact": x.exact}
    if g.rng.random() < 0.5:
        return g.emit("ScatterND", [x, g.constant(np.array([[row]])), updates], **ends)
    index = g.constant(np.full(sizes, row, np.int64))
    return g.emit("ScatterElements", [x, index, updates], axis=0, **ends)


@production(3.0)
def reduce(g: Scope) -> Tensor | None:
    """A reduction over some axes."""
    x = g.pick(
        lambda t: t.nonempty and t.rank >= 1 and not t.special and t.dtype in {"f32", "i64", "i32"}
    )
    if x is None:
        return None
    op = g.rng.choice(
        ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare",
         "ReduceL1"]
    )  # fmt: skip
    if x.integer:
        op = g.rng.choice(["ReduceSum", "ReduceMax", "ReduceMin"])
    if op == "ReduceProd" and max(abs(x.lo), abs(x.hi)) > 1:
        op = "ReduceSum"
    axes = sorted(g.rng.sample(range(x.rank), g.rng.randint(1, x.rank)))
    if g.rng.random() < 0.3:
        axes = [axis - x.rank for axis in axes]
        positive = [axis + x.rank for axis in axes]
        return g.tame(g.reduce(op, x, positive, g.rng.random() < 0.6))
    return g.tame(g.reduce(op, x, axes, g.rng.random() < 0.6))


@production(0.8)
def arg_reduce(g: Scope) -> Tensor | None:
    """ArgMax or ArgMin of exact values."""
    x = g.pick(lambda t: t.plain and t.exact and t.nonempty and t.rank >= 1)
    if x is None:
        return None
    axis, keep = g.rng.randrange(x.rank), g.rng.random() < 0.5
    shape = (*x.shape[:axis], *([g.dim(1)] if keep else []), *x.shape[axis + 1 :])
    return g.emit(
        g.rng.choice(["ArgMax", "ArgMin"]), [x], shape=shape, dtype="i64",
        lo=0, hi=max(x.shape[axis] or (1,)), exact=True, axis=axis, keepdims=int(keep),
    )  # fmt: skip


@production(0.8)
def top_k(g: Scope) -> Tensor | None:
    """TopK of exact values; both results, or one, become visible."""
    x = g.pick(lambda t: t.plain and t.exact and t.nonempty and t.rank >= 1)
    if x is None:
        return None
    axis = g.rng.randrange(x.rank)
    k = g.rng.randint(1, min(x.shape[axis] or (1,)))
    shape = (*x.shape[:axis], g.dim(k), *x.shape[axis + 1 :])
    values = Tensor(g.context.fresh("top"), "f32", shape, x.lo, x.hi, exact=True)
    places = Tensor(g.context.fresh("at"), "i64", shape, 0, 512, exact=True)
    if g.opset < 10:
        g.node("TopK", [x], [values.name, places.name], axis=axis, k=k)
    else:
        g.node("TopK", [x, g.ints(k)], [values.name, places.name], axis=axis)
    g.add(places)
    return g.add(values)


@production(0.7, since=11)
def cumulate(g: Scope) -> Tensor | None:
    """CumSum with its options."""
    x = g.pick(lambda t: t.nonempty and t.rank >= 1 and (t.plain or t.integer))
    if x is None:
        return None
    axis = g.rng.randrange(x.rank)
    count = max(x.shape[axis] or (1,))
    size = max(abs(x.lo), abs(x.hi)) * count
    flags: dict[str, Any] = {name: g.rng.randint(0, 1) for name in ("exclusive", "reverse")}
    exact = x.exact and x.integer
    inputs = [x, g.scalar(axis, "i64")]
    return g.tame(g.emit("CumSum", inputs, lo=-size, hi=size, exact=exact, **flags))


@production(0.6)
def one_hot(g: Scope) -> Tensor | None:
    """OneHot of small integers, out-of-range ones and (since opset 11) negative ones included."""
    low = -100 if g.opset >= 11 else 0
    x = g.pick(
        lambda t: t.dtype == "i64" and t.exact and t.known and 1 <= t.rank <= 2 and t.lo >= low
    )
    if x is None:
        return None
    shape = (*x.shape, g.dim(3))
    if g.too_large(shape):
        return None
    values = g.constant(np.array([0.0, 1.0], np.float32))
    inputs = [x, g.scalar(3, "i64"), values]
    return g.emit("OneHot", inputs, shape=shape, dtype="f32", lo=0, hi=1, exact=True, axis=-1)


@production(1.5)
def softmax(g: Scope) -> Tensor | None:
    """Softmax or LogSoftmax at any axis, with the meaning of the opset."""
    x = g.pick(lambda t: t.plain and t.nonempty and 1 <= t.rank <= 4)
    if x is None:
        return None
    op = g.rng.choice(["Softmax", "Softmax", "LogSoftmax"])
    low, high = (0.0, 1.0) if op == "Softmax" else (x.lo - x.hi - 8, 0.0)
    axis = g.rng.choice([None, g.rng.randrange(x.rank), -1])
    if axis is None and x.rank < 2:
        axis = 0
    return g.tame(g.emit(op, [x], lo=low, hi=high, axis=axis))


@production(0.6)
def non_zero(g: Scope) -> Tensor | None:
    """NonZero, whose size depends on data, and something that reads it."""
    x = g.pick(lambda t: t.exact and t.known and 1 <= t.rank <= 3 and t.dtype in {"f32", "bool"})
    if x is None:
        return None
    places = g.emit("NonZero", [x], shape=(g.dim(x.rank), None), dtype="i64", lo=0, hi=512,
                    exact=True, special=False)  # fmt: skip
    if g.rng.random() < 0.5:
        return g.move("Transpose", [places], (None, g.dim(x.rank)), perm=[1, 0])
    return places


@production(0.6)
def integers(g: Scope) -> Tensor | None:
    """Bit shifts, bitwise ops or Trilu."""
    op = g.rng.choice(["Trilu", "BitwiseAnd", "BitShift"])
    if op == "Trilu" and g.opset >= 14:
        x = g.pick(lambda t: t.dtype in {"f32", "i64"} and t.known and t.rank >= 2)
        if x is None:
            return None
        ends: dict[str, Any] = {"lo": min(x.lo, 0), "hi": max(x.hi, 0), "exact": x.exact}
        return g.emit(op, [x], upper=g.rng.randint(0, 1), **ends)
    if op == "BitwiseAnd" and g.opset >= 18:
        x = g.pick(lambda t: t.integer and t.exact and t.known)
        return x and g.emit(op, [x, g.scalar(3, x.dtype)], lo=0, hi=3, exact=True)
    x = g.pick(lambda t: t.dtype == "u8" and t.exact and t.known)
    if x is None or g.opset < 11:
        return None
    direction = g.rng.choice(["LEFT", "RIGHT"])
    return g.emit(
        "BitShift", [x, g.scalar(1, "u8")], lo=0, hi=255, exact=True, direction=direction
    )  # fmt: skip
