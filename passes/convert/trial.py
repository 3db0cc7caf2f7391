"""Asking, without touching the model, whether an operation may have operands of 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.clone import clone_op
from lepton_ir.diagnostics import LeptonError, Location, shorten
from lepton_ir.infer import const_tensor, infer_op
from lepton_ir.ir import Module, Value
from lepton_ir.types import UNKNOWN, TensorType

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Op
    from lepton_ir.passes.convert.plan import Plan

RULE = "convert"


class Trial:
    """Builds converted operations in a module of its own, and asks inference and the target.

    Args:
        module: the model, for its opsets.
        ctx: the run's context.
        dtype: the 16-bit type.
        kernels: ``spec`` asks for the opset alone, ``runtime`` also what the target's runtime runs,
            ``cpu`` also what it computes on processors without taking it apart.
    """

    def __init__(self, module: Module, ctx: PassContext, dtype: DType, kernels: str) -> None:
        self.ctx = ctx
        self.dtype = dtype
        scratch = Module("trial")
        scratch.opsets = dict(module.opsets)
        self.block = scratch.add_function("main").block
        target = None if kernels == "spec" else ctx.target
        runs = None if target is None else target.quant("runs")
        self.runs = runs or (lambda op, dtype: True)
        computes = target.quant("computes") if target is not None and kernels == "cpu" else None
        self.computes = computes or (lambda op, dtype, opset: True)
        self.opset = module.opsets.get("", 0)
        self._known: dict[object, str] = {}

    def refusal(self, op: Op, plan: Plan) -> str:
        """Return why ``op`` cannot be converted, empty if it can."""
        key = _key(op, plan)
        if key not in self._known:
            self._known[key] = self._ask(op, plan)
        return self._known[key]

    def supports_casts(self, x: Value) -> str:
        """Return why the target cannot cast to the 16-bit type and back, empty if it can."""
        from lepton_ir.builder import Builder

        build = Builder(self.block)
        build.loc = Location("", (), RULE)
        value = self.block.add_arg(TensorType(self.dtype, ()), "x")
        answer = self.ctx.legal(build.cast(value, to=x.dtype).op)
        return "" if answer is True else str(answer)

    def _ask(self, op: Op, plan: Plan) -> str:
        low = set(plan.slots[op])
        mapped: dict[Value, Value] = {}
        operands: list[Value | None] = []
        for i, value in enumerate(op.operands):
            operands.append(None if value is None else self._operand(value, i in low, mapped))
        copy = clone_op(op, {})
        copy.set_operands(operands)
        # A source node would be believed as it is.
        copy.loc = Location("", (op.loc,), RULE)
        for result in copy.results:
            result.type = UNKNOWN
            result.content = None
        if "to" in copy.attrs and plan.results[op]:
            copy.attrs["to"] = self.dtype
        self.block.append(copy)
        try:
            infer_op(copy)
            answer = self.ctx.legal(copy)
        except LeptonError as error:
            return error.message
        if answer is True:
            answer = self.runs(copy, self.dtype)
        if answer is True:
            answer = self.computes(copy, self.dtype, self.opset)
        if answer is not True:
            return shorten(str(answer))
        for i in plan.results[op]:
            if op.name != "constant_of_shape" and copy.results[i].dtype not in (self.dtype, None):
                return f"its result would still be {copy.results[i].dtype}"
        return ""

    def _operand(self, value: Value, low: bool, mapped: dict[Value, Value]) -> Value:
        if value not in mapped:
            tensor = const_tensor(value)
            if tensor is not None and not low and value.op is not None:
                mapped[value] = self.block.append(clone_op(value.op, {})).result
            else:
                kind = value.type
                if low and isinstance(kind, TensorType):
                    kind = kind.with_dtype(self.dtype)
                mapped[value] = self.block.add_arg(kind, None)
        return mapped[value]


def _key(op: Op, plan: Plan) -> object:
    low = set(plan.slots[op])
    operands = []
    for i, v in enumerate(op.operands):
        if v is None:
            operands.append("")
        else:
            rank = "?" if v.rank is None else v.rank
            kind = "const" if const_tensor(v) is not None else ""
            operands.append(f"{v.dtype}{i in low}{rank}{kind}")
    attrs = tuple(f"{k}={v!r:.200}" for k, v in op.attrs.items())
    return (op.name, tuple(operands), attrs, len(op.results))
