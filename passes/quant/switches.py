"""One model that holds many: a vector of switches says which of its values are rounded.

Every choice is one run, and nothing is rebuilt. Layers keep constant weights, beside a copy with
rounded ones, so that the runtime lays them out as it likes; an ``if`` takes one of the results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.builder import Builder, create
from lepton_ir.clone import clone_op
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.ir import Module, Op, Value

SWITCHES = "lepton.switches"
"""Name of the input with the switches."""


class Switches:
    """Adds switches to ``main`` of a module.

    Args:
        module: what is changed.
        count: how many switches there are.
    """

    def __init__(self, module: Module, count: int) -> None:
        self._block = module.main.block
        self._input = self._block.add_arg(TensorType(dtypes.BOOL, (count,)), SWITCHES)
        self._front = Builder(self._block, self._block.first)
        self._copies: dict[Op, Op] = {}

    def round(
        self,
        value: Value,
        reader: tuple[Op, int],
        switch: int,
        rounded: Callable[[Builder, Value], Value],
    ) -> None:
        """Let an operand slot of an operation read ``value`` rounded while a switch is on."""
        op, index = reader
        chosen = self._either(value, switch, lambda build: rounded(build, value), value)
        op.set_operand(index, chosen)
        if op in self._copies:
            self._copies[op].set_operand(index, chosen)

    def settle(
        self, value: Value, switch: int, rounded: Callable[[Builder, Value], Value]
    ) -> Value:
        """Let everything read ``value`` rounded while a switch is on; return what is read now."""
        uses = list(value.uses)
        chosen = self._either(value, switch, lambda build: rounded(build, value), value)
        for use in uses:
            use.op.set_operand(use.index, chosen)
        return chosen

    def replace(
        self,
        op: Op,
        switch: int,
        operands: dict[int, Any],
        rounded: Callable[[Builder, Value], Value] | None = None,
    ) -> Value:
        """Let an operation have other constant operands while a switch is on.

        Args:
            op: with one result.
            switch: its number.
            operands: the constants by slot.
            rounded: rounds the result then.

        Returns:
            What is read now instead of its result.
        """
        result = op.result
        uses = list(result.uses)
        build = self._behind(result)
        copy = clone_op(op, {})
        copy.node_name = copy.result.name = None
        for index, data in operands.items():
            copy.set_operand(index, build.const(data))
        build.insert(copy)
        self._copies[op] = copy
        y = copy.result
        then = _same(y) if rounded is None else lambda build: rounded(build, y)
        chosen = self._either(y, switch, then, result)
        for use in uses:
            use.op.set_operand(use.index, chosen)
        return chosen

    def _either(
        self, where: Value, switch: int, then: Callable[[Builder], Value], other: Value
    ) -> Value:
        at = self._front.const(np.asarray(switch, np.int64))
        op = create("if", [self._front.gather(self._input, at, axis=0)], results=1)
        for region, make in zip(op.regions, (then, _same(other)), strict=True):
            inner = Builder(region.block)
            inner.build("yield", make(inner))
        return self._behind(where).insert(op).result

    def _behind(self, value: Value) -> Builder:
        if value.op is None:
            return self._front
        assert value.op.block is not None
        return Builder(value.op.block, value.op.next)


def _same(value: Value) -> Callable[[Builder], Value]:
    """Return what builds a copy of ``value``."""

    def make(build: Builder) -> Value:
        y: Value = build.identity(value)
        return y

    return make
