"""Rows of recurrent layers: each layer becomes one ``lstm``, ``gru`` or ``rnn``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.diagnostics import UnsupportedError
from lepton_ir.frontends.torch.lowering import Lowering
from lepton_ir.frontends.torch.ops.shape import transposed
from lepton_ir.frontends.torch.table import torch_op
from lepton_ir.ir import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
"""ONNX's order of gates, as positions in PyTorch's: lstm i o f c of i f g o, gru z r h of r z n."""


class _Layers:
    """The weights of all layers and directions, as PyTorch lists them."""

    def __init__(
        self, b: Lowering, kind: str, params: Sequence[Value], layers: int, both: bool, biases: bool
    ) -> None:
        self.b = b
        self.order = _GATES[kind]
        self.count = 2 if both else 1
        per = len(params) // max(layers * self.count, 1)
        if per != (4 if biases else 2):
            raise UnsupportedError(f"{per} weights a layer (projections?)", code="torch-rnn")
        self.params = [params[i : i + per] for i in range(0, len(params), per)]

    def _gates(self, x: Value) -> Value:
        """Return rows of gates in ONNX's order."""
        b = self.b
        if len(self.order) == 1:
            return x
        parts = b.split(x, axis=0, num_outputs=len(self.order), results=len(self.order))
        return b.concat(*(parts[i] for i in self.order), axis=0)  # type: ignore[no-any-return]

    def weights(self, layer: int) -> list[Value | None]:
        """Return w, r and b of a layer with its directions stacked."""
        b = self.b
        sides = self.params[layer * self.count : (layer + 1) * self.count]
        found: list[Value | None] = [
            self._stack([self._gates(side[i]) for side in sides]) for i in range(2)
        ]
        if len(sides[0]) == 4:
            joined = [b.concat(self._gates(s[2]), self._gates(s[3]), axis=0) for s in sides]
            found.append(self._stack(joined))
        else:
            found.append(None)
        return found

    def _stack(self, values: list[Value]) -> Value:
        b = self.b
        wide = [b.unsqueeze(v, b.ints([0])) for v in values]
        return wide[0] if len(wide) == 1 else b.concat(*wide, axis=0)  # type: ignore[no-any-return]


def _run(
    b: Lowering,
    kind: str,
    input: Value,
    states: Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    **attrs: Any,
) -> list[Value]:
    if train and dropout:
        raise UnsupportedError("dropout between layers in training mode", code="torch-train")
    layers = _Layers(b, kind, params, num_layers, bidirectional, has_biases)
    single = b.rank(input) == 2
    if single:
        input = b.unsqueeze(input, b.ints([0 if batch_first else 1]))
        states = [b.unsqueeze(s, b.ints([1])) for s in states]
    x = transposed(b, input, [1, 0, 2]) if batch_first else input
    hidden = b.static_size(states[0], -1, "a recurrent layer")
    direction = "bidirectional" if bidirectional else "forward"
    last: list[list[Value]] = [[] for _ in states]
    for layer in range(num_layers):
        at = slice(layer * layers.count, (layer + 1) * layers.count)
        begin = [_rows(b, s, at, num_layers * layers.count) for s in states]
        op = b.build(
            kind,
            x,
            *layers.weights(layer),
            None,
            *begin,
            results=len(states) + 1,
            direction=direction,
            hidden_size=hidden,
            **attrs,
        )
        y, *ends = op.results
        for found, end in zip(last, ends, strict=True):
            found.append(end)
        # (length, directions, batch, hidden) to (length, batch, directions * hidden)
        if layers.count == 1:
            x = b.squeeze(y, b.ints([1]))
        else:
            x = b.resized(
                b.transpose(y, perm=[0, 2, 1, 3]), [b.size_of(y, 0), b.size_of(y, 2), 2 * hidden]
            )
    output = transposed(b, x, [1, 0, 2]) if batch_first else x
    finals = [f[0] if len(f) == 1 else b.concat(*f, axis=0) for f in last]
    if single:
        output = b.squeeze(output, b.ints([0 if batch_first else 1]))
        finals = [b.squeeze(f, b.ints([1])) for f in finals]
    return [output, *finals]


def _rows(b: Lowering, x: Value, at: slice, total: int) -> Value:
    if (at.start, at.stop) == (0, total):
        return x
    found: Value = b.slice(
        x, b.ints([at.start]), b.ints([at.stop]), b.const(np.asarray([0], np.int64))
    )
    return found


@torch_op("lstm.input")
def lstm(
    b: Lowering,
    input: Value,
    hx: Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    return _run(
        b,
        "lstm",
        input,
        hx,
        params,
        has_biases,
        num_layers,
        dropout,
        train,
        bidirectional,
        batch_first,
    )


@torch_op("gru.input")
def gru(
    b: Lowering,
    input: Value,
    hx: Value,
    params: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    return _run(
        b,
        "gru",
        input,
        [hx],
        params,
        has_biases,
        num_layers,
        dropout,
        train,
        bidirectional,
        batch_first,
        linear_before_reset=True,
    )


def _plain(activation: str) -> Any:
    def row(
        b: Lowering,
        input: Value,
        hx: Value,
        params: Sequence[Value],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        names = [activation] * (2 if bidirectional else 1)
        return _run(
            b,
            "rnn",
            input,
            [hx],
            params,
            has_biases,
            num_layers,
            dropout,
            train,
            bidirectional,
            batch_first,
            activations=names,
        )

    return row


torch_op("rnn_tanh.input")(_plain("Tanh"))
torch_op("rnn_relu.input")(_plain("Relu"))


def _cell(
    b: Lowering,
    kind: str,
    x: Value,
    states: Sequence[Value],
    params: Sequence[Value | None],
    **attrs: Any,
) -> list[Value]:
    """One step: a sequence of length 1."""
    given = [p for p in params if p is not None]
    one = b.unsqueeze(x, b.ints([0]))
    begin = [b.unsqueeze(s, b.ints([0])) for s in states]
    found = _run(b, kind, one, begin, given, len(given) == 4, 1, 0.0, False, False, False, **attrs)
    return [b.squeeze(v, b.ints([0])) for v in found[1:]]


@torch_op("lstm_cell")
def lstm_cell(
    b: Lowering,
    input: Value,
    hx: Sequence[Value],
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> Any:
    return _cell(b, "lstm", input, hx, (w_ih, w_hh, b_ih, b_hh))


@torch_op("gru_cell")
def gru_cell(
    b: Lowering,
    input: Value,
    hx: Value,
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> Any:
    return _cell(b, "gru", input, [hx], (w_ih, w_hh, b_ih, b_hh), linear_before_reset=True)[0]


@torch_op("rnn_tanh_cell")
def rnn_tanh_cell(
    b: Lowering,
    input: Value,
    hx: Value,
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> Any:
    return _cell(b, "rnn", input, [hx], (w_ih, w_hh, b_ih, b_hh), activations=["Tanh"])[0]


@torch_op("rnn_relu_cell")
def rnn_relu_cell(
    b: Lowering,
    input: Value,
    hx: Value,
    w_ih: Value,
    w_hh: Value,
    b_ih: Value | None = None,
    b_hh: Value | None = None,
) -> Any:
    return _cell(b, "rnn", input, [hx], (w_ih, w_hh, b_ih, b_hh), activations=["Relu"])[0]
