"""Rules that compute what convolves and pools on tensors whose channels are the last axis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dims import same_dim, same_dims
from lepton_ir.infer import const_tensor, content_of
from lepton_ir.ops.channels_last import channels_first, channels_last
from lepton_ir.ops.norm import standardize
from lepton_ir.passes.canonicalize.views import literal_shape
from lepton_ir.passes.decompose import decompose_body
from lepton_ir.passes.fuse._match import made_by
from lepton_ir.passes.fuse._weights import batch_norm_affine, rounded
from lepton_ir.passes.layout.order import Order, perm_of
from lepton_ir.rewrite import rewrite
from lepton_ir.tensors import ElidedTensor, PermutedTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.ir import Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter

Array = np.ndarray[Any, Any]

_LEAST_RANK = 3
_DEPTH = 8


def in_order(rw: Rewriter, value: Value, order: Order) -> Value:
    """Return ``value`` transposed; of a constant, a constant that is made when it is written."""
    tensor = const_tensor(value)
    if tensor is None or isinstance(tensor, ElidedTensor):
        made: Value = rw.transpose(value, perm=order)
        return made
    return rw.const(PermutedTensor(tensor, order), name=value.name)


def _between(m: Match, rw: Rewriter, x: Value, build: Callable[[Value], Value]) -> bool:
    rank = x.rank
    assert rank is not None
    last = build(rw.transpose(x, perm=channels_last(rank)))
    return rw.replace(m.root, rw.transpose(last, perm=channels_first(rank)))


def _of_known_rank(rw: Rewriter, x: Value | None) -> bool:
    if x is None or x.rank is None or x.rank < _LEAST_RANK:
        return rw.fail("the rank of x is not known")
    return True


_WEIGHTS: dict[str, Callable[[int], Order]] = {
    "conv": channels_last,
    "conv_transpose": lambda rank: (*range(1, rank), 0),
}


@rewrite(*_WEIGHTS, exact=True)
def convolve_channels_last(m: Match, rw: Rewriter) -> bool:
    """conv(x, w, b) => transpose(conv_nhwc(transpose(x), transpose(w), b)), w (M, kernel..., C).

    Constant weights are reordered when they are written. conv_transpose alike.
    """
    x, w, *bias = m.root.operands
    if not _of_known_rank(rw, x) or w is None or w.rank != getattr(x, "rank", None):
        return False
    assert x is not None
    name, attrs = m.root.name, dict(m.root.attrs)
    # The kernel's shape is that of w.
    attrs.pop("kernel_shape", None)
    rw.permit()
    weights = in_order(rw, w, _WEIGHTS[name](w.rank or 0))
    return _between(m, rw, x, lambda y: rw.build(f"{name}_nhwc", y, weights, *bias, **attrs).result)


@rewrite("max_pool", "average_pool", "depth_to_space", "space_to_depth", "lrn", exact=True)
def pool_channels_last(m: Match, rw: Rewriter) -> bool:
    """max_pool(x) => transpose(max_pool_nhwc(transpose(x))); lrn and blocks of pixels alike."""
    x = m.root.operands[0]
    if not _of_known_rank(rw, x):
        return False
    assert x is not None
    if any(r.first_use is not None for r in m.root.results[1:]):
        return rw.fail("its indices are used")
    attrs = dict(m.root.attrs)
    attrs.pop("storage_order", None)
    first = m.root.results[0]
    rank = x.rank or 0
    y = rw.build(f"{m.root.name}_nhwc", rw.transpose(x, perm=channels_last(rank)), **attrs).result
    return rw.replace(first, rw.transpose(y, perm=channels_first(rank)))


@rewrite("batch_normalization")
def norm_to_affine(m: Match, rw: Rewriter) -> bool:
    """batch_normalization(x) => x * factor + summand, which transposes pass through."""
    op = m.root
    x = op.operands[0]
    if x is None or x.rank is None or x.rank < 2 or x.dtype is None or not x.dtype.is_float:
        return rw.fail("rank or elements of x are not known")
    channels = x.shape[1] if x.shape is not None else None
    known = batch_norm_affine(op, channels if isinstance(channels, int) else None)
    if isinstance(known, str):
        return rw.fail(known)
    column = (-1, *(1,) * (x.rank - 2))
    parts = [rounded(v.reshape(column), x.dtype) for v in (known.scale, known.shift)]
    if parts[0] is None or parts[1] is None:
        return rw.fail("its factors leave the range of {}", x.dtype)
    rw.permit()
    factor, summand = (rw.const(v, x.dtype) for v in parts)
    return rw.replace(op.results[0], rw.add(rw.mul(x, factor), summand))


@rewrite(
    *("global_average_pool", "global_max_pool", "global_lp_pool", "lp_pool"),
    *("batch_normalization", "instance_normalization", "group_normalization"),
    "mean_variance_normalization",
)
def norm_to_reductions(m: Match, rw: Rewriter) -> bool:
    """Pools of everything and normalizations of images => reductions and arithmetic.

    Reductions know their axes, so that transposes pass through them.
    """
    return decompose_body(m, rw)


@rewrite("instance_normalization", "group_normalization", benefit=1)
def norm_by_groups(m: Match, rw: Rewriter) -> bool:
    """instance_normalization(reshape(x, [N, G, -1])) => statistics over axes of x in G groups.

    As reductions over the channels of a group, height and width, through which transposes pass;
    group_normalization is the same with scale and bias a channel.
    """
    op = m.root
    of_groups = op.name == "group_normalization"
    view = None if of_groups else made_by(op.operands[0], "reshape")
    if not of_groups and view is None:
        return False
    x = op.operands[0] if view is None else view.operands[0]
    scale = op.operands[1]
    vector = None if scale is None else scale.shape
    count = op.attr("num_groups") if of_groups else vector[0] if vector else None
    if x is None or x.shape is None or not isinstance(count, int) or len(x.shape) < _LEAST_RANK:
        return rw.fail("rank or groups are not known")
    if x.dtype is not dtypes.F32 or (of_groups and op.attr("per_group")):
        return rw.fail("elements are {}, or scales are for groups", x.dtype)
    if view is not None:
        # Batch and groups leave the last axis no choice.
        parts = view.result.shape or ()
        if len(parts) != _LEAST_RANK or parts[1] != count or not same_dim(parts[0], x.shape[0]):
            return rw.fail("the reshape is not proven to keep the batch, or to make groups")
    channels = x.shape[1]
    if not isinstance(channels, int) or not count or channels % count:
        return rw.fail("the channels are not known to be whole groups")
    split = (x.shape[0], count, channels // count, *x.shape[2:])
    forth, back = literal_shape(x.shape, split), literal_shape(split, x.shape)
    if count > 1 and (forth is None or back is None):
        return rw.fail("the groups cannot be said with constants")
    rw.permit()
    grouped = x if count == 1 else rw.reshape(x, rw.const(np.asarray(forth, np.int64)))
    axes = list(range(1 if count == 1 else 2, len(split) if count > 1 else len(x.shape)))
    y = standardize(rw, grouped, axes, op.attr("epsilon"))[0]
    if count > 1 and of_groups:
        y = rw.reshape(y, rw.const(np.asarray(back, np.int64)))
    if view is not None:
        rw.also(view)
        y = rw.reshape(y, view.operands[1])
    column = np.asarray([-1, *(1,) * ((y.rank or 0) - 2)], np.int64)
    factor, summand = (rw.reshape(v, rw.const(column)) for v in op.operands[1:3])
    return rw.replace(op, rw.add(rw.mul(y, factor), summand))


@rewrite("resize", exact=True)
def resize_of_plane(m: Match, rw: Rewriter) -> bool:
    """resize(x, sizes: [n, c, h, w]) => resize(x, sizes: [h, w], axes: [2, 3]) where n, c stay.

    Computed sizes then say nothing of the axes that move.
    """
    op = m.root
    x, sizes = op.operands[0], op.operand("sizes")
    content = content_of(sizes)
    if x is None or x.shape is None or sizes is None or const_tensor(sizes) is not None:
        return False
    if content is None or op.attr("axes") is not None or len(content) != len(x.shape):
        return rw.fail("what the sizes are is not known")
    if op.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return rw.fail("it crops")
    if op.attr("keep_aspect_ratio_policy") != "stretch":
        return rw.fail("it keeps the aspect ratio")
    axes = [i for i, (d, e) in enumerate(zip(content, x.shape, strict=True)) if not same_dim(d, e)]
    if not axes:
        return rw.replace(op, x)
    rw.permit()
    known = [content[i] for i in axes]
    if all(isinstance(d, int) for d in known):
        plane = rw.const(np.asarray(known, np.int64))
    else:
        plane = rw.gather(sizes, rw.const(np.asarray(axes, np.int64)))
    attrs = {**op.attrs, "axes": tuple(axes)}
    return rw.replace(op, rw.build("resize", x, None, None, plane, **attrs).result)


# -- what reads the axes ---------------------------------------------------------------------------


@rewrite("shape", exact=True)
def shape_of_transpose(m: Match, rw: Rewriter) -> bool:
    """shape(transpose(x, p)) => gather(shape(x), p): a shape alone keeps no transpose."""
    op = m.root
    turn = made_by(op.operands[0], "transpose")
    perm = None if turn is None else perm_of(turn)
    if turn is None or perm is None:
        return False
    start, end = op.attr("start"), op.attr("end")
    rw.also(turn)
    axes = np.asarray(perm[slice(start, end)], np.int64)
    return rw.replace(op, rw.gather(rw.shape(turn.operands[0]), rw.const(axes)))


@rewrite("shape", exact=True)
def shape_of_elementwise(m: Match, rw: Rewriter) -> bool:
    """shape(f(x, y)) => shape(x) where x has the shape of the elementwise result."""
    y = m.root.operands[0]
    op = None if y is None else y.op
    definition = None if op is None else op.definition
    if y is None or op is None or definition is None or op.has_attr_refs:
        return False
    if "elementwise" not in definition.traits or y.shape is None:
        return False
    for x in op.operands:
        if x is None or x.shape is None or const_tensor(x) is not None:
            continue
        if len(x.shape) == len(y.shape) and same_dims(x.shape, y.shape):
            rw.also(op)
            return rw.replace(m.root, rw.build("shape", x, **m.root.attrs).result)
    return rw.fail("no operand is proven to have the shape of the result")


def _comes_last(value: Value | None, rank: int, depth: int = _DEPTH) -> bool:
    """Whether ``value`` is made of channels-last tensors, by elementwise operations alone."""
    op = None if value is None else value.op
    if value is None or op is None or not depth or op.has_attr_refs:
        return False
    if op.name == "transpose":
        # Of three axes both orders are the same: a transpose of a transpose comes first.
        ends = not _comes_last(op.operands[0], rank, depth - 1)
        return ends and perm_of(op) == channels_first(rank)
    if op.definition is None or "elementwise" not in op.definition.traits or value.use_count > 1:
        return False
    moving = [
        v for v in op.operands if v is not None and v.rank == rank and const_tensor(v) is None
    ]
    return bool(moving) and all(_comes_last(v, rank, depth - 1) for v in moving)


@rewrite("gemm", "matmul")
def dense_takes_order(m: Match, rw: Rewriter) -> bool:
    """gemm(reshape(x, [N, K]), w) => gemm(reshape(transpose(x), [N, K]), w in that order).

    Where x is made of channels-last tensors, whose transpose this one undoes: the constant weights
    of a dense layer take in the order of what was flattened before it.
    """
    op = m.root
    view = made_by(op.operands[0], "reshape", "flatten")
    x = None if view is None else view.operands[0]
    tensor = const_tensor(op.operands[1])
    if view is None or x is None or x.shape is None or len(x.shape) < _LEAST_RANK:
        return False
    if not _comes_last(x, len(x.shape)):
        return rw.fail("what is flattened does not come with its channels last")
    sizes = [d for d in x.shape[1:] if isinstance(d, int) and d > 0]
    flat = view.result.shape
    batch = flat is not None and len(flat) == 2 and same_dim(flat[0], x.shape[0])
    if len(sizes) != len(x.shape) - 1 or not batch:
        return rw.fail("the sizes of what is flattened are not known")
    if tensor is None or isinstance(tensor, ElidedTensor) or op.attrs.get("transA"):
        return rw.fail("the weights are not constant")
    across = bool(op.attrs.get("transB"))
    count = math.prod(sizes)
    if len(tensor.shape) != 2 or tensor.shape[across] != count or view.result.use_count > 1:
        return rw.fail("the weights or what is flattened have another form or other users")
    order = channels_last(len(x.shape))
    inner = [a - 1 for a in order[1:]]
    rest = tensor.shape[1 - across]
    split = (rest, *sizes) if across else (*sizes, rest)
    axes = (0, *(a + 1 for a in inner)) if across else (*inner, len(sizes))
    rw.also(view)
    moved = rw.transpose(x, perm=order)
    flattened = rw.reshape(moved, rw.const(np.asarray([-1, count], np.int64)))
    name = op.operands[1].name if op.operands[1] is not None else None
    weights = rw.const(PermutedTensor(tensor, axes, split, tensor.shape), name=name)
    made = rw.build(op.name, flattened, weights, *op.operands[2:], **op.attrs)
    return rw.replace(op, made.result)
