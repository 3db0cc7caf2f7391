"""Rows that join several operands."""

from __future__ import annotations

from functools import reduce
from typing import Any

from lepton_ir.frontends.keras.lowering import Context, KerasBuilder
from lepton_ir.frontends.keras.table import layer
from lepton_ir.ir import Value


def _aligned(b: KerasBuilder, inputs: list[Value]) -> list[Value]:
    """Return operands of one rank: axes are added behind the batch, as Keras does."""
    rank = max(b.rank(x) for x in inputs)
    found = []
    for x in inputs:
        missing = rank - b.rank(x)
        found.append(b.unsqueeze(x, b.ints(list(range(1, 1 + missing)))) if missing else x)
    return b.together(*found)


def _folded(name: str) -> Any:
    def row(b: KerasBuilder, me: Context, inputs: Any, *more: Value) -> Any:
        given: list[Value] = [*(inputs if isinstance(inputs, list) else [inputs]), *more]
        y = reduce(lambda x, z: b.build(name, x, z).result, _aligned(b, given))
        masks = [b.masks[x] for x in given if x in b.masks]
        if masks:
            b.masks[y] = reduce(lambda m, n: b.build("or", m, n).result, masks)
        return y

    return row


for _class, _name in (("Add", "add"), ("Multiply", "mul"), ("Maximum", "max"), ("Minimum", "min")):
    layer(_class)(_folded(_name))


@layer("Subtract")
def subtract(b: KerasBuilder, me: Context, inputs: list[Value]) -> Any:
    x, y = _aligned(b, inputs)
    return b.sub(x, y)


@layer("Average")
def average(b: KerasBuilder, me: Context, inputs: list[Value]) -> Any:
    total = _folded("add")(b, me, inputs)
    return b.mul(total, b.like(total, 1 / len(inputs)))


@layer("Concatenate")
def concatenate(b: KerasBuilder, me: Context, inputs: list[Value]) -> Any:
    axis = b.axis(inputs[0], me.get("axis", -1))
    return b.concat(*b.together(*inputs), axis=axis)


@layer("Dot")
def dot(b: KerasBuilder, me: Context, inputs: list[Value]) -> Any:
    x, y = inputs
    axes = me.get("axes")
    first, second = (axes, axes) if isinstance(axes, int) else axes
    i, j = b.axis(x, first), b.axis(y, second)
    if me.get("normalize"):
        x, y = (_unit(b, v, a) for v, a in ((x, i), (y, j)))
    left = [a for a in range(1, b.rank(x)) if a != i]
    right = [a for a in range(1, b.rank(y)) if a != j]
    letters = "abcdefghijklmnopqrstuvwxyz"
    xs = {0: "z", i: "y", **{a: letters[k] for k, a in enumerate(left)}}
    ys = {0: "z", j: "y", **{a: letters[k + len(left)] for k, a in enumerate(right)}}
    out = "z" + "".join(xs[a] for a in left) + "".join(ys[a] for a in right)
    text = f"{_spell(xs)},{_spell(ys)}->{out}"
    found = b.einsum(x, y, equation=text)
    return b.unsqueeze(found, b.ints([1])) if len(out) == 1 else found


def _spell(names: dict[int, str]) -> str:
    return "".join(names[a] for a in sorted(names))


def _unit(b: KerasBuilder, x: Value, axis: int) -> Value:
    total = b.reduce_sum(b.mul(x, x), b.ints([axis]), keepdims=True)
    return b.div(x, b.sqrt(b.max(total, b.like(x, 1e-12))))  # type: ignore[no-any-return]
