"""One step of a loop as a cell of LSTM, GRU or RNN, with its weights in ONNX's order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.dims import same_dim
from lepton_ir.infer import const_array
from lepton_ir.passes.fuse._cell import ACTIVATIONS, Array, Cell, Form, Gate
from lepton_ir.passes.fuse._match import made_by, readable
from lepton_ir.passes.fuse._weights import constant, rounded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lepton_ir.ir import Op, Value

_DTYPES = (dtypes.F32, dtypes.F16)
"""Elements that runtimes have layers for; they refuse f64."""

Step = tuple["Value", "Value"]
"""A carried value: what a step is given, and what it yields."""


@dataclass(frozen=True)
class Layer:
    """A recurrent layer that does what the steps do.

    Attributes:
        kind: ``lstm``, ``gru`` or ``rnn``.
        weights: w, r, b and p of the operation, ``None`` where they are 0.
        h: index of the hidden state among the carried values.
        c: index of the cell state, ``None`` where there is none.
        unbatched: rows are vectors.
        attrs: attributes of the operation.
    """

    kind: str
    weights: tuple[Array, Array, Array | None, Array | None]
    h: int
    c: int | None
    unbatched: bool
    attrs: dict[str, Any] = field(default_factory=dict)


def layer_of(row: Value, steps: Sequence[Step]) -> Layer | str:
    """Return the layer that steps over rows are, or why they are none.

    Args:
        row: what a step reads of the sequence.
        steps: the carried values.
    """
    reason = "it carries nothing that a recurrent layer would"
    for h, (arg, new) in enumerate(steps):
        problem = _unfit(row, arg, new)
        if problem:
            reason = problem
            continue
        whole = _step_of_layer(row, h, steps)
        if whole is not None:
            return whole
        cell = Cell((row, _width(row)), (arg, _width(arg)))
        for c, step in enumerate(steps):
            if c != h and not _unfit(row, *step) and same_dim(_width(step[0]), _width(arg)):
                reader = Cell((row, _width(row)), (arg, _width(arg)), step)
                found = _lstm(reader, new, step)
                if found is not None:
                    return _layer("lstm", found, reader, (h, c), arg)
        for kind, read in (("gru", _gru), ("rnn", _rnn)):
            found = read(cell, arg, new)
            if found is not None:
                return _layer(kind, found, cell, (h, None), arg)
        reason = "the step is no cell of LSTM, GRU or RNN with constant weights"
    return reason


def _width(value: Value) -> int:
    last = value.shape[-1] if value.shape else None
    return last if isinstance(last, int) else 0


def _unfit(row: Value, arg: Value, new: Value) -> str:
    """Return what of the types contradicts a recurrent layer, empty if nothing does."""
    if arg.dtype not in _DTYPES or any(v.dtype is not arg.dtype for v in (row, new)):
        return "states or rows are neither f32 nor f16"
    if row.rank not in (1, 2) or row.rank != arg.rank or arg.rank != new.rank:
        return "states and rows are not proven to be vectors, or matrices"
    if not _width(row) or not _width(arg):
        return "the width of states or rows is not known"
    if row.rank == 2:
        batches = [v.shape[0] if v.shape else None for v in (row, arg, new)]
        if not same_dim(batches[0], batches[1]) or not same_dim(batches[0], batches[2]):
            return "states and rows are not proven to have the same batch"
    return ""


@dataclass(frozen=True)
class _Found:
    """Forms of a cell's gates in ONNX's order, and names of its activations.

    ``inner`` is the form that the reset gate of a GRU multiplies behind its product, ``peepholes``
    are the factors of the cell state in the gates i, o and f of an LSTM.
    """

    gates: tuple[Form, ...]
    activations: tuple[str, ...]
    inner: Form | None = None
    peepholes: Array | None = None


_DEFAULTS = {
    "lstm": ("Sigmoid", "Tanh", "Tanh"),
    "gru": ("Sigmoid", "Tanh"),
    "rnn": ("Tanh",),
}


def _layer(
    kind: str, found: _Found, cell: Cell, chosen: tuple[int, int | None], state: Value
) -> Layer | str:
    width, hidden = cell.sizes["x"], cell.sizes["h"]
    if not any(form.parts.get("x") is not None for form in found.gates):
        return "the steps do not read the sequence"
    if all(form.parts["x"].ndim == 1 for form in found.gates if "x" in form.parts):
        return "the sequence is multiplied with its weights before the loop"
    w = np.concatenate([form.matrix("x", width).T for form in found.gates])
    blocks, inner = [], np.zeros(len(found.gates) * hidden)
    for i, form in enumerate(found.gates):
        block = form.matrix("rh" if "rh" in form.parts else "h", hidden)
        if i == 2 and found.inner is not None:
            block = found.inner.matrix("h", hidden)
            inner[i * hidden :] = found.inner.bias
        blocks.append(block.T)
    bias = np.concatenate([*(form.bias for form in found.gates), inner])
    holes = np.zeros(1) if found.peepholes is None else found.peepholes
    assert state.dtype is not None
    full = (w, np.concatenate(blocks), bias, holes)
    narrow = [rounded(a[None], state.dtype) for a in full]
    known = [a for a in narrow if a is not None]
    if len(known) < len(full):
        return f"the weights leave the range of {state.dtype}"
    attrs: dict[str, Any] = {"hidden_size": hidden}
    if found.activations != _DEFAULTS[kind]:
        attrs["activations"] = list(found.activations)
    if found.inner is not None:
        attrs["linear_before_reset"] = True
    b, p = (known[2] if bias.any() else None), (known[3] if holes.any() else None)
    weights = (known[0], known[1], b, p)
    return Layer(kind, weights, *chosen, state.rank == 1, attrs)


def _pairs(value: Value | None, name: str) -> Iterator[tuple[Value, Value]]:
    """Yield both orders of the operands of a commutative operation, none if it is another."""
    op = made_by(value, name)
    if op is not None and len(op.operands) == 2:
        a, b = op.operands
        if a is not None and b is not None:
            yield a, b
            yield b, a


def _plain(gate: Gate | None, hidden: int) -> bool:
    """Whether a gate is a function of the row and the state, without a reset."""
    if gate is None or gate.form.width != hidden:
        return False
    return gate.form.reset is None and gate.form.gated is None


# -- layers of one step ---------------------------------------------------------------------------


def _step_of_layer(row: Value, h: int, steps: Sequence[Step]) -> Layer | None:
    """Match a layer that is itself applied to one row, as a sequence of one step."""
    arg, new = steps[h]
    op = _viewed(new)
    if op is None or op.name not in _DEFAULTS or op.has_attr_refs or arg.rank != 2:
        return None
    view = made_by(new, "squeeze", "reshape")
    c = _cell_index(op, steps) if op.name == "lstm" else None
    if view is None or view.operands[0] is not op.results[1] or (op.name == "lstm" and c is None):
        return None
    ties = [("x", row), ("initial_h", arg)] + ([] if c is None else [("initial_c", steps[c][0])])
    if any(not _raised(op.operand(name), value) for name, value in ties):
        return None
    if op.operand("sequence_lens") is not None or op.attr("layout"):
        return None
    if op.attr("direction") == "bidirectional":
        return None
    names = ("w", "r", "b", "p") if op.name == "lstm" else ("w", "r", "b")
    weights = [op.operand(name) for name in names]
    if any(v is not None and not readable(v) for v in weights):
        return None
    arrays = [None if v is None else constant(v) for v in weights]
    if arrays[0] is None or arrays[1] is None:
        return None
    attrs = {name: value for name, value in op.attrs.items() if name != "direction"}
    whole = (arrays[0], arrays[1], arrays[2], arrays[3] if len(arrays) > 3 else None)
    return Layer(op.name, whole, h, c, unbatched=False, attrs=attrs)


def _viewed(value: Value) -> Op | None:
    view = made_by(value, "squeeze", "reshape")
    return None if view is None or view.operands[0] is None else view.operands[0].op


def _raised(value: Value | None, inner: Value) -> bool:
    """Whether ``value`` is ``inner`` with an axis of size 1 in front."""
    op = made_by(value, "unsqueeze", "reshape")
    if op is None or op.operands[0] is not inner or value is None or value.shape is None:
        return False
    shape = inner.shape
    if shape is None or len(value.shape) != len(shape) + 1 or value.shape[0] != 1:
        return False
    return all(same_dim(a, b) for a, b in zip(value.shape[1:], shape, strict=True))


def _cell_index(op: Op, steps: Sequence[Step]) -> int | None:
    """Return which carried value is the cell state that ``op`` gives."""
    for i, (_, new) in enumerate(steps):
        view = made_by(new, "squeeze", "reshape")
        if view is not None and len(op.results) > 2 and view.operands[0] is op.results[2]:
            return i
    return None


# -- LSTM -----------------------------------------------------------------------------------------


def _lstm(cell: Cell, new: Value, step: Step) -> _Found | None:
    """Match ``c' = f * c + i * g, h' = o * act(c')``; i and f may read c, and o c'."""
    c, c_new = step
    hidden = cell.sizes["h"]
    for left, right in _pairs(new, "mul"):
        o, curve = cell.gate(left), right.op
        if o is None or curve is None or curve.name not in ACTIVATIONS:
            continue
        if curve.operands[0] is not c_new or curve.has_attr_refs:
            continue
        found = _memory(cell, c, c_new)
        if found is None:
            return None
        i, f, g = found
        if not all(_plain(gate, hidden) for gate in (o, *found)) or not (
            i.name == o.name == f.name
        ):
            return None
        holes = _peepholes(cell, i.form, o.form, f.form, g.form)
        if holes is None:
            return None
        forms = (i.form, o.form, f.form, g.form)
        peepholes = holes if holes.any() else None
        return _Found(forms, (o.name, g.name, ACTIVATIONS[curve.name]), peepholes=peepholes)
    return None


def _peepholes(cell: Cell, i: Form, o: Form, f: Form, g: Form) -> Array | None:
    """Return the factors of the cell state in i, o and f, ``None`` if they are none of one each."""
    seen = ((i, "c"), (o, "c_new"), (f, "c"), (g, ""))
    if any({"c", "c_new"} & form.parts.keys() - {source} for form, source in seen):
        return None
    found = [form.diagonal(source, cell.sizes["h"]) for form, source in seen[:3]]
    known = [d for d in found if d is not None]
    return np.concatenate(known) if len(known) == len(found) else None


def _memory(cell: Cell, c: Value, c_new: Value) -> tuple[Gate, Gate, Gate] | None:
    """Return the gates i, f, g of ``f * c + i * g``."""
    for kept, added in _pairs(c_new, "add"):
        for left, right in _pairs(kept, "mul"):
            f = cell.gate(left) if right is c else None
            if f is None:
                continue
            for one, other in _pairs(added, "mul"):
                i, g = cell.gate(one), cell.gate(other)
                if i is not None and g is not None and i.name == f.name:
                    return i, f, g
    return None


# -- GRU ------------------------------------------------------------------------------------------


def _gru(cell: Cell, h: Value, new: Value) -> _Found | None:
    """Match ``h' = (1 - z) * n + z * h`` with ``n = act(... reset ...)``."""
    hidden = cell.sizes["h"]
    for gate_value, other, flipped in _mixed(h, new):
        z, n = cell.gate(gate_value), cell.gate(other)
        if n is None or z is None or z.name != "Sigmoid" or not _plain(z, hidden):
            continue
        if flipped:
            z = Gate(z.name, cell.scaled(z.form, -1.0))
        form, r = n.form, n.form.reset
        if r is None or not _plain(r, hidden) or r.name != z.name or form.width != hidden:
            continue
        if form.gated is not None:
            if set(form.parts) - {"x"} or form.gated.width != hidden:
                continue
        elif "rh" not in form.parts or "h" in form.parts:
            continue
        return _Found((z.form, r.form, form), (z.name, n.name), form.gated)
    return None


def _mixed(h: Value, new: Value) -> list[tuple[Value, Value, bool]]:
    """Return (z, n, flipped): ``new`` may be ``(1 - z) * n + z * h``, 1 - z being z if flipped."""
    found = []
    for kept, added in _pairs(new, "add"):
        for z, state in _pairs(kept, "mul"):  # z * h + w * n, w + z = 1
            if state is h:
                found += [(z, n, False) for w, n in _pairs(added, "mul") if _complements(z, w)]
        for z, rest in _pairs(added, "mul"):  # n + z * (h - n), h + z * (n - h)
            difference = made_by(rest, "sub")
            n, old = (None, None) if difference is None else difference.operands
            if n is h and old is kept:
                found.append((z, kept, False))
            elif old is h and kept is h and n is not None:
                found.append((z, n, True))
    return found


def _complements(a: Value, b: Value) -> bool:
    """Whether one of two values is 1 less the other."""
    for one, other in ((a, b), (b, a)):
        op = made_by(other, "sub")
        if op is not None and op.operands[1] is one:
            known = const_array(op.operands[0])
            if known is not None and known.size and bool((known == 1).all()):
                return True
    return False


# -- RNN ------------------------------------------------------------------------------------------


def _rnn(cell: Cell, h: Value, new: Value) -> _Found | None:
    """Match ``h' = act(x A + h B + b)``."""
    gate = cell.gate(new)
    if gate is None or not _plain(gate, cell.sizes["h"]):
        return None
    if "h" not in gate.form.parts or "rh" in gate.form.parts:
        return None
    return _Found((gate.form,), (gate.name,))
