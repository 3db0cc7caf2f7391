"""Rows of recurrent layers: `lstm`, `gru` and `rnn`, and loops where there is no such operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import create
from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.keras.layers.conv import numbers, same_pads, spatial_sizes
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder, activate
from lepton_ir.frontends.keras.table import layer
from lepton_ir.infer import infer_op
from lepton_ir.ir import Value
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

_GATES = {"lstm": (0, 3, 1, 2), "gru": (0, 1, 2), "rnn": (0,)}
"""ONNX's order of gates as positions in Keras's: i o f c of i f c o; z r h in both."""

_KINDS = {
    "LSTM": "lstm",
    "GRU": "gru",
    "SimpleRNN": "rnn",
    "LSTMCell": "lstm",
    "GRUCell": "gru",
    "SimpleRNNCell": "rnn",
    "CuDNNLSTM": "lstm",
    "CuDNNGRU": "gru",
}

_ACTIVATIONS: dict[str, tuple[str, float, float]] = {
    "tanh": ("Tanh", 0, 0),
    "sigmoid": ("Sigmoid", 0, 0),
    "relu": ("Relu", 0, 0),
    "linear": ("Affine", 1, 0),
    "softsign": ("Softsign", 0, 0),
    "softplus": ("Softplus", 0, 0),
    "elu": ("Elu", 1, 0),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
}
"""Activations that ONNX's recurrent operators have, with alpha and beta."""


layer(
    "RecurrentCell", "LSTMCell", "GRUCell", "SimpleRNNCell", weights="kernel recurrent_kernel bias?"
)(lambda b, me, *args, **kwargs: _alone(b, me, *args, **kwargs))


@layer("StackedRNNCells", children="cells")
def stacked(b: KerasBuilder, me: Context, *args: Any, **kwargs: Any) -> Any:
    return _alone(b, me, *args, **kwargs)


def _alone(b: KerasBuilder, me: Context, *args: Any, **kwargs: Any) -> Any:
    raise UnsupportedError("a recurrent cell outside a recurrent layer", code="keras-layer")


@dataclass
class _Side:
    """One direction of a recurrent layer: what `lstm` and its kin take."""

    kind: str
    w: Value
    r: Value
    bias: Value | None
    units: int
    attrs: dict[str, Any]


def _activations(config: dict[str, Any], kind: str) -> dict[str, Any]:
    names = ["recurrent_activation", "activation"] if kind != "rnn" else ["activation"]
    defaults = {"recurrent_activation": "sigmoid", "activation": "tanh"}
    found = []
    for name in names:
        given = config.get(name) or "linear"
        given = given if name in config else defaults[name]
        if isinstance(given, dict):
            given = given.get("config") if isinstance(given.get("config"), str) else given
        if not isinstance(given, str) or given not in _ACTIVATIONS:
            raise UnsupportedError(
                f"activation {given!r:.60} in a recurrent layer", code="keras-rnn"
            )
        found.append(_ACTIVATIONS[given])
    if kind == "lstm":
        found.append(found[-1])
    plain = {"lstm": ["Sigmoid", "Tanh", "Tanh"], "gru": ["Sigmoid", "Tanh"], "rnn": ["Tanh"]}
    if [f[0] for f in found] == plain[kind]:
        return {}
    return {
        "activations": [f[0] for f in found],
        "activation_alpha": [float(f[1]) for f in found],
        "activation_beta": [float(f[2]) for f in found],
    }


def _side(b: KerasBuilder, cell: Context, kind: str) -> _Side:
    order = _GATES[kind]
    kernel, recurrent = cell.tensor("kernel"), cell.tensor("recurrent_kernel")
    units = recurrent.shape[0]
    width = units * len(order)

    def gates(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        parts = np.split(x, len(order), -1)
        return np.concatenate([parts[i] for i in order], -1)

    w = cell.made("kernel", lambda x: gates(x).T[None], 1, width, kernel.shape[0])
    r = cell.made("recurrent_kernel", lambda x: gates(x).T[None], 1, width, units)
    bias = None
    attrs = _activations(cell.config, kind)
    after = kind == "gru" and bool(
        cell.get("reset_after", cell.has("bias") and len(cell.tensor("bias").shape) == 2)
    )
    if cell.has("bias"):

        def both(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            rows = x if x.ndim == 2 else np.stack([x, np.zeros_like(x)])
            return gates(rows).reshape(1, -1)

        bias = cell.made("bias", both, 1, 2 * width)
    if after:
        attrs["linear_before_reset"] = True
    return _Side(kind, w, r, bias, units, attrs)


def _kind(name: str) -> str:
    if name not in _KINDS:
        raise UnsupportedError(f"a recurrent layer over {name}", code="keras-rnn")
    return _KINDS[name]


def reverse(b: KerasBuilder, x: Value, axis: int) -> Value:
    """Return ``x`` with the elements of an axis in reverse order."""
    one, low = b.ints([-1]), b.ints([-(1 << 62)])
    found: Value = b.slice(x, one, low, b.ints([axis]), b.ints([-1]))
    return found


@dataclass
class _Run:
    """A recurrent layer's result: all steps (batch, steps, units), and the last states."""

    steps: Value
    states: list[Value]


def _run(
    b: KerasBuilder, side: _Side, x: Value, states: Sequence[Value], mask: Value | None
) -> _Run:
    """Run one direction over x (batch, steps, features)."""
    if mask is not None:
        return _masked(b, side, x, states, mask)
    begin = [b.unsqueeze(s, b.ints([0])) for s in states]
    op = b.build(
        side.kind,
        b.transpose(x, perm=[1, 0, 2]),
        side.w,
        side.r,
        side.bias,
        None,
        *begin,
        results=3 if side.kind == "lstm" else 2,
        hidden_size=side.units,
        **side.attrs,
    )
    y, *last = op.results
    steps = b.transpose(b.squeeze(y, b.ints([1])), perm=[1, 0, 2])
    return _Run(steps, [b.squeeze(s, b.ints([0])) for s in last])


def _masked(b: KerasBuilder, side: _Side, x: Value, states: Sequence[Value], mask: Value) -> _Run:
    """The same step by step: void steps repeat the output before them and keep the states."""
    count = 2 if side.kind == "lstm" else 1
    start = list(states) or [_zeros(b, x, side.units) for _ in range(count)]
    output = _zeros(b, x, side.units)

    def body(
        inner: KerasBuilder, state: list[Value], rows: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        last, *old = state
        row, valid = rows
        op = inner.build(
            side.kind,
            inner.unsqueeze(row, inner.ints([0])),
            side.w,
            side.r,
            side.bias,
            None,
            *(inner.unsqueeze(s, inner.ints([0])) for s in old),
            results=count + 1,
            hidden_size=side.units,
            **side.attrs,
        )
        fresh = [inner.squeeze(s, inner.ints([0])) for s in op.results[1:]]
        keep = inner.unsqueeze(valid, inner.ints([1]))
        new = [inner.where(keep, f, o) for f, o in zip(fresh, old, strict=True)]
        shown = inner.where(keep, fresh[0], last)
        return [shown, *new], [shown]

    rows = [b.transpose(x, perm=[1, 0, 2]), b.transpose(b.cast_to(mask, dtypes.BOOL), perm=[1, 0])]
    found = scan(b, [output, *start], rows, body)
    steps = b.transpose(found[count + 1], perm=[1, 0, 2])
    return _Run(steps, found[1 : count + 1])


def _zeros(b: KerasBuilder, x: Value, *sizes: Any) -> Value:
    found: Value = b.expand(b.like(x, 0), b.ints([b.size_of(x, 0), *sizes]))
    return found


Body = "Callable[[KerasBuilder, list[Value], list[Value]], tuple[list[Value], list[Value]]]"


def scan(b: KerasBuilder, start: list[Value], rows: list[Value], body: Any) -> list[Value]:
    """Return the last states and the stacked rows of ``body(builder, states, rows)``."""
    op = create("scan", [*start, *rows], {"num_scan_inputs": len(rows)}, len(start) + 1)
    op.loc = b.loc
    b.block.append(op)
    block = op.regions[0].block
    state = [block.add_arg(v.type) for v in start]
    given = [block.add_arg(_row_type(v)) for v in rows]
    inner = KerasBuilder(block, b.masks)
    inner.loc = b.loc
    states, shown = body(inner, state, given)
    block.append(create("yield", [*states, *shown]))
    infer_op(op)
    return list(op.results)


def _row_type(value: Value) -> TensorType:
    assert value.shape is not None
    return TensorType(value.dtype, value.shape[1:])


# -- layers ----------------------------------------------------------------------------------------


def _check(me: Context) -> None:
    if me.get("stateful"):
        raise UnsupportedError(
            "a stateful recurrent layer keeps its state between calls", code="keras-rnn"
        )


def _states(x: Any, more: Sequence[Any], initial: Any) -> tuple[Value, list[Value]]:
    given = list(more)
    if isinstance(x, list):
        x, *given = x
    if initial is not None:
        given = list(initial) if isinstance(initial, list) else [initial]
    return x, [s for g in given for s in (g if isinstance(g, list) else [g])]


def _cells(me: Context) -> list[tuple[Context, str]]:
    """Return the cells of a layer with their kinds."""
    name = me.layer.class_name
    if name in _KINDS:
        return [(me.child("cell"), _kind(name))]
    cell = me.child("cell")
    if cell.layer.class_name != "StackedRNNCells":
        return [(cell, _kind(cell.layer.class_name))]
    from lepton_ir.frontends.keras.weights import children

    inner = [cell.child(n) for n in children(cell.layer)]
    return [(c, _kind(c.layer.class_name)) for c in inner]


@layer("LSTM", "GRU", "SimpleRNN", "RNN", "CuDNNLSTM", "CuDNNGRU", children="cell")
def recurrent(b: KerasBuilder, me: Context, x: Any, *more: Any, initial_state: Any = None) -> Any:
    _check(me)
    x, states = _states(x, more, initial_state)
    mask = b.masks.get(x)
    run = _layers(b, me, x, states, mask, bool(me.get("go_backwards")))
    return _shown(b, me, run, mask)


def _layers(
    b: KerasBuilder, me: Context, x: Value, states: list[Value], mask: Value | None, backwards: bool
) -> _Run:
    steps = reverse(b, x, 1) if backwards else x
    if backwards and mask is not None:
        mask = reverse(b, mask, 1)
    last: list[Value] = []
    for cell, kind in _cells(me):
        count = 2 if kind == "lstm" else 1
        own, states = states[:count], states[count:]
        run = _run(b, _side(b, cell, kind), steps, own, mask)
        steps = run.steps
        last += run.states
    return _Run(steps, last)


def _shown(b: KerasBuilder, me: Context, run: _Run, mask: Value | None) -> Any:
    sequences = bool(me.get("return_sequences"))
    y = run.steps if sequences else _last(b, run.steps)
    if sequences and mask is not None:
        if me.get("zero_output_for_mask"):
            y = b.mul(y, b.unsqueeze(b.cast_to(mask, y.dtype or dtypes.F32), b.ints([2])))
        b.masks[y] = mask
    return [y, *run.states] if me.get("return_state") else y


def _last(b: KerasBuilder, steps: Value) -> Value:
    found: Value = b.gather(steps, b.full((), -1, dtypes.I64), axis=1)
    return found


@layer("Bidirectional", children="forward_layer backward_layer")
def bidirectional(
    b: KerasBuilder, me: Context, x: Any, *more: Any, initial_state: Any = None
) -> Any:
    x, states = _states(x, more, initial_state)
    mask = b.masks.get(x)
    sides = [me.child("forward_layer"), me.child("backward_layer")]
    for side in sides:
        _check(side)
    half = len(states) // 2
    runs = [
        _layers(b, side, x, states[i * half : (i + 1) * half], mask, bool(i))
        for i, side in enumerate(sides)
    ]
    sequences = bool(sides[0].get("return_sequences"))
    if sequences:
        shown = [runs[0].steps, reverse(b, runs[1].steps, 1)]
    else:
        shown = [_last(b, r.steps) for r in runs]
    y: Any = _merged(b, shown, me.get("merge_mode", "concat"))
    if sequences and mask is not None and isinstance(y, Value):
        b.masks[y] = mask
    if sides[0].get("return_state"):
        parts = y if isinstance(y, list) else [y]
        return [*parts, *runs[0].states, *runs[1].states]
    return y


def _merged(b: KerasBuilder, sides: list[Value], mode: Any) -> Any:
    first, second = sides
    if mode is None:
        return sides
    if mode == "concat":
        return b.concat(first, second, axis=-1)
    if mode == "ave":
        return b.mul(b.add(first, second), b.like(first, 0.5))
    return b.build({"sum": "add", "mul": "mul"}[mode], first, second).result


# -- convolutional ---------------------------------------------------------------------------------


@layer("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", children="cell")
def conv_lstm(b: KerasBuilder, me: Context, x: Any, *more: Any, initial_state: Any = None) -> Any:
    """Input convolutions of all steps at once, then a scan with those of the states."""
    _check(me)
    x, states = _states(x, more, initial_state)
    if x in b.masks or not me.channels_last:
        raise UnsupportedError("ConvLSTM with a mask, or channels first", code="keras-rnn")
    if me.get("go_backwards"):
        x = reverse(b, x, 1)
    cell = me.child("cell")
    *kernel, channels, width = cell.tensor("kernel").shape
    filters = width // 4
    w = cell.made("kernel", lambda k: np.moveaxis(k, -1, 0), width, *kernel, channels)
    r = cell.made("recurrent_kernel", lambda k: np.moveaxis(k, -1, 0), width, *kernel, filters)
    sizes = b.sizes_of(x)
    both = all(isinstance(s, int) for s in sizes[:2])
    total: Any = sizes[0] * sizes[1] if both else b.arith("mul", sizes[0], sizes[1])  # type: ignore[operator]
    flat = b.resized(x, [total, *sizes[2:]])
    count = len(kernel)
    strides, dilations = (numbers(me.get(n, 1), count) for n in ("strides", "dilation_rate"))
    attrs: dict[str, Any] = {"strides": strides, "dilations": dilations}
    if me.get("padding", "valid") == "same":
        attrs |= same_pads(spatial_sizes(b, flat, True), kernel, strides, dilations)
    gates = b.conv_nhwc(flat, w, cell.optional("bias"), **attrs)
    plane = b.sizes_of(gates)[1:-1]
    rows = b.resized(gates, [*sizes[:2], *plane, width])
    order = [1, 0, *range(2, count + 3)]
    start = states or [_zeros(b, x, *plane, filters) for _ in range(2)]
    around = same_pads(plane, kernel, [1] * count, [1] * count)

    def body(
        inner: KerasBuilder, state: list[Value], given: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        h, c = state
        mixed = inner.add(given[0], inner.conv_nhwc(h, r, **around))
        i, f, g, o = inner.split(mixed, axis=count + 1, num_outputs=4, results=4)
        gate = me.get("recurrent_activation", "sigmoid")
        act = me.get("activation", "tanh")
        kept = inner.mul(activate(inner, gate, f), c)
        new = inner.add(kept, inner.mul(activate(inner, gate, i), activate(inner, act, g)))
        shown = inner.mul(activate(inner, gate, o), activate(inner, act, new))
        return [shown, new], [shown]

    h, c, steps = scan(b, start, [b.transpose(rows, perm=order)], body)
    y = b.transpose(steps, perm=order) if me.get("return_sequences") else h
    return [y, h, c] if me.get("return_state") else y
