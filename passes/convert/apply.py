"""Carrying out a plan: operands and constants change type, casts go where the types meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.builder import Builder
from lepton_ir.diagnostics import NOWHERE, Location
from lepton_ir.infer import const_tensor, infer_op
from lepton_ir.passes.convert.payload import converted
from lepton_ir.passes.convert.plan import ASKED, CASTS, RANGE, TARGET, UNSUITED
from lepton_ir.tensors import DenseTensor, ElidedTensor, Tensor
from lepton_ir.types import TensorType, Type

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Function, Module, Op, Value
    from lepton_ir.passes.convert.plan import Plan, Planner

STORED_BYTES = 4096
"""Smaller constants of operations that stay wide are left as they are."""

STORAGE_RULE = "convert/storage"
"""Mark of a cast that widens a stored constant; folding it would undo the conversion."""

_STORES = frozenset({CASTS, RANGE, TARGET})


@dataclass
class Applied:
    """What was done.

    Attributes:
        converted: operations in 16 bits.
        casts: casts between activations.
        stored: constants only stored in 16 bits.
        bytes_before: of all constants of the wide types.
        bytes_after: of what they became.
        vanished: elements of weights that became 0.
    """

    converted: int = 0
    casts: int = 0
    stored: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    vanished: int = 0


@dataclass
class Applier:
    """State while a plan is carried out.

    Attributes:
        low: by wide value, the same in 16 bits.
        wide: by value in 16 bits, the same in its former type.
        former: by value in 16 bits, its former type.
    """

    planner: Planner
    module: Module
    ctx: PassContext
    store_all: bool
    low: dict[Value, Value] = field(default_factory=dict)
    wide: dict[Value, Value] = field(default_factory=dict)
    former: dict[Value, DType] = field(default_factory=dict)
    done: Applied = field(default_factory=Applied)

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.planner.plan

    def run(self) -> Applied:
        """Carry out the plan.

        Operations that the user's options refuse at this point stay wide, with casts around.
        """
        plan, main = self.plan, self.module.main
        before = self._constants(main)
        for op in plan.ops:
            if op in plan.low and not self.ctx.allow(f"{plan.dtype}-{op.name}", op):
                plan.low.discard(op)
        stored = self._stored()
        self._retype(main)
        for op in list(main.walk()):
            if op.name != "const":
                self._rewire(op, stored)
        for op in plan.ops:
            if op in plan.low:
                infer_op(op)
        for op in before:
            if op.result.first_use is None:
                self._inherit_name(op.result)
                op.erase()
        self._account(main, before)
        return self.done

    # -- constants ---------------------------------------------------------------------------

    def _constants(self, main: Function) -> dict[Op, int]:
        found: dict[Op, int] = {}
        for op in main.walk():
            if op.name == "const" and self.plan.is_wide(op.result):
                tensor = const_tensor(op.result)
                found[op] = 0 if tensor is None else tensor.nbytes
        return found

    def _account(self, main: Function, before: dict[Op, int]) -> None:
        done = self.done
        done.bytes_before = sum(before.values())
        made = [v for v in self.low.values() if const_tensor(v) is not None]
        kept = [op for op in before if op.block is not None]
        done.bytes_after = sum(before[op] for op in kept)
        done.bytes_after += sum(t.nbytes for v in made if (t := const_tensor(v)) is not None)

    def _stored(self) -> dict[Op, tuple[int, ...]]:
        """Return the slots of large constants of wide operations, to be stored in 16 bits."""
        plan = self.plan
        found: dict[Op, tuple[int, ...]] = {}
        for op in plan.ops:
            if op in plan.low:
                continue
            reason = plan.kept.get(op)
            kind = ASKED if reason is None else reason.kind
            if not (kind in _STORES or (self.store_all and kind != UNSUITED)):
                continue
            slots = tuple(i for i in plan.slots[op] if self._storable(op.operands[i]))
            if slots and self.ctx.allow(f"{plan.dtype}-storage", op):
                found[op] = slots
        return found

    def _storable(self, value: Value | None) -> bool:
        tensor = const_tensor(value)
        if value is None or tensor is None or isinstance(tensor, ElidedTensor):
            return False
        if tensor.nbytes < STORED_BYTES:
            return False
        held = self.planner.stats(value)
        limits = self.planner.limits
        return held is not None and not held.overflowing and held.magnitude >= limits.normal

    # -- types -------------------------------------------------------------------------------

    def _retype(self, main: Function) -> None:
        """Give everything that is made in 16 bits its new type."""
        plan = self.plan
        for op in plan.ops:
            if op not in plan.low:
                continue
            self.done.converted += 1
            op.loc = Location("", (op.loc,), f"convert/{plan.dtype}")
            if op.name == "cast" and plan.results[op]:
                op.set_attr("to", plan.dtype)
            if op.name == "constant_of_shape":
                op.set_attr("value", converted(_fill(op), plan.dtype))
            for i in plan.results[op]:
                self._narrow(op.results[i])
        if not plan.keep_io:
            for value in main.inputs:
                if plan.is_wide(value):
                    self._narrow(value)
            for name, tensor in main.overridable.items():
                if tensor.dtype in plan.wide:
                    main.overridable[name] = converted(tensor, plan.dtype)

    def _narrow(self, value: Value) -> None:
        assert isinstance(value.type, TensorType)
        assert value.type.dtype is not None
        self.former[value] = value.type.dtype
        value.type = value.type.with_dtype(self.plan.dtype)
        value.declared = _with_dtype(value.declared, self.plan.dtype)

    # -- operands ----------------------------------------------------------------------------

    def _rewire(self, op: Op, stored: dict[Op, tuple[int, ...]]) -> None:
        plan = self.plan
        is_return = op.name == "return" and op.parent is None
        slots = plan.slots.get(op, ()) if op in plan.low else ()
        for i, value in enumerate(op.operands):
            if value is None:
                continue
            if i in slots:
                op.set_operand(i, self._in_low(value, op))
            elif is_return and not plan.keep_io and self._changes(value):
                op.set_operand(i, self._returned(value, op))
            elif value in self.former:
                op.set_operand(i, self._in_wide(value, op, is_return))
            elif op in stored and i in stored[op]:
                op.set_operand(i, self._from_storage(value, op))

    def _changes(self, value: Value) -> bool:
        return self.plan.is_wide(value) or value in self.former

    def _in_low(self, value: Value, reader: Op) -> Value:
        """Return ``value`` in 16 bits."""
        if value in self.former:
            return value
        if value not in self.low:
            tensor = const_tensor(value)
            if tensor is None:
                self.low[value] = self._cast(value, self.plan.dtype, reader)
            else:
                held = self.planner.stats(value)
                self.done.vanished += 0 if held is None else held.vanishing
                build = self._behind(value, reader, f"convert/{self.plan.dtype}")
                self.low[value] = build.const(self.planner.narrow(value, reader))
                self.low[value].meta = value.meta
            self.low[value].name = _suffixed(value.name, self.plan.dtype)
        return self.low[value]

    def _returned(self, value: Value, reader: Op) -> Value:
        """Return an output in 16 bits, with the name of the output."""
        known = value in self.low
        low = self._in_low(value, reader)
        if not known and low is not value and value.op is not None and value.op.name != "const":
            low.name, value.name = value.name, _suffixed(value.name, self._wide_type(value))
            low.declared = _with_dtype(value.declared, self.plan.dtype)
            low.meta, value.declared, value.meta = value.meta, None, None
        return low

    def _wide_type(self, value: Value) -> DType:
        assert value.dtype is not None
        return value.dtype

    def _in_wide(self, value: Value, reader: Op, returned: bool) -> Value:
        """Return a value in 16 bits in its former type."""
        if value not in self.wide:
            former = self.former[value]
            self.wide[value] = self._cast(value, former, reader)
            self.wide[value].name = _suffixed(value.name, former)
        wide = self.wide[value]
        if returned and wide.meta is None and value.op is not None:
            # The name of a model's output goes with the value that is returned now.
            wide.name, value.name = value.name, _suffixed(value.name, self.plan.dtype)
            wide.declared = _with_dtype(value.declared, self.former[value])
            value.declared = None
            wide.meta, value.meta = value.meta or {}, None
        return wide

    def _from_storage(self, value: Value, reader: Op) -> Value:
        """Return a constant that is stored in 16 bits, in its own type."""
        low = self._in_low(value, reader)
        if low not in self.wide:
            assert value.dtype is not None
            build = self._behind(low, reader, STORAGE_RULE)
            self.wide[low] = build.cast(low, to=value.dtype)
            self.wide[low].name = _suffixed(value.name, value.dtype)
            self.done.stored += 1
        return self.wide[low]

    def _cast(self, value: Value, to: DType, reader: Op) -> Value:
        self.done.casts += 1
        build = self._behind(value, reader, f"convert/{self.plan.dtype}")
        made: Value = build.cast(value, to=to)
        return made

    def _behind(self, value: Value, reader: Op, rule: str) -> Builder:
        """Return a builder right behind the place where ``value`` is defined."""
        maker = value.op
        loc = (maker or reader).loc
        where = Location("", () if loc is NOWHERE else (loc,), rule)
        if maker is not None:
            assert maker.block is not None
            return Builder(maker.block, maker.next, where)
        block = value.producer
        assert not hasattr(block, "operands")
        return Builder(block, block.first, where)

    def _inherit_name(self, old: Value) -> None:
        """Give the 16-bit form of a constant that is gone its name."""
        low = self.low.get(old)
        if low is not None:
            low.name = old.name


def _fill(op: Op) -> Tensor:
    value: Tensor | None = op.attr("value")
    return DenseTensor(np.zeros(1, np.float32)) if value is None else value


def _suffixed(name: str | None, dtype: DType) -> str | None:
    return f"{name}_{dtype}" if name else None


def _with_dtype(declared: Type | None, dtype: DType) -> Type | None:
    return declared.with_dtype(dtype) if isinstance(declared, TensorType) else declared
