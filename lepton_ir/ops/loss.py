"""Training losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dims
from lepton_ir.opdef import Int, Str, op
from lepton_ir.ops._support import Array, Shape, first_dtype, widen
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.builder import Builder
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value

_REDUCTIONS = ("none", "sum", "mean")


def _infer_loss(ctx: InferContext, scores: str, labels: str, weights: str) -> TensorType:
    reduction = ctx.attrs["reduction"]
    if reduction not in _REDUCTIONS:
        ctx.fail("C1", f"reduction {reduction!r} is none of {', '.join(_REDUCTIONS)}")
    x, target = ctx.shape(scores), ctx.shape(labels)
    if x is not None and len(x) < 2:
        ctx.fail("C2", f"{scores} has rank {len(x)}")
    if x is not None and target is not None:
        expected = x[:1] + x[2:]
        if len(expected) != len(target) or any(
            p is not None and q is not None and dims.prove_eq(p, q) is False
            for p, q in zip(expected, target, strict=True)
        ):
            ctx.fail("C3", f"{scores} has shape {x} but {labels} has {target}")
    dtype = first_dtype(ctx, scores, weights)
    if reduction != "none":
        return TensorType(dtype, ())
    shape: Shape | None = target
    if x is not None:
        rest = x[:1] + x[2:]
        shape = tuple(p if q is None else q for p, q in zip(rest, target or rest, strict=True))
    return TensorType(dtype, shape)


def _nll(
    x: Array, target: Array, weight: Array | None, ignore_index: int | None, reduction: str
) -> Array:
    """Return the reduced negative log likelihood of wide ``x`` (N, C, ...), in its own dtype."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction {reduction!r} is none of {', '.join(_REDUCTIONS)}")
    if x.ndim < 2 or x.shape[:1] + x.shape[2:] != target.shape:
        raise ValueError(f"scores of shape {x.shape} do not go with labels of {target.shape}")
    ignored = np.zeros(target.shape, bool) if ignore_index is None else target == ignore_index
    classes = np.where(ignored, 0, target).astype(np.int64)
    if classes.size and not (classes.min() >= 0 and classes.max() < x.shape[1]):
        raise ValueError(f"a label is outside [0, {x.shape[1]})")
    picked = np.take_along_axis(x, np.expand_dims(classes, 1), 1).squeeze(1)
    factor = np.ones(target.shape, x.dtype) if weight is None else weight.astype(x.dtype)[classes]
    factor = np.where(ignored, x.dtype.type(0), factor)
    loss = np.where(ignored, x.dtype.type(0), -picked * factor)
    if reduction == "none":
        return np.asarray(loss)
    total = loss.sum(dtype=x.dtype)
    if reduction == "sum":
        return np.asarray(total)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / factor.sum(dtype=x.dtype))


def _build_nll(b: Builder, x: Value, target: Value, weight: Value | None, op: Op) -> Value:
    """Build :func:`_nll` from gathers and reductions; ``x`` holds log probabilities."""
    ignore_index, reduction = op.attr("ignore_index"), op.attr("reduction")
    dtype = x.dtype
    if dtype is None or target.dtype is None:
        raise ValueError("the element types are not known")
    zero = b.const(np.array(0), dtype)
    ignored, classes = None, target
    if ignore_index is not None:
        ignored = b.equal(target, b.const(np.array(ignore_index), target.dtype))
        classes = b.where(ignored, b.const(np.array(0), target.dtype), target)
    picked = b.gather_elements(x, b.unsqueeze(classes, [1]), axis=1)
    loss: Value = b.neg(b.squeeze(picked, [1]))
    factor = None if weight is None else b.gather(weight, classes)
    if factor is not None:
        loss = b.mul(loss, factor)
    if ignored is not None:
        loss = b.where(ignored, zero, loss)
        factor = b.where(ignored, zero, b.const(np.array(1), dtype) if factor is None else factor)
    if reduction == "none":
        return loss
    if reduction == "mean" and factor is None:
        result: Value = b.reduce_mean(loss, keepdims=False)
        return result
    total: Value = b.reduce_sum(loss, keepdims=False)
    return total if reduction == "sum" else b.div(total, b.reduce_sum(factor, keepdims=False))


def _infer_nll(ctx: InferContext) -> TensorType:
    return _infer_loss(ctx, "x", "target", "weight")


def _decompose_nll(b: Builder, op: Op) -> list[Value]:
    x, target = op.operand("x"), op.operand("target")
    assert x is not None
    assert target is not None
    return [_build_nll(b, x, target, op.operand("weight"), op)]


@op(
    "negative_log_likelihood_loss(x, target, weight?) -> loss",
    infer=_infer_nll,
    traits="composite",
    decompose=_decompose_nll,
)
def negative_log_likelihood_loss(
    x: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: Int | None = None,
    reduction: Str = "mean",
) -> Array:
    """Weighted ``-x[n, target[n]]``, reduced (ONNX NegativeLogLikelihoodLoss-22).

    C1  reduction in none, sum, mean
    C2  rank(x) >= 2
    C3  target.shape == x.shape without dim 1
    """
    return _nll(widen(x), target, weight, ignore_index, reduction).astype(x.dtype, copy=False)


def _infer_cross_entropy(ctx: InferContext) -> list[TensorType]:
    loss = _infer_loss(ctx, "scores", "labels", "weights")
    return [loss, TensorType(loss.dtype, ctx.shape("scores"))]


def _decompose_cross_entropy(b: Builder, op: Op) -> list[Value]:
    scores, labels = op.operand("scores"), op.operand("labels")
    assert scores is not None
    assert labels is not None
    logs = b.log_softmax(scores, axis=1)
    return [_build_nll(b, logs, labels, op.operand("weights"), op), logs][: len(op.results)]


@op(
    "softmax_cross_entropy_loss(scores, labels, weights?) -> y, log_prob?",
    infer=_infer_cross_entropy,
    traits="composite",
    decompose=_decompose_cross_entropy,
)
def softmax_cross_entropy_loss(
    scores: Array,
    labels: Array,
    weights: Array | None = None,
    *,
    ignore_index: Int | None = None,
    reduction: Str = "mean",
) -> tuple[Any, ...]:
    """Negative log likelihood of ``log_softmax(scores)`` (ONNX SoftmaxCrossEntropyLoss-13).

    C1  reduction in none, sum, mean
    C2  rank(scores) >= 2
    C3  labels.shape == scores.shape without dim 1
    """
    x = widen(scores)
    if x.size:
        x = x - x.max(axis=1, keepdims=True)
    logs = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    loss = _nll(logs, labels, weights, ignore_index, reduction)
    return loss.astype(scores.dtype, copy=False), logs.astype(scores.dtype, copy=False)
