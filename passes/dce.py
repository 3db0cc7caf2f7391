"""Dead code: operations nobody reads, results nobody takes, functions nobody calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_ir.pipeline import Pass
from lepton_ir.rewrite import is_dead

if TYPE_CHECKING:
    from lepton_ir.context import PassContext
    from lepton_ir.ir import Block, Module, Op


@dataclass(frozen=True)
class Dce(Pass, name="dce"):
    """Drop what nothing can notice: unused operations, results, constants and functions."""

    def run(self, module: Module, ctx: PassContext) -> None:
        """Sweep every function backwards once, then drop functions that are not reachable."""
        for function in module.functions.values():
            _sweep(function.block, ctx)
        _drop_functions(module)


def _sweep(block: Block, ctx: PassContext) -> None:
    """Erase backwards, so that one sweep sees every operation after all its users."""
    op = block.last
    while op is not None:
        previous = op.prev
        if is_dead(op) and not (ctx.keep_nodes and ctx.kept(op)):
            op.erase()
        else:
            if op.definition is not None and not op.has_attr_refs:
                _trim_results(op)
            for region in op.regions:
                _sweep(region.block, ctx)
        op = previous


def _trim_results(op: Op) -> None:
    """Drop unused optional results at the end, unused results of branches, unused scans."""
    definition = op.definition
    assert definition is not None
    if op.name == "if":
        for index in reversed(range(len(op.results))):
            if op.results[index].first_use is None and len(op.results) > 1:
                _drop_yielded(op, index, index)
    elif op.name == "loop":
        carried = len(op.operands) - 2
        for index in reversed(range(carried, len(op.results))):
            if op.results[index].first_use is None and len(op.results) > 1:
                _drop_yielded(op, index, index + 1)
    elif definition.max_results > definition.min_results:
        while len(op.results) > definition.min_results and op.results[-1].first_use is None:
            if all(r.first_use is None for r in op.results):
                break
            op.results.pop()


def _drop_yielded(op: Op, result: int, yielded: int) -> None:
    for region in op.regions:
        last = region.block.terminator
        if last is None or yielded >= len(last.operands):
            return
    for region in op.regions:
        last = region.block.terminator
        assert last is not None
        last.set_operands(last.operands[:yielded] + last.operands[yielded + 1 :])
    del op.results[result]
    for i, value in enumerate(op.results):
        value.index = i


def _drop_functions(module: Module) -> None:
    # What a signature names is called from outside.
    pending = [n for n, f in module.functions.items() if n == "main" or f.meta.get("signatures")]
    reached = set(pending)
    while pending:
        function = module.functions.get(pending.pop())
        if function is None:
            continue
        for op in function.walk():
            callee = op.attrs.get("callee") if op.name == "call" else None
            if isinstance(callee, str) and callee not in reached:
                reached.add(callee)
                pending.append(callee)
    for name in [n for n in module.functions if n not in reached]:
        del module.functions[name]
