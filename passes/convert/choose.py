"""Which operations stay wide because the outputs lose too much: chosen by measuring.

A unit is an operation worth converting with the light ones that follow it. What each adds alone
is measured on a few samples, in one model where switches round its constants and results; choices
of units as the models that they give, on all samples.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir.clone import clone_module
from lepton_ir.context import source_key
from lepton_ir.infer import const_tensor
from lepton_ir.passes.convert.apply import Applier
from lepton_ir.passes.convert.blame import Blame
from lepton_ir.passes.convert.correct import corrections
from lepton_ir.passes.convert.cut import save_casts
from lepton_ir.passes.convert.facts import is_heavy
from lepton_ir.passes.convert.payload import converted
from lepton_ir.passes.convert.plan import ACCURACY, Reason
from lepton_ir.passes.quant.distance import alone, largest, samples
from lepton_ir.passes.quant.judge import Judge, trial_context
from lepton_ir.passes.quant.probe import Probe
from lepton_ir.passes.quant.search import Search
from lepton_ir.passes.quant.switches import SWITCHES, Switches
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.builder import Builder
    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Module, Op, Value
    from lepton_ir.passes.convert.plan import Plan, Planner
    from lepton_ir.passes.quant.feeds import Feeds


@dataclass
class Unit:
    """An operation worth converting with the light ones behind it.

    Attributes:
        name: of its first operation.
        ops: in order.
        distance: how far the outputs move when it alone is converted.
    """

    name: str
    ops: list[Op] = field(default_factory=list)
    distance: float = 0.0


def keep_accuracy(planner: Planner, feeds: Feeds, limit: float, metric: str) -> float:
    """Take units out of the plan until the outputs lose no more than ``limit``.

    Args:
        planner: with the plan, before casts are saved.
        feeds: the samples.
        limit: of what is lost.
        metric: ``module:function`` of the user, empty for the distance of the outputs.

    Returns:
        What is lost with the plan as it is then.

    Raises:
        LeptonError: the metric fails, or the model does not run.
    """
    module, ctx, plan = planner.module, planner.ctx, planner.plan
    returned = [v for v in module.main.outputs if v is not None]
    if not plan.low or not all(isinstance(v.type, TensorType) for v in returned):
        return 0.0
    judge = Judge(clone_module(module), ctx, feeds, metric, largest)

    def loss(left_out: frozenset[int]) -> float:
        gone = {op for i in left_out for op in units[i].ops}
        return judge.loss(_converted_outputs(planner, gone, judge.feeds))

    units: list[Unit] = []
    lost = loss(frozenset())
    if lost > limit:
        planner.given = corrections(planner, feeds)
        better = loss(frozenset()) if planner.given else lost
        if better < lost:
            text = "weights are rounded so that results keep their means: {:.2g} lost, not {:.2g}"
            ctx.remark("note", "", text, better, lost)
        else:
            planner.given = {}
        lost = min(lost, better)
    if lost <= limit:
        return lost
    units = find_units(plan)
    alone_losses = _alone(planner, units, feeds)
    for unit, (distance, _) in zip(units, alone_losses, strict=True):
        unit.distance = distance
    gains = np.square([typical for _, typical in alone_losses])
    costs = np.array([len(unit.ops) for unit in units])
    search = Search(gains, lambda left_out: int(sum(costs[list(left_out)])), loss)
    search.measured[frozenset()] = lost
    kept = search.reduce(limit)
    _keep(planner, [units[i] for i in sorted(kept)], feeds)
    return search.loss(kept)


def find_units(plan: Plan) -> list[Unit]:
    """Return the operations to convert, unit by unit."""
    owner: dict[Value, Unit] = {}
    units: list[Unit] = []
    for op in plan.ops:
        if op not in plan.low:
            continue
        given = [owner[v] for v in op.operands if v is not None and v in owner]
        if is_heavy(op) or not given:
            unit = Unit(op.node_name or source_key(op))
            units.append(unit)
        else:
            unit = given[-1]
        unit.ops.append(op)
        owner.update(dict.fromkeys(op.results, unit))
    return units


def _keep(planner: Planner, units: list[Unit], feeds: Feeds) -> None:
    """Note why units stay wide."""
    blame = Blame(planner, [op for unit in units for op in unit.ops], feeds)
    for unit in units:
        cause = blame.cause(unit.ops) or "what follows amplifies its rounding"
        cause += f"; alone it moves the outputs by {unit.distance:.2g}"
        for op in unit.ops:
            planner.plan.low.discard(op)
            planner.plan.kept[op] = Reason(ACCURACY, cause)


# -- whole choices ---------------------------------------------------------------------------------


def _converted_outputs(planner: Planner, gone: set[Op], feeds: Feeds) -> Iterator[list[Any]]:
    """Yield what the model gives when all but ``gone`` is converted."""
    module, ops = _copied(planner.module)
    trial = copy.copy(planner)
    trial.module, trial.ctx = module, trial_context(planner.ctx)
    trial.plan = planner.plan.moved(ops)
    trial.plan.keep_io = True
    trial.given = {ops[v.op].result: given for v, given in planner.given.items() if v.op}
    for op in gone:
        trial.plan.low.discard(ops[op])
    save_casts(trial.plan)
    Applier(trial, module, trial.ctx, False).run()
    with Probe(module, trial.ctx, "sensitivity", fast=True) as probe:
        yield from probe.run(feeds)


def _copied(module: Module) -> tuple[Module, dict[Op, Op]]:
    """Return a copy, and the operations of its ``main`` by those that they copy."""
    made = clone_module(module)
    return made, dict(zip(module.main.walk(), made.main.walk(), strict=True))


# -- units alone -----------------------------------------------------------------------------------


def _alone(planner: Planner, units: list[Unit], feeds: Feeds) -> list[tuple[float, float]]:
    """Return distance and typical distance of every unit alone."""
    chosen, size = samples(feeds, planner.module.main, len(units))
    with Probe(
        _with_switches(planner, units), trial_context(planner.ctx), "sensitivity", fast=True
    ) as probe:

        def outputs(changed: frozenset[int]) -> Iterator[list[Any]]:
            on = np.array([i in changed for i in range(len(units))])
            return probe.run({**feed, SWITCHES: on} for feed in chosen)

        return alone(len(units), size, outputs)


def _with_switches(planner: Planner, units: list[Unit]) -> Module:
    """Return a copy where a switch rounds the constants and results of each unit."""
    module, ops = _copied(planner.module)
    plan = planner.plan
    switches = Switches(module, len(units))
    for number, unit in enumerate(units):
        for op in unit.ops:
            made = ops[op]
            rounded: dict[int, Any] = {}
            for i in plan.slots[op]:
                value = op.operands[i]
                tensor = const_tensor(value)
                if value is not None and tensor is not None:
                    rounded[i] = converted(planner.narrow(value, op), tensor.dtype)
            if rounded and len(op.results) == 1:
                switches.replace(made, number, rounded, _rounding(plan.dtype))
                continue
            for i in plan.results[op]:
                switches.settle(made.results[i], number, _rounding(plan.dtype))
    return module


def _rounding(dtype: DType) -> Any:
    def rounded(build: Builder, value: Value) -> Value:
        y: Value = build.cast(build.cast(value, to=dtype), to=value.dtype)
        return y

    return rounded
