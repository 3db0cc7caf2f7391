"""Recurrent layers: simple RNN, GRU and LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lepton_ir.opdef import Bool, Float, Floats, Int, Str, Strs, op
from lepton_ir.ops._nn import Array, common_dtype, dim_div, first_known, require_equal
from lepton_ir.ops._numeric import widen
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_ir.dims import Dim
    from lepton_ir.infer import InferContext
    from lepton_ir.types import Type

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Per direction attribute, whether each direction reads the sequence backwards."""


# -- activations -----------------------------------------------------------------------------------


def _sigmoid(x: Array, a: float, b: float) -> Array:
    y: Array = 0.5 * (np.tanh(0.5 * x) + 1)
    return y


class _Activation(NamedTuple):
    """An activation function, the number of parameters it takes, and their defaults.

    Without defaults the parameters have to be given: the specification has none for Affine and
    ScaledTanh, and runtimes do not follow that of ThresholdedRelu.
    """

    function: Callable[[Array, float, float], Array]
    parameters: int = 0
    defaults: tuple[float, ...] = ()


_ACTIVATIONS: dict[str, _Activation] = {
    "relu": _Activation(lambda x, a, b: np.maximum(x, 0)),
    "tanh": _Activation(lambda x, a, b: np.tanh(x)),
    "sigmoid": _Activation(_sigmoid),
    "affine": _Activation(lambda x, a, b: a * x + b, 2),
    "leakyrelu": _Activation(lambda x, a, b: np.where(x >= 0, x, a * x), 1, (0.01,)),
    "thresholdedrelu": _Activation(lambda x, a, b: np.where(x >= a, x, 0), 1),
    "scaledtanh": _Activation(lambda x, a, b: a * np.tanh(b * x), 2),
    "hardsigmoid": _Activation(lambda x, a, b: np.clip(a * x + b, 0, 1), 2, (0.2, 0.5)),
    "elu": _Activation(
        lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1, (1.0,)
    ),
    "softsign": _Activation(lambda x, a, b: x / (1 + np.abs(x))),
    "softplus": _Activation(lambda x, a, b: np.logaddexp(0, x)),
}


def _bind(
    names: Sequence[str],
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
    clip: float | None,
    clipped: Sequence[bool],
) -> list[Callable[[Array], Array]]:
    """Return the activations; alpha and beta values go, in order, to those that take one."""
    rest_alpha, rest_beta = list(alphas or ()), list(betas or ())

    def bound(name: str, limit: float | None) -> Callable[[Array], Array]:
        entry = _ACTIVATIONS.get(name.lower())
        if entry is None:
            raise ValueError(f"unknown activation {name!r}")
        found: list[float | None] = [*entry.defaults] or [None] * entry.parameters
        for i, rest in enumerate((rest_alpha, rest_beta)[: entry.parameters]):
            if rest:
                found[i] = rest.pop(0)
        known = [v for v in found if v is not None]
        if len(known) < entry.parameters:
            raise ValueError(f"activation {name} needs explicit parameters")
        alpha, beta = (*known, 0.0, 0.0)[:2]

        def apply(x: Array) -> Array:
            if limit is not None:
                x = np.clip(x, -limit, limit)
            return entry.function(x, alpha, beta).astype(x.dtype, copy=False)

        return apply

    return [bound(n, clip if c else None) for n, c in zip(names, clipped, strict=True)]


# -- types -----------------------------------------------------------------------------------------


def _infer_rnn(ctx: InferContext, gates: int) -> list[Type]:
    attrs = ctx.attrs
    if attrs["direction"] not in DIRECTIONS:
        ctx.fail("C1", f"direction is {attrs['direction']!r}")
    directions = len(DIRECTIONS[attrs["direction"]])
    dtype = common_dtype(ctx, "x", "w", "r", "b", "initial_h")
    for name, rank in (("x", 3), ("w", 3), ("r", 3), ("b", 2), ("initial_h", 3)):
        if ctx.rank(name) not in (None, rank):
            ctx.fail("C2", f"{name} has rank {ctx.rank(name)} but should have {rank}")
    x, w, r = (ctx.shape(n) or (None,) * 3 for n in ("x", "w", "r"))
    for name, shape in (("w", w), ("r", r)):
        require_equal(ctx, "C3", f"the first dim of {name}", shape[0], directions)
    require_equal(ctx, "C3", "the input size of w", w[2], x[2])
    hidden: Dim | None = first_known(attrs["hidden_size"], r[2], dim_div(w[1], gates))
    length, batch = (x[1], x[0]) if attrs["layout"] else (x[0], x[1])
    if attrs["layout"]:
        y: tuple[Dim | None, ...] = (batch, length, directions, hidden)
        state: tuple[Dim | None, ...] = (batch, directions, hidden)
    else:
        y, state = (length, directions, batch, hidden), (directions, batch, hidden)
    last = TensorType(dtype, state)
    return [TensorType(dtype, y), last, last]


# -- meaning ---------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """The operands of a recurrent layer in layout 0 and their computing precision."""

    x: Array
    w: Array
    r: Array
    wb: Array
    rb: Array
    lengths: Array
    h: Array
    backwards: tuple[bool, ...]


def layer_of(
    operands: tuple[Array, Array, Array, Array | None, Array | None, Array | None],
    gates: int,
    direction: str,
    hidden_size: int | None,
    layout: bool,
) -> Layer:
    """Return x, w, r, b, sequence_lens and initial_h in layout 0, checked.

    Raises:
        ValueError: shapes do not fit, or there is no such direction.
    """
    x, w, r, b, sequence_lens, initial_h = operands
    backwards = DIRECTIONS.get(direction)
    if backwards is None:
        raise ValueError(f"direction should be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if x.ndim != 3 or w.ndim != 3 or r.ndim != 3:
        raise ValueError(f"x {x.shape}, w {w.shape} and r {r.shape} should have rank 3")
    wide = widen(x).swapaxes(0, 1) if layout else widen(x)
    hidden, count = r.shape[2], len(backwards)
    if hidden_size not in (None, hidden):
        raise ValueError(f"hidden_size is {hidden_size} but r is {r.shape}")
    if w.shape != (count, gates * hidden, x.shape[2]) or r.shape[:2] != w.shape[:2]:
        raise ValueError(f"x {x.shape}, w {w.shape} and r {r.shape} do not fit")
    length, batch = wide.shape[:2]
    bias = np.zeros((count, 2 * gates * hidden), wide.dtype) if b is None else widen(b)
    if bias.shape != (count, 2 * gates * hidden):
        raise ValueError(f"b is {bias.shape} but should be {(count, 2 * gates * hidden)}")
    lengths = np.full(batch, length) if sequence_lens is None else sequence_lens.reshape(-1)
    if lengths.shape != (batch,) or (batch and not 0 <= lengths.min() <= lengths.max() <= length):
        raise ValueError(f"sequence_lens do not fit {batch} sequences of {length}")
    return Layer(
        wide,
        widen(w),
        widen(r),
        bias[:, : gates * hidden],
        bias[:, gates * hidden :],
        lengths,
        initial_state(initial_h, (count, batch, hidden), layout, wide.dtype),
        backwards,
    )


def initial_state(
    state: Array | None, shape: tuple[int, ...], layout: bool, dtype: np.dtype[np.floating]
) -> Array:
    """Return an initial state in layout 0, zeros for an absent one.

    Raises:
        ValueError: it has another shape.
    """
    if state is None:
        return np.zeros(shape, dtype)
    wide = widen(state).swapaxes(0, 1) if layout else widen(state)
    if wide.shape != shape:
        raise ValueError(f"an initial state is {wide.shape} but should be {shape}")
    return wide


def scan(
    layer: Layer,
    d: int,
    step: Callable[[Array, tuple[Array, ...]], tuple[Array, ...]],
    state: tuple[Array, ...],
) -> tuple[Array, tuple[Array, ...]]:
    """Run one direction; return the first state of every step, and the last states.

    ``step`` maps the input's share of the gates, and the states, to the new states. A sequence
    that has ended keeps its states and gives 0.
    """
    length, batch = layer.x.shape[:2]
    shares = np.matmul(layer.x, layer.w[d].T)
    y = np.zeros((length, batch, layer.r.shape[2]), layer.x.dtype)
    for t in range(length - 1, -1, -1) if layer.backwards[d] else range(length):
        active = (t < layer.lengths)[:, None]
        new = step(shares[t], state)
        state = tuple(np.where(active, n, s) for n, s in zip(new, state, strict=True))
        y[t] = np.where(active, new[0], 0)
    return y, state


def stacked(
    found: list[tuple[Array, tuple[Array, ...]]], layout: bool, dtype: np.dtype[np.floating]
) -> tuple[Array, ...]:
    """Stack the directions: y (length, directions, batch, hidden) and the last states."""
    y = np.stack([y for y, _ in found], axis=1)
    states = [np.stack(s, axis=0) for s in zip(*(s for _, s in found), strict=True)]
    if layout:
        y = y.transpose(2, 0, 1, 3)
        states = [s.swapaxes(0, 1) for s in states]
    return tuple(v.astype(dtype) for v in (y, *states))


def bound_activations(
    activations: Strs | None,
    default: tuple[str, ...],
    parameters: tuple[Floats | None, Floats | None, float | None],
    directions: int,
) -> list[list[Callable[[Array], Array]]]:
    """Return the activations of every direction."""
    names = default * directions if activations is None else tuple(activations)
    if len(names) < len(default) * directions:
        raise ValueError(f"activations has {len(names)} of {len(default) * directions} names")
    # Runtimes clip what goes into the gates, not the cell state that h of LSTM reads.
    clipped = (True, True, False)[: len(default)] * directions
    bound = _bind(names[: len(default) * directions], *parameters, clipped)
    return [bound[i : i + len(default)] for i in range(0, len(bound), len(default))]


def _infer_simple(ctx: InferContext) -> list[Type]:
    return _infer_rnn(ctx, 1)[:2]


@op("rnn(x, w, r, b?, sequence_lens?, initial_h?) -> y, y_h?", infer=_infer_simple)
def rnn(
    x: Array,
    w: Array,
    r: Array,
    b: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Strs = ("Tanh", "Tanh"),
    clip: Float | None = None,
    direction: Str = "forward",
    hidden_size: Int | None = None,
    layout: Bool = False,
) -> tuple[Array, ...]:
    """``h = f(x w^T + wb + h r^T + rb)`` along sequences (ONNX RNN-22).

    x is (length, batch, input), y (length, directions, batch, hidden), states (directions, batch,
    hidden); with ``layout`` the batch comes first.

    C1  direction is forward, reverse or bidirectional
    C2  x, w, r and initial_h have rank 3, b rank 2
    C3  w is (directions, hidden, input) and r (directions, hidden, hidden)
    """
    operands = (x, w, r, b, sequence_lens, initial_h)
    layer = layer_of(operands, 1, direction, hidden_size, layout)
    parameters = (activation_alpha, activation_beta, clip)
    found = []
    functions = bound_activations(activations, ("Tanh",), parameters, len(layer.backwards))
    for d, (f,) in enumerate(functions):
        bias, weights = layer.wb[d] + layer.rb[d], layer.r[d].T

        def step(share: Array, state: tuple[Array, ...], f=f, bias=bias, weights=weights):  # type: ignore[no-untyped-def]
            return (f(share + bias + state[0] @ weights),)

        found.append(scan(layer, d, step, (layer.h[d],)))
    return stacked(found, layout, x.dtype)


def _gru_step(
    layer: Layer, d: int, functions: list[Callable[[Array], Array]], linear_before_reset: bool
) -> Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]:
    f, g = functions
    size = layer.r.shape[2]
    gates, candidate = layer.r[d][: 2 * size].T, layer.r[d][2 * size :].T
    wb, rb = layer.wb[d], layer.rb[d]

    def step(share: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        (h,) = state
        both = f(share[:, : 2 * size] + h @ gates + wb[: 2 * size] + rb[: 2 * size])
        z, r = both[:, :size], both[:, size:]
        new = share[:, 2 * size :] + wb[2 * size :]
        if linear_before_reset:
            new = new + r * (h @ candidate + rb[2 * size :])
        else:
            new = new + (r * h) @ candidate + rb[2 * size :]
        return ((1 - z) * g(new) + z * h,)

    return step


def _infer_gru(ctx: InferContext) -> list[Type]:
    return _infer_rnn(ctx, 3)[:2]


@op("gru(x, w, r, b?, sequence_lens?, initial_h?) -> y, y_h?", infer=_infer_gru)
def gru(
    x: Array,
    w: Array,
    r: Array,
    b: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Strs | None = None,
    clip: Float | None = None,
    direction: Str = "forward",
    hidden_size: Int | None = None,
    layout: Bool = False,
    linear_before_reset: Bool = False,
) -> tuple[Array, ...]:
    """Gated recurrent unit with gates z, r, h in this order (ONNX GRU-22); layouts as in ``rnn``.

    C1  direction is forward, reverse or bidirectional
    C2  x, w, r and initial_h have rank 3, b rank 2
    C3  w is (directions, 3 * hidden, input) and r (directions, 3 * hidden, hidden)
    """
    operands = (x, w, r, b, sequence_lens, initial_h)
    layer = layer_of(operands, 3, direction, hidden_size, layout)
    parameters = (activation_alpha, activation_beta, clip)
    found = []
    functions = bound_activations(
        activations, ("Sigmoid", "Tanh"), parameters, len(layer.backwards)
    )
    for d, pair in enumerate(functions):
        step = _gru_step(layer, d, pair, linear_before_reset)
        found.append(scan(layer, d, step, (layer.h[d],)))
    return stacked(found, layout, x.dtype)


def lstm_step(
    layer: Layer,
    d: int,
    functions: list[Callable[[Array], Array]],
    peepholes: Array,
    input_forget: bool,
) -> Callable[[Array, tuple[Array, ...]], tuple[Array, ...]]:
    """Return the step of direction ``d`` for :func:`scan`; its states are h and c."""
    f, g, h_of = functions
    bias, weights = layer.wb[d] + layer.rb[d], layer.r[d].T
    size = layer.r.shape[2]
    p_i, p_o, p_f = (peepholes[i * size : (i + 1) * size] for i in range(3))

    def step(share: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        h, c = state
        gates = share + h @ weights + bias
        g_i, g_o, g_f, g_c = (gates[:, i * size : (i + 1) * size] for i in range(4))
        i = f(g_i + p_i * c)
        forget = 1 - i if input_forget else f(g_f + p_f * c)
        new_c = forget * c + i * g(g_c)
        return f(g_o + p_o * new_c) * h_of(new_c), new_c

    return step


def _infer_lstm(ctx: InferContext) -> list[Type]:
    for name, rank in (("initial_c", 3), ("p", 2)):
        if ctx.rank(name) not in (None, rank):
            ctx.fail("C2", f"{name} has rank {ctx.rank(name)} but should have {rank}")
    return _infer_rnn(ctx, 4)


@op(
    "lstm(x, w, r, b?, sequence_lens?, initial_h?, initial_c?, p?) -> y, y_h?, y_c?",
    infer=_infer_lstm,
)
def lstm(
    x: Array,
    w: Array,
    r: Array,
    b: Array | None = None,
    sequence_lens: Array | None = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    p: Array | None = None,
    *,
    activation_alpha: Floats | None = None,
    activation_beta: Floats | None = None,
    activations: Strs | None = None,
    clip: Float | None = None,
    direction: Str = "forward",
    hidden_size: Int | None = None,
    input_forget: Bool = False,
    layout: Bool = False,
) -> tuple[Array, ...]:
    """Long short-term memory with gates i, o, f, c in this order (ONNX LSTM-22).

    Layouts as in ``rnn``; ``p`` (directions, 3 * hidden) are the peepholes of i, o, f, and
    ``input_forget`` takes 1 - i for the forget gate; ``clip`` bounds the inputs of the gates.

    C1  direction is forward, reverse or bidirectional
    C2  x, w, r, initial_h and initial_c have rank 3, b and p rank 2
    C3  w is (directions, 4 * hidden, input) and r (directions, 4 * hidden, hidden)
    """
    operands = (x, w, r, b, sequence_lens, initial_h)
    layer = layer_of(operands, 4, direction, hidden_size, layout)
    c = initial_state(initial_c, layer.h.shape, layout, layer.h.dtype)
    count, _, hidden = layer.h.shape
    peepholes = np.zeros((count, 3 * hidden), layer.h.dtype) if p is None else widen(p)
    if peepholes.shape != (count, 3 * hidden):
        raise ValueError(f"p is {peepholes.shape} but should be {(count, 3 * hidden)}")
    parameters = (activation_alpha, activation_beta, clip)
    found = []
    functions = bound_activations(activations, ("Sigmoid", "Tanh", "Tanh"), parameters, count)
    for d, three in enumerate(functions):
        step = lstm_step(layer, d, three, peepholes[d], input_forget)
        found.append(scan(layer, d, step, (layer.h[d], c[d])))
    return stacked(found, layout, x.dtype)
