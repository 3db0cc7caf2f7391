"""Values of a loop body as linear forms of its input row and its state, for recurrent layers.

A gate is ``f(x A + h B + b)`` for constants A, B and b, however it is spelled: one product of the
joined row and state or two products, a bias here or there, all gates at once and split or each
alone, the activation before the split or behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_array
from lepton_ir.passes.canonicalize.slices import slice_ranges
from lepton_ir.passes.fuse._match import readable
from lepton_ir.passes.fuse._weights import WEIGHT_LIMIT, constant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lepton_ir.ir import Op, Value

Array = np.ndarray[Any, Any]

_DEPTH = 48
_MAX_WIDTH = 1 << 14
ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


@dataclass(frozen=True)
class Form:
    """``x A + h B + (r * h) C + r * (h D + d) + b``, a row of ``width`` numbers.

    Attributes:
        width: elements of the row.
        parts: by source (``x``, ``h``, ``rh``, and ``c`` and ``c_new`` of peepholes) the matrix it
            is multiplied with; a vector of integers selects columns of the source instead.
        bias: the constant summand.
        reset: the gate r of the two terms that have one.
        gated: the form ``h D + d`` that the gate multiplies as a whole.
    """

    width: int
    parts: Mapping[str, Array]
    bias: Array
    reset: Gate | None = None
    gated: Form | None = None

    def columns(self, low: int, high: int) -> Form:
        """Return a range of columns."""
        inner = None if self.gated is None else self.gated.columns(low, high)
        reset = self.reset
        if inner is not None and reset is not None:
            reset = reset.columns(low, high)
        parts = {source: part[..., low:high] for source, part in self.parts.items()}
        return Form(high - low, parts, self.bias[low:high], reset, inner)

    def matrix(self, source: str, rows: int) -> Array:
        """Return what a source of ``rows`` elements is multiplied with, as a matrix."""
        part = self.parts.get(source)
        if part is None:
            return np.zeros((rows, self.width))
        return _dense(part, rows)

    def diagonal(self, source: str, rows: int) -> Array | None:
        """Return the numbers that a source is multiplied with one by one, if it is so."""
        full = self.matrix(source, rows)
        diagonal = np.diagonal(full).copy()
        alone = full.shape == (rows, rows) and np.count_nonzero(full) == np.count_nonzero(diagonal)
        return diagonal if alone else None

    def is_source(self, source: str, rows: int) -> bool:
        """Whether the form is a source itself."""
        part = self.parts.get(source)
        if part is None or len(self.parts) > 1 or self.gated is not None or self.bias.any():
            return False
        return part.ndim == 1 and np.array_equal(part, np.arange(rows))


@dataclass(frozen=True)
class Gate:
    """An activation of a form."""

    name: str
    form: Form

    def columns(self, low: int, high: int) -> Gate:
        """Return a range of columns."""
        return Gate(self.name, self.form.columns(low, high))

    def same(self, other: Gate) -> bool:
        """Whether both are the same gate."""
        return self is other or (self.name == other.name and same_form(self.form, other.form))


def same_form(a: Form, b: Form) -> bool:
    """Whether two forms are equal term by term; those with a reset gate never are."""
    if a is b:
        return True
    if a.width != b.width or a.parts.keys() != b.parts.keys() or a.reset or b.reset:
        return False
    return np.array_equal(a.bias, b.bias) and all(
        a.parts[k].shape == b.parts[k].shape and np.array_equal(a.parts[k], b.parts[k])
        for k in a.parts
    )


def _dense(part: Array, rows: int) -> Array:
    if part.ndim == 2:
        return part
    out = np.zeros((rows, len(part)))
    for column, source in enumerate(part):
        if source >= 0:
            out[source, column] = 1.0
    return out


class Cell:
    """Reads the values of one loop body.

    Args:
        x: the row that a step is given, and its width.
        h: the state that gates read, and its width.
        memory: the cell state of an LSTM before and after the step, which peepholes read.
    """

    def __init__(
        self,
        x: tuple[Value, int],
        h: tuple[Value, int],
        memory: tuple[Value, Value] | None = None,
    ) -> None:
        self.sizes = {"x": x[1], "h": h[1], "rh": h[1], "c": h[1], "c_new": h[1]}
        sources = [("x", *x), ("h", *h)]
        if memory is not None:
            sources += [("c", memory[0], h[1]), ("c_new", memory[1], h[1])]
        self._memo: dict[Value, Form | Gate | None] = {
            value: Form(size, {source: np.arange(size)}, np.zeros(size))
            for source, value, size in sources
        }

    def form(self, value: Value | None) -> Form | None:
        """Return a value as a linear form, ``None`` if it is none."""
        found = self._read(value, 0)
        return found if isinstance(found, Form) else None

    def gate(self, value: Value | None) -> Gate | None:
        """Return a value as an activation of a form, ``None`` if it is none."""
        found = self._read(value, 0)
        return found if isinstance(found, Gate) else None

    def _read(self, value: Value | None, depth: int) -> Form | Gate | None:
        if value is None or depth > _DEPTH:
            return None
        if value not in self._memo:
            self._memo[value] = None
            self._memo[value] = self._found(value, depth + 1)
        return self._memo[value]

    def _found(self, value: Value, depth: int) -> Form | Gate | None:
        op = value.op
        if op is None or op.has_attr_refs:
            return None
        if op.name == "const":
            return _constant_row(value)
        if op.name in ACTIVATIONS:
            form = self._read(op.operands[0], depth)
            return Gate(ACTIVATIONS[op.name], form) if isinstance(form, Form) else None
        if op.name in ("split", "slice"):
            return self._piece(op, value.index, depth)
        if op.name == "identity":
            return self._read(op.operands[0], depth)
        reader = _READERS.get(op.name)
        if reader is None:
            return None
        found = [self._read(v, depth) for v in op.operands]
        return reader(self, op, found)

    def _piece(self, op: Op, index: int, depth: int) -> Form | Gate | None:
        whole = self._read(op.operands[0], depth)
        rank = op.operands[0].rank if op.operands[0] is not None else None
        if whole is None or rank is None:
            return None
        width = whole.width if isinstance(whole, Form) else whole.form.width
        if op.name == "slice":
            ranges = slice_ranges(op)
            if ranges is None or set(ranges) != {rank - 1} or ranges[rank - 1][2] != 1:
                return None
            low, high, _ = slice(*ranges[rank - 1]).indices(width)
            return whole.columns(low, max(low, high))
        if int(op.attr("axis")) % rank != rank - 1:
            return None
        sizes = [_last(r) for r in op.results[: index + 1]]
        if None in sizes:
            return None
        known = [s for s in sizes if s is not None]
        low = sum(known[:-1])
        return whole.columns(low, low + known[-1])

    def scaled(self, form: Form, factor: float | Array) -> Form:
        """Return a form times a number, or numbers a column."""
        if isinstance(factor, float) and factor == 1.0:
            return form
        parts = {s: _dense(p, self.sizes[s]) * factor for s, p in form.parts.items()}
        inner = None if form.gated is None else self.scaled(form.gated, factor)
        return replace(form, parts=parts, bias=form.bias * factor, gated=inner)

    # -- what operations do to forms --------------------------------------------------------

    def add(self, op: Op, found: list[Form | Gate | None]) -> Form | Gate | None:
        """Return the sum or difference of two forms; 1 - sigmoid(v) is sigmoid(-v)."""
        a, b = found
        sign = -1.0 if op.name == "sub" else 1.0
        if isinstance(b, Gate) and b.name == "Sigmoid" and sign < 0 and _is_ones(a):
            return None if b.form.reset else Gate(b.name, self.scaled(b.form, -1.0))
        if not isinstance(a, Form) or not isinstance(b, Form):
            return None
        width = max(a.width, b.width)
        wide = [_widened(f, width) for f in (a, b)]
        if wide[0] is None or wide[1] is None:
            return None
        return self._sum(wide[0], self.scaled(wide[1], sign))

    def _sum(self, a: Form, b: Form) -> Form | None:
        if a.reset is not None and b.reset is not None and not a.reset.same(b.reset):
            return None
        if a.gated is not None and b.gated is not None:
            return None
        parts = {**a.parts}
        for source, part in b.parts.items():
            if source in parts:
                rows = self.sizes[source]
                part = _dense(parts[source], rows) + _dense(part, rows)
            parts[source] = part
        return Form(a.width, parts, a.bias + b.bias, a.reset or b.reset, a.gated or b.gated)

    def negative(self, op: Op, found: list[Form | Gate | None]) -> Form | None:
        """Return -v."""
        return self.scaled(found[0], -1.0) if isinstance(found[0], Form) else None

    def product(self, op: Op, found: list[Form | Gate | None]) -> Form | None:
        """Return a form times numbers, or a gate times a form of the state alone."""
        for a, b in ((found[0], found[1]), (found[1], found[0])):
            if isinstance(a, Form) and isinstance(b, Form) and not b.parts and b.gated is None:
                wide = _widened(a, max(a.width, b.width))
                return None if wide is None else self.scaled(wide, b.bias)
            if isinstance(a, Gate) and isinstance(b, Form):
                return self._gated(a, b)
        return None

    def _gated(self, gate: Gate, form: Form) -> Form | None:
        if gate.name != "Sigmoid" or gate.form.reset is not None or form.reset is not None:
            return None
        if gate.form.width != form.width or set(form.parts) != {"h"}:
            return None
        nothing = np.zeros(form.width)
        if form.is_source("h", self.sizes["h"]):
            return Form(form.width, {"rh": form.parts["h"]}, nothing, gate)
        return Form(form.width, {}, nothing, gate, form)

    def quotient(self, op: Op, found: list[Form | Gate | None]) -> Form | None:
        """Return a form divided by numbers."""
        a, b = found
        if not isinstance(a, Form) or not isinstance(b, Form) or b.parts or not b.bias.all():
            return None
        wide = _widened(a, max(a.width, b.width))
        return None if wide is None else self.scaled(wide, 1.0 / b.bias)

    def matmul(self, op: Op, found: list[Form | Gate | None]) -> Form | None:
        """Return a form times a matrix."""
        return self._times(found[0], op.operands[1], 1.0, transposed=False)

    def gemm(self, op: Op, found: list[Form | Gate | None]) -> Form | None:
        """Return a form times a matrix, and a summand."""
        if op.attr("transA"):
            return None
        alpha, beta = float(op.attr("alpha")), float(op.attr("beta"))
        made = self._times(found[0], op.operands[1], alpha, transposed=bool(op.attr("transB")))
        if made is None or len(op.operands) < 3 or op.operands[2] is None:
            return made
        bias = found[2]
        wide = _widened(bias, made.width) if isinstance(bias, Form) else None
        return None if wide is None else self._sum(made, self.scaled(wide, beta))

    def _times(
        self, form: Form | Gate | None, weight: Value | None, factor: float, *, transposed: bool
    ) -> Form | None:
        if not isinstance(form, Form) or form.gated is not None or weight is None:
            return None
        if not readable(weight) or weight.rank != 2:
            return None
        w = constant(weight)
        if w.nbytes > WEIGHT_LIMIT or w.dtype.kind != "f":
            return None
        w = factor * (w.T if transposed else w).astype(np.float64)
        if w.shape[0] != form.width or w.shape[1] > _MAX_WIDTH:
            return None
        parts = {s: _product(part, w, self.sizes[s]) for s, part in form.parts.items()}
        return Form(w.shape[1], parts, form.bias @ w, form.reset)

    def concat(self, op: Op, found: list[Form | Gate | None]) -> Form | None:
        """Return forms side by side."""
        rank = op.result.rank
        forms = [f for f in found if isinstance(f, Form) and f.gated is None]
        if rank is None or int(op.attr("axis")) % rank != rank - 1 or len(forms) < len(found):
            return None
        resets = [f.reset for f in forms if f.reset is not None]
        if any(not r.same(resets[0]) for r in resets):
            return None
        parts = {}
        for source in dict.fromkeys(s for f in forms for s in f.parts):
            blocks = [f.parts.get(source) for f in forms]
            if all(b is None or b.ndim == 1 for b in blocks):
                nothing = [np.full(f.width, -1) for f in forms]
                joined = [n if b is None else b for n, b in zip(nothing, blocks, strict=True)]
                parts[source] = np.concatenate(joined)
            else:
                dense = [f.matrix(source, self.sizes[source]) for f in forms]
                parts[source] = np.concatenate(dense, axis=1)
        bias = np.concatenate([f.bias for f in forms])
        return Form(len(bias), parts, bias, resets[0] if resets else None)


_READERS: dict[str, Callable[[Cell, Op, list[Form | Gate | None]], Form | Gate | None]] = {
    "add": Cell.add,
    "sub": Cell.add,
    "neg": Cell.negative,
    "mul": Cell.product,
    "div": Cell.quotient,
    "matmul": Cell.matmul,
    "gemm": Cell.gemm,
    "concat": Cell.concat,
}


def _last(value: Value) -> int | None:
    size = value.shape[-1] if value.shape else None
    return size if isinstance(size, int) else None


def _product(part: Array, w: Array, rows: int) -> Array:
    if part.ndim == 2:
        return np.asarray(part @ w)
    out = np.zeros((rows, w.shape[1]))
    chosen = part >= 0
    np.add.at(out, part[chosen], w[chosen])
    return out


def _widened(form: Form, width: int) -> Form | None:
    """Return a constant of one number as a row of ``width``; other forms have to fit."""
    if form.width == width:
        return form
    if form.width == 1 and not form.parts and form.gated is None:
        return replace(form, width=width, bias=np.repeat(form.bias, width))
    return None


def _constant_row(value: Value) -> Form | None:
    array = const_array(value)
    if array is None or array.dtype.kind != "f" or not np.isfinite(array).all():
        return None
    if array.ndim > 2 or any(n != 1 for n in array.shape[:-1]):
        return None
    row = array.reshape(-1).astype(np.float64)
    return Form(len(row), {}, row)


def _is_ones(form: Form | Gate | None) -> bool:
    return isinstance(form, Form) and not form.parts and bool((form.bias == 1.0).all())
