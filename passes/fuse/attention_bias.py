"""What is added to the scores of an attention: several terms, spread to the shape kernels take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dims import same_dim
from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._match import available

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.ir import Op, Value
    from lepton_ir.rewrite import Rewriter

_DEPTH = 24
_READ = 16 << 20
_LOWEST = np.finfo(np.float32).min
_NEXT = np.nextafter(_LOWEST, np.float32(0))
_VIEWS = ("reshape", "unsqueeze", "squeeze", "transpose", "expand", "slice", "split", "identity")

Scores = tuple["Dim | None", ...]
Interval = tuple[np.float32, np.float32]


def fits(bias: Value, scores: Scores) -> bool:
    """Return whether ``bias`` is proven to broadcast to ``scores`` without making them larger."""
    shape = bias.shape
    if shape is None or len(shape) > len(scores):
        return False
    return all(
        d == 1 or same_dim(d, s)
        for d, s in zip(shape, scores[len(scores) - len(shape) :], strict=True)
    )


def joined(rw: Rewriter, terms: Sequence[Value], scores: Scores) -> Value | None:
    """Build the sum of ``terms``, with rows and columns of their own for all of ``scores``.

    Kernels broadcast a bias along batch and heads only. Says why it cannot; all terms fit.
    """
    total = terms[-1]
    for term in reversed(terms[:-1]):
        total = rw.add(total, term)
    assert total.shape is not None
    missing = len(scores) - len(total.shape)
    if missing:
        array = const_array(total, _READ)
        if array is None:
            total = rw.unsqueeze(total, list(range(missing)))
        else:
            total = rw.const(array.reshape((1,) * missing + array.shape), dtypes.F32)
    assert total.shape is not None
    wanted: Scores = (*(1 for _ in scores[2:]), *scores[-2:])
    if all(w == 1 or same_dim(d, w) for d, w in zip(total.shape, wanted, strict=True)):
        return total
    target = _sizes(rw, wanted)
    if target is None:
        rw.fail("the size of the scores is no dim of an input")
        return None
    spread: Value = rw.expand(total, target)
    return spread


def _sizes(rw: Rewriter, wanted: Sequence[Dim | None]) -> Value | None:
    """Build a shape from numbers and dims of inputs."""
    if all(isinstance(d, int) for d in wanted):
        return rw.const(np.asarray(wanted, np.int64))
    parts: list[Value] = []
    for dim in wanted:
        if isinstance(dim, int):
            parts.append(rw.const(np.asarray([dim], np.int64)))
            continue
        found = _axis_of(rw, dim)
        if found is None:
            return None
        parts.append(_size(rw, *found))
    joined: Value = rw.concat(*parts, axis=0)
    return joined


def size_of(rw: Rewriter, value: Value, axis: int) -> Value:
    """Build the vector of one dim of ``value``, of the first input that has it, to be shared."""
    assert value.shape is not None
    dim = value.shape[axis]
    if isinstance(dim, int):
        known: Value = rw.const(np.asarray([dim], np.int64))
        return known
    return _size(rw, *(_axis_of(rw, dim) or (value, axis)))


def _size(rw: Rewriter, value: Value, axis: int) -> Value:
    """Build the vector of one dim."""
    if available(rw, "shape", start=axis, end=axis + 1):
        ranged: Value = rw.shape(value, start=axis, end=axis + 1)
        return ranged
    picked: Value = rw.gather(rw.shape(value), rw.const(np.asarray([axis], np.int64)), axis=0)
    return picked


def _axis_of(rw: Rewriter, dim: Dim | None) -> tuple[Value, int] | None:
    for value in rw.function.inputs:
        for axis, found in enumerate(value.shape or ()):
            if same_dim(found, dim):
                return value, axis
    return None


# -- rows that see nothing -------------------------------------------------------------------------


def seeing(rw: Rewriter, bias: Value) -> Value | None:
    """Return ``bias`` as Attention of ONNX may have it, or say why there is no such bias.

    Softmax of a row that is minus infinity is NaN, and of a row that is the lowest number it is
    uniform, whatever the scores. Attention gives 0 for the first, and onnxruntime also for the
    second. So no bias that may be infinite is taken, and the lowest number becomes the next one:
    ``score + lowest == lowest`` and ``score + next == next`` for every score below 2 ** 103, so a
    row of either is uniform, and among higher scores the weight of either is 0.
    """
    array = const_array(bias, _READ)
    if array is not None and array.ndim and _rows_see(array):
        return bias
    found = _interval(bias, _DEPTH)
    if found is None or not np.isfinite(found).all():
        rw.fail("{} may be infinite in a whole row, for which Attention gives 0", bias)
        return None
    if found[0] > _LOWEST:
        return bias
    raised: Value = rw.max(bias, rw.const(np.asarray(_NEXT), dtypes.F32))
    return raised


def _rows_see(array: np.ndarray) -> bool:
    """Return whether every row has a number above the lowest, and none a NaN."""
    return not np.isnan(array).any() and bool((array > _LOWEST).any(axis=-1).all())


def _interval(value: Value | None, depth: int) -> Interval | None:
    """Return between which numbers all elements of an f32 value are; ``None`` if not known."""
    if value is None or not depth or value.dtype is not dtypes.F32:
        return None
    array = const_array(value, _READ)
    if array is not None:
        if not array.size or np.isnan(array).any():
            return None
        return np.float32(array.min()), np.float32(array.max())
    op = value.op
    if op is None or op.has_attr_refs:
        return None
    if op.name in _VIEWS or op.name == "gather":
        return _interval(op.operands[0], depth - 1)
    return _computed(op, depth - 1)


def _computed(op: Op, depth: int) -> Interval | None:
    if op.name == "cast":
        source = op.operands[0]
        boolean = source is not None and source.dtype is dtypes.BOOL
        return (np.float32(0), np.float32(1)) if boolean else None
    if op.name not in ("where", "add", "sub", "mul", "min", "max"):
        return None
    pair = op.operands[-2:]
    a, b = (_interval(v, depth) for v in pair)
    if a is None or b is None or len(op.operands) > (3 if op.name == "where" else 2):
        return None
    if op.name == "where":
        return min(a[0], b[0]), max(a[1], b[1])
    with np.errstate(over="ignore", invalid="ignore"):
        if op.name in ("add", "sub"):
            low, high = (b[0], b[1]) if op.name == "add" else (-b[1], -b[0])
            ends = [a[0] + low, a[1] + high]
        elif op.name == "mul":
            ends = [x * y for x in a for y in b]
        else:
            pick = np.minimum if op.name == "min" else np.maximum
            ends = [pick(a[0], b[0]), pick(a[1], b[1])]
    return None if np.isnan(ends).any() else (min(ends), max(ends))
