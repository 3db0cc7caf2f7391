"""Random control flow for `lepton_ir.tools.fuzz`: If, Loop and Scan with captured values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

import lepton_ir.tools.fuzz_nn
import lepton_ir.tools.fuzz_shape  # noqa: F401 - both register productions
from lepton_ir.tools.fuzz_graph import ELEM_TYPES, Dim, Scope, Tensor, broadcast, static
from lepton_ir.tools.fuzz_ops import PRODUCTIONS, production

__all__ = ["grow"]

_DEPTH = 2
"""Levels of subgraphs within subgraphs."""

Unfinished = Callable[[Scope], Tensor]


def grow(g: Scope, count: int) -> None:
    """Apply `count` random productions that suit the scope, or give up after ten times as many."""
    usable = [p for p in PRODUCTIONS if g.opset >= p.since]
    weights = [p.weight for p in usable]
    done = 0
    for choice in g.rng.choices(usable, weights, k=10 * count):
        if done >= count:
            return
        done += choice.grow(g) is not None


def close(g: Scope, inputs: list[Tensor], outputs: list[Tensor]) -> onnx.GraphProto:
    """Return the subgraph; results that are not its own are passed through Identity."""
    results = []
    for tensor in outputs:
        own = any(tensor.name == t.name for t in g.tensors) and tensor not in results
        results.append(
            tensor if own and tensor not in inputs else g.emit("Identity", [tensor])
        )  # fmt: skip
    return helper.make_graph(
        g.nodes,
        g.context.fresh("body"),
        [_declare(g, t) for t in inputs],
        [_declare(g, t) for t in results],
        g.initializers,
    )


def _declare(g: Scope, t: Tensor) -> onnx.ValueInfoProto:
    """Declare a value of a subgraph: static dims as numbers, the others unknown."""
    sizes = [static(dim) for dim in t.shape]
    return helper.make_tensor_value_info(t.name, ELEM_TYPES[t.dtype], sizes)


def _results(
    g: Scope, op: str, inputs: list[Tensor | None], outs: list[Tensor], **attrs: Any
) -> Tensor:
    g.node(op, inputs, [t.name for t in outs], **attrs)
    return [g.add(t) for t in outs][-1]


def _result(g: Scope, like: Tensor, shape: tuple[Dim, ...], exact: bool = False) -> Tensor:
    return Tensor(
        g.context.fresh("res"), like.dtype, shape, like.lo, like.hi, exact, like.special
    )  # fmt: skip


def _condition(g: Scope) -> Tensor:
    """Return a bool scalar: constant, or computed from exact values."""
    x = g.pick(lambda t: t.plain and t.exact and t.nonempty and t.rank >= 1)
    if x is None or g.rng.random() < 0.3:
        return g.constant(np.array(g.rng.random() < 0.5))
    largest = g.reduce("ReduceMax", x, list(range(x.rank)), keepdims=False)
    bound = g.scalar(g.rng.choice([0.0, 1.0, 1.9]))
    return g.emit("Greater", [largest, bound], dtype="bool", lo=0, hi=1, exact=True)


@production(1.5)
def branch(g: Scope) -> Tensor | None:
    """If whose branches read outer values and agree in dtype and shape."""
    anchor = g.pick(lambda t: t.plain)
    if g.depth >= _DEPTH or anchor is None:
        return None
    condition = _condition(g)
    graphs, ends = [], []
    for _ in range(2):
        scope = Scope(g.context, g)
        if g.rng.random() < 0.8:
            grow(scope, g.rng.randint(1, 3))
        end = _shaped_like(scope, anchor)
        second = scope.pick(lambda t: t.dtype == "f32" and t.known and not t.special)
        ends.append((end, _summed(scope, second or end)))
        graphs.append((scope, end))
    bodies = [
        close(scope, [], [end, extra])
        for (scope, _), (end, extra) in zip(graphs, ends, strict=True)
    ]
    pair = [end for end, _ in ends]
    merged = Tensor(
        "", "f32", anchor.shape, min(t.lo for t in pair), max(t.hi for t in pair),
        all(t.exact for t in pair),
    )  # fmt: skip
    total = Tensor("", "f32", (), -1.0, 1.0)
    outs = [_result(g, total, ()), _result(g, merged, anchor.shape, merged.exact)]
    return _results(
        g, "If", [condition], list(reversed(outs)), then_branch=bodies[0], else_branch=bodies[1]
    )


def _shaped_like(scope: Scope, anchor: Tensor) -> Tensor:
    """Return a tensor of the anchor's shape made in the scope, or the anchor."""
    found = scope.pick(lambda t: t.plain and t.shape == anchor.shape)
    return found or anchor


def _summed(scope: Scope, x: Tensor) -> Tensor:
    """Return a scalar in [-1, 1] that depends on all of `x`."""
    if x.rank:
        x = scope.reduce("ReduceSum", x, list(range(x.rank)), keepdims=False)
    return scope.emit("Tanh", [scope.tame(x)], lo=-1, hi=1)


@production(1.2)
def loop(g: Scope) -> Tensor | None:
    """Loop with one carried tensor and one scan output; at times no trip, or an early end."""
    start = g.pick(lambda t: t.plain and t.rank <= 3)
    if g.depth >= _DEPTH or start is None:
        return None
    trips = g.rng.choice([0, 1, 2, 3])
    dynamic = g.rng.random() < 0.4
    count = g.scalar(trips, "i64")
    if dynamic:
        fed = g.feed("i64", ()) if len(g.context.inputs) < 7 else count
        count = g.emit("Abs", [fed], lo=0, hi=5, exact=True)
    body = Scope(g.context, g)
    step = body.add(Tensor(g.context.fresh("i"), "i64", (), 0, 5, exact=True))
    going = body.add(Tensor(g.context.fresh("on"), "bool", (), 0, 1, exact=True))
    carried = body.add(
        Tensor(g.context.fresh("carry"), "f32", start.shape, min(start.lo, -1), max(start.hi, 1))
    )
    if g.rng.random() < 0.6:
        grow(body, g.rng.randint(1, 3))
    early = g.rng.random() < 0.3
    more = (
        body.emit("Less", [step, body.scalar(1, "i64")], dtype="bool", lo=0, hi=1, exact=True)
        if early
        else going
    )
    following = _advance(body, carried, step)
    scanned = _scan_value(body, following)
    graph = close(body, [step, going, carried], [more, following, scanned])
    limit = min(trips, 2) if early else trips
    length: Dim = None if dynamic else g.dim(limit)
    outs = [_result(g, carried, start.shape), _result(g, scanned, (length, *scanned.shape))]
    first = g.constant(np.array(True)) if g.rng.random() < 0.7 else None
    return _results(g, "Loop", [count, first, start], outs, body=graph)


def _advance(body: Scope, carried: Tensor, step: Tensor) -> Tensor:
    """Return the next carried value: bounded, of the same shape."""
    other = body.pick(
        lambda t: t.plain and broadcast(carried.shape, t.shape) == carried.shape
    )  # fmt: skip
    term = other or body.cast(step, "f32")
    joined = body.emit(body.rng.choice(["Add", "Mul", "Sub"]), [carried, term], shape=carried.shape)
    return body.emit("Tanh", [joined], lo=-1, hi=1)


def _scan_value(body: Scope, following: Tensor) -> Tensor:
    """Return what a Loop collects: of static shape, which a loop without trips still has."""
    if all(static(dim) is not None for dim in following.shape) and body.rng.random() < 0.7:
        return following
    return _summed(body, following)


@production(0.7)
def scan(g: Scope) -> Tensor | None:
    """Scan with one state and one scanned input over its first axis, in either direction."""
    x = g.pick(lambda t: t.plain and t.nonempty and t.rank >= 1)
    if g.depth >= _DEPTH or x is None:
        return None
    body = Scope(g.context, g)
    state = body.add(Tensor(g.context.fresh("state"), "f32", x.shape[1:], -1, 1))
    row = body.add(Tensor(g.context.fresh("row"), "f32", x.shape[1:], x.lo, x.hi, x.exact))
    if g.rng.random() < 0.5:
        grow(body, g.rng.randint(1, 2))
    total = body.emit("Add", [state, row], lo=row.lo - 1, hi=row.hi + 1)
    following = body.emit("Tanh", [total], lo=-1, hi=1)
    graph = close(body, [state, row], [following, total])
    reverse = int(g.rng.random() < 0.3)
    start = _zeros(g, x)
    outs = [_result(g, following, x.shape[1:]), _result(g, total, x.shape)]
    return _results(
        g, "Scan", [start, x], outs, body=graph, num_scan_inputs=1,
        scan_input_directions=[reverse] if reverse else None,
    )  # fmt: skip


def _zeros(g: Scope, x: Tensor) -> Tensor:
    """Return a first state of the shape of one row of `x`."""
    row = g.move("Gather", [x, g.scalar(0, "i64")], x.shape[1:], axis=0)
    return g.emit("Tanh", [row], lo=-1, hi=1)
