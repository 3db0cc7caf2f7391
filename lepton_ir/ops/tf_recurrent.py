"""The LSTM layer of TensorFlow Lite, which has more parts than ONNX's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.builder import Builder, create
from lepton_ir.opdef import Bool, Float, Floats, Int, Str, op
from lepton_ir.ops._nn import Array, common_dtype, first_known, operand, require_rank
from lepton_ir.ops._numeric import sigmoid, widen
from lepton_ir.types import UNKNOWN, TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.infer import InferContext
    from lepton_ir.ir import Op, Value

GATES = "ifco"
NORM_EPSILON = 1e-8
"""What layer normalization inside a cell adds to the variance."""

_CODES = {"hidden_scale": (-128, 127), "cell_scale": (-32768, 32767)}


def _infer_lstm(ctx: InferContext) -> list[Type]:
    dtype = common_dtype(ctx, "x", "w_f", "r_f", "h", "c")
    x, h, c, w = (ctx.shape(n) for n in ("x", "h", "c", "w_f"))
    for name, rank in (("x", 3), ("w_f", 2), ("r_f", 2), ("h", 2), ("c", 2)):
        found = ctx.rank(name)
        if found is not None and found != rank:
            ctx.fail("C1", f"{name} has rank {found} but should have {rank}")
    steps, batch = (None, None) if x is None else (x[:2] if ctx.attrs["time_major"] else x[1::-1])
    cells = first_known(None if c is None else c[1], None if w is None else w[0])
    units = None if h is None else h[1]
    batch = first_known(batch, None if h is None else h[0], None if c is None else c[0])
    order = (steps, batch) if ctx.attrs["time_major"] else (batch, steps)
    return [
        TensorType(dtype, (*order, units)),
        TensorType(dtype, (batch, units)),
        TensorType(dtype, (batch, cells)),
    ]


def _coded(x: Array, scale: float, zero: int, key: str) -> Array:
    """Round to what an integer with this scale can say, if there is a scale."""
    if not scale:
        return x
    low, high = _CODES[key]
    step = np.float32(scale)
    codes = np.clip(np.rint(x / step) + zero, low, high)
    found: Array = ((codes - zero) * step).astype(x.dtype)
    return found


def _activated(x: Array, name: str) -> Array:
    if name == "TANH":
        return np.tanh(x)
    if name == "RELU":
        return np.maximum(x, 0)
    if name == "RELU6":
        return np.clip(x, 0, 6)
    if name == "NONE":
        return x
    raise ValueError(f"activation {name!r}")


def _normed(x: Array, scale: Array | None) -> Array:
    if scale is None:
        return x
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + NORM_EPSILON)
    return np.asarray(centred / deviation * widen(scale))


@dataclass(frozen=True)
class _Cell:
    """The parts of one layer; gates by letter, ``None`` for those it has not."""

    w: dict[str, Any]
    r: dict[str, Any]
    p: dict[str, Any]
    b: dict[str, Any]
    n: dict[str, Any]

    @property
    def coupled(self) -> bool:
        """Whether the input gate is what the forget gate leaves."""
        return self.w["i"] is None


def _step(cell: _Cell, x: Array, h: Array, c: Array, a: dict[str, Any]) -> tuple[Array, Array]:
    def gate(letter: str, state: Array | None) -> Array:
        total = x @ cell.w[letter].T + h @ cell.r[letter].T
        if state is not None and cell.p[letter] is not None:
            total = total + state * cell.p[letter]
        total = _normed(total, cell.n[letter])
        return total if cell.b[letter] is None else total + cell.b[letter]

    forget = sigmoid(gate("f", c))
    enter = 1 - forget if cell.coupled else sigmoid(gate("i", c))
    c = forget * c + enter * _activated(gate("c", None), a["activation"])
    if a["cell_clip"] > 0:
        c = np.clip(c, -a["cell_clip"], a["cell_clip"])
    c = _coded(c, a["cell_scale"], 0, "cell_scale")
    h = sigmoid(gate("o", c)) * _activated(c, a["activation"])
    return h, c


def _decompose_lstm(b: Builder, op: Op) -> list[Value]:
    a = op.all_attrs()
    x, h, c = (operand(op, n) for n in ("x", "h", "c"))
    if a["activation"] not in ("TANH", "RELU", "RELU6", "NONE"):
        raise ValueError(f"activation {a['activation']!r}")
    parts = [{g: op.operand(f"{kind}_{g}") for g in GATES if kind != "p" or g != "c"}
             for kind in "wrpbn"]  # fmt: skip
    cell = _Cell(*parts)
    letters = [g for g in GATES if cell.w[g] is not None]
    if not a["time_major"]:
        x = b.transpose(x, perm=(1, 0, 2))
    require_rank(x, "x")
    stacked = b.concat(*(cell.w[g] for g in letters), axis=0)
    shares = b.matmul(x, b.transpose(stacked, perm=(1, 0)))
    scan = create("scan", [h, c, shares], {"num_scan_inputs": 1}, 3, b.loc)
    block = scan.regions[0].block
    dtype = h.dtype
    for _ in range(3):
        block.add_arg(TensorType(dtype, None) if dtype else UNKNOWN)
    inner = Builder(block, loc=b.loc)
    next_h, next_c = _build_step(inner, op, cell, letters, block.args)
    block.append(create("yield", [next_h, next_c, next_h]))
    last_h, last_c, y = b.insert(scan).results
    if not a["time_major"]:
        y = b.transpose(y, perm=(1, 0, 2))
    return [y, last_h, last_c]


def _build_step(
    b: Builder, op: Op, cell: _Cell, letters: list[str], args: list[Value]
) -> tuple[Value, Value]:
    a = op.all_attrs()
    h, c, share = args
    stacked = b.concat(*(cell.r[g] for g in letters), axis=0)
    total = b.add(share, b.matmul(h, b.transpose(stacked, perm=(1, 0))))
    count = len(letters)
    found = b.build("split", total, axis=-1, num_outputs=count, results=count).results
    sums = dict(zip(letters, found, strict=True))

    def gate(letter: str, state: Value | None) -> Value:
        value = sums[letter]
        peephole = cell.p.get(letter)
        if state is not None and peephole is not None:
            value = b.add(value, b.mul(state, peephole))
        if cell.n[letter] is not None:
            centred = b.sub(value, b.reduce_mean(value, [-1]))
            variance = b.reduce_mean(b.mul(centred, centred), [-1])
            deviation = b.sqrt(b.add(variance, b.const(np.float32(NORM_EPSILON))))
            value = b.mul(b.div(centred, deviation), cell.n[letter])
        return value if cell.b[letter] is None else b.add(value, cell.b[letter])

    def activated(value: Value) -> Value:
        kind = a["activation"]
        made: Value = value
        if kind == "TANH":
            made = b.tanh(value)
        elif kind == "RELU":
            made = b.relu(value)
        elif kind == "RELU6":
            made = b.clip(value, b.const(np.float32(0)), b.const(np.float32(6)))
        return made

    forget = b.sigmoid(gate("f", c))
    enter = b.sub(b.const(np.float32(1)), forget) if cell.coupled else b.sigmoid(gate("i", c))
    c = b.add(b.mul(forget, c), b.mul(enter, activated(gate("c", None))))
    if a["cell_clip"] > 0:
        limit = np.float32(a["cell_clip"])
        c = b.clip(c, b.const(-limit), b.const(limit))
    c = _rounded(b, c, a["cell_scale"], np.zeros((), np.int16))
    h = b.mul(b.sigmoid(gate("o", c)), activated(c))
    weights, added = op.operand("w_projection"), op.operand("b_projection")
    if weights is not None:
        h = b.matmul(h, b.transpose(weights, perm=(1, 0)))
        h = h if added is None else b.add(h, added)
        if a["proj_clip"] > 0:
            limit = np.float32(a["proj_clip"])
            h = b.clip(h, b.const(-limit), b.const(limit))
    return _rounded(b, h, a["hidden_scale"], np.asarray(a["hidden_zero_point"], np.int8)), c


def _rounded(b: Builder, x: Value, scale: float, zero: Array) -> Value:
    if not scale:
        return x
    step, offset = b.const(np.float32(scale)), b.const(zero)
    if zero.dtype == np.int8:
        made: Value = b.dequantize_linear(b.quantize_linear(x, step, offset), step, offset)
        return made
    # Integers of 16 bits, which older opsets cannot quantize to.
    codes = b.clip(b.round(b.div(x, step)), b.const(np.float32(-32768)), b.const(np.float32(32767)))
    made = b.mul(codes, step)
    return made


@op(
    "unidirectional_sequence_lstm(x, w_i?, w_f, w_c, w_o, r_i?, r_f, r_c, r_o, p_i?, p_f?, p_o?,"
    " b_i?, b_f?, b_c?, b_o?, w_projection?, b_projection?, h, c, n_i?, n_f?, n_c?, n_o?)"
    " -> y, next_h, next_c",
    infer=_infer_lstm,
    traits="composite",
    decompose=_decompose_lstm,
)
def unidirectional_sequence_lstm(
    x: Array,
    w_i: Array | None,
    w_f: Array,
    w_c: Array,
    w_o: Array,
    r_i: Array | None,
    r_f: Array,
    r_c: Array,
    r_o: Array,
    p_i: Array | None,
    p_f: Array | None,
    p_o: Array | None,
    b_i: Array | None,
    b_f: Array | None,
    b_c: Array | None,
    b_o: Array | None,
    w_projection: Array | None,
    b_projection: Array | None,
    h: Array,
    c: Array,
    n_i: Array | None = None,
    n_f: Array | None = None,
    n_c: Array | None = None,
    n_o: Array | None = None,
    *,
    activation: Str = "TANH",
    cell_clip: Float = 0.0,
    cell_scale: Float = 0.0,
    hidden_scale: Float = 0.0,
    hidden_zero_point: Int = 0,
    intermediates: Floats | None = None,
    proj_clip: Float = 0.0,
    time_major: Bool = False,
) -> tuple[Array, Array, Array]:
    """LSTM over a sequence from states h and c (TFLite UNIDIRECTIONAL_SEQUENCE_LSTM).

    x is (batch, length, input), or with ``time_major`` (length, batch, input). Weights of the gates
    i, f, c, o are (cells, input) and (cells, units); without ``w_i`` the input gate is ``1 - f``.
    ``p`` are peepholes, ``n`` scales of a layer normalization before the biases. The projection is
    (units, cells). After each step c and h are rounded to integers of 16 and 8 bits with
    ``cell_scale`` and ``hidden_scale``, where these are not 0. ``intermediates`` (type, scale, zero
    point of each) are carried through for files.

    C1  x has rank 3, weights and states rank 2
    """
    if x.ndim != 3 or h.ndim != 2 or c.ndim != 2:
        raise ValueError(f"x {x.shape}, h {h.shape} and c {c.shape} do not fit")
    a = {
        "activation": activation,
        "cell_clip": cell_clip,
        "cell_scale": cell_scale,
    }
    given: list[tuple[Array | None, ...]] = [
        (w_i, w_f, w_c, w_o),
        (r_i, r_f, r_c, r_o),
        (p_i, p_f, None, p_o),
        (b_i, b_f, b_c, b_o),
        (n_i, n_f, n_c, n_o),
    ]
    wide = [[None if v is None else widen(v) for v in values] for values in given]
    cell = _Cell(*(dict(zip(GATES, values, strict=True)) for values in wide))
    steps = widen(x) if time_major else widen(x).swapaxes(0, 1)
    hidden, state, rows = widen(h), widen(c), []
    for row in steps:
        hidden, state = _step(cell, row, hidden, state, a)
        if w_projection is not None:
            hidden = hidden @ widen(w_projection).T
            if b_projection is not None:
                hidden = hidden + widen(b_projection)
            if proj_clip > 0:
                hidden = np.clip(hidden, -proj_clip, proj_clip)
        hidden = _coded(hidden, hidden_scale, hidden_zero_point, "hidden_scale")
        rows.append(hidden)
    y = np.stack(rows) if rows else np.zeros((0, *hidden.shape), hidden.dtype)
    y = y if time_major else y.swapaxes(0, 1)
    return (
        np.ascontiguousarray(y).astype(x.dtype, copy=False),
        hidden.astype(h.dtype),
        state.astype(c.dtype),
    )
