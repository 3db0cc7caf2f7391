"""Helpers that rules of several modules share: scanning expressions, asking what is legal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_array, const_tensor
from lepton_ir.tensors import ElidedTensor

if TYPE_CHECKING:
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op, Value
    from lepton_ir.rewrite import Rewriter

_MAX_FACTORS = 6
_MAX_SCANNED = 24
_TOLERANCE = {"f64": 1e-6, "f32": 1e-5, "f16": 1e-3, "bf16": 8e-3}


def tolerance(dtype: DType | None) -> float:
    """Return by how much a constant of ``dtype`` may miss the number it stands for (relative)."""
    return _TOLERANCE.get("" if dtype is None else dtype.name, 0.0)


def close(number: float | None, expected: float, dtype: DType | None) -> bool:
    """Return whether ``number`` is ``expected`` as far as ``dtype`` can tell."""
    return number is not None and abs(number - expected) <= tolerance(dtype) * abs(expected)


def f32(number: float) -> float:
    """Return the value that an attribute keeps of ``number``."""
    return float(np.float32(number))


def f32_exact(dtype: DType | None, *numbers: float) -> bool:
    """Return whether f32 attributes may hold ``numbers`` that act on elements of ``dtype``."""
    if dtype is None or not dtype.is_float:
        return False
    return dtype.bits <= 32 or all(f32(n) == n for n in numbers)


def readable(value: Value | None) -> bool:
    """Return whether ``value`` is a constant whose data is at hand."""
    tensor = const_tensor(value)
    return tensor is not None and not isinstance(tensor, ElidedTensor)


def made_by(value: Value | None, *names: str) -> Op | None:
    """Return the operation that makes ``value`` if it is one of ``names``."""
    op = None if value is None else value.op
    if op is None or op.name not in names or op.has_attr_refs or value is not op.results[0]:
        return None
    return op


def ends_gelu(x: Value) -> bool:
    """Return whether ``x`` is y * (1 + erf(...)) or y * (1 + tanh(...)), to be halved."""
    product = made_by(x, "mul")
    sums = [] if product is None else [made_by(v, "add") for v in product.operands]
    curves = [v for op in sums if op is not None for v in op.operands]
    return any(made_by(v, "erf", "tanh") is not None for v in curves)


def norm_before(x: Value | None, *, scaled: bool = False) -> Value | None:
    """Return d where ``x`` is d / sqrt(mean(...) + epsilon), which runtimes recognise as a norm.

    Args:
        x: where to look, behind a cast, too.
        scaled: also look behind a product with a constant of one row, the scale of the norm.
    """
    cast = made_by(x, "cast")
    op = made_by(x if cast is None else cast.operands[0], "div", "mul")
    if op is None:
        return None
    d, deviation = op.operands
    if op.name == "mul":
        for value, other in ((d, deviation), (deviation, d)):
            inverse = made_by(other, "reciprocal", "div", "pow")
            if inverse is None:
                if scaled and _is_row(other):
                    return norm_before(value)
                continue
            under = inverse if inverse.name == "pow" else made_by(inverse.operands[-1], "sqrt")
            if under is not None and _is_mean(under.operands[0]):
                return value
        return None
    root = made_by(deviation, "sqrt")
    return d if root is not None and _is_mean(root.operands[0]) else None


def _is_row(value: Value | None) -> bool:
    tensor = const_tensor(value)
    return tensor is not None and len(tensor.shape) > 0


def _is_mean(value: Value | None) -> bool:
    """Return whether ``value`` is a mean plus something."""
    add = made_by(value, "add")
    return add is not None and any(made_by(v, "reduce_mean") is not None for v in add.operands)


def is_centred(value: Value | None) -> bool:
    """Return whether ``value`` is x - mean(x)."""
    op = made_by(value, "sub")
    mean = None if op is None else made_by(op.operands[1], "reduce_mean")
    return op is not None and mean is not None and mean.operands[0] is op.operands[0]


def sole_user(value: Value) -> bool:
    """Return whether exactly one operation reads ``value`` (in one slot or several)."""
    if value.use_count == 1:
        return True
    return 1 < value.use_count <= 4 and len(value.users) == 1


def available(rw: Rewriter, name: str, **attrs: Any) -> bool:
    """Return whether an operation called ``name`` may be made here."""
    module = rw.function.module
    if module is None or rw.ctx.target is None:
        return True
    own = rw.function.opsets.get("")
    if own is not None and own != module.opsets.get("", own):
        return False  # a function body keeps its version; the answer would be about another
    return rw.ctx.legal_name(name, module, **attrs)


def pays(rw: Rewriter, name: str) -> bool:
    """Return whether the target computes ``name`` faster than its parts; says so where not."""
    if name not in getattr(rw.ctx.target, "slow", ()):
        return True
    return rw.fail("the runtime takes longer for a {} than for its parts", name)


def settle(rw: Rewriter, old: Op | Value, new: Value) -> bool:
    """Replace ``old`` by the newly made ``new`` unless the target cannot write it."""
    assert new.op is not None
    answer = rw.ctx.legal(new.op)
    if answer is not True:
        return rw.fail("{} cannot be written: {}", new.op.name, answer)
    return rw.replace(old, new)


class Scan:
    """Follows an expression from its root towards its operands and remembers what it passed.

    Attributes:
        root: where the expression ends.
        ops: operations passed, the root first.
        rank: the highest rank of a one-element constant passed; a result of lower rank would have
            been raised to it.
    """

    def __init__(self, root: Op) -> None:
        self.root = root
        self.ops: list[Op] = [root]
        self.rank = 0

    def op(self, value: Value | None, *names: str) -> Op | None:
        """Return the operation that makes ``value`` if it is one of ``names``, and pass it."""
        found = made_by(value, *names)
        if found is not None and found not in self.ops:
            self.ops.append(found)
        return found

    def number(self, value: Value | None) -> float | None:
        """Return the only element of a constant of a number type."""
        tensor = const_tensor(value)
        if tensor is None or tensor.size != 1:
            return None
        if not (tensor.dtype.is_float or tensor.dtype.is_integer):
            return None
        array = const_array(value)
        if array is None:
            return None
        self.rank = max(self.rank, len(tensor.shape))
        return float(array.reshape(-1)[0])

    def with_number(self, value: Value | None, name: str) -> tuple[Value, float] | None:
        """Return x and c of ``name(x, c)`` or, when it is commutative, ``name(c, x)``."""
        op = made_by(value, name)
        if op is None or len(op.operands) != 2:
            return None
        pairs = [(0, 1), (1, 0)] if name in ("add", "mul", "min", "max") else [(0, 1)]
        for i, j in pairs:
            number = self.number(op.operands[j])
            x = op.operands[i]
            if number is not None and x is not None:
                self.op(value, name)
                return x, number
        return None

    def product(self, value: Value) -> tuple[float, list[Value]] | None:
        """Return a number and values whose product is ``value``; ``None`` if it is too long.

        Multiplications, divisions by numbers and small powers are taken apart when nothing else
        reads them (the scan's root is always).
        """
        number = 1.0
        factors: list[Value] = []
        pending = [value]
        while pending:
            current = pending.pop()
            op = made_by(current, "mul", "div", "pow")
            if op is None or not (op is self.root or sole_user(current)):
                factors.append(current)
            else:
                step = self._taken_apart(op)
                if step is None:
                    factors.append(current)
                else:
                    number *= step[0]
                    pending += step[1]
            if len(factors) + len(pending) > _MAX_FACTORS or len(self.ops) > _MAX_SCANNED:
                return None
        return number, factors

    def _taken_apart(self, op: Op) -> tuple[float, list[Value]] | None:
        a, b = op.operands
        if a is None or b is None:
            return None
        right = self.number(b)
        if op.name == "mul":
            left = self.number(a)
            numbers = [n for n in (left, right) if n is not None]
            step = 1.0
            for n in numbers:
                step *= n
            rest = [v for v, n in ((a, left), (b, right)) if n is None]
        elif right is None or right == 0:
            return None
        elif op.name == "div":
            step, rest = 1 / right, [a]
        elif right in (2.0, 3.0):
            step, rest = 1.0, [a] * int(right)
        else:
            return None
        self.op(op.result, op.name)
        return step, rest

    def settles_on(self, x: Value, rw: Rewriter) -> bool:
        """Return whether only the scan uses what it passed, and its shape is that of ``x``."""
        if self.rank and (x.rank is None or x.rank < self.rank):
            return rw.fail("a constant of rank {} may raise the rank of {}", self.rank, x)
        members = set(self.ops)
        for op in self.ops[1:]:
            for result in op.results:
                if any(use.op not in members for use in result.uses):
                    return rw.fail("the result of {} is used elsewhere", op)
        rw.also(*self.ops)
        return True
