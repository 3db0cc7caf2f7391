"""Lowerings of recurrent layers to loops, which keep no state from one run to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.backends.tflite.lower_loop import build_loop, place
from lepton_ir.backends.tflite.lower_tensor import reversed_along
from lepton_ir.backends.tflite.lowering import (
    cut,
    dtype_of,
    full,
    i64,
    operand,
    optional,
    shape_of,
    sizes,
)
from lepton_ir.tensors import DenseTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.builder import Builder
    from lepton_ir.ir import Op, Value

    Activation = Callable[[Builder, Value], Value]
    Step = Callable[[Builder, Value, list[Value]], list[Value]]

_DEFAULTS = {"rnn": ("Tanh",), "gru": ("Sigmoid", "Tanh"), "lstm": ("Sigmoid", "Tanh", "Tanh")}
_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
_PLAIN = {"tanh", "sigmoid", "relu", "softsign", "softplus"}
_WITH_ALPHA = {"leakyrelu": ("leaky_relu", 0.01), "elu": ("elu", 1.0)}


def _activations(op: Op, directions: int) -> list[list[Activation]]:
    """Return the activation functions of every direction."""
    default = _DEFAULTS[op.name]
    names = op.attr("activations") or default * directions
    if len(names) < len(default) * directions:
        raise ValueError("an activation is missing")
    alphas = list(op.attr("activation_alpha") or ())
    betas = list(op.attr("activation_beta") or ())
    clipped = (True, True, False)[: len(default)] * directions
    found = [
        _activation(str(name).lower(), alphas, betas, op.attr("clip") if clip else None)
        for name, clip in zip(names, clipped, strict=False)
    ]
    return [found[i : i + len(default)] for i in range(0, len(found), len(default))]


def _activation(
    name: str, alphas: list[float], betas: list[float], clip: float | None
) -> Activation:
    attrs: dict[str, Any] = {}
    kind = name
    if name in _WITH_ALPHA:
        kind, alpha = _WITH_ALPHA[name]
        attrs["alpha"] = alphas.pop(0) if alphas else alpha
    elif name == "hardsigmoid":
        kind = "hard_sigmoid"
        attrs["alpha"] = alphas.pop(0) if alphas else 0.2
        attrs["beta"] = betas.pop(0) if betas else 0.5
    elif name not in _PLAIN:
        raise ValueError(f"activation {name} has no form here")

    def apply(b: Builder, x: Value) -> Value:
        if clip is not None:
            x = b.clip(x, full(b, -clip, x), full(b, clip, x))
        return b.build(kind, x, **attrs).result

    return apply


@dataclass
class _Layer:
    """What one direction needs.

    Attributes:
        x: the sequence (length, batch, input), turned around for a backwards direction.
        w: (gates, input).
        r: (gates, hidden).
        wb: bias of the input's share, or ``None``.
        rb: bias of the state's share, or ``None``.
        lengths: (batch, 1) lengths of the sequences, or ``None``.
        size: hidden size.
    """

    x: Value
    w: Value
    r: Value
    wb: Value | None
    rb: Value | None
    lengths: Value | None
    size: int


def _row(b: Builder, value: Value | None, index: int) -> Value | None:
    if value is None:
        return None
    found: Value = b.squeeze(cut(b, value, 0, index, index + 1), i64(b, 0))
    return found


def _recurrent(b: Builder, op: Op) -> list[Value]:
    """Each direction is a loop over the shares of the input, which are computed at once."""
    x, w, r = (operand(op, i) for i in range(3))
    if dtype_of(x) is dtypes.F16:
        return _in_f32(b, op)
    if dtype_of(x) is not dtypes.F32:
        raise ValueError(f"there are no recurrent layers of {x.dtype}")
    if 0 in shape_of(x):
        raise ValueError("the sequence has no elements")
    layout = bool(op.attr("layout"))
    if layout:
        x = b.transpose(x, perm=(1, 0, 2))
    size = shape_of(r)[2]
    if not isinstance(size, int):
        raise ValueError("the hidden size is not known")
    ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    backwards = ways[op.attr("direction")]
    functions = _activations(op, len(backwards))
    found = []
    for d, back in enumerate(backwards):
        layer = _layer(b, op, x, w, r, (d, back, size))
        states = [_initial(b, op, x, d, 5, size)]
        if op.name == "lstm":
            states.append(_initial(b, op, x, d, 6, size))
        y, last = _run(b, layer, _STEPS[op.name](b, op, layer, functions[d], d), states)
        found.append((_turned(b, op, y) if back else y, last))
    y = b.concat(*(b.unsqueeze(f[0], i64(b, 1)) for f in found), axis=1)
    results = [y]
    results += [
        b.concat(*(b.unsqueeze(f[1][k], i64(b, 0)) for f in found), axis=0)
        for k in range(len(found[0][1]))
    ]
    if layout:
        results[0] = b.transpose(results[0], perm=(2, 0, 1, 3))
        results[1:] = [b.transpose(v, perm=(1, 0, 2)) for v in results[1:]]
    return results[: len(op.results)]


def _in_f32(b: Builder, op: Op) -> list[Value]:
    """Layers of f16 are computed in f32."""
    wide = [
        b.cast(v, to=dtypes.F32) if v is not None and v.dtype is dtypes.F16 else v
        for v in op.operands
    ]
    made = b.build(op.name, *wide, results=len(op.results), **op.attrs)
    return [b.cast(v, to=dtypes.F16) for v in made.results]


def _turned(b: Builder, op: Op, x: Value) -> Value:
    """Turn the time around, that of each sequence for itself."""
    lengths = optional(op, 4)
    if lengths is None:
        return reversed_along(b, x, 0)
    lengths = b.cast(lengths, to=dtypes.I64)
    found: Value = b.reverse_sequence(x, lengths, time_axis=0, batch_axis=1)
    return found


def _layer(
    b: Builder, op: Op, x: Value, w: Value, r: Value, which: tuple[int, bool, int]
) -> _Layer:
    d, back, size = which
    gates = _GATES[op.name] * size
    bias = _row(b, optional(op, 3), d)
    wb = rb = None
    if bias is not None:
        wb, rb = cut(b, bias, 0, 0, gates), cut(b, bias, 0, gates, 2 * gates)
    lengths = optional(op, 4)
    if lengths is not None:
        lengths = b.unsqueeze(b.cast(lengths, to=dtypes.I64), i64(b, 1))
    own_w, own_r = _row(b, w, d), _row(b, r, d)
    assert own_w is not None
    assert own_r is not None
    return _Layer(_turned(b, op, x) if back else x, own_w, own_r, wb, rb, lengths, size)


def _initial(b: Builder, op: Op, x: Value, d: int, index: int, size: int) -> Value:
    state = optional(op, index)
    if state is not None:
        if op.attr("layout"):
            state = b.transpose(state, perm=(1, 0, 2))
        found = _row(b, state, d)
        assert found is not None
        return found
    batch = shape_of(x)[1]
    if isinstance(batch, int):
        return b.const(np.zeros((batch, size), np.float32))
    shape = b.concat(b.slice(sizes(b, x), i64(b, 1), i64(b, 2)), i64(b, size), axis=0)
    zeros: Value = b.constant_of_shape(shape, value=DenseTensor(np.zeros(1, np.float32)))
    return zeros


def _run(b: Builder, layer: _Layer, step: Step, states: list[Value]) -> tuple[Value, list[Value]]:
    """Run one direction; return the first state of every step, and the last states."""
    shares = b.matmul(layer.x, b.transpose(layer.w, perm=(1, 0)))
    if layer.wb is not None:
        shares = b.add(shares, layer.wb)
    vector = sizes(b, layer.x)
    count = b.squeeze(b.slice(vector, i64(b, 0), i64(b, 1)), i64(b, 0))
    shape = b.concat(b.slice(vector, i64(b, 0), i64(b, 2)), i64(b, layer.size), axis=0)
    buffer = b.constant_of_shape(shape, value=DenseTensor(np.zeros(1, np.float32)))

    def body(inner: Builder, number: Value, args: list[Value]) -> tuple[None, list[Value]]:
        share = inner.gather(shares, number, axis=0)
        new = step(inner, share, args[1:])
        shown = new[0]
        if layer.lengths is not None:
            active = inner.less(number, layer.lengths)
            shown = inner.where(active, shown, full(inner, 0, shown))
            pairs = zip(new, args[1:], strict=True)
            new = [inner.where(active, n, s) for n, s in pairs]
        return None, [place(inner, args[0], shown, number), *new]

    y, *last = build_loop(b, count, None, [buffer, *states], body)
    return y, last


def _times(b: Builder, h: Value, r: Value) -> Value:
    found: Value = b.matmul(h, b.transpose(r, perm=(1, 0)))
    return found


def _plus(b: Builder, x: Value, bias: Value | None) -> Value:
    return x if bias is None else b.add(x, bias)


def _rnn_step(b: Builder, op: Op, layer: _Layer, f: list[Activation], d: int) -> Step:
    def step(inner: Builder, share: Value, states: list[Value]) -> list[Value]:
        gates = inner.add(share, _plus(inner, _times(inner, states[0], layer.r), layer.rb))
        return [f[0](inner, gates)]

    return step


def _gru_step(b: Builder, op: Op, layer: _Layer, f: list[Activation], d: int) -> Step:
    size = layer.size
    both_r = cut(b, layer.r, 0, 0, 2 * size)
    new_r = cut(b, layer.r, 0, 2 * size, 3 * size)
    both_b = None if layer.rb is None else cut(b, layer.rb, 0, 0, 2 * size)
    new_b = None if layer.rb is None else cut(b, layer.rb, 0, 2 * size, 3 * size)

    def step(inner: Builder, share: Value, states: list[Value]) -> list[Value]:
        (h,) = states
        gates = _plus(inner, _times(inner, h, both_r), both_b)
        both = f[0](inner, inner.add(cut(inner, share, 1, 0, 2 * size), gates))
        z, reset = cut(inner, both, 1, 0, size), cut(inner, both, 1, size, 2 * size)
        own = cut(inner, share, 1, 2 * size, 3 * size)
        if op.attr("linear_before_reset"):
            own = inner.add(own, inner.mul(reset, _plus(inner, _times(inner, h, new_r), new_b)))
        else:
            part = _times(inner, inner.mul(reset, h), new_r)
            own = inner.add(own, _plus(inner, part, new_b))
        kept = inner.mul(z, h)
        fresh = inner.mul(inner.sub(full(inner, 1, z), z), f[1](inner, own))
        return [inner.add(fresh, kept)]

    return step


def _lstm_step(b: Builder, op: Op, layer: _Layer, f: list[Activation], d: int) -> Step:
    size = layer.size
    peepholes = _row(b, optional(op, 7), d)
    parts = [
        None if peepholes is None else cut(b, peepholes, 0, k * size, (k + 1) * size)
        for k in range(3)
    ]

    def peeped(inner: Builder, gate: Value, c: Value, part: Value | None) -> Value:
        found: Value = gate if part is None else inner.add(gate, inner.mul(part, c))
        return found

    def step(inner: Builder, share: Value, states: list[Value]) -> list[Value]:
        h, c = states
        gates = inner.add(share, _plus(inner, _times(inner, h, layer.r), layer.rb))
        g_i, g_o, g_f, g_c = (cut(inner, gates, 1, k * size, (k + 1) * size) for k in range(4))
        i = f[0](inner, peeped(inner, g_i, c, parts[0]))
        if op.attr("input_forget"):
            forget = inner.sub(full(inner, 1, i), i)
        else:
            forget = f[0](inner, peeped(inner, g_f, c, parts[2]))
        new_c = inner.add(inner.mul(forget, c), inner.mul(i, f[1](inner, g_c)))
        o = f[0](inner, peeped(inner, g_o, new_c, parts[1]))
        return [inner.mul(o, f[2](inner, new_c)), new_c]

    return step


_STEPS: dict[str, Callable[[Builder, Op, _Layer, list[Activation], int], Step]] = {
    "rnn": _rnn_step,
    "gru": _gru_step,
    "lstm": _lstm_step,
}

LOWERINGS: dict[str, Callable[[Any, Any], Any]] = {name: _recurrent for name in _STEPS}
