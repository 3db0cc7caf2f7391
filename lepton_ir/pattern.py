"""Patterns over the IR, written as if building it: ``P.clip(var("x"), const("lo"), const("hi"))``.

A pattern is rooted at one operation and reaches towards producers. Operands of commutative
operations match in either order. An inner operation must have no user outside the match unless
the pattern says ``.shared()``; a failed match can tell why.

>>> bias_add = P.add(P.conv(var("x"), const("w")).named("conv"), const("b"))
>>> sorted(bias_add.roots)
['add']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.infer import const_tensor
from lepton_ir.ir import Op, Value
from lepton_ir.opdef import lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lepton_ir.tensors import Tensor

_SMALL_BYTES = 1 << 12
"""Bytes of a constant that may be made beside those that other operations keep."""

_MAX_SCALAR_READ = 1 << 16


class Const:
    """A matched constant: the value, its tensor, and comparisons that do not read large data."""

    __slots__ = ("tensor", "value")

    def __init__(self, value: Value, tensor: Tensor) -> None:
        self.value = value
        self.tensor = tensor

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """The data (may read a file)."""
        return self.tensor.numpy()

    @property
    def shape(self) -> tuple[int, ...]:
        """Static shape."""
        return self.tensor.shape

    def gives_way(self, size: int) -> bool:
        """Return whether ``size`` bytes in its place let no file grow by more than a little."""
        return size <= _SMALL_BYTES or (size <= self.tensor.nbytes and self.value.use_count == 1)

    def scalar(self) -> Any:
        """Return the single value that all elements share, or ``None``; empty tensors have none."""
        if self.tensor.size == 0:
            return None
        splat = self.tensor.splat_value()
        if splat is not None or self.tensor.nbytes > _MAX_SCALAR_READ:
            return splat
        flat = self.array.reshape(-1)
        return flat[0] if (flat == flat[0]).all() else None

    def is_value(self, number: float) -> bool:
        """Return whether every element equals ``number`` exactly (and there is one)."""
        found = self.scalar()
        return found is not None and bool(found == number)

    def is_close(self, number: float, tolerance: float = 1e-6) -> bool:
        """Return whether every element is ``number`` within a relative tolerance."""
        found = self.scalar()
        if found is None or isinstance(found, (str, bytes)):
            return False
        return bool(abs(float(found) - number) <= tolerance * max(abs(number), 1.0))

    def ints(self) -> tuple[int, ...]:
        """Return the elements as Python ints."""
        return tuple(int(i) for i in self.array.reshape(-1))

    def __repr__(self) -> str:
        return f"{self.tensor.type}"


class Match:
    """A successful match: captured names are attributes.

    ``m.root`` is the root operation and ``m.ops`` all matched operations, root first. A ``var``
    captures a value, a ``const`` a :class:`Const`, a named operation pattern an operation, an
    ``attr`` the attribute's value.
    """

    def __init__(self, root: Op) -> None:
        self.root = root
        self.ops: list[Op] = []
        self.captures: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.captures[name]
        except KeyError:
            raise AttributeError(f"pattern captured no {name!r}") from None

    def get(self, name: str) -> Any:
        """Return a capture, ``None`` when the alternative that has it was not taken."""
        return self.captures.get(name)


class Failure:
    """Why the deepest partial match failed, formatted only when asked for."""

    __slots__ = ("args", "depth", "template")

    def __init__(self) -> None:
        self.depth = 0
        self.template = ""
        self.args: tuple[object, ...] = ()

    def note(self, depth: int, template: str, *args: object) -> bool:
        """Keep the reason if it is the deepest so far; always returns ``False``."""
        if depth > self.depth:
            self.depth, self.template, self.args = depth, template, args
        return False

    def __str__(self) -> str:
        return self.template.format(*self.args)


class Pattern:
    """Base of patterns over values."""

    def match_value(self, value: Value | None, m: Match, why: Failure, depth: int) -> bool:
        """Try to match ``value``; captures go to ``m``."""
        raise NotImplementedError


class Var(Pattern):
    """Any value; the same name twice means the same value."""

    def __init__(self, name: str, where: Callable[[Value], bool] | None = None) -> None:
        self.name = name
        self.where = where

    def match_value(self, value: Value | None, m: Match, why: Failure, depth: int) -> bool:
        if value is None:
            return False
        seen = m.captures.get(self.name)
        if seen is not None:
            return seen is value or why.note(depth, "{} is two different values", self.name)
        if self.where is not None and not self.where(value):
            return why.note(depth, "{} does not qualify: {}", self.name, value)
        m.captures[self.name] = value
        return True


class Optional(Pattern):
    """An operand that may be absent; captured as ``None`` then."""

    def __init__(self, inner: Pattern) -> None:
        self.inner = inner

    def match_value(self, value: Value | None, m: Match, why: Failure, depth: int) -> bool:
        if value is None:
            name = getattr(self.inner, "name", None)
            if name:
                m.captures[name] = None
            return True
        return self.inner.match_value(value, m, why, depth)


class ConstVar(Pattern):
    """A constant; with ``equals``, one whose every element is that number."""

    def __init__(self, name: str, equals: float | None = None, tolerance: float = 0.0) -> None:
        self.name = name
        self.equals = equals
        self.tolerance = tolerance

    def match_value(self, value: Value | None, m: Match, why: Failure, depth: int) -> bool:
        tensor = const_tensor(value)
        if tensor is None or value is None:
            return why.note(depth, "{} is not a constant", self.name or "an operand")
        found = Const(value, tensor)
        if self.equals is not None:
            if self.tolerance:
                fits = found.is_close(self.equals, self.tolerance)
            else:
                fits = found.is_value(self.equals)
            if not fits:
                return why.note(depth, "the constant is not {}", self.equals)
        if self.name:
            m.captures[self.name] = found
        return True


class AttrVar:
    """Captures an attribute."""

    def __init__(self, name: str) -> None:
        self.name = name


class Either(Pattern):
    """The first alternative that matches."""

    def __init__(self, *alternatives: Pattern) -> None:
        self.alternatives = alternatives

    def match_value(self, value: Value | None, m: Match, why: Failure, depth: int) -> bool:
        for alternative in self.alternatives:
            saved, count = dict(m.captures), len(m.ops)
            if alternative.match_value(value, m, why, depth):
                return True
            m.captures = saved
            del m.ops[count:]
        return False


class OpPattern(Pattern):
    """An operation of one of ``roots`` with operand patterns; see :data:`P`.

    Operands beyond those given must be absent; a last pattern ``...`` lets them be anything.
    """

    def __init__(
        self, roots: Iterable[str], operands: tuple[Any, ...], attrs: dict[str, Any]
    ) -> None:
        self.roots = tuple(roots)
        self.rest = bool(operands) and operands[-1] is ...
        self.operands: tuple[Pattern, ...] = tuple(
            map(as_pattern, operands[:-1] if self.rest else operands)
        )
        self.attrs = attrs
        self.name = ""
        self.may_share = False
        self.result = 0

    def named(self, name: str) -> OpPattern:
        """Capture the operation under ``name``."""
        self.name = name
        return self

    def shared(self) -> OpPattern:
        """Allow users of the result outside the match (the operation will stay)."""
        self.may_share = True
        return self

    def match_value(self, value: Value | None, m: Match, why: Failure, depth: int) -> bool:
        if value is None:
            return False
        op = value.producer
        if not isinstance(op, Op) or op.name not in self.roots or value.index != self.result:
            return why.note(depth, "an operand is not the result of {}", "/".join(self.roots))
        if not self.may_share and value.use_count > 1 and len(value.users) > 1:
            return why.note(depth + 1, "the result of {} has {} users", op, value.use_count)
        return self.match_op(op, m, why, depth + 1)

    def match_op(self, op: Op, m: Match, why: Failure, depth: int = 1) -> bool:
        """Match the operation itself and what it reads."""
        if op.has_attr_refs:
            return why.note(depth, "{} takes attributes of its function", op)
        for name, expected in self.attrs.items():
            found = op.attr(name)
            if isinstance(expected, AttrVar):
                m.captures[expected.name] = found
            elif found != expected:
                return why.note(depth, "{} has {}={}", op, name, found)
        if not self._match_operands(op, m, why, depth):
            return False
        if self.name:
            m.captures[self.name] = op
        m.ops.append(op)
        return True

    def _match_operands(self, op: Op, m: Match, why: Failure, depth: int) -> bool:
        values = op.operands
        if not self.rest and any(v is not None for v in values[len(self.operands) :]):
            return why.note(depth, "{} has more operands", op)
        definition = op.definition
        if definition and "commutative" in definition.traits and len(self.operands) == 2:
            if len(values) != 2:
                return False
            saved, count = dict(m.captures), len(m.ops)
            first, second = self.operands
            for a, b in ((0, 1), (1, 0)):
                if first.match_value(values[a], m, why, depth) and second.match_value(
                    values[b], m, why, depth
                ):
                    return True
                m.captures = dict(saved)
                del m.ops[count:]
            return False
        for i, pattern in enumerate(self.operands):
            value = values[i] if i < len(values) else None
            if not pattern.match_value(value, m, why, depth):
                return False
        return True

    def match(self, op: Op, why: Failure) -> Match | None:
        """Match with ``op`` as the root; ``None`` if it does not."""
        m = Match(op)
        if not self.match_op(op, m, why):
            return None
        m.ops.reverse()
        return m


def as_pattern(item: Any) -> Pattern:
    """Numbers stand for constants equal to them, strings for variables, ``None`` for absence."""
    if isinstance(item, Pattern):
        return item
    if isinstance(item, str):
        return Var(item)
    if isinstance(item, (int, float)):
        return ConstVar("", equals=float(item))
    if item is None:
        return _Absent()
    raise TypeError(f"not a pattern: {item!r}")


class _Absent(Pattern):
    def match_value(self, value: Value | None, m: Match, why: Failure, depth: int) -> bool:
        return value is None or why.note(depth, "an optional operand is present")


class _Patterns:
    """``P.add(a, b)`` makes the pattern of an operation; ``P.any(("add", "sub"), a, b)`` of any."""

    def __getattr__(self, name: str) -> Callable[..., OpPattern]:
        if name.startswith("__"):
            raise AttributeError(name)
        op_name = name.rstrip("_")

        def make(*operands: Any, **attrs: Any) -> OpPattern:
            return OpPattern((op_name,), operands, attrs)

        return make

    def any(self, names: Iterable[str], *operands: Any, **attrs: Any) -> OpPattern:
        """The pattern of one of several operations."""
        return OpPattern(names, operands, attrs)


P = _Patterns()


def var(name: str, where: Callable[[Value], bool] | None = None) -> Var:
    """Any value, captured under ``name``; ``where`` may refuse it."""
    return Var(name, where)


def const(name: str = "", equals: float | None = None, tolerance: float = 0.0) -> ConstVar:
    """A constant, captured under ``name``."""
    return ConstVar(name, equals, tolerance)


def attr(name: str) -> AttrVar:
    """Capture an attribute: ``P.transpose(var("x"), perm=attr("p"))``."""
    return AttrVar(name)


def opt(inner: Any) -> Optional:
    """An operand that may be absent."""
    return Optional(as_pattern(inner))


def either(*alternatives: Any) -> Either:
    """The first alternative that matches."""
    return Either(*map(as_pattern, alternatives))


def check_roots(pattern: OpPattern) -> None:
    """Raise if the pattern names an operation that does not exist.

    Raises:
        ValueError: a misspelt operation name.
    """
    stack: list[Any] = [pattern]
    while stack:
        item = stack.pop()
        if isinstance(item, OpPattern):
            for name in item.roots:
                if lookup(name) is None and "." not in name:
                    raise ValueError(f"pattern names an unknown operation {name!r}")
            stack.extend(item.operands)
        elif isinstance(item, Optional):
            stack.append(item.inner)
        elif isinstance(item, Either):
            stack.extend(item.alternatives)
