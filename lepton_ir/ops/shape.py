"""Shapes of tensors and operations that keep every element: reshape, transpose, concat, split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims, dtypes
from lepton_ir.opdef import Bool, Int, Ints, op
from lepton_ir.ops._axes import (
    axes_of,
    axis_of,
    content_like,
    length,
    positive,
    total,
)
from lepton_ir.ops._support import normalized
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.dims import Dim
    from lepton_ir.infer import Content, InferContext
    from lepton_ir.types import Shape

Array = np.ndarray[Any, Any]


# -- identity, shape, size -------------------------------------------------------------------------


def _infer_identity(ctx: InferContext) -> Type:
    return ctx.type("x")


@op("identity(x)", infer=_infer_identity, content=content_like, traits="view idempotent")
def identity(x: Any) -> Any:
    """Return the value itself: a tensor, sequence or optional (ONNX Identity-25)."""
    return x


def _shape_range(rank: int, start: int, end: int | None) -> tuple[int, int]:
    """Return the clamped half-open range of axes that Shape reads."""
    stop = rank if end is None else end
    low = min(max(start + rank if start < 0 else start, 0), rank)
    high = min(max(stop + rank if stop < 0 else stop, 0), rank)
    return low, max(low, high)


def _shape_content(ctx: InferContext) -> Content | None:
    shape = ctx.shape("x")
    if shape is None:
        return None
    low, high = _shape_range(len(shape), ctx.attrs["start"], ctx.attrs["end"])
    return shape[low:high]


def _infer_shape(ctx: InferContext) -> Type:
    found = _shape_content(ctx)
    return TensorType(dtypes.I64, (None if found is None else len(found),))


@op("shape(x)", infer=_infer_shape, content=_shape_content)
def shape(x: Array, *, start: Int = 0, end: Int | None = None) -> Array:
    """The dims of ``x`` as an i64 vector, axes ``start`` to ``end`` clamped (ONNX Shape-25)."""
    low, high = _shape_range(x.ndim, start, end)
    return np.array(x.shape[low:high], dtype=np.int64)


def _infer_size(ctx: InferContext) -> Type:
    return TensorType(dtypes.I64, ())


def _size_content(ctx: InferContext) -> Content | None:
    found = ctx.shape("x")
    return None if found is None else (total(found),)


@op("size(x)", infer=_infer_size, content=_size_content)
def size(x: Array) -> Array:
    """The number of elements of ``x`` as an i64 scalar (ONNX Size-25)."""
    return np.array(x.size, dtype=np.int64)


# -- reshape ---------------------------------------------------------------------------------------


def _zero_implies_zero(element: Dim, dim: Dim | None) -> bool:
    """Whether ``dim`` is certainly 0 whenever ``element`` is."""
    if dim is element or (dim.__class__ is int and dim == 0):
        return True
    if dim is None or isinstance(dim, int) or isinstance(element, int) or len(element.terms) != 1:
        return False
    return all(atom in term[0] for atom in element.terms[0][0] for term in dim.terms)


def _cannot_be_zero(ctx: InferContext, element: Dim, x: Shape, others: list[Dim | None]) -> bool:
    """Whether a 0 for ``element`` would leave an empty ``x`` for a result that is not empty.

    ``others`` are the other dims of the result and the dim of ``x`` that a 0 would copy.
    """
    if isinstance(element, int) or len(element.terms) != 1:
        return False
    if not all(atom.kind == "sym" for atom in element.terms[0][0]):
        return False
    for atom in element.terms[0][0]:
        zero: dict[str, Dim] = {atom.name: 0}
        if not any(d is not None and _at(d, zero) == 0 for d in x):
            return False
        if not all(d is not None and ctx.positive(_at(d, zero)) for d in others):
            return False
    return True


def _at(dim: Dim, mapping: dict[str, Dim]) -> Dim | None:
    try:
        return dims.substitute(dim, mapping)
    except (ZeroDivisionError, ValueError):
        return None


class _Reshape:
    """Derives the dims of a reshape from the operand's shape and the elements of ``shape``.

    An element 0 copies the dim of ``x`` unless ``allowzero``. A symbolic element may be 0 at run
    time and then copies as well, so that it is a dim of the result only when that changes nothing.
    """

    def __init__(self, ctx: InferContext, content: Content) -> None:
        self.ctx = ctx
        self.content = content
        self.x: Shape | None = ctx.shape("x")
        self.allowzero: bool = ctx.attrs["allowzero"]
        self.copied: set[int] = set()
        self.wild = [i for i, e in enumerate(content) if e.__class__ is int and e == -1]

    def dims(self) -> Shape:
        """Return the dims of the result, ``None`` where they are not certain."""
        if len(self.wild) > 1:
            self.ctx.fail("C1", "more than one element of shape is -1")
        result = [self._plain(i, e) for i, e in enumerate(self.content)]
        for i, e in enumerate(self.content):
            if result[i] is None and e is not None and i not in self.wild:
                result[i] = self._uncertain(i, e, result)
        missing = [i for i, d in enumerate(result) if d is None and i not in self.copied]
        if len(missing) == 1:
            result[missing[0]] = self._rest(missing[0], result)
        elif not missing:
            self._check(result)
        return tuple(result)

    def _plain(self, i: int, e: Dim | None) -> Dim | None:
        """Return a dim that follows from one element alone."""
        if e.__class__ is int and e < -1:
            self.ctx.fail("C1", f"element {i} of shape is {e}")
        if e is None or i in self.wild:
            return None
        if e.__class__ is int and e == 0 and not self.allowzero:
            if self.x is None:
                return None
            if i >= len(self.x):
                self.ctx.fail("C2", f"element {i} of shape is 0 but x has rank {len(self.x)}")
            self.copied.add(i)
            return self.x[i]
        if isinstance(e, int) or self.ctx.positive(e):
            return e
        if dims.prove_ge(e, 0) is not True:
            return None
        if self.allowzero or (self.x is not None and i >= len(self.x)):
            return e
        if self.x is not None and _zero_implies_zero(e, self.x[i]):
            return e
        return None

    def _uncertain(self, i: int, e: Dim, result: list[Dim | None]) -> Dim | None:
        if self.x is None or self.wild or i >= len(self.x) or dims.prove_ge(e, 0) is not True:
            return None
        others = [d for k, d in enumerate(result) if k != i]
        return e if _cannot_be_zero(self.ctx, e, self.x, [*others, self.x[i]]) else None

    def _rest(self, index: int, result: list[Dim | None]) -> Dim | None:
        """Return the one dim left over: the number of elements over the product of the others."""
        if self.x is None:
            return None
        # A -1 beside a 0-sized dim is refused at run time, with allowzero by the specification.
        nonzero = index in self.wild
        kept = [
            d for i, d in enumerate(result) if i != index and not (nonzero and i in self.copied)
        ]
        left = [d for i, d in enumerate(self.x) if not (nonzero and i in self.copied)]
        for d in list(left):
            if nonzero and d is not None and not isinstance(d, int) and d in kept:
                kept.remove(d)
                left.remove(d)
        divisor, dividend = total(kept), total(left)
        if divisor is None or dividend is None or (divisor.__class__ is int and divisor == 0):
            return None
        if isinstance(divisor, int) and isinstance(dividend, int) and dividend % divisor:
            self.ctx.fail("C2", f"{dividend} elements do not split into {divisor}")
        if not nonzero and not self.ctx.positive(divisor):
            return None
        quotient = dims.exact_div(dividend, divisor, nonzero=True)
        return dims.floordiv(dividend, divisor) if quotient is None else quotient

    def _check(self, result: list[Dim | None]) -> None:
        if self.x is None:
            return
        want, got = total(self.x), total(result)
        if isinstance(want, int) and isinstance(got, int) and want != got:
            self.ctx.fail("C2", f"x has {want} elements but the new shape has {got}")


def _infer_reshape(ctx: InferContext) -> Type:
    content = ctx.content("shape")
    dtype = ctx.dtype("x")
    if content is None:
        count = length(ctx, "shape")
        if count is None:
            return TensorType(dtype, None)
        content = (None,) * count
    return TensorType(dtype, _Reshape(ctx, content).dims())


@op("reshape(x, shape)", infer=_infer_reshape, content=content_like, traits="view")
def reshape(x: Array, shape: Array, *, allowzero: Bool = False) -> Array:
    """The same elements in another shape (ONNX Reshape-25).

    An element 0 of ``shape`` copies the dim of ``x`` unless ``allowzero``; one -1 is what is left.

    C1  elements of shape are >= -1, at most one is -1
    C2  both shapes have the same number of elements; a copied dim exists
    """
    target = [int(e) for e in shape]
    if target.count(-1) > 1 or any(e < -1 for e in target):
        raise ValueError(f"reshape: bad shape {target}")
    if allowzero and -1 in target and 0 in target:
        raise ValueError("reshape: shape has both 0 and -1 with allowzero")
    if not allowzero:
        for i, e in enumerate(target):
            if e == 0:
                if i >= x.ndim:
                    raise ValueError(f"reshape: element {i} of shape is 0, x has rank {x.ndim}")
                target[i] = x.shape[i]
    return x.reshape(target)


# -- flatten, squeeze, unsqueeze, transpose --------------------------------------------------------


def _infer_flatten(ctx: InferContext) -> Type:
    found = ctx.shape("x")
    if found is None:
        return TensorType(ctx.dtype("x"), (None, None))
    axis, rank = ctx.attrs["axis"], len(found)
    if not -rank <= axis <= rank:
        ctx.fail("C1", f"axis {axis} is out of range for rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return TensorType(ctx.dtype("x"), (total(found[:axis]), total(found[axis:])))


@op("flatten(x)", infer=_infer_flatten, traits="view")
def flatten(x: Array, *, axis: Int = 1) -> Array:
    """Reshape to a matrix: the axes before ``axis`` and those from it (ONNX Flatten-25).

    C1  -rank(x) <= axis <= rank(x)
    """
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"flatten: axis {axis} is out of range for rank {x.ndim}")
    axis = axis + x.ndim if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64)))


def _infer_squeeze(ctx: InferContext) -> Type:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    if found is None:
        return TensorType(dtype, None)
    axes = ctx.ints("axes") if ctx.has("axes") else ()
    if axes is None:
        # Repeated axes count once, so only a single one tells the rank.
        one = length(ctx, "axes") == 1 and len(found) > 0
        return TensorType(dtype, (None,) * (len(found) - 1) if one else None)
    if axes:
        drop = set(axes_of(ctx, axes, len(found)))
        for a in sorted(drop):
            d = found[a]
            if isinstance(d, int) and d != 1:
                ctx.fail("C2", f"axis {a} of x has size {d}")
        return TensorType(dtype, (d for i, d in enumerate(found) if i not in drop))
    if all(d is not None and dims.prove_eq(d, 1) is not None for d in found):
        return TensorType(dtype, (d for d in found if dims.prove_eq(d, 1) is False))  # type: ignore[arg-type]
    return TensorType(dtype, None)


@op("squeeze(x, axes?)", infer=_infer_squeeze, content=content_like, traits="view")
def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Drop the axes of size 1, or only those in ``axes`` (ONNX Squeeze-25).

    As in ONNX Runtime, repeated axes count once and an empty ``axes`` means all of size 1.

    C1  -rank(x) <= axis < rank(x)
    C2  dropped axes have size 1
    """
    if axes is None or not np.size(axes):
        drop = [i for i, d in enumerate(x.shape) if d == 1]
    else:
        drop = sorted({normalized(int(a), x.ndim) for a in np.ravel(axes)})
    if any(x.shape[a] != 1 for a in drop):
        raise ValueError(f"squeeze: axes {drop} of shape {x.shape} are not all of size 1")
    return x.reshape([d for i, d in enumerate(x.shape) if i not in drop])


def _infer_unsqueeze(ctx: InferContext) -> Type:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    axes = ctx.ints("axes")
    count = length(ctx, "axes") if axes is None else len(axes)
    if found is None or count is None:
        return TensorType(dtype, None)
    rank = len(found) + count
    if axes is None:
        return TensorType(dtype, (None,) * rank)
    new = axes_of(ctx, axes, rank)
    if len(set(new)) != len(new):
        ctx.fail("C2", f"axes {list(axes)} repeat an axis")
    rest = iter(found)
    return TensorType(dtype, [1 if i in new else next(rest) for i in range(rank)])


@op("unsqueeze(x, axes)", infer=_infer_unsqueeze, content=content_like, traits="view")
def unsqueeze(x: Array, axes: Array) -> Array:
    """Insert axes of size 1 at these places of the result (ONNX Unsqueeze-25).

    C1  -rank <= axis < rank of the result
    C2  no axis twice
    """
    places = [int(a) for a in np.ravel(axes)]
    rank = x.ndim + len(places)
    new = {normalized(a, rank) for a in places}
    if len(new) != len(places):
        raise ValueError(f"unsqueeze: axes {places} repeat an axis")
    rest = iter(x.shape)
    return x.reshape([1 if i in new else next(rest) for i in range(rank)])


def _infer_transpose(ctx: InferContext) -> Type:
    found, perm = ctx.shape("x"), ctx.attrs["perm"]
    if found is None:
        return TensorType(ctx.dtype("x"), (None,) * len(perm) if perm else None)
    if not perm:
        return TensorType(ctx.dtype("x"), found[::-1])
    if sorted(perm) != list(range(len(found))):
        ctx.fail("C1", f"perm {list(perm)} is no permutation of the {len(found)} axes of x")
    return TensorType(ctx.dtype("x"), (found[p] for p in perm))


@op("transpose(x)", infer=_infer_transpose, content=content_like, traits="view")
def transpose(x: Array, *, perm: Ints | None = None) -> Array:
    """Permute the axes: axis ``i`` of the result is axis ``perm[i]`` of ``x`` (ONNX Transpose-25).

    Without ``perm`` the axes are reversed.

    C1  perm is a permutation of the axes of x
    """
    return np.transpose(x, perm or None)


# -- concat, split ---------------------------------------------------------------------------------


def _agreed_dim(ctx: InferContext, shapes: list[Shape], axis: int) -> Dim | None:
    """Return the dim that the operands of a concat share, as the specification asks.

    ONNX Runtime lets empty operands differ, so only two operands that are not empty contradict.
    """
    known = [s[axis] for s in shapes if s[axis] is not None]
    sizes = {d for d in known if isinstance(d, int)}
    if len(sizes) > 1:
        full = {s[axis] for s in shapes if isinstance(s[axis], int) and positive(total(s))}
        if len(full) > 1:
            ctx.fail("C3", f"axis {axis} has sizes {sorted(sizes)}")
        return None
    return sizes.pop() if sizes else known[0] if known else None


def _infer_concat(ctx: InferContext) -> Type:
    dtype = next((v.dtype for v in ctx.values("inputs") if v.dtype is not None), None)
    all_shapes = [v.shape for v in ctx.values("inputs")]
    shapes = [s for s in all_shapes if s is not None]
    if not shapes:
        return TensorType(dtype, None)
    rank = len(shapes[0])
    if any(len(s) != rank for s in shapes):
        ctx.fail("C1", f"operands have ranks {[len(s) for s in shapes]}")
    axis = axis_of(ctx, ctx.attrs["axis"], rank, "C2")
    if len(shapes) < len(all_shapes):
        return TensorType(dtype, (None,) * rank)
    result = [_agreed_dim(ctx, shapes, i) if i != axis else None for i in range(rank)]
    amount: Dim | None = 0
    for s in shapes:
        d = s[axis]
        amount = None if amount is None or d is None else dims.add(amount, d)
    result[axis] = amount
    return TensorType(dtype, result)


def _concat_content(ctx: InferContext) -> Content | None:
    parts: list[Dim | None] = []
    for value, shape_ in ((v, v.shape) for v in ctx.values("inputs")):
        found = _value_content(value)
        if found is None:
            if shape_ is None or len(shape_) != 1 or not isinstance(shape_[0], int):
                return None
            found = (None,) * shape_[0]
        parts.extend(found)
    return tuple(parts)


def _value_content(value: Any) -> Content | None:
    from lepton_ir.infer import content_of

    return content_of(value)


@op("concat(inputs*)", infer=_infer_concat, content=_concat_content)
def concat(*inputs: Array, axis: Int) -> Array:
    """Join tensors along an axis (ONNX Concat-13).

    C1  all operands have one rank
    C2  -rank <= axis < rank
    C3  all dims but that of the axis agree
    """
    if not inputs:
        raise ValueError("concat: no operands")
    return np.concatenate(inputs, axis=normalized(axis, inputs[0].ndim))


def _even_sizes(d: Dim, count: int) -> list[Dim]:
    """Return the sizes of ``count`` parts of ``d``: equal ones, the last may be smaller."""
    part = dims.ceildiv(d, count)
    return [*[part] * (count - 1), dims.sub(d, dims.mul(part, count - 1))]


def _split_sizes(ctx: InferContext, d: Dim | None) -> list[Dim | None]:
    count = ctx.num_results
    if ctx.has("split"):
        found = ctx.content("split")
        if found is None:
            return [None] * count
        if len(found) != count:
            ctx.fail("C2", f"split has {len(found)} sizes for {count} results")
        sizes = [int(s) for s in found if isinstance(s, int)]
        if any(s < 0 for s in sizes):
            ctx.fail("C2", f"split has a negative size: {sizes}")
        if isinstance(d, int) and len(sizes) == count and sum(sizes) != d:
            ctx.fail("C3", f"sizes {sizes} do not add up to {d}")
        if d is not None and found.count(None) == 1:
            rest = d
            for s in found:
                rest = rest if s is None else dims.sub(rest, s)
            return [rest if s is None else s for s in found]
        return list(found)
    wanted = ctx.attrs["num_outputs"]
    if wanted is not None and wanted != count:
        ctx.fail("C2", f"num_outputs is {wanted} but there are {count} results")
    if d is None:
        return [None] * count
    found_sizes = _even_sizes(d, count)
    last = found_sizes[-1]
    if isinstance(last, int) and last < 0:
        ctx.fail("C3", f"{d} elements do not split into {count} parts")
    return list(found_sizes)


def _infer_split(ctx: InferContext) -> list[Type]:
    found, dtype = ctx.shape("x"), ctx.dtype("x")
    if found is None:
        return [TensorType(dtype, None)] * ctx.num_results
    axis = axis_of(ctx, ctx.attrs["axis"], len(found))
    return [
        TensorType(dtype, (*found[:axis], size_, *found[axis + 1 :]))
        for size_ in _split_sizes(ctx, found[axis])
    ]


def _split_content(ctx: InferContext) -> Content | None:
    found, shape_ = ctx.content("x"), ctx.shape("x")
    if found is None or shape_ is None or len(shape_) != 1:
        return None
    first = _split_sizes(ctx, shape_[0])[0]
    return found[:first] if isinstance(first, int) else None


@op("split(x, split?) -> ys*", infer=_infer_split, content=_split_content)
def split(
    x: Array,
    split: Array | None = None,
    *,
    num_outputs: Int | None = None,
    axis: Int = 0,
) -> tuple[Array, ...]:
    """Cut a tensor into parts of given sizes, or into ``num_outputs`` even ones (ONNX Split-18).

    C1  -rank(x) <= axis < rank(x)
    C2  one size >= 0 for each result
    C3  the sizes add up to the dim; only the last even part may be smaller
    """
    axis = normalized(axis, x.ndim)
    amount = x.shape[axis]
    if split is not None:
        sizes = [int(s) for s in np.ravel(split)]
    elif num_outputs is not None and num_outputs > 0:
        sizes = [int(s) for s in _even_sizes(amount, num_outputs)]  # type: ignore[arg-type]
    else:
        raise ValueError("split: neither split nor num_outputs is given")
    if sum(sizes) != amount or min(sizes, default=0) < 0:
        raise ValueError(f"split: sizes {sizes} do not fit a dim of {amount}")
    ends = np.cumsum(sizes).tolist()
    before = (slice(None),) * axis
    return tuple(x[(*before, slice(end - n, end))] for n, end in zip(sizes, ends, strict=True))
