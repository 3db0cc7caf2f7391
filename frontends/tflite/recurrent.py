"""Rows of recurrent kernels, which keep their states in variable tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.formats.tflite.schema import enums
from lepton_ir.frontends.tflite.state import state_key
from lepton_ir.frontends.tflite.table import row
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lepton_ir.frontends.tflite.call import Call
    from lepton_ir.ir import Value

_LSTM_INPUTS = 24
_OPEN = int(np.iinfo(np.int64).max)


def _activation(call: Call) -> str:
    number = int(call.options.fused_activation_function)
    return enums()["ActivationFunctionType"].name_of(number) or str(number)


def _state(call: Call, index: int) -> Value:
    """Return what a state holds before the operator, as the numbers that it stands for.

    The numbers themselves are kept: integers of 16 bits, which cells have, are few runtimes'.
    """
    info = call.info(index)
    if call.reader.states is None or not info.is_variable:
        call.opaque("the state is no variable tensor of the model")
    return call.reader.states.read(state_key(info), TensorType(dtypes.F32, info.shape))


def _keep(call: Call, index: int, value: Value) -> None:
    """Say what a state holds after the operator."""
    assert call.reader.states is not None
    call.reader.states.assign(state_key(call.info(index)), value)


def _maybe(call: Call, index: int, scales: tuple[int, int] | None = None) -> Value | None:
    """Return an operand that may be left out.

    Biases of integer kernels stand for multiples of the scales of the operands in ``scales``.
    """
    if not call.has(index):
        return None
    info = call.info(index)
    if scales is None or info.dtype is None or info.dtype.is_float:
        return call.real(index)
    factors = [call.info(i).quantization for i in scales]
    if factors[0] is None or factors[1] is None:
        call.opaque(f"operand {index} has integers without a scale")
    scale = np.asarray(factors[0].scale[0] * factors[1].scale[0], np.float32)
    found: Value = call.b.dequantize_linear(call.raw(index), call.b.const(scale))
    return found


def _lstm(
    call: Call, x: Value, weights: int, states: tuple[int, int], norms: int
) -> Sequence[Value]:
    """Build one direction of an LSTM; operands from ``weights`` on are in TFLite's order."""
    o = call.options
    if getattr(o, "diagonal_recurrent_tensors", False):
        call.opaque("the recurrent weights are diagonals")
    # Biases count in the scales of operand and input weights of the same gate.
    parts: list[Value | None] = []
    for i in range(17):
        at = weights + i
        parts.append(_maybe(call, at, (0, at - 11) if 11 <= i < 15 else None))
    if call.info(0).quantization is not None and call.has(weights + 15):
        call.opaque("a projection of integers")
    norm = [_maybe(call, norms + i) if norms >= 0 else None for i in range(4)]
    if call.info(0).quantization is not None and any(v is not None for v in norm):
        call.opaque("a layer normalization of integers")
    attrs: dict[str, Any] = {
        "activation": _activation(call),
        "cell_clip": o.cell_clip,
        "proj_clip": o.proj_clip,
        "time_major": bool(getattr(o, "time_major", True)),
    }
    attrs |= _integers(call, states)
    h, c = _state(call, states[0]), _state(call, states[1])
    made = call.b.build("unidirectional_sequence_lstm", x, *parts, h, c, *norm, results=3, **attrs)
    _keep(call, states[0], made.results[1])
    _keep(call, states[1], made.results[2])
    return made.results


def _integers(call: Call, states: tuple[int, int]) -> dict[str, Any]:
    """Return how states are rounded at each step, where the kernel computes in integers."""
    hidden, cell = (call.info(i).quantization for i in states)
    if call.info(0).quantization is None or hidden is None or cell is None:
        return {}
    found: dict[str, Any] = {
        "hidden_scale": float(hidden.scale[0]),
        "hidden_zero_point": int(hidden.zero_point[0]),
        "cell_scale": float(cell.scale[0]),
    }
    numbers: list[float] = []
    for info in call.reader.infos(call.op.intermediates):
        params = None if info is None else info.quantization
        kind = 0 if info is None else int(info.node.type)
        numbers += [float(kind)]
        numbers += (
            [0.0, 0.0] if params is None else [float(params.scale[0]), float(params.zero_point[0])]
        )
    if numbers:
        found["intermediates"] = numbers
    return found


@row("UNIDIRECTIONAL_SEQUENCE_LSTM", ir="unidirectional_sequence_lstm")
def _unidirectional_lstm(call: Call) -> Value:
    return _lstm(call, call.real(0), 1, (18, 19), 20)[0]


def _reversed(call: Call, x: Value, axis: int) -> Value:
    found: Value = call.b.slice(x, [-1], [-_OPEN], [axis], [-1])
    return found


@row("BIDIRECTIONAL_SEQUENCE_LSTM", ir="unidirectional_sequence_lstm, slice, concat")
def _bidirectional_lstm(call: Call) -> Sequence[Value]:
    if any(call.has(i) for i in range(39, 48)):
        call.opaque("it has auxiliary inputs")
    axis = 0 if call.options.time_major else 1
    x = call.real(0)
    forward = _lstm(call, x, 1, (35, 36), -1)[0]
    backward = _lstm(call, _reversed(call, x, axis), 18, (37, 38), -1)[0]
    return _merged(call, forward, _reversed(call, backward, axis))


def _merged(call: Call, forward: Value, backward: Value) -> Sequence[Value]:
    if not call.options.merge_outputs:
        return [forward, backward]
    found: Value = call.b.concat(forward, backward, axis=-1)
    return [found]


@row("LSTM", ir="unidirectional_sequence_lstm; gemm, split, sigmoid, tanh")
def _lstm_cell(call: Call) -> Sequence[Value | None]:
    kind = enums()["LSTMKernelType"].name_of(int(call.options.kernel_type))
    if kind == "BASIC":
        return _basic_lstm(call)
    x = call.b.unsqueeze(call.real(0), [0])
    y = _lstm(call, x, 1, (18, 19), 20 if len(call.inputs) == _LSTM_INPUTS else -1)[0]
    return [*[None] * (len(call.outputs) - 1), call.b.squeeze(y, [0])]


def _basic_lstm(call: Call) -> Sequence[Value | None]:
    """One step whose weights are together: gates i, c, f, o on input and last output."""
    b = call.b
    if call.info(0).quantization is not None:
        call.opaque("the basic kernel of integers")
    joined = b.concat(call.real(0), call.real(1), axis=-1)
    sums = b.gemm(joined, call.real(2), call.real(3), transB=True)
    gates = b.build("split", sums, axis=-1, num_outputs=4, results=4).results
    enter, forget, leave = (b.sigmoid(gates[i]) for i in (0, 2, 3))
    state = b.add(b.mul(forget, call.real(4)), b.mul(enter, b.tanh(gates[1])))
    return [b.mul(leave, b.tanh(state)), state, joined, sums]


# -- plain recurrence ------------------------------------------------------------------------------

_RNN_ACTIVATIONS = {"TANH": "Tanh", "RELU": "Relu"}


def _rnn(call: Call, x: Value, weights: int, state: int) -> Value:
    """Build one direction over a sequence in order of time; return (length, batch, units)."""
    name = _RNN_ACTIVATIONS.get(_activation(call))
    if name is None:
        call.opaque(f"the activation is {_activation(call)}")
    b = call.b
    w, r, added = (call.real(weights + i) for i in range(3))
    bias = b.unsqueeze(b.concat(added, b.mul(added, call.scalar(0, added)), axis=0), [0])
    y, last = b.build(
        "rnn",
        x,
        b.unsqueeze(w, [0]),
        b.unsqueeze(r, [0]),
        bias,
        None,
        b.unsqueeze(_state(call, state), [0]),
        activations=(name,),
        hidden_size=call.dim(weights, 0),
        results=2,
    ).results
    _keep(call, state, b.squeeze(last, [0]))
    found: Value = b.squeeze(y, [1])
    return found


def _plain(call: Call) -> None:
    if call.info(0).quantization is not None:
        call.opaque("the kernel of integers")


@row("RNN", ir="rnn, squeeze, unsqueeze")
def _rnn_cell(call: Call) -> Value:
    _plain(call)
    found: Value = call.b.squeeze(_rnn(call, call.b.unsqueeze(call.real(0), [0]), 1, 4), [0])
    return found


def _time_major(call: Call, x: Value) -> Value:
    found: Value = x if call.options.time_major else call.b.transpose(x, perm=(1, 0, 2))
    return found


@row("UNIDIRECTIONAL_SEQUENCE_RNN", ir="rnn, transpose")
def _unidirectional_rnn(call: Call) -> Value:
    _plain(call)
    return _time_major(call, _rnn(call, _time_major(call, call.real(0)), 1, 4))


@row("BIDIRECTIONAL_SEQUENCE_RNN", ir="rnn, slice, transpose, concat")
def _bidirectional_rnn(call: Call) -> Sequence[Value]:
    _plain(call)
    if any(call.has(i) for i in range(9, 12)):
        call.opaque("it has auxiliary inputs")
    x = _time_major(call, call.real(0))
    forward = _rnn(call, x, 1, 4)
    backward = _reversed(call, _rnn(call, _reversed(call, x, 0), 5, 8), 0)
    return _merged(call, _time_major(call, forward), _time_major(call, backward))


@row("SVDF", ir="gemm, concat, mul, reduce_sum")
def _svdf(call: Call) -> Value:
    """Each filter keeps the last products of its features, and weighs them in time."""
    _plain(call)
    b, rank = call.b, int(call.options.rank)
    filters, memory = call.dim(2, 0), call.dim(2, 1)
    if not isinstance(filters, int) or not isinstance(memory, int) or rank < 1 or filters % rank:
        call.opaque("the shape of the weights is not known")
    newest = b.gemm(call.real(0), call.real(1), transB=True)
    kept = b.reshape(_state(call, 4), [-1, filters, memory])
    state = b.concat(b.slice(kept, [1], [_OPEN], [2]), b.unsqueeze(newest, [2]), axis=2)
    _keep(call, 4, b.reshape(state, [-1, filters * memory]))
    total = b.reduce_sum(b.mul(state, call.real(2)), [2], keepdims=False)
    if rank > 1:
        total = b.reduce_sum(b.reshape(total, [-1, filters // rank, rank]), [2], keepdims=False)
    if call.has(3):
        total = b.add(total, call.real(3))
    return call.activate(total)
