"""Inlining of local functions into their callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.clone import bind_attrs, clone_op
from lepton_ir.diagnostics import Location, UnsupportedError
from lepton_ir.infer import infer_op
from lepton_ir.pipeline import Pass

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Block, Function, Module, Op, Value

MAX_INLINED = 100_000
"""Operations that inlining may make; functions calling functions twice grow exponentially."""

MAX_DEPTH = 64
"""Regions inside one another that inlining may make; many walks over the IR recurse into them."""


@dataclass(frozen=True)
class Inline(Pass, name="inline"):
    """Replace calls of local functions by their bodies."""

    clean_up = "dce"
    rule_names = ("inline",)

    def run(self, module: Module, ctx: PassContext) -> None:
        """Inline bottom-up, so that each body is copied with its own calls already gone.

        Raises:
            UnsupportedError: the result would have over ``MAX_INLINED`` operations, or regions
                nested deeper than ``MAX_DEPTH``.
        """
        order = _callees_first(module)
        _measure(module, order)
        for name in order:
            _inline_into(module.functions[name], module, ctx)


def _measure(module: Module, order: list[str]) -> None:
    """Refuse what would grow too far, before anything is copied."""
    sizes: dict[str, int] = {}
    depths: dict[str, int] = {}
    made = 0
    for name in order:
        size = deepest = 0
        for op in module.functions[name].walk():
            callee = op.attrs["callee"] if op.name == "call" else ""
            made += sizes.get(callee, 0)
            # A call gives way to the body it calls, less the return.
            size += sizes.get(callee, 0) if callee else int(op.name != "return")
            if op.regions or callee:
                level, outer = int(bool(op.regions)), op.parent
                while outer is not None:
                    level, outer = level + 1, outer.parent
                deepest = max(deepest, level + depths.get(callee, 0))
        sizes[name], depths[name] = size, deepest
        if made > MAX_INLINED:
            reason = f"inlining would make more than {MAX_INLINED:,} operations"
        elif deepest > MAX_DEPTH:
            reason = f"inlining would nest subgraphs deeper than {MAX_DEPTH} levels"
        else:
            continue
        raise UnsupportedError(reason, code="inline", hint="keep the functions: leave out --inline")


def _inline_into(function: Function, module: Module, ctx: PassContext) -> None:
    for op in _calls(function):
        callee = module.functions.get(op.attrs["callee"])
        if callee is None or callee is function:
            continue
        reason = _obstacle(callee, module)
        if reason:
            ctx.remark("missed", op, "not inlined: {}", reason)
        elif ctx.allow("inline", op):
            _inline_call(op, callee)


def _calls(function: Function) -> list[Op]:
    return [op for op in function.walk() if op.name == "call"]


def _callees_first(module: Module) -> list[str]:
    order: list[str] = []
    state: dict[str, int] = {}
    stack = [("main", False)]
    while stack:
        name, done = stack.pop()
        if done:
            order.append(name)
            continue
        if name in state or name not in module.functions:
            continue
        state[name] = 1
        stack.append((name, True))
        stack += [(op.attrs["callee"], False) for op in _calls(module.functions[name])]
    return order


def _obstacle(callee: Function, module: Module) -> str | None:
    for op in callee.walk():
        if op.definition is None:
            domain = op.name.rpartition(".")[0].replace("onnx", "", 1)
            if callee.opsets.get(domain) != module.opsets.get(domain):
                return f"{op.name} in its body is of another opset version"
    return None


def _inline_call(op: Op, callee: Function) -> None:
    block: Block | None = op.block
    assert block is not None
    given = {name: op.attrs.get(name, default) for name, default in callee.attr_params.items()}
    values: dict[Value, Value | None] = dict.fromkeys(callee.inputs)
    values.update(zip(callee.inputs, op.operands, strict=False))
    present = {k: v for k, v in values.items() if v is not None}
    locate = _Locator(op.loc)
    terminator = callee.block.terminator
    for inner in callee.block.ops:
        if inner is terminator:
            break
        copy = clone_op(inner, present, attrs=bind_attrs(given), locate=locate)
        copy.node_name = None
        # An operand bound to an input that the call leaves out is absent.
        for i, v in enumerate(inner.operands):
            if v is not None and v in values and values[v] is None:
                copy.set_operand(i, None)
        block.insert_before(copy, op)
        copy.set_operands(_trimmed(copy))
        infer_op(copy)
    outputs = [] if terminator is None else terminator.operands
    for result, found in zip(op.results, outputs, strict=False):
        new = None if found is None else present.get(found, found)
        if new is not None:
            if new.op is not None and new.op.block is block and result.name and found not in values:
                new.name = result.name
            result.replace_all_uses(new)
    op.erase()


def _trimmed(op: Op) -> list[Value | None]:
    operands = list(op.operands)
    while operands and operands[-1] is None:
        operands.pop()
    return operands


class _Locator:
    """Gives every copied operation the call's location."""

    def __init__(self, call: Location) -> None:
        self.loc = Location("", (call,), "inline")

    def __call__(self, _: Location) -> Location:
        return self.loc
