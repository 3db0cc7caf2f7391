"""Which operations compute in 16 bits, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lepton_ir.context import source_key
from lepton_ir.infer import const_tensor
from lepton_ir.passes.convert.bounds import UNKNOWN, find_bounds
from lepton_ir.passes.convert.facts import (
    DIVISORS,
    GUARDED,
    GUARDS,
    SENSITIVE,
    carries_digits,
    is_constant,
    is_unsuited,
    touches_quantized,
    wants_digits,
    wide_slots,
)
from lepton_ir.passes.convert.payload import LIMITS, Stats, converted, measure
from lepton_ir.passes.convert.trial import Trial
from lepton_ir.tensors import ElidedTensor
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Module, Op, Value
    from lepton_ir.passes.convert import Convert
    from lepton_ir.passes.convert.bounds import Interval
    from lepton_ir.passes.convert.ranges import Range
    from lepton_ir.tensors import Tensor

UNSUITED, ASKED, SENSITIVITY, TARGET, RANGE, DIGITS, CASTS, ACCURACY = (
    "has no 16-bit form",
    "excluded by name",
    "loses accuracy in 16 bits",
    "the target cannot run it in 16 bits",
    "numbers outside the range of 16 bits",
    "computes positions, sizes or angles",
    "would need more casts than it saves",
    "moves the outputs too far in 16 bits",
)
"""Kinds of reasons."""


@dataclass(frozen=True)
class Reason:
    """Why an operation stays in its wide type.

    Attributes:
        kind: one of the constants above; notes count operations by it.
        detail: what is particular to this operation.
    """

    kind: str
    detail: str = ""


@dataclass
class Plan:
    """What is converted.

    Attributes:
        dtype: the 16-bit type.
        wide: the types it replaces.
        ops: operations with operands or results of these types, in order.
        slots: by operation, the operands that change type with it.
        results: by operation, the results that do.
        kept: by operation, why it stays.
        low: operations to convert.
        keep_io: whether ``main`` keeps its interface.
    """

    dtype: DType
    wide: frozenset[DType]
    keep_io: bool
    ops: list[Op] = field(default_factory=list)
    slots: dict[Op, tuple[int, ...]] = field(default_factory=dict)
    results: dict[Op, tuple[int, ...]] = field(default_factory=dict)
    kept: dict[Op, Reason] = field(default_factory=dict)
    low: set[Op] = field(default_factory=set)

    def moved(self, ops: dict[Op, Op]) -> Plan:
        """Return the same plan for copies of the operations."""
        return replace(
            self,
            ops=[ops[op] for op in self.ops],
            slots={ops[op]: slots for op, slots in self.slots.items()},
            results={ops[op]: results for op, results in self.results.items()},
            kept={ops[op]: reason for op, reason in self.kept.items()},
            low={ops[op] for op in self.low},
        )

    def is_wide(self, value: Value | None) -> bool:
        """Return whether ``value`` has a type that is to be replaced."""
        return value is not None and value.dtype in self.wide

    def floats(self, op: Op) -> list[Value]:
        """Return operands and results that change type with ``op``."""
        found = [op.operands[i] for i in self.slots[op]]
        return [v for v in found if v is not None] + [op.results[i] for i in self.results[op]]


class Planner:
    """Collects the reasons against 16 bits, operation by operation.

    Attributes:
        given: 16-bit forms of constants that are not simply rounded to the nearest.
    """

    def __init__(self, options: Convert, module: Module, ctx: PassContext, dtype: DType) -> None:
        self.options = options
        self.module = module
        self.ctx = ctx
        self.limits = LIMITS[dtype.name]
        self.plan = Plan(dtype, options.wide_types(), options.keep_io)
        self.trial = Trial(module, ctx, dtype, options.kernels)
        self.given: dict[Value, Tensor] = {}
        self._stats: dict[int, Stats | None] = {}
        self._guards: set[Value] = set()
        self._collect()

    def _collect(self) -> None:
        plan = self.plan
        for op in self.module.main.walk():
            if op.name in ("const", "return", "yield"):
                continue
            fixed = wide_slots(op)
            slots = tuple(
                i for i, v in enumerate(op.operands) if plan.is_wide(v) and i not in fixed
            )
            results = tuple(i for i, v in enumerate(op.results) if plan.is_wide(v))
            if slots or results:
                plan.ops.append(op)
                plan.slots[op], plan.results[op] = slots, results

    def narrow(self, value: Value, reader: Op) -> Tensor:
        """Return the 16-bit form of a constant: what was given for it, else the nearest."""
        tensor = const_tensor(value)
        assert tensor is not None
        given = self.given.get(value) if reader in self.plan.low else None
        return converted(tensor, self.plan.dtype) if given is None else given

    def stats(self, value: Value) -> Stats | None:
        """Return what a float constant holds, ``None`` when that cannot be known."""
        tensor = const_tensor(value)
        if tensor is None or isinstance(tensor, ElidedTensor) or not self.plan.is_wide(value):
            return None
        key = id(tensor)
        if key not in self._stats:
            self._stats[key] = measure(tensor, self.limits)
        return self._stats[key]

    def decide(self, ranges: dict[Value, Range] | None) -> Plan:
        """Note why operations stay; all others may be converted.

        Args:
            ranges: of values, measured on calibration data.
        """
        self._by_digits()
        bounds = find_bounds(self.module.main.walk(), self.stats)
        for op in self.plan.ops:
            reason = (
                self._by_guard(op)
                or self._by_kind(op)
                or self._by_constant(op)
                or self.plan.kept.get(op)
                or self._by_range(op, ranges or {})
                or self._by_bounds(op, bounds)
                or self._by_target(op)
            )
            if reason is not None:
                self.plan.kept[op] = reason
        self.plan.low = {op for op in self.plan.ops if op not in self.plan.kept}
        return self.plan

    def _by_kind(self, op: Op) -> Reason | None:
        options = self.options
        if is_unsuited(op) or any(not isinstance(r.type, TensorType) for r in op.results):
            return Reason(UNSUITED, op.name)
        if any(v is not None and v.dtype is None for v in op.operands):
            return Reason(UNSUITED, "the type of an operand is unknown")
        if touches_quantized(op):
            return Reason(UNSUITED, "the runtime fuses it with quantization")
        if not self.plan.slots[op] and op.name not in ("cast", "constant_of_shape"):
            return Reason(UNSUITED, op.name)
        if op.name == "cast" and not self._cast_fits(op):
            return Reason(DIGITS, "integers may have more digits")
        name = op.node_name or source_key(op)
        if self.ctx.kept(op) or any(
            p in (op.name, name) or fnmatchcase(name, p) for p in options.keep
        ):
            return Reason(ASKED, op.name)
        sensitive = self._is_sensitive(op)
        if sensitive and op.name not in options.convert:
            return Reason(SENSITIVITY, op.name)
        return None

    def _is_sensitive(self, op: Op) -> bool:
        if op.name in SENSITIVE:
            return True
        if op.name == "mul":
            return op.operands[0] is op.operands[1]
        if op.name == "reduce_mean":
            # A mean stays in range and loses little, unless it is that of squares, or is taken
            # away from its own terms.
            x = op.operands[0]
            maker = None if x is None else self.plan.kept.get(x.op)  # type: ignore[arg-type]
            wide = maker is not None and maker.kind in (SENSITIVITY, RANGE)
            return wide or any(user.name == "sub" for user in op.result.users)
        return op.name in DIVISORS and self._may_vanish(op)

    def _may_vanish(self, op: Op) -> bool:
        """Return whether the divisor is a constant that becomes 0 somewhere."""
        index = DIVISORS[op.name]
        value = op.operands[index] if index < len(op.operands) else None
        held = None if value is None else self.stats(value)
        return held is not None and held.vanishing > 0

    def _cast_fits(self, op: Op) -> bool:
        """Return whether a cast from integers is exact in 16 bits, too."""
        source = op.operands[0]
        if source is None or source.dtype is None or source.dtype.kind == "string":
            return False
        if not source.dtype.is_integer:
            return True
        digits = source.dtype.bits - (source.dtype.kind == "int")
        return digits <= (11 if self.plan.dtype.name == "f16" else 8)

    def _by_guard(self, op: Op) -> Reason | None:
        """Keep what reads a sum with an epsilon, up to the division that it protects."""
        held = next((v for v in self.plan.floats(op) if v in self._guards), None)
        if held is None:
            return None
        if op.name in GUARDED:
            self._guards.update(op.results)
        return Reason(RANGE, f"{held.name or 'an operand'} may be as small as an epsilon")

    def _by_bounds(self, op: Op, bounds: dict[Value, Interval]) -> Reason | None:
        for value in self.plan.floats(op):
            magnitude = bounds.get(value, UNKNOWN).magnitude
            if not is_constant(value) and magnitude > self.limits.largest:
                return Reason(RANGE, _reaches(value, magnitude, "can reach"))
        return None

    def _by_target(self, op: Op) -> Reason | None:
        refusal = self.trial.refusal(op, self.plan)
        return Reason(TARGET, refusal) if refusal else None

    def _by_constant(self, op: Op) -> Reason | None:
        limits = self.limits
        values = [op.operands[i] for i in self.plan.slots[op]]
        for value in values:
            if value is None or not is_constant(value):
                continue
            held = self.stats(value)
            if held is None:
                return Reason(UNSUITED, "the data of a constant is not here")
            if held.overflowing:
                return Reason(RANGE, _reaches(value, held.magnitude, "holds"))
            if 0 < held.magnitude < limits.normal:
                if op.name in GUARDS:
                    self._guards.update(op.results)
                return Reason(RANGE, _reaches(value, held.magnitude, "holds no more than"))
        if op.name == "constant_of_shape":
            fill = op.attr("value")
            if fill is not None and measure(fill, limits).overflowing:
                return Reason(RANGE, "fills with a number that is too large")
        return None

    def _by_range(self, op: Op, ranges: dict[Value, Range]) -> Reason | None:
        limits, room = self.limits, self.options.headroom
        for value in self.plan.floats(op):
            r = ranges.get(value)
            if r is None:
                continue
            if r.largest * room > limits.largest:
                return Reason(RANGE, _reaches(value, r.largest, "reaches"))
            if 0 < r.largest < limits.normal:
                return Reason(RANGE, _reaches(value, r.largest, "reaches only"))
        index = DIVISORS.get(op.name)
        if index is not None and index < len(op.operands):
            divisor = op.operands[index]
            least = ranges.get(divisor) if divisor is not None else None
            if divisor is not None and least is not None and least.least < limits.normal:
                return Reason(RANGE, _reaches(divisor, least.least, "goes down to"))
        return None

    def _by_digits(self) -> None:
        """Keep what computes positions, sizes and angles, back to where data begins."""
        pending = [
            v
            for op in self.module.main.walk()
            for i in wants_digits(op)
            if i < len(op.operands) and (v := op.operands[i]) is not None
        ]
        for op in self.plan.ops:
            if op.name in ("sin", "cos"):
                self.plan.kept[op] = Reason(DIGITS, op.name)
        seen: set[Op] = set()
        while pending:
            maker = pending.pop().op
            if maker is None or maker in seen or not carries_digits(maker):
                continue
            seen.add(maker)
            if maker in self.plan.slots:
                self.plan.kept[maker] = Reason(DIGITS, maker.name)
            pending += [v for v in maker.operands if self.plan.is_wide(v) and v is not None]


def _reaches(value: Value, magnitude: float, verb: str) -> str:
    return f"{value.name or 'a value'} {verb} {magnitude:.3g}"
