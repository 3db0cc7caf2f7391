"""Why operations lose more than others in 16 bits: what is measured of their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton_ir.builder import Builder
from lepton_ir.clone import clone_module, clone_op
from lepton_ir.infer import const_tensor
from lepton_ir.passes.convert.payload import convert_array, parts
from lepton_ir.passes.quant.distance import samples
from lepton_ir.passes.quant.judge import trial_context
from lepton_ir.passes.quant.probe import add_outputs, run_probe

if TYPE_CHECKING:
    from lepton_ir.ir import Op, Value
    from lepton_ir.passes.convert.plan import Planner
    from lepton_ir.passes.quant.feeds import Feeds
    from lepton_ir.tensors import Tensor

CANCELS = 4.0
"""Ratio of the root of the sum of squares of terms, and their sum, that counts as a cause.

The terms' rounding errors are as large as the root of their squares; terms of random signs have a
ratio of about 1."""

COARSE = 4.0
"""How much larger than the roundoff the error of a constant is, to count as a cause."""

ROUNDOFF = {"f16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of rounding in the normal range."""

_SUMS = frozenset({"conv", "conv_transpose", "gemm", "matmul"})
_PAIRS = frozenset({"add", "sub"})


class Blame:
    """Measures operations on a few samples.

    Args:
        planner: with the plan.
        ops: of ``main``; those of other blocks have no cause of their own.
        feeds: the samples.
    """

    def __init__(self, planner: Planner, ops: list[Op], feeds: Feeds) -> None:
        self.planner = planner
        self.ratios: dict[Op, float] = {}
        block = planner.module.main.block
        found = [op for op in ops if op.block is block and _is_sum(op)]
        if found:
            self._measure(found, feeds)

    def cause(self, ops: list[Op]) -> str:
        """Return the first cause that the operations of a unit have, empty without one."""
        plan = self.planner.plan
        for op in ops:
            for i in plan.slots[op]:
                tensor = const_tensor(op.operands[i])
                if tensor is not None and self._coarse(tensor):
                    return f"subnormal: much of {_name(op.operands[i])} is too small for all digits"
            ratio = self.ratios.get(op, 0.0)
            if ratio > CANCELS:
                return f"cancellation: the terms of its sums are {ratio:.2g} times what is left"
        return ""

    def _coarse(self, tensor: Tensor) -> bool:
        """Return whether rounding takes more of a constant than of one in the normal range."""
        dtype = self.planner.plan.dtype
        signal = noise = 0.0
        for part in parts(tensor):
            wide = part.astype(np.float64)
            signal += float(np.square(wide).sum())
            noise += float(np.square(wide - convert_array(part, dtype).astype(np.float64)).sum())
        return bool(np.sqrt(noise) > COARSE * ROUNDOFF[dtype.name] * np.sqrt(signal))

    def _measure(self, ops: list[Op], feeds: Feeds) -> None:
        module = self.planner.module
        made = clone_module(module)
        moved = dict(zip(module.main.block.ops, made.main.block.ops, strict=True))
        build = Builder(made.main.block, made.main.block.terminator)
        outputs: list[Value] = []
        for op in ops:
            outputs += _sums(build, moved[op])
        add_outputs(made, outputs)
        chosen, _ = samples(feeds, module.main, len(ops))
        total = np.zeros(len(outputs))
        for results in run_probe(made, chosen, trial_context(self.planner.ctx), "measure"):
            total += [float(np.asarray(r)) for r in results]
        for op, (terms, left) in zip(ops, total.reshape(-1, 2).tolist(), strict=True):
            self.ratios[op] = float(np.sqrt(terms / left)) if left > 0 else 0.0


def _is_sum(op: Op) -> bool:
    scaled = op.name == "gemm" and (op.attr("alpha") != 1 or op.attr("beta") != 1)
    return op.name in _SUMS | _PAIRS and not scaled


def _sums(build: Builder, op: Op) -> list[Value]:
    """Build the sum of the squares of all terms, and that of all results, of sums."""
    squares = clone_op(op, {})
    squares.node_name = None
    for result in squares.results:
        result.name = None
    for i, value in enumerate(op.operands):
        squares.set_operand(i, None if value is None else build.mul(value, value))
    terms = build.add(*squares.operands) if op.name == "sub" else build.insert(squares).result
    return [
        build.reduce_sum(terms, keepdims=False),
        build.reduce_sum_square(op.result, keepdims=False),
    ]


def _name(value: Value | None) -> str:
    return (value.name if value is not None else "") or "a constant"
