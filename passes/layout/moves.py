"""Rules that move transposes, one region at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import Location
from lepton_ir.infer import const_tensor
from lepton_ir.passes.layout.axes import reordered, stored
from lepton_ir.passes.layout.cut import DEEP_KEY, MEMO_KEY, Region, best_label
from lepton_ir.passes.layout.order import Order, compose, inverse, is_identity, perm_of
from lepton_ir.rewrite import is_dead, rewrite
from lepton_ir.types import TensorType, meet

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.pattern import Match
    from lepton_ir.rewrite import Rewriter


@rewrite("transpose", exact=True)
def push_transposes(m: Match, rw: Rewriter) -> bool:
    """transpose(f(transpose(x, p)), q) => f'(x), over whole regions of operations.

    ``f`` is any set of operations that know their axes; the minimum cut around them decides which
    are computed in the new order, and nothing happens unless fewer transposes remain.
    """
    op = m.root
    perm, x = perm_of(op), op.operands[0]
    if perm is None or x is None or is_identity(perm):
        return False
    memo: dict[tuple[Op, bool], int] = rw.ctx.data.setdefault(MEMO_KEY, {})
    epoch = rw.function.epoch
    for down in (True, False):
        if memo.get((op, down)) == epoch:
            continue
        region = Region(op, rw.ctx.exact, rw.ctx.data.get(DEEP_KEY, False))
        if down:
            region.grow(op.result, inverse(perm))
        else:
            region.grow(x, perm)
        chosen = best_label(region)
        if chosen:
            _Move(region, chosen, rw).run()
            return True
        memo[op, down] = epoch
        for other in region.border:
            _remember(memo, other, region, epoch)
    return rw.fail("no region around it would have fewer transposes")


def _remember(memo: dict[tuple[Op, bool], int], other: Op, region: Region, epoch: int) -> None:
    """Note that ``other`` would grow the very region that was just refused."""
    perm, x = perm_of(other), other.operands[0]
    if perm is None:
        return
    if region.orders.get(other.result) == inverse(perm):
        memo[other, True] = epoch
    if x is not None and region.orders.get(x) == perm:
        memo[other, False] = epoch


class _Move:
    """Computes the chosen operations of a region in its order."""

    def __init__(self, region: Region, chosen: set[Op], rw: Rewriter) -> None:
        assert region.root.block is not None
        region.root.block.ensure_order()
        self.region = region
        self.ops = sorted(chosen, key=lambda op: op.order)
        self.chosen = chosen
        self.rw = rw
        self.new: dict[Value, Value] = {}

    def run(self) -> None:
        """Build the new operations, connect what is outside, drop the old ones."""
        rw = self.rw
        rw.also(*self.ops)
        rw.permit()
        for op in self.ops:
            self._build(op)
        for op in self.ops:
            for old in op.results:
                if old.first_use is not None:
                    self._connect(op, old)
        for op in reversed(self.ops):
            if op.block is not None and is_dead(op):
                self._drop(op)

    def _drop(self, op: Op) -> None:
        """Erase ``op``, and transposes that only it read: they would count as readers."""
        operands = dict.fromkeys(v for v in op.operands if v is not None)
        self.rw.erase(op)
        for value in operands:
            producer = value.op
            if producer is None or producer.name != "transpose" or not is_dead(producer):
                continue
            if not (self.rw.ctx.keep_nodes and self.rw.ctx.kept(producer)):
                self.rw.erase(producer)

    def _at(self, op: Op, loc: Location) -> None:
        self.rw.before = op
        self.rw.loc = Location("", (loc,), self.rw.rule)

    def _build(self, op: Op) -> None:
        plan, rw = self.region.plans[op], self.rw
        self._at(op, op.loc)
        operands: list[Any] = []
        for i, value in enumerate(op.operands):
            wanted = plan.operands[i] if i < len(plan.operands) else None
            operands.append(value if value is None or wanted is None else self._in(value, wanted))
        for i, array in plan.constants.items():
            operands += [None] * (i + 1 - len(operands))
            operands[i] = rw.const(array)
        attrs = {**op.attrs, **plan.attrs}
        made = rw.build(op.name, *operands, results=len(op.results), **attrs)
        made.node_name, made.meta = op.node_name, op.meta
        for old, new, order in zip(op.results, made.results, plan.results, strict=True):
            shape = old.shape
            if shape is not None and isinstance(old.type, TensorType):
                new.type = meet(new.type, old.type.with_shape([shape[a] for a in order]))
            self.new[old] = new

    def _in(self, value: Value, order: Order) -> Value:
        """Return ``value`` in ``order``."""
        found = self.new.get(value)
        if found is not None:
            return found
        if is_identity(order):
            return value
        tensor = const_tensor(value)
        if tensor is not None:
            array = reordered(value, order)
            made = self.rw.const(array, tensor.dtype)
        elif value.rank != len(order):
            made = self._stored(value, order)
        else:
            made = self._transposed(value, order)
        self.new[value] = made
        return made

    def _stored(self, value: Value, order: Order) -> Value:
        """Return in ``order`` what a constant of fewer bits and fewer axes becomes."""
        op = stored(value)
        assert op is not None
        source = op.operands[0]
        assert source is not None
        moved = self.rw.const(reordered(source, order), source.dtype)
        return self.rw.build(op.name, moved, *op.operands[1:], **op.attrs).result

    def _transposed(self, value: Value, order: Order) -> Value:
        """Return transpose(value, order), through transposes that make ``value``."""
        producer = value.op
        if producer is not None and producer.name == "transpose" and not producer.has_attr_refs:
            perm, source = perm_of(producer), producer.operands[0]
            if perm is not None and source is not None:
                total = compose(perm, order)
                if is_identity(total):
                    return source
                if value.use_count == 1:
                    value, order = source, total
        made: Value = self.rw.transpose(value, perm=order)
        return made

    def _connect(self, op: Op, old: Value) -> None:
        """Give the readers of ``old`` outside the chosen operations what they read before."""
        region, rw, new = self.region, self.rw, self.new[old]
        order = region.plans[op].results[old.index]
        if is_identity(order):
            rw.replace(old, new)
            return
        others = False
        for user in old.users:
            if user in self.chosen and self._reads_only_ordered(user, old):
                continue
            if user.name == "transpose" and not user.has_attr_refs:
                perm = perm_of(user)
                if perm is not None:
                    self._retarget(user, new, compose(inverse(order), perm))
                    continue
            others = True
        if others:
            self._at(op, op.loc)
            rw.replace(old, rw.transpose(new, perm=inverse(order)))

    def _reads_only_ordered(self, user: Op, value: Value) -> bool:
        return all(
            self.region.reads_in_order(user, i) for i, v in enumerate(user.operands) if v is value
        )

    def _retarget(self, user: Op, new: Value, perm: Order) -> None:
        """Make the transpose ``user`` read ``new`` in the order ``perm``, or vanish."""
        rw = self.rw
        self._at(user, user.loc)
        if is_identity(perm):
            rw.replace(user.result, new)
        else:
            made: Value = rw.transpose(new, perm=perm)
            assert made.op is not None
            made.op.node_name = user.node_name
            rw.replace(user.result, made)
