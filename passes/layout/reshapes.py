"""Rules that move reshapes through elementwise regions, and transposes that only move ones."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.diagnostics import Location
from lepton_ir.dims import same_dim
from lepton_ir.infer import const_tensor, content_of
from lepton_ir.ir import Op, Value
from lepton_ir.passes.canonicalize.views import reshape_operand
from lepton_ir.passes.layout.order import perm_of
from lepton_ir.rewrite import rewrite

if TYPE_CHECKING:
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter
    from lepton_ir.types import Shape

_RESHAPES = ("reshape", "squeeze", "unsqueeze", "flatten")
_REGION_LIMIT = 64
_USE_LIMIT = 64
_LAST_AXIS = ("softmax", "log_softmax", "layer_normalization", "rms_normalization")


def keeps_shape(source: Shape | None, op: Op) -> bool:
    """Return whether the reshape ``op`` would change nothing about a tensor of shape ``source``.

    One target of -1 stands for the one dim that is not proven when all others are positive and
    equal: the number of elements leaves it no choice.
    """
    if op.name != "reshape" or source is None:
        return False
    wanted = content_of(op.operand("shape"))
    if wanted is None or len(wanted) != len(source):
        return False
    zero_copies = not op.attr("allowzero")
    open_dims = 0
    positive = True
    for want, have in zip(wanted, source, strict=True):
        if want == -1:
            open_dims += 1
        elif want == 0 and zero_copies:
            positive = False
        elif want is None or have is None or want != have:
            return False
        elif not isinstance(want, int) or want <= 0:
            positive = False
    return open_dims == 0 or (open_dims == 1 and positive)


@rewrite("reshape", exact=True)
def reshape_keeps_shape(m: Match, rw: Rewriter) -> bool:
    """reshape(x: [?, 4], [-1, 4]) => x; all other dims are positive and the same."""
    x = m.root.operands[0]
    if x is None or not keeps_shape(x.shape, m.root):
        return False
    return rw.replace(m.root, x, same=True)


@rewrite("transpose", exact=True)
def transpose_of_ones(m: Match, rw: Rewriter) -> bool:
    """transpose(x) that moves only axes of size 1, beside a reshape => reshape(x); they merge."""
    x, perm = m.root.operands[0], perm_of(m.root)
    if x is None or x.shape is None or perm is None or len(perm) != len(x.shape):
        return False
    kept = [a for a in perm if x.shape[a] != 1]
    if kept != sorted(kept):
        return rw.fail("an axis of another size than 1 moves")
    beside = x.op is not None and x.op.name in _RESHAPES and x.use_count == 1
    users = m.root.result.users
    beside = beside or (bool(users) and all(u.name in _RESHAPES for u in users))
    if not beside:
        return rw.fail("no reshape beside it to merge with")
    literal = reshape_operand(x, m.root.result)
    if literal is None:
        return rw.fail("the result {} cannot be said with constants", m.root.result.type)
    return rw.replace(m.root, rw.reshape(x, rw.const(np.asarray(literal, np.int64))))


class _Flow:
    """An elementwise region behind a reshape: what enters, what leaves, what it would save."""

    def __init__(self, root: Op, source: Value) -> None:
        self.root = root
        self.source = source
        self.values: set[Value] = {root.result}
        self.entries: list[Op] = [root]
        self.ops: dict[Op, None] = {}
        result, given = root.result.shape, source.shape
        self.rank = len(result) if result is not None else -1
        self.least = min(self.rank, len(given) if given is not None else -1)
        last = result[-1] if result else None
        same = bool(given) and given is not None and given[-1] == last
        self.last = last if same and isinstance(last, int) and last > 1 else None

    def grow(self) -> None:
        """Take in every operation behind the reshape that does not care about the shape."""
        queue = deque(self.values)
        while queue and len(self.ops) < _REGION_LIMIT:
            value = queue.popleft()
            if value.use_count > _USE_LIMIT:
                continue
            for op in value.users:
                if op not in self.ops and op.block is self.root.block and self._takes(op):
                    self.ops[op] = None
                    self.values.add(op.result)
                    queue.append(op.result)

    def _takes(self, op: Op) -> bool:
        definition = op.definition
        if definition is None or not definition.pure or op.has_attr_refs or len(op.results) != 1:
            return False
        if op.result.rank != self.rank or op.name in ("const", "prelu"):
            return False
        if op.name in _LAST_AXIS:
            at_end = op.attr("axis") in (-1, self.rank - 1) and not op.attrs.get("coerce_2d")
            return self.last is not None and at_end and op.operands[0] in self.values
        if "elementwise" not in definition.traits:
            return False
        new: list[Op] = []
        for value in op.operands:
            if value is None or value in self.values or self._spreads(value):
                continue
            entry = self._entry(value)
            if entry is None:
                return False
            new.append(entry)
        self.entries += new
        self.values.update(e.result for e in new)
        return True

    def _spreads(self, value: Value) -> bool:
        """Whether ``value`` broadcasts alike in both shapes: one element, or a row of constants."""
        shape = value.shape
        if shape is None or len(shape) > self.least:
            return False
        ones = all(d == 1 for d in shape[:-1])
        if ones and (not shape or shape[-1] == 1):
            return True
        return ones and shape[-1] == self.last and const_tensor(value) is not None

    def _entry(self, value: Value) -> Op | None:
        """Return the reshape that makes ``value`` from a tensor of the shape of the source."""
        op = value.op
        if op is None or op.name not in _RESHAPES or op.has_attr_refs or op.operands[0] is None:
            return None
        given = op.operands[0].shape
        fits = _same(given, self.source.shape) and _same(value.shape, self.root.result.shape)
        return op if fits else None

    def leaves(self, value: Value) -> _Exit:
        """Return what becomes of the readers of ``value`` outside the region."""
        out = _Exit()
        for user in value.users:
            if user in self.ops:
                continue
            shaped = user.name in _RESHAPES and not user.has_attr_refs
            if not shaped or user.operands[0] is not value:
                out.stays = True
            elif self._undoes(user):
                out.undone.append(user)
            elif user.name == "reshape" and not _copies(user):
                out.merged.append(user)
            else:
                out.stays = True
        return out

    def _undoes(self, user: Op) -> bool:
        given = self.source.shape
        return keeps_shape(given, user) or _same(given, user.result.shape)

    def saving(self) -> int:
        """Return how many reshapes fewer there would be."""
        total = sum(all(u in self.ops for u in e.result.users) for e in set(self.entries))
        for op in self.ops:
            found = self.leaves(op.result)
            total += len(found.undone) - found.stays
        return total


@dataclass
class _Exit:
    """Readers of a value outside the region.

    Attributes:
        undone: reshapes back to the shape of the source.
        merged: reshapes to elsewhere.
        stays: others, which need the value as it was.
    """

    undone: list[Op] = field(default_factory=list)
    merged: list[Op] = field(default_factory=list)
    stays: bool = False


def _same(a: Shape | None, b: Shape | None) -> bool:
    if a is None or b is None or len(a) != len(b):
        return False
    return all(same_dim(x, y) for x, y in zip(a, b, strict=True))


@rewrite(*_RESHAPES, exact=True)
def push_reshapes(m: Match, rw: Rewriter) -> bool:
    """reshape(f(reshape(x, s)), shape of x) => f(x) for elementwise f with single elements.

    Constants along the last axis and operations on the last axis count as elementwise where the
    reshape keeps that axis.
    """
    source = m.root.operands[0]
    if source is None or source.shape is None or m.root.result.shape is None:
        return False
    if const_tensor(source) is not None or source.dtype is None:
        return False
    flow = _Flow(m.root, source)
    flow.grow()
    if not flow.ops or flow.saving() <= 0:
        return rw.fail("no fewer reshapes would remain")
    _move(flow, rw)
    return True


def _move(flow: _Flow, rw: Rewriter) -> None:
    """Compute the region in the shape of its source."""
    assert flow.root.block is not None
    flow.root.block.ensure_order()
    ops = sorted(flow.ops, key=lambda op: op.order)
    rw.also(*ops)
    rw.permit()
    new: dict[Value, Value] = {}
    for entry in flow.entries:
        given = entry.operands[0]
        assert given is not None
        new[entry.result] = given
    for op in ops:
        rw.before, rw.loc = op, Location("", (op.loc,), rw.rule)
        operands = [v if v is None else new.get(v, v) for v in op.operands]
        attrs = {**op.attrs, "axis": -1} if op.name in _LAST_AXIS else op.attrs
        made = rw.build(op.name, *operands, **attrs)
        made.node_name, made.meta = op.node_name, op.meta
        new[op.result] = made.result
    for op in ops:
        found = flow.leaves(op.result)
        for user in found.undone:
            rw.replace(user.result, new[op.result], same=True)
        for user in found.merged:
            rw.set_operand(user, 0, new[op.result])
        if found.stays:
            rw.before, rw.loc = op, Location("", (op.loc,), rw.rule)
            root = flow.root
            back = rw.build(root.name, new[op.result], *root.operands[1:], **root.attrs)
            rw.replace(op.result, back.result)
    for op in reversed(ops):
        if op.block is not None and op.result.first_use is None:
            rw.erase(op)


def _copies(op: Op) -> bool:
    """Whether the reshape takes dims from the shape of its operand by number."""
    wanted = content_of(op.operand("shape"))
    if op.attr("allowzero"):
        return False
    return wanted is None or any(d == 0 or not isinstance(d, int) for d in wanted)
